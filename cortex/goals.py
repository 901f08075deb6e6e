"""What a session is after, how far it has come, and whether it runs in circles. Pure and honest.

Progress is the share of a plan's steps that are done; where there is no plan it is None, never an invented number. A
circle is the same tool call, name and arguments, in three rounds in a row: the model learned nothing from its result.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs

from cortex.messages import ToolCall

LOOP_ROUNDS: Final = 3


@attrs.frozen
class Goal:
    """The goal's text (empty: none yet), the steps of its plan (None: no plan), and the streaks of tool calls."""

    text: str = ""
    steps_planned: int | None = None
    steps_done: int = 0
    loop_detected: bool = False
    _streaks: Mapping[str, int] = attrs.field(factory=dict, repr=False)

    @property
    def progress(self) -> float | None:
        """From 0.0 to 1.0; None without a plan."""
        return min(1.0, self.steps_done / self.steps_planned) if self.steps_planned else None

    def heard(self, message: str) -> Goal:
        """The user spoke: his first message is the goal, and every one ends the streaks, for asking again is no circle.

        `loop_detected` stays until the next round of tool calls: it tells of the turn that was.
        """
        return attrs.evolve(self, text=self.text or message, streaks={})

    def planned(self, steps: int) -> Goal:
        """The plan has `steps` more steps (0: no change)."""
        return attrs.evolve(self, steps_planned=(self.steps_planned or 0) + steps) if steps > 0 else self

    def did(self, steps: int = 1) -> Goal:
        """`steps` of the plan are done; without a plan there are none to do."""
        if self.steps_planned is None:
            return self
        return attrs.evolve(self, steps_done=min(self.steps_done + steps, self.steps_planned))

    def called(self, calls: Iterable[ToolCall]) -> Goal:
        """One round of tool calls. The same call twice in one round counts once: side by side is no circle."""
        streaks = {key: self._streaks.get(key, 0) + 1 for key in map(_key, calls)}
        looping = any(length >= LOOP_ROUNDS for length in streaks.values())
        return attrs.evolve(self, streaks=streaks, loop_detected=looping)

    def as_dict(self) -> dict[str, Any]:
        """What `get_goal_progress` returns, JSON-serialisable."""
        return {
            "goal": self.text,
            "progress": self.progress,
            "steps_done": self.steps_done,
            "steps_planned": self.steps_planned,
            "loop_detected": self.loop_detected,
        }


def _key(call: ToolCall) -> str:
    """The same for the same name and arguments, however the keys are ordered or spaced."""
    arguments = (
        call.raw_arguments if call.arguments is None else json.dumps(call.arguments, sort_keys=True, default=str)
    )
    return f"{call.name} {arguments}"
