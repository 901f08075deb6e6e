"""cortex: several LLM providers as if they were one.

    engine = cortex.Engine(providers={"openai": {"api_key": "sk-..."}, ...}, orchestrator_model=..., worker_model=...)
    agent = engine.create_agent(name="support", system_prompt="You help customers.")
    session = agent.start_session(user_id="customer_42")
    response = await session.run("Where is my order?")      # asyncio or trio; session.run_sync(...) elsewhere
    response.content, response.metadata.model_used, response.metadata.attempts

The names are loaded when they are first used: the pytest plugin of `cortex.testing` is imported by every pytest run of
a machine that has cortex, and must cost it nothing.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cortex.agent import Agent
    from cortex.agentic import AgenticResult
    from cortex.engine import Engine
    from cortex.errors import (
        AuthError,
        BadReply,
        BillingError,
        ConfigError,
        ContentRefused,
        ContextTooLong,
        CortexError,
        DeadlineExceeded,
        EngineClosed,
        EngineFailed,
        ModelNotFound,
        NetworkUnavailable,
        NoProviderLeft,
        OutcomeUnknown,
        ProviderError,
        ProviderTimeout,
        ProviderUnavailable,
        QueueFull,
        RateLimited,
        RequestRejected,
        SessionBusy,
        StreamInterrupted,
    )
    from cortex.messages import Finish, Image, Message, Text, Thinking, ToolCall, ToolResult, Usage
    from cortex.policy import Policy
    from cortex.reports import EngineHealth, Plan, ProviderHealth
    from cortex.results import Attempt, Chunk, Completion, Metadata, Response
    from cortex.session import Session
    from cortex.streams import Stream, SyncStream
    from cortex.tools import Tool, tool
    from cortex.weights import WeightConfig

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "AgenticResult",
    "Attempt",
    "AuthError",
    "BadReply",
    "BillingError",
    "Chunk",
    "Completion",
    "ConfigError",
    "ContentRefused",
    "ContextTooLong",
    "CortexError",
    "DeadlineExceeded",
    "Engine",
    "EngineClosed",
    "EngineFailed",
    "EngineHealth",
    "Finish",
    "Image",
    "Message",
    "Metadata",
    "ModelNotFound",
    "NetworkUnavailable",
    "NoProviderLeft",
    "OutcomeUnknown",
    "Plan",
    "Policy",
    "ProviderError",
    "ProviderHealth",
    "ProviderTimeout",
    "ProviderUnavailable",
    "QueueFull",
    "RateLimited",
    "RequestRejected",
    "Response",
    "Session",
    "SessionBusy",
    "Stream",
    "StreamInterrupted",
    "SyncStream",
    "Text",
    "Thinking",
    "Tool",
    "ToolCall",
    "ToolResult",
    "Usage",
    "WeightConfig",
    "tool",
]

_ROOMS = {
    "Agent": "agent",
    "AgenticResult": "agentic",
    "Attempt": "results",
    "AuthError": "errors",
    "BadReply": "errors",
    "BillingError": "errors",
    "Chunk": "results",
    "Completion": "results",
    "ConfigError": "errors",
    "ContentRefused": "errors",
    "ContextTooLong": "errors",
    "CortexError": "errors",
    "DeadlineExceeded": "errors",
    "Engine": "engine",
    "EngineClosed": "errors",
    "EngineFailed": "errors",
    "Finish": "messages",
    "Image": "messages",
    "Message": "messages",
    "Metadata": "results",
    "ModelNotFound": "errors",
    "NetworkUnavailable": "errors",
    "NoProviderLeft": "errors",
    "OutcomeUnknown": "errors",
    "Plan": "reports",
    "Policy": "policy",
    "ProviderError": "errors",
    "EngineHealth": "reports",
    "ProviderHealth": "reports",
    "ProviderTimeout": "errors",
    "ProviderUnavailable": "errors",
    "QueueFull": "errors",
    "RateLimited": "errors",
    "RequestRejected": "errors",
    "Response": "results",
    "Session": "session",
    "SessionBusy": "errors",
    "Stream": "streams",
    "StreamInterrupted": "errors",
    "SyncStream": "streams",
    "Text": "messages",
    "Thinking": "messages",
    "Tool": "tools",
    "ToolCall": "messages",
    "ToolResult": "messages",
    "Usage": "messages",
    "WeightConfig": "weights",
    "tool": "tools",
}


def __getattr__(name: str) -> Any:
    room = _ROOMS.get(name)
    if room is None:
        raise AttributeError(f"module 'cortex' has no attribute {name!r}")
    value = getattr(import_module(f"cortex.{room}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_ROOMS])


logging.getLogger("cortex").addHandler(logging.NullHandler())
