"""Unpacking what a server packed, in steps: whatever it holds, one step makes at most so many bytes of it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from typing import Any, Protocol

import attrs

STEP_BYTES = 64 * 1024


class Unpacker(Protocol):
    """One body's. `is_ended`: nothing is missing from what it was fed."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What `data` holds, in steps, of which some show nothing. Raises something of its library's own when it is not
        packed as it should be."""
        ...

    @property
    def is_ended(self) -> bool: ...


def unpacker(packing: str) -> Unpacker | None:
    """For a `content-encoding`; None for one that cannot be read here: br and zstd need their packages, `brotli` from
    1.2 on and `backports.zstd`, or Python 3.14 for the latter."""
    make = _PACKINGS.get(packing)
    return None if make is None else make()


@attrs.define
class _Row:
    """Members that may stand in a row: of gzip (RFC 1952, section 2.2) and zstd (RFC 8878, section 3), not of deflate.
    What else stands behind the end is passed over, as httpx does.

    `begins`: how a further member may begin. `rest`: what a member has not read yet of what it was given, and whether
    it holds more than it gave.
    """

    make: Callable[[], Any]
    rest: Callable[[Any, bytes], tuple[bytes, bool]]
    begins: tuple[bytes, ...] = ()
    _inner: Any = None
    _behind: bytes = b""  # the end of a member, as far as it cannot be told what follows
    _over: bool = False

    @property
    def is_ended(self) -> bool:
        return (self._inner is None or self._inner.eof) and not self._behind

    def feed(self, data: bytes) -> Iterator[bytes]:
        more = False
        while data or more:
            if self._inner is None or self._inner.eof:
                data = self._next_member(data)
                if not data:
                    return
                yield b""  # to begin is a step, too: thousands of empty members fit into a few bytes
            inner: Any = self._inner
            piece = inner.decompress(data, STEP_BYTES)
            data, more = self.rest(inner, piece)
            if piece:
                yield piece

    def _next_member(self, data: bytes) -> bytes:
        """What belongs to it of what follows: nothing, where that is none."""
        if self._inner is not None:
            data, self._behind = self._behind + data, b""
            if self._over or not data.startswith(self.begins):
                self._over = self._over or not any(one.startswith(data) for one in self.begins)
                self._behind = b"" if self._over else data
                return b""
        self._inner = self.make()
        return data


def _zlib(bits: int, *begins: bytes) -> _Row:
    def rest(inner: Any, piece: bytes) -> tuple[bytes, bool]:
        return inner.unconsumed_tail or inner.unused_data, len(piece) == STEP_BYTES and not inner.eof

    return _Row(lambda: zlib.decompressobj(bits), rest, begins)


def _gzip() -> _Row:
    return _zlib(zlib.MAX_WBITS | 16, b"\x1f\x8b")


class _Deflate:
    """Some servers leave the wrapping of zlib away (RFC 9110, section 8.4.1.2); the first two bytes tell."""

    def __init__(self) -> None:
        self._head = b""
        self._inner: _Row | None = None

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
            self._inner = _zlib(zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)
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


def _brotli() -> Unpacker | None:
    brotli = _first_of("brotli")
    if brotli is None or not hasattr(brotli.Decompressor, "can_accept_more_data"):  # an older one knows no bound
        return None
    return _Brotli(brotli.Decompressor())


_ZSTD = (b"\x28\xb5\x2f\xfd", *(bytes([kind]) + b"\x2a\x4d\x18" for kind in range(0x50, 0x60)))
"""How frames begin, those that hold nothing of the body too (RFC 8878, sections 3.1.1 and 3.1.2)."""

ZSTD_WINDOW_LOG = 23
"""A frame may ask for a window of 8 MB, as RFC 9659 has it; zstd itself would give it 128."""


def _zstd() -> Unpacker | None:
    zstd = _first_of("compression.zstd", "backports.zstd")
    if zstd is None:
        return None
    bound = {zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG}
    return _Row(lambda: zstd.ZstdDecompressor(options=bound), _zstd_rest, _ZSTD)


def _first_of(*modules: str) -> Any:
    for name in modules:
        with suppress(ImportError):
            return import_module(name)
    return None


def _zstd_rest(inner: Any, _piece: bytes) -> tuple[bytes, bool]:
    return (inner.unused_data, False) if inner.eof else (b"", not inner.needs_input)


_PACKINGS: dict[str, Callable[[], Unpacker | None]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _Deflate,
    "br": _brotli,
    "zstd": _zstd,
}
