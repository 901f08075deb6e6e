"""How many calls a lane may have in flight.

No limit until the provider objects: a guess made in advance turns callers away for nothing. The first objection (a
rate limit or an overload) sets it to 0.7 of what was in flight; from then on it is additive increase, multiplicative
decrease: one more for each full round of successes that used more than half of it, 0.7 of it at most once per round
trip, never below one. Ten minutes without objection, and it is gone. Total latency is no signal here: it measures
the length of the answers, not a queue.
"""

from __future__ import annotations

from typing import Final

import attrs

FACTOR: Final = 0.7
FORGET: Final = 600.0  # seconds without objection


@attrs.frozen
class Limit:
    """`configured` is the user's own maximum, `learned` what the provider taught us; None: no limit.

    `oks` counts the successes of the current round, `cut_at` and `objected_at` (seconds) the last cut and objection.
    """

    configured: int | None = None
    learned: int | None = None
    oks: int = 0
    cut_at: float = 0.0
    objected_at: float = 0.0


def ceiling(limit: Limit, now: float) -> int | None:
    """The calls that may be in flight at `now`; None: any number."""
    learned = _current(limit, now).learned
    both = [value for value in (limit.configured, learned) if value is not None]
    return min(both, default=None)


def has_slot(limit: Limit, in_flight: int, now: float) -> bool:
    """Whether one more call may start beside `in_flight` others."""
    top = ceiling(limit, now)
    return top is None or in_flight < top


def objected(limit: Limit, in_flight: int, now: float, *, round_trip: float) -> Limit:
    """The provider said too fast or too busy; `in_flight` includes the call it said that to.

    `round_trip` (seconds, the lane's usual latency) bounds the cuts: all calls in flight at one moment complain of the
    same crowd.
    """
    limit = attrs.evolve(_current(limit, now), objected_at=now, oks=0)
    if limit.learned is not None and now < limit.cut_at + round_trip:
        return limit
    base = in_flight if limit.learned is None else limit.learned
    return attrs.evolve(limit, learned=max(1, int(base * FACTOR)), cut_at=now)


def succeeded(limit: Limit, in_flight: int, now: float) -> Limit:
    """A call ended well; `in_flight` includes it. The same object when nothing is learned."""
    limit = _current(limit, now)
    if limit.learned is None:
        return limit
    if 2 * in_flight <= limit.learned:
        return limit  # too little traffic to prove anything
    if limit.oks + 1 < limit.learned:
        return attrs.evolve(limit, oks=limit.oks + 1)
    return attrs.evolve(limit, learned=limit.learned + 1, oks=0)


def _current(limit: Limit, now: float) -> Limit:
    if limit.learned is not None and now - limit.objected_at >= FORGET:
        return Limit(configured=limit.configured)
    return limit
