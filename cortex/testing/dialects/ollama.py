"""Ollama's own dialect, at the address of its chat completions, without their `/v1`: `/api/chat`.

https://docs.ollama.com/api/chat. A stream is JSON lines, and it is what is sent unless a request says otherwise.
"""

from __future__ import annotations

from typing import Any

from ..script import Pairs
from .shape import Answer, Call, Dialect, Event, dumps, last_user_text, mapping

CREATED_AT = "2026-02-02T02:40:00.000001Z"
FINISH = {"tool_calls": "stop", "content_filter": "stop", "refusal": "stop"}  # it knows only two: this, and length
ERRORS = {  # status -> message
    400: "invalid request",
    401: "unauthorized",
    404: "model 'unknown' not found",
    429: "too many requests",
    503: "server busy, please try again.  maximum pending requests exceeded",
}
FAILED = "an error was encountered while running the model: unexpected EOF"


def headers(_ident: str) -> Pairs:
    return ()


def parse(path: str, _query: str, body: Any) -> Call | None:
    if not path.endswith("/api/chat"):
        return None
    fields = mapping(body)
    return Call(
        model=str(fields.get("model", "")),
        text=last_user_text(fields.get("messages")),
        stream=fields.get("stream") is not False,
    )


def _line(answer: Answer, message: dict[str, Any], *, done: bool) -> dict[str, Any]:
    told: dict[str, Any] = {"role": "assistant", "content": "", **message}
    line: dict[str, Any] = {"model": answer.model, "created_at": CREATED_AT, "message": told, "done": done}
    if done and (reason := FINISH.get(answer.finish, answer.finish)):
        line["done_reason"] = reason
    return {**line, **(_counts(answer) if done else {})}


def _counts(answer: Answer) -> dict[str, Any]:
    if answer.usage is None:
        return {}
    prompt, output = answer.usage
    lasted = {"total_duration": 3_000_000, "load_duration": 1_000_000}  # nanoseconds
    return {
        **lasted,
        "prompt_eval_count": prompt,
        "prompt_eval_duration": 1_000_000,
        "eval_count": output,
        "eval_duration": 1_000_000,
    }


def _call(answer: Answer, index: int) -> dict[str, Any]:
    tool = answer.tools[index]
    function = {"index": index, "name": tool.name, "arguments": tool.arguments}
    return {"id": f"call_{answer.ident}{index}", "function": function}


def body(answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"content": answer.text}
    if answer.thinking:
        message["thinking"] = answer.thinking
    if answer.tools:
        message["tool_calls"] = [_call(answer, index) for index in range(len(answer.tools))]
    return _line(answer, message, done=True)


def events(answer: Answer) -> list[Event]:
    """A line per piece, each call whole, then one that says `done` and counts."""
    pieces: list[dict[str, Any]] = [
        *({"thinking": piece} for piece in answer.thoughts),
        *({"content": piece} for piece in answer.pieces),
        *({"tool_calls": [_call(answer, index)]} for index in range(len(answer.tools))),
    ]
    lines = [_event(_line(answer, piece, done=False), content=True) for piece in pieces]
    return [*lines, _event(_line(answer, {}, done=True))]


def _event(value: object, content: bool = False) -> Event:
    return Event(dumps(value) + b"\n", content)


def error(status: int, _code: str | None, message: str | None, _ident: str) -> dict[str, Any]:
    return {"error": message or ERRORS.get(status, FAILED if status >= 500 else ERRORS[400])}


def status_of(_kind: str | None) -> int:
    return 500


def stream_error(_kind: str | None, message: str | None, ident: str) -> Event:
    return _event(error(500, None, message, ident))


OLLAMA = Dialect(
    name="ollama",
    root="",
    json_type="application/json; charset=utf-8",
    sse_type="application/x-ndjson",
    ping=b"\n",
    headers=headers,
    parse=parse,
    body=body,
    events=events,
    error=error,
    stream_error=stream_error,
    status_of=status_of,
    models={"models": []},
)
