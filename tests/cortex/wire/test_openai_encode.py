"""OpenAI's dialect and its relatives: what is sent."""

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

WIRE = WIRES["openai_chat"]
TARGET = Target("openai", "https://api.openai.com/v1", "gpt-4o", api_key="sk-1")
HELLO = (Message("user", (Text("Hello"),)),)


def body_of(call: HttpCall) -> dict[str, Any]:
    return json.loads(call.body)


def encode(request: Request, **target: Any) -> dict[str, Any]:
    defaults = {"provider": "p", "base_url": "https://api.openai.com/v1", "model": "gpt-4o"}
    return body_of(WIRE.encode(request, Target(**{**defaults, **target})))


def test_a_plain_request() -> None:
    call = WIRE.encode(Request(HELLO, system="Be kind."), TARGET)
    assert (call.method, call.url) == ("POST", "https://api.openai.com/v1/chat/completions")
    assert dict(call.headers) == {
        "authorization": "Bearer sk-1",
        "content-type": "application/json",
        "accept": "application/json",
    }
    assert body_of(call) == {
        "model": "gpt-4o",
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}],
    }
    assert call.notes == ()
    assert "sk-1" not in repr(call)
    assert "Hello" not in repr(call)


def test_a_stream_asks_for_events_uncompressed_with_usage() -> None:
    call = WIRE.encode(Request(HELLO, stream=True), TARGET)
    assert dict(call.headers)["accept"] == "text/event-stream"
    assert dict(call.headers)["accept-encoding"] == "identity"
    assert body_of(call)["stream"] is True
    assert body_of(call)["stream_options"] == {"include_usage": True}


def test_headers_of_the_user_win_and_options_become_headers() -> None:
    options = {"organization": "org-1", "project": "proj-1"}
    target = Target("p", "http://h/v1", "m", "k", {"Authorization": "Basic x", "X-Mine": "1"}, options)
    headers = WIRE.encode(Request(HELLO), target).headers
    assert len(headers) == len(dict(headers))
    assert dict(headers)["authorization"] == "Basic x"
    assert dict(headers)["x-mine"] == "1"
    assert dict(headers)["openai-organization"] == "org-1"
    assert dict(headers)["openai-project"] == "proj-1"
    assert "authorization" not in dict(WIRE.encode(Request(HELLO), Target("p", "http://h/v1", "m")).headers)


@pytest.mark.parametrize(
    ("base_url", "options", "url"),
    [
        (
            "https://r.openai.azure.com",
            {"api_version": "2024-06-01"},
            "https://r.openai.azure.com/openai/deployments/d%2F1/chat/completions?api-version=2024-06-01",
        ),
        (
            "https://r.openai.azure.com/openai",
            {},
            "https://r.openai.azure.com/openai/deployments/d%2F1/chat/completions?api-version=2024-10-21",
        ),
        (
            "https://gateway/openai/deployments/mine",
            {"api_version": "v"},
            "https://gateway/openai/deployments/mine/chat/completions?api-version=v",
        ),
        (
            "https://r.openai.azure.com/openai/v1",
            {},
            "https://r.openai.azure.com/openai/v1/chat/completions",
        ),
        (
            "https://r.services.ai.azure.com/models",
            {"api_version": "2024-05-01-preview"},
            "https://r.services.ai.azure.com/models/chat/completions?api-version=2024-05-01-preview",
        ),
    ],
)
def test_azure_has_other_addresses_and_another_header(base_url: str, options: dict[str, str], url: str) -> None:
    call = WIRES["openai_chat"].encode(Request(HELLO), Target("azure", base_url, "d/1", "k", {}, options))
    assert call.url == url
    assert dict(call.headers)["api-key"] == "k"
    assert "authorization" not in dict(call.headers)


@pytest.mark.parametrize(
    ("base_url", "root"),
    [
        ("https://r.openai.azure.us", "https://r.openai.azure.us/openai"),
        ("https://corp.azure-api.net/oai", "https://corp.azure-api.net/oai/openai"),
    ],
)
@pytest.mark.parametrize("wire", ["openai_chat", "openai_responses"])
def test_azure_is_known_by_its_kind_wherever_it_is(wire: str, base_url: str, root: str) -> None:
    """A sovereign cloud, and Azure's own gateway."""
    azure = Target("p", base_url, "gpt-5", "k", kind="azure")
    call = WIRES[wire].encode(Request(HELLO, max_tokens=9), azure)
    chat = f"{root}/deployments/gpt-5/chat/completions?api-version=2024-10-21"
    assert call.url == (chat if wire == "openai_chat" else f"{root}/v1/responses")
    assert dict(call.headers)["api-key"] == "k"
    assert "authorization" not in dict(call.headers)
    assert {"max_completion_tokens", "max_output_tokens"} & set(body_of(call))
    assert WIRES[wire].probe(azure).url == f"{root}/models?api-version=2024-10-21"


@pytest.mark.parametrize(
    ("base_url", "options", "url"),
    [
        ("https://api.openai.com/v1", {}, "https://api.openai.com/v1/models"),
        ("https://r.openai.azure.com", {}, "https://r.openai.azure.com/openai/models?api-version=2024-10-21"),
        (
            "https://gw/openai/deployments/d",
            {"api_version": "v"},
            "https://gw/openai/models?api-version=v",
        ),
    ],
)
def test_the_probe_lists_models(base_url: str, options: dict[str, str], url: str) -> None:
    call = WIRE.probe(Target("p", base_url, "m", "k", {}, options))
    assert (call.method, call.url, call.body) == ("GET", url, b"")
    assert {"api-key", "authorization"} & set(dict(call.headers))


@pytest.mark.parametrize(
    ("base_url", "model", "field"),
    [
        ("https://api.openai.com/v1", "gpt-4o", "max_tokens"),
        ("https://api.openai.com/v1", "o3-mini", "max_completion_tokens"),
        ("https://api.openai.com/v1", "gpt-5-nano", "max_completion_tokens"),
        ("https://r.openai.azure.com", "o1", "max_completion_tokens"),
        ("https://openrouter.ai/api/v1", "openai/gpt-5", "max_tokens"),
        ("http://localhost:11434/v1", "o3-lookalike", "max_tokens"),
    ],
)
def test_the_limit_has_another_name_for_models_that_reason(base_url: str, model: str, field: str) -> None:
    body = encode(Request(HELLO, max_tokens=7), base_url=base_url, model=model)
    assert {key: body[key] for key in body if key.startswith("max_")} == {field: 7}


AZURE, OPENAI = "https://r.openai.azure.com", "https://api.openai.com/v1"


@pytest.mark.parametrize(
    ("base_url", "name", "model", "reasons"),
    [
        (AZURE, "gpt-5", "team-a-prod", True),
        (AZURE, "o4-mini", "gpt-4o", True),  # a deployment that got another model, and kept its name
        (AZURE, "gpt-4o", "team-o3", False),
        (AZURE, "fast", "gpt-5-mini", True),  # an alias: then the deployment's name is all there is
        (AZURE, "", "gpt-5-mini", True),
        (AZURE, "fast", "team-a-prod", False),
        (OPENAI, "fast", "gpt-5-mini", True),  # the vendor's own name says it best
        (OPENAI, "gpt-5", "gpt-5-chat-latest", False),
        (OPENAI, "", "ft:o4-mini-2025-04-16:org::id", True),
        (OPENAI, "mine", "ft:gpt-4o-2024-08-06:org:o3:id", False),
        ("https://gateway/openai/deployments/team-a", "gpt-5", "team-a", True),
    ],
)
def test_a_model_is_judged_by_the_name_that_tells_what_it_is(
    base_url: str, name: str, model: str, reasons: bool
) -> None:
    target = Target("p", base_url, model, **({"name": name} if name else {}))
    request = Request(HELLO, max_tokens=99, temperature=0.5, effort="low", stop=("x",))
    chat, responses = (body_of(WIRES[wire].encode(request, target)) for wire in ("openai_chat", "openai_responses"))
    assert chat["model"] == responses["model"] == model
    assert target.issuer == Issuer("p", model)
    assert ("reasoning_effort" in chat) is ("reasoning" in responses) is ("temperature" not in responses) is reasons


def test_a_temperature_that_a_model_would_refuse_is_left_out_with_a_note() -> None:
    call = WIRE.encode(Request(HELLO, temperature=0.2), Target("p", "https://api.openai.com/v1", "o3"))
    assert "temperature" not in body_of(call)
    assert len(call.notes) == 1
    for model in ("gpt-4o", "gpt-5.1", "gpt-5-chat-latest"):
        assert encode(Request(HELLO, temperature=0.0), model=model)["temperature"] == 0.0


def test_mistral_gets_no_stream_options_and_ids_of_nine_letters() -> None:
    history = (
        *HELLO,
        Message("assistant", (ToolCall("call_abc-1", "f", {}),)),
        Message("tool", (ToolResult("call_abc-1", "f", "1"),)),
    )
    body = encode(Request(history, stream=True), base_url="https://api.mistral.ai/v1")
    assert "stream_options" not in body
    ident = body["messages"][1]["tool_calls"][0]["id"]
    assert len(ident) == 9
    assert ident.isalnum()
    assert body["messages"][2]["tool_call_id"] == ident


def test_mistral_takes_no_user_right_after_a_tool_and_no_assistant_at_the_end() -> None:
    said, ran = (
        Message("assistant", (ToolCall("c12345678", "f", {}),)),
        Message("tool", (ToolResult("c12345678", "f", "1"),)),
    )
    begun = Message("assistant", (Text("Sure, "),))
    history = (*HELLO, said, ran, *HELLO, begun)

    def sent(messages: tuple[Message, ...], base_url: str) -> list[dict[str, Any]]:
        return encode(Request(messages), base_url=base_url)["messages"]

    mistral = sent(history, "https://api.mistral.ai/v1")
    assert [m["role"] for m in mistral] == ["user", "assistant", "tool", "assistant", "user", "assistant", "user"]
    assert (mistral[3]["content"], mistral[6]["content"]) == ("OK.", "(The conversation goes on.)")
    grown = sent((*history, *HELLO), "https://api.mistral.ai/v1")
    assert grown[:6] == mistral[:6]
    assert len(grown) == 7
    other = sent(history, "https://api.openai.com/v1")
    assert [m["role"] for m in other] == ["user", "assistant", "tool", "user", "assistant"]


def test_a_whole_conversation() -> None:
    own = Issuer("p", "gpt-4o")
    history = (
        Message("user", (Text("Look"), Image(data=b"\x89PNG1"), Image(url="https://x/y.png"))),
        Message(
            "assistant",
            (
                Thinking("hm", issuer=own),
                Text("Well"),
                ToolCall("c1", "f", {"a": 1}, '{"a": 1}'),
                ToolCall("c2", "bad name!", None, '{"a'),
            ),
        ),
        Message("tool", (ToolResult("c2", "g", "", is_error=True),)),
        Message("tool", (ToolResult("c1", "f", "one"), ToolResult("c9", "x", "orphan"))),
        Message("user", (Text("a"),)),
        Message("user", (Text("b"),)),
    )
    call = WIRE.encode(Request(history), Target("p", "https://api.openai.com/v1", "gpt-4o"))
    assert body_of(call)["messages"] == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Look"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORzE="}},
                {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
            ],
        },
        {
            "role": "assistant",
            "content": "Well",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
                {
                    "id": "c2",
                    "type": "function",
                    "function": {"name": "bad_name_", "arguments": '{"arguments":"{\\"a"}'},
                },
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "one"},
        {"role": "tool", "tool_call_id": "c2", "content": "Error: (no output)"},
        {"role": "user", "content": "a\n\nb"},
    ]
    assert len(call.notes) == 2


def test_a_call_without_its_result_is_answered_as_not_run() -> None:
    history = (*HELLO, Message("assistant", (ToolCall("c1", "f", {}), ToolCall("c1", "f", {}))), *HELLO)
    call = WIRE.encode(Request(history), TARGET)
    _, said, one, two, _ = body_of(call)["messages"]
    ids = [entry["id"] for entry in said["tool_calls"]]
    assert len(set(ids)) == 2
    assert [one["tool_call_id"], two["tool_call_id"]] == ids
    assert one["content"] == "Error: This call was not run."
    assert call.notes == ("a tool call without a result was answered as not run",)


def test_two_calls_of_one_id_get_their_own_results() -> None:
    calls = Message("assistant", (ToolCall("0", "f", {}), ToolCall("0", "g", {})))
    results = Message("tool", (ToolResult("0", "f", "one"), ToolResult("0", "g", "two")))
    call = WIRE.encode(Request((*HELLO, calls, results, calls, results)), TARGET)
    messages = body_of(call)["messages"]
    assert [m["content"] for m in messages if m["role"] == "tool"] == ["one", "two", "one", "two"]
    assert len({m["tool_call_id"] for m in messages if m["role"] == "tool"}) == 4
    assert call.notes == ()


def test_thinking_goes_back_only_to_its_issuer_and_only_where_it_is_wanted() -> None:
    def history(issuer: Issuer) -> Request:
        said = Message("assistant", (Thinking("deep", issuer=issuer), ToolCall("c1", "f", {})))
        return Request((*HELLO, said, Message("tool", (ToolResult("c1", "f", "1"),))))

    target = Target("d", "https://api.deepseek.com", "deepseek-reasoner")
    assert body_of(WIRE.encode(history(target.issuer), target))["messages"][1]["reasoning_content"] == "deep"
    foreign = WIRE.encode(history(Issuer("other", "deepseek-reasoner")), target)
    assert b"deep" not in foreign.body.replace(b"deepseek", b"")
    assert foreign.notes == ("thinking of another issuer was left out",)
    elsewhere = WIRE.encode(history(TARGET.issuer), TARGET)
    assert b"deep" not in elsewhere.body
    assert len(elsewhere.notes) == 1


THINKERS = [
    ("https://api.deepseek.com", "deepseek-reasoner", {}, True),
    ("https://api.deepseek.com", "deepseek-v4-pro", {}, True),
    ("https://api.deepseek.com", "deepseek-v4-pro", {"thinking": {"type": "disabled"}}, False),
    ("https://api.deepseek.com", "deepseek-chat", {}, False),
    ("https://api.deepseek.com", "deepseek-chat", {"thinking": {"type": "enabled"}}, True),
    ("https://api.moonshot.ai/v1", "kimi-k2-thinking", {}, True),
    ("https://api.moonshot.cn/v1", "kimi-k2.6", {}, True),
    ("https://api.moonshot.cn/v1", "kimi-k2.6", {"thinking": {"type": "disabled"}}, False),
    ("https://api.moonshot.ai/v1", "kimi-k2-0905-preview", {}, False),
    ("https://api.moonshot.ai/v1", "kimi-k2-turbo-preview", {}, False),
    ("https://api.moonshot.ai/v1", "moonshot-v1-8k", {}, False),
    ("https://api.openai.com/v1", "gpt-5", {"thinking": {"type": "enabled"}}, False),
]


@pytest.mark.parametrize(("base_url", "model", "extra", "thinks"), THINKERS)
def test_whoever_thinks_aloud_gets_every_thought_back_in_all_later_turns(
    base_url: str, model: str, extra: dict[str, Any], thinks: bool
) -> None:
    """Also for what another model said: that the field is there is asked, and an empty one counts as none."""
    me, ran = Issuer("p", model), Message("tool", (ToolResult("c1", "f", "1"),))
    history = (
        *HELLO,
        Message("assistant", (Thinking("deep", issuer=me), ToolCall("c1", "f", {}))),
        ran,
        Message("assistant", (Thinking("so", issuer=me), Text("One."))),
        *HELLO,
        Message("assistant", (Thinking("sealed", "sig", Issuer("q", "o3")), ToolCall("c1", "f", {}))),
        ran,
        Message("assistant", (Text("Two."),)),
        *HELLO,
    )
    call = WIRE.encode(Request(history, extra=extra), Target("p", base_url, model))
    told = [m.get("reasoning_content") for m in body_of(call)["messages"] if m["role"] == "assistant"]
    assert told == (["deep", "so", " ", " "] if thinks else [None] * 4)


def test_tools_and_their_choice() -> None:
    spec = ToolSpec("f", "does f", {"type": "object", "properties": {}})
    body = encode(Request(HELLO, tools=(spec,)))
    function = {"name": "f", "description": "does f", "parameters": {"type": "object", "properties": {}}}
    assert body["tools"] == [{"type": "function", "function": function}]
    assert "tool_choice" not in body
    assert encode(Request(HELLO, tools=(spec,), tool_choice="none"))["tool_choice"] == "none"
    assert encode(Request(HELLO, tools=(spec,), tool_choice="required"))["tool_choice"] == "required"
    named = {"type": "function", "function": {"name": "f"}}
    assert encode(Request(HELLO, tools=(spec,), tool_choice="f"))["tool_choice"] == named
    assert "tool_choice" not in encode(Request(HELLO, tool_choice="required"))


def test_an_output_schema_is_strict_only_when_it_can_be() -> None:
    loose = {"type": "object", "properties": {"a": {"type": "integer"}}}
    closed = {**loose, "required": ["a"], "additionalProperties": False}
    nested = {"type": "object", "properties": {"b": loose}, "required": ["b"], "additionalProperties": False}
    for schema, strict in ((loose, False), (closed, True), (nested, False)):
        sent = encode(Request(HELLO, output=OutputSchema("my_answer", schema)))["response_format"]
        assert sent["type"] == "json_schema"
        assert sent["json_schema"] == {"name": "my_answer", "schema": schema, **({"strict": True} if strict else {})}


@pytest.mark.parametrize(("model", "strict"), [("openai/gpt-oss-120b", True), ("moonshotai/kimi-k2-instruct", False)])
def test_groq_holds_only_some_models_to_a_schema_strictly(model: str, strict: bool) -> None:
    closed = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    request = Request(HELLO, output=OutputSchema("o", closed))
    sent = encode(request, base_url="https://api.groq.com/openai/v1", model=model)["response_format"]["json_schema"]
    assert sent == {"name": "o", "schema": closed, **({"strict": True} if strict else {})}


def test_where_no_schema_is_known_the_model_is_told_it() -> None:
    output = OutputSchema("x", {"type": "object", "title": "Findme"})
    body = encode(Request(HELLO, output=output), base_url="https://api.deepseek.com")
    assert body["response_format"] == {"type": "json_object"}
    assert "Findme" in body["messages"][0]["content"]


def test_extra_wins_and_objects_in_it_are_laid_over_ours() -> None:
    extra = {"model": "other", "seed": 1, "stream_options": {"x": 1}}
    body = encode(Request(HELLO, stream=True, extra=extra))
    assert (body["model"], body["seed"]) == ("other", 1)
    assert body["stream_options"] == {"include_usage": True, "x": 1}


def test_what_cannot_be_json_is_an_early_error_and_lone_surrogates_are_not() -> None:
    with pytest.raises(ValueError, match=r"tools, output schema or extra.*bytes"):
        encode(Request(HELLO, extra={"x": b"1"}))
    assert encode(Request((Message("user", (Text("a\ud800"),)),)))["messages"][0]["content"] == "a\ufffd"


@pytest.mark.parametrize("signature", ["CiQBabc==", "5", '{"a":'])
def test_a_damaged_signature_is_left_out_with_a_note(signature: str) -> None:
    call = ToolCall("1", "f", {}, "{}", signature, Issuer("p", "gemini-3-pro"))
    history = (*HELLO, Message("assistant", (call,)), Message("tool", (ToolResult("1", "f", "x"),)))
    sent = WIRE.encode(Request(history), Target("p", "https://x.y/v1", "gemini-3-pro"))
    assert "extra_content" not in body_of(sent)["messages"][1]["tool_calls"][0]
    assert sent.notes == ("a tool call's damaged signature was left out",)
