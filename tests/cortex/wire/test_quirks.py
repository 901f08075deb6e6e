"""Oddities that real services were seen with, each by its name."""

from __future__ import annotations

from typing import Any

import pytest

from cortex.messages import Answer, Broken, Ended, Failure, Finish, Kind, TextDelta, Thinking, Usage
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


OVERLOAD = {"code": "server_is_overloaded", "message": "Busy"}
SAYS = {"type": "response.output_text.delta", "output_index": 0, "item_id": "i", "content_index": 0, "delta": "Hel"}
SAYS_ANTHROPIC = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hel"}}


@pytest.mark.parametrize(
    ("kind", "before", "event"),
    [
        pytest.param(
            "anthropic",
            SAYS_ANTHROPIC,
            ("error", {"type": "error", "error": {"type": "overloaded_error", "message": "Busy"}}),
            id="anthropic event: error",
        ),
        pytest.param(
            "openai_chat",
            delta("Hel"),
            delta("", "error", error={"code": 503, "message": "Busy"}),
            id="openrouter chunk with error",
        ),
        pytest.param(
            "gemini",
            {"candidates": [{"content": {"parts": [{"text": "Hel"}]}}]},
            {"error": {"code": 503, "status": "UNAVAILABLE", "message": "Busy"}},
            id="gemini error",
        ),
        pytest.param("openai_responses", SAYS, {"type": "error", "error": OVERLOAD}, id="responses error, nested"),
        pytest.param("openai_responses", SAYS, ("error", {"type": "error", **OVERLOAD, "param": None}), id="... flat"),
        pytest.param(
            "openai_responses",
            SAYS,
            {"type": "response.failed", "response": {"status": "failed", "error": OVERLOAD, "output": []}},
            id="response.failed",
        ),
    ],
)
def test_errors_inside_a_200_stream(kind: str, before: Any, event: Any, read: Any, sse: Any) -> None:
    """At its beginning and after a part of the answer; what would end the answer well comes too late."""
    end = {
        "anthropic": {"type": "message_stop"},
        "openai_chat": delta("", "stop"),
        "gemini": {"candidates": [{"finishReason": "STOP"}]},
        "openai_responses": {"type": "response.completed", "response": {"status": "completed"}},
    }[kind]
    for head in ((), (before,)):
        *shown, verdict = read(WIRES[kind], [sse(*head, event, end)])
        assert [one.text for one in shown if isinstance(one, TextDelta)] == ["Hel"] * len(head)
        assert isinstance(verdict, Broken)
        assert (verdict.failure.kind, verdict.failure.message) == (Kind.OVERLOADED, "Busy")


def test_crlf_framing(read: Any, sse: Any) -> None:
    stream = sse(delta("a"), delta("b", "stop"), done=True)
    assert read(WIRES["openai_chat"], [stream.replace(b"\n", b"\r\n")]) == read(WIRES["openai_chat"], [stream])


def test_comment_lines(read: Any, sse: Any) -> None:
    stream = sse(delta("a"), delta("b", "stop"), done=True)
    odd = b": OPENROUTER PROCESSING\n\n" + stream.replace(b"\n\n", b"\n\n: keep-alive\n\n")
    assert read(WIRES["openai_chat"], [odd]) == read(WIRES["openai_chat"], [stream])


def test_streams_without_DONE(read: Any, sse: Any) -> None:
    assert isinstance(read(WIRES["openai_chat"], [sse(delta("a"), delta("", "stop"))])[-1], Ended)


def test_no_trailing_newline(read: Any, sse: Any) -> None:
    stream = sse(delta("a"), delta("", "stop"), done=True)
    assert isinstance(read(WIRES["openai_chat"], [stream.rstrip()])[-1], Ended)  # the finish was seen


ARRAY = b'[{"candidates":[{"content":{"parts":[{"text":"a"}]}}]}\n,\r\n{"candidates":[{"finishReason":"STOP"}]}]'


def test_streamGenerateContent_without_alt_sse_is_one_JSON_array(read: Any) -> None:
    events = read(WIRES["gemini"], [ARRAY[i : i + 1] for i in range(len(ARRAY))])
    assert (events[0], events[-1].answer.finish) == (TextDelta("a"), Finish.STOP)
    assert isinstance(read(WIRES["gemini"], [ARRAY[:-1]])[-1], Broken)


def test_chunks_without_choices(read: Any, sse: Any) -> None:
    annotation = {"choices": [], "prompt_filter_results": [{"prompt_index": 0}]}
    events = read(
        WIRES["openai_chat"], [sse(annotation, delta("a"), annotation, delta("", "stop"), annotation, done=True)]
    )
    assert events[0] == TextDelta("a")
    assert events[-1].answer.finish is Finish.STOP


def calling(kind: str, reply: Any, **call: Any) -> Answer:
    """An answer with a text and one call, finished as if there were none."""
    if kind == "gemini":
        parts = [{"text": "Let me look."}, {"functionCall": {"name": "f", "args": {}, **call}}]
        payload: Any = {"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]}
    else:
        message = {"content": "Let me look.", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}, **call}]}
        payload = {"choices": [{"message": message, "finish_reason": "stop"}]}
    answer = WIRES[kind].decode(reply(payload), TARGET)
    assert isinstance(answer, Answer)
    return answer


@pytest.mark.parametrize(("kind", "word"), [("openai_chat", "stop"), ("gemini", "STOP")])
def test_tool_calls_with_finish_stop(kind: str, word: str, reply: Any) -> None:
    answer = calling(kind, reply, id="c1")
    assert (answer.finish, answer.raw_finish) == (Finish.TOOL_CALLS, word)
    assert answer.tool_calls[0].id == "c1"


@pytest.mark.parametrize("ident", [{}, {"id": None}, {"id": ""}])
@pytest.mark.parametrize("kind", ["openai_chat", "gemini"])
def test_tool_calls_without_an_id(kind: str, ident: dict[str, Any], reply: Any) -> None:
    (call,) = calling(kind, reply, **ident).tool_calls
    assert call.id.startswith("call_")
    assert calling(kind, reply, **ident).tool_calls[0].id == call.id


@pytest.mark.parametrize("kind", ["openai_chat", "gemini"])
def test_text_and_tool_calls_in_one_answer(kind: str, reply: Any) -> None:
    answer = calling(kind, reply)
    assert answer.text == "Let me look."
    assert [(call.name, call.arguments) for call in answer.tool_calls] == [("f", {})]


@pytest.mark.parametrize(
    ("raw", "value"), [("", {}), ("true", True), ("7", 7), ("Infinity", float("inf")), ('["a"]', ["a"]), ('"a"', "a")]
)
@pytest.mark.parametrize("kind", ["openai_chat", "openai_responses"])
def test_arguments_that_are_empty_or_no_object(kind: str, raw: str, value: Any, reply: Any) -> None:
    function = {"name": "f", "arguments": raw}
    message = {"tool_calls": [{"id": "c", "function": function}]}
    item = {"type": "function_call", "id": "fc", "call_id": "c", **function}
    payload = {
        "openai_chat": {"choices": [{"message": message, "finish_reason": "tool_calls"}]},
        "openai_responses": {"status": "completed", "output": [item]},
    }[kind]
    answer = WIRES[kind].decode(reply(payload), TARGET)
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


def test_usage_overridden_by_message_delta(read: Any, sse: Any) -> None:
    start = {"type": "message_start", "message": {"usage": {"input_tokens": 0, "output_tokens": 1}}}
    counts = {"input_tokens": 9, "output_tokens": 4}
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": counts}
    stream = sse(start, SAYS_ANTHROPIC, end, {"type": "message_stop"})
    assert read(WIRES["anthropic"], [stream])[-1].answer.usage == Usage(9, 4)


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


@pytest.mark.parametrize(
    "thought",
    [
        pytest.param({"reasoning_content": "Hm."}, id="reasoning_content"),
        pytest.param({"reasoning": "Hm."}, id="reasoning"),
        pytest.param({"reasoning_content": "Hm.", "reasoning": "Hm."}, id="both"),
        pytest.param(
            {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}]}, id="a list of parts"
        ),
    ],
)
def test_thinking_as_a_field_or_a_list_of_parts(thought: dict[str, Any], reply: Any, read: Any, sse: Any) -> None:
    wire = WIRES["openai_chat"]
    whole = wire.decode(
        reply({"choices": [{"message": {"content": "Hi.", **thought}, "finish_reason": "stop"}]}), TARGET
    )
    streamed = read(wire, [sse({"choices": [{"delta": thought}]}, delta("Hi."), delta("", "stop"))])[-1].answer
    assert isinstance(whole, Answer)
    assert (whole.thinking, streamed.thinking, streamed.text) == ("Hm.", "Hm.", "Hi.")


def test_thinking_blocks_with_signatures(reply: Any, read: Any, sse: Any) -> None:
    block = {"type": "thinking", "thinking": "Hm.", "signature": "sig"}
    pieces = [
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "thinking", "thinking": "", "signature": ""},
        },
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "Hm."}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "sig"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
        {"type": "message_stop"},
    ]
    whole = WIRES["anthropic"].decode(reply({"content": [block], "stop_reason": "end_turn"}), TARGET)
    assert isinstance(whole, Answer)
    assert whole.parts == (Thinking("Hm.", "sig", TARGET.issuer),)
    assert read(WIRES["anthropic"], [sse(*pieces)])[-1].answer.parts == whole.parts


def test_thinking_as_parts_with_thought_true(reply: Any, read: Any, sse: Any) -> None:
    parts = [{"text": "Hm.", "thought": True, "thoughtSignature": "sig"}, {"text": "Hi."}]
    payload = {"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]}
    whole = WIRES["gemini"].decode(reply(payload), TARGET)
    assert isinstance(whole, Answer)
    assert (whole.thinking, whole.text) == ("Hm.", "Hi.")
    assert whole.parts[0] == Thinking("Hm.", "sig", TARGET.issuer)
    assert read(WIRES["gemini"], [sse(payload)])[-1].answer == whole


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
