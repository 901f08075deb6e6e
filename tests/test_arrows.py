"""The arrows that must never exist, checked by import-linter on the contracts in pyproject.toml."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

ROOT = Path(__file__).parents[1]


def test_every_contract_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    if not (ROOT / "pyproject.toml").exists():
        pytest.skip("the contracts are in the checkout's pyproject.toml")
    monkeypatch.chdir(ROOT)
    # It configures logging for its own process, which would switch all loggers of this one off.
    monkeypatch.setattr("logging.config.dictConfig", lambda config: None)
    assert lint_imports(no_cache=True) == EXIT_STATUS_SUCCESS


@pytest.mark.slow
def test_importing_cortex_loads_nothing_heavy() -> None:
    heavy = "{'trio', 'httpx', 'pydantic', 'asyncio'}"
    code = f"import sys, cortex, cortex.testing.pytest_plugin; print(sorted({heavy} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.strip() == "[]"


@pytest.mark.slow
def test_the_engine_needs_no_pydantic_and_no_asyncio() -> None:
    code = "import sys, cortex; cortex.Engine; print(sorted({'pydantic', 'asyncio'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.strip() == "[]"
