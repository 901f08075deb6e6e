"""Executes what `restart.step` decides. The only place where the tasks of actors are started.

`feed` runs in whichever task brings the event (an incarnation that ended, a caller of `stop_child`): no inbox, so no
event can wait behind another. The supervisor's own task only sleeps until the next deadline and feeds a Tick.
"""

# ruff: noqa: A001, A002 - an actor's exit is called exit

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from . import events, restart
from .actor import Spec, SupervisorSpec
from .cell import crash_of
from .errors import ActorDied, Crashed, Exit, GaveUp, Killed, NameTaken, Shutdown, StartError, StartFailed
from .node import Cell, Node, log
from .ref import ActorRef, Ref, SupervisorRef, Tree
from .restart import Phase

if TYPE_CHECKING:
    from .system import System


class Supervisor(Node):
    def __init__(self, system: System, parent: Supervisor | None, name: str) -> None:
        super().__init__(system, parent, name)
        self.ref = SupervisorRef(self)
        self._nodes: dict[int, Node] = {}
        self._parked: dict[int, Exit] = {}
        self._state = restart.State()
        self._nursery: trio.Nursery | None = None
        self._timer = trio.CancelScope()
        self._result: Exit | None = None

    # what refs call

    @trio.lowlevel.enable_ki_protection
    async def start_child(self, spec: Spec[Any] | SupervisorSpec) -> ActorRef[Any] | SupervisorRef:
        node = self._add(spec)
        try:
            while node.exit is None and not node.ran:
                await node.wait_move()
        except (trio.Cancelled, KeyboardInterrupt):
            self.feed(restart.Stop(node.uid))
            raise
        if not node.ran:
            assert node.exit is not None
            if isinstance(node.exit, StartFailed):
                raise StartError(f"{node.path} did not start") from node.exit.exc
            raise ActorDied(node.path, node.exit)
        return node.ref

    def _add(self, spec: Spec[Any] | SupervisorSpec) -> Node:
        names = self.system.names
        if spec.name in names:
            raise NameTaken(f"{names[spec.name].path} is alive and has the name {spec.name!r}")
        if self._nursery is None or self._state.exit is not None:
            raise ActorDied(self.path, self.exit or self._state.exit or Shutdown())
        node: Node
        if isinstance(spec, Spec):
            node = Cell(self.system, self, spec)
            add = restart.Add(node.uid, spec.restart, spec.policy, spec.shutdown)
        else:
            node = Supervisor(self.system, self, spec.name)
            add = restart.Add(node.uid, "permanent", spec.policy, spec.shutdown)
        names[spec.name] = self._nodes[node.uid] = node
        self.feed(add)
        return node

    @trio.lowlevel.enable_ki_protection
    async def stop_child(self, ref: Ref) -> Exit:
        node = self._child(ref)
        self.feed(restart.Stop(node.uid))
        return await node.wait_stopped()

    @trio.lowlevel.enable_ki_protection
    async def restart_child(self, ref: Ref) -> bool:
        node = self._child(ref)
        wanted = node.generation + (node.phase is not Phase.STARTING)
        self.feed(restart.Again(node.uid))
        while node.exit is None and (node.generation < wanted or node.phase in (Phase.STARTING, Phase.STOPPING)):
            await node.wait_move()
        return node.phase is Phase.RUNNING

    def _child(self, ref: Ref) -> Node:
        if ref._node.parent is not self:
            raise ValueError(f"{ref.path} is not a child of {self.path}")
        return ref._node

    def child_refs(self) -> tuple[ActorRef[Any] | SupervisorRef, ...]:
        return tuple(node.ref for node in self._nodes.values())

    def snapshot(self, failures: int = 0) -> Tree:
        counts = {uid: child.failures for uid, child in self._state.children.items()}
        children = tuple(node.snapshot(counts.get(uid, 0)) for uid, node in self._nodes.items())
        return Tree(self.name, self.path, self.phase, self.generation, 0, failures, children)

    # what the parent orders

    async def begin(self, generation: int) -> Exit:
        self.generation = generation
        self.move(Phase.STARTING)
        self._result = None
        try:
            async with trio.open_nursery() as self._nursery:
                self.feed(restart.Resume())
                self.started() if self.parent is None else self.parent.child_started(self)
                await self._keep_time()
        except BaseException as raised:
            return self._failed(crash_of(raised))
        finally:
            self._nursery = None
        return self._outcome()

    def _outcome(self) -> Exit:
        return self._result or Killed()

    async def _keep_time(self) -> None:
        while self._result is None:
            with trio.CancelScope(deadline=self._state.due) as self._timer:
                await trio.sleep_forever()
            self.feed(restart.Tick())

    def _failed(self, crash: BaseException) -> Exit:
        """Our own code failed. The nursery has ended all children; they are parked for the parent to decide."""
        log.error("%s: the supervisor itself failed", self.path, exc_info=crash)
        self.emit(events.Crashed, crash, "supervisor", None)
        for node in reversed(list(self._nodes.values())):
            if node.phase is not Phase.PARKED:
                self._parked[node.uid] = Shutdown()
                node.park(Shutdown())
        return Crashed(crash, "supervisor")

    def order_stop(self, final: bool) -> None:
        self.move(Phase.STOPPING)
        self.feed(restart.Halt(Shutdown(), final))

    def kill(self) -> None:
        self.feed(restart.Abort())

    def backoff(self, exit: Exit, k: int, delay: float) -> None:
        super().backoff(exit, k, delay)
        for uid, node in self._nodes.items():
            node.backoff(self._parked.get(uid, Shutdown()), k, delay)

    def settle(self, exit: Exit) -> None:
        for uid, node in reversed(list(self._nodes.items())):
            node.settle(self._parked.get(uid, Shutdown()))
        self._nodes.clear()
        super().settle(exit)

    # the kernel's hands

    def child_started(self, node: Node) -> None:
        self.feed(restart.Started(node.uid, node.generation))
        node.started()

    def feed(self, event: restart.Event) -> None:
        self._state, actions = restart.step(self._state, event, trio.current_time(), self.system.rng)
        for action in actions:
            self._do(action)
        due = self._state.due
        if self._timer.deadline != due:
            self._timer.deadline = due
        if self._result is not None:
            self._timer.cancel("the supervisor has finished")

    def _do(self, action: restart.Action) -> None:
        if isinstance(action, restart.Finish):
            self._result = action.exit
            return
        node = self._nodes[action.uid]
        match action:
            case restart.Start(generation=generation):
                assert self._nursery is not None
                self._nursery.start_soon(self._live, node, generation, name=node.path)
            case restart.Order(final=final):
                node.order_stop(final)
            case restart.Kill():
                node.move(Phase.STOPPING)
                node.kill()
            case restart.Backoff(exit=exit, k=k, delay=delay):
                node.backoff(exit, k, delay)
            case restart.Park(exit=exit):
                self._parked[node.uid] = exit
                node.park(exit)
                if isinstance(exit, GaveUp):
                    self.emit(events.Escalated, node.path)
            case restart.Settle(exit=exit):
                del self._nodes[node.uid]
                self._parked.pop(node.uid, None)
                node.settle(exit)

    @trio.lowlevel.enable_ki_protection
    async def _live(self, node: Node, generation: int) -> None:
        ordered_before_it_began = node.phase is Phase.STOPPING
        exit = Shutdown() if ordered_before_it_began else await node.begin(generation)
        self.feed(restart.Ended(node.uid, generation, exit))
