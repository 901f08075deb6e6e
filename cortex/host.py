"""Who is calling? trio, asyncio or a plain thread: this room brings a call to the loop its engine lives in, and back.

An engine lives in one place. Entered with `async with` under trio, that is the caller's own run: no thread. Otherwise
it is the process's one runtime thread, started by the first call and ended when the last engine is gone.

Promises: what the work raises arrives as it was raised; contextvars cross; cancelling the caller cancels the work and
waits for its end, at most `grace` seconds; a reply to a loop that is gone is dropped with a DEBUG line; an engine that
is dropped without close is stopped by its finalizer, and the thread ends at interpreter exit without a word.

Users' functions never run in the runtime thread: async ones run in the loop that called, sync ones in worker threads.
"""

from __future__ import annotations

import atexit
import contextvars
import logging
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import attrs
import trio

from cortex.errors import ConfigError, CortexError, EngineClosed, EngineFailed
from cortex.protocol import Caller
from cortex.results import Chunk

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")
logger = logging.getLogger("cortex")

STREAM_BUFFER = 64
"""Chunks that may wait for a slow reader; then the socket is not read any more."""

TOOL_THREADS = 40
"""Sync tools that may run at once, per engine."""


AT_EXIT_SECONDS = 5.0
"""How long the interpreter's exit waits for the runtime thread."""


class Home(Protocol):
    """What the host needs of an engine's tree."""

    @property
    def tool_threads(self) -> trio.CapacityLimiter:
        """Bounds the worker threads of sync tools."""
        ...

    def spawn(self, fn: Callable[[], Awaitable[None]]) -> None:
        """Run `fn` as a task of this home, in the present contextvars context."""
        ...

    async def drain(self) -> None:
        """Take no more work and wait, within bounds, until what is under way has ended."""
        ...


H = TypeVar("H", bound=Home)
Work = Callable[[H, Caller], Awaitable[T]]


# -------------------------------------------------------------------------------------------------- parking, per loop


class Parker(Protocol):
    """One waiter of some loop. `wake` may be called from any thread, any number of times."""

    def wake(self) -> None: ...
    async def park(self) -> None: ...
    async def linger(self, done: Callable[[], bool], grace: float) -> None:
        """Wait, shielded from cancellation, until `done()` or `grace` seconds have passed."""
        ...


class TrioParker:
    """A waiter in some trio run."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._event = trio.Event()

    def _set(self) -> None:
        self._event.set()

    def wake(self) -> None:
        if _in_run(self._token):
            self._set()
            return
        try:
            self._token.run_sync_soon(self._set)
        except trio.RunFinishedError:
            logger.debug("a reply came after its trio run had ended; dropped")

    async def park(self) -> None:
        await self._event.wait()
        self._event = trio.Event()

    async def linger(self, done: Callable[[], bool], grace: float) -> None:
        with trio.move_on_after(grace, shield=True):
            while not done():
                await self.park()


class AsyncioParker:
    """A waiter in some asyncio loop."""

    def __init__(self) -> None:
        import asyncio

        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] | None = None
        self._woken = False

    def _fire(self) -> None:
        self._woken = True
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._fire)
        except RuntimeError:
            logger.debug("a reply came after its asyncio loop was closed; dropped")

    async def park(self) -> None:
        if not self._woken:
            self._future = self._loop.create_future()
            try:
                await self._future
            finally:
                self._future = None
        self._woken = False

    async def linger(self, done: Callable[[], bool], grace: float) -> None:
        import asyncio

        async def until_done() -> None:
            while not done():
                await self.park()

        waiter = asyncio.ensure_future(until_done())
        await asyncio.wait({waiter}, timeout=grace)
        waiter.cancel()


class ThreadParker:
    """A waiting plain thread."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def wake(self) -> None:
        self._event.set()

    def park(self, timeout: float | None = None) -> None:
        self._event.wait(timeout)
        self._event.clear()


def _in_run(token: trio.lowlevel.TrioToken) -> bool:
    try:
        return trio.lowlevel.current_trio_token() is token
    except RuntimeError:
        return False


def running_loop() -> str | None:
    """ "trio", "asyncio" or None, for the code that asks."""
    if trio.lowlevel.in_trio_run():
        return "trio"
    asyncio = sys.modules.get("asyncio")
    return "asyncio" if asyncio is not None and asyncio._get_running_loop() is not None else None


def parker() -> Parker:
    """A parker for the running loop."""
    match running_loop():
        case "trio":
            return TrioParker()
        case "asyncio":
            return AsyncioParker()
        case _:
            raise EngineFailed("this needs a running trio or asyncio loop; from plain code use the *_sync methods")


# --------------------------------------------------------------------------------------------------- one piece of work


class Job(Generic[T]):
    """One call on its way into another loop and back."""

    def __init__(self, work: Callable[[], Awaitable[T]], wake: Callable[[], None]) -> None:
        self._work = work
        self._wake = wake
        self._context = contextvars.copy_context()
        self._scope: trio.CancelScope | None = None
        self._cancelled = False
        self._value: T | None = None
        self._error: Exception | None = None
        self.done = False

    def start(self, spawn: Callable[[Callable[[], Awaitable[None]]], object]) -> None:
        """In the loop that serves: become a task there, in the caller's context."""
        if self._cancelled:
            self.fail(EngineClosed("cancelled before it began"))
            return
        try:
            self._context.run(spawn, self._run)
        except Exception as error:
            self.fail(error)

    async def _run(self) -> None:
        error: Exception | None = EngineClosed("the engine was closed while this call was under way")
        try:
            with trio.CancelScope() as self._scope:
                if self._cancelled:
                    self._scope.cancel()
                try:
                    self._value = await self._work()
                    error = None
                except Exception as raised:
                    error = raised
        finally:
            self._finish(error)

    def _finish(self, error: Exception | None) -> None:
        self._error = error
        self.done = True
        self._wake()

    def fail(self, error: Exception) -> None:
        """In the loop that serves: it will not be run."""
        self._finish(error)

    def cancel(self) -> None:
        """In the loop that serves."""
        self._cancelled = True
        if self._scope is not None:
            self._scope.cancel()

    def result(self) -> T:
        """The value, or the error as it was raised."""
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback holds this frame: no cycle
        return self._value  # type: ignore[return-value]  # T may be None


async def _carry(job: Job[T], post: Callable[..., None], waiter: Parker, grace: float) -> T:
    """Wait for a started job; cancelled, in whichever loop's way, cancel it and wait for its end."""
    try:
        while not job.done:
            await waiter.park()
    except BaseException:
        post(job.cancel)
        await waiter.linger(lambda: job.done, grace)
        raise
    return job.result()


# ------------------------------------------------------------------------------------------------------ users' code


async def run_in_thread(fn: Callable[..., T], kwargs: Mapping[str, Any], limiter: trio.CapacityLimiter) -> T:
    """`fn(**kwargs)` in a worker thread; one that outlives its cancellation is abandoned."""
    return await trio.to_thread.run_sync(lambda: fn(**kwargs), abandon_on_cancel=True, limiter=limiter)


@attrs.frozen
class TrioCaller:
    """A caller in the very loop the engine lives in: its async functions run right here."""

    limiter: trio.CapacityLimiter

    async def run(self, fn: Callable[..., Any], kwargs: Mapping[str, Any], *, is_async: bool) -> Any:
        if is_async:
            return await fn(**kwargs)
        return await run_in_thread(fn, kwargs, self.limiter)


@attrs.frozen
class OtherTrioCaller:
    """A caller in another trio run than the engine's."""

    token: trio.lowlevel.TrioToken
    limiter: trio.CapacityLimiter
    grace: float

    async def run(self, fn: Callable[..., Any], kwargs: Mapping[str, Any], *, is_async: bool) -> Any:
        if not is_async:
            return await run_in_thread(fn, kwargs, self.limiter)
        back = TrioParker()
        job: Job[Any] = Job(lambda: fn(**kwargs), back.wake)
        try:
            self.token.run_sync_soon(job.start, trio.lowlevel.spawn_system_task)
        except trio.RunFinishedError as error:
            raise EngineFailed("the trio run that called has ended, so its async tool cannot run") from error
        return await _carry(job, self.token.run_sync_soon, back, self.grace)


@attrs.frozen
class AsyncioCaller:
    """A caller in an asyncio loop."""

    loop: asyncio.AbstractEventLoop
    limiter: trio.CapacityLimiter
    grace: float

    async def run(self, fn: Callable[..., Any], kwargs: Mapping[str, Any], *, is_async: bool) -> Any:
        if not is_async:
            return await run_in_thread(fn, kwargs, self.limiter)
        return await _run_in_asyncio(self.loop, fn, kwargs, self.grace)


@attrs.frozen
class ThreadCaller:
    """A plain thread. It is blocked, so its async functions get an asyncio loop in a thread of their own."""

    limiter: trio.CapacityLimiter
    grace: float

    async def run(self, fn: Callable[..., Any], kwargs: Mapping[str, Any], *, is_async: bool) -> Any:
        if not is_async:
            return await run_in_thread(fn, kwargs, self.limiter)
        import asyncio

        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=_serve_loop, args=(loop,), name="cortex-tool-loop", daemon=True)
        thread.start()
        try:
            return await _run_in_asyncio(loop, fn, kwargs, self.grace)
        finally:
            loop.call_soon_threadsafe(loop.stop)


def _serve_loop(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


async def _run_in_asyncio(
    loop: asyncio.AbstractEventLoop, fn: Callable[..., Any], kwargs: Mapping[str, Any], grace: float
) -> Any:
    """Run the coroutine in `loop` with the present context; cancelled here, it is cancelled there and awaited."""
    context = contextvars.copy_context()
    back = TrioParker()
    tasks: list[asyncio.Task[Any]] = []
    left = False

    def start() -> None:
        if not left:
            tasks.append(loop.create_task(fn(**kwargs), context=context))
            tasks[0].add_done_callback(lambda _: back.wake())

    def done() -> bool:
        return bool(tasks) and tasks[0].done()

    def post(step: Callable[[], object]) -> None:
        try:
            loop.call_soon_threadsafe(step)
        except RuntimeError as error:
            raise EngineFailed("the asyncio loop that called is closed, so its async tool cannot run") from error

    post(start)
    try:
        while not done():
            await back.park()
    except trio.Cancelled:
        left = True
        post(lambda: [task.cancel() for task in tasks])
        if tasks:
            await back.linger(done, grace)
        raise
    if tasks[0].cancelled():
        raise CortexError("the tool's asyncio task was cancelled")
    return tasks[0].result()


# ------------------------------------------------------------------------------------------------- the runtime thread


class Lodging(Generic[H]):
    """An engine's place in the runtime thread."""

    def __init__(self, open_home: Callable[[], AbstractAsyncContextManager[H]], runtime: Runtime) -> None:
        self._open_home = open_home
        self._runtime = runtime
        self._waiting: list[tuple[Job[Any], Callable[[H], None]]] = []
        self._broken: EngineFailed | None = None
        self._leave = trio.Event()
        self._drain = True
        self._when_gone: list[Callable[[], None]] = []
        self.home: H | None = None
        self.gone = False

    @property
    def token(self) -> trio.lowlevel.TrioToken:
        return self._runtime.token

    def admit(self, job: Job[Any], start: Callable[[H], None]) -> None:
        """In the thread: start the job, now or when the home is open."""
        if self.home is not None:
            start(self.home)
        elif self.gone:
            job.fail(self._broken or EngineClosed("the engine is closed"))
        else:
            self._waiting.append((job, start))

    def leave(self, *, drain: bool = True) -> None:
        """In the thread: begin to close; without `drain` what is under way is cancelled."""
        self._drain = drain
        self._leave.set()

    def when_gone(self, tell: Callable[[], None]) -> None:
        """In the thread: have `tell` called once the home is closed."""
        if self.gone:
            tell()
        else:
            self._when_gone.append(tell)

    async def live(self) -> None:
        try:
            async with self._open_home() as home:
                self.home = home
                for _, start in self._waiting:
                    start(home)
                self._waiting.clear()
                await self._leave.wait()
                if self._drain:
                    await home.drain()
        except Exception as error:
            logger.exception("the engine's tree has failed")
            self._broken = EngineFailed(f"the engine's tree has failed: {error!r}")
            self._broken.__cause__ = error
        finally:
            self.home = None
            self.gone = True
            for job, _ in self._waiting:
                job.fail(self._broken or EngineClosed("the engine was closed before this call began"))
            self._runtime.left(self)
            for tell in self._when_gone:
                tell()


class Runtime:
    """The process's one trio thread. It ends with its last engine; the next one starts another."""

    _lock = threading.Lock()
    current: Runtime | None = None

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._lodgings: set[Lodging[Any]] = set()
        self._empty = trio.Event()
        self._closed = False
        self._thread = threading.Thread(target=trio.run, args=(self._main,), name="cortex-runtime", daemon=True)
        self.token: trio.lowlevel.TrioToken

    @classmethod
    def lodge(cls, open_home: Callable[[], AbstractAsyncContextManager[H]]) -> Lodging[H]:
        """A place for one engine, in the running thread or in a new one."""
        with cls._lock:
            runtime = cls.current
            if runtime is None or runtime._closed:
                runtime = cls.current = Runtime()
                runtime._thread.start()
                runtime._ready.wait()
            lodging = Lodging(open_home, runtime)
            runtime._lodgings.add(lodging)
        runtime.token.run_sync_soon(runtime._move_in, lodging)
        return lodging

    async def _main(self) -> None:
        async with trio.open_nursery() as self._nursery:
            self.token = trio.lowlevel.current_trio_token()
            self._ready.set()
            await self._empty.wait()

    def _move_in(self, lodging: Lodging[Any]) -> None:
        self._nursery.start_soon(lodging.live)

    def left(self, lodging: Lodging[Any]) -> None:
        with Runtime._lock:
            self._lodgings.discard(lodging)
            if not self._lodgings:
                self._closed = True
                self._empty.set()

    def stop(self, seconds: float) -> None:
        """At interpreter exit: every engine leaves at once, and the thread is joined for at most `seconds`."""
        try:
            self.token.run_sync_soon(self._all_leave)
        except trio.RunFinishedError:
            return
        self._thread.join(seconds)

    def _all_leave(self) -> None:
        for lodging in self._lodgings:
            lodging.leave(drain=False)

    @classmethod
    def forget(cls) -> None:
        """In the child of a fork: the thread did not come along, and the lock may have been held."""
        cls._lock = threading.Lock()
        cls.current = None


@atexit.register
def _at_exit() -> None:
    if Runtime.current is not None:
        Runtime.current.stop(AT_EXIT_SECONDS)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=Runtime.forget)


# ------------------------------------------------------------------------------------------------------------ the host


class Host(Generic[H]):
    """The one way into an engine, wherever it lives and whoever calls.

    `open_home` must not know the engine: it would keep it alive for ever.
    """

    def __init__(self, open_home: Callable[[], AbstractAsyncContextManager[H]], *, grace: float) -> None:
        self._open_home = open_home
        self._grace = grace
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._lodging: Lodging[H] | None = None
        self._entered: AbstractAsyncContextManager[H] | None = None
        self._home: H | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._closed = False

    # ---- living and leaving

    def belongs_to(self, engine: object) -> None:
        """Stop when `engine` is dropped without close."""
        finalizer = weakref.finalize(engine, self._dropped)
        finalizer.atexit = False  # the interpreter's exit has a hook of its own, for all engines in order

    def _dropped(self) -> None:
        """From the garbage collector, in any thread: post, never wait, never lock."""
        self._closed = True
        if self._lodging is not None and self._pid == os.getpid():
            self._post_soon(self._lodging.token, self._lodging.leave)

    async def enter(self) -> None:
        """`async with engine`: under trio the tree grows in the caller's own run, elsewhere at the first call."""
        self._check_open()
        if running_loop() != "trio" or self._lodging is not None:
            return
        if self._entered is not None:
            raise ConfigError("this engine is entered already: one `async with` per engine")
        self._entered = self._open_home()
        self._token = trio.lowlevel.current_trio_token()
        self._home = await self._entered.__aenter__()

    async def leave(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        """Close: drain unless the block was left by an exception, stop the tree, wait until it is gone."""
        self._closed = True
        if self._entered is not None:
            if self._token is not None and not _in_run(self._token):
                raise ConfigError("this engine was entered in another trio run; leaving that block closes it")
            entered, home = self._entered, self._home
            self._entered = self._home = None
            if home is not None and error is None:
                await home.drain()
            await entered.__aexit__(kind, error, trace)
        elif self._lodging is not None and self._pid == os.getpid():
            waiter = parker()
            lodging = self._lodging
            self._depart(lodging, waiter.wake)
            while not lodging.gone:
                await waiter.park()

    def leave_sync(self) -> None:
        """`close()` from a plain thread."""
        self._closed = True
        if self._entered is not None:
            raise ConfigError("this engine was entered with `async with`: leaving that block closes it")
        if self._lodging is not None and self._pid == os.getpid():
            waiter = ThreadParker()
            self._depart(self._lodging, waiter.wake)
            while not self._lodging.gone:
                waiter.park()

    def _depart(self, lodging: Lodging[H], tell: Callable[[], None]) -> None:
        def depart() -> None:
            lodging.when_gone(tell)
            lodging.leave()

        if not self._post_soon(lodging.token, depart):
            lodging.gone = True

    def _check_open(self) -> None:
        if self._closed:
            raise EngineClosed("this engine is closed; construct a new one")

    # ---- calling

    async def call(self, work: Work[H, T]) -> T:
        """Run `work(home, caller)` where the engine lives; for async callers of any loop."""
        self._check_open()
        if self._token is not None and _in_run(self._token):
            home = self._here()
            return await work(home, TrioCaller(home.tool_threads))
        waiter = parker()
        job, post = self._send(work, waiter.wake, self._caller())
        return await _carry(job, post, waiter, self._grace)

    def call_sync(self, work: Work[H, T], name: str) -> T:
        """The same for a plain thread; `name` is the method's, for the error inside a loop."""
        self._refuse_in_loop(name)
        waiter = ThreadParker()
        job, post = self._send(work, waiter.wake, self._thread_caller)
        try:
            while not job.done:
                waiter.park()
        except BaseException:  # Ctrl-C in the main thread: the work ends before it goes on
            post(job.cancel)
            waiter.park(self._grace)
            raise
        return job.result()

    def stream(self, work: Callable[[H, Caller, Pipe], Awaitable[None]]) -> Feed:
        """Start `work(home, caller, pipe)` and give the reading end, for async callers."""
        self._check_open()
        if self._token is not None and _in_run(self._token):
            return self._open_feed(work, TrioParker(), self._here_caller)
        return self._open_feed(work, parker(), self._caller())

    def stream_sync(self, work: Callable[[H, Caller, Pipe], Awaitable[None]], name: str) -> Feed:
        """The same for a plain thread."""
        self._refuse_in_loop(name)
        return self._open_feed(work, ThreadParker(), self._thread_caller)

    def _refuse_in_loop(self, name: str) -> None:
        self._check_open()
        loop = running_loop()
        if loop is not None:
            raise ConfigError(f"{name}_sync would block the running {loop} loop: await {name} instead")

    def _open_feed(
        self,
        work: Callable[[H, Caller, Pipe], Awaitable[None]],
        waiter: Parker | ThreadParker,
        caller: Callable[[H], Caller],
    ) -> Feed:
        pipe = Pipe(waiter.wake)
        job, post = self._send(lambda home, caller: work(home, caller, pipe), waiter.wake, caller)
        return Feed(pipe, job, post, waiter, self._grace)

    def _send(
        self, work: Work[H, T], wake: Callable[[], None], caller_of: Callable[[H], Caller]
    ) -> tuple[Job[T], Callable[..., None]]:
        """Put a job on its way, and give the way for what is to follow it."""
        bound: list[H] = []
        job: Job[T] = Job(lambda: work(bound[0], caller_of(bound[0])), wake)

        def start(home: H) -> None:
            bound.append(home)
            job.start(home.spawn)

        def start_here() -> None:
            if self._home is None:
                job.fail(EngineClosed("this engine was closed before the call began"))
            else:
                start(self._home)

        if self._token is not None:
            token = self._token
            if _in_run(token):
                start_here()
            elif not self._post_soon(token, start_here):
                raise EngineClosed("the trio run this engine was entered in has ended")
        else:
            lodging = self._lodge()
            token = lodging.token
            if not self._post_soon(token, lodging.admit, job, start):
                raise EngineClosed("the engine's runtime has ended")

        def post(fn: Callable[..., object]) -> None:
            self._post_soon(token, fn)

        return job, post

    def _here(self) -> H:
        if self._home is None:
            raise EngineClosed("this engine is closed; construct a new one")
        return self._home

    def _lodge(self) -> Lodging[H]:
        with self._lock:
            if self._lodging is None or self._pid != os.getpid():
                # After a fork the child starts afresh: no socket of the parent's is shared.
                self._pid = os.getpid()
                self._lodging = Runtime.lodge(self._open_home)
            return self._lodging

    @staticmethod
    def _post_soon(token: trio.lowlevel.TrioToken, fn: Callable[..., object], *args: Any) -> bool:
        try:
            token.run_sync_soon(fn, *args)
        except trio.RunFinishedError:
            return False
        return True

    # ---- who calls

    def _here_caller(self, home: H) -> Caller:
        return TrioCaller(home.tool_threads)

    def _thread_caller(self, home: H) -> Caller:
        return ThreadCaller(home.tool_threads, self._grace)

    def _caller(self) -> Callable[[H], Caller]:
        if running_loop() == "trio":
            token = trio.lowlevel.current_trio_token()
            return lambda home: OtherTrioCaller(token, home.tool_threads, self._grace)
        import asyncio

        loop = asyncio.get_running_loop()
        return lambda home: AsyncioCaller(loop, home.tool_threads, self._grace)


# ------------------------------------------------------------------------------------------------------------- streams


class Pipe:
    """Chunks from the engine's loop to a reader in any other: bounded, one wake-up a batch."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._room = trio.Event()
        self.chunks: deque[Chunk] = deque()
        self.asleep = False
        self.blocked = False

    async def send(self, chunk: Chunk) -> None:
        """In the engine's loop: hand over, waiting for a slow reader."""
        while len(self.chunks) >= STREAM_BUFFER:
            self._room = trio.Event()
            self.blocked = True
            if len(self.chunks) >= STREAM_BUFFER:  # the reader may have read meanwhile, in its own thread
                await self._room.wait()
        self.chunks.append(chunk)
        if self.asleep:
            self.asleep = False
            self._wake()

    def make_room(self) -> None:
        """In the engine's loop: the reader has read."""
        self.blocked = False
        self._room.set()


class Feed:
    """The reading end of a stream. `take` gives the next chunk or None at the end, and raises what the work raised."""

    def __init__(
        self, pipe: Pipe, job: Job[None], post: Callable[..., None], waiter: Parker | ThreadParker, grace: float
    ) -> None:
        self._pipe = pipe
        self._job = job
        self._post = post
        self._waiter = waiter
        self._grace = grace

    def _next(self) -> Chunk | None:
        chunks = self._pipe.chunks
        if not chunks:
            return None
        chunk = chunks.popleft()
        if self._pipe.blocked and len(chunks) <= STREAM_BUFFER // 2:
            self._pipe.blocked = False
            self._post(self._pipe.make_room)
        return chunk

    def _settled(self) -> bool:
        """Nothing to read now: True at the end (or raises); False after declaring that we sleep."""
        self._pipe.asleep = True
        if self._pipe.chunks:
            self._pipe.asleep = False
            return False
        if self._job.done and not self._pipe.chunks:
            self._job.result()
            return True
        return False

    async def take(self) -> Chunk | None:
        """For async readers."""
        assert not isinstance(self._waiter, ThreadParker)
        while (chunk := self._next()) is None:
            if self._settled():
                return None
            if not self._pipe.chunks:
                await self._waiter.park()
        return chunk

    def take_sync(self) -> Chunk | None:
        """For plain threads."""
        assert isinstance(self._waiter, ThreadParker)
        while (chunk := self._next()) is None:
            if self._settled():
                return None
            if not self._pipe.chunks:
                self._waiter.park()
        return chunk

    def drop(self) -> None:
        """From anywhere, also the garbage collector: cancel the work, wait for nothing."""
        if not self._job.done:
            self._post(self._job.cancel)

    async def close(self) -> None:
        """Cancel the work and wait for its end, at most the grace."""
        assert not isinstance(self._waiter, ThreadParker)
        self.drop()
        await self._waiter.linger(lambda: self._job.done, self._grace)

    def close_sync(self) -> None:
        """The same for a plain thread."""
        assert isinstance(self._waiter, ThreadParker)
        self.drop()
        if not self._job.done:
            self._waiter.park(self._grace)
