"""The catalog: a table of names, and that no name can break it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex import catalog

#        model                          family       tier    window     reasoning
KNOWN = [
    ("gpt-4o", "openai", "deep", 128_000, False),
    ("gpt-4o-mini-2024-07-18", "openai", "fast", 128_000, False),
    ("ft:gpt-4o-mini-2024-07-18:acme::8x", "openai", "fast", 128_000, False),
    ("chatgpt-4o-latest", "openai", "deep", 128_000, False),
    ("gpt-3.5-turbo", "openai", "fast", 16_385, False),
    ("gpt-4", "openai", "deep", 8_192, False),
    ("gpt-4-0613", "openai", "deep", 8_192, False),
    ("gpt-4-turbo", "openai", "deep", 128_000, False),
    ("gpt-4.1-nano", "openai", "fast", 1_047_576, False),
    ("gpt-5", "openai", "deep", 400_000, True),
    ("gpt-5-chat-latest", "openai", "deep", 128_000, False),
    ("gpt-5.6-terra", "openai", "fast", 1_050_000, True),
    ("gpt-6-luna", "openai", "fast", None, True),
    ("o1", "openai", "deep", 200_000, True),
    ("o4-mini", "openai", "fast", 200_000, True),
    ("claude-opus-4-6", "anthropic", "deep", 1_000_000, False),
    ("claude-opus-5-5", "anthropic", "deep", 1_000_000, True),
    ("claude-haiku-4-5-20251001", "anthropic", "fast", 200_000, False),
    ("claude-3-5-haiku-latest", "anthropic", "fast", 200_000, False),
    ("gemini-2.5-flash", "gemini", "fast", 1_048_576, False),
    ("gemini-3-flash-preview", "gemini", "fast", 1_048_576, False),
    ("gemini-2.5-pro", "gemini", "deep", 1_048_576, True),
    ("gemini-1.5-pro", "gemini", "deep", 2_097_152, False),
    ("gemini-4-argon", "gemini", "deep", None, True),
    ("gemma-3-27b-it", "gemini", "fast", None, False),
    # names that belong to nobody here
    ("llama3.1:8b", None, None, None, False),
    ("gemma3:27b", None, None, None, False),
    ("gpt-oss:20b", None, None, None, False),
    ("openai/gpt-4o", None, "deep", 128_000, False),
    ("openai/o3", None, "deep", 200_000, True),
    ("deepseek-ai/DeepSeek-R1", None, None, None, True),
    ("meta-llama/Llama-3.1-8B-Instruct", None, None, None, False),
    ("deepseek-r1:32b", None, None, None, True),
    ("deepseek-v4-pro", None, None, None, True),
    ("kimi-k2-thinking", None, None, None, True),
    ("kimi-k2-instruct", None, None, None, False),
    ("o1abc", None, None, None, False),
    ("my-claude-4", None, None, None, False),
    # names of tomorrow
    ("gpt-9-nova", "openai", "deep", None, True),
    ("claude-next", "anthropic", "deep", None, False),
]


@pytest.mark.parametrize(("model", "family", "tier", "window", "reasoning"), KNOWN)
def test_known_models(model: str, family: str | None, tier: str | None, window: int | None, reasoning: bool) -> None:
    got = (catalog.family(model), catalog.tier(model), catalog.window(model), catalog.reasoning(model))
    assert got == (family, tier, window, reasoning)


@pytest.mark.parametrize("kind", ["openai", "anthropic", "gemini"])
@pytest.mark.parametrize("tier", ["fast", "deep"])
def test_a_default_is_of_its_vendor_and_tier(kind: str, tier: catalog.Tier) -> None:
    model = catalog.default_model(kind, tier)
    assert model is not None
    assert (catalog.family(model), catalog.tier(model)) == (kind, tier)


@pytest.mark.parametrize("kind", ["azure", "local", "nobody"])
def test_only_the_user_knows_what_runs_at_home(kind: str) -> None:
    assert catalog.default_model(kind, "fast") is None


def test_caps_say_no_only_where_it_is_known() -> None:
    assert catalog.caps("o1-mini") == catalog.Caps(tools=False, images=False, schema=False, window=128_000)
    assert catalog.caps("gpt-4o") == catalog.Caps(window=128_000)
    assert catalog.caps("whatever") == catalog.Caps()


@given(st.text(max_size=40))
def test_no_name_breaks_it(model: str) -> None:
    known = catalog.family(model)
    assert known is None or catalog.tier(model) is not None
    window = catalog.window(model)
    assert window is None or window > 0
    catalog.caps(model)
    catalog.reasoning(model)
