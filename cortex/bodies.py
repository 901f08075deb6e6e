"""The body of a reply: read in pieces, inflated, bounded, and never left half read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import attrs
import httpx
import trio

from cortex.inflate import Unpacker, unpacker

MAX_BODY = 4 * 1024 * 1024
"""Bytes of a whole reply, unpacked: more than is parsed in the end, and little enough to be held until then."""

MAX_STREAM = 256 * 1024 * 1024
"""Bytes of a stream, unpacked. It is not held, and an event may be a hundred times longer than its word."""

DRAIN_BYTES, DRAIN_SECONDS = 64 * 1024, 0.05
"""After the terminal event: how much is read on so that the connection can serve again."""

BUFFERED_PIECES = 10_000
"""What has been received already comes without a wait, so that no cancel is felt before it is through."""


class BodyError(Exception):
    """A body that cannot be taken: too large, or not packed as it says."""


@attrs.define
class Body:
    """The body of a reply as it comes, unpacked, at most `limit` bytes. Whoever reads it abandons it in the end: a
    generator left in the middle would be closed by the garbage collector, in the wrong task.

    It is unpacked here and not by httpx, whose decoders know no limit and leave the reader open when they fail.
    """

    chunks: AsyncIterator[bytes]
    limit: int
    packing: str = ""
    size: int = 0
    over: bool = False
    _unpacker: Unpacker | None = None
    _steps: Iterator[bytes] | None = None

    @classmethod
    def of(cls, response: httpx.Response, limit: int) -> Body:
        """The body of `response`, not yet read."""
        if response.is_stream_consumed:  # made whole by a transport that has no wire
            return cls(response.aiter_bytes(), limit)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        packing = response.headers.get("content-encoding", "").strip().lower()
        return cls(aiter(response.stream), limit, "" if packing == "identity" else packing)

    async def next(self) -> bytes | None:
        """The next piece; None at the end."""
        while True:
            data = self._unpacked()
            if data is None:
                data = await self._piece()
                if data is None:
                    self._end()
                    return None
                if self.packing:
                    self._unpack(data)
                    continue
            else:
                await trio.lowlevel.checkpoint()  # a few bytes may hold so many that the others would have to wait
            self.size += len(data)
            if self.size > self.limit:
                raise BodyError(f"the reply is larger than {self.limit} bytes")
            if data:
                return data

    def _unpack(self, data: bytes) -> None:
        if self._unpacker is None:
            self._unpacker = unpacker(self.packing)
        if self._unpacker is None:
            raise BodyError(f"the reply is packed as {self.packing[:50]!r}, which nobody asked for")
        self._steps = self._unpacker.feed(data)

    def _unpacked(self) -> bytes | None:
        """One step more of what has come."""
        if self._steps is None:
            return None
        try:
            return next(self._steps, None)
        except Exception as error:  # each library has one of its own
            raise BodyError(f"the reply says that it is {self.packing}, and is not: {error}") from None

    def _end(self) -> None:
        if self._unpacker is not None and not self._unpacker.is_ended:
            raise BodyError(f"the reply ended in the middle of its {self.packing}")

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
    body = Body.of(response, MAX_BODY)
    parts: list[bytes] = []
    try:
        while (part := await body.next()) is not None:
            parts.append(part)
    finally:
        await body.abandon()
    return b"".join(parts)
