"""Streams at the public door: batched, bounded, closed soon however they are left."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

import cortex
from cortex.host.jobs import TrioJob
from cortex.host.parking import ThreadParker, TrioParker
from cortex.host.pipes import STREAM_BUFFER, Feed, Pipe
from cortex.results import Chunk
from cortex.testing import Cut, Hang, Reply
from cortex.testing.provider import FaultProvider

NewEngine = Callable[..., cortex.Engine]
SLOWLY = Reply("word " * 2000, pace=0.01)
PIECES = 500


class Fountain(httpx.AsyncBaseTransport):
    """Answers with a stream of PIECES words; `drawn` counts the pieces that were read from it."""

    def __init__(self) -> None:
        self.drawn = 0
        self.closed = threading.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await trio.lowlevel.checkpoint()
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=_Water(self))


class _Water(httpx.AsyncByteStream):
    def __init__(self, fountain: Fountain) -> None:
        self._fountain = fountain

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for n in range(PIECES):
            self._fountain.drawn += 1
            await trio.lowlevel.checkpoint()
            yield b'data: {"model":"m","choices":[{"index":0,"delta":{"content":"%d "}}]}\n\n' % n
        yield b'data: {"model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'

    async def aclose(self) -> None:
        self._fountain.closed.set()


ALL = "".join(f"{n} " for n in range(PIECES))


@pytest.fixture
def fountain() -> Fountain:
    return Fountain()


@pytest.fixture
def wet(fountain: Fountain) -> Callable[[], cortex.Engine]:
    """Makes an engine that the fountain answers."""
    return lambda: cortex.Engine(providers={"openai": {"api_key": "k"}}, worker_model="gpt-4o", transport=fountain)


# --------------------------------------------------------------------------------------------------- bounds, batches


async def test_a_slow_reader_stops_the_reading_of_the_socket(
    wet: Callable[[], cortex.Engine], fountain: Fountain
) -> None:
    async with wet() as engine, engine.stream("hi") as stream:
        text = (await anext(stream)).content
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert STREAM_BUFFER <= fountain.drawn <= STREAM_BUFFER + 3
        async for chunk in stream:
            text += chunk.content
    assert text == ALL


def test_a_slow_thread_does_too(wet: Callable[[], cortex.Engine], fountain: Fountain, look: Any) -> None:
    stream = wet().stream_sync("hi")
    text = next(stream).content
    look.eventually(lambda: fountain.drawn >= STREAM_BUFFER)
    time.sleep(0.02)
    assert fountain.drawn <= STREAM_BUFFER + 3
    assert text + "".join(chunk.content for chunk in stream) == ALL


def test_chunks_cross_in_batches(wet: Callable[[], cortex.Engine], fountain: Fountain) -> None:
    async def main() -> tuple[str, int]:
        loop = asyncio.get_running_loop()
        posted = 0
        really = loop.call_soon_threadsafe

        def count(*args: Any, **kwargs: Any) -> Any:
            nonlocal posted
            posted += 1
            return really(*args, **kwargs)

        loop.call_soon_threadsafe = count  # type: ignore[method-assign]
        text = ""
        engine = wet()
        async for chunk in engine.stream("hi"):
            text += chunk.content
            time.sleep(0.0005)  # noqa: ASYNC251 - the loop is busy with each chunk, so they gather
        return text, posted

    text, posted = asyncio.run(main())
    assert text == ALL
    assert posted < PIECES / 5


# ------------------------------------------------------------------------------------------------------- leaving early


def test_break_out_of_a_bare_loop_closes_the_socket(new_engine: NewEngine, openai: FaultProvider, look: Any) -> None:
    openai.always(SLOWLY)
    engine = new_engine()
    session = engine.create_agent(name="a").start_session()

    async def main() -> None:
        async for _ in session.run_stream("hi"):
            break

    asyncio.run(main())
    look.eventually(lambda: openai.requests[0].gone, 1.0)
    for _ in session.run_stream_sync("hi"):
        break
    look.eventually(lambda: openai.requests[1].gone, 1.0)
    look.eventually(lambda: look.idle(engine), 1.0)
    assert session.history == ()
    assert engine.health()["openai"].status == "up"


@pytest.mark.parametrize("entered", [True, False])
async def test_break_under_trio_too(new_engine: NewEngine, openai: FaultProvider, look: Any, entered: bool) -> None:
    openai.always(SLOWLY)
    engine = new_engine()
    if entered:
        await engine.__aenter__()
    async for _ in engine.stream("hi"):
        break
    await look.eventually_trio(lambda: openai.requests[0].gone, 1.0)
    await look.eventually_trio(lambda: look.idle(engine), 1.0)
    if entered:
        await engine.__aexit__(None, None, None)


@pytest.mark.parametrize("entered", [True, False])
async def test_a_block_that_is_left_has_closed_its_socket(
    new_engine: NewEngine, openai: FaultProvider, look: Any, entered: bool
) -> None:
    openai.always(SLOWLY)
    engine = new_engine()
    if entered:
        await engine.__aenter__()
    with trio.CancelScope() as scope:  # also when it is left by a cancel
        async with engine.stream("hi") as stream:
            await anext(stream)
            scope.cancel()
            await anext(stream)
            await trio.sleep_forever()
    assert look.quiet(engine)  # at once
    await look.eventually_trio(lambda: openai.requests[0].gone, 1.0)
    if entered:
        await engine.__aexit__(None, None, None)


def test_close_has_closed_the_socket(new_engine: NewEngine, openai: FaultProvider, look: Any) -> None:
    openai.always(SLOWLY)
    engine = new_engine()
    with engine.stream_sync("hi") as stream:
        next(stream)
    assert look.quiet(engine)
    look.eventually(lambda: openai.requests[0].gone, 1.0)
    stream.close()
    assert list(stream) == []


def test_a_dropped_stream_is_cancelled_though_its_sender_waits(
    wet: Callable[[], cortex.Engine], fountain: Fountain
) -> None:
    stream = wet().stream_sync("hi")
    next(stream)
    while fountain.drawn < STREAM_BUFFER:
        time.sleep(0.001)
    del stream
    assert fountain.closed.wait(1)


async def test_aclose_before_and_after_and_twice(new_engine: NewEngine, openai: FaultProvider) -> None:
    async with new_engine() as engine:
        unread = engine.stream("hi")
        await unread.aclose()
        assert [chunk async for chunk in unread] == []
        async with unread:
            await trio.sleep(0.05)
        assert openai.requests == ()  # it never began
        read = engine.stream("hi")
        chunks = [chunk async for chunk in read]
        assert [chunk async for chunk in read] == []
        await read.aclose()
        await read.aclose()
        assert read.response.content == "".join(chunk.content for chunk in chunks) == "Hello from openai."


async def test_the_response_is_there_at_the_end_only(new_engine: NewEngine, openai: FaultProvider) -> None:
    async with new_engine() as engine:
        stream = engine.stream("hi")
        with pytest.raises(cortex.CortexError, match="read it to its end"):
            _ = stream.response
        assert "not begun" in repr(stream)
        await anext(stream)
        assert "running" in repr(stream)
        await stream.aclose()
        assert "over" in repr(stream)
        with pytest.raises(cortex.CortexError, match="without a whole answer"):
            _ = stream.response


@pytest.mark.parametrize("sync", [True, False])
def test_what_breaks_in_the_middle_is_raised_once(new_engine: NewEngine, openai: FaultProvider, sync: bool) -> None:
    openai.always(Cut(after=2, reply=Reply("one two three four")))
    engine = new_engine()
    got: list[str] = []

    async def read() -> None:
        async for chunk in stream:
            got.append(chunk.content)  # noqa: PERF401 - what came before the end is kept

    def read_sync() -> None:
        for chunk in sync_stream:
            got.append(chunk.content)  # noqa: PERF401 - what came before the end is kept

    stream, sync_stream = engine.stream("hi"), engine.stream_sync("hi")
    for expected in (cortex.StreamInterrupted, None):
        run = read_sync if sync else partial(asyncio.run, read())
        if expected is not None:
            with pytest.raises(expected) as caught:
                run()
            assert caught.value.partial == "one two"
        else:
            run()
    assert got == ["one", " two"]
    assert len(openai.requests) == 1


async def test_a_cancel_while_waiting_loses_no_chunk(new_engine: NewEngine, openai: FaultProvider) -> None:
    openai.always(Reply("one two three four five", pace=0.03))
    got: list[str] = []
    cancelled = 0
    async with new_engine() as engine, engine.stream("hi") as stream:
        while True:
            try:
                with trio.move_on_after(0.01) as scope:
                    got.append((await anext(stream)).content)
            except StopAsyncIteration:
                break
            cancelled += scope.cancelled_caught
    assert "".join(got) == "one two three four five"
    assert cancelled > 2


def test_a_timeout_while_waiting_loses_no_chunk_in_asyncio(new_engine: NewEngine, openai: FaultProvider) -> None:
    openai.always(Reply("one two three four five", pace=0.03))

    async def main() -> str:
        text = ""
        async with new_engine() as engine, engine.stream("hi") as stream:
            while True:
                try:
                    async with asyncio.timeout(0.01):
                        text += (await anext(stream)).content
                except TimeoutError:
                    continue
                except StopAsyncIteration:
                    return text

    assert asyncio.run(main()) == "one two three four five"


# ---------------------------------------------------------------------------------------------- who may read, and where


def test_a_stream_is_read_where_it_was_begun(new_engine: NewEngine, openai: FaultProvider, look: Any) -> None:
    openai.always(SLOWLY)
    engine = new_engine()
    stream = engine.stream("hi")

    async def main() -> None:
        await anext(stream)
        with pytest.raises(cortex.ConfigError, match="another one"):
            await asyncio.to_thread(asyncio.run, one())
        with pytest.raises(cortex.ConfigError, match="another one"):
            await asyncio.to_thread(trio.run, one)
        assert (await anext(stream)).content  # the stream itself is well

    async def one() -> None:
        await anext(stream)

    asyncio.run(main())
    asyncio.run(stream.aclose())  # closing is allowed from anywhere, and waits there
    assert look.quiet(engine)


async def test_a_stream_has_one_reader(new_engine: NewEngine, openai: FaultProvider) -> None:
    openai.always(Hang(after=1))
    async with new_engine() as engine, engine.stream("hi") as stream:
        await anext(stream)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(anext, stream)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(cortex.ConfigError, match="one reader"):
                await anext(stream)
            nursery.cancel_scope.cancel()


def test_aclose_ends_a_reader_that_waits(new_engine: NewEngine, openai: FaultProvider) -> None:
    openai.always(Hang(after=1))
    engine = new_engine()

    async def main() -> list[Chunk]:
        stream = engine.stream("hi")
        await anext(stream)
        reader = asyncio.create_task(_rest(stream))
        await asyncio.sleep(0.01)
        await stream.aclose()
        return await asyncio.wait_for(reader, 1)

    assert asyncio.run(main()) == []
    sync = engine.stream_sync("hi")
    next(sync)
    with ThreadPoolExecutor(1) as pool:
        rest = pool.submit(list, sync)
        time.sleep(0.02)
        sync.close()
        assert rest.result(1) == []


async def _rest(stream: cortex.Stream) -> list[Chunk]:
    return [chunk async for chunk in stream]


# ----------------------------------------------------------------------------------------------------- many and cancels


async def test_a_shutdown_with_twenty_streams_ends_them_within_the_grace(
    new_engine: NewEngine, openai: FaultProvider, look: Any
) -> None:
    openai.always(SLOWLY)
    told: list[str] = []

    async def read(engine: cortex.Engine) -> None:
        try:
            async for _ in engine.stream("hi"):
                pass
        except cortex.EngineClosed as error:
            told.append(str(error))

    async with trio.open_nursery() as nursery:
        async with new_engine(grace=0.2) as engine:
            for _ in range(20):
                nursery.start_soon(read, engine)
            await openai.wait_for_async(20)
            began = trio.current_time()
        assert trio.current_time() - began < 1.0
    assert len(told) == 20
    await look.eventually_trio(lambda: all(seen.gone for seen in openai.requests), 1.0)


@pytest.mark.parametrize("way", ["run", "stream"])
@pytest.mark.parametrize("after", [0.0, 0.001, 0.002, 0.004, 0.01, 0.03])
def test_a_cancel_at_any_moment_gives_everything_back(
    new_engine: NewEngine, openai: FaultProvider, look: Any, way: str, after: float
) -> None:
    openai.always(Reply("some words to say", pace=0.005))
    engine = new_engine()
    session = engine.create_agent(name="a").start_session()
    engine.complete_sync("warm up")

    async def work() -> None:
        if way == "run":
            await session.run("hi")
        else:
            async with session.run_stream("hi") as stream:
                async for _ in stream:
                    pass

    async def main() -> None:
        for _ in range(5):
            try:
                async with asyncio.timeout(after):
                    await work()
            except TimeoutError:
                assert look.quiet(engine)

    asyncio.run(main())
    look.eventually(lambda: look.idle(engine))
    assert session.run_sync("still well?").content == "some words to say"


# ----------------------------------------------------------------------------------------------------- the pipe itself


def chunk(n: int) -> Chunk:
    return Chunk("text", content=str(n))


@given(
    st.random_module(),
    st.lists(st.tuples(st.integers(0, 90), st.sampled_from([0, 0, 0.1, 1])), max_size=8),
    st.lists(st.sampled_from([0, 0, 0, 0.05, 0.5]), max_size=40),
    st.booleans(),
)
def test_whatever_the_pace_all_chunks_arrive_in_order(
    chance: Any, bursts: list[tuple[int, float]], pauses: list[float], fails: bool
) -> None:
    async def main() -> None:
        waiter = TrioParker()
        pipe = Pipe(waiter.wake)
        sent = 0

        async def work() -> None:
            nonlocal sent
            for count, pause in bursts:
                for _ in range(count):
                    await pipe.send(chunk(sent))
                    sent += 1
                    assert len(pipe.chunks) <= STREAM_BUFFER
                await trio.sleep(pause)
            if fails:
                raise KeyError("the end")

        job: TrioJob[None] = TrioJob(waiter.wake)
        got: list[str] = []
        with trio.fail_after(1000):
            async with trio.open_nursery() as nursery:
                job.start(lambda: work, nursery.start_soon)
                feed = Feed(pipe, job, lambda fn: fn(), waiter, 1.0)
                try:
                    while (one := await feed.take()) is not None:
                        got.append(one.content)
                        await trio.sleep(pauses[len(got) % len(pauses)] if pauses else 0)
                except KeyError:
                    assert fails
        assert got == [str(n) for n in range(sum(count for count, _ in bursts))]

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_pipe_between_two_threads_loses_nothing() -> None:
    count = 20_000
    waiter = ThreadParker()
    pipe = Pipe(waiter.wake)
    tokens: list[trio.lowlevel.TrioToken] = []
    jobs: list[TrioJob[None]] = []
    ready = threading.Event()

    async def work() -> None:
        for n in range(count):
            await pipe.send(chunk(n))

    async def serve() -> None:
        tokens.append(trio.lowlevel.current_trio_token())
        jobs.append(TrioJob(waiter.wake))
        async with trio.open_nursery() as nursery:
            jobs[0].start(lambda: work, nursery.start_soon)
            ready.set()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    ready.wait()
    feed = Feed(pipe, jobs[0], lambda fn: tokens[0].run_sync_soon(fn), waiter, 1.0)
    got = 0
    while (one := feed.take_sync()) is not None:
        assert one.content == str(got)
        got += 1
    thread.join()
    assert got == count
