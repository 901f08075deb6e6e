"""Any conversation, however it came about, becomes a request that the vendor's own rules accept."""

from __future__ import annotations

import base64
import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex.messages import Request, ToolSpec
from cortex.wire import WIRES
from cortex.wire.codec import Target
from cortex.wire.history import NO_IMAGE, NOD

TARGETS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("openai_chat", "https://api.openai.com/v1", "m", {}),
    ("openai_chat", "https://api.openai.com/v1", "ft:o4-mini-2025-04-16:org::id", {}),
    ("openai_chat", "https://r.openai.azure.com", "gpt-5", {}),
    ("openai_chat", "https://api.mistral.ai/v1", "m", {}),
    ("openai_chat", "https://api.deepseek.com", "m", {}),
    ("openai_chat", "https://api.deepseek.com", "deepseek-chat", {}),
    ("openai_chat", "https://api.moonshot.cn/v1", "kimi-k2.6", {}),
    ("openai_chat", "https://openrouter.ai/api/v1", "m", {}),
    ("openai_chat", "https://api.groq.com/openai/v1", "moonshotai/kimi-k2-instruct", {}),
    ("openai_chat", "https://api.groq.com/openai/v1", "openai/gpt-oss-20b", {}),
    ("openai_responses", "https://api.openai.com/v1", "m", {}),
    ("openai_responses", "https://r.openai.azure.com", "m", {"api_version": "v"}),
    ("openai_responses", "https://api.deepseek.com", "m", {}),
    ("anthropic", "https://a", "claude-sonnet-4-5", {"thinking_budget": 2_000}),
    ("anthropic", "https://a", "claude-opus-4-6", {"thinking_budget": 2_000}),
    ("anthropic", "https://a", "claude-opus-4-1", {"thinking_budget": 40_000}),
    ("anthropic", "https://a", "claude-3-haiku-20240307", {"thinking_budget": 2_000}),
    ("anthropic", "https://a", "m", {}),
    ("gemini", "https://g", "m", {}),
    ("gemini", "https://g", "gemini-3-pro", {}),
    ("ollama", "http://box:11434", "m", {}),
]
DEPLOYED = {"gpt-5": "team-a-prod", "claude-opus-4-1": "our-claude"}  # what their owner called them


@pytest.mark.parametrize(("dialect", "base_url", "model", "options"), TARGETS)
@given(data=st.data())
def test_any_conversation_becomes_a_request_the_vendor_accepts(
    dialect: str,
    base_url: str,
    model: str,
    options: dict[str, Any],
    rules: Any,
    conversations: Any,
    data: st.DataObject,
) -> None:
    target = Target("p", base_url, DEPLOYED.get(model, model), options=options, name=model)
    request = data.draw(conversations.requests)
    call = WIRES[dialect].encode(request, target)
    rules.accept(dialect, call.body, model, base_url)
    assert WIRES[dialect].encode(request, target) == call, "the same request is the same bytes"
    assert len(set(call.notes)) == len(call.notes)


@pytest.mark.parametrize("dialect", sorted(WIRES))
@given(data=st.data())
def test_M7_nothing_opaque_reaches_another_issuer(dialect: str, conversations: Any, data: st.DataObject) -> None:
    target = Target("somebody", "https://else", "else")
    body = WIRES[dialect].encode(data.draw(conversations.requests), target).body
    assert b'"sig"' not in body
    assert b"sealed" not in body
    assert b"thoughtSignature" not in body
    assert b'"signature"' not in body


def by_user(one: tuple[Any, ...]) -> bool:
    return one[0] == "image" or one[:2] == ("text", "user")


def seen_by(dialect: str, base_url: str, said: list[Any]) -> list[Any]:
    """An error is a result, marked or told as one. Ollama takes no addresses of images: a word stands for each. Mistral
    takes no user right after a tool's result: a nod stands between."""
    mark = "" if dialect in ("anthropic", "gemini") else "Error: "
    said = [("result", one[1], mark + one[2]) if one[0] == "error" else one for one in said]
    if "mistral" in base_url:
        nod = ("text", "assistant", NOD)
        pairs = itertools.pairwise([(), *said])
        said = [one for old, new in pairs for one in ([nod, new] if old[:1] == ("result",) and by_user(new) else [new])]
    if dialect != "ollama":
        return said
    return [("text", "user", NO_IMAGE) if one[0] == "image" and isinstance(one[1], str) else one for one in said]


def turns_of(told: list[Any]) -> list[tuple[Any, ...]]:
    """What was told, turn by turn: the model's?, its text without blanks, the images, the calls, the results."""
    turns: list[tuple[Any, ...]] = []
    for mine, group in itertools.groupby(told, lambda one: one[0] == "call" or one[:2] == ("text", "assistant")):
        ones = [*group]
        text = "".join("".join(one[2].split()) for one in ones if one[0] == "text")
        images = [
            base64.b64encode(one[1]).decode() if isinstance(one[1], bytes) else one[1]
            for one in ones
            if one[0] == "image"
        ]
        calls, results = ([one[1:] for one in ones if one[0] == kind] for kind in ("call", "result"))
        turns.append((mine, text, images, calls, results))
    return turns


def check_going_on(source: str, dialect: str, rules: Any, conversations: Any, data: st.DataObject) -> None:
    _, base_url, model, options = data.draw(st.sampled_from([row for row in TARGETS if row[0] == dialect]))
    target = Target("own", base_url, DEPLOYED.get(model, model), options=options, name=model)
    other = Target("other", "https://o/v1", "o")
    talk = data.draw(conversations.talks([(source, other), (dialect, target)]))
    tools = tuple(ToolSpec(name, "d", {"type": "object"}) for name in ("f", "get_weather"))
    call = WIRES[dialect].encode(Request(talk.messages, tools=tools), target)
    body = rules.accept(dialect, call.body, model, base_url)
    assert turns_of(rules.said(dialect, body)) == turns_of(seen_by(dialect, base_url, talk.said))
    assert all(seal.encode() in call.body for seal in talk.seals[target.issuer])
    assert not any(word in call.body for word in (b"seal-of-other", b"thought-of-other"))


PAIRS = [*itertools.product(sorted(WIRES), repeat=2)]


@pytest.mark.parametrize(("source", "dialect"), PAIRS)
@settings(max_examples=8)
@given(data=st.data())
def test_every_dialect_goes_on_where_another_was(
    source: str, dialect: str, rules: Any, conversations: Any, data: st.DataObject
) -> None:
    """Nothing a user would read is lost, the vendor accepts it, and what is sealed goes home and nowhere else."""
    check_going_on(source, dialect, rules, conversations, data)


@pytest.mark.slow
@pytest.mark.parametrize(("source", "dialect"), PAIRS)
@settings(max_examples=100)
@given(data=st.data())
def test_every_dialect_goes_on_where_another_was_however_long(
    source: str, dialect: str, rules: Any, conversations: Any, data: st.DataObject
) -> None:
    check_going_on(source, dialect, rules, conversations, data)
