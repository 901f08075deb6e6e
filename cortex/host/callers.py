"""Users' own functions, run where the user lives: async ones in the loop that called, sync ones in worker threads.

All of this runs in the engine's loop, inside the task of the call, so a call that is cancelled cancels its tools. What
a function raises to end its program (`sys.exit()`) is an error of that function, except in the caller's own run.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import attrs
import trio

from cortex.ends import call, contained, ends
from cortex.errors import EngineFailed
from cortex.host.jobs import AsyncioJob, TrioJob, carry
from cortex.host.parking import TrioParker, post, post_asyncio

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")

TOOL_THREADS = 40
"""Sync tools that may run at once, per engine."""


async def run_in_thread(fn: Callable[..., T], kwargs: Mapping[str, Any], limiter: trio.CapacityLimiter) -> T:
    """`fn(**kwargs)` in a worker thread; one that outlives its cancellation is abandoned."""
    work = partial(call, partial(fn, **kwargs))
    return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=limiter)


@attrs.frozen
class TrioCaller:
    """A caller in the very run the engine lives in: its async functions run right here."""

    limiter: trio.CapacityLimiter

    async def run(self, fn: Callable[..., Any], kwargs: Mapping[str, Any], *, is_async: bool) -> Any:
        if is_async:
            return await _interruptible(fn, kwargs)
        return await run_in_thread(fn, kwargs, self.limiter)


@trio.lowlevel.disable_ki_protection
async def _interruptible(fn: Callable[..., Any], kwargs: Mapping[str, Any]) -> Any:
    """Ctrl-C ends it between any two lines, as it would in a task of the user's own; our actors are protected."""
    return await fn(**kwargs)


@attrs.frozen
class OtherTrioCaller:
    """A caller in another trio run than the engine's."""

    token: trio.lowlevel.TrioToken
    limiter: trio.CapacityLimiter
    grace: float

    async def run(self, fn: Callable[..., Any], kwargs: Mapping[str, Any], *, is_async: bool) -> Any:
        if not is_async:
            return await run_in_thread(fn, kwargs, self.limiter)

        async def work() -> Any:
            try:
                return await fn(**kwargs)
            except BaseException as raised:
                if ends(raised):  # that whole run, with a TrioInternalError
                    raise contained(raised) from raised
                raise

        back = TrioParker()
        job: TrioJob[Any] = TrioJob(back.wake)
        if not post(self.token, job.start, lambda: work, _spawn_system_task):
            raise EngineFailed("the trio run that called has ended, so its async function cannot run")
        return await carry(job, partial(post, self.token), back, self.grace)


def _spawn_system_task(fn: Callable[[], Any]) -> None:
    """System tasks have a context of their own unless they are given one."""
    trio.lowlevel.spawn_system_task(fn, context=contextvars.copy_context())


@attrs.frozen
class AsyncioCaller:
    """A caller in an asyncio loop."""

    loop: asyncio.AbstractEventLoop
    limiter: trio.CapacityLimiter
    grace: float

    async def run(self, fn: Callable[..., Any], kwargs: Mapping[str, Any], *, is_async: bool) -> Any:
        if not is_async:
            return await run_in_thread(fn, kwargs, self.limiter)
        back = TrioParker()
        job: AsyncioJob[Any] = AsyncioJob(partial(fn, **kwargs), back.wake)
        if not post_asyncio(self.loop, partial(job.start, self.loop)):
            raise EngineFailed("the asyncio loop that called is closed, so its async function cannot run")
        return await carry(job, partial(post_asyncio, self.loop), back, self.grace)


class ThreadCaller:
    """A plain thread, blocked by its call: its async functions share one asyncio loop in a thread of its own.

    Made, entered and left in the engine's loop. The loop begins with the first async function and ends with the call.
    """

    def __init__(self, limiter: trio.CapacityLimiter, grace: float) -> None:
        self._limiter = limiter
        self._grace = grace
        self._loop: _LoopThread | None = None

    async def run(self, fn: Callable[..., Any], kwargs: Mapping[str, Any], *, is_async: bool) -> Any:
        if not is_async:
            return await run_in_thread(fn, kwargs, self._limiter)
        if self._loop is None:
            self._loop = _LoopThread()
        return await AsyncioCaller(self._loop.loop, self._limiter, self._grace).run(fn, kwargs, is_async=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None:
            self._loop.stop()


class _LoopThread:
    """An asyncio loop in a daemon thread. It ends as `asyncio.run` does: what is left in it is cancelled."""

    def __init__(self) -> None:
        import asyncio

        self.loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        threading.Thread(target=self._serve, name="cortex-tool-loop", daemon=True).start()

    def _serve(self) -> None:
        import asyncio

        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self._until_end())

    async def _until_end(self) -> None:
        await self._end.wait()

    def stop(self) -> None:
        post_asyncio(self.loop, self._end.set)
