"""Engines over loopback providers that answer in memory: the tests of the doors run in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

import cortex
from cortex.testing import FaultProvider, FaultWall

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


# ---------------------------------------------------------------- a primary and its spares: tests of failover

PRIMARY, SPARE, THIRD = "openai", "anthropic", "gemini"
KEYS = {name: f"secret-key-of-{name}" for name in (PRIMARY, SPARE, THIRD)}
MODELS = {PRIMARY: "gpt-4o-mini", SPARE: "claude-haiku-4-5", THIRD: "gemini-2.5-flash"}
DEEP = {PRIMARY: "gpt-4o", SPARE: "claude-opus-4-5", THIRD: "gemini-2.5-pro"}


class Lab:
    """A wall, and engines whose worker's model is the primary's, with the others as its spares in order."""

    def __init__(self) -> None:
        self.wall = FaultWall()
        self.primary, self.spare, self.third = (self.wall.add(name) for name in (PRIMARY, SPARE, THIRD))
        self.models = MODELS
        self.deep = DEEP
        self.keys = KEYS

    def __getitem__(self, name: str) -> FaultProvider:
        return self.wall[name]

    @staticmethod
    async def read(stream: Any, chunks: list[Any]) -> None:
        """Read a stream to its end, which may be an error; what came before is in `chunks`."""
        async for chunk in stream:
            chunks.append(chunk)  # noqa: PERF401 - a comprehension would lose what came before an error

    def engine(
        self,
        spares: int = 1,
        *,
        each: dict[str, Any] | None = None,
        wrap: Callable[[httpx.AsyncBaseTransport], httpx.AsyncBaseTransport] | None = None,
        sockets: bool = False,
        **options: Any,
    ) -> cortex.Engine:
        """`each`: more of the primary's configuration. `wrap`: around the transport. `sockets`: no transport at all."""
        names = [PRIMARY, SPARE, THIRD][: spares + 1]
        providers: dict[str, dict[str, Any]] = {
            name: {"api_key": KEYS[name], "base_url": self.wall[name].base_url} for name in names
        }
        providers[PRIMARY] |= each or {}
        given: dict[str, Any] = {
            "worker_model": MODELS[PRIMARY],
            "orchestrator_model": DEEP[PRIMARY],
            "fallback_models": [MODELS[name] for name in names[1:]],
        }
        if not sockets:
            transport = self.wall.transport()
            given["transport"] = wrap(transport) if wrap is not None else transport
        return cortex.Engine(providers, **{**given, **options})


@pytest.fixture
def lab() -> Lab:
    """A fresh wall whose providers all answer, and a maker of engines."""
    return Lab()
