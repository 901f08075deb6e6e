"""Who is calling? trio, asyncio or a plain thread: this room brings a call to the loop its engine lives in, and back.

An engine lives in one place. Entered with `async with` under trio, that is the caller's own run: no thread. Otherwise
it is the process's one runtime thread, started by the first call and ended when the last engine is gone.

Promises: what the work raises arrives as it was raised; contextvars cross; cancelling the caller cancels the work and
waits for its end, at most `grace` seconds; a reply to a loop that is gone is dropped with a DEBUG line; an engine that
is dropped without close is stopped by its finalizer, and the thread ends at interpreter exit without a word.

Users' functions never run in the runtime thread: async ones run in the loop that called, sync ones in worker threads.

    parking    a waiter of trio, of asyncio, of a plain thread: woken from anywhere
    jobs       one piece of work that runs in another loop than the one that waits for it
    callers    users' functions, run where the user lives
    pipes      the chunks of a stream on their way to a reader in any loop
    places     where an engine lives: in the caller's own run, or in the runtime thread
    host       the one way in
"""

from __future__ import annotations

from cortex.host.callers import TOOL_THREADS
from cortex.host.host import Host
from cortex.host.parking import Parker, parker
from cortex.host.pipes import Feed
from cortex.host.places import Home

__all__ = ["TOOL_THREADS", "Feed", "Home", "Host", "Parker", "parker"]
