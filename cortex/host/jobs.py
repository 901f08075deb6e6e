"""One piece of work that runs in another loop than the one that waits for it.

`start` and `cancel` are called in the loop that serves; `done`, `result` and `notify` in any. Whoever waits is woken
when the work has ended, however it ended, and finds its outcome here.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Generic, TypeAlias, TypeVar

import trio

from cortex.ends import contained, ends
from cortex.errors import CortexError, EngineClosed
from cortex.host.parking import Parker

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")

Begin: TypeAlias = Callable[[], Callable[[], Awaitable[T]]]
"""What is done at once, in the order in which jobs come (tasks that are spawned together start in any); it gives the
work that remains."""
Spawn: TypeAlias = Callable[[Callable[[], Awaitable[None]]], object]


class Job(Generic[T]):
    """What both kinds share: the outcome, and who is to be woken."""

    muted: ClassVar[bool] = False
    """At the interpreter's exit nobody is woken: a daemon thread would wake to an error that nobody will read."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wakes = [wake]
        self._cancelled = False
        self._value: T | None = None
        self._error: Exception | None = None
        self.done = False

    def notify(self, wake: Callable[[], None]) -> None:
        """Wake somebody else, too. Look at `done` afterwards, before you sleep."""
        self._wakes.append(wake)

    def fail(self, error: Exception) -> None:
        """In the loop that serves: it will not be run."""
        self._error = error
        self._finish()

    def cancel(self) -> None:
        """In the loop that serves: end it soon, or never begin it."""
        self._cancelled = True

    def _finish(self) -> None:
        if self._cancelled:
            self._error = EngineClosed("this call was cancelled")  # nobody reads it; what was raised is let go
        self.done = True
        if not Job.muted:
            for wake in tuple(self._wakes):
                wake()

    def result(self) -> T:
        """The value, or the error as it was raised; once."""
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback holds this frame: no cycle
        return self._value  # type: ignore[return-value]  # T may be None


class TrioJob(Job[T]):
    """Work for a trio run."""

    def __init__(self, wake: Callable[[], None]) -> None:
        super().__init__(wake)
        self._context = contextvars.copy_context()
        self._scope: trio.CancelScope | None = None
        self._begun = False

    def start(self, begin: Begin[T], spawn: Spawn) -> None:
        """Begin now, and become a task; both in the caller's context."""
        if self._cancelled:  # and done
            return
        self._begun = True
        try:
            self._context.run(self._start, begin, spawn)
        except Exception as error:
            self.fail(error)

    def _start(self, begin: Begin[T], spawn: Spawn) -> None:
        spawn(partial(self._run, begin()))

    def cancel(self) -> None:
        super().cancel()
        if self._scope is not None:
            self._scope.cancel()
        elif not (self._begun or self.done):
            self._finish()

    async def _run(self, work: Callable[[], Awaitable[T]]) -> None:
        self._error = EngineClosed("the engine was closed while this call was under way")
        try:
            with trio.CancelScope() as scope:
                self._scope = scope
                if self._cancelled:
                    scope.cancel()
                try:
                    self._value = await work()
                    self._error = None
                except Exception as error:
                    self._error = error
                except BaseException as raised:
                    if not ends(raised) or _is_ctrl_c(raised):
                        raise
                    self._error = contained(raised)
        finally:
            self._finish()


def _is_ctrl_c(raised: BaseException) -> bool:
    """Whether it may be a real one, which ends the program: no other thread has any."""
    if isinstance(raised, BaseExceptionGroup):
        return any(_is_ctrl_c(one) for one in raised.exceptions)
    return isinstance(raised, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()


class AsyncioJob(Job[T]):
    """A user's coroutine for an asyncio loop."""

    _task: asyncio.Task[T] | None = None

    def __init__(self, work: Callable[[], Awaitable[T]], wake: Callable[[], None]) -> None:
        super().__init__(wake)
        self._work = work

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Become a task, in the caller's context: asyncio runs what is posted in the context of who posts."""
        if self._cancelled:
            self._finish()
            return
        self._task = loop.create_task(self._run())
        self._task.add_done_callback(self._ended)

    async def _run(self) -> T:
        return await self._work()

    def cancel(self) -> None:
        super().cancel()
        if self._task is not None:
            self._task.cancel()

    def _ended(self, task: asyncio.Task[T]) -> None:
        self._task = None
        if task.cancelled():
            self._error = CortexError("its asyncio task was cancelled")
        else:
            raised = task.exception()
            self._error = raised if raised is None or isinstance(raised, Exception) else contained(raised)
            if raised is None:
                self._value = task.result()
        self._finish()


async def carry(job: Job[T], post: Callable[[Callable[[], None]], object], waiter: Parker, grace: float) -> T:
    """Wait for a job that is on its way; cancelled, in whichever loop's manner, cancel it and wait for its end."""
    try:
        while not job.done:
            await waiter.park()
    except GeneratorExit:  # the waiting loop was thrown away: nothing can be awaited in it any more
        post(job.cancel)
        raise
    except BaseException:
        post(job.cancel)
        await waiter.linger(lambda: job.done, grace)
        raise
    return job.result()
