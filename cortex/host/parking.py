"""Waiters, one kind per loop. Each sleeps in its own loop and may be woken from any thread, any number of times.

A wake-up that comes before the sleep is not lost: the next `park` returns at once.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

import trio

from cortex.errors import ConfigError

if TYPE_CHECKING:
    import asyncio

logger = logging.getLogger("cortex")


class Parker(Protocol):
    """One waiter of some loop."""

    def wake(self) -> None:
        """From any thread, also from the garbage collector."""
        ...

    def here(self) -> bool:
        """Whether the loop that runs this code is the waiter's own."""
        ...

    async def park(self) -> None:
        """Sleep until woken. A cancelled `park` has used up no wake-up."""
        ...

    async def linger(self, done: Callable[[], bool], grace: float) -> None:
        """In the middle of being cancelled: wait on until `done()`, at most `grace` seconds."""
        ...


class TrioParker:
    """A waiter in some trio run."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._event = trio.Event()

    def wake(self) -> None:
        if in_run(self._token):
            self._set()
        elif not post(self._token, self._set):
            logger.debug("a reply came after its trio run had ended; dropped")

    def _set(self) -> None:
        self._event.set()

    def here(self) -> bool:
        return in_run(self._token)

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

    def wake(self) -> None:
        if not post_asyncio(self._loop, self._fire):
            logger.debug("a reply came after its asyncio loop was closed; dropped")

    def _fire(self) -> None:
        self._woken = True
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def here(self) -> bool:
        return _asyncio_loop() is self._loop

    async def park(self) -> None:
        if not self._woken:
            self._future = self._loop.create_future()
            try:
                await self._future
            finally:
                self._future = None
        self._woken = False

    async def linger(self, done: Callable[[], bool], grace: float) -> None:
        """asyncio cancels once: what is awaited afterwards runs on, and a second cancel ends it, as it should."""
        late = False

        def too_late() -> None:
            nonlocal late
            late = True
            self._fire()

        timer = self._loop.call_later(grace, too_late)
        try:
            while not (done() or late):
                await self.park()
        finally:
            timer.cancel()


class ThreadParker:
    """A waiting plain thread.

    Its lock is open when a wake-up has come. No `threading.Event`: a signal that raises (Ctrl-C, an alarm) can leave
    the lock inside of that held, and whoever wakes next, the runtime thread, would then wait for ever.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wake(self) -> None:
        with suppress(RuntimeError):  # it was open
            self._lock.release()

    def park(self, timeout: float | None = None) -> None:
        self._lock.acquire(timeout=-1 if timeout is None else timeout)

    def linger(self, done: Callable[[], bool], grace: float) -> None:
        until = monotonic() + grace
        while not done() and (left := until - monotonic()) > 0:
            self.park(left)


def in_run(token: trio.lowlevel.TrioToken) -> bool:
    """Whether this code runs inside that trio run."""
    return trio.lowlevel.in_trio_run() and trio.lowlevel.current_trio_token() is token


def running_loop() -> str | None:
    """ "trio", "asyncio" or None, for the code that asks."""
    if trio.lowlevel.in_trio_run():
        return "trio"
    return "asyncio" if _asyncio_loop() is not None else None


def _asyncio_loop() -> asyncio.AbstractEventLoop | None:
    asyncio = sys.modules.get("asyncio")  # a process that never imported it has no loop of it
    return asyncio._get_running_loop() if asyncio is not None else None


def parker() -> Parker:
    """A waiter for the running loop. ConfigError where none runs."""
    match running_loop():
        case "trio":
            return TrioParker()
        case "asyncio":
            return AsyncioParker()
        case _:
            raise ConfigError("this needs a running trio or asyncio loop; plain threads have methods of their own")


def post(token: trio.lowlevel.TrioToken, fn: Callable[..., object], *args: Any) -> bool:
    """Have `fn(*args)` run soon in that trio run, from any thread. False: the run has ended."""
    try:
        token.run_sync_soon(fn, *args)
    except trio.RunFinishedError:
        return False
    return True


def post_asyncio(loop: asyncio.AbstractEventLoop, fn: Callable[[], object]) -> bool:
    """The same for an asyncio loop. False: it is closed."""
    try:
        loop.call_soon_threadsafe(fn)
    except RuntimeError:
        return False
    return True
