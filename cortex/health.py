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

import math
from collections.abc import Callable
from enum import StrEnum
from typing import Final, TypeAlias, assert_never

import attrs

from cortex.messages import Kind
from cortex.outcomes import Cls, Outcome, Rng, Scope

# ------------------------------------------------------------------------------------------ constants, seconds if times

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
RAMP_SLOTS: Final = 2  # calls in flight at the start of the ramp; one more per success
PROBE_MIN_OPEN: Final = 2.0  # a probe shortens an opening to no less than this
PROBE_TRUST: Final = 90.0  # a failed probe holds the trials back for so long
RECENT_OK: Final = 3600.0  # an address that answered within this is being deployed, not wrong
GATE_FIRST: Final = 1.0  # a rate limit without retry-after closes the gate for this, doubling ...
GATE_MAX: Final = 20.0  # ... up to here
PRIOR: Final = 1.5  # the latency of a lane nobody has measured
TAU: Final = 60.0  # decay of the peak latency (Finagle's Peak-EWMA)
RING: Final = 50  # latencies kept
RECENT: Final = 10  # the last ones, compared with the others: ...
SLOW_SHARE: Final = 8  # ... so many of them ...
SLOW_FACTOR: Final = 3.0  # ... above so many times the p95 of the others ...
BASELINE: Final = 20  # ... of which there must be so many
NEW_NORMAL: Final = 600.0  # slow for so long is no longer a symptom


class State(StrEnum):
    """The states of a circuit."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    OPEN = "open"
    HALF_OPEN = "half_open"
    RAMPING = "ramping"
    DISABLED = "disabled"


class Cause(StrEnum):
    """Why a circuit is open, half-open or disabled."""

    NONE = "none"
    FAILURES = "failures"
    TIMEOUTS = "timeouts"
    AUTH = "auth"
    BILLING = "billing"
    CONFIG = "config"
    CRASH_LOOP = "crash_loop"
    OFF = "off"


# -------------------------------------------------------------------------------------------------------------- latency


@attrs.frozen
class Latency:
    """Latencies in seconds: a peak average for choosing, and the last few dozen for percentiles.

    `recent` holds the last `RECENT`, `older` those before them: the baseline.
    """

    peak: float | None = None
    at: float = 0.0
    recent: tuple[float, ...] = ()
    older: tuple[float, ...] = ()

    def add(self, seconds: float, now: float, *, learn: bool = True) -> Latency:
        """With one more sample; `learn` False keeps the baseline as it is."""
        mean = self.expected(now)
        if self.peak is None or seconds > mean:
            peak = seconds  # bad news counts at once, good news little by little
        else:
            peak = seconds + (mean - seconds) * math.exp(-(now - self.at) / TAU)
        recent = (*self.recent, seconds)
        older = self.older
        if len(recent) > RECENT:
            older = (*older, recent[0])[-(RING - RECENT) :] if learn else older
            recent = recent[1:]
        return Latency(max(peak, 0.001), now, recent, older)

    def expected(self, now: float) -> float:
        """What the next call will take, never 0. It decays to the prior, so that a slow lane is tried again."""
        if self.peak is None:
            return PRIOR
        if self.peak <= PRIOR:
            return self.peak
        return PRIOR + (self.peak - PRIOR) * math.exp(-max(now - self.at, 0.0) / TAU)

    def quantile(self, q: float) -> float | None:
        """The `q` quantile (nearest rank) of what is kept; None without samples."""
        return _quantile((*self.older, *self.recent), q)

    @property
    def slow(self) -> bool:
        """Whether most of the last answers took far longer than this lane's own custom."""
        base = _quantile(self.older, 0.95) if len(self.older) >= BASELINE else None
        if base is None or len(self.recent) < RECENT:
            return False
        return sum(seconds > SLOW_FACTOR * base for seconds in self.recent) >= SLOW_SHARE


def _quantile(samples: tuple[float, ...], q: float) -> float | None:
    return sorted(samples)[max(math.ceil(q * len(samples)) - 1, 0)] if samples else None


# ---------------------------------------------------------------------------------------------------------------- value


@attrs.frozen
class Health:
    """What is known of one lane or endpoint. All times are seconds of the caller's clock.

    `epoch` counts changes of state; an attempt carries the one it began in. `n` counts openings, forgotten one by one
    in calm. `since`: start of the state; `until`: end of an opening, or the next recheck of a disabled one; `cause`,
    `reason`: why. `streak`: failures in a row by weight; `window`: (time, ok) of the last outcomes; `ewma`, `samples`:
    success average; `calm`: since when a degraded one looks well, or when `n` was last changed. `gate_until`: no call
    before that; `gates`: rate limits in a row. `lease`: the trial's permit is out until then; `trials`, `ramp_oks`:
    successes of this half-open state and this ramp. `probes`: probes failed in a row, the last at `probe_failed`.
    `rechecks`: times disabled in a row. `first`, `answer`: latency to the first token, and of whole JSON answers.
    """

    scope: Scope
    state: State
    since: float
    epoch: int = 0
    n: int = 0
    until: float | None = None
    cause: Cause = Cause.NONE
    reason: str = ""
    streak: int = 0
    window: tuple[tuple[float, bool], ...] = ()
    ewma: float = 1.0
    samples: int = 0
    calm: float | None = None
    gate_until: float | None = None
    gates: int = 0
    lease: float | None = None
    trials: int = 0
    ramp_oks: int = 0
    probes: int = 0
    probe_failed: float | None = None
    rechecks: int = 0
    last_ok: float | None = None
    last_used: float | None = None
    first: Latency = Latency()
    answer: Latency = Latency()

    @classmethod
    def new(cls, now: float, scope: Scope = Scope.LANE) -> Health:
        """Healthy until shown otherwise."""
        return cls(scope=scope, state=State.HEALTHY, since=now, calm=now)

    @property
    def trial(self) -> bool:
        """Whether the one permit of a half-open circuit is out."""
        return self.lease is not None

    def gated(self, now: float) -> bool:
        """Whether the provider asked for a pause that lasts beyond `now`."""
        return self.gate_until is not None and now < self.gate_until

    def expected(self, now: float, *, stream: bool) -> float:
        """The latency a call has to expect, in seconds: to the first token of a stream, else to the whole answer."""
        return (self.first if stream else self.answer).expected(now)


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

    `offline`: the fault is our own network's; nobody's health suffers.
    """

    outcome: Outcome
    epoch: int
    trial: bool = False
    latency: float | None = None
    offline: bool = False


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


class Signal(StrEnum):
    """What an event comes down to for the table."""

    TIME = "time passes"
    BEGAN = "trial begins"
    OK = "success"
    FAIL = "failure"
    NEUTRAL = "no verdict"
    FATAL = "auth, billing, config"
    PROBE_OK = "probe ok"
    PROBE_FAIL = "probe failed"
    RECHECK = "recheck"
    OFF = "switched off"
    ON = "switched on"
    RESTARTED = "restarted"
    GAVE_UP = "given up"


@attrs.frozen
class _Context:
    now: float
    rng: Rng
    spare: bool = True
    sole: bool = False
    outcome: Outcome | None = None
    trial: bool = False


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
        probe_failed=None,
    )


def open_time(n: int) -> float:
    """The longest the `n`th opening in a row (from 1) lasts, in seconds; the shortest is half of it."""
    return min(OPEN_FIRST * 2.0 ** (min(n, N_MAX) - 1), OPEN_MAX)


def _stay(health: Health, _: _Context) -> Health:
    return health


def _open(health: Health, ctx: _Context, reason: str) -> Health:
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


def _tally(health: Health, ctx: _Context, *, ok: bool) -> Health:
    """One outcome more in the window and in the average."""
    recent = tuple(entry for entry in health.window[1 - WINDOW_SIZE :] if entry[0] > ctx.now - WINDOW)
    return attrs.evolve(
        health,
        window=(*recent, (ctx.now, ok)),
        ewma=health.ewma + ALPHA * (ok - health.ewma),
        samples=health.samples + 1,
        last_used=ctx.now,
    )


def _failed(health: Health, ctx: _Context) -> Health:
    """Healthy or degraded: open after k in a row, or when half of the last minute failed; degrade before that."""
    outcome = ctx.outcome
    assert outcome is not None
    health = _tally(health, ctx, ok=False)
    health = attrs.evolve(health, streak=health.streak + outcome.weight)
    if health.streak >= (K_WITH_SPARE if ctx.spare else K_ALONE):
        return _open(health, ctx, f"failed again and again ({outcome.kind})")
    bad = sum(not ok for _, ok in health.window)
    if len(health.window) >= VOLUME and bad >= RATIO * len(health.window):
        return _open(health, ctx, f"{bad} of the last {len(health.window)} calls failed ({outcome.kind})")
    return _weigh(health, ctx)


def _succeeded(health: Health, ctx: _Context) -> Health:
    return _weigh(attrs.evolve(_tally(health, ctx, ok=True), streak=0), ctx)


def _weigh(health: Health, ctx: _Context) -> Health:
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


def _degrade(health: Health, ctx: _Context, reason: str) -> Health:
    """The failures in a row go on counting: degraded is a step on the way to open."""
    return attrs.evolve(_enter(health, State.DEGRADED, ctx.now, Cause.NONE, reason), streak=health.streak)


def _forget(health: Health, ctx: _Context) -> Health:
    """Healthy: each calm minute takes one opening off the count."""
    since = health.since if health.calm is None else health.calm
    calm = int((ctx.now - since) // CALM)
    if health.n == 0 or calm < 1:
        return health
    return attrs.evolve(health, n=max(health.n - calm, 0), calm=since + calm * CALM)


def _recover(health: Health, ctx: _Context) -> Health:
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


def _half_open(health: Health, ctx: _Context) -> Health:
    """The cause is kept until a trial has shown otherwise."""
    return _enter(health, State.HALF_OPEN, ctx.now, health.cause, health.reason)


def _open_ends(health: Health, ctx: _Context) -> Health:
    """After a hang no user is made to wait for a trial while the probe, which costs nobody anything, still fails."""
    if health.until is not None and ctx.now < health.until:
        return health
    failed = health.probe_failed
    if health.cause is Cause.TIMEOUTS and failed is not None and ctx.now - failed < PROBE_TRUST:
        return health
    return _half_open(health, ctx)


def _probe_opens(health: Health, ctx: _Context) -> Health:
    if ctx.now - health.since < PROBE_MIN_OPEN:
        return attrs.evolve(health, probes=0, probe_failed=None)
    return _half_open(health, ctx)


def _probe_fails(health: Health, ctx: _Context) -> Health:
    return attrs.evolve(health, probes=health.probes + 1, probe_failed=ctx.now)


def _last_resort(health: Health, ctx: _Context) -> Health:
    return _take_permit(_half_open(health, ctx), ctx)


def _take_permit(health: Health, ctx: _Context) -> Health:
    return health if health.trial else attrs.evolve(health, lease=ctx.now + LEASE, last_used=ctx.now)


def _return_permit(health: Health, ctx: _Context) -> Health:
    return attrs.evolve(health, lease=None) if ctx.trial and health.trial else health


def _lease_ends(health: Health, ctx: _Context) -> Health:
    """A new epoch: should the lost trial report after all, it must not return its successor's permit."""
    if health.lease is None or ctx.now < health.lease:
        return health
    return attrs.evolve(health, lease=None, epoch=health.epoch + 1)


def _trial_succeeded(health: Health, ctx: _Context) -> Health:
    if not ctx.trial:
        return health
    health = attrs.evolve(_return_permit(health, ctx), trials=health.trials + 1, rechecks=0, last_used=ctx.now)
    return _enter(health, State.RAMPING, ctx.now) if health.trials >= TRIALS else health


def _trial_failed(health: Health, ctx: _Context) -> Health:
    return _open(health, ctx, f"the trial failed ({ctx.outcome.kind if ctx.outcome else 'unknown'})")


def _ramp_succeeded(health: Health, ctx: _Context) -> Health:
    health = attrs.evolve(_tally(health, ctx, ok=True), streak=0, ramp_oks=health.ramp_oks + 1)
    return _ramp_ends(health, ctx)


def _ramp_failed(health: Health, ctx: _Context) -> Health:
    """Counted by number, not by weight: one slow answer does not undo a recovery."""
    health = attrs.evolve(_tally(health, ctx, ok=False), streak=health.streak + 1)
    return _open(health, ctx, "failed again while recovering") if health.streak >= RAMP_FAILS else health


def _ramp_ends(health: Health, ctx: _Context) -> Health:
    over = ctx.now - health.since >= RAMP and health.ramp_oks >= RAMP_OKS
    return _enter(health, State.HEALTHY, ctx.now) if over else health


_FATAL: Final[dict[Cls, tuple[Cause, float, float]]] = {
    Cls.AUTH: (Cause.AUTH, 60.0, 600.0),
    Cls.BILLING: (Cause.BILLING, 60.0, 600.0),
    Cls.CONFIG: (Cause.CONFIG, 5.0, 60.0),
}
"""Cause, first recheck, longest recheck (seconds; each doubles the one before)."""


def _disable(health: Health, ctx: _Context) -> Health:
    assert ctx.outcome is not None
    cause, first, longest = _FATAL[ctx.outcome.cls]
    pause = min(first * 2.0 ** min(health.rechecks, 10), longest)
    if cause is Cause.BILLING and ctx.outcome.retry_after is not None:
        pause = min(pause, ctx.outcome.retry_after)
    health = _enter(health, State.DISABLED, ctx.now, cause, f"{cause}: {ctx.outcome.kind}")
    return attrs.evolve(
        health, until=ctx.now + pause, rechecks=min(health.rechecks + 1, 10), window=(), ewma=1.0, samples=0
    )


def _recheck_failed(health: Health, ctx: _Context) -> Health:
    """Still disabled; asked again later."""
    if health.cause is Cause.OFF:
        return health
    first, longest = (5.0, 60.0) if health.cause is Cause.CONFIG else (60.0, 600.0)
    pause = min(first * 2.0 ** min(health.rechecks, 10), longest)
    return attrs.evolve(health, until=ctx.now + pause, rechecks=min(health.rechecks + 1, 10))


def _enable(health: Health, ctx: _Context) -> Health:
    """Whatever disabled it is gone, unless that was the operator."""
    return health if health.cause is Cause.OFF else _half_open(health, ctx)


def _switch_on(health: Health, ctx: _Context) -> Health:
    return _enter(health, State.HALF_OPEN, ctx.now, Cause.NONE, "switched on again")


def _switch_off(health: Health, ctx: _Context) -> Health:
    return health if health.cause is Cause.OFF else _enter(health, State.DISABLED, ctx.now, Cause.OFF, "switched off")


def _restarted(health: Health, ctx: _Context) -> Health:
    return _enter(health, State.HALF_OPEN, ctx.now, Cause.NONE, "restarted after a crash")


def _enable_after_crash(health: Health, ctx: _Context) -> Health:
    return _restarted(health, ctx) if health.cause is Cause.CRASH_LOOP else health


def _give_up(health: Health, ctx: _Context) -> Health:
    pause = min(OPEN_FIRST * 2.0 ** min(health.rechecks, 10), OPEN_MAX)
    health = _enter(health, State.DISABLED, ctx.now, Cause.CRASH_LOOP, "crashed too often")
    return attrs.evolve(health, until=ctx.now + pause, rechecks=min(health.rechecks + 1, 10))


def _give_up_disabled(health: Health, ctx: _Context) -> Health:
    return health if health.cause is Cause.OFF else _give_up(health, ctx)


# ------------------------------------------------------------------------------------------------------------ the table


@attrs.frozen
class Rule:
    """A cell: the states it may lead to (none: it stays), in words when it does, and the move itself."""

    to: tuple[State, ...]
    when: str
    act: Callable[[Health, _Context], Health] = attrs.field(repr=False)


_STAY = Rule((), "", _stay)
_DISABLE = Rule((State.DISABLED,), "", _disable)
_OFF_CELL = Rule((State.DISABLED,), "", _switch_off)
_GIVE_UP = Rule((State.DISABLED,), "", _give_up)
_RESTART = Rule((State.HALF_OPEN,), "", _restarted)

_IN_SERVICE: Final[dict[Signal, Rule]] = {
    Signal.BEGAN: _STAY,
    Signal.NEUTRAL: _STAY,
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
            (State.OPEN, State.DEGRADED), "k in a row or half of 8: open; average < 0.8: degraded", _failed
        ),
    },
    State.DEGRADED: {
        **_IN_SERVICE,
        Signal.TIME: Rule((State.HEALTHY,), "well for 30 s, or unused for 60 s", _recover),
        Signal.OK: Rule((), "", _succeeded),
        Signal.FAIL: Rule((State.OPEN,), "k in a row or half of 8", _failed),
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
        Signal.FATAL: Rule((), "the recheck failed: later", _recheck_failed),
        Signal.PROBE_OK: Rule((State.HALF_OPEN,), "unless switched off", _enable),
        Signal.PROBE_FAIL: Rule((), "later", _recheck_failed),
        Signal.RECHECK: Rule((State.HALF_OPEN,), "unless switched off", _enable),
        Signal.OFF: Rule((State.DISABLED,), "", _switch_off),
        Signal.ON: Rule((State.HALF_OPEN,), "", _switch_on),
        Signal.RESTARTED: Rule((State.HALF_OPEN,), "after a crash loop", _enable_after_crash),
        Signal.GAVE_UP: Rule((State.DISABLED,), "unless switched off", _give_up_disabled),
    },
}


# ------------------------------------------------------------------------------------------------------------ the doors


class _NoChance:
    """Time alone draws no lots."""

    def random(self) -> float:
        raise AssertionError("time alone decides nothing by chance")


_NO_CHANCE: Final = _NoChance()


def observe(health: Health, now: float) -> Health:
    """What time alone has changed by `now`; the same object when nothing."""
    return TABLE[health.state][Signal.TIME].act(health, _Context(now, _NO_CHANCE))


def step(health: Health, event: Event, now: float, rng: Rng, *, spare: bool = True, sole: bool = False) -> Health:
    """The health after `event`; the same object when nothing changed.

    `spare`: another lane could serve, so that three failures in a row suffice instead of five. `sole`: this is the
    only lane of anybody's chain that can do it, so that it is open for five seconds at most.
    """
    health = observe(health, now)
    health, signal, ctx = _read(health, event, _Context(now, rng, spare=spare, sole=sole))
    return health if signal is None else TABLE[health.state][signal].act(health, ctx)


def _read(health: Health, event: Event, ctx: _Context) -> tuple[Health, Signal | None, _Context]:
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


def _read_answering(health: Health, event: Answering, ctx: _Context) -> tuple[Health, Signal | None, _Context]:
    """Only a trial is settled by its first token; for the others the terminal event is the success."""
    if event.latency is not None and health.scope is Scope.LANE:
        health = attrs.evolve(health, first=health.first.add(event.latency, ctx.now, learn=_learns(health, ctx.now)))
    settled = event.trial and event.epoch == health.epoch
    return health, Signal.OK if settled else None, attrs.evolve(ctx, trial=event.trial)


def _read_finished(health: Health, event: Finished, ctx: _Context) -> tuple[Health, Signal | None, _Context]:
    outcome = event.outcome
    if event.latency is not None and health.scope is Scope.LANE:
        health = attrs.evolve(health, answer=health.answer.add(event.latency, ctx.now, learn=_learns(health, ctx.now)))
    if outcome.ok:
        health = attrs.evolve(health, last_ok=ctx.now, gates=0)
    elif outcome.cls in (Cls.RATE, Cls.OVERLOAD) and outcome.scope is health.scope:
        health = _close_gate(health, outcome, ctx)
    if event.epoch != health.epoch:
        return health, None, ctx
    return health, _signal(health, event, ctx.now), attrs.evolve(ctx, outcome=outcome, trial=event.trial)


def _learns(health: Health, now: float) -> bool:
    """A degraded lane's latencies are the symptom, not the custom; unless they have become it."""
    return health.state is not State.DEGRADED or now - health.since >= NEW_NORMAL


def _close_gate(health: Health, outcome: Outcome, ctx: _Context) -> Health:
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
    if event.offline or outcome.scope is not health.scope:
        return Signal.NEUTRAL
    if outcome.cls in _FATAL:
        served = health.last_ok is not None and now - health.last_ok < RECENT_OK
        return Signal.FAIL if served and outcome.kind in _DEPLOY else Signal.FATAL
    return Signal.FAIL if outcome.cls in (Cls.TRANSIENT, Cls.OVERLOAD) else Signal.NEUTRAL


def _probe_signal(outcome: Outcome) -> Signal | None:
    """A rate limit is a sign of life; a wrong key is one everywhere."""
    if outcome.cls in (Cls.OK, Cls.RATE):
        return Signal.PROBE_OK
    if outcome.cls in (Cls.AUTH, Cls.BILLING):
        return Signal.FATAL
    return None if outcome.cls in (Cls.LOCAL, Cls.CANCELLED) else Signal.PROBE_FAIL


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
        return Admission(Admit.GATED, f"asked for a pause, {_left(health.gate_until, now)}", health.gate_until)
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
    gate = f"asked for a pause, {_left(health.gate_until, now)}" if health.gated(now) else ""
    match health.state:
        case State.HEALTHY:
            return gate
        case State.DEGRADED:
            text = health.reason
        case State.OPEN:
            text = f"{health.reason}; next trial {_left(health.until, now)}"
        case State.HALF_OPEN:
            text = f"on trial: {health.reason}" if health.reason else "on trial"
        case State.RAMPING:
            text = f"recovering since {now - health.since:.0f} s"
        case State.DISABLED:
            text = health.reason if health.until is None else f"{health.reason}; recheck {_left(health.until, now)}"
        case _:
            assert_never(health.state)
    return f"{text}; {gate}" if gate else text


def _left(until: float | None, now: float) -> str:
    return f"in {max((until or now) - now, 0.0):.1f} s"


def next_probe(health: Health, rng: Rng) -> float | None:
    """When a token-free probe of this lane is due (seconds, same clock); None while it needs none.

    A disabled one at its recheck time, an open one after 10 s, doubling up to 60 s, +-20 %.
    """
    if health.state is State.DISABLED:
        return health.until
    if health.state is not State.OPEN:
        return None
    since = health.since if health.probe_failed is None else health.probe_failed
    return since + min(10.0 * 2.0 ** min(health.probes, 10), 60.0) * (0.8 + 0.4 * rng.random())


def diagram() -> str:
    """The table as a mermaid state diagram, for a README."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.HEALTHY}"]
    for state, row in TABLE.items():
        for signal, rule in row.items():
            label = f"{signal}: {rule.when}" if rule.when else f"{signal}"
            lines += [f"    {state} --> {to}: {label}" for to in rule.to if to is not state]
    return "\n".join(lines)
