"""Whatever a server sends, and however it is cut: a value comes out, nothing is raised, and in linear time."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.messages import Answer, Broken, Ended, Failure, Kind, StreamEvent, TextDelta
from cortex.wire import WIRES
from cortex.wire.codec import HttpReply, Target

KINDS = ("openai_chat", "openai_responses", "anthropic", "gemini", "ollama")
TARGET = Target("p", "https://h/v1", "m", api_key="k")

WHOLE_CALL = {"index": 0, "name": "f", "arguments": {"a": 1}}
SAYS = {"content": "x", "thinking": "y", "tool_calls": [{"function": WHOLE_CALL}]}
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "input_tokens": 3, "output_tokens": 4, "promptTokenCount": 5}
FUNCTION = {"name": "f", "arguments": '{"a": 1}'}
CALL = {"index": 0, "id": "c1", "type": "function", "function": FUNCTION}
DELTA = {"content": "x", "reasoning": "y", "refusal": None, "tool_calls": [CALL]}
BLOCK = {"type": "tool_use", "id": "t", "name": "f"}
THOUGHT = {"type": "thinking", "thinking": "", "signature": "s"}
PART = {"text": "x", "thought": True, "thoughtSignature": "s"}
WHOLE = {"name": "f", "args": {"a": 1}}
SAID = {"type": "message", "id": "i", "content": [{"type": "output_text", "text": "x"}, {"refusal": "no"}]}
THINKS = {"type": "reasoning", "id": "r", "summary": [{"text": "t"}], "content": [], "encrypted_content": "e"}
DOES = {"type": "function_call", "id": "fc", "call_id": "c1", **FUNCTION}
RESPONSE = {"id": "r", "model": "m", "status": "completed", "output": [SAID, THINKS, DOES], "usage": USAGE}
PIECE = {"partialArgs": [{"jsonPath": "$.a", "stringValue": "b"}]}
SAMPLES: dict[str, list[Any]] = {  # whole replies and the chunks of streams, one of each thing a dialect says
    "openai_chat": [
        {"id": "c", "model": "m", "choices": [{"index": 0, "message": DELTA, "finish_reason": "stop"}], "usage": USAGE},
        {"id": "c", "model": "m", "choices": [{"index": 0, "delta": DELTA, "finish_reason": None}], "usage": None},
        {"choices": [{"index": 0, "delta": {"content": [{"type": "thinking", "thinking": [{"text": "t"}]}]}}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
        {"choices": [], "usage": USAGE},
        {"error": {"message": "x", "type": "server_error", "code": 500}},
    ],
    "openai_responses": [
        RESPONSE,
        {"type": "response.completed", "response": RESPONSE},
        {"type": "response.incomplete", "response": {"incomplete_details": {"reason": "max_output_tokens"}}},
        {"type": "response.created", "response": {"id": "r", "status": "in_progress"}},
        *({"type": "response.output_item.added", "output_index": 0, "item": item} for item in (SAID, THINKS, DOES)),
        *({"type": "response.output_item.done", "output_index": 0, "item": item} for item in (SAID, THINKS, DOES)),
        {"type": "response.output_text.delta", "output_index": 0, "item_id": "i", "content_index": 0, "delta": "x"},
        {"type": "response.refusal.delta", "output_index": 0, "item_id": "i", "content_index": 1, "delta": "x"},
        {"type": "response.reasoning_summary_text.delta", "item_id": "r", "summary_index": 1, "delta": "x"},
        {"type": "response.reasoning_text.delta", "item_id": "r", "content_index": 0, "delta": "x"},
        {"type": "response.function_call_arguments.delta", "output_index": 0, "item_id": "fc", "delta": "{}"},
        {
            "type": "response.failed",
            "response": {"status": "failed", "error": {"code": "server_error", "message": "x"}},
        },
        {"type": "error", "code": "server_error", "message": "x", "sequence_number": 3},
    ],
    "anthropic": [
        {"type": "message", "content": [{"type": "text", "text": "x"}], "stop_reason": "end_turn", "usage": USAGE},
        {"type": "message_start", "message": {"id": "m", "model": "c", "usage": USAGE}},
        {"type": "content_block_start", "index": 0, "content_block": {**BLOCK, "input": {}}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": "{}"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": THOUGHT},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "x"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": USAGE},
        {"type": "message_stop"},
        {"type": "error", "error": {"type": "overloaded_error", "message": "x"}},
    ],
    "gemini": [
        {"candidates": [{"content": {"parts": [PART]}, "index": 0}], "usageMetadata": USAGE, "modelVersion": "g"},
        {"candidates": [{"content": {"parts": [{"functionCall": WHOLE}]}, "finishReason": "STOP"}], "responseId": "r"},
        {"candidates": [{"content": {"parts": [{"functionCall": PIECE}]}}]},
        {"promptFeedback": {"blockReason": "SAFETY"}},
        {"error": {"code": 503, "status": "UNAVAILABLE", "message": "x", "details": [{"retryDelay": "4s"}]}},
    ],
    "ollama": [
        {"model": "m", "created_at": "t", "message": {"role": "assistant", "content": "x"}, "done": False},
        {"message": {"content": "", "thinking": "y", "tool_calls": [{"id": "c", "function": WHOLE_CALL}]}},
        {"message": SAYS, "done": True, "done_reason": "stop", "prompt_eval_count": 1, "eval_count": 2},
        {"done": True, "done_reason": "load"},
        {"error": "x"},
    ],
}
JUNK: list[Any] = [None, True, -1, 7, 1.5, 10**30, "", "x", "\ud800", "9" * 30, [], [[]], [None], {}, {"a": 1}]


def test_every_dialect_is_here() -> None:
    assert set(KINDS) == set(SAMPLES) == set(WIRES)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in inner for place in places(child, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], junk: Any) -> Any:
    """The value with junk at one place."""
    if not path:
        return junk
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(copy[path[0]], path[1:], junk)
    return copy


@st.composite
def damaged(draw: st.DrawFn, kind: str) -> Any:
    """A sample with junk at up to three places."""
    value = draw(st.sampled_from(SAMPLES[kind]))
    for _ in range(draw(st.integers(0, 3))):
        value = replaced(value, draw(st.sampled_from(places(value))), draw(st.sampled_from(JUNK)))
    return value


def framed(kind: str, payload: Any, newline: str = "\n") -> bytes:
    """A payload as one event of a stream."""
    data = json.dumps(payload)
    return (f"{data}{newline}" if kind == "ollama" else f"data: {data}{newline}{newline}").encode()


def check(events: list[StreamEvent]) -> None:
    """What every stream keeps: what was shown is what the answer holds."""
    shown = "".join(event.text for event in events if isinstance(event, TextDelta))
    shown.encode()
    if isinstance(events[-1], Ended):
        assert events[-1].answer.text == shown
    else:
        assert isinstance(events[-1], Broken)
        assert len(events[-1].failure.message) <= 600


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_I20_damaged_replies(kind: str, data: st.DataObject) -> None:
    payload = data.draw(damaged(kind))
    status = data.draw(st.sampled_from([200, 200, 200, 400, 404, 429, 500, 503]))
    result = WIRES[kind].decode(HttpReply(status, {}, json.dumps(payload).encode()), TARGET)
    assert isinstance(result, Answer | Failure)
    assert status == 200 or isinstance(result, Failure)


@pytest.mark.parametrize("kind", KINDS)
def test_I20_every_sample_with_every_junk_at_every_place(kind: str) -> None:
    wire = WIRES[kind]
    for sample in SAMPLES[kind]:
        for path in places(sample):
            for junk in JUNK:
                payload = replaced(sample, path, junk)
                whole = json.dumps(payload).encode()
                assert isinstance(wire.decode(HttpReply(200, {}, whole), TARGET), Answer | Failure)
                decoder = wire.decoder(TARGET)
                check([*decoder.feed(framed(kind, payload)), *decoder.close()])


@pytest.mark.parametrize("kind", KINDS)
@given(body=st.binary(max_size=200), status=st.integers(100, 599), headers=st.dictionaries(
    st.sampled_from(["content-type", "retry-after", "date", "x-should-retry", "location", "request-id"]), st.text()
))  # fmt: skip
def test_I20_random_bytes_as_a_whole_reply(kind: str, body: bytes, status: int, headers: dict[str, str]) -> None:
    assert isinstance(WIRES[kind].decode(HttpReply(status, headers, body), TARGET), Answer | Failure)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data(), cuts=st.lists(st.integers(0, 10_000), max_size=8), done=st.booleans())
def test_I19_a_stream_is_the_same_however_it_was_cut(
    kind: str, read: Any, chunks: Any, data: st.DataObject, cuts: list[int], done: bool
) -> None:
    payloads = data.draw(st.lists(damaged(kind), max_size=6))
    newline = data.draw(st.sampled_from(["\n", "\r\n", "\r"]))
    stream = b"".join(framed(kind, payload, newline) for payload in payloads)
    stream += b"data: [DONE]\n\n" if done else data.draw(st.sampled_from([b"", b"data: tail", b": comment\n\n"]))
    expected = read(WIRES[kind], [stream])
    check(expected)
    assert read(WIRES[kind], chunks(stream, cuts)) == expected


@pytest.mark.parametrize("kind", KINDS)
@given(stream=st.one_of(st.binary(max_size=100), st.sampled_from([b"{", b"[", b"<", b"\xef\xbb\xbf", b" "]).flatmap(
    lambda head: st.binary(max_size=30).map(lambda rest: head + rest)
)), cuts=st.lists(st.integers(0, 200), max_size=5))  # fmt: skip
def test_I19_random_bytes_as_a_stream(kind: str, read: Any, chunks: Any, stream: bytes, cuts: list[int]) -> None:
    assert read(WIRES[kind], chunks(stream, cuts)) == read(WIRES[kind], [stream])


def growing(kind: str, size: int) -> bytes:
    """A stream of `size` pieces: text, then one tool call that grows piece by piece, then many calls."""

    def events(*payloads: Any) -> bytes:
        return b"".join(framed(kind, payload) for payload in payloads)

    def calls(index: int, arguments: str, **more: Any) -> dict[str, Any]:
        fragment = {"index": index, "function": {"name": "f", "arguments": arguments}, **more}
        return {"choices": [{"delta": {"tool_calls": [fragment]}}]}

    def parts(part: dict[str, Any]) -> dict[str, Any]:
        return {"candidates": [{"content": {"parts": [part]}}]}

    if kind == "ollama":
        call = {"message": {"tool_calls": [{"function": WHOLE_CALL}]}, "done": False}
        return events(*[{"message": {"content": "word "}}] * size, *[call] * size, {"done": True})
    if kind == "openai_chat":
        text = {"choices": [{"delta": {"content": "word "}}]}
        many = [calls(i, "{}", id=f"c{i}") for i in range(1, size)]
        end = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
        return events(*[text] * size, *[calls(0, "word ", id="c")] * size, *many, end)
    if kind == "openai_responses":

        def piece(kind: str, index: int, piece: str = "word ") -> dict[str, Any]:
            return {"type": f"response.{kind}.delta", "output_index": index, "item_id": f"i{index}", "delta": piece}

        def item(kind: str, index: int) -> dict[str, Any]:
            return {"type": f"response.output_item.{kind}", "output_index": index, "item": {**DOES, "id": f"i{index}"}}

        grows = [piece("function_call_arguments", 1)] * size
        many = [item(kind, i) for i in range(2, size) for kind in ("added", "done")]
        end = {"type": "response.completed", "response": {"status": "completed"}}
        return events(*[piece("output_text", 0)] * size, item("added", 1), *grows, item("done", 1), *many, end)
    if kind == "anthropic":
        text = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "word "}}
        start = {"type": "content_block_start", "index": 1, "content_block": BLOCK}
        more = {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "a "}}
        stop = {"type": "content_block_stop", "index": 1}
        return events(*[text] * size, start, *[more] * size, stop, *[start, stop] * size, {"type": "message_stop"})
    grow = {"jsonPath": "$.a", "stringValue": "word ", "willContinue": True}
    more = parts({"functionCall": {"partialArgs": [grow], "willContinue": True}})
    start = parts({"functionCall": {"name": "f", "willContinue": True}})
    whole = parts({"functionCall": {"name": "f"}})
    end = {"candidates": [{"finishReason": "STOP"}]}
    return events(*[parts({"text": "word "})] * size, start, *[more] * size, *[whole] * size, end)


@pytest.mark.parametrize("kind", KINDS)
def test_S19_the_work_is_linear_in_the_stream(kind: str, read: Any, chunks: Any) -> None:
    def seconds(size: int) -> float:
        stream = growing(kind, size)
        pieces = chunks(stream, range(0, len(stream), 500))
        start = time.perf_counter()
        assert isinstance(read(WIRES[kind], pieces)[-1], Ended)
        return time.perf_counter() - start

    small, large = min(seconds(60) for _ in range(3)), min(seconds(960) for _ in range(2))
    assert large < small * 16 * 4  # 16 times the pieces; four times is for a noisy machine, not for a square (256)


@pytest.mark.parametrize("end", [b"data: [DONE]\n\n", b""])
def test_what_comes_after_the_finish_and_is_too_much_breaks_the_answer_and_nothing_else(end: bytes, read: Any) -> None:
    deep = "[" * 200_000
    call = {"index": 0, "id": "a", "function": {"name": "f", "arguments": deep}}
    choices = [{"delta": {"content": "hi"}, "finish_reason": "stop"}, {"delta": {"tool_calls": [call]}}]
    events = [b"data: " + json.dumps({"choices": [{"index": 0, **choice}]}).encode() + b"\n\n" for choice in choices]
    last = read(WIRES["openai_chat"], [*events, end], TARGET)[-1]
    assert isinstance(last, Broken)
    assert last.failure.kind is Kind.PROTOCOL
