"""How a system ends: order, bounds, what leaves the block, and that nothing is left behind."""

from __future__ import annotations

import gc
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

import actors
from actors import events
from actors.testing import EventLog, Faulty, Poke, World, hang_on, simulate, swallow_cancel


def sleepy(kit: SimpleNamespace, name: str, seconds: float = 1, **options: Any) -> actors.Spec[Any]:
    async def on_stop(actor: Any) -> None:
        await trio.sleep(seconds)

    return actors.Spec(lambda: kit.Worker([], None, on_stop), name, **options)


def task_count() -> int:
    """Tasks of this run, the system tasks of trio included."""
    return trio.lowlevel.current_statistics().tasks_living


async def test_reverse_order_and_parents_last(autojump_clock: Any, kit: SimpleNamespace) -> None:
    before = task_count()
    system = actors.System(grace=100)
    async with system.events(1000) as stream:
        async with system:
            await system.start(sleepy(kit, "a"))
            sup = await system.start(actors.SupervisorSpec("sup"))
            await sup.start_child(sleepy(kit, "b"))
            await sup.start_child(sleepy(kit, "c"))
            await system.start(sleepy(kit, "d"))
        log = EventLog(stream)
    stopped = [(event.path.rsplit("/", 1)[-1], event.time) for event in log.of(events.Stopped)]
    assert stopped == [("d", 1.0), ("c", 2.0), ("b", 3.0), ("sup", 3.0), ("a", 4.0), ("system", 4.0)]
    assert task_count() == before
    assert system.tree().phase is actors.Phase.STOPPED


@pytest.mark.parametrize(
    ("grace", "ends"),
    [(5, {"c": 11, "b": 12, "a": 13}), (1.5, {"c": 11, "b": 11.5, "a": 11.5}), (0, {"c": 10, "b": 10, "a": 10})],
)
async def test_outer_cancel_stops_in_order_within_grace(
    autojump_clock: Any, kit: SimpleNamespace, grace: float, ends: dict[str, float]
) -> None:
    system = actors.System(grace=grace)
    async with system.events(1000) as stream:
        with trio.move_on_at(10) as scope:
            async with system:
                for name in ends:
                    await system.start(sleepy(kit, name))
                await trio.sleep_forever()
        log = EventLog(stream)
    assert scope.cancelled_caught
    times = {name: log.of(events.Stopped, name)[0].time for name in ends}
    assert times == {"a": ends["c"], "b": ends["b"], "c": ends["a"]}
    assert not log.of(events.Crashed)
    assert not log.of(events.RestartScheduled)


async def test_what_the_body_raises_leaves_as_itself(autojump_clock: Any, kit: SimpleNamespace) -> None:
    error = ValueError("body")
    with pytest.raises(ValueError, match="body") as caught:  # noqa: PT012
        async with actors.System() as system:
            await system.start(sleepy(kit, "a"))
            raise error
    assert caught.value is error
    group = ExceptionGroup("two", [ValueError(), KeyError()])
    with pytest.raises(ExceptionGroup) as caught_group:
        async with actors.System():
            raise group
    assert caught_group.value is group


async def test_stop_from_the_body_leaves_it_running(autojump_clock: Any, kit: SimpleNamespace) -> None:
    async with actors.System() as system:
        ref = await system.start(sleepy(kit, "a"))
        await system.stop()
        await system.stop()
        assert await ref.wait_stopped() == actors.Shutdown()
        with pytest.raises(actors.ActorDied):
            await system.start(sleepy(kit, "b"))
        await trio.sleep(1)
    assert trio.current_time() == 2
    with pytest.raises(RuntimeError, match="once"):
        await system.__aenter__()


async def test_stop_from_inside_an_actor(autojump_clock: Any, kit: SimpleNamespace) -> None:
    async def stop(actor: Any) -> None:
        await system.stop()

    async with actors.System() as system:
        ref = await system.start(actors.Spec(lambda: kit.Worker([]), "w", shutdown=2))
        ref.tell(kit.Do(stop))
        assert await ref.wait_stopped() == actors.Killed()  # it waits for its own end, so it is not in time
        assert trio.current_time() == 2


async def test_asks_and_tells_at_shutdown(autojump_clock: Any, kit: SimpleNamespace) -> None:
    outcomes: list[Any] = []
    async with trio.open_nursery() as nursery:
        system = actors.System()
        async with system.events() as stream:
            async with system:
                ref = await system.start(sleepy(kit, "a"))

                async def asker(message: Any) -> None:
                    try:
                        outcomes.append(await ref.ask(message))
                    except actors.ActorDied as died:
                        outcomes.append((type(died.exit).__name__, trio.current_time()))

                nursery.start_soon(asker, kit.pause(1))
                await trio.testing.wait_all_tasks_blocked()
                ref.tell(kit.Say("dead letter"))
                nursery.start_soon(asker, kit.Get("queued"))
                await trio.testing.wait_all_tasks_blocked()
            assert [event.reason for event in EventLog(stream).of(events.DeadLetter)] == ["discarded", "discarded"]
    assert outcomes == [("Shutdown", 0.0), None]  # the handler that ran is finished, its asker answered


async def test_bound_and_stuck(autojump_clock: Any, world: World) -> None:
    system = actors.System(grace=2, cleanup_grace=1)
    async with system.events() as stream:
        async with system:
            polite = await system.start(actors.Spec(lambda: Faulty(hang_on(1)), "polite", shutdown=60))
            rude = await system.start(actors.Spec(lambda: Faulty(swallow_cancel(5.5, 1)), "rude", shutdown=60))
            polite.tell(Poke(1))
            rude.tell(Poke(1))
            await trio.testing.wait_all_tasks_blocked()
        assert trio.current_time() == 5.5
        log = EventLog(stream)
    assert log.of(events.Stopped, "polite")[0].time == 2
    assert [event.time for event in log.of(events.Stuck, "rude")] == [3, 4, 5]


async def test_starting_actors_are_stopped_too(autojump_clock: Any, kit: SimpleNamespace) -> None:
    async def forever(actor: Any) -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery, actors.System() as system:

        async def starter() -> None:
            with pytest.raises(actors.ActorDied):
                await system.start(actors.Spec(lambda: kit.Worker([], forever), "w"))

        nursery.start_soon(starter)
        await trio.testing.wait_all_tasks_blocked()
    assert trio.current_time() == 0


def test_interrupts_of_the_process_go_on(kit: SimpleNamespace) -> None:
    closed: list[str] = []

    async def interrupt(actor: Any) -> None:
        raise KeyboardInterrupt

    async def main() -> None:
        async with actors.System() as system:
            ref = await system.start(actors.Spec(lambda: kit.Worker([]), "w"))
            try:
                await ref.ask(kit.Do(interrupt))
            finally:
                closed.append("left")

    with pytest.raises(BaseException) as caught:  # noqa: PT011 - trio may wrap it
        trio.run(main)
    error = caught.value
    while isinstance(error, BaseExceptionGroup):
        (error,) = error.exceptions
    assert isinstance(error, KeyboardInterrupt)
    assert closed == ["left"]


def test_cancelling_at_any_point_is_no_failure(kit: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    """Cancel after k scheduler steps, for every k until the program is over."""
    for k in range(200):
        log, open_now, finished, before, after = cancelled_after(kit, k)
        assert before == after
        assert not open_now
        assert not log.of(events.Crashed)
        assert not [event for event in log.of(events.RestartScheduled) if event.k]  # k is 0 when it was ordered
        if finished:
            break
    else:
        pytest.fail("the program never finished")
    assert k > 10
    assert "not stopped within" not in caplog.text


def cancelled_after(kit: SimpleNamespace, k: int) -> tuple[EventLog, list[str], bool, int, int]:
    open_now: list[str] = []

    class Resource:
        async def __aenter__(self) -> None:
            open_now.append("open")

        async def __aexit__(self, *_: object) -> None:
            await trio.lowlevel.checkpoint()
            open_now.remove("open")

    async def on_start(actor: Any) -> None:
        await actor.ctx.enter(Resource())

    async def serve(reply: Any) -> int:
        await trio.lowlevel.checkpoint()
        return 5

    async def deferred(actor: Any) -> None:
        reply = actor.ctx.defer()
        actor.ctx.spawn(serve, reply, reply=reply)

    async def few_steps(actor: Any) -> None:
        for _ in range(3):
            await trio.lowlevel.checkpoint()

    async def main() -> tuple[EventLog, list[str], bool, int, int]:
        before = task_count()
        system = actors.System(seed=1)
        finished = False
        async with system.events(1000) as stream:
            async with trio.open_nursery() as nursery:

                async def canceller() -> None:
                    for _ in range(k):
                        await trio.lowlevel.checkpoint()
                    nursery.cancel_scope.cancel()

                nursery.start_soon(canceller)
                async with system:
                    ref = await system.start(actors.Spec(lambda: kit.Worker([], on_start), "w"))
                    sup = await system.start(actors.SupervisorSpec("sup"))
                    other = await sup.start_child(actors.Spec(lambda: kit.Worker([], on_start), "v"))
                    await ref.ask(kit.Do(deferred), timeout=1000, join=1)
                    await other.ask(kit.Do(few_steps))
                    await sup.restart_child(other)
                    await sup.stop_child(other)
                    finished = True
                nursery.cancel_scope.cancel()
            return EventLog(stream), open_now, finished, before, task_count()

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_same_seed_same_log(kit: SimpleNamespace) -> None:
    async def main(world: World) -> list[str]:
        refs = []
        for name in "abc":
            policy = actors.Restart(max_restarts=3, on_exhausted="stop")
            refs.append(await world.system.start(actors.Spec(lambda: kit.Worker([]), name, policy=policy)))
        async with trio.open_nursery() as nursery:
            for n in range(30):
                ref = refs[n % 3]
                nursery.start_soon(ref.send if n % 7 else ref.tell, kit.Say(n)) if n % 7 else ref.tell(
                    kit.Say(ValueError(n))
                )
        await trio.sleep(60)
        return [repr(event) for event in world.log.all]

    runs = [simulate(main, seed=11) for _ in range(3)]
    assert runs[0] == runs[1] == runs[2]
    assert runs[0] != simulate(main, seed=12)


async def test_an_observer_cannot_disturb(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    ref = await world.system.start(actors.Spec(lambda: kit.Worker([]), "w"))
    async with world.system.events(buffer=2) as slow:
        for n in range(300):
            ref.tell(kit.Say(n))
        assert await ref.ask(kit.Get(1), timeout=1) == 1
        assert slow.dropped == 300 - 256 - 2
        assert [type(event).__name__ for event in slow.drain()] == ["DeadLetter", "DeadLetter"]


async def test_events_end_with_the_system(autojump_clock: Any, kit: SimpleNamespace) -> None:
    system = actors.System()
    seen: list[str] = []

    async def reader(task_status: trio.TaskStatus[None]) -> None:
        async with system.events() as stream:
            task_status.started()
            seen.extend([type(event).__name__ async for event in stream])

    async with trio.open_nursery() as nursery:
        await nursery.start(reader)
        async with system:
            await system.start(actors.Spec(lambda: kit.Worker([]), "w"))
    assert seen[0] == "Started"
    assert seen[-1] == "Stopped"


async def test_nothing_holds_a_dead_system(autojump_clock: Any, kit: SimpleNamespace) -> None:
    async with actors.System() as system:
        ref = await system.start(actors.Spec(lambda: kit.Worker([]), "w"))
        for n in range(100):
            await ref.ask(kit.Get(n), timeout=5)
    del system, ref
    gc.collect()
    assert not [thing for thing in gc.get_objects() if type(thing) is actors.Reply]
