"""What vendors say, in bytes: one dialect a file. Pure; `WIRES` finds a dialect by its name (`ProviderConfig.wire`)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from cortex.wire import anthropic, gemini, ollama, openai_chat, openai_responses
from cortex.wire.codec import Wire

__all__ = ["WIRES"]

WIRES: Mapping[str, Wire] = MappingProxyType(
    {wire.name: wire for wire in (openai_chat.WIRE, openai_responses.WIRE, anthropic.WIRE, gemini.WIRE, ollama.WIRE)}
)
