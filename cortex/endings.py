"""How a call ends that nobody served: which error its caller gets, and in whose words. Pure.

One provider only: its own typed error. Several: `NoProviderLeft`, with every cause in a line of its own. A request that
is itself wrong keeps its own error, unless it was only a fallback that disliked it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import attrs

from cortex.errors import (
    CortexError,
    NetworkUnavailable,
    NoProviderLeft,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
    error_of,
)
from cortex.messages import Failure, Kind, Phase
from cortex.outcomes import Cls, Outcome, classify, most_actionable
from cortex.protocol import Nobody
from cortex.results import Attempt
from cortex.routing import Lane

if TYPE_CHECKING:
    from cortex.config import Chain

_RETRYABLE = frozenset({Cls.RATE, Cls.OVERLOAD, Cls.TRANSIENT, Cls.LOCAL, Cls.CANCELLED})


@attrs.frozen
class Try:
    """One attempt that failed. `at` is when, in trio time; `offline`: the network here seemed to be down."""

    lane: Lane
    failure: Failure
    outcome: Outcome
    at: float = 0.0
    offline: bool = False


def typed(one: Try, trail: Sequence[Attempt], cls: type[ProviderError] | None = None) -> ProviderError:
    """The error of one attempt; `cls` overrides its kind's own."""
    return error_of(
        one.failure,
        provider=one.lane.provider,
        model=one.lane.model,
        retryable=classify(one.failure).cls in _RETRYABLE,
        attempts=trail,
        cls=cls,
    )


def stopped(tries: Sequence[Try], trail: Sequence[Attempt], cls: type[ProviderError] | None = None) -> ProviderError:
    """The last attempt's failure ends the call where it happened. After another provider's it does not hide that."""
    last = tries[-1]
    if any(one.lane.provider != last.lane.provider for one in tries):
        return exhausted(tries, None, last.lane, trail)
    return typed(last, trail, cls)


def given_up(tries: Sequence[Try], nobody: Nobody | None, chain: Chain, trail: Sequence[Attempt]) -> CortexError:
    """Nobody is left (`nobody` says why), or the attempts are used up."""
    if tries and all(one.outcome.cls is Cls.CALLER for one in tries):
        return typed(tries[0], trail)  # too long for everybody: the request's own fault, and nothing of the providers'
    if _network_is_down(tries, nobody):
        lines = _lines(tries, nobody.reasons if nobody is not None else ())
        return NetworkUnavailable("the network here seems to be down:\n  " + "\n  ".join(lines), attempts=trail)
    first = chain.lanes[0]
    error: ProviderError
    if len({lane.provider for lane in chain.lanes}) > 1:
        error = exhausted(tries, nobody, first, trail)
    elif tries:
        error = typed(tries[most_actionable([one.failure for one in tries])], trail)
    else:
        error = _unasked(first, nobody)
    return _and_who_may_not(error, chain.left_out)


def _and_who_may_not(error: ProviderError, left_out: Iterable[tuple[Lane, str]]) -> ProviderError:
    """It also says who might have served, and is kept from it by a rule: by that of the zones."""
    lines = [f"{lane}: may not be asked: {why}" for lane, why in left_out]
    if lines:
        error.args = ("\n  ".join([str(error), *lines]),)
    return error


def _network_is_down(tries: Sequence[Try], nobody: Nobody | None) -> bool:
    if not tries:
        return nobody is not None and nobody.offline
    unsent = all(one.failure.phase is Phase.NOT_SENT and one.outcome.cls is Cls.TRANSIENT for one in tries)
    return unsent and (tries[-1].offline or (nobody is not None and nobody.offline))


def exhausted(tries: Sequence[Try], nobody: Nobody | None, first: Lane, trail: Sequence[Attempt]) -> NoProviderLeft:
    """Everybody was tried or left out; the most actionable cause lends its kind, status and retry_after."""
    errors = tuple(typed(one, trail) for one in tries)
    best = errors[most_actionable([one.failure for one in tries])] if tries else _unasked(first, nobody)
    after = best.retry_after
    if after is None and nobody is not None:
        after = nobody.retry_after
    error = NoProviderLeft(
        "no provider could serve this call:\n  " + "\n  ".join(_lines(tries, nobody.reasons if nobody else ())),
        provider=best.provider,
        model=best.model,
        status=best.status,
        kind=best.kind,
        retry_after=after,
        request_id=best.request_id,
        retryable=any(one.retryable for one in errors) or not errors,
        attempts=trail,
    )
    error.errors = errors
    return error


def of_both(first: ProviderError, second: ProviderError) -> NoProviderLeft:
    """A turn that escalated in vain: neither role's providers could serve it."""
    errors = (*_each(first), *_each(second))
    tried = {f"{one.provider}/{one.model}" for one in errors}
    lines = (line.strip() for line in str(second).splitlines())
    rest = (line for line in lines if ": not asked: " in line or ": may not be asked: " in line)
    told = list(dict.fromkeys(str(one).partition("\n")[0] for one in errors))
    told += [line for line in rest if line.partition(": ")[0] not in tried]
    waits = [one.retry_after for one in (first, second) if one.retry_after is not None]
    error = NoProviderLeft(
        "no provider could serve this call:\n  " + "\n  ".join(told),
        provider=second.provider,
        model=second.model,
        status=second.status,
        kind=second.kind,
        retry_after=min(waits, default=None),
        request_id=second.request_id,
        retryable=first.retryable or second.retryable,
    )
    error.errors = errors
    return error


def _each(error: ProviderError) -> tuple[ProviderError, ...]:
    return error.errors if isinstance(error, NoProviderLeft) else (error,)


def nothing_allowed(left_out: Iterable[tuple[Lane, str]]) -> NoProviderLeft:
    """The rules of zones and models leave an empty chain."""
    lines = "\n  ".join(f"{lane}: {why}" for lane, why in left_out)
    return NoProviderLeft(f"no provider may serve this call:\n  {lines}", provider="", model="", kind=Kind.BAD_REQUEST)


def _lines(tries: Sequence[Try], reasons: Iterable[tuple[Lane, str]]) -> list[str]:
    """A line for each lane: what its last attempt ended with, and how many there were."""
    last = {one.lane: one for one in tries}
    lines = []
    for lane, one in last.items():
        count = sum(each.lane == lane for each in tries)
        lines.append(f"{lane}: {_words(one.failure)}" + (f" ({count} attempts)" if count > 1 else ""))
    return lines + [f"{lane}: not asked: {why}" for lane, why in reasons if lane not in last]


def _words(failure: Failure) -> str:
    status = f" (HTTP {failure.status})" if failure.status is not None else ""
    return f"{failure.kind}{status}: {failure.message}"


def _unasked(lane: Lane, nobody: Nobody | None) -> ProviderError:
    """Nobody was asked at all: say why the first lane was left out."""
    why = dict(nobody.reasons).get(lane, "left out") if nobody is not None else "left out"
    gated = nobody is not None and nobody.gated
    return (RateLimited if gated else ProviderUnavailable)(
        f"{lane}: not asked: {why}",
        provider=lane.provider,
        model=lane.model,
        kind=Kind.RATE_LIMIT if gated else Kind.TRANSIENT,
        retry_after=nobody.retry_after if nobody is not None else None,
        retryable=True,
    )
