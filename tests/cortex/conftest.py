"""Engines over loopback providers that answer in memory: the tests of the doors run in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import cortex
from cortex.testing import FaultWall

DIALECTS = {"openai": "gpt-4o", "gemini": "gemini-2.5-flash", "anthropic": "claude-haiku-4-5"}


@pytest.fixture
def memory_wall() -> FaultWall:
    """A wall with the three dialects, played in memory by `wall.transport()`."""
    wall = FaultWall()
    for name in DIALECTS:
        wall.add(name, dialect=name)
    return wall


@pytest.fixture
def make_engine(memory_wall: FaultWall) -> Callable[..., cortex.Engine]:
    """`make_engine("gemini", "openai", worker_model=...)`: an engine on these providers of the memory wall."""

    def make(*names: str, **given: Any) -> cortex.Engine:
        chosen = names or ("openai", "gemini")
        extra = given.pop("config", {})
        providers = {
            name: {"api_key": f"key-of-{name}", "base_url": memory_wall[name].base_url, **extra.get(name, {})}
            for name in chosen
        }
        if not given.keys() & {"worker_model", "orchestrator_model"}:
            given["worker_model"] = DIALECTS[chosen[0]]
            given["orchestrator_model"] = DIALECTS[chosen[-1]]
        return cortex.Engine(providers=providers, transport=memory_wall.transport(), **given)

    return make
