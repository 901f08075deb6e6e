"""The vendors' own rules, as their documentation and their 400s tell them. Nothing here knows an encoder.

`accept` raises AssertionError where a vendor would answer 400; `said` reads what a request tells of the conversation.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_-]{0,63}")
Body = dict[str, Any]


def accept(dialect: str, body: bytes, model: str = "m", host: str = "") -> Body:
    """The body, if the vendor would take it."""
    parsed = json.loads(body.decode("utf-8", "strict"), parse_constant=refuse)
    assert isinstance(parsed, dict)
    assert set(parsed) <= MEMBERS[dialect], set(parsed) - MEMBERS[dialect]
    match dialect:
        case "openai_chat":
            check_openai(parsed, host, model)
        case "openai_responses":
            check_responses(parsed, host)
        case "gemini":
            check_gemini(parsed, model)
        case "anthropic":
            check_anthropic(parsed, model)
        case "ollama":
            check_ollama(parsed)
    return parsed


def words(text: str) -> set[str]:
    return set(text.split())


MEMBERS = {  # of a body: a name that a vendor does not know is refused, or does nothing
    "openai_chat": words(
        "model messages tools tool_choice parallel_tool_calls response_format temperature max_tokens stop seed stream"
        " max_completion_tokens random_seed reasoning_effort reasoning stream_options"
    ),
    "openai_responses": words(
        "model store include instructions input tools tool_choice parallel_tool_calls text temperature"
        " max_output_tokens reasoning stream"
    ),
    "anthropic": words(
        "model max_tokens system messages tools tool_choice thinking output_config temperature stop_sequences stream"
    ),
    "gemini": words("contents systemInstruction tools toolConfig generationConfig"),
    "ollama": words("model messages tools think format options truncate stream"),
}


def refuse(word: str) -> None:
    raise AssertionError(f"{word} is no JSON")


# ------------------------------------------------------------------------------------------------- what many share


def check_image_url(url: str) -> None:
    """An address, or a data URL with an image in base64."""
    if url.startswith("data:"):
        head, _, data = url.removeprefix("data:").partition(",")
        kind, _, coding = head.partition(";")
        assert coding == "base64"
        check_image(kind, data)
    else:
        assert re.match("https?://", url), url


def check_image(kind: str, data: str) -> None:
    assert kind in ("image/png", "image/jpeg", "image/gif", "image/webp"), kind
    assert base64.b64decode(data, validate=True), "an image of no bytes"


def check_tools(names: list[str], schemas: list[Any]) -> None:
    assert len(set(names)) == len(names), "two tools of one name"
    assert all(map(NAME.fullmatch, names)), names
    for schema in schemas:
        assert schema["type"] == "object"
        assert not set(schema) & {"anyOf", "oneOf", "allOf", "not", "enum"}, "only an object may stand at the top"


def subschemas(schema: Any) -> Iterator[dict[str, Any]]:
    """The schema and every schema in it, by the keywords that hold schemas."""
    if not isinstance(schema, dict):
        return
    yield schema
    for key in ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas"):
        for inner in schema.get(key, {}).values():
            yield from subschemas(inner)
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        for inner in schema.get(key, []):
            yield from subschemas(inner)
    for key in ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames"):
        yield from subschemas(schema.get(key))


STRICT = {
    "type", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf", "$ref", "$defs",
    "title", "description", "pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
    "multipleOf", "minItems", "maxItems",
}  # fmt: skip


FORMATS = words("date-time time date duration email hostname ipv4 ipv6 uuid")


def check_strict(schema: Any) -> None:
    """https://platform.openai.com/docs/guides/structured-outputs#supported-schemas"""
    assert schema.get("type") == "object"
    assert "anyOf" not in schema
    for one in subschemas(schema):
        assert set(one) <= STRICT, set(one) - STRICT
        assert "$ref" not in one or set(one) == {"$ref"}, "nothing may stand beside a $ref"
        assert {"type", "anyOf", "$ref"} & set(one), "without a type"
        assert one.get("type") != "array" or "items" in one
        assert one.get("format", "date") in FORMATS
        if one.get("type") == "object" or "properties" in one:
            assert one.get("additionalProperties") is False
            assert set(one.get("required", [])) == set(one.get("properties", {}))


GEMINI = words(
    "$id $defs $ref $anchor type format title description enum items prefixItems minItems maxItems minimum maximum"
    " anyOf oneOf properties additionalProperties required propertyOrdering"
)


def check_gemini_schema(schema: Any) -> None:
    """https://ai.google.dev/api/generate-content: `responseJsonSchema`, and `parametersJsonSchema` with it."""
    for one in subschemas(schema):
        assert set(one) <= GEMINI, set(one) - GEMINI
        assert "$ref" not in one or all(key.startswith("$") for key in one), "nothing may stand beside a $ref"
        assert all(isinstance(value, str | int | float) and value not in (True, False) for value in one.get("enum", []))
    for name, one in {"#": schema, **{f"#/$defs/{name}": one for name, one in schema.get("$defs", {}).items()}}.items():
        for field in set(one.get("required", [])) & set(one.get("properties", {})):
            assert name not in reached(one["properties"][field], schema), f"{field} is required, and needs its own"


def reached(schema: Any, root: Any) -> set[str]:
    """The references that a value of this schema cannot do without."""
    found: set[str] = set()
    todo = [schema]
    while todo:
        one = todo.pop()
        if not isinstance(one, dict):
            continue
        if one.get("$ref") not in {None, *found}:
            found.add(one["$ref"])
            todo.append(root if one["$ref"] == "#" else root.get("$defs", {}).get(one["$ref"].removeprefix("#/$defs/")))
        todo += [one.get("properties", {}).get(name) for name in one.get("required", [])]
        todo.append(one.get("items"))
        todo += [inner for key in ("anyOf", "oneOf", "prefixItems") for inner in one.get(key, [])]
    return found


# ------------------------------------------------------------------------------------------------------------ OpenAI


OF_ROLE = {
    "system": {"content"},
    "user": {"content"},
    "assistant": {"content", "tool_calls", "reasoning_content", "reasoning_details"},
    "tool": {"content", "tool_call_id"},
}


def thinks_aloud(host: str, body: Body) -> bool:
    """Who wants each of its thoughts back, for good: DeepSeek (https://api-docs.deepseek.com/guides/thinking_mode), and
    Moonshot (https://platform.moonshot.ai/docs/guide/use-kimi-k2-thinking-model); an empty one counts as none."""
    return ("deepseek" in host and body["model"] != "deepseek-chat") or "moonshot" in host


OPENAI = re.compile(r"openai\.(com|azure)")
REASONS = re.compile("(ft:)?(o[1-9]|gpt-5)")


def check_openai(body: Body, host: str, model: str) -> None:
    """`model`: what is behind the name in the body: one that reasons refuses much.

    https://platform.openai.com/docs/guides/reasoning
    """
    reasons = OPENAI.search(host) and REASONS.match(model)
    assert not reasons or not {"max_tokens", "temperature", "stop"} & set(body)
    id_pattern = "[a-zA-Z0-9]{9}" if "mistral" in host else r".{1,40}" if OPENAI.search(host) else r".{1,64}"
    assert "mistral" not in host or "stream_options" not in body
    thinks = thinks_aloud(host, body)
    waiting: list[str] = []
    seen: set[str] = set()
    before = None
    assert body["messages"]
    for index, sent in enumerate(body["messages"]):
        role = sent["role"]
        assert role in OF_ROLE
        assert set(sent) - {"role"} <= OF_ROLE[role]
        assert thinks or "reasoning_content" not in sent, "thinking comes back to who asks for it"
        assert role != "assistant" or not thinks or sent.get("reasoning_content"), "it must be passed back"
        assert (role == "system") <= (index == 0)
        if role == "tool":
            assert sent["tool_call_id"] == waiting.pop(0)
            assert sent["content"].strip()
            before = role
            continue
        assert not waiting, "a call has no result"
        assert role != before, f"two messages of {role} in a row"
        assert "mistral" not in host or (before, role) != ("tool", "user"), "Unexpected role 'user' after role 'tool'"
        before = role
        content = sent["content"]
        if role == "assistant":
            assert content is None or content.strip()
            assert content or sent.get("tool_calls")
            if "reasoning_details" in sent:
                check_details(sent["reasoning_details"])
            for call in sent.get("tool_calls", []):
                assert call["type"] == "function"
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
                assert part["type"] in ("text", "image_url")
                assert part.get("text", "x").strip()
                if part["type"] == "image_url":
                    check_image_url(part["image_url"]["url"])
    assert not waiting
    check_last(body["messages"], host)
    functions = [tool["function"] for tool in body.get("tools", [])]
    check_tools([function["name"] for function in functions], [function["parameters"] for function in functions])
    check_choice(body, [function["name"] for function in functions], lambda choice: choice["function"]["name"])
    wanted = body.get("response_format", {})
    if wanted.get("type") == "json_schema":
        check_output(wanted["json_schema"])
        # https://console.groq.com/docs/structured-outputs#supported-models
        assert "groq" not in host or "gpt-oss" in model or not wanted["json_schema"].get("strict")


def check_last(messages: list[Body], host: str) -> None:
    """Mistral wants another last word, or one marked as what the answer begins with, which it then says again."""
    assert "mistral" not in host or messages[-1]["role"] != "assistant"


def check_details(details: Any) -> None:
    """https://openrouter.ai/docs/guides/best-practices/reasoning-tokens#preserving-reasoning-blocks"""
    assert isinstance(details, list)
    assert details
    assert all(detail["type"].startswith("reasoning.") for detail in details)
    told = [(detail["type"], detail["index"]) for detail in details if "data" not in detail]
    assert len(set(told)) == len(told), "a piece is no block"


def check_choice(body: Body, names: list[str], name_of: Callable[[Any], str]) -> None:
    assert names or not {"tool_choice", "parallel_tool_calls"} & set(body), "there is nothing to choose from"
    choice = body.get("tool_choice", "auto")
    assert choice in ("auto", "none", "required") or name_of(choice) in names


def check_output(wanted: Body) -> None:
    assert re.fullmatch("[a-zA-Z0-9_-]{1,64}", wanted["name"])
    assert isinstance(wanted["schema"], dict)
    if wanted.get("strict"):
        check_strict(wanted["schema"])


ITEMS = {
    "message": {"role", "content"},
    "function_call": {"call_id", "name", "arguments"},
    "function_call_output": {"call_id", "output"},
    "reasoning": {"id", "summary", "content", "encrypted_content"},
}


def check_responses(body: Body, host: str) -> None:
    """https://platform.openai.com/docs/api-reference/responses/create"""
    waiting: list[str] = []
    seen: set[str] = set()
    thought = not thinks_aloud(host, body)
    assert body["store"] is False
    assert set(body.get("include", [])) <= {"reasoning.encrypted_content"}
    assert not OPENAI.search(host) or body.get("max_output_tokens", 16) >= 16, "Expected a value >= 16"
    assert body.get("instructions", "x").strip()
    assert body["input"]
    for item, after in itertools.pairwise([*body["input"], None]):
        kind = item["type"]
        assert kind in ITEMS
        assert set(item) - {"type"} <= ITEMS[kind], "nothing is stored, so that nothing has an id"
        if kind == "function_call_output" or item.get("role") == "user":
            thought = not thinks_aloud(host, body)
        if kind == "function_call_output":
            assert item["call_id"] == waiting.pop(0)
            assert item["output"].strip()
            continue
        thought = thought or kind == "reasoning"
        assert thought or item.get("role") == "user", "what it thought must be passed back"
        # Only what a model thought between two calls stands between them, and then encrypted, as it was given.
        assert kind == "function_call" or "encrypted_content" in item or not waiting, "a call has no result"
        if kind == "function_call":
            assert re.fullmatch(r".{1,64}", item["call_id"])
            assert item["call_id"] not in seen
            assert NAME.fullmatch(item["name"])
            assert isinstance(json.loads(item["arguments"], parse_constant=refuse), dict)
            seen.add(item["call_id"])
            waiting.append(item["call_id"])
        elif kind == "reasoning":
            check_reasoning(item, after, host)
        else:
            assert item["role"] in ("user", "assistant")
            content = item["content"]
            assert content
            assert isinstance(content, str) or item["role"] == "user"
            for part in content if isinstance(content, list) else [{"type": "input_text", "text": content}]:
                assert part["type"] in ("input_text", "input_image")
                assert part.get("text", "x").strip()
                if part["type"] == "input_image":
                    check_image_url(part["image_url"])
    assert not waiting
    tools = body.get("tools", [])
    check_tools([tool["name"] for tool in tools], [tool["parameters"] for tool in tools])
    check_choice(body, [tool["name"] for tool in tools], lambda choice: choice["name"])
    wanted = body.get("text", {}).get("format", {})
    if wanted.get("type") == "json_schema":
        check_output(wanted)


def check_reasoning(item: Body, after: Body | None, host: str) -> None:
    """https://platform.openai.com/docs/guides/reasoning#encrypted-reasoning-items; DeepSeek's is in plain words."""
    assert all(part["type"] == "summary_text" for part in item["summary"])
    if "encrypted_content" in item:
        assert item["encrypted_content"], "it cannot be read again"
        assert re.fullmatch(r"rs_[a-zA-Z0-9._-]{1,61}", item["id"])
    else:
        assert "deepseek" in host, "thinking in plain words comes back to who asks for it"
        assert [part["type"] for part in item["content"]] == ["reasoning_text"]
        assert item["content"][0]["text"], "an empty thought counts as none"
    assert after, "reasoning led to nothing"
    assert after["type"] in ("reasoning", "function_call") or after.get("role") == "assistant"


# --------------------------------------------------------------------------------------------------------- Anthropic


BLOCKS = {
    "text": {"text"},
    "image": {"source"},
    "thinking": {"thinking", "signature"},
    "redacted_thinking": {"data"},
    "tool_use": {"id", "name", "input"},
    "tool_result": {"tool_use_id", "content", "is_error"},
}


CAN_WRITE = {"claude-3-haiku": 4_096, "claude-opus-4-1": 32_000, "claude-sonnet-4-5": 64_000}


def check_anthropic(body: Body, model: str) -> None:
    """https://platform.claude.com/docs/en/api/messages, .../about-claude/models and .../whats-new-claude-4-6"""
    assert 0 < body["max_tokens"] <= next((most for name, most in CAN_WRITE.items() if model.startswith(name)), 128_000)
    assert "thinking" not in body or not model.startswith("claude-3-haiku"), "this model does not think"
    assert body.get("system", "x").strip()
    assert 0 <= body.get("temperature", 1) <= 1
    assert all(text.strip() for text in body.get("stop_sequences", []))
    messages = body["messages"]
    assert messages[0]["role"] == "user"
    seen: set[str] = set()
    waiting: list[str] = []
    names = [tool["name"] for tool in body.get("tools", [])]
    check_tools(names, [tool["input_schema"] for tool in body.get("tools", [])])
    for one, two in itertools.pairwise([*messages, None]):
        assert one["role"] in ("user", "assistant")
        assert one["role"] != (two or {}).get("role")
        assert one["content"]
        kinds = [block["type"] for block in one["content"]]
        answered = [block["tool_use_id"] for block in one["content"] if block["type"] == "tool_result"]
        assert answered == waiting, "results answer the calls of the message before, in order"
        assert kinds[: len(answered)] == ["tool_result"] * len(answered), "results come first"
        waiting = []
        for block in one["content"]:
            check_block(block, seen)
            if block["type"] == "tool_use":
                assert names, "calls need tools"
                waiting.append(block["id"])
        allowed = {"text", "tool_use", "thinking", "redacted_thinking"}
        assert set(kinds) <= (allowed if one["role"] == "assistant" else {"text", "image", "tool_result"})
        assert kinds[-1] not in ("thinking", "redacted_thinking"), "the final block cannot be thinking"
    assert not waiting
    last = messages[-1]["content"][-1]
    if messages[-1]["role"] == "assistant":
        assert "4-6" not in model, "this model takes no prefill"
        assert "thinking" not in body, "a prefill goes without thinking"
        assert last["type"] != "text" or last["text"] == last["text"].rstrip()
    choice = body.get("tool_choice")
    assert (choice is not None) <= bool(names)
    assert not choice or choice.get("name") in {None, *names}
    if body.get("thinking"):
        check_thinking(body, choice)


def check_block(block: Body, seen: set[str]) -> None:
    assert block["type"] in BLOCKS
    assert set(block) - {"type"} <= BLOCKS[block["type"]]
    match block["type"]:
        case "tool_use":
            assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", block["id"])
            assert block["id"] not in seen
            assert NAME.fullmatch(block["name"])
            assert isinstance(block["input"], dict)
            seen.add(block["id"])
        case "text":
            assert block["text"].strip()
        case "thinking":
            assert block["signature"]
        case "redacted_thinking":
            assert block["data"]
        case "tool_result":
            assert block["content"].strip()
            assert isinstance(block.get("is_error", True), bool)
        case "image":
            source = block["source"]
            if source["type"] == "base64":
                check_image(source["media_type"], source["data"])
            else:
                assert source["type"] == "url"
                assert source["url"].startswith("https://")


def check_thinking(body: Body, choice: Body | None) -> None:
    assert choice is None or choice["type"] in ("auto", "none")
    assert body.get("temperature") is None
    if body["thinking"]["type"] == "enabled":
        assert 1_024 <= body["thinking"]["budget_tokens"] < body["max_tokens"]
    asked = max(
        (
            i
            for i, m in enumerate(body["messages"])
            if m["role"] == "user" and m["content"][-1]["type"] != "tool_result"
        ),
        default=-1,
    )
    for message in body["messages"][asked + 1 :]:
        kinds = [block["type"] for block in message["content"]]
        if message["role"] == "assistant" and "tool_use" in kinds:
            assert kinds[0] in ("thinking", "redacted_thinking"), "with thinking, a running loop starts with it"


# ------------------------------------------------------------------------------------------------------------ Gemini


def check_gemini(body: Body, model: str) -> None:
    contents = body["contents"]
    assert contents[0]["role"] == "user"
    has_ids = re.match("gemini-3", model) is not None
    waiting: list[tuple[str, str | None]] = []
    asked = max((i for i, c in enumerate(contents) if c["role"] == "user" and "functionResponse" not in c["parts"][-1]))
    for index, (one, two) in enumerate(itertools.pairwise([*contents, None])):
        assert one["role"] in ("user", "model")
        assert one["role"] != (two or {}).get("role")
        assert one["parts"]
        kinds = [next(key for key in part if key not in ("thought", "thoughtSignature")) for part in one["parts"]]
        answered = [paired(part["functionResponse"]) for part in one["parts"] if "functionResponse" in part]
        assert answered == waiting
        assert kinds[: len(answered)] == ["functionResponse"] * len(answered)
        calls = [part for part in one["parts"] if "functionCall" in part]
        waiting = [paired(part["functionCall"]) for part in calls]
        assert all(NAME.fullmatch(name) and bool(ident) == has_ids for name, ident in waiting)
        if calls and index > asked and has_ids:
            assert calls[0].get("thoughtSignature"), "the first call of a running loop is signed"
        of_user = {"text", "functionResponse", "inlineData", "fileData"}
        assert set(kinds) <= ({"text", "functionCall"} if one["role"] == "model" else of_user)
        for part in one["parts"]:
            check_gemini_part(part)
    assert not waiting
    assert body.get("systemInstruction", {"parts": [{"text": "x"}]})["parts"][0]["text"]
    functions = [f for tool in body.get("tools", []) for f in tool["functionDeclarations"]]
    check_tools([f["name"] for f in functions], [f["parametersJsonSchema"] for f in functions])
    allowed = body.get("toolConfig", {}).get("functionCallingConfig", {}).get("allowedFunctionNames", [])
    assert set(allowed) <= {f["name"] for f in functions}
    config = body.get("generationConfig", {})
    for schema in [*(f["parametersJsonSchema"] for f in functions), config.get("responseJsonSchema", {})]:
        check_gemini_schema(schema)
    assert len(set(config.get("thinkingConfig", {})) & {"thinkingBudget", "thinkingLevel"}) <= 1


def paired(one: Body) -> tuple[str, str | None]:
    """What pairs a call and its result."""
    return one["name"], one.get("id")


def check_gemini_part(part: Body) -> None:
    assert part.get("text", "x").strip() or part.get("thoughtSignature")
    assert set(part.get("functionCall", {})) <= {"id", "name", "args"}
    assert set(part.get("functionResponse", {})) <= {"id", "name", "response"}
    assert isinstance(part.get("functionCall", {}).get("args", {}), dict)
    assert isinstance(part.get("functionResponse", {}).get("response", {}), dict)
    if "inlineData" in part:
        check_image(part["inlineData"]["mimeType"], part["inlineData"]["data"])
    if "fileData" in part:
        assert part["fileData"]["mimeType"].startswith("image/")
        assert part["fileData"]["fileUri"]


# ------------------------------------------------------------------------------------------------------------ Ollama


def check_ollama(body: Body) -> None:
    """https://docs.ollama.com/api/chat. It refuses little; what it takes in silence and gets wrong is refused here."""
    assert isinstance(body["stream"], bool), "without the member it streams"
    waiting: list[str] = []
    before = None
    assert body["messages"], "asked nothing, it loads the model and says nothing"
    for index, sent in enumerate(body["messages"]):
        role = sent["role"]
        assert role in ("system", "user", "assistant", "tool")
        assert (role == "system") <= (index == 0)
        assert isinstance(sent["content"], str)
        if role == "tool":
            assert sent["tool_name"] == waiting.pop(0)
            assert sent["content"].strip()
            before = role
            continue
        assert not waiting, "a call has no result"
        assert role != before
        before = role
        assert sent["content"].strip() or sent.get("tool_calls") or sent.get("images")
        for data in sent.get("images", []):
            assert base64.b64decode(data, validate=True)
        for call in sent.get("tool_calls", []):
            assert NAME.fullmatch(call["function"]["name"])
            assert isinstance(call["function"]["arguments"], dict)
            waiting.append(call["function"]["name"])
    assert not waiting
    functions = [tool["function"] for tool in body.get("tools", [])]
    check_tools([function["name"] for function in functions], [function["parameters"] for function in functions])
    assert isinstance(body.get("format", {}), dict)
    known = {"temperature", "num_predict", "seed", "stop"}
    assert set(body.get("options", {})) <= known


# -------------------------------------------------------------------------------------------- what a request tells

Said = tuple[Any, ...]
"""("text", role, text) | ("image", data or URL) | ("call", name, arguments) | ("result", name, text)"""


def said(dialect: str, body: Body) -> list[Said]:
    """What the conversation of a body tells, in order; calls and results by name, as not every dialect has ids."""
    if dialect == "openai_responses":
        return _said_in_items(body["input"])
    if dialect in ("openai_chat", "ollama"):
        return _said_in_messages(body["messages"])
    field = "parts" if dialect == "gemini" else "content"
    told: list[Said] = []
    names: dict[str, str] = {}
    for message in body["contents" if dialect == "gemini" else "messages"]:
        role = "user" if message["role"] == "user" else "assistant"
        told += [one for block in message[field] if (one := _said_in_block(block, role, names))]
    return told


def _said_in_messages(messages: list[Any]) -> list[Said]:
    told: list[Said] = []
    names: dict[str, str] = {}
    for message in messages:
        role, content = message["role"], message["content"]
        if role == "tool":
            told.append(("result", message.get("tool_name") or names[message["tool_call_id"]], content))
        elif role != "system":
            parts = content if isinstance(content, list) else [{"text": content}] if content else []
            told += [("text", role, part["text"]) if "text" in part else _image(part["image_url"]) for part in parts]
            told += [("image", data) for data in message.get("images", [])]
        for call in message.get("tool_calls", []):
            function = call["function"]
            names[call.get("id", "")] = function["name"]
            arguments = function["arguments"]
            told.append(("call", function["name"], json.loads(arguments) if isinstance(arguments, str) else arguments))
    return told


def _said_in_items(items: list[Any]) -> list[Said]:
    told: list[Said] = []
    names: dict[str, str] = {}
    for item in items:
        if item["type"] == "message":
            content = item["content"]
            parts = content if isinstance(content, list) else [{"text": content}]
            told += [("text", item["role"], part["text"]) if "text" in part else _image(part) for part in parts]
        elif item["type"] == "function_call":
            names[item["call_id"]] = item["name"]
            told.append(("call", item["name"], json.loads(item["arguments"])))
        elif item["type"] == "function_call_output":
            told.append(("result", names[item["call_id"]], item["output"]))
    return told


def _image(holder: Body) -> Said:
    url = holder.get("url") or holder["image_url"]
    return ("image", url.partition(";base64,")[2] or url)


def _said_in_block(block: Body, role: str, names: dict[str, str]) -> Said | None:
    """A block of Anthropic's, or a part of Gemini's."""
    match block:
        case {"type": "tool_use"}:
            names[block["id"]] = block["name"]
            return ("call", block["name"], block["input"])
        case {"type": "tool_result"}:
            return ("result", names[block["tool_use_id"]], block["content"])
        case {"type": "image", "source": source}:
            return ("image", source.get("data") or source["url"])
        case {"type": "thinking" | "redacted_thinking"} | {"thought": True} | {"text": ""}:
            return None
        case {"text": text}:
            return ("text", role, text)
        case {"functionCall": call}:
            return ("call", call["name"], call["args"])
        case {"functionResponse": result}:
            return ("result", result["name"], next(iter(result["response"].values())))
        case {"inlineData": data}:
            return ("image", data["data"])
        case {"fileData": data}:
            return ("image", data["fileUri"])
    return None
