"""What we say: the head and the body of a request, as bytes.

What we hear may be anything, and h11 reads it. What we say is known, and is checked and written here, because h11
spends a tenth of the CPU of a call on it. It refuses and writes the same (the tests compare them), but for the framing:
of both only the one that counts is sent, and said in one way, and a list of lengths is refused (RFC 9112, sections 6.2
and 6.3, forbid them to a sender). CONNECT is refused, too.
"""

from __future__ import annotations

import re
import string
from collections.abc import AsyncIterable
from typing import TypeAlias

import attrs
import httpx

from .proxy import Proxy

Body: TypeAlias = bytes | AsyncIterable[bytes]
Headers: TypeAlias = list[tuple[bytes, bytes]]

_TOKEN = (string.ascii_letters + string.digits + "-!#$%&'*+.^_`|~").encode()
"""Of these are methods and the names of headers (RFC 9110, section 5.6.2)."""

_VALUE = bytes(set(range(256)) - set(b"\0\n\v\f\r"))
"""As in h11: whatever nobody takes for the end of a line; RFC 9110, section 5.5, wants none of the other controls."""

_TARGET = bytes(range(0x21, 0x7F))

_MAX_DIGITS = 20
"""Of a length, as in h11; for thousands of them `int` raises."""

_CLOSE = re.compile(rb"(?:^|,)[ \t]*close[ \t]*(?:,|$)", re.IGNORECASE)


@attrs.frozen
class Head:
    """The head of a request as it is sent, and what it says.

    `length`: of the body, in bytes; None: it comes in chunks. `is_head`: the answer has no body. `expects`: we wait to
    be asked for ours. `closes`: the connection ends with the answer.
    """

    data: bytes = attrs.field(repr=False)  # with keys
    length: int | None
    is_head: bool
    expects: bool
    closes: bool


def parts_of(request: httpx.Request, proxy: Proxy | None) -> tuple[Head, Body]:
    """The head and the body of a request. Raises `httpx.LocalProtocolError`, which quotes no value: it may be a key."""
    head, body = _head(request, proxy), _body(request)
    if isinstance(body, bytes) and head.length not in (None, len(body)):
        raise httpx.LocalProtocolError(f"the body has {len(body)} bytes, and its Content-Length says {head.length}")
    return head, body


def _head(request: httpx.Request, proxy: Proxy | None) -> Head:
    url, headers = request.url, request.headers.raw
    target = url.raw_path
    if proxy is not None and proxy.forwards(url.scheme):
        target = b"%b://%b%b" % (url.raw_scheme, url.netloc, target)
        headers = [*headers, *proxy.headers]
    return written(_encoded(request.method), _encoded(request.extensions.get("target", target)), headers)


def _body(request: httpx.Request) -> Body:
    if isinstance(request.stream, httpx.ByteStream):
        return b"".join(request.stream)
    try:
        return request.content
    except httpx.RequestNotRead:
        if not isinstance(request.stream, httpx.AsyncByteStream):
            raise httpx.LocalProtocolError("the body can only be read by a synchronous client") from None
        return request.stream


def written(method: bytes, target: bytes, headers: Headers) -> Head:
    """The head of a request, from its parts. Raises as `parts_of` does."""
    names = [name.lower() for name, _ in headers]
    values = [value for _, value in headers]
    if fault := _fault(method, target, names, values):
        raise httpx.LocalProtocolError(fault)
    coding = _said(b"transfer-encoding", names, values)
    length = _length(_said(b"content-length", names, values), coding)
    if length is None and (b"content-length" in names or coding != b"chunked"):
        return written(method, target, _only_chunked(headers))
    lines = [b"%b: %b\r\n" % header for header in headers]
    lines.insert(0, lines.pop(names.index(b"host")))  # where servers look for it (RFC 9110, section 7.2)
    return Head(
        data=b"%b %b HTTP/1.1\r\n%b\r\n" % (method, target, b"".join(lines)),
        length=length,
        is_head=method == b"HEAD",
        expects=b"expect" in names,
        closes=_CLOSE.search(_said(b"connection", names, values) or b"") is not None,
    )


def _only_chunked(headers: Headers) -> Headers:
    """Said once, and as everybody writes it: who stands between must not read another framing than the server."""
    framing = (b"content-length", b"transfer-encoding")
    return [*(header for header in headers if header[0].lower() not in framing), (b"Transfer-Encoding", b"chunked")]


def _encoded(text: str | bytes) -> bytes:
    """What is not of ASCII is refused later, with words of ours."""
    return text.encode("utf-8", "surrogatepass") if isinstance(text, str) else _copied(text)


def _copied(data: bytes | bytearray | memoryview) -> bytes:
    """As it is now: it may be a view of what changes, or of items that are no bytes. TypeError for what is none."""
    return data if isinstance(data, bytes) else memoryview(data).tobytes()


def _fault(method: bytes, target: bytes, names: list[bytes], values: list[bytes]) -> str:
    """What is wrong with them, or nothing."""
    if not method or method.translate(None, _TOKEN):
        return "the method is empty or holds a character that is not allowed there"
    if method.upper() == b"CONNECT":
        return "CONNECT opens a tunnel, and this transport has no way to hand one out"
    if not target or target.translate(None, _TARGET):
        return "the target of the request is empty or holds a character that has to be escaped"
    if b"" in names or b"".join(names).translate(None, _TOKEN):
        return "the name of a header is empty or holds a character that is not allowed there"
    if not _are_values(values):
        bad = next(name.decode() for name, value in zip(names, values, strict=True) if not _are_values([value]))
        return f"the header {bad} holds a character that is not allowed there, or a blank at an end"
    if names.count(b"host") != 1:
        return "a request has one header Host"
    return ""


def _are_values(values: list[bytes]) -> bool:
    return not b"".join(values).translate(None, _VALUE) and [value.strip(b" \t") for value in values] == values


def _said(key: bytes, names: list[bytes], values: list[bytes]) -> bytes | None:
    """What is said under a name. What is said several times is one list (RFC 9110, section 5.3)."""
    times = names.count(key)
    if times < 2:
        return values[names.index(key)] if times else None
    return b",".join([value for name, value in zip(names, values, strict=True) if name == key])


def _length(length: bytes | None, coding: bytes | None) -> int | None:
    if length is not None and (not length.isdigit() or len(length) > _MAX_DIGITS):
        raise httpx.LocalProtocolError("Content-Length has to be one number")
    if coding is None:
        return int(length or b"0")
    if coding.lower() != b"chunked":
        raise httpx.LocalProtocolError("the only Transfer-Encoding that can be sent is: chunked")
    return None


@attrs.define
class BodyWriter:
    """Frames the body, piece by piece, and minds that it is as long as its head says (RFC 9112, section 6)."""

    left: int | None

    def piece(self, data: bytes | bytearray | memoryview) -> bytes:
        """What is sent for a piece of the body."""
        data = _copied(data)
        if self.left is None:
            return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        self.left -= len(data)
        if self.left < 0:
            raise httpx.LocalProtocolError("the body is longer than its Content-Length")
        return data

    def end(self) -> bytes:
        """What is sent after the last piece."""
        if self.left:
            raise httpx.LocalProtocolError("the body is shorter than its Content-Length")
        return b"0\r\n\r\n" if self.left is None else b""
