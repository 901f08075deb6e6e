"""What a call gives back to the user: the answer, and the honest report of how it came about. Frozen, no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import attrs

from cortex.messages import Kind, ToolCall, ToolResult, Usage

if TYPE_CHECKING:
    import typing_extensions

    # A default, so that `Response` alone may be written where nobody asked for an output type (Python 3.13 has it).
    T_co = typing_extensions.TypeVar("T_co", covariant=True, default=Any)
else:
    T_co = TypeVar("T_co", covariant=True)


@attrs.frozen
class Attempt:
    """One try on one lane, as the trail tells it.

    `outcome` is the class of what happened (ok, caller, auth, billing, rate, overload, transient, config, local,
    cancelled); `kind` the finer word (None when ok). Times are in seconds: `waited` before it was sent, `first_token`
    until the first piece of the answer, `duration` in all. `cost_usd` is None unless it is known (see `cortex.prices`).
    `reason` is one line.
    """

    provider: str
    model: str
    outcome: str
    kind: Kind | None = None
    status: int | None = None
    waited: float = 0.0
    first_token: float | None = None
    duration: float = 0.0
    usage: Usage = attrs.field(factory=Usage)
    cost_usd: float | None = None
    request_id: str | None = None
    reason: str = ""

    @property
    def ok(self) -> bool:
        """Whether this attempt gave the answer."""
        return self.outcome == "ok"

    def __str__(self) -> str:
        tail = f": {self.reason}" if self.reason else ""
        return f"{self.provider}/{self.model} {self.outcome} {self.duration * 1000:.0f}ms{tail}"


@attrs.frozen
class Metadata:
    """Who served, at what price, after what detours.

    `model_used` is the name this engine asked for; `model_reported` the vendor's word. `latency_ms` is the wall clock
    of the whole call, failed attempts included. `tokens_used` counts input and output of the calls that served,
    `tokens_total` also those that were lost, and so does `cost_usd`; None unless all of it is known. `system`,
    `tools_called`, `steps_taken` and `goal_progress` belong to a turn. `notes` says what of the request a dialect could
    not carry.
    """

    model_used: str
    provider: str
    latency_ms: float
    model_reported: str | None = None
    tokens_used: int = 0
    tokens_total: int = 0
    usage: Usage = attrs.field(factory=Usage)
    cost_usd: float | None = None
    finish_reason: str = "stop"
    raw_finish_reason: str | None = None
    failover: bool = False
    attempts: tuple[Attempt, ...] = ()
    system: Literal[1, 2] | None = None
    tools_called: tuple[str, ...] = ()
    steps_taken: int = 1
    goal_progress: float | None = None
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        detour = ", failover" if self.failover else ""
        return (
            f"<Metadata {self.provider}/{self.model_used} {self.finish_reason} "
            f"{self.latency_ms:.0f}ms {self.tokens_used} tokens{detour}>"
        )


@attrs.frozen
class Completion(Generic[T_co]):
    """The answer of one routed call. `output` is the answer parsed to the `output_type` that was asked for, `citations`
    the answer's sources as the vendor names them: JSON values in the vendor's own shape.
    """

    content: str
    metadata: Metadata
    thinking: str = ""
    output: T_co = None  # type: ignore[assignment]  # without an output type it is None
    tool_calls: tuple[ToolCall, ...] = ()
    citations: tuple[Any, ...] = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {len(self.content)} chars {self.metadata!r}>"


@attrs.frozen(repr=False)
class Response(Completion[T_co]):
    """The answer of a session's turn; `tool_results` are those of the tools it ran, in order."""

    tool_results: tuple[ToolResult, ...] = ()


@attrs.frozen
class Chunk:
    """One piece of a stream. `content` is always safe to print: it is empty unless `kind` is "text".

    A `tool_call` is one that is run, with arguments that fit; of another only the `tool_result` is shown, an error.
    `restart` asks the consumer to discard the text and thinking it showed since the last `tool_result`. The last chunk
    is `final`: it carries the `response` and its `metadata`.
    """

    kind: Literal["text", "thinking", "tool_call", "tool_result", "restart", "final"]
    content: str = ""
    thinking: str = ""
    tool_call: ToolCall | None = None
    tool_result: ToolResult | None = None
    response: Completion | None = None

    @property
    def metadata(self) -> Metadata | None:
        """The metadata of the final chunk, else None."""
        return self.response.metadata if self.response is not None else None
