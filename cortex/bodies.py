"""The body of a reply: read in pieces, inflated, bounded, and never left half read."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Callable

import attrs
import httpx
import trio

MAX_BODY = 64 * 1024 * 1024
"""Bytes of one reply, inflated: far above any real answer, far below a bomb."""

DRAIN_BYTES, DRAIN_SECONDS = 64 * 1024, 0.05
"""After the terminal event: how much is read on so that the connection can serve again."""

BUFFERED_PIECES = 10_000
"""What has been received already comes without a wait, so that no cancel is felt before it is through."""


class BodyError(Exception):
    """A body that cannot be taken: too large, or not packed as it says."""


@attrs.define
class Body:
    """The body of a reply as it comes, inflated, at most MAX_BODY bytes. Whoever reads it abandons it in the end: a
    generator left in the middle would be closed by the garbage collector, in the wrong task.

    It is inflated here and not by httpx, whose decoders know no limit and leave the reader open when they fail.
    """

    chunks: AsyncIterator[bytes]
    inflate: Callable[[bytes], bytes] | None = None
    size: int = 0
    over: bool = False

    @classmethod
    def of(cls, response: httpx.Response) -> Body:
        """The body of `response`, not yet read."""
        if response.is_stream_consumed:  # made whole by a transport that has no wire
            return cls(response.aiter_bytes())
        return cls(response.aiter_raw(), _inflater(response.headers.get("content-encoding", "")))

    async def next(self) -> bytes | None:
        """The next piece; None at the end."""
        data = await self._piece()
        if data is None:
            return None
        if self.inflate is not None:
            data = self.inflate(data)
        self.size += len(data)
        if self.size > MAX_BODY:
            raise BodyError(f"the reply is larger than {MAX_BODY} bytes")
        return data

    async def _piece(self) -> bytes | None:
        self.over = True  # whatever ends the read, a cancel too, unwinds the generators inside
        data = await anext(self.chunks, None)
        self.over = data is None
        return data

    async def drain(self) -> None:
        """Read on to the end for a moment, so that the connection can be used again."""
        enough = self.size + DRAIN_BYTES
        with trio.move_on_after(DRAIN_SECONDS):
            try:
                while not self.over and self.size < enough:
                    await self.next()
            except (httpx.HTTPError, OSError, BodyError):
                return  # the answer is whole already; how its connection ended matters to nobody

    async def abandon(self) -> None:
        """End the reading, wherever it is: a cancelled read unwinds the generators in order."""
        if self.over:
            return
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                for _ in range(BUFFERED_PIECES):
                    if await self._piece() is None:
                        return
            except (httpx.HTTPError, OSError):
                return


async def read(response: httpx.Response) -> bytes:
    """The whole body."""
    body = Body.of(response)
    parts: list[bytes] = []
    try:
        while (part := await body.next()) is not None:
            parts.append(part)
    finally:
        await body.abandon()
    return b"".join(parts)


_PACKED = {"gzip": zlib.MAX_WBITS | 16, "x-gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}


def _inflater(encoding: str) -> Callable[[bytes], bytes] | None:
    """For what a server packs although nobody asked it to. None: it is plain."""
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return None
    bits = _PACKED.get(name)
    unpacker = zlib.decompressobj(bits) if bits is not None else None

    def inflate(data: bytes) -> bytes:
        if unpacker is None:
            raise BodyError(f"the reply is packed as {name[:50]!r}, which nobody asked for")
        try:
            return unpacker.decompress(data, MAX_BODY + 1)
        except zlib.error as error:
            raise BodyError(f"the reply says that it is {name}, and is not: {error}") from None

    return inflate
