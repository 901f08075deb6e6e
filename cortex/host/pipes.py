"""The chunks of a stream on their way from the engine's loop to a reader in any other.

Bounded: a slow reader makes the sender wait, and a sender that waits reads no more from its socket. The reader is woken
once a batch: only when it sleeps, and then it takes all there is.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import trio

from cortex.errors import ConfigError, EngineClosed
from cortex.host.jobs import Job
from cortex.host.parking import Parker, ThreadParker, parker
from cortex.results import Chunk

STREAM_BUFFER = 64
"""Chunks that may wait for a slow reader."""


class Pipe:
    """The sending end."""

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
        self._room.set()


class Feed:
    """The reading end. `take` gives the next chunk or None at the end, and raises what the work raised, once."""

    def __init__(
        self,
        pipe: Pipe,
        job: Job[None],
        post: Callable[[Callable[[], Any]], object],
        waiter: Parker | ThreadParker,
        grace: float,
    ) -> None:
        self._job, self._pid = job, os.getpid()
        self._pipe = pipe
        self._post = post
        self._waiter = waiter
        self._grace = grace
        self._reading = False
        self._closed = False

    def _next(self) -> Chunk | None:
        chunks = self._pipe.chunks
        if not chunks or self._closed:
            return None
        chunk = chunks.popleft()
        if self._pipe.blocked and len(chunks) <= STREAM_BUFFER // 2:
            self._pipe.blocked = False
            self._post(self._pipe.make_room)
        return chunk

    def _at_end(self) -> bool:
        """Nothing to read now. True: nor will there be (or it raises). False: the sender was told that we sleep."""
        if self._closed:
            return True
        self._pipe.asleep = True
        if self._job.done and not self._pipe.chunks:  # in this order: it sends nothing once it is done
            self._job.result()
            return True
        return False

    async def take(self) -> Chunk | None:
        """For async readers."""
        assert not isinstance(self._waiter, ThreadParker)
        if not self._waiter.here():
            raise ConfigError("a stream is read in the loop that began to read it; this is another one")
        self._check_process()
        with self._one_reader():
            while (chunk := self._next()) is None and not self._at_end():
                if not self._pipe.chunks:
                    await self._waiter.park()
        return chunk

    def take_sync(self) -> Chunk | None:
        """For plain threads."""
        assert isinstance(self._waiter, ThreadParker)
        self._check_process()
        with self._one_reader():
            while (chunk := self._next()) is None and not self._at_end():
                if not self._pipe.chunks:
                    self._waiter.park()
        return chunk

    def _check_process(self) -> None:
        if self._is_left():
            raise EngineClosed("this stream was begun before the process forked: it goes on in the parent alone")

    def _is_left(self) -> bool:
        """Whether it is the parent's: here is nobody who would send."""
        return self._pid != os.getpid()

    @contextmanager
    def _one_reader(self) -> Iterator[None]:
        if self._reading:
            raise ConfigError("a stream has one reader: somebody else is waiting for its next chunk")
        self._reading = True
        try:
            yield
        finally:
            self._reading = False

    @trio.lowlevel.enable_ki_protection  # what a finalizer raises is lost
    def drop(self) -> None:
        """From anywhere, also the garbage collector: cancel the work, wait for nothing."""
        if not (self._job.done or self._is_left()):
            self._post(self._job.cancel)

    __del__ = drop

    async def close(self) -> None:
        """From any loop: cancel the work and wait for its end, at most the grace. A reader finds the stream ended."""
        waiter = parker()
        self._close(waiter.wake)
        await waiter.linger(lambda: self._job.done or self._is_left(), self._grace)

    def close_sync(self) -> None:
        """The same from a plain thread."""
        waiter = ThreadParker()
        self._close(waiter.wake)
        waiter.linger(lambda: self._job.done or self._is_left(), self._grace)

    def _close(self, wake: Callable[[], None]) -> None:
        self._closed = True
        self._job.notify(wake)
        self.drop()
