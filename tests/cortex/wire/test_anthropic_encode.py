"""Anthropic's dialect: what is sent."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cortex.messages import (
    Answer,
    Finish,
    Image,
    Issuer,
    Message,
    OutputSchema,
    Request,
    Text,
    TextDelta,
    Thinking,
    ToolCall,
    ToolResult,
    ToolSpec,
)
from cortex.wire import WIRES
from cortex.wire.codec import HttpCall, Target

WIRE = WIRES["anthropic"]
TARGET = Target("anthropic", "https://api.anthropic.com", "claude-sonnet-4-5", api_key="sk-ant-1")
HELLO = (Message("user", (Text("Hello"),)),)
SPEC = ToolSpec("f", "does f", {"type": "object"})
OUTPUT = OutputSchema("my_answer", {"type": "object", "properties": {"a": {"type": "integer"}}})


def body_of(call: HttpCall) -> dict[str, Any]:
    return json.loads(call.body)


def target(model: str = "claude-sonnet-4-5", **options: Any) -> Target:
    return Target("anthropic", "https://api.anthropic.com", model, options=options)


def test_a_plain_request() -> None:
    call = WIRE.encode(Request(HELLO, system="Be kind."), TARGET)
    assert (call.method, call.url) == ("POST", "https://api.anthropic.com/v1/messages")
    headers = dict(call.headers)
    assert (headers["x-api-key"], headers["anthropic-version"]) == ("sk-ant-1", "2023-06-01")
    assert body_of(call) == {
        "model": "claude-sonnet-4-5",
        "max_tokens": 32_000,
        "system": "Be kind.",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
    }


def test_addresses_and_version() -> None:
    v1 = Target("p", "https://gw/v1", "m", "k", {}, {"version": "2099-01-01"})
    assert WIRE.encode(Request(HELLO), v1).url == "https://gw/v1/messages"
    assert dict(WIRE.encode(Request(HELLO), v1).headers)["anthropic-version"] == "2099-01-01"
    probe = WIRE.probe(TARGET)
    assert (probe.method, probe.url) == ("GET", "https://api.anthropic.com/v1/models?limit=1")


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        ("claude-opus-4-6", 32_000),
        ("claude-3-5-haiku-latest", 8_192),
        ("claude-3-haiku-20240307", 4_096),
        ("tiny", 4_096),
    ],
)
def test_a_limit_is_always_sent(model: str, tokens: int) -> None:
    assert body_of(WIRE.encode(Request(HELLO), target(model)))["max_tokens"] == tokens
    assert body_of(WIRE.encode(Request(HELLO, max_tokens=7), target(model)))["max_tokens"] == 7


def test_a_whole_conversation() -> None:
    own = TARGET.issuer
    history = (
        Message("user", (Text("Look"), Image(data=b"\xff\xd8\xff1"), Image(url="https://x/y.png"))),
        Message(
            "assistant",
            (
                Thinking("hm", "sig", own),
                Thinking("", "redacted:xyz", own),
                Thinking("foreign", "sig2", Issuer("gemini", "g")),
                Thinking("unsigned", None, own),
                Text("Well"),
                ToolCall("call.1", "f", {"a": 1}, '{"a": 1}'),
                ToolCall("c2", "g", True, "true"),
            ),
        ),
        Message("tool", (ToolResult("c2", "g", "two", is_error=True), ToolResult("call.1", "f", " "))),
        Message("user", (Text("next"),)),
    )
    call = WIRE.encode(Request(history, tools=(SPEC,)), TARGET)
    user, said, answered = body_of(call)["messages"]
    assert user["content"][1] == {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/jpeg", "data": "/9j/MQ=="},
    }
    assert user["content"][2] == {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}
    assert said["content"][:3] == [
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "redacted_thinking", "data": "xyz"},
        {"type": "text", "text": "Well"},
    ]
    one, two = said["content"][3:]
    assert one == {"type": "tool_use", "id": one["id"], "name": "f", "input": {"a": 1}}
    assert one["id"].startswith("toolu_")
    assert two == {"type": "tool_use", "id": "c2", "name": "g", "input": {"arguments": "true"}}
    assert answered == {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": one["id"], "content": "(no output)"},
            {"type": "tool_result", "tool_use_id": "c2", "content": "two", "is_error": True},
            {"type": "text", "text": "next"},
        ],
    }
    assert call.notes == ("thinking of another issuer was left out", "thinking without a signature was left out")


def test_a_conversation_that_was_trimmed_begins_with_a_user_and_a_prefill_ends_in_no_blank() -> None:
    sent = body_of(WIRE.encode(Request((Message("assistant", (Text("So: "),)),)), TARGET))["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant"]
    assert sent[1]["content"] == [{"type": "text", "text": "So:"}]
    led_to_nothing = (Text("So: "), Thinking("Hm.", None, TARGET.issuer), Thinking("Hm.", "sig", TARGET.issuer))
    assert body_of(WIRE.encode(Request((Message("assistant", led_to_nothing),)), TARGET))["messages"] == sent


@pytest.mark.parametrize(("model", "begins"), [("claude-sonnet-4-5", True), ("claude-opus-4-6", False)])
def test_an_answer_is_begun_for_models_that_go_on_with_it_and_without_thinking(model: str, begins: bool) -> None:
    target = Target("anthropic", TARGET.base_url, model, options={"thinking_budget": 2_000})
    call = WIRE.encode(Request((*HELLO, Message("assistant", (Text("So: "),)))), target)
    sent = body_of(call)
    assert sent["messages"][-1]["role"] == ("assistant" if begins else "user")
    assert ("thinking" in sent) is not begins
    assert len(call.notes) == 1


def test_a_budget_for_all_models_is_not_for_those_that_do_not_think() -> None:
    target = Target("anthropic", TARGET.base_url, "claude-3-haiku-20240307", options={"thinking_budget": 2_000})
    call = WIRE.encode(Request(HELLO), target)
    assert "thinking" not in body_of(call)
    assert call.notes == ()


def test_an_image_at_an_address_that_is_not_secured_is_told_in_words() -> None:
    images = (Image(url="http://x/y.png"), Image(url="HTTPS://x/y.png"))
    call = WIRE.encode(Request((Message("user", images),)), TARGET)
    first, second = body_of(call)["messages"][0]["content"]
    assert first == {"type": "text", "text": "(An image that cannot be shown.)"}
    assert second["source"] == {"type": "url", "url": "HTTPS://x/y.png"}
    assert call.notes == ("an image at an http:// address was left out: this vendor fetches from https:// alone",)


def test_tools_and_their_choice() -> None:
    def choice(word: str | None) -> Any:
        return body_of(WIRE.encode(Request(HELLO, tools=(SPEC,), tool_choice=word), TARGET)).get("tool_choice")

    sent = body_of(WIRE.encode(Request(HELLO, tools=(SPEC,)), TARGET))
    assert sent["tools"] == [{"name": "f", "description": "does f", "input_schema": {"type": "object"}}]
    assert [choice(word) for word in (None, "none", "required", "f")] == [
        None,
        {"type": "none"},
        {"type": "any"},
        {"type": "tool", "name": "f"},
    ]


def test_a_history_with_calls_gets_the_tools_it_needs_defined() -> None:
    history = (*HELLO, Message("assistant", (ToolCall("c1", "f", {}),)), Message("tool", (ToolResult("c1", "f", "1"),)))
    sent = body_of(WIRE.encode(Request(history), TARGET))
    assert sent["tools"] == [{"name": "f", "input_schema": {"type": "object"}}]
    assert sent["tool_choice"] == {"type": "none"}


def test_an_output_schema_is_a_forced_tool_whose_input_comes_back_as_text(reply: Any, read: Any, sse: Any) -> None:
    sent = body_of(WIRE.encode(Request(HELLO, output=OUTPUT), TARGET))
    (tool,) = sent["tools"]
    assert tool["input_schema"] == OUTPUT.schema
    assert sent["tool_choice"] == {"type": "tool", "name": tool["name"]}
    block = {"type": "tool_use", "id": "t1", "name": tool["name"], "input": {"a": 1}}
    answer = WIRE.decode(reply({"type": "message", "content": [block], "stop_reason": "tool_use"}), TARGET)
    assert isinstance(answer, Answer)
    assert (answer.parts, answer.finish, answer.raw_finish) == ((Text('{"a":1}'),), Finish.STOP, "tool_use")
    events = read(
        WIRE,
        [
            sse(
                {"type": "content_block_start", "index": 0, "content_block": {**block, "input": {}}},
                {
                    "type": "content_block_delta",
                    "index": 0,
                    "delta": {"type": "input_json_delta", "partial_json": '{"a"'},
                },
                {
                    "type": "content_block_delta",
                    "index": 0,
                    "delta": {"type": "input_json_delta", "partial_json": ": 1}"},
                },
                {"type": "content_block_stop", "index": 0},
                {"type": "message_delta", "delta": {"stop_reason": "tool_use"}},
                {"type": "message_stop"},
            )
        ],
    )
    assert [event for event in events if isinstance(event, TextDelta)] == [TextDelta('{"a"'), TextDelta(": 1}")]
    assert events[-1].answer.finish is Finish.STOP


def test_an_output_schema_beside_tools_leaves_the_model_the_choice_among_them() -> None:
    sent = body_of(WIRE.encode(Request(HELLO, output=OUTPUT, tools=(SPEC,)), TARGET))
    assert len(sent["tools"]) == 2
    assert sent["tool_choice"] == {"type": "any"}


@pytest.mark.parametrize("where", [target("claude-fable-5"), target(thinking_budget=2_000)])
def test_an_output_schema_where_no_tool_can_be_forced_is_asked_for(where: Target) -> None:
    sent = body_of(WIRE.encode(Request(HELLO, output=OUTPUT), where))
    assert "tool_choice" not in sent
    assert sent["tools"][0]["name"] in sent["system"]


def test_thinking() -> None:
    sent = body_of(WIRE.encode(Request(HELLO, max_tokens=500), target(thinking_budget=2_000)))
    assert sent["thinking"] == {"type": "enabled", "budget_tokens": 2_000}
    assert sent["max_tokens"] == 2_500
    assert body_of(WIRE.encode(Request(HELLO), target(thinking_budget=5)))["thinking"]["budget_tokens"] == 1_024
    adaptive = body_of(WIRE.encode(Request(HELLO), target("claude-opus-4-7", thinking_budget=2_000)))
    assert adaptive["thinking"] == {"type": "adaptive"}
    assert "thinking" not in body_of(WIRE.encode(Request(HELLO), TARGET))


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (Request(HELLO, tools=(SPEC,), tool_choice="required"), "a tool is forced"),
        (
            Request(
                (
                    *HELLO,
                    Message("assistant", (ToolCall("c1", "f", {}),)),
                    Message("tool", (ToolResult("c1", "f", "1"),)),
                ),
                tools=(SPEC,),
            ),
            "the running tool loop began without it",
        ),
    ],
)
def test_M7_thinking_is_left_out_where_it_would_be_refused(request_: Request, why: str) -> None:
    call = WIRE.encode(request_, target(thinking_budget=2_000))
    assert "thinking" not in body_of(call)
    assert call.notes == (f"thinking was left out: {why}",)


def test_temperature_does_not_go_with_thinking() -> None:
    assert body_of(WIRE.encode(Request(HELLO, temperature=0.5), TARGET))["temperature"] == 0.5
    for where in (target(thinking_budget=2_000), target("claude-opus-4-7")):
        call = WIRE.encode(Request(HELLO, temperature=0.5), where)
        assert "temperature" not in body_of(call)
        assert call.notes


@pytest.mark.parametrize(
    ("model", "name", "thinks"),
    [
        ("claude-opus-4-8", "fast", True),
        ("claude-prod", "claude-opus-4-8", True),
        ("prod", "claude-opus-4-8", True),
        ("eu.anthropic.claude-opus-4-8-v1:0", "eu.anthropic.claude-opus-4-8-v1:0", True),
        ("claude-sonnet-4-5", "claude-next", False),
        ("prod", "mine", False),
    ],
)
def test_a_model_is_known_by_whichever_name_tells_it(model: str, name: str, thinks: bool) -> None:
    call = WIRE.encode(Request(HELLO, effort="high"), Target("p", "https://h", model, name=name))
    assert ("output_config" in body_of(call)) is thinks
