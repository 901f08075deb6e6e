"""Test your own failover: loopback LLM providers that fail as told.

    with FaultWall() as wall:
        openai = wall.add("openai")
        openai.script(Status(503), Hang(), Reply("back"))
        ...                             # point your client at openai.base_url
        assert openai.requests[0].gone is False

It stands alone: nothing of the engine is needed to use it. Names are loaded when first used, because pytest imports
this package for its plugin in every run.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .provider import FaultProvider
    from .script import (
        Action,
        Cut,
        Delay,
        Garbage,
        Hang,
        Pings,
        Raw,
        Redirect,
        Refuse,
        Reply,
        Reset,
        Script,
        Seen,
        Status,
        StreamError,
        ToolCall,
        ToolCalls,
    )
    from .wall import FaultWall

__all__ = [
    "Action",
    "Cut",
    "Delay",
    "FaultProvider",
    "FaultWall",
    "Garbage",
    "Hang",
    "Pings",
    "Raw",
    "Redirect",
    "Refuse",
    "Reply",
    "Reset",
    "Script",
    "Seen",
    "Status",
    "StreamError",
    "ToolCall",
    "ToolCalls",
]

_HOMES = {"FaultWall": "wall", "FaultProvider": "provider"}  # all other names live in `script`


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'script')}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
