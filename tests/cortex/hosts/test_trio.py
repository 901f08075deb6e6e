"""The host under trio: entered, the tree is the caller's own; not entered, it lives in the runtime thread."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio
import trio.lowlevel
import trio.testing

import cortex
from cortex.testing import FaultWall, Hang, Reply, ToolCalls
from cortex.testing.provider import FaultProvider

NewEngine = Callable[..., cortex.Engine]
colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")


class Boom(Exception):
    """What a body raises."""


async def test_entered_it_needs_no_thread_and_leaves_nothing(look: Any) -> None:
    async with FaultWall() as wall:
        wall.add("openai")
        await trio.testing.wait_all_tasks_blocked()  # the wall has settled
        threads = set(threading.enumerate())
        tasks, descriptors = trio.lowlevel.current_statistics().tasks_living, look.descriptors()
        engine = cortex.Engine(
            providers={"openai": {"api_key": "k", "base_url": wall["openai"].base_url}}, worker_model="gpt-4o"
        )
        async with engine:
            session = engine.create_agent(name="a").start_session()
            assert (await session.run("hi")).content == "Hello from openai."
            async for _ in session.run_stream("hi"):
                assert set(threading.enumerate()) == threads
            assert set(threading.enumerate()) == threads
            assert look.quiet(engine)
        await look.eventually_trio(lambda: look.descriptors() == descriptors)
        # The wall closes its ends of the sockets when it sees that ours are closed.
        await look.eventually_trio(lambda: trio.lowlevel.current_statistics().tasks_living == tasks)
        assert set(threading.enumerate()) == threads


@pytest.mark.parametrize(
    "thrown", [Boom("x"), ExceptionGroup("mine", [Boom("y")]), StopAsyncIteration(), SystemExit(3)]
)
async def test_what_the_body_raises_leaves_as_itself(new_engine: NewEngine, thrown: BaseException) -> None:
    tasks = trio.lowlevel.current_statistics().tasks_living

    async def body() -> None:
        async with new_engine() as engine:
            await engine.complete("hi")
            raise thrown

    with pytest.raises(type(thrown)) as caught:
        await body()
    assert caught.value is thrown
    assert trio.lowlevel.current_statistics().tasks_living == tasks


async def test_a_body_that_is_cancelled_leaves_nothing(new_engine: NewEngine, openai: FaultProvider, look: Any) -> None:
    tasks = trio.lowlevel.current_statistics().tasks_living
    openai.always(Hang())
    with trio.CancelScope() as scope:
        async with new_engine() as engine, trio.open_nursery() as nursery:
            nursery.start_soon(engine.complete, "hi")
            await openai.wait_for_async(1)
            scope.cancel()
    assert scope.cancelled_caught
    assert trio.lowlevel.current_statistics().tasks_living == tasks
    await look.eventually_trio(lambda: openai.requests[0].gone)


async def test_a_cancel_while_the_block_drains_still_takes_the_tree_down(
    new_engine: NewEngine, openai: FaultProvider, look: Any
) -> None:
    tasks = trio.lowlevel.current_statistics().tasks_living
    openai.always(Hang())
    caught: list[str] = []

    async def call(engine: cortex.Engine) -> None:
        try:
            await engine.complete("hi")
        except cortex.EngineClosed as error:
            caught.append(str(error))

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            async with new_engine(grace=30) as engine:
                nursery.start_soon(call, engine)
                await openai.wait_for_async(1)
                nursery.start_soon(_later, scope.cancel)
    assert scope.cancelled_caught
    assert len(caught) == 1
    assert trio.lowlevel.current_statistics().tasks_living == tasks
    await look.eventually_trio(lambda: openai.requests[0].gone)


async def _later(fn: Callable[[], object]) -> None:
    await trio.sleep(0.02)
    fn()


@pytest.mark.parametrize("entered", [True, False])
async def test_a_cancel_ends_the_work_and_closes_its_socket(
    new_engine: NewEngine, openai: FaultProvider, look: Any, entered: bool
) -> None:
    openai.script(Hang())
    engine = new_engine()
    session = engine.create_agent(name="a").start_session()
    async with _maybe(engine, entered):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.run, "hi")
            await openai.wait_for_async(1)
            nursery.cancel_scope.cancel()
        assert look.quiet(engine)  # at once: the cancel waited for the end of the work
        await look.eventually_trio(lambda: openai.requests[0].gone, 1.0)
        assert (await session.run("hi")).content == "Hello from openai."
        assert engine.health()["openai"].status == "up"


@pytest.mark.parametrize("entered", [True, False])
async def test_tools_run_where_the_caller_lives(new_engine: NewEngine, openai: FaultProvider, entered: bool) -> None:
    seen: dict[str, Any] = {}

    async def in_loop() -> str:
        """Async."""
        seen["token"] = trio.lowlevel.current_trio_token()
        await trio.lowlevel.checkpoint()
        return colour.get()

    def in_thread() -> str:
        """Sync."""
        seen["thread"] = threading.current_thread()
        return colour.get()

    openai.script(ToolCalls(("in_loop", {}), ("in_thread", {})), Reply("done"))
    engine = new_engine()
    session = engine.create_agent(name="a", tools=[in_loop, in_thread]).start_session()
    async with _maybe(engine, entered):
        colour.set("blue")
        response = await session.run("go")
    assert [result.content for result in response.tool_results] == ["blue", "blue"]
    assert seen["token"] is trio.lowlevel.current_trio_token()
    assert seen["thread"] is not threading.current_thread()
    assert seen["thread"].name != "cortex-runtime"


@pytest.mark.parametrize("entered", [True, False])
async def test_a_tool_is_cancelled_with_its_caller(new_engine: NewEngine, openai: FaultProvider, entered: bool) -> None:
    began, ended = trio.Event(), trio.Event()

    async def slow() -> str:
        """Slow."""
        began.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()
        raise AssertionError

    openai.script(ToolCalls(("slow", {})))
    engine = new_engine()
    session = engine.create_agent(name="a", tools=[slow]).start_session()
    async with _maybe(engine, entered), trio.open_nursery() as nursery:
        nursery.start_soon(session.run, "go")
        await began.wait()
        nursery.cancel_scope.cancel()
    assert ended.is_set()


@pytest.mark.parametrize("entered", [True, False])
async def test_a_session_is_busy_inside_its_own_turn(
    new_engine: NewEngine, openai: FaultProvider, entered: bool
) -> None:
    async def inner() -> str:
        """Async."""
        await session.run("again")
        return "never"

    def inner_sync() -> str:
        """Sync."""
        session.run_sync("again")
        return "never"

    openai.script(ToolCalls(("inner", {}), ("inner_sync", {})), Reply("done"))
    engine = new_engine()
    session = engine.create_agent(name="a", tools=[inner, inner_sync]).start_session()
    async with _maybe(engine, entered):
        response = await session.run("go")
    assert [result.content.split(":")[0] for result in response.tool_results] == ["SessionBusy", "SessionBusy"]


async def test_a_tool_that_exits_ends_itself_only(new_engine: NewEngine, openai: FaultProvider) -> None:
    async def leave() -> str:
        """Async."""
        raise SystemExit(3)

    def leave_sync() -> str:
        """Sync."""
        raise SystemExit(4)

    def leave_in_a_group() -> str:
        """As trio tells it."""
        raise BaseExceptionGroup("of a nursery", [SystemExit(5), ValueError()])

    async def leave_in_a_group_async() -> str:
        """The same."""
        raise BaseExceptionGroup("of a nursery", [SystemExit(6)])

    tools = [leave, leave_sync, leave_in_a_group, leave_in_a_group_async]
    openai.script(ToolCalls(*((tool.__name__, {}) for tool in tools)), Reply("done"))
    engine = new_engine()
    response = await engine.create_agent(name="a", tools=tools).start_session().run("go")
    group = "CortexError: it raised BaseExceptionGroup('of a nursery', [SystemExit"
    assert [result.content for result in response.tool_results] == [
        "CortexError: it raised SystemExit(3)",
        "CortexError: it raised SystemExit(4)",
        f"{group}(5), ValueError()])",
        f"{group}(6)])",
    ]
    assert (await engine.complete("still there?")).content == "Hello from openai."


async def test_an_entered_engine_serves_other_loops_and_threads(
    new_engine: NewEngine, openai: FaultProvider, look: Any
) -> None:
    async with new_engine() as engine:
        session = engine.create_agent(name="a").start_session()

        async def in_asyncio() -> str:
            chunks = [chunk.content async for chunk in session.run_stream("hi")]
            return "".join(chunks) + (await session.run("hi")).content

        assert (await trio.to_thread.run_sync(partial(session.run_sync, "hi"))).content == "Hello from openai."
        assert await trio.to_thread.run_sync(asyncio.run, in_asyncio()) == "Hello from openai." * 2
        assert not look.runtimes()
    with pytest.raises(cortex.EngineClosed):
        await trio.to_thread.run_sync(partial(session.run_sync, "hi"))


async def test_an_engine_in_use_elsewhere_stays_there_when_it_is_entered(new_engine: NewEngine, look: Any) -> None:
    engine = new_engine()
    await engine.complete("hi")
    async with engine:
        await engine.complete("hi")
        assert len(look.runtimes()) == 1
    with pytest.raises(cortex.EngineClosed):
        await engine.complete("hi")


async def test_it_is_entered_once(new_engine: NewEngine) -> None:
    engine = new_engine()
    async with engine:
        with pytest.raises(cortex.ConfigError, match="entered already"):
            async with engine:
                raise AssertionError
        await engine.complete("hi")


async def test_an_entry_that_fails_may_be_tried_again(new_engine: NewEngine) -> None:
    engine = new_engine()
    with trio.CancelScope() as scope:
        scope.cancel()
        async with engine:
            raise AssertionError
    assert scope.cancelled_caught
    async with engine:
        assert (await engine.complete("hi")).content == "Hello from openai."


@pytest.mark.parametrize("in_child", [True, False])
async def test_aclose_inside_the_block_leaves_the_block_whole(
    new_engine: NewEngine, openai: FaultProvider, in_child: bool
) -> None:
    tasks = trio.lowlevel.current_statistics().tasks_living
    async with new_engine() as engine:
        async with trio.open_nursery() as nursery:
            if in_child:
                nursery.start_soon(engine.aclose)
            else:
                await engine.aclose()
        with pytest.raises(cortex.EngineClosed):
            await engine.complete("hi")
        await engine.aclose()
    await engine.aclose()
    assert trio.lowlevel.current_statistics().tasks_living == tasks


async def test_aclose_inside_the_block_ends_what_outlasts_the_grace(
    new_engine: NewEngine, openai: FaultProvider, look: Any
) -> None:
    openai.always(Hang())
    told: list[cortex.EngineClosed] = []

    async def call() -> None:
        try:
            await engine.complete("hi")
        except cortex.EngineClosed as error:
            told.append(error)

    async with new_engine(grace=0.05) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await openai.wait_for_async(1)
        await engine.aclose()
        await look.eventually_trio(lambda: told and openai.requests[0].gone, 1.0)


async def test_closing_an_entered_engine_from_elsewhere_is_refused_and_does_nothing(new_engine: NewEngine) -> None:
    async with new_engine() as engine:
        for close in (engine.close, partial(trio.run, engine.aclose), lambda: asyncio.run(engine.aclose())):
            with pytest.raises(cortex.ConfigError, match="entered"):
                await trio.to_thread.run_sync(close)
        assert (await engine.complete("hi")).content == "Hello from openai."


async def test_close_would_block_the_loop(new_engine: NewEngine) -> None:
    engine = new_engine()
    await engine.complete("hi")
    with pytest.raises(cortex.ConfigError, match="await aclose"):
        engine.close()
    with pytest.raises(cortex.ConfigError, match="await complete"):
        engine.complete_sync("hi")
    await engine.aclose()


def _maybe(engine: cortex.Engine, entered: bool) -> Any:
    return engine if entered else _Not()


class _Not:
    async def __aenter__(self) -> None: ...
    async def __aexit__(self, *exc_info: object) -> None: ...


async def test_a_call_that_comes_while_the_block_is_being_entered_is_served(new_engine: Any) -> None:
    engine = new_engine()
    leave = trio.Event()

    async def live() -> None:
        async with engine:
            await leave.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(live)
        while engine.host._place is None:
            await trio.lowlevel.checkpoint()
        assert engine.host._place.home is None
        assert (await engine.complete("hi")).content == "Hello from openai."
        leave.set()
