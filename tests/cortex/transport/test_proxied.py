"""Through a proxy httpx's own transport carries the requests, behind a bound of our own."""

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
from cortex.transport import Proxied, Trust
from cortex.vendors import ProviderConfig, provider
from cortex.wire import WIRES
from cortex.wire.codec import Target

NOBODY = Trust(False, None)
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
        assert b"Proxy-Authorization: Basic bWU6cGFzcy13b3Jk" in forward.heads[0]
        assert "pass-word" not in repr(config(url, secret)) + repr(transport)


async def test_a_proxy_that_is_not_there(serve: Any, ask: Any) -> None:
    closed = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = closed[0].socket.getsockname()[1]
    await closed[0].aclose()
    async with new_client(config("http://server.example/v1", f"http://me:pass-word@127.0.0.1:{port}")) as client:
        got = await ask(client, "http://server.example/v1")
    assert got.failure is httpx.ConnectError
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

    async with Proxied(proxy, verify=NOBODY, max_connections=3) as transport, trio.open_nursery() as nursery:
        for _ in range(12):
            nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert (forward.most, gate.asked) == (3, 3)
        gate.let.set()
    assert statuses == [200] * 12
    assert forward.most == 3


async def test_a_wait_that_takes_too_long(forward: ForwardProxy, gate: Gate, serve: Any, ask: Any) -> None:
    url, proxy = await serve(gate), await serve(forward)
    async with Proxied(proxy, verify=NOBODY, max_connections=1) as transport, trio.open_nursery() as nursery:
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
    async with Proxied(proxy, verify=NOBODY, max_connections=2) as transport:
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
        assert repr(transport).startswith("<Proxied: 0 connections in use")


async def test_a_reply_gives_its_slot_back_once_however_often_it_is_closed(
    forward: ForwardProxy, gate: Gate, serve: Any
) -> None:
    gate.let.set()
    url, proxy = await serve(gate), await serve(forward)
    async with Proxied(proxy, verify=NOBODY, max_connections=1) as transport:
        for _ in range(3):
            response = await transport.handle_async_request(httpx.Request("GET", url))
            await response.aclose()
            await response.aclose()
            await response.stream.aclose()  # type: ignore[union-attr]
        assert repr(transport) == "<Proxied: 0 connections in use, 1 idle>"


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
        assert repr(transport) == "<Proxied: 0 connections in use, 0 idle>"


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 200 OK\r\n\r\n"], ids=["no tunnel", "no TLS"])
async def test_what_is_said_to_a_proxy_is_no_part_of_the_request(reply: bytes, serve: Any, tunnel: Any) -> None:
    proxy = tunnel(reply)
    before = trio.current_time()
    failure = await told("https://server.example/v1", await serve(proxy))
    assert trio.current_time() - before < 0.5
    assert (failure.kind, failure.phase) == (Kind.TIMEOUT_CONNECT, Phase.NOT_SENT)
    assert proxy.heads[0].startswith(b"CONNECT server.example:443 ")
