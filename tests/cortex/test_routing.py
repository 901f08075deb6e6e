from __future__ import annotations

import math
from collections.abc import Mapping
from random import Random
from typing import Any

import attrs
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cortex.health import Cause, Health, Latency, State
from cortex.routing import (
    Caps,
    Choice,
    Lane,
    LaneView,
    Needs,
    NoneLeft,
    Pick,
    Ranked,
    Resorts,
    Verdict,
    Wait,
    choose,
    rank,
)

NOW = 1000.0
A, B, C = (Lane(name, "m", "m") for name in "abc")
OTHER = Lane("a", "other", "other")


def health(state: State = State.HEALTHY, **more: Any) -> Health:
    it = attrs.evolve(Health.new(NOW), state=state)
    if state in (State.OPEN, State.DISABLED):
        more.setdefault("until", NOW + 30.0)
    return attrs.evolve(it, **more)


def view(lane: Lane, of: State | Health = State.HEALTHY, **more: Any) -> LaneView:
    return LaneView(lane, of if isinstance(of, Health) else health(of), **more)


def latency(seconds: float) -> Health:
    return health(answer=Latency().add(seconds, NOW))


def ask(
    *views: LaneView,
    tiers: tuple[tuple[Lane, ...], ...] | None = None,
    tried: Mapping[Lane, int] | None = None,
    seed: int = 1,
    **needs: Any,
) -> tuple[Ranked, ...]:
    """The ranking of these lanes; without `tiers` each is a tier of its own."""
    chain = tiers if tiers is not None else tuple((one.lane,) for one in views)
    return rank(Needs(chain, **needs), {one.lane: one for one in views}, tried or {}, NOW, Random(seed))


def verdicts(ranked: tuple[Ranked, ...]) -> list[tuple[Lane, str]]:
    return [(one.lane, one.verdict.value) for one in ranked]


# ------------------------------------------------------------------------------------------------------------- ordering


def test_tiers_come_in_the_order_of_the_chain_whatever_the_latency() -> None:
    ranked = ask(view(A, latency(9.0)), view(B, latency(0.1)))
    assert verdicts(ranked) == [(A, "ready"), (B, "ready")]
    assert choose(ranked, NOW) == Pick(A)


def test_within_a_tier_the_cheapest_wins() -> None:
    tier = ((A, B, C),)
    assert choose(ask(view(A, latency(2.0)), view(B, latency(0.5)), view(C, latency(1.0)), tiers=tier), NOW) == Pick(B)
    busy = view(B, latency(0.5), in_flight=9)
    assert choose(ask(view(A, latency(2.0)), busy, view(C, latency(1.0)), tiers=tier), NOW) == Pick(C)


def test_equals_share() -> None:
    first = [choose(ask(view(A), view(B), tiers=((A, B),), seed=seed), NOW) for seed in range(100)]
    assert 30 < first.count(Pick(A)) < 70


def test_a_degraded_lane_stands_one_tier_later_at_a_quarter() -> None:
    slow = view(A, State.DEGRADED)
    assert choose(ask(slow, view(B)), NOW) == Pick(B)
    assert choose(ask(slow, view(B, latency(5.9))), NOW) == Pick(B)
    assert choose(ask(slow, view(B, latency(6.1))), NOW) == Pick(A)
    assert choose(ask(slow, view(B, State.OPEN)), NOW) == Pick(A)
    assert choose(ask(slow), NOW) == Pick(A)


def test_a_ramping_lane_comes_back_little_by_little() -> None:
    def first(seconds: float) -> Choice:
        back = view(A, health(State.RAMPING, since=NOW - seconds, ramp_oks=5))
        return choose(ask(back, view(B, in_flight=1), tiers=((A, B),)), NOW)

    assert first(0.0) == Pick(B)
    assert first(14.9) == Pick(B)
    assert first(15.1) == Pick(A)


def test_a_trial_goes_first_within_its_tier_and_never_before_an_earlier_tier() -> None:
    half = view(B, State.HALF_OPEN)
    assert choose(ask(view(A), half, tiers=((A, B),)), NOW) == Pick(B, trial=True)
    assert choose(ask(view(A), half), NOW) == Pick(A)


def test_a_stream_is_judged_by_its_first_token() -> None:
    quick_start = health(first=Latency().add(0.1, NOW), answer=Latency().add(9.0, NOW))
    tier = ((A, B),)
    assert choose(ask(view(A, quick_start), view(B, latency(1.0)), tiers=tier, stream=True), NOW) == Pick(A)
    assert choose(ask(view(A, quick_start), view(B, latency(1.0)), tiers=tier), NOW) == Pick(B)


def test_every_lane_once_even_when_the_chain_names_it_twice() -> None:
    ranked = ask(view(A), view(B), tiers=((A, B), (B,), (A,)))
    assert sorted(str(one.lane) for one in ranked) == ["a/m", "b/m"]
    assert {one.tier for one in ranked} == {0}


# -------------------------------------------------------------------------------------------------------------- fitness


@pytest.mark.parametrize(
    ("caps", "needs", "words"),
    [
        (Caps(tools=False), {"tools": True}, "cannot do tools"),
        (Caps(images=False), {"images": True}, "cannot do images"),
        (Caps(schema=False), {"output": True}, "cannot do structured output"),
        (Caps(window=100), {"min_window": 100}, "larger than 100"),
        (Caps(window=100), {"est_tokens": 101}, "about 101 are needed"),
    ],
)
def test_a_lane_that_cannot_is_left_out_and_says_why(caps: Caps, needs: dict[str, Any], words: str) -> None:
    unfit, able = view(A, caps=caps), view(B)
    ranked = ask(unfit, able, **needs)
    assert verdicts(ranked) == [(B, "ready"), (A, "unfit")]
    assert words in ranked[1].reason
    assert verdicts(ask(unfit, able))[0] == (A, "ready")


def test_unknown_counts_as_able() -> None:
    assert choose(ask(view(A), tools=True, images=True, output=True, est_tokens=10**9, min_window=10**9), NOW) == Pick(
        A
    )


def test_an_estimate_alone_turns_nobody_away() -> None:
    small = view(A, caps=Caps(window=100))
    assert choose(ask(small, est_tokens=500), NOW) == Pick(A)
    assert isinstance(choose(ask(small, min_window=200), NOW), NoneLeft)


def test_absent_and_switched_off_lanes() -> None:
    ranked = ask(view(A, present=False), view(B, enabled=False), tiers=((A, B),))
    assert dict(verdicts(ranked)) == {A: "down", B: "off"}
    assert choose(ranked, NOW, deadline=NOW + 9.0) == Wait(NOW + 9.0, ranked[0].reason, ranked[0].lane)


def test_one_that_was_given_up_is_waited_for_only_if_it_comes_back_in_time() -> None:
    ranked = ask(view(A, present=False, back=NOW + 5.0))
    assert choose(ranked, NOW, deadline=NOW + 9.0) == Wait(NOW + 5.0, ranked[0].reason, A)
    none = choose(ranked, NOW, deadline=NOW + 4.0)
    assert isinstance(none, NoneLeft)
    assert none.retry_after == 5.0


# ---------------------------------------------------------------------------------------------------------- busy, gated


def test_a_busy_lane_is_waited_for_for_a_quarter_of_the_calls_time() -> None:
    ranked = ask(view(A, in_flight=4, limit=4), view(B))
    assert verdicts(ranked) == [(A, "busy"), (B, "ready")]
    wait = choose(ranked, NOW, since=NOW - 10.0, deadline=NOW + 70.0)
    assert wait == Wait(NOW + 10.0, "all 4 slots are taken", A)
    assert choose(ranked, NOW, since=NOW - 30.0, deadline=NOW + 70.0) == Pick(B)
    alone = ask(view(A, in_flight=4, limit=4))
    assert choose(alone, NOW, since=NOW - 60.0, deadline=NOW + 5.0) == Wait(NOW + 5.0, "all 4 slots are taken", A)


def test_the_same_model_elsewhere_is_asked_while_one_is_busy() -> None:
    busy = view(A, latency(0.1), in_flight=4, limit=4)
    assert choose(ask(busy, view(B, latency(9.0)), tiers=((A, B),)), NOW) == Pick(B)


def test_a_gated_lane_is_passed_over_and_waited_for_when_nobody_else_is_there() -> None:
    gated, longer = view(A, health(gate_until=NOW + 5.0)), view(B, health(gate_until=NOW + 9.0))
    assert choose(ask(gated, view(B)), NOW) == Pick(B)
    wait = choose(ask(longer, gated), NOW)
    assert isinstance(wait, Wait)
    assert (wait.until, wait.lane) == (NOW + 5.0, A)


def test_a_gate_that_lasts_beyond_the_deadline_is_not_waited_for() -> None:
    ranked = ask(view(A, health(gate_until=NOW + 5.0)), view(B, State.DISABLED))
    left = choose(ranked, NOW, deadline=NOW + 4.9)
    assert isinstance(left, NoneLeft)
    assert left.retry_after == 5.0
    assert dict(left.reasons)[A] == "asked for a pause, in 5.0 s"


def test_a_full_ramp_is_passed_over_then_waited_for_rather_than_asking_an_open_lane() -> None:
    full = view(A, health(State.RAMPING), in_flight=2)
    assert choose(ask(full, view(B)), NOW) == Pick(B)
    wait = choose(ask(full, view(B, State.OPEN)), NOW, deadline=NOW + 9.0)
    assert isinstance(wait, Wait)
    assert (wait.until, wait.lane) == (NOW + 9.0, A)


# -------------------------------------------------------------------------------------------------------- tried already


def test_a_tried_lane_comes_after_all_that_were_not() -> None:
    ranked = ask(view(A), view(B), tried={A: 1})
    assert verdicts(ranked) == [(B, "ready"), (A, "again")]
    assert choose(ask(view(A), view(B, State.OPEN), tried={A: 1}), NOW) == Pick(A)


def test_a_tried_lane_is_not_waited_for_while_another_is_ready() -> None:
    assert choose(ask(view(A, in_flight=1, limit=1), view(B), tried={A: 1}), NOW) == Pick(B)


def test_two_attempts_a_lane_at_most() -> None:
    ranked = ask(view(A), tried={A: 2})
    assert verdicts(ranked) == [(A, "tried")]
    assert choose(ranked, NOW) == NoneLeft(((A, "failed this call (2 attempts)"),))
    once = rank(Needs(((A,),)), {A: view(A)}, {A: 1}, NOW, Random(1), max_per_lane=1)
    assert verdicts(once) == [(A, "tried")]


def test_a_tried_lane_that_asked_for_a_pause_is_waited_for_up_to_twenty_seconds() -> None:
    wait = choose(ask(view(A, health(gate_until=NOW + 20.0)), tried={A: 1}), NOW)
    assert isinstance(wait, Wait)
    assert wait.until == NOW + 20.0
    left = choose(ask(view(A, health(gate_until=NOW + 20.1)), tried={A: 1}), NOW)
    assert isinstance(left, NoneLeft)
    assert left.retry_after == pytest.approx(20.1)


@pytest.mark.parametrize("state", [State.OPEN, State.DISABLED])
def test_a_lane_that_failed_this_call_is_no_last_resort_for_it(state: State) -> None:
    assert isinstance(choose(ask(view(A, state), tried={A: 1}), NOW), NoneLeft)


# ---------------------------------------------------------------------------------------------------------- last resort


def test_when_all_are_open_the_one_that_ends_first_is_tried() -> None:
    sooner = view(B, health(State.OPEN, until=NOW + 1.0))
    assert choose(ask(view(A, State.OPEN), sooner), NOW) == Pick(B, trial=True, resort="open")


def test_last_resorts_are_a_second_apart() -> None:
    ranked = ask(view(A, State.OPEN))
    wait = choose(ranked, NOW, resorts=Resorts(opened=NOW - 0.4))
    assert isinstance(wait, Wait)
    assert wait.until == NOW + 0.6
    assert isinstance(choose(ranked, NOW, resorts=Resorts(opened=NOW - 1.0)), Pick)


def test_one_in_flight_per_lane_even_then() -> None:
    out = view(A, health(State.HALF_OPEN, lease=NOW + 40.0))
    wait = choose(ask(out), NOW)
    assert isinstance(wait, Wait)
    assert wait.until == NOW + 40.0
    for state in (State.OPEN, State.HALF_OPEN, State.DISABLED):
        picked = view(A, state, trial_out=True)  # the provider's own word has not come in yet
        assert choose(ask(picked), NOW, deadline=NOW + 8.0) == Wait(NOW + 8.0, "a trial is out", A)


def test_a_closed_gate_holds_even_then() -> None:
    gated = view(A, health(State.OPEN, gate_until=NOW + 3.0))
    wait = choose(ask(gated), NOW)
    assert isinstance(wait, Wait)
    assert wait.until == NOW + 3.0


def test_when_all_are_disabled_one_request_every_five_seconds_is_tried() -> None:
    ranked = ask(view(A, health(State.DISABLED, until=NOW + 60.0)), view(B, health(State.DISABLED, until=NOW + 9.0)))
    assert choose(ranked, NOW) == Pick(B, trial=True, resort="disabled")
    left = choose(ranked, NOW, resorts=Resorts(disabled=NOW - 4.9))
    assert isinstance(left, NoneLeft)
    assert left.retry_after == 9.0
    assert {lane for lane, _ in left.reasons} == {A, B}
    assert isinstance(choose(ranked, NOW, resorts=Resorts(disabled=NOW - 5.0)), Pick)


def test_a_disabled_lane_behind_a_closed_gate_is_no_last_resort() -> None:
    gated = view(A, health(State.DISABLED, gate_until=NOW + 1.0))
    assert isinstance(choose(ask(gated), NOW), NoneLeft)
    later = view(B, health(State.DISABLED, until=NOW + 500.0))
    assert choose(ask(gated, later), NOW) == Pick(B, trial=True, resort="disabled")


def test_what_the_operator_switched_off_is_never_asked() -> None:
    off = view(A, health(State.DISABLED, cause=Cause.OFF, until=None))
    assert verdicts(ask(off)) == [(A, "off")]
    assert isinstance(choose(ask(off), NOW), NoneLeft)


def test_a_request_with_effects_is_a_trial_only_when_nobody_else_serves() -> None:
    half = view(A, State.HALF_OPEN)
    assert choose(ask(half, view(B), replayable=False), NOW) == Pick(B)
    assert choose(ask(half, replayable=False), NOW) == Pick(A, trial=True, resort="open")


# ----------------------------------------------------------------------------------------------------------- properties

LANES = [Lane(provider, model, model) for provider in ("a", "b", "c", "d") for model in ("m", "n")]


@st.composite
def healths(draw: st.DrawFn) -> Health:
    state = draw(st.sampled_from(State))
    lease = draw(st.none() | st.floats(NOW + 0.1, NOW + 60.0)) if state is State.HALF_OPEN else None
    it = health(state, lease=lease, ramp_oks=draw(st.integers(0, 5)), since=NOW - draw(st.floats(0, 29.0)))
    if state is State.OPEN:
        it = attrs.evolve(it, until=NOW + draw(st.floats(0.1, 60.0)))
    if state is State.DISABLED:
        it = attrs.evolve(it, cause=draw(st.sampled_from([Cause.AUTH, Cause.OFF])))
    peak = draw(st.none() | st.floats(0.01, 100.0))
    return attrs.evolve(
        it,
        gate_until=draw(st.none() | st.floats(NOW - 5.0, NOW + 30.0)),
        answer=Latency() if peak is None else Latency().add(peak, NOW),
    )


@st.composite
def views_of(draw: st.DrawFn, lanes: list[Lane]) -> dict[Lane, LaneView]:
    able = st.none() | st.booleans()
    return {
        lane: LaneView(
            lane,
            draw(healths()),
            in_flight=draw(st.integers(0, 6)),
            limit=draw(st.none() | st.integers(1, 6)),
            trial_out=draw(st.booleans()),
            present=draw(st.integers(0, 9)) > 0,
            back=draw(st.none() | st.floats(NOW, NOW + 200.0)),
            enabled=draw(st.integers(0, 9)) > 0,
            caps=Caps(draw(able), draw(able), draw(able), draw(st.none() | st.integers(1, 1000))),
        )
        for lane in lanes
    }


@st.composite
def situations(draw: st.DrawFn) -> tuple[Needs, dict[Lane, LaneView], dict[Lane, int]]:
    lanes = draw(st.lists(st.sampled_from(LANES), max_size=6, unique=True))
    tiers: list[tuple[Lane, ...]] = []
    rest = lanes
    while rest:
        size = draw(st.integers(1, len(rest)))
        tiers.append(tuple(rest[:size]))
        rest = rest[size:]
    needs = Needs(
        tuple(tiers),
        tools=draw(st.booleans()),
        images=draw(st.booleans()),
        output=draw(st.booleans()),
        est_tokens=draw(st.sampled_from([0, 0, 500])),
        min_window=draw(st.sampled_from([None, None, 300])),
        replayable=draw(st.booleans()),
    )
    tried = {lane: draw(st.integers(0, 2)) for lane in lanes}
    return needs, draw(views_of(lanes)), tried


SITUATION = situations()
RESORTS = st.builds(Resorts, st.floats(NOW - 9.0, NOW), st.floats(NOW - 9.0, NOW))


@given(SITUATION, RESORTS, st.floats(0, 100), st.floats(0, 100), st.integers(0, 9))
def test_i3_i22_what_is_picked_may_be_asked(
    situation: tuple[Needs, dict[Lane, LaneView], dict[Lane, int]],
    resorts: Resorts,
    waited: float,
    left: float,
    seed: int,
) -> None:
    needs, views, tried = situation
    ranked = rank(needs, views, tried, NOW, Random(seed))
    assert {one.lane for one in ranked} == {lane for tier in needs.tiers for lane in tier}
    assert len(ranked) == len({one.lane for one in ranked})
    assert all(one.reason for one in ranked)
    deadline = NOW + left
    choice = choose(ranked, NOW, resorts=resorts, since=NOW - waited, deadline=deadline)
    if isinstance(choice, Wait):
        assert NOW <= choice.until <= deadline
        return
    if isinstance(choice, NoneLeft):
        assert [lane for lane, _ in choice.reasons] == [one.lane for one in ranked]
        assert choice.retry_after is None or choice.retry_after > 0
        return
    it = views[choice.lane]
    assert it.present
    assert it.enabled
    assert tried[choice.lane] < 2
    assert not it.health.gated(NOW), "I15"
    assert it.health.cause is not Cause.OFF
    for needed, able in ((needs.tools, it.caps.tools), (needs.images, it.caps.images), (needs.output, it.caps.schema)):
        assert not (needed and able is False), "I22"
    assert needs.min_window is None or it.caps.window is None or it.caps.window > needs.min_window
    trialled = it.health.state in (State.HALF_OPEN, State.OPEN, State.DISABLED)
    assert choice.trial is trialled, "I3"
    assert not (trialled and (it.health.trial or it.trial_out)), "I3"


@given(SITUATION, st.integers(0, 9))
def test_somebody_who_could_serve_is_never_slept_past(
    situation: tuple[Needs, dict[Lane, LaneView], dict[Lane, int]], seed: int
) -> None:
    """While an untried lane is ready, the call waits for nothing but a busy lane, and not for long."""
    needs, views, tried = situation
    able = Lane("able", "m", "m")
    needs = attrs.evolve(needs, tiers=(*needs.tiers, (able,)))
    views, tried = {**views, able: view(able)}, {**tried, able: 0}
    ranked = rank(needs, views, tried, NOW, Random(seed))
    patient = choose(ranked, NOW, since=NOW, deadline=NOW + 100.0)
    if isinstance(patient, Wait):
        assert {one.lane: one.verdict for one in ranked}[patient.lane] is Verdict.BUSY
        assert patient.until == NOW + 25.0
    else:
        assert isinstance(patient, Pick)
        assert tried[patient.lane] == 0
    assert isinstance(choose(ranked, NOW, since=NOW - 50.0, deadline=NOW + 50.0), Pick)


@given(SITUATION, st.permutations(["a", "b", "c", "d"]), st.integers(0, 9))
def test_i21_names_do_not_matter(
    situation: tuple[Needs, dict[Lane, LaneView], dict[Lane, int]], names: list[str], seed: int
) -> None:
    needs, views, tried = situation
    new = dict(zip("abcd", names, strict=True))

    def renamed(lane: Lane) -> Lane:
        return attrs.evolve(lane, provider=new[lane.provider])

    tiers = tuple(tuple(renamed(lane) for lane in tier) for tier in needs.tiers)
    other = rank(
        attrs.evolve(needs, tiers=tiers),
        {renamed(lane): attrs.evolve(it, lane=renamed(lane)) for lane, it in views.items()},
        {renamed(lane): count for lane, count in tried.items()},
        NOW,
        Random(seed),
    )
    ranked = rank(needs, views, tried, NOW, Random(seed))
    assert [attrs.evolve(one, lane=renamed(one.lane)) for one in ranked] == list(other)


WORSE = [State.HEALTHY, State.DEGRADED, State.OPEN, State.DISABLED]


@given(SITUATION, st.data())
def test_i21_a_lane_that_gets_worse_is_asked_no_earlier(
    situation: tuple[Needs, dict[Lane, LaneView], dict[Lane, int]], data: st.DataObject
) -> None:
    """Slower, or in a worse state: its place among the lanes never improves."""
    needs, views, tried = situation
    known = [lane for lane, it in views.items() if it.health.state in WORSE]
    assume(known)
    lane = data.draw(st.sampled_from(known))
    before = views[lane].health
    state = data.draw(st.sampled_from(WORSE[WORSE.index(before.state) :]))
    slower = before.answer.expected(NOW) + data.draw(st.floats(0, 50.0))
    after = attrs.evolve(before, answer=Latency().add(slower, NOW))
    if state is not before.state:
        after = attrs.evolve(after, state=state, until=NOW + 30.0)
    worse = {**views, lane: attrs.evolve(views[lane], health=after)}

    def place(of: dict[Lane, LaneView]) -> int:
        return [one.lane for one in rank(needs, of, tried, NOW, Random(3))].index(lane)

    assert place(worse) >= place(views)


def test_the_explanation_is_the_pick() -> None:
    is_open = health(State.OPEN, reason="failed")
    ranked = ask(view(A, is_open), view(B, in_flight=2), view(C), tiers=((A, B, C),), tried={C: 1})
    assert [(str(one.lane), one.verdict.value, one.reason) for one in ranked] == [
        ("b/m", "ready", "2 in flight"),
        ("c/m", "again", "failed this call once, may work now"),
        ("a/m", "open", "failed; next trial in 30.0 s"),
    ]
    assert choose(ranked, NOW) == Pick(ranked[0].lane)
    assert math.isinf(Resorts().opened)
