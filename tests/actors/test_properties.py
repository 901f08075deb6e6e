"""Drawn programs on drawn schedules: conservation, totality of asks, order, Down, one-at-a-time, no orphans."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import actors
from actors import events
from actors.testing import World, assert_conserved, simulate

POLICY = actors.Restart(base=0.5, factor=2, cap=2, max_restarts=4, on_exhausted="stop", stable_after=5)

Command = st.one_of(
    st.tuples(st.just("tell"), st.integers(0, 1)),
    st.tuples(st.just("send"), st.integers(0, 1)),
    st.tuples(st.just("crash"), st.integers(0, 1)),
    st.tuples(
        st.sampled_from(["ask", "slow", "deferred", "task", "task crash", "ask crash", "plain task crash"]),
        st.integers(0, 1),
        st.sampled_from([0.2, 1.0, 3.0, math.inf]),
        st.sampled_from([None, 0.1, 0.7]),  # cancel after
    ),
    st.tuples(st.just("sleep"), st.sampled_from([0.1, 0.5, 2.0])),
    st.tuples(st.just("restart"), st.integers(0, 1)),
    st.tuples(st.just("stop"), st.integers(0, 1)),
)


@attrs.define
class Tally:
    """What a program did and saw."""

    accepted: list[int] = attrs.field(factory=lambda: [0, 0])
    begun: list[int] = attrs.field(factory=lambda: [0, 0])
    busy: list[int] = attrs.field(factory=lambda: [0, 0])
    heard: list[Any] = attrs.field(factory=list)
    sent: list[Any] = attrs.field(factory=list)
    downs: list[Any] = attrs.field(factory=list)
    goodbyes: set[tuple[int, int]] = attrs.field(factory=set)
    asks: int = 0
    outcomes: list[str] = attrs.field(factory=list)
    open: int = 0


def worker(kit: SimpleNamespace, tally: Tally, which: int) -> Any:
    """A Worker that books what it handles, and checks that one handler runs at a time and none after on_stop."""

    class Resource:
        async def __aenter__(self) -> None:
            tally.open += 1

        async def __aexit__(self, *_: object) -> None:
            await trio.lowlevel.checkpoint()
            tally.open -= 1

    class Checked(kit.Worker):  # type: ignore[misc, name-defined]
        async def on_start(self) -> None:
            await self.ctx.enter(Resource())

        async def on_stop(self, exit: actors.Exit) -> None:  # noqa: A002
            tally.goodbyes.add((which, self.ctx.generation))
            await trio.sleep(0.05)

        def check(self) -> None:
            assert tally.busy[which] == 0
            assert (which, self.ctx.generation) not in tally.goodbyes

        def say(self, message: Any) -> None:
            self.check()
            tally.begun[which] += 1
            if isinstance(message.text, Exception):
                raise message.text
            tally.heard.append(message.text)

        async def do(self, message: Any) -> Any:
            self.check()
            tally.busy[which] += 1
            try:
                return await message.job(self)
            finally:
                tally.busy[which] -= 1

    return Checked([])


class Watcher(actors.Actor[actors.Down]):
    def __init__(self, refs: list[Any], tally: Tally) -> None:
        self.refs = refs
        self.tally = tally

    async def on_start(self) -> None:
        for ref in self.refs:
            self.ctx.watch(ref)

    @actors.handle
    def down(self, message: actors.Down) -> None:
        self.tally.downs.append(message.ref)


async def _task(what: str) -> str:
    await trio.sleep(0.3)
    if "crash" in what:
        raise ValueError(what)
    return "done"


def job_of(what: str) -> Any:
    async def job(actor: Any) -> Any:
        if what == "ask":
            return "done"
        if what == "slow":
            await trio.sleep(0.4)
            return "done"
        if what == "ask crash":
            await trio.sleep(0.1)
            raise ValueError(what)
        reply = actor.ctx.defer()
        if what == "plain task crash":
            actor.ctx.spawn(_task, what)
        elif what != "deferred":
            actor.ctx.spawn(_task, what, reply=reply)
        return None

    return job


async def ask(kit: SimpleNamespace, tally: Tally, ref: Any, which: int, what: str, timeout: float, leave: Any) -> None:
    deadline = trio.current_time() + timeout
    outcome = "cancelled"
    with trio.move_on_after(math.inf if leave is None else leave):
        try:
            outcome = await ref.ask(kit.Do(job_of(what)), timeout=timeout)
        except actors.ActorError as error:
            outcome = type(error).__name__
    tally.outcomes.append(outcome)
    assert trio.current_time() <= deadline + 1e-9  # the clock that jumps adds up floats
    if outcome == "AskTimeout":
        assert trio.current_time() == pytest.approx(deadline)


async def play(world: World, kit: SimpleNamespace, tally: Tally, program: list[Any]) -> list[Any]:
    system = world.system
    refs = []
    for which in (0, 1):
        spec: Any = actors.Spec(
            lambda which=which: worker(kit, tally, which), f"w{which}", policy=POLICY, mailbox=actors.Mailbox(3)
        )
        refs.append(await system.start(spec))
    watched = actors.Spec(lambda: Watcher(refs, tally), "watcher", mailbox=actors.Mailbox(1))
    await system.start(watched)

    async def send(which: int, number: int) -> None:
        try:
            await refs[which].send(kit.Say((which, number)))
        except actors.ActorDied:
            return
        tally.accepted[which] += 1
        tally.sent.append((which, number))

    async with trio.open_nursery() as nursery:
        for number, (what, *rest) in enumerate(program):
            if what == "sleep":
                await trio.sleep(rest[0])
                continue
            which = rest[0]
            if what == "tell":
                if refs[which].tell(kit.Say((which, number))):
                    tally.accepted[which] += 1
                    tally.sent.append((which, number))
            elif what == "crash":
                tally.accepted[which] += refs[which].tell(kit.Say(ValueError(number)))
            elif what == "send":
                nursery.start_soon(send, which, number)
                await trio.testing.wait_all_tasks_blocked()
            elif what in ("restart", "stop"):
                nursery.start_soon(getattr(system.root, f"{what}_child"), refs[which])
            else:
                tally.asks += 1
                nursery.start_soon(ask, kit, tally, refs[which], which, what, *rest[1:])
            assert all(node.queued <= 3 for node in system.tree().children if node.name != "watcher")
        await trio.sleep(30)
        for ref in refs:
            await system.root.stop_child(ref)
    await trio.testing.wait_all_tasks_blocked()
    return refs


def check_program(kit: SimpleNamespace, program: list[Any], seed: int) -> None:
    tally = Tally()

    async def main(world: World) -> Any:
        before = trio.lowlevel.current_statistics().tasks_living
        refs = await play(world, kit, tally, program)
        after = trio.lowlevel.current_statistics().tasks_living
        assert after == before + 1  # the watcher
        return world.log, refs

    log, refs = simulate(main, seed)
    assert len(tally.outcomes) == tally.asks
    assert tally.open == 0
    assert sorted(ref.name for ref in tally.downs) == ["w0", "w1"]
    for which, ref in enumerate(refs):
        heard = [item for item in tally.heard if item[0] == which]
        assert heard == sorted(heard)
        assert set(heard) <= set(tally.sent)
        assert_conserved(log, ref.name, tally.accepted[which], tally.begun[which], ["Do"])


@given(program=st.lists(Command, max_size=25), seed=st.integers(0, 2**32))
def test_a_drawn_program(kit: SimpleNamespace, program: list[Any], seed: int) -> None:
    check_program(kit, program, seed)


@pytest.mark.slow
@settings(max_examples=10_000)
@given(program=st.lists(Command, max_size=40), seed=st.integers(0, 2**32))
def test_ten_thousand_drawn_programs(kit: SimpleNamespace, program: list[Any], seed: int) -> None:
    check_program(kit, program, seed)


@given(
    crash_after=st.floats(0, 3),
    delay=st.floats(0.1, 5),
    asked_at=st.floats(0, 10),
    timeout=st.floats(0.01, 10),
    fail=st.booleans(),
)
def test_asks_while_down(
    kit: SimpleNamespace, crash_after: float, delay: float, asked_at: float, timeout: float, fail: bool
) -> None:
    """Answered by the next generation iff the deadline lies after the planned restart."""

    async def main(world: World) -> None:
        policy = actors.Restart(base=delay, cap=delay, jitter=0)
        spec: Any = actors.Spec(lambda: kit.Worker([]), "w", policy=policy, asks_while_down="fail" if fail else "wait")
        ref = await world.system.start(spec)
        await trio.sleep(crash_after)
        ref.tell(kit.Say(ValueError()))
        await trio.testing.wait_all_tasks_blocked()
        up_again = crash_after + delay
        await trio.sleep(asked_at)
        now = trio.current_time()
        # The mock clock comes to a time by adding the difference, so that it may miss it by the last bit of a float.
        assume(abs(now - up_again) > 1e-6)
        assume(abs(now + timeout - up_again) > 1e-6)
        if now < up_again and (fail or now + timeout <= up_again):
            with pytest.raises(actors.Unavailable) as caught:
                await ref.ask(kit.Get(1), timeout=timeout)
            assert caught.value.retry_in == pytest.approx(up_again - now)
            assert trio.current_time() == now
        else:
            assert await ref.ask(kit.Get(1), timeout=timeout) == 1
            assert trio.current_time() == pytest.approx(max(now, up_again))

    simulate(main)


@given(lives=st.lists(st.booleans(), max_size=12), limit=st.integers(0, 4), seed=st.integers(0, 1000))
def test_the_log_tells_the_restarts(kit: SimpleNamespace, lives: list[bool], limit: int, seed: int) -> None:
    """True: a life that is stable before it crashes; False: it crashes at once. The limit counts only the latter."""

    async def main(world: World) -> None:
        policy = actors.Restart(max_restarts=limit, stable_after=10, on_exhausted="stop")
        ref = await world.system.start(actors.Spec(lambda: kit.Worker([]), "w", policy=policy))
        k, expected = 0, []
        for stable in lives:
            if stable:
                await trio.sleep(11)
            ref.tell(kit.Say(ValueError()))
            await trio.sleep(9)  # longer than any delay, shorter than stable_after
            k = 1 if stable else k + 1
            if k > limit:
                break
            expected.append(k)
        assert [event.k for event in world.log.of(events.RestartScheduled)] == expected
        assert bool(world.log.of(events.GaveUp)) == (k > limit)

    simulate(main, seed)
