"""Through a proxy: httpx's transport, which knows proxies, carries the requests.

Its own pool loses whatever is cancelled while a tunnel is being made, the socket with it, for good. So it never holds
more than one connection here: each connection of our pool is a transport of httpx's, thrown away with its socket.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import httpx
import trio

from .pooled import KEEPALIVE_SECONDS, Pooled, origin_of
from .progress import Progress
from .tls import Trust


@attrs.define(eq=False)
class Carrier:
    """One connection. `socket`: of the one that is open, as far as one was seen to be opened."""

    inner: httpx.AsyncBaseTransport
    socket: Any = None

    def is_usable(self) -> bool:
        return True  # httpx looks for itself, and connects anew

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()


class Proxied(Pooled[Carrier]):
    """`proxy`: its address, with credentials if it wants any. `verify`: whom to trust at an origin of HTTPS.

    Raises httpx's exceptions. Connecting takes the timeout `connect` in all, to the proxy and through it.
    """

    def __init__(
        self,
        proxy: str,
        *,
        verify: Trust,
        max_connections: int = 1000,
        keepalive_expiry: float = KEEPALIVE_SECONDS,
    ) -> None:
        super().__init__(max_connections, keepalive_expiry)
        self._proxy = proxy
        self._trust = verify

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        progress = Progress.of(request)
        timeouts = request.extensions.get("timeout", {})
        origin = origin_of(request.url)
        now = trio.current_time()
        slots = self._slots_of(origin, now)
        carrier = slots.take(now) if not slots.must_wait() else await self._wait(slots, timeouts.get("pool"))
        try:
            if carrier is None:
                carrier = Carrier(await self._transport(secure=origin[0] == "https"))
            response = await self._carried(carrier, request, progress, timeouts.get("connect"))
        except BaseException as error:
            if isinstance(error, httpx.ConnectError):
                self._trust.forget()  # certificates may be renewed while we run
            if carrier is not None:
                carrier.close()
            self._leave(origin, slots, None)
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Leaving(response.stream, partial(self._leave, origin, slots, carrier))
        return response

    async def _transport(self, *, secure: bool) -> httpx.AsyncHTTPTransport:
        context = await self._trust.context() if secure else False  # no certificates are loaded for nothing
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=self._expiry)
        return httpx.AsyncHTTPTransport(verify=context, trust_env=False, limits=limits, proxy=self._proxy)

    @staticmethod
    async def _carried(
        carrier: Carrier, request: httpx.Request, progress: Progress, patience: float | None
    ) -> httpx.Response:
        request.extensions = {**request.extensions, "trace": progress}
        with trio.move_on_after(float("inf") if patience is None else patience) as connecting:
            progress.when_sent = partial(setattr, connecting, "deadline", float("inf"))
            try:
                return await carrier.inner.handle_async_request(request)
            finally:
                carrier.socket = progress.socket or carrier.socket
        raise httpx.ConnectTimeout(f"the proxy took more than {patience:g} s to connect")


@attrs.define(eq=False)
class _Leaving(httpx.AsyncByteStream):
    """A body whose end is told, once."""

    inner: httpx.AsyncByteStream
    leave: Callable[[], None] | None

    def __aiter__(self) -> Any:
        return aiter(self.inner)

    async def aclose(self) -> None:
        leave, self.leave = self.leave, None
        try:
            await self.inner.aclose()
        finally:
            if leave is not None:
                leave()
