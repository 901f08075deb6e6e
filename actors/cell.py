"""One actor's life. The only place that runs a handler.

An `Incarnation` is one task: factory -> on_start -> loop -> on_stop -> exit stack. It never lets an Exception out: it
returns an `Exit`, so a nursery's cancellation is never the signal of a failure, and siblings live.

What came out of user code is judged by `crash_of`: Cancelled goes on if some scope around us really is cancelled (a
saved and re-raised one is a crash), interrupts of the process go on at once, and the rest is the crash.
"""

# ruff: noqa: A002 - an actor's exit is called exit

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from random import Random
from typing import TYPE_CHECKING, Any

import trio

from . import events
from .actor import Actor, handlers_of
from .errors import ActorError, Crashed, Exit, Killed, Normal, Reject, Shutdown, StartFailed, TaskFailed, cause_of
from .mailbox import Exempt, Reply
from .ref import ActorRef, Down, Ref, Restarted, Restarting

if TYPE_CHECKING:
    from .node import Cell, Node

log = logging.getLogger("actors")

BUDGET = 64  # messages between two checkpoints: a count, not a clock, so a run can be replayed

_MUST_GO_ON = (KeyboardInterrupt, SystemExit, GeneratorExit, trio.TrioInternalError)


def crash_of(raised: BaseException) -> BaseException:
    """The crash in what left user code. Raises what is no crash: interrupts, and Cancelled from a scope around us."""
    if isinstance(raised, _MUST_GO_ON):
        raise raised
    cancelled: BaseException | None = None
    rest: BaseException | None = None
    if isinstance(raised, BaseExceptionGroup):
        if raised.subgroup(_MUST_GO_ON) is not None:
            raise raised
        cancelled, rest = raised.split(trio.Cancelled)
    elif isinstance(raised, trio.Cancelled):
        cancelled = raised
    else:
        rest = raised
    if cancelled is not None and trio.current_effective_deadline() == -math.inf:
        if rest is not None:
            log.error("an exception while being cancelled", exc_info=rest)
        raise cancelled
    if rest is None:
        stray = RuntimeError("a Cancelled that belongs to no cancelled scope was raised")
        stray.__cause__ = cancelled
        return stray
    while isinstance(rest, BaseExceptionGroup) and len(rest.exceptions) == 1:
        rest = rest.exceptions[0]
    return rest


class Incarnation:
    """One life of an actor, and its `Context`."""

    __slots__ = (
        "_actor",
        "_cleanup",
        "_current",
        "_killed",
        "_leaving",
        "_life",
        "_msg_type",
        "_nursery",
        "_ordered",
        "_running",
        "_stack",
        "_starting",
        "_watching",
        "cell",
        "exit",
        "generation",
        "open",
    )

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.generation = cell.generation
        self.open: dict[Reply[Any], None] = {}  # asks this life has deferred
        self.exit: Exit | None = None
        self._actor: Actor[Any] | None = None
        self._current: Reply[Any] | None = None
        self._msg_type: str | None = None
        self._ordered = False  # stop before the next message
        self._leaving = False  # ... since the actor itself said so
        self._killed = False
        self._running = False
        self._watching: dict[Node, None] = {}
        self._stack: AsyncExitStack | None = None
        self._nursery: trio.Nursery | None = None  # a failing task cancels it
        self._life = trio.CancelScope()  # kill() cancels it
        self._starting: trio.CancelScope | None = None
        self._cleanup: trio.CancelScope | None = None

    # the context

    @property
    def ref(self) -> ActorRef[Any]:
        ref = self.cell.ref
        assert isinstance(ref, ActorRef)
        return ref

    @property
    def name(self) -> str:
        return self.cell.name

    @property
    def rng(self) -> Random:
        return self.cell.system.rng

    @property
    def kept(self) -> Any:
        return self.cell.kept

    def keep(self, value: Any) -> None:
        self.cell.kept = value

    async def enter(self, manager: Any) -> Any:
        if isinstance(manager, trio.CancelScope) or type(manager).__name__ == "NurseryManager":
            raise TypeError("enter() takes resources; use spawn() for tasks, and cancel scopes inside one handler")
        if self._stack is None:
            self._stack = AsyncExitStack()
        if hasattr(manager, "__aenter__"):
            return await self._stack.enter_async_context(manager)
        return self._stack.enter_context(manager)

    def defer(self) -> Reply[Any]:
        reply = self._current
        if reply is None:
            raise RuntimeError("defer() belongs into the handler of an ask, before its first await")
        reply.deferred = True
        self._own(reply)
        return reply

    def spawn(
        self, async_fn: Callable[..., Awaitable[Any]], *args: Any, reply: Reply[Any] | None = None, name: object = None
    ) -> None:
        if self._nursery is None:
            raise RuntimeError("spawn() works from on_start to the last message")
        if reply is None:
            self._nursery.start_soon(self._task, async_fn, args, name=name or async_fn)
            return
        if reply.serving:
            raise RuntimeError("a task serves this reply already")
        reply.serving = True
        self._own(reply)
        # start_soon copies the context it is called in: this gives the task the asker's
        reply.context.copy().run(self._start_serving, reply, async_fn, args, name or async_fn)

    def watch(self, ref: Ref, restarts: bool = False) -> None:
        node = ref._node
        if self.cell.handlers is not None and Down not in self.cell.handlers:
            raise TypeError(f"{self.cell.path} watches {node.path} but has no handler for Down")
        if node.exit is not None:
            if node not in self._watching:
                self.signal(Down(node.ref, node.exit, node.generation))
            return
        node.watchers[self] = restarts or node.watchers.get(self, False)
        self._watching[node] = None

    def unwatch(self, ref: Ref) -> None:
        ref._node.watchers.pop(self, None)
        self.forget(ref._node)
        for item in self.cell.queue.items:
            if isinstance(item, Exempt) and item.key is None and item.message.ref == ref:
                item.void = True

    def stop(self) -> None:
        self._leaving = self._ordered = True
        self.cell.queue.wake()

    # the runtime's side

    def forget(self, node: Node) -> None:
        self._watching.pop(node, None)

    def signal(self, message: Down | Restarting | Restarted) -> None:
        self.cell.queue.put_exempt(Exempt(message, None, self.generation))

    def order_stop(self) -> None:
        self._ordered = True
        if self._starting is not None:
            self._starting.cancel("ordered to stop")
        self.cell.queue.wake()

    def kill(self) -> None:
        if not self._killed:
            self._killed = True
            self._conclude(Killed())
            self._life.cancel("killed")
            if self._cleanup is not None:
                limit = trio.current_time() + self.cell.system.cleanup_grace
                self._cleanup.deadline = min(self._cleanup.deadline, limit)

    async def run(self) -> Exit:
        try:
            with self._life:
                async with trio.open_nursery() as self._nursery:
                    self._conclude(await self._play())
                    self._nursery.cancel_scope.cancel("the incarnation ends")
                self._nursery = None
                if self._running and not self._killed:
                    await self._say_goodbye()
        finally:
            self._conclude(Killed())  # only if it was torn down from outside
            await self._close()
        assert self.exit is not None
        return self.exit

    async def _play(self) -> Exit:
        failed = await self._start()
        if failed is not None:
            return failed
        self._running = True
        assert self.cell.parent is not None
        self.cell.parent.child_started(self.cell)
        try:
            await self._loop()
        except BaseException as raised:
            return Crashed(crash_of(raised), "handler", self._msg_type)
        return Normal() if self._leaving else Shutdown()

    async def _start(self) -> Exit | None:
        """None if the actor has started."""
        scope = trio.CancelScope(deadline=trio.current_time() + self.cell.spec.start_timeout)
        try:
            with scope as self._starting:
                self._actor = actor = self.cell.spec.factory()
                if not isinstance(actor, Actor):
                    raise TypeError(f"the factory of {self.cell.path} made a {type(actor).__name__}, not an Actor")
                self._learn(handlers_of(type(actor)))
                actor.ctx = self
                await actor.on_start()
        except BaseException as raised:
            return StartFailed(crash_of(raised))
        finally:
            self._starting = None
        if self._ordered and not self._leaving:
            return Shutdown()
        if scope.cancelled_caught:
            return StartFailed(trio.TooSlowError(f"on_start took longer than {self.cell.spec.start_timeout} s"))
        return None

    def _learn(self, handlers: dict[type, tuple[str, bool]]) -> None:
        if self.cell.handlers is not handlers:
            self.cell.handlers = handlers
            self.cell.queue.accepts = handlers

    async def _loop(self) -> None:
        """Handle messages until ordered to stop. Written flat: this is the hot path."""
        queue = self.cell.queue
        items, senders = queue.items, queue.senders
        table: dict[type, tuple[Callable[[Any], Any], bool]] = {
            kind: (getattr(self._actor, name), is_async)
            for kind, (name, is_async) in (self.cell.handlers or {}).items()
        }
        budget = BUDGET
        kind: type = type(None)
        try:
            while not self._ordered:
                if not items:
                    kind = type(None)
                    message = result = None  # an idle actor keeps nothing of the last message alive
                    await queue.sleep()
                    budget = BUDGET
                    continue
                message = items.popleft()
                if senders:
                    queue.admit()
                kind = type(message)
                if kind is Reply or kind is Exempt:
                    message = self._unwrap(message)
                    if message is None:
                        continue
                    kind = type(message)
                handler, is_async = table.get(kind) or self._find(kind, table)
                try:
                    result = handler(message)
                    if is_async:
                        result = await result
                except Reject as answer:
                    self._reject(answer, kind)
                else:
                    if self._current is not None:
                        self._answer(self._current, result)
                budget -= 1
                if not budget:
                    budget = BUDGET
                    kind = type(None)
                    await trio.lowlevel.checkpoint()
        except BaseException:
            self._msg_type = kind.__name__ if kind is not type(None) else None
            raise

    def _find(self, kind: type, table: dict[type, tuple[Callable[[Any], Any], bool]]) -> Any:
        """The handler of a base class, remembered."""
        for base in kind.__mro__:
            if base in table:
                table[kind] = table[base]
                return table[base]
        return self._unhandled, False

    def _unwrap(self, item: Reply[Any] | Exempt) -> Any:
        """The message in an envelope; None if it is not to be handled."""
        if isinstance(item, Reply):
            if item.settled:
                self.cell.emit(events.Skipped, item.settled, type(item.message).__name__)
                return None
            self._current = item
            return item.message
        self.cell.queue.take_exempt(item)
        of_another_life = item.key is None and item.generation != self.generation
        return None if item.void or of_another_life else item.message

    def _unhandled(self, message: Any) -> None:
        """A sender's mistake must not restart the receiver."""
        kind = type(message).__name__
        self.cell.emit(events.Unhandled, kind)
        if self._current is not None:
            raise Reject(ActorError(f"{self.cell.path} has no handler for {kind}"))

    def _answer(self, reply: Reply[Any], result: Any) -> None:
        self._current = None
        if not reply.deferred:
            reply.set(result)

    def _reject(self, answer: Reject, kind: type) -> None:
        reply, self._current = self._current, None
        if reply is None:
            self.cell.emit(events.Rejected, kind.__name__)
        else:
            reply.reject(answer.error)

    # tasks

    def _own(self, reply: Reply[Any]) -> None:
        if not reply.settled:
            reply.owner = self
            self.open[reply] = None

    @trio.lowlevel.enable_ki_protection
    async def _task(self, async_fn: Callable[..., Awaitable[Any]], args: tuple[Any, ...]) -> None:
        try:
            await async_fn(*args)
        except BaseException as raised:
            self._conclude(Crashed(crash_of(raised), "task", _name_of(async_fn)))
            assert self._nursery is not None
            self._nursery.cancel_scope.cancel("a task of the actor crashed")

    def _start_serving(self, reply: Reply[Any], async_fn: Any, args: tuple[Any, ...], name: object) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(self._serve, reply, async_fn, args, name=name)

    @trio.lowlevel.enable_ki_protection
    async def _serve(self, reply: Reply[Any], async_fn: Callable[..., Awaitable[Any]], args: tuple[Any, ...]) -> None:
        try:
            with reply.scope():
                reply.settle("answered", await async_fn(*args))
        except Reject as answer:
            reply.settle("answered", None, answer.error)
        except BaseException as raised:
            crash = crash_of(raised)
            self._report(crash, "task", type(reply.message).__name__)
            failed = TaskFailed(f"{self.cell.path}: the task that served {type(reply.message).__name__} failed")
            failed.__cause__ = crash
            reply.settle("failed", None, failed)
        finally:
            reply.end()

    # the end

    def _conclude(self, exit: Exit) -> None:
        """The first cause is the exit, and open asks hear of it now. A later crash becomes a note on the first."""
        crash = cause_of(exit)
        if self.exit is not None:
            if crash is not None:
                self._second(crash, "task")
            return
        self.exit = exit
        if isinstance(exit, Crashed):
            self._report(exit.exc, exit.phase, exit.msg_type)
        elif isinstance(exit, StartFailed):
            self._report(exit.exc, "start", None)
        for node in self._watching:
            node.watchers.pop(self, None)
        if self._current is not None:
            self._current.settle("failed", None, self.cell.died(exit))
        for reply in list(self.open):
            reply.settle("failed", None, self.cell.died(exit))

    def _report(self, crash: BaseException, phase: str, msg_type: str | None) -> None:
        self.cell.emit(events.Crashed, crash, phase, msg_type)
        if phase != "start" or self.cell.ran:  # a first start raises at its starter
            log.error("%s crashed in %s (%s)", self.cell.path, phase, msg_type, exc_info=crash)

    def _second(self, crash: BaseException, phase: str) -> None:
        first = cause_of(self.exit) if self.exit is not None else None
        if first is not None and first is not crash:
            first.add_note(f"then, in {phase} of {self.cell.path}: {crash!r}")
        self._report(crash, phase, None)

    async def _say_goodbye(self) -> None:
        assert self._actor is not None
        assert self.exit is not None
        try:
            with trio.move_on_after(self.cell.spec.shutdown):
                await self._actor.on_stop(self.exit)
        except BaseException as raised:
            self._second(crash_of(raised), "on_stop")

    async def _close(self) -> None:
        """Close what `enter` opened: shielded, so that a kill cannot leave it open; bounded, so that it ends."""
        if self._stack is None:
            return
        limit = self.cell.system.cleanup_grace if self._killed else self.cell.spec.shutdown
        self._cleanup = trio.CancelScope(shield=True, deadline=trio.current_time() + limit)
        with self._cleanup:
            try:
                await self._stack.aclose()
            except BaseException as raised:
                self._second(crash_of(raised), "cleanup")


def _name_of(async_fn: Any) -> str:
    return str(getattr(async_fn, "__name__", type(async_fn).__name__))
