"""What a provider knows of itself: the health of its endpoint and lanes, who is inside, limits and retry tokens.

It decides who is let in and learns from how each call ends. Pure but for its own state: the clock is an argument, the
dice were given at birth, and nothing is awaited.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from cortex import budget as budgets
from cortex import health, limits
from cortex.budget import Budget
from cortex.health import Admit, Health
from cortex.limits import Limit
from cortex.messages import Failure, Kind, Phase
from cortex.outcomes import Cls, Outcome, Rng, Scope, free_retry
from cortex.protocol import Call, LaneState, Refused, Snapshot
from cortex.routing import Lane

MAX_LANES = 256
"""Models remembered per provider; the one unused for longest leaves first."""

SILENCE_SECONDS = 0.5
"""A shorter wait in vain means nothing at all; nor does one shorter than twice what is usual for the lane."""

PROBE_PAUSE = 0.1
"""Seconds between two probes at the least, whatever is due."""


@attrs.define(eq=False)
class Running:
    """A call that was let in, with the epochs it began in.

    `trial`: it holds the one permit. `told`: its first token has come and been reported. `fair`: it has time enough
    for a verdict on a provider that stays silent. `notes`: what of the request the dialect could not carry.
    """

    call: Call
    lane_epoch: int
    endpoint_epoch: int
    trial: bool
    began: float
    told: bool = False
    fair: bool = True
    notes: tuple[str, ...] = ()

    @property
    def lane(self) -> Lane:
        """Where it goes."""
        return self.call.picked.lane


@attrs.define(eq=False)
class Ward:
    """The state of one provider. `max_concurrency` is the user's own limit per lane."""

    name: str
    rng: Rng
    endpoint: Health
    budget: Budget
    max_concurrency: int | None = None
    enabled: bool = True
    lanes: dict[Lane, LaneState] = attrs.field(factory=dict)
    in_flight: int = 0
    seen: int = 0
    unreached_at: float = float("-inf")
    answered_at: float = float("-inf")

    @classmethod
    def new(cls, name: str, rng: Rng, now: float, *, max_concurrency: int | None = None, enabled: bool = True) -> Ward:
        """Healthy until shown otherwise."""
        return cls(name, rng, Health.new(now, Scope.ENDPOINT), Budget.new(now), max_concurrency, enabled)

    def take_up(self, kept: Snapshot, now: float) -> None:
        """Go on from what an earlier incarnation left: its health counts, its calls and permits are gone."""
        self.endpoint, self.budget, self.enabled, self.seen = kept.endpoint, kept.budget, kept.enabled, kept.seen
        self.lanes = {lane: attrs.evolve(state, in_flight=0) for lane, state in kept.lanes.items()}
        self.tell(health.Restarted(), now)

    def snapshot(self) -> Snapshot:
        """All that others may know."""
        return Snapshot(
            self.name,
            self.endpoint,
            dict(self.lanes),
            self.budget,
            self.in_flight,
            self.seen,
            self.enabled,
            self.unreached_at,
            self.answered_at,
        )

    # ---- events that are no call's

    def tell(self, event: health.Event, now: float, *, only: Callable[[Health], bool] | None = None) -> None:
        """The same event to the endpoint and every lane, or to those that `only` names."""
        if only is None or only(self.endpoint):
            self.endpoint = health.step(self.endpoint, event, now, self.rng)
        for lane, state in self.lanes.items():
            if only is None or only(state.health):
                self.lanes[lane] = attrs.evolve(state, health=health.step(state.health, event, now, self.rng))

    def rechecked(self, event: health.Event, now: float) -> None:
        """What a probe found out, to whatever was due for it."""
        self.tell(
            event,
            now,
            only=lambda one: (
                _is_probed(one) and (one.state is health.State.OPEN or (one.until is not None and one.until <= now))
            ),
        )

    def probe_due(self, now: float) -> float | None:
        """When the next probe is due; None while there is nothing that one could heal."""
        every = [self.endpoint, *(state.health for state in self.lanes.values())]
        dues = [health.next_probe(one, now, self.rng) for one in every if _is_probed(one)]
        return min((max(due, now + PROBE_PAUSE) for due in dues if due is not None), default=None)

    # ---- admission

    def admit(self, call: Call, now: float) -> Running | Refused:
        """Let the call in, which must be settled in the end, or say why not: the pick may be stale."""
        picked = call.picked
        self.seen = max(self.seen, picked.number)
        state = self._state_of(picked.lane, now)
        admission = health.admit(
            health.worse(state.health, self.endpoint),
            now,
            in_flight=state.in_flight,
            limit=limits.ceiling(state.limit, now),
            last_resort=picked.trial,
        )
        if admission.refused:
            return Refused(admission.reason)
        if admission.verdict is Admit.TRIAL and (state.health.trial or self.endpoint.trial):
            return Refused("a trial is out")  # of the two, the one that is less ill has lent its permit
        if not limits.has_slot(state.limit, state.in_flight, now):
            return Refused("all its slots are taken")
        if call.retried:
            self.budget, allowed = budgets.spend(self.budget, now)
            if not allowed:
                return Refused("its retry budget is spent", spent=True)
        return self._let_in(call, state, now, trial=admission.verdict is Admit.TRIAL)

    def _let_in(self, call: Call, state: LaneState, now: float, *, trial: bool) -> Running:
        began = health.Began(trial=trial)
        self.endpoint = health.step(self.endpoint, began, now, self.rng)
        lane_health = health.step(state.health, began, now, self.rng)
        self.lanes[call.picked.lane] = LaneState(lane_health, state.limit, state.in_flight + 1)
        self.in_flight += 1
        return Running(call, lane_health.epoch, self.endpoint.epoch, trial, now)

    def _state_of(self, lane: Lane, now: float) -> LaneState:
        """The lane's state, moved to the young end; a new lane may push the oldest idle one out."""
        state = self.lanes.pop(lane, None)
        if state is None:
            state = LaneState(Health.new(now), Limit(configured=self.max_concurrency))
            idle = [old for old, its in self.lanes.items() if not its.in_flight]
            for old in idle[: max(0, len(self.lanes) + 1 - MAX_LANES)]:
                del self.lanes[old]
        self.lanes[lane] = state
        return state

    # ---- what a call teaches

    def first_token(self, running: Running, now: float) -> None:
        """The first token of a stream is what a trial was for: it counts now, not minutes later at the end."""
        running.told = True
        latency = now - running.began
        self._apply(running, now, lambda epoch: health.Answering(epoch, trial=running.trial, latency=latency))

    def settle(self, running: Running, outcome: Outcome, failure: Failure | None, now: float) -> None:
        """Apply what the call taught, and give everything back."""
        verdict = outcome
        if failure is not None and _harmless(failure, fair=running.fair):
            verdict = attrs.evolve(outcome, cls=Cls.LOCAL, scope=Scope.NONE)
        latency = now - running.began if outcome.ok and running.call.emit is None else None
        trial, offline = running.trial and not running.told, running.call.picked.offline
        silent = None if offline else self._silence(running, failure, outcome, now)
        self._apply(
            running,
            now,
            lambda epoch: health.Finished(verdict, epoch, trial=trial, latency=latency, offline=offline, silent=silent),
        )
        state = self.lanes[running.lane]
        self.lanes[running.lane] = LaneState(state.health, _learned(state, outcome, now), state.in_flight - 1)
        self.in_flight -= 1
        self._note_contact(failure, outcome, now)
        self._settle_budget(running, outcome, now)

    def _silence(self, running: Running, failure: Failure | None, outcome: Outcome, now: float) -> float | None:
        """The seconds in which nothing came, when they mean something though they are too few to blame: ended by an
        attempt's own timer, or by the caller's deadline."""
        waited = now - running.began
        known = self.lanes[running.lane].health
        usual = (known.answer if running.call.emit is None else known.first).quantile(0.95)
        if running.told or waited < max(SILENCE_SECONDS, 2 * (usual or 0.0)):
            return None
        if outcome.cls is Cls.CANCELLED:
            in_vain = now >= running.call.deadline
        else:
            in_vain = failure is not None and failure.kind is Kind.TIMEOUT_FIRST and not running.fair
        return waited if in_vain else None

    def _apply(self, running: Running, now: float, event: Callable[[int], health.Event]) -> None:
        """The same event to the endpoint and to the lane, each with the epoch this call began in there."""
        picked = running.call.picked
        spare, sole = picked.spares > 0, picked.sole
        self.endpoint = health.step(self.endpoint, event(running.endpoint_epoch), now, self.rng, spare=spare, sole=sole)
        state = self.lanes[picked.lane]
        stepped = health.step(state.health, event(running.lane_epoch), now, self.rng, spare=spare, sole=sole)
        self.lanes[picked.lane] = LaneState(stepped, state.limit, state.in_flight)

    def _note_contact(self, failure: Failure | None, outcome: Outcome, now: float) -> None:
        """When it last said anything, and when it last could not be reached: so a dead network of ours is told."""
        if failure is None or failure.status is not None:
            self.answered_at = now
        elif outcome.cls is Cls.TRANSIENT and failure.phase is Phase.NOT_SENT:
            self.unreached_at = now

    def _settle_budget(self, running: Running, outcome: Outcome, now: float) -> None:
        if running.call.retried:
            self.budget = budgets.settle(self.budget, now, ok=outcome.ok)
        elif outcome.ok:
            self.budget = budgets.earn(self.budget, now)


def _is_probed(one: Health) -> bool:
    """What is disabled, and an address that is down. A list of models tells whether somebody is there and takes the
    key, and nothing of a model that fails: its lane is tried by a call when its time has come."""
    is_down = one.state is health.State.OPEN and one.scope is Scope.ENDPOINT
    return is_down or one.state is health.State.DISABLED


def _learned(state: LaneState, outcome: Outcome, now: float) -> Limit:
    if outcome.ok:
        return limits.succeeded(state.limit, state.in_flight, now)
    if outcome.cls in (Cls.RATE, Cls.OVERLOAD):
        round_trip = state.health.answer.expected(now)
        return limits.objected(state.limit, state.in_flight, now, round_trip=round_trip)
    return state.limit


def _harmless(failure: Failure, *, fair: bool) -> bool:
    """Whether a failure says nothing about the provider: the usual race of a kept-alive connection, or a silence no
    longer than the caller's hurry."""
    return (failure.reused and free_retry(failure)) or (failure.kind is Kind.TIMEOUT_FIRST and not fair)
