"""Any conversation, however it came about, becomes a request that the vendor's own rules accept."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.wire import WIRES
from cortex.wire.codec import Target

TARGETS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("openai_chat", "https://api.openai.com/v1", "m", {}),
    ("openai_chat", "https://api.mistral.ai/v1", "m", {}),
    ("openai_chat", "https://api.deepseek.com", "m", {}),
    ("openai_responses", "https://api.openai.com/v1", "m", {}),
    ("openai_responses", "https://r.openai.azure.com", "m", {"api_version": "v"}),
    ("anthropic", "https://a", "claude-sonnet-4-5", {"thinking_budget": 2_000}),
    ("anthropic", "https://a", "m", {}),
    ("gemini", "https://g", "m", {}),
    ("gemini", "https://g", "gemini-3-pro", {}),
    ("ollama", "http://box:11434", "m", {}),
]


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
    target = Target("p", base_url, model, options=options)
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
