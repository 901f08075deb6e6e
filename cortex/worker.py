"""The worker: System 1. It answers turns, runs their tools, and takes the sub-tasks the orchestrator hands out."""

from __future__ import annotations

import actors
from cortex.attempts import Link
from cortex.protocol import Turn
from cortex.turns import play


class Worker(actors.Actor[Turn]):
    """Plays each turn in a task of its own; a turn that breaks breaks alone."""

    def __init__(self, link: Link) -> None:
        self._link = link

    @actors.handle
    def turn(self, message: Turn) -> None:
        """Answered by the task, when the turn is over."""
        self.ctx.spawn(play, self._link, message, reply=self.ctx.defer())
