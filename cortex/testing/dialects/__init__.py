"""The dialects a loopback provider can speak, one file each; a new one is one file and one row here."""

from __future__ import annotations

from attrs import evolve

from .anthropic import ANTHROPIC
from .gemini import GEMINI
from .ollama import OLLAMA
from .openai_chat import OPENAI_CHAT
from .openai_responses import OPENAI_RESPONSES
from .shape import Answer, Call, Dialect, Event, dumps

OPENAI = evolve(OPENAI_CHAT, also=(OPENAI_RESPONSES, OLLAMA))
DIALECTS = {dialect.name: dialect for dialect in (OPENAI, ANTHROPIC, GEMINI)}

__all__ = ["DIALECTS", "Answer", "Call", "Dialect", "Event", "dumps"]
