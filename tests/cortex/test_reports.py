"""health() and explain(): true, plain values, at any time and from any thread; they start nothing."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
import trio

from cortex.testing import Delay, Reply, Status

VERDICTS = {"ready", "trial", "open", "disabled", "off", "gated", "busy", "left out", "unfit", "trying", "ramping"}


def lanes(engine: Any, **options: Any) -> list[tuple[str, str]]:
    return [(lane.provider, lane.verdict) for lane in engine.explain(**options).lanes]


def test_before_the_first_call_nothing_is_started(lab: Any) -> None:
    threads = set(threading.enumerate())
    engine = lab.engine(2)
    assert [one.status for one in engine.health().values()] == ["up"] * 3
    assert lanes(engine) == [("openai", "ready"), ("anthropic", "ready"), ("gemini", "ready")]
    json.dumps([engine.explain().as_dict(), *(one.as_dict() for one in engine.health().values())])
    assert set(threading.enumerate()) <= threads  # an idle one of an earlier test may have ended meanwhile
    assert lab.primary.requests == ()


def test_a_provider_configured_off_says_so(lab: Any) -> None:
    engine = lab.engine(1, each={"enabled": False})
    assert engine.health()["openai"].status == "off"
    assert lanes(engine) == [("anthropic", "ready"), ("openai", "off")]


async def test_each_lane_has_its_reason(lab: Any, autojump_clock: Any) -> None:
    lab.primary.always(Status(500))
    lab.spare.always(Status(401))
    async with lab.engine(2) as engine:
        for _ in range(3):
            await engine.complete("hi")
        plan = engine.explain()
        assert lanes(engine) == [("gemini", "ready"), ("openai", "open"), ("anthropic", "disabled")]
        reasons = {lane.provider: lane.reason for lane in plan.lanes}
        assert "failed again and again" in reasons["openai"]
        assert "next trial in" in reasons["openai"]
        assert "credential" in reasons["anthropic"]
        assert str(plan).count("\n") == 3
        json.dumps(plan.as_dict())
        health = engine.health()
        assert 0 < health["openai"].next_try <= 5
        assert 0 < health["anthropic"].next_try <= 60
        assert health["gemini"].next_try is None
        assert health["gemini"].why == ""
        assert health["openai"].breaker["failures_in_a_row_with_spare"] == 3
        json.dumps([one.as_dict() for one in health.values()])
        await trio.sleep(5)
        assert ("openai", "trial") in lanes(engine)


async def test_the_plan_and_the_call_tell_the_same_story(lab: Any, autojump_clock: Any) -> None:
    lab.primary.script(Status(429, headers={"retry-after": "30"}))
    async with lab.engine(2) as engine:
        await engine.complete("hi")
        first = engine.explain().lanes[0]
        answer = await engine.complete("hi")
        assert (first.provider, first.model) == (answer.metadata.provider, answer.metadata.model_used)
        assert ("openai", "gated") in lanes(engine)


async def test_looking_disturbs_nothing(lab: Any, autojump_clock: Any) -> None:
    async with lab.engine(2) as engine:
        for _ in range(50):
            engine.explain()
            engine.health()
        assert lab.primary.requests == ()
        assert all(lane.verdict in VERDICTS for lane in engine.explain().lanes)


async def test_from_another_thread_while_calls_run(lab: Any) -> None:
    lab.primary.always(Delay(0.002, Reply("ok")))
    seen: list[Any] = []
    stop = threading.Event()

    def look(engine: Any) -> None:
        while not stop.is_set():
            seen.append((engine.health()["openai"].status, lanes(engine)[0]))

    async with lab.engine() as engine:
        thread = threading.Thread(target=look, args=(engine,))
        thread.start()
        try:
            for _ in range(30):
                await engine.complete("hi")
        finally:
            stop.set()
            thread.join()
    assert len(seen) > 3
    assert set(seen) == {("up", ("openai", "ready"))}


@pytest.mark.parametrize("count", [3])
async def test_calls_in_flight_are_shown(count: int, lab: Any, autojump_clock: Any) -> None:
    lab.primary.always(Delay(5, Reply("ok")))
    async with lab.engine() as engine, trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(engine.complete, "hi")
        await trio.sleep(1)
        assert engine.health()["openai"].in_flight == count
        assert engine.health()["openai"].lanes[0].in_flight == count
        assert engine.explain().lanes[0].reason == f"{count} in flight"


async def test_latency_is_what_was_measured(lab: Any, autojump_clock: Any) -> None:
    lab.primary.always(Delay(4, Reply("ok")))
    async with lab.engine() as engine:
        await engine.complete("hi")
        assert engine.health()["openai"].lanes[0].latency == pytest.approx(4, abs=0.1)
