"""The dialects a loopback provider can speak, one file each; a new one is one file and one row here."""

from __future__ import annotations

from .anthropic import ANTHROPIC
from .gemini import GEMINI
from .openai_chat import OPENAI_CHAT
from .shape import Answer, Call, Dialect, Event, dumps

DIALECTS = {dialect.name: dialect for dialect in (OPENAI_CHAT, ANTHROPIC, GEMINI)}

__all__ = ["DIALECTS", "Answer", "Call", "Dialect", "Event", "dumps"]
