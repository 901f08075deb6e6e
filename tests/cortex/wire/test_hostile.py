"""A server that means harm: what it sends without end, without bottom or in great numbers costs what its bytes cost."""

from __future__ import annotations

import gc
import json
import re
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from cortex.messages import Answer, Broken, Ended, Failure, Kind
from cortex.wire import WIRES
from cortex.wire.codec import HttpReply, Target
from cortex.wire.draft import MAX_PARTS
from cortex.wire.sse import LIMIT
from cortex.wire.values import MAX_DEPTH

TARGET = Target("p", "https://h/v1", "m", api_key="k")
PIECE = 64 * 1024

# -------------------------------------------------------------------------------------------------------- without end


@pytest.mark.parametrize("kind", sorted(WIRES))
@pytest.mark.parametrize("head", [b'data: {"a": "', b"data: x\ndata: ", b": comment ", b"event: ", b'{"a": "', b"["])
def test_what_never_ends_is_given_up_at_the_limit(kind: str, head: bytes) -> None:
    decoder, fed = WIRES[kind].decoder(TARGET), len(head)
    events = decoder.feed(head)
    while not events and fed < 2 * LIMIT:
        events = decoder.feed(b"x" * PIECE)
        fed += PIECE
    assert LIMIT <= fed <= LIMIT + 2 * PIECE or (kind == "ollama" and fed < 100), "a line of it that is no JSON"
    assert isinstance(events[-1], Broken)
    assert events[-1].failure.kind is Kind.PROTOCOL
    assert decoder.feed(b"x") == [] == decoder.close()


@pytest.mark.parametrize("kind", sorted(set(WIRES) - {"ollama"}))
def test_data_lines_without_end_are_one_event(kind: str) -> None:
    decoder, fed = WIRES[kind].decoder(TARGET), 0
    events: list[Any] = []
    while not events and fed < 2 * LIMIT:
        events = decoder.feed((b"data: " + b"x" * 1_000 + b"\n") * 64)
        fed += 64 * 1_007
    assert LIMIT <= fed <= LIMIT + 2 * PIECE
    assert events[-1].failure.kind is Kind.PROTOCOL


@pytest.mark.parametrize("kind", sorted(WIRES))
@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize("unit", [b"x", b"<", b"[", b'{"error":', b"\xff", b'"\\ud800'])
def test_a_huge_body_is_a_failure_of_few_words(kind: str, status: int, unit: bytes) -> None:
    failure = WIRES[kind].decode(HttpReply(status, {}, unit * (1_000_000 // len(unit))), TARGET)
    assert isinstance(failure, Failure)
    assert len(failure.message) <= 600
    assert len(failure.code or "") <= 100


@pytest.mark.parametrize(("length", "taken"), [(LIMIT - 1_000, True), (LIMIT, False), (50_000_000, False)])
def test_a_whole_reply_is_bounded_as_an_event_is(length: int, taken: bool, reply: Any) -> None:
    body = b'{"choices":[{"message":{"content":"%b"},"finish_reason":"stop"}]}' % (b"x" * length)
    result = WIRES["openai_chat"].decode(reply(body), TARGET)
    assert isinstance(result, Answer) is taken
    assert taken or (result.kind, result.message) == (Kind.PROTOCOL, f"the reply is longer than {LIMIT} bytes")


@pytest.mark.parametrize("size", [10, 50_000_000])
@pytest.mark.parametrize("kind", sorted(WIRES))
def test_of_an_error_only_the_beginning_is_read(kind: str, size: int, reply: Any) -> None:
    """A long one is not parsed: its words are what it begins with."""
    body = b'{"error": {"message": "Slow down.", "padding": "%b"}}' % (b"x" * size)
    start = time.thread_time()
    failure = WIRES[kind].decode(reply(body, 429), TARGET)
    assert time.thread_time() - start < 0.05
    assert failure.kind in (Kind.RATE_LIMIT, Kind.OVERLOADED)
    assert "Slow down." in failure.message


# ----------------------------------------------------------------------------------------------------- without bottom


def nested(depth: int, value: str = "1") -> str:
    return "[" * depth + value + "]" * depth


@pytest.mark.parametrize("kind", sorted(WIRES))
@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 100_000])
def test_what_is_nested_too_deeply_is_a_failure(kind: str, depth: int, read: Any) -> None:
    for text in (nested(depth), f'{{"error": {nested(depth)}}}', nested(depth)[:depth], '{"a":' * depth):
        for status in (200, 400):
            assert isinstance(WIRES[kind].decode(HttpReply(status, {}, text.encode()), TARGET), Failure)
        event = text if kind == "ollama" else f"data: {text}\n"
        verdict = read(WIRES[kind], [f"{event}\n".encode()])[-1]
        assert isinstance(verdict, Broken)
        assert verdict.failure.kind in (Kind.PROTOCOL, Kind.CUT)


@pytest.mark.parametrize(("depth", "whole"), [(MAX_DEPTH - 1, True), (MAX_DEPTH + 1, False), (100_000, False)])
def test_arguments_that_are_nested_too_deeply_are_arguments_that_cannot_be_read(depth: int, whole: bool) -> None:
    function = {"name": "f", "arguments": nested(depth)}
    payload = {"choices": [{"message": {"tool_calls": [{"id": "c", "function": function}]}, "finish_reason": "stop"}]}
    answer = WIRES["openai_chat"].decode(HttpReply(200, {}, json.dumps(payload).encode()), TARGET)
    assert isinstance(answer, Answer)
    assert (answer.tool_calls[0].arguments is not None) is whole
    assert answer.tool_calls[0].raw_arguments == nested(depth)


# --------------------------------------------------------------------------------------------------- in great numbers


def chat(*deltas: Any, finish: str | None = None) -> list[Any]:
    return [{"choices": [{"delta": delta, "finish_reason": finish}]} for delta in deltas]


def calls(index: int, count: int) -> dict[str, Any]:
    function = {"name": "f", "arguments": '{"a":1}'}
    return {"tool_calls": [{"index": index, "id": f"c{count}", "function": function}]}


def item(kind: str, index: int, **fields: Any) -> dict[str, Any]:
    return {"type": f"response.output_item.{kind}", "output_index": index, "item": {"id": f"i{index}", **fields}}


def said(part: int) -> dict[str, Any]:
    return {"type": "response.output_text.delta", "item_id": "i0", "content_index": part, "delta": "x"}


def argument(count: int, **piece: Any) -> dict[str, Any]:
    function = {"name": "" if count else "f", "partialArgs": [piece], "willContinue": True}
    return {"candidates": [{"content": {"parts": [{"functionCall": function}]}}]}


SIGNATURE = {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "s" * 500}}
END = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}
DONE = {"type": "response.completed", "response": {"status": "completed"}}
STOP = {"candidates": [{"finishReason": "STOP"}]}
GREAT_NUMBERS: dict[str, tuple[str, Callable[[int], list[Any]]]] = {
    "calls that end one by one": ("openai_chat", lambda n: [*chat(*(calls(i, i) for i in range(n)), finish="stop")]),
    "calls of one index": (
        "openai_chat",
        lambda n: [*chat(*(calls(0, i) for i in range(n))), *chat({}, finish="stop")],
    ),
    "parts of a content": (
        "openai_chat",
        lambda n: [*chat({"content": [{"type": "text", "text": "x"}] * n}), *chat({}, finish="stop")],
    ),
    "halves of emojis": ("openai_chat", lambda n: [*chat(*[{"content": "\ud83d"}] * n), *chat({}, finish="stop")]),
    "parts of a message": (
        "openai_responses",
        lambda n: [item("done", 0, type="message", content=[{"type": "output_text", "text": "x"}] * n), DONE],
    ),
    "parts of a summary": (
        "openai_responses",
        lambda n: [item("done", 0, type="reasoning", summary=[{"type": "summary_text", "text": "x"}] * n), DONE],
    ),
    "parts that come in pieces": (
        "openai_responses",
        lambda n: [
            *map(said, range(n)),
            item("done", 0, type="message", content=[{"type": "output_text", "text": "xy"}] * n),
            DONE,
        ],
    ),
    "calls that are done in reverse": (
        "openai_responses",
        lambda n: [
            *(item("added", i, type="function_call", name="f") for i in range(n)),
            *(item("done", i, type="function_call", name="f", arguments="{}") for i in reversed(range(n))),
            DONE,
        ],
    ),
    "pieces of a signature": ("anthropic", lambda n: [*[SIGNATURE] * n, END, {"type": "message_stop"}]),
    "kinds of tokens": (
        "anthropic",
        lambda n: [*({**END, "usage": {f"k{i}": 1}} for i in range(n)), {"type": "message_stop"}],
    ),
    "items of an argument": (
        "gemini",
        lambda n: [*(argument(i, jsonPath=f"$.a[{i}]", numberValue=1) for i in range(n)), STOP],
    ),
    "strings that grow side by side": (
        "gemini",
        lambda n: [*(argument(i, jsonPath=f"$.a{i}", stringValue="x", willContinue=True) for i in range(n)), STOP],
    ),
    "signatures": (
        "gemini",
        lambda n: [*[{"candidates": [{"content": {"parts": [{"thoughtSignature": "s" * 500}]}}]}] * n, STOP],
    ),
}


def seconds(kind: str, stream: bytes) -> float:
    """Of this thread's CPU, for a stream that comes in pieces; without the garbage of the tests before."""
    decoder, events = WIRES[kind].decoder(TARGET), []
    gc.disable()
    start = time.thread_time()
    for place in range(0, len(stream), 1_000):
        events = decoder.feed(stream[place : place + 1_000])
    events = decoder.close() or events
    took = time.thread_time() - start
    gc.enable()
    assert isinstance(events[-1], Ended)
    return took


@pytest.mark.parametrize("name", sorted(GREAT_NUMBERS))
def test_great_numbers_cost_what_their_bytes_cost(name: str) -> None:
    kind, events = GREAT_NUMBERS[name]
    small, large = (b"".join(b"data: %b\n\n" % json.dumps(one).encode() for one in events(n)) for n in (60, 960))
    before, after = min(seconds(kind, small) for _ in range(3)), min(seconds(kind, large) for _ in range(2))
    assert after / len(large) < before / len(small) * 3  # what is quadratic costs 16 times as much a byte


# Answers of many small things: what an array of them is, and what one of them is.
CROWDS: dict[str, tuple[str, str, str]] = {
    "calls": ("openai_chat", '{"choices":[{"message":{"tool_calls":[%s]},"finish_reason":"stop"}]}', '{"id":"c%d"}'),
    "calls with names": (
        "openai_chat",
        '{"choices":[{"message":{"tool_calls":[%s]},"finish_reason":"stop"}]}',
        '{"index":%d,"function":{"name":"f"}}',
    ),
    "parts of a content": ("openai_chat", '{"choices":[{"message":{"content":[%s]},"finish_reason":"stop"}]}', "{}"),
    "choices": ("openai_chat", '{"choices":[%s]}', "0"),
    "sources": ("openai_chat", '{"citations":[%s],"choices":[{"message":{"content":"x"}}]}', '"s%d"'),
    "tool uses": ("anthropic", '{"stop_reason":"tool_use","content":[%s]}', '{"type":"tool_use"}'),
    "thoughts": ("anthropic", '{"stop_reason":"end_turn","content":[%s]}', '{"type":"thinking"}'),
    "Gemini's calls": (
        "gemini",
        '{"candidates":[{"finishReason":"STOP","content":{"parts":[%s]}}]}',
        '{"functionCall":{}}',
    ),
    "Gemini's chunks": ("gemini", "[%s]", '{"candidates":[{"content":{"parts":[{"text":"x"}]}}]}'),
    "items": ("openai_responses", '{"status":"completed","output":[%s]}', '{"type":"function_call"}'),
    "reasoning": ("openai_responses", '{"status":"completed","output":[%s]}', '{"type":"reasoning"}'),
    "Ollama's calls": ("ollama", '{"done":true,"message":{"tool_calls":[%s]}}', "{}"),
}


@pytest.mark.parametrize("size", [5_500, 150_000])
@pytest.mark.parametrize("name", sorted(CROWDS))
def test_an_answer_of_a_crowd_is_none(name: str, size: int, reply: Any, read: Any) -> None:
    kind, around, unit = CROWDS[name]
    body = around % ",".join(unit % number if "%" in unit else unit for number in range(size))
    start = time.thread_time()
    failure = WIRES[kind].decode(reply(body.encode()), TARGET)
    assert time.thread_time() - start < 0.2
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.status) == (Kind.PROTOCOL, 200)
    assert re.match("the (reply|answer)(: more than|: too many|: a list| is longer)", failure.message)
    broken = read(WIRES[kind], [body.encode()], TARGET)[-1]
    assert broken.failure.kind is Kind.PROTOCOL


def call(number: int) -> dict[str, Any]:
    return {"index": number, "id": f"c{number}", "name": "f", "function": {"name": "f", "arguments": {}}}


ONE_BY_ONE: dict[str, Callable[[int], Any]] = {
    "openai_chat": lambda n: {"choices": [{"delta": {"tool_calls": [call(n)]}}]},
    "openai_responses": lambda n: item("added", n, type="function_call", name="f"),
    "anthropic": lambda n: {
        "type": "content_block_start",
        "index": n,
        "content_block": {**call(n), "type": "tool_use"},
    },
    "gemini": lambda _: {"candidates": [{"content": {"parts": [{"functionCall": {"name": "f"}}]}}]},
    "ollama": lambda n: {"message": {"tool_calls": [call(n)]}},
}


@pytest.mark.parametrize("kind", sorted(WIRES))
def test_calls_that_come_one_by_one_are_bounded_too(kind: str) -> None:
    decoder = WIRES[kind].decoder(TARGET)
    head, end = ("", "\n") if kind == "ollama" else ("data: ", "\n\n")
    events, number = [], 0
    while number <= 2 * MAX_PARTS and not any(isinstance(event, Broken) for event in events):
        events = decoder.feed(f"{head}{json.dumps(ONE_BY_ONE[kind](number))}{end}".encode())
        number += 1
    assert number == MAX_PARTS + 1
    assert events[-1].failure.kind is Kind.PROTOCOL
    assert events[-1].failure.message == f"the answer: more than {MAX_PARTS} parts"


@pytest.mark.slow
@pytest.mark.parametrize("delta", [{"reasoning": "xy"}, {"content": "x" * 1_000}])
def test_a_text_without_end_is_given_up(delta: dict[str, str]) -> None:
    """Each piece of it takes its place in memory, however short."""
    decoder = WIRES["openai_chat"].decoder(TARGET)
    event = f"data: {json.dumps({'choices': [{'delta': delta}]})}\n\n".encode()
    events, fed, batch = [], 0, PIECE // len(event) * event
    while fed < 50_000_000 and not any(isinstance(event, Broken) for event in events):
        events = decoder.feed(batch)
        fed += len(batch)
    assert min(180_000 * len(event), 11_000_000) < fed < 20_000_000
    assert events[-1].failure.kind is Kind.PROTOCOL


@pytest.mark.slow
@pytest.mark.parametrize("path", ["$.a", "$.a%d"])
def test_arguments_in_pieces_without_end_are_given_up(path: str) -> None:
    decoder, fed, events, number = WIRES["gemini"].decoder(TARGET), 0, [], 0
    while fed < 50_000_000 and not any(isinstance(event, Broken) for event in events):
        pieces = [
            {"jsonPath": path % i if "%" in path else path, "stringValue": "x" * 9, "willContinue": True}
            for i in range(number, number + 1_000)
        ]
        function = {"name": "" if number else "f", "partialArgs": pieces, "willContinue": True}
        event = f"data: {json.dumps({'candidates': [{'content': {'parts': [{'functionCall': function}]}}]})}\n\n"
        events = decoder.feed(event.encode())
        fed, number = fed + len(event), number + 1_000
    assert fed < 16_000_000
    assert events[-1].failure.kind is Kind.PROTOCOL


CHANGING: dict[str, tuple[str, int, Callable[[int], Any]]] = {  # the MB that may be held of these
    "items": ("openai_responses", 10, lambda n: item("added", n, type="web_search_call")),
    "parts": ("openai_responses", 5, said),
    "emojis": ("openai_chat", 16, lambda _: {"choices": [{"delta": {"content": "\U0001f600" * 100}}]}),
    "counts": ("anthropic", 1, lambda n: {**END, "usage": {f"k{n}": 1}}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CHANGING))
def test_a_stream_that_never_repeats_itself_takes_little_memory(name: str) -> None:
    kind, megabytes, event = CHANGING[name]
    stream = b"".join(b"data: %b\n\n" % json.dumps(event(n), ensure_ascii=False).encode() for n in range(35_000))
    decoder = WIRES[kind].decoder(TARGET)
    tracemalloc.start()
    try:
        for place in range(0, len(stream), PIECE):
            decoder.feed(stream[place : place + PIECE])
        assert tracemalloc.get_traced_memory()[1] < megabytes * 1_000_000
    finally:
        tracemalloc.stop()


DEEP = "[" + ",".join(['{"a":' * 50 + "1" + "}" * 50] * 30) + "]"


def test_arguments_of_all_calls_together_are_bounded(reply: Any) -> None:
    calls = [{"id": f"c{i}", "function": {"name": "f", "arguments": DEEP}} for i in range(200)]
    body = {"choices": [{"message": {"tool_calls": calls}, "finish_reason": "stop"}]}
    failure = WIRES["openai_chat"].decode(reply(body), TARGET)
    assert isinstance(failure, Failure)
    assert failure.message.startswith("the answer: more than ")
    few = {"choices": [{"message": {"tool_calls": calls[:10]}, "finish_reason": "stop"}]}
    assert len(WIRES["openai_chat"].decode(reply(few), TARGET).tool_calls) == 10


@pytest.mark.parametrize("unit", ["{},", "0,", "[],", '{"a":1},'])
def test_an_event_of_too_many_values_is_not_even_parsed(unit: str) -> None:
    decoder = WIRES["openai_chat"].decoder(TARGET)
    stream = f'data: {{"choices":[{unit * (LIMIT // len(unit) - 100)}0]}}\n\n'.encode()
    start = time.thread_time()
    (broken,) = decoder.feed(stream)
    assert time.thread_time() - start < 0.1
    assert broken.failure.kind is Kind.PROTOCOL


WORDS = ["<", "<a ", "<title", "model ", "api key ", "invalid 'signature' in ", "request too large ", "token count "]


@pytest.mark.parametrize("word", WORDS)
def test_an_error_that_repeats_a_telling_word_costs_what_its_bytes_cost(word: str) -> None:
    def told(size: int) -> float:
        text = word * (size // len(word))
        bodies = [text.encode(), json.dumps({"error": {"message": text, "code": text}}).encode()]
        start = time.thread_time()
        for wire in WIRES.values():
            for body in bodies:
                wire.decode(HttpReply(400, {}, body), TARGET)
        return time.thread_time() - start

    assert min(told(400_000) for _ in range(2)) < max(min(told(25_000) for _ in range(3)) * 16 * 3, 0.05)
