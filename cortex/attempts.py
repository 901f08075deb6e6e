"""One logical model call: ask the router who, ask that provider, look at what came of it, and go on or stop.

The loop runs in the task of the turn it serves, under one absolute deadline. It never sleeps while another lane could
serve; it never sends again what must not be sent twice; it shops no request around that is itself wrong; and whatever
happens it leaves a trail that names every lane it tried.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

import attrs
import trio

import actors
from cortex import catalog
from cortex.asking import ask_again
from cortex.endings import Try, given_up, nothing_allowed, stopped, typed
from cortex.errors import CortexError, DeadlineExceeded, EngineFailed, OutcomeUnknown, StreamInterrupted
from cortex.messages import (
    Answer,
    Failure,
    Kind,
    Phase,
    Request,
    StreamEvent,
    TextDelta,
    ThinkingDelta,
    Usage,
)
from cortex.needs import needs_of
from cortex.outcomes import Cls, Outcome, Replay, classify, free_retry, same_lane_delay
from cortex.policy import Policy
from cortex.protocol import Call, Caller, Nobody, Pick, Picked, Refused, Served, Sink
from cortex.results import Attempt, Chunk
from cortex.routing import Lane, Needs

if TYPE_CHECKING:
    from cortex.config import Chain

MAX_REFUSALS = 50
"""Stale picks in one call before we say that something is wrong with us."""

LAST_MOMENT = 0.05
"""The share of a call's time in which no further attempt is begun."""

JOIN_SECONDS = 2.0
"""How long a cancelled call waits until its provider has closed the socket."""


@attrs.frozen
class Link:
    """What an actor that makes model calls was given at birth. `cost_of`: a lane, the model it reported, the tokens.
    `vendor_of`: what tells vendors apart, whose requests have members that others refuse."""

    router: actors.ActorRef[Any]
    policy: Policy
    rng: Random
    cost_of: Callable[[Lane, str | None, Usage], float | None]
    failed_over: Callable[[Attempt, Attempt], None]
    vendor_of: Callable[[Lane], tuple[str, ...]]


@attrs.frozen
class Routed:
    """An answer, who gave it, and the way there. `attempts` are those of this call alone."""

    answer: Answer
    lane: Lane
    attempts: tuple[Attempt, ...]
    notes: tuple[str, ...] = ()


@attrs.frozen
class Unserved:
    """No answer: the error for the caller."""

    error: CortexError
    attempts: tuple[Attempt, ...]


@attrs.define
class Outlet:
    """Turns the events of a turn's streams into chunks for their reader, and remembers what was shown.

    `shown`: the text of the turn, without what was taken back; `committed`: some of it is the present call's; `used`:
    the reader has been sent anything at all.
    """

    sink: Sink
    shown: list[str] = attrs.field(factory=list, repr=False)
    committed: bool = False
    used: bool = False
    _begun_at: int = 0  # how much of `shown` is of earlier calls

    def begin(self) -> None:
        """The next call: what was shown of the turn's earlier ones stands."""
        self.committed = False
        self._begun_at = len(self.shown)

    async def send(self, chunk: Chunk) -> None:
        """Show a chunk."""
        self.used = True
        await self.sink.send(chunk)

    async def emit(self, event: StreamEvent) -> None:
        """Show what can be shown. Tool calls wait until their answer is whole: only then may they be run."""
        match event:
            case TextDelta(text) if text:
                self.committed = True
                self.shown.append(text)
                await self.send(Chunk("text", content=text))
            case ThinkingDelta(text) if text:
                self.committed = True
                await self.send(Chunk("thinking", thinking=text))

    async def restart(self) -> None:
        """Tell the reader to discard what it showed of the present call."""
        self.committed = False
        del self.shown[self._begun_at :]
        await self.send(Chunk("restart"))

    async def settle(self, answer: Answer) -> None:
        """What was shown has to be what the answer says. Prose beside an answer that is given by a tool turns out to
        be no part of it: then it is taken back, and the answer shown as it is."""
        if "".join(self.shown[self._begun_at :]) != answer.text:
            await self.restart()
            await self.emit(ThinkingDelta(answer.thinking))
            await self.emit(TextDelta(answer.text))


@attrs.define
class _Course:
    """The state of one logical call: where it has been, and where it may still go."""

    link: Link
    request: Request
    needs: Needs
    deadline: float
    caller: Caller | None
    outlet: Outlet | None
    chain: Chain
    started: float = attrs.field(factory=trio.current_time)
    trail: list[Attempt] = attrs.field(factory=list)
    tries: list[Try] = attrs.field(factory=list)
    tried: dict[Lane, int] = attrs.field(factory=dict)
    refusals: int = 0
    free_used: bool = False
    restarted: bool = False
    same_pick: Picked | None = None

    # ---- the loop

    async def run(self) -> Routed | Unserved:
        limit = self.link.policy.max_attempts or len(self.chain.lanes) + 1
        while True:
            wanted = trio.current_time()
            picked = await self._pick()
            if isinstance(picked, Nobody):
                return self._unserved(given_up(self.tries, picked, self.chain, self.trail))
            await self._pause_before(picked.lane)
            served = await self._try(picked, wanted)
            if served is None:
                continue
            if isinstance(served.result, Answer):
                if self.outlet is not None:
                    await self.outlet.settle(served.result)
                return Routed(served.result, picked.lane, tuple(self.trail), self._notes(picked.lane, served))
            if (end := await self._after(picked, served.result, served.outcome)) is not None:
                return end
            if len(self.trail) >= limit or self._no_time_left():
                return self._unserved(given_up(self.tries, None, self.chain, self.trail))

    async def _pick(self) -> Picked | Nobody:
        """Whom to ask. A router that crashes is back within a moment; the call does not notice."""
        if self.same_pick is not None:
            picked, self.same_pick = self.same_pick, None
            return picked
        return await ask_again(self.link.router, Pick(self.needs, dict(self.tried), self.deadline))

    async def _pause_before(self, lane: Lane) -> None:
        """A second attempt on the same lane comes later: no other could serve, or it would have been picked."""
        last = next((one for one in reversed(self.tries) if one.lane == lane), None)
        if last is not None and not free_retry(last.failure):
            nth = sum(one.lane == lane for one in self.tries)
            await trio.sleep_until(last.at + same_lane_delay(last.outcome, nth, self.link.rng))

    async def _try(self, picked: Picked, wanted: float) -> Served | None:
        """One attempt, noted in the trail; `wanted` is since when. None: not admitted, pick again."""
        began = trio.current_time()
        call = Call(
            self.request if self._speaks_alike(picked.lane) else attrs.evolve(self.request, extra={}),
            picked,
            self.deadline,
            self.caller,
            self.outlet.emit if self.outlet is not None else None,
            retried=any(count and lane.provider == picked.lane.provider for lane, count in self.tried.items()),
        )
        try:
            served = await picked.ref.ask(call, join=JOIN_SECONDS)
        except (trio.Cancelled, KeyboardInterrupt):
            self._note(picked.lane, _left(trio.current_time() - began), began - wanted)
            raise
        except actors.Unavailable as error:
            served = Refused(str(error))  # its restart has crossed the pick
        except (actors.ActorDied, actors.TaskFailed) as error:
            served = _own_fault(error, trio.current_time() - began)
        if isinstance(served, Refused):
            self._refused(picked.lane, served)
            return None
        self._note(picked.lane, served, began - wanted)
        return served

    def _speaks_alike(self, lane: Lane) -> bool:
        """Whether `extra`, which is written for the first one's vendor, means anything to this one; an unknown field
        is a 400."""
        return not self.request.extra or self.link.vendor_of(lane) == self.link.vendor_of(self.chain.lanes[0])

    def _notes(self, lane: Lane, served: Served) -> tuple[str, ...]:
        if self._speaks_alike(lane):
            return served.notes
        return (*served.notes, f"extra was left out: it is written for {self.chain.lanes[0].provider}")

    def _refused(self, lane: Lane, refused: Refused) -> None:
        self.refusals += 1
        if refused.spent:
            self.tried[lane] = self.link.policy.max_attempts_per_lane
        if self.refusals > MAX_REFUSALS:
            raise EngineFailed(f"{lane.provider} refused {MAX_REFUSALS} picks in a row: {refused.reason}")

    def _note(self, lane: Lane, served: Served, waited: float) -> None:
        result = served.result
        failure, reported = (result, None) if isinstance(result, Failure) else (None, result.model_reported)
        attempt = Attempt(
            provider=lane.provider,
            model=lane.model,
            outcome=served.outcome.cls,
            kind=failure.kind if failure is not None else None,
            status=failure.status if failure is not None else None,
            waited=waited,
            first_token=served.first_token,
            duration=served.duration,
            usage=result.usage,
            cost_usd=self.link.cost_of(lane, reported, result.usage),
            request_id=result.request_id,
            reason=failure.message if failure is not None else "",
        )
        failed = next((one for one in reversed(self.trail) if not one.ok and one.provider != lane.provider), None)
        if failed is not None:
            self.link.failed_over(attempt, failed)
        self.trail.append(attempt)

    # ---- after a failure

    async def _after(self, picked: Picked, failure: Failure, outcome: Outcome) -> Unserved | None:
        """Where to go from here: None to go on, else the end."""
        policy, lane = self.link.policy, picked.lane
        self.tries.append(Try(lane, failure, outcome, trio.current_time(), picked.offline))
        count = self.tried.get(lane, 0) + 1
        self.tried[lane] = count if outcome.retry_same else policy.max_attempts_per_lane
        if self.outlet is not None and self.outlet.committed:
            return await self._after_commit(outcome)
        if outcome.replay is Replay.UNSAFE:
            return self._unserved(stopped(self.tries, self.trail, OutcomeUnknown))
        if outcome.cls is Cls.LOCAL and self._local_streak() >= 2:
            # The same request broke us twice: a third provider would not mend that.
            return self._unserved(EngineFailed(f"no provider's fault, but one on this side, twice: {failure.message}"))
        if not outcome.failover and not self._only_here(lane, count, outcome):
            return self._unserved(stopped(self.tries, self.trail))
        if outcome.needs_larger_window:
            window = catalog.window(lane.model)
            if window is None:
                return self._unserved(stopped(self.tries, self.trail))  # no other is known to be larger
            self.needs = attrs.evolve(self.needs, min_window=window)
        self._ask_again_for_nothing(picked, failure, count)
        return None

    def _only_here(self, lane: Lane, count: int, outcome: Outcome) -> bool:
        """The server itself says that this very request may succeed if it is sent again: there, and nowhere else."""
        if not outcome.retry_same or count >= self.link.policy.max_attempts_per_lane:
            return False
        self.needs = attrs.evolve(self.needs, tiers=((lane,),))
        return True

    def _no_time_left(self) -> bool:
        """What is left is too little for anybody. Said now it is the last failure's fault, later only the clock's."""
        return self.deadline - trio.current_time() < LAST_MOMENT * (self.deadline - self.started)

    def _ask_again_for_nothing(self, picked: Picked, failure: Failure, count: int) -> None:
        """A kept-alive connection that its server gave up costs nobody an attempt, once in a call."""
        if not self.free_used and failure.reused and free_retry(failure):
            self.free_used = True
            self.tried[picked.lane] = count - 1
            self.same_pick = picked

    async def _after_commit(self, outcome: Outcome) -> Unserved | None:
        """Something was shown: it is taken back aloud, or the stream ends with what it was. What nobody else would be
        asked for otherwise (a policy's refusal) is not asked for now."""
        assert self.outlet is not None
        may_go_on = (outcome.failover or outcome.retry_same) and outcome.replay is not Replay.UNSAFE
        if self.link.policy.on_interrupt == "restart" and may_go_on and not self.restarted:
            self.restarted = True
            await self.outlet.restart()
            return None
        error = typed(self.tries[-1], self.trail, StreamInterrupted)
        assert isinstance(error, StreamInterrupted)
        error.partial = "".join(self.outlet.shown)
        return self._unserved(error)

    def _local_streak(self) -> int:
        streak = 0
        for one in reversed(self.tries):
            if one.outcome.cls is not Cls.LOCAL:
                break
            streak += 1
        return streak

    # ---- the end

    def _unserved(self, error: CortexError) -> Unserved:
        error.attempts = tuple(self.trail)
        return Unserved(error, error.attempts)

    def too_late(self) -> Unserved:
        """The deadline has passed."""
        lines = "; ".join(str(one) for one in self.trail) or "nobody had been asked yet"
        spent = trio.current_time() - self.started
        return self._unserved(DeadlineExceeded(f"the deadline passed after {spent:.1f} s: {lines}"))

    def engine_failed(self, error: Exception) -> Unserved:
        """A fault of ours, told as one."""
        if not isinstance(error, EngineFailed):
            cause, error = error, EngineFailed(f"the router could not be asked: {error}")
            error.__cause__ = cause
        return self._unserved(error)


async def route(
    link: Link,
    request: Request,
    chain: Chain,
    *,
    deadline: float,
    caller: Caller | None = None,
    outlet: Outlet | None = None,
) -> Routed | Unserved:
    """Serve `request` by the lanes of `chain`, in time for `deadline` (trio time). Expected failures are values."""
    if not any(chain.tiers):
        return Unserved(nothing_allowed(chain.left_out), ())
    if outlet is not None:
        outlet.begin()
    course = _Course(link, request, needs_of(request, chain), deadline, caller, outlet, chain)
    result: Routed | Unserved | None = None
    with trio.move_on_at(deadline):
        try:
            result = await course.run()
        except (actors.ActorDied, EngineFailed) as error:
            result = course.engine_failed(error)
    return result if result is not None else course.too_late()


def _own_fault(error: Exception, duration: float) -> Served:
    """The provider actor itself failed: a fault of ours, and none of the vendor's."""
    cause = error.__cause__ or error
    failure = Failure(Kind.LOCAL, f"{type(cause).__name__}: {cause}"[:500], phase=Phase.SENT)
    return Served(failure, classify(failure), duration)


def _left(duration: float) -> Served:
    """The caller left, or its deadline passed, while this one was asked."""
    failure = Failure(Kind.CANCELLED, "cancelled while it was asked", phase=Phase.SENT)
    return Served(failure, classify(failure), duration)
