"""A supervised actor runtime on trio.

What it promises:

- Order: what one task sends to one actor is handled in the order it was sent, across restarts. What an actor told its
  watcher before it ended comes before the watcher's `Down`.
- One at a time: an actor runs one handler at a time. Tasks it spawns run beside its handlers, and end with it.
- At most once: a message is handled once or not at all, and what is not handled is visible: `tell` says False, `send`
  and `ask` raise, a `DeadLetter`, `Skipped` or `Superseded` event is emitted. The runtime never redelivers.
- Ask: every ask has exactly one outcome, at its deadline at the latest; if the actor crashes, at once. Work nobody
  waits for any more is not started, and in `reply.scope()` it is cancelled.
- Crash: a restart is a new object from the factory. Address, queue and `ctx.keep` survive; siblings do not notice.
  Failures are values inside the tree and exceptions only at its doors.
- Restart: after `Restart.delay`, at most `max_restarts` times in a row; then the supervisor fails too ("escalate") or
  the actor stops for good ("stop").
- Stop: finish the present handler, end the tasks, `on_stop`, close resources; children in reverse order of start, each
  within its own `shutdown`, all within the system's `grace`. Nothing outlives `async with System()`.
- Watch: exactly one `Down` per watch, at any capacity of the queue.
- Cancellation is no failure: it restarts nothing and always goes on.

What it cannot do: preempt a handler that computes or swallows cancellation, isolate memory, cross a process, deliver
exactly once, heal mutable things a factory shares between incarnations.

    class Greeter(actors.Actor[Greet]):
        @actors.handle
        async def greet(self, message: Greet) -> str:
            return f"hello {message.name}"

    async with actors.System() as system:
        ref = await system.start(actors.Spec(Greeter, "greeter"))
        print(await ref.ask(Greet("world"), timeout=1))
"""

from __future__ import annotations

import logging

from . import events
from .actor import Actor, Context, Spec, SupervisorSpec, handle
from .errors import (
    ActorDied,
    ActorError,
    AskTimeout,
    Crashed,
    Exit,
    GaveUp,
    Killed,
    NameTaken,
    Normal,
    Reject,
    Shutdown,
    StartError,
    StartFailed,
    SupervisionFailed,
    TaskFailed,
    Unavailable,
)
from .events import Event, EventStream
from .mailbox import Ask, Mailbox, Reply
from .ref import ActorRef, Down, Ref, Restarted, Restarting, SupervisorRef, Tree
from .restart import Phase, Restart
from .system import System

__all__ = [
    "Actor",
    "ActorDied",
    "ActorError",
    "ActorRef",
    "Ask",
    "AskTimeout",
    "Context",
    "Crashed",
    "Down",
    "Event",
    "EventStream",
    "Exit",
    "GaveUp",
    "Killed",
    "Mailbox",
    "NameTaken",
    "Normal",
    "Phase",
    "Ref",
    "Reject",
    "Reply",
    "Restart",
    "Restarted",
    "Restarting",
    "Shutdown",
    "Spec",
    "StartError",
    "StartFailed",
    "SupervisionFailed",
    "SupervisorRef",
    "SupervisorSpec",
    "System",
    "TaskFailed",
    "Tree",
    "Unavailable",
    "events",
    "handle",
]

logging.getLogger("actors").addHandler(logging.NullHandler())
