"""How an actor can end (`Exit`), and what a caller can be told (`ActorError`).

Failures are values inside the tree: an incarnation never lets an exception out, it returns an `Exit`. Exceptions
exist only at the doors, and every asker gets a new one, so no traceback is shared between callers:

    ActorError
    +-- ActorDied(exit)          the actor is gone, or the incarnation that held your ask is; __cause__ is the crash
    +-- AskTimeout               the deadline of the ask passed
    +-- Unavailable(retry_in)    the actor is down and will not be up again before your deadline
    +-- TaskFailed               the task that served your ask raised; __cause__ is what it raised
    +-- StartError               a first start failed; __cause__ is why
    +-- SupervisionFailed        the root gave up; __cause__ is the last crash
    +-- NameTaken                a living actor has this name

`Reject(error)` is no failure: an actor raises it to answer an ask with `error` and lives on.
"""

# ruff: noqa: A002 - an actor's exit is called exit

from __future__ import annotations

from typing import TypeAlias

import attrs


@attrs.frozen
class Normal:
    """The actor stopped itself."""


@attrs.frozen
class Shutdown:
    """Somebody ordered the actor to stop."""


@attrs.frozen
class Killed:
    """The actor did not stop in time and was cancelled."""


@attrs.frozen
class Crashed:
    """`exc` left the actor in `phase`: "handler", "task" or "supervisor"; `msg_type` names what it worked on."""

    exc: BaseException
    phase: str
    msg_type: str | None = None


@attrs.frozen
class StartFailed:
    """The factory or `on_start` raised `exc`, or took longer than the start timeout."""

    exc: BaseException


@attrs.frozen
class GaveUp:
    """Restarting was given up after `last`."""

    last: Exit


Exit: TypeAlias = Normal | Shutdown | Killed | Crashed | StartFailed | GaveUp


def is_abnormal(exit: Exit) -> bool:
    """Whether a transient actor is restarted after this exit."""
    return not isinstance(exit, Normal | Shutdown)


def cause_of(exit: Exit) -> BaseException | None:
    """The exception behind an exit, if there is one."""
    match exit:
        case Crashed(exc=exc) | StartFailed(exc=exc):
            return exc
        case GaveUp(last=last):
            return cause_of(last)
        case _:
            return None


class ActorError(Exception):
    """The root of all errors of this package."""


class ActorDied(ActorError):
    """The actor ended with `exit` before it answered."""

    def __init__(self, path: str, exit: Exit) -> None:
        super().__init__(f"{path} ended: {type(exit).__name__}")
        self.exit = exit
        self.__cause__ = cause_of(exit)


class AskTimeout(ActorError):
    """The deadline of an ask passed; the message says whether the ask had been taken from the queue."""


class Unavailable(ActorError):
    """The actor is down; the next start is planned in `retry_in` seconds."""

    def __init__(self, path: str, retry_in: float) -> None:
        super().__init__(f"{path} is down, next start in {retry_in:.3f} s")
        self.retry_in = retry_in


class TaskFailed(ActorError):
    """The task that served the ask raised `__cause__`; the actor lives."""


class StartError(ActorError):
    """The first start failed with `__cause__`."""


class SupervisionFailed(ActorError):
    """The root of the system gave up; `exit` says why."""

    def __init__(self, exit: Exit) -> None:
        super().__init__("the root supervisor gave up")
        self.exit = exit
        self.__cause__ = cause_of(exit)


class NameTaken(ActorError):
    """A living actor already has this name."""


class Reject(Exception):
    """Raised by a handler, or by a task that serves an ask, to answer the ask with `error`. Nothing crashes."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"rejected with {type(error).__name__}")
        self.error = error
