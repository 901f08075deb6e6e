from __future__ import annotations

import json
import re
from collections.abc import Callable
from random import Random
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex import circuit, health
from cortex.health import (
    TABLE,
    Admit,
    Answering,
    Began,
    Cause,
    Event,
    Finished,
    GaveUp,
    Health,
    ProbeFinished,
    Recheck,
    Restarted,
    State,
    Switched,
    admit,
    next_probe,
    observe,
    ramp_slots,
    status,
    step,
    why,
    worse,
)
from cortex.messages import Failure, Kind, Phase
from cortex.outcomes import Outcome, Scope, classify

OK = classify(None)


def bad(kind: Kind = Kind.TRANSIENT, **more: Any) -> Outcome:
    return classify(Failure(kind, "words", **more))


class Dice:
    def __init__(self, value: float = 1.0) -> None:
        self.value = value

    def random(self) -> float:
        return self.value


class Clockwork:
    """One health with a clock: `do(event)` at the time it is."""

    def __init__(self, scope: Scope = Scope.LANE, *, spare: bool = True, sole: bool = False, dice: float = 1.0) -> None:
        self.now = 1000.0
        self.spare, self.sole, self.rng = spare, sole, Dice(dice)
        self.health = Health.new(self.now, scope)

    def do(self, event: Event) -> Health:
        self.health = step(self.health, event, self.now, self.rng, spare=self.spare, sole=self.sole)
        return self.health

    def call(self, outcome: Outcome, **more: Any) -> Health:
        """A whole call of the present epoch; a trial if that is what the state asks for."""
        self.health = observe(self.health, self.now)
        trial = admit(self.health, self.now).verdict is Admit.TRIAL
        self.do(Began(trial))
        return self.do(Finished(outcome, self.health.epoch, trial=trial, **more))

    def after(self, seconds: float) -> Clockwork:
        self.now += seconds
        self.health = observe(self.health, self.now)
        return self

    @property
    def state(self) -> State:
        return self.health.state


def to_open(**more: Any) -> Clockwork:
    clock = Clockwork(**more)
    while clock.state is not State.OPEN:
        clock.call(bad())
    return clock


def to_half_open(**more: Any) -> Clockwork:
    clock = to_open(**more).after(5.0)
    assert clock.state is State.HALF_OPEN
    return clock


def to_ramping(**more: Any) -> Clockwork:
    clock = to_half_open(**more)
    clock.call(OK)
    clock.call(OK)
    assert clock.state is State.RAMPING
    return clock


def to_disabled(kind: Kind = Kind.CREDENTIAL, **more: Any) -> Clockwork:
    clock = Clockwork(Scope.ENDPOINT if bad(kind).scope is Scope.ENDPOINT else Scope.LANE)
    clock.call(bad(kind, **more))
    assert clock.state is State.DISABLED
    return clock


def to_degraded() -> Clockwork:
    clock = Clockwork(spare=False)
    for _ in range(3):
        clock.call(OK)
    for _ in range(3):
        clock.call(bad())
    assert clock.state is State.DEGRADED
    return clock


# ------------------------------------------------------------------------------------------------------------ the table


def test_every_cell_is_there() -> None:
    assert set(TABLE) == set(State)
    for row in TABLE.values():
        assert set(row) == set(circuit.Signal)


def test_the_diagram_is_printed_from_the_table() -> None:
    drawing = health.diagram()
    assert drawing.startswith("stateDiagram-v2\n")
    for state, row in TABLE.items():
        for rule in row.values():
            for to in rule.to:
                assert to is state or f"    {state} --> {to}: " in drawing
    for line in drawing.splitlines()[2:]:
        assert re.fullmatch(r"    \w+ --> \w+: [^:;]+", line)  # mermaid ends a label at a colon or a semicolon


@pytest.mark.parametrize("state", State)
def test_every_state_can_be_left_and_reached(state: State) -> None:
    assert any(to is not state for rule in TABLE[state].values() for to in rule.to)
    assert any(state in rule.to for other in State if other is not state for rule in TABLE[other].values())


# -------------------------------------------------------------------------------------- healthy or degraded: k in a row


@pytest.mark.parametrize(("spare", "k"), [(True, 3), (False, 5)])
def test_k_failures_in_a_row_open(spare: bool, k: int) -> None:
    clock = Clockwork(spare=spare)
    for _ in range(k - 1):
        clock.call(bad())
        assert clock.state in (State.HEALTHY, State.DEGRADED)
    clock.call(bad())
    assert clock.state is State.OPEN
    assert clock.health.n == 1


@pytest.mark.parametrize(("spare", "timeouts"), [(True, 2), (False, 3)])
def test_a_timeout_weighs_two(spare: bool, timeouts: int) -> None:
    clock = Clockwork(spare=spare)
    for _ in range(timeouts):
        assert clock.state is not State.OPEN
        clock.call(bad(Kind.TIMEOUT_FIRST))
    assert clock.state is State.OPEN
    assert clock.health.cause is Cause.TIMEOUTS


def test_a_success_ends_the_row() -> None:
    clock = Clockwork()
    for outcome in (bad(), bad(), OK, bad(), bad()):
        clock.call(outcome)
        assert clock.state is not State.OPEN
    assert clock.health.streak == 2


def test_half_of_eight_within_a_minute_opens() -> None:
    clock = Clockwork(spare=False)
    for outcome in (OK, bad(), OK, bad(), OK, bad(), OK):
        clock.after(5.0).call(outcome)
        assert clock.state is not State.OPEN
    clock.call(bad())
    assert clock.state is State.OPEN
    assert "4 of the last 8" in clock.health.reason


def test_half_of_eight_over_more_than_a_minute_does_not() -> None:
    clock = Clockwork(spare=False)
    for outcome in (OK, bad()) * 10:
        clock.after(10.0).call(outcome)
        assert clock.state is not State.OPEN


def test_one_error_in_a_hundred_for_an_hour_opens_nothing() -> None:
    clock, rng = Clockwork(), Random(7)
    for _ in range(3600):
        clock.after(1.0).call(bad() if rng.random() < 0.01 else OK)
        assert clock.state is not State.OPEN


# ---------------------------------------------------------------------------------------------------------- degradation


def test_a_low_success_average_degrades_with_enough_samples() -> None:
    clock = Clockwork(spare=False)
    for outcome in (OK, bad(), bad()):
        clock.call(outcome)
    assert clock.state is State.HEALTHY
    clock.call(OK)
    clock.call(bad())
    assert clock.state is State.DEGRADED
    assert status(clock.health, clock.now) == "slow"


def test_degrading_does_not_interrupt_the_row_of_failures() -> None:
    clock = to_degraded()
    assert clock.health.streak == 3
    clock.call(bad())
    clock.call(bad())
    assert clock.state is State.OPEN


def test_degraded_heals_after_thirty_seconds_of_a_good_average() -> None:
    clock = to_degraded()
    while clock.health.ewma <= 0.9:
        clock.after(1.0).call(OK)
        assert clock.state is State.DEGRADED
    for _ in range(29):
        clock.after(1.0).call(OK)
        assert clock.state is State.DEGRADED
    assert clock.after(1.0).state is State.HEALTHY


def test_a_failure_in_between_starts_the_thirty_seconds_anew() -> None:
    clock = to_degraded()
    while clock.health.ewma <= 0.9:
        clock.call(OK)
    clock.after(29.0).call(bad())
    assert clock.after(29.0).state is State.DEGRADED


def test_degraded_and_not_used_for_a_minute_is_given_another_chance() -> None:
    clock = to_degraded()
    assert clock.after(59.9).state is State.DEGRADED
    assert clock.after(0.1).state is State.HEALTHY
    for _ in range(3):
        clock.call(bad())
    assert clock.state is State.HEALTHY


def slow_lane() -> Clockwork:
    clock = Clockwork()
    for _ in range(30):
        clock.after(1.0).call(OK, latency=1.0)
    for _ in range(7):
        clock.after(1.0).call(OK, latency=3.1)
        assert clock.state is State.HEALTHY
    return clock


def test_eight_of_ten_answers_beyond_three_times_the_custom_degrade() -> None:
    clock = slow_lane()
    clock.call(OK, latency=3.1)
    assert clock.state is State.DEGRADED
    assert "slower" in why(clock.health, clock.now)


def test_what_is_not_much_slower_than_usual_does_not_degrade() -> None:
    clock = Clockwork()
    for latency in [1.0] * 30 + [2.9] * 30:
        clock.after(1.0).call(OK, latency=latency)
    assert clock.state is State.HEALTHY


def test_a_slow_lane_heals_when_it_is_fast_again() -> None:
    clock = slow_lane()
    clock.call(OK, latency=3.1)
    for _ in range(3):
        clock.call(OK, latency=1.0)
    assert clock.after(30.0).state is State.HEALTHY


def test_a_slow_lane_nobody_used_for_a_minute_is_given_another_chance() -> None:
    clock = slow_lane()
    clock.call(OK, latency=3.1)
    clock.after(60.0).call(OK, latency=3.1)
    assert clock.state is State.HEALTHY


def test_latency_is_the_lanes_alone() -> None:
    clock = Clockwork(Scope.ENDPOINT)
    clock.call(OK, latency=3.1)
    clock.do(Answering(clock.health.epoch, latency=3.1))
    assert clock.health.answer.peak is None
    assert clock.health.first.peak is None


def test_slow_for_ten_minutes_is_the_new_custom() -> None:
    clock = slow_lane()
    for second in range(800):
        clock.after(1.0).call(OK, latency=3.1)
        assert clock.state is State.DEGRADED or second > 600
    assert clock.state is State.HEALTHY


def test_first_tokens_and_whole_answers_are_not_compared_with_each_other() -> None:
    clock = Clockwork()
    for _ in range(40):
        clock.do(Answering(clock.health.epoch, latency=0.2))
    for _ in range(20):
        clock.call(OK, latency=20.0)
    assert clock.state is State.HEALTHY


# ----------------------------------------------------------------------------------------------------------------- open


@pytest.mark.parametrize("dice", [0.0, 1.0])
def test_the_time_open_doubles_from_five_seconds_to_sixty(dice: float) -> None:
    clock = to_open(dice=dice)
    share = 1.0 if dice else 0.5
    for longest in (5.0, 10.0, 20.0, 40.0, 60.0, 60.0, 60.0):
        assert clock.health.until == clock.now + share * longest
        assert clock.after(share * longest - 0.1).state is State.OPEN
        assert clock.after(0.1).state is State.HALF_OPEN
        clock.call(bad())
        assert clock.state is State.OPEN


def test_open_lasts_as_long_as_the_provider_asked_for_up_to_ten_minutes() -> None:
    for asked, lasts in ((30.0, 30.0), (1.0, 5.0), (86_400.0, 600.0)):
        clock = Clockwork()
        for _ in range(3):
            clock.call(bad(Kind.OVERLOADED, retry_after=asked))
        assert clock.health.until == clock.now + lasts


def test_the_only_capable_lane_is_open_for_five_seconds_each_time() -> None:
    clock = to_open(spare=False, sole=True)
    for _ in range(6):
        assert clock.health.until == clock.now + 5.0
        assert clock.health.n == 1
        clock.after(5.0).call(bad())


def test_a_probe_opens_half_after_two_seconds() -> None:
    clock = to_open()
    assert clock.after(1.9).do(ProbeFinished(OK)).state is State.OPEN
    assert clock.after(0.1).do(ProbeFinished(OK)).state is State.HALF_OPEN


def test_a_rate_limited_probe_is_a_sign_of_life() -> None:
    clock = to_open().after(2.0)
    assert clock.do(ProbeFinished(bad(Kind.RATE_LIMIT))).state is State.HALF_OPEN


def test_a_probe_never_closes_a_circuit_nor_opens_one() -> None:
    clock = Clockwork()
    for _ in range(20):
        clock.do(ProbeFinished(bad()))
    assert clock.state is State.HEALTHY
    clock = to_half_open()
    for _ in range(20):
        clock.do(ProbeFinished(OK))
    assert clock.state is State.HALF_OPEN


def test_a_probe_that_is_told_the_key_is_wrong_disables() -> None:
    assert Clockwork(Scope.ENDPOINT).do(ProbeFinished(bad(Kind.CREDENTIAL))).state is State.DISABLED


def hang() -> Clockwork:
    clock = Clockwork()
    clock.call(bad(Kind.TIMEOUT_FIRST))
    clock.call(bad(Kind.TIMEOUT_FIRST))
    assert clock.state is State.OPEN
    return clock


def test_after_a_hang_nobody_tries_while_the_probe_still_fails() -> None:
    clock = hang().after(4.0)
    clock.do(ProbeFinished(bad()))
    assert clock.after(60.0).state is State.OPEN
    clock.do(ProbeFinished(OK))
    assert clock.state is State.HALF_OPEN


def test_after_a_hang_a_probe_that_stopped_or_always_fails_holds_nobody_for_ever() -> None:
    clock = hang().after(4.0)
    clock.do(ProbeFinished(bad()))
    assert clock.after(90.0).state is State.HALF_OPEN
    clock = hang().after(2.0)
    for _ in range(60):
        clock.do(ProbeFinished(bad()))
        assert clock.after(9.9).state is State.OPEN
    assert clock.after(4.0).state is State.HALF_OPEN


def test_after_plain_failures_a_failing_probe_holds_nobody() -> None:
    clock = to_open().after(4.0)
    clock.do(ProbeFinished(bad()))
    assert clock.after(1.0).state is State.HALF_OPEN


def test_a_probe_that_failed_by_our_own_fault_holds_nobody() -> None:
    clock = hang().after(4.0)
    clock.do(ProbeFinished(bad(Kind.LOCAL)))
    assert clock.after(1.0).state is State.HALF_OPEN


# ------------------------------------------------------------------------------------------------------------ half-open


def test_one_trial_at_a_time() -> None:
    clock = to_half_open()
    assert admit(clock.health, clock.now).verdict is Admit.TRIAL
    clock.do(Began(trial=True))
    assert admit(clock.health, clock.now).verdict is Admit.TRYING
    assert clock.do(Began(trial=True)) is clock.health


def test_two_trials_start_the_ramp() -> None:
    clock = to_half_open()
    clock.call(OK)
    assert clock.state is State.HALF_OPEN
    clock.call(OK)
    assert clock.state is State.RAMPING


def test_a_trial_is_settled_by_its_first_token() -> None:
    clock = to_half_open()
    epoch = clock.health.epoch
    clock.do(Began(trial=True))
    clock.do(Answering(epoch, trial=True, latency=0.4))
    assert admit(clock.health, clock.now).verdict is Admit.TRIAL
    clock.do(Finished(OK, epoch))
    assert clock.health.trials == 1
    clock.do(Began(trial=True))
    clock.do(Answering(epoch, trial=True, latency=0.4))
    assert clock.state is State.RAMPING


def test_a_trial_that_breaks_after_its_first_token_is_a_failure() -> None:
    clock = to_half_open()
    epoch = clock.health.epoch
    clock.do(Began(trial=True))
    clock.do(Answering(epoch, trial=True))
    clock.do(Finished(bad(Kind.CUT), epoch))
    assert clock.state is State.OPEN


def test_a_failed_trial_opens_again() -> None:
    clock = to_half_open()
    clock.call(bad())
    assert clock.state is State.OPEN
    assert clock.health.n == 2


NEUTRAL = [Kind.BAD_REQUEST, Kind.CONTEXT, Kind.CONTENT, Kind.RATE_LIMIT, Kind.LOCAL, Kind.CANCELLED]


@pytest.mark.parametrize("kind", NEUTRAL)
def test_a_trial_without_a_verdict_returns_its_permit(kind: Kind) -> None:
    clock = to_half_open()
    clock.call(bad(kind, retry_after=0.0))
    assert clock.state is State.HALF_OPEN
    assert admit(clock.health, clock.now).verdict is Admit.TRIAL


def test_a_lost_permit_comes_back_after_a_minute_and_its_late_result_counts_for_nothing() -> None:
    clock = to_half_open()
    epoch = clock.health.epoch
    clock.do(Began(trial=True))
    assert admit(clock.after(59.9).health, clock.now).verdict is Admit.TRYING
    assert admit(clock.after(0.1).health, clock.now).verdict is Admit.TRIAL
    clock.do(Began(trial=True))
    clock.do(Finished(OK, epoch, trial=True))
    assert admit(clock.health, clock.now).verdict is Admit.TRYING
    assert clock.health.trials == 0


# -------------------------------------------------------------------------------------------------------------- ramping


def test_the_ramp_ends_after_thirty_seconds_and_three_successes() -> None:
    clock = to_ramping()
    for _ in range(3):
        clock.call(OK)
    assert clock.after(29.9).state is State.RAMPING
    assert clock.after(0.1).state is State.HEALTHY
    clock = to_ramping().after(100.0)
    for left in (3, 2, 1):
        assert clock.state is State.RAMPING, left
        clock.call(OK)
    assert clock.state is State.HEALTHY


@pytest.mark.parametrize("kind", [Kind.TRANSIENT, Kind.TIMEOUT_FIRST])
def test_two_failures_in_a_row_end_the_ramp(kind: Kind) -> None:
    clock = to_ramping()
    for outcome in (bad(kind), OK, bad(kind)):
        clock.call(outcome)
        assert clock.state is State.RAMPING
    clock.call(bad(kind))
    assert clock.state is State.OPEN
    assert clock.health.n == 2


def test_the_ramp_lets_in_two_and_one_more_per_success_up_to_half_the_limit() -> None:
    clock = to_ramping()
    assert not admit(clock.health, clock.now, in_flight=1).refused
    assert admit(clock.health, clock.now, in_flight=2).verdict is Admit.RAMPING
    clock.call(OK)
    assert not admit(clock.health, clock.now, in_flight=2).refused
    assert [ramp_slots(clock.health, limit) for limit in (None, 20, 4, 1)] == [3, 3, 2, 1]


# ------------------------------------------------------------------------------------------------------------- disabled


@pytest.mark.parametrize(
    ("kind", "cause", "pauses"),
    [
        (Kind.CREDENTIAL, Cause.AUTH, [60, 120, 240, 480, 600, 600]),
        (Kind.QUOTA, Cause.BILLING, [60, 120, 240, 480, 600, 600]),
        (Kind.CERTIFICATE, Cause.CONFIG, [5, 10, 20, 40, 60, 60]),
        (Kind.MODEL_GONE, Cause.CONFIG, [5, 10, 20, 40, 60, 60]),
    ],
)
def test_evidence_that_cannot_pass_disables_and_is_looked_at_less_and_less(
    kind: Kind, cause: Cause, pauses: list[float]
) -> None:
    clock = to_disabled(kind)
    assert clock.health.cause is cause
    for pause in pauses:
        assert next_probe(clock.health, clock.now, Dice()) == clock.now + pause
        assert clock.after(pause).state is State.DISABLED
        clock.do(ProbeFinished(bad(kind)))


@pytest.mark.parametrize("reach", [Clockwork, to_open, to_half_open, to_ramping, to_degraded])
def test_one_piece_of_such_evidence_is_enough_everywhere(reach: Callable[[], Clockwork]) -> None:
    clock = reach()
    if clock.state is State.OPEN:
        clock.do(Began(trial=True))
    clock.call(bad(Kind.MODEL_GONE)) if clock.state is not State.HALF_OPEN else clock.do(
        Finished(bad(Kind.MODEL_GONE), clock.health.epoch, trial=True)
    )
    assert clock.state is State.DISABLED


def test_an_empty_account_is_looked_at_when_its_reset_is_known_to_be_nearer() -> None:
    clock = to_disabled(Kind.QUOTA, retry_after=20.0)
    assert clock.health.until == clock.now + 20.0
    clock = to_disabled(Kind.QUOTA, retry_after=86_400.0)
    assert clock.health.until == clock.now + 60.0


def test_the_pauses_go_on_growing_over_failed_trials_and_start_anew_after_a_success() -> None:
    clock = to_disabled()
    clock.do(Recheck())
    clock.call(bad(Kind.CREDENTIAL))
    assert clock.health.until == clock.now + 120.0
    clock.do(Recheck())
    clock.call(OK)
    clock.call(bad(Kind.CREDENTIAL))
    assert clock.health.until == clock.now + 60.0


@pytest.mark.parametrize("event", [ProbeFinished(OK), Recheck(), Switched(enabled=True), Began(trial=True)])
def test_what_leads_out_of_disabled_leads_to_a_trial(event: Event) -> None:
    assert to_disabled().do(event).state is State.HALF_OPEN


@pytest.mark.parametrize("kind", [Kind.ROUTE_GONE, Kind.NOT_API])
def test_a_wrong_address_that_answered_within_the_hour_is_being_deployed(kind: Kind) -> None:
    clock = Clockwork()
    clock.call(OK)
    clock.after(3599.0).call(bad(kind))
    assert clock.state is State.HEALTHY
    assert clock.health.streak == 1
    clock = Clockwork()
    clock.call(OK)
    clock.after(3600.0).call(bad(kind))
    assert clock.state is State.DISABLED


def test_a_model_that_is_gone_is_gone_whatever_it_answered_before() -> None:
    clock = Clockwork()
    clock.call(OK)
    clock.call(bad(Kind.MODEL_GONE))
    assert clock.state is State.DISABLED


@pytest.mark.parametrize("event", [ProbeFinished(OK), Recheck(), Began(trial=True), Restarted(), GaveUp()])
def test_only_the_operator_undoes_the_operators_switch(event: Event) -> None:
    clock = Clockwork()
    off = clock.do(Switched(enabled=False))
    assert status(off, clock.now) == "off"
    assert clock.after(10_000.0).do(event) is off
    assert admit(off, clock.now, last_resort=True).verdict is Admit.OFF
    assert next_probe(off, clock.now, Dice()) is None
    assert clock.do(Switched(enabled=True)).state is State.HALF_OPEN


# ---------------------------------------------------------------------------------------------------------- supervision


@pytest.mark.parametrize(
    ("reach", "state"),
    [
        (Clockwork, State.HALF_OPEN),
        (to_degraded, State.HALF_OPEN),
        (to_half_open, State.HALF_OPEN),
        (to_ramping, State.HALF_OPEN),
        (to_open, State.OPEN),
        (to_disabled, State.DISABLED),
    ],
)
def test_a_restart_keeps_open_and_disabled_and_puts_the_rest_on_trial(
    reach: Callable[[], Clockwork], state: State
) -> None:
    clock = reach()
    clock.do(Began(trial=clock.state is State.HALF_OPEN))
    assert clock.do(Restarted()).state is state
    assert not clock.health.trial


def test_a_provider_given_up_is_disabled_until_it_is_started_again() -> None:
    clock = Clockwork()
    clock.do(GaveUp())
    assert clock.health.cause is Cause.CRASH_LOOP
    assert clock.health.until == clock.now + 5.0
    assert clock.do(Restarted()).state is State.HALF_OPEN
    clock.do(GaveUp())
    assert clock.health.until == clock.now + 10.0


# --------------------------------------------------------------------------------------------------- epochs and neutral


def test_a_hundred_simultaneous_timeouts_open_once() -> None:
    clock = Clockwork()
    epoch = clock.health.epoch
    for _ in range(100):
        clock.do(Finished(bad(Kind.TIMEOUT_FIRST), epoch))
    assert clock.health.n == 1


def test_a_late_success_closes_nothing_but_tells_its_latency() -> None:
    clock = Clockwork()
    epoch = clock.health.epoch
    for _ in range(3):
        clock.call(bad())
    for _ in range(10):
        clock.do(Finished(OK, epoch, latency=0.7))
    assert clock.state is State.OPEN
    assert clock.health.answer.quantile(0.5) == 0.7


@pytest.mark.parametrize("kind", NEUTRAL)
def test_i6_nobodys_fault_counts_nowhere(kind: Kind) -> None:
    clock = Clockwork()
    clock.call(bad())
    before = clock.health
    for _ in range(50):
        clock.call(bad(kind, retry_after=0.0))
    assert attrs.evolve(clock.health, gate_until=None, gates=0) == before


def test_offline_raises_no_count() -> None:
    clock = Clockwork(Scope.ENDPOINT)
    for _ in range(50):
        clock.call(bad(Kind.CONNECT, phase=Phase.NOT_SENT), offline=True)
    assert clock.state is State.HEALTHY
    assert (clock.health.n, clock.health.streak) == (0, 0)


def test_each_fault_hits_only_its_own_machine() -> None:
    lane, endpoint = Clockwork(Scope.LANE), Clockwork(Scope.ENDPOINT)
    for clock in (lane, endpoint):
        for _ in range(5):
            clock.call(bad(Kind.CONNECT, phase=Phase.NOT_SENT))
    assert (lane.state, endpoint.state) == (State.HEALTHY, State.OPEN)
    lane, endpoint = Clockwork(Scope.LANE), Clockwork(Scope.ENDPOINT)
    for clock in (lane, endpoint):
        for _ in range(5):
            clock.call(bad(Kind.TIMEOUT_FIRST))
    assert (lane.state, endpoint.state) == (State.OPEN, State.HEALTHY)


def test_each_calm_minute_forgets_one_opening() -> None:
    clock = to_ramping()
    for _ in range(3):
        clock.call(OK)
    clock.after(30.0)
    assert (clock.state, clock.health.n) == (State.HEALTHY, 1)
    assert clock.after(59.9).health.n == 1
    assert clock.after(0.1).health.n == 0
    high = attrs.evolve(clock.health, n=4)
    assert observe(high, clock.now + 150.0).n == 2
    assert observe(observe(high, clock.now + 90.0), clock.now + 150.0).n == 2


# ----------------------------------------------------------------------------------------------------------------- gate


def test_a_rate_limit_closes_the_gate_for_as_long_as_it_says() -> None:
    clock = Clockwork()
    clock.call(bad(Kind.RATE_LIMIT, retry_after=7.0))
    assert clock.state is State.HEALTHY
    answer = admit(clock.health, clock.now)
    assert (answer.verdict, answer.until) == (Admit.GATED, clock.now + 7.0)
    assert status(clock.health, clock.now) == "slow"
    assert not admit(clock.health, clock.now + 7.0).refused


def test_a_gate_is_believed_for_ten_minutes_and_never_shortened() -> None:
    clock = Clockwork()
    clock.call(bad(Kind.RATE_LIMIT, retry_after=86_400.0))
    assert clock.health.gate_until == clock.now + 600.0
    clock.call(bad(Kind.RATE_LIMIT, retry_after=1.0))
    assert clock.health.gate_until == clock.now + 600.0


def test_a_rate_limit_that_says_nothing_closes_it_longer_each_time() -> None:
    clock = Clockwork()
    for pause in (1.0, 2.0, 4.0, 8.0, 16.0, 20.0, 20.0):
        clock.call(bad(Kind.RATE_LIMIT))
        assert clock.health.gate_until == clock.now + pause
        clock.after(pause)
    clock.call(OK)
    clock.call(bad(Kind.RATE_LIMIT))
    assert clock.health.gate_until == clock.now + 1.0


def test_a_late_rate_limit_still_closes_the_gate() -> None:
    clock = Clockwork()
    epoch = clock.health.epoch
    for _ in range(3):
        clock.call(bad())
    clock.do(Finished(bad(Kind.RATE_LIMIT, retry_after=30.0), epoch))
    assert clock.health.gated(clock.now + 29.0)


# ------------------------------------------------------------------------------------------------------------ questions


@pytest.mark.parametrize(
    ("reach", "plain", "last"),
    [
        (Clockwork, Admit.ADMIT, Admit.ADMIT),
        (to_degraded, Admit.ADMIT, Admit.ADMIT),
        (to_open, Admit.OPEN, Admit.TRIAL),
        (to_half_open, Admit.TRIAL, Admit.TRIAL),
        (to_ramping, Admit.ADMIT, Admit.ADMIT),
        (to_disabled, Admit.DISABLED, Admit.TRIAL),
    ],
)
def test_admission(reach: Callable[[], Clockwork], plain: Admit, last: Admit) -> None:
    clock = reach()
    assert admit(clock.health, clock.now).verdict is plain
    assert admit(clock.health, clock.now, last_resort=True).verdict is last
    gated = attrs.evolve(clock.health, gate_until=clock.now + 1.0)
    assert admit(gated, clock.now, last_resort=True).verdict is Admit.GATED


@pytest.mark.parametrize(
    ("reach", "word"),
    [
        (Clockwork, "up"),
        (to_degraded, "slow"),
        (to_open, "down"),
        (to_half_open, "recovering"),
        (to_ramping, "recovering"),
        (to_disabled, "down"),
    ],
)
def test_the_words_of_users(reach: Callable[[], Clockwork], word: str) -> None:
    clock = reach()
    assert status(clock.health, clock.now) == word
    line = why(clock.health, clock.now)
    assert bool(line) is (word != "up")
    assert "\n" not in line


def test_why_names_the_cause_and_the_next_look() -> None:
    assert why(to_open().health, 1000.0) == "failed again and again (transient); next trial in 5.0 s"
    assert why(to_disabled().health, 1000.0) == "auth: credential; recheck in 60.0 s"


def test_the_worse_of_lane_and_endpoint_with_the_lanes_latency_and_the_later_gate() -> None:
    lane, endpoint = Clockwork(), to_open()
    lane.call(OK, latency=0.3)
    lane.call(bad(Kind.RATE_LIMIT, retry_after=9.0))
    both = worse(lane.health, endpoint.health)
    assert both.state is State.OPEN
    assert both.answer == lane.health.answer
    assert both.gate_until == lane.health.gate_until
    later = attrs.evolve(endpoint.health, gate_until=lane.now + 20.0)
    assert worse(lane.health, later).gate_until == lane.now + 20.0
    sooner = attrs.evolve(endpoint.health, gate_until=lane.now + 1.0)
    assert worse(lane.health, sooner).gate_until == lane.now + 9.0
    assert worse(endpoint.health, lane.health).state is State.OPEN


def test_the_worse_of_two_half_open_is_the_one_whose_trial_is_out() -> None:
    free, out = to_half_open(), to_half_open()
    out.do(Began(trial=True))
    assert worse(free.health, out.health).trial
    assert worse(out.health, free.health).trial


def test_probes_of_an_open_circuit_grow_rarer() -> None:
    clock = hang()
    due = []
    for _ in range(5):
        at = next_probe(clock.health, clock.now, Dice(0.5))
        assert at is not None
        due.append(round(at - clock.now, 1))
        clock.after(at - clock.now).do(ProbeFinished(bad()))
    assert due == [2.2, 10, 20, 20, 20]
    assert next_probe(Clockwork().health, 1000.0, Dice()) is None


def test_the_peak_average_believes_bad_news_at_once_and_good_news_slowly() -> None:
    latency = health.Latency().add(1.0, 0.0)
    assert latency.add(8.0, 1.0).expected(1.0) == 8.0
    better = latency.add(8.0, 1.0).add(1.0, 2.0).expected(2.0)
    assert 7.0 < better < 8.0
    assert latency.add(8.0, 1.0).expected(1e6) == pytest.approx(1.5)
    assert health.Latency().expected(0.0) == 1.5
    assert health.Latency().add(0.0, 0.0).expected(0.0) > 0


# ----------------------------------------------------------------------------------------------------------- properties


OUTCOMES = st.one_of(
    st.just(OK),
    st.builds(
        lambda kind, after: bad(kind, retry_after=after),
        st.sampled_from(Kind),
        st.none() | st.floats(0, 2000),
    ),
)

COMMANDS = st.lists(
    st.one_of(
        st.tuples(st.just("start"), st.booleans()),
        st.tuples(st.just("end"), st.integers(0, 50), OUTCOMES, st.none() | st.floats(0, 100)),
        st.tuples(st.just("first"), st.integers(0, 50)),
        st.tuples(st.just("lose"), st.integers(0, 50)),
        st.tuples(st.just("probe"), OUTCOMES),
        st.tuples(st.just("wait"), st.sampled_from([0.0, 0.5, 3.0, 10.0, 31.0, 61.0, 700.0])),
        st.tuples(st.just("say"), st.sampled_from([Recheck(), Switched(enabled=True), Restarted(), GaveUp()])),
    ),
    max_size=120,
)


class Traffic:
    """Any traffic at one health, with what must hold after every event."""

    def __init__(self, scope: Scope, *, spare: bool, sole: bool, seed: int) -> None:
        self.spare, self.sole, self.rng, self.now = spare, sole, Random(seed), 50.0
        self.health = Health.new(self.now, scope)
        self.flying: list[tuple[int, bool]] = []

    def go(self, event: Event) -> None:
        before = observe(self.health, self.now)
        self.health = after = step(self.health, event, self.now, self.rng, spare=self.spare, sole=self.sole)
        assert after.epoch >= before.epoch
        assert 0 <= after.n <= before.n + 1
        assert len(after.window) <= 50
        if after.state is not before.state:
            assert after.epoch > before.epoch
            assert after.state in {to for rule in TABLE[before.state].values() for to in rule.to}
        if after.state is State.OPEN and after.epoch > before.epoch:
            self.i5_bounds_of_an_opening(event)
        if isinstance(event, Finished) and event.outcome.cls in ("caller", "local", "cancelled", "rate"):
            counters = ("n", "streak", "window", "ewma", "samples")
            assert [getattr(after, name) for name in counters] == [getattr(before, name) for name in counters], "I6"

    def i5_bounds_of_an_opening(self, event: Event) -> None:
        it = self.health
        longest = 5.0 if self.sole else circuit.open_time(it.n)
        asked = (event.outcome.retry_after or 0.0) if isinstance(event, Finished) else 0.0
        assert it.until is not None
        assert longest / 2 - 1e-9 <= it.until - self.now <= max(longest, min(asked, 600.0)) + 1e-9

    def start(self, last_resort: bool) -> None:
        answer = admit(self.health, self.now, in_flight=len(self.flying), last_resort=last_resort)
        if answer.refused:
            return
        trial, seen = answer.verdict is Admit.TRIAL, observe(self.health, self.now)
        assert trial or seen.state in (State.HEALTHY, State.DEGRADED, State.RAMPING), "I3"
        assert not seen.gated(self.now), "I15"
        self.go(Began(trial))
        self.flying.append((self.health.epoch, trial))

    def do(self, command: tuple[Any, ...]) -> None:
        match command:
            case ("start", last_resort):
                self.start(last_resort)
            case ("end", index, outcome, latency) if self.flying:
                epoch, trial = self.flying.pop(index % len(self.flying))
                self.go(Finished(outcome, epoch, trial=trial, latency=latency))
            case ("first", index) if self.flying:
                epoch, trial = self.flying[index % len(self.flying)]
                self.flying[index % len(self.flying)] = epoch, False
                self.go(Answering(epoch, trial=trial, latency=1.0))
            case ("lose", index) if self.flying:
                self.flying.pop(index % len(self.flying))
            case ("probe", outcome):
                self.go(ProbeFinished(outcome))
            case ("wait", seconds):
                self.now += seconds
            case ("say", event):
                self.go(event)

    def check(self) -> None:
        """I4: the permit is out exactly as long as its trial, and never longer than a minute."""
        seen = observe(self.health, self.now)
        trials = [trial for epoch, trial in self.flying if trial and epoch == seen.epoch]
        assert len(trials) <= 1
        assert seen.trial or not trials
        assert not seen.trial or seen.state is State.HALF_OPEN
        assert not observe(self.health, self.now + 60.0).trial
        json.dumps(attrs.asdict(seen))
        hash(seen)
        why(seen, self.now)


@given(COMMANDS, st.sampled_from([Scope.LANE, Scope.ENDPOINT]), st.booleans(), st.booleans(), st.integers(0, 9))
def test_the_machine_under_any_traffic(
    commands: list[tuple[Any, ...]], scope: Scope, spare: bool, sole: bool, seed: int
) -> None:
    traffic = Traffic(scope, spare=spare, sole=sole, seed=seed)
    for command in commands:
        traffic.do(command)
        traffic.check()
    i8_somebody_can_try_within_a_minute_of_the_gate(traffic.health, traffic.now)


def i8_somebody_can_try_within_a_minute_of_the_gate(it: Health, now: float) -> None:
    """With the last resort: at once unless a trial is out, a gate is closed or the ramp is full."""
    later = max(now, it.gate_until or 0.0) + 60.0
    assert not admit(it, later, last_resort=True).refused


@given(st.lists(st.sampled_from(["ok", "fail", "timeout"]), max_size=60), st.floats(1.0, 5.0), st.integers(0, 9))
def test_i7_after_healing_traffic_brings_a_lane_back(past: list[str], gap: float, seed: int) -> None:
    """With a call every 1 to 5 s: healthy within the longest opening, the ramp and two arrivals."""
    rng, now = Random(seed), 0.0
    it = Health.new(now)

    def arrive(outcome: Outcome) -> None:
        nonlocal it
        answer = admit(it, now)
        if not answer.refused:
            trial = answer.verdict is Admit.TRIAL
            it = step(it, Began(trial), now, rng)
            it = step(it, Finished(outcome, it.epoch, trial=trial), now, rng)

    for what in past:
        now += gap
        arrive({"ok": OK, "fail": bad(), "timeout": bad(Kind.TIMEOUT_FIRST)}[what])
    healed = now
    while observe(it, now).state not in (State.HEALTHY, State.DEGRADED):
        now += gap
        arrive(OK)
        assert now - healed <= 60.0 + 30.0 + 3 * 5.0


@given(COMMANDS, st.integers(0, 9))
def test_i24_the_same_events_give_the_same_health(commands: list[tuple[Any, ...]], seed: int) -> None:
    def play() -> Health:
        rng, now, it = Random(seed), 0.0, Health.new(0.0)
        for command in commands:
            match command:
                case ("wait", seconds):
                    now += seconds
                case ("start", trial):
                    it = step(it, Began(trial), now, rng)
                case ("end", back, outcome, latency):
                    it = step(it, Finished(outcome, max(it.epoch - back, 0), trial=True, latency=latency), now, rng)
                case ("probe", outcome):
                    it = step(it, ProbeFinished(outcome), now, rng)
        return it

    assert play() == play()
