"""Ollama's own dialect: what is sent, and what is read from its JSON lines."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cortex.messages import (
    Answer,
    Broken,
    Ended,
    Finish,
    Image,
    Issuer,
    Kind,
    Message,
    OutputSchema,
    Phase,
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
from cortex.wire.codec import Target
from cortex.wire.ndjson import NdjsonDecoder
from cortex.wire.ollama import OllamaFold

WIRE = WIRES["ollama"]
TARGET = Target("local", "http://box:11434", "qwen3:8b")
HEAD = {"model": "qwen3:8b", "created_at": "2026-01-01T00:00:00Z"}
TOOL = ToolSpec("f", "d", {"type": "object", "properties": {"a": {"type": "integer"}}})
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def user(*parts: Any) -> Message:
    return Message("user", parts)


def body_of(request: Request, target: Target = TARGET) -> dict[str, Any]:
    return json.loads(WIRE.encode(request, target).body)


def line(done: bool = False, **message: Any) -> dict[str, Any]:
    return {**HEAD, "message": {"role": "assistant", "content": "", **message}, "done": done}


def last(reason: str | None = "stop", **message: Any) -> dict[str, Any]:
    counts = {"prompt_eval_count": 3, "eval_count": 2}
    return {**line(True, **message), **({"done_reason": reason} if reason else {}), **counts}


def lines(*payloads: Any) -> bytes:
    return b"".join(json.dumps(payload).encode() + b"\n" for payload in payloads)


def call(name: str, arguments: Any, **more: Any) -> dict[str, Any]:
    return {**more, "function": {"name": name, "arguments": arguments}}


# ------------------------------------------------------------------------------------------------------------ encode


def test_a_conversation() -> None:
    issuer = TARGET.issuer
    request = Request(
        (
            user(Text("Add."), Image(data=b"\x89PNG")),
            Message("assistant", (Thinking("Hm.", None, issuer), ToolCall("c1", "f", {"a": 1}), ToolCall("c2", "f"))),
            Message("tool", (ToolResult("c2", "f", "two"), ToolResult("c1", "f", ""))),
        ),
        system="Be brief.",
        tools=(TOOL,),
    )
    call = WIRE.encode(request, TARGET)
    assert (call.method, call.url, call.notes) == ("POST", "http://box:11434/api/chat", ())
    assert json.loads(call.body) == {
        "model": "qwen3:8b",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Add.", "images": ["iVBORw=="]},
            {
                "role": "assistant",
                "content": "",
                "thinking": "Hm.",
                "tool_calls": [
                    {"id": "c1", "function": {"name": "f", "arguments": {"a": 1}}},
                    {"id": "c2", "function": {"name": "f", "arguments": {}}},
                ],
            },
            {"role": "tool", "tool_name": "f", "tool_call_id": "c1", "content": "(no output)"},
            {"role": "tool", "tool_name": "f", "tool_call_id": "c2", "content": "two"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": TOOL.parameters}}],
        "truncate": False,
        "stream": False,
    }


def test_json_and_streams_are_asked_for() -> None:
    for stream, accept in ((False, "application/json"), (True, "application/x-ndjson")):
        call = WIRE.encode(Request((user(Text("hi")),), stream=stream), TARGET)
        assert json.loads(call.body)["stream"] is stream
        assert dict(call.headers)["accept"] == accept
        assert "authorization" not in dict(call.headers)


def test_a_key_is_told_and_kept_out_of_sight() -> None:
    target = Target("local", "https://ollama.com", "m", api_key="secret-1")
    call = WIRE.encode(Request((user(Text("hi")),)), target)
    assert dict(call.headers)["authorization"] == "Bearer secret-1"
    assert "secret-1" not in repr(call)


@pytest.mark.parametrize("path", ["", "/api", "/v1"])
def test_any_address_of_the_server_will_do(path: str) -> None:
    target = Target("local", f"http://box:11434{path}", "m")
    assert WIRE.encode(Request((user(Text("hi")),)), target).url == "http://box:11434/api/chat"
    assert WIRE.probe(target).url == "http://box:11434/api/version"


def test_thinking_goes_back_in_a_running_tool_loop_only() -> None:
    thought = Thinking("Hm.", None, TARGET.issuer)
    loop = (
        user(Text("hi")),
        Message("assistant", (thought, ToolCall("c", "f", {}))),
        Message("tool", (ToolResult("c", "f", "x"),)),
    )
    assert body_of(Request(loop))["messages"][1]["thinking"] == "Hm."
    over = (*loop, Message("assistant", (Text("done"),)), user(Text("and now?")))
    call = WIRE.encode(Request(over), TARGET)
    assert b"Hm." not in call.body
    assert call.notes == ("thinking of earlier answers was left out: only a running tool loop takes it back",)
    foreign = (loop[0], Message("assistant", (Thinking("Hm.", None, Issuer("q", "m")), *loop[1].parts[1:])), loop[2])
    assert b"Hm." not in WIRE.encode(Request(foreign), TARGET).body


def test_an_image_at_a_url_is_told_to_the_model_and_in_a_note() -> None:
    for parts, said in (
        ((Text("What is it?"), Image(url="https://x/y.png")), "What is it?\n\n(An image that cannot be shown.)"),
        ((Image(url="https://x/y.png"),), "(An image that cannot be shown.)"),
    ):
        call = WIRE.encode(Request((user(*parts),)), TARGET)
        assert json.loads(call.body)["messages"] == [{"role": "user", "content": said}]
        assert call.notes == ("an image at a URL was left out: this dialect takes only an image's bytes",)
    inline = body_of(Request((user(Image(url="data:image/png;base64,iVBORw==")),)))
    assert inline["messages"] == [{"role": "user", "content": "", "images": ["iVBORw=="]}]


def test_a_schema_is_the_format_or_told_in_words_beside_tools() -> None:
    asked = Request((user(Text("hi")),), system="Be brief.", output=OutputSchema("x", SCHEMA))
    assert body_of(asked)["format"] == SCHEMA
    assert body_of(asked)["messages"][0] == {"role": "system", "content": "Be brief."}
    beside = Request((user(Text("hi")),), tools=(TOOL,), output=OutputSchema("x", SCHEMA))
    call = WIRE.encode(beside, TARGET)
    body = json.loads(call.body)
    assert "format" not in body
    assert json.dumps(SCHEMA, separators=(",", ":")) in body["messages"][0]["content"]
    assert call.notes == ("the output schema was told in words: this vendor does not take it beside tools",)
    unused = Request((user(Text("hi")),), tools=(TOOL,), tool_choice="none", output=OutputSchema("x", SCHEMA))
    assert body_of(unused)["format"] == SCHEMA


@pytest.mark.parametrize(
    ("model", "thinks"),
    [
        ("qwen3", True),
        ("qwen3.6:latest", True),
        ("qwen3-vl:8b", True),
        ("qwen3-vl:8b-instruct", False),
        ("qwen3-coder:480b-cloud", False),
        ("qwen2.5:7b", False),
        ("deepseek-r1:1.5b", True),
        ("deepseek-v3.1:671b", True),
        ("deepseek-coder:6.7b", False),
        ("magistral", True),
        ("glm-4.7-flash", True),
        ("kimi-k2-thinking:cloud", True),
        ("gemma3:4b", False),
        ("gemma4:e4b", True),
        ("llama3.3", False),
        ("mistral-small3.2", False),
        ("nemotron-3-nano:30b", True),
        ("nemotron-mini", False),
        ("smallthinker", False),
    ],
)
def test_who_can_be_asked_to_think(model: str, thinks: bool) -> None:
    body = body_of(Request((user(Text("hi")),), effort="high"), Target("local", "http://box", model))
    assert body.get("think") is (True if thinks else None)


# ------------------------------------------------------------------------------------------------------------ decode


def test_a_whole_reply(reply: Any) -> None:
    answer = WIRE.decode(reply(last(content="Hi", thinking="Hm.")), TARGET)
    parts = (Thinking("Hm.", None, TARGET.issuer), Text("Hi"))
    assert answer == Answer(parts, Finish.STOP, "stop", Usage(3, 2), "qwen3:8b")


@pytest.mark.parametrize(
    ("reason", "finish"),
    [("stop", Finish.STOP), ("length", Finish.LENGTH), (None, Finish.STOP), ("a_new_one", Finish.OTHER)],
)
def test_reasons(reason: str | None, finish: Finish, reply: Any, read: Any) -> None:
    answer = WIRE.decode(reply(last(reason, content="Hi")), TARGET)
    assert (answer.finish, answer.raw_finish) == (finish, reason)
    assert read(WIRE, [lines(line(content="Hi"), last(reason))], TARGET)[-1].answer == answer


def test_a_stream(read: Any) -> None:
    stream = lines(line(thinking="Hm"), line(thinking="."), line(content="Hel"), line(content="lo"), last())
    assert read(WIRE, [stream], TARGET) == [
        ThinkingDelta("Hm"),
        ThinkingDelta("."),
        TextDelta("Hel"),
        TextDelta("lo"),
        Ended(
            Answer((Thinking("Hm.", None, TARGET.issuer), Text("Hello")), Finish.STOP, "stop", Usage(3, 2), "qwen3:8b")
        ),
    ]


def test_calls_come_whole_with_an_id_or_get_one(reply: Any, read: Any) -> None:
    calls = [call("f", {"a": 1}), call("f", {"a": 1}), call("g", {}, id="call_9"), call("h", '{"b": 2}')]
    answer = WIRE.decode(reply(last(tool_calls=calls)), TARGET)
    assert answer.finish is Finish.TOOL_CALLS
    assert [(one.name, one.arguments) for one in answer.tool_calls] == [
        ("f", {"a": 1}),
        ("f", {"a": 1}),
        ("g", {}),
        ("h", {"b": 2}),
    ]
    idents = [one.id for one in answer.tool_calls]
    assert len(set(idents)) == 4
    assert idents[2] == "call_9"
    events = read(WIRE, [lines(line(tool_calls=calls[:1]), line(tool_calls=calls[1:]), last())], TARGET)
    assert events[-1].answer.tool_calls == answer.tool_calls, "the same ids, whole or streamed"
    assert events[:-1] == [ToolCallReady(one) for one in answer.tool_calls]
    later = WIRE.decode(reply({**last(tool_calls=calls), "created_at": "2026-01-01T00:00:01Z"}), TARGET)
    assert later.tool_calls[0].id != idents[0], "another answer's call is another call"


@pytest.mark.parametrize("payload", [{}, [], {"choices": []}, {"message": {"content": "x"}}, line(content="x"), 7])
def test_what_is_not_done_is_no_answer(payload: Any, reply: Any) -> None:
    assert WIRE.decode(reply(payload), TARGET).kind is Kind.PROTOCOL


@pytest.mark.parametrize("reason", ["load", "unload"])
def test_a_model_that_was_only_moved_has_answered_nothing(reason: str, reply: Any, read: Any) -> None:
    assert WIRE.decode(reply(last(reason)), TARGET).kind is Kind.PROTOCOL
    assert read(WIRE, [lines(last(reason))])[-1].failure.kind is Kind.PROTOCOL


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (404, "model 'm' not found", Kind.MODEL_GONE),
        (404, 'model "m" not found, try pulling it first', Kind.MODEL_GONE),
        (404, "404 page not found", Kind.ROUTE_GONE),
        (400, '"llama3" does not support thinking', Kind.BAD_REQUEST),
        (400, "the input length exceeds the context length", Kind.CONTEXT),
        (401, "unauthorized", Kind.CREDENTIAL),
        (429, "you've reached your hourly usage limit, please upgrade to continue", Kind.QUOTA),
        (429, "too many requests", Kind.RATE_LIMIT),
        (500, "model requires more system memory (5.6 GiB) than is available (3.1 GiB)", Kind.TRANSIENT),
        (503, "server busy, please try again.  maximum pending requests exceeded", Kind.OVERLOADED),
    ],
)
def test_errors_are_a_text(status: int, message: str, kind: Kind, reply: Any) -> None:
    failure = WIRE.decode(reply({"error": message}, status), TARGET)
    assert (failure.kind, failure.message, failure.status) == (kind, message, status)


def test_errors_inside_a_200(read: Any, reply: Any) -> None:
    message = "an error was encountered while running the model: unexpected EOF"
    for before in ([], [line(content="x")]):
        failure = read(WIRE, [lines(*before, {"error": message}, last())], TARGET)[-1].failure
        assert (failure.kind, failure.message, failure.phase) == (Kind.TRANSIENT, message, Phase.STREAM)
    assert WIRE.decode(reply({"error": message}), TARGET).kind is Kind.TRANSIENT


# ------------------------------------------------------------------------------------------------------------- lines


def test_a_stream_that_ends_before_done_was_cut(read: Any) -> None:
    stream = lines(line(content="Hi"), line(tool_calls=[call("f", {})]), last())
    for place in range(len(stream) - 1):
        verdict = read(WIRE, [stream[:place]], TARGET)[-1]
        assert isinstance(verdict, Broken)
        assert verdict.failure.kind is Kind.CUT
    whole = read(WIRE, [stream], TARGET)
    assert isinstance(whole[-1], Ended)
    assert read(WIRE, [stream[:-1]], TARGET) == whole, "nothing is lost with the last line's end"


def test_only_a_line_feed_ends_a_line(read: Any) -> None:
    odd = "a\u2028b\u0085c\x0cd"
    raw = json.dumps(line(content=odd), ensure_ascii=False).encode()
    stream = b"\xef\xbb\xbf" + raw + b"\r\n\r\n \n" + lines(last()).replace(b"\n", b"\r\n")
    assert read(WIRE, [stream])[-1].answer.text == odd
    assert read(WIRE, [stream[i : i + 1] for i in range(len(stream))]) == read(WIRE, [stream])


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"not JSON\n", Kind.PROTOCOL),
        (b"[]\n", Kind.PROTOCOL),
        (b"\xff\n", Kind.PROTOCOL),
        (b"<html>sign in</html>", Kind.NOT_API),
        (b"  <html>\n<p>sign in</html>", Kind.NOT_API),
        (b"", Kind.CUT),
        (b"\n\n", Kind.CUT),
    ],
)
def test_what_is_no_stream_of_lines(body: bytes, kind: Kind, read: Any) -> None:
    assert read(WIRE, [body])[-1].failure.kind is kind


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_is_bounded(end: bytes) -> None:
    for size, kind in ((99, Kind.CUT), (101, Kind.PROTOCOL)):
        decoder = NdjsonDecoder(OllamaFold(TARGET), limit=100)
        body = b'{"message":{}' + b" " * (size - 14) + b"}" + end
        events = [event for byte in body for event in decoder.feed(bytes([byte]))]
        verdict = [*events, *decoder.close()][-1]
        assert verdict.failure.kind is kind
