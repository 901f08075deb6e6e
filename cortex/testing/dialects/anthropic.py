"""Anthropic messages: https://docs.anthropic.com/en/api/messages and .../messages-streaming, .../errors."""

from __future__ import annotations

import json
from typing import Any

from ..script import Pairs
from .shape import Answer, Call, Dialect, Event, dumps, fragments, last_user_text, mapping

FINISH = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
ERRORS: dict[int, tuple[str, str]] = {  # status -> type, message
    400: ("invalid_request_error", "Invalid request."),
    401: ("authentication_error", "invalid x-api-key"),
    402: ("billing_error", "There is an issue with your billing or payment information."),
    403: ("permission_error", "Your API key does not have permission to use the specified resource."),
    404: ("not_found_error", "Not found"),
    409: ("conflict_error", "The request conflicts with the current state of the resource."),
    413: ("request_too_large", "Request exceeds the maximum size"),
    429: ("rate_limit_error", "This request would exceed your rate limit."),
    500: ("api_error", "Internal server error"),
    504: ("timeout_error", "Request timed out"),
    529: ("overloaded_error", "Overloaded"),
}


def headers(ident: str) -> Pairs:
    return (("request-id", f"req_{ident}"),)


def parse(path: str, _query: str, body: Any) -> Call | None:
    if not path.endswith("/v1/messages"):
        return None
    fields = mapping(body)
    return Call(
        model=str(fields.get("model", "")),
        text=last_user_text(fields.get("messages")),
        stream=fields.get("stream") is True,
    )


def _finish(answer: Answer) -> str | None:
    return FINISH.get(answer.finish, answer.finish) or None


def _usage(answer: Answer, output: int | None = None) -> dict[str, Any]:
    if answer.usage is None:
        return {}
    cache = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    spent = answer.usage[1] if output is None else output
    return {"usage": {"input_tokens": answer.usage[0], **cache, "output_tokens": spent}}


def _signature(answer: Answer) -> str:
    return f"sig{answer.ident}"


def _tool(answer: Answer, index: int, arguments: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "tool_use",
        "id": f"toolu_{answer.ident}{index}",
        "name": answer.tools[index].name,
        "input": arguments,
    }


def _message(answer: Answer, content: list[dict[str, Any]], finish: str | None, output: int | None) -> dict[str, Any]:
    return {
        "id": f"msg_{answer.ident}",
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": content,
        "stop_reason": finish,
        "stop_sequence": None,
        **_usage(answer, output),
    }


def body(answer: Answer) -> dict[str, Any]:
    content: list[dict[str, Any]] = []
    if answer.thinking:
        content.append({"type": "thinking", "thinking": answer.thinking, "signature": _signature(answer)})
    if answer.text:
        content.append({"type": "text", "text": answer.text})
    content += [_tool(answer, index, tool.arguments) for index, tool in enumerate(answer.tools)]
    return _message(answer, content, _finish(answer), None)


def _event(name: str, content: bool = False, **fields: Any) -> Event:
    data = dumps({"type": name, **fields})
    return Event(b"event: " + name.encode() + b"\ndata: " + data + b"\n\n", content)


def _block(index: int, opening: dict[str, Any], deltas: list[dict[str, Any]]) -> list[Event]:
    return [
        _event("content_block_start", index=index, content_block=opening),
        *(_event("content_block_delta", content=True, index=index, delta=delta) for delta in deltas),
        _event("content_block_stop", index=index),
    ]


def _blocks(answer: Answer) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Each block's opening and its deltas."""
    blocks: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
    if answer.thinking:
        thoughts = [{"type": "thinking_delta", "thinking": piece} for piece in answer.thoughts]
        signature = {"type": "signature_delta", "signature": _signature(answer)}
        blocks.append(({"type": "thinking", "thinking": "", "signature": ""}, [*thoughts, signature]))
    if answer.text:
        deltas = [{"type": "text_delta", "text": piece} for piece in answer.pieces]
        blocks.append(({"type": "text", "text": ""}, deltas))
    for index, tool in enumerate(answer.tools):
        pieces = ["", *fragments(json.dumps(tool.arguments))]
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
        blocks.append((_tool(answer, index, {}), deltas))
    return blocks


def events(answer: Answer) -> list[Event]:
    """`message_start`, the blocks with a `ping` after the first one's opening, `message_delta`, `message_stop`."""
    stream = [_event("message_start", message=_message(answer, [], None, 1))]
    for index, (opening, deltas) in enumerate(_blocks(answer)):
        stream += _block(index, opening, deltas)
    stream.insert(2, _event("ping"))
    ending = {"stop_reason": _finish(answer), "stop_sequence": None}
    return [*stream, _event("message_delta", delta=ending, **_usage(answer)), _event("message_stop")]


def error(status: int, code: str | None, message: str | None, ident: str) -> dict[str, Any]:
    usual = ERRORS.get(status, ERRORS[500] if status >= 500 else ERRORS[400])
    return {
        "type": "error",
        "error": {"type": code or usual[0], "message": message or usual[1]},
        "request_id": f"req_{ident}",
    }


def status_of(kind: str | None) -> int:
    return {name: status for status, (name, _) in ERRORS.items()}.get(kind or "overloaded_error", 500)


def stream_error(kind: str | None, message: str | None, _ident: str) -> Event:
    kind = kind or "overloaded_error"
    return _event("error", error={"type": kind, "message": message or ERRORS[status_of(kind)][1]})


def _model(name: str, title: str) -> dict[str, Any]:
    return {"type": "model", "id": name, "display_name": title, "created_at": "2025-09-29T00:00:00Z"}


ANTHROPIC = Dialect(
    name="anthropic",
    root="",
    json_type="application/json",
    sse_type="text/event-stream; charset=utf-8",
    ping=b'event: ping\ndata: {"type": "ping"}\n\n',
    headers=headers,
    parse=parse,
    body=body,
    events=events,
    error=error,
    stream_error=stream_error,
    status_of=status_of,
    models={
        "data": [_model("claude-sonnet-4-5", "Claude Sonnet 4.5"), _model("claude-haiku-4-5", "Claude Haiku 4.5")],
        "has_more": False,
        "first_id": "claude-sonnet-4-5",
        "last_id": "claude-haiku-4-5",
    },
)
