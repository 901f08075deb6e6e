"""Gemini generateContent and streamGenerateContent: https://ai.google.dev/api/generate-content.

A stream has no mark of its end: the last event carries the finish reason. Without `alt=sse` it is one JSON array.
"""

from __future__ import annotations

import base64
import re
from typing import Any
from urllib.parse import parse_qs

from ..script import Pairs
from .shape import Answer, Call, Dialect, Event, dumps, joined_text, mapping, rows

PLACE = re.compile(r"/models/(?P<model>[^/:]+):(?P<verb>generateContent|streamGenerateContent)$")
FINISH = {
    "stop": "STOP",
    "length": "MAX_TOKENS",
    "tool_calls": "STOP",  # a tool call ends a turn like any other here
    "content_filter": "SAFETY",
    "refusal": "PROHIBITED_CONTENT",
}
ERRORS: dict[int, tuple[str, str]] = {  # status -> status word, message
    400: ("INVALID_ARGUMENT", "Request contains an invalid argument."),
    401: ("UNAUTHENTICATED", "Request had invalid authentication credentials."),
    403: ("PERMISSION_DENIED", "The caller does not have permission"),
    404: ("NOT_FOUND", "models/unknown is not found for API version v1beta, or is not supported."),
    409: ("ABORTED", "The operation was aborted."),
    429: ("RESOURCE_EXHAUSTED", "Resource exhausted. Please try again later."),
    499: ("CANCELLED", "The operation was cancelled."),
    500: ("INTERNAL", "An internal error has occurred. Please retry."),
    501: ("UNIMPLEMENTED", "Operation is not implemented, or supported, or enabled."),
    503: ("UNAVAILABLE", "The model is overloaded. Please try again later."),
    504: ("DEADLINE_EXCEEDED", "The deadline expired before the operation could complete."),
}


def headers(_ident: str) -> Pairs:
    return (("server-timing", "gfet4t7; dur=1"),)


def parse(path: str, query: str, body: Any) -> Call | None:
    place = PLACE.search(path)
    if place is None:
        return None
    return Call(
        model=place["model"],
        text=_last_user_text(mapping(body).get("contents")),
        stream=place["verb"] == "streamGenerateContent",
        sse=parse_qs(query).get("alt") == ["sse"],
    )


def _last_user_text(contents: object) -> str:
    for content in reversed(rows(contents)):
        text = joined_text(content.get("parts"))
        if content.get("role", "user") == "user" and text:
            return text
    return ""


def _signature(answer: Answer) -> str:
    return base64.b64encode(f"sig{answer.ident}".encode()).decode()


def _tools(answer: Answer) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [
        {"functionCall": {"name": tool.name, "args": tool.arguments, "id": f"{answer.ident}{index}"}}
        for index, tool in enumerate(answer.tools)
    ]
    if parts and answer.thinking:
        parts[0]["thoughtSignature"] = _signature(answer)
    return parts


def _response(answer: Answer, parts: list[dict[str, Any]], finish: bool) -> dict[str, Any]:
    content = {"parts": parts, "role": "model"} if parts else {"role": "model"}
    reason = FINISH.get(answer.finish, answer.finish)
    ending = {"finishReason": reason} if finish and reason else {}
    return {
        "candidates": [{"content": content, **ending, "index": 0}],
        **_usage(answer, finish),
        "modelVersion": answer.model,
        "responseId": f"resp{answer.ident}",
    }


def _usage(answer: Answer, whole: bool) -> dict[str, Any]:
    """The count of the answer comes with its end; before it, that of the prompt alone."""
    if answer.usage is None:
        return {}
    prompt, output = answer.usage
    counts = {"promptTokenCount": prompt, "totalTokenCount": prompt + (output if whole else 0)}
    if whole:
        counts["candidatesTokenCount"] = output - answer.thought_tokens
        if answer.thinking:
            counts["thoughtsTokenCount"] = answer.thought_tokens
    return {"usageMetadata": {**counts, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": prompt}]}}


def body(answer: Answer) -> dict[str, Any]:
    parts: list[dict[str, Any]] = []
    if answer.thinking:
        parts.append({"text": answer.thinking, "thought": True})
    if answer.text:
        parts.append({"text": answer.text})
    return _response(answer, [*parts, *_tools(answer)], finish=True)


def events(answer: Answer) -> list[Event]:
    """A response per piece, then one with the finish reason."""
    parts: list[dict[str, Any]] = [
        *({"text": piece, "thought": True} for piece in answer.thoughts),
        *({"text": piece} for piece in answer.pieces),
        *_tools(answer),
    ]
    stream = [_data(_response(answer, [part], finish=False), content=True) for part in parts]
    return [*stream, _data(_response(answer, [{"text": ""}], finish=True))]


def _data(value: object, content: bool = False) -> Event:
    return Event(b"data: " + dumps(value) + b"\n\n", content)


def error(status: int, code: str | None, message: str | None, _ident: str) -> dict[str, Any]:
    usual = ERRORS.get(status, ERRORS[500] if status >= 500 else ERRORS[400])
    return {"error": {"code": status, "message": message or usual[1], "status": code or usual[0]}}


def status_of(kind: str | None) -> int:
    return {name: status for status, (name, _) in ERRORS.items()}.get(kind or "UNAVAILABLE", 500)


def stream_error(kind: str | None, message: str | None, ident: str) -> Event:
    return _data(error(status_of(kind), kind, message, ident))


def _model(name: str, title: str) -> dict[str, Any]:
    return {
        "name": f"models/{name}",
        "version": "001",
        "displayName": title,
        "inputTokenLimit": 1_048_576,
        "outputTokenLimit": 65_536,
        "supportedGenerationMethods": ["generateContent", "countTokens"],
    }


GEMINI = Dialect(
    name="gemini",
    root="",
    json_type="application/json; charset=UTF-8",
    sse_type="text/event-stream",
    ping=b": ping\n\n",
    headers=headers,
    parse=parse,
    body=body,
    events=events,
    error=error,
    stream_error=stream_error,
    status_of=status_of,
    models={"models": [_model("gemini-2.5-pro", "Gemini 2.5 Pro"), _model("gemini-2.5-flash", "Gemini 2.5 Flash")]},
    indent=2,
)
