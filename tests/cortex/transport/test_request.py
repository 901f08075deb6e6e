"""What we say. h11 is the reference: it refuses the same, and writes the same."""

from __future__ import annotations

from array import array
from collections.abc import AsyncIterator
from itertools import product
from typing import Any

import h11
import httpx
import pytest
import trio
from hypothesis import assume, example, given
from hypothesis import strategies as st

from cortex.transport import Transport
from cortex.transport.request import BodyWriter, Head, written

Headers = list[tuple[bytes, bytes]]
HOST = (b"Host", b"h")
FRAMING = (b"content-length", b"transfer-encoding")


def by_h11(method: bytes, target: bytes, headers: Headers, pieces: list[bytes]) -> tuple[bytes, bool] | None:
    """All that is sent, and whether the connection ends with it; None: it cannot be."""
    peer = h11.Connection(h11.CLIENT)
    try:
        data = peer.send(h11.Request(method=method, target=target, headers=headers)) or b""
        for piece in pieces:
            data += peer.send(h11.Data(data=piece)) or b""
        data += peer.send(h11.EndOfMessage()) or b""
    except h11.LocalProtocolError:
        return None
    return data, peer.our_state is h11.MUST_CLOSE


def by_us(method: bytes, target: bytes, headers: Headers, pieces: list[bytes]) -> tuple[bytes, bool] | None:
    try:
        head = written(method, target, headers)
        writer = BodyWriter(head.length)
        return head.data + b"".join(map(writer.piece, pieces)) + writer.end(), head.closes
    except httpx.LocalProtocolError:
        return None


ODD = st.binary(max_size=4) | st.text("a:, \t\r\n\0\x0b\x0c\x7f\xff", max_size=6).map(
    lambda text: text.encode("latin-1")
)
NAMES = st.sampled_from([b"host", b"Host", b"Content-Length", b"content-length", b"Transfer-Encoding", b"Connection"])
LENGTHS = st.sampled_from([b"0", b"5", b"05", b"+5", b"-5", b"5x", b"", b"\xb2", b"1" * 20, b"1" * 21])
WORDS = st.sampled_from([b"chunked", b"gzip", b"close", b"keep-alive", b"x , Close\t,y", b"closed", b"not close", b"h"])
HEADERS = st.lists(st.tuples(NAMES | st.just(b"x-a") | ODD, LENGTHS | WORDS | ODD), max_size=4)
SOUND = st.lists(
    st.tuples(NAMES | st.sampled_from([b"x-a", b"X-A", b"expect"]), LENGTHS | WORDS | st.just(b"a b")), max_size=4
)
PIECES = st.lists(st.sampled_from([b"", b"hello", b"he", b"llo", b"x" * 300]), max_size=3)


def count(headers: Headers, name: bytes) -> int:
    return sum(given.lower() == name for given, _ in headers)


@given(
    method=st.sampled_from([b"GET", b"HEAD", b"POST", b"x-odd!"]) | ODD,
    target=st.sampled_from([b"/", b"*", b"/a?b=c#d", b"http://h/"]) | ODD,
    headers=HEADERS | SOUND.map(lambda headers: [*headers, HOST]),
    pieces=PIECES,
)
@example(method=b"GET", target=b"/", headers=[HOST, (b"x", b"a\r\ny: b")], pieces=[])
@example(method=b"GET", target=b"/", headers=[HOST, (b"x: a\r\ny", b"b")], pieces=[])
@example(method=b"GET", target=b"/", headers=[HOST, (b"x: a", b"b")], pieces=[])
@example(method=b"GET", target=b"/ HTTP/1.1\r\nx:", headers=[HOST], pieces=[])
@example(method=b"GET", target=b"", headers=[HOST], pieces=[])
@example(method=b"", target=b"/", headers=[HOST], pieces=[])
@example(method=b"GET", target=b"/", headers=[HOST, (b"x", b" a")], pieces=[])
@example(method=b"GET", target=b"/", headers=[HOST, (b"x", b"a\t")], pieces=[])
@example(method=b"GET", target=b"/", headers=[HOST, (b"transfer-encoding", b"")], pieces=[])
def test_every_request_is_written_or_refused_as_h11_does_it(
    method: bytes, target: bytes, headers: Headers, pieces: list[bytes]
) -> None:
    assume(sum(count(headers, name) for name in FRAMING) < 2)  # see below
    assert by_us(method, target, headers, pieces) == by_h11(method, target, headers, pieces)


@st.composite
def sound(draw: st.DrawFn) -> tuple[Headers, list[bytes]]:
    """Headers in any order, and a body that is as they say."""
    pieces = draw(st.lists(st.binary(max_size=40), max_size=4))
    names = st.sampled_from([b"x-a", b"X-A", b"Connection", b"accept", b"Expect"])
    values = st.sampled_from([b"", b"a b", b"close", b"x,CLOSE , y", b"keep-alive", b"\xff:", b"100-continue"])
    headers = [HOST, *draw(st.lists(st.tuples(names, values), max_size=5))]
    length = b"%d" % sum(map(len, pieces))
    if pieces or draw(st.booleans()):
        headers.append(draw(st.sampled_from([(b"Content-Length", length), (b"transfer-encoding", b"chunked")])))
    return draw(st.permutations(headers)), pieces


@given(sound(), st.sampled_from([b"GET", b"HEAD", b"POST", b"x-odd!"]))
def test_every_sound_request_is_written_as_h11_writes_it(parts: tuple[Headers, list[bytes]], method: bytes) -> None:
    headers, pieces = parts
    ours = by_us(method, b"/a?b", headers, pieces)
    assert ours is not None
    assert ours == by_h11(method, b"/a?b", headers, pieces)


TABLED = [b"", b"x-a", b"Content-Length", b"Transfer-Encoding", b"Connection", b"connection"]
VALUES = [b"", b"0", b"5", b"05", b"+5", b"-5", b"5x", b"\xb2", b"1" * 20, b"1" * 21, b"300", b"chunked", b"gzip"]
VALUES += [b"close", b"CLOSE", b"x , Close\t,y", b"closed", b"not close", b"keep-alive", b"a b"]
BODIES: list[list[bytes]] = [[], [b"hello"], [b"he", b"", b"llo"], [b"hello", b"x"], [b"x" * 300]]


@pytest.mark.parametrize("name", TABLED)
def test_each_header_means_what_it_means_to_h11(name: bytes) -> None:
    for value, pieces in product(VALUES, BODIES):
        headers = [HOST, (name, value)]
        assert by_us(b"POST", b"/", headers, pieces) == by_h11(b"POST", b"/", headers, pieces), (value, pieces)


@pytest.mark.parametrize("place", ["name", "value"])
def test_each_byte_is_allowed_or_refused_as_h11_does_it(place: str) -> None:
    for byte, frame in product(range(256), [b"%c", b"a%c", b"%ca", b"a%ca"]):
        odd = frame % byte
        headers = [HOST, (odd, b"b") if place == "name" else (b"a", odd)]
        assert by_us(b"GET", b"/", headers, []) == by_h11(b"GET", b"/", headers, []), odd


def test_each_byte_of_a_method_or_target_is_allowed_or_refused_as_h11_does_it() -> None:
    for byte in range(256):
        for method, target in ((b"A%cB" % byte, b"/"), (b"GET", b"/%ca" % byte)):
            assert by_us(method, target, [HOST], []) == by_h11(method, target, [HOST], []), byte


# ------------------------------------------------------------------------------------------------ what is not as in h11


def head(*headers: tuple[bytes, bytes]) -> Head:
    return written(b"POST", b"/", [*headers, HOST])


def test_of_both_framings_only_the_one_that_counts_is_sent() -> None:
    both = head((b"Content-Length", b"5"), (b"transfer-encoding", b"chunked"), (b"x", b"y"))
    assert both.data == b"POST / HTTP/1.1\r\nHost: h\r\nx: y\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert both.length is None


def test_chunks_are_announced_as_everybody_writes_it() -> None:
    assert b"Transfer-Encoding: chunked\r\n" in head((b"transfer-encoding", b"Chunked")).data


def test_a_length_may_have_twenty_digits() -> None:
    assert head((b"content-length", b"9" * 20)).length == 10**20 - 1


@pytest.mark.parametrize("lengths", [[b"5", b"5"], [b"5", b"6"], [b"5, 5"], [b"9" * 21], [b"9" * 5000]])
def test_what_is_not_one_length_is_refused(lengths: list[bytes]) -> None:
    with pytest.raises(httpx.LocalProtocolError, match="Content-Length has to be one number"):
        head(*[(b"content-length", length) for length in lengths])


def test_a_length_that_is_none_is_refused_also_where_it_does_not_count() -> None:
    with pytest.raises(httpx.LocalProtocolError, match="Content-Length has to be one number"):
        head((b"content-length", b"-1"), (b"transfer-encoding", b"chunked"))


@pytest.mark.parametrize("codings", [[b"chunked", b"chunked"], [b"gzip", b"chunked"], [b"gzip, chunked"]])
def test_codings_other_than_chunks_are_refused(codings: list[bytes]) -> None:
    with pytest.raises(httpx.LocalProtocolError, match="the only Transfer-Encoding"):
        head(*[(b"transfer-encoding", coding) for coding in codings])


def test_a_head_does_not_show_the_key_that_it_holds() -> None:
    assert "secret" not in repr(head((b"authorization", b"Bearer sk-secret")))


# ------------------------------------------------------------------------------------------------ at the public door


class Site:
    """Has nothing, and keeps what it was asked."""

    def __init__(self, heard: Any) -> None:
        self.asked: list[tuple[bytes, bytes]] = []
        self._heard = heard

    async def __call__(self, stream: trio.SocketStream) -> None:
        while (request := await self._heard(stream)) is not None:
            self.asked.append(request)
            await stream.send_all(b"HTTP/1.1 204 No Content\r\n\r\n")


@pytest.fixture
def site(heard: Any) -> Site:
    return Site(heard)


async def test_a_body_that_is_to_be_chunked_says_no_length(site: Site, serve: Any, ask: Any) -> None:
    """httpx adds the length of a body in one piece, also to a request that says that it comes in chunks."""
    chunked = {"Transfer-Encoding": "chunked"}
    async with Transport() as transport:
        assert (await ask(transport, await serve(site), "POST", content=b"hello", headers=chunked)).status == 204
    ((said, body),) = site.asked
    assert b"ength" not in said
    assert body == b"5\r\nhello\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"headers": {"x-key": "sk-secret\n"}}, "the header x-key holds a character that is not allowed there"),
        ({"headers": {"x key": "sk-secret"}}, "the name of a header"),
        ({"extensions": {"target": b"/?key=sk secret"}}, "the target of the request"),
        ({"extensions": {"target": "/?key=sk-secr\u00e9t"}}, "the target of the request"),
        ({"extensions": {"target": bytearray(b"/?key=sk secret")}}, "the target of the request"),
        ({"extensions": {"target": memoryview(b"/?key=sk secret")}}, "the target of the request"),
        ({"method": b"CONNECT", "extensions": {"target": b"other:443"}}, "CONNECT opens a tunnel"),
        ({"method": "G\u00c9T"}, "the method is empty or holds"),
        ({"method": "\ud800"}, "the method is empty or holds"),
        ({"method": ""}, "the method is empty or holds"),
    ],
)
async def test_what_cannot_be_said_is_told_before_anything_is_sent(more: Any, told: str) -> None:
    async with Transport() as transport:
        with pytest.raises(httpx.LocalProtocolError) as caught:
            await transport.handle_async_request(httpx.Request(**{"method": "GET", "url": "http://127.0.0.1:1"} | more))
    assert told in str(caught.value)
    assert "secr" not in str(caught.value)
    assert caught.value.phase == "not_sent"  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [5, 200_000])
@pytest.mark.parametrize("headers", [{"content-length": "4"}, {"content-length": "900000"}])
async def test_a_body_that_is_not_as_long_as_it_says_costs_no_connection(
    headers: Any, size: int, site: Site, serve: Any, ask: Any
) -> None:
    url = await serve(site)
    async with Transport() as transport:
        await ask(transport, url)
        got = await ask(transport, url, "POST", content=b"x" * size, headers=headers)
        assert got.failure is httpx.LocalProtocolError
        assert got.error.phase == "not_sent"
        assert repr(transport) == "<Transport: 0 connections in use, 1 idle>"


async def test_nothing_of_a_body_is_sent_that_is_too_much(serve: Any, ask: Any) -> None:
    """A server would take it for the next request."""
    came = bytearray()

    async def handler(stream: trio.SocketStream) -> None:
        async for data in stream:
            came.extend(data)
        left.set()

    async def body() -> AsyncIterator[bytes]:
        yield b"hello"
        yield b"GET /evil HTTP/1.1\r\n"

    left = trio.Event()
    async with Transport() as transport:
        got = await ask(transport, await serve(handler), "POST", content=body(), headers={"content-length": "5"})
    assert got.failure is httpx.LocalProtocolError
    with trio.fail_after(1):
        await left.wait()
    assert came.endswith(b"hello")


@pytest.mark.parametrize("said", ["close", "Close", "x, CLOSE"])
async def test_a_connection_of_which_we_said_that_it_ends_does_not_serve_again(
    said: str, site: Site, serve: Any, ask: Any
) -> None:
    async with Transport() as transport:
        assert (await ask(transport, await serve(site), headers={"connection": said})).status == 204
        assert repr(transport) == "<Transport: 0 connections in use, 0 idle>"


@pytest.mark.parametrize("headers", [{}, {"content-length": "12"}])
async def test_pieces_of_any_kind_of_bytes(headers: Any, site: Site, serve: Any, ask: Any) -> None:
    async def pieces() -> AsyncIterator[Any]:
        yield memoryview(b"he")
        yield bytearray(b"llo")
        yield memoryview(b"w_o_r_")[::2]
        yield memoryview(array("I", [0x21212121]))

    async with Transport() as transport:
        assert (await ask(transport, await serve(site), "POST", content=pieces(), headers=headers)).status == 204
    ((_, body),) = site.asked
    assert body == (b"hellowor!!!!" if headers else b"2\r\nhe\r\n3\r\nllo\r\n3\r\nwor\r\n4\r\n!!!!\r\n0\r\n\r\n")


async def test_a_piece_that_changes_while_it_is_sent_is_sent_as_it_was(peers: Any, ask: Any) -> None:
    async def pieces() -> AsyncIterator[Any]:
        yield memoryview(piece)

    async def connect(host: str, port: int) -> Any:
        link = await peers(host, port)
        send_all = link.stream.send_all

        async def changing(data: Any) -> None:
            piece[:] = b"as said" if data[:4] == b"POST" else b"changed"
            await send_all(data)

        link.stream.send_all = changing
        return link

    piece = bytearray(7)
    peers.reply = lambda peer: b"HTTP/1.1 204 No Content\r\n\r\n" if len(peer.requests) == 2 else b""
    async with Transport(connect=connect) as transport:
        await ask(transport, "http://server/", "POST", content=pieces(), headers={"content-length": "7"})
    assert peers.opened[0].requests[1:] == [b"as said"]


@pytest.mark.parametrize("piece", ["text", 5, [1, 2], None])
@pytest.mark.parametrize("headers", [{}, {"content-length": "5"}])
async def test_a_piece_that_is_no_bytes_is_a_type_error(
    piece: Any, headers: Any, site: Site, serve: Any, ask: Any
) -> None:
    async def pieces() -> AsyncIterator[Any]:
        yield piece

    async with Transport() as transport:
        with pytest.raises(TypeError):
            await ask(transport, await serve(site), "POST", content=pieces(), headers=headers)
        assert repr(transport) == "<Transport: 0 connections in use, 0 idle>"
