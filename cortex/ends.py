"""What a user's function raises to end its program (`sys.exit()`) ends that function, never the engine's loop.

In a group, too: a function that runs trio inside raises what happened there as a `BaseExceptionGroup`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

from cortex.errors import CortexError

T = TypeVar("T")


def ends(raised: BaseException) -> bool:
    """Whether it would end a whole loop: neither an error nor a cancellation."""
    if isinstance(raised, BaseExceptionGroup):
        return any(ends(one) for one in raised.exceptions)
    return not isinstance(raised, Exception | trio.Cancelled)


def contained(raised: BaseException) -> CortexError:
    """The same as an error."""
    error = CortexError(f"it raised {raised!r}")
    error.__cause__ = raised
    return error


def call(fn: Callable[[], T]) -> T:
    """`fn()`, in a worker thread."""
    try:
        return fn()
    except BaseException as raised:
        if ends(raised):
            raise contained(raised) from raised
        raise
