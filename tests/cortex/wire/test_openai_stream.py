"""OpenAI's dialect and its relatives: what is read from a stream."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cortex.messages import (
    Answer,
    Ended,
    Finish,
    Kind,
    Message,
    Progress,
    Request,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolCall,
    ToolCallReady,
    Usage,
)
from cortex.wire import WIRES
from cortex.wire.codec import Target

WIRE = WIRES["openai_chat"]
TARGET = Target("openai", "https://api.openai.com/v1", "gpt-4o", api_key="sk-1")
DIALECTS = ("openai_compat",)  # of recorded replies


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"id": "c", "model": "m-1", "choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish}], **more}


def tool(index: int | None, ident: str | None = None, name: str | None = None, arguments: Any = "") -> dict[str, Any]:
    function = {"arguments": arguments, **({"name": name} if name else {})}
    fragment = {"function": function, **({"id": ident} if ident else {})}
    return {"tool_calls": [{**fragment, **({"index": index} if index is not None else {})}]}


def test_a_stream(read: Any, sse: Any) -> None:
    events = read(
        WIRE,
        [
            sse(
                chunk({"role": "assistant", "content": ""}),
                chunk({"content": "Hel"}),
                chunk({"content": "lo"}),
                chunk({}, "stop"),
                {"id": "c", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
                done=True,
            )
        ],
    )
    assert events[:2] == [TextDelta("Hel"), TextDelta("lo")]
    assert events[2:] == [Ended(Answer((Text("Hello"),), Finish.STOP, "stop", Usage(3, 2), "m-1"))]


def test_tool_calls_are_ready_when_the_next_begins_and_at_the_finish(read: Any, sse: Any) -> None:
    events = read(
        WIRE,
        [
            sse(
                chunk(tool(0, "c1", "f", "")),
                chunk(tool(0, arguments='{"a":')),
                chunk(tool(0, arguments="1}")),
                chunk(tool(1, "c2", "g", "")),
                chunk({}, "tool_calls"),
                done=True,
            )
        ],
    )
    one, two = ToolCall("c1", "f", {"a": 1}, '{"a":1}'), ToolCall("c2", "g", {}, "")
    assert events == [
        Progress(),
        Progress(),
        Progress(),
        ToolCallReady(one),
        Progress(),
        ToolCallReady(two),
        Ended(Answer((one, two), Finish.TOOL_CALLS, "tool_calls", Usage(), "m-1")),
    ]


def test_fragments_that_take_turns_are_put_together_by_index(read: Any, sse: Any) -> None:
    deltas = [
        tool(0, "c1", "f"),
        tool(1, "c2", "g"),
        tool(0, arguments='{"a":'),
        tool(1, arguments="{}"),
        tool(0, arguments="1}"),
    ]
    answer = read(WIRE, [sse(*map(chunk, deltas), chunk({}, "tool_calls"), done=True)])[-1].answer
    assert [(c.name, c.arguments) for c in answer.tool_calls] == [("f", {"a": 1}), ("g", {})]


def test_servers_that_number_every_call_0_or_none_at_all(read: Any, sse: Any) -> None:
    for index in (0, None):
        deltas = [tool(index, "c1", "f", '{"a":'), tool(index, None, None, "1}"), tool(index, "c2", "f", "{}")]
        answer = read(WIRE, [sse(*map(chunk, deltas), chunk({}, "stop"), done=True)])[-1].answer
        assert [(c.id, c.arguments) for c in answer.tool_calls] == [("c1", {"a": 1}), ("c2", {})]
        assert answer.finish is Finish.TOOL_CALLS
        assert answer.raw_finish == "stop"


def test_an_id_that_is_said_again_begins_nothing(read: Any, sse: Any) -> None:
    deltas = [tool(0, "c1", "f", '{"a":'), tool(0, "c1", "f", "1}")]
    answer = read(WIRE, [sse(*map(chunk, deltas), chunk({}, "tool_calls"), done=True)])[-1].answer
    assert answer.tool_calls == (ToolCall("c1", "f", {"a": 1}, '{"a":1}'),)


@pytest.mark.parametrize("raw", ["", '{"a": '])
def test_M2_a_call_that_the_limit_cut_off_is_never_ready(raw: str, read: Any, sse: Any) -> None:
    events = read(WIRE, [sse(chunk(tool(0, "c1", "f", raw)), chunk({}, "length"), done=True)])
    assert not [event for event in events if isinstance(event, ToolCallReady)]
    assert events[-1].answer.finish is Finish.LENGTH
    assert events[-1].answer.tool_calls == (ToolCall("c1", "f", None, raw),)


def test_J2_a_stream_that_dies_inside_a_call_is_cut(read: Any, sse: Any) -> None:
    for done in (True, False):
        events = read(WIRE, [sse(chunk(tool(0, "c1", "f", '{"a": ')), done=done)])
        assert not [event for event in events if isinstance(event, ToolCallReady)]
        assert events[-1].failure.kind is Kind.CUT


def test_S5_eof_before_the_finish_is_cut_and_keeps_the_usage(read: Any, sse: Any) -> None:
    events = read(WIRE, [sse(chunk({"content": "x"}, usage={"prompt_tokens": 3, "completion_tokens": 1}))])
    assert events[0] == TextDelta("x")
    assert (events[-1].failure.kind, events[-1].failure.usage) == (Kind.CUT, Usage(3, 1))


def test_S6_a_finish_that_is_not_terminated_does_not_count(read: Any, sse: Any) -> None:
    whole = sse(chunk({"content": "x"}), chunk({}, "stop"))
    assert isinstance(read(WIRE, [whole])[-1], Ended)
    events = read(WIRE, [whole[:-1]])
    assert events[-1].failure.kind is Kind.CUT
    assert "inside an event" in events[-1].failure.message


def test_streams_without_DONE(read: Any, sse: Any) -> None:
    decoder = WIRE.decoder(TARGET)
    assert decoder.feed(sse(chunk({"content": "x"}), chunk({}, "stop"))) == [TextDelta("x")]
    assert isinstance(decoder.close()[-1], Ended)


def test_a_chunk_of_usage_alone_ends_the_answer_without_waiting_for_DONE(sse: Any) -> None:
    decoder = WIRE.decoder(TARGET)
    decoder.feed(sse(chunk({"content": "x"}), chunk({}, "stop")))
    assert isinstance(decoder.feed(sse({"choices": [], "usage": {"prompt_tokens": 1}}))[-1], Ended)


def test_DONE_without_a_finish_reason_ends_an_answer_if_there_is_one(read: Any, sse: Any) -> None:
    answer = read(WIRE, [sse(chunk({"content": "x"}), done=True)])[-1].answer
    assert (answer.finish, answer.raw_finish) == (Finish.OTHER, None)
    answer = read(WIRE, [sse(chunk(tool(0, "c", "f", "{}")), done=True)])[-1].answer
    assert (answer.finish, answer.raw_finish) == (Finish.TOOL_CALLS, None)


def test_S17_after_the_end_nothing_counts(read: Any, sse: Any) -> None:
    stream = sse(chunk({"content": "x"}), chunk({}, "stop"), done=True)
    assert read(WIRE, [stream + sse(chunk({"content": "y"}), {"error": {"message": "late"}}, done=True)]) == read(
        WIRE, [stream]
    )


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (
            {"error": {"message": "x", "code": 502}, "choices": [{"delta": {}, "finish_reason": "error"}]},
            Kind.TRANSIENT,
        ),
        ({"error": {"message": "x", "type": "server_error"}}, Kind.TRANSIENT),
        ({"error": {"message": "x", "type": "invalid_request_error"}}, Kind.BAD_REQUEST),
        ({"error": {"message": "x", "type": "insufficient_quota"}}, Kind.QUOTA),
        ({"error": {"message": "x", "code": 400, "type": "BadRequestError"}}, Kind.BAD_REQUEST),
        ({"error": "Server overloaded"}, Kind.OVERLOADED),
        ({"object": "error", "message": "x", "code": 429}, Kind.RATE_LIMIT),
        (("error", {"message": "x", "code": 503}), Kind.OVERLOADED),
        ({"choices": [{"delta": {}, "finish_reason": "error"}]}, Kind.TRANSIENT),
        ({"choices": [{"delta": {}, "finish_reason": "abort"}]}, Kind.TRANSIENT),
        ({"choices": [{"delta": {}, "finish_reason": "insufficient_system_resource"}]}, Kind.OVERLOADED),
    ],
)
def test_S8_errors_inside_a_stream(error: Any, kind: Kind, read: Any, sse: Any) -> None:
    assert read(WIRE, [sse(error, done=True)])[-1].failure.kind is kind  # before anything was shown
    events = read(WIRE, [sse(chunk({"content": "x"}), error, done=True)])  # and after
    assert events[0] == TextDelta("x")
    assert events[-1].failure.kind is kind


@pytest.mark.parametrize(
    "junk", [b"data: {nope\n\n", b"data: 7\n\n", b"data: " + b"[" * 9_000 + b"\n\n", b"data: \xff\n\n"]
)
def test_J1_junk_in_an_event(junk: bytes, read: Any) -> None:
    assert read(WIRE, [junk])[-1].failure.kind is Kind.PROTOCOL


def test_a_server_that_ignores_stream_true_and_one_that_is_a_page(read: Any) -> None:
    body = b' {"choices":[{"message":{"content":"hi"},"finish_reason":"stop"}]}\n'
    for pieces in ([body], [body[i : i + 1] for i in range(len(body))]):
        assert read(WIRE, pieces) == [TextDelta("hi"), Ended(Answer((Text("hi"),), Finish.STOP, "stop"))]
    assert read(WIRE, [body[:30]])[-1].failure.kind is Kind.CUT
    assert read(WIRE, [b'{"error": {"message": "x", "code": 429}}'])[-1].failure.kind is Kind.RATE_LIMIT
    assert read(WIRE, [b"<html>"])[-1].failure.kind is Kind.NOT_API


def test_thinking_in_all_its_places(read: Any, sse: Any) -> None:
    places = [
        {"reasoning_content": "hm"},
        {"reasoning": "hm"},
        {"reasoning_content": "hm", "reasoning": "hm"},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]},
        {"content": [{"type": "thinking", "thinking": "hm"}]},
    ]
    for place in places:
        events = read(WIRE, [sse(chunk(place), chunk({"content": "ok"}, "stop"), done=True)], TARGET)
        assert events[:2] == [ThinkingDelta("hm"), TextDelta("ok")]
        assert events[-1].answer.parts == (Thinking("hm", issuer=TARGET.issuer), Text("ok"))


def test_an_emoji_cut_in_two_is_shown_whole(read: Any) -> None:
    def event(text: str) -> bytes:
        return b'data: {"choices":[{"delta":{"content":"' + text.encode() + b'"}}]}\n\n'

    events = read(WIRE, [event(r"a\ud83d"), event(r"\ude00b"), event(r"\ud83d"), b"data: [DONE]\n\n"])
    assert events[:-1] == [TextDelta("a"), TextDelta("\U0001f600b")]
    assert events[-1].answer.text == "a\U0001f600b"


def test_only_the_first_choice_is_ours(read: Any, sse: Any) -> None:
    other = {"choices": [{"index": 1, "delta": {"content": "no"}, "finish_reason": "stop"}]}
    events = read(WIRE, [sse(other, chunk({"content": "yes"}), other, chunk({}, "stop"), done=True)])
    assert events[-1].answer.text == "yes"


def detail(**members: Any) -> dict[str, Any]:
    return {"reasoning_details": [members]}


@pytest.mark.parametrize(
    ("deltas", "details"),
    [
        (  # Claude: text in pieces, and its signature by itself
            [
                detail(type="reasoning.text", text="Let", format="c1", index=0),
                detail(type="reasoning.text", text=" me \ud83d", format="c1", index=0, signature=None),
                detail(type="reasoning.text", text="\ude00", format="c1", index=0, signature=None),
                detail(type="reasoning.text", signature="s1", format="c1", index=0),
                detail(type="reasoning.text", text="Then", format="c1", index=1),
            ],
            [
                {"type": "reasoning.text", "text": "Let me \U0001f600", "format": "c1", "index": 0, "signature": "s1"},
                {"type": "reasoning.text", "text": "Then", "format": "c1", "index": 1},
            ],
        ),
        (  # Gemini: a text, and what is encrypted, one for each call, all of one number
            [
                detail(type="reasoning.text", text="Hm", format="g1", index=0),
                detail(type="reasoning.encrypted", data="e1", id="c1", format="g1", index=0),
                detail(type="reasoning.encrypted", data="e2", id="c2", format="g1", index=0),
            ],
            [
                {"type": "reasoning.text", "text": "Hm", "format": "g1", "index": 0},
                {"type": "reasoning.encrypted", "data": "e1", "id": "c1", "format": "g1", "index": 0},
                {"type": "reasoning.encrypted", "data": "e2", "id": "c2", "format": "g1", "index": 0},
            ],
        ),
        (  # OpenAI: a summary in pieces, in one event
            [
                {
                    "reasoning_details": [
                        {"type": "reasoning.summary", "summary": "A", "index": 0},
                        {"type": "reasoning.summary", "summary": "b", "index": 0, "id": "rs_1"},
                        {"type": "reasoning.encrypted", "data": "e1", "index": 0, "id": "rs_1"},
                    ]
                }
            ],
            [
                {"type": "reasoning.summary", "summary": "Ab", "index": 0, "id": "rs_1"},
                {"type": "reasoning.encrypted", "data": "e1", "index": 0, "id": "rs_1"},
            ],
        ),
    ],
)
def test_the_pieces_of_reasoning_details_are_put_together(
    deltas: list[dict[str, Any]], details: list[dict[str, Any]], read: Any, sse: Any
) -> None:
    """https://openrouter.ai/docs/guides/best-practices/reasoning-tokens: by type and number, in their order."""
    stream = sse(*map(chunk, deltas), chunk(tool(0, "c1", "f", "{}")), chunk({}, "tool_calls"), done=True)
    events = read(WIRE, [stream], TARGET)
    thought, call = events[-1].answer.parts
    assert events[0] == Progress()
    assert (json.loads(thought.signature), thought.issuer) == (details, TARGET.issuer)
    spoken = "".join(one.get("text", one.get("summary", "")) for one in details)  # where it is said nowhere else
    assert spoken == thought.text == "".join(event.text for event in events if isinstance(event, ThinkingDelta))
    assert call.name == "f"


def test_reasoning_details_come_back_as_in_a_recorded_tool_loop(recorded: Path, read: Any) -> None:
    """What OpenRouter streamed, and what its own client answered."""
    first, second = (
        json.loads((recorded / "openai_compat" / f"openrouter-sse-{name}.json").read_text())
        for name in ("tool_call-02", "text-03")
    )
    answer = read(WIRE, [first["response"]["body"].encode()], TARGET)[-1].answer
    asked = second["request"]["body"]
    asked = json.loads(asked) if isinstance(asked, str) else asked
    history = (Message("user", (Text("Hello"),)), Message("assistant", answer.parts))
    sent = json.loads(WIRE.encode(Request(history), TARGET).body)
    assert sent["messages"][1]["reasoning_details"] == asked["messages"][1]["reasoning_details"]


def test_reasoning_details_do_not_grow_without_end(read: Any, sse: Any) -> None:
    for piece in (
        detail(type="reasoning.text", text="x" * 10_000, index=0),
        detail(type="reasoning.encrypted", data="x" * 10_000, index=0),
        detail(type="reasoning.encrypted", data=["x"] * 1_000, index=0),
    ):
        events = read(WIRE, [sse(*[chunk(piece)] * 100)] * 40)
        assert events[-1].failure.kind is Kind.PROTOCOL
    long = [chunk({"reasoning": "word ", **detail(type="reasoning.text", text="word ", format="c1", index=0)})] * 100
    events = read(WIRE, [*[sse(*long)] * 300, sse(chunk({}, "stop"), done=True)])
    assert isinstance(events[-1], Ended), "as long as any answer may be"
