from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cortex.limits import FORGET, Limit, ceiling, has_slot, objected, succeeded


def test_no_limit_until_the_provider_objects() -> None:
    assert ceiling(Limit(), 0.0) is None
    assert has_slot(Limit(), 10_000, 0.0)
    assert succeeded(Limit(), 500, 0.0) == Limit()


def test_the_first_objection_sets_it_below_what_was_in_flight() -> None:
    limit = objected(Limit(), 20, 1.0, round_trip=2.0)
    assert limit.learned == 14
    assert has_slot(limit, 13, 1.0)
    assert not has_slot(limit, 14, 1.0)


def test_never_below_one() -> None:
    limit = Limit()
    for second in range(10):
        limit = objected(limit, 1, float(second), round_trip=0.1)
    assert limit.learned == 1
    assert has_slot(limit, 0, 9.0)


def test_one_crowd_cuts_once_per_round_trip() -> None:
    first = objected(Limit(), 20, 1.0, round_trip=2.0)
    assert objected(first, 19, 2.9, round_trip=2.0).learned == 14
    assert objected(first, 13, 3.0, round_trip=2.0).learned == 9


def test_one_more_per_round_of_successes_that_used_it() -> None:
    limit = objected(Limit(), 6, 0.0, round_trip=1.0)
    assert limit.learned == 4
    for _ in range(4):
        assert limit.learned == 4
        limit = succeeded(limit, 3, 1.0)
    assert limit.learned == 5
    assert limit.oks == 0


def test_successes_that_used_half_or_less_prove_nothing() -> None:
    limit = objected(Limit(), 6, 0.0, round_trip=1.0)
    assert succeeded(limit, 2, 1.0) is limit


def test_an_objection_starts_the_round_anew() -> None:
    limit = succeeded(objected(Limit(), 6, 0.0, round_trip=9.0), 3, 1.0)
    assert limit.oks == 1
    assert objected(limit, 3, 1.5, round_trip=9.0).oks == 0


def test_ten_minutes_without_objection_and_it_is_gone() -> None:
    limit = objected(Limit(), 6, 0.0, round_trip=1.0)
    limit = objected(limit, 4, 100.0, round_trip=1.0)
    assert ceiling(limit, 100.0 + FORGET - 0.1) == 2
    assert ceiling(limit, 100.0 + FORGET) is None
    assert succeeded(limit, 4, 100.0 + FORGET) == Limit()


def test_the_users_own_maximum_stays() -> None:
    assert ceiling(Limit(configured=3), 0.0) == 3
    assert ceiling(objected(Limit(configured=3), 3, 0.0, round_trip=1.0), 0.0) == 2
    assert ceiling(objected(Limit(configured=3), 3, 0.0, round_trip=1.0), FORGET) == 3
    assert ceiling(Limit(configured=3, learned=50, objected_at=0.0), 1.0) == 3


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 100), st.floats(0, 100)), max_size=60))
def test_it_is_never_below_one_and_grows_by_one_at_a_time(moves: list[tuple[bool, int, float]]) -> None:
    limit, now = Limit(), 0.0
    for ok, in_flight, seconds in moves:
        now += seconds
        before = ceiling(limit, now)
        limit = succeeded(limit, in_flight, now) if ok else objected(limit, in_flight, now, round_trip=1.0)
        after = ceiling(limit, now)
        if ok:
            assert after is None if before is None else after in (before, before + 1)
        else:
            assert after is not None
            assert after >= 1
            assert before is None or after <= before
