"""Ctrl-C, wherever it strikes: the work ends first, nothing hangs, and what was under way leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pydantic
import pytest
import trio

import actors
import cortex
from cortex.testing import FaultWall, Hang, Reply, ToolCalls
from cortex.testing.provider import FaultProvider

NewEngine = Callable[..., cortex.Engine]


# ------------------------------------------------------------------------------------------------ threads and loops


@pytest.mark.parametrize("stream", [False, True])
def test_ctrl_c_ends_the_work_first(new_engine: NewEngine, openai: FaultProvider, look: Any, stream: bool) -> None:
    openai.script(Hang(after=1 if stream else "request"))
    engine = new_engine()
    main = threading.main_thread().ident
    assert main is not None

    def press() -> None:
        openai.wait_for(1)
        time.sleep(0.05)
        signal.pthread_kill(main, signal.SIGINT)

    def work() -> None:
        if not stream:
            engine.complete_sync("hi")
        with engine.stream_sync("hi") as chunks:
            for _ in chunks:
                pass

    presser = threading.Thread(target=press)
    presser.start()
    with pytest.raises(KeyboardInterrupt):
        work()
    assert look.quiet(engine)  # at once
    presser.join()
    look.eventually(lambda: openai.requests[0].gone, 1.0)
    assert engine.complete_sync("hi").content == "Hello from openai."
    assert engine.health()["openai"].status == "up"


async def _await(coroutine: Any) -> None:
    await coroutine


@pytest.mark.parametrize("run", [asyncio.run, lambda coroutine: trio.run(_await, coroutine)], ids=["asyncio", "trio"])
def test_ctrl_c_in_a_loop(new_engine: NewEngine, openai: FaultProvider, look: Any, run: Callable[[Any], Any]) -> None:
    openai.script(Hang())
    engine = new_engine()
    main = threading.main_thread().ident
    assert main is not None

    def press() -> None:
        openai.wait_for(1)
        signal.pthread_kill(main, signal.SIGINT)

    presser = threading.Thread(target=press)
    presser.start()
    with pytest.raises(KeyboardInterrupt):
        run(engine.complete("hi"))
    assert look.quiet(engine)
    presser.join()
    look.eventually(lambda: openai.requests[0].gone, 1.0)


def test_ctrl_c_between_the_sending_of_a_job_and_the_wait_for_it(
    new_engine: NewEngine, openai: FaultProvider, look: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    openai.script(Hang())
    engine = new_engine()
    send = engine.host._send

    def sent_and_pressed(*args: Any) -> Any:
        sent = send(*args)
        openai.wait_for(1)
        signal.raise_signal(signal.SIGINT)
        return sent

    monkeypatch.setattr(engine.host, "_send", sent_and_pressed)
    with pytest.raises(KeyboardInterrupt):
        trio.run(_await, engine.complete("hi"))
    assert look.quiet(engine)


def test_ctrl_c_ends_a_tool_that_computes_in_the_engines_own_run(new_engine: NewEngine, openai: FaultProvider) -> None:
    """As it would end it in any task."""
    begun = threading.Event()
    known: list[weakref.ref[cortex.Engine]] = []
    main = threading.main_thread().ident
    assert main is not None

    async def compute() -> str:
        """Never awaits."""
        begun.set()
        until = time.monotonic() + 5
        while time.monotonic() < until:
            pass
        return "done"

    def press() -> None:
        begun.wait(5)
        signal.pthread_kill(main, signal.SIGINT)

    async def talk() -> None:
        async with new_engine() as engine:
            known.append(weakref.ref(engine))
            await engine.create_agent("a", tools=[compute]).start_session().run("go", system=1)

    openai.script(ToolCalls(("compute", {})))
    presser = threading.Thread(target=press)
    presser.start()
    before = time.monotonic()
    with pytest.raises((KeyboardInterrupt, BaseExceptionGroup)):
        trio.run(talk)
    assert time.monotonic() - before < 3
    presser.join()
    gc.collect()
    assert known[0]() is None  # nothing holds what was ended so


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("when", ["before", "after"])
def test_ctrl_c_before_or_after_the_sending_of_a_plain_threads_job(
    new_engine: NewEngine, openai: FaultProvider, look: Any, monkeypatch: pytest.MonkeyPatch, when: str, stream: bool
) -> None:
    openai.script(Reply("hello"), *([Hang()] if when == "after" else []))
    engine = new_engine()
    session = engine.create_agent("a").start_session()
    session.run_sync("hi")
    send = engine.host._send

    def pressed(*args: Any) -> Any:
        if when == "before":
            signal.raise_signal(signal.SIGINT)
        sent = send(*args)
        openai.wait_for(2)
        signal.raise_signal(signal.SIGINT)
        return sent

    with monkeypatch.context() as patch:
        patch.setattr(engine.host, "_send", pressed)
        before = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            list(session.run_stream_sync("hi")) if stream else session.run_sync("hi")
        assert time.monotonic() - before < 2
    look.eventually(lambda: look.quiet(engine), 1.0)
    openai.always(Reply("still here"))
    assert session.run_sync("and now?", timeout=5).content == "still here"


@pytest.mark.parametrize("patient", [True, False])
def test_ctrl_c_waits_for_the_end_at_most_the_grace(
    new_engine: NewEngine, openai: FaultProvider, patient: bool
) -> None:
    running, main = threading.Event(), threading.main_thread().ident
    ended: list[bool] = []
    assert main is not None

    async def stubborn() -> str:
        """Takes its time."""
        running.set()
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.1 if patient else 1)
            ended.append(True)
        return "never"

    openai.script(ToolCalls(("stubborn", {})))
    session = new_engine(grace=30 if patient else 0.1).create_agent(name="a", tools=[stubborn]).start_session()

    def press() -> None:
        running.wait(5)
        signal.pthread_kill(main, signal.SIGINT)

    presser = threading.Thread(target=press)
    presser.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        session.run_sync("hi")
    assert time.monotonic() - began < 0.8
    assert bool(ended) is patient
    presser.join()


def test_a_signal_in_the_middle_of_a_wait_leaves_nothing_locked(
    new_engine: NewEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two instructions of `threading`: its locks are then held by nobody, for ever."""
    engine, enter, main = new_engine(), threading.Condition.__enter__, threading.main_thread()
    engine.complete_sync("hi")

    def pressed(condition: threading.Condition) -> bool:
        entered = enter(condition)
        if threading.current_thread() is main:
            monkeypatch.undo()
            raise KeyboardInterrupt
        return entered

    monkeypatch.setattr(threading.Condition, "__enter__", pressed)
    with contextlib.suppress(KeyboardInterrupt):
        engine.complete_sync("hi")
    monkeypatch.undo()
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(engine.complete_sync("hi").content), daemon=True)
    thread.start()
    thread.join(5)
    assert answers == ["Hello from openai."]


# ------------------------------------------------------------------------------------------------ an entered engine


# Python itself passes over what is raised in the callback of a weak reference, Ctrl-C too.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("step", [397, pytest.param(1, marks=pytest.mark.slow)])
def test_ctrl_c_at_any_line_ends_the_block(step: int, AtLine: Any) -> None:
    """Of entering, of a call, and of leaving."""
    wall = FaultWall()
    wall.add("openai")

    async def main() -> None:
        providers = {"openai": {"api_key": "k", "base_url": wall["openai"].base_url}}
        async with cortex.Engine(providers, worker_model="gpt-4o", transport=wall.transport()) as engine:
            await engine.complete("hi")
            await trio.lowlevel.checkpoint()

    for n in range(1, 100_000, step):
        if AtLine(n, cortex, actors).run(main):
            assert n > 2000
            return
    raise AssertionError("it never ended")


class Computing(pydantic.BaseModel):
    """Its own check presses Ctrl-C, and then computes."""

    n: int

    @pydantic.field_validator("n")
    @classmethod
    def check(cls, value: int) -> int:
        signal.raise_signal(signal.SIGINT)
        compute()
        return value


def compute() -> None:
    until = time.monotonic() + 5
    while time.monotonic() < until:
        pass


async def computes(x: int) -> str:
    """Presses Ctrl-C, and then computes."""
    signal.raise_signal(signal.SIGINT)
    compute()
    return str(x)


async def takes(x: Computing) -> str:
    """Takes something whose check computes."""
    return str(x)


@pytest.mark.parametrize("where", ["an answer", "a tool", "a tool's arguments"])
def test_ctrl_c_ends_what_the_users_own_code_computes(where: str) -> None:
    """And comes as what it is, though it was in an actor of ours that it struck."""
    wall = FaultWall()
    openai = wall.add("openai")
    tool = {"a tool": computes, "a tool's arguments": takes}.get(where)
    arguments: dict[str, Any] = {"x": {"n": 1} if tool is takes else 1}

    async def main() -> None:
        providers = {"openai": {"api_key": "k", "base_url": openai.base_url}}
        async with cortex.Engine(providers, worker_model="gpt-4o", transport=wall.transport()) as engine:
            if tool is None:
                openai.script(Reply('{"n": 1}'))
                await engine.complete("hi", output_type=Computing)
            else:
                openai.script(ToolCalls((tool.__name__, arguments)))
                await engine.create_agent("a", tools=[tool]).start_session().run("hi", system=1)

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert time.monotonic() - began < 3
