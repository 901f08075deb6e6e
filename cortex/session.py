"""A session: one conversation, turn by turn.

A turn is atomic: history gains it when it ends. A failed or cancelled turn leaves history as it was; the results of
tools that ran stay in the turn's ledger and are used again when the same message is run with `retry=True`. Turns of
one session run one after the other, in the order they were asked for, whichever loop or thread asks.

A session has no task and no entry in the engine: dropping it is closing it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack, overload

import attrs
import trio

from cortex import checks, inputs
from cortex.agentic import AgenticResult, pursue
from cortex.calls import (
    CallOptions,
    Prepared,
    Role,
    as_response,
    can_repair,
    check_result,
    outcome_of,
    parse_answer,
    prepare,
    repair_request,
)
from cortex.desk import Desk
from cortex.endings import of_both
from cortex.errors import ConfigError, CortexError, EngineClosed, ProviderError, SessionBusy
from cortex.events import ToolResultsDropped, wall_clock
from cortex.gate import Gate, Line, Ticket
from cortex.goals import Goal
from cortex.ledger import Ledger
from cortex.messages import Finish, Message
from cortex.protocol import Caller, Sink, Turn, TurnDone, TurnFailed, TurnResult
from cortex.results import Chunk, Response
from cortex.stats import DualProcessStats
from cortex.streams import Stream, SyncStream
from cortex.tools import Tool, spec
from cortex.tree import Tree
from cortex.triage import Decision, decide
from cortex.weights import render

if TYPE_CHECKING:
    from cortex.agent import Agent

System = Literal[1, 2]
T = TypeVar("T")

MAX_FAILED = 16
"""Failed turns whose tools' results a session keeps for a retry."""


@attrs.frozen
class _Input:
    """One validated `run`."""

    message: Message
    retry: bool
    prepared: Prepared

    @property
    def forced(self) -> System | None:
        return self.prepared.system


@attrs.frozen
class _Run:
    """A turn under way: what was asked, for whom, until when. Times are trio's."""

    given: _Input
    tree: Tree
    caller: Caller
    sink: Sink | None
    ledger: Ledger
    started: float
    deadline: float


def _desk(tools: Mapping[str, Tool], run: _Run) -> Desk:
    return Desk(tools, run.ledger, run.caller, run.tree.abandoned)


class Session:
    """One conversation with an agent. Made by `agent.start_session`."""

    def __init__(self, agent: Agent, user_id: str, session_id: str) -> None:
        self.agent = agent
        self.user_id = user_id
        self.session_id = session_id
        self._engine = agent.engine
        self._gate: Gate | None = None
        self._line = Line()
        self._history: tuple[Message, ...] = ()
        self._stats = DualProcessStats()
        self._weights = agent.weights
        self._goal = Goal()
        self._failed: list[tuple[Message, Ledger]] = []
        self._closed = False

    def __repr__(self) -> str:
        return f"<Session {self.session_id} of {self.agent.name}: {len(self._history)} messages>"

    # ---- running turns

    @overload
    async def run(
        self,
        message: str | Message,
        *,
        output_type: type[T],
        system: System | None = None,
        retry: bool = False,
        **call: Unpack[CallOptions],
    ) -> Response[T]: ...
    @overload
    async def run(
        self,
        message: str | Message,
        *,
        output_type: Any = None,
        system: System | None = None,
        retry: bool = False,
        **call: Unpack[CallOptions],
    ) -> Response: ...
    async def run(
        self,
        message: str | Message,
        *,
        output_type: Any = None,
        system: System | None = None,
        retry: bool = False,
        **call: Unpack[CallOptions],
    ) -> Response:
        """Run one turn and give its answer.

        `system` forces System 1 (the worker's model answers) or 2 (the orchestrator's, which may delegate); None lets
        triage decide. `retry` uses the results of tools that ran in a failed turn of this very message.
        `output_type`: a type or a JSON schema; the answer is parsed to it, and repaired once, as `output`. There is no
        response without it: BadReply when it does not fit, or was cut off, ContentRefused when the model refused.
        Options: `model`, `images`, `temperature`, `max_tokens`, `stop` (texts that end the answer), `seed`, `effort`
        ("minimal" to "high") or `thinking_budget` (tokens), `parallel_tools`, `timeout` (seconds), `extra` (fields for
        the vendor's body). What the vendor that serves has no place for is told in `metadata.notes`.

        Raises ConfigError for bad input, a ProviderError that says who failed and why, DeadlineExceeded, QueueFull,
        SessionBusy from inside this session's own turn, EngineClosed. Two sessions whose tools run each other wait for
        each other until a tool's timeout ends that.
        """
        given = self._validated(message, system, retry, output_type, call)
        return await self._engine.host.call(partial(self._arrive, given))

    @overload
    def run_sync(
        self,
        message: str | Message,
        *,
        output_type: type[T],
        system: System | None = None,
        retry: bool = False,
        **call: Unpack[CallOptions],
    ) -> Response[T]: ...
    @overload
    def run_sync(
        self,
        message: str | Message,
        *,
        output_type: Any = None,
        system: System | None = None,
        retry: bool = False,
        **call: Unpack[CallOptions],
    ) -> Response: ...
    def run_sync(
        self,
        message: str | Message,
        *,
        output_type: Any = None,
        system: System | None = None,
        retry: bool = False,
        **call: Unpack[CallOptions],
    ) -> Response:
        """`run` for plain threads. Inside a running event loop it is a ConfigError: await `run` there."""
        given = self._validated(message, system, retry, output_type, call)
        return self._engine.host.call_sync(partial(self._arrive, given), "run")

    def run_stream(
        self,
        message: str | Message,
        *,
        output_type: Any = None,
        system: System | None = None,
        retry: bool = False,
        **call: Unpack[CallOptions],
    ) -> Stream:
        """`run` as a stream of chunks; the turn begins with the first one asked for. The last chunk is `final`, and its
        `response` has the `output`; before a repair a chunk of kind `restart` takes back what was shown."""
        given = self._validated(message, system, retry, output_type, call)
        return Stream(lambda: self._engine.host.stream(self._streamed(given)))

    def run_stream_sync(
        self,
        message: str | Message,
        *,
        output_type: Any = None,
        system: System | None = None,
        retry: bool = False,
        **call: Unpack[CallOptions],
    ) -> SyncStream:
        """`run_stream` for plain threads."""
        given = self._validated(message, system, retry, output_type, call)
        return SyncStream(lambda: self._engine.host.stream_sync(self._streamed(given), "run_stream"))

    async def run_agentic(self, goal: str, max_steps: int = 100, timeout: float | None = None) -> AgenticResult:
        """Pursue `goal` over many turns: plan, do, check, until it is met or `max_steps` turns are spent.

        `timeout` (seconds) bounds the whole. Raises as `run` does; what was done before stays in the history.
        """
        checked = inputs.options(timeout=timeout)
        self.set_goal(goal)
        return await pursue(self, goal, checks.whole("max_steps", max_steps, low=3), checked.timeout)

    def _validated(
        self, message: object, system: object, retry: object, output_type: object, call: CallOptions
    ) -> _Input:
        if self._closed:
            raise EngineClosed(f"session {self.session_id} is closed; start a new one")
        if not isinstance(retry, bool):
            raise ConfigError(f"retry: must be True or False, not {checks.kind(retry)}")
        prepared = prepare(call, output_type, whole_turn=True, system=system)
        if prepared.model is not None:
            self._engine.chain("worker", prepared.model)  # an unknown model is an error of this very line
        return _Input(inputs.message(message, images=call.get("images", ())), retry, prepared)

    def _streamed(self, given: _Input) -> Callable[[Tree, Sink], Callable[[Caller], Awaitable[None]]]:
        def arrive(tree: Tree, sink: Sink) -> Callable[[Caller], Awaitable[None]]:
            serve = self._arrive(given, tree, sink)

            async def served(caller: Caller) -> None:
                await sink.send(Chunk("final", response=await serve(caller)))

            return served

        return arrive

    # ---- one turn, where the engine lives

    def _arrive(self, given: _Input, tree: Tree, sink: Sink | None = None) -> Callable[[Caller], Awaitable[Response]]:
        """Stand in line behind the turns that came before."""
        line = self._turns_in(tree.gate)
        if tree.gate.is_inside_of(line):
            raise SessionBusy(
                f"session {self.session_id}: run was called from inside its own turn; use another session"
            )
        return partial(self._turn, given, tree, tree.gate.arrive(line), trio.current_time(), sink)

    async def _turn(
        self, given: _Input, tree: Tree, ticket: Ticket, started: float, sink: Sink | None, caller: Caller
    ) -> Response:
        limit = given.prepared.timeout
        deadline = started + (limit if limit is not None else tree.policy.turn_timeout)
        async with tree.gate.pass_through(ticket, deadline):
            ledger = self._ledger_for(given, tree)
            return await self._served(_Run(given, tree, caller, sink, ledger, started, deadline))

    def _turns_in(self, gate: Gate) -> Line:
        """What makes turns queue; in each tree another: a turn that went down with its tree (in the parent of a fork,
        in a runtime that died) holds nobody up."""
        if self._gate is not gate:
            self._gate, self._line = gate, Line()
        return self._line

    async def _served(self, run: _Run) -> Response:
        given = run.given
        decision = self._triage(given)
        whole = False
        try:
            result, system = await self._answered(run, decision)
            try:
                done = check_result(result)
            finally:
                del result  # an error's traceback holds this frame: no cycle
            goal = done.goal if self.agent.goal_tracking else None
            response = as_response(done, given.prepared, started=run.started, system=system, goal=goal)
            whole = True
        finally:
            # Failed or cancelled: what tools did is done, whether or not there is an answer.
            if not whole and run.ledger.rows:
                self._failed.append((given.message, run.ledger))
        role: Role = "worker" if system == 1 else "orchestrator"
        self._engine.served(self._engine.chain(role, given.prepared.model), done.lane)
        self._commit(given, done, decision, system)
        return response

    def _triage(self, given: _Input) -> Decision:
        return decide(
            given.message.text,
            history_len=len(self._history),
            weights=self._weights,
            private=self._engine.private,
            forced=given.forced,
        )

    async def _answered(self, run: _Run, decision: Decision) -> tuple[TurnResult, System]:
        """Ask the role that triage chose. A failed or empty System 1 turn escalates once."""
        system = decision.system
        turn = self._turn_for(system, run)
        result = await outcome_of(run.tree, system, turn)
        if system == 1 and self._should_escalate(result, run.given):
            first, system = result, 2
            turn = self._turn_for(2, run)
            result = await outcome_of(run.tree, 2, turn)
            result = attrs.evolve(result, attempts=(*first.attempts, *result.attempts))
            if isinstance(first, TurnFailed) and isinstance(result, TurnDone):
                result = attrs.evolve(result, failed_over=True)
            if isinstance(first, TurnFailed) and isinstance(result, TurnFailed):
                result = attrs.evolve(result, error=_of_both(first.error, result.error))
        if run.given.prepared.output is not None and isinstance(result, TurnDone):
            result = await self._repaired(run, system, turn, result)
        return result, system

    def _should_escalate(self, result: TurnResult, given: _Input) -> bool:
        """Not where the caller chose, not out of a zone, and not when the other role could only ask the same lanes. A
        refusal is an answer, whatever little it says, and so is one that ran into its limit. Who named the fallbacks
        named all of them: a failure goes to nobody else."""
        if given.forced is not None or self._engine.private or given.prepared.model is not None:
            return False
        if isinstance(result, TurnDone):
            answer = result.answer
            return not answer.text.strip() and not answer.tool_calls and answer.finish in (Finish.STOP, Finish.OTHER)
        if result.shown or self._engine.settings.fallback_models is not None:
            return False
        if not isinstance(result.error, CortexError):
            return False
        asked = {(attempt.provider, attempt.model) for attempt in result.attempts}
        chain = self._engine.chain("orchestrator", None)
        fresh = any((lane.provider, lane.model) not in asked for lane in chain.lanes)
        return fresh and getattr(result.error, "retryable", False)

    async def _repaired(self, run: _Run, system: System, turn: Turn, result: TurnDone) -> TurnResult:
        """An answer that does not fit the schema goes back once, with the fault in words. Who saw it in a stream is
        told to discard it."""
        fault = parse_answer(run.given.prepared, result.answer)[1] if can_repair(result.answer) else ""
        if not fault:
            return result
        if run.sink is not None:
            await run.sink.send(Chunk("restart"))
        again = attrs.evolve(turn, request=repair_request(turn.request, result, fault))
        second = await outcome_of(run.tree, system, again)
        if isinstance(second, TurnFailed):
            return attrs.evolve(second, attempts=(*result.attempts, *second.attempts))
        return attrs.evolve(
            second,
            attempts=(*result.attempts, *second.attempts),
            transcript=(*result.transcript[:-1], *second.transcript),
            tool_results=(*result.tool_results, *second.tool_results),
            steps=result.steps + second.steps,
            failed_over=result.failed_over or second.failed_over,
            notes=(*result.notes, *second.notes, f"the first answer did not fit the schema: {fault}"),
        )

    def _turn_for(self, system: System, run: _Run) -> Turn:
        """The turn as the role gets it."""
        engine, prepared, message = self._engine, run.given.prepared, run.given.message
        role: Role = "worker" if system == 1 else "orchestrator"
        turn = Turn(
            request=attrs.evolve(
                prepared.request,
                system=self._system_prompt(),
                messages=(*self._past(), message),
                tools=tuple(spec(tool) for tool in self.agent.tools.values()),
            ),
            chain=engine.chain(role, prepared.model),
            deadline=run.deadline,
            call_timeout=engine.call_timeout(role, prepared, stream=run.sink is not None),
            caller=run.caller,
            desk=_desk(self.agent.tools, run),
            sink=run.sink,
            goal=self._goal.heard(message.text),
            max_rounds=engine.settings.policy.max_tool_rounds,
        )
        return turn if system == 1 else self._with_delegation(turn, run)

    def _with_delegation(self, turn: Turn, run: _Run) -> Turn:
        """System 2 may hand sub-tasks to the worker. In a private engine it sees this message alone and has no tool but
        that: what the tools say is for the worker's eyes."""
        engine = self._engine
        template = attrs.evolve(
            turn,
            request=attrs.evolve(turn.request, messages=(), output=None),
            chain=engine.chain("worker", None),
            call_timeout=engine.call_timeout("worker", run.given.prepared, stream=False),
            sink=None,
        )
        if engine.private:
            sealed = attrs.evolve(turn.request, messages=(run.given.message,), tools=())
            turn = attrs.evolve(turn, request=sealed, desk=_desk({}, run))
        return attrs.evolve(turn, delegation=template)

    def _system_prompt(self) -> str:
        return "\n\n".join(part for part in (self.agent.system_prompt, render(self._weights)) if part)

    def _past(self) -> tuple[Message, ...]:
        """The history that goes with a turn: whole turns only, so that no tool result stands without its call."""
        limit = self.agent.history_limit
        if limit is None or len(self._history) <= limit:
            return self._history
        starts = [index for index, message in enumerate(self._history) if message.role == "user"]
        first = next((index for index in starts if len(self._history) - index <= limit), len(self._history))
        return self._history[first:]

    # ---- the end of a turn

    def _commit(self, given: _Input, result: TurnDone, decision: Decision, system: System) -> None:
        self._history = (*self._history, given.message, *result.transcript)
        self._stats = self._stats.count(system)
        if system != decision.system:
            self._stats = self._stats.escalated()
        if self.agent.goal_tracking and result.goal is not None:
            self._goal = result.goal

    def _ledger_for(self, given: _Input, tree: Tree) -> Ledger:
        """The ledger of the failed turn when this is its retry, else a new one; what is forgotten is told.

        Other turns that failed stay: between a turn and its retry others may have been waiting.
        """
        same = next((failed for failed in self._failed if failed[0] == given.message), None)
        if same is not None:
            self._failed.remove(same)
            if given.retry:
                return same[1]
        dropped = [same] if same is not None else self._failed[:-MAX_FAILED]
        self._failed = self._failed[-MAX_FAILED:]
        for _, ledger in dropped:
            names = tuple(row.name for row in ledger.rows)
            tree.hub.emit(ToolResultsDropped(self.session_id, names, wall_clock()))
        return Ledger()

    # ---- looking

    @property
    def history(self) -> tuple[Message, ...]:
        """The messages of all turns that ended, oldest first."""
        return self._history

    def get_dual_process_stats(self) -> dict[str, Any]:
        """How many turns each system answered: system1_count, system2_count, system2_ratio, total_decisions,
        escalations."""
        return self._stats.as_dict()

    def get_goal_progress(self) -> dict[str, Any]:
        """goal, progress (None without a plan), steps_done, steps_planned, loop_detected."""
        return self._goal.as_dict()

    def set_goal(self, goal: str) -> None:
        """Set the goal by hand; without it the first message is the goal."""
        self._goal = Goal(text=checks.text("goal", goal))

    def plan_steps(self, steps: int) -> None:
        """The plan has `steps` more steps; `run_agentic` says so, and so may your own loop."""
        self._goal = self._goal.planned(steps)

    def finish_step(self) -> None:
        """One step of the plan is done."""
        self._goal = self._goal.did()

    @property
    def private(self) -> bool:
        """Whether the worker's zone is the more trusted one: then the orchestrator is shown single messages only."""
        return self._engine.private

    def get_weights(self) -> dict[str, float]:
        """The weights of this session by name."""
        return attrs.asdict(self._weights)

    def override_weight(self, name: str, value: float) -> None:
        """Set one weight of this session from the next turn on."""
        self._weights = self._weights.override(name, value)

    # ---- closing

    async def close(self) -> dict[str, Any]:
        """End the conversation; gives its stats. Nothing else has to be released."""
        self._closed = True
        return {"session_id": self.session_id, "messages": len(self._history), **self.get_dual_process_stats()}

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()


def _of_both(first: Exception, second: Exception) -> Exception:
    """The error of a turn that escalated in vain; a deadline that passed, or a fault of ours, speaks for itself."""
    if isinstance(first, ProviderError) and isinstance(second, ProviderError):
        return of_both(first, second)
    return second
