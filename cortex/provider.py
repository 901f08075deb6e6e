"""One provider: it owns its client, the health of its endpoint and lanes, and its permits, and it alone judges calls.

A call is admitted or refused at once, then served in a task of its own; so calls run side by side and a permit lives
exactly as long as the call that holds it. Whatever a call teaches is applied and published to the router before the
call is answered: the next pick knows it. An exception of ours in one call ends that call; three within a minute crash
the actor on purpose, since a fresh client is the cure for a poisoned one. Health survives: the snapshot is kept.
"""

from __future__ import annotations

import inspect
import logging
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any

import attrs
import httpx
import trio

import actors
from cortex import budget as budgets
from cortex import catalog, health, limits, timers
from cortex.budget import Budget
from cortex.config import ProviderConfig
from cortex.exchange import Exchanged, exchange
from cortex.health import Admit, Health
from cortex.limits import Limit
from cortex.messages import Answer, Failure, Kind, Phase, StreamEvent
from cortex.outcomes import Cls, Outcome, Scope, classify, free_retry
from cortex.policy import Policy
from cortex.protocol import Call, Caller, LaneState, ProviderRecheck, ProviderSwitch, Publish, Refused, Served, Snapshot
from cortex.routing import Lane
from cortex.timers import Timers
from cortex.wire import WIRES
from cortex.wire.codec import Target

logger = logging.getLogger("cortex")

MAX_LANES = 256
"""Models remembered per provider; the one unused for longest leaves first."""

POISON_COUNT, POISON_WINDOW = 3, 60.0
"""So many faults of ours within so many seconds: the client is poisoned, start afresh."""

PROBE_SECONDS = 5.0
KEEPALIVE_SECONDS = 5.0


_DISABLING = frozenset({Cls.AUTH, Cls.BILLING, Cls.CONFIG})


class PoisonedError(Exception):
    """Raised on purpose: too many faults of our own."""


@attrs.frozen
class _Permit:
    """The leave to make one call, and the epochs it began in. `charged`: a retry token was spent for it."""

    lane: Lane
    lane_epoch: int
    endpoint_epoch: int
    trial: bool
    charged: bool


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
        self._key: str | None = None
        self._key_lock = trio.Lock()
        self._probe_wanted = trio.Event()
        self._client: httpx.AsyncBaseTransport

    # ---- life

    async def on_start(self) -> None:
        """Open the client (no connection is made), and take up the health that an earlier incarnation left."""
        now = trio.current_time()
        if self._given is not None:
            self._client = self._given  # the user's: opened and closed by the user
        else:
            self._client = await self.ctx.enter(await _new_client(self._config))
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
        self._key = None
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
        permit = self._admit(message)
        if isinstance(permit, Refused):
            self._publish()
            return permit
        self.ctx.spawn(self._serve, message, permit, reply=self.ctx.defer())
        return None

    def _admit(self, message: Call) -> _Permit | Refused:
        now, picked = trio.current_time(), message.picked
        lane = picked.lane
        self._seen = max(self._seen, picked.number)
        state = self._state_of(lane, now)
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
        if message.retried:
            self._budget, allowed = budgets.spend(self._budget, now)
            if not allowed:
                return Refused("its retry budget is spent", spent=True)
        trial = admission.verdict is Admit.TRIAL
        began = health.Began(trial=trial)
        self._endpoint = self._step(self._endpoint, began)
        lane_health = self._step(state.health, began)
        self._lanes[lane] = attrs.evolve(state, health=lane_health, in_flight=state.in_flight + 1)
        self._in_flight += 1
        return _Permit(lane, lane_health.epoch, self._endpoint.epoch, trial, charged=message.retried)

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

    async def _serve(self, call: Call, permit: _Permit) -> Served:
        """Make the exchange and judge it. The permit goes back however this ends."""
        began = trio.current_time()
        outcome = classify(Failure(Kind.CANCELLED, "the caller left"))
        exchanged: Exchanged | None = None
        settled = [False]
        notes: tuple[str, ...] = ()
        try:
            try:
                exchanged, notes = await self._exchange(call, permit, settled)
            except Exception as error:
                logger.exception("a fault of cortex itself in a call of %s", self._config.name)
                exchanged = Exchanged(Failure(Kind.LOCAL, f"{type(error).__name__}: {error}"[:500], phase=Phase.SENT))
            failure = exchanged.result if isinstance(exchanged.result, Failure) else None
            outcome = classify(failure)
            duration = trio.current_time() - began
            return Served(exchanged.result, outcome, duration, exchanged.first_token, notes)
        finally:
            self._settle(
                call, permit, outcome, trio.current_time() - began, exchanged, trial=permit.trial and not settled[0]
            )

    async def _exchange(self, call: Call, permit: _Permit, settled: list[bool]) -> tuple[Exchanged, tuple[str, ...]]:
        key = await self._api_key(call.caller)
        exchanged, notes = await self._send(call, permit, key, settled)
        failure = exchanged.result
        if isinstance(failure, Failure) and failure.kind is Kind.CREDENTIAL and callable(self._config.api_key):
            # A rotated key needs no restart: ask for it again, and if it is another one, use it at once.
            self._key = None
            fresh = await self._api_key(call.caller)
            if fresh != key:
                return await self._send(call, permit, fresh, settled)
        return exchanged, notes

    async def _send(
        self, call: Call, permit: _Permit, key: str | None, settled: list[bool]
    ) -> tuple[Exchanged, tuple[str, ...]]:
        target = self._target(permit.lane, key)
        http = self._wire.encode(call.request, target)
        budget = self._timers(call, permit, len(http.body))
        emit = None if call.emit is None else self._first_token_seen(call.emit, permit, settled)
        return await exchange(self._client, self._wire, target, http, budget, emit), http.notes

    def _first_token_seen(
        self, emit: Callable[[StreamEvent], Awaitable[None]], permit: _Permit, settled: list[bool]
    ) -> Callable[[StreamEvent], Awaitable[None]]:
        """The first token of a stream is what a trial was for: report it then, not minutes later at the end."""
        began = trio.current_time()

        async def emit_and_tell(event: StreamEvent) -> None:
            if not settled[0]:
                settled[0] = True
                latency = trio.current_time() - began
                self._apply(
                    permit,
                    lambda epoch: health.Answering(epoch, trial=permit.trial, latency=latency),
                    spare=True,
                    sole=False,
                )
                self._publish()
            await emit(event)

        return emit_and_tell

    def _apply(self, permit: _Permit, event: Callable[[int], health.Event], *, spare: bool, sole: bool) -> None:
        """The same event to the endpoint and to the lane, each with the epoch this call began in there."""
        self._endpoint = self._step(self._endpoint, event(permit.endpoint_epoch), spare=spare, sole=sole)
        state = self._lanes[permit.lane]
        stepped = self._step(state.health, event(permit.lane_epoch), spare=spare, sole=sole)
        self._lanes[permit.lane] = attrs.evolve(state, health=stepped)

    def _settle(
        self,
        call: Call,
        permit: _Permit,
        outcome: Outcome,
        duration: float,
        exchanged: Exchanged | None,
        *,
        trial: bool,
    ) -> None:
        """Apply what the call taught, give everything back, publish."""
        now = trio.current_time()
        failure = exchanged.result if exchanged is not None and isinstance(exchanged.result, Failure) else None
        # The usual race of a kept-alive connection says nothing about the provider.
        harmless = failure is not None and failure.reused and free_retry(failure)
        verdict = attrs.evolve(outcome, cls=Cls.LOCAL, scope=Scope.NONE) if harmless else outcome
        latency = duration if outcome.ok and call.emit is None else None
        picked = call.picked
        self._apply(
            permit,
            lambda epoch: health.Finished(verdict, epoch, trial=trial, latency=latency, offline=picked.offline),
            spare=picked.spares > 0,
            sole=picked.sole,
        )
        state = self._lanes[permit.lane]
        self._lanes[permit.lane] = attrs.evolve(
            state, limit=self._learned(state, outcome, now), in_flight=state.in_flight - 1
        )
        self._in_flight -= 1
        if failure is not None and outcome.cls is Cls.TRANSIENT and failure.phase is Phase.NOT_SENT:
            self._unreached_at = now
        elif exchanged is not None and (failure is None or failure.status is not None):
            self._answered_at = now
        if permit.charged:
            self._budget = budgets.settle(self._budget, now, ok=outcome.ok)
        elif outcome.ok:
            self._budget = budgets.earn(self._budget, now)
        if outcome.cls in _DISABLING:
            self._probe_wanted.set()
        self._publish()
        if outcome.cls is Cls.LOCAL and not harmless:
            self._note_fault(now, failure)

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
            words = failure.message if failure is not None else "cancelled"
            # In a task without a reply, since that is what crashes an actor.
            self.ctx.spawn(_crash, f"{POISON_COUNT} faults of ours within {POISON_WINDOW:.0f} s, the last: {words}")
            self._faults.clear()

    def _target(self, lane: Lane, key: str | None) -> Target:
        config = self._config
        return Target(config.name, config.base_url, lane.upstream, key, config.headers, config.options)

    def _timers(self, call: Call, permit: _Permit, size: int) -> Timers:
        config, policy, picked = self._config, self._policy, call.picked
        remaining = max(call.deadline - trio.current_time(), 0.0)
        lane_health = self._lanes[permit.lane].health
        reasoning = catalog.reasoning(permit.lane.model)
        if call.emit is None:
            first = timers.answer_budget(remaining=remaining, spares=picked.spares, configured=config.timeout)
            p50 = lane_health.answer.quantile(0.5)
        else:
            first = timers.first_token_budget(
                remaining=remaining,
                spares=picked.spares,
                configured=config.timeout or policy.first_token_timeout,
                p95=lane_health.first.quantile(0.95),
                reasoning=reasoning,
                local=config.kind == "local",
            )
            p50 = lane_health.first.quantile(0.5)
        if permit.trial and picked.spares:
            first = timers.trial_budget(p50, first)
        progress = config.timeout or (timers.PROGRESS_REASONING if reasoning else policy.progress_timeout)
        return Timers(policy.connect_timeout, first, progress, timers.write_budget(size))

    async def _api_key(self, caller: Caller | None) -> str | None:
        """The key: as configured, or asked of the user's function once and again after a 401; one asks at a time."""
        source = self._config.api_key
        if not callable(source):
            return source
        async with self._key_lock:
            if self._key is None:
                is_async = inspect.iscoroutinefunction(source)
                if caller is not None:
                    self._key = str(await caller.run(source, {}, is_async=is_async))
                elif not is_async:
                    self._key = str(await trio.to_thread.run_sync(source, abandon_on_cancel=True))
            return self._key

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
        if callable(self._config.api_key):
            self._key = None  # it may have been rotated since
            if inspect.iscoroutinefunction(self._config.api_key):
                return None  # only a caller's loop can run it: let a call try
        try:
            target = self._target(Lane(self._config.name, "", ""), await self._api_key(None))
            http = self._wire.probe(target)
            first = Timers(self._policy.connect_timeout, PROBE_SECONDS, PROBE_SECONDS, PROBE_SECONDS)
            exchanged = await exchange(self._client, self._wire, target, http, first, None)
        except Exception as error:
            logger.exception("a probe of %s failed by a fault of ours", self._config.name)
            return classify(Failure(Kind.LOCAL, str(error), phase=Phase.NOT_SENT))
        if isinstance(exchanged.result, Answer):
            return classify(None)
        failure = exchanged.result
        if failure.status in (404, 405):
            return None
        if failure.status is not None and 200 <= failure.status < 300:
            return classify(None)  # alive: a list of models is no answer of this dialect, and need not be
        return classify(failure)


async def _crash(why: str) -> None:
    raise PoisonedError(why)


# ------------------------------------------------------------------------------------------------------------- clients


async def _new_client(config: ProviderConfig) -> httpx.AsyncBaseTransport:
    """A client of its own: no retries, no redirects, no environment; nobody ever waits inside its pool."""
    if config.base_url.startswith("https:") and isinstance(config.verify, bool):
        verify: ssl.SSLContext | str | bool = await trio.to_thread.run_sync(_tls_context, config.verify)
    else:
        verify = config.verify if config.base_url.startswith("https:") else False
    return httpx.AsyncHTTPTransport(
        verify=verify,
        trust_env=False,
        http1=True,
        http2=False,
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=KEEPALIVE_SECONDS),
        proxy=config.proxy,
        retries=0,
    )


@lru_cache(maxsize=2)
def _tls_context(verify: bool) -> ssl.SSLContext:
    """Built once and shared: building one takes 30 to 40 ms, so it is done in a worker thread."""
    return httpx.create_ssl_context(verify=verify, trust_env=False)
