"""What all dialects share: the shape of an answer before it is rendered, and of a dialect itself.

A dialect is a row: values and pure functions. Adding a vendor's dialect is one file and one row.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from attrs import field, frozen

from ..script import Pairs, ToolCall

CREATED = 1_770_000_000  # an answer's date: fixed, so that two runs of one script are the same bytes


@frozen
class Call:
    """What a request asks for. `sse` is False for a stream that is one JSON array (Gemini without alt=sse)."""

    model: str
    text: str
    stream: bool = False
    sse: bool = True
    usage: bool = False


@frozen
class Answer:
    """A reply to one request, its text already made and split. `ident` is unique on a wall; `finish` is neutral."""

    ident: str
    model: str
    text: str
    pieces: tuple[str, ...]
    thinking: str
    thoughts: tuple[str, ...]
    tools: tuple[ToolCall, ...]
    finish: str
    usage: tuple[int, int] | None
    streamed_usage: bool

    @property
    def thought_tokens(self) -> int:
        return len(self.thinking.split())


@frozen
class Event:
    """One piece of a streamed body; `content` marks those that carry some of the answer."""

    data: bytes
    content: bool = False


@frozen
class Dialect:
    """How one vendor's interface reads and writes."""

    name: str
    root: str  # what a client's base URL has behind the port
    json_type: str
    sse_type: str
    ping: bytes
    headers: Callable[[str], Pairs]  # ident -> what the vendor adds to every answer
    parse: Callable[[str, str, Any], Call | None]  # path, query, body -> the call; None: no such place
    body: Callable[[Answer], dict[str, Any]]
    events: Callable[[Answer], list[Event]]
    error: Callable[[int, str | None, str | None, str], dict[str, Any]]  # status, vendor code, message, ident
    stream_error: Callable[[str | None, str | None, str], Event]  # type, message, ident
    status_of: Callable[[str | None], int]  # the status that an in-stream error's type has outside a stream
    models: dict[str, Any]
    indent: int | None = field(default=None)
    also: tuple[Dialect, ...] = field(default=())  # what else is spoken at the same address

    def hear(self, path: str, query: str, body: Any) -> tuple[Dialect, Call | None]:
        """The dialect a request is in, and the call it makes; None: no such place."""
        spoken = ((dialect, dialect.parse(path, query, body)) for dialect in (self, *self.also))
        return next(((dialect, call) for dialect, call in spoken if call is not None), (self, None))


def dumps(value: object, indent: int | None = None) -> bytes:
    """JSON as vendors write it: UTF-8, unescaped; what UTF-8 cannot hold (lone surrogates) escaped."""
    separators = (",", ": ") if indent else (",", ":")
    try:
        return json.dumps(value, ensure_ascii=False, indent=indent, separators=separators).encode()
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent, separators=separators).encode()


def mapping(value: object) -> dict[str, Any]:
    """`value` if it is an object of JSON; else an empty one. A client under test may send anything."""
    return value if isinstance(value, dict) else {}


def rows(value: object) -> list[dict[str, Any]]:
    """The objects in `value` if it is a list."""
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def last_user_text(messages: object) -> str:
    """The text of the last message of the user that has any; `content` is a string or a list of parts."""
    for message in reversed(rows(messages)):
        content = message.get("content")
        text = content if isinstance(content, str) else joined_text(content)
        if message.get("role") == "user" and text:
            return text
    return ""


def joined_text(parts: object) -> str:
    """The text of parts such as {"type": "text", "text": ...} or {"text": ...}."""
    return "\n".join(part["text"] for part in rows(parts) if isinstance(part.get("text"), str))


def fragments(text: str, size: int = 8) -> list[str]:
    """`text` in pieces of `size` characters, as tool arguments are streamed."""
    return [text[start : start + size] for start in range(0, len(text), size)]
