"""Who is asked next: one pure ranking behind both the pick and the explanation.

`rank` puts every lane of a call's chain in the order in which it would be asked, each with the reason; `choose` reads
that list from the top and says whom to ask, what to wait for, or why nobody is left. So `engine.explain` cannot tell
another story than the router.

The order. A tier is the lanes that serve the same model; tiers come in the chain's order, a degraded lane one tier
later. Inside a tier the lowest cost wins, cost = expected latency * (calls in flight + 1) / health; a lane on trial
goes first, or it would never come back. A busy lane is not unfit: the call waits for it, for a quarter of its time at
most. A lane this call has tried comes after all that it has not. When nobody can serve, somebody is asked all the
same, as a trial: a wrong verdict on a provider must not become an outage of ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final, TypeAlias

import attrs

from cortex.circuit import RAMP
from cortex.health import Admission, Admit, Health, State, admit, left, observe
from cortex.outcomes import RETRY_AFTER_MAX, Rng

DEGRADED_SHARE: Final = 0.25
RAMP_SHARE: Final = 0.1  # at the start of the ramp
PATIENCE: Final = 0.25  # the share of a call's time that it waits for a busy lane while a later tier is ready
PANIC_EVERY: Final = 1.0  # seconds between last resorts to open lanes, over the whole engine
DISABLED_EVERY: Final = 5.0  # ... and to disabled ones


@attrs.frozen
class Lane:
    """A model at a provider: `model` is the public name asked for, `upstream` its name at this provider."""

    provider: str
    model: str
    upstream: str

    def __str__(self) -> str:
        return f"{self.provider}/{self.model}"


@attrs.frozen
class Caps:
    """What a lane can do. None: unknown, which counts as able. `window` is in tokens."""

    tools: bool | None = None
    images: bool | None = None
    schema: bool | None = None
    window: int | None = None


@attrs.frozen
class LaneView:
    """What the router knows of a lane.

    `health` is the worse of the lane's and the endpoint's. `in_flight` counts the snapshot's calls and the picks given
    out since; `limit` is how many there may be (None: any number); `trial_out` tells that such a pick is a trial.
    `present`: the provider's actor is up; `back`: when it was given up, the time (in seconds) of its fresh start;
    `enabled`: the operator has not switched it off.
    """

    lane: Lane
    health: Health
    in_flight: int = 0
    limit: int | None = None
    trial_out: bool = False
    present: bool = True
    back: float | None = None
    enabled: bool = True
    caps: Caps = Caps()


@attrs.frozen
class Needs:
    """What a call needs: its chain in `tiers`, and what a lane must be able to do.

    `output`: structured output. `est_tokens`: an estimate of input and output together, which counts only while some
    lane fits it. `min_window`: a window that proved too small (tokens); only larger ones do. `replayable`: False for a
    request with effects at the provider, which is a trial only when nobody else serves. `stream`: judged by the first
    token.
    """

    tiers: tuple[tuple[Lane, ...], ...]
    tools: bool = False
    images: bool = False
    output: bool = False
    est_tokens: int = 0
    min_window: int | None = None
    replayable: bool = True
    stream: bool = False


class Verdict(StrEnum):
    """What a lane can do for a call now."""

    READY = "ready"
    TRIAL = "trial"  # ready, as the one trial of a half-open lane
    BUSY = "busy"  # healthy, no slot free
    AGAIN = "again"  # failed this call once, could be asked a second time
    RAMPING = "ramping"  # recovering, as many calls as it may have for now
    OPEN = "open"
    TRYING = "trying"  # half-open, its trial is out
    GATED = "gated"  # asked for a pause
    DOWN = "down"  # its actor is being restarted
    DISABLED = "disabled"
    OFF = "off"
    UNFIT = "unfit"  # cannot or may not serve this request
    TRIED = "tried"  # failed this call, not to be asked again


_GROUPS: Final = (
    (Verdict.READY, Verdict.TRIAL, Verdict.BUSY),
    (Verdict.AGAIN,),
    (Verdict.RAMPING,),
    (Verdict.OPEN,),
    (Verdict.TRYING,),
    (Verdict.GATED,),
    (Verdict.DOWN,),
    (Verdict.DISABLED,),
    (Verdict.OFF, Verdict.UNFIT, Verdict.TRIED),
)
_GROUP: Final = {verdict: place for place, group in enumerate(_GROUPS) for verdict in group}
_SECOND: Final = _GROUP[Verdict.AGAIN]
_NEVER: Final = _GROUP[Verdict.TRIED]


@attrs.frozen
class Ranked:
    """A lane's place: `until` (seconds) is when its verdict may change by itself, None: unknown.

    `trial` tells that a call sent there now, even as the last resort, would be its trial; `tier` is its place in the
    chain as given.
    """

    lane: Lane
    verdict: Verdict
    reason: str
    until: float | None
    tier: int
    trial: bool = False


# -------------------------------------------------------------------------------------------------------------- ranking


def rank(
    needs: Needs,
    views: Mapping[Lane, LaneView],
    tried: Mapping[Lane, int],
    now: float,
    rng: Rng,
    *,
    max_per_lane: int = 2,
) -> tuple[Ranked, ...]:
    """Every lane of the chain once, in the order it would be asked, with the reason. Total; `views` has each of them.

    `tried` counts this call's attempts per lane; one that must not be asked again counts `max_per_lane`.
    """
    if needs.est_tokens and not _anyone_fits(needs, views):
        needs = attrs.evolve(needs, est_tokens=0)  # an estimate alone turns nobody away
    seen: dict[Lane, int] = {}
    for tier, lanes in enumerate(needs.tiers):
        for lane in lanes:
            seen.setdefault(lane, tier)
    ranked = []
    for lane, tier in seen.items():
        view, attempts = views[lane], tried.get(lane, 0)
        entry = _judge(lane, tier, view, needs, attempts, max_per_lane, now)
        ranked.append((_place(entry, view, needs, attempts, now), rng.random(), entry))
    ranked.sort(key=lambda item: item[:2])
    return tuple(entry for _, _, entry in ranked)


def _anyone_fits(needs: Needs, views: Mapping[Lane, LaneView]) -> bool:
    lanes = (lane for tier in needs.tiers for lane in tier)
    return any(not _unfit(views[lane], needs) for lane in lanes)


def _unfit(view: LaneView, needs: Needs) -> str:
    """Why this lane cannot or may not serve the request; empty when it can."""
    caps = view.caps
    for name, needed, able in (
        ("tools", needs.tools, caps.tools),
        ("images", needs.images, caps.images),
        ("structured output", needs.output, caps.schema),
    ):
        if needed and able is False:
            return f"cannot do {name}"
    if caps.window is None:
        return ""
    if needs.min_window is not None and caps.window <= needs.min_window:
        return f"a window of {caps.window} tokens; it must be larger than {needs.min_window}"
    if caps.window < needs.est_tokens:
        return f"a window of {caps.window} tokens; about {needs.est_tokens} are needed"
    return ""


def _judge(lane: Lane, tier: int, view: LaneView, needs: Needs, tried: int, max_per_lane: int, now: float) -> Ranked:
    """The verdict on one lane. What never changes during a call comes first."""
    if unfit := _unfit(view, needs):
        return Ranked(lane, Verdict.UNFIT, unfit, None, tier)
    if not view.enabled:
        return Ranked(lane, Verdict.OFF, "switched off", None, tier)
    if tried >= max_per_lane:
        return Ranked(lane, Verdict.TRIED, f"failed this call ({tried} attempts)", None, tier)
    if not view.present:
        reason = "being restarted" if view.back is None else f"crashed too often; started afresh {left(view.back, now)}"
        return Ranked(lane, Verdict.DOWN, reason, view.back, tier)
    answer = admit(view.health, now, in_flight=view.in_flight, limit=view.limit)
    if tried and (stop := _not_again(answer, now)):
        return Ranked(lane, Verdict.TRIED, f"failed this call; {stop}", answer.until, tier)
    on_trial = answer.verdict in (Admit.TRIAL, Admit.OPEN, Admit.DISABLED) and not view.health.gated(now)
    if on_trial and view.trial_out:
        return Ranked(lane, Verdict.TRYING, "a trial is out", None, tier)
    if answer.refused:
        return Ranked(lane, _REFUSALS[answer.verdict], answer.reason, answer.until, tier, on_trial)
    return _admitted(answer, view, needs, tried, tier)


def _admitted(answer: Admission, view: LaneView, needs: Needs, tried: int, tier: int) -> Ranked:
    """The verdict on a lane whose health lets the call through."""
    lane, trial = view.lane, answer.verdict is Admit.TRIAL
    if trial and not needs.replayable:
        return Ranked(lane, Verdict.OPEN, "on trial, by a request that can be repeated", None, tier, trial)
    if view.limit is not None and view.in_flight >= view.limit:
        return Ranked(lane, Verdict.BUSY, f"all {view.limit} slots are taken", None, tier)
    if tried:
        return Ranked(lane, Verdict.AGAIN, "failed this call once, may work now", None, tier, trial)
    if trial:
        return Ranked(lane, Verdict.TRIAL, answer.reason, None, tier, trial)
    degraded = f", {view.health.reason}" if view.health.state is State.DEGRADED else ""
    return Ranked(lane, Verdict.READY, f"{view.in_flight} in flight{degraded}", None, tier)


_REFUSALS: Final[dict[Admit, Verdict]] = {
    Admit.GATED: Verdict.GATED,
    Admit.OPEN: Verdict.OPEN,
    Admit.TRYING: Verdict.TRYING,
    Admit.RAMPING: Verdict.RAMPING,
    Admit.DISABLED: Verdict.DISABLED,
    Admit.OFF: Verdict.OFF,
}


def _not_again(answer: Admission, now: float) -> str:
    """Why a lane that failed this call is not asked again by it; empty when it may be."""
    if answer.verdict in (Admit.OPEN, Admit.DISABLED):
        return answer.reason
    if answer.verdict is Admit.GATED and answer.until is not None and answer.until - now > RETRY_AFTER_MAX:
        return answer.reason
    return ""


_Place: TypeAlias = tuple[int, int, bool, float]


def _place(entry: Ranked, view: LaneView, needs: Needs, tried: int, now: float) -> _Place:
    """The sort key: what it can do, its tier (degraded: one later), those that must be waited for last, then the cost
    or the end of the wait."""
    group = _GROUP[entry.verdict]
    if group == _NEVER:
        return group, 0, False, 0.0
    if group > _GROUP[Verdict.RAMPING]:
        return group, 0, not entry.trial, math.inf if entry.until is None else entry.until
    health = observe(view.health, now)
    tier = entry.tier + (health.state is State.DEGRADED)
    group = max(group, _SECOND) if tried else group
    return group, tier, entry.verdict is Verdict.BUSY, _cost(view, health, entry, needs, now)


def _cost(view: LaneView, health: Health, entry: Ranked, needs: Needs, now: float) -> float:
    if entry.trial:
        return 0.0
    share = 1.0
    if health.state is State.DEGRADED:
        share = DEGRADED_SHARE
    elif health.state is State.RAMPING:
        share = min(1.0, max(RAMP_SHARE, (now - health.since) / RAMP))
    return health.expected(now, stream=needs.stream) * (view.in_flight + 1) / share


# ------------------------------------------------------------------------------------------------------------- choosing


@attrs.frozen
class Resorts:
    """When the engine last asked somebody although nobody could serve (seconds): an open lane, a disabled one."""

    opened: float = -math.inf
    disabled: float = -math.inf


@attrs.frozen
class Pick:
    """Ask `lane`; as its `trial`. `resort` names the last resort this is ("open", "disabled"), to be remembered."""

    lane: Lane
    trial: bool = False
    resort: str | None = None


@attrs.frozen
class Wait:
    """Nobody now. Choose again at `until` (seconds, may be infinite), or as soon as any lane's news comes in."""

    until: float
    reason: str
    lane: Lane


@attrs.frozen
class NoneLeft:
    """Nobody is left: each lane with its reason. `retry_after`: seconds until one may serve again, None: unknown."""

    reasons: tuple[tuple[Lane, str], ...]
    retry_after: float | None = None


Choice: TypeAlias = Pick | Wait | NoneLeft


def choose(
    ranked: Sequence[Ranked],
    now: float,
    *,
    resorts: Resorts = Resorts(),
    since: float | None = None,
    deadline: float = math.inf,
) -> Choice:
    """What to do about a ranking: ask, wait, or give up.

    `since` is when the call began to look (it bounds its patience with busy lanes; default now), `deadline` its end:
    no wait goes beyond it, and one that is known to last longer is none.
    """
    began = now if since is None else since
    patience = began + PATIENCE * (deadline - began)
    for entry in ranked:
        if entry.verdict is Verdict.BUSY and now < patience:
            return Wait(min(patience, deadline), entry.reason, entry.lane)
        if entry.verdict in (Verdict.READY, Verdict.TRIAL, Verdict.AGAIN):
            return Pick(entry.lane, entry.trial)
    first: dict[Verdict, Ranked] = {}
    for entry in ranked:
        first.setdefault(entry.verdict, entry)
    return _wait(first, deadline) or _last_resort(first, now, resorts, deadline) or _none_left(ranked, now)


def _wait(first: Mapping[Verdict, Ranked], deadline: float) -> Wait | None:
    """Somebody serves, only not us yet."""
    for verdict in (Verdict.BUSY, Verdict.RAMPING):
        if verdict in first:
            return Wait(deadline, first[verdict].reason, first[verdict].lane)
    return None


def _last_resort(first: Mapping[Verdict, Ranked], now: float, resorts: Resorts, deadline: float) -> Pick | Wait | None:
    """Nobody serves: an open lane is asked all the same, seldom; else wait for the first that may come back."""
    waits = []
    if entry := first.get(Verdict.OPEN):
        due = resorts.opened + PANIC_EVERY
        if now >= due:
            return Pick(entry.lane, trial=True, resort="open")
        waits.append((due, entry))
    news = [first[verdict] for verdict in (Verdict.TRYING, Verdict.DOWN) if verdict in first]
    waits += [(deadline if entry.until is None else entry.until, entry) for entry in news]
    if (entry := first.get(Verdict.GATED)) and entry.until is not None:
        waits.append((entry.until, entry))
    waits = [(until, entry) for until, entry in waits if until <= deadline]
    if waits:
        until, entry = min(waits, key=lambda wait: wait[0])
        return Wait(until, entry.reason, entry.lane)
    entry = first.get(Verdict.DISABLED)
    if entry and entry.trial and Verdict.GATED not in first and now >= resorts.disabled + DISABLED_EVERY:
        return Pick(entry.lane, trial=True, resort="disabled")
    return None


def _none_left(ranked: Sequence[Ranked], now: float) -> NoneLeft:
    untils = [entry.until - now for entry in ranked if entry.until is not None and entry.until > now]
    return NoneLeft(tuple((entry.lane, entry.reason) for entry in ranked), min(untils, default=None))
