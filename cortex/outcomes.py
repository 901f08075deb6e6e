"""What a failure means: whose fault it is, whose health it touches, who may be asked next.

Pure and total: every `Failure` there can ever be has exactly one `Outcome`. The decisions stand in one table, one row
per `Kind`; what depends on more than the kind (how far the exchange had come, the server's own word) is applied on
top of the row. The rest of the engine never looks at a status code.

Two ideas carry the table. *Scope*: a fault of the address, the key or the account touches every model of a provider,
a fault of the model only that lane. *Replay*: what was never sent is safe to send again, what was sent can be sent
again unless the request has effects at the provider, and what the caller has seen cannot be taken back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import Final, Protocol

import attrs

from cortex.messages import Failure, Kind, Phase


class Rng(Protocol):
    """A source of chance, e.g. `random.Random`: `random()` in [0, 1)."""

    def random(self) -> float: ...


class Cls(StrEnum):
    """The classes of outcome."""

    OK = "ok"  # the terminal event was seen and the answer is valid
    CALLER = "caller"  # the request itself is wrong
    AUTH = "auth"  # the key
    BILLING = "billing"  # the account has to pay or its day has to pass
    RATE = "rate"  # too fast
    OVERLOAD = "overload"  # they are too busy
    TRANSIENT = "transient"  # a fault of theirs or of the way there
    CONFIG = "config"  # wrong address, model or certificate: will not pass by itself
    LOCAL = "local"  # a fault of ours
    CANCELLED = "cancelled"  # the caller left


class Scope(StrEnum):
    """Whose health an outcome touches."""

    ENDPOINT = "endpoint"  # every lane of this account and address
    LANE = "lane"  # this model at this provider
    NONE = "none"  # nobody's


class Replay(StrEnum):
    """What sending the request a second time would mean."""

    SAFE = "safe"  # it never left
    REPLAYABLE = "replayable"  # it may have been worked on; doing so again costs tokens only
    UNSAFE = "unsafe"  # it may have had effects
    COMMITTED = "committed"  # the caller has seen part of the answer


@attrs.frozen
class Outcome:
    """The meaning of one attempt's end.

    `retry_same` and `failover` say whether this lane and another one may be asked, provided that `replay` allows it;
    with `needs_larger_window` the other one must have a larger context window than this. `retry_after` is in seconds,
    as the server said, always finite and not negative. `weight` is how much it counts among consecutive failures: a
    timeout counts 2, because it cost a user seconds. `kind` is None when all went well.
    """

    cls: Cls
    scope: Scope
    replay: Replay
    retry_same: bool
    failover: bool
    retry_after: float | None = None
    weight: int = 1
    kind: Kind | None = None
    needs_larger_window: bool = False

    @property
    def ok(self) -> bool:
        """Whether the attempt gave an answer."""
        return self.cls is Cls.OK

    @property
    def repeatable(self) -> bool:
        """Whether the request may be sent again at all, here or elsewhere."""
        return self.replay in (Replay.SAFE, Replay.REPLAYABLE)


@attrs.frozen
class _Row:
    cls: Cls
    scope: Scope
    retry_same: bool
    failover: bool
    weight: int = 1
    needs_larger_window: bool = False


_LANE_BLIP = _Row(Cls.TRANSIENT, Scope.LANE, retry_same=True, failover=True)
_CALLER = _Row(Cls.CALLER, Scope.NONE, retry_same=False, failover=False)
_LARGER = _Row(Cls.CALLER, Scope.NONE, retry_same=False, failover=True, needs_larger_window=True)

_TABLE: Final[dict[Kind, _Row]] = {
    Kind.TRANSIENT: _LANE_BLIP,
    Kind.OVERLOADED: _Row(Cls.OVERLOAD, Scope.LANE, retry_same=True, failover=True),
    Kind.RATE_LIMIT: _Row(Cls.RATE, Scope.LANE, retry_same=True, failover=True),
    Kind.QUOTA: _Row(Cls.BILLING, Scope.ENDPOINT, retry_same=False, failover=True),
    Kind.CREDENTIAL: _Row(Cls.AUTH, Scope.ENDPOINT, retry_same=False, failover=True),
    # A 403 mostly means this key with this model; the other models of the account may well serve.
    Kind.PERMISSION: _Row(Cls.AUTH, Scope.LANE, retry_same=False, failover=True),
    Kind.REGION: _Row(Cls.AUTH, Scope.ENDPOINT, retry_same=False, failover=True),
    Kind.MODEL_GONE: _Row(Cls.CONFIG, Scope.LANE, retry_same=False, failover=True),
    Kind.ROUTE_GONE: _Row(Cls.CONFIG, Scope.LANE, retry_same=False, failover=True),
    Kind.NOT_API: _Row(Cls.CONFIG, Scope.LANE, retry_same=False, failover=True),
    Kind.CERTIFICATE: _Row(Cls.CONFIG, Scope.ENDPOINT, retry_same=False, failover=True),
    Kind.CONTEXT: _LARGER,
    Kind.TOO_LARGE: _LARGER,
    # A refusal is shown, never shopped around.
    Kind.CONTENT: _CALLER,
    Kind.BAD_REQUEST: _CALLER,
    # An opaque part of somebody else's: another provider is sent the request without it.
    Kind.SIGNATURE: _Row(Cls.CALLER, Scope.NONE, retry_same=False, failover=True),
    Kind.CONFLICT: _LANE_BLIP,
    Kind.CONNECT: _Row(Cls.TRANSIENT, Scope.ENDPOINT, retry_same=True, failover=True),
    Kind.TIMEOUT_CONNECT: _Row(Cls.TRANSIENT, Scope.ENDPOINT, retry_same=True, failover=True, weight=2),
    Kind.TIMEOUT_FIRST: _Row(Cls.TRANSIENT, Scope.LANE, retry_same=True, failover=True, weight=2),
    Kind.TIMEOUT_GAP: _Row(Cls.TRANSIENT, Scope.LANE, retry_same=True, failover=True, weight=2),
    Kind.CUT: _LANE_BLIP,
    Kind.PROTOCOL: _LANE_BLIP,
    Kind.LOCAL: _Row(Cls.LOCAL, Scope.NONE, retry_same=True, failover=True),
    Kind.CANCELLED: _Row(Cls.CANCELLED, Scope.NONE, retry_same=False, failover=False),
}

_OK = Outcome(Cls.OK, Scope.LANE, Replay.REPLAYABLE, retry_same=False, failover=False)

_SERVER_DECIDES = frozenset({Cls.CALLER, Cls.RATE, Cls.OVERLOAD, Cls.TRANSIENT, Cls.CONFIG})
"""Where the server's x-should-retry counts: a wrong key or an empty account stays one, whatever it says."""

_DECLINED = frozenset({Cls.CALLER, Cls.AUTH, Cls.BILLING, Cls.RATE, Cls.OVERLOAD, Cls.CONFIG})
"""Classes whose error status says that the request was turned away, not half done."""


def classify(failure: Failure | None, *, committed: bool = False, stateful: bool = False) -> Outcome:
    """The outcome of an attempt: `failure`, or None when its terminal event was seen. Total; never raises.

    `committed`: part of the answer reached the caller. `stateful`: the request has effects at the provider (tools that
    run there, stored state). A kind nobody knows is judged by its status: 4xx is the caller's, all else transient.
    """
    if failure is None:
        return _OK
    row = _TABLE.get(failure.kind) or _by_status(failure.status)
    retry_same = row.retry_same
    if failure.should_retry is not None and row.cls in _SERVER_DECIDES:
        retry_same = failure.should_retry
    return Outcome(
        cls=row.cls,
        scope=_scope(row, failure.phase),
        replay=_replay(row, failure, committed=committed, stateful=stateful),
        retry_same=retry_same,
        failover=row.failover,
        retry_after=_seconds(failure.retry_after),
        weight=row.weight,
        kind=failure.kind,
        needs_larger_window=row.needs_larger_window,
    )


def _by_status(status: int | None) -> _Row:
    return _CALLER if status is not None and 400 <= status < 500 else _LANE_BLIP


def _scope(row: _Row, phase: Phase) -> Scope:
    """Whatever fails before anything was sent (DNS, TCP, TLS) is a fault of the address, not of the model."""
    return Scope.ENDPOINT if row.cls is Cls.TRANSIENT and phase is Phase.NOT_SENT else row.scope


def _replay(row: _Row, failure: Failure, *, committed: bool, stateful: bool) -> Replay:
    if committed:
        return Replay.COMMITTED
    if failure.phase is Phase.NOT_SENT:
        return Replay.SAFE
    declined = row.cls in _DECLINED and failure.phase is Phase.HEADERS and failure.status is not None
    return Replay.UNSAFE if stateful and not declined else Replay.REPLAYABLE


def _seconds(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) and value >= 0 else None


# ------------------------------------------------------------------------------------------------------------- retries

RETRY_AFTER_MAX: Final = 20.0
"""Seconds: a lane that asks for a longer pause than this is not waited for by a call that it failed."""

_FIRST_DELAY: Final[dict[Cls, tuple[float, float]]] = {Cls.RATE: (1.0, 20.0), Cls.OVERLOAD: (1.0, 20.0)}
_BLIP_DELAY: Final = (0.25, 8.0)


def same_lane_delay(outcome: Outcome, nth: int, rng: Rng) -> float:
    """Seconds to wait before retry number `nth` (from 1) on the lane that gave `outcome`.

    With the server's `retry_after`: that long, never shorter, at most a tenth or one second longer. Without: full
    jitter, U(0, min(cap, first * 2^(nth-1))), first and cap 0.25 s and 8 s, for rate limits and overload 1 s and 20 s
    (AWS: "Exponential backoff and jitter").
    """
    after = outcome.retry_after
    if after is not None:
        return after + rng.random() * min(1.0, 0.1 * after)
    first, cap = _FIRST_DELAY.get(outcome.cls, _BLIP_DELAY)
    return rng.random() * min(cap, first * 2.0 ** min(max(nth - 1, 0), 16))


_FREE_KINDS = frozenset({Kind.CONNECT, Kind.TRANSIENT, Kind.CUT, Kind.PROTOCOL})


def free_retry(failure: Failure) -> bool:
    """Whether one immediate retry on a fresh connection is free: no budget, no effect on health.

    That is so when nothing was sent, and when a connection that had served before was closed without a response: the
    usual race of a keep-alive that the server gave up. Timeouts are never free: they cost the caller seconds. The
    caller of this grants it once per call, and the second kind only if the outcome's replay is not unsafe.
    """
    if failure.kind not in _FREE_KINDS:
        return False
    unanswered = failure.phase is Phase.SENT and failure.status is None
    return failure.phase is Phase.NOT_SENT or (failure.reused and unanswered)


# ---------------------------------------------------------------------------------------------------------- exhaustion

_ACTIONABLE: Final[dict[Cls, int]] = {
    Cls.BILLING: 0,
    Cls.AUTH: 0,
    Cls.CALLER: 1,
    Cls.RATE: 2,
    Cls.CONFIG: 3,
    Cls.OVERLOAD: 4,
    Cls.TRANSIENT: 4,
    Cls.LOCAL: 5,
    Cls.CANCELLED: 6,
    Cls.OK: 7,
}


def most_actionable(failures: Sequence[Failure]) -> int:
    """The index of the failure a user can do most about; the earliest of equals.

    An account or a key comes before a wrong request, that before a rate limit (the one that ends first), that before
    the rest. A wrong request counts only when the first lane said so: what a fallback dislikes about a request never
    hides why the first one failed. Raises ValueError when there is none.
    """

    def rank(index: int) -> tuple[int, float]:
        outcome = classify(failures[index])
        if outcome.cls is Cls.CALLER and index > 0:
            return _ACTIONABLE[Cls.LOCAL], 0.0
        wait = outcome.retry_after if outcome.cls is Cls.RATE and outcome.retry_after is not None else math.inf
        return _ACTIONABLE[outcome.cls], wait

    return min(range(len(failures)), key=rank)
