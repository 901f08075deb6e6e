"""Any conversation, however it came about, becomes a request that the vendor's own rules accept.

The validators here are the vendors' rules as their documentation and their 400s tell them; they know no encoder.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
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
from cortex.wire.codec import Target

OWN, FOREIGN = Issuer("p", "m"), Issuer("q", "m")
texts = st.one_of(st.sampled_from(["", " ", "\n", "hello ", "\ud800x"]), st.text(max_size=5))
ids = st.sampled_from(["", "0", "1", "call_1", "toolu_x", "call.with:odd/chars", "x" * 90, "é"])
names = st.sampled_from(["f", "get weather", "a.b", "9lives", "", "x" * 80])
issuers = st.sampled_from([OWN, FOREIGN, None])
SEALED = '{"type":"reasoning","id":"rs_1","encrypted_content":"sealed","summary":[]}'
signatures = st.sampled_from([None, "sig", SEALED])
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
requests = st.builds(
    Request,
    conversations.map(tuple),
    system=texts,
    tools=st.sampled_from([(), (ToolSpec("f", "d", {"type": "object"}),)]),
    tool_choice=st.sampled_from([None, "none", "required", "f"]),
    output=st.sampled_from([None, OutputSchema("x y", {"type": "object"})]),
    temperature=st.sampled_from([None, 0.0]),
    max_tokens=st.sampled_from([None, 10]),
    stream=st.booleans(),
)
NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_-]{0,63}")


def check_openai(body: dict[str, Any], id_pattern: str = r".{1,64}") -> None:
    waiting: list[str] = []
    seen: set[str] = set()
    before = None
    for index, sent in enumerate(body["messages"]):
        role = sent["role"]
        assert role in {"system": {"system"}, "tool": {"tool"}}.get(role, {"user", "assistant"})
        assert (role == "system") <= (index == 0)
        if role == "tool":
            assert sent["tool_call_id"] == waiting.pop(0)
            assert sent["content"].strip()
            before = role
            continue
        assert not waiting, "a call has no result"
        assert role != before, f"two messages of {role} in a row"
        before = role
        content = sent["content"]
        if role == "assistant":
            assert content is None or content.strip()
            assert content or sent.get("tool_calls")
            for call in sent.get("tool_calls", []):
                assert re.fullmatch(id_pattern, call["id"])
                assert call["id"] not in seen
                assert NAME.fullmatch(call["function"]["name"])
                assert isinstance(json.loads(call["function"]["arguments"], parse_constant=refuse), dict)
                seen.add(call["id"])
                waiting.append(call["id"])
        else:
            assert content
            assert isinstance(content, list) or content.strip()
            for part in content if isinstance(content, list) else []:
                assert part.get("text", "x").strip()
                assert part.get("image_url", {"url": "x"})["url"]
    assert not waiting
    assert ("tool_choice" in body) <= ("tools" in body)


def check_anthropic(body: dict[str, Any]) -> None:
    assert body["max_tokens"] > 0
    assert body.get("system", "x").strip()
    messages = body["messages"]
    assert messages[0]["role"] == "user"
    seen: set[str] = set()
    waiting: list[str] = []
    names = {tool["name"] for tool in body.get("tools", [])}
    for one, two in zip(messages, [*messages[1:], None], strict=True):
        assert one["role"] != (two or {}).get("role")
        assert one["content"]
        kinds = [block["type"] for block in one["content"]]
        answered = [block["tool_use_id"] for block in one["content"] if block["type"] == "tool_result"]
        assert answered == waiting, "results answer the calls of the message before, in order"
        assert kinds[: len(answered)] == ["tool_result"] * len(answered), "results come first"
        waiting = []
        for block in one["content"]:
            if block["type"] == "tool_use":
                assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", block["id"])
                assert block["id"] not in seen
                assert NAME.fullmatch(block["name"])
                assert isinstance(block["input"], dict)
                assert names
                seen.add(block["id"])
                waiting.append(block["id"])
            elif block["type"] == "text":
                assert block["text"].strip()
            elif block["type"] == "thinking":
                assert block["signature"]
            elif block["type"] == "tool_result":
                assert block["content"].strip()
        allowed = {"text", "tool_use", "thinking", "redacted_thinking"}
        assert set(kinds) <= (allowed if one["role"] == "assistant" else {"text", "image", "tool_result"})
    assert not waiting
    last = messages[-1]["content"][-1]
    if messages[-1]["role"] == "assistant" and last["type"] == "text":
        assert last["text"] == last["text"].rstrip()
    choice = body.get("tool_choice")
    assert (choice is not None) <= bool(names)
    assert not choice or choice.get("name") in {None, *names}
    if body.get("thinking"):
        assert choice is None or choice["type"] in ("auto", "none")
        assert body.get("temperature") is None
        assert 1_024 <= body["thinking"]["budget_tokens"] < body["max_tokens"]


def check_gemini(body: dict[str, Any]) -> None:
    contents = body["contents"]
    assert contents[0]["role"] == "user"
    waiting: list[str] = []
    for one, two in zip(contents, [*contents[1:], None], strict=True):
        assert one["role"] != (two or {}).get("role")
        assert one["parts"]
        kinds = [next(key for key in part if key not in ("thought", "thoughtSignature")) for part in one["parts"]]
        answered = [part["functionResponse"]["name"] for part in one["parts"] if "functionResponse" in part]
        assert answered == waiting
        assert kinds[: len(answered)] == ["functionResponse"] * len(answered)
        waiting = [part["functionCall"]["name"] for part in one["parts"] if "functionCall" in part]
        assert all(map(NAME.fullmatch, waiting))
        of_user = {"text", "functionResponse", "inlineData", "fileData"}
        allowed = {"text", "functionCall"} if one["role"] == "model" else of_user
        assert set(kinds) <= allowed
        for part in one["parts"]:
            assert part.get("text", "x").strip() or part.get("thoughtSignature")
            assert isinstance(part.get("functionCall", {}).get("args", {}), dict)
    assert not waiting
    assert body.get("systemInstruction", {"parts": [{"text": "x"}]})["parts"][0]["text"]


def check_responses(body: dict[str, Any]) -> None:
    waiting: list[str] = []
    seen: set[str] = set()
    assert body["store"] is False
    assert body.get("instructions", "x").strip()
    for item, after in itertools.pairwise([*body["input"], None]):
        kind = item["type"]
        if kind == "function_call_output":
            assert item["call_id"] == waiting.pop(0)
            assert item["output"].strip()
            continue
        assert kind in ("function_call", "reasoning") or not waiting, "a call has no result"
        if kind == "function_call":
            assert re.fullmatch(r".{1,64}", item["call_id"])
            assert item["call_id"] not in seen
            assert NAME.fullmatch(item["name"])
            assert isinstance(json.loads(item["arguments"], parse_constant=refuse), dict)
            seen.add(item["call_id"])
            waiting.append(item["call_id"])
        elif kind == "reasoning":
            assert isinstance(item["summary"], list)
            assert item["encrypted_content"]
            assert after, "reasoning led to nothing"
            assert after["type"] in ("reasoning", "function_call") or after.get("role") == "assistant"
        else:
            assert kind == "message"
            assert item["role"] in ("user", "assistant")
            content = item["content"]
            assert content
            for part in content if isinstance(content, list) else [{"text": content}]:
                assert part.get("text", "x").strip()
                assert part.get("image_url", "x")
    assert not waiting
    assert ("tool_choice" in body) <= ("tools" in body)


def refuse(word: str) -> None:
    raise AssertionError(f"{word} is no JSON")


def mistral(body: dict[str, Any]) -> None:
    check_openai(body, "[a-zA-Z0-9]{9}")
    assert "stream_options" not in body


CHECKS: list[tuple[str, str, str, dict[str, Any], Callable[[dict[str, Any]], None]]] = [
    ("openai_chat", "https://api.openai.com/v1", "m", {}, check_openai),
    ("openai_chat", "https://api.mistral.ai/v1", "m", {}, mistral),
    ("openai_chat", "https://api.deepseek.com", "m", {}, check_openai),
    ("openai_responses", "https://api.openai.com/v1", "m", {}, check_responses),
    ("openai_responses", "https://r.openai.azure.com", "m", {"api_version": "v"}, check_responses),
    ("anthropic", "https://a", "claude-sonnet-4-5", {"thinking_budget": 2_000}, check_anthropic),
    ("anthropic", "https://a", "m", {}, check_anthropic),
    ("gemini", "https://g", "m", {}, check_gemini),
    ("gemini", "https://g", "gemini-3-pro", {}, check_gemini),
]


@pytest.mark.parametrize(("kind", "base_url", "model", "options", "check"), CHECKS)
@given(request=requests)
def test_any_conversation_becomes_a_request_the_vendor_accepts(
    kind: str, base_url: str, model: str, options: dict[str, Any], check: Callable[..., None], request: Request
) -> None:
    target = Target("p", base_url, model, options=options)
    call = WIRES[kind].encode(request, target)
    check(json.loads(call.body.decode("utf-8", "strict"), parse_constant=refuse))
    assert WIRES[kind].encode(request, target) == call, "the same request is the same bytes"
    assert len(set(call.notes)) == len(call.notes)


@pytest.mark.parametrize("kind", ["openai_chat", "openai_responses", "anthropic", "gemini"])
@given(request=requests)
def test_M7_nothing_opaque_reaches_another_issuer(kind: str, request: Request) -> None:
    target = Target("somebody", "https://else", "else")
    body = WIRES[kind].encode(request, target).body
    assert b'"sig"' not in body
    assert b"sealed" not in body
    assert b"thoughtSignature" not in body
    assert b'"signature"' not in body
