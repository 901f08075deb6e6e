"""What the commands write with: lines that fit the terminal, colour only where it is wanted, plain text elsewhere."""

from __future__ import annotations

import os
import shutil
import textwrap
from typing import Final, TextIO

NARROWEST: Final = 20
"""Columns; below that, wrapping would hide more than it helps."""

_STYLES: Final = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
}

_CONTROL: Final = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"}
"""C0 and C1 controls: what a model or a server sends must not steer the user's terminal."""


class Screen:
    """Writes lines to a stream. On a terminal they are wrapped to its width; elsewhere each stays one line.

    Colour: on a terminal, unless NO_COLOR is set or TERM is "dumb" (https://no-color.org).
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.is_terminal = stream.isatty()
        self._coloured = self.is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def line(self, text: str = "", *, style: str | None = None, indent: int = 0) -> None:
        """One line; what does not fit goes on in the next, two columns further in than `indent`."""
        for row in self._rows(safe(text).replace("\n", " "), indent):
            self._write(f"{self._styled(row, style)}\n")
        self._stream.flush()

    def message(self, text: str) -> None:
        """Lines as they are: a message may have several."""
        for row in text.splitlines():
            self.line(row.strip(), indent=len(row) - len(row.lstrip()))

    def text(self, text: str) -> None:
        """A piece of somebody else's text, at once and without a line's end."""
        self._write(safe(text) if self.is_terminal else text)
        self._stream.flush()

    def _rows(self, text: str, indent: int) -> list[str]:
        margin = " " * indent
        if not self.is_terminal or not text:
            return [f"{margin}{text}".rstrip()]
        width = max(shutil.get_terminal_size().columns, NARROWEST)
        wrapped = textwrap.wrap(
            text, width, initial_indent=margin, subsequent_indent=f"{margin}  ", break_on_hyphens=False
        )
        return wrapped or [""]

    def _styled(self, text: str, style: str | None) -> str:
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if style and self._coloured else text

    def _write(self, text: str) -> None:
        # A terminal or a pipe of another encoding gets a question mark, not an error in the middle of an answer.
        encoding = self._stream.encoding or "utf-8"
        self._stream.write(text.encode(encoding, "replace").decode(encoding))


def safe(text: str) -> str:
    """`text` without control characters, but for tabs and line ends."""
    return text.translate(_CONTROL)
