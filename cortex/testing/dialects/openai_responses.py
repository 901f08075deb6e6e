"""OpenAI responses, at the address of its chat completions, as with the vendor.

https://platform.openai.com/docs/api-reference/responses and .../responses-streaming. Thinking is a reasoning item: a
summary, and what a client has to bring back.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from attrs import evolve

from .openai_chat import OPENAI_CHAT
from .shape import CREATED, Answer, Call, Event, dumps, fragments, last_user_text, mapping

INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
COMPLETED = ("stop", "tool_calls", "refusal")


def parse(path: str, _query: str, body: Any) -> Call | None:
    if not path.endswith("/responses"):
        return None
    fields = mapping(body)
    given = fields.get("input")
    return Call(
        model=str(fields.get("model", "")),
        text=given if isinstance(given, str) else last_user_text(given),
        stream=fields.get("stream") is True,
    )


def _status(answer: Answer) -> str | None:
    if answer.finish in INCOMPLETE:
        return "incomplete"
    return "completed" if answer.finish in COMPLETED else answer.finish or None


def _usage(answer: Answer) -> dict[str, Any] | None:
    if answer.usage is None:
        return None
    before, after = answer.usage
    return {
        "input_tokens": before,
        "input_tokens_details": {"cache_write_tokens": 0, "cached_tokens": 0},
        "output_tokens": after,
        "output_tokens_details": {"reasoning_tokens": answer.thought_tokens},
        "total_tokens": before + after,
    }


def _response(answer: Answer, status: str | None, output: list[dict[str, Any]], *, over: bool) -> dict[str, Any]:
    reason = INCOMPLETE.get(answer.finish) if over else None
    return {
        "id": f"resp_{answer.ident}",
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": reason} if reason else None,
        "instructions": None,
        "max_output_tokens": None,
        "model": answer.model,
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": False,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": _usage(answer) if over else None,
        "user": None,
        "metadata": {},
    }


# --------------------------------------------------------------------------------------------------- the items of it


def _reasoning(answer: Answer, summary: str | None) -> dict[str, Any]:
    parts = [] if summary is None else [{"type": "summary_text", "text": summary}]
    return {
        "id": f"rs_{answer.ident}",
        "type": "reasoning",
        "encrypted_content": f"sealed{answer.ident}",
        "summary": parts,
    }


def _part(answer: Answer, text: str) -> dict[str, Any]:
    if answer.finish == "refusal":
        return {"type": "refusal", "refusal": text}
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def _message(answer: Answer, text: str | None) -> dict[str, Any]:
    over = "incomplete" if answer.finish in INCOMPLETE else "completed"
    return {
        "id": f"msg_{answer.ident}",
        "type": "message",
        "status": "in_progress" if text is None else over,
        "content": [] if text is None else [_part(answer, text)],
        "role": "assistant",
    }


def _call(answer: Answer, index: int, arguments: str | None) -> dict[str, Any]:
    return {
        "id": f"fc_{answer.ident}{index}",
        "type": "function_call",
        "status": "in_progress" if arguments is None else "completed",
        "arguments": arguments or "",
        "call_id": f"call_{answer.ident}{index}",
        "name": answer.tools[index].name,
    }


def _output(answer: Answer) -> list[dict[str, Any]]:
    output = [_reasoning(answer, answer.thinking)] if answer.thinking else []
    if answer.text or not answer.tools:
        output.append(_message(answer, answer.text))
    return output + [_call(answer, index, json.dumps(tool.arguments)) for index, tool in enumerate(answer.tools)]


def body(answer: Answer) -> dict[str, Any]:
    return _response(answer, _status(answer), _output(answer), over=True)


# ------------------------------------------------------------------------------------------------ and its events


def _reasoning_events(answer: Answer) -> list[dict[str, Any]]:
    where = {"item_id": f"rs_{answer.ident}", "summary_index": 0}
    whole = {"type": "summary_text", "text": answer.thinking}
    return [
        {"type": "reasoning_summary_part.added", **where, "part": {**whole, "text": ""}},
        *({"type": "reasoning_summary_text.delta", **where, "delta": piece} for piece in answer.thoughts),
        {"type": "reasoning_summary_text.done", **where, "text": answer.thinking},
        {"type": "reasoning_summary_part.done", **where, "part": whole},
    ]


def _message_events(answer: Answer) -> list[dict[str, Any]]:
    where = {"item_id": f"msg_{answer.ident}", "content_index": 0}
    kind, field = ("refusal", "refusal") if answer.finish == "refusal" else ("output_text", "text")
    return [
        {"type": "content_part.added", **where, "part": _part(answer, "")},
        *({"type": f"{kind}.delta", **where, "delta": piece} for piece in answer.pieces),
        {"type": f"{kind}.done", **where, field: answer.text},
        {"type": "content_part.done", **where, "part": _part(answer, answer.text)},
    ]


def _call_events(answer: Answer, index: int) -> list[dict[str, Any]]:
    where = {"item_id": f"fc_{answer.ident}{index}"}
    arguments = json.dumps(answer.tools[index].arguments)
    return [
        *({"type": "function_call_arguments.delta", **where, "delta": piece} for piece in fragments(arguments)),
        {"type": "function_call_arguments.done", **where, "arguments": arguments},
    ]


def _told(answer: Answer) -> Iterator[dict[str, Any]]:
    """The events between the first two and the last: for each item its opening, its pieces, and itself."""
    begun: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
    if answer.thinking:
        begun.append((_reasoning(answer, None), _reasoning_events(answer)))
    if answer.text or not answer.tools:
        begun.append((_message(answer, None), _message_events(answer)))
    begun += [(_call(answer, index, None), _call_events(answer, index)) for index in range(len(answer.tools))]
    for index, ((opening, pieces), whole) in enumerate(zip(begun, _output(answer), strict=True)):
        yield {"type": "output_item.added", "output_index": index, "item": opening}
        yield from ({**piece, "output_index": index} for piece in pieces)
        yield {"type": "output_item.done", "output_index": index, "item": whole}


def events(answer: Answer) -> list[Event]:
    """`response.created`, `response.in_progress`, the items, and the whole response under the name of its end."""
    begun = _response(answer, "in_progress", [], over=False)
    last = "incomplete" if answer.finish in INCOMPLETE else "completed"
    told = [
        {"type": "created", "response": begun},
        {"type": "in_progress", "response": begun},
        *_told(answer),
        {"type": last, "response": body(answer)},
    ]
    return [
        _event({**event, "type": f"response.{event['type']}", "sequence_number": n}) for n, event in enumerate(told)
    ]


def _event(fields: dict[str, Any]) -> Event:
    kind = fields["type"]
    return Event(b"event: " + kind.encode() + b"\ndata: " + dumps(fields) + b"\n\n", content=kind.endswith(".delta"))


def stream_error(kind: str | None, message: str | None, ident: str) -> Event:
    code = kind or "server_error"
    usual = OPENAI_CHAT.error(OPENAI_CHAT.status_of(code), code, message, ident)["error"]
    return _event({"type": "error", "sequence_number": 2, "error": {**usual, "type": code}})


OPENAI_RESPONSES = evolve(
    OPENAI_CHAT, name="openai_responses", parse=parse, body=body, events=events, stream_error=stream_error
)
