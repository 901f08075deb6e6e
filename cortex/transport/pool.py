"""The connections to one origin: how many there may be, which are idle, and who waits for one.

The idle ones are a stack: the one that was used last is the least likely to have been given up by the server, and those
that are never needed grow old at the bottom. Whoever waits is served in order and leaves without a trace.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, Protocol, TypeVar

import attrs
import trio


class Poolable(Protocol):
    """A connection, as the pool sees it."""

    def is_usable(self) -> bool:
        """Whether it can serve again: it is between two requests, and the peer has said nothing since."""
        ...

    def close(self) -> None:
        """At once, and without a word."""
        ...


C = TypeVar("C", bound=Poolable)


@attrs.define(eq=False)
class _Waiter(Generic[C]):
    """`given`: what it was handed; None: the right to open one."""

    ready: trio.Event = attrs.field(factory=trio.Event)
    given: C | None = None


@attrs.define(eq=False)
class Slots(Generic[C]):
    """At most `limit` connections in use. A slot is taken, with an idle connection or the right to open one, and given
    back with a connection that can serve again, or without."""

    limit: int
    expiry: float = 5.0
    """Seconds: an older idle connection is not used."""
    in_use: int = 0
    closed: bool = False
    _idle: deque[tuple[C, float]] = attrs.field(factory=deque)  # the last one was used last
    _waiting: OrderedDict[_Waiter[C], None] = attrs.field(factory=OrderedDict)  # any of them may leave

    @property
    def idle(self) -> int:
        return len(self._idle)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def is_unused(self) -> bool:
        return not (self.in_use or self._idle or self._waiting)

    def must_wait(self) -> bool:
        """Whether all the slots are taken."""
        return self.in_use >= self.limit

    def take(self, now: float) -> C | None:
        """A slot, of which there must be one: with the youngest idle connection that is good, or None: open one."""
        self.in_use += 1
        while self._idle:
            connection, since = self._idle.pop()
            if now - since < self.expiry and connection.is_usable():
                return connection
            connection.close()
        return None

    async def wait(self) -> C | None:
        """The next slot that becomes free, in order of arrival: with the connection that was given back, or None."""
        waiter: _Waiter[C] = _Waiter()
        self._waiting[waiter] = None
        try:
            await waiter.ready.wait()
        except BaseException:
            if waiter in self._waiting:
                del self._waiting[waiter]
            else:  # it was served in the very moment in which it left
                self.give(waiter.given, trio.current_time())
            raise
        if waiter.given is None or waiter.given.is_usable():
            return waiter.given
        waiter.given.close()  # it died on the way
        return None

    def give(self, connection: C | None, now: float) -> None:
        """Give a slot back: with a connection that can serve again, or without."""
        if self._waiting:
            waiter, _ = self._waiting.popitem(last=False)
            waiter.given = connection
            waiter.ready.set()
            return
        self.in_use -= 1
        if connection is not None:
            self._idle.append((connection, now))
        if self.closed:
            self.close_idle()
        self.sweep(now)

    def sweep(self, now: float) -> None:
        """What grew old at the bottom is closed."""
        while self._idle and now - self._idle[0][1] >= self.expiry:
            self._idle.popleft()[0].close()

    def close_idle(self) -> None:
        """Close every connection that nobody uses."""
        while self._idle:
            self._idle.pop()[0].close()

    def close(self) -> None:
        """Close them, and from now on every one that becomes idle."""
        self.closed = True
        self.close_idle()
