"""The queue of an actor, the reply slot that rides in it, and the deadlines of all asks.

Why not trio's memory channel: closing its receiver silently drops the buffer, a queue cannot be inspected or kept
across a restart, and each item costs a checkpoint. A deque with a checkpoint every 64 messages is ten times faster.

A queue holds plain messages (told or sent), `Reply` (an ask: envelope and reply slot in one) and `Exempt` (signals and
published values: not counted by the capacity, never refused). One number, `limit`, decides room: the capacity plus the
exempt items in the queue, or -1 once closed. Who finds no room waits in `senders`; the receiver moves the oldest in,
so nobody barges and a hand-over that happened is never reported as cancelled.

Deadlines: one heap and one task for all asks, since a cancel scope per ask costs a third of the throughput.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict, deque
from contextvars import Context as ContextVars
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import attrs
import trio
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from . import events
from .errors import AskTimeout

if TYPE_CHECKING:
    from collections.abc import Container, Hashable

    from .cell import Incarnation
    from .node import Cell

R = TypeVar("R")


class Ask(Generic[R]):
    """Base of the messages that are answered with an `R`."""

    __slots__ = ()


def _capacity(_: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if not value >= 1:
        raise ValueError(f"{attribute.name} must be at least 1 (math.inf for no bound), not {value!r}")


@attrs.frozen
class Mailbox:
    """`cap`: how many told, sent and asked messages may wait. Signals and published values do not count."""

    cap: float = attrs.field(default=256, validator=_capacity)


class Reply(Generic[R]):
    """The answer one asker waits for; the first outcome wins. Owned by the incarnation that deferred it.

    `deadline` is trio time, `math.inf` for none.
    """

    __slots__ = (
        "_ended",
        "_scopes",
        "_task",
        "cell",
        "context",
        "deadline",
        "deferred",
        "error",
        "message",
        "owner",
        "served",
        "serving",
        "settled",
        "timed",
        "value",
    )

    def __init__(self, message: Any, deadline: float, cell: Cell, task: Task) -> None:
        self.message = message
        self.deadline = deadline
        self.cell = cell
        self.context: ContextVars = task.context
        self._task: Task | None = task
        self._scopes: list[trio.CancelScope] | None = None
        self._ended: trio.Event | None = None
        self.settled: str | None = None  # None, "answered", "failed", "expired" or "abandoned"
        self.value: Any = None
        self.error: BaseException | None = None
        self.owner: Incarnation | None = None
        self.deferred = False
        self.serving = False  # a task of the actor works on it
        self.served = False  # ... or did
        self.timed: Deadlines | None = None

    def __repr__(self) -> str:
        return f"<Reply to {type(self.message).__name__}: {self.settled or 'open'}>"

    def set(self, value: R) -> bool:
        """Answer. False (and a `LateReply` event) if the ask already had an outcome."""
        return self._late() if self.settled else self.settle("answered", value)

    def reject(self, error: Exception) -> bool:
        """Answer with an error, which the asker sees raised as it is. False as for `set`."""
        return self._late() if self.settled else self.settle("answered", None, error)

    def scope(self) -> trio.CancelScope:
        """A cancel scope that is cancelled when the asker leaves, the deadline passes, or the actor ends."""
        scope = trio.CancelScope()
        if self.settled and self.settled != "answered":
            scope.cancel(f"the ask is {self.settled}")
        elif self._scopes is None:
            self._scopes = [scope]
        else:
            self._scopes.append(scope)
        return scope

    def _late(self) -> bool:
        self.cell.emit(events.LateReply, type(self.message).__name__)
        return False

    # the runtime's side

    def settle(self, how: str, value: Any = None, error: BaseException | None = None) -> bool:
        if self.settled:
            return False
        self.settled = how
        self.value = value
        self.error = error
        if self.timed is not None:
            self.timed.forget()
        if self.owner is not None:
            self.owner.open.pop(self, None)
        if how != "answered" and self._scopes is not None:
            for scope in self._scopes:
                scope.cancel(f"the ask is {how}")
        if self._task is not None:
            reschedule(self._task)
            self._task = None
        return True

    def expire(self) -> None:
        """The deadline passed. Its envelope, if it still waits for room, leaves; one in the queue is skipped later."""
        waiting = self.cell.queue.senders.pop(self, self) is None
        where = "waiting for room" if waiting else "deferred" if self.deferred else "queued, or in its handler"
        kind = type(self.message).__name__
        self.settle("expired", None, AskTimeout(f"{self.cell.path}: {kind} passed its deadline ({where})"))

    def leave(self, _: Any) -> Abort:
        """The asker is being cancelled."""
        self._task = None
        self.cell.queue.senders.pop(self, None)
        self.settle("abandoned")
        return Abort.SUCCEEDED

    def end(self) -> None:
        """The task that served this ask is over."""
        self.serving = False
        if self._ended is not None:
            self._ended.set()

    async def join(self, seconds: float) -> None:
        """Wait, shielded and bounded, until the serving task is over."""
        if self.serving and seconds > 0:
            self._ended = trio.Event()
            with trio.move_on_after(seconds, shield=True):
                await self._ended.wait()


class Deadlines:
    """All deadlines of open asks: a heap, served by the one task that runs `run`."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Reply[Any]]] = []
        self._live = 0
        self._seq = 0
        self._timer = trio.CancelScope()

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, reply: Reply[Any]) -> None:
        self._seq += 1
        self._live += 1
        reply.timed = self
        heapq.heappush(self._heap, (reply.deadline, self._seq, reply))
        if reply.deadline < self._timer.deadline:
            self._timer.deadline = reply.deadline

    def forget(self) -> None:
        """One ask in the heap got its outcome. Settled entries go once they outnumber the live ones."""
        self._live -= 1
        if len(self._heap) > 2 * self._live + 64:
            self._heap = [entry for entry in self._heap if not entry[2].settled]
            heapq.heapify(self._heap)

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        while True:
            due = self._heap[0][0] if self._heap else math.inf
            with trio.CancelScope(deadline=due) as self._timer:
                await trio.sleep_forever()
            now = trio.current_time()
            while self._heap and self._heap[0][0] <= now:
                reply = heapq.heappop(self._heap)[2]
                if not reply.settled:
                    reply.expire()


class Exempt:
    """A signal (`key` None) or a published value; `generation` of the watcher a signal is for."""

    __slots__ = ("generation", "key", "message", "void")

    def __init__(self, message: Any, key: Hashable | None, generation: int = 0) -> None:
        self.message = message
        self.key = key
        self.generation = generation
        self.void = False


class Waiter:
    """A sender that waits for room."""

    __slots__ = ("error", "message", "task")

    def __init__(self, message: Any, task: Task) -> None:
        self.message = message
        self.task = task
        self.error: BaseException | None = None


class Queue:
    """The lane of one cell. It outlives incarnations."""

    __slots__ = ("accepts", "cap", "items", "limit", "senders", "sent", "sleeper", "values")

    def __init__(self, cap: float) -> None:
        self.cap = cap
        self.limit = cap
        self.items: deque[Any] = deque()
        self.senders: OrderedDict[Waiter | Reply[Any], None] = OrderedDict()
        self.values: dict[Hashable, Exempt] = {}
        self.sleeper: Task | None = None
        self.accepts: Container[type] = ()  # set when the actor's class is known
        self.sent = 0

    @property
    def closed(self) -> bool:
        return self.limit < 0

    def put(self, item: Any) -> bool:
        """Append if there is room."""
        if len(self.items) < self.limit:
            self.items.append(item)
            if self.sleeper is not None:
                self.wake()
            return True
        return False

    def put_exempt(self, item: Exempt) -> None:
        if not self.closed:
            self.limit += 1
            self.put(item)

    def publish(self, key: Hashable, value: Any) -> Any:
        """Queue `value`, or let it replace the queued one of its key, which is returned."""
        queued = self.values.get(key)
        if queued is not None:
            old, queued.message = queued.message, value
            return old
        self.values[key] = item = Exempt(value, key)
        self.put_exempt(item)
        return None

    def take_exempt(self, item: Exempt) -> None:
        """Account for an exempt item that left the queue."""
        if not self.closed:
            self.limit -= 1
        if item.key is not None:
            self.values.pop(item.key, None)

    def admit(self) -> None:
        """Move waiting senders in, oldest first, while there is room."""
        while self.senders and len(self.items) < self.limit:
            waiter, _ = self.senders.popitem(last=False)
            if isinstance(waiter, Waiter):
                self.items.append(waiter.message)
                reschedule(waiter.task)
            else:
                self.items.append(waiter)

    async def put_waiting(self, message: Any) -> None:
        """Wait for room; whoever waits longer goes first."""
        waiter = Waiter(message, current_task())
        self.senders[waiter] = None

        def leave(_: Any) -> Abort:
            del self.senders[waiter]
            return Abort.SUCCEEDED

        await wait_task_rescheduled(leave)
        if waiter.error is not None:
            raise waiter.error

    def wake(self) -> None:
        task, self.sleeper = self.sleeper, None
        if task is not None:
            reschedule(task)

    async def sleep(self) -> None:
        """Park the actor's task until `wake`."""
        self.sleeper = current_task()

        def leave(_: Any) -> Abort:
            self.sleeper = None
            return Abort.SUCCEEDED

        await wait_task_rescheduled(leave)

    def close(self) -> tuple[list[Any], list[Waiter | Reply[Any]]]:
        """Refuse everything from now on; what was queued, and who waited, is the caller's to settle."""
        items, waiting = list(self.items), list(self.senders)
        self.limit = -1
        self.items.clear()
        self.senders.clear()
        self.values.clear()
        return items, waiting
