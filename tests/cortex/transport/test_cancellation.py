"""A call that is cancelled anywhere leaves nothing behind: no socket, no slot, no waiter, and a pool that serves.

Each scenario is run again and again, cancelled at its first step, its second, and so on, until it ends uncancelled.
"""

from __future__ import annotations

import datetime
import errno
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio
from trio.lowlevel import Task

from cortex.transport import Link, Transport
from cortex.transport.pool import Slots

Call = Callable[[Transport], Awaitable[None]]

MANY = 400
"""More steps than any scenario has: an endless one is a fault."""


# ------------------------------------------------------------------------------------------------- cancel at a step


@attrs.define(eq=False)
class AtStep(trio.abc.Instrument):
    """Cancels `scope` at the nth step of the task and its children.

    "waiting": right after it began to wait. "served": right before it goes on, with what it waited for in its hands;
    the cancel is felt at the next checkpoint.
    """

    n: int
    moment: str
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    steps: int = 0
    tasks: set[Task] = attrs.field(factory=set)

    def task_spawned(self, task: Task) -> None:
        nursery = task.parent_nursery
        if nursery is not None and nursery.parent_task in self.tasks:
            self.tasks.add(task)

    def before_task_step(self, task: Task) -> None:
        if self.moment == "served":
            self._count(task)

    def after_task_step(self, task: Task) -> None:
        if self.moment == "waiting":
            self._count(task)

    def _count(self, task: Task) -> None:
        if task in self.tasks:
            self.steps += 1
            if self.steps > self.n:
                self.scope.cancel()

    async def run(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Whether it ended before it was cancelled."""
        self.tasks.add(trio.lowlevel.current_task())
        trio.lowlevel.add_instrument(self)
        try:
            with self.scope:
                await work()
                return True
        finally:
            trio.lowlevel.remove_instrument(self)
        return False


# ------------------------------------------------------------------------------------------------------- the servers

PIECES = (
    b"HTTP/1.1 103 Early Hints\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
    b"3\r\none\r\n",
    b"3\r\ntwo\r\n",
    b"0\r\n\r\n",
)


async def serve(stream: trio.abc.Stream) -> None:
    """Answer every request in pieces, each of them a step for whoever reads."""
    try:
        while await _request(stream):
            for piece in PIECES:
                await stream.send_all(piece)
                for _ in range(3):
                    await trio.lowlevel.checkpoint()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    finally:
        await trio.aclose_forcefully(stream)


async def _request(stream: trio.abc.Stream) -> bool:
    data = b""
    while b"\r\n\r\n" not in data:
        if not (more := await stream.receive_some(65536)):
            return False
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), 0)
    ending = b"0\r\n\r\n" if b"chunked" in head else b""
    if b"100-continue" in head:
        await stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\n")
    size, tail = len(body), body[-5:]
    while size < length or not tail.endswith(ending):
        if not (more := await stream.receive_some(65536)):
            return False
        size, tail = size + len(more), (tail + more)[-5:]
    return True


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The contexts of a server at 127.0.0.1 and of a client that trusts it."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
    where = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("many.test")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - datetime.timedelta(1)).add_extension(where, False)
    certificate = builder.not_valid_after(now + datetime.timedelta(1)).sign(key, hashes.SHA256())
    file: Path = tmp_path_factory.mktemp("tls") / "both.pem"
    plain = serialization.NoEncryption()
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + secret)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    return server, ssl.create_default_context(cafile=str(file))


def secured(handler: Callable[[trio.abc.Stream], Awaitable[None]], context: ssl.SSLContext) -> Any:
    return lambda stream: handler(trio.SSLStream(stream, context, server_side=True, https_compatible=True))


@attrs.define(eq=False)
class World:
    """A server, the way to it, and how many links of ours are open."""

    url: str
    links: Callable[[], int]
    make: Callable[[], Transport]


@asynccontextmanager
async def loopback(open_files: Any, tls: Any = None, host: str = "127.0.0.1") -> AsyncIterator[World]:
    async with trio.open_nursery() as nursery:
        handler = secured(serve, tls[0]) if tls else serve
        (listener,) = await nursery.start(partial(trio.serve_tcp, handler, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        before = open_files()
        url = f"http{'s' if tls else ''}://{host}:{port}/"
        yield World(url, lambda: len(open_files() - before), partial(Transport, verify=tls[1] if tls else True))
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def memory(tls: Any = None) -> AsyncIterator[World]:
    """No sockets: `connect` gives one end of a pair of streams."""
    async with trio.open_nursery() as nursery:
        handler = secured(serve, tls[0]) if tls else serve
        ours: set[trio.abc.Stream] = set()

        async def connect(_host: str, _port: int) -> Link:
            await trio.lowlevel.checkpoint()
            near, far = trio.testing.memory_stream_pair()

            def close() -> None:
                ours.discard(near)
                near.send_stream.close()
                near.receive_stream.close()

            ours.add(near)
            nursery.start_soon(handler, far)
            return Link(near, close, lambda: True)

        verify = tls[1] if tls else True
        url = f"http{'s' if tls else ''}://127.0.0.1/"
        yield World(url, lambda: len(ours), partial(Transport, verify=verify, connect=connect))
        nursery.cancel_scope.cancel()


# --------------------------------------------------------------------------------------------------------- the calls

LARGE = b"x" * 300_000


class Streamed(httpx.AsyncByteStream):
    """A body that is left by whoever reads it must be told so at once: garbage would warn, and warnings are errors."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(3):
            await trio.lowlevel.checkpoint()
            yield b"piece"


def request(url: str, body: str = "none") -> httpx.Request:
    content: dict[str, Any] = {"none": {}, "small": {"content": b"small"}, "large": {"content": LARGE}}
    headers = {"expect": "100-continue"} if body == "expected" else {}
    if body in ("streamed", "expected"):
        content, headers = {body: {"stream": Streamed()}}, {**headers, "transfer-encoding": "chunked"}
    extensions = {"timeout": {"pool": 5.0}}
    return httpx.Request("POST", url, **content[body], headers={"host": "x", **headers}, extensions=extensions)


async def whole(transport: Transport, url: str, body: str = "none") -> None:
    """One call from its beginning to its end."""
    response = await transport.handle_async_request(request(url, body))
    try:
        assert b"".join([piece async for piece in aiter(response.stream)]) == b"onetwo"  # type: ignore[arg-type]
    finally:
        await response.aclose()


async def half(transport: Transport, url: str) -> None:
    """One that is closed in the middle of its body."""
    response = await transport.handle_async_request(request(url))
    try:
        assert await anext(aiter(response.stream))  # type: ignore[arg-type]
    finally:
        await response.aclose()


async def settle(count: Callable[[], int], wanted: int) -> None:
    """The server hears of the end of a connection a moment later."""
    with trio.move_on_after(2):
        while count() != wanted:  # noqa: ASYNC110 - the kernel has no event for it
            await trio.sleep(0.001)
    assert count() == wanted


def pools(transport: Transport) -> list[Slots[Any]]:
    return list(transport._origins.values())


async def sweep(world: World, call: Call, moment: str, *, warm: bool = False, factor: int = 1) -> int:
    """Cancel `call` at each of its steps, and look around after each time. `factor`: files to a connection."""
    for n in range(MANY):
        transport = world.make()
        if warm:
            await whole(transport, world.url)
        ended = await AtStep(n, moment).run(partial(call, transport))
        idle = sum(pool.idle for pool in pools(transport))
        assert sum(pool.in_use + pool.waiting for pool in pools(transport)) == 0
        assert idle <= 1
        await settle(world.links, idle * factor)
        with trio.fail_after(2):
            await whole(transport, world.url)
        await transport.aclose()
        await settle(world.links, 0)
        if ended:
            return n
    raise AssertionError(f"it has more than {MANY} steps")


MOMENTS = pytest.mark.parametrize("moment", ["waiting", "served"])


@MOMENTS
@pytest.mark.parametrize(
    ("body", "secure"),
    [
        *((body, False) for body in ("none", "small", "large", "streamed", "expected")),
        ("large", True),
        *(pytest.param(body, True, marks=pytest.mark.slow) for body in ("small", "streamed")),
    ],
)
async def test_over_sockets(body: str, secure: bool, moment: str, tls: Any, open_files: Any) -> None:
    async with loopback(open_files, tls if secure else None) as world:
        steps = await sweep(world, lambda transport: whole(transport, world.url, body), moment, factor=2)
    assert steps > 3


@MOMENTS
@pytest.mark.parametrize(
    ("body", "secure"),
    [("small", False), ("large", False), ("streamed", False), pytest.param("large", True, marks=pytest.mark.slow)],
)
async def test_in_memory(body: str, secure: bool, moment: str, tls: Any) -> None:
    async with memory(tls if secure else None) as world:
        steps = await sweep(world, lambda transport: whole(transport, world.url, body), moment)
    assert steps > 5


@MOMENTS
@pytest.mark.parametrize("work", [whole, half])
async def test_on_a_connection_that_served_before(work: Any, moment: str, open_files: Any) -> None:
    async with loopback(open_files) as world:
        await sweep(world, lambda transport: work(transport, world.url), moment, warm=True, factor=2)


@MOMENTS
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_several_addresses(
    secure: bool, moment: str, monkeypatch: pytest.MonkeyPatch, tls: Any, open_files: Any
) -> None:
    """A closed port, the server twice: the losers of the race are closed, and so is a winner whom nobody awaits."""
    look_up = socket.getaddrinfo
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))

        def find(host: Any, port: int, *given: Any, **more: Any) -> Any:
            if host not in ("many.test", b"many.test"):
                return look_up(host, port, *given, **more)
            if more.get("flags"):
                raise socket.gaierror(socket.EAI_NONAME, "a name")
            kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
            return [(*kind, closed.getsockname()), (*kind, ("127.0.0.1", port)), (*kind, ("127.0.0.1", port))]

        monkeypatch.setattr(socket, "getaddrinfo", find)
        async with loopback(open_files, tls if secure else None, host="many.test") as world:
            steps = await sweep(world, lambda transport: whole(transport, world.url), moment, factor=2)
    assert steps > 5


@MOMENTS
async def test_waiting_for_a_connection(moment: str) -> None:
    """One connection, held by another call: whoever waits may leave at any moment, and be served in that very one."""

    async def behind(transport: Transport, url: str) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(whole, transport, url)
            await trio.lowlevel.checkpoint()
            for _ in range(2):
                nursery.start_soon(whole, transport, url)

    async with memory() as world:
        make = world.make
        world.make = partial(make, max_connections=1)
        steps = await sweep(world, lambda transport: behind(transport, world.url), moment)
    assert steps > 20


@pytest.mark.parametrize("served", [False, True])
async def test_a_waiter_that_leaves_passes_its_turn_on(served: bool) -> None:
    """`served`: it is handed a connection in the very moment in which it is cancelled."""
    slots: Slots[Any] = Slots(1)
    slots.take(0.0)
    given, got = Reusable(), []
    scope = trio.CancelScope()

    async def wait(mine: trio.CancelScope) -> None:
        with mine:
            got.append((mine, await slots.wait()))

    async with trio.open_nursery() as nursery:
        for mine in (scope, other := trio.CancelScope()):
            nursery.start_soon(wait, mine)
            await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        if not served:
            await trio.testing.wait_all_tasks_blocked()
        slots.give(given, 0.0)
    assert got == [(other, given)]
    assert (slots.in_use, slots.waiting) == (1, 0)


@attrs.define(eq=False)
class Reusable:
    good: bool = True
    closed: bool = False

    def is_usable(self) -> bool:
        return self.good

    def close(self) -> None:
        self.closed = True


async def test_a_waiter_is_not_handed_a_connection_that_died_on_the_way() -> None:
    slots: Slots[Any] = Slots(1)
    slots.take(0.0)
    connection = Reusable()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def wait() -> None:
            assert await slots.wait() is None

        await trio.testing.wait_all_tasks_blocked()
        slots.give(connection, 0.0)
        connection.good = False
    assert connection.closed
    assert slots.in_use == 1


async def test_a_connection_that_is_given_to_a_closed_transport_is_closed() -> None:
    """It was handed to a waiter, which was cancelled; the transport was closed in between."""
    slots: Slots[Any] = Slots(1)
    slots.take(0.0)
    connection = Reusable()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slots.wait)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        slots.give(connection, 0.0)
        slots.close()
    assert connection.closed
    assert slots.is_unused


async def test_a_call_that_is_closed_while_another_task_reads_it_does_not_hang(nursery: trio.Nursery) -> None:
    (listener,) = await nursery.start(partial(trio.serve_tcp, mute, 0, host="127.0.0.1"))
    async with Transport() as transport:
        response = await transport.handle_async_request(
            request(f"http://127.0.0.1:{listener.socket.getsockname()[1]}/")
        )
        stopped = trio.Event()

        async def read() -> None:
            with pytest.raises(httpx.ReadError):
                await anext(aiter(response.stream))  # type: ignore[arg-type]
            stopped.set()

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        await response.aclose()
        with trio.fail_after(1):
            await stopped.wait()


async def mute(stream: trio.SocketStream) -> None:
    await stream.receive_some(65536)
    await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")
    await trio.sleep_forever()


async def test_no_descriptor_is_left_when_the_first_step_of_a_connection_fails(
    monkeypatch: pytest.MonkeyPatch, open_files: Any
) -> None:
    async def broken(_self: Any, _address: Any) -> None:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    before = open_files()
    with trio.socket.socket() as one:
        monkeypatch.setattr(type(one), "connect", broken)
    async with Transport() as transport:
        with pytest.raises(httpx.ConnectError, match="unreachable"):
            await transport.handle_async_request(request("http://127.0.0.1:9/"))
        assert pools(transport) == []
    assert not open_files() - before
