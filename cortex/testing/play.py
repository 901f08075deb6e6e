"""From an action to steps: what goes on the wire, in order, and when. Pure; the shells in `server` and `memory` walk
the steps one by one and add nothing, which is why both behave alike.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator

from attrs import evolve, frozen

from .dialects import Answer, Call, Dialect, Event, dumps
from .script import (
    Action,
    Cut,
    Delay,
    Garbage,
    Hang,
    Pairs,
    Pings,
    Raw,
    Redirect,
    Refuse,
    Reply,
    Reset,
    Seen,
    Status,
    StreamError,
)

WORD = re.compile(r"\s*\S+|\s+")  # a word with the space before it, so that the pieces join to the text
BODILESS = frozenset({204, 205, 304})
HUGE = 200_000  # bytes of a header no client takes


@frozen
class Head:
    """Status and headers. `length` is the body's in bytes; None: it comes in chunks."""

    status: int
    headers: Pairs
    length: int | None


@frozen
class Data:
    """A piece of the body."""

    data: bytes


@frozen
class Wait:
    """Nothing for `seconds`; `math.inf` is for ever."""

    seconds: float


@frozen
class End:
    """The answer ends as HTTP has it."""


@frozen
class Drop:
    """The connection ends: closed, or reset."""

    reset: bool = False


@frozen
class Bytes:
    """These bytes, past all rules of HTTP. Only a `Drop` can follow."""

    data: bytes


Step = Head | Data | Wait | End | Drop | Bytes


@frozen
class Stage:
    """All that a step may depend on beside the action."""

    dialect: Dialect
    call: Call
    seen: Seen
    ident: str  # unique on the wall; ids in answers are made of it


@frozen
class Rendered:
    """A whole answer in the form the request asked for."""

    head: Head
    events: tuple[Event, ...]
    stream: bool
    pace: float = 0.0


def play(action: Action, stage: Stage) -> Iterator[Step]:
    """The steps of `action`. Endless for pings without end."""
    match action:
        case Reply():
            yield from _reply(rendered(action, stage))
        case Status():
            yield from _status(action, stage)
        case Redirect(url, code):
            yield from _status(Status(code, b"", headers={"location": url}), stage)
        case Delay(seconds, then):
            yield Wait(seconds)
            yield from play(then, stage)
        case Hang(after, reply=reply):
            yield from () if after == "request" else _opening(rendered(reply, stage), after)
            yield Wait(math.inf)
        case Cut(after, how, reply=reply):
            yield from _cut(rendered(reply, stage), after, how)
        case StreamError():
            yield from _stream_error(action, stage)
        case Refuse() | Reset():
            yield Drop(reset=isinstance(action, Reset))
        case Garbage(what):
            yield from _garbage(what, stage)
        case Raw(data):
            yield Bytes(data)
            yield Drop()
        case Pings():
            yield from _pings(action, stage)


def rendered(reply: Reply, stage: Stage) -> Rendered:
    """`reply` in this dialect: one JSON body, a stream of events, or the same stream as one JSON array."""
    dialect, call = stage.dialect, stage.call
    made = answer(reply, stage)
    if not call.stream:
        body = dumps(dialect.body(made), dialect.indent)
        head = _head(stage, 200, dialect.json_type, reply.headers, len(body))
        return Rendered(head, (Event(body, content=True),), stream=False)
    events = dialect.events(made)
    kind = dialect.sse_type if call.sse else dialect.json_type
    head = _head(stage, 200, kind, reply.headers, None)
    if not call.sse:
        events = [*(_in_array(event, first=index == 0) for index, event in enumerate(events)), Event(b"\n]\n")]
    return Rendered(head, tuple(events), stream=True, pace=reply.pace)


def answer(reply: Reply, stage: Stage) -> Answer:
    """`reply` with its text made, split and counted."""
    text = reply.text(stage.seen) if callable(reply.text) else reply.text
    thinking = reply.thinking or ""
    finish = reply.finish if reply.finish is not None else ("tool_calls" if reply.tools else "stop")
    spoken = (text, thinking, *(f"{tool.name} {json.dumps(tool.arguments)}" for tool in reply.tools))
    counted = (len(stage.seen.text.split()), sum(len(part.split()) for part in spoken))
    return Answer(
        ident=stage.ident,
        model=reply.model if reply.model is not None else stage.call.model,
        text=text,
        pieces=_pieces(text, reply.chunks),
        thinking=thinking,
        thoughts=_pieces(thinking, reply.chunks),
        tools=reply.tools,
        finish=finish,
        usage=counted if reply.usage == "words" else reply.usage,
        streamed_usage=stage.call.usage,
    )


def elsewhere(dialect: Dialect, method: str, path: str) -> Status:
    """The answer to a request that asks for no completion: the list of models, a server's version, or 404."""
    if method == "GET" and path.rstrip("/").endswith("/models"):
        return Status(200, dialect.models)
    if method == "GET" and path == "/api/version":
        return Status(200, {"version": "0.6.0"})
    return Status(404, message=f"Unknown request URL: {method} {path}.")


def _pieces(text: str, size: int | None) -> tuple[str, ...]:
    if size is None:
        return tuple(WORD.findall(text))
    return tuple(text[start : start + size] for start in range(0, len(text), size))


def _head(stage: Stage, status: int, kind: str, headers: Pairs, length: int | None) -> Head:
    """What the caller's own headers name takes the place of what the vendor would say."""
    own = {name for name, _ in headers}
    usual = (("content-type", kind), *stage.dialect.headers(stage.ident))
    return Head(status, (*((name, value) for name, value in usual if name not in own), *headers), length)


def _in_array(event: Event, *, first: bool) -> Event:
    data = event.data.removeprefix(b"data: ").rstrip()
    return evolve(event, data=(b"[" if first else b"\n,\n") + data)


def _reply(whole: Rendered) -> Iterator[Step]:
    yield whole.head
    for index, event in enumerate(whole.events):
        if whole.pace and index:
            yield Wait(whole.pace)
        yield Data(event.data)
    yield End()


def _status(action: Status, stage: Stage) -> Iterator[Step]:
    dialect, body = stage.dialect, action.body
    kind = dialect.json_type
    if action.code in BODILESS:
        data = b""
    elif isinstance(body, str | bytes):
        data = body.encode() if isinstance(body, str) else body
        kind = "text/html; charset=utf-8" if data.lstrip()[:1] == b"<" else "text/plain; charset=utf-8"
    else:
        error = dialect.error(action.code, action.vendor_code, action.message, stage.ident)
        data = dumps(error if body is None else body, dialect.indent)
    yield _head(stage, action.code, kind, action.headers, len(data))
    if data:
        yield Data(data)
    yield End()


def _opening(whole: Rendered, after: str | int | float) -> Iterator[Step]:
    """The head and the answer up to `after`, each event apart."""
    yield whole.head
    pieces = _up_to(whole, after)
    for index, piece in enumerate(pieces):
        if whole.pace and index:
            yield Wait(whole.pace)
        yield Data(piece)


def _up_to(whole: Rendered, after: str | int | float) -> list[bytes]:
    if isinstance(after, str):
        return []
    body = b"".join(event.data for event in whole.events)
    if isinstance(after, float):
        return [body[: int(len(body) * after)]]
    if not whole.stream:
        return [body[: len(body) // 2]]
    return [event.data for event in whole.events[: _place(whole.events, after)]]


def _place(events: tuple[Event, ...], count: int) -> int:
    """The index behind the `count`-th content event, or behind the last one: what ends a stream is never included.
    With 0, what comes before the first one is."""
    places = [index for index, event in enumerate(events) if event.content]
    if count == 0 or not places:
        return places[0] if places else 0
    return places[min(count, len(places)) - 1] + 1


def _cut(whole: Rendered, after: str | int | float, how: str) -> Iterator[Step]:
    clean = how == "clean"
    if clean:
        whole = evolve(whole, head=evolve(whole.head, length=None))
    yield from _opening(whole, after)
    yield End() if clean else Drop(reset=how == "rst")


def _stream_error(action: StreamError, stage: Stage) -> Iterator[Step]:
    dialect = stage.dialect
    if not stage.call.stream:
        status = dialect.status_of(action.type)
        yield from _status(Status(status, vendor_code=action.type, message=action.message), stage)
        return
    whole = rendered(action.reply, stage)
    error = dialect.stream_error(action.type, action.message, stage.ident)
    said = False
    for step in _opening(whole, action.after):
        said = said or isinstance(step, Data)
        yield step
    yield Data(error.data if stage.call.sse else _in_array(error, first=not said).data + b"\n]\n")
    yield End()


def _pings(action: Pings, stage: Stage) -> Iterator[Step]:
    whole = rendered(action.reply, stage)
    yield evolve(whole.head, length=None)
    sign = Data(stage.dialect.ping if whole.stream and stage.call.sse else b"\n")
    count = 0
    while action.n is None or count < action.n:
        yield Wait(action.every)
        yield sign
        count += 1
    yield from list(_reply(whole))[1:]


PORTAL = "<!doctype html><html><title>Sign in</title><body>Sign in to use this network.</body></html>"
GZIP = ("content-encoding", "gzip")
BROKEN_HTTP = {
    "status_line": b"HTTP/banana 2OO Sure\r\n\r\n",
    "content_length": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 40\r\n\r\n{}",
    "chunk_size": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n{}\r\n",
    "huge_header": b"HTTP/1.1 200 OK\r\nx-huge: " + b"a" * HUGE + b"\r\ncontent-length: 2\r\n\r\n{}",
}


def _garbage(what: str, stage: Stage) -> Iterator[Step]:
    whole = rendered(Reply(), stage)
    match what:
        case "html":
            yield from _status(Status(200, PORTAL), stage)
        case "empty":
            yield from _status(Status(200, b"", headers={"content-type": stage.dialect.json_type}), stage)
        case "json":
            yield evolve(whole.head, length=None)
            yield Data(b'data: {"broken": [\n\n' if stage.call.stream and stage.call.sse else b'{"broken": [')
            yield End()
        case "gzip":
            yield from _reply(evolve(whole, head=evolve(whole.head, headers=(*whole.head.headers, GZIP))))
        case _:
            yield Bytes(BROKEN_HTTP[what])
            yield Drop()
