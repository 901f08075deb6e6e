"""The root of the tree, the names, and the way a system begins and ends.

The root runs in its own task inside a shield. So a cancelled body does not tear actors down: leaving the block orders
an ordinary shutdown, bounded by `grace`, and then the Cancelled goes on. What the body raised leaves as itself, never
wrapped in a group; only a root that gave up raises `SupervisionFailed`.
"""

from __future__ import annotations

import logging
import math
from contextlib import AsyncExitStack
from random import Random
from types import TracebackType
from typing import Any, TypeVar, overload

import trio

from . import events
from .actor import Spec, SupervisorSpec
from .errors import Crashed, Exit, GaveUp, Shutdown, SupervisionFailed
from .events import EventStream, Hub
from .mailbox import Deadlines
from .node import Node
from .ref import ActorRef, SupervisorRef, Tree
from .supervisor import Supervisor

M = TypeVar("M")

log = logging.getLogger("actors")


class System:
    """A tree of actors: `async with System() as system`. Usable in any trio task, once.

    Ctrl-C is for the body of the block: where trio raises KeyboardInterrupt between any two lines of a program, it does
    not in those of the tree, whose handlers and tasks run protected (`trio.lowlevel.enable_ki_protection`).

    `seed`: of the generator behind jitter and `ctx.rng`. `grace`: seconds the ordered shutdown may take before
    everything is cancelled (0: at once). `cleanup_grace`: seconds that cancelled actors then have to close their
    resources. `ask_timeout`: default of `ask`, seconds.
    """

    def __init__(
        self,
        name: str = "system",
        *,
        seed: int | None = None,
        grace: float = 5.0,
        cleanup_grace: float = 1.0,
        ask_timeout: float = math.inf,
    ) -> None:
        self.name = name
        self.grace = grace
        self.cleanup_grace = cleanup_grace
        self.ask_timeout = ask_timeout
        self.rng = Random(seed)
        self.hub = Hub()
        self.deadlines = Deadlines()
        self.names: dict[str, Node] = {}
        self._uids = 0
        self._stack = AsyncExitStack()
        self._up = trio.Event()
        self._ended = trio.Event()
        self._stopping = False
        self._verdict: Exit = Shutdown()
        self._left: BaseException | None = None
        self._nursery: trio.Nursery | None = None
        self._root = Supervisor(self, None, name)

    def next_uid(self) -> int:
        self._uids += 1
        return self._uids

    # what users call

    @overload
    async def start(self, spec: Spec[M]) -> ActorRef[M]: ...
    @overload
    async def start(self, spec: SupervisorSpec) -> SupervisorRef: ...
    async def start(self, spec: Spec[Any] | SupervisorSpec) -> ActorRef[Any] | SupervisorRef:
        """Start a child of the root; as `SupervisorRef.start_child`."""
        return await self._root.start_child(spec)

    @property
    def root(self) -> SupervisorRef:
        assert isinstance(self._root.ref, SupervisorRef)
        return self._root.ref

    def get(self, name: str) -> ActorRef[Any] | SupervisorRef | None:
        """The living actor or supervisor of this name."""
        node = self.names.get(name)
        return node.ref if node is not None else None

    def events(self, buffer: float = 256) -> EventStream:
        """A new subscription; `buffer`: how many events may wait for the reader."""
        return EventStream(self.hub, buffer)

    def tree(self) -> Tree:
        return self._root.snapshot()

    @trio.lowlevel.enable_ki_protection
    async def stop(self) -> None:
        """Stop everything in order: depth first, in reverse order of start. Within `grace`, then by force."""
        if not self._stopping:
            self._stopping = True
            self._root.order_stop(final=True)
            if self.grace <= 0:
                self._root.kill()
            if self._nursery is not None:
                self._nursery.start_soon(self._enforce, name="grace")
        await self._ended.wait()

    # the life of the system

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> System:
        if self._up.is_set():
            raise RuntimeError("a System can be entered once")
        nursery = await self._stack.enter_async_context(trio.open_nursery())
        self._stack.push_async_exit(self._body_left)
        self._body = self._stack.enter_context(trio.CancelScope())
        nursery.start_soon(self._run, name=self.name)
        while not self._up.is_set():  # a moment; left in the middle of it, the tree would have nobody to end it
            await trio.lowlevel.cancel_shielded_checkpoint()
        return self

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._stack.__aexit__(kind, error, traceback)
        except BaseExceptionGroup as group:
            if (pressed := _ctrl_c_in(group)) is None:
                raise
            raise pressed from error  # an actor's own code was interrupted: it comes as it would from the body
        left, self._left = self._left, None
        if isinstance(self._verdict, GaveUp | Crashed):
            if left is None:
                raise SupervisionFailed(self._verdict)
            left.add_note(f"the root supervisor of {self.name!r} gave up as well: {self._verdict!r}")
        if left is not error and left is not None:
            raise left  # what remains of a group once our own cancellation is taken out

    @trio.lowlevel.enable_ki_protection
    async def _body_left(self, _: Any, error: BaseException | None, __: Any) -> bool:
        """Shut down; keep what the body raised away from the nursery, which would wrap it. Whoever presses Ctrl-C twice
        meanwhile does not want to wait for the grace."""
        self._left = error
        with trio.CancelScope(shield=True):
            while not self._ended.is_set():
                try:
                    await self.stop()
                except KeyboardInterrupt as pressed:
                    if self._left is not error:
                        self._root.kill()
                    self._left = pressed
        return True

    @trio.lowlevel.enable_ki_protection
    async def _run(self) -> None:
        try:
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as self._nursery:
                    self._nursery.start_soon(self.deadlines.run, name="deadlines")
                    self._up.set()
                    self._verdict = await self._root.begin(1)
                    self._nursery.cancel_scope.cancel("the root has ended")
        finally:
            self._nursery = None
            if self._root.exit is None:
                self._root.settle(self._verdict)
            self.hub.close()
            self._stopping = True
            self._ended.set()
            if isinstance(self._verdict, GaveUp | Crashed):
                self._body.cancel("the root supervisor gave up")

    @trio.lowlevel.enable_ki_protection
    async def _enforce(self) -> None:
        """Kill what is left, and wait for it: honestly, since a task that shields cannot be ended from outside.

        A task of the system, not of whoever ordered the stop: that may be an actor, which must stay killable.
        """
        await trio.sleep(self.grace)
        if self.grace > 0:
            log.warning("%s: not stopped within %s s, killing what is left", self.name, self.grace)
            self._root.kill()
        await trio.sleep(self.cleanup_grace)
        while True:
            for node in list(self.names.values()):
                node.emit(events.Stuck)
                log.warning("%s is stuck: cancelled, and it does not end", node.path)
            await trio.sleep(1)


def _ctrl_c_in(group: BaseExceptionGroup[BaseException]) -> KeyboardInterrupt | None:
    """The KeyboardInterrupt in a group, if nothing else is."""
    inner: BaseException = group
    while isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    only = group.split(KeyboardInterrupt)[1] is None
    return inner if only and isinstance(inner, KeyboardInterrupt) else None
