"""The reference is httpx's own transport: the same server gives the same reply, or the same kind of error."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from itertools import pairwise, product
from typing import Any

import attrs
import h11
import httpx
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex.transport import Transport


def reference() -> httpx.AsyncHTTPTransport:
    return httpx.AsyncHTTPTransport(verify=False, trust_env=False)


@attrs.frozen
class Reply:
    """What a server says to a request, in these pieces; then it hangs up, or waits for another one."""

    pieces: tuple[bytes, ...]
    closes: bool = True

    @classmethod
    def of(cls, data: bytes, cuts: Iterable[int] = (), closes: bool = True) -> Reply:
        edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(data)}), len(data)]
        return cls(tuple(data[start:end] for start, end in pairwise(edges)), closes)


class Server:
    """Says the same to everybody, and keeps what it was asked."""

    def __init__(self, heard: Any) -> None:
        self.reply = Reply((b"",))
        self.requests: list[tuple[bytes, bytes]] = []
        self._heard = heard

    async def __call__(self, stream: trio.SocketStream) -> None:
        while (request := await self._heard(stream)) is not None:
            self.requests.append(request)
            for piece in self.reply.pieces:
                await stream.send_all(piece)
                await trio.lowlevel.checkpoint()
            if self.reply.closes:
                return


async def both(
    server: Server, url: str, ask: Any, reply: Reply, method: str = "GET", body: Any = bytes, **more: Any
) -> tuple[Any, Any]:
    """What the reference makes of it, and what we do. `body()` makes the request's body, for each of them anew."""
    server.reply = reply
    got = []
    for transport in (reference(), Transport(verify=False)):
        async with transport:
            got.append(await ask(transport, url, method, content=body() or None, **more))
    return got[0], got[1]


def same(ours: Any, theirs: Any) -> None:
    assert ours.failure is theirs.failure, (ours, theirs)
    assert attrs.evolve(ours, error=None) == attrs.evolve(theirs, error=None)


@pytest.fixture
def server(heard: Any) -> Server:
    return Server(heard)


# ------------------------------------------------------------------------------------------------ replies of all kinds

H = b"HTTP/1.1 200 OK\r\n"
CHUNKS = b"transfer-encoding: chunked\r\n\r\n"
REPLIES: dict[str, bytes] = {
    # framings
    "length": H + b"content-length: 5\r\n\r\nhello",
    "no body": H + b"content-length: 0\r\n\r\n",
    "until it closes": H + b"\r\nhello",
    "until it closes, nothing": H + b"\r\n",
    "chunks": H + CHUNKS + b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n",
    "chunks, capital": H + b"Transfer-Encoding: Chunked\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n",
    "chunks with extensions": H + CHUNKS + b'5;a=b;c="d"\r\nhello\r\n0;last\r\n\r\n',
    "chunks with trailers": H + CHUNKS + b"5\r\nhello\r\n0\r\nx-sum: 1\r\nX-Other: 2\r\n\r\n",
    "chunks with leading zeros": H + CHUNKS + b"0005\r\nhello\r\n000\r\n\r\n",
    "no chunk but the last": H + CHUNKS + b"0\r\n\r\n",
    "identity": H + b"transfer-encoding: identity\r\n\r\nhello",
    "gzip, chunked": H + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": H + b"transfer-encoding: chunked\r\n" + CHUNKS + b"0\r\n\r\n",
    "both framings": H + b"content-length: 3\r\n" + CHUNKS + b"5\r\nhello\r\n0\r\n\r\n",
    "the same length twice": H + b"content-length: 5\r\ncontent-length: 5\r\n\r\nhello",
    "the same length in a list": H + b"content-length: 5, 5\r\n\r\nhello",
    # statuses
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "204 with a length": b"HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n",
    "304": b'HTTP/1.1 304 Not Modified\r\netag: "a"\r\ncontent-length: 100\r\n\r\n',
    "205": b"HTTP/1.1 205 Reset Content\r\ncontent-length: 0\r\n\r\n",
    "301": b"HTTP/1.1 301 Moved\r\nlocation: /other\r\ncontent-length: 0\r\n\r\n",
    "413": b"HTTP/1.1 413 Payload Too Large\r\ncontent-length: 2\r\n\r\nno",
    "500": b"HTTP/1.1 500 Oh\r\ncontent-length: 2\r\n\r\nno",
    "599": b"HTTP/1.1 599 \r\ncontent-length: 2\r\n\r\nno",
    "999": b"HTTP/1.1 999 Request denied\r\ncontent-length: 2\r\n\r\nno",
    "no reason": b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok",
    "an odd reason": b"HTTP/1.1 200 \xe9t\xe9 !\t.\r\ncontent-length: 2\r\n\r\nok",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\n\r\nhello",
    "HTTP/1.0, kept alive": b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok",
    "HTTP/1.0, chunks": b"HTTP/1.0 200 OK\r\n" + CHUNKS + b"2\r\nok\r\n0\r\n\r\n",
    # before the reply
    "100": b"HTTP/1.1 100 Continue\r\n\r\n" + H + b"content-length: 2\r\n\r\nok",
    "103 twice": b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" * 2 + H + b"content-length: 2\r\n\r\nok",
    "199": b"HTTP/1.1 199 Who Knows\r\nx: y\r\n\r\n" + H + b"\r\nok",
    "101, unasked": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n",
    "a 100 and nothing": b"HTTP/1.1 100 Continue\r\n\r\n",
    "an empty line": b"\r\n" + H + b"content-length: 2\r\n\r\nok",
    # headers
    "repeated": H + b"set-cookie: a=1\r\nSet-Cookie: b=2\r\nset-cookie: a=1\r\ncontent-length: 0\r\n\r\n",
    "odd case": H + b"X-ODD-cAsE: MiXed\r\nCoNtEnT-lEnGtH: 2\r\n\r\nok",
    "space around": H + b"a:   b c  \t\r\nd:\r\ncontent-length:2\r\n\r\nok",
    "bytes beyond ASCII": H + b"a: \xc3\xa9\xff\r\ncontent-length: 2\r\n\r\nok",
    "a value of colons": H + b"a: b: c\r\ncontent-length: 2\r\n\r\nok",
    "folded": H + b"a: b\r\n  c\r\n\td\r\ncontent-length: 2\r\n\r\nok",
    "folded at once": H + b" a: b\r\ncontent-length: 2\r\n\r\nok",
    "line feeds alone": b"HTTP/1.1 200 OK\ncontent-length: 2\na: b\n\nok",
    "connection: close": H + b"connection: close\r\ncontent-length: 2\r\n\r\nok",
    "connection: a list": H + b"connection: x, Close\r\ncontent-length: 2\r\n\r\nok",
    "200 headers": H + b"".join(b"h%d: v\r\n" % i for i in range(200)) + b"content-length: 0\r\n\r\n",
    "a header of 90 kB": H + b"a: " + b"b" * 90_000 + b"\r\ncontent-length: 0\r\n\r\n",
    "no header at all": b"HTTP/1.1 200 OK\r\n\r\n",
    # what is no reply, or no whole one
    "nothing": b"",
    "half a status line": b"HTTP/1.1 20",
    "half a head": H + b"content-length: 2\r\n",
    "half a body": H + b"content-length: 5\r\n\r\nhel",
    "half a chunk": H + CHUNKS + b"5\r\nhel",
    "no last chunk": H + CHUNKS + b"5\r\nhello\r\n",
    "half a trailer": H + CHUNKS + b"5\r\nhello\r\n0\r\nx: y\r\n",
    "no chunk size": H + CHUNKS + b"x\r\nhello\r\n0\r\n\r\n",
    "a negative chunk size": H + CHUNKS + b"-5\r\nhello\r\n0\r\n\r\n",
    "an endless chunk size": H + CHUNKS + b"f" * 21 + b"\r\nhello\r\n0\r\n\r\n",
    "a chunk longer than it says": H + CHUNKS + b"3\r\nhello\r\n0\r\n\r\n",
    "two lengths": H + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
    "two lengths in a list": H + b"content-length: 5, 6\r\n\r\nhello!",
    "a negative length": H + b"content-length: -5\r\n\r\nhello",
    "a length with a sign": H + b"content-length: +5\r\n\r\nhello",
    "a length in words": H + b"content-length: five\r\n\r\nhello",
    "an endless length": H + b"content-length: " + b"9" * 21 + b"\r\n\r\nhello",
    "no colon": H + b"what is this\r\ncontent-length: 0\r\n\r\n",
    "a space before the colon": H + b"a : b\r\ncontent-length: 0\r\n\r\n",
    "a name of nothing": H + b": b\r\ncontent-length: 0\r\n\r\n",
    "NUL in a value": H + b"a: b\0c\r\ncontent-length: 0\r\n\r\n",
    "CR in a value": H + b"a: b\rc\r\ncontent-length: 0\r\n\r\n",
    "a status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "a status of 0": b"HTTP/1.1 000 OK\r\n\r\n",
    "HTTP/2": b"HTTP/2 200 OK\r\n\r\n",
    "HTTP/1.9": b"HTTP/1.9 200 OK\r\ncontent-length: 2\r\n\r\nok",
    "lower case": b"http/1.1 200 OK\r\n\r\n",
    "the bytes of TLS": b"\x15\x03\x01\x00\x02\x02\x46",
    "a greeting of SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "more than was said": H + b"content-length: 2\r\n\r\nok and more",
}
METHODS = ["GET", "HEAD", "POST", "DELETE", "OPTIONS"]


@pytest.mark.parametrize("name", REPLIES)
async def test_every_reply_is_read_as_httpx_reads_it(name: str, server: Server, serve: Any, ask: Any) -> None:
    url = await serve(server)
    for method in METHODS if len(REPLIES[name]) < 1000 else ["GET"]:
        theirs, ours = await both(server, url, ask, Reply.of(REPLIES[name]), method)
        same(ours, theirs)
        if ours.error is not None:
            assert str(ours.error)


BYTEWISE = ["length", "chunks with trailers", "chunks with extensions", "103 twice", "folded", "both framings"]


@pytest.mark.parametrize("name", BYTEWISE)
async def test_a_reply_that_comes_byte_by_byte(name: str, server: Server, serve: Any, ask: Any) -> None:
    url = await serve(server)
    data = REPLIES[name]
    theirs, ours = await both(server, url, ask, Reply.of(data, range(len(data))))
    same(ours, theirs)
    assert ours.status == 200


@pytest.mark.parametrize("name", [name for name, data in REPLIES.items() if len(data) < 400])
async def test_wherever_a_reply_is_cut_it_is_the_same(name: str, Peers: Any, ask: Any) -> None:
    data = REPLIES[name]

    async def read(cut: int) -> Any:
        def reply(peer: Any) -> bytes:
            async def rest() -> None:
                await trio.testing.wait_all_tasks_blocked()
                peer.say(data[cut:])
                peer.leave()

            nursery.start_soon(rest)
            return data[:cut]

        async with trio.open_nursery() as nursery, Peers(reply).transport() as transport:
            return await ask(transport, "http://server/", timeout={})

    whole = await read(len(data))
    for cut in range(len(data)):
        same(await read(cut), whole)


# ---- made up ones

TOKEN = st.text("abcXYZ-_.!", min_size=1, max_size=8).map(str.encode)
VALUE = st.text("ab,;= \t\xe9:", max_size=12).map(lambda text: text.encode("latin-1").strip())
STATUSES = st.sampled_from([200, 201, 204, 206, 304, 307, 400, 404, 413, 429, 500, 503, 529, 600])


@st.composite
def replies(draw: st.DrawFn) -> Reply:
    """A reply that follows the rules, mostly; at times it is cut short."""
    interim = draw(st.lists(st.sampled_from([100, 102, 103, 150]), max_size=3))
    head = b"".join(b"HTTP/1.1 %d Wait\r\nx: y\r\n\r\n" % status for status in interim)
    version = draw(st.sampled_from([b"1.1", b"1.1", b"1.1", b"1.0"]))
    head += b"HTTP/%s %d %s\r\n" % (version, draw(STATUSES), draw(VALUE))
    headers = draw(st.lists(st.tuples(TOKEN, VALUE), max_size=4))
    body = draw(st.binary(max_size=200))
    framing = draw(st.sampled_from(["length", "chunked", "close"]))
    if draw(st.booleans()):
        headers.append((b"Connection", draw(st.sampled_from([b"close", b"keep-alive", b"x, close"]))))
    if framing == "length":
        headers.append((draw(st.sampled_from([b"content-length", b"Content-Length"])), b"%d" % len(body)))
    if framing == "chunked":
        headers.append((b"Transfer-Encoding", b"chunked"))
        size = draw(st.integers(1, 60))
        extension = draw(st.sampled_from([b"", b";a", b";a=b"]))
        chunks = [body[start : start + size] for start in range(0, len(body), size)]
        body = b"".join(b"%x%s\r\n%s\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
        body += b"0\r\n" + draw(st.sampled_from([b"", b"x-trailer: 1\r\n"])) + b"\r\n"
    headers = draw(st.permutations(headers))
    data = head + b"".join(b"%s: %s\r\n" % header for header in headers) + b"\r\n" + body
    if draw(st.integers(0, 5)) == 0:
        data = data[: draw(st.integers(0, len(data)))]
    return Reply.of(data, draw(st.lists(st.integers(0, len(data)), max_size=6)))


async def compare(reply: Reply, method: str, body: bytes | None, serving: Any, heard: Any, ask: Any) -> None:
    server = Server(heard)
    async with serving(server) as url:
        theirs, ours = await both(server, url, ask, reply, method, lambda: body)
    same(ours, theirs)


made_up = given(reply=replies(), method=st.sampled_from(METHODS), body=st.none() | st.binary(max_size=50))


@made_up
async def test_made_up_replies(
    reply: Reply, method: str, body: bytes | None, serving: Any, heard: Any, ask: Any
) -> None:
    await compare(reply, method, body, serving, heard, ask)


@pytest.mark.slow
@settings(max_examples=1500)
@made_up
async def test_very_many_made_up_replies(
    reply: Reply, method: str, body: bytes | None, serving: Any, heard: Any, ask: Any
) -> None:
    await compare(reply, method, body, serving, heard, ask)


# ---- one connection for several requests


@pytest.mark.parametrize(
    ("name", "serves_again"),
    [
        ("length", True),
        ("chunks", True),
        ("chunks with trailers", True),
        ("204", True),
        ("304", True),
        ("103 twice", True),
        ("the same length twice", True),
        ("HTTP/1.0", False),
        ("connection: close", False),
        ("connection: a list", False),
    ],
)
async def test_a_connection_serves_again_where_httpx_lets_it(
    name: str, serves_again: bool, server: Server, heard: Any, serve: Any, ask: Any
) -> None:
    connections = []

    async def counted(stream: trio.SocketStream) -> None:
        connections.append(stream)
        await server(stream)

    url = await serve(counted)
    server.reply = Reply.of(REPLIES[name], closes=not serves_again)
    for transport in (reference(), Transport()):
        connections.clear()
        async with transport:
            for _ in range(3):
                assert (await ask(transport, url)).failure is None
        assert len(connections) == (1 if serves_again else 3)


# ------------------------------------------------------------------------------------------------ requests


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        await trio.lowlevel.checkpoint()
        yield part


BODIES: dict[str, Any] = {
    "none": lambda: None,
    "empty": lambda: b"",
    "small": lambda: b"hello",
    "of every byte": lambda: bytes(range(256)),
    "large": lambda: b"0123456789" * 20_000,
    "streamed": lambda: pieces(b"one", b"two"),
    "streamed, with empty pieces": lambda: pieces(b"", b"one", b"", b"two", b""),
    "streamed, nothing": lambda: pieces(),
    "streamed, large": lambda: pieces(*[b"0123456789" * 10_000] * 3),
}
HEADERS: dict[str, list[tuple[str, str]]] = {
    "none": [],
    "repeated": [("X-A", "1"), ("x-a", "2"), ("Accept", "*/*")],
    "odd case": [("X-ODD-cAsE", "MiXed"), ("HOST", "other.example")],
    "close": [("Connection", "close")],
}
TARGETS = ["", "/", "/a/b?c=d&e=%20f", "/%E2%82%AC?q=\u20ac", "/a;b=c?", "/a#fragment"]


def parsed(request: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    """The head as it came, and the body as a server reads it."""
    head, body = request
    peer = h11.Connection(h11.SERVER, max_incomplete_event_size=2**20)
    peer.receive_data(head + b"\r\n\r\n" + body)
    read = bytearray()
    while not isinstance(event := peer.next_event(), h11.EndOfMessage):
        assert event is not h11.NEED_DATA, "the request is not whole"
        if isinstance(event, h11.Data):
            read += event.data
    return head, bytes(read)


@pytest.mark.parametrize("headers", HEADERS)
@pytest.mark.parametrize("body", BODIES)
async def test_every_request_is_sent_as_httpx_sends_it(
    headers: str, body: str, server: Server, serve: Any, ask: Any
) -> None:
    url = await serve(server)
    for method in ("POST", "PUT"):
        server.requests.clear()
        reply = Reply.of(REPLIES["length"])
        theirs, ours = await both(server, url, ask, reply, method, BODIES[body], headers=HEADERS[headers])
        same(ours, theirs)
        assert parsed(server.requests[0]) == parsed(server.requests[1])


async def test_targets_and_methods_are_sent_as_httpx_sends_them(server: Server, serve: Any, ask: Any) -> None:
    url = await serve(server)
    for target, method in product(TARGETS, ["GET", "HEAD", "DELETE", "PATCH", "REPORT", "x-odd"]):
        server.requests.clear()
        theirs, ours = await both(server, url + target, ask, Reply.of(REPLIES["204"]), method)
        same(ours, theirs)
        assert server.requests[0] == server.requests[1]


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ([("x", "a\nb")], None),
        ([("x", "a\0b")], None),
        ([("a b", "c")], None),
        ([("content-length", "x")], b"hello"),
        ([("host", "a"), ("host", "b")], None),
        ([("transfer-encoding", "gzip")], b"hello"),
    ],
)
async def test_a_request_that_cannot_be_sent(headers: Any, body: Any, server: Server, serve: Any, ask: Any) -> None:
    url = await serve(server)
    theirs, ours = await both(server, url, ask, Reply.of(REPLIES["204"]), "POST", lambda: body, headers=headers)
    assert ours.failure is theirs.failure is httpx.LocalProtocolError
    assert str(ours.error)


@pytest.mark.parametrize("length", ["3", "9"])
@pytest.mark.parametrize("size", [5, 200_000])
async def test_a_body_that_is_not_as_long_as_it_says(
    length: str, size: int, server: Server, serve: Any, ask: Any
) -> None:
    """httpx lets an exception of h11 through."""
    headers = [("content-length", length if size == 5 else length + "00000")]
    got = await ask(Transport(), await serve(server), "POST", content=b"x" * size, headers=headers)
    assert got.failure is httpx.LocalProtocolError
    assert "Content-Length" in str(got.error)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "/relative", "http:///nobody", "ws://127.0.0.1/", "127.0.0.1:80"])
async def test_an_address_that_is_none(url: str, ask: Any) -> None:
    got = await ask(Transport(), url)
    assert got.failure is httpx.UnsupportedProtocol
    assert "use http or https" in str(got.error)


async def test_a_body_that_raises_is_the_callers_affair(server: Server, serve: Any, ask: Any) -> None:
    url = await serve(server)

    async def broken() -> AsyncIterator[bytes]:
        yield b"one"
        raise ZeroDivisionError

    for transport in (reference(), Transport()):
        async with transport:
            with pytest.raises(ZeroDivisionError):
                await ask(transport, url, "POST", content=broken())


# ------------------------------------------------------------------------------------------------ what differs, and why

MEANT: dict[str, tuple[str, list[tuple[str, str]], bytes, str, str]] = {
    "a bomb of headers": (
        "GET",
        [],
        H + b"".join(b"h%d:\r\n" % i for i in range(300)) + b"content-length: 0\r\n\r\n",
        "256 are enough",
        "256 headers are enough: each of them costs a hundred times its bytes in memory",
    ),
    "one interim reply after the other": (
        "GET",
        [],
        b"HTTP/1.1 103 Wait\r\n\r\n" * 100 + H + b"content-length: 0\r\n\r\n",
        "64 interim replies",
        "64 are enough: each of them would prolong the reader's patience, for ever",
    ),
    "another protocol, as asked": (
        "GET",
        [("connection", "upgrade"), ("upgrade", "x")],
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        "the server changed the protocol",
        "it has no way to hand the connection out",
    ),
    "a tunnel": (
        "CONNECT",
        [],
        b"HTTP/1.1 200 OK\r\n\r\n",
        "CONNECT opens a tunnel",
        "it has no way to hand the connection out",
    ),
}


@pytest.mark.parametrize("name", MEANT)
async def test_what_differs_on_purpose(name: str, server: Server, serve: Any, ask: Any) -> None:
    method, headers, data, told, _why = MEANT[name]
    url = await serve(server)
    with trio.fail_after(5):
        theirs, ours = await both(server, url, ask, Reply.of(data), method, headers=headers)
    assert theirs.failure is None
    assert ours.failure in (httpx.RemoteProtocolError, httpx.LocalProtocolError)
    assert told in str(ours.error)
