"""Unpacking what a server packed, in steps: whatever it holds, one step makes at most so many bytes of it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, Protocol

import attrs

STEP_BYTES = 64 * 1024


class Unpacker(Protocol):
    """One body's. `is_ended`: nothing is missing from what it was fed."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What `data` holds, in steps. Raises something of its library's own when it is not packed as it should be."""
        ...

    @property
    def is_ended(self) -> bool: ...


def unpacker(packing: str) -> Unpacker | None:
    """For a `content-encoding`; None for one that cannot be read here: br and zstd need their packages, `brotli` from
    1.2 on and `backports.zstd`, or Python 3.14 for the latter."""
    make = _PACKINGS.get(packing)
    return None if make is None else make()


_GZIP = b"\x1f\x8b"
"""How every member of a gzip begins."""


@attrs.define
class _Zlib:
    """gzip, of which several members may stand in a row (RFC 1952, section 2.2), and deflate, of which only one can.
    What else stands behind the end is passed over, as httpx does."""

    bits: int
    _inner: Any = None
    _behind: bytes = b""  # the end of a member, as far as it cannot be told what follows

    @property
    def is_ended(self) -> bool:
        return self._inner is None or self._inner.eof

    def feed(self, data: bytes) -> Iterator[bytes]:
        full = False  # then zlib may hold more than it gave
        while data or full:
            if self._inner is None or self._inner.eof:
                data = self._next_member(data)
                if not data:
                    return
            inner: Any = self._inner
            piece = inner.decompress(data, STEP_BYTES)
            full = len(piece) == STEP_BYTES and not inner.eof
            data = inner.unconsumed_tail or inner.unused_data
            if piece:
                yield piece

    def _next_member(self, data: bytes) -> bytes:
        """What belongs to it of what follows: nothing, where that is no gzip."""
        if self._inner is not None:
            self._behind = data = self._behind + data
            if self.bits <= zlib.MAX_WBITS or not data.startswith(_GZIP):
                self._behind = data[: len(_GZIP)]  # a lone first byte waits for its second
                return b""
            self._behind = b""
        self._inner = zlib.decompressobj(self.bits)
        return data


class _Deflate:
    """Some servers leave the wrapping of zlib away (RFC 9110, section 8.4.1.2); the first two bytes tell."""

    def __init__(self) -> None:
        self._head = b""
        self._inner: _Zlib | None = None

    @property
    def is_ended(self) -> bool:
        return not self._head if self._inner is None else self._inner.is_ended

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._inner is None:
            self._head += data
            if len(self._head) < 2:
                return
            data, self._head = self._head, b""
            wrapped = data[0] & 0x0F == zlib.DEFLATED and int.from_bytes(data[:2], "big") % 31 == 0
            self._inner = _Zlib(zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)
        yield from self._inner.feed(data)


@attrs.define
class _Brotli:
    _inner: Any

    @property
    def is_ended(self) -> bool:
        return bool(self._inner.is_finished())

    def feed(self, data: bytes) -> Iterator[bytes]:
        while piece := self._inner.process(data, output_buffer_limit=STEP_BYTES):
            data = b""
            yield piece
            if self._inner.is_finished():
                return


@attrs.define
class _Zstd:
    _inner: Any

    @property
    def is_ended(self) -> bool:
        return bool(self._inner.eof)

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data or not (self._inner.eof or self._inner.needs_input):
            piece = self._inner.decompress(data, STEP_BYTES)
            data = b""
            if piece:
                yield piece


def _brotli() -> Unpacker | None:
    try:
        inner = import_module("brotli").Decompressor()
    except ImportError:
        return None
    return _Brotli(inner) if hasattr(inner, "can_accept_more_data") else None  # an older one knows no bound


def _zstd() -> Unpacker | None:
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return _Zstd(import_module(name).ZstdDecompressor())
        except ImportError:
            continue
    return None


_PACKINGS: dict[str, Callable[[], Unpacker | None]] = {
    "gzip": lambda: _Zlib(zlib.MAX_WBITS | 16),
    "x-gzip": lambda: _Zlib(zlib.MAX_WBITS | 16),
    "deflate": _Deflate,
    "br": _brotli,
    "zstd": _zstd,
}
