"""Where an engine lives: in the caller's own trio run (`Entered`), or in the runtime thread (`Lodging`).

A place takes jobs in from any thread. The runtime thread belongs to the process: it runs trio, it begins with the first
engine that needs it and ends with the last; at the interpreter's exit it is stopped and joined, and after a fork the
child begins another.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import trio

from cortex.errors import CortexError, EngineClosed, EngineFailed
from cortex.host.jobs import Job
from cortex.host.parking import post

logger = logging.getLogger("cortex")

AT_EXIT_SECONDS = 5.0
"""How long the interpreter's exit waits for the runtime thread."""


STACK_BYTES = 1024 * 1024
"""What the runtime thread needs at least: a program that gives its threads less would be ended by a deep answer."""


@contextmanager
def _stack_of(least: int) -> Iterator[None]:
    """Threads that start meanwhile have as large a stack; 0 is the system's own size, which is larger."""
    size = threading.stack_size()
    if size == 0 or size >= least:
        yield
        return
    threading.stack_size(least)
    try:
        yield
    finally:
        threading.stack_size(size)


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

    async def stop(self) -> None:
        """Drain, and end everything that is left; from any task."""
        ...


H = TypeVar("H", bound=Home)
OpenHome = Callable[[], AbstractAsyncContextManager[H]]


@asynccontextmanager
async def _inhabited(open_home: OpenHome[H], draining: trio.CancelScope) -> AsyncIterator[H]:
    """A home that is drained when its block ends well; one that is left by an exception is not."""
    async with open_home() as home:
        yield home
        with draining:
            await home.drain()


# ------------------------------------------------------------------------------------------------- the caller's own run


class Entered(Generic[H]):
    """An engine inside `async with` under trio: a part of the caller's own task tree."""

    def __init__(self, open_home: OpenHome[H]) -> None:
        self._block = _inhabited(open_home, trio.CancelScope())
        self.token = trio.lowlevel.current_trio_token()
        self._waiting: list[tuple[Job[Any], Callable[[H], None]]] = []
        self.home: H | None = None
        self.gone = False

    async def enter(self) -> None:
        """Open the home, and let in who has come meanwhile."""
        try:
            self.home = await self._block.__aenter__()
        except BaseException:
            self._end()
            raise
        waiting, self._waiting = self._waiting, []
        for _, start in waiting:
            start(self.home)

    def admit(self, job: Job[Any], start: Callable[[H], None]) -> None:
        """In its run: start the job, now or when the home is open."""
        if self.home is not None:
            start(self.home)
        elif self.gone:
            job.fail(EngineClosed("this engine was closed before the call began"))
        else:
            self._waiting.append((job, start))

    def _end(self) -> None:
        self.home = None
        self.gone = True
        waiting, self._waiting = self._waiting, []
        for job, _ in waiting:
            job.fail(EngineClosed("this engine was closed before the call began"))

    async def stop(self) -> None:
        """Close, somewhere inside the block; what remains for its end is to leave it."""
        if self.home is not None:
            await self.home.stop()

    async def leave(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The block ends. What it raised goes on its way, as itself."""
        try:
            await self._block.__aexit__(kind, error, trace)
        finally:
            self._end()
            del self._block  # through its generator it holds the whole run, and what that ended with


# ------------------------------------------------------------------------------------------------- the runtime thread


class Lodging(Generic[H]):
    """An engine's place in the runtime thread. All but the constructor is called there."""

    def __init__(self, open_home: OpenHome[H], runtime: Runtime, token: trio.lowlevel.TrioToken) -> None:
        self._open_home = open_home
        self._runtime = runtime
        self._waiting: list[tuple[Job[Any], Callable[[H], None]]] = []
        self._crash: Exception | None = None
        self._leave = trio.Event()
        self._draining = trio.CancelScope()
        self._when_gone: list[Callable[[], None]] = []
        self.token = token
        self.home: H | None = None
        self.gone = False

    def admit(self, job: Job[Any], start: Callable[[H], None]) -> None:
        """Start the job, now or when the home is open."""
        if self.home is not None:
            start(self.home)
        elif self.gone:
            job.fail(self._why_gone())
        else:
            self._waiting.append((job, start))

    def leave(self, *, drain: bool = True) -> None:
        """Begin to close; without `drain` what is under way is cancelled, also if it is being drained already."""
        if not drain:
            self._draining.cancel()
        self._leave.set()

    @property
    def over(self) -> bool:
        """Whether nothing lives here any more: the home, or its thread, has ended or failed. From any thread."""
        return self.gone or self._runtime.ended

    def when_gone(self, tell: Callable[[], None]) -> None:
        """Have `tell` called once the home is closed."""
        if self.gone:
            tell()
        else:
            self._when_gone.append(tell)

    async def live(self) -> None:
        try:
            async with _inhabited(self._open_home, self._draining) as home:
                self._open(home)
                await self._leave.wait()
        except Exception as error:
            logger.exception("the engine's tree has failed")
            self._crash = error
        finally:
            self._end()

    def _open(self, home: H) -> None:
        # Not in `live`: its frame lasts as long as the engine, and what a local of it held would never be let go.
        self.home = home
        waiting, self._waiting = self._waiting, []
        for _, start in waiting:
            start(home)

    def _end(self) -> None:
        self.home = None
        self.gone = True
        waiting, self._waiting = self._waiting, []
        for job, _ in waiting:
            job.fail(self._why_gone())
        self._runtime.left(self)
        for tell in self._when_gone:
            tell()

    def _why_gone(self) -> CortexError:
        if self._crash is None:
            return EngineClosed("the engine was closed before this call began")
        failed = EngineFailed(f"the engine's tree has failed: {self._crash!r}")
        failed.__cause__ = self._crash
        return failed


class Runtime:
    """The process's one trio thread. It ends with its last engine; the next one starts another."""

    lock: ClassVar[threading.Lock] = threading.Lock()
    """Held for moments: it guards `current`, and where each engine lives."""
    current: ClassVar[Runtime | None] = None
    _exiting: ClassVar[bool] = False

    def __init__(self) -> None:
        self._starting = threading.Lock()  # held until it has begun; see `ThreadParker`, why it is no event
        self._starting.acquire()
        self._lodgings: set[Lodging[Any]] = set()
        self._empty = trio.Event()
        self._closed = False
        self.ended = False
        self._token: trio.lowlevel.TrioToken | None = None
        self._thread = threading.Thread(target=self._serve, name="cortex-runtime", daemon=True)

    @classmethod
    def lodge(cls, open_home: OpenHome[H]) -> Lodging[H]:
        """A place for one engine, in the running thread or in a new one. The caller holds the lock."""
        if cls._exiting:
            raise EngineClosed("the interpreter is exiting: no engine begins any more")
        runtime = cls.current
        if runtime is None or runtime._closed:
            runtime = Runtime()
            runtime._start()
            cls.current = runtime
        with runtime._starting:
            token = runtime._token
        if token is None:
            raise EngineFailed("the runtime thread could not be started; the log has the traceback")
        lodging = Lodging(open_home, runtime, token)
        runtime._lodgings.add(lodging)
        post(token, runtime._move_in, lodging)
        return lodging

    def _start(self) -> None:
        try:
            with _stack_of(STACK_BYTES):
                self._thread.start()
        except RuntimeError as error:
            raise EngineFailed(f"no thread can be started, and cortex needs one: {error}") from error
        except BaseException:  # it may have begun, and nobody will come to live there
            self._closed = True
            if self._token is not None:
                post(self._token, self._empty.set)
            raise

    def _serve(self) -> None:
        try:
            trio.run(self._main)
        except Exception:
            logger.exception("the runtime thread has failed")
        finally:
            self._closed = self.ended = True
            if self._token is None:
                self._starting.release()

    async def _main(self) -> None:
        async with trio.open_nursery() as self._nursery:
            self._token = trio.lowlevel.current_trio_token()
            self._starting.release()
            if not self._closed:
                await self._empty.wait()

    def _move_in(self, lodging: Lodging[Any]) -> None:
        self._nursery.start_soon(lodging.live)

    def left(self, lodging: Lodging[Any]) -> None:
        """In the thread: one engine is gone."""
        with Runtime.lock:
            self._lodgings.discard(lodging)
            if not self._lodgings:
                self._closed = True
                self._empty.set()

    def _all_leave(self) -> None:
        for lodging in self._lodgings:
            lodging.leave(drain=False)
        if not self._lodgings:  # Ctrl-C came before the first had moved in
            self._empty.set()

    @classmethod
    def at_exit(cls) -> None:
        """Every engine leaves at once, nobody is told, and the thread is joined."""
        cls._exiting = Job.muted = True
        runtime = cls.current
        if runtime is not None and runtime._token is not None and post(runtime._token, runtime._all_leave):
            runtime._thread.join(AT_EXIT_SECONDS)

    @classmethod
    def after_fork(cls) -> None:
        """In the child: the thread did not come along, and the lock may have been held."""
        cls.lock = threading.Lock()
        cls.current = None


atexit.register(Runtime.at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=Runtime.after_fork)
