"""What vendors say, in bytes: one dialect a file. Pure; `WIRES` finds a dialect by a provider's kind."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from cortex.wire import anthropic, gemini, openai_chat
from cortex.wire.codec import Wire

__all__ = ["WIRES"]

WIRES: Mapping[str, Wire] = MappingProxyType(
    {
        "openai": openai_chat.WIRE,
        "azure": openai_chat.WIRE,
        "local": openai_chat.WIRE,
        "anthropic": anthropic.WIRE,
        "gemini": gemini.WIRE,
    }
)
