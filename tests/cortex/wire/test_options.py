"""What a caller asks for beside the conversation: each wish stands where the vendor wants it, or a note says why."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest

from cortex.messages import EFFORTS, Image, Message, OutputSchema, Request, Text, ToolSpec
from cortex.wire import WIRES
from cortex.wire.codec import HttpCall, Target

HELLO = (Message("user", (Text("hello"),)),)
TOOL = (ToolSpec("f", "d", {"type": "object", "properties": {}}),)
OPENAI, MISTRAL, DEEPSEEK = "https://api.openai.com/v1", "https://api.mistral.ai/v1", "https://api.deepseek.com"
XAI, GROQ, ROUTER = "https://api.x.ai/v1", "https://api.groq.com/openai/v1", "https://openrouter.ai/api/v1"
MOONSHOT = "https://api.moonshot.ai/v1"
LOCAL, CLAUDE, GOOGLE = "http://box:8000/v1", "https://api.anthropic.com", "https://generativelanguage.googleapis.com"
OLLAMA = "http://box:11434"

Row = tuple[str, dict[str, Any], dict[str, Any], tuple[str, ...]]
"""The model, what is asked for, what then stands in the body (...: nothing does), and the notes."""

OWN_HEAT = "temperature was left out: this model takes only its own"
UNFORCED = "tool_choice was left out: this model thinks, and cannot be made to call a tool"
NO_EFFORT = "effort was left out: this model takes none"
NO_BUDGET = "thinking_budget was left out: this dialect knows an effort, no number of tokens"
NO_KNOWN_THOUGHT = "effort and thinking_budget were left out: this model is not known to think"
NO_THOUGHT = "effort and thinking_budget were left out: this model does not think"

ROWS: dict[tuple[str, str], list[Row]] = {
    ("openai_chat", OPENAI): [
        ("gpt-4o", {"stop": ("a", "b")}, {"stop": ["a", "b"]}, ()),
        ("gpt-4o", {"stop": tuple("abcde")}, {"stop": [*"abcd"]}, ("stop was cut to 4: this vendor takes no more",)),
        ("gpt-5", {"stop": ("a",)}, {"stop": ...}, ("stop was left out: this model takes none",)),
        ("gpt-4o", {"seed": 0}, {"seed": 0}, ()),
        ("gpt-5", {"effort": "minimal"}, {"reasoning_effort": "minimal"}, ()),
        ("gpt-5.1", {"effort": "high"}, {"reasoning_effort": "high"}, ()),
        (
            "o3",
            {"effort": "minimal"},
            {"reasoning_effort": "low"},
            ("effort minimal was told as low: this model does not know it",),
        ),
        ("gpt-4o", {"effort": "high"}, {"reasoning_effort": ...}, (NO_EFFORT,)),
        ("gpt-5-chat-latest", {"effort": "high"}, {"reasoning_effort": ...}, (NO_EFFORT,)),
        ("gpt-5", {"thinking_budget": 2_000}, {"reasoning_effort": ...}, (NO_BUDGET,)),
        ("gpt-5", {"thinking_budget": 2_000, "effort": "low"}, {"reasoning_effort": "low"}, ()),
        ("gpt-4o", {"parallel_tools": False, "tools": TOOL}, {"parallel_tool_calls": False}, ()),
        ("gpt-4o", {"parallel_tools": False}, {"parallel_tool_calls": ...}, ()),
        (
            "o3",
            {"parallel_tools": True, "tools": TOOL},
            {"parallel_tool_calls": ...},
            ("parallel_tools was left out: this model is not told",),
        ),
        (
            "gpt-5",
            {"max_tokens": 9, "temperature": 1.0},
            {"max_completion_tokens": 9, "temperature": ...},
            (OWN_HEAT,),
        ),
        ("gpt-4o", {"max_tokens": 9, "temperature": 1.5}, {"max_tokens": 9, "temperature": 1.5}, ()),
        ("gpt-5.2", {"temperature": 0.5}, {"temperature": 0.5}, ()),
        (
            "gpt-5.1",
            {"temperature": 0.5, "effort": "low"},
            {"temperature": ..., "reasoning_effort": "low"},
            (OWN_HEAT,),
        ),
        ("gpt-5.5", {"temperature": 0.5}, {"temperature": ...}, (OWN_HEAT,)),
        ("gpt-5.6-mini", {"temperature": 0.5}, {"temperature": ...}, (OWN_HEAT,)),
        ("gpt-5.2-pro", {"temperature": 0.5}, {"temperature": ...}, (OWN_HEAT,)),
        ("gpt-5.1-codex", {"temperature": 0.5}, {"temperature": ...}, (OWN_HEAT,)),
        ("gpt-5-chat-latest", {"temperature": 0.5}, {"temperature": 0.5}, ()),
        ("gpt-4.1", {"temperature": 0.5, "effort": "low"}, {"temperature": 0.5}, (NO_EFFORT,)),
        (
            "gpt-5-pro",
            {"effort": "minimal"},
            {"reasoning_effort": "high"},
            ("effort minimal was told as high: this model does not know it",),
        ),
        (
            "gpt-5.2-pro",
            {"effort": "low"},
            {"reasoning_effort": "medium"},
            ("effort low was told as medium: this model does not know it",),
        ),
        (
            "gpt-5-codex",
            {"effort": "minimal"},
            {"reasoning_effort": "low"},
            ("effort minimal was told as low: this model does not know it",),
        ),
    ],
    ("openai_chat", LOCAL): [
        ("m", {"stop": tuple("abcdef")}, {"stop": [*"abcdef"]}, ()),
        ("gpt-oss", {"effort": "medium"}, {"reasoning_effort": "medium"}, ()),
    ],
    ("openai_chat", MISTRAL): [
        ("m", {"seed": 7}, {"random_seed": 7, "seed": ...}, ()),
        ("m", {"effort": "high"}, {"reasoning_effort": ...}, (NO_EFFORT,)),
        ("magistral-medium-latest", {"effort": "high"}, {"reasoning_effort": ...}, (NO_EFFORT,)),
        ("mistral-small-latest", {"effort": "high"}, {"reasoning_effort": "high"}, ()),
        (
            "mistral-medium-3-5",
            {"effort": "low"},
            {"reasoning_effort": "high"},
            ("effort low was told as high: this model does not know it",),
        ),
    ],
    ("openai_chat", DEEPSEEK): [
        ("m", {"seed": 7}, {"seed": ...}, ("seed was left out: this vendor takes none",)),
        ("deepseek-chat", {"tools": TOOL, "tool_choice": "required"}, {"tool_choice": "required"}, ()),
        ("deepseek-chat", {"temperature": 0.5}, {"temperature": 0.5}, ()),
        ("deepseek-reasoner", {"tools": TOOL, "tool_choice": "f"}, {"tool_choice": ...}, (UNFORCED,)),
        ("deepseek-reasoner", {"tools": TOOL, "tool_choice": "none"}, {"tool_choice": "none"}, ()),
        ("deepseek-reasoner", {"temperature": 0.5}, {"temperature": ...}, (OWN_HEAT,)),
        *(("deepseek-v4-pro", {"effort": word}, {"reasoning_effort": word}, ()) for word in EFFORTS),
        ("deepseek-chat", {"effort": "high"}, {"reasoning_effort": ...}, (NO_EFFORT,)),
        (
            "deepseek-v4-pro",
            {"temperature": 0.5, "tools": TOOL, "tool_choice": "f", "extra": {"thinking": {"type": "disabled"}}},
            {"temperature": 0.5, "tool_choice": {"type": "function", "function": {"name": "f"}}},
            (),
        ),
        (
            "deepseek-v4-pro",
            {"effort": "high", "extra": {"thinking": {"type": "disabled"}}},
            {"reasoning_effort": ...},
            ("effort was left out: this model is told not to think",),
        ),
    ],
    ("openai_chat", MOONSHOT): [
        (
            "kimi-k2.6",
            {"temperature": 0.5, "extra": {"thinking": {"type": "disabled"}}},
            {"temperature": ...},
            (OWN_HEAT,),
        ),
        ("kimi-k2.6", {"tools": TOOL, "tool_choice": "required"}, {"tool_choice": ...}, (UNFORCED,)),
        ("kimi-k2.6", {"temperature": 0.5}, {"temperature": ...}, (OWN_HEAT,)),
        (
            "kimi-k2-0905-preview",
            {"temperature": 0.5, "tools": TOOL, "tool_choice": "required"},
            {"temperature": 0.5, "tool_choice": "required"},
            (),
        ),
    ],
    ("openai_responses", LOCAL): [("m", {"max_tokens": 1}, {"max_output_tokens": 1}, ())],
    ("openai_responses", DEEPSEEK): [
        ("deepseek-reasoner", {"tools": TOOL, "tool_choice": "f"}, {"tool_choice": ...}, (UNFORCED,)),
        ("deepseek-reasoner", {"temperature": 0.5}, {"temperature": ...}, (OWN_HEAT,)),
        ("deepseek-flash", {"effort": "low"}, {"reasoning": {"effort": "low"}}, ()),
    ],
    ("openai_chat", GROQ): [
        ("openai/gpt-oss-20b", {"effort": "low"}, {"reasoning_effort": "low"}, ()),
        ("llama-3.1-8b-instant", {"effort": "low"}, {"reasoning_effort": ...}, (NO_EFFORT,)),
    ],
    ("openai_chat", XAI): [
        ("grok-4", {"stop": ("a",)}, {"stop": ...}, ("stop was left out: this model takes none",)),
        ("grok-3-mini", {"stop": ("a",)}, {"stop": ...}, ("stop was left out: this model takes none",)),
        ("grok-code-fast-1", {"stop": ("a",)}, {"stop": ...}, ("stop was left out: this model takes none",)),
        ("grok-4-1-fast-non-reasoning", {"stop": ("a",)}, {"stop": ["a"]}, ()),
        ("grok-3", {"stop": ("a",)}, {"stop": ["a"]}, ()),
        (
            "grok-3-mini",
            {"effort": "medium"},
            {"reasoning_effort": "low"},
            ("effort medium was told as low: this model does not know it",),
        ),
    ],
    ("openai_chat", ROUTER): [
        ("x/y", {"effort": "minimal"}, {"reasoning": {"effort": "minimal"}}, ()),
        ("x/y", {"thinking_budget": 2_000, "effort": "low"}, {"reasoning": {"max_tokens": 2_000}}, ()),
        ("x/y", {"thinking_budget": 0, "effort": "low"}, {"reasoning": {"effort": "none"}}, ()),
    ],
    ("openai_responses", OPENAI): [
        (
            "gpt-5",
            {"stop": ("a",), "seed": 0},
            {"stop": ..., "seed": ...},
            ("stop was left out: this dialect has none", "seed was left out: this dialect has none"),
        ),
        ("gpt-5", {"effort": "minimal"}, {"reasoning": {"effort": "minimal"}}, ()),
        ("gpt-4o", {"effort": "low"}, {"reasoning": ...}, (NO_EFFORT,)),
        ("gpt-5", {"thinking_budget": 5}, {"reasoning": ...}, (NO_BUDGET,)),
        ("gpt-5", {"parallel_tools": False, "tools": TOOL}, {"parallel_tool_calls": False}, ()),
        ("gpt-4o", {"max_tokens": 16, "temperature": 0.5}, {"max_output_tokens": 16, "temperature": 0.5}, ()),
        (
            "gpt-4o",
            {"max_tokens": 15},
            {"max_output_tokens": 16},
            ("max_tokens was raised to 16: this vendor takes no less",),
        ),
    ],
    ("anthropic", CLAUDE): [
        (
            "claude-sonnet-4-5",
            {"stop": ("a", " \n")},
            {"stop_sequences": ["a"]},
            ("a stop text of white space was left out: this vendor refuses it",),
        ),
        ("claude-sonnet-4-5", {"seed": 1}, {"seed": ...}, ("seed was left out: this vendor takes none",)),
        (
            "claude-sonnet-4-5",
            {"effort": "medium"},
            {"thinking": {"type": "enabled", "budget_tokens": 8_192}, "output_config": ...},
            (),
        ),
        (
            "claude-sonnet-4-5",
            {"effort": "high", "thinking_budget": 2_000},
            {"thinking": {"type": "enabled", "budget_tokens": 2_000}},
            (),
        ),
        (
            "claude-sonnet-4-5",
            {"thinking_budget": 5, "max_tokens": 10},
            {"thinking": {"type": "enabled", "budget_tokens": 1_024}, "max_tokens": 1_034},
            (
                "thinking_budget 5 was told as 1024: this vendor takes no less",
                "max_tokens was raised to 1034: this vendor counts thinking among them",
            ),
        ),
        ("claude-3-5-haiku-latest", {"effort": "high"}, {"thinking": ...}, (NO_THOUGHT,)),
        ("claude-opus-4-5", {"effort": "low"}, {"output_config": {"effort": "low"}, "thinking": ...}, ()),
        (
            "claude-opus-4-7",
            {"effort": "minimal"},
            {"output_config": {"effort": "low"}},
            ("effort minimal was told as low: this vendor does not know it",),
        ),
        (
            "claude-opus-4-7",
            {"thinking_budget": 2_000},
            {"thinking": {"type": "adaptive"}},
            ("thinking_budget was told as adaptive: this model takes no number of tokens",),
        ),
        (
            "claude-sonnet-4-5",
            {"thinking_budget": 40_000},
            {"thinking": {"type": "enabled", "budget_tokens": 40_000}, "max_tokens": 64_000},
            (),
        ),
        (
            "claude-opus-4-1",
            {"effort": "high", "max_tokens": 20_000},
            {"thinking": {"type": "enabled", "budget_tokens": 24_576}, "max_tokens": 32_000},
            ("max_tokens was raised to 32000: this vendor counts thinking among them",),
        ),
        (
            "claude-opus-4-1",
            {"thinking_budget": 50_000, "max_tokens": 20_000},
            {"thinking": {"type": "enabled", "budget_tokens": 30_976}, "max_tokens": 32_000},
            (
                "thinking_budget 50000 was told as 30976: this model can write 32000 in all",
                "max_tokens was raised to 32000: this vendor counts thinking among them",
            ),
        ),
        (
            "claude-sonnet-4-5",
            {"temperature": 1.5},
            {"temperature": 1.0},
            ("temperature was lowered to 1: this vendor takes no more",),
        ),
        (
            "claude-sonnet-4-5",
            {"parallel_tools": False, "tools": TOOL},
            {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
            (),
        ),
        (
            "claude-sonnet-4-5",
            {"parallel_tools": False, "tools": TOOL, "tool_choice": "f"},
            {"tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True}},
            (),
        ),
        (
            "claude-sonnet-4-5",
            {"parallel_tools": False, "tools": TOOL, "tool_choice": "none"},
            {"tool_choice": {"type": "none"}},
            (),
        ),
        ("claude-sonnet-4-5", {"parallel_tools": False}, {"tool_choice": ...}, ()),
    ],
    ("gemini", GOOGLE): [
        (
            "gemini-2.5-flash",
            {"stop": ("a",), "seed": 3},
            {"generationConfig": {"stopSequences": ["a"], "seed": 3}},
            (),
        ),
        (
            "gemini-2.5-flash",
            {"stop": tuple("abcdef")},
            {"generationConfig": {"stopSequences": [*"abcde"]}},
            ("stop was cut to 5: this vendor takes no more",),
        ),
        (
            "gemini-2.5-flash",
            {"max_tokens": 9, "temperature": 0.0},
            {"generationConfig": {"temperature": 0.0, "maxOutputTokens": 9}},
            (),
        ),
        (
            "gemini-2.5-flash",
            {"effort": "medium"},
            {"generationConfig": {"thinkingConfig": {"thinkingBudget": 8_192, "includeThoughts": True}}},
            (),
        ),
        (
            "gemini-2.5-flash",
            {"effort": "medium", "thinking_budget": 0},
            {"generationConfig": {"thinkingConfig": {"thinkingBudget": 0, "includeThoughts": False}}},
            (),
        ),
        (
            "gemini-3-pro-preview",
            {"effort": "medium"},
            {"generationConfig": {"thinkingConfig": {"thinkingLevel": "high", "includeThoughts": True}}},
            ("effort medium was told as high: this model does not know it",),
        ),
        (
            "gemini-3.1-pro-preview",
            {"effort": "medium"},
            {"generationConfig": {"thinkingConfig": {"thinkingLevel": "medium", "includeThoughts": True}}},
            (),
        ),
        (
            "gemini-3-flash-preview",
            {"effort": "minimal"},
            {"generationConfig": {"thinkingConfig": {"thinkingLevel": "minimal", "includeThoughts": True}}},
            (),
        ),
        *(
            (
                model,
                {"thinking_budget": wanted},
                {"generationConfig": {"thinkingConfig": {"thinkingBudget": sent, "includeThoughts": sent > 0}}},
                (f"thinking_budget {wanted} was told as {sent}: this model takes {takes}",) if takes else (),
            )
            for model, wanted, sent, takes in (
                ("gemini-2.5-pro", 0, 128, "128 to 32768"),
                ("gemini-2.5-pro", 50, 128, "128 to 32768"),
                ("gemini-2.5-pro", 40_000, 32_768, "128 to 32768"),
                ("gemini-2.5-pro", 32_768, 32_768, ""),
                ("gemini-3-pro-preview", 0, 128, "128 to 32768"),
                ("gemini-2.5-flash", 0, 0, ""),
                ("gemini-2.5-flash", 50, 50, ""),
                ("models/gemini-2.5-flash-preview-09-2025", 60_000, 24_576, "1 to 24576, or 0"),
                ("gemini-2.5-flash-lite", 0, 0, ""),
                ("gemini-2.5-flash-lite", 100, 512, "512 to 24576, or 0"),
                ("gemini-2.5-flash-lite", 512, 512, ""),
                ("a-tuned-one", 60_000, 60_000, ""),
            )
        ),
        *(
            (
                model,
                {"effort": "high", "tools": TOOL, "output": OutputSchema("o", {"type": "object"})},
                {
                    "generationConfig": {
                        "responseMimeType": "application/json",
                        "responseJsonSchema": {"type": "object"},
                        "thinkingConfig": {"thinkingLevel": "high", "includeThoughts": True},
                    }
                },
                (),
            )
            for model in ("gemini-flash-latest", "gemini-pro-latest")
        ),
        (
            "gemini-pro-latest",
            {"effort": "minimal"},
            {"generationConfig": {"thinkingConfig": {"thinkingLevel": "low", "includeThoughts": True}}},
            ("effort minimal was told as low: this model does not know it",),
        ),
        ("gemini-2.0-flash", {"effort": "low"}, {"generationConfig": ...}, (NO_THOUGHT,)),
        (
            "gemini-2.5-flash",
            {"parallel_tools": False, "tools": TOOL},
            {"toolConfig": ...},
            ("parallel_tools was left out: this vendor is not told",),
        ),
        ("gemini-2.5-flash", {"parallel_tools": True, "tools": TOOL}, {"toolConfig": ...}, ()),
    ],
    ("ollama", OLLAMA): [
        (
            "llama3.1",
            {"temperature": 0.0, "max_tokens": 9, "seed": 0, "stop": ("a", "b")},
            {"options": {"temperature": 0.0, "num_predict": 9, "seed": 0, "stop": ["a", "b"]}},
            (),
        ),
        ("llama3.1", {}, {"options": ..., "think": ..., "tools": ...}, ()),
        (
            "llama3.1",
            {"max_tokens": 9, "extra": {"options": {"num_ctx": 8_192}, "keep_alive": "1h"}},
            {"options": {"num_predict": 9, "num_ctx": 8_192}, "keep_alive": "1h"},
            (),
        ),
        ("llama3.1", {"effort": "low"}, {"think": ...}, (NO_KNOWN_THOUGHT,)),
        ("llama3.1", {"thinking_budget": 2_000}, {"think": ...}, (NO_KNOWN_THOUGHT,)),
        ("llama3.1", {"thinking_budget": 0}, {"think": False}, ()),
        ("qwen3-coder:30b", {"effort": "low"}, {"think": ...}, (NO_KNOWN_THOUGHT,)),
        ("qwen3:8b", {"effort": "high"}, {"think": True}, ("effort was told as think: this model knows no degrees",)),
        (
            "hf.co/unsloth/Qwen3-8B-GGUF:Q4_K_M",
            {"thinking_budget": 2_000},
            {"think": True},
            ("thinking_budget was told as think: this model knows no degrees",),
        ),
        ("qwen3:8b", {"thinking_budget": 0, "effort": "high"}, {"think": False}, ()),
        ("gpt-oss:20b", {"effort": "high", "thinking_budget": 5}, {"think": "high"}, ()),
        (
            "gpt-oss:20b",
            {"effort": "minimal"},
            {"think": "low"},
            ("effort minimal was told as low: this model knows no less",),
        ),
        (
            "gpt-oss:20b",
            {"thinking_budget": 0},
            {"think": "low"},
            ("thinking_budget 0 was told as low: this model knows no less",),
        ),
        (
            "gpt-oss:20b",
            {"thinking_budget": 5},
            {"think": True},
            ("thinking_budget was told as think: this dialect knows an effort, no number of tokens",),
        ),
        ("m", {"tools": TOOL, "tool_choice": "none"}, {"tools": ...}, ()),
        (
            "m",
            {"tools": TOOL, "tool_choice": "required", "parallel_tools": False},
            {"tool_choice": ...},
            (
                "tool_choice was left out: this vendor leaves it to the model",
                "parallel_tools was left out: this vendor is not told",
            ),
        ),
    ],
}


def encode(dialect: str, base_url: str, model: str, **asked: Any) -> tuple[dict[str, Any], HttpCall]:
    call = WIRES[dialect].encode(Request(HELLO, **asked), Target("p", base_url, model))
    return json.loads(call.body), call


@pytest.mark.parametrize(
    ("dialect", "base_url", "model", "asked", "expected", "notes"),
    [(*server, *row) for server, rows in ROWS.items() for row in rows],
)
def test_each_wish_has_its_place_or_its_note(
    dialect: str, base_url: str, model: str, asked: dict[str, Any], expected: dict[str, Any], notes: tuple[str, ...]
) -> None:
    body, call = encode(dialect, base_url, model, **asked)
    assert {key: body.get(key, ...) for key in expected} == expected
    assert call.notes == notes


WISHES: dict[str, Any] = {
    "system": "Be brief.",
    "tools": TOOL,
    "tool_choice": "f",
    "parallel_tools": False,
    "temperature": 0.25,
    "max_tokens": 1_234,
    "stop": ("STOPWORD",),
    "seed": 4_321,
    "effort": "high",
    "thinking_budget": 5_678,
    "extra": {"some_member": "as it stands"},
}


def test_every_field_of_a_request_is_among_the_wishes() -> None:
    other = {"messages", "output", "stream"}
    assert {field.name for field in attrs.fields(Request)} == other | set(WISHES)


@pytest.mark.parametrize("dialect", sorted(WIRES))
@pytest.mark.parametrize("model", ["m", "gpt-4o", "gpt-5", "claude-sonnet-4-5", "claude-opus-4-7", "gemini-3-pro"])
@pytest.mark.parametrize("name", sorted(WISHES))
def test_no_wish_is_dropped_in_silence(dialect: str, model: str, name: str) -> None:
    """Whatever the dialect and the model: with the wish the body is another one, or a note names the wish."""
    beside = {"tools": TOOL} if name in ("tool_choice", "parallel_tools") else {}
    with_it, call = encode(dialect, "https://h/v1", model, **{**beside, name: WISHES[name]})
    without, _ = encode(dialect, "https://h/v1", model, **beside)
    assert with_it != without or any(name in note for note in call.notes)


IMAGES = {
    "bytes": Image(data=b"\xff\xd8\xff1"),
    "data URL": Image(url="data:image/jpeg;base64,/9j/MQ=="),
    "URL": Image(url="https://x/y.JPG?z=1"),
}
PLACED: dict[str, dict[str, Any]] = {
    "openai_chat": {
        "bytes": {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,/9j/MQ=="}},
        "URL": {"type": "image_url", "image_url": {"url": "https://x/y.JPG?z=1"}},
    },
    "openai_responses": {
        "bytes": {"type": "input_image", "image_url": "data:image/jpeg;base64,/9j/MQ=="},
        "URL": {"type": "input_image", "image_url": "https://x/y.JPG?z=1"},
    },
    "anthropic": {
        "bytes": {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "/9j/MQ=="}},
        "URL": {"type": "image", "source": {"type": "url", "url": "https://x/y.JPG?z=1"}},
    },
    "gemini": {
        "bytes": {"inlineData": {"mimeType": "image/jpeg", "data": "/9j/MQ=="}},
        "URL": {"fileData": {"mimeType": "image/jpeg", "fileUri": "https://x/y.JPG?z=1"}},
    },
}


@pytest.mark.parametrize("dialect", sorted(PLACED))
@pytest.mark.parametrize("form", sorted(IMAGES))
def test_images(dialect: str, form: str) -> None:
    messages = (Message("user", (Text("what is it?"), IMAGES[form])),)
    body = json.loads(WIRES[dialect].encode(Request(messages), Target("p", "https://h/v1", "m")).body)
    said = body.get("messages") or body.get("contents") or body["input"]
    assert (said[0].get("content") or said[0]["parts"])[1] == PLACED[dialect]["URL" if form == "URL" else "bytes"]


@pytest.mark.parametrize("url", ["data:", "data:image/png;base64,???", "data:text/plain,hello", ""])
@pytest.mark.parametrize("dialect", sorted(WIRES))
def test_an_image_that_holds_nothing_is_told_in_a_note(dialect: str, url: str) -> None:
    messages = (Message("user", (Text("what is it?"), Image(url=url))),)
    call = WIRES[dialect].encode(Request(messages), Target("p", "https://h/v1", "m"))
    assert b"data:" not in call.body
    assert call.notes == ("an image without data or url was left out",)


@pytest.mark.parametrize("dialect", sorted(WIRES))
def test_how_closely_to_look_is_told_or_noted(dialect: str) -> None:
    image = Image(data=b"\xff\xd8\xff1", detail="low")
    call = WIRES[dialect].encode(Request((Message("user", (image,)),)), Target("p", "https://h/v1", "m"))
    told = b'"detail":"low"' in call.body
    assert told is dialect.startswith("openai")
    assert call.notes == (() if told else ("an image's detail was left out: this vendor is not told",))
