"""The user's own page, "Switch Between Providers": its code blocks run unchanged.

The endpoints are moved to loopback by the variables that the vendors' own clients read; nothing else is changed. Blocks
with `await` run as the body of an async function under asyncio. A block may use what earlier ones defined.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import cortex
from cortex.testing import Action, FaultProvider, FaultWall, Refuse, Status

PAGE = Path(__file__).parent / "data" / "switch-between-providers.md"
ORIGINAL = Path(__file__).parents[2] / "shared" / "design" / "seed-switch-between-providers.md"

DEATHS: list[Action | None] = [Status(503), Refuse(), None]
"""How a provider is dead; None: its port is closed."""


def kill(provider: FaultProvider, death: Action | None) -> None:
    if death is None:
        provider.down()
    else:
        provider.always(death)


@pytest.fixture
def failover_block(blocks: list[Any]) -> Any:
    (block,) = (block for block in blocks if 'name="resilient"' in block.code)
    return block


def test_the_page_is_the_users_own() -> None:
    if not ORIGINAL.exists():
        pytest.skip("the original is not beside this checkout")
    assert PAGE.read_bytes() == ORIGINAL.read_bytes()


def test_all_its_blocks_are_found(blocks: list[Any]) -> None:
    assert len(blocks) == PAGE.read_text().count("```") / 2 == 8
    assert {block.language for block in blocks} == {"python"}


def test_a_block_runs_after_those_before_it(block: Any, blocks: list[Any], vendors_wall: FaultWall) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    for one in blocks:
        one.run(names)
        if one == block:
            break
    assert isinstance(names["engine"], cortex.Engine)


def test_its_models_go_where_it_says(blocks: list[Any], vendors_wall: FaultWall) -> None:
    names: dict[str, Any] = {}
    blocks[0].run(names)
    engine: cortex.Engine = names["engine"]
    for role, provider in (("orchestrator", "anthropic"), ("worker", "gemini")):
        assert engine.explain(role=role).lanes[0].provider == provider  # type: ignore[arg-type]


@pytest.mark.parametrize("death", DEATHS, ids=["503", "refuses", "closed"])
def test_with_gemini_down_gpt_4o_answers(
    failover_block: Any, vendors_wall: FaultWall, capsys: pytest.CaptureFixture[str], death: Action | None
) -> None:
    gemini = vendors_wall["gemini"]
    kill(gemini, death)
    names: dict[str, Any] = {"cortex": cortex}
    failover_block.run(names)
    metadata = names["response"].metadata
    assert capsys.readouterr().out == "gpt-4o\n"
    assert names["response"].content == "Hello from openai."
    assert metadata.failover is True
    assert [(attempt.provider, attempt.ok) for attempt in metadata.attempts] == [("gemini", False), ("openai", True)]
    assert metadata.attempts[0].status == (503 if isinstance(death, Status) else None)
    asked = [seen.text for seen in gemini.requests]
    assert asked == ([] if death is None else ["What is the capital of France?"])  # a closed port hears nothing


@pytest.mark.parametrize("death", DEATHS, ids=["503", "refuses", "closed"])
async def test_with_openai_down_gemini_answers_system_2(
    failover_block: Any, vendors_wall: FaultWall, death: Action | None
) -> None:
    names: dict[str, Any] = {"cortex": cortex}
    before, _, _ = failover_block.code.partition("# If OpenAI is down")
    exec(before, names)
    openai = vendors_wall["openai"]
    kill(openai, death)
    response = await names["session"].run("What is the capital of France?", system=2)
    metadata = response.metadata
    assert (metadata.model_used, metadata.system, metadata.failover) == ("gemini-3-flash-preview", 2, True)
    assert [(attempt.provider, attempt.ok) for attempt in metadata.attempts] == [("openai", False), ("gemini", True)]
    assert len(openai.requests) == (0 if death is None else 1)
    await names["engine"].aclose()


def test_the_complete_example_prints_who_served(
    blocks: list[Any], vendors_wall: FaultWall, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks[-1].run({"__name__": "__main__"})
    assert capsys.readouterr().out == "Hello from gemini.\nServed by: gemini-2.5-flash\n"
    (seen,) = vendors_wall["gemini"].requests
    assert seen.text == "Where is my order #1234?"
    assert "You help customers with order issues." in str(seen.body)
    assert not vendors_wall["openai"].requests


def test_the_stats_are_printed(blocks: list[Any], vendors_wall: FaultWall, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks[:-1]:
        block.run(names)
    lines = capsys.readouterr().out.splitlines()[-4:]
    labels = [line.partition(":")[0] for line in lines]
    assert labels == ["Model used", "Latency", "Tokens", "Routing"]
    assert lines[0] == "Model used: gpt-4o"  # "Analyze this dataset." wants the orchestrator
    assert "'system2_count': 1" in lines[-1]
    assert int(lines[2].split()[-1]) > 0
