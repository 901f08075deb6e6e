"""What is measured of one lane, or of one endpoint: the values the circuit works on."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Final

import attrs

from cortex.outcomes import Scope

PRIOR: Final = 1.5  # the latency of a lane nobody has measured
TAU: Final = 60.0  # decay of the peak latency (Finagle's Peak-EWMA)
RING: Final = 50  # latencies kept
RECENT: Final = 10  # the last ones, compared with the others: ...
SLOW_SHARE: Final = 8  # ... so many of them ...
SLOW_FACTOR: Final = 3.0  # ... above so many times the p95 of the others ...
BASELINE: Final = 20  # ... of which there must be so many


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

    def longer_than(self, seconds: float, now: float) -> Latency:
        """After a wait in vain: no sample, but an answer takes no less."""
        return attrs.evolve(self, peak=max(seconds, self.expected(now)), at=now)

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


@attrs.frozen
class Health:
    """What is known of one lane or endpoint. All times are seconds of the caller's clock.

    `epoch` counts changes of state; an attempt carries the one it began in. `n` counts openings, forgotten one by
    one in calm. `since`: start of the state; `until`: end of an opening, or the next recheck of a disabled one;
    `cause`, `reason`: why. `streak`: failures in a row by weight; `window`: (time, ok) of the last outcomes;
    `ewma`, `samples`: success average; `silences`: waits in vain in a row, each shorter than a fair chance; `calm`:
    since when a degraded one looks well, or when `n` was last changed. `gate_until`: no call before that; `gates`:
    rate limits in a row. `lease`: the trial's permit is out until then; `trials`, `ramp_oks`: successes of this
    half-open state and this ramp. `probes`: probes failed in a row, the last at `probed`; `probe_dead`: it found
    nobody. `rechecks`: times disabled in a row. `last_ok`, `last_used`: the last success and the last outcome that
    counted. `first`, `answer`: latency to the first token, and of whole JSON answers.
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
    silences: int = 0
    calm: float | None = None
    gate_until: float | None = None
    gates: int = 0
    lease: float | None = None
    trials: int = 0
    ramp_oks: int = 0
    probes: int = 0
    probed: float | None = None
    probe_dead: bool = False
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
