"""One provider: it owns its client, the health of its endpoint and lanes, and its permits, and it alone judges calls.

A call is admitted or refused at once, then served in a task of its own; so calls run side by side and a permit lives
exactly as long as the call that holds it. Whatever a call teaches is applied and published to the router before the
call is answered: the next pick knows it. An exception of ours in one call ends that call; three within a minute crash
the actor on purpose, since a fresh client is the cure for a poisoned one. Health survives: the snapshot is kept.
"""

from __future__ import annotations

import logging
import traceback
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import httpx
import trio

import actors
from cortex import budget as budgets
from cortex import catalog, health, limits, timers
from cortex.budget import Budget
from cortex.circuit import FATAL
from cortex.clients import new_client
from cortex.config import ProviderConfig
from cortex.errors import ConfigError
from cortex.exchange import Exchanged, exchange
from cortex.health import Admit, Health
from cortex.keys import Keys
from cortex.limits import Limit
from cortex.messages import Answer, Failure, Kind, Phase, StreamEvent
from cortex.outcomes import Cls, Outcome, Scope, classify, free_retry
from cortex.policy import Policy
from cortex.protocol import Call, LaneState, ProviderRecheck, ProviderSwitch, Publish, Refused, Served, Snapshot
from cortex.routing import Lane
from cortex.timers import Chance, Timers
from cortex.wire import WIRES
from cortex.wire.codec import Target
from cortex.wire.faults import scrub

logger = logging.getLogger("cortex")

MAX_LANES = 256
"""Models remembered per provider; the one unused for longest leaves first."""

POISON_COUNT, POISON_WINDOW = 3, 60.0
"""So many faults of ours within so many seconds: the client is poisoned, start afresh."""

PROBE_SECONDS = 5.0
"""How long a token-free question may take."""


_DISABLING = frozenset({Cls.AUTH, Cls.BILLING, Cls.CONFIG})


class PoisonedError(Exception):
    """Raised on purpose: too many faults of our own."""


@attrs.define(eq=False)
class _Running:
    """A call that was let in, with the epochs it began in.

    `trial`: it holds the one permit. `charged`: a retry token was spent for it. `told`: its first token has come and
    been reported. `fair`: it has time enough for a verdict on a provider that stays silent.
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
        return self.call.picked.lane

    @property
    def charged(self) -> bool:
        return self.call.retried


class Provider(actors.Actor[Call | Publish | ProviderRecheck | ProviderSwitch]):
    """The actor of one configured provider."""

    def __init__(
        self,
        config: ProviderConfig,
        policy: Policy,
        router: actors.ActorRef[Any],
        transport: httpx.AsyncBaseTransport | None,
        last: Snapshot | None,
    ) -> None:
        self._config = config
        self._policy = policy
        self._router = router
        self._given = transport
        self._last = last
        self._wire = WIRES[config.kind]
        self._lanes: dict[Lane, LaneState] = {}
        self._endpoint: Health
        self._budget: Budget
        self._enabled = config.enabled
        self._in_flight = 0
        self._seen = 0
        self._unreached_at = self._answered_at = float("-inf")
        self._faults: deque[float] = deque(maxlen=POISON_COUNT)
        self._keys = Keys(config.api_key)
        self._probe_wanted = trio.Event()
        self._client: httpx.AsyncBaseTransport

    # ---- life

    async def on_start(self) -> None:
        """Open the client (no connection is made), and take up the health that an earlier incarnation left."""
        now = trio.current_time()
        if self._given is not None:
            self._client = self._given  # the user's: opened and closed by the user
        else:
            self._client = await self.ctx.enter(await new_client(self._config))
        kept: Snapshot | None = self.ctx.kept or self._last
        if kept is None:
            self._endpoint = Health.new(now, Scope.ENDPOINT)
            self._budget = Budget.new(now)
        else:
            self._endpoint = self._step(kept.endpoint, health.Restarted())
            self._lanes = {
                lane: attrs.evolve(state, health=self._step(state.health, health.Restarted()), in_flight=0)
                for lane, state in kept.lanes.items()
            }
            self._budget, self._enabled, self._seen = kept.budget, kept.enabled, kept.seen
        self._publish()
        self.ctx.spawn(self._probe_forever)

    def _step(self, of: Health, event: health.Event, *, spare: bool = True, sole: bool = False) -> Health:
        return health.step(of, event, trio.current_time(), self.ctx.rng, spare=spare, sole=sole)

    def _publish(self) -> None:
        snapshot = Snapshot(
            self._config.name,
            self._endpoint,
            dict(self._lanes),
            self._budget,
            self._in_flight,
            self._seen,
            self._enabled,
            self._unreached_at,
            self._answered_at,
        )
        self.ctx.keep(snapshot)
        self._router.publish(self._config.name, snapshot)

    @actors.handle
    def publish(self, message: Publish) -> None:  # noqa: ARG002 - the message is all it says
        """A router that was restarted knows nothing yet."""
        self._publish()

    @actors.handle
    def recheck(self, message: ProviderRecheck) -> None:  # noqa: ARG002
        """What was wrong has been mended: the next call tries it; a cached key is forgotten."""
        self._keys.forget()
        self._both(health.Recheck())

    @actors.handle
    def switch(self, message: ProviderSwitch) -> None:
        """By hand: out of the picks, or back."""
        self._enabled = message.enabled
        self._both(health.Switched(message.enabled))

    def _both(self, event: health.Event) -> None:
        self._endpoint = self._step(self._endpoint, event)
        for lane, state in self._lanes.items():
            self._lanes[lane] = attrs.evolve(state, health=self._step(state.health, event))
        self._probe_wanted.set()
        self._publish()

    # ---- admission

    @actors.handle
    def call(self, message: Call) -> Refused | None:
        """Refuse at once, or serve in a task of its own."""
        admitted = self._admit(message)
        self._publish()  # also of a call that was let in: the router must know what is in flight
        if isinstance(admitted, Refused):
            return admitted
        self.ctx.spawn(self._serve, admitted, reply=self.ctx.defer())
        return None

    def _admit(self, call: Call) -> _Running | Refused:
        now, picked = trio.current_time(), call.picked
        self._seen = max(self._seen, picked.number)
        state = self._state_of(picked.lane, now)
        admission = health.admit(
            health.worse(state.health, self._endpoint),
            now,
            in_flight=state.in_flight,
            limit=limits.ceiling(state.limit, now),
            last_resort=picked.trial,
        )
        if admission.refused:
            return Refused(admission.reason)
        if not limits.has_slot(state.limit, state.in_flight, now):
            return Refused("all its slots are taken")
        if call.retried:
            self._budget, allowed = budgets.spend(self._budget, now)
            if not allowed:
                return Refused("its retry budget is spent", spent=True)
        return self._let_in(call, state, now, trial=admission.verdict is Admit.TRIAL)

    def _let_in(self, call: Call, state: LaneState, now: float, *, trial: bool) -> _Running:
        began = health.Began(trial=trial)
        self._endpoint = self._step(self._endpoint, began)
        lane_health = self._step(state.health, began)
        self._lanes[call.picked.lane] = LaneState(lane_health, state.limit, state.in_flight + 1)
        self._in_flight += 1
        return _Running(call, lane_health.epoch, self._endpoint.epoch, trial, now)

    def _state_of(self, lane: Lane, now: float) -> LaneState:
        """The lane's state, moved to the young end; a new lane may push the oldest idle one out."""
        state = self._lanes.pop(lane, None)
        if state is None:
            state = LaneState(Health.new(now), Limit(configured=self._config.max_concurrency))
            idle = [old for old, its in self._lanes.items() if not its.in_flight]
            for old in idle[: max(0, len(self._lanes) + 1 - MAX_LANES)]:
                del self._lanes[old]
        self._lanes[lane] = state
        return state

    # ---- one call

    async def _serve(self, running: _Running) -> Served:
        """Make the exchange and judge it. What the call holds goes back however this ends."""
        exchanged = _CANCELLED
        try:
            exchanged = await self._exchange(running)
        except Exception as error:
            exchanged = Exchanged(self._fault("a call", error))
        finally:
            outcome = classify(exchanged.result if isinstance(exchanged.result, Failure) else None)
            self._settle(running, outcome, exchanged)
        duration = trio.current_time() - running.began
        return Served(exchanged.result, outcome, duration, exchanged.first_token, running.notes)

    def _fault(self, what: str, error: Exception) -> Failure:
        """An exception of our own, told in the log. What it quotes may be anything, a header with its key too."""
        target = self._target(_NO_LANE, self._keys.last)
        lines = "".join(traceback.format_exception(error)).splitlines()
        shown = "\n".join(line[: len(line) - len(line.lstrip())] + scrub(line, target) for line in lines)
        logger.error("a fault of cortex itself in %s of %s:\n%s", what, self._config.name, shown)
        return Failure(Kind.LOCAL, f"{type(error).__name__}: {scrub(str(error), target)}", phase=Phase.SENT)

    async def _exchange(self, running: _Running) -> Exchanged:
        caller = running.call.caller
        key = await self._keys.get(caller)
        if isinstance(key, Failure):
            return Exchanged(key)
        exchanged = await self._send(running, key)
        failure = exchanged.result
        if not (isinstance(failure, Failure) and failure.kind is Kind.CREDENTIAL and self._keys.rotates):
            return exchanged
        # A rotated key needs no restart: ask for it again, and if it is another one, use it at once.
        self._keys.forget(key)
        fresh = await self._keys.get(caller)
        return exchanged if fresh == key or isinstance(fresh, Failure) else await self._send(running, fresh)

    async def _send(self, running: _Running, key: str | None) -> Exchanged:
        call, target = running.call, self._target(running.lane, key)
        try:
            http = self._wire.encode(call.request, target)
        except ConfigError as error:  # what the user passed cannot be written down, for nobody
            return Exchanged(Failure(Kind.BAD_REQUEST, str(error), phase=Phase.NOT_SENT))
        running.notes = http.notes
        budget = self._timers(running, len(http.body))
        running.fair = budget.first.fair
        emit = None if call.emit is None else self._telling(running, call.emit)
        return await exchange(self._client, self._wire, target, http, budget, emit)

    def _telling(
        self, running: _Running, emit: Callable[[StreamEvent], Awaitable[None]]
    ) -> Callable[[StreamEvent], Awaitable[None]]:
        """The first token of a stream is what a trial was for: report it then, not minutes later at the end."""

        async def emit_and_tell(event: StreamEvent) -> None:
            if not running.told:
                running.told = True
                latency = trio.current_time() - running.began
                self._apply(running, lambda epoch: health.Answering(epoch, trial=running.trial, latency=latency))
                self._publish()
            await emit(event)

        return emit_and_tell

    def _apply(self, running: _Running, event: Callable[[int], health.Event]) -> None:
        """The same event to the endpoint and to the lane, each with the epoch this call began in there."""
        picked = running.call.picked
        spare, sole = picked.spares > 0, picked.sole
        self._endpoint = self._step(self._endpoint, event(running.endpoint_epoch), spare=spare, sole=sole)
        state = self._lanes[picked.lane]
        stepped = self._step(state.health, event(running.lane_epoch), spare=spare, sole=sole)
        self._lanes[picked.lane] = LaneState(stepped, state.limit, state.in_flight)

    def _settle(self, running: _Running, outcome: Outcome, exchanged: Exchanged) -> None:
        """Apply what the call taught, give everything back, publish."""
        now = trio.current_time()
        failure = exchanged.result if isinstance(exchanged.result, Failure) else None
        harmless = failure is not None and _harmless(failure, fair=running.fair)
        verdict = attrs.evolve(outcome, cls=Cls.LOCAL, scope=Scope.NONE) if harmless else outcome
        latency = now - running.began if outcome.ok and running.call.emit is None else None
        trial, offline = running.trial and not running.told, running.call.picked.offline
        self._apply(
            running, lambda epoch: health.Finished(verdict, epoch, trial=trial, latency=latency, offline=offline)
        )
        state = self._lanes[running.lane]
        self._lanes[running.lane] = LaneState(state.health, self._learned(state, outcome, now), state.in_flight - 1)
        self._in_flight -= 1
        self._note_contact(failure, outcome, now)
        self._settle_budget(running, outcome, now)
        if outcome.cls in FATAL:
            self._probe_wanted.set()
        self._publish()
        if outcome.cls is Cls.LOCAL:
            self._note_fault(now, failure)

    def _note_contact(self, failure: Failure | None, outcome: Outcome, now: float) -> None:
        """When it last said anything, and when it last could not be reached: so a dead network of ours is told."""
        if failure is None or failure.status is not None:
            self._answered_at = now
        elif outcome.cls is Cls.TRANSIENT and failure.phase is Phase.NOT_SENT:
            self._unreached_at = now

    def _settle_budget(self, running: _Running, outcome: Outcome, now: float) -> None:
        if running.charged:
            self._budget = budgets.settle(self._budget, now, ok=outcome.ok)
        elif outcome.ok:
            self._budget = budgets.earn(self._budget, now)

    @staticmethod
    def _learned(state: LaneState, outcome: Outcome, now: float) -> Limit:
        if outcome.ok:
            return limits.succeeded(state.limit, state.in_flight, now)
        if outcome.cls in (Cls.RATE, Cls.OVERLOAD):
            round_trip = state.health.answer.expected(now)
            return limits.objected(state.limit, state.in_flight, now, round_trip=round_trip)
        return state.limit

    def _note_fault(self, now: float, failure: Failure | None) -> None:
        self._faults.append(now)
        if len(self._faults) == POISON_COUNT and now - self._faults[0] <= POISON_WINDOW:
            words = failure.message if failure is not None else ""
            # In a task without a reply, since that is what crashes an actor.
            self.ctx.spawn(_crash, f"{POISON_COUNT} faults of ours within {POISON_WINDOW:.0f} s, the last: {words}")
            self._faults.clear()

    def _target(self, lane: Lane, key: str | None) -> Target:
        config = self._config
        return Target(config.name, config.base_url, lane.upstream, key, config.headers, config.options)

    def _timers(self, running: _Running, size: int) -> Timers:
        config, policy = self._config, self._policy
        reasoning = catalog.reasoning(running.lane.model)
        progress = config.timeout or (timers.PROGRESS_REASONING if reasoning else policy.progress_timeout)
        return Timers(
            policy.connect_timeout, self._chance(running, reasoning=reasoning), progress, timers.write_budget(size)
        )

    def _chance(self, running: _Running, *, reasoning: bool) -> Chance:
        """How long it may be silent: for JSON until the whole answer, for a stream until its first token."""
        call, config = running.call, self._config
        remaining = max(call.deadline - trio.current_time(), 0.0)
        spares = call.picked.spares
        lane_health = self._lanes[running.lane].health
        if call.emit is None:
            usual = lane_health.answer
            chance = timers.answer_budget(remaining=remaining, spares=spares, configured=config.timeout)
        else:
            usual = lane_health.first
            chance = timers.first_token_budget(
                remaining=remaining,
                spares=spares,
                configured=config.timeout or self._policy.first_token_timeout,
                p95=usual.quantile(0.95),
                reasoning=reasoning,
                local=config.kind == "local",
            )
        return timers.trial_budget(usual.quantile(0.5), chance) if running.trial and spares else chance

    # ---- healing

    async def _probe_forever(self) -> None:
        """Ask, free of tokens, whether what is disabled has been mended; nobody's call pays for finding out."""
        while True:
            self._probe_wanted = trio.Event()
            due = self._probe_due()
            with trio.move_on_at(due if due is not None else float("inf")):
                await self._probe_wanted.wait()
                continue
            outcome = await self._probe()
            self._both_disabled(health.ProbeFinished(outcome) if outcome is not None else health.Recheck())

    def _probe_due(self) -> float | None:
        now = trio.current_time()
        every = [self._endpoint, *(state.health for state in self._lanes.values())]
        dues = [
            max(due, now + 0.1)
            for one in every
            if one.state is health.State.DISABLED and (due := health.next_probe(one, now, self.ctx.rng)) is not None
        ]
        return min(dues, default=None)

    def _both_disabled(self, event: health.Event) -> None:
        now = trio.current_time()

        def due(one: Health) -> bool:
            return one.state is health.State.DISABLED and one.until is not None and one.until <= now

        if due(self._endpoint):
            self._endpoint = self._step(self._endpoint, event)
        for lane, state in self._lanes.items():
            if due(state.health):
                self._lanes[lane] = attrs.evolve(state, health=self._step(state.health, event))
        self._publish()

    async def _probe(self) -> Outcome | None:
        """The outcome of a token-free question; None where this server has no such question to ask."""
        if self._keys.needs_caller:
            return None  # only a caller's loop can run it: let a call try
        self._keys.forget()  # it may have been rotated since
        try:
            key = await self._keys.get(None)
            if isinstance(key, Failure):
                return classify(key)
            target = self._target(_NO_LANE, key)
            http = self._wire.probe(target)
            budget = Timers(self._policy.connect_timeout, Chance(PROBE_SECONDS), PROBE_SECONDS, PROBE_SECONDS)
            exchanged = await exchange(self._client, self._wire, target, http, budget, None)
        except Exception as error:
            return classify(self._fault("a probe", error))
        return _probed(exchanged.result)


_NO_LANE = Lane("", "", "")
"""Where a request is about no model."""

_CANCELLED = Exchanged(Failure(Kind.CANCELLED, "the caller left", phase=Phase.SENT))


def _harmless(failure: Failure, *, fair: bool) -> bool:
    """Whether a failure says nothing about the provider: the usual race of a kept-alive connection, or a silence no
    longer than the caller's hurry."""
    return (failure.reused and free_retry(failure)) or (failure.kind is Kind.TIMEOUT_FIRST and not fair)


def _probed(result: Answer | Failure) -> Outcome | None:
    if isinstance(result, Answer):
        return classify(None)
    if result.status in (404, 405):
        return None
    # Alive: a list of models is no answer of this dialect, and need not be.
    alive = result.status is not None and 200 <= result.status < 300
    return classify(None if alive else result)


async def _crash(why: str) -> None:
    raise PoisonedError(why)
