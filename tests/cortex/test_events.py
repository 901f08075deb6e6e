"""events(): each subscriber gets all that happens, a slow one loses the oldest, all of them end with the engine."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

import cortex
from cortex.events import KEPT, Event, EventHub, EventStream, FailedOver, HealthChanged
from cortex.testing import FaultWall, Status

Make = Callable[..., cortex.Engine]


def event(n: int) -> Event:
    return FailedOver("openai", f"model-{n}", "ok", float(n))


async def read_all(stream: EventStream) -> list[Event]:
    return [one async for one in stream]


async def test_every_subscriber_is_told_what_happens(
    autojump_clock: object, make_engine: Make, memory_wall: FaultWall
) -> None:
    memory_wall["openai"].always(Status(401))
    got: list[list[Event]] = []

    async def read(stream: EventStream) -> None:
        got.append(await read_all(stream))

    async with trio.open_nursery() as nursery, make_engine("openai", "gemini") as engine:
        nursery.start_soon(read, engine.events())
        nursery.start_soon(read, engine.events())
        await engine.complete("hi")
        late = engine.events()
        await engine.complete("hi")
    assert got[0] == got[1]
    health = [(one.provider, one.status) for one in got[0] if isinstance(one, HealthChanged)]
    moved = [(one.provider, one.outcome) for one in got[0] if isinstance(one, FailedOver)]
    assert (health, moved) == ([("openai", "down")], [("gemini", "ok")])
    assert await read_all(late) == []
    assert "key-of" not in repr(got)


def test_asyncio_reads_an_engine_of_another_thread(make_engine: Make, memory_wall: FaultWall) -> None:
    memory_wall["openai"].always(Status(401))
    engine = make_engine("openai", "gemini")

    async def main() -> list[Event]:
        reader = asyncio.create_task(read_all(engine.events()))
        await asyncio.sleep(0)
        await engine.complete("hi")
        await engine.aclose()
        return await asyncio.wait_for(reader, 5)

    assert {type(one) for one in asyncio.run(main())} == {HealthChanged, FailedOver}


async def test_a_slow_subscriber_loses_the_oldest_and_counts_them() -> None:
    hub = EventHub()
    slow, other = hub.subscribe(), hub.subscribe()
    for n in range(KEPT + 10):
        hub.emit(event(n))
    hub.close()
    kept = await read_all(slow)
    assert (len(kept), slow.dropped) == (KEPT, 10)
    assert kept[0] == event(10)
    assert kept == await read_all(other)


async def test_one_reader_each(autojump_clock: object) -> None:
    stream = EventHub().subscribe()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_all, stream)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(cortex.ConfigError, match="call events"):
            await anext(stream)
        nursery.cancel_scope.cancel()


async def test_a_cancelled_reader_may_read_on(autojump_clock: object) -> None:
    hub = EventHub()
    stream = hub.subscribe()
    with trio.move_on_after(1):
        await anext(stream)
    hub.emit(event(1))
    assert await anext(stream) == event(1)


async def test_who_is_dropped_is_forgotten() -> None:
    hub = EventHub()
    streams = [hub.subscribe() for _ in range(3)]
    del streams[1:]
    gc.collect()
    hub.emit(event(1))
    assert len(hub._streams) == 1


def test_subscribing_from_many_threads_while_events_come() -> None:
    hub = EventHub()
    start = threading.Barrier(5)
    kept: list[EventStream] = []
    faults: list[BaseException] = []

    def subscribe() -> None:
        try:
            start.wait()
            for _ in range(200):
                kept.append(hub.subscribe())
                hub.subscribe()
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=subscribe) for _ in range(4)]
    for thread in threads:
        thread.start()
    start.wait()
    for n in range(200):
        hub.emit(event(n))
    for thread in threads:
        thread.join()
    hub.emit(event(-1))
    assert faults == []
    assert len(hub._streams) == len(kept)
    assert all(stream._events[-1] == event(-1) for stream in kept)


# ------------------------------------------------------------------------------------------------ the end of an engine


def close(engine: cortex.Engine) -> None:
    engine.close()


def drop(engine: cortex.Engine) -> None:
    """Dropping is what the caller does."""


@pytest.mark.parametrize("used", [True, False])
@pytest.mark.parametrize("end", [close, drop])
def test_the_end_of_the_engine_ends_them(make_engine: Make, used: bool, end: Callable[[Any], None]) -> None:
    engine = make_engine("openai")
    stream = engine.events()
    if used:
        engine.complete_sync("hi")
    end(engine)
    del engine
    gc.collect()

    async def main() -> list[Event]:
        return await asyncio.wait_for(read_all(stream), 5)

    assert asyncio.run(main()) == []


async def test_a_reader_that_waits_is_woken_by_the_end(autojump_clock: object, make_engine: Make) -> None:
    engine = make_engine("openai")
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_all, engine.events())
            await trio.testing.wait_all_tasks_blocked()
            await engine.aclose()
