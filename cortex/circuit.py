"""The circuit breaker as a table: for every state and signal, where it leads and when.

`health` reads events into signals and applies the table; this file holds the moves. All times are in seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Final

import attrs

from cortex.outcomes import Cls, Outcome, Rng
from cortex.vitals import Cause, Health, State

K_WITH_SPARE: Final = 3  # failures in a row, by weight, that open when another lane could serve ...
K_ALONE: Final = 5  # ... and when none could (Envoy and Finagle: 5)
WINDOW: Final = 60.0  # the sliding window for mixed failure: ...
WINDOW_SIZE: Final = 50  # ... at most so many outcomes, ...
VOLUME: Final = 8  # ... at least so many, ...
RATIO: Final = 0.5  # ... and this share of them failed
OPEN_FIRST: Final = 5.0  # how long the first opening lasts; each further one doubles it ...
OPEN_MAX: Final = 60.0  # ... up to here
N_MAX: Final = 5  # openings that count: 5 s * 2^4 is beyond OPEN_MAX
RETRY_AFTER_CAP: Final = 600.0  # a longer pause is believed for this long
CALM: Final = 60.0  # healthy for so long takes one opening off the count
ALPHA: Final = 0.1  # of the success average
SLOW_BELOW: Final = 0.8  # the success average that degrades, with ...
MIN_SAMPLES: Final = 5  # ... so many outcomes
FINE_ABOVE: Final = 0.9  # the success average that heals, held for ...
FINE_FOR: Final = 30.0
STALE: Final = 60.0  # a degraded lane nobody used for so long: its evidence has expired
LEASE: Final = 60.0  # a trial that has not reported by then has lost its permit
TRIALS: Final = 2  # trials that must succeed before the ramp
RAMP: Final = 30.0  # the ramp's length, with ...
RAMP_OKS: Final = 3  # ... so many successes
RAMP_FAILS: Final = 2  # failures in a row that open again
SILENCES: Final = 3  # waits in vain in a row, each too short for blame, that put a lane behind others
PROBE_MIN_OPEN: Final = 2.0  # a probe shortens an opening to no less than this
PROBE_TRUST: Final = 90.0  # a failed probe holds the trials back for so long ...
PROBE_HOLD: Final = 600.0  # ... and however many fail, this long


class Signal(StrEnum):
    """What an event comes down to for the table."""

    TIME = "time passes"
    BEGAN = "trial begins"
    OK = "success"
    FAIL = "failure"
    NEUTRAL = "no verdict"
    SILENT = "silent to a caller in a hurry"
    FATAL = "auth, billing, config"
    PROBE_OK = "probe ok"
    PROBE_FAIL = "probe failed"
    RECHECK = "recheck"
    OFF = "switched off"
    ON = "switched on"
    RESTARTED = "restarted"
    GAVE_UP = "given up"


@attrs.frozen
class Context:
    """What a move may look at besides the health."""

    now: float
    rng: Rng
    spare: bool = True
    sole: bool = False
    outcome: Outcome | None = None
    trial: bool = False
    silent: float = 0.0


# ------------------------------------------------------------------------------------------------------------ the moves


def _enter(health: Health, state: State, now: float, cause: Cause = Cause.NONE, reason: str = "") -> Health:
    """A new state, a new epoch; permits and counters of the old state are gone."""
    return attrs.evolve(
        health,
        state=state,
        since=now,
        epoch=health.epoch + 1,
        until=None,
        cause=cause,
        reason=reason,
        streak=0,
        calm=now if state is State.HEALTHY else None,
        lease=None,
        trials=0,
        ramp_oks=0,
        probes=0,
        probed=None,
        probe_dead=False,
    )


def open_time(n: int) -> float:
    """The longest the `n`th opening in a row (from 1) lasts, in seconds; the shortest is half of it."""
    return min(OPEN_FIRST * 2.0 ** (min(n, N_MAX) - 1), OPEN_MAX)


def _stay(health: Health, _: Context) -> Health:
    return health


def _open(health: Health, ctx: Context, reason: str) -> Health:
    """The only lane that could serve never stays open for long: nobody is there to protect it for."""
    n = max(health.n, 1) if ctx.sole else min(health.n + 1, N_MAX)
    longest = OPEN_FIRST if ctx.sole else open_time(n)
    until = ctx.now + longest * (0.5 + 0.5 * ctx.rng.random())
    outcome = ctx.outcome
    if outcome is not None and outcome.retry_after is not None:
        until = max(until, ctx.now + min(outcome.retry_after, RETRY_AFTER_CAP))
    hung = outcome is not None and outcome.weight > 1
    health = _enter(health, State.OPEN, ctx.now, Cause.TIMEOUTS if hung else Cause.FAILURES, reason)
    return attrs.evolve(health, n=n, until=until, window=(), ewma=1.0, samples=0)


def _tally(health: Health, ctx: Context, *, ok: bool, streak: int) -> Health:
    """One outcome more in the window and in the average. On the way of every call: one pass, one new value."""
    recent = health.window[1 - WINDOW_SIZE :]
    expired = 0
    while expired < len(recent) and recent[expired][0] <= ctx.now - WINDOW:
        expired += 1
    return attrs.evolve(
        health,
        window=(*recent[expired:], (ctx.now, ok)),
        ewma=health.ewma + ALPHA * (ok - health.ewma),
        samples=health.samples + 1,
        silences=0 if ok else health.silences,
        last_used=ctx.now,
        streak=streak,
    )


def _failed(health: Health, ctx: Context) -> Health:
    """Healthy or degraded: open after k in a row, or when half of the last minute failed; degrade before that."""
    outcome = ctx.outcome
    assert outcome is not None
    health = _tally(health, ctx, ok=False, streak=health.streak + outcome.weight)
    if health.streak >= (K_WITH_SPARE if ctx.spare else K_ALONE):
        return _open(health, ctx, f"failed again and again ({outcome.kind})")
    bad = sum(not ok for _, ok in health.window)
    if len(health.window) >= VOLUME and bad >= RATIO * len(health.window):
        return _open(health, ctx, f"{bad} of the last {len(health.window)} calls failed ({outcome.kind})")
    return _weigh(health, ctx)


def _succeeded(health: Health, ctx: Context) -> Health:
    return _weigh(_tally(health, ctx, ok=True, streak=0), ctx)


def _silent(health: Health, ctx: Context) -> Health:
    """It may only be slow, and the caller in a hurry. But who says nothing to several in a row stands behind others:
    a lane that hangs would otherwise be paid for on every call of those who never wait long."""
    health = attrs.evolve(
        health,
        silences=min(health.silences + 1, N_MAX),
        last_used=ctx.now,
        calm=None,
        first=health.first.longer_than(ctx.silent, ctx.now),
        answer=health.answer.longer_than(ctx.silent, ctx.now),
    )
    if health.state is State.DEGRADED or health.silences < SILENCES:
        return health
    return _degrade(health, ctx, "said nothing to several callers in a row, who had not long to wait")


def _weigh(health: Health, ctx: Context) -> Health:
    """Degrade what fails often or is slow; note since when a degraded one looks well."""
    slow = health.first.slow or health.answer.slow
    if health.state is State.HEALTHY:
        if slow:
            return _degrade(health, ctx, "much slower than usual")
        if health.ewma < SLOW_BELOW and health.samples >= MIN_SAMPLES:
            return _degrade(health, ctx, f"only {health.ewma:.0%} of recent calls succeeded")
        return health
    fine = health.ewma > FINE_ABOVE and not slow
    calm = (health.calm if health.calm is not None else ctx.now) if fine else None
    return health if calm == health.calm else attrs.evolve(health, calm=calm)


def _degrade(health: Health, ctx: Context, reason: str) -> Health:
    """The failures in a row go on counting: degraded is a step on the way to open."""
    return attrs.evolve(_enter(health, State.DEGRADED, ctx.now, Cause.NONE, reason), streak=health.streak)


def _forget(health: Health, ctx: Context) -> Health:
    """Healthy: each calm minute takes one opening off the count."""
    since = health.since if health.calm is None else health.calm
    calm = int((ctx.now - since) // CALM)
    if health.n == 0 or calm < 1:
        return health
    return attrs.evolve(health, n=max(health.n - calm, 0), calm=since + calm * CALM)


def _recover(health: Health, ctx: Context) -> Health:
    """Degraded: well for long enough, or not used for so long that nothing is known any more."""
    if health.calm is not None and ctx.now - health.calm >= FINE_FOR:
        return _enter(health, State.HEALTHY, ctx.now)
    if ctx.now - max(health.last_used or 0.0, health.since) < STALE:
        return health
    fresh = _enter(health, State.HEALTHY, ctx.now)
    return attrs.evolve(
        fresh,
        ewma=1.0,
        samples=0,
        first=attrs.evolve(health.first, recent=()),
        answer=attrs.evolve(health.answer, recent=()),
    )


def _half_open(health: Health, ctx: Context) -> Health:
    """The cause is kept until a trial has shown otherwise."""
    return _enter(health, State.HALF_OPEN, ctx.now, health.cause, health.reason)


def _open_ends(health: Health, ctx: Context) -> Health:
    """After a hang no user is made to wait for a trial while the probe, which costs nobody anything, still fails.

    Not for ever: a server whose list of models is broken may answer all the same.
    """
    if health.until is not None and ctx.now < health.until:
        return health
    fresh = health.probed is not None and ctx.now - health.probed < PROBE_TRUST
    believed = health.probe_dead and fresh and ctx.now - health.since < PROBE_HOLD
    return health if health.cause is Cause.TIMEOUTS and believed else _half_open(health, ctx)


def _probe_opens(health: Health, ctx: Context) -> Health:
    if ctx.now - health.since < PROBE_MIN_OPEN:
        return attrs.evolve(health, probes=0, probed=None, probe_dead=False)
    return _half_open(health, ctx)


def _probe_fails(health: Health, ctx: Context) -> Health:
    """A probe that failed by a fault of ours says nothing of the provider."""
    ours = ctx.outcome is not None and ctx.outcome.cls is Cls.LOCAL
    return attrs.evolve(health, probes=min(health.probes + 1, N_MAX), probed=ctx.now, probe_dead=not ours)


def _last_resort(health: Health, ctx: Context) -> Health:
    """Nobody else can serve. The operator's switch holds even then."""
    if health.cause is Cause.OFF:
        return health
    return _take_permit(_half_open(health, ctx), ctx)


def _take_permit(health: Health, ctx: Context) -> Health:
    return health if health.trial else attrs.evolve(health, lease=ctx.now + LEASE, last_used=ctx.now)


def _return_permit(health: Health, ctx: Context) -> Health:
    return attrs.evolve(health, lease=None) if ctx.trial and health.trial else health


def _lease_ends(health: Health, ctx: Context) -> Health:
    """A new epoch: should the lost trial report after all, it must not return its successor's permit."""
    if health.lease is None or ctx.now < health.lease:
        return health
    return attrs.evolve(health, lease=None, epoch=health.epoch + 1)


def _trial_succeeded(health: Health, ctx: Context) -> Health:
    if not ctx.trial:
        return health
    health = attrs.evolve(_return_permit(health, ctx), trials=health.trials + 1, rechecks=0, last_used=ctx.now)
    return _enter(health, State.RAMPING, ctx.now) if health.trials >= TRIALS else health


def _trial_failed(health: Health, ctx: Context) -> Health:
    return _open(health, ctx, f"the trial failed ({ctx.outcome.kind if ctx.outcome else 'unknown'})")


def _ramp_succeeded(health: Health, ctx: Context) -> Health:
    health = attrs.evolve(_tally(health, ctx, ok=True, streak=0), ramp_oks=health.ramp_oks + 1)
    return _ramp_ends(health, ctx)


def _ramp_failed(health: Health, ctx: Context) -> Health:
    """Counted by number, not by weight: one slow answer does not undo a recovery."""
    health = _tally(health, ctx, ok=False, streak=health.streak + 1)
    return _open(health, ctx, "failed again while recovering") if health.streak >= RAMP_FAILS else health


def _ramp_ends(health: Health, ctx: Context) -> Health:
    over = ctx.now - health.since >= RAMP and health.ramp_oks >= RAMP_OKS
    return _enter(health, State.HEALTHY, ctx.now) if over else health


FATAL: Final[dict[Cls, Cause]] = {Cls.AUTH: Cause.AUTH, Cls.BILLING: Cause.BILLING, Cls.CONFIG: Cause.CONFIG}

_RECHECK: Final[dict[Cause, tuple[float, float]]] = {
    Cause.AUTH: (60.0, 600.0),
    Cause.BILLING: (60.0, 600.0),
    Cause.CONFIG: (5.0, 60.0),
    Cause.CRASH_LOOP: (5.0, 60.0),
}
"""First and longest pause before a disabled one is looked at again; each time doubles it."""


def _disable(health: Health, ctx: Context) -> Health:
    assert ctx.outcome is not None
    cause = FATAL[ctx.outcome.cls]
    reset = ctx.outcome.retry_after if cause is Cause.BILLING else None
    health = _enter(health, State.DISABLED, ctx.now, cause, f"{cause}: {ctx.outcome.kind}")
    return _recheck_later(attrs.evolve(health, window=(), ewma=1.0, samples=0), ctx, reset)


def _recheck_later(health: Health, ctx: Context, reset: float | None = None) -> Health:
    """Still disabled; looked at again after a pause, or at the known `reset` (seconds from now) if that is nearer."""
    if health.cause not in _RECHECK:
        return health
    first, longest = _RECHECK[health.cause]
    pause = min(first * 2.0**health.rechecks, longest)
    if reset is not None:
        pause = max(min(pause, reset), OPEN_FIRST)
    return attrs.evolve(health, until=ctx.now + pause, rechecks=min(health.rechecks + 1, N_MAX))


def _enable(health: Health, ctx: Context) -> Health:
    """Whatever disabled it is gone, unless that was the operator."""
    return health if health.cause is Cause.OFF else _half_open(health, ctx)


def _switch_on(health: Health, ctx: Context) -> Health:
    return _enter(health, State.HALF_OPEN, ctx.now, Cause.NONE, "switched on again")


def _switch_off(health: Health, ctx: Context) -> Health:
    return health if health.cause is Cause.OFF else _enter(health, State.DISABLED, ctx.now, Cause.OFF, "switched off")


def _restarted(health: Health, ctx: Context) -> Health:
    return _enter(health, State.HALF_OPEN, ctx.now, Cause.NONE, "restarted after a crash")


def _enable_after_crash(health: Health, ctx: Context) -> Health:
    return _restarted(health, ctx) if health.cause is Cause.CRASH_LOOP else health


def _give_up(health: Health, ctx: Context) -> Health:
    return _recheck_later(_enter(health, State.DISABLED, ctx.now, Cause.CRASH_LOOP, "crashed too often"), ctx)


def _give_up_disabled(health: Health, ctx: Context) -> Health:
    return health if health.cause is Cause.OFF else _give_up(health, ctx)


# ------------------------------------------------------------------------------------------------------------ the table


@attrs.frozen
class Rule:
    """A cell: the states it may lead to (none: it stays), in words when it does, and the move itself."""

    to: tuple[State, ...]
    when: str
    act: Callable[[Health, Context], Health] = attrs.field(repr=False)


_STAY = Rule((), "", _stay)
_DISABLE = Rule((State.DISABLED,), "", _disable)
_OFF_CELL = Rule((State.DISABLED,), "", _switch_off)
_GIVE_UP = Rule((State.DISABLED,), "", _give_up)
_RESTART = Rule((State.HALF_OPEN,), "", _restarted)

_IN_SERVICE: Final[dict[Signal, Rule]] = {
    Signal.BEGAN: _STAY,
    Signal.NEUTRAL: _STAY,
    Signal.SILENT: _STAY,
    Signal.FATAL: _DISABLE,
    Signal.PROBE_OK: _STAY,
    Signal.PROBE_FAIL: _STAY,
    Signal.RECHECK: _STAY,
    Signal.OFF: _OFF_CELL,
    Signal.ON: _STAY,
    Signal.RESTARTED: _RESTART,
    Signal.GAVE_UP: _GIVE_UP,
}

TABLE: Final[dict[State, dict[Signal, Rule]]] = {
    State.HEALTHY: {
        **_IN_SERVICE,
        Signal.TIME: Rule((), "a calm minute: n - 1", _forget),
        Signal.OK: Rule((State.DEGRADED,), "slow", _succeeded),
        Signal.FAIL: Rule(
            (State.OPEN, State.DEGRADED), "k in a row or half of 8 (open), average below 0.8 (degraded)", _failed
        ),
        Signal.SILENT: Rule((State.DEGRADED,), "3 in a row", _silent),
    },
    State.DEGRADED: {
        **_IN_SERVICE,
        Signal.TIME: Rule((State.HEALTHY,), "well for 30 s, or unused for 60 s", _recover),
        Signal.OK: Rule((), "", _succeeded),
        Signal.FAIL: Rule((State.OPEN,), "k in a row or half of 8", _failed),
        Signal.SILENT: Rule((), "", _silent),
    },
    State.OPEN: {
        **_IN_SERVICE,
        Signal.TIME: Rule((State.HALF_OPEN,), "its time is over", _open_ends),
        Signal.BEGAN: Rule((State.HALF_OPEN,), "the last resort", _last_resort),
        Signal.OK: _STAY,
        Signal.FAIL: _STAY,
        Signal.PROBE_OK: Rule((State.HALF_OPEN,), "open for 2 s", _probe_opens),
        Signal.PROBE_FAIL: Rule((), "", _probe_fails),
        Signal.RECHECK: Rule((State.HALF_OPEN,), "", _half_open),
        Signal.RESTARTED: _STAY,
    },
    State.HALF_OPEN: {
        **_IN_SERVICE,
        Signal.TIME: Rule((), "a lost permit comes back after 60 s", _lease_ends),
        Signal.BEGAN: Rule((), "the permit is out", _take_permit),
        Signal.OK: Rule((State.RAMPING,), "two trials", _trial_succeeded),
        Signal.FAIL: Rule((State.OPEN,), "", _trial_failed),
        Signal.NEUTRAL: Rule((), "the permit comes back", _return_permit),
        Signal.SILENT: Rule((), "the permit comes back", _return_permit),
    },
    State.RAMPING: {
        **_IN_SERVICE,
        Signal.TIME: Rule((State.HEALTHY,), "30 s and 3 successes", _ramp_ends),
        Signal.OK: Rule((State.HEALTHY,), "30 s and 3 successes", _ramp_succeeded),
        Signal.FAIL: Rule((State.OPEN,), "2 in a row", _ramp_failed),
    },
    State.DISABLED: {
        **_IN_SERVICE,
        Signal.TIME: _STAY,
        Signal.BEGAN: Rule((State.HALF_OPEN,), "the last resort", _last_resort),
        Signal.OK: _STAY,
        Signal.FAIL: _STAY,
        Signal.FATAL: Rule((), "the recheck failed: later", _recheck_later),
        Signal.PROBE_OK: Rule((State.HALF_OPEN,), "unless switched off", _enable),
        Signal.PROBE_FAIL: Rule((), "later", _recheck_later),
        Signal.RECHECK: Rule((State.HALF_OPEN,), "unless switched off", _enable),
        Signal.OFF: Rule((State.DISABLED,), "", _switch_off),
        Signal.ON: Rule((State.HALF_OPEN,), "", _switch_on),
        Signal.RESTARTED: Rule((State.HALF_OPEN,), "after a crash loop", _enable_after_crash),
        Signal.GAVE_UP: Rule((State.DISABLED,), "unless switched off", _give_up_disabled),
    },
}


def diagram() -> str:
    """The table as a mermaid state diagram, for a README. Its labels may hold no colon and no semicolon."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.HEALTHY}"]
    for state, row in TABLE.items():
        for signal, rule in row.items():
            label = f"{signal}, {rule.when}" if rule.when else f"{signal}"
            lines += [f"    {state} --> {to}: {label}" for to in rule.to if to is not state]
    return "\n".join(lines)
