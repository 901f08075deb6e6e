"""Under an ordinary `httpx.AsyncClient` it is a transport like any other."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import trio

from cortex.transport import Transport


def answer(head: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n%s" % (head, len(body), body)


class Site:
    """A few pages, and what was asked of them."""

    def __init__(self, heard: Any) -> None:
        self.asked: list[tuple[bytes, bytes]] = []
        self.connections = 0
        self._heard = heard

    async def __call__(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        while (request := await self._heard(stream)) is not None:
            self.asked.append(request)
            match request[0].split(b" ")[1]:
                case b"/json":
                    await stream.send_all(answer(b"200 OK\r\nset-cookie: a=b", b'{"key": [1, 2]}'))
                case b"/packed":
                    await stream.send_all(answer(b"200 OK\r\ncontent-encoding: gzip", gzip.compress(b"packed")))
                case b"/odd":
                    await stream.send_all(answer(b"200 OK\r\nx-old: caf\xe9", b""))
                case b"/empty":
                    await stream.send_all(answer(b"200 OK", b""))
                case b"/moved":
                    await stream.send_all(answer(b"307 Moved\r\nlocation: /json", b"moved"))
                case b"/lines":
                    await stream.send_all(answer(b"200 OK", b"one\ntwo\nthree\n"))
                case b"/broken":
                    await stream.send_all(answer(b"200 OK", b"all of it")[:-2])
                    return


@pytest.fixture
def site(heard: Any) -> Site:
    return Site(heard)


@pytest.fixture
async def client(site: Site, serve: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=Transport(), base_url=await serve(site), timeout=5) as client:
        yield client


async def test_pages_are_read_over_one_connection(client: httpx.AsyncClient, site: Site) -> None:
    response = await client.get("/json")
    assert (response.json(), response.http_version, response.reason_phrase) == ({"key": [1, 2]}, "HTTP/1.1", "OK")
    assert response.cookies["a"] == "b"
    assert (await client.get("/packed")).text == "packed"
    assert (await client.head("/empty")).headers["content-length"] == "0"
    async with client.stream("GET", "/lines") as stream:
        assert [line async for line in stream.aiter_lines()] == ["one", "two", "three"]
    assert (await client.get("/moved", follow_redirects=True)).history[0].status_code == 307
    assert site.connections == 1


async def test_headers_beyond_ascii_are_read_as_httpx_reads_them(client: httpx.AsyncClient) -> None:
    async with httpx.AsyncClient(base_url=client.base_url) as theirs:
        for one in (client, theirs):
            assert (await one.get("/odd")).headers["x-old"] == "caf\xe9"


async def test_bodies_of_each_kind_are_sent(client: httpx.AsyncClient, site: Site) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    await client.post("/json", json={"a": "\u20ac"})
    await client.post("/json", data={"a": "b c"})
    await client.post("/json", files={"file": ("name.txt", b"x" * 100_000)})
    await client.post("/json", content=pieces())
    bodies = [body for _, body in site.asked]
    assert bodies[:2] == ['{"a":"\u20ac"}'.encode(), b"a=b+c"]
    assert b"x" * 100_000 in bodies[2]
    assert bodies[3] == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
    assert site.connections == 1


async def test_an_error_knows_its_request(client: httpx.AsyncClient) -> None:
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body") as caught:
        await client.get("/broken")
    assert caught.value.request.url.path == "/broken"
    assert caught.value.phase == "headers"  # type: ignore[attr-defined]


async def test_a_body_that_only_a_synchronous_client_can_read_is_refused(client: httpx.AsyncClient) -> None:
    request = httpx.Request("POST", client.base_url, content=iter([b"one"]))
    async with Transport() as transport:
        with pytest.raises(httpx.LocalProtocolError, match="synchronous"):
            await transport.handle_async_request(request)


async def test_what_httpx_lets_a_request_say_of_itself(client: httpx.AsyncClient, site: Site) -> None:
    said = {"target": b"/json", "timeout": {"connect": 1.0, "of another transport": 1.0}}
    assert (await client.request("OPTIONS", "/empty", extensions=said)).json() == {"key": [1, 2]}
    assert site.asked[-1][0].startswith(b"OPTIONS /json HTTP/1.1\r\n")
