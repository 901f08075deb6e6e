"""What a system tells its observers: frozen facts, in order, with no message contents, only names of types.

An observer can neither slow nor crash an actor: each stream is bounded, what finds it full is counted in `dropped`, and
no code of an observer runs inside an actor. Nothing is built while nobody listens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import attrs
import trio

from .errors import Exit


@attrs.frozen
class Event:
    """`seq` grows by one per event; `time` is trio's clock (s); `path` and `generation` say who."""

    seq: int
    time: float
    path: str
    generation: int


@attrs.frozen
class Started(Event):
    """The first incarnation runs."""


@attrs.frozen
class Restarted(Event):
    """A later incarnation runs."""


@attrs.frozen
class Crashed(Event):
    """`phase`: "start", "handler", "task", "on_stop", "cleanup" or "supervisor"; `msg_type`: a type's name."""

    exc: BaseException
    phase: str
    msg_type: str | None


@attrs.frozen
class RestartScheduled(Event):
    """The `k`-th consecutive failure; the next start comes in `delay` seconds."""

    k: int
    delay: float


@attrs.frozen
class Stopped(Event):
    """The actor is gone for good."""

    exit: Exit


@attrs.frozen
class GaveUp(Event):
    """Restarting this actor was given up after `last`."""

    last: Exit


@attrs.frozen
class Escalated(Event):
    """This supervisor stops its children and fails to its parent, since a child (`child`, a path) gave up."""

    child: str


@attrs.frozen
class DeadLetter(Event):
    """A message was refused (`reason` "full" or "stopped"), or still queued when its actor stopped ("discarded")."""

    reason: str
    msg_type: str


@attrs.frozen
class Superseded(Event):
    """A published value was replaced by a newer one of its key before it was handled."""

    msg_type: str


@attrs.frozen
class Skipped(Event):
    """A queued ask was not handled, since nobody waits for it: `reason` "expired" or "abandoned"."""

    reason: str
    msg_type: str


@attrs.frozen
class LateReply(Event):
    """An ask was answered when it already had an outcome."""

    msg_type: str


@attrs.frozen
class Rejected(Event):
    """A handler raised `Reject` on a message nobody waits for."""

    msg_type: str


@attrs.frozen
class Unhandled(Event):
    """No handler for this type in the present incarnation."""

    msg_type: str


@attrs.frozen
class Stuck(Event):
    """The system waits for this actor, which was cancelled and does not end (it shields, or swallows Cancelled)."""


class EventStream:
    """A bounded subscription: `async with system.events() as events: async for event in events`.

    It ends when the system has ended. `dropped` counts what found the buffer full. One reader at a time.
    """

    def __init__(self, hub: Hub, buffer: float) -> None:
        self._hub = hub
        self._buffer = buffer
        self._events: deque[Event] = deque()
        self._ready = trio.Event()
        self.dropped = 0

    async def __aenter__(self) -> EventStream:
        self._hub.streams.append(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self in self._hub.streams:
            self._hub.streams.remove(self)

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            if self._hub.closed:
                raise StopAsyncIteration
            self._ready = trio.Event()
            await self._ready.wait()
        await trio.lowlevel.checkpoint()
        return self._events.popleft()

    def drain(self) -> list[Event]:
        """Take what is buffered now, without waiting."""
        taken = list(self._events)
        self._events.clear()
        return taken

    def push(self, event: Event) -> None:
        if len(self._events) >= self._buffer:
            self.dropped += 1
        else:
            self._events.append(event)
            self._ready.set()

    def wake(self) -> None:
        self._ready.set()


class Hub:
    """Hands each event to every stream."""

    def __init__(self) -> None:
        self.streams: list[EventStream] = []
        self.closed = False
        self._seq = 0

    def emit(self, kind: Callable[..., Event], path: str, generation: int, *fields: Any) -> None:
        if not self.streams:
            return
        self._seq += 1
        event = kind(self._seq, trio.current_time(), path, generation, *fields)
        for stream in self.streams:
            stream.push(event)

    def close(self) -> None:
        self.closed = True
        for stream in self.streams:
            stream.wake()
