from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cortex.budget import CAP, CHARGE, Budget, earn, refill, settle, spend


def test_a_full_bucket_pays_for_ten_retries_then_none() -> None:
    budget = Budget.new(5.0)
    for _ in range(10):
        budget, allowed = spend(budget, 5.0)
        assert allowed
    budget, allowed = spend(budget, 5.0)
    assert not allowed
    assert budget.level == 0.0


def test_half_a_token_comes_back_per_second() -> None:
    empty = Budget(level=0.0, at=0.0)
    assert spend(empty, 19.9)[1] is False
    assert spend(empty, 20.0)[1] is True
    assert refill(empty, 1e9).level == CAP


def test_time_never_runs_backwards() -> None:
    budget = Budget(level=50.0, at=10.0)
    assert refill(budget, 3.0) is budget


def test_a_success_gives_its_charge_back_and_a_failure_does_not() -> None:
    charged, _ = spend(Budget.new(0.0), 0.0)
    assert settle(charged, 0.0, ok=True).level == CAP
    lost = settle(charged, 0.0, ok=False)
    assert lost.level == CAP - CHARGE
    assert lost.out == 0.0


def test_nothing_comes_back_that_was_not_charged() -> None:
    budget = Budget(level=40.0, at=0.0)
    assert settle(budget, 0.0, ok=True).level == 40.0


def test_a_first_try_success_earns_one() -> None:
    assert earn(Budget(level=40.0, at=0.0), 0.0).level == 41.0
    assert earn(Budget.new(0.0), 0.0).level == CAP


MOVES = st.lists(st.tuples(st.sampled_from(["spend", "ok", "lost", "earn", "wait"]), st.floats(0, 30)), max_size=80)


@given(MOVES)
def test_i26_the_level_stays_in_bounds_and_i9_the_losses_are_paid_for(moves: list[tuple[str, float]]) -> None:
    budget, now, lost, charged, first_oks = Budget.new(0.0), 0.0, 0.0, 0, 0
    for move, seconds in moves:
        now += seconds
        before = budget
        if move == "spend":
            budget, allowed = spend(budget, now)
            charged += allowed
            assert allowed is (refill(before, now).level >= CHARGE)
        elif move in ("ok", "lost"):
            budget = settle(budget, now, ok=move == "ok")
            assert budget.level - refill(before, now).level <= before.out
            if charged:
                charged -= 1
                lost += CHARGE * (move == "lost")
        elif move == "earn":
            budget = earn(budget, now)
            first_oks += 1
        else:
            budget = refill(budget, now)
        assert 0.0 <= budget.level <= CAP
        assert budget.out == charged * CHARGE
        assert lost <= CAP + first_oks + 0.5 * now + 1e-6
