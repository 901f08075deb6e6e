"""What users pass with a call -> the values that travel. Pure.

Messages are a text, dicts of the OpenAI shape (`role`, `content`, `tool_calls`, `tool_call_id`) or `Message`. Whatever
cannot work is a `ConfigError` that names the item, before any provider is asked.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, Literal

import attrs

from cortex import checks
from cortex.errors import ConfigError
from cortex.images import detail, image
from cortex.messages import EFFORTS, Effort, Image, Issuer, Message, Part, Role, Text, Thinking, ToolCall, ToolResult

_ROLES: Final[Mapping[str, Role]] = {
    "system": "system",
    "developer": "system",  # OpenAI's newer word for it
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
_KEYS: Final[Mapping[Role, frozenset[str]]] = {
    "system": frozenset({"role", "content"}),
    "user": frozenset({"role", "content"}),
    "assistant": frozenset(
        {"role", "content", "tool_calls", "refusal", "reasoning_content", "reasoning", "thinking", "annotations"}
    ),
    "tool": frozenset({"role", "content", "name", "tool_call_id"}),
}
_PARTS: Final[Mapping[Role, tuple[type[Part], ...]]] = {
    "system": (Text,),
    "user": (Text, Image),
    "assistant": (Text, Thinking, Image, ToolCall),
    "tool": (ToolResult,),
}
_TEXTS: Final[tuple[tuple[type[Part], tuple[str, ...]], ...]] = (
    (Text, ("text",)),
    (Thinking, ("text",)),
    (ToolCall, ("id", "name", "raw_arguments")),
    (ToolResult, ("call_id", "name", "content")),
)
"""The fields of a part that hold a text."""


# --------------------------------------------------------------------------------------------------- conversations


def conversation(messages: object, *, images: object = ()) -> tuple[str, tuple[Message, ...]]:
    """The system prompt and the messages of a call; `images` go with the last message of the user.

    System messages are joined into the prompt, wherever they stand. The rest must hold something to answer, and must
    not begin with a tool's result: its call would be missing, and every vendor refuses that.
    """
    if isinstance(messages, (str, Message, Mapping)):
        messages = [messages]
    if isinstance(messages, (bytes, bytearray)) or not isinstance(messages, Sequence):
        raise ConfigError(
            f'messages: must be a text, or a list of {{"role": ..., "content": ...}} and Message, '
            f"not {checks.kind(messages)}"
        )
    each = [_any_message(f"messages[{index}]", item) for index, item in enumerate(messages)]
    _check_results(each)
    read = _joined(each)
    system = "\n\n".join(item.text for item in read if item.role == "system" and item.text)
    rest = [item for item in read if item.role != "system"]
    if not rest:
        raise ConfigError("messages: hold nothing to answer; add a message with the role user")
    return system, _with_images(rest, images)


def _any_message(field: str, item: object) -> Message:
    if isinstance(item, str):
        return Message("user", (Text(_not_blank(field, item)),))
    if isinstance(item, Message):
        return _whole(field, item)
    if isinstance(item, Mapping):
        return _from_dict(field, item)
    raise ConfigError(f"{field}: must be a text, a dict or a Message, not {checks.kind(item)}")


def _whole(field: str, item: Message) -> Message:
    """A `Message` a user built himself: the types were hints to him, here they are checked."""
    role = _role(field, item.role)
    parts: object = item.parts
    if not isinstance(parts, tuple) or not parts:
        raise ConfigError(f"{field}.parts: must be a tuple of at least one part, e.g. (Text('hello'),)")
    return Message(role, tuple(_whole_part(f"{field}.parts[{i}]", part, role) for i, part in enumerate(parts)))


def _whole_part(field: str, part: object, role: Role) -> Part:
    if not isinstance(part, _PARTS[role]):
        kinds = checks.listed(kind.__name__ for kind in _PARTS[role])
        raise ConfigError(f"{field}: a message of {role} holds {kinds}, not {checks.kind(part)}")
    for name in next((names for kind, names in _TEXTS if isinstance(part, kind)), ()):
        checks.any_text(f"{field}.{name}", getattr(part, name))
    if isinstance(part, (Thinking, ToolCall)):
        _check_seal(field, part.signature, part.issuer)
    if isinstance(part, ToolCall):
        return _whole_call(field, part)
    return image(field, part) if isinstance(part, Image) else part


def _check_seal(field: str, signature: object, issuer: object) -> None:
    if signature is not None:
        checks.any_text(f"{field}.signature", signature)
    if issuer is not None and not isinstance(issuer, Issuer):
        raise ConfigError(f"{field}.issuer: must be an Issuer or None, not {checks.kind(issuer)}")


def _whole_call(field: str, call: ToolCall) -> ToolCall:
    """Arguments that only the text tells are read from it: not every dialect takes a text."""
    _written(f"{field}.arguments", call.arguments)
    told = _json(call.raw_arguments) if not call.arguments else None
    return attrs.evolve(call, arguments=told) if isinstance(told, dict) else call


def _from_dict(field: str, item: Mapping[Any, Any]) -> Message:
    fields = checks.mapping(field, item, example='{"role": "user", "content": "hello"}')
    if "role" not in fields:
        raise ConfigError(f"{field}.role: is missing; one of {checks.listed(_ROLES)}")
    role = _role(field, fields["role"])
    _known_keys(field, fields, _KEYS[role])
    if role == "tool":
        return Message(role, (_tool_result(field, fields),))
    parts = _thought(field, fields) if role == "assistant" else ()
    parts += _content(f"{field}.content", fields.get("content"), role)
    if role == "assistant":
        parts += _content(f"{field}.refusal", fields.get("refusal"), role)  # it said no, but it said it
        parts += _tool_calls(f"{field}.tool_calls", fields.get("tool_calls"))
    if not parts and role == "user":
        raise ConfigError(f"{field}.content: is empty; leave the message out")
    return Message(role, parts or (Text(""),))


def _thought(field: str, fields: Mapping[str, Any]) -> tuple[Part, ...]:
    """What a compatible server told of its thinking, under one of its names. An answer's `annotations` (its sources)
    are passed over: they are a server's word to us, and no vendor takes them back."""
    name = next((name for name in ("reasoning_content", "reasoning", "thinking") if fields.get(name)), None)
    return (Thinking(checks.any_text(f"{field}.{name}", fields[name])),) if name else ()


def _known_keys(field: str, fields: Mapping[str, Any], known: Collection[str]) -> None:
    """A member that holds nothing (None, False, an empty list) is no matter: an SDK's messages are full of them."""
    given = [key for key, value in fields.items() if value is not None and value is not False and value != []]
    if "name" in given and "name" not in known:
        raise ConfigError(f"{field}.name: only some vendors know who speaks; write the name into the content")
    if "cache_control" in given:
        raise ConfigError(f"{field}.cache_control: belongs to one vendor; pass it in extra={{...}} of the call")
    checks.known_keys(field, given, sorted(known))


def _role(field: str, role: object) -> Role:
    return _ROLES[checks.one_of(f"{field}.role", role, _ROLES)]


def _content(field: str, content: object, role: Role) -> tuple[Part, ...]:
    """A text, or a list of parts: {"type": "text", "text": ...}, {"type": "image_url", "image_url": {"url": ...}}."""
    if content is None:
        return ()
    if isinstance(content, str):
        return (Text(checks.any_text(field, content)),) if content.strip() else ()
    if not isinstance(content, Sequence) or isinstance(content, (bytes, bytearray)):
        raise ConfigError(f"{field}: must be a text or a list of parts, not {checks.kind(content)}")
    parts = tuple(_part(f"{field}[{index}]", part, role) for index, part in enumerate(content))
    for index, part in enumerate(parts):
        if not isinstance(part, _PARTS[role]):
            raise ConfigError(f"{field}[{index}]: a message of {role} cannot hold {type(part).__name__}")
    return parts


def _part(field: str, part: object, role: Role) -> Part:
    if isinstance(part, str):
        return Text(checks.any_text(field, part))
    if isinstance(part, (Text, Thinking, Image, ToolCall)):
        return _whole_part(field, part, role)
    fields = checks.mapping(field, part, example='{"type": "text", "text": "hello"}')
    kind = checks.one_of(f"{field}.type", fields.get("type"), ("text", "image_url", "refusal"))
    _known_keys(field, fields, ("type", kind))
    if kind != "image_url":
        return Text(checks.any_text(f"{field}.{kind}", fields.get(kind)))
    return _linked_image(f"{field}.image_url", fields.get("image_url"))


def _linked_image(field: str, given: object) -> Image:
    """An address, or an object with it."""
    if not isinstance(given, Mapping):
        return image(field, given)
    fields = checks.mapping(field, given, example='{"url": "https://example.com/a.png"}')
    _known_keys(field, fields, ("url", "detail"))
    return attrs.evolve(
        image(f"{field}.url", fields.get("url")), detail=detail(f"{field}.detail", fields.get("detail"))
    )


def _tool_calls(field: str, calls: object) -> tuple[Part, ...]:
    if calls is None:
        return ()
    if not isinstance(calls, Sequence) or isinstance(calls, (str, bytes)):
        raise ConfigError(f"{field}: must be a list, not {checks.kind(calls)}")
    return tuple(_tool_call(f"{field}[{index}]", call) for index, call in enumerate(calls))


def _tool_call(field: str, call: object) -> Part:
    if isinstance(call, ToolCall):
        return _whole_part(field, call, "assistant")
    example = '{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}'
    fields = checks.mapping(field, call, example=example)
    function = checks.mapping(f"{field}.function", fields.get("function"), example='{"name": "f", "arguments": "{}"}')
    name = checks.text(f"{field}.function.name", function.get("name"))
    raw = function.get("arguments", "{}")
    if isinstance(raw, Mapping):
        arguments: Any = dict(raw)
        raw = _written(f"{field}.function.arguments", arguments)
    else:
        raw = checks.any_text(f"{field}.function.arguments", raw)
        arguments = _json(raw)
    return ToolCall(checks.text(f"{field}.id", fields.get("id")), name, arguments, raw)


def _written(field: str, arguments: object) -> str:
    try:
        return json.dumps(arguments, ensure_ascii=False, default=_object)
    except (TypeError, ValueError, RecursionError):
        raise ConfigError(f"{field}: cannot be written as JSON") from None


def _object(value: object) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError


def _json(raw: str) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def _tool_result(field: str, fields: Mapping[str, Any]) -> ToolResult:
    call_id = checks.text(f"{field}.tool_call_id", fields.get("tool_call_id"))
    content = fields.get("content")
    if isinstance(content, Sequence) and not isinstance(content, (str, bytes)):
        parts = _content(f"{field}.content", content, "system")
        content = "\n\n".join(part.text for part in parts if isinstance(part, Text))
    name = fields.get("name")
    return ToolResult(call_id, name if isinstance(name, str) else "", checks.any_text(f"{field}.content", content))


def _joined(read: Sequence[Message]) -> list[Message]:
    """Results of one round as one message (the OpenAI shape has one each), each with the name its call had."""
    names = {part.id: part.name for item in read for part in item.parts if isinstance(part, ToolCall)}
    joined: list[Message] = []
    for item in read:
        if item.role != "tool":
            joined.append(item)
            continue
        before = joined.pop().parts if joined and joined[-1].role == "tool" else ()
        joined.append(Message("tool", before + tuple(_named(part, names) for part in item.parts)))
    return joined


def _named(part: Part, names: Mapping[str, str]) -> Part:
    if isinstance(part, ToolResult) and not part.name:
        return attrs.evolve(part, name=names.get(part.call_id, ""))
    return part


def _check_results(messages: Sequence[Message]) -> None:
    """Each result answers a call that stands before it."""
    called: set[str] = set()
    for index, message in enumerate(messages):
        for part in message.parts:
            if isinstance(part, ToolCall):
                called.add(part.id)
            elif isinstance(part, ToolResult) and part.call_id not in called:
                raise ConfigError(
                    f"messages[{index}]: the tool result for {part.call_id!r} has no call before it; keep the "
                    "assistant's message with its tool_calls in front of it"
                )


# -------------------------------------------------------------------------------------------- one message, images


def message(text: object, images: object = ()) -> Message:
    """The user's next message: a text, or a `Message` of the user, with images after it."""
    if isinstance(text, str):
        base = Message("user", (Text(_not_blank("message", text)),))
    elif isinstance(text, Message):
        base = _whole("message", text)
        if base.role != "user":
            raise ConfigError(f"message.role: must be user, not {base.role}")
    else:
        raise ConfigError(f"message: must be a text or a Message, not {checks.kind(text)}")
    return _with_images([base], images)[0]


def _with_images(messages: Sequence[Message], images: object) -> tuple[Message, ...]:
    if isinstance(images, (str, bytes, bytearray, Image)) or not isinstance(images, Sequence):
        raise ConfigError(f"images: must be a list, not {checks.kind(images)}")
    if not images:
        return tuple(messages)
    added = tuple(image(f"images[{index}]", item) for index, item in enumerate(images))
    users = [index for index, item in enumerate(messages) if item.role == "user"]
    if not users:
        raise ConfigError("images: there is no message of the user to go with")
    result = list(messages)
    result[users[-1]] = Message("user", result[users[-1]].parts + added)
    return tuple(result)


# --------------------------------------------------------------------------------------------------- call options


@attrs.frozen(kw_only=True)
class CallOptions:
    """The options of one call, checked. `system` forces System 1 or 2; None lets triage decide."""

    temperature: float | None = None
    max_tokens: int | None = None
    timeout: float | None = None
    extra: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    role: Literal["worker", "orchestrator"] = "worker"
    model: str | None = None
    system: Literal[1, 2] | None = None
    tool_choice: str | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    effort: Effort | None = None
    thinking_budget: int | None = None
    parallel_tools: bool | None = None


def options(
    *,
    temperature: object = None,
    max_tokens: object = None,
    timeout: object = None,
    extra: object = None,
    role: object = "worker",
    model: object = None,
    system: object = None,
    tool_choice: object = None,
    stop: object = None,
    seed: object = None,
    effort: object = None,
    thinking_budget: object = None,
    parallel_tools: object = None,
) -> CallOptions:
    """The options of a call as users pass them. Raises `ConfigError` that names the option."""
    return CallOptions(
        temperature=None if temperature is None else checks.number("temperature", temperature, low=0, high=2),
        max_tokens=None if max_tokens is None else checks.whole("max_tokens", max_tokens),
        timeout=None if timeout is None else checks.number("timeout", timeout, above=0, unit="seconds"),
        extra={} if extra is None else _extra(extra),
        role="worker" if checks.one_of("role", role, ("worker", "orchestrator")) == "worker" else "orchestrator",
        model=None if model is None else checks.text("model", model, example="gpt-4o"),
        system=_system(system),
        tool_choice=None if tool_choice is None else checks.text("tool_choice", tool_choice, example="required"),
        stop=_stop(stop),
        seed=None if seed is None else checks.whole("seed", seed, low=0),
        effort=None if effort is None else _effort(effort),
        thinking_budget=None if thinking_budget is None else checks.whole("thinking_budget", thinking_budget, low=0),
        parallel_tools=None if parallel_tools is None else _parallel(parallel_tools),
    )


def tool_choice(given: str | None, tools: Collection[str]) -> str | None:
    """What a request holds for it: None (the model decides) for "auto", else "none", "required" or one of `tools`."""
    if given is None or given == "auto":
        return None
    if given != "none" and not tools:
        raise ConfigError("tool_choice: there are no tools to choose among; pass tools=[...], or leave it out")
    return checks.one_of("tool_choice", given, ("auto", "none", "required", *tools))


def _stop(given: object) -> tuple[str, ...]:
    """One text or several, none of them empty; space counts."""
    texts = (given,) if isinstance(given, str) else () if given is None else given
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) and text for text in texts):
        raise ConfigError(f"stop: must be a text or a list of texts, none of them empty, not {checks.kind(given)}")
    return tuple(checks.any_text(f"stop[{index}]", text) for index, text in enumerate(texts))


def _effort(given: object) -> Effort:
    word = checks.one_of("effort", given, EFFORTS)
    return next(effort for effort in EFFORTS if effort == word)


def _parallel(given: object) -> bool:
    if not isinstance(given, bool):
        raise ConfigError(f"parallel_tools: must be True or False, not {checks.kind(given)}")
    return given


_CONVERSATION: Final = frozenset({"messages", "input", "contents"})
"""What a body's conversation is called, in any dialect."""


def _extra(given: object) -> Mapping[str, Any]:
    """It goes into the vendor's body as it stands, so it must be JSON."""
    extra = checks.mapping("extra", given, example='{"top_p": 0.9}')
    if "stream" in extra:
        raise ConfigError("extra.stream: is decided by the method; call stream or run_stream for a stream")
    if "model" in extra:
        raise ConfigError("extra.model: would make what is reported untrue; pass it as model=")
    for key in _CONVERSATION & extra.keys():
        raise ConfigError(f"extra.{key}: is the conversation itself; pass it as the message, or as messages")
    for key, value in extra.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            raise ConfigError(f"extra.{key}: cannot be written as JSON ({checks.kind(value)})") from None
    return dict(extra)


def _system(given: object) -> Literal[1, 2] | None:
    if isinstance(given, bool) or given not in (None, 1, 2):
        shown = given if isinstance(given, (int, float)) else checks.kind(given)
        raise ConfigError(f"system: must be 1 (fast), 2 (deep) or None, not {shown}")
    return None if given is None else 1 if given == 1 else 2


# ------------------------------------------------------------------------------------------------------- helpers


def _not_blank(field: str, value: str) -> str:
    if not checks.any_text(field, value).strip():
        raise ConfigError(f"{field}: is empty; pass what is to be answered")
    return value
