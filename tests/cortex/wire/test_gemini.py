"""Gemini's dialect: what is sent, what is read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cortex.messages import (
    Answer,
    Ended,
    Failure,
    Finish,
    Image,
    Issuer,
    Kind,
    Message,
    OutputSchema,
    Progress,
    Request,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolCall,
    ToolCallReady,
    ToolResult,
    ToolSpec,
    Usage,
)
from cortex.wire import WIRES
from cortex.wire.codec import HttpCall, Target

WIRE = WIRES["gemini"]
BASE = "https://generativelanguage.googleapis.com"
TARGET = Target("gemini", BASE, "gemini-2.5-flash", api_key="AIza1")
HELLO = (Message("user", (Text("Hello"),)),)
SPEC = ToolSpec("f", "does f", {"type": "object"})


def body_of(call: HttpCall) -> dict[str, Any]:
    return json.loads(call.body)


def chunk(*parts: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}}
    return {"candidates": [{**candidate, **({"finishReason": finish} if finish else {})}], **more}


# ------------------------------------------------------------------------------------------------------------ encode


def test_a_plain_request() -> None:
    call = WIRE.encode(Request(HELLO, system="Be kind.", temperature=0.5, max_tokens=7), TARGET)
    assert (call.method, call.url) == ("POST", f"{BASE}/v1beta/models/gemini-2.5-flash:generateContent")
    assert dict(call.headers)["x-goog-api-key"] == "AIza1"
    assert body_of(call) == {
        "contents": [{"role": "user", "parts": [{"text": "Hello"}]}],
        "systemInstruction": {"parts": [{"text": "Be kind."}]},
        "generationConfig": {"temperature": 0.5, "maxOutputTokens": 7},
    }
    assert "AIza1" not in call.url


@pytest.mark.parametrize(
    ("base_url", "model", "url"),
    [
        (BASE, "models/gemini-x", f"{BASE}/v1beta/models/gemini-x:streamGenerateContent?alt=sse"),
        (f"{BASE}/v1beta", "gemini-x", f"{BASE}/v1beta/models/gemini-x:streamGenerateContent?alt=sse"),
        (f"{BASE}/v1", "tunedModels/mine", f"{BASE}/v1/tunedModels/mine:streamGenerateContent?alt=sse"),
        (
            "https://aiplatform.googleapis.com/v1/projects/p/locations/l/publishers/google",
            "gemini-x",
            "https://aiplatform.googleapis.com/v1/projects/p/locations/l/publishers/google/models/gemini-x"
            ":streamGenerateContent?alt=sse",
        ),
        ("http://h", "a?b", "http://h/v1beta/models/a%3Fb:streamGenerateContent?alt=sse"),
    ],
)
def test_addresses_of_streams(base_url: str, model: str, url: str) -> None:
    call = WIRE.encode(Request(HELLO, stream=True), Target("gemini", base_url, model, api_key="k"))
    headers = dict(call.headers)
    assert call.url == url
    assert headers["accept"] == "text/event-stream"
    assert headers.get("authorization", headers.get("x-goog-api-key")) == ("Bearer k" if "/projects/" in url else "k")


def test_the_probe_lists_one_model() -> None:
    probe = WIRE.probe(TARGET)
    assert (probe.method, probe.url) == ("GET", f"{BASE}/v1beta/models?pageSize=1")


def test_a_whole_conversation() -> None:
    own = TARGET.issuer
    history = (
        Message("user", (Text("Look"), Image(data=b"\x89PNG1"), Image(url="https://x/y.png"))),
        Message(
            "assistant",
            (
                Thinking("hm", "sig", own),
                Thinking("unsigned", None, own),
                Thinking("foreign", "s", Issuer("anthropic", "c")),
                ToolCall("1", "f", {"a": 1}, '{"a": 1}', "callsig", own),
                ToolCall("2", "g h", 7, "7", "foreignsig", Issuer("x", "y")),
            ),
        ),
        Message("tool", (ToolResult("2", "g h", "no", is_error=True), ToolResult("1", "f", "one"))),
        Message("user", (Text("next"),)),
    )
    call = WIRE.encode(Request(history), TARGET)
    assert body_of(call)["contents"] == [
        {
            "role": "user",
            "parts": [
                {"text": "Look"},
                {"inlineData": {"mimeType": "image/png", "data": "iVBORzE="}},
                {"fileData": {"mimeType": "image/png", "fileUri": "https://x/y.png"}},
            ],
        },
        {
            "role": "model",
            "parts": [
                {"text": "hm", "thought": True, "thoughtSignature": "sig"},
                {"functionCall": {"name": "f", "args": {"a": 1}}, "thoughtSignature": "callsig"},
                {"functionCall": {"name": "g_h", "args": {"arguments": "7"}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"name": "f", "response": {"output": "one"}}},
                {"functionResponse": {"name": "g_h", "response": {"error": "no"}}},
                {"text": "next"},
            ],
        },
    ]
    assert set(call.notes) == {
        "thinking of another issuer was left out",
        "a tool call's signature of another issuer was left out",
        "thinking without a signature was left out",
    }


@pytest.mark.parametrize(
    ("model", "signature"), [("gemini-2.5-pro", None), ("gemini-3-flash-preview", "skip_thought_signature_validator")]
)
def test_M7_a_running_loop_of_another_model_gets_the_word_that_stands_for_its_signature(
    model: str, signature: str | None
) -> None:
    calls = Message("assistant", (ToolCall("1", "f", {}), ToolCall("2", "f", {})))
    results = Message("tool", (ToolResult("1", "f", "1"), ToolResult("2", "f", "2")))
    parts = body_of(WIRE.encode(Request((*HELLO, calls, results)), Target("gemini", BASE, model)))["contents"][1][
        "parts"
    ]
    assert [part.get("thoughtSignature") for part in parts] == [signature, None]
    done = Request((*HELLO, calls, results, Message("assistant", (Text("ok"),)), *HELLO))
    assert b"thoughtSignature" not in WIRE.encode(done, Target("gemini", BASE, model)).body


@pytest.mark.parametrize(("model", "has_ids"), [("gemini-2.5-pro", False), ("gemini-3-flash-preview", True)])
def test_calls_and_results_are_paired_by_id_from_gemini_3_on(model: str, has_ids: bool) -> None:
    calls = Message("assistant", (ToolCall("a", "f", {}), ToolCall("b", "f", {})))
    results = Message("tool", (ToolResult("b", "f", "2"), ToolResult("a", "f", "1")))
    contents = body_of(WIRE.encode(Request((*HELLO, calls, results)), Target("gemini", BASE, model)))["contents"]
    called = [part["functionCall"].get("id") for part in contents[1]["parts"]]
    answered = [part["functionResponse"].get("id") for part in contents[2]["parts"]]
    assert called == answered == (["a", "b"] if has_ids else [None, None])


def test_tools_and_their_choice() -> None:
    def choice(word: str | None) -> Any:
        return body_of(WIRE.encode(Request(HELLO, tools=(SPEC,), tool_choice=word), TARGET)).get("toolConfig")

    sent = body_of(WIRE.encode(Request(HELLO, tools=(SPEC,)), TARGET))
    declared = {"name": "f", "description": "does f", "parametersJsonSchema": {"type": "object"}}
    assert sent["tools"] == [{"functionDeclarations": [declared]}]
    assert choice(None) is None
    assert choice("none") == {"functionCallingConfig": {"mode": "NONE"}}
    assert choice("required") == {"functionCallingConfig": {"mode": "ANY"}}
    assert choice("f") == {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}}


def test_an_output_schema_and_the_models_that_do_not_take_it_beside_tools() -> None:
    output = OutputSchema("x", {"type": "object", "title": "Findme"})
    config = body_of(WIRE.encode(Request(HELLO, output=output), TARGET))["generationConfig"]
    assert config == {"responseMimeType": "application/json", "responseJsonSchema": output.schema}
    both = Request(HELLO, output=output, tools=(SPEC,))
    assert "generationConfig" in body_of(WIRE.encode(both, Target("gemini", BASE, "gemini-3-pro")))
    sent = body_of(WIRE.encode(both, TARGET))
    assert "generationConfig" not in sent
    tool = sent["tools"][0]["functionDeclarations"][1]
    assert tool["parametersJsonSchema"] == output.schema
    assert sent["toolConfig"] == {"functionCallingConfig": {"mode": "ANY"}}


def test_thinking_budget_and_extra() -> None:
    request = Request(HELLO, temperature=0.5, extra={"generationConfig": {"topP": 0.9}, "safetySettings": []})
    sent = body_of(WIRE.encode(request, Target("gemini", BASE, "m", options={"thinking_budget": 100})))
    thinking = {"thinkingBudget": 100, "includeThoughts": True}
    assert sent["generationConfig"] == {"temperature": 0.5, "thinkingConfig": thinking, "topP": 0.9}
    assert sent["safetySettings"] == []


# ------------------------------------------------------------------------------------------------------------ decode

USAGE = {"promptTokenCount": 10, "candidatesTokenCount": 3, "thoughtsTokenCount": 4, "cachedContentTokenCount": 2}


def test_a_whole_answer_goes_back_as_it_came(reply: Any) -> None:
    parts: list[dict[str, Any]] = [
        {"text": "hm", "thought": True},
        {"text": "Hi"},
        {"functionCall": {"id": "c1", "name": "f", "args": {"a": 1}}, "thoughtSignature": "s1"},
        {"functionCall": {"name": "g"}},
        {"text": "", "thoughtSignature": "s2"},
    ]
    payload = chunk(*parts, finish="STOP", usageMetadata=USAGE, modelVersion="g-1", responseId="r1")
    answer = WIRE.decode(reply(payload), TARGET)
    assert isinstance(answer, Answer)
    own = TARGET.issuer
    second = answer.tool_calls[1]
    assert answer == Answer(
        (
            Thinking("hm", None, own),
            Text("Hi"),
            ToolCall("c1", "f", {"a": 1}, '{"a":1}', "s1", own),
            ToolCall(second.id, "g", {}, "{}"),
            Thinking("", "s2", own),
        ),
        Finish.TOOL_CALLS,
        "STOP",
        Usage(10, 7, 2, 4),
        "g-1",
        "r1",
    )
    history = (*HELLO, Message("assistant", answer.parts))
    sent = body_of(WIRE.encode(Request(history), TARGET))["contents"][1]["parts"]
    assert sent == [
        {"text": "Hi"},
        {"functionCall": {"name": "f", "args": {"a": 1}}, "thoughtSignature": "s1"},
        {"functionCall": {"name": "g", "args": {}}},
        {"text": "", "thoughtSignature": "s2"},
    ]


def test_thoughts_that_are_signed_one_by_one_stay_apart(read: Any, sse: Any) -> None:
    signed = [{"text": text, "thought": True, "thoughtSignature": f"s{text}"} for text in "ab"]
    answer = read(WIRE, [sse(chunk(signed[0]), chunk(signed[1]), chunk({"text": "x"}, finish="STOP"))], TARGET)[
        -1
    ].answer
    own = TARGET.issuer
    assert answer.parts == (Thinking("a", "sa", own), Thinking("b", "sb", own), Text("x"))


@pytest.mark.parametrize(
    ("raw", "finish"),
    [
        ("STOP", Finish.STOP), ("MAX_TOKENS", Finish.LENGTH), ("SAFETY", Finish.CONTENT_FILTER),
        ("RECITATION", Finish.CONTENT_FILTER), ("PROHIBITED_CONTENT", Finish.CONTENT_FILTER), ("OTHER", Finish.OTHER),
        ("LANGUAGE", Finish.OTHER), ("A_NEW_WORD", Finish.OTHER),
    ],
)  # fmt: skip
def test_M3_finish_reasons(raw: str, finish: Finish, reply: Any) -> None:
    answer = WIRE.decode(reply(chunk({"text": "x"}, finish=raw)), TARGET)
    assert isinstance(answer, Answer)
    assert (answer.finish, answer.raw_finish) == (finish, raw)


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (chunk(finish="MALFORMED_FUNCTION_CALL"), Kind.PROTOCOL),
        (chunk(finish="UNEXPECTED_TOOL_CALL"), Kind.PROTOCOL),
        (chunk(finish="MISSING_THOUGHT_SIGNATURE"), Kind.SIGNATURE),
        (chunk(finish="STOP"), Kind.PROTOCOL),
        (chunk({"text": ""}, finish="STOP"), Kind.PROTOCOL),
        ({"candidates": []}, Kind.PROTOCOL),
        ({"usageMetadata": USAGE}, Kind.PROTOCOL),
        ([], Kind.PROTOCOL),
        ({"error": {"code": 503, "status": "UNAVAILABLE", "message": "x"}}, Kind.OVERLOADED),
    ],
)
def test_what_is_no_answer(payload: Any, kind: Kind, reply: Any) -> None:
    failure = WIRE.decode(reply(payload), TARGET)
    assert isinstance(failure, Failure)
    assert failure.kind is kind


def test_what_was_said_without_a_reason_counts(reply: Any) -> None:
    answer = WIRE.decode(reply(chunk({"text": "x"})), TARGET)
    assert isinstance(answer, Answer)
    assert (answer.text, answer.finish, answer.raw_finish) == ("x", Finish.OTHER, None)


def test_limits_and_filters_may_leave_nothing(reply: Any) -> None:
    for reason in ("MAX_TOKENS", "SAFETY"):
        answer = WIRE.decode(reply({"candidates": [{"finishReason": reason}]}), TARGET)
        assert isinstance(answer, Answer)
        assert answer.parts == ()


def test_a_blocked_prompt_is_a_result(reply: Any, read: Any, sse: Any) -> None:
    payload = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 3}}
    expected = Answer((), Finish.CONTENT_FILTER, "SAFETY", Usage(3))
    assert WIRE.decode(reply(payload), TARGET) == expected
    assert read(WIRE, [sse(payload)]) == [Ended(expected)]


def test_a_stream_ends_with_its_finish_reason_and_waits_for_nothing(sse: Any) -> None:
    decoder = WIRE.decoder(TARGET)
    assert decoder.feed(sse(chunk({"text": "hm", "thought": True}))) == [ThinkingDelta("hm")]
    assert decoder.feed(sse(chunk({"text": "Hi"}))) == [TextDelta("Hi")]
    (ended,) = decoder.feed(sse(chunk({"text": ""}, finish="STOP", usageMetadata=USAGE)))
    assert isinstance(ended, Ended)
    assert ended.answer.usage == Usage(10, 7, 2, 4)


def test_S5_eof_before_it_is_cut(read: Any, sse: Any) -> None:
    whole = sse(chunk({"text": "Hi"}, usageMetadata=USAGE), chunk({"text": "!"}, finish="STOP"))
    assert isinstance(read(WIRE, [whole])[-1], Ended)
    for body in (whole[: whole.index(b"\n\n") + 2], whole[:-1], b"", b"[{", b"data: [DONE]\n\n"):
        assert read(WIRE, [body])[-1].failure.kind is Kind.CUT


def test_a_stream_without_alt_sse_is_one_json_array(read: Any, reply: Any) -> None:
    body = json.dumps(
        [chunk({"text": "Hi"}), chunk({"text": "!"}, finish="STOP", usageMetadata=USAGE)], indent=1
    ).encode()
    events = read(WIRE, [body])
    assert events[:-1] == [TextDelta("Hi"), TextDelta("!")]
    assert events[-1].answer.text == "Hi!"
    assert read(WIRE, [body[i : i + 1] for i in range(len(body))]) == events
    assert WIRE.decode(reply(body), TARGET) == events[-1].answer
    stump = json.dumps([chunk({"text": "Hi"}), chunk({"text": "!"})]).encode()
    assert read(WIRE, [stump])[-1].failure.kind is Kind.CUT


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"code": 503, "status": "UNAVAILABLE", "message": "high demand"}, Kind.OVERLOADED),
        ({"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "x"}, Kind.RATE_LIMIT),
        ({"code": 500, "status": "INTERNAL", "message": "x"}, Kind.TRANSIENT),
        ({"code": 400, "message": "x"}, Kind.BAD_REQUEST),
        ({"message": "x"}, Kind.TRANSIENT),
    ],
)
def test_errors_inside_a_stream(error: Any, kind: Kind, read: Any, sse: Any) -> None:
    for before in ((), (chunk({"text": "x"}),)):
        assert read(WIRE, [sse(*before, {"error": error})])[-1].failure.kind is kind


def call(name: str = "", more: bool = False, **partial: Any) -> dict[str, Any]:
    function: dict[str, Any] = {"partialArgs": [partial]} if partial else {}
    return {
        "functionCall": {**function, **({"name": name} if name else {}), **({"willContinue": True} if more else {})}
    }


def test_calls_whose_arguments_come_in_pieces(read: Any, sse: Any) -> None:
    events = read(
        WIRE,
        [
            sse(
                chunk({**call("f", True), "thoughtSignature": "s"}),
                chunk(call("", True, jsonPath="$.items[0].name", stringValue="ap", willContinue=True)),
                chunk(call("", True, jsonPath="$.items[0].price", numberValue=0.5)),
                chunk(call("", True, jsonPath="$.items[0].name", stringValue="ple", willContinue=True)),
                chunk(call("", True, jsonPath="$.items[0].name", stringValue="")),
                chunk(call("", True, jsonPath="$.items[1].ok", boolValue=True)),
                chunk(call("", True, jsonPath="$['odd.key']", nullValue=None)),
                chunk(call()),
                chunk(call("g")),
                chunk(finish="STOP"),
            )
        ],
    )
    one, two = (event.call for event in events if isinstance(event, ToolCallReady))
    assert one.arguments == {"items": [{"name": "apple", "price": 0.5}, {"ok": True}], "odd.key": None}
    assert list(one.arguments["items"][0]) == ["name", "price"]
    assert (one.name, one.signature) == ("f", "s")
    assert (two.name, two.arguments) == ("g", {})
    assert events[0] == Progress()
    assert events[-1].answer.tool_calls == (one, two)


def test_M2_a_call_that_the_limit_cut_off_is_never_ready(read: Any, sse: Any) -> None:
    pieces = (chunk(call("f", True)), chunk(call("", True, jsonPath="$.a", stringValue="b", willContinue=True)))
    events = read(WIRE, [sse(*pieces, chunk(finish="MAX_TOKENS"))])
    assert not [event for event in events if isinstance(event, ToolCallReady)]
    assert events[-1].answer.tool_calls[0].arguments is None


@pytest.mark.parametrize("path", ["", "$", "a", "$[0]", "$.a[999999]", "$.a[1]", "$.a.b.c[", "$" + ".a" * 1_000])
def test_a_path_that_leads_nowhere_does_no_harm(path: str, read: Any, sse: Any) -> None:
    events = read(
        WIRE,
        [sse(chunk(call("f", True)), chunk(call("", False, jsonPath=path, stringValue="x")), chunk(finish="STOP"))],
    )
    assert isinstance(events[-1].answer.tool_calls[0].arguments, dict)


def test_what_its_own_tools_said_is_part_of_the_input(reply: Any) -> None:
    """https://ai.google.dev/api/generate-content#UsageMetadata: counted beside the prompt, and paid like it."""
    for usage, known in ((USAGE | {"toolUsePromptTokenCount": 5}, 15), ({"toolUsePromptTokenCount": 5}, 5), ({}, None)):
        answer = WIRE.decode(reply(chunk({"text": "Hi"}, finish="STOP", usageMetadata=usage)), TARGET)
        assert isinstance(answer, Answer)
        assert answer.usage.input_tokens == known


@pytest.mark.parametrize("image", [Image(data=b"GIF89a"), Image(url="https://x/y.gif")])
def test_a_gif_is_not_shown(image: Image) -> None:
    call = WIRE.encode(Request((Message("user", (Text("Look"), image)),)), TARGET)
    assert body_of(call)["contents"][0]["parts"] == [{"text": "Look"}, {"text": "(An image that cannot be shown.)"}]
    assert call.notes == ("a GIF was left out: this vendor takes none",)
