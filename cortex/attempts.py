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
from cortex.errors import (
    CortexError,
    DeadlineExceeded,
    EngineFailed,
    NetworkUnavailable,
    NoProviderLeft,
    OutcomeUnknown,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
    StreamInterrupted,
    error_of,
)
from cortex.messages import (
    Answer,
    Failure,
    Image,
    Kind,
    Phase,
    Request,
    StreamEvent,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolCall,
    ToolResult,
)
from cortex.outcomes import Cls, Outcome, Replay, classify, free_retry, most_actionable, same_lane_delay
from cortex.policy import Policy
from cortex.protocol import Call, Caller, Nobody, Pick, Picked, Refused, Served, Sink
from cortex.results import Attempt, Chunk
from cortex.routing import Lane, Needs

if TYPE_CHECKING:
    from cortex.config import Chain

MAX_REFUSALS = 50
"""Stale picks in one call before we say that something is wrong with us."""

JOIN_SECONDS = 2.0
"""How long a cancelled call waits until its provider has closed the socket."""

_RETRYABLE = frozenset({Cls.RATE, Cls.OVERLOAD, Cls.TRANSIENT, Cls.LOCAL, Cls.CANCELLED})


@attrs.frozen
class Link:
    """What an actor that makes model calls was given at birth."""

    router: actors.ActorRef[Any]
    policy: Policy
    rng: Random
    failed_over: Callable[[Attempt], None]


@attrs.frozen
class Routed:
    """An answer, who gave it, and the way there."""

    answer: Answer
    lane: Lane
    attempts: tuple[Attempt, ...]
    notes: tuple[str, ...] = ()


@attrs.frozen
class Unserved:
    """No answer: the error for the caller, and whether part of an answer had been shown."""

    error: CortexError
    attempts: tuple[Attempt, ...]
    shown: bool = False


@attrs.define
class Outlet:
    """Turns the events of a stream into chunks for its reader, and remembers what was shown."""

    sink: Sink
    shown: list[str] = attrs.field(factory=list, repr=False)
    committed: bool = False

    async def emit(self, event: StreamEvent) -> None:
        """Show what can be shown. Tool calls wait until their answer is whole: only then may they be run."""
        match event:
            case TextDelta(text) if text:
                self.committed = True
                self.shown.append(text)
                await self.sink.send(Chunk("text", content=text))
            case ThinkingDelta(text) if text:
                self.committed = True
                await self.sink.send(Chunk("thinking", thinking=text))

    async def restart(self) -> None:
        """Tell the reader to discard what it showed."""
        self.committed = False
        self.shown.clear()
        await self.sink.send(Chunk("restart"))


@attrs.define
class _Try:
    """One attempt that failed."""

    lane: Lane
    failure: Failure
    outcome: Outcome


@attrs.define
class _Course:
    """The state of one logical call: where it has been."""

    link: Link
    request: Request
    needs: Needs
    deadline: float
    caller: Caller | None
    outlet: Outlet | None
    started: float = attrs.field(factory=trio.current_time)
    trail: list[Attempt] = attrs.field(factory=list)
    failures: list[_Try] = attrs.field(factory=list)
    tried: dict[Lane, int] = attrs.field(factory=dict)
    refusals: int = 0
    free_used: bool = False
    restarted: bool = False
    free_lane: Picked | None = None

    # ---- the loop

    async def run(self) -> Routed | Unserved:
        policy = self.link.policy
        limit = policy.max_attempts or sum(len(tier) for tier in self.needs.tiers) + 1
        while True:
            since = trio.current_time()
            picked = await self._pick()
            if isinstance(picked, Nobody):
                return self._give_up(picked)
            await self._pause_before(picked.lane)
            served = await self._try(picked, since)
            if served is None:
                continue
            if isinstance(served.result, Answer):
                return Routed(served.result, picked.lane, tuple(self.trail), served.notes)
            if (end := await self._after(picked, served.result, served.outcome)) is not None:
                return end
            if len(self.trail) >= limit:
                return self._give_up(None)

    async def _pick(self) -> Picked | Nobody:
        if self.free_lane is not None:
            picked, self.free_lane = self.free_lane, None
            return picked
        pick = Pick(self.needs, dict(self.tried), self.deadline)
        for last in (False, True):
            try:
                return await self.link.router.ask(pick)
            except actors.Unavailable as error:
                if last:
                    raise
                await trio.sleep(error.retry_in)
            except actors.ActorDied:
                if last:
                    raise
        raise AssertionError("unreachable")

    async def _pause_before(self, lane: Lane) -> None:
        """A second attempt on the same lane waits: no other could serve, or it would have been picked."""
        last = next((one for one in reversed(self.failures) if one.lane == lane), None)
        if last is not None and not free_retry(last.failure):
            await trio.sleep(same_lane_delay(last.outcome, self.tried.get(lane, 1), self.link.rng))

    async def _try(self, picked: Picked, since: float) -> Served | None:
        """One attempt, noted in the trail; `since` is when it was first wanted. None: not admitted, pick again."""
        began = trio.current_time()
        call = Call(
            self.request,
            picked,
            self.deadline,
            self.caller,
            self.outlet.emit if self.outlet is not None else None,
            retried=any(lane.provider == picked.lane.provider for lane in self.tried),
        )
        try:
            served = await picked.ref.ask(call, join=JOIN_SECONDS)
        except trio.Cancelled:
            self._note(picked.lane, _left(trio.current_time() - began), began - since)
            raise
        except (actors.ActorDied, actors.Unavailable, actors.TaskFailed) as error:
            served = _own_fault(error, trio.current_time() - began)
        if isinstance(served, Refused):
            self.refusals += 1
            if served.spent:
                self.tried[picked.lane] = self.link.policy.max_attempts_per_lane
            if self.refusals > MAX_REFUSALS:
                raise EngineFailed(f"{picked.lane.provider} refused {MAX_REFUSALS} picks in a row: {served.reason}")
            return None
        self._note(picked.lane, served, began - since)
        return served

    def _note(self, lane: Lane, served: Served, waited: float) -> None:
        result = served.result
        failure = result if isinstance(result, Failure) else None
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
            request_id=result.request_id,
            reason=failure.message if failure is not None else "",
        )
        if any(not one.ok and one.provider != lane.provider for one in self.trail):
            self.link.failed_over(attempt)
        self.trail.append(attempt)

    # ---- after a failure

    async def _after(self, picked: Picked, failure: Failure, outcome: Outcome) -> Unserved | None:
        """Where to go from here: None to go on, else the end."""
        policy, lane = self.link.policy, picked.lane
        self.failures.append(_Try(lane, failure, outcome))
        count = self.tried.get(lane, 0) + 1
        self.tried[lane] = count if outcome.retry_same else policy.max_attempts_per_lane
        if self.outlet is not None and self.outlet.committed:
            return await self._after_commit(failure, lane)
        if outcome.replay is Replay.UNSAFE:
            return self._end(lane, failure, cls=OutcomeUnknown)
        if outcome.cls is Cls.LOCAL and self._local_streak() >= 2:
            # The same request broke us twice: a third provider would not mend that.
            return Unserved(EngineFailed(f"a fault of cortex itself, twice in a row: {failure.message}"), self._trail())
        if outcome.needs_larger_window:
            window = catalog.window(lane.model)
            if window is None:
                return self._end(lane, failure)  # no other is known to be larger
            self.needs = attrs.evolve(self.needs, min_window=window)
        elif not outcome.failover and not outcome.retry_same:
            return self._end(lane, failure)
        if not self.free_used and failure.reused and free_retry(failure):
            self.free_used = True
            self.tried[lane] = count - 1
            self.free_lane = picked
        return None

    async def _after_commit(self, failure: Failure, lane: Lane) -> Unserved | None:
        assert self.outlet is not None
        if self.link.policy.on_interrupt == "restart" and not self.restarted:
            self.restarted = True
            await self.outlet.restart()
            return None
        error = error_of(
            failure,
            provider=lane.provider,
            model=lane.model,
            retryable=True,
            attempts=self._trail(),
            cls=StreamInterrupted,
        )
        assert isinstance(error, StreamInterrupted)
        error.partial = "".join(self.outlet.shown)
        return Unserved(error, self._trail(), shown=True)

    def _local_streak(self) -> int:
        streak = 0
        for one in reversed(self.failures):
            if one.outcome.cls is not Cls.LOCAL:
                break
            streak += 1
        return streak

    # ---- the end

    def _trail(self) -> tuple[Attempt, ...]:
        return tuple(self.trail)

    def _end(self, lane: Lane, failure: Failure, *, cls: type[ProviderError] | None = None) -> Unserved:
        """A failure that ends the call where it happened. After others, it does not hide them."""
        if any(one.lane.provider != lane.provider for one in self.failures):
            return self._exhausted(())
        return Unserved(self._typed(lane, failure, cls), self._trail())

    def _typed(self, lane: Lane, failure: Failure, cls: type[ProviderError] | None = None) -> ProviderError:
        return error_of(
            failure,
            provider=lane.provider,
            model=lane.model,
            retryable=classify(failure).cls in _RETRYABLE,
            attempts=self._trail(),
            cls=cls,
        )

    def _give_up(self, nobody: Nobody | None) -> Unserved:
        reasons = nobody.reasons if nobody is not None else ()
        if nobody is not None and nobody.offline:
            text = "the network here seems to be down: " + "; ".join(f"{_name(lane)}: {why}" for lane, why in reasons)
            return Unserved(NetworkUnavailable(text, attempts=self._trail()), self._trail())
        if len({lane.provider for tier in self.needs.tiers for lane in tier}) == 1:
            return self._sole(nobody)
        return self._exhausted(reasons, nobody)

    def _sole(self, nobody: Nobody | None) -> Unserved:
        """One provider only: its own typed error."""
        if self.failures:
            last = self.failures[most_actionable([one.failure for one in self.failures])]
            return Unserved(self._typed(last.lane, last.failure), self._trail())
        return Unserved(_unasked(self.needs.tiers[0][0], nobody), self._trail())

    def _exhausted(self, reasons: tuple[tuple[Lane, str], ...], nobody: Nobody | None = None) -> Unserved:
        lines = [f"{one.lane.provider}/{one.lane.model}: {_words(one.failure)}" for one in self.failures]
        failed = {one.lane for one in self.failures}
        lines += [f"{_name(lane)}: {why}" for lane, why in reasons if lane not in failed]
        errors = tuple(self._typed(one.lane, one.failure) for one in self.failures)
        if errors:
            best = errors[most_actionable([one.failure for one in self.failures])]
        else:
            best = _unasked(self.needs.tiers[0][0], nobody)
        error = NoProviderLeft(
            "no provider could serve this call:\n  " + "\n  ".join(lines),
            provider=best.provider,
            model=best.model,
            status=best.status,
            kind=best.kind,
            retry_after=best.retry_after if best.retry_after is not None else (nobody.retry_after if nobody else None),
            request_id=best.request_id,
            retryable=any(one.retryable for one in errors) or not errors,
            attempts=self._trail(),
        )
        error.errors = errors
        return Unserved(error, self._trail())

    def too_late(self) -> Unserved:
        """The deadline has passed."""
        lines = "; ".join(str(one) for one in self.trail) or "nobody had been asked yet"
        spent = trio.current_time() - self.started
        shown = self.outlet is not None and self.outlet.committed
        error = DeadlineExceeded(f"the deadline passed after {spent:.1f} s: {lines}", attempts=self._trail())
        return Unserved(error, self._trail(), shown=shown)


async def route(
    link: Link,
    request: Request,
    chain: Chain,
    *,
    deadline: float,
    caller: Caller | None = None,
    sink: Sink | None = None,
) -> Routed | Unserved:
    """Serve `request` by the lanes of `chain`, in time for `deadline` (trio time). Expected failures are values."""
    outlet = Outlet(sink) if sink is not None else None
    course = _Course(link, request, needs_of(request, chain), deadline, caller, outlet)
    if not any(chain.tiers):
        return Unserved(_nothing_allowed(chain), ())
    result: Routed | Unserved | None = None
    with trio.move_on_at(deadline):
        try:
            result = await course.run()
        except (actors.ActorDied, actors.Unavailable) as error:
            failed = EngineFailed(f"the router could not be asked: {error}")
            failed.__cause__ = error
            result = Unserved(failed, tuple(course.trail))
        except EngineFailed as error:
            result = Unserved(error, tuple(course.trail))
    return result if result is not None else course.too_late()


def needs_of(request: Request, chain: Chain) -> Needs:
    """What this request asks of a lane. Bytes / 3 is an upper bound of tokens that costs nothing to find."""
    size, images = len(request.system), False
    for message in request.messages:
        for part in message.parts:
            match part:
                case Text(text) | Thinking(text):
                    size += len(text)
                case ToolCall(raw_arguments=raw):
                    size += len(raw)
                case ToolResult(content=content):
                    size += len(content)
                case Image():
                    images = True
    return Needs(
        tiers=chain.tiers,
        tools=bool(request.tools),
        images=images,
        output=request.output is not None,
        est_tokens=size // 3 + (request.max_tokens or 0),
        stream=request.stream,
    )


def _own_fault(error: Exception, duration: float) -> Served:
    """The provider actor itself failed: a fault of ours, and none of the vendor's."""
    cause = error.__cause__ or error
    failure = Failure(Kind.LOCAL, f"{type(cause).__name__}: {cause}"[:500], phase=Phase.SENT)
    return Served(failure, classify(failure), duration)


def _left(duration: float) -> Served:
    """The caller left, or its deadline passed, while this one was asked."""
    failure = Failure(Kind.CANCELLED, "cancelled while it was asked", phase=Phase.SENT)
    return Served(failure, classify(failure), duration)


def _unasked(lane: Lane, nobody: Nobody | None) -> ProviderError:
    """Nobody was asked at all: say why the first lane was left out."""
    why = dict(nobody.reasons).get(lane, "left out") if nobody is not None else "left out"
    cls = RateLimited if nobody is not None and nobody.gated else ProviderUnavailable
    return cls(
        f"{lane.provider}/{lane.model}: not asked: {why}",
        provider=lane.provider,
        model=lane.model,
        kind=Kind.RATE_LIMIT if cls is RateLimited else Kind.TRANSIENT,
        retry_after=nobody.retry_after if nobody is not None else None,
        retryable=True,
    )


def _nothing_allowed(chain: Chain) -> NoProviderLeft:
    lines = "\n  ".join(f"{_name(lane)}: {why}" for lane, why in chain.left_out)
    return NoProviderLeft(f"no provider may serve this call:\n  {lines}", provider="", model="", kind=Kind.BAD_REQUEST)


def _words(failure: Failure) -> str:
    status = f" (HTTP {failure.status})" if failure.status is not None else ""
    return f"{failure.kind}{status}: {failure.message}"


def _name(lane: Lane) -> str:
    return f"{lane.provider}/{lane.model}"
