"""Oddities that real services were seen with, each by its name."""

from __future__ import annotations

from typing import Any

import pytest

from cortex.messages import Answer, Broken, Ended, Failure, Finish, Kind, TextDelta, Usage
from cortex.wire import WIRES
from cortex.wire.codec import HttpReply, Target

TARGET = Target("p", "https://h/v1", "m")


def fail(kind: str, status: int, payload: Any, reply: Any) -> Failure:
    failure = WIRES[kind].decode(reply(payload, status), TARGET)
    assert isinstance(failure, Failure)
    return failure


def delta(content: str | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish}], **more}


def test_error_as_a_string(reply: Any) -> None:
    failure = fail("openai_chat", 503, {"error": "Server overloaded, please retry shortly"}, reply)
    assert (failure.kind, failure.message) == (Kind.OVERLOADED, "Server overloaded, please retry shortly")


@pytest.mark.parametrize(("code", "said"), [(400, "400"), ("a_code", "a_code"), (None, "a_type"), (..., "a_type")])
def test_error_code_is_int_str_null_or_absent(code: Any, said: str, reply: Any) -> None:
    error = {
        "message": "Bad.",
        **({} if code is ... else {"code": code}),
        **({} if code == 400 else {"type": "a_type"}),
    }
    failure = fail("openai_chat", 400, {"error": error}, reply)
    assert (failure.kind, failure.code, failure.message) == (Kind.BAD_REQUEST, said, "Bad.")


@pytest.mark.parametrize("detail", ["Invalid API Key", [{"loc": ["header"], "msg": "Invalid API Key"}]])
def test_fastapi_detail(detail: Any, reply: Any) -> None:
    assert fail("openai_chat", 401, {"detail": detail}, reply).message == "Invalid API Key"


def test_html_or_empty_error_bodies(reply: Any) -> None:
    page = b"<html>\r\n<head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
    failure = fail("openai_chat", 502, page, reply)
    assert (failure.kind, failure.message) == (Kind.TRANSIENT, "502 Bad Gateway")
    assert fail("openai_chat", 502, b"", reply).message == "HTTP 502 without a message"


def test_a_bad_key_is_400_at_gemini_and_xai(reply: Any) -> None:
    gemini = {
        "error": {
            "code": 400,
            "message": "API key not valid. Please pass a valid API key.",
            "status": "INVALID_ARGUMENT",
        }
    }
    xai = {"code": "Client specified an invalid argument", "error": "Incorrect API key provided: xa***."}
    assert fail("gemini", 400, gemini, reply).kind is Kind.CREDENTIAL
    assert fail("openai_chat", 400, xai, reply).kind is Kind.CREDENTIAL


def test_insufficient_quota_is_a_permanent_429(reply: Any) -> None:
    error = {"message": "You exceeded your current quota", "type": "insufficient_quota", "code": "insufficient_quota"}
    assert fail("openai_chat", 429, {"error": error}, reply).kind is Kind.QUOTA


@pytest.mark.parametrize(
    ("kind", "event"),
    [
        ("anthropic", ("error", {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})),
        ("openai_chat", delta("", "error", error={"code": 503, "message": "Provider returned error"})),
        ("gemini", {"error": {"code": 503, "status": "UNAVAILABLE", "message": "high demand"}}),
        ("openai_responses", {"type": "error", "error": {"code": "server_is_overloaded", "message": "Busy"}}),
        ("openai_responses", {"type": "error", "code": "slow_down", "message": "Busy", "param": None}),
        (
            "openai_responses",
            {"type": "response.failed", "response": {"error": {"code": "server_is_overloaded", "message": "Busy"}}},
        ),
    ],
)
def test_errors_inside_a_200_stream(kind: str, event: Any, read: Any, sse: Any) -> None:
    verdict = read(WIRES[kind], [sse(event)])[-1]
    assert isinstance(verdict, Broken)
    assert verdict.failure.kind is Kind.OVERLOADED


def test_crlf_framing_and_comment_lines(read: Any, sse: Any) -> None:
    stream = sse(delta("a"), delta("b", "stop"), done=True)
    odd = b": OPENROUTER PROCESSING\n\n" + stream.replace(b"\n\n", b"\n\n: keep-alive\n\n")
    assert read(WIRES["openai_chat"], [odd.replace(b"\n", b"\r\n")]) == read(WIRES["openai_chat"], [stream])


def test_streams_without_DONE(read: Any, sse: Any) -> None:
    assert isinstance(read(WIRES["openai_chat"], [sse(delta("a"), delta("", "stop"))])[-1], Ended)


def test_no_trailing_newline(read: Any, sse: Any) -> None:
    stream = sse(delta("a"), delta("", "stop"), done=True)
    assert isinstance(
        read(WIRES["openai_chat"], [stream.rstrip()])[-1], Ended
    )  # the finish was seen: DONE is not needed
    array = b'[{"candidates":[{"content":{"parts":[{"text":"a"}]},"finishReason":"STOP"}]}\n,\r\n{}]'
    assert isinstance(read(WIRES["gemini"], [array])[-1], Ended)  # without alt=sse it is one JSON array


def test_chunks_without_choices(read: Any, sse: Any) -> None:
    annotation = {"choices": [], "prompt_filter_results": [{"prompt_index": 0}]}
    events = read(
        WIRES["openai_chat"], [sse(annotation, delta("a"), annotation, delta("", "stop"), annotation, done=True)]
    )
    assert events[0] == TextDelta("a")
    assert events[-1].answer.finish is Finish.STOP


def test_tool_calls_with_finish_stop_without_an_id_and_beside_text(reply: Any) -> None:
    message = {"content": "Let me look.", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    openai = WIRES["openai_chat"].decode(reply({"choices": [{"message": message, "finish_reason": "stop"}]}), TARGET)
    parts = [{"text": "Let me look."}, {"functionCall": {"name": "f", "args": {}}}]
    gemini = WIRES["gemini"].decode(
        reply({"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]}), TARGET
    )
    for answer, word in ((openai, "stop"), (gemini, "STOP")):
        assert isinstance(answer, Answer)
        assert (answer.text, answer.finish, answer.raw_finish) == ("Let me look.", Finish.TOOL_CALLS, word)
        (call,) = answer.tool_calls
        assert (call.name, call.arguments) == ("f", {})
        assert call.id.startswith("call_")


@pytest.mark.parametrize(
    ("raw", "value"), [("", {}), ("true", True), ("7", 7), ("Infinity", float("inf")), ('["a"]', ["a"]), ('"a"', "a")]
)
def test_arguments_that_are_empty_or_no_object(raw: str, value: Any, reply: Any) -> None:
    message = {"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": raw}}]}
    answer = WIRES["openai_chat"].decode(
        reply({"choices": [{"message": message, "finish_reason": "tool_calls"}]}), TARGET
    )
    assert isinstance(answer, Answer)
    assert (answer.tool_calls[0].arguments, answer.tool_calls[0].raw_arguments) == (value, raw)


@pytest.mark.parametrize(
    ("chunks_", "usage"),
    [
        ([delta("a", "stop")], Usage()),  # absent
        (
            [delta("a", "stop"), {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}],
            Usage(3, 1),
        ),  # late
        (
            [delta("a", usage={"completion_tokens": 1}), delta("b", "stop", usage={"completion_tokens": 2})],
            Usage(None, 2),
        ),  # cumulative
        ([delta("a", usage={"prompt_tokens": 3}), delta("b", "stop", usage={"completion_tokens": 2})], Usage(3, 2)),
        ([delta("a", usage={"prompt_tokens": 3, "completion_tokens": -1}), delta("b", "stop", usage=None)], Usage(3)),
    ],
)
def test_usage_absent_late_or_cumulative(chunks_: list[Any], usage: Usage, read: Any, sse: Any) -> None:
    assert read(WIRES["openai_chat"], [sse(*chunks_, done=True)])[-1].answer.usage == usage


@pytest.mark.parametrize(
    "choice", [{"finish_reason": "content_filter"}, {"message": None, "finish_reason": "content_filter"}]
)
def test_message_null_on_a_content_filter(choice: dict[str, Any], reply: Any) -> None:
    answer = WIRES["openai_chat"].decode(reply({"choices": [choice]}), TARGET)
    assert isinstance(answer, Answer)
    assert (answer.parts, answer.finish) == ((), Finish.CONTENT_FILTER)


def test_S15_the_charset_header_is_not_believed() -> None:
    body = '{"choices":[{"message":{"content":"é"},"finish_reason":"stop"}]}'.encode()
    headers = {"content-type": "application/json; charset=iso-8859-1"}
    answer = WIRES["openai_chat"].decode(HttpReply(200, headers, body), TARGET)
    assert isinstance(answer, Answer)
    assert answer.text == "é"


def test_thinking_as_reasoning_items(reply: Any, read: Any, sse: Any) -> None:
    item = {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "Hm."}]}
    local = {**item, "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}], "encrypted_content": ""}
    for one in (item, local):
        response = {"status": "completed", "output": [one]}
        answer = WIRES["openai_responses"].decode(reply(response), TARGET)
        assert isinstance(answer, Answer)
        assert answer.thinking == "Hm."
        stream = sse({"type": "response.output_item.done", "item": one}, {"type": "response.completed", "response": {}})
        assert read(WIRES["openai_responses"], [stream])[-1].answer.thinking == "Hm."
