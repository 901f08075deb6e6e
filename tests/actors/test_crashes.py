"""What happens at each point where an actor can fail, and what its askers, its queue and its log see."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

import actors
from actors import events
from actors.testing import World

FAST = actors.Restart(base=1.0, jitter=0, factor=1)


async def start(world: World, kit: SimpleNamespace, book: list[Any], **options: Any) -> Any:
    hooks = {key: options.pop(key) for key in ("start", "stop") if key in options}
    spec: dict[str, Any] = {"policy": FAST} | options
    return await world.system.start(actors.Spec(lambda: kit.Worker(book, **hooks), "w", **spec))


def fails_from(generation: int, error: Exception) -> Any:
    async def hook(actor: Any) -> None:
        if actor.ctx.generation >= generation:
            raise error

    return hook


def crash(error: Exception) -> Any:
    async def job(actor: Any) -> None:
        raise error

    return job


@pytest.mark.parametrize("where", ["factory", "on_start", "timeout", "not an actor"])
async def test_first_start_fails(autojump_clock: Any, world: World, kit: SimpleNamespace, where: str) -> None:
    error = ValueError("no")
    closed: list[str] = []

    async def on_start(actor: Any) -> None:
        await actor.ctx.enter(resource(closed))
        if where == "timeout":
            await trio.sleep_forever()
        raise error

    def factory() -> Any:
        if where == "factory":
            raise error
        return object() if where == "not an actor" else kit.Worker([], on_start)

    with pytest.raises(actors.StartError) as caught:
        await world.system.start(actors.Spec(factory, "w", start_timeout=3))
    expected = {"timeout": trio.TooSlowError, "not an actor": TypeError}.get(where, ValueError)
    assert isinstance(caught.value.__cause__, expected)
    assert closed == ([] if where in ("factory", "not an actor") else ["closed"])
    assert trio.current_time() == pytest.approx(3 if where == "timeout" else 0)
    assert world.system.get("w") is None
    assert not world.log.of(events.RestartScheduled)
    await world.system.start(actors.Spec(lambda: kit.Worker([]), "w"))


@contextmanager
def resource(closed: list[str], error: Exception | None = None) -> Any:
    try:
        yield "resource"
    finally:
        closed.append("closed")
    if error is not None:
        raise error


async def test_start_fails_on_restart(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    book: list[Any] = []
    fail = [False]

    async def on_start(actor: Any) -> None:
        if fail[0]:
            fail[0] = actor.ctx.generation < 3
            raise ValueError("start")

    ref = await start(world, kit, book, start=on_start)
    fail[0] = True
    ref.tell(kit.Say(ValueError("first")))
    ref.tell(kit.Say("kept"))
    await trio.sleep(10)
    assert book == [("start", 1), ("stop", "Crashed"), ("start", 4), "kept"]
    assert [event.k for event in world.log.of(events.RestartScheduled)] == [1, 2, 3]


async def test_crash_on_tell(
    autojump_clock: Any, world: World, kit: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    book: list[Any] = []
    error = ValueError("boom")
    ref = await start(world, kit, book)
    for message in (1, error, 2, 3):
        ref.tell(kit.Say(message))
    await trio.sleep(0.5)
    assert ref.tell(kit.Say("while down"))
    await trio.sleep(1)
    assert book == [("start", 1), 1, ("stop", "Crashed"), ("start", 2), 2, 3, "while down"]
    (crashed,) = world.log.of(events.Crashed)
    assert (crashed.exc, crashed.phase, crashed.msg_type, crashed.generation) == (error, "handler", "Say", 1)
    world.log.assert_order(events.Started, events.Crashed, events.RestartScheduled, events.Restarted)
    logged = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.exc_info[1] for record in logged if record.exc_info] == [error]


async def test_crash_on_ask_keeps_the_queue(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    book: list[Any] = []
    ref = await start(world, kit, book)
    answers: list[Any] = []

    async def later() -> None:
        answers.append(await ref.ask(kit.Get("answered by the next"), timeout=10))

    async def too_short() -> None:
        with pytest.raises(actors.Unavailable) as caught:
            await ref.ask(kit.Get(1), timeout=0.7)
        answers.append((caught.value.retry_in, trio.current_time()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(later)
        nursery.start_soon(too_short)
        with pytest.raises(actors.ActorDied) as caught:
            await ref.ask(kit.Get(ValueError("boom")))
        assert isinstance(caught.value.exit, actors.Crashed)
        assert caught.value.exit.msg_type == "Get"
        assert trio.current_time() == 0
    assert answers == [(1.0, 0.0), "answered by the next"]


@pytest.mark.parametrize("policy", ["wait", "fail"])
async def test_asks_while_down(autojump_clock: Any, world: World, kit: SimpleNamespace, policy: Any) -> None:
    ref = await start(world, kit, [], asks_while_down=policy)
    ref.tell(kit.Say(ValueError()))
    await trio.sleep(0.25)
    with pytest.raises(actors.Unavailable) as caught:
        await ref.ask(kit.Get(1), timeout=0.75)  # ends when the next start is due: too late
    assert caught.value.retry_in == pytest.approx(0.75)
    assert trio.current_time() == 0.25
    if policy == "wait":
        assert await ref.ask(kit.Get(1), timeout=0.8) == 1
    else:
        with pytest.raises(actors.Unavailable):
            await ref.ask(kit.Get(1), timeout=100)
        await trio.sleep(1)
        assert await ref.ask(kit.Get(1)) == 1


async def test_a_plain_task_that_crashes_takes_the_incarnation(
    autojump_clock: Any, world: World, kit: SimpleNamespace
) -> None:
    book: list[Any] = []
    error = ValueError("task")
    ref = await start(world, kit, book)

    async def task() -> None:
        await trio.sleep(1)
        raise error

    async def other() -> None:
        try:
            await trio.sleep_forever()
        finally:
            book.append("other ended")

    async def job(actor: Any) -> None:
        actor.ctx.spawn(task)
        actor.ctx.spawn(other)
        await trio.sleep_forever()

    with pytest.raises(actors.ActorDied) as caught:
        await ref.ask(kit.Do(job), timeout=60)
    assert caught.value.__cause__ is error
    assert trio.current_time() == 1
    ref.tell(kit.Say("kept"))
    await trio.sleep(5)
    assert book == [("start", 1), "other ended", ("stop", "Crashed"), ("start", 2), "kept"]
    assert [event.phase for event in world.log.of(events.Crashed)] == ["task"]
    assert len(world.log.of(events.RestartScheduled)) == 1


async def test_two_crashing_tasks_are_one_charge(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    ref = await start(world, kit, [])
    first = ValueError("first")

    async def task(error: Exception) -> None:
        try:
            await trio.sleep(1 if error is first else 100)
        finally:
            raise error

    async def job(actor: Any) -> None:
        actor.ctx.spawn(task, KeyError("second"))
        actor.ctx.spawn(task, first)

    ref.tell(kit.Do(job))
    await trio.sleep(5)
    assert len(world.log.of(events.RestartScheduled)) == 1
    assert world.log.of(events.Crashed)[0].exc is first
    assert "second" in first.__notes__[0]


async def test_kill(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    book: list[Any] = []
    closed: list[str] = []

    @asynccontextmanager
    async def slow_resource() -> Any:
        yield
        await trio.sleep(0.5)
        closed.append("slowly")

    async def on_start(actor: Any) -> None:
        await actor.ctx.enter(slow_resource())

    async def hang(actor: Any) -> None:
        await trio.sleep_forever()

    ref = await start(world, kit, book, start=on_start, shutdown=2)
    died: list[float] = []

    async def asker() -> None:
        with pytest.raises(actors.ActorDied) as caught:
            await ref.ask(kit.Do(hang))
        assert caught.value.exit == actors.Killed()
        died.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(asker)
        await trio.testing.wait_all_tasks_blocked()
        assert await world.system.root.stop_child(ref) == actors.Killed()
    assert died == [2]
    assert closed == ["slowly"]
    assert trio.current_time() == 2.5
    assert book == [("start", 1)]  # no on_stop after a kill
    assert not world.log.of(events.Crashed)


async def test_on_stop_or_a_resource_that_raises(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    closed: list[str] = []
    error = ValueError("first")

    async def on_start(actor: Any) -> None:
        await actor.ctx.enter(resource(closed))
        await actor.ctx.enter(resource(closed, KeyError("third")))

    ref = await start(world, kit, [], start=on_start, stop=fails_from(1, KeyError("second")), restart="temporary")
    ref.tell(kit.Say(error))
    assert (await ref.wait_stopped()) == actors.Crashed(error, "handler", "Say")
    assert closed == ["closed", "closed"]
    assert ["second" in error.__notes__[0], "third" in error.__notes__[1]] == [True, True]
    assert [event.phase for event in world.log.of(events.Crashed)] == ["handler", "on_stop", "cleanup"]


async def test_on_stop_that_hangs_is_bounded(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    async def hang(actor: Any) -> None:
        await trio.sleep_forever()

    ref = await start(world, kit, [], stop=hang, shutdown=2)
    ref.tell(kit.Say(ValueError()))
    await trio.sleep(3.5)
    assert await ref.ask(kit.Get(1)) == 1
    assert await world.system.root.stop_child(ref) == actors.Shutdown()
    assert trio.current_time() == 5.5


async def test_crash_while_stopping_is_an_event_only(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    ref = await start(world, kit, [])

    async def job(actor: Any) -> None:
        await trio.sleep(1)
        raise ValueError("late")

    ref.tell(kit.Do(job))
    await trio.testing.wait_all_tasks_blocked()
    ref.tell(kit.Say("dead letter"))
    assert isinstance(await world.system.root.stop_child(ref), actors.Crashed)
    assert not world.log.of(events.RestartScheduled)
    assert [event.reason for event in world.log.of(events.DeadLetter)] == ["discarded"]


async def test_a_group_with_one_leaf_is_that_leaf(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    ref = await start(world, kit, [], policy=actors.Restart(fatal=(KeyError,), on_exhausted="stop"))

    async def job(actor: Any) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crash(KeyError("inner")), None)
            await trio.sleep_forever()

    ref.tell(kit.Do(job))
    ended = await ref.wait_stopped()
    assert isinstance(ended, actors.GaveUp)
    assert isinstance(ended.last, actors.Crashed)
    assert isinstance(ended.last.exc, KeyError)


async def test_a_stray_cancelled_is_a_crash(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    ref = await start(world, kit, [], restart="temporary")

    async def job(actor: Any) -> None:
        saved: list[BaseException] = []
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as cancelled:
                saved.append(cancelled)
                raise
        raise saved[0]

    ref.tell(kit.Do(job))
    ended = await ref.wait_stopped()
    assert isinstance(ended, actors.Crashed)
    assert isinstance(ended.exc, RuntimeError)


async def test_kept_and_new_state(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    ref = await start(world, kit, [])

    async def keep(actor: Any) -> Any:
        actor.note = "gone"
        before, _ = actor.ctx.kept, actor.ctx.keep((actor.ctx.kept or 0) + 1)
        return before, actor.ctx.generation

    assert await ref.ask(kit.Do(keep)) == (None, 1)
    ref.tell(kit.Say(ValueError()))
    assert await ref.ask(kit.Do(keep)) == (1, 2)

    async def has_note(actor: Any) -> bool:
        return hasattr(actor, "note")

    assert await ref.ask(kit.Do(has_note)) is True
    ref.tell(kit.Say(ValueError()))
    assert await ref.ask(kit.Do(has_note)) is False


async def test_enter_refuses_what_must_nest(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    ref = await start(world, kit, [])
    for manager in (trio.CancelScope(), trio.open_nursery()):

        async def job(actor: Any, manager: Any = manager) -> None:
            await actor.ctx.enter(manager)

        with pytest.raises(actors.ActorDied) as caught:
            await ref.ask(kit.Do(job))
        assert isinstance(caught.value.__cause__, TypeError)


async def test_a_task_outlives_no_incarnation(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    book: list[Any] = []
    ref = await start(world, kit, book)

    async def task(reply: Any) -> None:
        try:
            await trio.sleep_forever()
        finally:
            book.append("ended")

    async def job(actor: Any) -> None:
        reply = actor.ctx.defer()
        actor.ctx.spawn(task, reply, reply=reply)

    async with trio.open_nursery() as nursery:

        async def asker() -> None:
            with pytest.raises(actors.ActorDied):
                await ref.ask(kit.Do(job))
            assert trio.current_time() == 1

        nursery.start_soon(asker)
        await trio.sleep(1)
        ref.tell(kit.Say(ValueError()))
    await trio.sleep(1.5)
    assert book == [("start", 1), "ended", ("stop", "Crashed"), ("start", 2)]
