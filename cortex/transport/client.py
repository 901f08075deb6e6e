"""`Transport`: one request, from the pool to the reply and back to the pool."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

import attrs
import h11
import httpx
import trio

from cortex.messages import Phase

from .causes import words
from .connection import Body, Connection, Timeouts
from .dial import Connect, TcpConnect, secure
from .pool import Slots
from .pooled import KEEPALIVE_SECONDS, Origin, Pooled, origin_of
from .progress import Progress
from .tls import Cert, Trust


class Transport(Pooled[Connection]):
    """HTTP/1.1 over trio, for `httpx.AsyncClient(transport=Transport())` or on its own.

    `verify`: True (the system's trust), False, the path of a CA bundle or of a directory, or a context of your own.
    `cert`: the client's own certificate, see `Cert`. At most `max_connections` to one origin, whoever comes then waits
    in order; an idle one is kept for `keepalive_expiry` seconds. `connect` opens connections (tests, tunnels).

    Raises httpx's exceptions, whose message is never empty; each has `phase` (`cortex.messages.Phase`) and `reused`.
    Request extensions: `timeout`, `target`, `sni_hostname`; of the response: `http_version`, `reason_phrase`.
    """

    def __init__(
        self,
        *,
        verify: bool | str | ssl.SSLContext | Trust = True,
        cert: Cert | None = None,
        max_connections: int = 1000,
        keepalive_expiry: float = KEEPALIVE_SECONDS,
        connect: Connect | None = None,
    ) -> None:
        super().__init__(max_connections, keepalive_expiry)
        self._trust = verify if isinstance(verify, Trust) else Trust(verify, cert)
        self._connect = connect or TcpConnect()
        self._last: tuple[httpx.URL | None, Origin] = None, ("", "", 0, "")

    # ---- one request

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        progress = Progress.of(request)
        try:
            return await self._carry(request, progress)
        except httpx.HTTPError as error:
            _mark(error, progress)
            if not progress.reused:
                self._trust.forget()  # it may be the first read that tells of a certificate that was renewed
            raise

    async def _carry(self, request: httpx.Request, progress: Progress) -> httpx.Response:
        timeouts = Timeouts.of(request)
        origin = self._origin_of(request)
        head, body = _head(request), _body(request)
        now = trio.current_time()
        slots = self._slots_of(origin, now)
        taken = slots.take(now) if not slots.must_wait() else await self._wait(slots, timeouts.pool)
        connection = taken
        try:
            if connection is None:
                connection = await self._open(origin, timeouts.connect)
            progress.reused = taken is not None
            reply = await connection.exchange(head, body, timeouts, progress)
            progress.phase = Phase.HEADERS
        except BaseException:
            self._give_back(origin, slots, connection, good=False)
            raise
        stream = ReplyStream(
            connection, timeouts.read, progress, lambda good: self._give_back(origin, slots, connection, good)
        )
        headers = reply.headers.raw_items()
        response = httpx.Response(
            reply.status_code,
            headers=headers,
            stream=stream,
            extensions={"http_version": b"HTTP/" + reply.http_version, "reason_phrase": bytes(reply.reason)},
        )
        if all(name.isascii() and value.isascii() for name, value in headers):
            response.headers.encoding = "ascii"  # what httpx would find, anew each time that it looks for a header
        return response

    def _origin_of(self, request: httpx.Request) -> Origin:
        """Whoever makes many requests makes them with the same object: taking it apart takes as long as a lookup."""
        if name := request.extensions.get("sni_hostname"):
            return origin_of(request.url, name)
        if request.url is not self._last[0]:
            self._last = request.url, origin_of(request.url)
        return self._last[1]

    def _give_back(self, origin: Origin, slots: Slots[Connection], connection: Connection | None, good: bool) -> None:
        """Leave the slot, and the connection with it if it can serve again."""
        if connection is not None and not (good and connection.rewind()):
            connection.close()
            connection = None
        self._leave(origin, slots, connection)

    # ---- a new connection

    async def _open(self, origin: Origin, patience: float | None) -> Connection:
        scheme, host, port, name = origin
        step = "to read the certificates"
        with trio.move_on_after(float("inf") if patience is None else patience):
            try:
                context = await self._trust.context() if scheme == "https" else None  # before there is a socket to lose
                step = "to connect"
                link = await self._connect(host, port)
                if context is not None:
                    step = "to agree on TLS"
                    link = await secure(link, context, name)
                return Connection(link)
            except OSError as error:
                raise httpx.ConnectError(words(error) or f"{host}:{port} cannot be reached") from error
        raise httpx.ConnectTimeout(f"{host}:{port} took more than {patience:g} s {step}")


@attrs.define(eq=False)
class ReplyStream(httpx.AsyncByteStream):
    """The body of a reply. A class and no generator: it may be left at any point, with nothing left to unwind."""

    connection: Connection
    patience: float | None
    progress: Progress
    leave: Callable[[bool], None] | None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self.leave is None:
            raise StopAsyncIteration
        try:
            data = await self.connection.read(self.patience)
        except httpx.HTTPError as error:
            _mark(error, self.progress)
            self._end(good=False)
            raise
        except BaseException:
            self._end(good=False)
            raise
        if self.connection.is_over:
            self._end(good=True)  # with the last piece: whoever is next need not wait until it has been looked at
        if not data:
            raise StopAsyncIteration
        return data

    @property
    def is_ended(self) -> bool:
        """Whether nothing is left to be closed."""
        return self.leave is None

    def _end(self, good: bool) -> None:
        leave, self.leave = self.leave, None
        if leave is not None:
            leave(good)

    async def aclose(self) -> None:
        self._end(good=self.leave is not None and self.connection.is_complete())


def _mark(error: httpx.HTTPError, progress: Progress) -> None:
    told: Any = error  # httpx's classes have no such fields
    told.phase, told.reused = progress.phase, progress.reused


def _head(request: httpx.Request) -> h11.Request:
    if request.method == "CONNECT":
        raise httpx.LocalProtocolError("CONNECT opens a tunnel, and this transport has no way to hand one out")
    try:
        target = request.extensions.get("target", request.url.raw_path)
        return h11.Request(method=request.method, target=target, headers=request.headers.raw)
    except h11.LocalProtocolError as error:
        raise httpx.LocalProtocolError(str(error)) from error


def _body(request: httpx.Request) -> Body:
    if isinstance(request.stream, httpx.ByteStream):
        return b"".join(request.stream)
    try:
        return request.content
    except httpx.RequestNotRead:
        if not isinstance(request.stream, httpx.AsyncByteStream):
            raise httpx.LocalProtocolError("the body can only be read by a synchronous client") from None
        return request.stream
