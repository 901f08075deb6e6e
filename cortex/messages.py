"""Frozen values that travel between the rooms. Pure: nothing here reads a clock, a socket or the environment.

A conversation is a tuple of `Message`; a message is a role and a tuple of parts. The shape belongs to no vendor: each
wire dialect maps it to its own and back. Whatever only its issuer can read again (a thinking signature, a thought
signature) is stamped with that issuer, so that it is never replayed to somebody else.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, Literal, TypeAlias, get_args

import attrs

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
Effort: TypeAlias = Literal["minimal", "low", "medium", "high"]
EFFORTS: Final[tuple[Effort, ...]] = get_args(Effort)
Detail: TypeAlias = Literal["low", "high", "auto", "original"]
DETAILS: Final[tuple[Detail, ...]] = get_args(Detail)


@attrs.frozen
class Issuer:
    """Who wrote an opaque part: the registered provider's name and the model's name there."""

    provider: str
    model: str


@attrs.frozen
class Text:
    """Plain text."""

    text: str


@attrs.frozen
class Thinking:
    """What a model thought aloud. `signature` is opaque and only readable by `issuer`."""

    text: str
    signature: str | None = attrs.field(default=None, repr=False)
    issuer: Issuer | None = None


@attrs.frozen
class Image:
    """An image: either `data` (bytes, with its `media_type`) or a `url`. `detail`: how closely to look, where a vendor
    can be told (OpenAI's dialects)."""

    media_type: str | None = None
    data: bytes | None = attrs.field(default=None, repr=False)
    url: str | None = None
    detail: Detail | None = None


@attrs.frozen
class ToolCall:
    """A model's wish to have a tool called.

    `arguments` is what the JSON in `raw_arguments` says; None when it does not parse. `signature` is opaque (Gemini's
    thought signature) and only readable by `issuer`.
    """

    id: str
    name: str
    arguments: Any = None
    raw_arguments: str = ""
    signature: str | None = attrs.field(default=None, repr=False)
    issuer: Issuer | None = None


@attrs.frozen
class ToolResult:
    """What a tool gave back for the call with `call_id`; an error's text when `is_error`."""

    call_id: str
    name: str
    content: str
    is_error: bool = False


Part: TypeAlias = Text | Thinking | Image | ToolCall | ToolResult


@attrs.frozen
class Message:
    """One message: `role` is system, user, assistant or tool (then its parts are `ToolResult`)."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The text parts, joined."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))


@attrs.frozen
class ToolSpec:
    """A tool as a model sees it: `parameters` is a JSON schema of type object."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@attrs.frozen
class OutputSchema:
    """The JSON schema an answer has to satisfy; its name is of at most 64 letters, digits, _ and -."""

    name: str
    schema: Mapping[str, Any]


@attrs.frozen
class Request:
    """One model call, in nobody's dialect.

    `messages` holds no system message: the system prompt is `system`. `tool_choice` is None (the model decides),
    "none", "required" or a tool's name; with `parallel_tools` False it calls one at a time. `stop` ends the answer
    where one of these texts would begin. `effort` and `thinking_budget` (tokens, 0: none) are two ways to say how much
    to think: a vendor is told the one it knows. `extra` goes into the vendor's body as it stands.
    """

    messages: tuple[Message, ...] = attrs.field(repr=False)
    system: str = attrs.field(default="", repr=False)
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: str | None = None
    parallel_tools: bool | None = None
    output: OutputSchema | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    effort: Effort | None = None
    thinking_budget: int | None = None
    extra: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    stream: bool = False


@attrs.frozen
class Usage:
    """Tokens as the vendor counted them; None where it said nothing.

    `input_tokens` includes those read from a cache (`cached_tokens`) and those written to one, `output_tokens` the
    reasoning ones, whatever the vendor's own custom is.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cache_written_tokens: int | None = None

    @property
    def total(self) -> int:
        """Input plus output; what is unknown counts 0."""
        return (self.input_tokens or 0) + (self.output_tokens or 0)

    def __add__(self, other: Usage) -> Usage:
        """Field by field; unknown plus unknown stays unknown."""
        return Usage(
            _plus(self.input_tokens, other.input_tokens),
            _plus(self.output_tokens, other.output_tokens),
            _plus(self.cached_tokens, other.cached_tokens),
            _plus(self.reasoning_tokens, other.reasoning_tokens),
            _plus(self.cache_written_tokens, other.cache_written_tokens),
        )


def _plus(a: int | None, b: int | None) -> int | None:
    return a if b is None else b if a is None else a + b


class Finish(StrEnum):
    """Why an answer ended, in one vocabulary for all vendors."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"
    REFUSAL = "refusal"
    OTHER = "other"


@attrs.frozen
class Answer:
    """A whole answer of one provider: its terminal event was seen.

    `citations` are its sources as the vendor names them: JSON values in the vendor's own shape, each once.
    """

    parts: tuple[Part, ...]
    finish: Finish
    raw_finish: str | None = None
    usage: Usage = Usage()
    model_reported: str | None = None
    request_id: str | None = None
    citations: tuple[Any, ...] = attrs.field(default=(), repr=False)

    @property
    def text(self) -> str:
        """The text parts, joined."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))

    @property
    def thinking(self) -> str:
        """The thinking parts, joined."""
        return "".join(part.text for part in self.parts if isinstance(part, Thinking))

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tool calls, in the order the model gave them."""
        return tuple(part for part in self.parts if isinstance(part, ToolCall))


class Kind(StrEnum):
    """What went wrong, finer than what is done about it (`outcomes` maps each kind to a class)."""

    TRANSIENT = "transient"  # 5xx, reset, DNS
    OVERLOADED = "overloaded"  # 529, 503: capacity, shared by all
    RATE_LIMIT = "rate_limit"  # 429 that passes by itself
    QUOTA = "quota"  # 402, credit balance, daily quota: somebody has to pay or a day has to pass
    CREDENTIAL = "credential"  # 401, a key that does not fit
    PERMISSION = "permission"  # 403
    REGION = "region"  # not offered where we are
    MODEL_GONE = "model_gone"  # 404 for the model alone
    ROUTE_GONE = "route_gone"  # 404 for the address, 3xx
    NOT_API = "not_api"  # HTML or another type where JSON belongs: a captive portal, a wrong address
    CERTIFICATE = "certificate"  # TLS verification failed
    CONTEXT = "context"  # longer than the window
    TOO_LARGE = "too_large"  # 413
    CONTENT = "content"  # refused by a content policy with an error status
    BAD_REQUEST = "bad_request"  # 400, 415, 422: wrong for everybody
    SIGNATURE = "signature"  # an opaque part that this provider does not accept
    CONFLICT = "conflict"  # 408, 409
    CONNECT = "connect"  # refused, unreachable, reset or TLS alert before anything was sent
    TIMEOUT_CONNECT = "timeout_connect"
    TIMEOUT_FIRST = "timeout_first"  # no first token, or no whole JSON answer, in time
    TIMEOUT_GAP = "timeout_gap"  # a stream that stood still
    CUT = "cut"  # ended without its terminal event
    PROTOCOL = "protocol"  # not HTTP, not JSON, not this dialect
    LOCAL = "local"  # a fault of ours
    CANCELLED = "cancelled"  # the caller left


class Phase(StrEnum):
    """How far an exchange had come."""

    NOT_SENT = "not_sent"
    SENT = "sent"
    HEADERS = "headers"
    STREAM = "stream"
    DONE = "done"


@attrs.frozen
class Failure:
    """An exchange that gave no answer, as a value.

    `message` is the vendor's (or our) words, bounded and free of secrets. `retry_after` is in seconds from the
    response. `should_retry` is the server's explicit word (header x-should-retry). `reused` tells that the connection
    had served before.
    """

    kind: Kind
    message: str
    status: int | None = None
    code: str | None = None
    retry_after: float | None = None
    should_retry: bool | None = None
    request_id: str | None = None
    phase: Phase = Phase.HEADERS
    reused: bool = False
    usage: Usage = Usage()


# ------------------------------------------------------------------------------------------------- events of a stream


@attrs.frozen
class TextDelta:
    """A piece of the visible answer."""

    text: str


@attrs.frozen
class ThinkingDelta:
    """A piece of the model's thinking."""

    text: str


@attrs.frozen
class ToolCallReady:
    """A tool call, whole: its fragments were assembled."""

    call: ToolCall


@attrs.frozen
class Progress:
    """Real work that cannot be shown yet (a fragment of a tool call). Pings and comments are not progress."""


@attrs.frozen
class Ended:
    """The terminal event: the answer is whole."""

    answer: Answer


@attrs.frozen
class Broken:
    """The stream carried an error, or ended without its terminal event."""

    failure: Failure


StreamEvent: TypeAlias = TextDelta | ThinkingDelta | ToolCallReady | Progress | Ended | Broken
