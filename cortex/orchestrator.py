"""The orchestrator: System 2. It answers with the deep model, which may hand sub-tasks to the worker.

`delegate` is a tool like any other to the model, so planning costs nothing when the model sees no need for it. Its
tasks run side by side, each with a transcript of its own; their results come back as the tool's result.
"""

from __future__ import annotations

import json
from typing import Any

import attrs
import trio

import actors
from cortex.attempts import Link
from cortex.goals import Goal
from cortex.messages import Message, Text, ToolCall, ToolResult, ToolSpec
from cortex.protocol import Turn, TurnDone, TurnFailed, TurnResult
from cortex.turns import play

MAX_TASKS = 16
"""Sub-tasks of one `delegate` call."""

MARGIN = 1.0
"""Seconds beyond what a sub-task may take after its deadline (a tool that lingers is waited for in the worker already):
the account it then gives must not be cut off by the same clock."""

DELEGATE = ToolSpec(
    name="delegate",
    description=(
        "Hand independent sub-tasks to fast workers that run side by side. Each task must be complete in itself: "
        "workers see nothing of this conversation. Returns their answers in order."
    ),
    parameters={
        "type": "object",
        "properties": {
            "tasks": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_TASKS},
        },
        "required": ["tasks"],
        "additionalProperties": False,
    },
)


class Orchestrator(actors.Actor[Turn]):
    """Plays each turn in a task of its own, with `delegate` beside the agent's tools."""

    def __init__(self, link: Link, worker: actors.ActorRef[Any]) -> None:
        self._link = link
        self._worker = worker

    @actors.handle
    def turn(self, message: Turn) -> None:
        """Answered by the task, when the turn is over."""
        self.ctx.spawn(self._play, message, reply=self.ctx.defer())

    async def _play(self, turn: Turn) -> TurnResult:
        if turn.delegation is None:
            return await play(self._link, turn)
        delegation = _Delegation(self._worker, turn.delegation, self._link.policy.grace)
        request = attrs.evolve(turn.request, tools=(*turn.request.tools, DELEGATE))
        result = await play(self._link, attrs.evolve(turn, request=request), {DELEGATE.name: delegation.run})
        return delegation.accounted(result)


@attrs.define
class _Delegation:
    """The sub-tasks of one turn. `template` is a worker's turn without its task: it has the turn's deadline, at which
    it ends by itself and tells what was tried. A sub-task that is cancelled, or does not end then, is waited for
    `grace` seconds, so that its tools have ended when the turn has. `done`: those of each call in their order."""

    worker: actors.ActorRef[Any]
    template: Turn
    grace: float
    done: list[TurnResult] = attrs.field(factory=list)

    async def run(self, call: ToolCall) -> ToolResult:
        tasks = call.arguments.get("tasks") if isinstance(call.arguments, dict) else None
        if not isinstance(tasks, list) or not tasks or not all(isinstance(task, str) and task for task in tasks):
            return ToolResult(call.id, call.name, "`tasks` must be a list of texts, one per task", is_error=True)
        if len(tasks) > MAX_TASKS:
            return ToolResult(call.id, call.name, f"at most {MAX_TASKS} tasks at once", is_error=True)
        results: list[TurnResult | actors.ActorError | None] = [None for _ in tasks]

        @trio.lowlevel.enable_ki_protection
        async def work(index: int, task: str) -> None:
            results[index] = await self._one(task)

        with trio.move_on_at(self.template.deadline + 2 * self.grace + MARGIN):
            async with trio.open_nursery() as nursery:
                for index, task in enumerate(tasks):
                    nursery.start_soon(work, index, task)
        self.done.extend(result for result in results if isinstance(result, TurnResult))
        answers = [{"task": task, **_told(result)} for task, result in zip(tasks, results, strict=True)]
        return ToolResult(call.id, call.name, json.dumps(answers, ensure_ascii=False))

    async def _one(self, task: str) -> TurnResult | actors.ActorError:
        request = attrs.evolve(self.template.request, messages=(Message("user", (Text(task),)),))
        try:
            return await self.worker.ask(attrs.evolve(self.template, request=request), join=self.grace)
        except actors.ActorError as error:
            return error

    def accounted(self, result: TurnResult) -> TurnResult:
        """The turn's trail with that of its sub-tasks: every token that was paid for is in it."""
        extra = tuple(attempt for one in self.done for attempt in one.attempts)
        results = tuple(item for one in self.done if isinstance(one, TurnDone) for item in one.tool_results)
        if isinstance(result, TurnFailed):
            return attrs.evolve(result, attempts=(*extra, *result.attempts))
        return attrs.evolve(
            result,
            goal=self._progress(result.goal),
            attempts=(*extra, *result.attempts),
            tool_results=(*results, *result.tool_results),
            steps=result.steps + sum(one.steps for one in self.done if isinstance(one, TurnDone)),
        )

    def _progress(self, goal: Goal | None) -> Goal | None:
        """The sub-tasks are the plan; those that were answered are done."""
        if goal is None:
            return None
        return goal.planned(len(self.done)).did(sum(isinstance(one, TurnDone) for one in self.done))


def _told(result: TurnResult | actors.ActorError | None) -> dict[str, str]:
    """A sub-task's end, in words for the model."""
    match result:
        case TurnDone(answer=answer):
            return {"answer": answer.text}
        case TurnFailed(error=why):
            return {"error": str(why)}
    return {"error": f"the worker failed: {result or 'it did not end in time'}"}
