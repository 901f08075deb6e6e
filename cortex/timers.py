"""How long an attempt may take. Pure: seconds in, seconds out.

One absolute deadline bounds a call with all its attempts; within it each attempt gets a budget, so that a provider that
hangs leaves time for the next one. Pings and comments never extend a budget.
"""

from __future__ import annotations

import attrs

LIVENESS = 75.0
"""Longest silence of a stream that has begun, comments included. Anthropic pings about every 30 s while thinking."""

ANSWER_FLOOR = 30.0
"""A JSON answer comes only when it is whole: less than this is no fair chance. It is also the wait from which on a
silent provider is to blame and not the caller's deadline."""

FIRST_TOKEN_MIN, FIRST_TOKEN_MAX = 10.0, 60.0
FIRST_TOKEN_REASONING = 180.0
FIRST_TOKEN_LOCAL = 120.0
"""A local server may have to load the model first."""

TRIAL_MIN = 2.0
PROGRESS_REASONING = 180.0
WRITE_BASE, WRITE_RATE = 30.0, 100_000.0

_OWN_TIMER_FIRST = 0.98
"""Of the time left: the attempt's own timer fires before the call's deadline, so that somebody is blamed."""


@attrs.frozen
class Timers:
    """The budgets of one attempt, in seconds: `first` until the first token (JSON: the whole answer)."""

    connect: float
    first: float
    progress: float
    write: float
    liveness: float = LIVENESS


def answer_budget(*, remaining: float, spares: int, configured: float | None) -> float:
    """For a whole JSON answer: a fair share of what is left, at least the floor; without a spare all of it."""
    own = remaining * _OWN_TIMER_FIRST
    if configured is not None:
        return min(configured, own)
    if not spares:
        return own
    return min(max(ANSWER_FLOOR, remaining / (spares + 1)), own)


def first_token_budget(
    *, remaining: float, spares: int, configured: float | None, p95: float | None, reasoning: bool, local: bool
) -> float:
    """For the first token of a stream: four times what is usual here, within bounds by the kind of model."""
    own = remaining * _OWN_TIMER_FIRST
    if configured is not None:
        return min(configured, own)
    if reasoning:
        adaptive = FIRST_TOKEN_REASONING
    elif p95 is None:
        adaptive = FIRST_TOKEN_LOCAL if local else FIRST_TOKEN_MAX
    else:
        adaptive = min(max(4 * p95, FIRST_TOKEN_MIN), FIRST_TOKEN_MAX)
    if spares:
        adaptive = min(adaptive, max(remaining / (spares + 1), TRIAL_MIN))
    return min(adaptive, own)


def trial_budget(p50: float | None, full: float) -> float:
    """For the one request that tests whether a provider is back: short, somebody is waiting."""
    return min(max(2 * (p50 or 0.0), TRIAL_MIN), full)


def write_budget(size: int) -> float:
    """For sending a request of `size` bytes."""
    return WRITE_BASE + size / WRITE_RATE
