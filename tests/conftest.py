"""What all tests share: hypothesis' profiles, and how the code blocks of a document become tests."""

from __future__ import annotations

import ast
import asyncio
import gc
import inspect
import os
import re
import signal
import sys
import textwrap
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio
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


# ------------------------------------------------------------------------------------------------ Ctrl-C at any moment


@attrs.define
class AtLine:
    """Presses Ctrl-C when the `n`-th line of `packages` is about to run in the main thread."""

    n: int
    folders: tuple[str, ...]
    lines: int = 0

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(self.folders):
            return None
        if event == "line":
            self.lines += 1
            if self.lines == self.n:
                signal.raise_signal(signal.SIGINT)
        return self

    def run(self, main: Callable[[], Awaitable[None]]) -> bool:
        """Whether it ended before that line."""

        def hangs(*_: Any) -> None:
            raise AssertionError(f"it hangs after Ctrl-C at line {self.n}")

        before = signal.signal(signal.SIGALRM, hangs)
        signal.setitimer(signal.ITIMER_REAL, 10)
        sys.settrace(self)
        try:
            trio.run(main)
        except KeyboardInterrupt:
            return False
        finally:
            sys.settrace(None)
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        return self.lines < self.n


@pytest.fixture(scope="session", name="AtLine")
def _at_line() -> Callable[..., AtLine]:
    """`AtLine(n, *packages).run(main)`: `trio.run` with one Ctrl-C; whether it ended before."""
    return lambda n, *packages: AtLine(n, tuple(str(Path(one.__file__).parent) for one in packages))
