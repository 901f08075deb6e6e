"""The shell without sockets: steps as an `httpx` transport, waiting on trio's clock.

Made for virtual time: under `trio.testing.MockClock` a reply that hangs for a minute costs none. httpx's own read
timeout is kept, as a transport has to; connections are not modelled, so `Seen.connection` is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import h11
import httpx
import trio

from .play import Bytes, Data, Drop, End, Head, Step, Wait
from .provider import FaultProvider, Request

READ = 65_536
MOST_HEADERS = 100 * 1024  # httpcore's limit


class MemoryTransport(httpx.AsyncBaseTransport):
    """Answers requests to the providers' base URLs; any other address cannot be connected to."""

    def __init__(self, providers: Callable[[], Mapping[str, FaultProvider]]) -> None:
        self._providers = providers

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await trio.lowlevel.checkpoint()
        content = await request.aread()
        provider = self._find(request.url)
        if provider is None or not provider.is_up:
            raise httpx.ConnectError("All connection attempts failed", request=request)
        received = Request(
            method=request.method,
            path=request.url.path,
            query=request.url.query.decode("ascii"),
            headers=dict(request.headers.items()),
            content=content,
        )
        index, steps = provider.receive(received, trio.current_time(), connection=0)
        patience = request.extensions.get("timeout", {}).get("read")
        body = Body(provider, index, steps, math.inf if patience is None else patience)
        head = await body.head()
        return httpx.Response(head.status, headers=list(head.headers), stream=body, request=request)

    def _find(self, url: httpx.URL) -> FaultProvider | None:
        here = (row for row in self._providers().values() if url.host == "127.0.0.1" and row.port == url.port)
        return next(here, None)


class Body(httpx.AsyncByteStream):
    """An answer under way. What it raises is what httpx raises for the same fate of a connection."""

    def __init__(self, provider: FaultProvider, index: int, steps: Iterator[Step], patience: float) -> None:
        self._provider = provider
        self._index = index
        self._steps = steps
        self._patience = patience  # seconds of silence that this client bears
        self._falls = provider.falls
        self._heard = trio.current_time()
        self._over = False

    async def head(self) -> Head:
        try:
            while True:
                step = await self._next()
                if isinstance(step, Head):
                    return step
        except (trio.Cancelled, httpx.ReadTimeout):
            self._leave()
            raise

    def __aiter__(self) -> Body:
        return self

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()
        while not self._over:
            step = await self._next()
            if isinstance(step, Data):
                self._heard = trio.current_time()
                return step.data
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._leave()
        await trio.lowlevel.checkpoint()

    async def _next(self) -> Step:
        """The next step that carries something; the others are lived through here."""
        while True:
            if self._provider.falls != self._falls:
                self._over = True
                raise httpx.ReadError("the connection was dropped")
            match step := self._upcoming():
                case Wait(seconds):
                    await self._pause(seconds)
                case Bytes(data):
                    self._steps = heard(data)
                case Drop(reset):
                    self._over = True
                    raise httpx.ReadError("connection reset") if reset else _cut_short()
                case End():
                    self._over = True
                    return step
                case _:
                    return step

    def _upcoming(self) -> Step:
        try:
            return next(self._steps)
        except h11.RemoteProtocolError as error:
            self._over = True
            raise httpx.RemoteProtocolError(str(error)) from error

    async def _pause(self, seconds: float) -> None:
        """Ends early when the provider goes down; raises when the client's patience ends first."""
        token = trio.lowlevel.current_trio_token()
        line = trio.CancelScope()
        cut = self._provider.switched_by(lambda _up: token.run_sync_soon(line.cancel))
        with trio.CancelScope(deadline=self._heard + self._patience) as patience, line, cut:
            await trio.sleep(seconds)
        if patience.cancelled_caught:
            raise httpx.ReadTimeout("the read timed out")

    def _leave(self) -> None:
        if not self._over:
            self._over = True
            self._provider.left(self._index)


def heard(data: bytes) -> Iterator[Step]:
    """What an HTTP client makes of raw bytes and the end of the connection. Raises `h11.RemoteProtocolError`."""
    peer = h11.Connection(h11.CLIENT, max_incomplete_event_size=MOST_HEADERS)
    peer.send(h11.Request(method="GET", target="/", headers=[("host", "wall")]))
    peer.send(h11.EndOfMessage())
    for start in range(0, len(data) + READ, READ):
        peer.receive_data(data[start : start + READ])
        while (event := peer.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            match event:
                case h11.Response():
                    rows = ((name.decode(), value.decode("latin-1")) for name, value in event.headers)
                    yield Head(event.status_code, tuple(rows), None)
                case h11.Data():
                    yield Data(bytes(event.data))
                case h11.EndOfMessage():
                    yield End()
                    return
                case h11.ConnectionClosed():
                    yield Drop()
                    return


def _cut_short() -> httpx.RemoteProtocolError:
    return httpx.RemoteProtocolError("the server closed the connection before the answer was whole")
