"""The supervisor's decisions, alone: no trio, no tasks."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import restart as r
from actors.errors import Crashed, Exit, GaveUp, Killed, Normal, Shutdown, StartFailed
from actors.restart import Phase, Restart, State, step

RNG = Random(0)
CRASH = Crashed(ValueError(), "handler")
EXITS: list[Exit] = [Normal(), Shutdown(), Killed(), CRASH, StartFailed(ValueError()), GaveUp(CRASH)]


def play(state: State, *events: r.Event, now: float = 0.0) -> tuple[State, list[r.Action]]:
    actions: list[r.Action] = []
    for event in events:
        state, more = step(state, event, now, Random(0))
        actions += more
    return state, actions


def running(*uids: int, kind: Any = "permanent", policy: Restart | None = None, shutdown: float = 5.0) -> State:
    state = State()
    for uid in uids:
        state, _ = play(state, r.Add(uid, kind, policy or Restart(), shutdown), r.Started(uid, 1))
    return state


RESTARTED = {
    "permanent": {Normal, Shutdown, Killed, Crashed, StartFailed, GaveUp},
    "transient": {Killed, Crashed, StartFailed, GaveUp},
    "temporary": set(),
}


@pytest.mark.parametrize("kind", RESTARTED)
@pytest.mark.parametrize("ended", EXITS, ids=lambda ended: type(ended).__name__)
def test_who_is_restarted(kind: str, ended: Exit) -> None:
    state, actions = play(running(1, kind=kind), r.Ended(1, 1, ended))
    if type(ended) in RESTARTED[kind]:
        assert [type(action) for action in actions] == [r.Backoff]
        assert state.children[1].phase is Phase.BACKOFF
    else:
        assert actions == [r.Settle(1, ended)]
        assert not state.children


def test_first_start_that_fails_is_not_charged() -> None:
    state, actions = play(State(), r.Add(1, "permanent", Restart(), 5), r.Ended(1, 1, StartFailed(ValueError())))
    assert [type(action) for action in actions] == [r.Start, r.Settle]
    assert not state.children


Policies = st.builds(
    Restart,
    max_restarts=st.integers(0, 12),
    base=st.floats(0, 1e6),
    factor=st.floats(1, 1000),
    cap=st.floats(0, 1e6),
    jitter=st.floats(0, 1),
    stable_after=st.floats(1e-3, 1e6),
    on_exhausted=st.sampled_from(["escalate", "stop"]),
)


@given(policy=Policies, in_start=st.booleans(), seed=st.integers(0, 1000))
def test_an_always_crashing_child_is_given_up_after_exactly_max_restarts(
    policy: Restart, in_start: bool, seed: int
) -> None:
    rng, now, starts, bound = Random(seed), 0.0, 0, 0.0
    state = running(1, policy=policy)
    state, actions = step(state, r.Ended(1, 1, CRASH), now, rng)
    while actions and isinstance(actions[0], r.Backoff):
        bound += policy.delay(actions[0].k, 0)
        now = state.due
        state, begun = step(state, r.Tick(), now, rng)
        assert begun == [r.Start(1, starts + 2)]
        starts += 1
        if not in_start:
            state, _ = step(state, r.Started(1, starts + 1), now, rng)
        state, actions = step(state, r.Ended(1, starts + 1, CRASH), now, rng)
    assert starts == policy.max_restarts
    assert now <= bound * (1 + 1e-9)
    if policy.on_exhausted == "stop":
        assert actions == [r.Settle(1, GaveUp(CRASH))]
    else:
        assert actions == [r.Park(1, GaveUp(CRASH)), r.Finish(GaveUp(CRASH))]


def test_no_escalation_while_every_life_is_stable() -> None:
    state, now = running(1, policy=Restart(max_restarts=1, stable_after=10)), 0.0
    for generation in range(1, 10_001):
        now += 10.5
        state, actions = step(state, r.Ended(1, generation, CRASH), now, RNG)
        assert isinstance(actions[0], r.Backoff)
        assert actions[0].k == 1
        now = state.due
        state, _ = step(state, r.Tick(), now, RNG)
        state, _ = step(state, r.Started(1, generation + 1), now, RNG)


def test_no_limit_never_gives_up() -> None:
    state = running(1, policy=Restart(max_restarts=None, cap=1))
    for generation in range(1, 2000):
        state, actions = play(state, r.Ended(1, generation, CRASH), r.Again(1), now=float(generation))
        assert [type(action) for action in actions] == [r.Backoff, r.Start]


@given(policy=Policies, k=st.integers(1, 10**6), u=st.floats(0, 1, exclude_max=True))
def test_delay(policy: Restart, k: int, u: float) -> None:
    envelope = policy.delay(k, 0)
    assert 0 <= policy.delay(k, u) <= policy.cap
    assert policy.delay(k, u) >= envelope * (1 - policy.jitter) * (1 - 1e-9)
    assert envelope <= policy.delay(k + 1, 0)
    assert math.isfinite(envelope)


def test_delays_by_the_book() -> None:
    policy = Restart(base=0.1, factor=2, cap=1, jitter=0.5)
    assert [policy.delay(k, 0) for k in (1, 2, 3, 4, 5, 2000)] == [0.1, 0.2, 0.4, 0.8, 1, 1]
    assert policy.delay(5, 0.5) == 0.75


@pytest.mark.parametrize(
    "field", [{"max_restarts": -1}, {"factor": 0.5}, {"factor": 1e9}, {"jitter": 2}, {"base": -1}, {"cap": math.nan}]
)
def test_faulty_policies_name_the_field(field: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(field))):
        Restart(**field)


def test_fatal_is_given_up_at_once() -> None:
    policy = Restart(fatal=(KeyError,), on_exhausted="stop")
    ended = Crashed(KeyError(), "handler")
    assert play(running(1, policy=policy), r.Ended(1, 1, ended))[1] == [r.Settle(1, GaveUp(ended))]


@given(phase=st.sampled_from(["starting", "running", "backoff", "stopping", "parked"]), old=st.integers(0, 2))
def test_stale_events_change_nothing(phase: str, old: int) -> None:
    state = in_phase(phase)
    for event in (r.Started(1, old), r.Ended(1, old, CRASH), r.Ended(99, 3, CRASH), r.Started(99, 1), r.Stop(99)):
        assert step(state, event, 0.5, RNG) == (state, [])


def in_phase(phase: str) -> State:
    """A child in its third generation."""
    state, _ = play(running(1), r.Ended(1, 1, CRASH), r.Again(1), r.Ended(1, 2, CRASH), r.Again(1))
    more: dict[str, list[r.Event]] = {
        "starting": [],
        "running": [r.Started(1, 3)],
        "backoff": [r.Ended(1, 3, CRASH)],
        "stopping": [r.Started(1, 3), r.Stop(1)],
        "parked": [r.Started(1, 3), r.Halt(Shutdown(), False), r.Ended(1, 3, Shutdown())],
    }
    return play(state, *more[phase])[0]


COMMANDS = {
    ("starting", r.Again): [],
    ("running", r.Again): [r.Order(1, False)],
    ("backoff", r.Again): [r.Start(1, 4)],
    ("stopping", r.Again): [],
    ("parked", r.Again): [],
    ("starting", r.Stop): [r.Order(1, True)],
    ("running", r.Stop): [r.Order(1, True)],
    ("backoff", r.Stop): [r.Settle(1, Shutdown())],
    ("stopping", r.Stop): [],
    ("parked", r.Stop): [r.Settle(1, Shutdown()), r.Finish(Shutdown())],
}


@pytest.mark.parametrize(("phase", "command"), COMMANDS)
def test_commands_in_every_phase_and_twice(phase: str, command: Any) -> None:
    state, actions = play(in_phase(phase), command(1))
    assert actions == COMMANDS[phase, command]
    assert play(state, command(1))[1] == []


def test_restart_of_a_running_child_is_not_charged() -> None:
    _, actions = play(running(1), r.Again(1), r.Ended(1, 1, Shutdown()))
    assert actions == [r.Order(1, False), r.Backoff(1, Shutdown(), 0, 0.0), r.Start(1, 2)]
    _, actions = play(running(1), r.Again(1), r.Stop(1), r.Ended(1, 1, Shutdown()))
    assert actions == [r.Order(1, False), r.Order(1, True), r.Settle(1, Shutdown())]


def test_a_child_that_does_not_stop_is_killed_once() -> None:
    state, _ = play(running(1, shutdown=2), r.Stop(1), now=10)
    assert state.due == 12
    state, actions = play(state, r.Tick(), now=12)
    assert actions == [r.Kill(1)]
    assert state.due == math.inf
    assert play(state, r.Tick(), now=13)[1] == []


def test_halt_stops_in_reverse_one_at_a_time() -> None:
    state, actions = play(running(1, 2, 3), r.Halt(Shutdown(), True))
    assert actions == [r.Order(3, True)]
    state, actions = play(state, r.Ended(3, 1, Shutdown()))
    assert actions == [r.Settle(3, Shutdown()), r.Order(2, True)]
    state, actions = play(state, r.Ended(1, 1, CRASH))  # crashes while it waits for its turn: not restarted
    assert actions == [r.Settle(1, CRASH)]
    state, actions = play(state, r.Ended(2, 1, Killed()))
    assert actions == [r.Settle(2, Killed()), r.Finish(Shutdown())]


def test_escalation_parks_and_resume_restarts_all_with_clean_counts() -> None:
    policy = Restart(max_restarts=1)
    state, _ = play(running(1, 2, 3, policy=policy), r.Ended(2, 1, CRASH), r.Again(2), r.Started(2, 2))
    assert state.children[2].failures == 1
    state, actions = play(state, r.Ended(2, 2, CRASH))
    assert actions == [r.Park(2, GaveUp(CRASH)), r.Order(3, False)]
    assert play(state, r.Again(1))[1] == []  # no restarts while the supervisor stops
    state, actions = play(state, r.Ended(3, 1, Shutdown()), r.Ended(1, 1, Shutdown()))
    assert actions == [r.Park(3, Shutdown()), r.Order(1, False), r.Park(1, Shutdown()), r.Finish(GaveUp(CRASH))]
    state, actions = play(state, r.Resume())
    assert actions == [r.Start(1, 2), r.Start(2, 3), r.Start(3, 2)]
    assert [child.failures for child in state.children.values()] == [0, 0, 0]


def test_temporary_children_do_not_come_back() -> None:
    state = running(1, kind="temporary")
    state, actions = play(state, r.Halt(Shutdown(), False), r.Ended(1, 1, Shutdown()))
    assert actions == [r.Order(1, True), r.Settle(1, Shutdown()), r.Finish(Shutdown())]


def test_a_final_halt_overrules_a_restart_on_its_way() -> None:
    state, _ = play(running(1, 2), r.Again(1))
    state, actions = play(state, r.Halt(Shutdown(), True))
    assert actions == [r.Order(1, True), r.Order(2, True)]
    state, actions = play(state, r.Ended(1, 1, Shutdown()), r.Ended(2, 1, Shutdown()))
    assert actions == [r.Settle(1, Shutdown()), r.Settle(2, Shutdown()), r.Finish(Shutdown())]


def test_abort_kills_all_and_ends_what_waits() -> None:
    state, _ = play(running(1, 2, 3), r.Ended(2, 1, CRASH))
    state, actions = play(state, r.Halt(Shutdown(), True), r.Abort())
    assert actions == [r.Order(3, True), r.Kill(3), r.Kill(1)]
    state, actions = play(state, r.Ended(3, 1, Killed()), r.Ended(1, 1, Killed()))
    assert actions[-1] == r.Finish(Shutdown())
    assert {action.uid for action in actions if isinstance(action, r.Settle)} == {1, 2, 3}
