"""What a request asks of whoever serves it: capabilities, room, and whether it may be sent twice. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cortex.messages import Image, Request, Text, Thinking, ToolCall, ToolResult
from cortex.routing import Needs

if TYPE_CHECKING:
    from cortex.config import Chain


def needs_of(request: Request, chain: Chain) -> Needs:
    """What this request asks of a lane. Bytes / 3 is an upper bound of tokens that costs nothing to find."""
    size, images = len(request.system), False
    for message in request.messages:
        for part in message.parts:
            match part:
                case Text(text) | Thinking(text):
                    size += len(text)
                case ToolCall(raw_arguments=raw):
                    size += len(raw)
                case ToolResult(content=content):
                    size += len(content)
                case Image():
                    images = True
    return Needs(
        tiers=chain.tiers,
        tools=bool(request.tools),
        images=images,
        output=request.output is not None,
        est_tokens=size // 3 + (request.max_tokens or 0),
        replayable=not stateful(request),
        stream=request.stream,
    )


_STATE = ("previous_response_id", "conversation", "background", "container", "mcp_servers")
"""Members of a body that name what is kept, or runs on, at the provider."""


def stateful(request: Request) -> bool:
    """Whether the request has effects at the provider: it goes on from what is stored there, or lets tools run there.

    Only `extra` can ask for that. Sent again it could do its work twice, and neither OpenAI nor Anthropic takes a key
    that would tell them so. `store` alone is none: a second copy in a log harms nobody.
    """
    extra = request.extra
    return any(extra.get(name) for name in _STATE) or any(map(_runs_there, _list(extra.get("tools"))))


def _runs_there(tool: Any) -> bool:
    """OpenAI and Anthropic tell by the type; Gemini by another member than the declarations of functions."""
    if not isinstance(tool, Mapping):
        return False
    if "type" in tool:
        return tool["type"] not in ("function", "custom")
    return not tool.keys() & {"name", "function", "functionDeclarations", "function_declarations"}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
