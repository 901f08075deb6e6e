"""Server-sent events, from bytes, by the letter of https://html.spec.whatwg.org/multipage/server-sent-events.html.

An own decoder, because line readers of HTTP clients split on U+2028, U+0085 and form feed, which may stand raw inside
JSON; because vendors' readers lose the first event to a BOM and invent events from a bare `event:` line; and because
none of them bounds an event. Laws: how the bytes were cut never changes what comes out; the work is linear in the
bytes; text is strict UTF-8 whatever the charset header says; an event that its blank line never ended is not delivered.
One difference from the letter: an event whose data is empty is none (no vendor means anything by it).
"""

from __future__ import annotations

from typing import TypeAlias

import attrs

LIMIT = 3 * 1024 * 1024  # bytes of one event: above any real one (an image is ~2 MiB); parsed it is held three times
_BOM = b"\xef\xbb\xbf"


@attrs.frozen
class SseEvent:
    """One event: its name ("" when none was given) and its data lines, joined by a newline."""

    name: str
    data: str


@attrs.frozen
class SseFault:
    """The stream cannot be read on: `reason` says why. Always the last thing that comes out."""

    reason: str


SseItem: TypeAlias = SseEvent | SseFault


class SseDecoder:
    """Bytes in, events out. `limit` bounds one event (its data lines together, or any single line), in bytes."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._line = bytearray()  # the line that has not ended yet
        self._data: list[bytes] = []
        self._data_size = 0
        self._name = b""
        self._skip_newline = False  # the last byte was CR: an LF now belongs to it
        self._first_line = True  # where a BOM may stand
        self._over = False

    def feed(self, data: bytes) -> list[SseItem]:
        """Take the next bytes; give what they complete, in order."""
        if self._over or not data:
            return []
        if self._skip_newline and data.startswith(b"\n"):
            data = data[1:]
        self._skip_newline = data.endswith(b"\r")
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = data.split(b"\n")
        items: list[SseItem] = []
        for piece in lines:
            self._line += piece
            line = bytes(self._line)
            self._line.clear()
            items += self._take_line(line)
            if items and isinstance(items[-1], SseFault):
                return items
        self._line += rest
        if len(self._line) > self._limit:
            items.append(self._too_long())
        return items

    def close(self) -> bool:
        """No more bytes will come. True when an unfinished event was thrown away."""
        self._over = True
        return bool(self._line or self._data)

    def _take_line(self, line: bytes) -> list[SseItem]:
        if self._first_line:
            self._first_line = False
            line = line.removeprefix(_BOM)
        if not line:
            return self._dispatch()
        if len(line) > self._limit:
            return [self._too_long()]
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
            self._data_size += len(line)
            if self._data_size > self._limit:
                return [self._too_long()]
        elif field == b"event":
            self._name = value
        return []

    def _dispatch(self) -> list[SseItem]:
        data, name = b"\n".join(self._data), self._name
        self._data.clear()
        self._data_size = 0
        self._name = b""
        if not data:
            return []
        try:
            return [SseEvent(name.decode(), data.decode())]
        except UnicodeDecodeError:
            return [self._fault("an event is not UTF-8")]

    def _too_long(self) -> SseFault:
        return self._fault(f"an event is longer than {self._limit} bytes")

    def _fault(self, reason: str) -> SseFault:
        self._over = True
        self._line.clear()
        self._data.clear()
        return SseFault(reason)
