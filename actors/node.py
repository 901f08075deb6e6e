"""The places in the tree. They outlive incarnations: a restart changes what lives in a place, not the place.

`Node` is what an actor and a supervisor have in common: name, path, phase, watchers. `Cell` is the place of an actor,
what its refs point to: the queue, the kept value, and the rules for messages while no incarnation runs.
"""

# ruff: noqa: A002 - an actor's exit is called exit

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import trio

from . import events
from .actor import Spec
from .cell import Incarnation
from .errors import ActorDied, Exit, GaveUp, Shutdown, Unavailable, is_abnormal
from .mailbox import Ask, Exempt, Queue, Reply, Waiter
from .ref import ActorRef, Down, Restarted, Restarting, SupervisorRef, Tree
from .restart import Phase

if TYPE_CHECKING:
    from .supervisor import Supervisor
    from .system import System

log = logging.getLogger("actors")


class Node:
    """Base of cells and supervisors. The parent drives it: begin, order_stop, kill, backoff, park, settle."""

    __slots__ = (
        "_moved",
        "exit",
        "generation",
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
        self._moved: trio.Event | None = None
        self.ref: ActorRef[Any] | SupervisorRef

    def emit(self, kind: Callable[..., events.Event], *fields: Any) -> None:
        self.system.hub.emit(kind, self.path, self.generation, *fields)

    def move(self, phase: Phase) -> None:
        """Change phase, and wake whoever waits for that."""
        self.phase = phase
        if self._moved is not None:
            self._moved.set()
            self._moved = None

    async def wait_move(self) -> None:
        if self._moved is None:
            self._moved = trio.Event()
        await self._moved.wait()

    async def wait_stopped(self) -> Exit:
        while self.exit is None:
            await self.wait_move()
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


class Cell(Node):
    """The part of an actor that outlives its incarnations."""

    __slots__ = ("handlers", "kept", "life", "queue", "retry_at", "spec")

    def __init__(self, system: System, parent: Supervisor, spec: Spec[Any]) -> None:
        super().__init__(system, parent, spec.name)
        self.spec = spec
        self.queue = Queue(spec.mailbox.cap)
        self.kept: Any = None
        self.handlers: dict[type, tuple[str, bool]] | None = None  # known once the factory has made an actor
        self.retry_at: float | None = None  # while down: when the next start is planned
        self.life: Incarnation | None = None
        self.ref = ActorRef[Any](self)

    # what refs call

    def check(self, message: Any, ask: bool = False) -> None:
        """The slow path of the type check: TypeError unless a handler takes this message."""
        kind = type(message)
        if ask and not isinstance(message, Ask):
            raise TypeError(f"{self.path}: ask() takes an actors.Ask, not {kind.__name__}")
        if self.handlers is None or kind in self.queue.accepts:
            return
        base = next((base for base in kind.__mro__ if base in self.handlers), None)
        if base is None:
            raise TypeError(f"{self.path} has no handler for {kind.__name__}")
        self.handlers[kind] = self.handlers[base]  # remembered for the whole class

    def refused(self, message: Any) -> None:
        self.emit(events.DeadLetter, "stopped" if self.queue.closed else "full", type(message).__name__)

    def died(self, exit: Exit | None = None) -> ActorDied:
        """A new error for each caller."""
        return ActorDied(self.path, exit or self.exit or Shutdown())

    def publish(self, key: Hashable, value: Any) -> None:
        self.check(value)
        if self.queue.closed:
            self.refused(value)
            return
        old = self.queue.publish(key, value)
        if old is not None:
            self.emit(events.Superseded, type(old).__name__)

    def accept(self, reply: Reply[Any]) -> None:
        """Take an ask in, or raise why not."""
        if self.queue.closed:
            raise self.died()
        if self.retry_at is not None and self._in_vain(reply):
            raise Unavailable(self.path, max(0.0, self.retry_at - trio.current_time()))
        if not self.queue.put(reply):
            self.queue.senders[reply] = None

    def _in_vain(self, reply: Reply[Any]) -> bool:
        """Whether an ask cannot, or must not, wait for the next incarnation."""
        return self.spec.asks_while_down == "fail" or (self.retry_at is not None and reply.deadline <= self.retry_at)

    # what the parent orders

    async def begin(self, generation: int) -> Exit:
        self.generation = generation
        self.move(Phase.STARTING)
        self.life = life = Incarnation(self)
        try:
            return await life.run()
        finally:
            self.life = None

    def order_stop(self, final: bool) -> None:
        self.move(Phase.STOPPING)
        if final:
            self._close(Shutdown())
        if self.life is not None:
            self.life.order_stop()

    def kill(self) -> None:
        if self.life is not None:
            self.life.kill()

    def started(self) -> None:
        self.retry_at = None
        super().started()

    def backoff(self, exit: Exit, k: int, delay: float) -> None:
        self.retry_at = trio.current_time() + delay
        super().backoff(exit, k, delay)
        self._fail_vain_asks(delay)

    def park(self, exit: Exit) -> None:
        self.retry_at = trio.current_time()
        super().park(exit)
        self._fail_vain_asks(0.0)

    def settle(self, exit: Exit) -> None:
        self._close(exit)
        super().settle(exit)

    def snapshot(self, failures: int) -> Tree:
        return Tree(self.name, self.path, self.phase, self.generation, len(self.queue.items), failures)

    def _fail_vain_asks(self, delay: float) -> None:
        queue = self.queue
        waiting = [sender for sender in queue.senders if isinstance(sender, Reply)]
        queued = [item for item in queue.items if isinstance(item, Reply)]
        for reply in queued + waiting:
            if not reply.settled and self._in_vain(reply):
                queue.senders.pop(reply, None)
                reply.settle("failed", None, Unavailable(self.path, delay))
        kept = [item for item in queue.items if not (isinstance(item, Reply) and item.settled == "failed")]
        queue.items.clear()
        queue.items.extend(kept)
        queue.admit()

    def _close(self, exit: Exit) -> None:
        """Nothing more will be handled: dead letters for messages, errors for whoever waits."""
        if self.queue.closed:
            return
        items, waiting = self.queue.close()
        for item in items:
            if isinstance(item, Reply):
                self._fail_queued(item, exit)
            elif not isinstance(item, Exempt):
                self.emit(events.DeadLetter, "discarded", type(item).__name__)
            elif item.key is not None:
                self.emit(events.DeadLetter, "discarded", type(item.message).__name__)
        for sender in waiting:
            if isinstance(sender, Waiter):
                sender.error = self.died(exit)
                trio.lowlevel.reschedule(sender.task)
            else:
                sender.settle("failed", None, self.died(exit))

    def _fail_queued(self, reply: Reply[Any], exit: Exit) -> None:
        kind = type(reply.message).__name__
        if reply.settled:
            self.emit(events.Skipped, reply.settled, kind)
        else:
            self.emit(events.DeadLetter, "discarded", kind)
            reply.settle("failed", None, self.died(exit))
