"""Rendering, without any shell: the shapes are those that vendors were recorded sending."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.testing import Cut, Reply, Seen, Status, StreamError, ToolCalls
from cortex.testing.dialects import DIALECTS, OLLAMA, OPENAI_RESPONSES, Call
from cortex.testing.play import Data, End, Head, Stage, play

SPOKEN = {**DIALECTS, OPENAI_RESPONSES.name: OPENAI_RESPONSES, OLLAMA.name: OLLAMA}
FOLDERS = {
    "openai": "openai_chat",
    "openai_responses": "openai_responses",
    "anthropic": "anthropic",
    "gemini": "gemini",
    "ollama": "ollama_native",
}
# What we send and no recorded answer of the vendor itself happens to have.
OURS = {
    "openai": {"choices.[].delta.reasoning_content"},
    # No recorded stream of it thinks or calls; there its names are those of its whole replies.
    "ollama": {
        "message.thinking",
        "message.tool_calls",
        *(f"message.tool_calls.[].{name}" for name in ("id", "function", "function.index", "function.name")),
        "message.tool_calls.[].function.arguments",
    },
}
REPLIES = [
    Reply("Paris is nice."),
    Reply("Paris is nice.", thinking="Let me think."),
    ToolCalls(("weather", {"city": "Paris"}), ("news", {}), text="So."),
    Reply("Cut", finish="length"),
]
NEVER_OPENED = {"input", "args", "arguments"}  # below these the names are the caller's


def staged(dialect: str, *, stream: bool, sse: bool = True, text: str = "hi there") -> Stage:
    call = Call(model="model-1", text=text, stream=stream, sse=sse, usage=True)
    seen = Seen("POST", "/", "", {}, {}, text, "model-1", stream, 0.0, 1)
    return Stage(SPOKEN[dialect], call, seen, "01000001")


def sent(action: Any, stage: Stage) -> tuple[Head, bytes]:
    head, *rest = play(action, stage)
    assert isinstance(head, Head)
    assert isinstance(rest[-1], End)
    return head, b"".join(step.data for step in rest if isinstance(step, Data))


def values(body: str) -> list[Any]:
    """The JSON values of a body: itself, or those of its events."""
    lines = body.replace("\r\n", "\n").split("\n")
    events = [line[5:] for line in lines if line.startswith("data:") and "[DONE]" not in line]
    if not events:
        first = lines[0].startswith("{") and lines[0].endswith("}")
        events = lines if first else [body]
    found = []
    for text in events:
        try:
            value = json.loads(text)
        except ValueError:
            continue
        found += value if isinstance(value, list) else [value]
    return found


def paths(value: Any, at: str = "") -> set[str]:
    """The names in a value, with the way to each: {"a": [{"b": 1}]} -> {"a", "a.[].b"}."""
    if isinstance(value, dict):
        found = set()
        for name, inner in value.items():
            here = f"{at}.{name}" if at else name
            found |= {here} if name in NEVER_OPENED else {here} | paths(inner, here)
        return found
    if isinstance(value, list):
        return set().union(*(paths(inner, f"{at}.[]") for inner in value))
    return set()


@pytest.fixture(scope="module")
def recorded() -> Path:
    root = Path(os.environ.get("CORTEX_WIRE_DATA") or Path(__file__).parents[4] / "shared" / "wire")
    if not root.is_dir():
        pytest.skip("no recorded exchanges here: CORTEX_WIRE_DATA names no folder")
    return root


@pytest.mark.parametrize("dialect", FOLDERS)
@pytest.mark.parametrize("kind", ["json", "sse", "error"])
def test_no_name_that_no_vendor_sends(recorded, dialect, kind) -> None:
    known = set(OURS.get(dialect, ()))
    for file in (recorded / FOLDERS[dialect]).glob("*.json"):
        case = json.loads(file.read_text())
        if (case["response"]["status"] != 200) == (kind == "error") and (kind == "error" or f"-{kind}-" in file.name):
            for value in values(case["response"]["body"] or ""):
                known |= paths(value)
    actions = [Status(code) for code in (400, 401, 404, 429, 500, 503)] if kind == "error" else REPLIES
    for action in actions:
        _, body = sent(action, staged(dialect, stream=kind == "sse"))
        for value in values(body.decode()):
            assert paths(value) <= known


def test_order_of_an_openai_stream() -> None:
    _, body = sent(Reply("a b"), staged("openai", stream=True))
    *events, last = [line[6:] for line in body.decode().split("\n") if line]
    choices = [json.loads(event)["choices"] for event in events]
    assert [choice[0]["delta"] for choice in choices[:-1]] == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "a"},
        {"content": " b"},
        {},
    ]
    assert choices[-1] == []
    assert json.loads(events[-1])["usage"]["total_tokens"] == 4
    assert last == "[DONE]"


def test_order_of_a_responses_stream() -> None:
    action = ToolCalls(("f", {"a": 1}), text="a b", thinking="t")
    _, body = sent(action, staged("openai_responses", stream=True))
    events = values(body.decode())
    names = [line[7:] for line in body.decode().split("\n") if line.startswith("event: ")]
    assert names == [event["type"] for event in events]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [name.removeprefix("response.") for name in names] == [
        "created", "in_progress",
        "output_item.added", "reasoning_summary_part.added", "reasoning_summary_text.delta",
        "reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done",
        "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done",
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done",
        "completed",
    ]  # fmt: skip
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == events[-1]["response"]["output"]
    assert [event["output_index"] for event in events[2:-1]] == [0] * 6 + [1] * 7 + [2] * 4


@pytest.mark.parametrize(("finish", "name"), [("length", "incomplete"), ("refusal", "completed")])
def test_the_last_event_of_a_responses_stream_is_named_after_its_end(finish, name) -> None:
    _, body = sent(Reply("no", finish=finish), staged("openai_responses", stream=True))
    last = values(body.decode())[-1]
    assert (last["type"], last["response"]["status"]) == (f"response.{name}", name)
    kinds = {part["type"] for part in last["response"]["output"][0]["content"]}
    assert kinds == {"refusal" if finish == "refusal" else "output_text"}


def test_order_of_an_anthropic_stream() -> None:
    action = ToolCalls(("f", {"a": 1}), text="a", thinking="t")
    _, body = sent(action, staged("anthropic", stream=True))
    events = values(body.decode())
    names = [line[7:] for line in body.decode().split("\n") if line.startswith("event: ")]
    assert names == [event["type"] for event in events]
    assert [name.removeprefix("content_block_") for name in names] == [
        "message_start", "start", "ping", "delta", "delta", "stop", "start", "delta", "stop",
        "start", "delta", "delta", "stop", "message_delta", "message_stop",
    ]  # fmt: skip
    deltas = [event["delta"]["type"] for event in events if event["type"] == "content_block_delta"]
    assert deltas == ["thinking_delta", "signature_delta", "text_delta", "input_json_delta", "input_json_delta"]
    assert [event["index"] for event in events if event["type"] == "content_block_start"] == [0, 1, 2]


def test_order_of_a_stream_of_lines() -> None:
    action = ToolCalls(("f", {"a": 1}), ("g", {}), text="a b", thinking="t")
    head, body = sent(action, staged("ollama", stream=True))
    assert dict(head.headers)["content-type"] == "application/x-ndjson"
    *pieces, last = map(json.loads, body.decode().splitlines())
    assert [row["done"] for row in (*pieces, last)] == [False] * 5 + [True]
    told = [
        {**row["message"], "tool_calls": [c["function"] for c in row["message"].get("tool_calls", ())]}
        for row in pieces
    ]
    assert [{name: value for name, value in row.items() if value and name != "role"} for row in told] == [
        {"thinking": "t"},
        {"content": "a"},
        {"content": " b"},
        {"tool_calls": [{"index": 0, "name": "f", "arguments": {"a": 1}}]},
        {"tool_calls": [{"index": 1, "name": "g", "arguments": {}}]},
    ]
    assert (last["message"]["content"], last["done_reason"], last["prompt_eval_count"]) == ("", "stop", 2)


def test_ollama_streams_unless_told_otherwise() -> None:
    for fields, stream in (({}, True), ({"stream": True}, True), ({"stream": False}, False)):
        call = OLLAMA.parse("/api/chat", "", {"model": "m", **fields})
        assert call is not None
        assert (call.model, call.stream) == ("m", stream)


def test_gemini_without_sse_is_one_array() -> None:
    head, body = sent(Reply("a b"), staged("gemini", stream=True, sse=False))
    assert dict(head.headers)["content-type"] == "application/json; charset=UTF-8"
    parts = [part["text"] for event in json.loads(body) for part in event["candidates"][0]["content"]["parts"]]
    assert parts == ["a", " b", ""]


@pytest.mark.parametrize("after", [0, 1, 9])
def test_an_error_in_an_array_leaves_it_whole(after) -> None:
    _, body = sent(StreamError(after, "UNAVAILABLE", "no"), staged("gemini", stream=True, sse=False))
    assert json.loads(body)[-1] == {"error": {"code": 503, "message": "no", "status": "UNAVAILABLE"}}


@pytest.mark.parametrize("dialect", FOLDERS)
def test_an_error_in_a_stream_is_a_status_without_one(dialect) -> None:
    head, body = sent(StreamError(message="no"), staged(dialect, stream=False))
    usual = {"openai": 500, "openai_responses": 500, "anthropic": 529, "gemini": 503, "ollama": 500}
    assert head.status == usual[dialect]
    told = json.loads(body)["error"]
    assert (told if dialect == "ollama" else told["message"]) == "no"


@pytest.mark.parametrize(
    ("finish", "raw"),
    [
        (
            "stop",
            {
                "openai": "stop",
                "openai_responses": "completed",
                "anthropic": "end_turn",
                "gemini": "STOP",
                "ollama": "stop",
            },
        ),
        (
            "length",
            {
                "openai": "length",
                "openai_responses": "max_output_tokens",
                "anthropic": "max_tokens",
                "gemini": "MAX_TOKENS",
                "ollama": "length",
            },
        ),
        (
            "content_filter",
            {
                "openai": "content_filter",
                "openai_responses": "content_filter",
                "anthropic": "refusal",
                "gemini": "SAFETY",
                "ollama": "stop",
            },
        ),
        ("a_new_one", dict.fromkeys(FOLDERS, "a_new_one")),
        ("", dict.fromkeys(FOLDERS, None)),
    ],
)
@pytest.mark.parametrize("dialect", FOLDERS)
def test_finish_reasons(dialect, finish, raw) -> None:
    _, body = sent(Reply("a", finish=finish), staged(dialect, stream=False))
    answer = json.loads(body)
    where = {
        "openai": lambda: answer["choices"][0]["finish_reason"],
        "openai_responses": lambda: (answer["incomplete_details"] or {}).get("reason") or answer["status"],
        "anthropic": lambda: answer["stop_reason"],
        "gemini": lambda: answer["candidates"][0].get("finishReason"),
        "ollama": lambda: answer.get("done_reason"),
    }
    assert where[dialect]() == raw[dialect]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("dialect", FOLDERS)
def test_no_usage_when_none(dialect, stream) -> None:
    _, body = sent(Reply("a", usage=None), staged(dialect, stream=stream))
    for value in values(body.decode()):
        assert not value.get("usage")
        assert not value.get("response", {}).get("usage")
        assert "usageMetadata" not in value
        assert "eval_count" not in value


@pytest.mark.parametrize("dialect", FOLDERS)
def test_the_callers_headers_take_the_vendors_place(dialect) -> None:
    latin = "text/event-stream; charset=iso-8859-1"
    head, _ = sent(Reply("a", headers={"Content-Type": latin, "X-New": 1}), staged(dialect, stream=True))
    assert [value for name, value in head.headers if name == "content-type"] == [latin]
    assert ("x-new", "1") in head.headers


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "a"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}]}, "a"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": [{"type": "tool_result"}]}]}, "a"),
        ({"messages": 7}, ""),
        ([], ""),
        (None, ""),
    ],
)
@pytest.mark.parametrize(
    ("dialect", "path", "field"),
    [
        ("openai", "/v1/chat/completions", "messages"),
        ("openai_responses", "/v1/responses", "input"),
        ("ollama", "/api/chat", "messages"),
        ("anthropic", "/v1/messages", "messages"),
    ],
)
def test_the_last_user_text(dialect, path, field, body, text) -> None:
    if isinstance(body, dict):
        body = {field: body["messages"]}
    call = SPOKEN[dialect].parse(path, "", body)
    assert call is not None
    assert call.text == text


@given(
    text=st.text(st.characters()),
    stream=st.booleans(),
    size=st.none() | st.integers(1, 5),
    dialect=st.sampled_from([*FOLDERS]),
)
def test_any_text_arrives_whole(text, stream, size, dialect) -> None:
    _, body = sent(Reply(text, chunks=size), staged(dialect, stream=stream))
    got = ""
    for value in values(body.decode()):
        if dialect == "openai_responses":
            got += value.get("delta", "") + "".join(
                part["text"] for item in value.get("output", ()) for part in item.get("content", ())
            )
        elif dialect == "openai":
            said = [row["delta"] if stream else row["message"] for row in value["choices"]]
            got += "".join(row.get("content") or "" for row in said)
        elif dialect == "ollama":
            got += value["message"]["content"]
        elif dialect == "anthropic":
            got += str(value.get("delta", {}).get("text", ""))
            got += "".join(block["text"] for block in value.get("content", ()))
        else:
            got += "".join(part["text"] for part in value["candidates"][0]["content"].get("parts", ()))
    assert got == text


@given(
    after=st.integers(0, 30) | st.floats(0, 1) | st.just("headers"),
    stream=st.booleans(),
    sse=st.booleans(),
    dialect=st.sampled_from([*FOLDERS]),
    reply=st.sampled_from(REPLIES),
)
def test_a_cut_answer_is_a_beginning_of_the_whole_one(after, stream, sse, dialect, reply) -> None:
    stage = staged(dialect, stream=stream, sse=sse)
    _, whole = sent(reply, stage)
    _, cut = sent(Cut(after, "clean", reply=reply), stage)
    assert whole.startswith(cut)
    if not isinstance(after, float):
        assert len(cut) < len(whole)
