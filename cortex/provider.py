"""One provider: it owns its client and its ward (health, permits, limits), and it alone judges calls.

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

import httpx
import trio

import actors
from cortex import catalog, health, timers
from cortex.clients import new_client
from cortex.config import ProviderConfig
from cortex.errors import ConfigError
from cortex.exchange import Exchanged, exchange
from cortex.keys import Keys
from cortex.messages import Answer, Failure, Kind, Phase, StreamEvent
from cortex.needs import stateful
from cortex.outcomes import Cls, Outcome, classify
from cortex.policy import Policy
from cortex.protocol import Call, ProviderRecheck, ProviderSwitch, Publish, Refused, Served, Snapshot
from cortex.routing import Lane
from cortex.timers import Chance, Timers
from cortex.ward import Running, Ward
from cortex.wire import WIRES
from cortex.wire.codec import Target
from cortex.wire.faults import scrub

logger = logging.getLogger("cortex")

POISON_COUNT, POISON_WINDOW = 3, 60.0
"""So many faults of ours within so many seconds: the client is poisoned, start afresh."""

PROBE_SECONDS = 5.0
"""How long a token-free question may take."""


class PoisonedError(Exception):
    """Raised on purpose: too many faults of our own."""


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
        self._wire = WIRES[config.wire]
        self._ward: Ward
        self._faults: deque[float] = deque(maxlen=POISON_COUNT)
        self._keys = Keys(config.api_key)
        self._probe_wanted = trio.Event()
        self._client: httpx.AsyncBaseTransport

    # ---- life

    async def on_start(self) -> None:
        """Open the client (no connection is made), and take up the health that an earlier incarnation left."""
        if self._given is not None:
            self._client = self._given  # the user's: opened and closed by the user
        else:
            self._client = client = await self.ctx.enter(new_client(self._config))
            self.ctx.spawn(client.sweep_forever)
        config, now = self._config, trio.current_time()
        self._ward = Ward.new(
            config.name, self.ctx.rng, now, max_concurrency=config.max_concurrency, enabled=config.enabled
        )
        kept: Snapshot | None = self.ctx.kept or self._last
        if kept is not None:
            self._ward.take_up(kept, now)
        self._publish()
        self.ctx.spawn(self._probe_forever)

    def _publish(self) -> None:
        snapshot = self._ward.snapshot()
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
        self._tell(health.Recheck())

    @actors.handle
    def switch(self, message: ProviderSwitch) -> None:
        """By hand: out of the picks, or back."""
        self._ward.enabled = message.enabled
        self._tell(health.Switched(message.enabled))

    def _tell(self, event: health.Event) -> None:
        self._ward.tell(event, trio.current_time())
        self._probe_wanted.set()
        self._publish()

    # ---- one call

    @actors.handle
    def call(self, message: Call) -> Refused | None:
        """Refuse at once, or serve in a task of its own."""
        admitted = self._ward.admit(message, trio.current_time())
        self._publish()  # also of a call that was let in: the router must know what is in flight
        if isinstance(admitted, Refused):
            return admitted
        self.ctx.spawn(self._serve, admitted, reply=self.ctx.defer())
        return None

    async def _serve(self, running: Running) -> Served:
        """Make the exchange and judge it. What the call holds goes back however this ends."""
        exchanged = _CANCELLED
        try:
            exchanged = await self._exchange(running)
        except Exception as error:
            exchanged = Exchanged(self._fault("a call", error))
        finally:
            failure = exchanged.result if isinstance(exchanged.result, Failure) else None
            outcome = classify(failure, stateful=stateful(running.call.request))
            self._settle(running, outcome, failure)
        duration = trio.current_time() - running.began
        return Served(exchanged.result, outcome, duration, exchanged.first_token, running.notes)

    def _fault(self, what: str, error: Exception) -> Failure:
        """An exception of our own, told in the log. What it quotes may be anything, a header with its key too."""
        target = self._target(_NO_LANE, self._keys.last)
        lines = "".join(traceback.format_exception(error)).splitlines()
        shown = "\n".join(line[: len(line) - len(line.lstrip())] + scrub(line, target) for line in lines)
        logger.error("a fault of cortex itself in %s of %s:\n%s", what, self._config.name, shown)
        return Failure(Kind.LOCAL, f"{type(error).__name__}: {scrub(str(error), target)}", phase=Phase.SENT)

    async def _exchange(self, running: Running) -> Exchanged:
        caller = running.call.caller
        key = await self._keys.get(caller)
        if isinstance(key, Failure):
            return Exchanged(key)
        exchanged = await self._send(running, key)
        failure = exchanged.result
        if not (isinstance(failure, Failure) and failure.kind is Kind.CREDENTIAL and self._keys.rotates):
            return exchanged
        if exchanged.first_token is not None:
            return exchanged  # something was shown: it is not for us to begin again
        # A rotated key needs no restart: ask for it again, and if it is another one, use it at once.
        self._keys.forget(key)
        fresh = await self._keys.get(caller)
        return exchanged if fresh == key or isinstance(fresh, Failure) else await self._send(running, fresh)

    async def _send(self, running: Running, key: str | None) -> Exchanged:
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
        self, running: Running, emit: Callable[[StreamEvent], Awaitable[None]]
    ) -> Callable[[StreamEvent], Awaitable[None]]:
        """`emit`, which first of all reports the first token."""

        async def emit_and_tell(event: StreamEvent) -> None:
            if not running.told:
                self._ward.first_token(running, trio.current_time())
                self._publish()
            await emit(event)

        return emit_and_tell

    def _settle(self, running: Running, outcome: Outcome, failure: Failure | None) -> None:
        """Learn from the call and tell the router, before the caller knows."""
        now = trio.current_time()
        self._ward.settle(running, outcome, failure, now)
        if not outcome.ok:
            self._probe_wanted.set()  # perhaps something can only be healed by a probe now
        self._publish()
        # What was never sent lacked a descriptor, or a connection: no fresh client has more of them.
        if outcome.cls is Cls.LOCAL and not (failure is not None and failure.phase is Phase.NOT_SENT):
            self._note_fault(now, failure)

    def _note_fault(self, now: float, failure: Failure | None) -> None:
        self._faults.append(now)
        if len(self._faults) == POISON_COUNT and now - self._faults[0] <= POISON_WINDOW:
            words = failure.message if failure is not None else ""
            # In a task without a reply, since that is what crashes an actor.
            self.ctx.spawn(_crash, f"{POISON_COUNT} faults of ours within {POISON_WINDOW:.0f} s, the last: {words}")
            self._faults.clear()

    def _target(self, lane: Lane, key: str | None) -> Target:
        config = self._config
        return Target(
            config.name,
            config.base_url,
            lane.upstream,
            key,
            config.headers,
            config.options,
            config.kind,
            name=lane.model,
        )

    def _timers(self, running: Running, size: int) -> Timers:
        config, policy = self._config, self._policy
        reasoning = catalog.reasoning(running.lane.model)
        progress = config.timeout or (timers.PROGRESS_REASONING if reasoning else policy.progress_timeout)
        return Timers(
            policy.connect_timeout, self._chance(running, reasoning=reasoning), progress, timers.write_budget(size)
        )

    def _chance(self, running: Running, *, reasoning: bool) -> Chance:
        """How long it may be silent: for JSON until the whole answer, for a stream until its first token."""
        call, config = running.call, self._config
        remaining = max(call.deadline - trio.current_time(), 0.0)
        spares = call.picked.spares
        lane_health = self._ward.lanes[running.lane].health
        if call.emit is None:
            usual = lane_health.answer
            chance = timers.answer_budget(
                remaining=remaining, spares=spares, configured=config.timeout, p95=usual.quantile(0.95)
            )
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
            due = self._ward.probe_due(trio.current_time())
            with trio.move_on_at(due if due is not None else float("inf")):
                await self._probe_wanted.wait()
                continue
            outcome = await self._probe()
            event = health.ProbeFinished(outcome) if outcome is not None else health.Recheck()
            self._ward.rechecked(event, trio.current_time())
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
