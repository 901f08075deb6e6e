"""A structured answer where the model knows no schema for it: a tool is offered, and nobody but the vendor sees it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.messages import (
    Answer,
    Ended,
    Finish,
    Message,
    OutputSchema,
    Request,
    Text,
    TextDelta,
    Thinking,
    ToolCall,
    ToolCallReady,
    ToolResult,
    ToolSpec,
)
from cortex.wire import WIRES
from cortex.wire.codec import Target
from cortex.wire.output import by_tool, output_tool

HELLO = (Message("user", (Text("Hello"),)),)
OUTPUT = OutputSchema("a_city", {"type": "object", "properties": {"name": {"type": "string"}}})
TOOL = output_tool(OUTPUT)
SPEC = ToolSpec("f", "does f", {"type": "object"})
SAID = '{"name": "Paris \U0001f600"}'

DEEPSEEK, GROQ = "https://api.deepseek.com", "https://api.groq.com/openai/v1"


@attrs.frozen
class Dialect:
    """What one vendor sends: `call(name, arguments)` among the pieces of an answer, a text, the answer around them."""

    wire: str
    target: Target
    text: Callable[[str], list[Any]]
    call: Callable[[str, str], list[Any]]
    end: list[Any]
    choice: Callable[[str], Any]


def _chat(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def _chat_call(name: str, arguments: str) -> list[Any]:
    head = {"index": 0, "id": f"call_{name}", "function": {"name": name, "arguments": ""}}
    return [
        _chat({"tool_calls": [head]}),
        *(_chat({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}) for piece in arguments),
    ]


def _block(index: int, block: dict[str, Any], delta: str, pieces: str) -> list[Any]:
    field = {"text_delta": "text", "input_json_delta": "partial_json"}[delta]
    return [
        {"type": "content_block_start", "index": index, "content_block": block},
        *({"type": "content_block_delta", "index": index, "delta": {"type": delta, field: piece}} for piece in pieces),
        {"type": "content_block_stop", "index": index},
    ]


def _item(ident: str, item: dict[str, Any], kind: str, pieces: str) -> list[Any]:
    return [
        {"type": "response.output_item.added", "item": {"id": ident, **item}},
        *({"type": f"response.{kind}.delta", "item_id": ident, "delta": piece} for piece in pieces),
        {"type": "response.output_item.done", "item": {"id": ident, **item, "arguments": pieces}},
    ]


def _parts(*parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"candidates": [{"content": {"parts": list(parts)}, **more}]}


DIALECTS = {
    "chat": Dialect(
        "openai_chat",
        Target("p", DEEPSEEK, "deepseek-chat"),
        lambda text: [_chat({"content": text})],
        _chat_call,
        [_chat({}, "tool_calls")],
        lambda name: {"type": "function", "function": {"name": name}},
    ),
    "responses": Dialect(
        "openai_responses",
        Target("p", DEEPSEEK, "deepseek-chat"),
        lambda text: _item("m", {"type": "message"}, "output_text", text),
        lambda name, arguments: _item(
            name, {"type": "function_call", "call_id": name, "name": name}, "function_call_arguments", arguments
        ),
        [{"type": "response.completed", "response": {"status": "completed"}}],
        lambda name: {"type": "function", "name": name},
    ),
    "anthropic": Dialect(
        "anthropic",
        Target("p", "https://api.anthropic.com", "claude-haiku-4-5"),
        lambda text: _block(0, {"type": "text", "text": ""}, "text_delta", text),
        lambda name, arguments: _block(
            1, {"type": "tool_use", "id": name, "name": name, "input": {}}, "input_json_delta", arguments
        ),
        [{"type": "message_delta", "delta": {"stop_reason": "tool_use"}}, {"type": "message_stop"}],
        lambda name: {"type": "tool", "name": name},
    ),
    "gemini": Dialect(
        "gemini",
        Target("p", "https://generativelanguage.googleapis.com", "gemini-2.5-flash"),
        lambda text: [_parts({"text": text})],
        lambda name, arguments: [_parts({"functionCall": {"name": name, "args": json.loads(arguments)}})],
        [_parts({"text": ""}, finishReason="STOP")],
        lambda name: None,
    ),
}
each_dialect = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)


def body_of(dialect: Dialect, request: Request, **target: Any) -> dict[str, Any]:
    call = WIRES[dialect.wire].encode(request, attrs.evolve(dialect.target, **target))
    body: dict[str, Any] = json.loads(call.body)
    return body


def heard(dialect: Dialect, read: Any, sse: Any, *payloads: Any) -> tuple[str, Answer, list[Any]]:
    """What a stream of these payloads shows, its answer, and the calls it announces."""
    events = read(WIRES[dialect.wire], [sse(*payloads, *dialect.end)], dialect.target)
    assert isinstance(events[-1], Ended), events[-1]
    shown = "".join(event.text for event in events if isinstance(event, TextDelta))
    return shown, events[-1].answer, [event.call for event in events if isinstance(event, ToolCallReady)]


@each_dialect
def test_the_call_comes_back_as_text(dialect: Dialect, read: Any, sse: Any) -> None:
    shown, answer, calls = heard(dialect, read, sse, *dialect.call(TOOL.name, SAID))
    assert json.loads(shown) == json.loads(SAID)
    assert (answer.parts, answer.finish, calls) == ((Text(shown),), Finish.STOP, [])


@each_dialect
def test_what_is_said_beside_it_is_no_part_of_it(dialect: Dialect, read: Any, sse: Any) -> None:
    shown, answer, _ = heard(dialect, read, sse, *dialect.text("Here it is:"), *dialect.call(TOOL.name, SAID))
    assert json.loads(answer.text) == json.loads(SAID)
    assert answer.thinking == "Here it is:"
    assert shown == f"Here it is:{answer.text}"


@each_dialect
def test_a_call_of_the_users_tools_is_one(dialect: Dialect, read: Any, sse: Any) -> None:
    _, answer, calls = heard(dialect, read, sse, *dialect.text("I look."), *dialect.call("f", '{"a": 1}'))
    assert [(call.name, call.arguments) for call in answer.tool_calls] == [("f", {"a": 1})]
    assert (answer.text, answer.finish, calls) == ("I look.", Finish.TOOL_CALLS, list(answer.tool_calls))


@pytest.mark.parametrize("name", ["chat", "responses", "anthropic"])
def test_it_is_shown_as_it_comes(name: str, read: Any, sse: Any) -> None:
    """A vendor that sends arguments in pieces is heard in pieces."""
    dialect = DIALECTS[name]
    events = read(WIRES[dialect.wire], [sse(*dialect.call(TOOL.name, SAID), *dialect.end)], dialect.target)
    assert len([event for event in events if isinstance(event, TextDelta)]) == len(SAID)


def test_a_name_that_comes_late_is_heard(read: Any, sse: Any) -> None:
    """What had come before it is shown at the end."""
    head, *rest = _chat_call("", SAID)
    named = _chat({"tool_calls": [{"index": 0, "function": {"name": TOOL.name}}]})
    shown, answer, calls = heard(DIALECTS["chat"], read, sse, head, *rest, named)
    assert (shown, answer.text, calls) == (SAID, SAID, [])


def test_an_answer_that_ran_into_its_limit_is_what_there_is(read: Any, sse: Any) -> None:
    dialect = attrs.evolve(DIALECTS["chat"], end=[_chat({}, "length")])
    shown, answer, _ = heard(dialect, read, sse, *dialect.call(TOOL.name, SAID[:9]))
    assert (shown, answer.text, answer.finish) == (SAID[:9], SAID[:9], Finish.LENGTH)


def test_a_stream_that_ends_inside_it_was_cut(read: Any, sse: Any) -> None:
    dialect = DIALECTS["chat"]
    events = read(WIRES[dialect.wire], [sse(*dialect.call(TOOL.name, SAID[:9]), done=True)], dialect.target)
    assert events[-1].failure.kind == "cut"


def test_a_whole_reply_is_read_alike(reply: Any) -> None:
    call = {"id": "c", "type": "function", "function": {"name": TOOL.name, "arguments": SAID}}
    message = {"content": "Here:", "tool_calls": [call]}
    for finish in ("tool_calls", "stop"):  # a forced call ends with either
        whole = reply({"choices": [{"message": message, "finish_reason": finish}], "usage": {"prompt_tokens": 3}})
        answer = WIRES["openai_chat"].decode(whole, DIALECTS["chat"].target)
        assert isinstance(answer, Answer)
        assert (answer.text, answer.finish, answer.usage.input_tokens) == (SAID, Finish.STOP, 3)
        assert [type(part) for part in answer.parts] == [Thinking, Text]


# ------------------------------------------------------------------------------------------------------ what is sent


@pytest.mark.parametrize("name", ["chat", "responses", "anthropic"])
def test_the_tool_is_forced_where_it_is_alone(name: str) -> None:
    dialect = DIALECTS[name]
    body = body_of(dialect, Request(HELLO, system="Be kind.", output=OUTPUT))
    (tool,) = body["tools"]
    assert OUTPUT.schema in (
        tool.get("parameters"),
        tool.get("input_schema"),
        tool.get("function", {}).get("parameters"),
    )
    assert body["tool_choice"] == dialect.choice(TOOL.name)
    assert not {"response_format", "text"} & set(body)
    assert "schema" not in json.dumps(body.get("messages", body.get("instructions")))


@pytest.mark.parametrize("name", ["chat", "responses"])
def test_beside_tools_one_of_all_is_required(name: str) -> None:
    dialect = DIALECTS[name]
    body = body_of(dialect, Request(HELLO, output=OUTPUT, tools=(SPEC,)))
    assert len(body["tools"]) == 2
    assert body["tool_choice"] == "required"
    none = body_of(dialect, Request(HELLO, output=OUTPUT, tools=(SPEC,), tool_choice="none"))
    assert none["tool_choice"] == dialect.choice(TOOL.name)
    for own in ("f", "required"):  # the user wants a call of his own: there is no answer to give yet
        body = body_of(dialect, Request(HELLO, output=OUTPUT, tools=(SPEC,), tool_choice=own))
        assert len(body["tools"]) == 1


@pytest.mark.parametrize("called", [False, True], ids=["new", "a tool was called"])
@pytest.mark.parametrize(
    ("model", "budget", "choice", "offered"),
    [
        ("claude-haiku-4-5", None, {"type": "tool", "name": TOOL.name}, ["f", TOOL.name]),
        ("claude-haiku-4-5", 2_000, {"type": "auto"}, [TOOL.name]),
        ("claude-opus-4-8", None, {"type": "auto"}, [TOOL.name]),
    ],
)
def test_who_may_call_none_of_his_tools_may_still_answer(
    model: str, budget: int | None, choice: Any, offered: list[str], called: bool
) -> None:
    """Where the answer can be forced it is; where it cannot, it is the only tool there is."""
    call = (Message("assistant", (ToolCall("1", "f", {}),)), Message("tool", (ToolResult("1", "f", "r"),)), *HELLO)
    request = Request(
        (*HELLO, *(call if called else ())),
        output=OUTPUT,
        tools=(SPEC,),
        tool_choice="none",
        thinking_budget=budget,
        parallel_tools=False,
    )
    body = body_of(DIALECTS["anthropic"], request, model=model)
    assert [tool["name"] for tool in body["tools"]] == offered
    assert body["tool_choice"] == {**choice, "disable_parallel_tool_use": True}


@pytest.mark.parametrize(
    ("base_url", "model", "request_", "way"),
    [
        (DEEPSEEK, "deepseek-chat", Request(HELLO, output=OUTPUT), "tool"),
        (DEEPSEEK, "deepseek-v4-pro", Request(HELLO, output=OUTPUT), "words"),
        (DEEPSEEK, "deepseek-v4-pro", Request(HELLO, output=OUTPUT, extra={"thinking": {"type": "disabled"}}), "tool"),
        (GROQ, "llama-3.3-70b-versatile", Request(HELLO, output=OUTPUT), "tool"),
        (GROQ, "openai/gpt-oss-120b", Request(HELLO, output=OUTPUT), "schema"),
        (GROQ, "openai/gpt-oss-120b", Request(HELLO, output=OUTPUT, stream=True), "tool"),
        (GROQ, "openai/gpt-oss-120b", Request(HELLO, output=OUTPUT, tools=(SPEC,)), "tool"),
        ("https://api.openai.com/v1", "gpt-4o", Request(HELLO, output=OUTPUT, tools=(SPEC,), stream=True), "schema"),
        *(
            ("https://api.openai.com/v1", model, Request(HELLO, output=OUTPUT), "tool")
            for model in ("gpt-3.5-turbo", "gpt-4", "gpt-4-0613", "gpt-4-turbo", "gpt-4o-2024-05-13", "o1-mini")
        ),
        *(
            ("https://api.openai.com/v1", model, Request(HELLO, output=OUTPUT), "schema")
            for model in ("gpt-4o-2024-08-06", "gpt-4o-mini", "gpt-4.1", "o1", "o3-mini", "gpt-5", "gpt-6")
        ),
        ("http://localhost:11434/v1", "llama3.1", Request(HELLO, output=OUTPUT), "schema"),
    ],
)
def test_which_way_each_model_is_asked(base_url: str, model: str, request_: Request, way: str) -> None:
    body = body_of(DIALECTS["chat"], request_, base_url=base_url, model=model)
    offered = any("structured_output__" in json.dumps(tool) for tool in body.get("tools", []))
    form = body.get("response_format", {}).get("type")
    assert (offered, form) == {"tool": (True, None), "words": (False, "json_object"), "schema": (False, "json_schema")}[
        way
    ]


def test_a_request_without_output_stays_as_it_is() -> None:
    request = Request(HELLO, tools=(SPEC,))
    assert by_tool(request) is request


@given(name=st.from_regex("[a-zA-Z0-9_-]{1,64}", fullmatch=True))
def test_its_name_is_one_that_every_vendor_takes(name: str) -> None:
    made = output_tool(OutputSchema(name, {})).name
    assert len(made) <= 64
    assert made.isascii()
    assert made.replace("-", "").replace("_", "").isalnum()


@given(st.lists(st.text(st.sampled_from("\ud83d\ude00{a\n"), max_size=4), max_size=6))
def test_what_was_shown_is_what_the_answer_holds(pieces: list[str]) -> None:
    """However a text was cut, halves of an emoji included."""
    wire, target = WIRES["openai_chat"], DIALECTS["chat"].target
    head = {"index": 0, "id": "c", "function": {"name": TOOL.name}}
    deltas = [head, *({"index": 0, "function": {"arguments": piece}} for piece in pieces)]
    events = [_chat({"tool_calls": [delta]}) for delta in deltas] + [_chat({}, "stop")]
    data = "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode()
    decoder = wire.decoder(target)
    said = [*decoder.feed(data), *decoder.close()]
    assert isinstance(said[-1], Ended)
    assert "".join(event.text for event in said if isinstance(event, TextDelta)) == said[-1].answer.text
    assert not any(isinstance(part, ToolCall) for part in said[-1].answer.parts)
