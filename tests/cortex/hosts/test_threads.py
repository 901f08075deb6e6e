"""The host for plain threads, and the life of the one runtime thread."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attrs
import pytest
import trio

import cortex
from cortex.testing import Delay, FaultWall, Hang, Reply, Status, ToolCalls
from cortex.testing.provider import FaultProvider

NewEngine = Callable[..., cortex.Engine]
colour: contextvars.ContextVar[Any] = contextvars.ContextVar("colour", default="none")


def test_fifty_threads_at_once(new_engine: NewEngine, openai: FaultProvider, look: Any) -> None:
    openai.always(lambda seen: Delay(0.02, Reply(f"to {seen.text}")))
    engine = new_engine()
    agent = engine.create_agent(name="a")
    start = threading.Barrier(50)

    def one(n: int) -> str:
        start.wait()
        return agent.start_session().run_sync(f"number {n}").content

    with ThreadPoolExecutor(50) as pool:
        assert list(pool.map(one, range(50))) == [f"to number {n}" for n in range(50)]
    assert len(look.runtimes()) == 1
    look.eventually(lambda: look.idle(engine))


def test_one_session_from_many_threads_runs_turn_by_turn(new_engine: NewEngine, openai: FaultProvider) -> None:
    openai.always(lambda seen: Reply(f"to {seen.text}"))
    session = new_engine().create_agent(name="a").start_session()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: session.run_sync(f"number {n}"), range(16)))
    texts = [message.text for message in session.history]
    assert sorted(texts[::2]) == sorted(f"number {n}" for n in range(16))
    assert texts[1::2] == [f"to {text}" for text in texts[::2]]


def test_async_tools_share_a_loop_that_ends_with_the_call(
    new_engine: NewEngine, openai: FaultProvider, look: Any
) -> None:
    loops: list[asyncio.AbstractEventLoop] = []
    lines: list[str] = []

    async def in_loop() -> str:
        """Async."""
        loops.append(asyncio.get_running_loop())
        background.append(asyncio.create_task(asyncio.sleep(60)))
        return f"{colour.get()} in {threading.current_thread().name}"

    def in_thread() -> str:
        """Sync."""
        lines.append(threading.current_thread().name)
        return str(colour.get())

    background: list[asyncio.Task[None]] = []
    openai.script(ToolCalls(("in_loop", {}), ("in_thread", {})), ToolCalls(("in_loop", {})), Reply("done"))
    session = new_engine().create_agent(name="a", tools=[in_loop, in_thread]).start_session()
    token = colour.set("blue")
    response = session.run_sync("go")
    colour.reset(token)
    told = [result.content for result in response.tool_results]
    assert told == ["blue in cortex-tool-loop", "blue", "blue in cortex-tool-loop"]
    assert lines[0] not in ("cortex-runtime", "MainThread")
    assert loops[0] is loops[1]
    look.eventually(lambda: loops[0].is_closed() and "cortex-tool-loop" not in map(_name, threading.enumerate()))
    assert all(task.cancelled() for task in background)  # as `asyncio.run` does


def _name(thread: threading.Thread) -> str:
    return thread.name


def test_a_session_is_busy_inside_its_own_turn(new_engine: NewEngine, openai: FaultProvider) -> None:
    async def inner() -> str:
        """Async."""
        await session.run("again")
        return "never"

    def inner_sync() -> str:
        """Sync."""
        session.run_sync("again")
        return "never"

    openai.script(ToolCalls(("inner", {}), ("inner_sync", {})), Reply("done"))
    session = new_engine().create_agent(name="a", tools=[inner, inner_sync]).start_session()
    response = session.run_sync("go")
    assert [result.content.split(":")[0] for result in response.tool_results] == ["SessionBusy", "SessionBusy"]


def test_another_session_may_run_inside_a_turn(new_engine: NewEngine, openai: FaultProvider) -> None:
    async def ask() -> str:
        """Async."""
        return (await agent.start_session().run("inner")).content

    def ask_sync() -> str:
        """Sync."""
        return agent.start_session().run_sync("inner").content

    def answer(seen: Any) -> Reply:
        if seen.text == "go" and seen.body["messages"][-1]["role"] == "user":
            return ToolCalls(("ask", {}), ("ask_sync", {}))
        return Reply(f"to {seen.text}")

    openai.always(answer)
    agent = new_engine().create_agent(name="a", tools=[ask, ask_sync])
    response = agent.start_session().run_sync("go")
    assert [result.content for result in response.tool_results] == ["to inner", "to inner"]


# ------------------------------------------------------------------------------------------------------------- life


def test_the_last_engine_ends_the_thread_and_a_later_one_starts_another(new_engine: NewEngine, look: Any) -> None:
    first, second = new_engine(), new_engine()
    first.complete_sync("hi")
    second.complete_sync("hi")
    (thread,) = look.runtimes()
    first.close()
    assert look.runtimes() == [thread]
    assert second.complete_sync("hi").content == "Hello from openai."
    second.close()
    thread.join(5)
    assert look.runtimes() == []
    third = new_engine()
    assert third.complete_sync("hi").content == "Hello from openai."
    assert look.runtimes() != [thread]


def test_an_engine_that_is_dropped_stops_at_once(new_engine: NewEngine, look: Any) -> None:
    gc.collect()
    gc.disable()  # references alone must do
    try:
        engine = new_engine()
        session = engine.create_agent(name="a").start_session()
        assert session.run_sync("hi").content == "Hello from openai."
        assert [chunk.kind for chunk in session.run_stream_sync("hi")][-1] == "final"
        (thread,) = look.runtimes()
        del engine, session
        thread.join(2)
        assert not thread.is_alive()
    finally:
        gc.enable()


@pytest.mark.parametrize("made", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_engines_made_and_dropped_leave_one_thread_or_none(new_engine: NewEngine, look: Any, made: int) -> None:
    threads, descriptors = threading.active_count(), look.descriptors()
    for n in range(made):
        engine = new_engine()
        if n % 20 == 0:
            assert engine.complete_sync("hi").content == "Hello from openai."
        assert len(look.runtimes()) <= 2  # one may be ending while the next begins
    del engine
    look.eventually(lambda: not look.runtimes())
    look.eventually(lambda: (threading.active_count(), look.descriptors()) <= (threads, descriptors))


def test_close_lets_running_calls_end(new_engine: NewEngine, openai: FaultProvider, look: Any) -> None:
    openai.always(Delay(0.1, Reply("whole")))
    engine = new_engine()
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(engine.complete_sync, "hi")
        openai.wait_for(1)
        engine.close()
        assert running.result(0.5).content == "whole"
        with pytest.raises(cortex.EngineClosed):
            engine.complete_sync("hi")
    engine.close()
    asyncio.run(engine.aclose())


def test_close_cancels_what_outlasts_the_grace(new_engine: NewEngine, openai: FaultProvider, look: Any) -> None:
    openai.always(Hang())
    engine = new_engine(grace=0.05)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(engine.complete_sync, "hi")
        openai.wait_for(1)
        began = time.monotonic()
        engine.close()
        assert 0.04 < time.monotonic() - began < 1.0
        with pytest.raises(cortex.EngineClosed, match="while this call was under way"):
            running.result(1)
    look.eventually(lambda: openai.requests[0].gone, 1.0)


def test_closing_from_many_threads_at_once(new_engine: NewEngine) -> None:
    engine = new_engine()
    engine.complete_sync("hi")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: engine.close(), range(8)))


def test_an_engine_never_used_closes_without_a_thread(new_engine: NewEngine, look: Any) -> None:
    with new_engine() as engine:
        pass
    assert not look.runtimes()
    with pytest.raises(cortex.EngineClosed):
        engine.complete_sync("hi")


def test_a_tree_that_fails_says_so_and_spares_the_others(
    new_engine: NewEngine, look: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    well, broken = new_engine(), new_engine()
    well.complete_sync("hi")

    def fail() -> Any:
        raise OSError("no more of anything")

    with monkeypatch.context() as patch:
        patch.setattr(broken.host, "_open_home", fail)
        for _ in range(2):
            with pytest.raises(cortex.EngineFailed, match="no more of anything"):
                broken.complete_sync("hi")
    assert "the engine's tree has failed" in caplog.text
    assert broken.complete_sync("hi").content == "Hello from openai."  # no restart of the service is needed
    assert well.complete_sync("hi").content == "Hello from openai."
    broken.close()


def test_a_thread_that_cannot_begin_is_told_and_tried_again(
    new_engine: NewEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: object) -> None:
        raise OSError("too many open files")

    engine = new_engine()
    with monkeypatch.context() as patch:
        patch.setattr(trio, "run", fail)
        with pytest.raises(cortex.EngineFailed, match="could not be started"):
            engine.complete_sync("hi")
    assert "too many open files" in caplog.text
    assert engine.complete_sync("hi").content == "Hello from openai."


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_thread_that_cannot_be_had_is_told_and_tried_again(
    new_engine: NewEngine, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], look: Any
) -> None:
    """A limit of processes, say. Ctrl-C comes when the thread has begun already."""
    start, engine, other = threading.Thread.start, new_engine(), new_engine()

    def fail(thread: threading.Thread) -> None:
        if error is KeyboardInterrupt:
            start(thread)
        raise error("can't start new thread")

    before = set(look.runtimes())
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        for one in (engine, other):
            with pytest.raises((cortex.EngineFailed, KeyboardInterrupt), match="can't start new thread"):
                one.complete_sync("hi")
    look.eventually(lambda: set(look.runtimes()) <= before)
    for one in (engine, other):
        assert one.complete_sync("hi", timeout=5).content == "Hello from openai."


class Odd(BaseException):
    """Neither an error nor the end of a program."""


@attrs.define
class Strange:
    n: int

    def __attrs_post_init__(self) -> None:
        raise to_raise.get()


to_raise: contextvars.ContextVar[BaseException] = contextvars.ContextVar("to_raise")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Odd("strange"),
        lambda: SystemExit("strange"),
        lambda: KeyboardInterrupt("strange"),
        lambda: GeneratorExit("strange"),
        lambda: BaseExceptionGroup("strange", [ValueError("a"), asyncio.CancelledError()]),
    ],
    ids=["odd", "exit", "interrupt", "generator", "group"],
)
def test_whatever_a_types_own_check_raises_ends_its_call_alone(
    make: Callable[[], BaseException], new_engine: NewEngine, openai: FaultProvider
) -> None:
    engine, token = new_engine(), to_raise.set(make())
    openai.always(lambda seen: Delay(0.3, Reply("slow")) if seen.text == "slow" else Reply('{"n": 1}'))
    with ThreadPoolExecutor() as pool:
        other = pool.submit(engine.complete_sync, "slow")
        openai.wait_for(1)
        with pytest.raises(cortex.CortexError, match="strange") as caught:
            engine.complete_sync("hi", output_type=Strange)
        assert type(caught.value.__cause__) is type(make())
        assert other.result().content == "slow"
    assert engine.complete_sync("hi").content == '{"n": 1}'
    to_raise.reset(token)


def test_the_runtime_thread_has_a_stack_whatever_threads_have(new_engine: NewEngine, openai: FaultProvider) -> None:
    sizes: list[int] = []
    start = threading.Thread.start
    threading.stack_size(128 * 1024)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(threading.Thread, "start", lambda one: sizes.append(threading.stack_size()) or start(one))
            assert new_engine().complete_sync("hi").content == "Hello from openai."
        assert threading.stack_size() == 128 * 1024
    finally:
        threading.stack_size(0)
    assert sizes[0] >= 1024 * 1024


@pytest.mark.parametrize("run", [asyncio.run, trio.run])
def test_a_plain_with_is_refused_in_a_loop(run: Any, new_engine: NewEngine) -> None:
    async def main() -> None:
        with pytest.raises(cortex.ConfigError, match="write `async with`"), new_engine():
            raise AssertionError("it was entered")

    run(main) if run is trio.run else run(main())


# --------------------------------------------------------------------------------------------------------- references


class Big:
    """Something a leak would keep."""


def test_nothing_big_is_kept_after_a_call(new_engine: NewEngine, openai: FaultProvider, look: Any) -> None:
    engine = new_engine()
    gc.collect()
    gc.disable()
    try:
        refs: list[weakref.ref[Any]] = []

        def call() -> None:
            big = Big()
            token = colour.set(big)
            refs.append(weakref.ref(big))
            refs.append(weakref.ref(engine.complete_sync("hi")))
            stream = engine.stream_sync("hi")
            list(stream)
            refs.append(weakref.ref(stream))
            colour.reset(token)

        contextvars.copy_context().run(call)
        look.eventually(lambda: [ref() for ref in refs] == [None] * 3, 1.0)
    finally:
        gc.enable()


@pytest.mark.parametrize("way", ["thread", "asyncio", "session"])
def test_an_error_is_no_cycle(new_engine: NewEngine, openai: FaultProvider, look: Any, way: str) -> None:
    openai.always(Status(400))
    engine = new_engine()
    session = engine.create_agent(name="a").start_session()
    gc.collect()
    gc.disable()
    try:

        async def main() -> weakref.ref[Any]:
            try:
                await engine.complete("hi")
            except cortex.RequestRejected as error:
                return weakref.ref(error)
            raise AssertionError

        def call() -> weakref.ref[Any]:
            if way == "asyncio":
                return asyncio.run(main())
            try:
                session.run_sync("hi") if way == "session" else engine.complete_sync("hi")
            except cortex.RequestRejected as error:
                return weakref.ref(error)
            raise AssertionError

        error = call()
        look.eventually(lambda: error() is None, 1.0)
    finally:
        gc.enable()


@pytest.mark.slow
@pytest.mark.parametrize("way", ["thread", "asyncio"])
def test_ten_thousand_runs_leave_nothing(look: Any, way: str) -> None:
    with FaultWall() as wall:
        wall.add("openai")
        engine = cortex.Engine(
            providers={"openai": {"api_key": "k", "base_url": wall["openai"].base_url}},
            worker_model="gpt-4o",
            transport=wall.transport(),
        )
        agent = engine.create_agent(name="a")

        def some(count: int) -> None:
            async def main() -> None:
                for _ in range(count):
                    await agent.start_session().run("hi")

            if way == "asyncio":
                asyncio.run(main())
            else:
                for _ in range(count):
                    agent.start_session().run_sync("hi")
            wall["openai"]._log._rows.clear()  # the wall remembers all it has seen
            gc.collect()

        for _ in range(2):
            some(1_000)
        threads, descriptors, resident = threading.active_count(), look.descriptors(), look.resident()
        for _ in range(10):
            some(1_000)
        look.eventually(lambda: look.idle(engine))
        look.eventually(lambda: (threading.active_count(), look.descriptors()) <= (threads, descriptors))
        assert look.resident() - resident < 5_000_000
