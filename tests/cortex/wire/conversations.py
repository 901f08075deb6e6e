"""Random conversations: any at all, however broken; and well-kept ones whose answers came from given dialects."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import attrs
from hypothesis import strategies as st

from cortex.messages import (
    Image,
    Issuer,
    Message,
    OutputSchema,
    Part,
    Request,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    ToolSpec,
)
from cortex.wire import WIRES
from cortex.wire.codec import HttpReply, Target

OWN, FOREIGN = Issuer("p", "m"), Issuer("q", "m")
texts = st.one_of(st.sampled_from(["", " ", "\n", "hello ", "\ud800x"]), st.text(max_size=5))
ids = st.sampled_from(["", "0", "1", "call_1", "toolu_x", "call.with:odd/chars", "x" * 90, "é"])
names = st.sampled_from(["f", "get weather", "a.b", "9lives", "", "x" * 80])
issuers = st.sampled_from([OWN, FOREIGN, None])
SEALED = '{"type":"reasoning","id":"rs_1","encrypted_content":"sealed","summary":[]}'
DETAILS = '[{"type":"reasoning.encrypted","data":"sealed","index":0}]'
signatures = st.sampled_from([None, "sig", SEALED, DETAILS])
nan = float("nan")
arguments = st.sampled_from(
    [({}, ""), ({"a": 1}, '{"a": 1}'), (True, "true"), (None, '{"a": '), ({"a": nan}, '{"a": NaN}'), (None, "")]
)

calls = st.builds(
    lambda i, n, a, s, who: ToolCall(i, n, a[0], a[1], f"{json.dumps(s)}" if s else None, who),
    ids, names, arguments, signatures, issuers,
)  # fmt: skip
images = st.builds(Image, st.none(), st.sampled_from([None, b"", b"\x89PNG"]), st.sampled_from([None, "https://x"]))
user_parts: st.SearchStrategy[Part] = st.one_of(st.builds(Text, texts), images)
results = st.builds(ToolResult, ids, names, texts, st.booleans())
assistant_parts: st.SearchStrategy[Part] = st.one_of(
    st.builds(Text, texts), st.builds(Thinking, texts, signatures, issuers), calls, calls
)


def message(role: Any, parts: st.SearchStrategy[Part]) -> st.SearchStrategy[Message]:
    return st.builds(Message, st.just(role), st.lists(parts, max_size=4).map(tuple))


conversations = st.lists(
    st.one_of(
        message("user", user_parts),
        message("assistant", assistant_parts),
        message("tool", results),
        message("user", st.one_of(user_parts, results)),
        message("system", st.builds(Text, texts)),
    ),
    max_size=8,
)
fields = st.sampled_from(
    [
        {"type": "string"},
        {"type": "string", "minLength": 1},
        {"type": "string", "format": "date"},
        {"type": "string", "format": "uri"},
        {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
        {"type": "array", "items": {"type": "object"}},
        {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]},
        {"oneOf": [{"$ref": "#/$defs/a"}]},
        {"allOf": [{"$ref": "#/$defs/a"}]},
        {"type": "object", "additionalProperties": {"type": "string"}},
        {"enum": ["x", "minLength"], "description": "d"},
        {"$ref": "#/$defs/a", "description": "d"},
        {"type": "object", "properties": {"b": {"$ref": "#/$defs/a"}}, "required": ["b"]},
        {},
        {"const": True},
        {"type": "string", "default": "x"},
    ]
)
closed = st.dictionaries(st.sampled_from(["a", "format", "oneOf"]), fields, max_size=2).map(
    lambda known: {"type": "object", "properties": known, "required": [*known], "additionalProperties": False}
)
schemas = st.one_of(
    st.just({"type": "object"}),
    closed,
    closed.map(lambda schema: {**schema, "$defs": {"a": {"type": "string"}}}),
    st.builds(lambda schema, inner: {**schema, "$defs": {"a": inner}}, closed, fields),
)
requests = st.builds(
    Request,
    conversations.map(tuple),
    system=texts,
    tools=st.sampled_from([(), (ToolSpec("f", "d", {"type": "object"}),)]),
    tool_choice=st.sampled_from([None, "none", "required", "f"]),
    output=st.one_of(st.none(), st.builds(OutputSchema, st.just("x_y"), schemas)),
    temperature=st.sampled_from([None, 0.0]),
    max_tokens=st.sampled_from([None, 10]),
    stream=st.booleans(),
)


# ----------------------------------------------------------------- answers, in the words of the dialect they came from

Spoken = tuple[Any, ...]
"""("thinking", text, seal) | ("text", text) | ("call", id, name, arguments, seal); what is sealed its issuer reads."""


def _openai_chat(spoken: Sequence[Spoken]) -> Any:
    message: dict[str, Any] = {
        "content": "".join(one[1] for one in spoken if one[0] == "text") or None,
        "reasoning_content": "".join(one[1] for one in spoken if one[0] == "thinking") or None,
        "reasoning_details": [
            {"type": "reasoning.text", "text": one[1], "signature": one[2], "index": place}
            for place, one in enumerate(spoken)
            if one[0] == "thinking"
        ],
    }
    message["tool_calls"] = [
        {
            "id": ident,
            "function": {"name": name, "arguments": json.dumps(arguments)},
            "extra_content": {"google": {"thought_signature": seal}},
        }
        for kind, ident, name, arguments, seal in (one for one in spoken if one[0] == "call")
    ]
    return {"choices": [{"message": message, "finish_reason": "stop"}]}


def _openai_responses(spoken: Sequence[Spoken]) -> Any:
    def item(one: Spoken) -> dict[str, Any]:
        if one[0] == "thinking":
            summary = [{"type": "summary_text", "text": one[1]}]
            return {"type": "reasoning", "id": f"rs_{one[2]}", "summary": summary, "encrypted_content": one[2]}
        if one[0] == "text":
            return {"type": "message", "content": [{"type": "output_text", "text": one[1]}]}
        _, ident, name, arguments, _ = one
        return {"type": "function_call", "call_id": ident, "name": name, "arguments": json.dumps(arguments)}

    return {"status": "completed", "output": [item(one) for one in spoken]}


def _anthropic(spoken: Sequence[Spoken]) -> Any:
    def block(one: Spoken) -> dict[str, Any]:
        if one[0] == "thinking":
            return {"type": "thinking", "thinking": one[1], "signature": one[2]}
        if one[0] == "text":
            return {"type": "text", "text": one[1]}
        _, ident, name, arguments, _ = one
        return {"type": "tool_use", "id": ident, "name": name, "input": arguments}

    return {"content": [block(one) for one in spoken], "stop_reason": "end_turn"}


def _gemini(spoken: Sequence[Spoken]) -> Any:
    def part(one: Spoken) -> dict[str, Any]:
        if one[0] == "thinking":
            return {"text": one[1], "thought": True, "thoughtSignature": one[2]}
        if one[0] == "text":
            return {"text": one[1]}
        _, ident, name, arguments, seal = one
        return {"functionCall": {"id": ident, "name": name, "args": arguments}, "thoughtSignature": seal}

    return {"candidates": [{"content": {"parts": [part(one) for one in spoken]}, "finishReason": "STOP"}]}


def _ollama(spoken: Sequence[Spoken]) -> Any:
    message = {
        "content": "".join(one[1] for one in spoken if one[0] == "text"),
        "thinking": "".join(one[1] for one in spoken if one[0] == "thinking"),
        "tool_calls": [{"function": {"name": one[2], "arguments": one[3]}} for one in spoken if one[0] == "call"],
    }
    return {"message": message, "done": True, "done_reason": "stop"}


REPLIES = {
    "openai_chat": _openai_chat,
    "openai_responses": _openai_responses,
    "anthropic": _anthropic,
    "gemini": _gemini,
    "ollama": _ollama,
}
SEALS = {  # what each dialect seals
    "openai_chat": {"thinking", "call"},
    "openai_responses": {"thinking"},
    "anthropic": {"thinking"},
    "gemini": {"thinking", "call"},
    "ollama": set(),
}


@attrs.frozen
class Talk:
    """A conversation; what of it a user would read, as `rules.said` tells it; the seals of each who answered."""

    messages: tuple[Message, ...]
    said: list[Spoken]
    seals: dict[Issuer, list[str]]


words = st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=3)
sentences = st.lists(words, min_size=1, max_size=2).map(" ".join)
objects = st.dictionaries(
    words, st.sampled_from(["a", "", "\u00e9", 0, -1.5, True, None, [], ["a"], {"a": {}}]), max_size=2
)
pictures = st.one_of(
    st.binary(max_size=3).map(lambda tail: Image(data=b"\x89PNG" + tail)),
    words.map(lambda word: Image(url=f"https://x/{len(word)}.png")),
)
call_ids = st.sampled_from(["call_0", "functions.f:0", "toolu_1", "x" * 70, ""])
thoughts = st.tuples(st.just("thinking"), sentences)
said_parts = st.one_of(
    st.tuples(st.just("text"), sentences),
    st.tuples(st.just("call"), call_ids, st.sampled_from(["f", "get_weather"]), objects),
)
spoken_parts = st.one_of(thoughts, said_parts)


@st.composite
def talks(draw: st.DrawFn, speakers: Sequence[tuple[str, Target]]) -> Talk:
    """A user, and answers of `speakers` (each a dialect and who speaks it) with parallel tools, some of which fail."""
    messages: list[Message] = []
    said: list[Spoken] = []
    seals: dict[Issuer, list[str]] = {target.issuer: [] for _, target in speakers}
    for _ in range(draw(st.integers(1, 4))):
        calls = [part for part in messages[-1].parts if isinstance(part, ToolCall)] if messages else []
        if calls:
            messages.append(_ran(draw, calls, said))
        if not calls or draw(st.booleans()):
            messages.append(_asked(draw, said))
        dialect, target = draw(st.sampled_from(speakers))
        messages.append(_answered(draw, dialect, target, said, seals[target.issuer]))
    calls = [part for part in messages[-1].parts if isinstance(part, ToolCall)]
    messages.append(_ran(draw, calls, said) if calls else _asked(draw, said))
    return Talk(tuple(messages), said, seals)


def _asked(draw: st.DrawFn, said: list[Spoken]) -> Message:
    parts = draw(st.lists(st.one_of(sentences.map(Text), pictures), min_size=1, max_size=3))
    said += [
        ("text", "user", part.text) if isinstance(part, Text) else ("image", part.data or part.url) for part in parts
    ]
    return Message("user", tuple(parts))


def _answered(draw: st.DrawFn, dialect: str, target: Target, said: list[Spoken], seals: list[str]) -> Message:
    spoken = [*draw(st.lists(spoken_parts, max_size=4)), draw(said_parts), *draw(st.lists(thoughts, max_size=1))]
    led_on = max(place for place, one in enumerate(spoken) if one[0] != "thinking")  # what is behind it led to nothing
    sealed: list[Spoken] = []
    for place, one in enumerate(spoken):
        seal = f"seal-of-{target.provider}-{len(seals)}."
        if one[0] == "text":
            sealed.append(one)
            continue
        sealed.append(
            (one[0], f"{one[1]} thought-of-{target.provider}", seal) if one[0] == "thinking" else (*one, seal)
        )
        if one[0] in SEALS[dialect] and place <= led_on:
            seals.append(seal)
    reply = HttpReply(200, {}, json.dumps(REPLIES[dialect](sealed)).encode())
    answer = WIRES[dialect].decode(reply, target)
    said += [("text", "assistant", one[1]) for one in spoken if one[0] == "text"]
    said += [("call", one[2], one[3]) for one in spoken if one[0] == "call"]
    return Message("assistant", answer.parts)


def _ran(draw: st.DrawFn, calls: list[ToolCall], said: list[Spoken]) -> Message:
    results = [ToolResult(call.id, call.name, draw(sentences), draw(st.booleans())) for call in calls]
    said += [("error" if result.is_error else "result", result.name, result.content) for result in results]
    if len({call.id for call in calls}) == len(calls):
        results = draw(st.permutations(results))  # whichever was done first
    return Message("tool", tuple(results))
