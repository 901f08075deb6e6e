"""Packed replies over real sockets, through one whole exchange."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from importlib import import_module
from typing import Any

import attrs
import pytest
import trio

from cortex.exchange import exchange
from cortex.messages import Answer, Failure, Kind, Message, Request, StreamEvent, Text, TextDelta
from cortex.timers import Chance, Timers
from cortex.transport import Transport
from cortex.wire import WIRES
from cortex.wire.codec import Target

TIMERS = Timers(connect=1.0, first=Chance(2.0), progress=2.0, write=2.0)
ASK = Request((Message("user", (Text("hi"),)),))
JSON = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"small"},"finish_reason":"stop"}]}'
SSE = (
    b'data: {"choices":[{"index":0,"delta":{"content":"sm"}}]}\n\n'
    b'data: {"choices":[{"index":0,"delta":{"content":"all"},"finish_reason":"stop"}]}\n\n'
    b"data: [DONE]\n\n"
)


def members(data: bytes) -> bytes:
    return b"".join(gzip.compress(data[start : start + 20]) for start in range(0, len(data), 20))


def brotli(data: bytes) -> bytes:
    return bytes(pytest.importorskip("brotli").compress(data))


def zstd(data: bytes) -> bytes:
    try:
        return bytes(import_module("compression.zstd").compress(data))
    except ImportError:
        return bytes(pytest.importorskip("backports.zstd").compress(data))


PACKERS: dict[str, tuple[bytes, Callable[[bytes], bytes]]] = {
    "gzip": (b"gzip", gzip.compress),
    "gzip of several members": (b"gzip", members),
    "gzip and an empty member": (b"gzip", lambda data: gzip.compress(data) + gzip.compress(b"")),
    "deflate": (b"deflate", zlib.compress),
    "brotli": (b"br", brotli),
    "zstd": (b"zstd", zstd),
}
each = pytest.mark.parametrize("packing", PACKERS)
both = pytest.mark.parametrize("stream", [False, True])
framings = pytest.mark.parametrize("framing", ["length", "chunked", "close"])


@pytest.fixture
def once(serve: Any, heard: Any) -> Any:
    """`await once(coding, body, stream, framing)`: what an exchange makes of such a reply, and the text on its way."""

    async def ask(coding: bytes, body: bytes, stream: bool, framing: str = "length") -> tuple[Answer | Failure, str]:
        kind = b"text/event-stream" if stream else b"application/json"
        head = b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-encoding: %s\r\n" % (kind, coding)
        if framing == "length":
            head += b"content-length: %d\r\n" % len(body)
        if framing == "chunked":
            head += b"transfer-encoding: chunked\r\n"
            body = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"

        async def handler(connection: trio.SocketStream) -> None:
            await heard(connection)
            await connection.send_all(head + b"\r\n" + body)

        url = await serve(handler)
        target = Target("openai", url, "gpt-4o-mini", "secret-key")
        wire = WIRES["openai_chat"]
        text: list[str] = []

        async def emit(event: StreamEvent) -> None:
            if isinstance(event, TextDelta):
                text.append(event.text)

        call = wire.encode(attrs.evolve(ASK, stream=stream), target)
        async with Transport() as transport:
            done = await exchange(transport, wire, target, call, TIMERS, emit if stream else None)
        return done.result, "".join(text)

    return ask


@each
@both
@framings
async def test_it_is_read(packing: str, stream: bool, framing: str, once: Any) -> None:
    coding, pack = PACKERS[packing]
    result, text = await once(coding, pack(SSE if stream else JSON), stream, framing)
    assert isinstance(result, Answer), result
    assert result.text == "small"
    assert text == ("small" if stream else "")


@each
@framings
async def test_one_that_was_cut_off_is_a_failure(packing: str, framing: str, once: Any) -> None:
    """Although its framing says that it is whole."""
    coding, pack = PACKERS[packing]
    result, _ = await once(coding, pack(JSON)[:-3], False, framing)
    assert isinstance(result, Failure)
    assert result.kind is Kind.PROTOCOL
    if packing != "deflate":  # of which the last bytes are but a sum
        assert "middle of its" in result.message or "JSON" in result.message


@each
async def test_a_stream_that_was_cut_off_is_a_failure(packing: str, once: Any) -> None:
    coding, pack = PACKERS[packing]
    packed = pack(SSE.partition(b"data: [DONE]")[0][:70])
    result, _ = await once(coding, packed[:-3], True)
    assert isinstance(result, Failure)
    assert result.kind in (Kind.PROTOCOL, Kind.CUT)
    assert result.message


@both
@pytest.mark.parametrize("coding", [b"gzip", b"deflate", b"br", b"zstd", b"rot13", b"gzip, gzip"])
async def test_one_that_is_not_what_it_says(coding: bytes, stream: bool, once: Any) -> None:
    result, _ = await once(coding, SSE if stream else JSON, stream)
    assert isinstance(result, Failure)
    assert result.kind is Kind.PROTOCOL
    assert "packed as" in result.message or "is not:" in result.message
