"""OpenAI's Responses dialect: what is read from a stream."""

from __future__ import annotations

from typing import Any

import pytest

from cortex.messages import (
    Answer,
    Broken,
    Ended,
    Finish,
    Issuer,
    Kind,
    Phase,
    Progress,
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

WIRE = WIRES["openai_responses"]
TARGET = Target("openai", "https://api.openai.com/v1", "gpt-5", api_key="sk-1")
HEAD = {"id": "resp_1", "object": "response", "model": "m-1"}
CREATED = {"type": "response.created", "response": {**HEAD, "status": "in_progress", "output": []}}


def event(kind: str, index: int | None = 0, ident: str | None = "i0", **more: Any) -> dict[str, Any]:
    """An event about an item."""
    about = {"output_index": index, "item_id": ident}
    return {"type": f"response.{kind}", **{k: v for k, v in about.items() if v is not None}, **more}


def added(item: dict[str, Any], index: int | None = 0) -> dict[str, Any]:
    return event("output_item.added", index, None, item=item)


def done(item: dict[str, Any], index: int | None = 0) -> dict[str, Any]:
    return event("output_item.done", index, None, item=item)


def text(piece: str, index: int | None = 0, ident: str | None = "i0", **more: Any) -> dict[str, Any]:
    return event("output_text.delta", index, ident, delta=piece, **more)


def message(said: str | None = None, ident: str = "i0") -> dict[str, Any]:
    content = [] if said is None else [{"type": "output_text", "text": said, "annotations": []}]
    return {"type": "message", "id": ident, "role": "assistant", "content": content}


def call(ident: str, name: str, arguments: str = "", **more: Any) -> dict[str, Any]:
    own = {"id": f"fc_{ident}", "call_id": ident, "name": name, "arguments": arguments}
    return {"type": "function_call", **own, **more}


def arguments(ident: str, piece: str, index: int | None = 0) -> dict[str, Any]:
    return event("function_call_arguments.delta", index, f"fc_{ident}", delta=piece)


def reasons(ident: str = "rs", *summary: str, **more: Any) -> dict[str, Any]:
    parts = [{"type": "summary_text", "text": text} for text in summary]
    return {"type": "reasoning", "id": ident, "summary": parts, **more}


def summary(piece: str, part: int = 0, index: int | None = 0, ident: str | None = "rs") -> dict[str, Any]:
    return event("reasoning_summary_text.delta", index, ident, summary_index=part, delta=piece)


def ended(status: str = "completed", **more: Any) -> dict[str, Any]:
    return {"type": f"response.{status}", "response": {**HEAD, "status": status, "output": [], **more}}


def test_a_stream(read: Any, sse: Any) -> None:
    usage = {"input_tokens": 3, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 1}}
    payloads = [
        CREATED,
        {"type": "response.in_progress", "response": HEAD},
        added(message()),
        event("content_part.added", part={"type": "output_text", "text": ""}),
        text("Hel"),
        text("lo"),
        event("output_text.done", text="Hello"),
        done(message("Hello")),
        ended(usage=usage, output=[message("Hello")]),
    ]
    named = sse(*((payload["type"], payload) for payload in payloads))
    assert read(WIRE, [named], TARGET) == [
        Progress(),
        Progress(),
        TextDelta("Hel"),
        TextDelta("lo"),
        Progress(),
        Progress(),
        Ended(Answer((Text("Hello"),), Finish.STOP, "completed", Usage(3, 2, 1), "m-1")),
    ]
    unnamed = sse(*payloads)
    assert read(WIRE, [unnamed], TARGET) == read(WIRE, [named], TARGET)
    bare = sse(*((payload.pop("type"), payload) for payload in payloads))
    assert read(WIRE, [bare], TARGET) == read(WIRE, [named], TARGET)


def test_parallel_calls_are_ready_when_each_is_whole(read: Any, sse: Any) -> None:
    events = read(
        WIRE,
        [
            sse(
                added(call("c1", "f")),
                arguments("c1", '{"a":'),
                arguments("c1", "1}"),
                event("function_call_arguments.done", 0, "fc_c1", arguments='{"a":1}'),
                done(call("c1", "f", '{"a":1}')),
                added(call("c2", "g"), 1),
                done(call("c2", "g", "{}"), 1),
                ended(),
            )
        ],
    )
    one, two = ToolCall("c1", "f", {"a": 1}, '{"a":1}'), ToolCall("c2", "g", {}, "{}")
    assert [e for e in events if not isinstance(e, Progress)] == [
        ToolCallReady(one),
        ToolCallReady(two),
        Ended(Answer((one, two), Finish.TOOL_CALLS, "completed", Usage(), "m-1")),
    ]
    assert events.index(ToolCallReady(one)) < events.index(ToolCallReady(two)) < len(events) - 1


def test_pieces_that_take_turns_are_put_together_by_item(read: Any, sse: Any) -> None:
    stream = sse(
        added(call("c1", "f"), None), added(call("c2", "g"), None),
        arguments("c1", '{"a":', None), arguments("c2", '{"b":', None), arguments("c1", "1}", None),
        arguments("c2", "2}", None), done(call("c2", "g", '{"b":2}'), None), done(call("c1", "f", '{"a":1}'), None),
        ended(),
    )  # fmt: skip
    events = read(WIRE, [stream])
    ready = [e.call for e in events if isinstance(e, ToolCallReady)]
    assert [(c.id, c.arguments) for c in ready] == [("c1", {"a": 1}), ("c2", {"b": 2})], "in the order they began"
    assert events[-1].answer.tool_calls == tuple(ready)


@pytest.mark.parametrize(
    ("index", "ident"),
    [
        ("{n}", "fc_{n}"),
        ("{n}", "fc_{n}_{turn}"),  # some give each event another id
        ("0", "fc_{n}"),  # some number every item 0
        (None, "fc_{n}"),  # or none
        ("{n}", None),
        (None, None),
    ],
)
def test_items_are_told_apart_as_far_as_something_tells(
    index: str | None, ident: str | None, read: Any, sse: Any
) -> None:
    events: list[dict[str, Any]] = []
    for n, (name, raw) in enumerate([("f", '{"a":1}'), ("g", '{"b":2}')]):
        item = {"type": "function_call", "call_id": f"c{n}", "name": name, "arguments": ""}
        for turn, piece in enumerate([None, raw[:3], raw[3:], None]):
            number = {"output_index": int(index.format(n=n))} if index else {}
            own = ident.format(n=n, turn=turn) if ident else None
            if piece:
                told = {
                    "type": "response.function_call_arguments.delta",
                    "delta": piece,
                    **({"item_id": own} if own else {}),
                }
            else:
                kind = "response.output_item.done" if turn else "response.output_item.added"
                told = {"type": kind, "item": {**item, **({"id": own} if own else {})}}
            events.append({**told, **number})
    answer = read(WIRE, [sse(*events, ended())])[-1].answer
    assert [(c.name, c.arguments) for c in answer.tool_calls] == [("f", {"a": 1}), ("g", {"b": 2})]


def test_a_call_cut_by_the_limit_is_not_ready(read: Any, sse: Any) -> None:
    limit = ended("incomplete", incomplete_details={"reason": "max_output_tokens"})
    for pieces, raw in (([], ""), (['{"a": 1'], '{"a": 1')):
        begun = [added(call("c1", "f")), *(arguments("c1", piece) for piece in pieces)]
        for closing in ([], [done(call("c1", "f", raw, status="incomplete"))]):
            events = read(WIRE, [sse(*begun, *closing, limit)])
            assert not [e for e in events if isinstance(e, ToolCallReady)]
            assert events[-1].answer.tool_calls == (ToolCall("c1", "f", None, raw),)
            assert events[-1].answer.finish is Finish.LENGTH


def test_a_call_without_arguments_is_ready_at_the_end_and_keeps_the_order(read: Any, sse: Any) -> None:
    stream = sse(done(call("c1", "f")), done(call("c2", "g", "{}"), 1), ended())
    events = read(WIRE, [stream])
    assert [e.call.id for e in events if isinstance(e, ToolCallReady)] == ["c1", "c2"]
    assert [c.arguments for c in events[-1].answer.tool_calls] == [{}, {}]


def test_what_the_pieces_did_not_say_the_whole_item_says(read: Any, sse: Any) -> None:
    elided = sse(added(message()), text("Got it"), done(message("Got it, thanks.")), ended())
    events = read(WIRE, [elided])
    assert [e for e in events if isinstance(e, TextDelta)] == [TextDelta("Got it"), TextDelta(", thanks.")]
    silent = sse(done(reasons("rs", "A.", "B.")), done(message("Hi"), 1), ended())
    events = read(WIRE, [silent])
    assert (events[-1].answer.thinking, events[-1].answer.text) == ("A.\n\nB.", "Hi")
    at_last = sse(CREATED, ended(output=[reasons("rs", "A."), message("Hi"), call("c1", "f", "{}")]))
    events = read(WIRE, [at_last])
    assert (events[-1].answer.thinking, events[-1].answer.text) == ("A.", "Hi")
    assert [type(e) for e in events if e != Progress()] == [ThinkingDelta, TextDelta, ToolCallReady, Ended]
    other = sse(text("Hello"), done(message("Goodbye")), ended(output=[message("Goodbye")]))
    assert read(WIRE, [other])[-1].answer.text == "Hello", "what was shown stands"


def test_thinking_is_shown_part_by_part_and_signed_when_whole(read: Any, sse: Any) -> None:
    first = reasons("rs", "One.", "Two.", encrypted_content="whole")
    stream = sse(
        CREATED,
        added(reasons(encrypted_content="begun")),
        event("reasoning_summary_part.added", 0, "rs", summary_index=0),
        summary("On"), summary("e."), summary("Two.", 1),
        done(first),
        added(message(), 1), text("Hi", 1), done(message("Hi"), 1),
        ended(),
    )  # fmt: skip
    events = read(WIRE, [stream], TARGET)
    assert [e.text for e in events if isinstance(e, ThinkingDelta)] == ["On", "e.", "\n\nTwo."]
    thought, said = events[-1].answer.parts
    assert isinstance(thought, Thinking)
    assert (thought.text, thought.issuer, said) == ("One.\n\nTwo.", Issuer("openai", "gpt-5"), Text("Hi"))
    assert '"encrypted_content":"whole"' in (thought.signature or "")


def test_the_beginning_of_hidden_reasoning_is_no_sign_of_life(read: Any, sse: Any) -> None:
    """Minutes of silence may follow it, which the patience between two pieces must not be measured on."""
    stream = sse(CREATED, {"type": "response.in_progress", "response": HEAD}, added(reasons()))
    assert read(WIRE, [stream], TARGET)[:-1] == []
    sealed = done(reasons(encrypted_content="x"))
    assert read(WIRE, [stream + sse(sealed)], TARGET)[:-1] == [Progress()]


def test_reasoning_that_is_told_twice_is_heard_once(read: Any, sse: Any) -> None:
    full = event("reasoning_text.delta", 0, "rs", content_index=0, delta="All of it.")
    item = reasons("rs", "Short.", content=[{"type": "reasoning_text", "text": "All of it."}])
    for told, heard in (([full, summary("Short.")], "All of it."), ([summary("Short."), full], "Short.")):
        assert read(WIRE, [sse(*told, done(item), ended())])[-1].answer.thinking == heard


def test_an_item_that_ends_after_the_next_began_is_signed_in_its_own_place(read: Any, sse: Any) -> None:
    sealed = reasons("rs", "Hm.", encrypted_content="x")
    stream = sse(
        added(reasons(), None), summary("Hm.", index=None), added(message(), None), text("Hi", None),
        done(sealed, None), done(message("Hi"), None), ended(),
    )  # fmt: skip
    thought, said = read(WIRE, [stream], TARGET)[-1].answer.parts
    assert (thought.text, bool(thought.signature), said) == ("Hm.", True, Text("Hi"))


def test_a_refusal_is_shown_and_named(read: Any, sse: Any) -> None:
    item = {**message(), "content": [{"type": "refusal", "refusal": "I cannot."}]}
    pieces = [event("refusal.delta", delta="I can"), event("refusal.delta", delta="not.")]
    for stream in (sse(*pieces, done(item), ended()), sse(done(item), ended())):
        answer = read(WIRE, [stream])[-1].answer
        assert (answer.text, answer.finish, answer.raw_finish) == ("I cannot.", Finish.REFUSAL, "completed")


def test_a_servers_own_tools_are_progress_and_keepalives_are_not(read: Any, sse: Any) -> None:
    own = [
        event("web_search_call.searching", 0, "ws"),
        event("code_interpreter_call_code.delta", 0, "ci", delta="1"),
        event("mcp_call_arguments.delta", 0, "mcp", delta="{}"),
        event("output_text.annotation.added", annotation={}),
        done({"type": "web_search_call", "id": "ws"}),
    ]
    idle = [{"type": "keepalive", "sequence_number": 3}, {"type": "response.queued", "response": HEAD}, {}]
    events = read(WIRE, [sse(*own, *idle, text("x"), ended())])
    assert events[:-1] == [*[Progress()] * len(own), TextDelta("x")]


FAILED = {"type": "response.failed", "response": {**HEAD, "status": "failed", "output": []}}


@pytest.mark.parametrize(
    ("payload", "kind", "code"),
    [
        ({"type": "error", "code": "server_error", "message": "Oh.", "param": None}, Kind.TRANSIENT, "server_error"),
        ({"type": "error", "code": None, "message": "Oh."}, Kind.TRANSIENT, None),
        ({"type": "error", "code": "rate_limit_exceeded", "message": "Oh."}, Kind.RATE_LIMIT, "rate_limit_exceeded"),
        (
            {"type": "error", "error": {"type": "invalid_request_error", "code": "context_length_exceeded",
                                        "message": "Oh."}},
            Kind.CONTEXT,
            "context_length_exceeded",
        ),
        (
            {"type": "error", "error": {"type": "insufficient_quota", "code": "insufficient_quota", "message": "Oh."}},
            Kind.QUOTA,
            "insufficient_quota",
        ),
        (
            {**FAILED, "response": {**FAILED["response"], "error": {"code": "server_is_overloaded", "message": "Oh."}}},
            Kind.OVERLOADED,
            "server_is_overloaded",
        ),
        ({"error": {"message": "Oh.", "code": 502}}, Kind.TRANSIENT, "502"),
    ],
)  # fmt: skip
def test_errors_inside_a_200(payload: dict[str, Any], kind: Kind, code: str | None, read: Any, sse: Any) -> None:
    for before in ([CREATED], [CREATED, text("x")]):
        events = read(WIRE, [sse(*before, payload, FAILED, ended())], TARGET)
        failure = events[-1].failure
        assert (failure.kind, failure.code, failure.message, failure.phase) == (kind, code, "Oh.", Phase.STREAM)


def test_a_cancelled_response_is_broken(read: Any, sse: Any) -> None:
    assert read(WIRE, [sse(text("x"), ended("cancelled"))])[-1].failure.kind is Kind.TRANSIENT


def test_a_stream_that_ends_before_its_last_event_was_cut(read: Any, sse: Any) -> None:
    whole = [CREATED, added(message()), text("Hi"), done(message("Hi")), ended()]
    for count in range(len(whole)):
        for closing in (b"", b"data: [DONE]\n\n"):
            verdict = read(WIRE, [sse(*whole[:count]) + closing])[-1]
            assert isinstance(verdict, Broken)
            assert verdict.failure.kind is Kind.CUT
    assert isinstance(read(WIRE, [sse(*whole)])[-1], Ended)


def test_a_server_that_ignores_stream_sends_one_body(read: Any, reply: Any) -> None:
    whole = reply({**HEAD, "status": "completed", "output": [message("Hi")]}).body
    assert read(WIRE, [whole[:9], whole[9:]])[-1].answer.text == "Hi"
    assert read(WIRE, [whole[:-1]])[-1].failure.kind is Kind.CUT
