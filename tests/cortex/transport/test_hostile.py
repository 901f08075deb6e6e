"""Servers that break the rules: each ends with one of httpx's exceptions, in words and in time."""

from __future__ import annotations

import tracemalloc
from typing import Any

import httpx
import pytest
import trio
import trio.lowlevel
import trio.testing
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cortex.transport import Transport

H = b"HTTP/1.1 200 OK\r\n"
CHUNKS = H + b"transfer-encoding: chunked\r\n\r\n"
SOON = 2.0
"""Seconds: nothing here may take longer, and most of it takes none."""


# ------------------------------------------------------------------------------------------------ no reply at all

NO_REPLIES = {
    "garbage": b"\x00\xff\xfe\x01" * 100,
    "a banner": b"220 mail.example ESMTP Postfix\r\n",
    "a page without a head": b"<html><body>hello</body></html>",
    "an alert of TLS": b"\x15\x03\x03\x00\x02\x02\x28",
    "HTTP/2's preface": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x80\x00\x04\x00\x01\x00\x00",
    "HTTP/0.9": b"hello\n",
    "two lengths": H + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
    "a negative length": H + b"content-length: -1\r\n\r\n",
    "a length in hexadecimal": H + b"content-length: 0x5\r\n\r\nhello",
    "an unknown coding": H + b"transfer-encoding: rot13\r\n\r\n",
    "NUL in a name": H + b"a\0b: c\r\n\r\n",
    "NUL in a value": H + b"a: b\0c\r\n\r\n",
    "CR in a value": H + b"a: b\rinjected: c\r\n\r\n",
    "a head that never ends": H + b"a: b\r\n" * 50_000,
    "a header that never ends": H + b"a: " + b"b" * 1_000_000,
    "a status line that never ends": b"HTTP/1.1 200 " + b"O" * 1_000_000,
    "a line that never ends": b"A" * 1_000_000,
    "300 headers": H + b"".join(b"h%d: v\r\n" % i for i in range(300)) + b"\r\n",
    "interim replies for ever": b"HTTP/1.1 103 Wait\r\n\r\n" * 100_000,
    "100 for ever": b"HTTP/1.1 100 Continue\r\n\r\n" * 100_000,
    "blank lines for ever": b"\r\n" * 500_000,
}


@pytest.mark.parametrize("hangs", [False, True])
@pytest.mark.parametrize("name", NO_REPLIES)
async def test_what_is_no_reply_is_refused(
    name: str, hangs: bool, serve: Any, heard: Any, ask: Any, Peers: Any
) -> None:
    """Whether the server hangs up, too, or not: nothing but time could show what else it has to say."""

    async def handler(stream: trio.SocketStream) -> None:
        await heard(stream)
        await stream.send_all(NO_REPLIES[name])
        if hangs:
            await trio.sleep_forever()

    url = await serve(handler)
    started = trio.current_time()
    got = await ask(Transport(), url, timeout=0.15)
    assert trio.current_time() - started < SOON
    waits = hangs and name in (
        "a banner",
        "a page without a head",
        "HTTP/0.9",
    )  # a head may begin so, as far as h11 sees
    assert got.failure is (httpx.ReadTimeout if waits else httpx.RemoteProtocolError)
    assert str(got.error)


BROKEN_BODIES = {
    "no chunk size": CHUNKS + b"2\r\nok\r\n\r\nx",
    "a chunk size that is none": CHUNKS + b"2\r\nok\r\nzz\r\n",
    "a negative chunk size": CHUNKS + b"2\r\nok\r\n-1\r\n",
    "a chunk size with a prefix": CHUNKS + b"2\r\nok\r\n0x2\r\nno\r\n0\r\n\r\n",
    "an overflowing chunk size": CHUNKS + b"2\r\nok\r\n" + b"f" * 100 + b"\r\n",
    "a chunk size that never ends": CHUNKS + b"2\r\nok\r\n" + b"0" * 500_000,
    "a chunk extension that never ends": CHUNKS + b"2\r\nok\r\n1;" + b"x" * 500_000,
    "a chunk longer than it says": CHUNKS + b"2\r\noktoo much\r\n0\r\n\r\n",
    "trailers that never end": CHUNKS + b"2\r\nok\r\n0\r\n" + b"a: b\r\n" * 50_000,
    "a trailer that is none": CHUNKS + b"2\r\nok\r\n0\r\nwhat\r\n\r\n",
}


@pytest.mark.parametrize("name", BROKEN_BODIES)
async def test_what_came_before_the_fault_is_read(name: str, serve: Any, heard: Any, ask: Any) -> None:
    async def handler(stream: trio.SocketStream) -> None:
        await heard(stream)
        await stream.send_all(BROKEN_BODIES[name])
        await trio.sleep_forever()

    url = await serve(handler)
    with trio.fail_after(SOON):
        got = await ask(Transport(), url)
    assert (got.status, got.body[:2], got.failure) == (200, b"ok", httpx.RemoteProtocolError)
    assert str(got.error)


async def test_chunks_of_a_huge_size_cost_what_has_come(serve: Any, heard: Any, ask: Any) -> None:
    async def handler(stream: trio.SocketStream) -> None:
        await heard(stream)
        await stream.send_all(CHUNKS + b"f" * 20 + b"\r\nhello")

    got = await ask(Transport(), await serve(handler))
    assert (got.body, got.failure) == (b"hello", httpx.RemoteProtocolError)


@pytest.mark.parametrize("said", [b"a: b\r\n", b"HTTP/1.1 103 Wait\r\n\r\n", b"x"])
async def test_memory_is_bounded_however_much_comes(said: bytes, serve: Any, heard: Any, ask: Any) -> None:
    async def handler(stream: trio.SocketStream) -> None:
        await heard(stream)
        await stream.send_all(H if said == b"a: b\r\n" else b"")
        flood = said * (65536 // len(said))
        while True:
            await stream.send_all(flood)

    url = await serve(handler)
    tracemalloc.start()
    try:
        with trio.fail_after(SOON):
            got = await ask(Transport(), url)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert got.failure is httpx.RemoteProtocolError
    assert peak < 4_000_000


# ------------------------------------------------------------------------------------------------ answers smuggled in

EVIL = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"
CARRIERS = {
    "after a length": H + b"content-length: 2\r\n\r\nok",
    "after no body": H + b"content-length: 0\r\n\r\n",
    "after chunks": CHUNKS + b"2\r\nok\r\n0\r\n\r\n",
    "after a 204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "after a 304": b"HTTP/1.1 304 Not Modified\r\ncontent-length: 99\r\n\r\n",
}


@pytest.mark.parametrize("extra", [EVIL, b"\r\n", b"x", b"HTTP/1.1 100 Continue\r\n\r\n"])
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("name", CARRIERS)
async def test_what_follows_a_reply_is_never_taken_for_the_next(
    name: str, together: bool, extra: bytes, serve: Any, heard: Any, ask: Any
) -> None:
    connections: list[Any] = []

    async def handler(stream: trio.SocketStream) -> None:
        connections.append(stream)
        await heard(stream)
        if len(connections) == 1:
            await stream.send_all(CARRIERS[name] + (extra if together else b""))
            await trio.lowlevel.checkpoint()
            if not together:
                await stream.send_all(extra)
            await heard(stream)
            await stream.send_all(EVIL)
        await stream.send_all(H + b"content-length: 4\r\n\r\ngood")

    url = await serve(handler)
    async with Transport() as transport:
        first = await ask(transport, url)
        assert first.body in (b"ok", b"")
        await trio.testing.wait_all_tasks_blocked()
        second = await ask(transport, url)
    assert (second.status, second.body) == (200, b"good")
    assert len(connections) == 2


async def test_nor_where_somebody_waits_for_the_connection(Peers: Any, ask: Any) -> None:
    """The connection goes from hand to hand, and what has come meanwhile must be noticed there, too."""

    def reply(peer: Any) -> bytes:
        return H + b"content-length: 2\r\n\r\n" if len(peers.opened) == 1 else H + b"content-length: 4\r\n\r\ngood"

    peers = Peers(reply)
    async with trio.open_nursery() as nursery, peers.transport(max_connections=1) as transport:
        first = await transport.handle_async_request(httpx.Request("GET", "http://server/"))
        got = []

        async def second() -> None:
            got.append(await ask(transport, "http://server/"))

        nursery.start_soon(second)
        await trio.testing.wait_all_tasks_blocked()
        peers.opened[0].say(b"ok")
        async for _ in first.stream:
            peers.opened[0].say(EVIL)
    assert got[0].body == b"good"
    assert len(peers.opened) == 2
    assert peers.opened[0].closed


@pytest.mark.parametrize("framings", [b"content-length: 7\r\n%s", b"%scontent-length: 7\r\n"])
async def test_two_framings_are_read_as_chunks_and_the_connection_is_given_up(
    framings: bytes, serve: Any, heard: Any, ask: Any
) -> None:
    connections: list[Any] = []

    async def handler(stream: trio.SocketStream) -> None:
        connections.append(stream)
        while await heard(stream):
            await stream.send_all(H + framings % b"transfer-encoding: chunked\r\n" + b"\r\n2\r\nok\r\n0\r\n\r\n")

    url = await serve(handler)
    async with Transport() as transport:
        for _ in range(2):
            got = await ask(transport, url)
            assert (got.body, got.failure) == (b"ok", None)
    assert len(connections) == 2


async def test_a_reply_that_comes_before_the_request(serve: Any, heard: Any, ask: Any) -> None:
    """Of a server that is too busy to listen: it is the reply. Its end is heard before the next request is sent."""
    connections: list[Any] = []

    async def handler(stream: trio.SocketStream) -> None:
        connections.append(stream)
        await stream.send_all(b"HTTP/1.1 503 Busy\r\ncontent-length: 2\r\n\r\nno")
        await heard(stream)
        await stream.send_all(H + b"content-length: 4\r\n\r\nlate")
        await heard(stream)

    url = await serve(handler)
    async with Transport() as transport:
        assert (await ask(transport, url)).status == 503
        await trio.testing.wait_all_tasks_blocked()
        assert (await ask(transport, url)).status == 503
    assert len(connections) == 2


async def test_one_byte_at_a_time_is_stopped_by_the_callers_own_clock(Peers: Any, autojump_clock: Any) -> None:
    """Each byte is a sign of life: `read` is for one step, and the whole is the caller's to bound."""

    def reply(peer: Any) -> bytes:
        async def drip() -> None:
            while True:
                await trio.sleep(1)
                peer.say(b"x")

        nursery.start_soon(drip)
        return H + b"content-length: 1000000\r\n\r\n"

    async with trio.open_nursery() as nursery, Peers(reply).transport() as transport:
        request = httpx.Request("GET", "http://server/", extensions={"timeout": {"read": 2.0}})
        response = await transport.handle_async_request(request)
        with trio.move_on_after(100) as scope:
            async for _ in response.stream:  # type: ignore[union-attr]
                pass
        assert scope.cancelled_caught
        assert trio.current_time() == pytest.approx(100, abs=1.5)
        await response.aclose()
        nursery.cancel_scope.cancel()


# ------------------------------------------------------------------------------------------------ anything at all

WORDS = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.0 404 No\r\n",
        b"HTTP/1.1 204 \r\n",
        b"HTTP/1.1 101 Switching\r\n",
        b"content-length: 3\r\n",
        b"content-length: 99999999999\r\n",
        b"transfer-encoding: chunked\r\n",
        b"connection: close\r\n",
        b"upgrade: x\r\n",
        b"\r\n",
        b"\n",
        b"3\r\nabc\r\n",
        b"0\r\n\r\n",
        b"ffffffff\r\n",
        b" folded\r\n",
        b": \r\n",
    ]
)
ANYTHING = st.lists(WORDS | st.binary(max_size=20), max_size=12).map(b"".join)


async def survive(data: bytes, then: str, method: str, Peers: Any, ask: Any) -> None:
    """Whatever a server says, the client says something about it, and is as good as new."""

    def reply(peer: Any) -> bytes:
        if len(peers.opened) > 1 or len(peer.requests) > 1:
            return H + b"content-length: 4\r\n\r\ngood"
        if then == "leave":
            peer.leave()
        return data

    peers = Peers(reply)
    transport = peers.transport()
    async with transport:
        got = await ask(transport, "http://server/", method, timeout=1.0)
        assert got.error is None or str(got.error)
        again = await ask(transport, "http://server/")  # on the same connection, if there is nothing against it
        assert (again.failure, again.body) == (None, b"good")
    assert peers.alive == 0


anything = given(
    data=ANYTHING, then=st.sampled_from(["leave", "hang"]), method=st.sampled_from(["GET", "HEAD", "POST", "OPTIONS"])
)


def test_whatever_a_server_says(data: bytes, then: str, method: str, Peers: Any, ask: Any) -> None:
    trio.run(survive, data, then, method, Peers, ask, clock=trio.testing.MockClock(autojump_threshold=0))


SPLIT = b"content-length: 2\r\n\r\nok" + H + b"content-length: 4\r\n\r\nevil"
"""A reply, and one to a request that nobody has made yet."""

test_whatever_a_server_says_and_much_more = pytest.mark.slow(
    settings(max_examples=20_000)(anything(test_whatever_a_server_says))
)
test_whatever_a_server_says = anything(example(data=H + SPLIT, then="hang", method="GET")(test_whatever_a_server_says))
