"""Anthropic's dialect: what is read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cortex.messages import (
    Answer,
    Ended,
    Failure,
    Finish,
    Kind,
    Message,
    Progress,
    Request,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolCall,
    ToolCallReady,
    ToolResult,
    Usage,
)
from cortex.wire import WIRES
from cortex.wire.codec import HttpCall, Target

WIRE = WIRES["anthropic"]
TARGET = Target("anthropic", "https://api.anthropic.com", "claude-sonnet-4-5", api_key="sk-ant-1")
HELLO = (Message("user", (Text("Hello"),)),)


def body_of(call: HttpCall) -> dict[str, Any]:
    return json.loads(call.body)


def test_a_whole_answer(reply: Any) -> None:
    payload = {
        "type": "message",
        "id": "msg_1",
        "model": "claude-x",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s1"},
            {"type": "thinking", "thinking": "", "signature": "s2"},
            {"type": "redacted_thinking", "data": "xyz"},
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"q": "x"}},
            {"type": "text", "text": "Hi "},
            {"type": "text", "text": "there"},
            {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
        ],
        "stop_reason": "tool_use",
        "usage": {
            "input_tokens": 3,
            "cache_read_input_tokens": 20,
            "cache_creation_input_tokens": 7,
            "output_tokens": 9,
        },
    }
    answer = WIRE.decode(reply(payload, request_id="req_1"), TARGET)
    own = TARGET.issuer
    assert answer == Answer(
        (
            Thinking("hm", "s1", own),
            Thinking("", "s2", own),
            Thinking("", "redacted:xyz", own),
            Text("Hi there"),
            ToolCall("t1", "f", {"a": 1}, '{"a":1}'),
        ),
        Finish.TOOL_CALLS,
        "tool_use",
        Usage(30, 9, 20, cache_written_tokens=7),
        "claude-x",
        "req_1",
    )
    assert isinstance(answer, Answer)
    again = WIRE.encode(
        Request((*HELLO, Message("assistant", answer.parts), Message("tool", (ToolResult("t1", "f", "1"),)))), TARGET
    )
    assert [block["type"] for block in body_of(again)["messages"][1]["content"]] == [
        "thinking",
        "thinking",
        "redacted_thinking",
        "text",
        "tool_use",
    ]


@pytest.mark.parametrize(
    ("raw", "finish"),
    [
        ("end_turn", Finish.STOP), ("stop_sequence", Finish.STOP), ("max_tokens", Finish.LENGTH),
        ("model_context_window_exceeded", Finish.LENGTH), ("refusal", Finish.REFUSAL), ("pause_turn", Finish.OTHER),
    ],
)  # fmt: skip
def test_M3_stop_reasons(raw: str, finish: Finish, reply: Any) -> None:
    answer = WIRE.decode(reply({"type": "message", "content": [], "stop_reason": raw}), TARGET)
    assert isinstance(answer, Answer)
    assert (answer.finish, answer.raw_finish) == (finish, raw)


def test_an_empty_answer_without_a_reason_and_an_error_in_a_200_are_failures(reply: Any) -> None:
    empty = WIRE.decode(reply({"type": "message", "content": [{"type": "text", "text": " "}]}), TARGET)
    error = WIRE.decode(reply({"type": "error", "error": {"type": "overloaded_error", "message": "x"}}), TARGET)
    assert isinstance(empty, Failure)
    assert isinstance(error, Failure)
    assert (empty.kind, error.kind) == (Kind.PROTOCOL, Kind.OVERLOADED)


START = (
    "message_start",
    {"type": "message_start", "message": {"id": "m", "model": "c", "usage": {"input_tokens": 5, "output_tokens": 1}}},
)
STOP = ("message_stop", {"type": "message_stop"})


def begin(index: int, kind: str, **more: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": {"type": kind, **more}}


def delta(index: int, kind: str, **more: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **more}}


def end(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def last(reason: str, **usage: int) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage}


def test_a_stream(read: Any, sse: Any) -> None:
    stream = sse(
        START,
        ("ping", {"type": "ping"}),
        begin(0, "thinking", thinking=""),
        delta(0, "thinking_delta", thinking="hm"),
        delta(0, "signature_delta", signature="sig"),
        end(0),
        begin(1, "text", text=""),
        delta(1, "text_delta", text="Hi"),
        end(1),
        begin(2, "tool_use", id="t1", name="f", input={}),
        delta(2, "input_json_delta", partial_json=""),
        delta(2, "input_json_delta", partial_json='{"a": 1}'),
        end(2),
        last("tool_use", output_tokens=9),
        STOP,
    )
    call = ToolCall("t1", "f", {"a": 1}, '{"a": 1}')
    own = TARGET.issuer
    assert read(WIRE, [stream], TARGET) == [
        ThinkingDelta("hm"),
        Progress(),
        TextDelta("Hi"),
        Progress(),
        Progress(),
        ToolCallReady(call),
        Ended(Answer((Thinking("hm", "sig", own), Text("Hi"), call), Finish.TOOL_CALLS, "tool_use", Usage(5, 9), "c")),
    ]


def test_a_call_without_arguments_is_ready_at_the_end_unless_the_limit_cut_it_off(read: Any, sse: Any) -> None:
    block = (begin(0, "tool_use", id="t1", name="f", input={}), end(0))
    events = read(WIRE, [sse(START, *block, last("tool_use"), STOP)])
    assert ToolCallReady(ToolCall("t1", "f", {}, "")) in events
    events = read(WIRE, [sse(START, *block, last("max_tokens"), STOP)])
    assert not [event for event in events if isinstance(event, ToolCallReady)]
    assert events[-1].answer.tool_calls[0].arguments is None


def test_usage_is_overridden_by_message_delta_field_by_field(read: Any, sse: Any) -> None:
    start = {
        "type": "message_start",
        "message": {"usage": {"input_tokens": 100, "cache_read_input_tokens": 55, "output_tokens": 1}},
    }
    delta_ = last("end_turn", input_tokens=181, cache_read_input_tokens=0, output_tokens=8)
    events = read(WIRE, [sse(start, begin(0, "text", text="x"), delta_, STOP)])
    assert events[-1].answer.usage == Usage(181, 8, 0)
    events = read(WIRE, [sse(start, begin(0, "text", text="x"), last("end_turn", output_tokens=8), STOP)])
    assert events[-1].answer.usage == Usage(155, 8, 55)


def test_the_end_is_message_stop_alone(read: Any, sse: Any) -> None:
    whole = sse(START, begin(0, "text", text="x"), end(0), last("end_turn", output_tokens=3), STOP)
    without = whole[: whole.index(b"event: message_stop")]
    events = read(WIRE, [without])
    assert (events[-1].failure.kind, events[-1].failure.usage) == (Kind.CUT, Usage(5, 3))
    assert read(WIRE, [whole[:-1]])[-1].failure.kind is Kind.CUT
    assert isinstance(read(WIRE, [whole])[-1], Ended)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"type": "overloaded_error", "message": "Overloaded"}, Kind.OVERLOADED),
        ({"type": "api_error", "message": "x"}, Kind.TRANSIENT),
        ({"type": "rate_limit_error", "message": "x"}, Kind.RATE_LIMIT),
        ({"type": "invalid_request_error", "message": "x"}, Kind.BAD_REQUEST),
        ({"type": "timeout_error", "message": "x"}, Kind.TIMEOUT_FIRST),
        ({"type": "a_new_error", "message": "x"}, Kind.TRANSIENT),
    ],
)
def test_S7_errors_inside_a_stream(error: Any, kind: Kind, read: Any, sse: Any) -> None:
    event = ("error", {"type": "error", "error": error})
    for before in ((), (START, begin(0, "text", text="x"))):
        assert read(WIRE, [sse(*before, event, STOP)])[-1].failure.kind is kind


def test_J4_what_is_not_known_is_passed_over(read: Any, sse: Any) -> None:
    odd = [
        {"type": "a_new_event"},
        begin(5, "a_new_block"),
        delta(5, "a_new_delta"),
        delta(9, "input_json_delta", partial_json="{"),
    ]
    events = read(WIRE, [sse(START, *odd, {"type": ["x"]}, begin(0, "text", text="x"), last("new_word"), STOP)])
    assert (events[-1].answer.text, events[-1].answer.finish) == ("x", Finish.OTHER)
