"""The host under asyncio: one runtime thread for all, and nothing of asyncio's customs is broken."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import trio

import cortex
from cortex.testing import Delay, Hang, Reply, Status, ToolCalls
from cortex.testing.provider import FaultProvider

NewEngine = Callable[..., cortex.Engine]
colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")


def test_two_loops_one_after_another_use_one_engine(new_engine: NewEngine, look: Any) -> None:
    engine = new_engine()
    session = engine.create_agent(name="a").start_session()

    async def main() -> list[str]:
        first = await session.run("hi")
        return [first.content, "".join([chunk.content async for chunk in session.run_stream("hi")])]

    assert asyncio.run(main()) == ["Hello from openai."] * 2
    assert asyncio.run(main()) == ["Hello from openai."] * 2
    assert len(session.history) == 8
    assert len(look.runtimes()) == 1
    look.eventually(lambda: look.idle(engine))


def test_all_engines_share_one_thread(new_engine: NewEngine, look: Any) -> None:
    engines = [new_engine() for _ in range(5)]

    async def main() -> None:
        await asyncio.gather(*(engine.complete("hi") for engine in engines for _ in range(4)))

    asyncio.run(main())
    assert len(look.runtimes()) == 1


def test_async_with_closes_it(new_engine: NewEngine, look: Any) -> None:
    async def main() -> cortex.Engine:
        async with new_engine() as engine:
            await engine.complete("hi")
        assert not look.runtimes() or look.runtimes()[0].join(5) is None
        return engine

    engine = asyncio.run(main())
    with pytest.raises(cortex.EngineClosed):
        asyncio.run(engine.complete("hi"))


def test_leaving_by_an_exception_does_not_drain(new_engine: NewEngine, openai: FaultProvider) -> None:
    openai.always(Hang())
    began = time.monotonic()

    async def main() -> None:
        async with new_engine(grace=30) as engine:
            task = asyncio.create_task(engine.complete("hi"))
            await openai.wait_for_async(1)
            try:
                raise KeyError("mine")
            finally:
                tasks.append(task)

    async def outer() -> None:
        with pytest.raises(KeyError, match="mine"):
            await main()
        with pytest.raises(cortex.EngineClosed):
            await tasks[0]

    tasks: list[asyncio.Task[Any]] = []
    asyncio.run(outer())
    assert time.monotonic() - began < 5


def test_a_close_that_is_cancelled_drains_no_longer(new_engine: NewEngine, openai: FaultProvider, look: Any) -> None:
    openai.always(Hang())
    engine = new_engine(grace=30)

    async def main() -> None:
        task = asyncio.create_task(engine.complete("hi"))
        await openai.wait_for_async(1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await engine.aclose()
        assert engine.host._place.gone  # type: ignore[union-attr]  # at once
        with pytest.raises(cortex.EngineClosed):
            await task

    asyncio.run(main())
    look.eventually(lambda: openai.requests[0].gone, 1.0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_cancel_ends_the_work_and_waits_for_its_end(
    new_engine: NewEngine, openai: FaultProvider, look: Any, stream: bool
) -> None:
    openai.always(Hang(after=1 if stream else "request"))
    engine = new_engine()

    async def read() -> None:
        async with engine.stream("hi") as chunks:
            async for _ in chunks:
                pass

    async def main() -> None:
        task = asyncio.create_task(read() if stream else engine.complete("hi"))
        await openai.wait_for_async(1)
        if stream:
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert look.quiet(engine)  # at once
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
    look.eventually(lambda: openai.requests[0].gone, 1.0)


def test_a_timeout_of_asyncio_is_a_cancel(new_engine: NewEngine, openai: FaultProvider, look: Any) -> None:
    openai.always(Hang())
    engine = new_engine()

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await engine.complete("hi")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(engine.complete("hi"), 0.05)
        look.eventually(lambda: look.idle(engine))
        openai.always(Reply("fine"))
        assert (await engine.complete("hi")).content == "fine"

    asyncio.run(main())
    assert engine.health()["openai"].status == "up"


def stubborn(seconds: float) -> tuple[Callable[..., Any], threading.Event]:
    """An async tool that takes its time when it is cancelled, and the event that it runs."""
    running = threading.Event()

    async def tool() -> str:
        """Stubborn."""
        running.set()
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(seconds)
        return "never"

    return tool, running


def test_a_cancel_waits_at_most_the_grace(new_engine: NewEngine, openai: FaultProvider) -> None:
    tool, running = stubborn(2.0)
    openai.script(ToolCalls(("tool", {})))
    session = new_engine(grace=0.1).create_agent(name="a", tools=[tool]).start_session()

    async def main() -> float:
        task = asyncio.create_task(session.run("go"))
        await asyncio.to_thread(running.wait, 5)
        began = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - began

    assert 0.08 < asyncio.run(main()) < 1.0


class Blocking(httpx.AsyncBaseTransport):
    """A transport that blocks the engine's thread when it is cancelled."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.set()
        try:
            await trio.sleep_forever()
        finally:
            time.sleep(0.6)  # noqa: ASYNC251
        raise AssertionError


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_is_stuck_keeps_nobody_longer_than_the_grace(look: Any, stream: bool) -> None:
    transport = Blocking()
    engine = cortex.Engine(
        providers={"openai": {"api_key": "k"}}, worker_model="gpt-4o", transport=transport, policy={"grace": 0.1}
    )

    async def read() -> None:
        async with engine.stream("hi") as chunks:
            await anext(chunks)

    async def main() -> float:
        task = asyncio.create_task(read() if stream else engine.complete("hi"))
        await asyncio.to_thread(transport.asked.wait, 5)
        began = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - began

    assert 0.08 < asyncio.run(main()) < 0.5


def test_a_sync_tool_that_is_cancelled_is_not_waited_for(new_engine: NewEngine, openai: FaultProvider) -> None:
    running, release = threading.Event(), threading.Event()

    def block() -> str:
        """Blocks."""
        running.set()
        release.wait(5)
        return "late"

    openai.script(ToolCalls(("block", {})))
    session = new_engine(grace=30).create_agent(name="a", tools=[block]).start_session()

    async def main() -> float:
        task = asyncio.create_task(session.run("go"))
        await asyncio.to_thread(running.wait, 5)
        began = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - began

    assert asyncio.run(main()) < 1.0
    release.set()


def test_a_second_cancel_is_obeyed_at_once_and_leaves_no_task(new_engine: NewEngine, openai: FaultProvider) -> None:
    tool, running = stubborn(0.3)
    openai.script(ToolCalls(("tool", {})))
    session = new_engine(grace=30).create_agent(name="a", tools=[tool]).start_session()

    async def main() -> None:
        task = asyncio.create_task(session.run("go"))
        await asyncio.to_thread(running.wait, 5)
        others = asyncio.all_tasks() - {task}  # the tool's own task and this one
        task.cancel()
        await asyncio.sleep(0.02)
        assert not task.done()
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert task.cancelled()
        assert asyncio.all_tasks() == others

    asyncio.run(main())


def test_tools_run_in_the_loop_that_called(new_engine: NewEngine, openai: FaultProvider) -> None:
    seen: dict[str, Any] = {}

    async def in_loop() -> str:
        """Async."""
        seen["loop"] = asyncio.get_running_loop()
        await asyncio.sleep(0)
        return colour.get()

    def in_thread() -> str:
        """Sync."""
        seen["thread"] = threading.current_thread()
        return colour.get()

    openai.script(ToolCalls(("in_loop", {}), ("in_thread", {})), Reply("done"))
    session = new_engine().create_agent(name="a", tools=[in_loop, in_thread]).start_session()

    async def main() -> list[str]:
        colour.set("blue")
        response = await session.run("go")
        assert seen["loop"] is asyncio.get_running_loop()
        return [result.content for result in response.tool_results]

    assert asyncio.run(main()) == ["blue", "blue"]
    assert seen["thread"] is not threading.main_thread()
    assert seen["thread"].name != "cortex-runtime"


def test_what_a_tool_raises_is_told_and_the_loop_lives(new_engine: NewEngine, openai: FaultProvider) -> None:
    async def broken() -> str:
        """Raises."""
        raise KeyError("nothing there")

    async def cancelled() -> str:
        """Cancels itself."""
        raise asyncio.CancelledError

    openai.script(ToolCalls(("broken", {}), ("cancelled", {})), Reply("done"))
    session = new_engine().create_agent(name="a", tools=[broken, cancelled]).start_session()
    response = asyncio.run(session.run("go"))
    assert [result.content for result in response.tool_results] == [
        "KeyError: 'nothing there'",
        "CortexError: its asyncio task was cancelled",
    ]


def test_a_tool_is_cancelled_with_its_caller(new_engine: NewEngine, openai: FaultProvider) -> None:
    running, ended = threading.Event(), threading.Event()

    async def slow() -> str:
        """Slow."""
        running.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return "never"

    openai.script(ToolCalls(("slow", {})))
    session = new_engine().create_agent(name="a", tools=[slow]).start_session()

    async def main() -> None:
        task = asyncio.create_task(session.run("go"))
        await asyncio.to_thread(running.wait, 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()  # the cancel waited for it

    asyncio.run(main())


def test_a_session_is_busy_inside_its_own_turn(new_engine: NewEngine, openai: FaultProvider) -> None:
    async def inner() -> str:
        """Async."""
        await session.run("again")
        return "never"

    async def inner_stream() -> str:
        """Async."""
        return "".join([chunk.content async for chunk in session.run_stream("again")])

    def inner_sync() -> str:
        """Sync."""
        session.run_sync("again")
        return "never"

    openai.script(ToolCalls(("inner", {}), ("inner_sync", {}), ("inner_stream", {})), Reply("done"))
    session = new_engine().create_agent(name="a", tools=[inner, inner_sync, inner_stream]).start_session()
    response = asyncio.run(session.run("go"))
    assert [result.content.split(":")[0] for result in response.tool_results] == ["SessionBusy"] * 3


def test_errors_arrive_as_raised_with_their_traceback(new_engine: NewEngine, openai: FaultProvider) -> None:
    openai.always(Status(400, message="no such thing"))
    session = new_engine().create_agent(name="a").start_session()
    with pytest.raises(cortex.RequestRejected, match="no such thing") as caught:
        asyncio.run(session.run("go"))
    places = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert "_served" in places  # where it was raised, in the other thread
    assert places.index("main" if "main" in places else "run") < places.index("_served")


def test_a_reply_to_a_closed_loop_is_dropped_with_a_line(
    new_engine: NewEngine, openai: FaultProvider, look: Any, caplog: pytest.LogCaptureFixture
) -> None:
    openai.always(Delay(0.1, Reply("late")))
    engine = new_engine()
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # asyncio itself complains of the task we leave
    with caplog.at_level(logging.DEBUG, "cortex"):
        task = loop.create_task(engine.complete("hi"))
        loop.run_until_complete(openai.wait_for_async(1))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        look.eventually(lambda: "asyncio loop was closed; dropped" in caplog.text)
    look.eventually(lambda: look.idle(engine))
    del task
    gc.collect()  # the coroutine is closed where it waits: it must not await anything more


def test_run_sync_in_a_loop_says_what_to_do(new_engine: NewEngine) -> None:
    engine = new_engine()
    session = engine.create_agent(name="a").start_session()

    async def main() -> None:
        with pytest.raises(cortex.ConfigError, match="run_sync would block the running asyncio loop: await run"):
            session.run_sync("hi")
        with pytest.raises(cortex.ConfigError, match=r"run_stream_sync .* await run_stream"):
            next(session.run_stream_sync("hi"))
        with pytest.raises(cortex.ConfigError, match="await aclose"):
            engine.close()
        assert (await session.run("hi")).content == "Hello from openai."

    asyncio.run(main())


def test_nothing_can_be_awaited_without_a_loop(new_engine: NewEngine) -> None:
    with pytest.raises(cortex.ConfigError, match="running trio or asyncio loop"):
        new_engine().complete("hi").send(None)


@pytest.mark.parametrize("count", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_calls_at_once_all_succeed(new_engine: NewEngine, openai: FaultProvider, look: Any, count: int) -> None:
    openai.always(lambda seen: Delay(0.05, Reply(f"to {seen.text}")))
    engine = new_engine()
    agent = engine.create_agent(name="a")

    async def main() -> list[str]:
        runs = (agent.start_session().run(f"number {n}") for n in range(count))
        return [response.content for response in await asyncio.gather(*runs)]

    assert asyncio.run(main()) == [f"to number {n}" for n in range(count)]
    look.eventually(lambda: look.idle(engine))
