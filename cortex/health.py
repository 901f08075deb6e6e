"""The health of one lane, or of one endpoint: a state machine as a table.

A lane is a model at a provider, an endpoint the provider's account and address; each has a `Health`, both are told of
every attempt, and `worse` of the two decides. `step` applies an event, `observe` what time alone changes, `admit` says
whether a call may start. All pure: the clock and the dice are arguments, a health is a frozen value. `TABLE` has a
cell for every state and signal, and `diagram()` prints it.

The constants guard the sick provider at the rates of LLM calls, 0.2 to 1 a second, where breakers that wait for a
hundred calls never trip: a few failures in a row open the circuit; it stays open for seconds, not minutes, since with a
spare a mistake costs little and without one it would cost answers; then one real call at a time tries it, and a ramp
lets it have its traffic back. Evidence that cannot pass by itself (a wrong key, an empty account, a wrong address)
disables at once. What the caller did, what we did and a rate limit never count as failures.

Every change of state starts a new epoch. A result that began in an earlier epoch tells of latency and of rate limits,
nothing else: a hundred timeouts of the same hang open the circuit once, and a stream that began before it opened
cannot close it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, TypeAlias, assert_never

import attrs

from cortex.circuit import FATAL, PROBE_MIN_OPEN, RETRY_AFTER_CAP, TABLE, Context, Signal, diagram
from cortex.messages import Kind
from cortex.outcomes import Cls, Outcome, Rng, Scope
from cortex.vitals import Cause, Health, Latency, State

__all__ = [
    "TABLE",
    "Admission",
    "Admit",
    "Answering",
    "Began",
    "Cause",
    "Event",
    "Finished",
    "GaveUp",
    "Health",
    "Latency",
    "ProbeFinished",
    "Recheck",
    "Restarted",
    "State",
    "Switched",
    "admit",
    "diagram",
    "left",
    "next_probe",
    "observe",
    "ramp_slots",
    "status",
    "step",
    "why",
    "worse",
]

RAMP_SLOTS: Final = 2  # calls in flight at the start of the ramp; one more per success
RECENT_OK: Final = 3600.0  # an address that answered within this is being deployed, not wrong
GATE_FIRST: Final = 1.0  # a rate limit without retry-after closes the gate for this, doubling ...
GATE_MAX: Final = 20.0  # ... up to here
NEW_NORMAL: Final = 600.0  # slow for so long is no longer a symptom

# --------------------------------------------------------------------------------------------------------------- events


@attrs.frozen
class Began:
    """A call starts. A `trial` takes the permit (and makes an open or disabled circuit half-open: the last resort).

    The attempt carries the epoch the health has after this event.
    """

    trial: bool = False


@attrs.frozen
class Answering:
    """The first token of a stream arrived after `latency` seconds.

    For a trial this is the success: what ends it later is sent as `Finished` with `trial` False.
    """

    epoch: int
    trial: bool = False
    latency: float | None = None


@attrs.frozen
class Finished:
    """A call that began in `epoch` is over. `latency`: seconds to a whole JSON answer, None for streams and failures.

    `offline`: the fault is our own network's; nobody's health suffers. `silent`: the seconds in which nothing came, to
    a caller who was in a hurry.
    """

    outcome: Outcome
    epoch: int
    trial: bool = False
    latency: float | None = None
    offline: bool = False
    silent: float | None = None


@attrs.frozen
class ProbeFinished:
    """A token-free probe (a list of models) ended. It never closes a circuit, it lets a trial through."""

    outcome: Outcome


@attrs.frozen
class Recheck:
    """Somebody says that what was wrong has been mended; also sent at recheck times where no probe is supported."""


@attrs.frozen
class Switched:
    """The operator switched it on or off."""

    enabled: bool


@attrs.frozen
class Restarted:
    """The provider's actor was restarted after a crash: its calls and permits are gone."""


@attrs.frozen
class GaveUp:
    """The provider's actor crashed too often and was given up."""


Event: TypeAlias = Began | Answering | Finished | ProbeFinished | Recheck | Switched | Restarted | GaveUp


# ------------------------------------------------------------------------------------------------------------ the doors


class _NoChance:
    """Time alone draws no lots."""

    def random(self) -> float:
        raise AssertionError("time alone decides nothing by chance")


_NO_CHANCE: Final = _NoChance()


def observe(health: Health, now: float) -> Health:
    """What time alone has changed by `now`; the same object when nothing."""
    if health.state is State.HEALTHY and not health.n:
        return health  # nearly always, and asked many times a call: nothing to forget
    return TABLE[health.state][Signal.TIME].act(health, Context(now, _NO_CHANCE))


def step(health: Health, event: Event, now: float, rng: Rng, *, spare: bool = True, sole: bool = False) -> Health:
    """The health after `event`; the same object when nothing changed.

    `spare`: another lane could serve, so that three failures in a row suffice instead of five. `sole`: this is the
    only lane of anybody's chain that can do it, so that it is open for five seconds at most.
    """
    health = observe(health, now)
    health, signal, ctx = _read(health, event, Context(now, rng, spare=spare, sole=sole))
    return health if signal is None else TABLE[health.state][signal].act(health, ctx)


def _read(health: Health, event: Event, ctx: Context) -> tuple[Health, Signal | None, Context]:
    """Take what every state learns from an event, and name its signal (None: nothing for the table)."""
    match event:
        case Began(trial=trial):
            return health, Signal.BEGAN if trial else None, ctx
        case Answering():
            return _read_answering(health, event, ctx)
        case Finished():
            return _read_finished(health, event, ctx)
        case ProbeFinished(outcome=outcome):
            return health, _probe_signal(outcome), attrs.evolve(ctx, outcome=outcome)
        case Recheck():
            return health, Signal.RECHECK, ctx
        case Switched(enabled=enabled):
            return health, Signal.ON if enabled else Signal.OFF, ctx
        case Restarted():
            return health, Signal.RESTARTED, ctx
        case GaveUp():
            return health, Signal.GAVE_UP, ctx


def _read_answering(health: Health, event: Answering, ctx: Context) -> tuple[Health, Signal | None, Context]:
    """Only a trial is settled by its first token; for the others the terminal event is the success."""
    if event.latency is not None and health.scope is Scope.LANE:
        health = attrs.evolve(health, first=health.first.add(event.latency, ctx.now, learn=_learns(health, ctx.now)))
    settled = event.trial and event.epoch == health.epoch
    return health, Signal.OK if settled else None, attrs.evolve(ctx, trial=event.trial)


def _read_finished(health: Health, event: Finished, ctx: Context) -> tuple[Health, Signal | None, Context]:
    outcome = event.outcome
    answer = health.answer
    if event.latency is not None and health.scope is Scope.LANE:
        answer = answer.add(event.latency, ctx.now, learn=_learns(health, ctx.now))
    if outcome.ok:
        health = attrs.evolve(health, last_ok=ctx.now, gates=0, answer=answer)
    elif answer is not health.answer:
        health = attrs.evolve(health, answer=answer)
    if outcome.cls in (Cls.RATE, Cls.OVERLOAD) and outcome.scope is health.scope:
        health = _close_gate(health, outcome, ctx)
    if event.epoch != health.epoch:
        return health, None, ctx
    return (
        health,
        _signal(health, event, ctx.now),
        attrs.evolve(ctx, outcome=outcome, trial=event.trial, silent=event.silent or 0.0),
    )


def _learns(health: Health, now: float) -> bool:
    """A degraded lane's latencies are the symptom, not the custom; unless they have become it."""
    return health.state is not State.DEGRADED or now - health.since >= NEW_NORMAL


def _close_gate(health: Health, outcome: Outcome, ctx: Context) -> Health:
    """No call before the provider's pause is over. A gate never opens earlier than it was told before."""
    if outcome.retry_after is not None:
        pause = min(outcome.retry_after, RETRY_AFTER_CAP)
    else:
        pause = min(GATE_FIRST * 2.0 ** min(health.gates, 10), GATE_MAX) * (0.5 + 0.5 * ctx.rng.random())
    until = max(ctx.now + pause, health.gate_until or 0.0)
    return attrs.evolve(health, gate_until=until, gates=health.gates + 1)


_DEPLOY = frozenset({Kind.ROUTE_GONE, Kind.NOT_API})


def _signal(health: Health, event: Finished, now: float) -> Signal:
    """What a result of this epoch says about this lane, or this endpoint."""
    outcome = event.outcome
    if outcome.ok:
        return Signal.OK
    if event.silent is not None and health.scope is Scope.LANE:
        return Signal.SILENT
    if event.offline or outcome.scope is not health.scope:
        return Signal.NEUTRAL
    if outcome.cls in FATAL:
        served = health.last_ok is not None and now - health.last_ok < RECENT_OK
        return Signal.FAIL if served and outcome.kind in _DEPLOY else Signal.FATAL
    return Signal.FAIL if outcome.cls in (Cls.TRANSIENT, Cls.OVERLOAD) else Signal.NEUTRAL


def _probe_signal(outcome: Outcome) -> Signal | None:
    """A rate limit is a sign of life; a wrong key is one everywhere."""
    if outcome.cls in (Cls.OK, Cls.RATE):
        return Signal.PROBE_OK
    if outcome.cls in (Cls.AUTH, Cls.BILLING):
        return Signal.FATAL
    return None if outcome.cls is Cls.CANCELLED else Signal.PROBE_FAIL


# ------------------------------------------------------------------------------------------------------------ questions


class Admit(StrEnum):
    """Whether a call may start; all but the first two refuse it."""

    ADMIT = "admit"
    TRIAL = "trial"  # it may, and it is the one trial
    GATED = "gated"
    OPEN = "open"
    TRYING = "trying"  # the one trial is out
    RAMPING = "ramping"  # the ramp's calls are out
    DISABLED = "disabled"
    OFF = "off"


@attrs.frozen
class Admission:
    """The answer to a call that wants to start. `until`: when to ask again (seconds), None: unknown."""

    verdict: Admit
    reason: str = ""
    until: float | None = None

    @property
    def refused(self) -> bool:
        """Whether the call may not start."""
        return self.verdict not in (Admit.ADMIT, Admit.TRIAL)


def admit(
    health: Health, now: float, *, in_flight: int = 0, limit: int | None = None, last_resort: bool = False
) -> Admission:
    """Whether a call may start now beside `in_flight` others; `limit` is what the lane may have in flight, if known.

    `last_resort`: nobody else can serve, so an open or disabled circuit lets it through as its one trial. A gate and
    the operator's switch hold even then.
    """
    health = observe(health, now)
    state = health.state
    if health.cause is Cause.OFF:
        return Admission(Admit.OFF, why(health, now))
    if state is State.DISABLED and not last_resort:
        return Admission(Admit.DISABLED, why(health, now), health.until)
    if health.gated(now):
        return Admission(Admit.GATED, f"asked for a pause, {left(health.gate_until, now)}", health.gate_until)
    if state in (State.OPEN, State.DISABLED) and not last_resort:
        return Admission(Admit.OPEN, why(health, now), health.until)
    if state is State.HALF_OPEN and health.trial:
        return Admission(Admit.TRYING, "a trial is out", health.lease)
    if state in (State.HALF_OPEN, State.OPEN, State.DISABLED):
        return Admission(Admit.TRIAL, why(health, now))
    if state is State.RAMPING and in_flight >= ramp_slots(health, limit):
        return Admission(Admit.RAMPING, f"recovering: {in_flight} calls at a time for now")
    return Admission(Admit.ADMIT)


def ramp_slots(health: Health, limit: int | None = None) -> int:
    """Calls a ramping lane may have in flight: two, one more per success, up to half of its `limit`."""
    slots = RAMP_SLOTS + health.ramp_oks
    return slots if limit is None else max(1, min(slots, limit // 2))


_SEVERITY: Final[dict[State, int]] = {
    State.HEALTHY: 0,
    State.DEGRADED: 1,
    State.RAMPING: 2,
    State.HALF_OPEN: 3,
    State.OPEN: 4,
    State.DISABLED: 5,
}


def worse(lane: Health, endpoint: Health) -> Health:
    """The effective health of a lane: the worse state of the two, the later gate, the lane's own latencies."""

    def severity(health: Health) -> tuple[int, bool, bool, float]:
        return _SEVERITY[health.state], health.cause is Cause.OFF, health.trial, health.until or 0.0

    bad = endpoint if severity(endpoint) > severity(lane) else lane
    if bad is lane and (endpoint.gate_until or 0.0) <= (lane.gate_until or 0.0):
        return lane  # nearly always: each call asks twice
    gates = [gate for gate in (lane.gate_until, endpoint.gate_until) if gate is not None]
    return attrs.evolve(bad, gate_until=max(gates, default=None), first=lane.first, answer=lane.answer)


def status(health: Health, now: float) -> str:
    """In the words of users: up, slow, down, recovering or off."""
    health = observe(health, now)
    if health.cause is Cause.OFF:
        return "off"
    if health.state is State.HEALTHY:
        return "slow" if health.gated(now) else "up"
    return _STATUS[health.state]


_STATUS: Final[dict[State, str]] = {
    State.DEGRADED: "slow",
    State.OPEN: "down",
    State.HALF_OPEN: "recovering",
    State.RAMPING: "recovering",
    State.DISABLED: "down",
}


def why(health: Health, now: float) -> str:
    """One line for people: what is the matter, and when it is looked at again. Empty when all is well."""
    health = observe(health, now)
    gate = f"asked for a pause, {left(health.gate_until, now)}" if health.gated(now) else ""
    match health.state:
        case State.HEALTHY:
            return gate
        case State.DEGRADED:
            text = health.reason
        case State.OPEN:
            text = f"{health.reason}; next trial {left(health.until, now)}"
        case State.HALF_OPEN:
            text = f"on trial: {health.reason}" if health.reason else "on trial"
        case State.RAMPING:
            text = f"recovering since {now - health.since:.0f} s"
        case State.DISABLED:
            text = health.reason if health.until is None else f"{health.reason}; recheck {left(health.until, now)}"
        case _:
            assert_never(health.state)
    return f"{text}; {gate}" if gate else text


def left(until: float | None, now: float) -> str:
    """The time from `now` to `until`, for people."""
    return f"in {max((until or now) - now, 0.0):.1f} s"


def next_probe(health: Health, now: float, rng: Rng) -> float | None:
    """When a token-free probe is due (seconds, same clock; may be past); None while none is needed.

    A disabled one at its recheck time. An open one as early as a probe can shorten it, which is before the first trial,
    then 10 s after the first that failed and 20 s after each further one, +-20 %: rarer than the trials they hold back,
    they would delay the recovery.
    """
    health = observe(health, now)
    if health.state is State.DISABLED:
        return health.until
    if health.state is not State.OPEN:
        return None
    if health.probed is None:
        return health.since + PROBE_MIN_OPEN * (1.0 + 0.2 * rng.random())
    return health.probed + min(5.0 * 2.0**health.probes, 20.0) * (0.8 + 0.4 * rng.random())
