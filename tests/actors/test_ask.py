"""Asks: one outcome each, at once after a crash, by the deadline at the latest; tasks that serve them; joining."""

from __future__ import annotations

import contextvars
import gc
import math
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import trio

import actors
from actors.testing import World

VAR: contextvars.ContextVar[str] = contextvars.ContextVar("VAR", default="unset")


async def worker(world: World, kit: SimpleNamespace, name: str = "w", **options: Any) -> tuple[Any, list[Any]]:
    book: list[Any] = []
    return await world.system.start(actors.Spec(lambda: kit.Worker(book), name, **options)), book


def serving(task: Any) -> Any:
    async def job(actor: Any) -> None:
        reply = actor.ctx.defer()
        actor.ctx.spawn(task, reply, reply=reply)

    return job


async def test_value(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    ref, _ = await worker(world, kit)
    assert await ref.ask(kit.Get(7)) == 7
    assert await ref.ask(kit.Do(serving(lambda reply: _value(8)))) == 8


async def _value(value: Any) -> Any:
    await trio.sleep(1)
    return value


async def test_timeout_at_its_deadline_and_late_reply(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    ref, _ = await worker(world, kit)
    began = trio.current_time()
    with pytest.raises(actors.AskTimeout, match=r"w: Do"):
        await ref.ask(kit.Do(lambda actor: _value(1)), timeout=0.5)
    assert trio.current_time() - began == pytest.approx(0.5)
    with pytest.raises(actors.AskTimeout):
        await ref.ask(kit.Get(1), deadline=trio.current_time() + 0.25, timeout=1000)
    assert trio.current_time() - began == pytest.approx(0.75)
    await trio.sleep(1)
    assert len(world.log.of(actors.events.LateReply)) == 1
    assert [event.reason for event in world.log.of(actors.events.Skipped)] == ["expired"]


async def test_deadline_in_the_past(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    ref, _ = await worker(world, kit)
    with pytest.raises(actors.AskTimeout):
        await ref.ask(kit.Get(1), deadline=trio.current_time())
    assert not world.log.of(actors.events.Skipped)


async def test_default_timeout_of_the_system(autojump_clock: trio.testing.MockClock, kit: SimpleNamespace) -> None:
    async with actors.System(ask_timeout=2) as system:
        ref = await system.start(actors.Spec(lambda: kit.Worker([]), "w"))
        began = trio.current_time()
        with pytest.raises(actors.AskTimeout):
            await ref.ask(kit.pause(5))
        assert trio.current_time() - began == pytest.approx(2)


async def test_crash_is_prompt_and_its_cause_is_the_exception_itself(
    autojump_clock: Any, world: World, kit: SimpleNamespace
) -> None:
    ref, _ = await worker(world, kit)
    error = ValueError("boom")
    errors: list[actors.ActorDied] = []

    async def crash(actor: Any) -> None:
        await trio.sleep(1)
        raise error

    async def deferred(actor: Any) -> None:
        actor.ctx.defer()

    async def asker(message: Any) -> None:
        with pytest.raises(actors.ActorDied) as caught:
            await ref.ask(message, timeout=100)
        assert trio.current_time() == pytest.approx(1)
        errors.append(caught.value)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(asker, kit.Do(deferred))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(asker, kit.Do(crash))
    assert [caught.__cause__ for caught in errors] == [error] * 4
    assert len({id(caught) for caught in errors}) == 4
    depth, frame = 0, error.__traceback__
    while frame is not None:
        depth, frame = depth + 1, frame.tb_next
    assert depth == 4  # the frames between the handler and us, however many asked


async def test_reject_answers_and_crashes_nothing(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    ref, _ = await worker(world, kit)
    with pytest.raises(KeyError, match="no such"):
        await ref.ask(kit.Get(actors.Reject(KeyError("no such"))))

    async def task(reply: Any) -> None:
        raise actors.Reject(LookupError("nor such"))

    with pytest.raises(LookupError, match="nor such"):
        await ref.ask(kit.Do(serving(task)))
    ref.tell(kit.Say(actors.Reject(KeyError())))
    assert await ref.ask(kit.Get(1)) == 1
    assert len(world.log.of(actors.events.Rejected)) == 1
    assert not world.log.of(actors.events.Crashed)


async def test_task_failure_is_the_asker_s_alone(
    autojump_clock: Any, world: World, kit: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    ref, _ = await worker(world, kit)
    error = ValueError("bug")
    other: list[Any] = []

    async def fails(reply: Any) -> None:
        await trio.sleep(1)
        raise error

    async def lives(reply: Any) -> str:
        await trio.sleep(2)
        return "alive"

    async def second() -> None:
        other.append(await ref.ask(kit.Do(serving(lives))))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(second)
        with pytest.raises(actors.TaskFailed) as caught:
            await ref.ask(kit.Do(serving(fails)))
    assert caught.value.__cause__ is error
    assert other == ["alive"]
    assert [(event.exc, event.phase) for event in world.log.of(actors.events.Crashed)] == [(error, "task")]
    assert not world.log.of(actors.events.RestartScheduled)
    assert [record.levelname for record in caplog.records if record.exc_info] == ["ERROR"]


async def test_deadline_cancels_the_serving_task_and_is_no_crash(
    autojump_clock: Any, world: World, kit: SimpleNamespace
) -> None:
    ref, _ = await worker(world, kit)
    ends: list[float] = []

    async def task(reply: Any) -> None:
        try:
            await trio.sleep(100)
        finally:
            ends.append(trio.current_time())

    with pytest.raises(actors.AskTimeout):
        await ref.ask(kit.Do(serving(task)), timeout=3)
    await trio.testing.wait_all_tasks_blocked()
    assert ends == [pytest.approx(3)]
    assert not world.log.of(actors.events.Crashed)


async def test_context_crosses_into_the_serving_task_only(
    autojump_clock: Any, world: World, kit: SimpleNamespace
) -> None:
    ref, _ = await worker(world, kit)

    async def task(reply: Any) -> str:
        seen = VAR.get()
        VAR.set("changed inside")
        await trio.lowlevel.checkpoint()
        return seen

    async def handler(actor: Any) -> str:
        return VAR.get()

    VAR.set("asker")
    assert await ref.ask(kit.Do(serving(task))) == "asker"
    assert VAR.get() == "asker"
    assert await ref.ask(kit.Do(handler)) == "unset"


@pytest.mark.parametrize("join", [0.0, 1.0, 5.0])
async def test_cancelled_asker_cancels_the_task_and_joins_it(
    autojump_clock: Any, world: World, kit: SimpleNamespace, join: float
) -> None:
    ref, _ = await worker(world, kit)
    times: dict[str, float] = {}

    async def task(reply: Any) -> None:
        try:
            await trio.sleep_forever()
        finally:
            times["cancelled"] = trio.current_time()
            with trio.CancelScope(shield=True):
                await trio.sleep(2)
            times["over"] = trio.current_time()

    with trio.move_on_after(1) as scope:
        await ref.ask(kit.Do(serving(task)), join=join)
    assert scope.cancelled_caught
    times["left"] = trio.current_time()
    assert times["left"] == pytest.approx(1 + min(join, 2))
    await trio.sleep(3)
    assert times["cancelled"] == pytest.approx(1)
    assert times["over"] == pytest.approx(3)


async def test_asker_s_cancel_reaches_the_task_within_a_checkpoint(
    autojump_clock: Any, world: World, kit: SimpleNamespace
) -> None:
    ref, _ = await worker(world, kit)
    ticks: list[int] = []

    async def task(reply: Any) -> None:
        while True:
            ticks.append(1)
            await trio.lowlevel.checkpoint()

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ref.ask, kit.Do(serving(task)))
            while not ticks:
                await trio.lowlevel.checkpoint()
            scope.cancel()
            before = len(ticks)
    assert len(ticks) <= before + 1


async def test_abandoned_ask_in_the_queue_is_not_handled(
    autojump_clock: Any, world: World, kit: SimpleNamespace
) -> None:
    ref, book = await worker(world, kit)

    async def note(actor: Any) -> None:
        book.append("handled")

    ref.tell(kit.pause(2))
    with trio.move_on_after(1):
        await ref.ask(kit.Do(note))
    await trio.sleep(5)
    assert "handled" not in book
    assert [event.reason for event in world.log.of(actors.events.Skipped)] == ["abandoned"]


async def test_a_full_queue_holds_asks_back_with_their_deadline_running(
    autojump_clock: Any, world: World, kit: SimpleNamespace
) -> None:
    ref, _ = await worker(world, kit, mailbox=actors.Mailbox(1))
    ref.tell(kit.pause(2))
    await trio.testing.wait_all_tasks_blocked()
    assert ref.tell(kit.Say("fills"))
    with pytest.raises(actors.AskTimeout, match=r"waiting for room"):
        await ref.ask(kit.Get(1), timeout=1)
    assert await ref.ask(kit.Get(2), timeout=5) == 2


async def test_what_the_scope_is_for(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    ref, book = await worker(world, kit)

    async def job(actor: Any) -> None:
        reply = actor.ctx.defer()
        assert reply.deadline == pytest.approx(1)
        with reply.scope() as scope:
            await trio.sleep(10)
        book.append((scope.cancelled_caught, trio.current_time()))
        with reply.scope():
            await trio.sleep(10)
        book.append(trio.current_time())

    with pytest.raises(actors.AskTimeout):
        await ref.ask(kit.Do(job), timeout=1)
    assert await ref.ask(kit.Get(1)) == 1
    assert book[1:] == [(True, 1.0), 1.0]


async def test_first_answer_wins(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    ref, book = await worker(world, kit)

    async def job(actor: Any) -> None:
        reply = actor.ctx.defer()
        book.append((reply.set(1), reply.set(2), reply.reject(KeyError())))

    assert await ref.ask(kit.Do(job)) == 1
    assert book[1:] == [(True, False, False)]
    assert len(world.log.of(actors.events.LateReply)) == 2


async def test_wrong_messages_are_the_sender_s_error(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    ref, _ = await worker(world, kit)
    with pytest.raises(TypeError, match="no handler for int"):
        ref.tell(3)
    with pytest.raises(TypeError, match=r"takes an actors\.Ask, not Say"):
        await ref.ask(kit.Say(1))
    with pytest.raises(TypeError):
        await ref.send(3)
    with pytest.raises(TypeError):
        ref.publish("key", 3)
    assert world.system.tree().children[0].generation == 1


async def test_a_subclass_of_a_message_is_handled(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    ref, _ = await worker(world, kit)

    @attrs.frozen
    class Special(kit.Get):  # type: ignore[misc, name-defined]
        pass

    assert await ref.ask(Special(5)) == 5


async def test_stopped_actor(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    ref, _ = await worker(world, kit)
    assert await world.system.root.stop_child(ref) == actors.Shutdown()
    with pytest.raises(actors.ActorDied) as caught:
        await ref.ask(kit.Get(1))
    assert caught.value.exit == actors.Shutdown()
    with pytest.raises(actors.ActorDied):
        await ref.send(kit.Say(1))
    assert ref.tell(kit.Say(1)) is False


async def test_ten_thousand_asks_leave_nothing(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    ref, _ = await worker(world, kit)
    for number in range(10_000):
        assert await ref.ask(kit.Get(number), timeout=60) == number
    assert len(world.system.deadlines) <= 64
    gc.collect()
    assert sum(type(thing) is actors.Reply for thing in gc.get_objects()) <= 66


async def test_defer_outside_an_ask(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    ref, _ = await worker(world, kit, restart="temporary")

    async def job(actor: Any) -> None:
        actor.ctx.defer()

    ref.tell(kit.Do(job))
    ended = await ref.wait_stopped()
    assert isinstance(ended.exc, RuntimeError)
    assert math.isinf(world.system.ask_timeout)
