"""`run_agentic`: plan, do, check, each a turn of the session; honest about what was done."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

import cortex
from cortex.testing import Delay, FaultWall, Reply

Make = Callable[..., cortex.Engine]


def reply(**value: Any) -> Reply:
    return Reply(json.dumps(value))


async def test_a_goal_is_planned_done_checked_and_answered(
    autojump_clock: object, make_engine: Make, memory_wall: FaultWall
) -> None:
    memory_wall["openai"].script(
        reply(steps=["find flights", "find a hotel"]),
        reply(met=False, missing=["book them"]),
        reply(met=True, missing=[]),
    )
    memory_wall["gemini"].always(lambda seen: Reply(f"did: {seen.text}"))
    async with make_engine("gemini", "openai") as engine:
        session = engine.create_agent(name="a").start_session()
        result = await session.run_agentic("A trip to Rome")
    asked = [seen.text for seen in memory_wall["gemini"].requests]
    assert [text.rpartition(": ")[2] for text in asked[:3]] == ["find flights", "find a hotel", "book them"]
    assert (result.met, result.steps_taken, result.goal) == (True, 7, "A trip to Rome")
    assert result.final_response.content.startswith("did: The goal is met")
    assert session.get_goal_progress()["progress"] == 1.0
    assert (result.stats["system1_count"], result.stats["system2_count"]) == (4, 3)


async def test_the_steps_end_it_and_it_says_so(
    autojump_clock: object, make_engine: Make, memory_wall: FaultWall
) -> None:
    memory_wall["openai"].always(
        lambda seen: reply(steps=["one"]) if "Break it" in seen.text else reply(met=False, missing=["more"])
    )
    async with make_engine("gemini", "openai") as engine:
        result = await engine.create_agent(name="a").start_session().run_agentic("Never done", max_steps=6)
    assert (result.met, result.steps_taken) == (False, 6)


async def test_the_timeout_bounds_the_whole(autojump_clock: object, make_engine: Make, memory_wall: FaultWall) -> None:
    memory_wall["openai"].always(Delay(60, reply(steps=["one"])))
    async with make_engine("gemini", "openai", fallback_models=[]) as engine:
        with pytest.raises(cortex.DeadlineExceeded):
            await engine.create_agent(name="a").start_session().run_agentic("Slow", timeout=5)


@pytest.mark.parametrize(("goal", "options", "word"), [("", {}, "goal"), ("x", {"max_steps": 0}, "max_steps")])
async def test_bad_input_is_named(make_engine: Make, goal: str, options: dict[str, Any], word: str) -> None:
    session = make_engine("openai").create_agent(name="a").start_session()
    with pytest.raises(cortex.ConfigError, match=word):
        await session.run_agentic(goal, **options)
