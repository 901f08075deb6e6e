"""What the actors say to each other. Frozen values and the refs of who may be asked next; no behaviour.

session -> worker | orchestrator     Turn     -> TurnDone | TurnFailed
worker | orchestrator -> router      Pick     -> Picked | Nobody
worker | orchestrator -> provider    Call     -> Served | Refused
provider -> router                   Snapshot (published: the newest counts, nothing is ever asked back)
engine -> router                     ByHand   -> the refs of the providers that are to be told
engine -> provider                   ProviderRecheck, ProviderSwitch
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

import attrs

import actors
from cortex.budget import Budget
from cortex.goals import Goal
from cortex.health import Health
from cortex.limits import Limit
from cortex.messages import Answer, Failure, Message, Request, ToolCall, ToolResult
from cortex.outcomes import Outcome
from cortex.results import Attempt, Chunk
from cortex.routing import Lane, Needs

if TYPE_CHECKING:
    from cortex.config import Chain

T = TypeVar("T")


class Caller(Protocol):
    """The side of the host that a call came from: runs the user's own functions where the user lives."""

    async def run(self, fn: Callable[..., Any], kwargs: Mapping[str, Any], *, is_async: bool) -> Any:
        """Run `fn(**kwargs)`: an async one in the caller's own loop, a sync one in a worker thread."""
        ...


class Sink(Protocol):
    """The producing end of a stream: bounded, so that `send` waits for a slow reader."""

    async def send(self, chunk: Chunk) -> None: ...


# ------------------------------------------------------------------------------------------------ provider <-> router


@attrs.frozen
class LaneState:
    """One lane as its provider knows it."""

    health: Health
    limit: Limit
    in_flight: int = 0


@attrs.frozen
class Snapshot:
    """All that others may know of a provider: frozen, whole, superseded by the next one.

    `seen` is the highest pick number among the calls that have arrived; the router adds the picks issued since.
    `unreached_at`, `answered_at`: when it last could not be reached at all, and when it last said anything.
    """

    provider: str
    endpoint: Health
    lanes: Mapping[Lane, LaneState]
    budget: Budget
    in_flight: int = 0
    seen: int = 0
    enabled: bool = True
    unreached_at: float = float("-inf")
    answered_at: float = float("-inf")


@attrs.frozen
class Publish:
    """Publish your snapshot now (a router that was restarted has none)."""


@attrs.frozen
class ProviderRecheck(actors.Ask[None]):
    """To one provider: what was wrong with you has been mended."""


@attrs.frozen
class ProviderSwitch(actors.Ask[None]):
    """To one provider: the operator takes you out, or puts you back."""

    enabled: bool


Order: TypeAlias = ProviderRecheck | ProviderSwitch


@attrs.frozen
class ByHand(actors.Ask["tuple[actors.ActorRef[Any], ...]"]):
    """To the router: the user has an `order` for `provider` (None: all); who is to be told it?

    It is carried out here on those whose actor was given up. Without an order nothing is done; but what the providers
    had published before is known to the router when it answers.
    """

    provider: str | None
    order: Order | None = None


@attrs.frozen
class Pick(actors.Ask["Picked | Nobody"]):
    """Who may serve this? `tried` counts the attempts this call has already made, per lane."""

    needs: Needs
    tried: Mapping[Lane, int]
    deadline: float


@attrs.frozen
class Picked:
    """This one. `spares` other lanes could still serve; `sole`: no other lane is capable at all; `offline`: the
    network here seems to be down, so a failure says nothing about the provider."""

    lane: Lane
    ref: actors.ActorRef[Any]
    number: int
    trial: bool = False
    spares: int = 0
    sole: bool = False
    offline: bool = False


@attrs.frozen
class Nobody:
    """No lane can serve in time: why, per lane, and when the first may."""

    reasons: tuple[tuple[Lane, str], ...]
    retry_after: float | None = None
    offline: bool = False
    gated: bool = False


# ------------------------------------------------------------------------------------------------------ a model call


@attrs.frozen
class Call(actors.Ask["Served | Refused"]):
    """One attempt. `emit` takes the events of a stream as they come (None: JSON)."""

    request: Request
    picked: Picked
    deadline: float
    caller: Caller | None = None
    emit: Callable[[Any], Awaitable[None]] | None = None
    retried: bool = False


@attrs.frozen
class Served:
    """What came of an attempt. Times in seconds; `first_token` is None for JSON or when none came."""

    result: Answer | Failure
    outcome: Outcome
    duration: float
    first_token: float | None = None
    notes: tuple[str, ...] = ()


@attrs.frozen
class Refused:
    """Not admitted: the pick was stale. The wire was not touched and no attempt is counted.

    `spent`: the endpoint's retry budget is empty, so asking it once more in this call is pointless.
    """

    reason: str
    spent: bool = False


# -------------------------------------------------------------------------------------------------------------- turns


class ToolDesk(Protocol):
    """Where a turn has the user's tools run: the ledger and the caller stand behind it."""

    def ready(self, call: ToolCall) -> Callable[[], Awaitable[ToolResult]] | ToolResult:
        """What runs the call, or gives the result it had when this turn was played before, and never raises; or the
        result that says why it cannot be run."""
        ...


@attrs.frozen
class Turn(actors.Ask["TurnDone | TurnFailed"]):
    """One turn: model calls and tool rounds until the model is done.

    `deadline` (trio time) bounds the turn, `call_timeout` (seconds) each model call in it. Without a `desk` tool calls
    are not run but returned. `sink` is set for a stream. `delegation` is the template of a worker's turn for the
    orchestrator's sub-tasks; None where it may not delegate.
    """

    request: Request
    chain: Chain
    deadline: float
    call_timeout: float
    caller: Caller | None = None
    desk: ToolDesk | None = None
    sink: Sink | None = None
    goal: Goal | None = None
    max_rounds: int = 10
    delegation: Turn | None = None


@attrs.frozen
class TurnDone:
    """A whole turn. `transcript` is what it adds to the history after the user's message; `failed_over`: some call of
    it was answered by somebody else than the first choice."""

    answer: Answer
    lane: Lane
    failed_over: bool
    attempts: tuple[Attempt, ...]
    transcript: tuple[Message, ...]
    tool_results: tuple[ToolResult, ...] = ()
    steps: int = 1
    goal: Goal | None = None
    notes: tuple[str, ...] = ()


@attrs.frozen
class TurnFailed:
    """No answer: the exception the door will raise, made from the failures of the trail."""

    error: Exception
    attempts: tuple[Attempt, ...]
    shown: bool = False


TurnResult: TypeAlias = TurnDone | TurnFailed
