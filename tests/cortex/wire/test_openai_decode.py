"""OpenAI's dialect and its relatives: what is read from a whole reply."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cortex.messages import (
    Answer,
    Broken,
    Failure,
    Finish,
    Kind,
    Message,
    Request,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    Usage,
)
from cortex.wire import WIRES
from cortex.wire.codec import HttpCall, Target

WIRE = WIRES["openai_chat"]
TARGET = Target("openai", "https://api.openai.com/v1", "gpt-4o", api_key="sk-1")
HELLO = (Message("user", (Text("Hello"),)),)


def body_of(call: HttpCall) -> dict[str, Any]:
    return json.loads(call.body)


def tool(index: int | None, ident: str | None = None, name: str | None = None, arguments: Any = "") -> dict[str, Any]:
    function = {"arguments": arguments, **({"name": name} if name else {})}
    fragment = {"function": function, **({"id": ident} if ident else {})}
    return {"tool_calls": [{**fragment, **({"index": index} if index is not None else {})}]}


def test_a_plain_answer(reply: Any) -> None:
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    message = {"role": "assistant", "content": "Hi", "refusal": None}
    payload = {
        "id": "c",
        "model": "m-1",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": usage,
    }
    answer = WIRE.decode(reply(payload, x_request_id="req_1"), TARGET)
    assert answer == Answer((Text("Hi"),), Finish.STOP, "stop", Usage(10, 5, 4, 2), "m-1", "req_1")


@pytest.mark.parametrize(
    ("message", "raw", "finish"),
    [
        ({"content": "x"}, "stop", Finish.STOP),
        ({"content": "x"}, "eos", Finish.STOP),  # Together's
        ({"content": "x"}, "length", Finish.LENGTH),
        ({"content": "x"}, "content_filter", Finish.CONTENT_FILTER),
        (None, "content_filter", Finish.CONTENT_FILTER),  # Azure leaves the message out
        ({"content": None, "refusal": "No."}, "stop", Finish.REFUSAL),
        ({"content": "x"}, "a new word", Finish.OTHER),
        ({"content": "x"}, None, Finish.OTHER),
        ({"content": "x", **tool(0, "1", "f")}, "stop", Finish.TOOL_CALLS),
        ({"content": "x", **tool(0, "1", "f")}, "tool_calls", Finish.TOOL_CALLS),
        ({"content": "x", **tool(0, "1", "f")}, None, Finish.OTHER),
        ({"content": "x", **tool(0, "1", "f", "{}")}, None, Finish.TOOL_CALLS),
        ({"content": "x", **tool(0, "1", "f")}, "tool_use", Finish.TOOL_CALLS),  # of gateways to Anthropic
        ({"content": "x", **tool(0, "1", "f")}, "TOOL_CALLS", Finish.TOOL_CALLS),
        ({"content": "x", **tool(0, "1", "f")}, "length", Finish.LENGTH),
        ({"function_call": {"name": "f", "arguments": "{}"}}, "function_call", Finish.TOOL_CALLS),
        ({"content": "x"}, "tool_calls", Finish.STOP),
    ],
)
def test_finish_reasons(message: Any, raw: str | None, finish: Finish, reply: Any) -> None:
    answer = WIRE.decode(reply({"choices": [{"message": message, "finish_reason": raw}]}), TARGET)
    assert isinstance(answer, Answer)
    assert (answer.finish, answer.raw_finish) == (finish, raw)
    if message and message.get("refusal"):
        assert answer.text == "No."


def test_M1_nothing_said_and_no_reason_is_a_failure(reply: Any, read: Any, sse: Any) -> None:
    for content in (None, "", " \n"):
        failure = WIRE.decode(reply({"choices": [{"message": {"content": content}, "finish_reason": None}]}), TARGET)
        assert isinstance(failure, Failure)
        assert failure.kind is Kind.PROTOCOL
        chunk = {"choices": [{"delta": {"content": content}, "finish_reason": None}]}
        assert isinstance(read(WIRE, [sse(chunk, done=True)])[-1], Broken)


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        ("error", Kind.TRANSIENT),
        ("abort", Kind.TRANSIENT),
        ("insufficient_system_resource", Kind.OVERLOADED),
    ],
)
def test_a_reason_that_tells_of_a_failure_is_one(raw: str, kind: Kind, reply: Any) -> None:
    failure = WIRE.decode(reply({"choices": [{"message": {"content": "Hel"}, "finish_reason": raw}]}), TARGET)
    assert isinstance(failure, Failure)
    assert failure.kind is kind


def test_J5_no_choices_is_a_failure(reply: Any) -> None:
    for payload in ({"choices": []}, {"choices": None}, {"choices": {}}, {"id": "x"}):
        failure = WIRE.decode(reply(payload), TARGET)
        assert isinstance(failure, Failure)
        assert failure.kind is Kind.PROTOCOL


def test_an_error_inside_a_200(reply: Any) -> None:
    failure = WIRE.decode(reply({"error": {"message": "Rate limited", "code": 429}}), TARGET)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.status, failure.message) == (Kind.RATE_LIMIT, 200, "Rate limited")


@pytest.mark.parametrize(
    ("raw", "arguments"), [("", {}), ("{}", {}), ("true", True), ("7", 7), ('{"a": [1]}', {"a": [1]}), ('{"a', None)]
)
def test_arguments_are_what_their_text_says(raw: str, arguments: Any, reply: Any) -> None:
    payload = {"choices": [{"message": tool(0, "c1", "f", raw), "finish_reason": "tool_calls"}]}
    answer = WIRE.decode(reply(payload), TARGET)
    assert isinstance(answer, Answer)
    assert answer.tool_calls == (ToolCall("c1", "f", arguments, raw),)


def test_a_call_without_an_id_gets_one_that_is_always_the_same(reply: Any) -> None:
    message = {
        "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}, {"function": {"name": "f", "arguments": "{}"}}]
    }
    payload = {"id": "r1", "choices": [{"message": message, "finish_reason": "tool_calls"}]}
    first, again = WIRE.decode(reply(payload), TARGET), WIRE.decode(reply(payload), TARGET)
    other = WIRE.decode(reply({**payload, "id": "r2"}), TARGET)
    assert isinstance(first, Answer)
    assert isinstance(other, Answer)
    assert first == again
    ids = [call.id for call in (*first.tool_calls, *other.tool_calls)]
    assert len(set(ids)) == 4
    assert all(ids)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, Usage()),
        ({"prompt_tokens": -1, "completion_tokens": "7"}, Usage()),
        ({"prompt_tokens": 1, "completion_tokens": 2, "prompt_tokens_details": None}, Usage(1, 2)),
        ({"prompt_tokens": 9, "completion_tokens": 2, "prompt_cache_hit_tokens": 5}, Usage(9, 2, 5)),
        (  # xAI counts its reasoning beside the answer
            {
                "prompt_tokens": 5,
                "completion_tokens": 2,
                "total_tokens": 10,
                "completion_tokens_details": {"reasoning_tokens": 3},
            },
            Usage(5, 5, None, 3),
        ),
    ],
)
def test_J7_usage(usage: Any, expected: Usage, reply: Any) -> None:
    answer = WIRE.decode(
        reply({"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}], "usage": usage}), TARGET
    )
    assert isinstance(answer, Answer)
    assert answer.usage == expected


def test_a_signature_that_comes_with_a_call_goes_back_with_it(reply: Any) -> None:
    extra = {"google": {"thought_signature": "abc"}}
    message = {"tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": "{}"}, "extra_content": extra}]}
    answer = WIRE.decode(reply({"choices": [{"message": message, "finish_reason": "stop"}]}), TARGET)
    assert isinstance(answer, Answer)
    history = (*HELLO, Message("assistant", answer.parts), Message("tool", (ToolResult("c1", "f", "1"),)))
    assert body_of(WIRE.encode(Request(history), TARGET))["messages"][1]["tool_calls"][0]["extra_content"] == extra
    elsewhere = WIRE.encode(Request(history), Target("other", "https://h/v1", "gpt-4o"))
    assert b"thought_signature" not in elsewhere.body
    assert elsewhere.notes == ("a tool call's signature of another issuer was left out",)


DETAILS = [
    {"type": "reasoning.text", "text": "First.", "signature": "s1", "format": "anthropic-claude-v1", "index": 0},
    {"type": "reasoning.encrypted", "data": "e1", "id": "c1", "format": "google-gemini-v1", "index": 0},
    {"type": "reasoning.encrypted", "data": "e2", "id": None, "format": "google-gemini-v1", "index": 0},
    {"type": "reasoning.new", "text": None, "index": 1, "a member of tomorrow": {"x": [1]}},
]


@pytest.mark.parametrize("content", [None, "Well."])
@pytest.mark.parametrize("details", [DETAILS, DETAILS[1:2], DETAILS[3:], [DETAILS[0], DETAILS[0]]])
def test_reasoning_details_go_back_as_they_came_to_the_one_that_wrote_them(
    details: list[dict[str, Any]], content: str | None, reply: Any
) -> None:
    """Gemini 3 answers 400 without them: https://openrouter.ai/docs/guides/best-practices/reasoning-tokens"""
    call = {"id": "c1", "function": {"name": "f", "arguments": "{}"}}
    message = {"content": content, "reasoning": "First.", "reasoning_details": details, "tool_calls": [call]}
    answer = WIRE.decode(reply({"choices": [{"message": message, "finish_reason": "tool_calls"}]}), TARGET)
    assert isinstance(answer, Answer)
    assert answer.thinking == "First."
    assert isinstance(answer.parts[0], Thinking)
    history = (*HELLO, Message("assistant", answer.parts), Message("tool", (ToolResult("c1", "f", "1"),)))
    sent = WIRE.encode(Request(history), TARGET)
    assert body_of(sent)["messages"][1]["reasoning_details"] == details
    assert sent.notes == ()
    elsewhere = WIRE.encode(Request(history), Target("other", "https://h/v1", "gpt-4o"))
    assert b"reasoning" not in elsewhere.body
    assert elsewhere.notes == ("thinking of another issuer was left out",)


@pytest.mark.parametrize("details", [None, "x", 7, [], [None, 7, "x", [], {}], {"type": "x"}])
def test_reasoning_details_that_hold_nothing_are_none(details: Any, reply: Any) -> None:
    message = {"content": "Hi", "reasoning_details": details}
    answer = WIRE.decode(reply({"choices": [{"message": message, "finish_reason": "stop"}]}), TARGET)
    assert isinstance(answer, Answer)
    assert answer.parts == (Text("Hi"),)
