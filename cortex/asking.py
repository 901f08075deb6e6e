"""Asking an actor of ours that may crash and come back: its restart costs the asker a moment, never the call."""

from __future__ import annotations

from typing import Any, TypeVar

import trio

import actors

R = TypeVar("R")

CRASHES = 5
"""How often an actor may crash under one and the same message before that message is believed to be the reason."""

PAUSE_SECONDS = 0.05
"""The shortest wait for one that is down: a start that has been due for long gives no better time to ask again."""


async def ask_again(ref: actors.ActorRef[Any], message: actors.Ask[R]) -> R:
    """The answer of the actor, or of the one that takes its place. Waits as long as the actor is down; the caller's own
    scope bounds that. Raises ActorDied when it is gone for good, or crashed under the message again and again."""
    crashes = 0
    while True:
        try:
            return await ref.ask(message)
        except actors.Unavailable as error:
            await trio.sleep(max(error.retry_in, PAUSE_SECONDS))
        except actors.ActorDied as error:
            crashes += 1
            if crashes == CRASHES or not isinstance(error.exit, actors.Crashed):
                raise
