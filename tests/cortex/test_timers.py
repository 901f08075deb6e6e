"""Budgets of an attempt: fair shares, floors, and who is to blame when they pass."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex import timers
from cortex.timers import Chance

seconds = st.floats(0.001, 1000)


def test_alone_it_has_all_that_is_left_but_the_last_moment() -> None:
    assert timers.answer_budget(remaining=120, spares=0, configured=None, p95=None) == Chance(117.6)


def test_with_spares_a_share_and_at_least_the_floor() -> None:
    assert timers.answer_budget(remaining=120, spares=1, configured=None, p95=None) == Chance(60)
    assert timers.answer_budget(remaining=120, spares=9, configured=None, p95=None) == Chance(30)


@pytest.mark.parametrize(
    ("remaining", "p95", "chance"),
    [
        (60, None, Chance(30)),
        (40, None, Chance(20, fair=False)),
        (31, None, Chance(15.5, fair=False)),  # and no cliff below
        (20, None, Chance(10, fair=False)),
        (20, 1.0, Chance(10)),  # ten times what is usual
        (20, 4.0, Chance(10, fair=False)),
        (20, 6.0, Chance(12, fair=False)),
        (20, 11.0, Chance(16, fair=False)),
        (3, None, Chance(2, fair=False)),
        (2, None, Chance(math.inf, fair=False)),
    ],
)
def test_in_a_hurry_the_spare_has_its_chance_too(remaining: float, p95: float | None, chance: Chance) -> None:
    assert timers.answer_budget(remaining=remaining, spares=1, configured=None, p95=p95) == chance


def test_a_providers_own_timeout_wins_and_is_fair() -> None:
    assert timers.answer_budget(remaining=120, spares=3, configured=0.5, p95=None) == Chance(0.5)
    chance = timers.first_token_budget(remaining=120, spares=3, configured=0.5, p95=9.0, reasoning=True, local=True)
    assert chance == Chance(0.5)


def test_a_hurry_is_ended_by_the_deadline_alone() -> None:
    assert timers.answer_budget(remaining=5, spares=0, configured=None, p95=None) == Chance(math.inf, fair=False)
    assert timers.answer_budget(remaining=5, spares=1, configured=7.0, p95=None) == Chance(math.inf, fair=False)


def _first(remaining: float = 600, spares: int = 0, p95: float | None = None, **kind: bool) -> Chance:
    given = {"reasoning": False, "local": False, **kind}
    return timers.first_token_budget(remaining=remaining, spares=spares, configured=None, p95=p95, **given)


def test_the_first_token_adapts_to_the_lane() -> None:
    assert _first() == Chance(60)
    assert _first(local=True) == Chance(120)
    assert _first(reasoning=True, p95=1.0) == Chance(180)
    assert _first(p95=1.0) == Chance(10)
    assert _first(p95=5.0) == Chance(20)
    assert _first(p95=50.0) == Chance(60)


def test_a_stream_moves_on_early_but_blames_nobody_for_it() -> None:
    assert _first(remaining=30, spares=2) == Chance(10, fair=False)
    assert _first(remaining=30, spares=2, p95=2.0) == Chance(10)
    assert _first(remaining=1.5, spares=2) == Chance(math.inf, fair=False)
    assert _first(remaining=600, spares=9, reasoning=True) == Chance(60)


@given(seconds, st.integers(0, 10), st.none() | seconds, st.none() | seconds, st.booleans(), st.booleans())
def test_blame_needs_a_fair_chance_and_no_budget_reaches_the_deadline(
    remaining: float, spares: int, configured: float | None, p95: float | None, reasoning: bool, local: bool
) -> None:
    for chance in (
        timers.answer_budget(remaining=remaining, spares=spares, configured=configured, p95=p95),
        timers.first_token_budget(
            remaining=remaining, spares=spares, configured=configured, p95=p95, reasoning=reasoning, local=local
        ),
    ):
        assert chance.seconds > 0
        assert chance.seconds < remaining or (chance.seconds == math.inf and not chance.fair)
        if chance.fair:
            assert chance.seconds >= min(configured or math.inf, timers.FIRST_TOKEN_MIN)


def test_a_trial_is_short_because_somebody_waits() -> None:
    assert timers.trial_budget(3.0, Chance(60)) == Chance(6)
    assert timers.trial_budget(0.1, Chance(60)) == Chance(2)
    assert timers.trial_budget(None, Chance(60)) == Chance(10)
    assert timers.trial_budget(None, Chance(5, fair=False)) == Chance(5, fair=False)


def test_writing_is_given_time_by_its_size() -> None:
    assert timers.write_budget(0) == 30
    assert timers.write_budget(50_000_000) == 530
