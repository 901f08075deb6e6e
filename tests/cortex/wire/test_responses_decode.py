"""OpenAI's Responses dialect: what is read from a whole reply, and how it goes back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cortex.messages import Answer, Failure, Finish, Issuer, Kind, Message, Request, Text, Thinking, ToolCall, Usage
from cortex.wire import WIRES
from cortex.wire.codec import Target

WIRE = WIRES["openai_responses"]
TARGET = Target("openai", "https://api.openai.com/v1", "gpt-5", api_key="sk-1")
ME = Issuer("openai", "gpt-5")


def said(*texts: str, **more: Any) -> dict[str, Any]:
    parts = [{"type": "output_text", "text": text, "annotations": []} for text in texts]
    return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": parts, **more}


def calls(ident: str = "call_1", arguments: Any = "{}", name: str = "f", **more: Any) -> dict[str, Any]:
    own = {"id": f"fc_{ident}", "call_id": ident, "name": name, "arguments": arguments}
    return {"type": "function_call", **own, **more}


def reasons(*summary: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [{"type": "summary_text", "text": t} for t in summary],
        **more,
    }


def response(*output: dict[str, Any], status: str | None = "completed", **more: Any) -> dict[str, Any]:
    return {"id": "resp_1", "object": "response", "model": "m-1", "status": status, "output": list(output), **more}


def test_a_plain_answer(reply: Any) -> None:
    usage = {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 15,
    }
    answer = WIRE.decode(reply(response(said("Hi"), usage=usage, error=None), x_request_id="req_1"), TARGET)
    assert answer == Answer((Text("Hi"),), Finish.STOP, "completed", Usage(10, 5, 4, 2), "m-1", "req_1")


REFUSAL = {"content": [{"type": "refusal", "refusal": "No."}]}


@pytest.mark.parametrize(
    ("output", "status", "reason", "finish", "raw"),
    [
        ([said("x")], "completed", None, Finish.STOP, "completed"),
        ([said("x"), calls()], "completed", None, Finish.TOOL_CALLS, "completed"),
        ([said(**REFUSAL)], "completed", None, Finish.REFUSAL, "completed"),
        ([], "completed", None, Finish.STOP, "completed"),
        ([said("x")], "incomplete", "max_output_tokens", Finish.LENGTH, "incomplete:max_output_tokens"),
        ([calls()], "incomplete", "max_output_tokens", Finish.LENGTH, "incomplete:max_output_tokens"),
        ([said("x")], "incomplete", "content_filter", Finish.CONTENT_FILTER, "incomplete:content_filter"),
        ([said(**REFUSAL)], "incomplete", "content_filter", Finish.CONTENT_FILTER, "incomplete:content_filter"),
        ([said("x")], "incomplete", "steered", Finish.OTHER, "incomplete:steered"),
        ([said("x")], "incomplete", None, Finish.OTHER, "incomplete"),
        ([said("x")], None, None, Finish.OTHER, None),
    ],
)
def test_why_it_ended(output: Any, status: str, reason: str | None, finish: Finish, raw: str, reply: Any) -> None:
    details = {"reason": reason} if reason else None
    answer = WIRE.decode(reply(response(*output, status=status, incomplete_details=details)), TARGET)
    assert isinstance(answer, Answer)
    assert (answer.finish, answer.raw_finish) == (finish, raw)


@pytest.mark.parametrize("status", ["in_progress", "queued", "a new word", None])
def test_what_is_not_finished_is_no_answer(status: str | None, reply: Any) -> None:
    failure = WIRE.decode(reply(response(*([said("x")] if status else []), status=status)), TARGET)
    assert isinstance(failure, Failure)
    assert failure.kind is Kind.PROTOCOL


def test_a_refusal_is_shown(reply: Any) -> None:
    answer = WIRE.decode(reply(response(said(**REFUSAL))), TARGET)
    assert isinstance(answer, Answer)
    assert answer.text == "No."


def test_tool_calls_have_the_id_that_results_name(reply: Any) -> None:
    output = [calls("call_1", '{"a": 1}'), calls("call_2", "", "g"), calls("call_3", "[", "h"), calls("", '{"b": 2}')]
    answer = WIRE.decode(reply(response(*output)), TARGET)
    assert isinstance(answer, Answer)
    assert answer.parts == (
        ToolCall("call_1", "f", {"a": 1}, '{"a": 1}'),
        ToolCall("call_2", "g", {}, ""),
        ToolCall("call_3", "h", None, "["),
        ToolCall("fc_", "f", {"b": 2}, '{"b": 2}'),  # where there is no call_id, the item's own
    )


def test_arguments_as_an_object_and_a_custom_tools_free_text(reply: Any) -> None:
    custom = {"type": "custom_tool_call", "call_id": "c", "name": "sql", "input": "SELECT 1"}
    answer = WIRE.decode(reply(response(calls(arguments={"a": 1}), custom)), TARGET)
    assert isinstance(answer, Answer)
    assert [(call.arguments, call.raw_arguments) for call in answer.tool_calls] == [
        ({"a": 1}, '{"a":1}'),
        (None, "SELECT 1"),
    ]


def test_reasoning_is_told_once_as_a_summary_or_in_full(reply: Any) -> None:
    full = [{"type": "reasoning_text", "text": "All of it."}]
    for item, text in ((reasons("A.", "B."), "A.\n\nB."), (reasons(content=full), "All of it."), (reasons(), "")):
        answer = WIRE.decode(reply(response(item, said("x"))), TARGET)
        assert isinstance(answer, Answer)
        assert (answer.thinking, answer.text) == (text, "x")
    both = WIRE.decode(reply(response(reasons("Short.", content=full), said("x"))), TARGET)
    assert isinstance(both, Answer)
    assert both.thinking == "Short."


def test_encrypted_reasoning_comes_back_as_the_items_it_came_in(reply: Any) -> None:
    one = reasons("A.", "B.", encrypted_content="x1", status="completed", content=[])
    two = {**reasons(encrypted_content="x2"), "id": "rs_2"}
    answer = WIRE.decode(reply(response(one, two, calls())), TARGET)
    assert isinstance(answer, Answer)
    thoughts = [part for part in answer.parts if isinstance(part, Thinking)]
    assert [(part.text, part.issuer) for part in thoughts] == [("A.\n\nB.", ME), ("", ME)]
    assert "x1" not in repr(answer)
    sent = json.loads(WIRE.encode(Request((Message("assistant", answer.parts),)), TARGET).body)["input"]
    assert sent[:2] == [
        {key: one[key] for key in ("type", "id", "encrypted_content", "summary")},
        {key: two[key] for key in ("type", "id", "encrypted_content", "summary")},
    ]
    elsewhere = WIRE.encode(Request((Message("assistant", answer.parts),)), Target("azure", "https://h/v1", "gpt-5"))
    assert b"x1" not in elsewhere.body
    assert elsewhere.notes[0] == "thinking of another issuer was left out"


def test_an_empty_encrypted_content_is_none(reply: Any) -> None:
    answer = WIRE.decode(reply(response(reasons("A.", encrypted_content=""), said("x"))), TARGET)
    assert isinstance(answer, Answer)
    assert answer.parts[0] == Thinking("A.", None, ME)


def test_a_servers_own_tools_are_passed_over(reply: Any) -> None:
    search = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"query": "x"}}
    approval = {"type": "mcp_approval_request", "id": "m", "name": "f", "arguments": "{}"}
    answer = WIRE.decode(reply(response(search, said("It ", "is."), approval)), TARGET)
    assert isinstance(answer, Answer)
    assert (answer.parts, answer.finish) == ((Text("It is."),), Finish.STOP)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"code": "rate_limit_exceeded", "message": "Slow."}, Kind.RATE_LIMIT),
        ({"code": "server_error", "message": "Oh."}, Kind.TRANSIENT),
        ({"code": "server_is_overloaded", "message": "Busy."}, Kind.OVERLOADED),
        ({"code": "insufficient_quota", "message": "Pay."}, Kind.QUOTA),
        ({"code": "invalid_prompt", "message": "Flagged."}, Kind.CONTENT),
        ({"code": "bio_policy", "message": "No."}, Kind.CONTENT),
        ({"code": "data_residency_mismatch", "message": "No."}, Kind.REGION),
        (None, Kind.TRANSIENT),
    ],
)
def test_a_failed_response_is_a_failure_whatever_it_had_said(error: Any, kind: Kind, reply: Any) -> None:
    usage = {"input_tokens": 3, "output_tokens": 1}
    failure = WIRE.decode(reply(response(said("x"), status="failed", error=error, usage=usage)), TARGET)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.status, failure.usage) == (kind, 200, Usage(3, 1))
    assert failure.code == (error["code"] if error else None)
    assert failure.message == (error["message"] if error else "the response failed")


def test_a_cancelled_response_is_a_failure(reply: Any) -> None:
    failure = WIRE.decode(reply(response(said("x"), status="cancelled")), TARGET)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.code) == (Kind.TRANSIENT, "cancelled")


@pytest.mark.parametrize(
    "payload", [{}, [], None, 7, {"output": None}, {"choices": []}, {"object": "response", "output": "x"}]
)
def test_what_is_no_response(payload: Any, reply: Any) -> None:
    failure = WIRE.decode(reply(payload), TARGET)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.message) == (Kind.PROTOCOL, "the reply has no output")


@pytest.mark.parametrize(
    "payload", [{"error": {"message": "Slow.", "code": 429}}, {"object": "error", "message": "Slow.", "code": 429}]
)
def test_an_error_under_status_200(payload: Any, reply: Any) -> None:
    failure = WIRE.decode(reply(payload), TARGET)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.message) == (Kind.RATE_LIMIT, "Slow.")


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Item 'rs_1' of type 'reasoning' was provided without its required following item.", Kind.SIGNATURE),
        (
            "Item 'fc_1' of type 'function_call' was provided without its required 'reasoning' item: 'rs_1'.",
            Kind.SIGNATURE,
        ),
        ("No tool output found for function call call_1.", Kind.BAD_REQUEST),
        ("Encrypted content is not supported with this model.", Kind.BAD_REQUEST),
    ],
)
def test_reasoning_that_cannot_stand_where_it_stands(message: str, kind: Kind, reply: Any) -> None:
    error = {"message": message, "type": "invalid_request_error", "param": "input", "code": None}
    failure = WIRE.decode(reply({"error": error}, 400), TARGET)
    assert isinstance(failure, Failure)
    assert failure.kind is kind
