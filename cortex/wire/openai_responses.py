"""OpenAI responses: https://platform.openai.com/docs/api-reference/responses and .../responses-streaming.

Also spoken by Azure, xAI, DeepSeek, vLLM, llama.cpp and gateways. A conversation is a list of items, an answer too.
Nothing is stored at the server (`store: false`): the whole conversation is sent each time, and what only the server can
read of a model's reasoning comes encrypted and goes back as it came, to the one that wrote it. The terminal event is
`response.completed`, `.incomplete` or `.failed`; a stream that ends before it was cut, whatever it had said.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import Any

import attrs

from cortex.messages import (
    Answer,
    Failure,
    Finish,
    Image,
    Kind,
    Progress,
    Request,
    StreamEvent,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    Usage,
)
from cortex.wire.codec import HttpCall, HttpReply, Json, Target, Wire, post
from cortex.wire.draft import OpenCall, Run, newest
from cortex.wire.history import Turn, TurnRole, result_text, tidy
from cortex.wire.openai_common import (
    RULES,
    address,
    auth,
    choice_of,
    detail_of,
    effort_of,
    image_url,
    named_schema,
    probe,
    set_sampling,
    system_of,
    user_content,
    with_output,
)
from cortex.wire.openai_rows import UNTHOUGHT, model_of, row_of
from cortex.wire.stream import Fold, StreamDecoder, decode_with
from cortex.wire.values import arguments_text, as_dict, as_list, as_text, count, dumps, loads

INCOMPLETE = {  # `incomplete_details.reason`
    "max_output_tokens": Finish.LENGTH,
    "content_filter": Finish.CONTENT_FILTER,
}
_ITEM = 512  # bytes of memory an item takes, or a part of one, beside what it says
CALLS = {"function_call": "arguments", "custom_tool_call": "input"}  # an item that calls a tool of ours, and with what


# ------------------------------------------------------------------------------------------------------------ encode


def encode(request: Request, target: Target) -> HttpCall:
    """The call for `POST .../responses`. Options: `organization`, `project`; `api_version` (Azure)."""
    row = row_of(target)
    request = with_output(request, target, row)
    history = tidy(request, target, row.call_id)
    aloud = row.thinks_aloud(model_of(target), request)
    items, left_out = history.write(("openai_responses", aloud), partial(_write, aloud))
    notes = [*history.notes, *left_out]
    body: dict[str, Any] = {"model": target.model, "store": False}
    if row.encrypts_reasoning(model_of(target)):
        body["include"] = ["reasoning.encrypted_content"]
    if system := system_of(request, history, target, row):
        body["instructions"] = system
    body["input"] = Json([b"[", *items, b"]"])
    if request.tools:
        body["tools"] = [  # strict unless told otherwise, and few schemas are fit for that
            {
                "type": "function",
                "name": t.name,
                "description": t.description,
                "parameters": t.parameters,
                "strict": False,
            }
            for t in request.tools
        ]
        if choice := choice_of(request, target, row, notes):
            body["tool_choice"] = _choice(choice)
    if request.output:
        schema = {"type": "json_schema", **named_schema(request.output, target, row)}
        body["text"] = {"format": schema if row.takes_schema(model_of(target), request) else {"type": "json_object"}}
    if request.max_tokens is not None:
        body["max_output_tokens"] = max(request.max_tokens, row.least)
        if request.max_tokens < row.least:
            notes.append(f"max_tokens was raised to {row.least}: this vendor takes no less")
    set_sampling(body, request, target, row, notes)
    if word := effort_of(request, target, row, notes):
        body["reasoning"] = {"effort": word}
    unsaid = [name for name in ("stop", "seed") if getattr(request, name) not in ((), None)]
    notes += [f"{name} was left out: this dialect has none" for name in unsaid]
    if request.stream:
        body["stream"] = True
    return post(address(target, "/responses"), auth(target), body, request, target, notes)


def _choice(choice: str) -> str | dict[str, Any]:
    return choice if choice in ("none", "required") else {"type": "function", "name": choice}


def _write(aloud: bool, turn: Turn, before: TurnRole | None, _running: bool) -> tuple[bytes, list[str]]:
    notes: list[str] = []
    if turn.role == "user":
        items = [{"type": "message", "role": "user", "content": user_content(turn.parts, "input_text", _image)}]
    elif turn.role == "assistant":
        items = _answered(turn, aloud, notes)
    else:
        items = [_result(part) for part in turn.parts if isinstance(part, ToolResult)]
    return (b"," if before else b"") + dumps(items)[1:-1], notes


def _image(image: Image) -> dict[str, Any]:
    return {"type": "input_image", "image_url": image_url(image), **detail_of(image)}


def _answered(turn: Turn, aloud: bool, notes: list[str]) -> list[dict[str, Any]]:
    """An assistant's turn. Only calls are told by an id: no other item is stored.

    Encrypted reasoning stands before what it led to; with nothing behind it, it is refused. All else stands before the
    calls: DeepSeek takes nothing between a call and its output, and wants what was thought aloud before them.
    """
    said: list[dict[str, Any]] = [_aloud(turn)] if aloud else []
    called: list[dict[str, Any]] = []
    held: list[dict[str, Any]] = []
    for part in turn.parts:
        if isinstance(part, Thinking):
            item = _encrypted(part)
            held += [item] if item else []
            if not item and not aloud:
                notes.append("thinking was left out: this dialect takes back only what it gave encrypted")
        elif isinstance(part, Text):
            said += [*held, {"type": "message", "role": "assistant", "content": part.text}]
            held = []
        elif isinstance(part, ToolCall):
            call = {"type": "function_call", "call_id": part.id, "name": part.name, "arguments": arguments_text(part)}
            called += [*held, call]
            held = []
    items = [*said, *called, *held]
    end = max(place for place, item in enumerate(items) if item["type"] != "reasoning") + 1
    if end < len(items):
        notes.append("thinking at an answer's end was left out: it led to nothing")
    return items[:end]


def _result(result: ToolResult) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": result.call_id, "output": result_text(result)}


def _encrypted(part: Thinking) -> dict[str, Any] | None:
    """The item as it came, if it came encrypted."""
    try:
        item = as_dict(loads(part.signature or ""))
    except ValueError:
        return None
    return item if item.get("type") == "reasoning" else None


def _aloud(turn: Turn) -> dict[str, Any]:
    """What a turn thought in plain words."""
    text = "\n\n".join(part.text for part in turn.parts if isinstance(part, Thinking)) or UNTHOUGHT
    return {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": text}]}


# ------------------------------------------------------------------------------------------------------------ decode


@attrs.define(eq=False)
class Item:
    """An output item in the making. `said`: the pieces of its parts, by number; `voice`: the field these stand in."""

    call: OpenCall | None = None
    thought: Run | None = None
    voice: str | None = None
    said: dict[int, list[str]] = attrs.field(factory=dict)
    done: bool = False


class ResponsesFold(Fold):
    """Folds output items; a whole response is its items, one after another."""

    rules = RULES

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._items: dict[int | str, Item] = {}  # by output index and by id, as far as a server gives them
        self._last: Item | None = None
        self._thought: tuple[Item, int] | None = None  # the item and part of the reasoning that was told last
        self._waiting: deque[tuple[Item, OpenCall]] = deque()  # calls to be announced, in order
        self._refused = False

    def chunk(self, name: str, payload: dict[str, Any]) -> list[StreamEvent]:
        kind = (as_text(payload.get("type")) or name).removeprefix("response.")
        match kind:
            case "output_item.added":
                return self._added(payload, as_dict(payload.get("item")))
            case "output_item.done":
                return self._done(self._item(payload), as_dict(payload.get("item")))
            case "completed" | "incomplete" | "failed" | "cancelled":
                return self._end(as_dict(payload.get("response")), kind)
            case "created":
                self._head(as_dict(payload.get("response")))
            case "error":
                return self.error({**payload, "type": None})  # its own type says nothing
            case _ if payload.get("error"):  # a gateway's own, in no shape of OpenAI's
                return self.error(payload)
            case _ if "item_id" in payload or kind.endswith(".delta"):
                return self._piece(kind, payload, as_text(payload.get("delta")))
        return []

    def _piece(self, kind: str, payload: dict[str, Any], piece: str) -> list[StreamEvent]:
        content = count(payload.get("content_index")) or 0
        match kind:
            case "output_text.delta":
                return self._say(self._item(payload), content, piece)
            case "refusal.delta":
                return self._say(self._item(payload), content, piece, refusal=True)
            case "reasoning_summary_text.delta":
                return self._think(self._item(payload), "summary", count(payload.get("summary_index")) or 0, piece)
            case "reasoning_text.delta":
                return self._think(self._item(payload), "content", content, piece)
            case "output_text.annotation.added":
                self.draft.cite([payload.get("annotation")])
                return [Progress()]
            case "function_call_arguments.delta" | "custom_tool_call_input.delta":
                return self._fragment(self._item(payload), piece)
            case _:  # a server's own tools: work, but none of ours
                return [Progress()]

    def whole(self, payload: Any) -> list[StreamEvent]:
        reply = as_dict(payload)
        if isinstance(reply.get("output"), list):
            return self._end(reply, "")
        known = reply.get("error") or reply.get("object") == "error" or reply.get("detail")
        return self.error(payload) if known else self.broken(Kind.PROTOCOL, "the reply has no output")

    def _head(self, response: dict[str, Any]) -> None:
        self.draft.model = as_text(response.get("model")) or self.draft.model
        self.draft.response_id = self.draft.response_id or as_text(response.get("id"))
        if isinstance(response.get("usage"), dict):
            self.draft.usage = newest(self.draft.usage, _usage(response["usage"]))

    # --------------------------------------------------------------------------------------------------- its items

    def _item(self, payload: dict[str, Any], *, fresh: bool = False) -> Item:
        """The item an event is about, a new one if need be. Some servers number all 0, some change ids meanwhile."""
        keys: list[int | str] = []
        if ident := as_text(payload.get("item_id")) or as_text(as_dict(payload.get("item")).get("id")):
            keys.append(ident)
        if isinstance(payload.get("output_index"), int):
            keys.append(payload["output_index"])
        self.draft.grow(0 if all(key in self._items for key in keys) else _ITEM)
        known = [self._items[key] for key in keys if key in self._items] if keys else [self._last]
        item = next((item for item in known if item and not item.done and not fresh), None) or Item()
        self._items.update(dict.fromkeys(keys, item))
        self._last = item
        return item

    def _added(self, payload: dict[str, Any], data: dict[str, Any]) -> list[StreamEvent]:
        item = self._item(payload, fresh=True)
        if data.get("type") == "reasoning":  # no sign of life: what follows may be minutes of silence
            item.thought = self.draft.begin_thinking()
            return []
        self._open(item, data)
        return [Progress()]

    def _open(self, item: Item, data: dict[str, Any]) -> OpenCall | None:
        """The call that an item is, if it is one."""
        if item.call is None and as_text(data.get("type")) in CALLS:
            ident = as_text(data.get("call_id")) or as_text(data.get("id"))
            item.call = self.draft.open_call(ident, as_text(data.get("name")))
            self._waiting.append((item, item.call))
        return item.call

    def _say(self, item: Item, part: int, piece: str, *, refusal: bool = False) -> list[StreamEvent]:
        if not piece:
            return []
        self._keep(item, part, piece)
        self._refused = self._refused or refusal
        return self.draft.text(piece)

    def _keep(self, item: Item, part: int, piece: str) -> None:
        """What was said already, so that the whole item does not say it again."""
        self.draft.grow(0 if part in item.said else _ITEM)
        item.said.setdefault(part, []).append(piece)

    def _think(self, item: Item, voice: str, part: int, piece: str) -> list[StreamEvent]:
        """A piece of reasoning, told as a summary or in full; where both are told, the first to speak is heard."""
        if not piece or item.voice not in (None, voice):
            return [Progress()]
        item.voice = voice
        self._keep(item, part, piece)
        item.thought = item.thought or self.draft.begin_thinking()
        gap = "" if self._thought in (None, (item, part)) else "\n\n"
        self._thought = (item, part)
        return self.draft.thinking(gap + piece)

    def _fragment(self, item: Item, piece: str) -> list[StreamEvent]:
        if item.call and item.call.call is None:
            return self.draft.argument(item.call, piece)
        return [Progress()]

    def _done(self, item: Item, data: dict[str, Any]) -> list[StreamEvent]:
        """An item is whole: what its pieces did not say, it says itself."""
        item.done = True
        events: list[StreamEvent] = []
        if call := self._open(item, data):
            call.name = call.name or as_text(data.get("name"))
            arguments = data.get(CALLS.get(as_text(data.get("type")), ""))
            text = dumps(arguments).decode() if isinstance(arguments, dict) else as_text(arguments)
            call.pieces = [text] if text else call.pieces
            events = self._announce()
        elif data.get("type") == "reasoning":
            item.thought = item.thought or self.draft.begin_thinking()
            voice = item.voice or ("summary" if as_list(data.get("summary")) else "content")
            last = max(item.said, default=0)
            for index, part in _parts(data.get(voice)):
                events += self._think(item, voice, index, _rest(item, index, last, as_text(part.get("text"))))
            events += self.draft.sign(_sealed(data), item.thought)
        elif data.get("type") == "message":
            last = max(item.said, default=0)
            for index, part in _parts(data.get("content")):
                self.draft.cite(as_list(part.get("annotations")))
                refusal = as_text(part.get("refusal"))
                text = _rest(item, index, last, refusal or as_text(part.get("text")))
                events += self._say(item, index, text, refusal=bool(refusal))
        return events or [Progress()]

    def _announce(self) -> list[StreamEvent]:
        """The calls that are whole, in order. One without arguments may have been cut: the end will tell."""
        events: list[StreamEvent] = []
        while self._waiting and self._waiting[0][0].done and self._waiting[0][1].raw.strip():
            events += self.draft.finish_call(self._waiting.popleft()[1])
        return events

    # ----------------------------------------------------------------------------------------------------- its end

    def _end(self, response: dict[str, Any], status: str) -> list[StreamEvent]:
        """The response is over. If nothing of it came in pieces, all is here."""
        self._head(response)
        events: list[StreamEvent] = []
        if self._last is None:
            for data in map(as_dict, as_list(response.get("output"))):
                events += self._done(Item(), data)
        return events + self._verdict(response, as_text(response.get("status")) or status)

    def _verdict(self, response: dict[str, Any], status: str) -> list[StreamEvent]:
        match status:
            case "completed":
                return self.ended(Finish.REFUSAL if self._refused else Finish.STOP, status)
            case "incomplete":
                reason = as_text(as_dict(response.get("incomplete_details")).get("reason"))
                return self.ended(INCOMPLETE.get(reason, Finish.OTHER), f"{status}:{reason}" if reason else status)
            case "failed":
                return self.error({"error": response.get("error") or "the response failed"})
            case "cancelled":
                return self.broken(Kind.TRANSIENT, "the response was cancelled at the server", status)
            case "" if not self.draft.empty:
                return self.ended(Finish.OTHER, None)
            case _:
                return self.broken(Kind.PROTOCOL, f"the response is not finished: its status is {status[:40]!r}")


def _parts(value: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """The parts of an item, by their places."""
    return ((index, part) for index, part in enumerate(as_list(value)) if isinstance(part, dict))


def _rest(item: Item, part: int, last: int, text: str) -> str:
    """What is missing at the end of what was said; `last` is the part that had come last."""
    said = "".join(item.said.get(part, ()))
    return text[len(said) :] if text.startswith(said) and part >= last else ""


def _sealed(item: dict[str, Any]) -> str:
    """A reasoning item as it has to come back; "" where nothing in it is encrypted, so that it could not be read."""
    if not as_text(item.get("encrypted_content")):
        return ""
    kept = {key: item[key] for key in ("type", "id", "content", "encrypted_content") if item.get(key)}
    return dumps({**kept, "summary": as_list(item.get("summary"))}).decode()


def _usage(usage: dict[str, Any]) -> Usage:
    cached = count(as_dict(usage.get("input_tokens_details")).get("cached_tokens"))
    reasoning = count(as_dict(usage.get("output_tokens_details")).get("reasoning_tokens"))
    return Usage(count(usage.get("input_tokens")), count(usage.get("output_tokens")), cached, reasoning)


def decode(reply: HttpReply, target: Target) -> Answer | Failure:
    """Read a whole reply."""
    return decode_with(ResponsesFold, reply, target)


def decoder(target: Target) -> StreamDecoder:
    """Read a stream."""
    return StreamDecoder(ResponsesFold(target))


WIRE = Wire("openai_responses", encode, decode, decoder, probe)
