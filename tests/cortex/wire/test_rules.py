"""The rules by which encoders are judged can be broken, every one of them: a rule that cannot is no rule."""

from __future__ import annotations

import ast
import copy
import itertools
import json
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cortex.messages import (
    Image,
    Issuer,
    Message,
    OutputSchema,
    Request,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    ToolSpec,
)
from cortex.wire import WIRES
from cortex.wire.codec import Target

SEALED = json.dumps({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "sealed"})
DETAILS = json.dumps(
    [
        {"type": "reasoning.text", "text": "Hm.", "signature": "s", "format": "anthropic-claude-v1", "index": 0},
        {"type": "reasoning.encrypted", "data": "sealed", "format": "google-gemini-v1", "index": 0},
    ]
)
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "string"}, "b": {"anyOf": [{"type": "string", "enum": ["x"]}, {"$ref": "#/$defs/c"}]}},
    "required": ["a", "b"],
    "additionalProperties": False,
    "$defs": {"c": {"type": "array", "items": {"type": "integer"}}},
}
TOOLS = (ToolSpec("f", "d", SCHEMA), ToolSpec("g", "d", {"type": "object", "properties": {}}))


def conversation(signature: str, issuer: Issuer) -> tuple[Message, ...]:
    """Two rounds of tools, images, and thinking that its issuer reads."""

    def round_(first: str) -> tuple[Message, ...]:
        calls = (
            ToolCall(first, "f", {"a": 1}, '{"a":1}', signature if signature == "sig" else None, issuer),
            ToolCall(first + "b", "g", {}, "{}"),
        )
        results = (ToolResult(first, "f", "done"), ToolResult(first + "b", "g", "not done", is_error=True))
        return Message("assistant", (Thinking("Hm.", signature, issuer), *calls)), Message("tool", results)

    images = (Image(data=b"\x89PNG1"), Image(url="https://x/y.png"))
    return (
        Message("user", (Text("Hello."), *images)),
        *round_("call00001"),
        Message("user", (Text("Go on."),)),
        Message(
            "assistant",
            (Thinking("redacted", "redacted:sig" if signature == "sig" else signature, issuer), Text("So.")),
        ),
        Message("user", (Text("And?"),)),
        *round_("call00002"),
    )


SERVERS = (
    ("openai_chat", "https://api.openai.com/v1", "m", ""),
    ("openai_chat", "https://api.openai.com/v1", "ft:o4-mini-2025-04-16:org::id", ""),
    ("openai_chat", "https://api.mistral.ai/v1", "m", ""),
    ("openai_chat", "https://api.deepseek.com", "m", ""),
    ("openai_chat", "https://openrouter.ai/api/v1", "m", DETAILS),
    ("openai_chat", "https://api.groq.com/openai/v1", "meta-llama/llama-4-scout", ""),
    ("openai_responses", "https://api.openai.com/v1", "m", SEALED),
    ("openai_responses", "https://api.deepseek.com", "m", ""),
    ("anthropic", "https://a", "claude-sonnet-4-5", "sig"),
    ("anthropic", "https://a", "claude-opus-4-6", "sig"),
    ("anthropic", "https://a", "claude-3-haiku", "sig"),
    ("gemini", "https://g", "gemini-3-pro", "sig"),
    ("ollama", "http://box:11434", "m", ""),
)
SHORT = (Message("user", (Text("Hello."),)),)


def requests(signature: str, issuer: Issuer) -> Iterator[Request]:
    """One that talks long, one that thinks, one that wants a structured answer."""
    long = conversation(signature, issuer)
    yield Request(long, "Be brief.", tools=TOOLS, thinking_budget=2_000)
    yield Request(SHORT, tools=TOOLS, tool_choice="f", parallel_tools=False, temperature=0.5, stop=("x",), stream=True)
    yield Request(SHORT, output=OutputSchema("o", SCHEMA))


JUNK: list[Any] = [None, True, 0, 5.5, "", " ", "x", "7", "tool", "x" * 70, [], {}, {"type": "text", "text": " "}]
JUNK += ["data:image/png,x", "data:image/png;base64,"]
HELLO = {"role": "user", "content": [{"type": "text", "text": "Hello."}]}
IMAGE = {"type": "image", "source": {"type": "url", "url": "https://x"}}
MORE: list[tuple[str, str, dict[str, Any]]] = [  # what no single damage does: the dialect, where, what is laid over it
    ("openai_chat", "response_format.json_schema.schema", {"anyOf": []}),
    ("openai_chat", "messages.2", {"reasoning_content": "Hm."}),
    ("openai_chat", "messages.0", {"role": "assistant"}),
    ("openai_chat", "", {"stream_options": {"include_usage": True}}),
    ("openai_chat", "", {"max_tokens": 9}),
    ("openai_chat", "tools.0.function.parameters", {"anyOf": []}),
    ("openai_chat", "response_format.json_schema", {"strict": True}),
    ("openai_chat", "response_format.json_schema.schema.properties.a", {"format": "uri"}),
    ("openai_chat", "response_format.json_schema.schema.properties.a", {"$ref": "#/$defs/c"}),
    ("openai_responses", "", {"include": ["all"]}),
    ("openai_responses", "", {"max_output_tokens": 15}),
    ("openai_responses", "input.1", {"summary": [{"type": "text"}]}),
    ("anthropic", "", {"tools": [], "messages": [HELLO]}),
    ("anthropic", "", {"tool_choice": {"type": "any"}, "thinking": {"type": "adaptive"}}),
    ("anthropic", "", {"temperature": 1.0}),
    ("anthropic", "", {"messages": [HELLO, {"role": "assistant", "content": [{"type": "text", "text": "x "}]}]}),
    ("anthropic", "", {"messages": [HELLO, {"role": "assistant", "content": [IMAGE]}]}),
    ("gemini", "generationConfig.thinkingConfig", {"thinkingBudget": 1, "thinkingLevel": "low"}),
    ("gemini", "tools.0.functionDeclarations.0.parametersJsonSchema.properties.a", {"$ref": "#/$defs/c"}),
    ("gemini", "tools.0.functionDeclarations.0.parametersJsonSchema.properties", {"a": {"$ref": "#"}}),
]


def damages(value: Any, whole: Any) -> Iterator[Any]:
    """The body with each of its members and items lost, doubled, swapped with the next, or replaced by junk."""
    inner = [*value.items()] if isinstance(value, dict) else [*enumerate(value)] if isinstance(value, list) else []
    for key, child in inner:
        for wrong in JUNK:
            value[key] = wrong
            yield whole
        value[key] = child
        if isinstance(value, dict):
            value["unknown"] = 1
            yield whole
            del value["unknown"], value[key]
            yield whole
            value[key] = child
        else:
            for one in (value[:key] + value[key + 1 :], [*value[:key], child, *value[key:]], value[key:] + value[:key]):
                kept, value[:] = value[:], one
                yield whole
                value[:] = kept
        yield from damages(child, whole)


def overlaid(dialect: str, body: Any) -> Iterator[Any]:
    """The body with each of `MORE` in its place, where it has that place; and as a list, in place of an object."""
    yield [body]
    for which, path, over in MORE:
        copied = node = copy.deepcopy(body)
        try:
            for step in path.split(".") if path else ():
                node = node[int(step)] if step.isdigit() else node[step]
        except (KeyError, IndexError):
            continue
        if which == dialect:
            node.update(over)
            yield copied


def broken_rule(rules: Any, dialect: str, url: str, model: str, body: Any) -> int | None:
    """The line of the rule that a body breaks. Anything but a rule is a body that could not be read at all."""
    try:
        rules.accept(dialect, json.dumps(body).encode(), model, url)
    except AssertionError as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == rules.__file__]
        return frames[-1].lineno
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, StopIteration):
        return None
    return None


def test_every_rule_can_be_broken(rules: Any) -> None:
    seen: set[int] = set()
    for dialect, url, model, signature in SERVERS:
        target = Target("p", url, model)
        for request in requests(signature, target.issuer):
            body = rules.accept(dialect, WIRES[dialect].encode(request, target).body, model, url)
            for damaged in itertools.chain(damages(body, body), overlaid(dialect, body)):
                seen.add(broken_rule(rules, dialect, url, model, damaged) or 0)
    tree = ast.parse(Path(rules.__file__).read_text())
    never = {node.lineno: ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Assert)}
    for line in seen:
        never.pop(line, None)
    assert not never, "\n".join(never.values())
