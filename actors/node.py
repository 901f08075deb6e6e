"""What an actor and a supervisor have in common: a place in the tree that outlives incarnations, and its watchers."""

# ruff: noqa: A002 - an actor's exit is called exit

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs
import trio

from . import events
from .errors import Exit, GaveUp, is_abnormal
from .ref import ActorRef, Ref, SupervisorRef, Tree
from .restart import Phase

if TYPE_CHECKING:
    from .cell import Incarnation
    from .supervisor import Supervisor
    from .system import System

log = logging.getLogger("actors")


@attrs.frozen
class Down:
    """`ref` has stopped for good; `generation` was its last."""

    ref: Ref
    exit: Exit
    generation: int


@attrs.frozen
class Restarting:
    """`ref` ended with `exit`; it starts again in `delay` seconds, after its `k`-th consecutive failure."""

    ref: Ref
    exit: Exit
    k: int
    delay: float


@attrs.frozen
class Restarted:
    """`ref` runs again."""

    ref: Ref
    generation: int


class Node:
    """Base of cells and supervisors. The parent drives it: begin, order_stop, kill, backoff, park, settle."""

    __slots__ = (
        "exit",
        "generation",
        "moved",
        "name",
        "parent",
        "path",
        "phase",
        "ran",
        "ref",
        "system",
        "uid",
        "watchers",
    )

    def __init__(self, system: System, parent: Supervisor | None, name: str) -> None:
        self.system = system
        self.parent = parent
        self.name = name
        self.path: str = f"{parent.path}/{name}" if parent else name
        self.uid: int = system.next_uid()
        self.phase = Phase.STARTING
        self.generation = 0
        self.ran = False
        self.exit: Exit | None = None
        self.watchers: dict[Incarnation, bool] = {}
        self.moved = trio.Event()
        self.ref: ActorRef[Any] | SupervisorRef

    def emit(self, kind: Callable[..., events.Event], *fields: Any) -> None:
        self.system.hub.emit(kind, self.path, self.generation, *fields)

    def move(self, phase: Phase) -> None:
        """Change phase, and wake whoever waits for that."""
        self.phase = phase
        self.moved.set()
        self.moved = trio.Event()

    async def wait_stopped(self) -> Exit:
        while self.exit is None:
            await self.moved.wait()
        return self.exit

    # driven by the parent

    async def begin(self, generation: int) -> Exit:
        """Live one incarnation and say how it ended. Lets out no Exception."""
        raise NotImplementedError

    def order_stop(self, final: bool) -> None:
        raise NotImplementedError

    def kill(self) -> None:
        raise NotImplementedError

    def snapshot(self, failures: int) -> Tree:
        return Tree(self.name, self.path, self.phase, self.generation, 0, failures)

    def started(self) -> None:
        self.ran = True
        self.move(Phase.RUNNING)
        if self.generation == 1:
            self.emit(events.Started)
        else:
            self.emit(events.Restarted)
            self._tell_watchers(Restarted(self.ref, self.generation))

    def backoff(self, exit: Exit, k: int, delay: float) -> None:
        self.move(Phase.BACKOFF)
        if is_abnormal(exit):
            log.warning("%s starts again in %.2f s (failure %d)", self.path, delay, k)
        self.emit(events.RestartScheduled, k, delay)
        self._tell_watchers(Restarting(self.ref, exit, k, delay))

    def park(self, exit: Exit) -> None:
        self.move(Phase.PARKED)
        self._report_giving_up(exit)

    def settle(self, exit: Exit) -> None:
        """The end of the node: the name is free before anybody hears of it."""
        if self.phase is not Phase.PARKED:
            self._report_giving_up(exit)
        self.exit = exit
        self.system.names.pop(self.name, None)
        self.emit(events.Stopped, exit)
        watchers, self.watchers = self.watchers, {}
        for watcher in watchers:
            watcher.forget(self)
            watcher.signal(Down(self.ref, exit, self.generation))
        self.move(Phase.STOPPED)

    def _report_giving_up(self, exit: Exit) -> None:
        if isinstance(exit, GaveUp):
            log.error("%s is given up", self.path)
            self.emit(events.GaveUp, exit.last)

    def _tell_watchers(self, signal: Restarting | Restarted) -> None:
        for watcher, restarts in self.watchers.items():
            if restarts:
                watcher.signal(signal)
