"""Back-pressure: so many calls inside, so many more in order before the door, then QueueFull. In virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

import cortex
from cortex.errors import DeadlineExceeded, EngineClosed, QueueFull, SessionBusy
from cortex.gate import Gate, Line, Ticket
from cortex.policy import Policy
from cortex.testing import Delay, FaultWall, Hang, Reply, ToolCalls

Make = Callable[..., cortex.Engine]


@asynccontextmanager
async def passing(gate: Gate, line: Line | None, seconds: float = 60) -> AsyncIterator[None]:
    """Arrive, and go in."""
    async with gate.pass_through(gate.arrive(line), trio.current_time() + seconds):
        yield


def slow_wall(wall: FaultWall, seconds: float = 1.0) -> None:
    wall["openai"].always(lambda seen: Delay(seconds, Reply(f"to {seen.text}")))


async def test_beyond_the_limit_they_wait_in_order(
    autojump_clock: object, make_engine: Make, memory_wall: FaultWall, look: Any
) -> None:
    slow_wall(memory_wall)
    order: list[int] = []

    async def call(n: int) -> None:
        await engine.complete(f"{n}")
        order.append(n)

    async with make_engine("openai", policy={"max_in_flight": 2}) as engine:
        async with trio.open_nursery() as nursery:
            for n in range(6):
                nursery.start_soon(call, n)
                await trio.sleep(0.1)
            gate = look.gate(engine)
            assert (gate.inside, gate.waiting, len(memory_wall["openai"].requests)) == (2, 4, 2)
        assert [seen.text for seen in memory_wall["openai"].requests] == list("012345")
        assert order == list(range(6))
        assert trio.current_time() == pytest.approx(3.0, abs=0.5)
        assert look.quiet(engine)


async def test_then_the_queue_is_full(
    autojump_clock: object, make_engine: Make, memory_wall: FaultWall, look: Any
) -> None:
    slow_wall(memory_wall)
    async with make_engine("openai", policy={"max_in_flight": 1, "max_queue": 1}) as engine:
        async with trio.open_nursery() as nursery:
            for n in range(2):
                nursery.start_soon(engine.complete, f"{n}")
                await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(QueueFull, match="1 calls are running and 1 are waiting"):
                await engine.complete("one too many")
        assert (await engine.complete("later")).content == "to later"
        assert look.quiet(engine)


async def test_no_queue_at_all(autojump_clock: object, make_engine: Make, memory_wall: FaultWall) -> None:
    slow_wall(memory_wall)
    async with make_engine("openai", policy={"max_in_flight": 1, "max_queue": 0}) as engine:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.complete, "one")
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(QueueFull):
                await engine.complete("two")
        await engine.complete("three")


async def test_a_waiter_that_leaves_leaves_no_trace(
    autojump_clock: object, make_engine: Make, memory_wall: FaultWall, look: Any
) -> None:
    slow_wall(memory_wall)
    async with make_engine("openai", policy={"max_in_flight": 1}) as engine:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.complete, "one")
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(0.5) as scope:
                await engine.complete("two")
            assert scope.cancelled_caught
            assert look.gate(engine).waiting == 0
            nursery.start_soon(engine.complete, "three")
        assert [seen.text for seen in memory_wall["openai"].requests] == ["one", "three"]
        assert look.quiet(engine)


@pytest.mark.parametrize("given", [{"call": 0.5}, {"policy": 0.5}])
async def test_a_waiters_deadline_runs(
    autojump_clock: object, make_engine: Make, memory_wall: FaultWall, look: Any, given: dict[str, float]
) -> None:
    slow_wall(memory_wall, 5.0)
    policy = {"max_in_flight": 1, "queue_timeout": given.get("policy")}
    async with make_engine("openai", policy=policy) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(engine.complete, "one")
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        with pytest.raises(DeadlineExceeded, match="waited for its turn"):
            await engine.complete("two", timeout=given.get("call"))
        assert trio.current_time() - began == pytest.approx(0.5)
        assert look.gate(engine).waiting == 0
        assert len(memory_wall["openai"].requests) == 1


async def test_a_waiter_for_its_session_holds_no_place(
    autojump_clock: object, make_engine: Make, memory_wall: FaultWall, look: Any
) -> None:
    slow_wall(memory_wall)
    async with make_engine("openai", policy={"max_in_flight": 2}) as engine, trio.open_nursery() as nursery:
        session = engine.create_agent(name="a").start_session()
        nursery.start_soon(session.run, "first")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(session.run, "second")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(engine.complete, "other")
        await trio.testing.wait_all_tasks_blocked()
        assert [seen.text for seen in memory_wall["openai"].requests] == ["first", "other"]


async def test_a_drain_lets_the_waiting_end_too(
    autojump_clock: object, make_engine: Make, memory_wall: FaultWall
) -> None:
    slow_wall(memory_wall)
    async with trio.open_nursery() as nursery:
        async with make_engine("openai", policy={"max_in_flight": 1}) as engine:
            for n in range(3):
                nursery.start_soon(engine.complete, f"{n}")
                await trio.testing.wait_all_tasks_blocked()
        assert len(memory_wall["openai"].requests) == 3
        assert trio.current_time() == pytest.approx(3.0, abs=0.5)


async def test_what_outlasts_the_grace_is_told_so_and_the_waiting_too(
    autojump_clock: object, make_engine: Make, memory_wall: FaultWall
) -> None:
    memory_wall["openai"].always(Hang())
    told: list[type] = []

    async def call() -> None:
        try:
            await engine.complete("hi")
        except EngineClosed as error:
            told.append(type(error))

    async with trio.open_nursery() as nursery:
        async with make_engine("openai", policy={"max_in_flight": 1, "grace": 2.0}) as engine:
            for _ in range(3):
                nursery.start_soon(call)
                await trio.testing.wait_all_tasks_blocked()
        assert trio.current_time() == pytest.approx(2.0, abs=0.5)
    assert told == [EngineClosed] * 3
    assert len(memory_wall["openai"].requests) == 1


async def test_a_drain_waits_for_the_waiting_until_they_leave(autojump_clock: object) -> None:
    gate = Gate(Policy(max_in_flight=1))
    line = Line(holder=Ticket(None, None))  # somebody who is not inside holds the session: only the waiter is left
    drained = trio.Event()

    async def wait(scope: trio.CancelScope) -> None:
        with scope:
            async with passing(gate, line):
                raise AssertionError

    async def drain() -> None:
        await gate.drained()
        drained.set()

    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()
        nursery.start_soon(wait, scope)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(drain)
        await trio.testing.wait_all_tasks_blocked()
        assert not drained.is_set()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert drained.is_set()


async def test_many_may_wait_until_it_is_drained(autojump_clock: object) -> None:
    gate = Gate(Policy())

    async def call() -> None:
        async with passing(gate, None):
            await trio.sleep(3)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(3):
            nursery.start_soon(gate.drained)
            await trio.sleep(1)
    assert trio.current_time() == 3


async def test_who_leaves_while_waiting_for_a_place_leaves_the_session_too(autojump_clock: object) -> None:
    gate = Gate(Policy(max_in_flight=1))
    line = Line()

    async def occupy() -> None:
        async with passing(gate, None):
            await trio.sleep(60)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(occupy)
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(1):
            async with passing(gate, line):
                raise AssertionError
        assert line.holder is None
        with pytest.raises(DeadlineExceeded):
            async with passing(gate, line, 1):
                raise AssertionError
        assert line.holder is None
        nursery.cancel_scope.cancel()


async def test_calls_inside_a_call_share_its_place_and_never_wait_for_it(autojump_clock: object) -> None:
    gate = Gate(Policy(max_in_flight=1, max_queue=0))
    inside: list[int] = []

    async def call(depth: int) -> None:
        async with passing(gate, None):
            if depth:
                async with trio.open_nursery() as nursery:
                    for _ in range(3):
                        nursery.start_soon(call, depth - 1)
            else:
                inside.append(gate.inside)
                await trio.sleep(1)

    await call(2)
    assert trio.current_time() == 9  # the nine innermost one after the other
    assert inside == [3] * 9
    assert gate._free == 1


async def test_a_drain_lets_calls_inside_a_call_in(autojump_clock: object) -> None:
    gate = Gate(Policy())

    async def call() -> None:
        async with passing(gate, None):
            await trio.sleep(1)
            async with passing(gate, None):
                await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        await gate.drained()
    assert trio.current_time() == 2


@pytest.mark.parametrize("nested", ["complete", "session"])
async def test_a_tool_that_asks_the_engine_needs_no_place_of_its_own(
    nested: str, autojump_clock: object, make_engine: Make, memory_wall: FaultWall
) -> None:
    memory_wall["openai"].script(ToolCalls(("look", {"what": "x"})), Reply("inner"), Reply("done"))
    async with make_engine("openai", policy={"max_in_flight": 1}) as engine:

        async def look(what: str) -> str:
            """Look."""
            if nested == "complete":
                return (await engine.complete(what)).content
            return (await engine.create_agent("b").start_session().run(what, system=1)).content

        answer = await engine.create_agent("a", tools=[look]).start_session().run("hi", system=1)
    assert (answer.content, [one.content for one in answer.tool_results]) == ("done", ["inner"])
    assert trio.current_time() < 1


def test_a_sync_tool_in_a_thread_needs_none_either(memory_wall: FaultWall) -> None:
    memory_wall["openai"].script(ToolCalls(("look", {"what": "x"})), Reply("inner"), Reply("done"))
    engine = cortex.Engine(
        {"openai": {"api_key": "key-of-openai", "base_url": memory_wall["openai"].base_url}},
        policy={"max_in_flight": 1},
        transport=memory_wall.transport(),
    )

    def look(what: str) -> str:
        """Look."""
        return engine.complete_sync(what, timeout=5).content

    with engine:
        answer = engine.create_agent("a", tools=[look]).start_session().run_sync("hi", system=1)
    assert [one.content for one in answer.tool_results] == ["inner"]


async def test_a_task_that_outlives_its_tool_queues_like_anybody(
    autojump_clock: object, make_engine: Make, memory_wall: FaultWall
) -> None:
    memory_wall["openai"].script(ToolCalls(("later", {})), Reply("done"), Reply("and more"))
    told: list[str] = []
    async with make_engine("openai") as engine, trio.open_nursery() as nursery:

        async def follow_up() -> None:
            with pytest.raises(SessionBusy):  # the turn is still under way
                await session.run("too early", system=1)
            await trio.sleep(5)
            told.append((await session.run("follow-up", system=1)).content)

        async def later() -> str:
            """Begin something."""
            nursery.start_soon(follow_up)
            await trio.sleep(1)
            return "scheduled"

        session = engine.create_agent("a", tools=[later]).start_session()
        await session.run("hi", system=1)
    assert told == ["and more"]


async def test_nothing_begins_in_a_tree_that_closes(make_engine: Make, look: Any) -> None:
    async with make_engine("openai") as engine:
        look.gate(engine).closing = True
        with pytest.raises(EngineClosed):
            await trio.to_thread.run_sync(asyncio.run, engine.set_enabled("openai", False))


async def test_a_task_that_outlives_its_call_keeps_the_lent_slot(autojump_clock: object) -> None:
    gate = Gate(Policy(max_in_flight=1))
    told: list[str] = []

    async def outliving() -> None:
        async with passing(gate, None):
            await trio.sleep(5)
            assert gate.inside == 1
        told.append("outliving")

    async def sibling() -> None:
        async with passing(gate, None):
            told.append("sibling")

    async def later() -> None:
        await trio.sleep(1)
        async with passing(gate, None):
            told.append("later")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(later)
        async with passing(gate, None):
            nursery.start_soon(outliving)
            await trio.sleep(0.1)
            nursery.start_soon(sibling)
            await trio.sleep(2)
    assert told == ["outliving", "later", "sibling"]  # who waited for the lent slot waits like anybody, behind them
    assert trio.current_time() == 5
    assert gate._free == 1


def test_many_at_once_from_asyncio_are_served_in_the_order_of_their_calls(memory_wall: FaultWall) -> None:
    """Tasks that trio begins together start in any order; calls do not."""

    async def main() -> None:
        async with plain_engine(memory_wall, max_in_flight=1) as engine:
            for _ in range(5):
                session = engine.create_agent("a").start_session()
                await asyncio.gather(*(session.run(f"{n}", system=1) for n in range(6)))
                assert [one.text for one in session.history if one.role == "user"] == list("012345")
                before = len(memory_wall["openai"].requests)
                await asyncio.gather(*(engine.complete(f"{n}") for n in range(6)))
                assert [seen.text for seen in memory_wall["openai"].requests[before:]] == list("012345")

    asyncio.run(main())


def test_the_last_to_come_is_the_one_that_is_turned_away(memory_wall: FaultWall) -> None:
    slow_wall(memory_wall, 0.01)

    async def main() -> None:
        async with plain_engine(memory_wall, max_in_flight=1, max_queue=1) as engine:
            for _ in range(5):
                results = await asyncio.gather(*(engine.complete(f"{n}") for n in range(3)), return_exceptions=True)
                assert [isinstance(one, QueueFull) for one in results] == [False, False, True]

    asyncio.run(main())


def test_streams_and_runs_stand_in_one_line(memory_wall: FaultWall) -> None:
    async def main() -> None:
        async with plain_engine(memory_wall) as engine:
            for _ in range(5):
                session = engine.create_agent("a").start_session()

                async def read(text: str, session: cortex.Session = session) -> None:
                    async for _ in session.run_stream(text, system=1):
                        pass

                await asyncio.gather(read("0"), session.run("1", system=1), read("2"), session.run("3", system=1))
                assert [one.text for one in session.history if one.role == "user"] == list("0123")

    asyncio.run(main())


def plain_engine(wall: FaultWall, **policy: Any) -> cortex.Engine:
    """In a loop that is not trio's: it lives in the runtime thread, in real time."""
    return cortex.Engine(
        {"openai": {"api_key": "key-of-openai", "base_url": wall["openai"].base_url}},
        worker_model="gpt-4o-mini",
        policy=policy,
        transport=wall.transport(),
    )


Stay = tuple[float, float, float | None, int, int]
"""When it comes, how long it stays, when it is cancelled, its session (0: none), and how many calls it makes inside."""


@given(
    st.random_module(),
    st.integers(1, 3),
    st.integers(0, 4),
    st.lists(
        st.tuples(
            st.floats(0, 2),
            st.floats(0.1, 2),
            st.sampled_from([None, 0.3, 1.0]),
            st.integers(0, 3),
            st.integers(0, 2),
        ),
        max_size=12,
    ),
)
def test_whatever_comes_and_goes_the_counts_hold(chance: Any, places: int, queue: int, calls: list[Stay]) -> None:
    async def main() -> None:
        gate = Gate(Policy(max_in_flight=places, max_queue=queue))
        lines = {n: Line() for n in range(1, 4)}
        inside: list[int] = []
        arrived: dict[int, list[int]] = {n: [] for n in lines}
        served: dict[int, list[int]] = {n: [] for n in lines}

        async def call(number: int, at: float, stay: float, patience: float | None, session: int, inner: int) -> None:
            await trio.sleep(at)
            with trio.move_on_after(patience if patience is not None else 100):
                try:
                    ticket = gate.arrive(lines.get(session))
                except QueueFull:
                    assert gate.waiting >= queue  # more: calls inside a call are never turned away
                    return
                if session:
                    arrived[session].append(number)
                with suppress(DeadlineExceeded):
                    async with gate.pass_through(ticket, trio.current_time() + 3):
                        await stand(number, stay, session, inner)

        async def stand(number: int, stay: float, session: int, inner: int) -> None:
            assert not session or session not in inside
            if session:
                served[session].append(number)
            inside.append(session)
            assert len(inside) <= places
            try:
                async with trio.open_nursery() as nursery:
                    for _ in range(inner):
                        nursery.start_soon(nested, stay / 4)
                    await trio.sleep(stay)
            finally:
                inside.remove(session)

        async def nested(stay: float) -> None:
            with suppress(DeadlineExceeded):
                async with passing(gate, None, 3):
                    await trio.sleep(stay)

        async with trio.open_nursery() as nursery:
            for number, one in enumerate(calls):
                nursery.start_soon(call, number, *one)
        assert (gate.inside, gate.waiting, gate._free) == (0, 0, places)
        assert all(line.holder is None and not line.waiting for line in lines.values())
        for n in lines:
            assert served[n] == [number for number in arrived[n] if number in served[n]]
        await gate.drained()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
