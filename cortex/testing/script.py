"""What a loopback provider can be told to do, as values.

An action says what one request gets. It knows nothing of vendors, HTTP or time: `play` turns it into steps for one
dialect, and two shells (sockets, memory) walk the same steps. So a test written against one holds against the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import inf
from typing import Any, Literal, cast, get_args

from attrs import field, frozen

Pairs = tuple[tuple[str, str], ...]
HeadersLike = Mapping[str, object] | Iterable[tuple[str, object]]


def _pairs(value: HeadersLike) -> Pairs:
    rows = value.items() if isinstance(value, Mapping) else value
    return tuple((str(name).lower(), str(content)) for name, content in rows)


@frozen
class Seen:
    """One request as a provider received it.

    `headers` have lower-case names; `body` is the parsed JSON (None when it was none); `text` is the last user text;
    `at` is in seconds of `time.monotonic()` on a threaded wall and of `trio.current_time()` elsewhere; `connection`
    counts this provider's sockets from 1 (0 in memory); `gone` says that the client left before the answer's end.
    """

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: Any
    text: str
    model: str
    stream: bool
    at: float
    connection: int
    gone: bool = False


@frozen
class ToolCall:
    """A tool call in a reply. Ids are given by the wall, in the vendor's own form."""

    name: str
    arguments: dict[str, Any] = field(factory=dict)


def _calls(value: Iterable[ToolCall | tuple[str, dict[str, Any]]]) -> tuple[ToolCall, ...]:
    return tuple(call if isinstance(call, ToolCall) else ToolCall(*call) for call in value)


def _between(least: float, most: float = inf, instead: str = "") -> Callable[[object, Any, Any], None]:
    """A validator for a number within bounds, or None where the field allows it (`instead` says so)."""

    def check(_: object, attribute: Any, value: float | None) -> None:
        if value is None and instead:
            return
        if not isinstance(value, int | float) or not least <= value <= most:
            bounds = f"from {least:g} on" if most == inf else f"from {least:g} to {most:g}"
            raise ValueError(f"{attribute.name} is {value!r} ({type(value).__name__}); give a number {bounds}{instead}")

    return check


def _place(*words: str) -> Callable[[object, Any, object], None]:
    """A validator for a place in an answer: one of `words`, a count of chunks, or a share of the body's bytes."""

    def check(_: object, attribute: Any, value: object) -> None:
        counted = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        shared = isinstance(value, float) and 0.0 <= value <= 1.0
        if not (counted or shared or value in words):
            raise ValueError(
                f"{attribute.name} is {value!r} ({type(value).__name__}); give {', '.join(map(repr, words))}, "
                "a count of chunks, or a share of the body between 0.0 and 1.0"
            )

    return check


def _one_of(literal: Any) -> Callable[[object, Any, object], None]:
    words = get_args(literal)

    def check(_: object, attribute: Any, value: object) -> None:
        if value not in words:
            raise ValueError(f"{attribute.name} is {value!r}; give one of {', '.join(map(repr, words))}")

    return check


@frozen
class Reply:
    """A good answer, as JSON or as a stream, whichever the request asks for.

    `finish` is "stop", "length", "tool_calls", "content_filter" or "refusal", put in the vendor's own word; any other
    string is sent as it is, "" sends none; None means "tool_calls" with tools and "stop" without.
    `usage` is (input, output) tokens; "words" counts words; None leaves it out. `model` None echoes the request's.
    `chunks` is the number of characters in a streamed piece; None splits by words. `pace` is seconds between events.
    """

    text: str | Callable[[Seen], str] = "Hello from the wall."
    thinking: str | None = field(default=None, kw_only=True)
    tools: tuple[ToolCall, ...] = field(default=(), kw_only=True, converter=_calls)
    finish: str | None = field(default=None, kw_only=True)
    model: str | None = field(default=None, kw_only=True)
    usage: tuple[int, int] | Literal["words"] | None = field(default="words", kw_only=True)
    chunks: int | None = field(default=None, kw_only=True, validator=_between(1, instead=", or None: by words"))
    pace: float = field(default=0.0, kw_only=True, validator=_between(0))
    headers: Pairs = field(default=(), kw_only=True, converter=_pairs)


@frozen(init=False)
class ToolCalls(Reply):
    """A reply that calls tools: `ToolCalls(("get_weather", {"city": "Paris"}), ...)`. `options` are `Reply`'s."""

    def __init__(self, *calls: ToolCall | tuple[str, dict[str, Any]], text: str = "", **options: Any) -> None:
        super().__init__(text, tools=calls, **options)


@frozen
class Status:
    """An answer with this status. `body` None is the vendor's own error object, with `vendor_code` in its place
    (OpenAI `error.code`, Anthropic `error.type`, Gemini `error.status`) and `message`; a dict is sent as JSON, a
    string or bytes as they are."""

    code: int = field(validator=_between(200, 599))
    body: dict[str, Any] | str | bytes | None = None
    headers: Pairs = field(default=(), kw_only=True, converter=_pairs)
    vendor_code: str | None = field(default=None, kw_only=True)
    message: str | None = field(default=None, kw_only=True)


@frozen
class Redirect:
    """Sends the client elsewhere."""

    url: str
    code: int = field(default=307, validator=_between(300, 399))


@frozen
class Hang:
    """Goes on to `after` and then never further: "request" (not one byte), "headers", a count of content chunks of the
    stream, or a share of the body's bytes. A count means half of a JSON body."""

    after: Literal["request", "headers"] | int | float = field(
        default="request", validator=_place("request", "headers")
    )
    reply: Reply = field(factory=Reply, kw_only=True)


@frozen
class Cut:
    """Goes on to `after` (see `Hang`) and then ends: "eof" closes the connection inside the body, "rst" resets it,
    "clean" ends the HTTP message as if it were whole. A stream's terminal event is never sent, whatever the count."""

    after: Literal["headers"] | int | float = field(default=1, validator=_place("headers"))
    how: Literal["eof", "rst", "clean"] = field(default="eof", validator=_one_of(Literal["eof", "rst", "clean"]))
    reply: Reply = field(factory=Reply, kw_only=True)


@frozen
class StreamError:
    """The vendor's own error event after `after` content chunks. `type` is its error type (OpenAI, Anthropic) or status
    word (Gemini). A request for JSON gets the same error as a status."""

    after: int = field(default=0, validator=_between(0))
    type: str | None = None
    message: str | None = None
    reply: Reply = field(factory=Reply, kw_only=True)


@frozen
class Refuse:
    """Closes the connection without a byte of an answer. For a port that refuses connections see `down`."""


@frozen
class Reset:
    """Resets the connection without a byte of an answer."""


Rubbish = Literal["status_line", "content_length", "chunk_size", "huge_header", "html", "empty", "json", "gzip"]


@frozen
class Garbage:
    """An answer that breaks a rule: of HTTP ("status_line", "content_length" twice and unlike, "chunk_size",
    "huge_header" of 200 kB) or of the vendor, under status 200 ("html" as captive portals send, "empty", "json" that
    does not parse, in the body or in an event, "gzip" that is none)."""

    what: Rubbish = field(default="status_line", validator=_one_of(Rubbish))


@frozen
class Raw:
    """These bytes on the wire, then the connection closes. Say `connection: close` in a response made by hand, or a
    client may send its next request into the closing connection."""

    data: bytes


@frozen
class Delay:
    """Waits `seconds` before it does `then`."""

    seconds: float = field(validator=_between(0))
    then: Action = field(factory=Reply)


@frozen
class Pings:
    """`n` signs of life, one every `every` seconds, before the reply; None: for ever. Anthropic sends `ping` events,
    the others comment lines; a request for JSON gets blank lines before the body, as gateways send them."""

    n: int | None = field(default=None, validator=_between(0, instead=", or None: for ever"))
    every: float = field(default=1.0, validator=_between(0))
    reply: Reply = field(factory=Reply, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if self.n is None and not self.every:
            raise ValueError("every is 0 while n is None; give pings without end some seconds between them")


Action = Reply | Status | Redirect | Hang | Cut | StreamError | Refuse | Reset | Garbage | Raw | Delay | Pings
Script = Action | Callable[[Seen], Action]


def checked(script: object) -> Script:
    """`script` itself, or a TypeError that says what would do."""
    if isinstance(script, Action):
        return script
    if callable(script) and not isinstance(script, type):
        return cast(Callable[[Seen], Action], script)
    kind = f"the class {script.__name__}" if isinstance(script, type) else type(script).__name__
    names = ", ".join(action.__name__ for action in get_args(Action))
    raise TypeError(f"an action cannot be {kind}; give an instance of {names}, or a callable that makes one of Seen")


def resolved(script: Script, seen: Seen) -> Action:
    """The action itself: callables are asked what to do with this request."""
    while not isinstance(script, Action):
        script = checked(script(seen))
    return script
