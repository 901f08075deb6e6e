"""The host of one engine: the one way in, wherever the engine lives and whoever calls."""

from __future__ import annotations

import os
import weakref
from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Any, Generic, TypeVar

import trio

from cortex.errors import ConfigError, EngineClosed
from cortex.host.callers import AsyncioCaller, OtherTrioCaller, ThreadCaller, TrioCaller
from cortex.host.jobs import TrioJob, carry
from cortex.host.parking import Parker, ThreadParker, in_run, parker, post, running_loop
from cortex.host.pipes import Feed, Pipe
from cortex.host.places import Entered, Home, Lodging, OpenHome, Runtime
from cortex.protocol import Caller

H = TypeVar("H", bound=Home)
T = TypeVar("T")

Work = Callable[[H], Callable[[Caller], Awaitable[T]]]
"""A call: at once, in the order in which calls are made, it arrives at the home; and what it gives then serves it."""
StreamWork = Callable[[H, Pipe], Callable[[Caller], Awaitable[None]]]
Post = Callable[[Callable[[], Any]], object]


class Host(Generic[H]):
    """`open_home` and `closed` must not know the engine: they would keep it alive for ever.

    `closed` is called when the engine is closed or dropped, perhaps more than once and from any thread.
    """

    def __init__(self, open_home: OpenHome[H], *, grace: float, closed: Callable[[], None]) -> None:
        self._open_home = open_home
        self._grace = grace
        self._tell_closed = closed
        self._place: Entered[H] | Lodging[H] | None = None
        self._pid = os.getpid()
        self._closed = False

    # ---- living and leaving

    def belongs_to(self, engine: object) -> None:
        """Stop when `engine` is dropped without close."""
        finalizer = weakref.finalize(engine, self._dropped)
        finalizer.atexit = False  # the interpreter's exit has a hook of its own, for all engines in order

    @trio.lowlevel.enable_ki_protection  # what a finalizer raises is lost
    def _dropped(self) -> None:
        """From the garbage collector, in any thread: post, never wait, never lock."""
        self._closed = True
        lodging = self._lodging()
        if lodging is not None:
            post(lodging.token, lodging.leave)
        self._tell_closed()

    @trio.lowlevel.enable_ki_protection
    async def enter(self) -> None:
        """`async with engine`: under trio the tree grows in the caller's own run, elsewhere at the first call."""
        self._check_open()
        if running_loop() != "trio":
            return
        with Runtime.lock:
            if self._lodging() is not None:
                return  # it was used before, and stays where it lives
            if self._place is not None:
                raise ConfigError("this engine is entered already: one `async with` per engine")
            entered = self._place = Entered(self._open_home)
        try:
            await entered.enter()
        except BaseException:
            self._place = None
            raise

    def enter_sync(self) -> None:
        """`with engine`, in a plain thread."""
        if (loop := running_loop()) is not None:
            raise ConfigError(f"the end of this block would block the running {loop} loop: write `async with`")

    @trio.lowlevel.enable_ki_protection
    async def exit(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The block ends: drain unless it was left by an exception, stop the tree, wait until it is gone."""
        self._closed = True
        if isinstance(self._place, Entered):
            await self._place.leave(kind, error, trace)
        else:
            await self._depart(drain=error is None)
        self._tell_closed()

    @trio.lowlevel.enable_ki_protection
    async def close(self) -> None:
        """`aclose()`: drain, stop the tree, wait until it is gone."""
        if isinstance(self._place, Entered):
            if not in_run(self._place.token):
                raise ConfigError("this engine was entered in another trio run: leaving that block closes it")
            self._closed = True
            await self._place.stop()
        else:
            self._closed = True
            await self._depart(drain=True)
        self._tell_closed()

    def close_sync(self) -> None:
        """`close()`, from a plain thread."""
        if isinstance(self._place, Entered):
            raise ConfigError("this engine was entered with `async with`: leaving that block closes it")
        self._refuse_in_loop("close", "aclose")
        self._closed = True
        lodging = self._lodging()
        if lodging is not None:
            waiter = ThreadParker()
            if post(lodging.token, _ask_to_leave, lodging, waiter.wake, True):
                while not lodging.gone:
                    waiter.park()
        self._tell_closed()

    async def _depart(self, *, drain: bool) -> None:
        lodging = self._lodging()
        if lodging is None:
            return
        waiter = parker()
        if not post(lodging.token, _ask_to_leave, lodging, waiter.wake, drain):
            return
        try:
            while not lodging.gone:
                await waiter.park()
        except GeneratorExit:  # the waiting loop was thrown away
            raise
        except BaseException:
            post(lodging.token, partial(lodging.leave, drain=False))
            await waiter.linger(lambda: lodging.gone, self._grace)
            raise

    def _check_open(self) -> None:
        if self._closed:
            raise EngineClosed("this engine is closed; construct a new one")

    def _lodging(self) -> Lodging[H] | None:
        """The place in the runtime thread of this very process: a fork leaves it behind."""
        return self._place if isinstance(self._place, Lodging) and self._pid == os.getpid() else None

    # ---- calling

    @trio.lowlevel.enable_ki_protection
    async def call(self, work: Work[H, T]) -> T:
        """Run `work(home)(caller)` where the engine lives; for async callers of any loop.

        Protected: Ctrl-C in a task of trio's comes when it waits, never between the sending of a job and the waiting
        for it, which would leave the job to nobody.
        """
        self._check_open()
        place = self._place
        if isinstance(place, Entered) and place.home is not None and in_run(place.token):
            return await work(place.home)(TrioCaller(place.home.tool_threads))
        return await self._call_elsewhere(work)

    async def _call_elsewhere(self, work: Work[H, T]) -> T:
        waiter = parker()
        job: TrioJob[T] = TrioJob(waiter.wake)
        post_more = self._send(job, _from(self._caller_of(), work))
        return await carry(job, post_more, waiter, self._grace)

    def call_sync(self, work: Work[H, T], name: str) -> T:
        """The same for a plain thread; `name` is the method's, for the error inside a loop."""
        self._check_open()
        self._refuse_in_loop(f"{name}_sync", name)
        waiter = ThreadParker()
        job: TrioJob[T] = TrioJob(waiter.wake)
        try:
            self._send(job, self._from_thread(work))
            while not job.done:
                waiter.park()
        except BaseException:  # Ctrl-C in the main thread, wherever it was: the work ends before it goes on
            if self._call_off(job):
                waiter.linger(lambda: job.done, self._grace)
            raise
        return job.result()

    def stream(self, work: StreamWork[H]) -> Feed:
        """Start `work(home, pipe)(caller)` and give the reading end, for async callers."""
        self._check_open()
        return self._feed(parker(), work, partial(_from, self._caller_of()))

    def stream_sync(self, work: StreamWork[H], name: str) -> Feed:
        """The same for a plain thread."""
        self._check_open()
        self._refuse_in_loop(f"{name}_sync", name)
        return self._feed(ThreadParker(), work, self._from_thread)

    def _feed(
        self,
        waiter: Parker | ThreadParker,
        work: StreamWork[H],
        called: Callable[[Work[H, None]], Callable[[H], Callable[[], Awaitable[None]]]],
    ) -> Feed:
        pipe = Pipe(waiter.wake)
        job: TrioJob[None] = TrioJob(waiter.wake)
        try:
            post_more = self._send(job, called(lambda home: work(home, pipe)))
            return Feed(pipe, job, post_more, waiter, self._grace)
        except BaseException:
            self._call_off(job)
            raise

    @staticmethod
    def _refuse_in_loop(name: str, instead: str) -> None:
        loop = running_loop()
        if loop is not None:
            raise ConfigError(f"{name} would block the running {loop} loop: await {instead} instead")

    def _send(self, job: TrioJob[T], work: Callable[[H], Callable[[], Awaitable[T]]]) -> Post:
        """Put a job on its way, and give the way for what is to follow it."""

        def start(home: H) -> None:
            job.start(partial(work, home), home.spawn)

        place = self._inhabit()
        if in_run(place.token):
            place.admit(job, start)
        elif not post(place.token, place.admit, job, start):
            raise EngineClosed("the trio run that this engine lived in has ended")
        return partial(post, place.token)

    def _call_off(self, job: TrioJob[T]) -> bool:
        """Cancel a job of which nobody knows whether it was sent. False: there is no loop that could do it."""
        place = self._place
        return place is not None and not self._lost(place) and post(place.token, job.cancel)

    def _inhabit(self) -> Entered[H] | Lodging[H]:
        """Where the engine lives. A first call moves it into the runtime thread; so does the first after a fork, or
        after its tree or that thread has failed: what was a fault of ours must not last until a restart."""
        place = self._place
        if place is not None and not self._lost(place):
            return place
        with Runtime.lock:
            self._check_open()
            if self._place is None or self._lost(self._place):
                self._pid = os.getpid()
                self._place = Runtime.lodge(self._open_home)
            return self._place

    def _lost(self, place: Entered[H] | Lodging[H]) -> bool:
        return self._pid != os.getpid() or (isinstance(place, Lodging) and place.over)

    # ---- who calls

    def _caller_of(self) -> Callable[[H], Caller]:
        """The caller as its tools need it; the home, with its limits, is known later."""
        if running_loop() == "trio":
            token = trio.lowlevel.current_trio_token()
            if isinstance(self._place, Entered) and in_run(self._place.token):
                return lambda home: TrioCaller(home.tool_threads)
            return lambda home: OtherTrioCaller(token, home.tool_threads, self._grace)
        import asyncio

        loop = asyncio.get_running_loop()
        return lambda home: AsyncioCaller(loop, home.tool_threads, self._grace)

    def _from_thread(self, work: Work[H, T]) -> Callable[[H], Callable[[], Awaitable[T]]]:
        """`work`, called from a plain thread."""

        def arrive(home: H) -> Callable[[], Awaitable[T]]:
            serve = work(home)

            async def served() -> T:
                with ThreadCaller(home.tool_threads, self._grace) as caller:
                    return await serve(caller)

            return served

        return arrive


def _from(caller_of: Callable[[H], Caller], work: Work[H, T]) -> Callable[[H], Callable[[], Awaitable[T]]]:
    """`work`, called by an async caller."""
    return lambda home: partial(work(home), caller_of(home))


def _ask_to_leave(lodging: Lodging[Any], tell: Callable[[], None], drain: bool) -> None:
    """In the runtime thread."""
    lodging.when_gone(tell)
    lodging.leave(drain=drain)
