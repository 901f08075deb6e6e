from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.messages import Failure, Kind, Phase
from cortex.outcomes import (
    Cls,
    Outcome,
    Replay,
    Scope,
    classify,
    free_retry,
    most_actionable,
    same_lane_delay,
)


def fail(kind: Kind, **more: Any) -> Failure:
    return Failure(kind, "words", **more)


# kind: class, scope, may be asked again, another may be asked, weight
TABLE = {
    Kind.TRANSIENT: (Cls.TRANSIENT, Scope.LANE, True, True, 1),
    Kind.OVERLOADED: (Cls.OVERLOAD, Scope.LANE, True, True, 1),
    Kind.RATE_LIMIT: (Cls.RATE, Scope.LANE, True, True, 1),
    Kind.QUOTA: (Cls.BILLING, Scope.ENDPOINT, False, True, 1),
    Kind.CREDENTIAL: (Cls.AUTH, Scope.ENDPOINT, False, True, 1),
    Kind.PERMISSION: (Cls.AUTH, Scope.LANE, False, True, 1),
    Kind.REGION: (Cls.AUTH, Scope.ENDPOINT, False, True, 1),
    Kind.MODEL_GONE: (Cls.CONFIG, Scope.LANE, False, True, 1),
    Kind.ROUTE_GONE: (Cls.CONFIG, Scope.LANE, False, True, 1),
    Kind.NOT_API: (Cls.CONFIG, Scope.LANE, False, True, 1),
    Kind.CERTIFICATE: (Cls.CONFIG, Scope.ENDPOINT, False, True, 1),
    Kind.CONTEXT: (Cls.CALLER, Scope.NONE, False, True, 1),
    Kind.TOO_LARGE: (Cls.CALLER, Scope.NONE, False, True, 1),
    Kind.CONTENT: (Cls.CALLER, Scope.NONE, False, False, 1),
    Kind.BAD_REQUEST: (Cls.CALLER, Scope.NONE, False, False, 1),
    Kind.SIGNATURE: (Cls.CALLER, Scope.NONE, False, True, 1),
    Kind.CONFLICT: (Cls.TRANSIENT, Scope.LANE, True, True, 1),
    Kind.CONNECT: (Cls.TRANSIENT, Scope.ENDPOINT, True, True, 1),
    Kind.TIMEOUT_CONNECT: (Cls.TRANSIENT, Scope.ENDPOINT, True, True, 2),
    Kind.TIMEOUT_FIRST: (Cls.TRANSIENT, Scope.LANE, True, True, 2),
    Kind.TIMEOUT_GAP: (Cls.TRANSIENT, Scope.LANE, True, True, 2),
    Kind.CUT: (Cls.TRANSIENT, Scope.LANE, True, True, 1),
    Kind.PROTOCOL: (Cls.TRANSIENT, Scope.LANE, True, True, 1),
    Kind.LOCAL: (Cls.LOCAL, Scope.NONE, True, True, 1),
    Kind.CANCELLED: (Cls.CANCELLED, Scope.NONE, False, False, 1),
}


@pytest.mark.parametrize("kind", Kind)
def test_the_table(kind: Kind) -> None:
    outcome = classify(fail(kind))
    assert (outcome.cls, outcome.scope, outcome.retry_same, outcome.failover, outcome.weight) == TABLE[kind]
    assert outcome.kind is kind
    assert outcome.needs_larger_window is (kind in (Kind.CONTEXT, Kind.TOO_LARGE))


def test_success() -> None:
    outcome = classify(None)
    assert outcome.ok
    assert outcome.cls is Cls.OK
    assert not outcome.retry_same
    assert not outcome.failover


FAILURES = st.builds(
    Failure,
    kind=st.one_of(st.sampled_from(Kind), st.text(max_size=3)),
    message=st.text(max_size=3),
    status=st.none() | st.integers(-1, 1000),
    code=st.none() | st.text(max_size=3),
    retry_after=st.none() | st.floats(),
    should_retry=st.none() | st.booleans(),
    phase=st.sampled_from(Phase),
    reused=st.booleans(),
)


@given(FAILURES, st.booleans(), st.booleans())
def test_i20_classify_is_total_and_deterministic(failure: Failure, committed: bool, stateful: bool) -> None:
    outcome = classify(failure, committed=committed, stateful=stateful)
    assert outcome == classify(failure, committed=committed, stateful=stateful)
    assert not outcome.ok
    assert outcome.retry_after is None or (math.isfinite(outcome.retry_after) and outcome.retry_after >= 0)
    free_retry(failure)
    if committed:
        assert outcome.replay is Replay.COMMITTED
    if not stateful:
        assert outcome.replay is not Replay.UNSAFE


@pytest.mark.parametrize(
    ("status", "cls"),
    [(418, Cls.CALLER), (499, Cls.CALLER), (599, Cls.TRANSIENT), (700, Cls.TRANSIENT), (None, Cls.TRANSIENT)],
)
def test_a_kind_nobody_knows_is_judged_by_its_status(status: int | None, cls: Cls) -> None:
    assert classify(fail("new-kind", status=status)).cls is cls  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [Kind.TRANSIENT, Kind.CUT, Kind.PROTOCOL, Kind.CONNECT])
def test_what_fails_before_it_is_sent_is_the_endpoints_fault(kind: Kind) -> None:
    assert classify(fail(kind, phase=Phase.NOT_SENT)).scope is Scope.ENDPOINT


@pytest.mark.parametrize("kind", [Kind.LOCAL, Kind.CANCELLED, Kind.BAD_REQUEST])
def test_what_is_not_theirs_stays_nobodys_in_every_phase(kind: Kind) -> None:
    assert {classify(fail(kind, phase=phase)).scope for phase in Phase} == {Scope.NONE}


# ------------------------------------------------------------------------------------------------ the server's own word


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("word", [True, False])
def test_should_retry_overrides_except_for_key_and_account(kind: Kind, word: bool) -> None:
    without, told = classify(fail(kind)), classify(fail(kind, should_retry=word))
    fixed = without.cls in (Cls.AUTH, Cls.BILLING, Cls.LOCAL, Cls.CANCELLED)
    assert told.retry_same is (without.retry_same if fixed else word)
    assert told.failover is without.failover


# --------------------------------------------------------------------------------------------------------------- replay


@pytest.mark.parametrize(
    ("phase", "stateful", "replay"),
    [
        (Phase.NOT_SENT, False, Replay.SAFE),
        (Phase.NOT_SENT, True, Replay.SAFE),
        (Phase.SENT, False, Replay.REPLAYABLE),
        (Phase.SENT, True, Replay.UNSAFE),
        (Phase.HEADERS, True, Replay.UNSAFE),
        (Phase.STREAM, False, Replay.REPLAYABLE),
        (Phase.STREAM, True, Replay.UNSAFE),
        (Phase.DONE, True, Replay.UNSAFE),
    ],
)
def test_replay_by_phase(phase: Phase, stateful: bool, replay: Replay) -> None:
    outcome = classify(fail(Kind.TRANSIENT, phase=phase, status=500), stateful=stateful)
    assert outcome.replay is replay
    assert outcome.repeatable is (replay is not Replay.UNSAFE)
    assert classify(fail(Kind.TRANSIENT, phase=phase), committed=True, stateful=stateful).replay is Replay.COMMITTED


@pytest.mark.parametrize(("kind", "status"), [(Kind.RATE_LIMIT, 429), (Kind.OVERLOADED, 529), (Kind.CREDENTIAL, 401)])
def test_a_request_turned_away_at_the_door_had_no_effects(kind: Kind, status: int) -> None:
    assert classify(fail(kind, status=status), stateful=True).replay is Replay.REPLAYABLE
    assert classify(fail(kind, status=200, phase=Phase.STREAM), stateful=True).replay is Replay.UNSAFE


# --------------------------------------------------------------------------------------------------------------- delays


class Dice:
    def __init__(self, value: float) -> None:
        self.value = value

    def random(self) -> float:
        return self.value


@pytest.mark.parametrize(
    ("kind", "nth", "longest"),
    [
        (Kind.TRANSIENT, 1, 0.25),
        (Kind.TRANSIENT, 2, 0.5),
        (Kind.TRANSIENT, 6, 8.0),
        (Kind.TRANSIENT, 100_000, 8.0),
        (Kind.RATE_LIMIT, 1, 1.0),
        (Kind.OVERLOADED, 4, 8.0),
        (Kind.OVERLOADED, 9, 20.0),
    ],
)
def test_same_lane_delay_is_full_jitter(kind: Kind, nth: int, longest: float) -> None:
    outcome = classify(fail(kind))
    assert same_lane_delay(outcome, nth, Dice(0.0)) == 0.0
    assert same_lane_delay(outcome, nth, Dice(1.0)) == longest


@given(st.floats(0, 1e6), st.integers(-5, 50), st.integers())
def test_i15_a_same_lane_wait_is_never_shorter_than_asked(after: float, nth: int, seed: int) -> None:
    outcome = classify(fail(Kind.RATE_LIMIT, retry_after=after))
    delay = same_lane_delay(outcome, nth, Random(seed))
    assert after <= delay <= after + min(1.0, 0.1 * after)


# --------------------------------------------------------------------------------------------------------- free retries


@pytest.mark.parametrize(
    ("failure", "free"),
    [
        (fail(Kind.CONNECT, phase=Phase.NOT_SENT), True),
        (fail(Kind.TRANSIENT, phase=Phase.NOT_SENT), True),
        (fail(Kind.TIMEOUT_CONNECT, phase=Phase.NOT_SENT), False),
        (fail(Kind.CERTIFICATE, phase=Phase.NOT_SENT), False),
        (fail(Kind.CANCELLED, phase=Phase.NOT_SENT), False),
        (fail(Kind.CUT, phase=Phase.SENT, reused=True), True),
        (fail(Kind.CUT, phase=Phase.SENT, reused=False), False),
        (fail(Kind.TRANSIENT, phase=Phase.HEADERS, reused=True, status=500), False),
        (fail(Kind.TIMEOUT_FIRST, phase=Phase.SENT, reused=True), False),
    ],
)
def test_free_retry(failure: Failure, free: bool) -> None:
    assert free_retry(failure) is free


# ----------------------------------------------------------------------------------------------------------- exhaustion


@pytest.mark.parametrize(
    ("kinds", "index"),
    [
        ([Kind.TRANSIENT], 0),
        ([Kind.TRANSIENT, Kind.CREDENTIAL], 1),
        ([Kind.RATE_LIMIT, Kind.QUOTA], 1),
        ([Kind.CREDENTIAL, Kind.QUOTA], 0),
        ([Kind.BAD_REQUEST, Kind.RATE_LIMIT], 0),
        ([Kind.TRANSIENT, Kind.RATE_LIMIT], 1),
        ([Kind.TRANSIENT, Kind.TIMEOUT_FIRST], 0),
        ([Kind.TRANSIENT, Kind.BAD_REQUEST], 0),  # what a fallback dislikes hides nothing
        ([Kind.CANCELLED, Kind.LOCAL], 1),
        ([Kind.OVERLOADED, Kind.MODEL_GONE], 1),
    ],
)
def test_most_actionable(kinds: list[Kind], index: int) -> None:
    assert most_actionable([fail(kind) for kind in kinds]) == index


def test_most_actionable_of_rate_limits_is_the_one_that_ends_first() -> None:
    limits = [fail(Kind.RATE_LIMIT), fail(Kind.RATE_LIMIT, retry_after=30.0), fail(Kind.RATE_LIMIT, retry_after=2.0)]
    assert most_actionable(limits) == 2


def test_most_actionable_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="empty"):
        most_actionable([])


def test_an_outcome_is_a_value() -> None:
    assert isinstance(hash(classify(fail(Kind.QUOTA))), int)
    assert isinstance(classify(None), Outcome)
