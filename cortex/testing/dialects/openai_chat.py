"""OpenAI chat completions, also spoken by Ollama, vLLM, llama.cpp and most gateways.

https://platform.openai.com/docs/api-reference/chat and .../chat-streaming. Reasoning text travels as
`reasoning_content`, which OpenAI itself never shows and its compatible servers do.
"""

from __future__ import annotations

import json
from typing import Any

from ..script import Pairs
from .shape import CREATED, Answer, Call, Dialect, Event, dumps, fragments, last_user_text, mapping

FINISH = {"refusal": "content_filter"}  # the other neutral words are OpenAI's own
INVALID = "invalid_request_error"
ERRORS: dict[int, tuple[str, str | None, str]] = {  # status -> type, code, message
    400: (INVALID, None, "Invalid request."),
    401: (INVALID, "invalid_api_key", "Incorrect API key provided: sk-...."),
    403: ("request_forbidden", "unsupported_country_region_territory", "Country, region, or territory not supported"),
    404: (INVALID, "model_not_found", "The model does not exist or you do not have access to it."),
    429: ("requests", "rate_limit_exceeded", "Rate limit reached. Please try again later."),
    500: ("server_error", None, "The server had an error while processing your request. Sorry about that!"),
    503: ("server_error", None, "That model is currently overloaded with other requests."),
}
QUOTA = "insufficient_quota"


def headers(ident: str) -> Pairs:
    return (("openai-version", "2020-10-01"), ("openai-processing-ms", "1"), ("x-request-id", f"req_{ident}"))


def parse(path: str, _query: str, body: Any) -> Call | None:
    if not path.endswith("/chat/completions"):
        return None
    fields = mapping(body)
    return Call(
        model=str(fields.get("model", "")),
        text=last_user_text(fields.get("messages")),
        stream=fields.get("stream") is True,
        usage=mapping(fields.get("stream_options")).get("include_usage") is True,
    )


def _finish(answer: Answer) -> str | None:
    return FINISH.get(answer.finish, answer.finish) or None


def _usage(answer: Answer) -> dict[str, Any] | None:
    if answer.usage is None:
        return None
    prompt, completion = answer.usage
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": answer.thought_tokens, "audio_tokens": 0},
    }


def _tool(answer: Answer, index: int, arguments: str) -> dict[str, Any]:
    function = {"name": answer.tools[index].name, "arguments": arguments}
    return {"id": f"call_{answer.ident}{index}", "type": "function", "function": function}


def body(answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None, "annotations": []}
    if answer.thinking:
        message["reasoning_content"] = answer.thinking
    if answer.tools:
        message["content"] = answer.text or None
        message["tool_calls"] = [
            _tool(answer, index, json.dumps(tool.arguments)) for index, tool in enumerate(answer.tools)
        ]
    usage = _usage(answer)
    return {
        "id": f"chatcmpl-{answer.ident}",
        "object": "chat.completion",
        "created": CREATED,
        "model": answer.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(answer)}],
        **({"usage": usage} if usage else {}),
        "service_tier": "default",
        "system_fingerprint": "fp_wall",
    }


def _deltas(answer: Answer) -> list[dict[str, Any]]:
    deltas: list[dict[str, Any]] = [{"reasoning_content": piece} for piece in answer.thoughts]
    deltas += [{"content": piece} for piece in answer.pieces]
    for index, tool in enumerate(answer.tools):
        deltas.append({"tool_calls": [{"index": index, **_tool(answer, index, "")}]})
        deltas += [
            {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
            for piece in fragments(json.dumps(tool.arguments))
        ]
    return deltas


def events(answer: Answer) -> list[Event]:
    """Role first, then deltas, the finish reason, the usage if it was asked for, and `[DONE]`."""
    head = {
        "id": f"chatcmpl-{answer.ident}",
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": answer.model,
        "service_tier": "default",
        "system_fingerprint": "fp_wall",
    }
    usage: dict[str, Any] = {"usage": None} if answer.streamed_usage else {}

    def chunk(delta: dict[str, Any], finish: str | None = None, content: bool = False) -> Event:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _data({**head, "choices": [choice], **usage}, content)

    opening = {"role": "assistant", "content": None if answer.tools and not answer.text else "", "refusal": None}
    stream = [chunk(opening), *(chunk(delta, content=True) for delta in _deltas(answer))]
    stream.append(chunk({}, _finish(answer)))
    if answer.streamed_usage and answer.usage is not None:
        stream.append(_data({**head, "choices": [], "usage": _usage(answer)}))
    return [*stream, Event(b"data: [DONE]\n\n")]


def _data(value: object, content: bool = False) -> Event:
    return Event(b"data: " + dumps(value) + b"\n\n", content)


def error(status: int, code: str | None, message: str | None, _ident: str) -> dict[str, Any]:
    usual = ERRORS.get(status, ERRORS[500] if status >= 500 else (INVALID, None, f"Request failed: {status}."))
    kind = QUOTA if code == QUOTA else usual[0]
    return {"error": {"message": message or usual[2], "type": kind, "param": None, "code": code or usual[1]}}


def status_of(kind: str | None) -> int:
    return {QUOTA: 429, "requests": 429, "tokens": 429, "rate_limit_exceeded": 429, INVALID: 400}.get(kind or "", 500)


def stream_error(kind: str | None, message: str | None, _ident: str) -> Event:
    kind = kind or "server_error"
    return _data({"error": {"message": message or ERRORS[500][2], "type": kind, "param": None, "code": kind}})


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "openai"}


OPENAI_CHAT = Dialect(
    name="openai",
    root="/v1",
    json_type="application/json",
    sse_type="text/event-stream; charset=utf-8",
    ping=b": ping\n\n",
    headers=headers,
    parse=parse,
    body=body,
    events=events,
    error=error,
    stream_error=stream_error,
    status_of=status_of,
    models={"object": "list", "data": [_model("gpt-4o"), _model("gpt-4o-mini")]},
)
