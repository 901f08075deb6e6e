"""Anthropic messages: https://platform.claude.com/docs/en/api/messages and .../build-with-claude/streaming.

Also spoken by llama.cpp, vLLM and LiteLLM. The terminal event is `message_stop`: every server we have recordings of
sends it, so a stream that ends after `message_delta` was cut. A structured answer is asked for as a forced tool, which
every model and compatible server takes with any schema (the native `output_config.format` knows only newer models and a
part of JSON schema); its input is given back as text, so that nobody sees the tool.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import attrs

from cortex.messages import (
    Answer,
    Failure,
    Finish,
    Image,
    Kind,
    Part,
    Progress,
    Request,
    StreamEvent,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    ToolSpec,
    Usage,
)
from cortex.wire.codec import EFFORT_TOKENS, HttpCall, HttpReply, Json, Target, Wire, get, post
from cortex.wire.draft import OpenCall, newest
from cortex.wire.faults import Rules, phrase
from cortex.wire.history import CLOSING, NO_IMAGE, History, Turn, TurnRole, asked_on, details_lost, in_role, tidy
from cortex.wire.output import output_name, output_tool
from cortex.wire.stream import Fold, StreamDecoder, decode_with
from cortex.wire.values import (
    arguments_object,
    as_dict,
    as_list,
    as_text,
    base64_of,
    count,
    dumps,
    id_grammar,
    media_type,
)

VERSION = "2023-06-01"  # https://platform.claude.com/docs/en/api/versioning

# `max_tokens` must be given. Who fits the first row can write so much
# (https://platform.claude.com/docs/en/about-claude/models/overview), and is asked for so much when the caller asks for
# nothing: at most 32,000, which bounds a runaway answer and costs nothing unwritten. A name that is not Claude's is a
# local server: its window is small, and its own to know.
MAX_TOKENS = (
    (re.compile("claude-3-7"), 64_000, 32_000),
    (re.compile("claude-3-5"), 8_192, 8_192),
    (re.compile("claude-(3|2|instant)"), 4_096, 4_096),
    (re.compile("claude-opus-4(?!-[5-9])"), 32_000, 32_000),
    (re.compile("claude-(opus-4-5|(sonnet|haiku)-4)"), 64_000, 32_000),
    (re.compile("claude"), 128_000, 32_000),
    (re.compile(""), 10**9, 4_096),
)
MIN_ANSWER = 1_024  # tokens that thinking leaves to the answer
MIN_THINKING = 1_024  # https://platform.claude.com/docs/en/build-with-claude/extended-thinking
# These think by themselves: they refuse a budget, and sampling parameters with it.
# https://platform.claude.com/docs/en/build-with-claude/adaptive-thinking
ADAPTIVE = re.compile(r"claude-(opus-4-[7-9]|(opus|sonnet|haiku)-[5-9]\b|fable|mythos)")

# These grade their effort: https://platform.claude.com/docs/en/build-with-claude/effort
EFFORT = re.compile(r"claude-((opus-4-[5-9]|sonnet-4-[6-9]|(opus|sonnet|haiku)-[5-9]\b)|fable|mythos)")
UNTHINKING = re.compile(r"claude-(2|instant|3-(opus|sonnet|haiku|5))")
# These do not go on with an answer that was begun: the last word must be a user's.
# https://platform.claude.com/docs/en/about-claude/models/whats-new-claude-4-6#prefill-removal
NO_PREFILL = re.compile(r"claude-((opus|sonnet|haiku)-4-[6-9]|(opus|sonnet|haiku)-[5-9]\b|fable|mythos)")

RULES = Rules(
    # https://platform.claude.com/docs/en/api/errors
    codes={
        "overloaded_error": Kind.OVERLOADED,
        "billing_error": Kind.QUOTA,
        "enforced_spend_limit_reached": Kind.QUOTA,
        "request_too_large": Kind.TOO_LARGE,
        "timeout_error": Kind.TIMEOUT_FIRST,
    },
    inband={
        "invalid_request_error": Kind.BAD_REQUEST,
        "authentication_error": Kind.CREDENTIAL,
        "permission_error": Kind.PERMISSION,
        "not_found_error": Kind.MODEL_GONE,
        "conflict_error": Kind.CONFLICT,
        "rate_limit_error": Kind.RATE_LIMIT,
        "api_error": Kind.TRANSIENT,
    },
    phrases=(
        phrase(Kind.BAD_REQUEST, "400", "blocks[^.]{0,60}cannot be modified"),  # ours to mend: no other would be asked
        phrase(Kind.MODEL_GONE, "404", r"^model: "),
    ),
)

FINISH = {
    "end_turn": Finish.STOP,
    "stop_sequence": Finish.STOP,
    "max_tokens": Finish.LENGTH,
    "model_context_window_exceeded": Finish.LENGTH,
    "tool_use": Finish.TOOL_CALLS,
    "refusal": Finish.REFUSAL,
}

COUNTS = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")
ROLES = {"user": "user", "tool": "user", "assistant": "assistant"}
_REDACTED = "redacted:"  # how redacted thinking is told in `Thinking.signature`, which only this dialect reads
_call_id = id_grammar(r"[a-zA-Z0-9_-]{1,64}", "toolu_", 30)


# ------------------------------------------------------------------------------------------------------------ encode


def encode(request: Request, target: Target) -> HttpCall:
    """The call for `POST /v1/messages`. Options: `version`, `thinking_budget` (tokens, at least 1,024)."""
    history, begun = _last_word(tidy(request, target, _call_id, user_first=True), target)
    messages, left_out = history.write("anthropic", _write)
    notes = [*history.notes, *left_out, *begun]
    model = target.called("claude-")
    most, usual = next((most, usual) for name, most, usual in MAX_TOKENS if name.match(model))
    body: dict[str, Any] = {"model": target.model, "max_tokens": request.max_tokens or usual}
    system = history.system
    thinking = _thinking(request, target, history, notes)
    if request.output and (thinking or ADAPTIVE.match(model)):  # then no tool can be forced: it is asked for
        system = f"{system}\n\nGive the final answer by calling {output_name(request.output)}.".strip()
    if system:
        body["system"] = system
    body["messages"] = Json([b"[", *messages, CLOSING, b"]"])
    _set_tools(body, request, history, forced=not thinking and not ADAPTIVE.match(model))
    if thinking:
        body["thinking"] = thinking
        _make_room(body, most, notes if request.max_tokens else [])
    _set_sampling(body, request, model, thinking=bool(thinking), notes=notes)
    if request.stream:
        body["stream"] = True
    return post(_base(target) + "/messages", _auth(target), body, request, target, notes)


def _make_room(body: dict[str, Any], most: int, notes: list[str]) -> None:
    """The tokens of thinking are among the answer's, of which the model can write `most`."""
    budget = body["thinking"].get("budget_tokens", 0)
    if body["max_tokens"] > budget:
        return
    if budget > most - MIN_ANSWER:
        body["thinking"]["budget_tokens"] = most - MIN_ANSWER
        notes.append(f"thinking_budget {budget} was told as {most - MIN_ANSWER}: this model can write {most} in all")
    body["max_tokens"] = min(body["max_tokens"] + budget, most)
    notes.append(f"max_tokens was raised to {body['max_tokens']}: this vendor counts thinking among them")


def probe(target: Target) -> HttpCall:
    """Ask for the list of models: costs no token."""
    return get(_base(target) + "/models?limit=1", _auth(target), target)


def _base(target: Target) -> str:
    return target.base_url if target.base_url.endswith("/v1") else target.base_url + "/v1"


def _auth(target: Target) -> dict[str, str]:
    key = {"x-api-key": target.api_key} if target.api_key else {}
    return {"anthropic-version": str(target.options.get("version") or VERSION), **key}


def _thinking(request: Request, target: Target, history: History, notes: list[str]) -> dict[str, Any] | None:
    """The thinking to ask for, unless something in the request forbids it."""
    budget = _budget(request, target, notes)
    if not budget:
        return None
    why = None
    if request.tool_choice not in (None, "none"):
        why = "a tool is forced"
    elif any(turn.calls and not _is_signed(turn.parts[0]) for turn in history.turns[history.loop_start :]):
        why = "the running tool loop began without it"
    elif history.turns[-1].role == "assistant":
        why = "an answer was begun without it"
    if why:
        notes.append(f"thinking was left out: {why}")
        return None
    if ADAPTIVE.match(target.called("claude-")):
        notes.append("thinking_budget was told as adaptive: this model takes no number of tokens")
        return {"type": "adaptive"}
    if budget < MIN_THINKING:
        notes.append(f"thinking_budget {budget} was told as {MIN_THINKING}: this vendor takes no less")
    return {"type": "enabled", "budget_tokens": max(budget, MIN_THINKING)}


def _budget(request: Request, target: Target, notes: list[str]) -> int | None:
    """How many tokens of thinking the request asks for, else the provider's configuration."""
    wanted, model = request.thinking_budget, target.called("claude-")
    if wanted is None and request.effort is not None and not EFFORT.match(model):
        wanted = EFFORT_TOKENS[request.effort]
    if UNTHINKING.match(model):
        notes += ["effort and thinking_budget were left out: this model does not think"] if wanted else []
        return None
    return wanted if wanted is not None else count(target.options.get("thinking_budget"))


def _is_signed(part: Part) -> bool:
    return isinstance(part, Thinking) and bool(part.signature)


def _set_sampling(body: dict[str, Any], request: Request, model: str, *, thinking: bool, notes: list[str]) -> None:
    if request.effort is not None and EFFORT.match(model):
        word = "low" if request.effort == "minimal" else request.effort
        body["output_config"] = {"effort": word}
        if word != request.effort:
            notes.append(f"effort {request.effort} was told as {word}: this vendor does not know it")
    if request.temperature is not None:
        if thinking or ADAPTIVE.match(model):
            notes.append("temperature was left out: it does not go with this model's thinking")
        else:
            body["temperature"] = min(request.temperature, 1.0)
            if request.temperature > 1:
                notes.append("temperature was lowered to 1: this vendor takes no more")
    if stops := [text for text in request.stop if text.strip()]:
        body["stop_sequences"] = stops
    if len(stops) < len(request.stop):
        notes.append("a stop text of white space was left out: this vendor refuses it")
    if request.seed is not None:
        notes.append("seed was left out: this vendor takes none")


def _set_tools(body: dict[str, Any], request: Request, history: History, *, forced: bool) -> None:
    tools = [_tool(tool) for tool in request.tools]
    choice: dict[str, Any] | None = _choice(request.tool_choice) if tools else None
    if not tools and history.called:  # a history with calls is refused where no tool is defined
        tools = [{"name": name, "input_schema": {"type": "object"}} for name in sorted(history.called)]
        choice = None if request.output else {"type": "none"}
    if request.output:
        name = output_name(request.output)
        if request.tools and request.tool_choice == "none":  # which is of those, and not of the answer
            tools, choice = (tools, {"type": "tool", "name": name}) if forced else ([], None)
        tools.append(_tool(output_tool(request.output)))
        if forced:
            choice = {"type": "any"} if request.tools and not choice else choice or {"type": "tool", "name": name}
    if request.tools and request.parallel_tools is not None:
        choice = choice or {"type": "auto"}
        if choice["type"] != "none":
            choice["disable_parallel_tool_use"] = not request.parallel_tools
    if tools:
        body["tools"] = tools
    if choice:
        body["tool_choice"] = choice


def _tool(tool: ToolSpec) -> dict[str, Any]:
    return {"name": tool.name, "description": tool.description, "input_schema": tool.parameters}


def _choice(choice: str | None) -> dict[str, Any] | None:
    match choice:
        case None:
            return None
        case "none":
            return {"type": "none"}
        case "required":
            return {"type": "any"}
        case name:
            return {"type": "tool", "name": name}


def _last_word(history: History, target: Target) -> tuple[History, list[str]]:
    """A prefill (an answer of the model's that it is to continue) must not end in white space, and newer models take
    none: they are asked to go on."""
    last = history.turns[-1]
    if NO_PREFILL.match(target.called("claude-")):
        return asked_on(history)
    if last.role != "assistant":
        return history, []
    said = _led_on(last.parts)
    if not isinstance(text := said[-1], Text):
        return history, []
    turn = Turn("assistant", (*said[:-1], Text(text.text.rstrip()), *last.parts[len(said) :]))
    return attrs.evolve(history, turns=(*history.turns[:-1], turn)), []


def _write(turn: Turn, before: TurnRole | None, running: bool) -> tuple[bytes, list[str]]:  # noqa: ARG001
    """Results and what the user says next are one message, results first."""
    blocks = [block for part in _led_on(turn.parts) if (block := _block(part)) is not None]
    notes = ["thinking without a signature was left out"] if len(blocks) < len(turn.parts) else []
    if any(isinstance(part, Image) and not _is_taken(part) for part in turn.parts):
        notes.append("an image at an http:// address was left out: this vendor fetches from https:// alone")
    notes += details_lost(turn.parts)
    return in_role(ROLES[turn.role], before and ROLES[before], "content", blocks), notes


def _led_on(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Without thinking at the end, which led to nothing: the last block of a message cannot be thinking."""
    end = len(parts)
    while isinstance(parts[end - 1], Thinking):
        end -= 1
    return parts[:end]


def _block(part: Part) -> dict[str, Any] | None:
    match part:
        case Text():
            return {"type": "text", "text": part.text}
        case Thinking():
            return _thinking_block(part)
        case ToolCall():
            return {"type": "tool_use", "id": part.id, "name": part.name, "input": arguments_object(part)}
        case ToolResult():
            block = {"type": "tool_result", "tool_use_id": part.call_id, "content": part.content}
            return {**block, "is_error": True} if part.is_error else block
        case Image() if not _is_taken(part):
            return {"type": "text", "text": NO_IMAGE}
        case Image():
            if part.data:
                source = {"type": "base64", "media_type": media_type(part), "data": base64_of(part)}
            else:
                source = {"type": "url", "url": part.url or ""}
            return {"type": "image", "source": source}


def _is_taken(image: Image) -> bool:
    """https://platform.claude.com/docs/en/build-with-claude/vision: by its bytes, or by an address of HTTPS."""
    return bool(image.data) or (image.url or "")[:5].lower() != "http:"


def _thinking_block(part: Thinking) -> dict[str, Any] | None:
    """Only what was signed can be given back."""
    if not part.signature:
        return None
    if part.signature.startswith(_REDACTED):
        return {"type": "redacted_thinking", "data": part.signature.removeprefix(_REDACTED)}
    return {"type": "thinking", "thinking": part.text, "signature": part.signature}


# ------------------------------------------------------------------------------------------------------------ decode


class AnthropicFold(Fold):
    """Folds content blocks; a whole message is its blocks, one after another."""

    rules = RULES

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._open: dict[int, OpenCall] = {}  # by block index
        self._raw: str | None = None
        self._counts: dict[str, int] = {}

    def chunk(self, name: str, payload: dict[str, Any]) -> list[StreamEvent]:
        match payload.get("type") or name:
            case "content_block_delta":
                return self._delta(payload.get("index"), as_dict(payload.get("delta")))
            case "content_block_start":
                return self._start(payload.get("index"), as_dict(payload.get("content_block")))
            case "content_block_stop":
                return self._stop(payload.get("index"))
            case "message_start":
                self._head(as_dict(payload.get("message")))
            case "message_delta":
                self._raw = as_text(as_dict(payload.get("delta")).get("stop_reason")) or self._raw
                self._count(payload.get("usage"))
            case "message_stop":
                return self._end()
            case "error":
                return self.error(payload)
            case _ if payload.get("error"):  # a gateway's own, in no shape of Anthropic's
                return self.error(payload)
        return []

    def whole(self, payload: Any) -> list[StreamEvent]:
        message = as_dict(payload)
        if message.get("type") == "error" or message.get("error"):
            return self.error(payload)
        if not isinstance(message.get("content"), list):
            return self.broken(Kind.PROTOCOL, "the reply has no content")
        self._head(message)
        events: list[StreamEvent] = []
        for index, block in enumerate(as_list(message["content"])):
            events += self._start(index, as_dict(block))
            events += self._stop(index)
        self._raw = as_text(message.get("stop_reason")) or None
        return events + self._end()

    def _head(self, message: Mapping[str, Any]) -> None:
        self.draft.model = as_text(message.get("model")) or None
        self.draft.response_id = as_text(message.get("id"))
        self._count(message.get("usage"))

    def _count(self, usage: Any) -> None:
        """Counts are cumulative, and each may be said again later; the input is told in three parts."""
        counts = as_dict(usage)
        thinking = as_dict(counts.get("output_tokens_details")).get("thinking_tokens")
        for key, value in {**{key: counts.get(key) for key in COUNTS}, "thinking": thinking}.items():
            if (number := count(value)) is not None:
                self._counts[key] = number
        fresh, read = self._counts.get("input_tokens"), self._counts.get("cache_read_input_tokens")
        written = self._counts.get("cache_creation_input_tokens")
        known = [number for number in (fresh, read, written) if number is not None]
        new = Usage(
            input_tokens=sum(known) if known else None,
            output_tokens=self._counts.get("output_tokens"),
            cached_tokens=read,
            reasoning_tokens=self._counts.get("thinking"),
            cache_written_tokens=written,
        )
        self.draft.usage = newest(self.draft.usage, new)

    def _start(self, index: Any, block: dict[str, Any]) -> list[StreamEvent]:
        match block.get("type"):
            case "text":
                self.draft.cite(as_list(block.get("citations")))
                return self.draft.text(as_text(block.get("text")))
            case "thinking":
                self.draft.begin_thinking()
                events = self.draft.thinking(as_text(block.get("thinking")))
                return events + self.draft.sign(as_text(block.get("signature")))
            case "redacted_thinking":
                self.draft.begin_thinking()
                return self.draft.sign(_REDACTED + as_text(block.get("data")))
            case "tool_use":
                return self._start_call(index, block)
            case _:  # a server's own tools and their results: work, but none of ours
                return [Progress()]

    def _start_call(self, index: Any, block: dict[str, Any]) -> list[StreamEvent]:
        given = dumps(block["input"]).decode() if block.get("input") else ""  # in a stream it comes in deltas
        call = self.draft.open_call(as_text(block.get("id")), as_text(block.get("name")))
        self._open[_key(index)] = call
        return self.draft.argument(call, given) if given else [Progress()]

    def _delta(self, index: Any, delta: dict[str, Any]) -> list[StreamEvent]:
        match delta.get("type"):
            case "text_delta":
                return self.draft.text(as_text(delta.get("text")))
            case "thinking_delta":
                return self.draft.thinking(as_text(delta.get("thinking")))
            case "signature_delta":
                return self.draft.sign(as_text(delta.get("signature")))
            case "input_json_delta":
                return self._json_delta(index, as_text(delta.get("partial_json")))
            case "citations_delta":
                self.draft.cite([delta.get("citation")])
        return []

    def _json_delta(self, index: Any, piece: str) -> list[StreamEvent]:
        if not piece:
            return []
        call = self._open.get(_key(index))
        return self.draft.argument(call, piece) if call else [Progress()]

    def _stop(self, index: Any) -> list[StreamEvent]:
        call = self._open.pop(_key(index), None)
        # Without a text it may be a call without arguments or one that the limit cut off: the stop reason tells.
        return self.draft.finish_call(call) if call and call.pieces else []

    def _end(self) -> list[StreamEvent]:
        if self._raw is None and self.draft.empty:
            return self.broken(Kind.PROTOCOL, "an empty answer without a stop reason")
        return self.ended(FINISH.get(self._raw or "", Finish.OTHER), self._raw)


def _key(index: Any) -> int:
    """A block's index; whatever is none counts as one block."""
    return index if isinstance(index, int) else -1


def decode(reply: HttpReply, target: Target) -> Answer | Failure:
    """Read a whole reply."""
    return decode_with(AnthropicFold, reply, target)


def decoder(target: Target) -> StreamDecoder:
    """Read a stream."""
    return StreamDecoder(AnthropicFold(target))


WIRE = Wire("anthropic", encode, decode, decoder, probe)
