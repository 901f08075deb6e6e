"""The gate: back-pressure, in one place. So many calls are inside the tree, so many more wait in order outside.

A call arrives in a moment, without awaiting anything, so that the order of arrival is the order of service, whichever
thread or loop it came from: tasks that are begun together start in any order. What it waits for then is its session,
one turn at a time, and a slot.

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

_Queue: TypeAlias = "dict[Ticket, None]"
"""In order of arrival; anybody may leave it at no cost."""


@attrs.define(eq=False)
class Line:
    """One session's turns: one at a time, in the order in which they came."""

    holder: Ticket | None = None
    waiting: _Queue = attrs.field(factory=dict)


@attrs.define(eq=False)
class Ticket:
    """A call that has arrived. `outer`: the call it is made inside of. `queue`: where it waits, None once it is inside.

    `lender`: whose slot it is inside on, None for one of its own. `lent_to`: who is inside on this one's; `borrowers`:
    who waits for that. Whoever is begun inside it carries its mark, tasks that outlive it too: hence `over`.
    """

    line: Line | None
    outer: Ticket | None
    queue: _Queue | None = None
    lender: Ticket | None = None
    lent_to: Ticket | None = None
    borrowers: _Queue = attrs.field(factory=dict)
    over: bool = False
    let_in: trio.Event = attrs.field(factory=trio.Event)

    def stand_in(self, queue: _Queue) -> None:
        self.queue = queue
        queue[self] = None


_inside: contextvars.ContextVar[tuple[tuple[Gate, Ticket], ...]] = contextvars.ContextVar("cortex_inside", default=())
"""The calls that this code runs inside of, of any engine, outermost first: a tool has them wherever it runs."""


class Gate:
    """The gate of one tree."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._free = policy.max_in_flight
        self._queue: _Queue = {}
        self._idle = trio.Event()
        self.waiting = 0
        self.inside = 0
        self.closing = False

    def is_inside_of(self, line: Line) -> bool:
        """Whether this code runs inside a turn of this session, and would wait for itself."""
        return any(ticket.line is line and not ticket.over for _, ticket in _inside.get())

    def check_open(self) -> None:
        """EngineClosed once it closes."""
        if self.closing:
            raise EngineClosed("this engine is closing; construct a new one")

    # ---- arriving and leaving: nothing is awaited

    def arrive(self, line: Line | None) -> Ticket:
        """Stand in line, for the session of `line` and for a slot. Whoever has a ticket goes to `pass_through`.

        EngineClosed, or QueueFull when it would have to wait and too many do.
        """
        around = reversed(_inside.get())
        outer = next((ticket for gate, ticket in around if gate is self and not ticket.over), None)
        if outer is None:
            self.check_open()
        ticket = Ticket(line, outer)
        self.waiting += 1
        if line is None or line.holder is None:
            self._to_slot(ticket)
        else:
            ticket.stand_in(line.waiting)
        if ticket.queue is not None and outer is None and self.waiting > self._policy.max_queue:
            self._leave(ticket)
            raise QueueFull(
                f"{self._policy.max_in_flight} calls are running and {self.waiting} are waiting; "
                "raise max_in_flight or max_queue of the policy, or send less"
            )
        return ticket

    def _to_slot(self, ticket: Ticket) -> None:
        """Its session's turn has come: go in, or wait for a slot."""
        if ticket.line is not None:
            ticket.line.holder = ticket
        outer = ticket.outer
        if self._free:
            self._free -= 1
            self._let_in(ticket, None)
        elif outer is None or outer.over:
            ticket.stand_in(self._queue)
        elif outer.lent_to is None:
            self._let_in(ticket, outer)
        else:
            ticket.stand_in(outer.borrowers)

    def _let_in(self, ticket: Ticket, lender: Ticket | None) -> None:
        ticket.queue = None
        self._ride(ticket, lender)
        self.waiting -= 1
        self.inside += 1
        ticket.let_in.set()

    @staticmethod
    def _ride(ticket: Ticket, lender: Ticket | None) -> None:
        ticket.lender = lender
        if lender is not None:
            lender.lent_to = ticket

    def _leave(self, ticket: Ticket) -> None:
        """From wherever it is: what it held goes to whoever is next."""
        ticket.over = True
        if ticket.queue is not None:
            ticket.queue.pop(ticket, None)
            self.waiting -= 1
        else:
            self.inside -= 1
            self._pass_on_slot(ticket)
        while ticket.borrowers:
            self._to_slot(_first_of(ticket.borrowers))
        self._pass_on_session(ticket)
        if self.inside == 0:
            self._idle.set()

    def _pass_on_slot(self, ticket: Ticket) -> None:
        lender, rider = ticket.lender, ticket.lent_to
        if rider is not None:  # a task that outlives the call it began in: it stays where it is
            self._ride(rider, lender)
        elif lender is None:
            self._release()
        elif lender.borrowers:
            self._let_in(_first_of(lender.borrowers), lender)
        else:
            lender.lent_to = None

    def _release(self) -> None:
        if self._queue:
            self._let_in(_first_of(self._queue), None)
        else:
            self._free += 1

    def _pass_on_session(self, ticket: Ticket) -> None:
        line = ticket.line
        if line is None or line.holder is not ticket:
            return
        line.holder = None
        if line.waiting:
            self._to_slot(_first_of(line.waiting))

    # ---- being inside

    @asynccontextmanager
    async def pass_through(self, ticket: Ticket, deadline: float) -> AsyncIterator[None]:
        """Wait until it may go in; leave at the end. DeadlineExceeded while waiting."""
        token: contextvars.Token[tuple[tuple[Gate, Ticket], ...]] | None = None
        try:
            if ticket.queue is not None:
                await self._wait(ticket, deadline)
            around = (one for one in _inside.get() if not one[1].over)
            token = _inside.set((*around, (self, ticket)))
            yield
        finally:
            if token is not None:
                _inside.reset(token)
            self._leave(ticket)

    async def _wait(self, ticket: Ticket, deadline: float) -> None:
        patience = self._policy.queue_timeout
        until = deadline if patience is None else min(deadline, trio.current_time() + patience)
        with trio.move_on_at(until):
            await ticket.let_in.wait()
            return
        raise DeadlineExceeded("the deadline passed while the call waited for its turn; nobody had been asked")

    async def drained(self) -> None:
        """Close the gate and wait until nobody is inside, and nobody waits."""
        self.closing = True
        while self.inside or self.waiting:
            if self._idle.is_set():  # else somebody waits for it already
                self._idle = trio.Event()
            await self._idle.wait()


def _first_of(queue: _Queue) -> Ticket:
    ticket = next(iter(queue))
    del queue[ticket]
    return ticket
