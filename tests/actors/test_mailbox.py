"""The queue: capacity, blocked senders, conflation, and cancelling a send."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

import actors
from actors.testing import World, simulate


async def paused(world: World, kit: SimpleNamespace, cap: float, seconds: float = 1) -> tuple[Any, list[Any]]:
    """An actor that is busy for `seconds`, with an empty queue."""
    book: list[Any] = []
    ref = await world.system.start(actors.Spec(lambda: kit.Worker(book), "w", mailbox=actors.Mailbox(cap)))
    ref.tell(kit.pause(seconds))
    await trio.testing.wait_all_tasks_blocked()
    return ref, book


async def test_tell_refuses_beyond_capacity_without_a_checkpoint(
    autojump_clock: Any, world: World, kit: SimpleNamespace
) -> None:
    ref, book = await paused(world, kit, 2)
    with trio.testing.assert_no_checkpoints():
        assert [ref.tell(kit.Say(n)) for n in range(4)] == [True, True, False, False]
    await trio.sleep(2)
    assert book == [("start", 1), 0, 1]
    assert [event.reason for event in world.log.of(actors.events.DeadLetter)] == ["full", "full"]


async def test_send_waits_in_turn_and_nobody_barges(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    ref, book = await paused(world, kit, 1)
    ref.tell(kit.Say("first"))
    async with trio.open_nursery() as nursery:
        for n in range(5):
            nursery.start_soon(ref.send, kit.Say(n))
            await trio.testing.wait_all_tasks_blocked()
        assert ref.tell(kit.Say("barges")) is False
    await trio.sleep(1)
    assert book[1:] == ["first", 0, 1, 2, 3, 4]


async def test_a_cancelled_send_is_not_queued(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    ref, book = await paused(world, kit, 1, seconds=5)
    ref.tell(kit.Say("first"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ref.send, kit.Say("before"))
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(1) as scope:
            await ref.send(kit.Say("cancelled"))
        assert scope.cancelled_caught
        nursery.start_soon(ref.send, kit.Say("after"))
    await trio.sleep(5)
    assert book[1:] == ["first", "before", "after"]


async def test_a_blocked_send_learns_of_the_end(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    ref, _ = await paused(world, kit, 1, seconds=1)
    ref.tell(kit.Say("dead letter"))
    async with trio.open_nursery() as nursery:

        async def sender() -> None:
            with pytest.raises(actors.ActorDied):
                await ref.send(kit.Say(1))
            assert trio.current_time() == pytest.approx(0)

        nursery.start_soon(sender)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(world.system.root.stop_child, ref)


async def test_publish_conflates_in_place(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    ref, book = await paused(world, kit, 1)
    ref.publish("a", kit.Say("a1"))
    assert ref.tell(kit.Say("told")) is True  # a published value takes no room
    ref.publish("b", kit.Say("b1"))
    ref.publish("a", kit.Say("a2"))
    await trio.sleep(2)
    ref.publish("a", kit.Say("a3"))
    await trio.sleep(1)
    assert book[1:] == ["a2", "told", "b1", "a3"]
    assert len(world.log.of(actors.events.Superseded)) == 1


async def test_published_values_leave_the_capacity_as_it_was(
    autojump_clock: Any, world: World, kit: SimpleNamespace
) -> None:
    ref, _ = await paused(world, kit, 1)
    for key in "abc":
        ref.publish(key, kit.Say(key))
    await trio.sleep(2)
    ref.tell(kit.pause(1))
    await trio.testing.wait_all_tasks_blocked()
    assert [ref.tell(kit.Say(n)) for n in range(2)] == [True, False]


async def test_cancelled_asks_leave_a_full_queue(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    ref, _ = await paused(world, kit, 1, seconds=100)
    ref.tell(kit.Say("fills"))
    for _ in range(50):
        with trio.move_on_after(0.1):
            await ref.ask(kit.Get(1))
        with pytest.raises(actors.AskTimeout):
            await ref.ask(kit.Get(1), timeout=0.1)
    assert not ref._queue.senders
    await trio.sleep(200)
    assert not world.log.of(actors.events.Skipped)  # they had not been accepted


def test_capacity_is_checked() -> None:
    with pytest.raises(ValueError, match="cap must be at least 1"):
        actors.Mailbox(0)


async def test_a_full_queue_does_not_block_the_start(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    async def fill(actor: Any) -> None:
        assert [actor.ctx.ref.tell(kit.Say(n)) for n in range(3)] == [True, False, False]
        await trio.sleep(1)

    book: list[Any] = []
    await world.system.start(actors.Spec(lambda: kit.Worker(book, fill), "w", mailbox=actors.Mailbox(1)))
    await trio.testing.wait_all_tasks_blocked()
    assert book == [("start", 1), 0]


Step = st.tuples(st.sampled_from(["send", "tell", "publish", "wait"]), st.integers(0, 3), st.booleans())


@given(program=st.lists(Step, max_size=25), cap=st.integers(1, 3), seed=st.integers(0, 2**16))
def test_fifo_capacity_conflation_and_cancel_safety(
    kit: SimpleNamespace, program: list[tuple[str, int, bool]], cap: int, seed: int
) -> None:
    """Invariants FIFO, capacity, cancel-safe send, conflation, over drawn programs and schedules."""

    async def main(world: World) -> None:
        book: list[Any] = []
        ref = await world.system.start(actors.Spec(lambda: kit.Worker(book), "w", mailbox=actors.Mailbox(cap)))
        sent: list[Any] = []
        published: dict[int, Any] = {}

        async def send(message: Any, cancel: bool) -> None:
            with trio.move_on_after(0.5 if cancel else float("inf")) as scope:
                await ref.send(kit.Say(message))
            if not scope.cancelled_caught:
                sent.append(message)

        ref.tell(kit.pause(2))
        async with trio.open_nursery() as nursery:
            for number, (what, key, cancel) in enumerate(program):
                if what == "send":
                    nursery.start_soon(send, ("send", number), cancel)
                    await trio.testing.wait_all_tasks_blocked()
                elif what == "tell" and ref.tell(kit.Say(("send", number))):
                    sent.append(("send", number))
                elif what == "publish":
                    ref.publish(key, kit.Say(("publish", key, number)))
                    published[key] = ("publish", key, number)
                elif what == "wait":
                    await trio.sleep(0.3)
                queued = world.system.tree().children[0].queued
                assert queued <= cap + len(published)
        await ref.ask(kit.Get(1))
        handled = [item for item in book[1:] if item[0] == "send"]
        assert handled == sorted(handled)
        assert sorted(sent) == handled
        for key, last in published.items():
            values = [item for item in book[1:] if item[:2] == ("publish", key)]
            assert values == sorted(values)
            assert values[-1] == last

    simulate(main, seed)
