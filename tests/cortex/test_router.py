"""Who is asked next, who waits and in which order, and what the router tells about it."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import trio

import cortex
from cortex.errors import DeadlineExceeded
from cortex.events import HealthChanged
from cortex.messages import Request
from cortex.needs import needs_of
from cortex.protocol import Pick, Picked
from cortex.router import Router
from cortex.testing import Delay, FaultWall, Hang, Reply, Status

SPARE = "Hello from anthropic."
OWN = "Hello from openai."


async def test_who_waits_is_served_in_order(lab: Any, autojump_clock: Any) -> None:
    lab.primary.always(lambda seen: Delay(1, Reply(seen.text)))
    done: list[str] = []

    async def call(engine: Any, text: str) -> None:
        done.append((await engine.complete(text)).content)

    async with lab.engine(0, each={"max_concurrency": 1}) as engine, trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(call, engine, str(number))
            await trio.sleep(0.01)
    assert done == [str(number) for number in range(8)]


async def test_who_leaves_the_line_holds_nobody_up(lab: Any, autojump_clock: Any) -> None:
    lab.primary.always(Delay(1, Reply(OWN)))
    async with lab.engine(0, each={"max_concurrency": 1}) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(engine.complete, "first")
        await trio.sleep(0.1)

        async def impatient() -> None:
            with pytest.raises(DeadlineExceeded, match="nobody had been asked yet"):
                await engine.complete("second", timeout=0.2)

        nursery.start_soon(impatient)
        await trio.sleep(0.1)
        assert (await engine.complete("third")).content == OWN
        assert trio.current_time() == pytest.approx(2, abs=0.1)
    assert [seen.text for seen in lab.primary.requests] == ["first", "third"]


async def test_a_busy_lane_is_waited_for_and_not_for_ever(lab: Any, autojump_clock: Any) -> None:
    """A quarter of the call's time; then the spare."""
    lab.primary.script(Hang())
    async with lab.engine(each={"max_concurrency": 1}) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(engine.complete, "first")
        await trio.sleep(0.1)
        started = trio.current_time()
        assert (await engine.complete("second", timeout=20)).content == SPARE
        assert trio.current_time() - started == pytest.approx(5, abs=0.1)
        nursery.cancel_scope.cancel()


async def test_a_trial_whose_caller_left_strands_nobody(lab: Any, autojump_clock: Any) -> None:
    """The pick was given out and never became a call: nobody will ever report it."""
    async with lab.engine(0) as engine:
        await engine.set_enabled("openai", False)
        await engine.set_enabled("openai", True)
        needs = needs_of(Request(messages=()), engine.chain("worker", None))
        picked = await engine.host._place.home.router.ask(Pick(needs, {}, trio.current_time() + 120))
        assert isinstance(picked, Picked)
        assert picked.trial
        assert (await engine.complete("hi", timeout=60)).content == OWN
        assert trio.current_time() < 2


async def test_a_restarted_router_tells_no_news_twice(
    lab: Any, autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.primary.always(Status(401))
    pick, crashes = Router.pick, [False]

    @functools.wraps(pick)
    def broken(this: Router, message: Pick) -> Any:
        if crashes[-1]:
            crashes.append(False)
            raise RuntimeError("a bug of ours")
        return pick(this, message)

    monkeypatch.setattr(Router, "pick", broken)
    async with lab.engine() as engine:
        await engine.complete("hi")
        events = engine.events()
        crashes.append(True)
        await engine.complete("hi")
        assert crashes == [False, True, False]
        await trio.sleep(1)
        assert not [event for event in events._events if isinstance(event, HealthChanged)]


async def test_two_servers_of_one_model_share_the_work(autojump_clock: Any) -> None:
    wall = FaultWall()
    for name in ("one", "two"):
        wall.add(name, "openai").always(Delay(1, Reply(name)))
    providers = {
        name: {"kind": "local", "base_url": wall[name].base_url, "models": ["llama"]} for name in ("one", "two")
    }
    async with cortex.Engine(providers, worker_model="llama", transport=wall.transport()) as engine:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(engine.complete, "hi")
        assert trio.current_time() == pytest.approx(1, abs=0.1)
        assert abs(len(wall["one"].requests) - len(wall["two"].requests)) <= 2
        wall["one"].down()
        answer = await engine.complete("hi")
        assert answer.content == "two"


async def test_a_change_of_health_is_an_event_and_a_log_line(
    lab: Any, autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    lab.primary.script(Status(500), Status(500), Status(500))
    caplog.set_level("INFO", "cortex")
    async with lab.engine() as engine:
        events = engine.events()
        for _ in range(100):
            await engine.complete("hi")
            await trio.sleep(1)
        seen = [event for event in events._events if isinstance(event, HealthChanged)]
        assert [(event.provider, event.previous, event.status) for event in seen] == [
            ("openai", "up", "down"),
            ("openai", "down", "recovering"),
            ("openai", "recovering", "up"),
        ]
        assert "failed again and again" in seen[0].why
    levels = [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if "provider openai is" in record.getMessage()
    ]
    assert [level for level, _ in levels] == ["WARNING", "WARNING", "INFO"]


async def test_a_switch_is_an_event(lab: Any, autojump_clock: Any) -> None:
    async with lab.engine() as engine:
        events = engine.events()
        await engine.set_enabled("openai", False)
        event = await anext(events)
        assert (event.provider, event.status) == ("openai", "off")


async def test_everybody_waits_for_one_gate_and_then_goes(lab: Any, autojump_clock: Any) -> None:
    lab.primary.script(Status(429, headers={"retry-after": "3"}))
    done: list[float] = []

    async def call(engine: Any) -> None:
        await engine.complete("hi")
        done.append(trio.current_time())

    async with lab.engine(0) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(call, engine)
        await trio.sleep(0.1)
        for _ in range(5):
            nursery.start_soon(call, engine)
    assert len(done) == 6
    assert all(3 <= at <= 4 for at in done)
    assert all(seen.at >= 3 for seen in lab.primary.requests[1:])


async def test_different_needs_do_not_hold_each_other_up(lab: Any, autojump_clock: Any) -> None:
    """A call that must wait for its one lane does not stand in the way of one for another model."""
    lab.primary.always(lambda seen: Hang() if seen.model == "gpt-4o" else Reply(OWN))

    async def deep(engine: Any) -> None:
        await engine.complete("hi", model="gpt-4o")

    async with lab.engine(0, each={"max_concurrency": 1}) as engine, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(deep, engine)
        await trio.sleep(0.1)
        assert (await engine.complete("hi")).content == OWN
        assert trio.current_time() == pytest.approx(0.1, abs=0.05)
        assert [seen.model for seen in lab.primary.requests] == ["gpt-4o", "gpt-4o-mini"]
        nursery.cancel_scope.cancel()
