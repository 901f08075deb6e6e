"""What our transports share: the connections to each origin, in one place, swept and closed together."""

from __future__ import annotations

import time
from typing import Generic, NoReturn, TypeAlias, TypeVar

import httpx
import trio

from .pool import Poolable, Slots

Origin: TypeAlias = tuple[str, str, int, str]
"""Scheme, host, port, and the name that the server's certificate has to bear."""

KEEPALIVE_SECONDS = 5.0
"""Servers give up idle connections after 5 s and more; a shorter wait here loses fewer races against that."""

PORTS = {"http": 80, "https": 443}

C = TypeVar("C", bound=Poolable)


class Pooled(httpx.AsyncBaseTransport, Generic[C]):
    """At most `max_connections` to one origin, whoever comes then waits in order; an idle one is kept for
    `keepalive_expiry` seconds."""

    def __init__(self, max_connections: int, keepalive_expiry: float) -> None:
        self._max_connections = max_connections
        self._expiry = keepalive_expiry
        self._origins: dict[Origin, Slots[C]] = {}
        self._swept = 0.0
        self._drift = float("inf")
        self._rested = trio.Event()
        self._closed = False

    def __repr__(self) -> str:
        used = sum(slots.in_use for slots in self._origins.values())
        idle = sum(slots.idle for slots in self._origins.values())
        return f"<{type(self).__name__}: {used} connections in use, {idle} idle>"

    # ---- a slot, and back

    def _slots_of(self, origin: Origin, now: float) -> Slots[C]:
        if self._closed:
            raise httpx.LocalProtocolError("this transport is closed")
        self._wake(now)
        self._sweep(now)
        slots = self._origins.get(origin)
        if slots is None:
            slots = self._origins[origin] = Slots(self._max_connections, self._expiry)
        return slots

    @staticmethod
    async def _wait(slots: Slots[C], patience: float | None) -> C | None:
        with trio.move_on_after(float("inf") if patience is None else patience):
            return await slots.wait()
        raise httpx.PoolTimeout(f"all {slots.limit} connections were in use for {patience:g} s")

    def _leave(self, origin: Origin, slots: Slots[C], connection: C | None) -> None:
        """Give the slot back, with a connection that can serve again or without."""
        slots.give(connection, trio.current_time())
        if slots.is_unused:
            self._origins.pop(origin, None)
        self._rested.set()

    # ---- what nobody uses any more

    def _wake(self, now: float) -> None:
        """Close what slept along with the machine: peers gave it up long ago, while the loop's clock stood still."""
        drift = time.time() - now
        if drift - self._drift > self._expiry:
            for slots in self._origins.values():
                slots.close_idle()
        self._drift = drift

    def _sweep(self, now: float) -> None:
        """Now and then, close what grew old at origins that nobody comes back to."""
        if now - self._swept < self._expiry:
            return
        self._swept = now
        for origin, slots in list(self._origins.items()):
            slots.sweep(now)
            if slots.is_unused:
                del self._origins[origin]

    async def sweep_forever(self) -> NoReturn:
        """Run it beside the calls: what grew old is closed also when no call comes any more, within twice its time.

        Without it a server's good-bye is heard when the next call comes; until then its socket is half closed.
        """
        while True:
            if not any(slots.idle for slots in self._origins.values()):
                self._rested = trio.Event()
                await self._rested.wait()
            await trio.sleep(self._expiry)
            self._sweep(trio.current_time())

    async def aclose(self) -> None:
        """Close what is idle; what is under way goes on, and is closed at its end."""
        self._closed = True
        for slots in self._origins.values():
            slots.close()
        await trio.lowlevel.checkpoint()


def origin_of(url: httpx.URL, name: str | None = None) -> Origin:
    """The origin of an address; `name`: what the certificate has to bear where that is not the host."""
    host = url.raw_host.decode("ascii")
    if url.scheme not in PORTS or not host:
        raise httpx.UnsupportedProtocol(f"{url.scheme!r} is no scheme of this transport: use http or https, and a host")
    return url.scheme, host, PORTS[url.scheme] if url.port is None else url.port, name or host
