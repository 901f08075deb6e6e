"""What a docstring says of a function and of its parameters: Google's, NumPy's and Sphinx' styles. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

_SECTION: Final = re.compile(r"(args|arguments|parameters|params):?", re.IGNORECASE)
_UNDERLINE: Final = re.compile(r"-{3,}")
_SPHINX: Final = re.compile(r":param\s+(?:[^:]*\s)?(\w+)\s*:\s*(.*)")
_GOOGLE: Final = re.compile(r"\*{0,2}(\w+)\s*(?:\([^)]*\))?\s*:\s+(.*)")
_NUMPY: Final = re.compile(r"(\w+)\s*(?::.*)?")


def summary(docstring: str) -> str:
    """The first paragraph, in one line."""
    first = docstring.strip().split("\n\n", 1)[0]
    lines = [line.strip() for line in first.splitlines()]
    end = next((i for i, line in enumerate(lines) if line.startswith(":param") or _SECTION.fullmatch(line)), len(lines))
    return " ".join(lines[:end]).strip()


def parameter_texts(docstring: str) -> dict[str, str]:
    """What is said of each parameter; those of which nothing is said are missing. `docstring` has no common indent."""
    lines = docstring.splitlines()
    texts = {name: words for name, words in _sphinx(lines) if words}
    for start, line in enumerate(lines):
        if line.strip() and not line[0].isspace() and _SECTION.fullmatch(line.strip()):
            rest = lines[start + 1 :]
            numpy = bool(rest) and _UNDERLINE.fullmatch(rest[0].strip()) is not None
            entries = _entries(rest[1:], _NUMPY, indent=0) if numpy else _entries(rest, _GOOGLE, indent=None)
            texts |= {name: words for name, words in entries if words}
    return texts


def _sphinx(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    name, words = "", ""
    for line in lines:
        found = _SPHINX.match(line)
        if found:
            if name:
                yield name, words
            name, words = found[1], found[2].strip()
        elif name and line.strip() and line[0].isspace():
            words = f"{words} {line.strip()}".strip()
        elif name:
            yield name, words
            name = ""
    if name:
        yield name, words


def _entries(lines: Iterable[str], head: re.Pattern[str], *, indent: int | None) -> Iterator[tuple[str, str]]:
    """Entries that stand at `indent` (None: that of the first); what is deeper belongs to the entry above it."""
    name, words = "", ""
    for line in lines:
        if not line.strip():
            if indent == 0:
                continue
            break
        depth = len(line) - len(line.lstrip())
        if indent is None:
            indent = depth
        found = head.fullmatch(line.strip()) if depth == indent else None
        if found and (depth or head is _NUMPY):
            if name:
                yield name, words
            name, words = found[1], found[2].strip() if head is _GOOGLE else ""
        elif depth > indent and name:
            words = f"{words} {line.strip()}".strip()
        else:
            break
    if name:
        yield name, words
