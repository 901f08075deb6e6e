"""How long an attempt may take. Pure: seconds in, seconds out.

One absolute deadline bounds a call with all its attempts; within it each attempt gets a budget, so that a provider that
hangs leaves time for the next one. Pings and comments never extend a budget.
"""

from __future__ import annotations

import math

import attrs

LIVENESS = 75.0
"""Longest silence of a stream that has begun, comments included. Anthropic pings about every 30 s while thinking."""

ANSWER_FLOOR = 30.0
"""Less than this is no fair chance for a JSON answer, which comes only when it is whole, nor for the first token of a
stream; unless four times what is usual is less."""

FAIR_REASONING = 60.0
"""The same for a model that thinks before it speaks."""

FIRST_TOKEN_MIN, FIRST_TOKEN_MAX = 10.0, 60.0
"""The bounds of what adapts to the model."""

FIRST_TOKEN_REASONING = 180.0
FIRST_TOKEN_LOCAL = 120.0
"""A local server may have to load the model first."""

SHARE_MIN = 2.0
"""Everybody is given so long, however many others wait for their chance."""

TRIAL_MIN = 2.0
TRIAL_UNKNOWN = 10.0
"""A trial's first token (JSON: answer) where nothing is known of what is usual."""

PROGRESS_REASONING = 180.0
WRITE_BASE, WRITE_RATE = 30.0, 100_000.0

_MOST = 0.8
"""Of the time left: what one of several may have."""

_OWN_TIMER_FIRST = 0.98
"""Of the time left: the attempt's own timer fires before the call's deadline, so that somebody is blamed."""


@attrs.frozen
class Chance:
    """Seconds an attempt has for its first token, or its JSON answer. `fair`: if they pass, the provider is to blame.

    It is not when the caller was in a hurry. Then it is best to let the caller's own deadline end the attempt
    (`seconds` is infinite), or to move on to somebody else without a word.
    """

    seconds: float
    fair: bool = True


@attrs.frozen
class Timers:
    """The budgets of one attempt, in seconds."""

    connect: float
    first: Chance
    progress: float
    write: float
    liveness: float = LIVENESS


def answer_budget(*, remaining: float, spares: int, configured: float | None, p95: float | None) -> Chance:
    """For a whole JSON answer: a fair share of what is left, at least the floor; without a spare all of it.

    The floor takes no more than half, so that somebody who could answer is asked in time; and nobody is cut short of
    twice what is usual for it (`p95`), as long as a fifth is left for the others.
    """
    if configured is not None:
        return _within(configured, remaining, fair_from=0.0)
    fair = ANSWER_FLOOR if p95 is None else min(ANSWER_FLOOR, max(4 * p95, FIRST_TOKEN_MIN))
    share = remaining / (spares + 1)
    if spares:
        usual = min(2 * (p95 or 0.0), remaining * _MOST)
        share = max(share, min(ANSWER_FLOOR, remaining / 2), usual, SHARE_MIN)
    return _within(share, remaining, fair_from=fair)


def first_token_budget(
    *, remaining: float, spares: int, configured: float | None, p95: float | None, reasoning: bool, local: bool
) -> Chance:
    """For the first token of a stream: four times what is usual here, within bounds by the kind of model; no more than
    a share of what is left while others could serve."""
    if configured is not None:
        return _within(configured, remaining, fair_from=0.0)
    fair = FAIR_REASONING if reasoning else ANSWER_FLOOR
    if reasoning:
        adaptive = FIRST_TOKEN_REASONING
    elif p95 is None:
        adaptive = FIRST_TOKEN_LOCAL if local else FIRST_TOKEN_MAX
    else:
        adaptive = min(max(4 * p95, FIRST_TOKEN_MIN), FIRST_TOKEN_MAX)
    wanted = min(adaptive, max(remaining / (spares + 1), SHARE_MIN)) if spares else adaptive
    return _within(wanted, remaining, fair_from=min(adaptive, fair))


def _within(wanted: float, remaining: float, *, fair_from: float) -> Chance:
    """`wanted` seconds of the `remaining` ones. What does not fit is ended by the caller's deadline, unless that leaves
    time enough for a verdict."""
    own = remaining * _OWN_TIMER_FIRST
    if wanted < own:
        return Chance(wanted, fair=wanted >= fair_from)
    if remaining >= ANSWER_FLOOR:
        return Chance(own)
    return Chance(math.inf, fair=False)


def trial_budget(p50: float | None, chance: Chance) -> Chance:
    """For the one request that tests whether a provider is back: short, somebody is waiting."""
    usual = TRIAL_UNKNOWN if p50 is None else max(2 * p50, TRIAL_MIN)
    return Chance(usual) if usual < chance.seconds else chance


def write_budget(size: int) -> float:
    """For sending a request of `size` bytes."""
    return WRITE_BASE + size / WRITE_RATE
