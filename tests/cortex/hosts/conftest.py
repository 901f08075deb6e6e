"""Engines over real loopback sockets, and what the tests of the hosts look at: threads, descriptors, the gate."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

import cortex
from cortex.host.places import Runtime
from cortex.testing import FaultWall, Hang
from cortex.testing.provider import FaultProvider
from cortex.tree import Gate


@pytest.fixture
def wall() -> Iterator[FaultWall]:
    """One provider of the OpenAI dialect on a loopback port, served by a thread of its own."""
    with FaultWall() as wall:
        wall.add("openai")
        yield wall


@pytest.fixture
def openai(wall: FaultWall) -> FaultProvider:
    return wall["openai"]


@pytest.fixture
def new_engine(wall: FaultWall) -> Callable[..., cortex.Engine]:
    """`new_engine(grace=..., ...)`: an engine on the wall's provider; the arguments are its policy's."""

    def make(**policy: Any) -> cortex.Engine:
        return engine_on(wall, **policy)

    return make


def engine_on(wall: FaultWall, **policy: Any) -> cortex.Engine:
    providers = {"openai": {"api_key": "sk-x", "base_url": wall["openai"].base_url}}
    return cortex.Engine(providers=providers, worker_model="gpt-4o", policy=policy)


class Look:
    """What is there to see from outside."""

    hang = Hang()

    @staticmethod
    def runtimes() -> list[threading.Thread]:
        """The runtime threads of this process."""
        return [thread for thread in threading.enumerate() if thread.name == "cortex-runtime"]

    @staticmethod
    def gate(engine: cortex.Engine) -> Gate:
        """The gate of a running engine."""
        place = engine.host._place
        assert place is not None
        assert place.home is not None
        return place.home.gate

    @staticmethod
    def quiet(engine: cortex.Engine) -> bool:
        """Nobody is inside and nobody waits. For a moment longer the published health may count a call."""
        gate = Look.gate(engine)
        return (gate.inside, gate.waiting) == (0, 0)

    @staticmethod
    def idle(engine: cortex.Engine) -> bool:
        """Quiet, and no provider's permit is out."""
        return Look.quiet(engine) and not any(one.in_flight for one in engine.health().values())

    @staticmethod
    def descriptors() -> int:
        """Open ones; 0 on systems that do not tell."""
        folder = Path("/proc/self/fd")
        return len(list(folder.iterdir())) if folder.exists() else 0

    @staticmethod
    def resident() -> int:
        """Bytes of memory in use."""
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    @staticmethod
    def eventually(true: Callable[[], object], seconds: float = 5.0) -> None:
        """Wait until `true()`, or fail."""
        until = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < until, f"not true within {seconds} s"
            time.sleep(0.002)

    @staticmethod
    async def eventually_trio(true: Callable[[], object], seconds: float = 5.0) -> None:
        with trio.fail_after(seconds):
            while not true():  # noqa: ASYNC110 - what is awaited happens in other threads
                await trio.sleep(0.002)


@pytest.fixture
def look() -> type[Look]:
    return Look


@pytest.fixture(autouse=True)
def no_runtime_is_left() -> Iterator[None]:
    """Each test drops its engines, so the thread must end; an engine that is kept alive by a leak is found here."""
    yield
    until = time.monotonic() + 0.1
    while Look.runtimes() and time.monotonic() < until:
        time.sleep(0.002)
    if Look.runtimes():
        gc.collect()  # tools that close over their session are a cycle of the tests' own
    Look.eventually(lambda: not Look.runtimes())
    assert Runtime.current is None or Runtime.current._closed
