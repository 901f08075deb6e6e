"""Shared by the actors' tests: small messages, a recording actor, and a system under the test's clock."""

# ruff: noqa: A002 - an actor's exit is called exit

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import trio

import actors
from actors.testing import EventLog, World


@attrs.frozen
class Say:
    text: Any


@attrs.frozen
class Get(actors.Ask[Any]):
    text: Any = None


@attrs.frozen
class Do(actors.Ask[Any]):
    """Runs `job(actor)`, which may be async, as the handler."""

    job: Any


class Worker(actors.Actor[Say | Get | Do]):
    """Writes what happens to it into `book`, a list shared with the test."""

    def __init__(self, book: list[Any], start: Any = None, stop: Any = None) -> None:
        self.book = book
        self.start = start
        self.stop = stop

    async def on_start(self) -> None:
        if self.start is not None:
            await self.start(self)
        self.book.append(("start", self.ctx.generation))

    async def on_stop(self, exit: actors.Exit) -> None:
        self.book.append(("stop", type(exit).__name__))
        if self.stop is not None:
            await self.stop(self)

    @actors.handle
    def say(self, message: Say) -> None:
        if isinstance(message.text, Exception):
            raise message.text
        self.book.append(message.text)

    @actors.handle
    def get(self, message: Get) -> Any:
        if isinstance(message.text, Exception):
            raise message.text
        return message.text

    @actors.handle
    async def do(self, message: Do) -> Any:
        return await message.job(self)

    @actors.handle
    def down(self, message: actors.Down) -> None:
        self.book.append(message)

    @actors.handle
    def restarting(self, message: actors.Restarting | actors.Restarted) -> None:
        self.book.append(message)


def pause(seconds: float) -> Do:
    """A message that keeps the actor busy."""

    async def job(actor: Worker) -> None:
        await trio.sleep(seconds)

    return Do(job)


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    return SimpleNamespace(Say=Say, Get=Get, Do=Do, Worker=Worker, pause=pause)


@pytest.fixture
async def world(autojump_clock: trio.testing.MockClock) -> AsyncIterator[World]:
    system = actors.System(seed=1)
    async with system.events(buffer=float("inf")) as stream, system:
        yield World(system, EventLog(stream))
