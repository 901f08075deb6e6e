"""The gate: back-pressure, in one place. So many calls are inside the tree, so many more wait in order outside.

A call that is made inside another one (a tool that asks the engine again) never waits for what its own caller holds:
when no slot is free it goes in on its caller's, which is lent to one call at a time.
"""

from __future__ import annotations

import contextvars
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias

import attrs
import trio

from cortex.errors import DeadlineExceeded, EngineClosed, QueueFull
from cortex.policy import Policy

_Slot: TypeAlias = trio.Semaphore | trio.Lock


@attrs.define(eq=False)
class _Visit:
    """A call inside. `lock`: its session's; `own_slot` is lent to the calls made inside it; `over`: it has left.

    Whoever is begun inside it carries its mark, tasks that outlive it too: hence `over`.
    """

    gate: Gate
    lock: trio.Lock | None
    own_slot: trio.Lock = attrs.field(factory=trio.Lock)
    over: bool = False


_visits: contextvars.ContextVar[tuple[_Visit, ...]] = contextvars.ContextVar("cortex_visits", default=())
"""The calls that this code runs inside of, of any engine, outermost first: a tool has them wherever it runs."""


class Gate:
    """The gate of one tree."""

    def __init__(self, policy: Policy) -> None:
        self._slots = trio.Semaphore(policy.max_in_flight)
        self._max_queue = policy.max_queue
        self._max_in_flight = policy.max_in_flight
        self._queue_timeout = policy.queue_timeout
        self._idle = trio.Event()
        self.waiting = 0
        self.inside = 0
        self.closing = False

    def inside_of(self, lock: trio.Lock) -> bool:
        """Whether this code runs inside a call that holds `lock`, and would wait for itself."""
        return any(visit.lock is lock and not visit.over for visit in _visits.get())

    @asynccontextmanager
    async def pass_through(self, lock: trio.Lock | None, deadline: float) -> AsyncIterator[None]:
        """Wait for the session's turn, then for a slot; leave both at the end. DeadlineExceeded while waiting."""
        around = tuple(visit for visit in _visits.get() if not visit.over)
        outer = next((visit for visit in reversed(around) if visit.gate is self), None)
        if self.closing and outer is None:
            raise EngineClosed("this engine is closing; construct a new one")
        slot = self._try_enter(lock, outer) or await self._enter(lock, outer, deadline)
        self.inside += 1
        visit = _Visit(self, lock)
        token = _visits.set((*around, visit))
        try:
            yield
        finally:
            visit.over = True
            _visits.reset(token)
            self.inside -= 1
            slot.release()
            if lock is not None:
                lock.release()
            self._tell_idle()

    def _slot(self, outer: _Visit | None) -> _Slot:
        """Where its slot comes from."""
        return self._slots if outer is None or self._slots.value else outer.own_slot

    def _try_enter(self, lock: trio.Lock | None, outer: _Visit | None) -> _Slot | None:
        """At once, without a word to the scheduler, when nobody is before us."""
        if lock is not None:
            try:
                lock.acquire_nowait()
            except trio.WouldBlock:
                return None
        slot = self._slot(outer)
        try:
            slot.acquire_nowait()
        except trio.WouldBlock:
            if lock is not None:
                lock.release()
            return None
        return slot

    async def _enter(self, lock: trio.Lock | None, outer: _Visit | None, deadline: float) -> _Slot:
        if self.waiting >= self._max_queue and outer is None:
            raise QueueFull(
                f"{self._max_in_flight} calls are running and {self.waiting} are waiting; "
                "raise max_in_flight or max_queue of the policy, or send less"
            )
        self.waiting += 1
        try:
            until = deadline
            if self._queue_timeout is not None:
                until = min(deadline, trio.current_time() + self._queue_timeout)
            return await self._wait(lock, outer, until)
        finally:
            self.waiting -= 1
            self._tell_idle()

    async def _wait(self, lock: trio.Lock | None, outer: _Visit | None, until: float) -> _Slot:
        with trio.move_on_at(until):
            if lock is not None:
                await lock.acquire()
            try:
                slot = self._slot(outer)
                await slot.acquire()
            except trio.Cancelled:
                if lock is not None:
                    lock.release()
                raise
            return slot
        raise DeadlineExceeded("the deadline passed while the call waited for its turn; nobody had been asked")

    def _tell_idle(self) -> None:
        if self.inside == 0:
            self._idle.set()

    async def drained(self) -> None:
        """Close the gate and wait until nobody is inside, and nobody waits."""
        self.closing = True
        while self.inside or self.waiting:
            self._idle = trio.Event()
            await self._idle.wait()
