"""What can only wait in a thread: the resolver, and files."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import trio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


async def in_thread(function: Callable[[*Ts], T], *args: *Ts, limiter: trio.CapacityLimiter) -> T:
    """Call it in a thread, which is left alone when the wait is cancelled. OSError when there can be no more."""
    try:
        return await trio.to_thread.run_sync(function, *args, abandon_on_cancel=True, limiter=limiter)
    except RuntimeError as error:  # as `threading` has it
        raise OSError(errno.EAGAIN, str(error)) from error
