"""What an engine tells about itself while it runs: frozen events, and the hub that hands them to subscribers.

No event holds text, a key or a prompt. A subscriber that does not read loses the oldest events and never slows the
engine: 256 are kept for each, and what was dropped is counted.
"""

from __future__ import annotations

import itertools
import time
import weakref
from collections import deque
from collections.abc import Iterator
from typing import TypeAlias

import attrs

from cortex.errors import ConfigError
from cortex.host import Parker, parker

KEPT = 256


@attrs.frozen
class HealthChanged:
    """A provider's status (up, slow, down, recovering, off) has changed. `at`: seconds since the epoch."""

    provider: str
    status: str
    previous: str
    why: str
    at: float


@attrs.frozen
class FailedOver:
    """A call moved on to `provider`, serving `model`, after another had failed: `cause`, a line of the trail.

    `outcome` is that of the new attempt.
    """

    provider: str
    model: str
    outcome: str
    at: float
    cause: str = ""


@attrs.frozen
class ProviderRestarted:
    """A provider's actor crashed (a fault of cortex) and was started afresh."""

    provider: str
    why: str
    at: float


@attrs.frozen
class ToolResultsDropped:
    """A failed turn was not run again with `retry=True`: the results of tools that had run are forgotten."""

    session_id: str
    tools: tuple[str, ...]
    at: float


Event: TypeAlias = HealthChanged | FailedOver | ProviderRestarted | ToolResultsDropped


class EventStream:
    """An async iterator of one subscriber's events; it ends when the engine closes. `dropped` counts what was lost."""

    def __init__(self, hub: EventHub) -> None:
        self._hub = hub
        self._events: deque[Event] = deque()
        self._parker: Parker | None = None
        self.dropped = 0

    def _put(self, event: Event) -> None:
        if len(self._events) >= KEPT:
            self._events.popleft()
            self.dropped += 1
        self._events.append(event)
        self._wake()

    def _wake(self) -> None:
        waiting = self._parker  # read once: the reader may leave meanwhile, in its own thread
        if waiting is not None:
            waiting.wake()

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Event:
        if self._parker is not None:
            raise ConfigError("one reader per events(): call events() once for each")
        self._parker = parker()
        try:
            while not self._events:
                if self._hub.closed:
                    raise StopAsyncIteration
                await self._parker.park()
        finally:
            self._parker = None
        return self._events.popleft()


class EventHub:
    """Hands each event to all subscribers. Lives as long as its engine; a subscriber that is dropped is gone."""

    def __init__(self) -> None:
        # Subscribers come and go in any thread: a dict's single operations are atomic, and iterating is done on a copy.
        self._streams: weakref.WeakValueDictionary[int, EventStream] = weakref.WeakValueDictionary()
        self._numbers = itertools.count()
        self.closed = False

    def subscribe(self) -> EventStream:
        """A new subscriber, from now on."""
        stream = EventStream(self)
        self._streams[next(self._numbers)] = stream
        return stream

    def emit(self, event: Event) -> None:
        """In the engine's loop."""
        for stream in self._living():
            stream._put(event)

    def close(self) -> None:
        """No more will come. From any thread, and more than once."""
        self.closed = True
        for stream in self._living():
            stream._wake()

    def _living(self) -> Iterator[EventStream]:
        for ref in self._streams.valuerefs():
            stream = ref()
            if stream is not None:
                yield stream


def wall_clock() -> float:
    """Seconds since the epoch, for `at`."""
    return time.time()
