"""Through a proxy: HTTP, HTTPS and SOCKS5."""

from __future__ import annotations

from functools import partial
from typing import Any

import httpx
import pytest
import trio
import trio.testing

from cortex.clients import new_client
from cortex.exchange import exchange
from cortex.messages import Failure, Kind, Message, Phase, Request, Text
from cortex.timers import Chance, Timers
from cortex.transport import Transport
from cortex.vendors import ProviderConfig, provider
from cortex.wire import WIRES
from cortex.wire.codec import Target

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def config(url: str, proxy: str) -> ProviderConfig:
    return provider("openai", {"api_key": "k", "base_url": url, "proxy": proxy}, {})


class ForwardProxy:
    """Passes each request on to the server it names, and everything between the two, until one of them leaves."""

    def __init__(self, heard: Any) -> None:
        self.lines: list[bytes] = []
        self.heads: list[bytes] = []
        self.open = 0
        self.most = 0
        self._heard = heard

    async def __call__(self, client: trio.SocketStream) -> None:
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            while (request := await self._heard(client)) is not None:
                head, body = request
                line, _, rest = head.partition(b"\r\n")
                self.lines.append(line)
                self.heads.append(head)
                method, address, version = line.split(b" ")
                url = httpx.URL(address.decode())
                server = await trio.open_tcp_stream(url.host, url.port or 80)
                async with server:
                    path = b" ".join([method, url.raw_path, version])
                    await server.send_all(path + b"\r\n" + rest + b"\r\nconnection: close\r\n\r\n" + body)
                    async for data in server:
                        await client.send_all(data)
        finally:
            self.open -= 1


@pytest.fixture
def forward(heard: Any) -> ForwardProxy:
    return ForwardProxy(heard)


class Gate:
    """A server that answers when it is let to, once to each connection."""

    def __init__(self, heard: Any) -> None:
        self.let = trio.Event()
        self.asked = 0
        self._heard = heard

    async def __call__(self, stream: trio.SocketStream) -> None:
        await self._heard(stream)
        self.asked += 1
        await self.let.wait()
        await stream.send_all(OK)


@pytest.fixture
def gate(heard: Any) -> Gate:
    return Gate(heard)


async def test_a_request_is_carried_by_the_proxy(forward: ForwardProxy, gate: Gate, serve: Any, ask: Any) -> None:
    gate.let.set()
    url, proxy = await serve(gate), await serve(forward)
    async with new_client(config(url, proxy)) as transport:
        got = await ask(transport, f"{url}/v1/chat?a=b", "POST", content=b"hello")
    assert (got.status, got.body) == (200, b"ok")
    assert forward.lines == [b"POST %s/v1/chat?a=b HTTP/1.1" % url.encode()]


async def test_the_proxys_password_is_for_the_proxy_and_for_nobodys_eyes(
    forward: ForwardProxy, gate: Gate, serve: Any, ask: Any
) -> None:
    gate.let.set()
    url, proxy = await serve(gate), await serve(forward)
    secret = proxy.replace("http://", "http://me:pass-word@")
    async with new_client(config(url, secret)) as transport:
        await ask(transport, url)
        assert b"proxy-authorization: Basic bWU6cGFzcy13b3Jk" in forward.heads[0]
        assert "pass-word" not in repr(config(url, secret)) + repr(transport)


async def test_a_proxy_that_is_not_there(serve: Any, ask: Any) -> None:
    closed = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = closed[0].socket.getsockname()[1]
    await closed[0].aclose()
    async with new_client(config("http://server.example/v1", f"http://me:pass-word@127.0.0.1:{port}")) as client:
        got = await ask(client, "http://server.example/v1")
    assert got.failure is httpx.ProxyError
    assert "Connection refused" in str(got.error)
    assert "pass-word" not in str(got.error)


async def test_a_proxy_that_refuses_to_tunnel(serve: Any, heard: Any, ask: Any) -> None:
    async def handler(stream: trio.SocketStream) -> None:
        await heard(stream)
        await stream.send_all(b"HTTP/1.1 407 Who are you\r\ncontent-length: 0\r\n\r\n")

    async with new_client(config("https://server.example/v1", await serve(handler))) as client:
        got = await ask(client, "https://server.example/v1")
    assert got.failure is httpx.ProxyError
    assert "407" in str(got.error)


async def test_the_bound_holds(forward: ForwardProxy, gate: Gate, serve: Any, ask: Any) -> None:
    url, proxy = await serve(gate), await serve(forward)
    statuses: list[int | None] = []

    async def call() -> None:
        statuses.append((await ask(transport, url)).status)

    async with Transport(proxy=proxy, max_connections=3) as transport, trio.open_nursery() as nursery:
        for _ in range(12):
            nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert (forward.most, gate.asked) == (3, 3)
        gate.let.set()
    assert statuses == [200] * 12
    assert forward.most == 3


async def test_a_wait_that_takes_too_long(forward: ForwardProxy, gate: Gate, serve: Any, ask: Any) -> None:
    url, proxy = await serve(gate), await serve(forward)
    async with Transport(proxy=proxy, max_connections=1) as transport, trio.open_nursery() as nursery:
        nursery.start_soon(partial(ask, transport, url))
        await trio.testing.wait_all_tasks_blocked(0.02)
        got = await ask(transport, url, timeout={"pool": 0.02})
        assert got.failure is httpx.PoolTimeout
        assert str(got.error) == "all 1 connections were in use for 0.02 s"
        gate.let.set()


@pytest.mark.parametrize("when", ["waiting for a slot", "waiting for the answer"])
async def test_a_call_that_is_cancelled_leaves_no_slot_taken(
    when: str, forward: ForwardProxy, gate: Gate, serve: Any, ask: Any
) -> None:
    url, proxy = await serve(gate), await serve(forward)
    async with Transport(proxy=proxy, max_connections=2) as transport:
        async with trio.open_nursery() as held:
            if when == "waiting for a slot":
                for _ in range(2):
                    held.start_soon(partial(ask, transport, url))
                await trio.testing.wait_all_tasks_blocked(0.02)
            for _ in range(5):
                with trio.move_on_after(0.02) as scope:
                    await ask(transport, url, timeout={})
                assert scope.cancelled_caught
            gate.let.set()
        assert [(await ask(transport, url)).status for _ in range(3)] == [200] * 3
        assert repr(transport).startswith("<Transport: 0 connections in use")


async def test_a_reply_gives_its_slot_back_once_however_often_it_is_closed(
    forward: ForwardProxy, gate: Gate, serve: Any
) -> None:
    gate.let.set()
    url, proxy = await serve(gate), await serve(forward)
    async with Transport(proxy=proxy, max_connections=1) as transport:
        for _ in range(3):
            response = await transport.handle_async_request(httpx.Request("GET", url))
            await response.aclose()
            await response.aclose()
            await response.stream.aclose()  # type: ignore[union-attr]
        assert repr(transport) == "<Transport: 0 connections in use, 1 idle>"


# ------------------------------------------------------------------------------------------------------------ tunnels


async def told(url: str, proxy: str, **more: Any) -> Failure:
    """What an exchange through a proxy comes to."""
    target, wire = Target("openai", url, "m", "k"), WIRES["openai_chat"]
    timers = Timers(connect=0.2, first=Chance(0.6), progress=1.0, write=1.0)
    call = wire.encode(Request((Message("user", (Text("hi"),)),)), target)
    async with new_client(provider("openai", {"api_key": "k", "base_url": url, "proxy": proxy, **more}, {})) as client:
        result = (await exchange(client, wire, target, call, timers, None)).result
    assert isinstance(result, Failure)
    return result


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 200 OK\r\n\r\n"], ids=["no tunnel", "no TLS"])
async def test_a_call_that_is_cancelled_while_a_tunnel_is_made_leaves_nothing(
    reply: bytes, serve: Any, tunnel: Any, ask: Any
) -> None:
    proxy = tunnel(reply)
    async with new_client(config("https://server.example/v1", await serve(proxy))) as transport:
        for _ in range(5):
            with trio.move_on_after(0.03) as scope:
                await ask(transport, "https://server.example/v1", timeout={})
            assert scope.cancelled_caught
            with trio.fail_after(1):
                while proxy.open:  # noqa: ASYNC110 - the proxy hears of it by the network
                    await trio.sleep(0.002)
        assert proxy.most == 1
        assert repr(transport) == "<Transport: 0 connections in use, 0 idle>"


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 200 OK\r\n\r\n"], ids=["no tunnel", "no TLS"])
async def test_what_is_said_to_a_proxy_is_no_part_of_the_request(reply: bytes, serve: Any, tunnel: Any) -> None:
    proxy = tunnel(reply)
    before = trio.current_time()
    failure = await told("https://server.example/v1", await serve(proxy))
    assert trio.current_time() - before < 0.5
    assert (failure.kind, failure.phase) == (Kind.TIMEOUT_CONNECT, Phase.NOT_SENT)
    assert proxy.heads[0].startswith(b"CONNECT server.example:443 ")


@pytest.mark.parametrize("address", ["server.example:8443", "127.0.0.1:8443", "[::1]:8443"])
async def test_a_tunnel_is_asked_for_by_name_and_told_nothing_else(
    address: str, serve: Any, tunnel: Any, ask: Any
) -> None:
    proxy = tunnel(b"HTTP/1.1 403 Not for p@ss Basic bWU6cEBzcw==\r\ncontent-length: 5\r\n\r\nhello")
    named = (await serve(proxy)).replace("http://", "http://me:p%40ss@")
    async with new_client(config(f"https://{address}/v1", named)) as transport:
        got = await ask(transport, f"https://{address}/v1", headers={"authorization": "Bearer secret"})
    assert (got.failure, str(got.error)) == (
        httpx.ProxyError,
        "the proxy answered 403 Not for [secret] Basic [secret]",
    )
    line, *fields = proxy.heads[0].split(b"\r\n")
    assert line == b"CONNECT %b HTTP/1.1" % address.encode()
    assert fields == [b"host: %b" % address.encode(), b"proxy-authorization: Basic bWU6cEBzcw=="]


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nHello!", "says more than it was asked"),
        (b"SSH-2.0-x\r\n\r\n", "is none of HTTP"),
        (b"HTTP/1.1 103 Wait\r\n\r\n" * 100, "64 interim replies"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000, "is none of HTTP"),
    ],
)
async def test_a_proxy_that_makes_no_tunnel(reply: bytes, words: str, serve: Any, tunnel: Any, ask: Any) -> None:
    proxy = tunnel(reply)
    async with new_client(config("https://server.example/v1", await serve(proxy))) as transport:
        got = await ask(transport, "https://server.example/v1")
        assert repr(transport) == "<Transport: 0 connections in use, 0 idle>"
    assert got.failure is httpx.ProxyError
    assert words in str(got.error)


async def test_a_proxy_that_hangs_up(serve: Any, heard: Any, ask: Any) -> None:
    async with new_client(config("https://server.example/v1", await serve(heard))) as transport:
        got = await ask(transport, "https://server.example/v1")
    assert (got.failure, str(got.error)) == (httpx.ProxyError, "the proxy hung up")


# ------------------------------------------------------------------------------------------------------------ SOCKS5


class Socks:
    """A SOCKS5 proxy. `login`: whom it lets in; `code`: its answer; None: it says nothing when it is asked."""

    def __init__(self, login: bytes = b"", code: int | None = 0, bound: bytes = b"\x01\x7f\0\0\1") -> None:
        self.asked: list[bytes] = []
        self.open = 0
        self._login = login
        self._code = code
        self._bound = bound

    async def __call__(self, client: trio.SocketStream) -> None:
        self.open += 1
        try:
            await self._serve(client)
        finally:
            self.open -= 1

    async def _serve(self, client: trio.SocketStream) -> None:
        offered = await client.receive_some(300)
        method = 2 if self._login else 0
        await client.send_all(bytes([5, method if method in offered[2:] else 255]))
        if self._login and method in offered[2:]:
            given = await client.receive_some(600)
            await client.send_all(bytes([1, given != self._login]))
        if not (asked := await client.receive_some(300)):
            return
        self.asked.append(asked)
        if self._code is None:
            await trio.sleep_forever()
            return
        port = int.from_bytes(asked[-2:], "big")
        await client.send_all(bytes([5, self._code, 0]) + self._bound + b"\0\0")
        if self._code:
            return
        async with await trio.open_tcp_stream("127.0.0.1", port) as server, trio.open_nursery() as nursery:
            nursery.start_soon(self._pass_on, client, server)
            nursery.start_soon(self._pass_on, server, client)

    @staticmethod
    async def _pass_on(source: trio.SocketStream, target: trio.SocketStream) -> None:
        async for data in source:
            await target.send_all(data)
        await target.send_eof()


@pytest.mark.parametrize("bound", [b"\x01\x7f\0\0\1", b"\x03\x04here", b"\x04" + b"\0" * 16], ids=["v4", "name", "v6"])
@pytest.mark.parametrize("host", ["127.0.0.1", "server.example"])
@pytest.mark.parametrize("login", [False, True])
async def test_socks_carries_what_is_said(
    login: bool, host: str, bound: bytes, gate: Gate, serve: Any, heard: Any, ask: Any
) -> None:
    """A proxy of names is asked for the name: nobody here looks it up."""

    async def server(stream: trio.SocketStream) -> None:
        while await heard(stream):
            await stream.send_all(OK)

    url = (await serve(server)).replace("127.0.0.1", host)
    socks = Socks(b"\x01\x02me\x04p@ss" if login else b"", bound=bound)
    proxy = (await serve(socks)).replace("http://", "socks5://me:p%40ss@" if login else "socks5h://")
    async with new_client(config(url, proxy)) as transport:
        for _ in range(3):
            assert (await ask(transport, f"{url}/v1")).body == b"ok"
    (asked,) = socks.asked
    assert asked[:3] == b"\5\1\0"
    assert asked[3:-2] == (b"\x01\x7f\0\0\1" if host == "127.0.0.1" else b"\x03\x0eserver.example")


@pytest.mark.parametrize(
    ("socks", "login", "words"),
    [
        (Socks(code=5), "", "the proxy could not connect: connection refused"),
        (Socks(code=99), "", "the proxy could not connect: code 99"),
        (Socks(code=5, bound=b"\0"), "", "the proxy could not connect: connection refused"),
        (Socks(bound=b"\x09\x7f\0\0\1"), "", "the proxy is none of SOCKS5"),
        (Socks(b"\x01\x02me\x04p@ss"), "me:wrong@", "the proxy refused user and password"),
        (Socks(b"\x01\x02me\x04p@ss"), "", "the proxy wants to be told who asks"),
        (Socks(b"\x01\x02me\x04p@ss"), f"me:{'wrong' * 51}@", "the proxy refused user and password"),
        (Socks(b"\x01\x02me\x04p@ss"), f"me:{'wrong' * 51}x@", "SOCKS5 takes no name, user or password of more than"),
    ],
)
async def test_socks_that_will_not(socks: Socks, login: str, words: str, serve: Any, ask: Any) -> None:
    proxy = (await serve(socks)).replace("http://", f"socks5://{login}")
    async with new_client(config("https://server.example/v1", proxy)) as transport:
        got = await ask(transport, "https://server.example/v1")
        assert repr(transport) == "<Transport: 0 connections in use, 0 idle>"
    assert got.failure is httpx.ProxyError
    assert str(got.error).startswith(words)
    assert "wrong" not in str(got.error)


async def test_a_cancel_while_socks_is_asked_leaves_nothing(serve: Any, ask: Any) -> None:
    socks = Socks(code=None)
    proxy = (await serve(socks)).replace("http://", "socks5://")
    async with new_client(config("https://server.example/v1", proxy)) as transport:
        with trio.move_on_after(0.05) as scope:
            await ask(transport, "https://server.example/v1", timeout={})
        assert scope.cancelled_caught
        assert repr(transport) == "<Transport: 0 connections in use, 0 idle>"
        got = await ask(transport, "https://server.example/v1", timeout={"connect": 0.05})
        assert str(got.error) == "server.example:443 took more than 0.05 s to connect through the proxy"
    assert socks.asked


@pytest.mark.parametrize(
    "address",
    [
        "ftp://user:s3cret@proxy:1",
        "proxy:3128",
        "http://",
        "http://a:s3cret@h:70000",
        "http://a:s3cret@h:-1",
        "http://\udcff@h",
        "http://a:s3cret@\udcff",
    ],
)
def test_what_is_no_address_of_a_proxy_is_told_at_once(address: str) -> None:
    with pytest.raises(ValueError, match=r"^proxy: must be an address such as ") as caught:
        Transport(proxy=address)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None
