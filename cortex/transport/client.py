"""`Transport`: one request, from the pool to the reply and back to the pool."""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn, TypeAlias

import attrs
import httpx
import trio

from cortex.messages import Phase

from .causes import words
from .connection import Connection, Timeouts
from .dial import Connect, Link, TcpConnect, secure
from .pool import Slots
from .progress import Progress
from .proxy import MAX_PORT, Proxy, through
from .request import parts_of
from .tls import Cert, Trust

Origin: TypeAlias = tuple[str, str, int, str]
"""Scheme, host, port, and the name that the server's certificate has to bear."""

KEEPALIVE_SECONDS = 5.0
"""Servers give up idle connections after 5 s and more; a shorter wait here loses fewer races against that."""

_PORTS = {"http": 80, "https": 443}


class Transport(httpx.AsyncBaseTransport):
    """HTTP/1.1 over trio, for `httpx.AsyncClient(transport=Transport())` or on its own.

    `verify`: True (the system's trust), False, the path of a CA bundle or of a directory, or a context of your own.
    `cert`: the client's own certificate, see `Cert`. `proxy`: the address of an HTTP, HTTPS or SOCKS5 proxy, with user
    and password if it wants any. At most `max_connections` to one origin, whoever comes then waits in order; an idle
    one is kept for `keepalive_expiry` seconds. `connect` opens connections (tests, tunnels). TypeError and ValueError
    for what is none of these. It is for one `trio.run`, as its connections are.

    Raises httpx's exceptions, whose message is never empty; each has `phase` (`cortex.messages.Phase`) and `reused`.
    Request extensions: `timeout`, `target`, `sni_hostname`; of the response: `http_version`, `reason_phrase`.
    """

    def __init__(
        self,
        *,
        verify: bool | str | ssl.SSLContext = True,
        cert: Cert | None = None,
        proxy: str | None = None,
        max_connections: int = 1000,
        keepalive_expiry: float = KEEPALIVE_SECONDS,
        connect: Connect | None = None,
    ) -> None:
        self._trust = Trust(verify, cert)
        self._proxy = None if proxy is None else Proxy.at(proxy)
        self._max_connections = max_connections
        self._expiry = keepalive_expiry
        self._connect = connect or TcpConnect()
        self._origins: dict[Origin, Slots[Connection]] = {}
        self._swept = 0.0
        self._drift = float("inf")
        self._rested = trio.Event()
        self._last: tuple[httpx.URL | None, Origin] = None, ("", "", 0, "")
        self._closed = False

    def __repr__(self) -> str:
        used = sum(slots.in_use for slots in self._origins.values())
        return f"<Transport: {used} connections in use, {sum(slots.idle for slots in self._origins.values())} idle>"

    # ---- one request

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        progress = Progress.of(request)
        try:
            return await self._carry(request, progress)
        except httpx.HTTPError as error:
            _mark(error, progress)
            if not progress.reused:
                self._trust.doubt()  # it may be the first read that tells of a certificate that was renewed
            raise

    async def _carry(self, request: httpx.Request, progress: Progress) -> httpx.Response:
        timeouts: Timeouts = request.extensions.get("timeout", {})
        origin = self._origin_of(request)
        head, body = parts_of(request, self._proxy)
        now = trio.current_time()
        slots = self._slots_of(origin, now)
        taken = slots.take(now) if not slots.must_wait() else await self._wait(slots, timeouts.get("pool"))
        connection = taken
        try:
            if connection is None:
                connection = await self._open(origin, timeouts.get("connect"))
            progress.reused = taken is not None
            reply, headers = await connection.exchange(head, body, timeouts, progress)
            progress.phase = Phase.HEADERS
        except BaseException:
            self._leave(origin, slots, connection, good=False)
            raise
        stream = ReplyStream(
            connection, timeouts.get("read"), progress, lambda good: self._leave(origin, slots, connection, good)
        )
        response = httpx.Response(
            reply.status_code,
            headers=headers,
            stream=stream,
            extensions={"http_version": b"HTTP/" + reply.http_version, "reason_phrase": bytes(reply.reason)},
        )
        if b"".join([value for _, value in headers]).isascii():
            response.headers.encoding = "ascii"  # what httpx would find, anew each time that it looks for a header
        return response

    def _origin_of(self, request: httpx.Request) -> Origin:
        """Whoever makes many requests makes them with the same object: taking it apart takes as long as a lookup."""
        if name := request.extensions.get("sni_hostname"):
            return _origin(request.url, name)
        if request.url is not self._last[0]:
            self._last = request.url, _origin(request.url)
        return self._last[1]

    def _slots_of(self, origin: Origin, now: float) -> Slots[Connection]:
        if self._closed:
            raise httpx.LocalProtocolError("this transport is closed")
        self._wake(now)
        self._sweep(now)
        slots = self._origins.get(origin)
        if slots is None:
            slots = self._origins[origin] = Slots(self._max_connections, self._expiry)
        return slots

    async def _wait(self, slots: Slots[Connection], patience: float | None) -> Connection | None:
        with trio.move_on_after(float("inf") if patience is None else patience):
            return await slots.wait()
        raise httpx.PoolTimeout(f"all {slots.limit} connections were in use for {patience:g} s")

    def _leave(self, origin: Origin, slots: Slots[Connection], connection: Connection | None, good: bool) -> None:
        """Give the slot back, and the connection with it if it can serve again."""
        if connection is not None and not (good and connection.may_serve_again()):
            connection.close()
            connection = None
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
        if abs(now - self._swept) >= self._expiry:  # each trio.run has a clock of its own, which may read less
            self._sweep_all(now)

    def _sweep_all(self, now: float) -> None:
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
            self._sweep_all(trio.current_time())

    # ---- a new connection

    async def _open(self, origin: Origin, patience: float | None) -> Connection:
        scheme, host, port, name = origin
        step = "to read the certificates"
        with trio.move_on_after(float("inf") if patience is None else patience):
            try:
                if not 0 <= port <= MAX_PORT:
                    raise OSError(f"there is no port {port}")  # the resolver would take what is left of it
                context = await self._trust.context() if scheme == "https" else None  # before there is a socket to lose
                step = "to connect" if self._proxy is None else "to connect through the proxy"
                link = await self._reach(scheme, host, port)
                if context is not None:
                    step = "to agree on TLS"
                    link = await secure(link, context, name)
                return Connection(link)
            except OSError as error:
                raise httpx.ConnectError(words(error) or f"{host}:{port} cannot be reached") from error
        raise httpx.ConnectTimeout(f"{host}:{port} took more than {patience:g} s {step}")

    async def _reach(self, scheme: str, host: str, port: int) -> Link:
        if self._proxy is None:
            return await self._connect(host, port)
        return await through(self._proxy, self._connect, scheme, host, port, self._trust.context)

    # ---- the end

    async def aclose(self) -> None:
        """Close what is idle; what is under way goes on, and is closed at its end."""
        self._closed = True
        for slots in self._origins.values():
            slots.close()
        await trio.lowlevel.checkpoint()


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


def _origin(url: httpx.URL, name: str | None = None) -> Origin:
    """The origin of an address; `name`: what the certificate has to bear where that is not the host."""
    host = url.raw_host.decode("ascii")
    if url.scheme not in _PORTS or not host:
        raise httpx.UnsupportedProtocol(f"{url.scheme!r} is no scheme of this transport: use http or https, and a host")
    return url.scheme, host, _PORTS[url.scheme] if url.port is None else url.port, name or host
