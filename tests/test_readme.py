"""The README: its commands, its code, its pictures and tables. What is copied drifts, unless a test compares it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import attrs
import pytest

import cortex
import cortex.errors
import cortex.testing
from cortex import health
from cortex.policy import Policy
from cortex.testing import FaultWall

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "README.md"

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="the README is in the checkout")

FIRST_BLOCK = {
    "providers": {"openai": {"api_key": "sk-test"}, "gemini": {"api_key": "AIza-test"}},
    "orchestrator_model": "gpt-4o",
    "worker_model": "gemini-3-flash-preview",
}
"""The engine that blocks speak of which make none of their own: the one of the failover block."""


@pytest.fixture
def names(vendors_wall: FaultWall, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a block of the README finds defined."""
    for variable in ("OPENAI_API_KEY", "GEMINI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(variable, "a-key")
    engine = cortex.Engine(**FIRST_BLOCK)  # type: ignore[arg-type]
    agent = engine.create_agent("readme")
    return {"cortex": cortex, "engine": engine, "agent": agent, "session": agent.start_session()}


def plain(text: str) -> list[str]:
    """Lines without what differs from run to run: times."""
    return [re.sub(r"\d+(\.\d+)?(?= ?m?s\b)", "N", line).rstrip() for line in text.strip().splitlines()]


def break_as_noted(wall: FaultWall, note: str) -> None:
    """`with gemini: Status(500)`, in the comment above a block."""
    found = re.fullmatch(r"with (?P<name>\w+): (?P<action>.*)", note)
    if found is not None:
        wall[found["name"]].always(eval(found["action"], vars(cortex.testing) | {"Status": cortex.testing.Status}))


def test_a_block_runs_and_prints_what_is_written_below_it(
    block: Any, blocks: list[Any], names: dict[str, Any], vendors_wall: FaultWall, capsys: pytest.CaptureFixture[str]
) -> None:
    break_as_noted(vendors_wall, block.note)
    block.run(names)
    out = capsys.readouterr().out
    following = blocks[blocks.index(block) + 1 :][:1]
    for shown in (one for one in following if one.note == "prints"):
        assert plain(out) == plain(shown.code)
    for name, test in names.items():
        if name.startswith("test_"):
            with FaultWall() as wall:
                test(wall)


# ------------------------------------------------------------------------------------------------------- the commands


def test_it_opens_with_three_sentences_and_three_blocks(blocks: list[Any]) -> None:
    first = PAGE.read_text().split("\n\n")[1]
    assert len(re.findall(r"[.](?:\s|$)", first)) == 3
    assert [(block.language, block.note) for block in blocks[:3]] == [
        ("sh", "the main job"),
        ("sh", "the tests"),
        ("python", ""),
    ]
    code = [line for line in blocks[2].code.splitlines() if line and "import" not in line]
    assert len(code) <= 10


def test_each_command_is_one_line_and_needs_python_alone(blocks: list[Any]) -> None:
    for block in blocks[:2]:
        (line,) = block.code.splitlines()
        steps = [shlex.split(step) for step in line.split("&&")]
        assert steps[0] == ["python3", "-m", "venv", ".venv"]
        assert steps[1][:2] == [".venv/bin/pip", "install"]
        assert steps[2][0].startswith(".venv/bin/")
    assert blocks[0].code.rstrip().endswith("cortex demo")
    assert "'.[test]'" in blocks[1].code
    assert blocks[1].code.rstrip().endswith("python -m pytest -n auto")


def test_the_gate_runs_the_very_command_for_the_tests(blocks: list[Any]) -> None:
    gate = (ROOT / ".ci" / "run").read_text()
    assert "<!-- the tests -->" in gate
    text = PAGE.read_text()
    after = text[text.index("<!-- the tests -->") :]
    assert after.split("```sh\n")[1].split("```")[0] == blocks[1].code


# ---------------------------------------------------------------------------------------------- pictures, tables, words


def block_noted(blocks: list[Any], note: str) -> str:
    (found,) = (block.code for block in blocks if block.note == note)
    return str(found)


def test_the_drawing_of_health_is_printed_from_the_table(blocks: list[Any]) -> None:
    assert block_noted(blocks, "the health").strip() == health.diagram()


def test_the_errors_are_those_of_the_code(blocks: list[Any]) -> None:
    tree = block_noted(blocks, "the errors").rstrip()
    drawn = (cortex.errors.__doc__ or "").split("\n\n", 1)[1].rstrip()
    assert tree.split() == drawn.split()
    for name in cortex.errors.__all__:
        assert re.search(rf"\b{name}\b", tree)


def test_the_policy_is_that_of_the_code() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| `([^|]+)` \|", PAGE.read_text(), re.MULTILINE))
    assert rows == {field.name: repr(field.default) for field in attrs.fields(Policy)}


def test_every_file_it_names_is_there() -> None:
    text = PAGE.read_text()
    named = set(re.findall(r"`((?:cortex|actors|examples|tests)/[\w/.]*)`", text))
    assert named
    for path in named:
        assert (ROOT / path).exists(), path
    for room in re.findall(r"`(\w+\.py|\w+/)`", text):
        assert (ROOT / "cortex" / room).exists() or (ROOT / room).exists(), room


def test_every_provider_and_its_keys_are_named() -> None:
    from cortex import vendors

    text = PAGE.read_text()
    for word in (*vendors.ALIASES, *vendors._COMMON, *vendors._OPTIONS):
        assert f"`{word}`" in text or word == "kind", word
