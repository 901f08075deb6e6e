"""A goal pursued over many turns: plan, do, check, until it is met or the steps are spent.

Every step is a turn of the session like any other: routed, failing over, in the history. The orchestrator plans and
checks, the worker does. Where the worker's zone is the more trusted one the worker does all three, since the
orchestrator would not be shown what was done.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs

from cortex.results import Response

if TYPE_CHECKING:
    from cortex.session import Session


@attrs.frozen
class AgenticResult:
    """What came of a goal. `met`: the check said so; False when the steps were spent first. `stats` is JSON-able."""

    goal: str
    met: bool
    steps_taken: int
    final_response: Response
    stats: dict[str, Any]


def _object(title: str, **properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "title": title,
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_TEXTS: Final = {"type": "array", "items": {"type": "string"}}
_PLAN: Final = _object("plan", steps=_TEXTS)
_CHECK: Final = _object("check", met={"type": "boolean"}, missing=_TEXTS)


async def pursue(session: Session, goal: str, max_steps: int, timeout: float | None) -> AgenticResult:
    """Run the loop. Errors of a step leave as they are: the session's history holds what was done before."""
    return await _Pursuit(session, goal, max_steps, timeout).run()


@attrs.define
class _Pursuit:
    session: Session
    goal: str
    max_steps: int
    timeout: float | None
    taken: int = 0
    started: float = attrs.field(factory=time.monotonic)

    async def run(self) -> AgenticResult:
        plan = await self._think(f"Goal: {self.goal}\nBreak it into the fewest steps, in order. Give the steps.", _PLAN)
        todo = deque(plan.output["steps"])
        self.session.plan_steps(len(todo))
        last, met = plan, False
        while not met and self.taken < self.max_steps:
            if todo:
                last = await self._do(f"Do this step now: {todo.popleft()}")
                self.session.finish_step()
            elif self.taken + 1 < self.max_steps:
                met = await self._check(todo)
            else:
                break
        if met and self.taken < self.max_steps:
            last = await self._do(f"The goal is met: {self.goal}\nGive the final answer.")
        return AgenticResult(self.goal, met, self.taken, last, self.session.get_dual_process_stats())

    async def _check(self, todo: deque[str]) -> bool:
        """True when the goal is met; else what is missing becomes the next steps."""
        words = f"Goal: {self.goal}\nIs it met by what was done so far? If not, give the steps that are missing."
        output = (await self._think(words, _CHECK)).output
        todo.extend(output["missing"])
        self.session.plan_steps(len(output["missing"]))
        return bool(output["met"]) or not output["missing"]

    async def _think(self, words: str, schema: dict[str, Any]) -> Response:
        return await self._turn(words, 1 if self.session.private else 2, schema)

    async def _do(self, words: str) -> Response:
        return await self._turn(words, 1, None)

    async def _turn(self, words: str, system: Literal[1, 2], schema: dict[str, Any] | None) -> Response:
        self.taken += 1
        left = None if self.timeout is None else max(self.timeout - (time.monotonic() - self.started), 0.001)
        return await self.session.run(words, system=system, output_type=schema, timeout=left)
