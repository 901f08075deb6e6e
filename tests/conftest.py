"""What all tests share: hypothesis' profiles, and how the code blocks of a document become tests."""

from __future__ import annotations

import ast
import asyncio
import gc
import inspect
import os
import re
import signal
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from cortex.testing import FaultWall

settings.register_profile("default", max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("deep", max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what is put in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Thousands of tests are no garbage: whoever looks for some need not look at them again and again."""
    gc.collect()
    gc.freeze()


# ------------------------------------------------------------------------------- documents whose code blocks are tests

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w+)\n(?P<code>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE)
_COMMENT = re.compile(r"<!-- (?P<words>.*?) -->\s*\Z")


@attrs.frozen
class Block:
    """A code block of a markdown file. `note` is the comment right above it; an indented block is dedented."""

    language: str
    code: str
    line: int
    note: str = ""

    def __str__(self) -> str:
        return f"line{self.line}"

    def run(self, names: dict[str, Any]) -> None:
        """Run it with `names` as its globals; where it awaits, as the body of an async function under asyncio."""
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code = compile(self.code, f"<{self.language} block, line {self.line}>", "exec", flags=flags)
        result = eval(code, names)
        if inspect.iscoroutine(result):
            asyncio.run(result)


def blocks_of(path: Path) -> list[Block]:
    """The code blocks of a markdown file, in order; none where the file is not there (an installed wheel)."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [
        Block(
            found["language"],
            textwrap.dedent(found["code"]),
            text.count("\n", 0, found.start()) + 1,
            note["words"] if (note := _COMMENT.search(text, 0, found.start())) else "",
        )
        for found in _FENCE.finditer(text)
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `block` runs once for each python block of its module's PAGE."""
    if "block" in metafunc.fixturenames:
        blocks = [block for block in blocks_of(metafunc.module.PAGE) if block.language == "python"]
        metafunc.parametrize("block", blocks, ids=str)


@pytest.fixture
def blocks(request: pytest.FixtureRequest) -> list[Block]:
    """All code blocks of the module's PAGE."""
    return blocks_of(request.module.PAGE)


@pytest.fixture
def vendors_wall(fault_wall: FaultWall, monkeypatch: pytest.MonkeyPatch) -> FaultWall:
    """The three vendors on loopback, found by the variables their own clients read."""
    for name in ("openai", "anthropic", "gemini"):
        fault_wall.add(name)
    for variable in ("OLLAMA_HOST", "CORTEX_PROVIDERS", "CORTEX_ORCHESTRATOR_MODEL", "CORTEX_WORKER_MODEL"):
        monkeypatch.delenv(variable, raising=False)
    for variable, url in fault_wall.env().items():
        monkeypatch.setenv(variable, url)
    return fault_wall
