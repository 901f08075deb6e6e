"""The ward under any traffic: permits, places and tokens all come back; one trial at a time; bounded memory."""

from __future__ import annotations

from random import Random
from typing import Any

import attrs
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cortex import health, ward
from cortex.health import State
from cortex.messages import Failure, Kind, Message, Phase, Request, Text
from cortex.outcomes import classify
from cortex.protocol import Call, Picked, Refused
from cortex.routing import Lane
from cortex.ward import Running, Ward

REQUEST = Request((Message("user", (Text("hi"),)),))
LANES = [Lane("p", f"m{number}", f"m{number}") for number in range(3)]


async def _emit(event: object) -> None:
    """Nobody listens."""


def call(lane: Lane, number: int, **given: Any) -> Call:
    emit, retried = given.pop("emit", None), given.pop("retried", False)
    return Call(REQUEST, Picked(lane, None, number, **given), 1e9, emit=emit, retried=retried)  # type: ignore[arg-type]


class Traffic(RuleBasedStateMachine):
    """Calls come and end in any order, with any outcome, while time passes and actors crash."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.number = 0.0, 0
        self.ward = Ward.new("p", Random(1), 0.0, max_concurrency=4)
        self.inside: list[Running] = []

    @rule(
        lane=st.sampled_from(LANES),
        trial=st.booleans(),
        retried=st.booleans(),
        stream=st.booleans(),
        spares=st.integers(0, 2),
    )
    def comes(self, lane: Lane, trial: bool, retried: bool, stream: bool, spares: int) -> None:
        self.number += 1
        emit = _emit if stream else None
        asked = call(lane, self.number, trial=trial, spares=spares, sole=not spares, emit=emit, retried=retried)
        before = self.ward.in_flight
        admitted = self.ward.admit(asked, self.now)
        if isinstance(admitted, Refused):
            assert admitted.reason
            assert self.ward.in_flight == before
        else:
            self.inside.append(admitted)
        assert self.ward.seen == self.number

    @precondition(lambda self: self.inside)
    @rule(data=st.data(), kind=st.none() | st.sampled_from(list(Kind)), phase=st.sampled_from(list(Phase)))
    def ends(self, data: st.DataObject, kind: Kind | None, phase: Phase) -> None:
        running = self.inside.pop(data.draw(st.integers(0, len(self.inside) - 1)))
        if running.call.emit is not None and data.draw(st.booleans()):
            self.ward.first_token(running, self.now)
        running.fair = data.draw(st.booleans())
        failure = None if kind is None else Failure(kind, "words", phase=phase, reused=data.draw(st.booleans()))
        self.ward.settle(running, classify(failure), failure, self.now)

    @rule(seconds=st.sampled_from([0.0, 0.5, 5.0, 31.0, 61.0, 700.0]))
    def passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(event=st.sampled_from([health.Recheck(), health.Switched(False), health.Switched(True)]))
    def told(self, event: health.Event) -> None:
        self.ward.tell(event, self.now)

    @rule()
    def probed(self) -> None:
        due = self.ward.probe_due(self.now)
        if due is not None:
            self.now = max(self.now, due)
            self.ward.rechecked(health.ProbeFinished(classify(None)), self.now)

    @rule()
    def crashes(self) -> None:
        """Its calls die with it, its health does not."""
        kept = self.ward.snapshot()
        self.inside.clear()
        self.ward = Ward.new("p", Random(1), self.now, max_concurrency=4)
        self.ward.take_up(kept, self.now)
        for lane, state in kept.lanes.items():
            if state.health.state in (State.OPEN, State.DISABLED):
                assert self.ward.lanes[lane].health.state is not State.HEALTHY

    @invariant()
    def places_add_up(self) -> None:
        assert self.ward.in_flight == len(self.inside)
        for lane, state in self.ward.lanes.items():
            assert state.in_flight == sum(one.lane == lane for one in self.inside) <= 4

    @invariant()
    def one_trial_at_a_time(self) -> None:
        """I3, I4: a permit is out only while its call is inside, or until its lease of a minute ends."""
        current = {lane: state.health for lane, state in self.ward.lanes.items()}
        for lane, one in current.items():
            holders = [
                each for each in self.inside if each.lane == lane and each.trial and each.lane_epoch == one.epoch
            ]
            if one.state is State.HALF_OPEN:
                assert len([each for each in holders if not each.told]) <= 1
                assert one.trial <= (len(holders) == 1)

    @invariant()
    def tokens_add_up(self) -> None:
        """I26."""
        assert 0 <= self.ward.budget.level <= 100
        assert self.ward.budget.out >= 0

    @invariant()
    def a_snapshot_is_whole(self) -> None:
        snapshot = self.ward.snapshot()
        assert (snapshot.in_flight, snapshot.seen) == (self.ward.in_flight, self.ward.seen)
        assert snapshot.lanes == self.ward.lanes
        assert snapshot.lanes is not self.ward.lanes


TestTraffic = Traffic.TestCase


def test_i28_the_oldest_idle_lane_leaves_first_and_a_busy_one_never() -> None:
    state = Ward.new("p", Random(1), 0.0)
    busy = state.admit(call(LANES[0], 1), 0.0)
    assert isinstance(busy, Running)
    for number in range(ward.MAX_LANES + 50):
        running = state.admit(call(Lane("p", f"x{number}", "x"), number + 2), 0.0)
        assert isinstance(running, Running)
        state.settle(running, classify(None), None, 0.0)
    assert len(state.lanes) == ward.MAX_LANES
    assert LANES[0] in state.lanes
    assert Lane("p", "x0", "x") not in state.lanes


def test_one_trial_at_a_time_of_the_endpoint_and_its_lanes_together() -> None:
    """Another lane, itself on trial, is no second way in while the endpoint's trial is out."""
    state = Ward.new("p", Random(1), 0.0)
    for lane in LANES[:2]:
        running = state.admit(call(lane, 1), 0.0)
        assert isinstance(running, Running)
        state.settle(running, classify(None), None, 0.0)
    state.tell(health.Switched(False), 1.0)
    state.tell(health.Switched(True), 1.0)
    assert isinstance(state.admit(call(LANES[0], 2), 1.0), Running)
    assert isinstance(state.admit(call(LANES[1], 3), 1.0), Refused)


def test_a_silence_that_was_too_short_teaches_nothing() -> None:
    for fair, opens in ((False, False), (True, True)):
        state = Ward.new("p", Random(1), 0.0)
        for number in range(3):
            running = state.admit(call(LANES[0], number, spares=1), 0.0)
            if isinstance(running, Refused):
                break
            running.fair = fair
            late = Failure(Kind.TIMEOUT_FIRST, "silence", phase=Phase.SENT)
            state.settle(running, classify(late), late, 0.0)
        assert (state.lanes[LANES[0]].health.state is State.OPEN) is opens


def test_a_failed_probe_of_nothing_due_changes_nothing() -> None:
    state = Ward.new("p", Random(1), 0.0)
    running = state.admit(call(LANES[0], 1), 0.0)
    assert isinstance(running, Running)
    wrong = Failure(Kind.CREDENTIAL, "no", status=401)
    state.settle(running, classify(wrong), wrong, 0.0)
    before = attrs.evolve(state.endpoint)
    assert state.probe_due(0.0) == before.until
    state.rechecked(health.Recheck(), 1.0)
    assert state.endpoint == before
