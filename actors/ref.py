"""Addresses, and the signals about them. A ref is an immutable handle to one place in the tree: it outlives restarts,
and never reaches a later actor of the same name."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import attrs
import trio
from trio.lowlevel import current_task, wait_task_rescheduled

from . import restart
from .actor import Spec, SupervisorSpec
from .errors import AskTimeout, Exit
from .mailbox import Ask, Reply

if TYPE_CHECKING:
    from .node import Cell, Node
    from .supervisor import Supervisor

M = TypeVar("M")
M_contra = TypeVar("M_contra", contravariant=True)
R = TypeVar("R")


class Ref:
    """What every address has. Equal, and hashed, by `uid`."""

    __slots__ = ("_node", "uid")

    def __init__(self, node: Node) -> None:
        self._node = node
        self.uid: int = node.uid

    @property
    def name(self) -> str:
        return self._node.name

    @property
    def path(self) -> str:
        return self._node.path

    async def wait_stopped(self) -> Exit:
        """Wait until the actor is gone for good (restarts do not count), and return how it ended."""
        return await self._node.wait_stopped()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ref) and self.uid == other.uid

    def __hash__(self) -> int:
        return self.uid

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path}#{self.uid}>"


class ActorRef(Ref, Generic[M_contra]):
    """The address of an actor that takes `M`."""

    __slots__ = ("_cell", "_queue")

    def __init__(self, cell: Cell) -> None:
        super().__init__(cell)
        self._cell = cell
        self._queue = cell.queue

    def tell(self, message: M_contra) -> bool:
        """Queue `message` without waiting. False if it was refused: the queue is full, or the actor has stopped.

        Never raises because of the receiver. TypeError if the actor has no handler for this type.
        """
        queue = self._queue
        if type(message) not in queue.accepts:
            self._cell.check(message)
        if len(queue.items) < queue.limit:
            queue.items.append(message)
            if queue.sleeper is not None:
                queue.wake()
            return True
        self._cell.refused(message)
        return False

    @trio.lowlevel.enable_ki_protection
    async def send(self, message: M_contra) -> None:
        """Queue `message`, waiting for room. ActorDied if the actor stops before there is any.

        With room it returns at once, but yields to other tasks every 64th time.
        """
        queue = self._queue
        if type(message) not in queue.accepts:
            self._cell.check(message)
        queue.sent += 1
        if not queue.sent & 63:
            await trio.lowlevel.checkpoint()
        if len(queue.items) < queue.limit:
            queue.items.append(message)
            if queue.sleeper is not None:
                queue.wake()
        elif queue.closed:
            raise self._cell.died()
        else:
            await queue.put_waiting(message)

    def publish(self, key: Hashable, value: M_contra) -> None:
        """Queue `value`, handled like a message of its type; it replaces a queued value of the same `key` in place.

        For state of which only the newest counts. Never refused while the actor lives; not counted by the capacity.
        """
        self._cell.publish(key, value)

    @trio.lowlevel.enable_ki_protection
    async def ask(
        self, message: Ask[R], *, timeout: float | None = None, deadline: float | None = None, join: float = 0.0
    ) -> R:
        """Send `message`, waiting for room if need be, and wait for its answer.

        `timeout` in seconds (default: the system's), `deadline` in trio time overrides it. If the asker is cancelled
        while a task serves the ask, that task is cancelled, and waited for up to `join` seconds.
        Raises AskTimeout, ActorDied, Unavailable, TaskFailed, or what the actor rejected it with.
        """
        cell = self._cell
        if type(message) not in self._queue.accepts or not isinstance(message, Ask):
            cell.check(message, ask=True)
        if deadline is None:
            if timeout is None:
                timeout = cell.system.ask_timeout
            deadline = math.inf if timeout == math.inf else trio.current_time() + timeout
        if deadline != math.inf and deadline <= trio.current_time():
            await trio.lowlevel.checkpoint()
            raise AskTimeout(f"{cell.path}: the deadline of {type(message).__name__} had passed before it was asked")
        reply: Reply[R] = Reply(message, deadline, cell, current_task())
        cell.accept(reply)
        if deadline != math.inf:
            cell.system.deadlines.add(reply)
        try:
            await wait_task_rescheduled(reply.leave)
        except (trio.Cancelled, KeyboardInterrupt):
            await reply.join(join)
            raise
        if reply.error is not None:
            try:
                raise reply.error
            finally:
                del reply  # the error's traceback holds this frame: no cycle through the slot
        answer: R = reply.value
        return answer


class SupervisorRef(Ref):
    """The address of a supervisor. Its calls may be made from inside actors; only the calling handler waits."""

    __slots__ = ("_supervisor",)

    def __init__(self, supervisor: Supervisor) -> None:
        super().__init__(supervisor)
        self._supervisor = supervisor

    @overload
    async def start_child(self, spec: Spec[M]) -> ActorRef[M]: ...
    @overload
    async def start_child(self, spec: SupervisorSpec) -> SupervisorRef: ...
    async def start_child(self, spec: Spec[Any] | SupervisorSpec) -> ActorRef[Any] | SupervisorRef:
        """Start a child and wait until it runs.

        StartError (with __cause__) if its first start fails, NameTaken, ActorDied if this supervisor stops. If the
        caller is cancelled while it waits, the child is stopped again.
        """
        return await self._supervisor.start_child(spec)

    async def stop_child(self, ref: Ref) -> Exit:
        """Stop a child for good and wait until it is gone. Its name is free then, its ref dead."""
        return await self._supervisor.stop_child(ref)

    async def restart_child(self, ref: Ref) -> bool:
        """Restart a child now, also when it waits for a later restart; one that is starting is left to start.

        Waits for the outcome of that start: whether the child runs (if not, its policy goes on).
        """
        return await self._supervisor.restart_child(ref)

    async def remove_child(self, ref: Ref) -> None:
        """Make sure a child is gone: stop it unless it has stopped already."""
        await self._supervisor.stop_child(ref)

    def children(self) -> tuple[ActorRef[Any] | SupervisorRef, ...]:
        """The children that have not stopped, in the order of their start."""
        return self._supervisor.child_refs()


@attrs.frozen
class Tree:
    """A snapshot of one node. `queued`: messages waiting; `failures`: consecutive ones."""

    name: str
    path: str
    phase: restart.Phase
    generation: int
    queued: int
    failures: int
    children: tuple[Tree, ...] = ()


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
