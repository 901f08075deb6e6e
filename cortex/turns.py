"""One turn: model calls and tool rounds until the model is done. Both roles play it; the orchestrator adds a tool.

Tools run only after the terminal event of a whole answer. Every model call of the turn may be served by another
provider: what was done so far stands in the neutral transcript.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import attrs
import trio

from cortex.attempts import Link, Outlet, Routed, Unserved, route
from cortex.errors import DeadlineExceeded
from cortex.goals import Goal
from cortex.messages import Answer, Finish, Message, Request, Text, ToolCall, ToolResult
from cortex.protocol import Turn, TurnDone, TurnFailed, TurnResult
from cortex.results import Attempt, Chunk
from cortex.routing import Lane

OwnTool = Callable[[ToolCall], Awaitable[ToolResult]]
"""A tool the role itself answers, not the user. It keeps the turn's deadline by itself, and so can tell what it did."""


@attrs.define
class _Play:
    """The state of one turn."""

    link: Link
    turn: Turn
    own_tools: Mapping[str, OwnTool]
    outlet: Outlet | None
    transcript: list[Message] = attrs.field(factory=list)
    results: list[ToolResult] = attrs.field(factory=list)
    attempts: list[Attempt] = attrs.field(factory=list)
    notes: list[str] = attrs.field(factory=list)
    steps: int = 0
    failed_over: bool = False
    goal: Goal = attrs.field(factory=Goal)

    async def run(self) -> TurnResult:
        while True:
            routed = await self._call()
            if isinstance(routed, Unserved):
                routed.error.attempts = tuple(self.attempts)  # of the whole turn, not of this call alone
                return TurnFailed(routed.error, routed.error.attempts, shown=self._shown)
            answer = routed.answer
            self.transcript.append(Message("assistant", answer.parts or (Text(""),)))
            if not self._wants_tools(answer):
                if answer.tool_calls and self.turn.desk is not None:
                    self.notes.append(f"no tool was run: the answer ended with {answer.raw_finish or answer.finish}")
                return self._done(answer, routed.lane)
            self.goal = self.goal.called(answer.tool_calls)
            if self.goal.loop_detected:
                return self._stopped(answer, routed.lane, "the model made the same tool call three times in a row")
            if self.steps > self.turn.max_rounds:
                return self._stopped(answer, routed.lane, f"the turn used up its {self.turn.max_rounds} tool rounds")
            await self._run_tools(answer.tool_calls)
            if trio.current_time() >= self.turn.deadline:
                return self._too_late()

    async def _call(self) -> Routed | Unserved:
        self.steps += 1
        turn = self.turn
        request: Request = attrs.evolve(
            turn.request, messages=(*turn.request.messages, *self.transcript), stream=turn.sink is not None
        )
        deadline = min(turn.deadline, trio.current_time() + turn.call_timeout)
        routed = await route(self.link, request, turn.chain, deadline=deadline, caller=turn.caller, outlet=self.outlet)
        self.attempts.extend(routed.attempts)
        if isinstance(routed, Routed):
            self.failed_over = self.failed_over or _stood_in(routed, turn.chain.tiers[0][0].model)
            self.notes.extend(note for note in routed.notes if note not in self.notes)
        return routed

    def _wants_tools(self, answer: Answer) -> bool:
        """Only an answer that ended in order to call: one that was cut off may hold half a call, one that was refused,
        or ended in a way nobody knows, is none to act on."""
        return bool(answer.tool_calls) and answer.finish is Finish.TOOL_CALLS and self.turn.desk is not None

    async def _run_tools(self, calls: tuple[ToolCall, ...]) -> None:
        """Side by side, results in the order of the calls. Only what is run is shown as a call: of any other its result
        says what is wrong with it."""
        jobs = [self._ready(call) for call in calls]
        slots = [job if isinstance(job, ToolResult) else None for job in jobs]

        @trio.lowlevel.enable_ki_protection
        async def run_one(index: int, job: Callable[[], Awaitable[ToolResult]], until: float) -> None:
            with trio.move_on_at(until):
                await trio.lowlevel.checkpoint_if_cancelled()  # too late to begin
                slots[index] = await job()

        for call, job in zip(calls, jobs, strict=True):
            if not isinstance(job, ToolResult) and isinstance(call.arguments, dict):
                await self._show(Chunk("tool_call", tool_call=call))
        async with trio.open_nursery() as nursery:
            for index, (call, job) in enumerate(zip(calls, jobs, strict=True)):
                if not isinstance(job, ToolResult):
                    until = math.inf if call.name in self.own_tools else self.turn.deadline
                    nursery.start_soon(run_one, index, job, until)
        results = [result for result in slots if result is not None]
        for result in results:
            await self._show(Chunk("tool_result", tool_result=result))
        self.results.extend(results)
        self.transcript.append(Message("tool", tuple(results)))

    def _ready(self, call: ToolCall) -> Callable[[], Awaitable[ToolResult]] | ToolResult:
        assert self.turn.desk is not None
        own = self.own_tools.get(call.name)
        return partial(own, call) if own is not None else self.turn.desk.ready(call)

    async def _show(self, chunk: Chunk) -> None:
        if self.outlet is not None:
            with trio.move_on_at(self.turn.deadline):
                await self.outlet.send(chunk)

    @property
    def _shown(self) -> bool:
        return self.outlet is not None and self.outlet.used

    def _done(self, answer: Answer, lane: Lane) -> TurnDone:
        return TurnDone(
            answer=answer,
            lane=lane,
            failed_over=self.failed_over,
            attempts=tuple(self.attempts),
            transcript=tuple(self.transcript),
            tool_results=tuple(self.results),
            steps=self.steps,
            goal=self.goal,
            notes=tuple(self.notes),
        )

    def _too_late(self) -> TurnFailed:
        done = "; ".join(str(one) for one in self.attempts)
        text = f"the turn's deadline passed while the tools of step {self.steps} ran: {done}"
        return TurnFailed(DeadlineExceeded(text, attempts=self.attempts), tuple(self.attempts), shown=self._shown)

    def _stopped(self, answer: Answer, lane: Lane, why: str) -> TurnDone:
        """An end that is not the model's: each call that was not run is answered, so the history stays whole."""
        refused = tuple(ToolResult(call.id, call.name, f"not run: {why}", is_error=True) for call in answer.tool_calls)
        self.transcript.append(Message("tool", refused))
        note = f"stopped: {why}"
        self.transcript.append(Message("assistant", (Text(note),)))
        self.notes.append(note)
        return self._done(attrs.evolve(answer, finish=Finish.TOOL_CALLS), lane)


async def play(link: Link, turn: Turn, own_tools: Mapping[str, OwnTool] | None = None) -> TurnResult:
    """Play `turn` to its end. Expected failures are values.

    The turn's deadline bounds everything in it. Model calls and tools each take it as their own, so that whatever it
    cuts short still tells what had been tried.
    """
    outlet = Outlet(turn.sink) if turn.sink is not None else None
    return await _Play(link, turn, own_tools or {}, outlet, goal=turn.goal or Goal()).run()


def _stood_in(routed: Routed, wanted: str) -> bool:
    """Somebody else than the first choice gave the answer: after a failure, or because that one is known to be down."""
    lane = routed.lane
    failed = any(not one.ok and (one.provider, one.model) != (lane.provider, lane.model) for one in routed.attempts)
    return failed or lane.model != wanted
