"""What the tests of the transport share: raw servers on loopback, servers in memory, one request told as a value."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import attrs
import httpx
import pytest
import trio

from cortex.transport import Link, Transport

LINGER_NOT = b"\1\0\0\0\0\0\0\0"
"""With it, closing a socket sends RST."""

Handler = Callable[[Any], Awaitable[None]]


# ------------------------------------------------------------------------------------------------ one request


@attrs.frozen
class Got:
    """A reply, or the exception that came instead of it or in its middle."""

    status: int | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""
    version: bytes | None = None
    reason: bytes | None = None
    error: Exception | None = None

    @property
    def failure(self) -> type[Exception] | None:
        return None if self.error is None else type(self.error)


async def ask(
    transport: httpx.AsyncBaseTransport,
    url: str,
    method: str = "GET",
    *,
    timeout: float | dict[str, float | None] = 5.0,  # httpx's own names
    **more: Any,
) -> Got:
    """One request, its reply read to the end. Whatever is no exception of httpx is raised."""
    patience = timeout if isinstance(timeout, dict) else dict.fromkeys(("connect", "read", "write", "pool"), timeout)
    request = httpx.Request(method, url, extensions={"timeout": patience}, **more)
    got, body = Got(), bytearray()
    try:
        response = await transport.handle_async_request(request)
        got = Got(
            response.status_code,
            tuple(response.headers.raw),
            version=response.extensions["http_version"],
            reason=response.extensions["reason_phrase"],
        )
        try:
            async for piece in response.aiter_raw():
                body += piece
        finally:
            await response.aclose()
    except httpx.HTTPError as error:
        got = attrs.evolve(got, error=error)
    return attrs.evolve(got, body=bytes(body))


@pytest.fixture(scope="session", name="ask")
def _ask() -> Any:
    """`await ask(transport, url, method="GET", timeout=5, **of the request)` -> what came of it."""
    return ask


def open_files() -> frozenset[tuple[int, int]]:
    """Number and inode of each. What is new counts: an earlier test's may be closed at any time."""
    found = set()
    for number in map(int, os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd")):
        with suppress(OSError):  # the listing's own is closed by now
            found.add((number, os.fstat(number).st_ino))
    return frozenset(found)


@pytest.fixture(scope="session", name="open_files")
def _open_files() -> Any:
    """`open_files()`: those of this process, as a set."""
    return open_files


# ------------------------------------------------------------------------------------------------ servers on loopback


async def start(nursery: trio.Nursery, handler: Handler, scheme: str = "http") -> str:
    """Serve raw connections on loopback until the nursery ends; gives the address. A client that leaves is no fault."""

    async def served(stream: trio.SocketStream) -> None:
        try:
            await handler(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            stream.socket.close()

    (listener,) = await nursery.start(partial(trio.serve_tcp, served, 0, host="127.0.0.1"))
    return f"{scheme}://127.0.0.1:{listener.socket.getsockname()[1]}"


@asynccontextmanager
async def serving(handler: Handler, scheme: str = "http") -> AsyncIterator[str]:
    async with trio.open_nursery() as nursery:
        yield await start(nursery, handler, scheme)
        nursery.cancel_scope.cancel()


@pytest.fixture(scope="session", name="serving")
def _serving() -> Any:
    """`async with serving(handler, scheme="http") as url`."""
    return serving


@pytest.fixture
def serve(nursery: trio.Nursery) -> Any:
    """`url = await serve(handler, scheme="http")`: until the test's end."""
    return partial(start, nursery)


async def heard(stream: Any, data: bytes = b"") -> tuple[bytes, bytes] | None:
    """The head and the body of the next request, as they came; None when there is none. `data` came before."""
    while b"\r\n\r\n" not in data:
        more = await stream.receive_some(65536)
        if not more:
            return None
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    chunked = b"transfer-encoding" in fields
    length = int(fields.get(b"content-length", 0))
    while not body.endswith(b"0\r\n\r\n") if chunked else len(body) < length:
        more = await stream.receive_some(65536)
        if not more:
            break
        body += more
    return head, body


@pytest.fixture(scope="session", name="heard")
def _heard() -> Any:
    return heard


def answering(*replies: bytes, reset: bool = False, log: list[Any] | None = None) -> Handler:
    """Read one request for each reply; after the last one hang up."""

    async def handler(stream: Any) -> None:
        for reply in replies:
            request = await heard(stream)
            if request is None:
                return
            if log is not None:
                log.append(request)
            if reply:
                await stream.send_all(reply)
        if reset:
            await trio.sleep(0.02)
            stream.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, LINGER_NOT)

    return handler


@pytest.fixture(scope="session", name="answering")
def _answering() -> Any:
    return answering


# ------------------------------------------------------------------------------------------------ servers in memory

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Peer(trio.abc.Stream):
    """One connection to a server in memory, seen by the client: `reply` tells what it answers to which request."""

    def __init__(self, reply: Callable[[Peer], bytes]) -> None:
        self.requests: list[bytes] = []
        self.closed = False
        self.left = False
        """The server hung up."""
        self._reply = reply
        self._inbox = bytearray()
        self._news = trio.Event()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        self.requests.append(bytes(data))
        self.say(self._reply(self))

    def say(self, data: bytes) -> None:
        """Something comes from the server, asked for or not."""
        if data:
            self._inbox += data
            self._wake()

    def leave(self) -> None:
        self.left = True
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        while not (self._inbox or self.left):
            await self._news.wait()
        data = bytes(self._inbox[:max_bytes])
        del self._inbox[:max_bytes]
        return data

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        self.closed = True

    def is_silent(self) -> bool:
        return not (self._inbox or self.left)


class Peers:
    """A `connect` whose servers answer in memory: no sockets, any clock. `reply(peer)` is asked for each request."""

    def __init__(self, reply: Callable[[Peer], bytes] = lambda _peer: OK) -> None:
        self.reply = reply
        self.opened: list[Peer] = []
        self.addresses: list[tuple[str, int]] = []
        self.connecting = 0.0
        """Seconds that it takes to connect."""

    async def __call__(self, host: str, port: int) -> Link:
        await trio.sleep(self.connecting)
        peer = Peer(lambda peer: self.reply(peer))
        self.opened.append(peer)
        self.addresses.append((host, port))
        return Link(peer, peer.close, peer.is_silent)

    @property
    def alive(self) -> int:
        return sum(not peer.closed for peer in self.opened)

    def transport(self, **options: Any) -> Transport:
        return Transport(connect=self, **options)


@pytest.fixture(scope="session", name="Peers")
def _peers() -> type[Peers]:
    return Peers


@pytest.fixture
def peers() -> Peers:
    return Peers()


# ------------------------------------------------------------------------------------------------ tunnels


class Tunnel:
    """A proxy that makes tunnels: it says `reply` to CONNECT, and passes on to `port` what comes then; None: to nobody,
    and it says nothing more."""

    def __init__(self, reply: bytes = b"HTTP/1.1 200 OK\r\n\r\n", port: int | None = None) -> None:
        self.open = 0
        self.most = 0
        self.heads: list[bytes] = []
        self._reply = reply
        self._port = port

    async def __call__(self, client: trio.SocketStream) -> None:
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            if (request := await heard(client)) is not None:
                self.heads.append(request[0])
            if self._reply:
                await client.send_all(self._reply)
            if self._port is None:
                async for _ in client:
                    pass
                return
            async with await trio.open_tcp_stream("127.0.0.1", self._port) as server, trio.open_nursery() as nursery:
                nursery.start_soon(_pass_on, client, server)
                nursery.start_soon(_pass_on, server, client)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self.open -= 1


async def _pass_on(source: Any, target: Any) -> None:
    """Until one of them leaves; TLS cannot leave in one direction."""
    async for data in source:
        await target.send_all(data)
    await target.send_eof() if isinstance(target, trio.SocketStream) else await target.aclose()


@pytest.fixture(scope="session")
def tunnel() -> type[Tunnel]:
    """`tunnel(reply, port)`: a handler that is a proxy."""
    return Tunnel
