"""A stream of JSON lines, from bytes to events: https://github.com/ndjson/ndjson-spec

Laws as with server-sent events: how the bytes were cut never changes what comes out, the work is linear in the bytes,
and one line is bounded. Only LF ends a line: inside JSON it cannot stand raw, while other separators can.
"""

from __future__ import annotations

from cortex.messages import Broken, Ended, Kind, StreamEvent
from cortex.wire.sse import LIMIT
from cortex.wire.stream import Fold, bounded, fold_json
from cortex.wire.values import TooMuch, loads


class NdjsonDecoder:
    """Bytes in, events out. See `cortex.wire.codec.Decoder`. `limit` bounds one line, in bytes."""

    def __init__(self, fold: Fold, limit: int = LIMIT) -> None:
        self._fold = fold
        self._limit = limit
        self._line = bytearray()  # the line that has not ended yet
        self._over = False

    def feed(self, data: bytes) -> list[StreamEvent]:
        """Take the next bytes, however they were cut."""
        events: list[StreamEvent] = []
        *ends, rest = data.split(b"\n")
        for piece in ends:
            if self._over:
                break
            events += self._take(piece)
        if not self._over:
            self._line += rest
            if len(self._line) > self._limit:
                events += self._until_over(self._too_long())
        return events

    def close(self) -> list[StreamEvent]:
        """No more bytes will come. A last line that lost nothing but its end counts."""
        if self._over:
            return []
        line = bytes(self._line).strip()
        if line and not line.startswith(b"<") and not _is_json(line):
            self._over = True
            return self._fold.broken(Kind.CUT, "the stream ended before the answer did, inside a line")
        events = self._take(b"")
        if not self._over:
            self._over = True
            events += bounded(self._fold, self._fold.closed)
        return events

    def _take(self, piece: bytes) -> list[StreamEvent]:
        """The end of a line: what it says."""
        self._line += piece
        size, line = len(self._line), bytes(self._line).strip()
        self._line.clear()
        if size > self._limit:
            return self._until_over(self._too_long())
        if line.startswith(b"<"):
            return self._until_over(self._fold.broken(Kind.NOT_API, "a page came where a stream belongs"))
        return self._until_over(fold_json(self._fold, "", line)) if line else []

    def _too_long(self) -> list[StreamEvent]:
        return self._fold.broken(Kind.PROTOCOL, f"a line is longer than {self._limit} bytes")

    def _until_over(self, events: list[StreamEvent]) -> list[StreamEvent]:
        self._over = bool(events) and isinstance(events[-1], Ended | Broken)
        return events


def _is_json(line: bytes) -> bool:
    try:
        loads(line)
    except TooMuch:  # as far as one can tell
        return True
    except ValueError:
        return False
    return True
