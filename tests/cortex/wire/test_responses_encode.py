"""OpenAI's Responses dialect: what is sent."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cortex.messages import (
    Image,
    Issuer,
    Message,
    OutputSchema,
    Request,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    ToolSpec,
)
from cortex.wire import WIRES
from cortex.wire.codec import HttpCall, Target

WIRE = WIRES["openai_responses"]
TARGET = Target("openai", "https://api.openai.com/v1", "gpt-4o", api_key="sk-1")
ME = Issuer("openai", "gpt-5")
HELLO = (Message("user", (Text("Hello"),)),)
USER = {"type": "message", "role": "user", "content": "Hello"}
SPEC = ToolSpec("f", "Does f.", {"type": "object", "properties": {"a": {"type": "integer"}}})
SEALED = {
    "type": "reasoning",
    "id": "rs_1",
    "encrypted_content": "x9",
    "summary": [{"type": "summary_text", "text": "h"}],
}


def body_of(call: HttpCall) -> dict[str, Any]:
    return json.loads(call.body)


def encode(request: Request, **target: Any) -> dict[str, Any]:
    defaults = {"provider": "openai", "base_url": "https://api.openai.com/v1", "model": "gpt-4o"}
    return body_of(WIRE.encode(request, Target(**{**defaults, **target})))


def input_of(*messages: Message, **target: Any) -> list[dict[str, Any]]:
    return encode(Request(messages), **target)["input"]


def test_a_plain_request_stores_nothing() -> None:
    call = WIRE.encode(Request(HELLO, system="Be kind."), TARGET)
    assert (call.method, call.url) == ("POST", "https://api.openai.com/v1/responses")
    assert dict(call.headers) == {
        "authorization": "Bearer sk-1",
        "content-type": "application/json",
        "accept": "application/json",
    }
    assert body_of(call) == {"model": "gpt-4o", "store": False, "instructions": "Be kind.", "input": [USER]}
    assert call.notes == ()
    assert "sk-1" not in repr(call)
    assert "Hello" not in repr(call)


def test_a_stream_asks_for_events_uncompressed() -> None:
    call = WIRE.encode(Request(HELLO, stream=True), TARGET)
    assert dict(call.headers)["accept"] == "text/event-stream"
    assert dict(call.headers)["accept-encoding"] == "identity"
    assert body_of(call)["stream"] is True
    assert "stream_options" not in body_of(call)


@pytest.mark.parametrize(
    ("base_url", "options", "url"),
    [
        ("https://r.openai.azure.com", {}, "https://r.openai.azure.com/openai/v1/responses"),
        ("https://r.openai.azure.com/openai", {}, "https://r.openai.azure.com/openai/v1/responses"),
        (
            "https://r.openai.azure.com",
            {"api_version": "2025-04-01-preview"},
            "https://r.openai.azure.com/openai/responses?api-version=2025-04-01-preview",
        ),
        (
            "https://r.openai.azure.com/openai/deployments/d",
            {"api_version": "2025-04-01-preview"},
            "https://r.openai.azure.com/openai/responses?api-version=2025-04-01-preview",
        ),
        ("https://r.openai.azure.com/openai/v1", {}, "https://r.openai.azure.com/openai/v1/responses"),
        (
            "https://r.services.ai.azure.com/api/projects/p/openai/v1",
            {"api_version": "preview"},
            "https://r.services.ai.azure.com/api/projects/p/openai/v1/responses?api-version=preview",
        ),
    ],
)
def test_azure_knows_responses_by_no_deployment(base_url: str, options: dict[str, str], url: str) -> None:
    call = WIRE.encode(Request(HELLO), Target("azure", base_url, "my-deployment", "k", {}, options))
    assert call.url == url
    assert dict(call.headers)["api-key"] == "k"
    assert body_of(call)["model"] == "my-deployment"


def test_options_become_headers_and_the_probe_lists_models() -> None:
    target = Target("p", "http://h/v1", "m", "k", {}, {"organization": "org-1", "project": "proj-1"})
    headers = dict(WIRE.encode(Request(HELLO), target).headers)
    assert (headers["openai-organization"], headers["openai-project"]) == ("org-1", "proj-1")
    assert (WIRE.probe(target).method, WIRE.probe(target).url) == ("GET", "http://h/v1/models")


def test_a_conversation_becomes_items() -> None:
    calls = (ToolCall("call_1", "f", {"a": 1}, '{"a": 1}'), ToolCall("call_2", "g", {}, ""))
    results = (ToolResult("call_2", "g", "two"), ToolResult("call_1", "f", "", is_error=True))
    sent = input_of(
        *HELLO,
        Message("assistant", (Text("So."), *calls)),
        Message("tool", results),
        Message("assistant", (Text("Done."),)),
        Message("user", (Text("And?"),)),
    )
    assert sent == [
        USER,
        {"type": "message", "role": "assistant", "content": "So."},
        {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": '{"a": 1}'},
        {"type": "function_call", "call_id": "call_2", "name": "g", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "Error: (no output)"},
        {"type": "function_call_output", "call_id": "call_2", "output": "two"},
        {"type": "message", "role": "assistant", "content": "Done."},
        {"type": "message", "role": "user", "content": "And?"},
    ]


def test_images_as_bytes_as_a_data_url_and_by_address() -> None:
    images = (
        Image("image/png", b"\x89PNG1"),
        Image(url="data:image/png;base64,iVBORzE="),
        Image(url="https://x/y.png"),
    )
    (sent,) = input_of(Message("user", (Text("Look"), *images)))
    assert sent["content"] == [
        {"type": "input_text", "text": "Look"},
        {"type": "input_image", "image_url": "data:image/png;base64,iVBORzE="},
        {"type": "input_image", "image_url": "data:image/png;base64,iVBORzE="},
        {"type": "input_image", "image_url": "https://x/y.png"},
    ]


def test_ids_of_another_vendors_grammar_are_mapped_alike_in_call_and_result() -> None:
    ident = "toolu_" + "x" * 60
    call, result = input_of(
        Message("assistant", (ToolCall(ident, "f", {}, "{}"),)), Message("tool", (ToolResult(ident, "f", "ok"),))
    )
    assert call["call_id"] == result["call_id"] != ident
    assert call["call_id"].startswith("call_")
    assert len(call["call_id"]) <= 40


def test_tools_are_flat_and_not_strict() -> None:
    sent = encode(Request(HELLO, tools=(SPEC,)))
    assert sent["tools"] == [
        {"type": "function", "name": "f", "description": "Does f.", "parameters": SPEC.parameters, "strict": False}
    ]
    assert "tool_choice" not in sent


@pytest.mark.parametrize(
    ("word", "choice"), [("none", "none"), ("required", "required"), ("f", {"type": "function", "name": "f"})]
)
def test_tool_choice(word: str, choice: Any) -> None:
    assert encode(Request(HELLO, tools=(SPEC,), tool_choice=word))["tool_choice"] == choice
    assert "tool_choice" not in encode(Request(HELLO, tool_choice=word)), "a choice without tools is refused"


def test_a_schema_is_the_texts_format() -> None:
    closed = {"type": "object", "properties": {"n": {"type": "null"}}, "required": ["n"], "additionalProperties": False}
    loose = {"type": "object", "properties": {"n": {}}}
    sent = encode(Request(HELLO, output=OutputSchema("an_answer", closed)))
    assert sent["text"] == {"format": {"type": "json_schema", "name": "an_answer", "schema": closed, "strict": True}}
    sent = encode(Request(HELLO, output=OutputSchema("o", loose)))
    assert sent["text"] == {"format": {"type": "json_schema", "name": "o", "schema": loose}}


def test_a_server_without_schemas_is_told_in_words() -> None:
    output = OutputSchema("o", {"type": "object"})
    sent = encode(Request(HELLO, system="Be kind.", output=output), base_url="https://api.deepseek.com")
    assert sent["text"] == {"format": {"type": "json_object"}}
    assert sent["instructions"].startswith("Be kind.\n\nAnswer with one JSON object")
    assert sent["instructions"].endswith('{"type":"object"}')


def test_limits_and_temperature() -> None:
    sent = encode(Request(HELLO, max_tokens=70, temperature=0.5))
    assert (sent["max_output_tokens"], sent["temperature"]) == (70, 0.5)
    call = WIRE.encode(Request(HELLO, temperature=0.5), Target("openai", "https://api.openai.com/v1", "o3"))
    assert "temperature" not in body_of(call)
    assert call.notes == ("temperature was left out: this model takes only its own",)


def test_extra_goes_through_and_is_laid_over_what_is_there() -> None:
    extra = {
        "reasoning": {"effort": "low", "summary": "auto"},
        "parallel_tool_calls": False,
        "metadata": {"team": "search"},
        "text": {"verbosity": "low"},
        "store": True,
    }
    sent = encode(Request(HELLO, output=OutputSchema("o", {"type": "object"}), extra=extra), model="gpt-5")
    assert sent["text"]["verbosity"] == "low"
    assert sent["text"]["format"]["name"] == "o"
    assert {key: sent[key] for key in extra if key != "text"} == {k: v for k, v in extra.items() if k != "text"}


# -------------------------------------------------------------------------------------------------------- reasoning


@pytest.mark.parametrize(
    ("base_url", "model", "asked"),
    [
        ("https://api.openai.com/v1", "gpt-5", True),
        ("https://api.openai.com/v1", "gpt-5.2-mini", True),
        ("https://api.openai.com/v1", "o3-mini", True),
        ("https://api.openai.com/v1", "gpt-4o", False),
        ("https://api.openai.com/v1", "gpt-5-chat-latest", False),  # refuses to be asked
        ("https://api.openai.com/v1", "gpt-5.2-chat-latest", False),
        ("https://r.openai.azure.com/openai/v1", "gpt-5-nano", True),
        ("https://r.openai.azure.com/openai/v1", "my-deployment", False),
        ("https://api.x.ai/v1", "grok-4.3", True),
        ("https://api.x.ai/v1", "grok-4-1-fast-non-reasoning", False),
        ("http://localhost:8000/v1", "gpt-5", False),
    ],
)
def test_encrypted_reasoning_is_asked_for_where_a_model_gives_it(base_url: str, model: str, asked: bool) -> None:
    sent = encode(Request(HELLO), base_url=base_url, model=model)
    assert sent.get("include") == (["reasoning.encrypted_content"] if asked else None)


def thought(item: Any = SEALED, issuer: Issuer | None = ME, text: str = "h") -> Thinking:
    return Thinking(text, json.dumps(item) if item else None, issuer)


CALL, RESULT = ToolCall("call_1", "f", {}, "{}"), Message("tool", (ToolResult("call_1", "f", "ok"),))


def test_encrypted_reasoning_goes_back_as_it_came_before_what_it_led_to() -> None:
    second = {**SEALED, "id": "rs_2", "summary": []}
    sent = input_of(
        *HELLO, Message("assistant", (thought(), CALL)), RESULT, Message("assistant", (thought(second), Text("Done."))),
        model="gpt-5",
    )  # fmt: skip
    assert [item["type"] for item in sent] == [
        "message", "reasoning", "function_call", "function_call_output", "reasoning", "message",
    ]  # fmt: skip
    assert (sent[1], sent[4]) == (SEALED, second)


@pytest.mark.parametrize(
    ("thinking", "why"),
    [
        (thought(issuer=Issuer("openai", "o3")), "another issuer"),
        (thought(issuer=Issuer("azure", "gpt-5")), "another issuer"),
        (thought(issuer=None), "another issuer"),
        (thought(None), "gave encrypted"),
        (thought("a chat dialect's"), "gave encrypted"),
        (Thinking("h", "not JSON", ME), "gave encrypted"),
    ],
)
def test_thinking_of_others_or_in_the_clear_is_left_out_with_a_note(thinking: Thinking, why: str) -> None:
    history = (*HELLO, Message("assistant", (thinking, CALL)), RESULT)
    call = WIRE.encode(Request(history), Target("openai", "https://api.openai.com/v1", "gpt-5"))
    assert [item["type"] for item in body_of(call)["input"]] == ["message", "function_call", "function_call_output"]
    assert len(call.notes) == 1
    assert why in call.notes[0]


def test_reasoning_that_nothing_follows_is_left_out() -> None:
    history = (*HELLO, Message("assistant", (thought(), Text("So."), thought({**SEALED, "id": "rs_2"}))))
    call = WIRE.encode(Request(history), Target("openai", "https://api.openai.com/v1", "gpt-5"))
    assert [item.get("id") for item in body_of(call)["input"]] == [None, "rs_1", None]
    assert call.notes == ("thinking at an answer's end was left out: it led to nothing",)


def test_nothing_stands_between_calls_and_their_outputs() -> None:
    second = {**SEALED, "id": "rs_2"}
    parts = (thought(), CALL, thought(second), Text("So."))
    sent = input_of(*HELLO, Message("assistant", parts), RESULT, model="gpt-5")
    assert [item.get("id") or item["type"] for item in sent] == [
        "message", "rs_2", "message", "rs_1", "function_call", "function_call_output",
    ]  # fmt: skip


def test_deepseek_takes_its_thinking_back_in_the_clear_in_all_later_turns() -> None:
    """Also for what another model said, or what was thought after all was said: that it is there is asked."""
    me = Issuer("openai", "deepseek-v4")
    history = (
        *HELLO,
        Message("assistant", (Thinking("Hm.", None, me), CALL)),
        RESULT,
        Message("assistant", (Text("So."), Thinking("Well.", None, me))),
        *HELLO,
        Message("assistant", (Thinking("sealed", "sig", ME), CALL)),
        RESULT,
    )
    sent = input_of(*history, base_url="https://api.deepseek.com", model="deepseek-v4")
    kinds = ["message", "reasoning", "function_call", "function_call_output", "reasoning", "message"]
    assert [item["type"] for item in sent] == [*kinds, *kinds[:4]]
    thoughts = [item for item in sent if item["type"] == "reasoning"]
    assert [item.pop("content") for item in thoughts] == [
        [{"type": "reasoning_text", "text": text}] for text in ("Hm.", "Well.", " ")
    ]
    assert thoughts == [{"type": "reasoning", "summary": []}] * 3
    plain = input_of(*history, base_url="https://api.deepseek.com", model="deepseek-chat")
    assert "reasoning" not in [item["type"] for item in plain]
