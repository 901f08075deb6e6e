"""OpenAI chat completions, and all who speak it: Azure, Ollama, vLLM, llama.cpp, Groq, DeepSeek, OpenRouter, Mistral...

https://platform.openai.com/docs/api-reference/chat and .../chat-streaming. What differs between the servers is data:
a row of `ROWS`. The terminal event is a finish reason; the usage and `[DONE]` may follow it, so the answer is given at
`[DONE]`, at a chunk that holds the usage alone, or when the stream closes (some servers never send `[DONE]`). `[DONE]`
without a finish reason ends an answer too, when there is one: some gateways lose the reason.
"""

from __future__ import annotations

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
from cortex.wire.codec import HttpCall, HttpReply, Target, Wire, post
from cortex.wire.draft import OpenCall, Run, newest
from cortex.wire.history import NOD, Turn, TurnRole, asked_on, result_text, tidy, with_system
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
from cortex.wire.openai_rows import UNTHOUGHT, Row, model_of, row_of
from cortex.wire.stream import Fold, StreamDecoder, decode_with
from cortex.wire.values import (
    arguments_of,
    arguments_text,
    as_dict,
    as_list,
    as_text,
    count,
    dumps,
    loads,
    weight,
)

FINISH = {
    # of OpenAI, and of those who say it in other words: Anthropic's and Cohere's, by their gateways
    "stop": Finish.STOP,
    "complete": Finish.STOP,
    "eos": Finish.STOP,
    "eos_token": Finish.STOP,
    "end_turn": Finish.STOP,
    "stop_sequence": Finish.STOP,
    "length": Finish.LENGTH,
    "model_length": Finish.LENGTH,
    "max_tokens": Finish.LENGTH,
    "tool_calls": Finish.TOOL_CALLS,
    "tool_call": Finish.TOOL_CALLS,
    "tool_use": Finish.TOOL_CALLS,
    "function_call": Finish.TOOL_CALLS,
    "content_filter": Finish.CONTENT_FILTER,
    "refusal": Finish.REFUSAL,
}
BROKEN_FINISH = {  # reasons that tell of a failure, at OpenRouter, vLLM and DeepSeek
    "error": Kind.TRANSIENT,
    "abort": Kind.TRANSIENT,  # by the engine: https://github.com/vllm-project/vllm/issues/57082
    "insufficient_system_resource": Kind.OVERLOADED,
}


# ------------------------------------------------------------------------------------------------------------ encode


def encode(request: Request, target: Target) -> HttpCall:
    """The call for `POST .../chat/completions`. Options: `organization`, `project`; `api_version` (Azure)."""
    row = row_of(target)
    request = with_output(request, target, row)
    history = tidy(request, target, row.call_id)
    history, begun = asked_on(history) if row.answers_tools else (history, [])
    thinking = row.thinking_field if row.thinks_aloud(model_of(target), request) else None
    nods = row.answers_tools
    messages, left_out = history.write(("openai_chat", thinking, nods), partial(_write, thinking, nods))
    notes = [*history.notes, *left_out, *begun]
    system = system_of(request, history, target, row)
    body: dict[str, Any] = {"model": target.model, "messages": with_system(system, messages)}
    if request.tools:
        body["tools"] = [
            {"type": "function", "function": {"name": t.name, "description": t.description, "parameters": t.parameters}}
            for t in request.tools
        ]
        if choice := choice_of(request, target, row, notes):
            body["tool_choice"] = _choice(choice)
    if request.output:
        schema = {"type": "json_schema", "json_schema": named_schema(request.output, target, row)}
        body["response_format"] = schema if row.takes_schema(model_of(target), request) else {"type": "json_object"}
    if request.max_tokens is not None:
        body[row.limit_field(model_of(target))] = request.max_tokens
    set_sampling(body, request, target, row, notes)
    _set_thinking(body, request, target, row, notes)
    _set_stop_and_seed(body, request, target, row, notes)
    if request.stream:
        body["stream"] = True
        if row.stream_usage:
            body["stream_options"] = {"include_usage": True}
    return post(address(target, "/chat/completions"), auth(target), body, request, target, notes)


def _choice(choice: str) -> str | dict[str, Any]:
    return choice if choice in ("none", "required") else {"type": "function", "function": {"name": choice}}


def _set_thinking(body: dict[str, Any], request: Request, target: Target, row: Row, notes: list[str]) -> None:
    word = effort_of(request, target, row, notes)
    if row.reasoning and request.thinking_budget is not None:  # one of them, the more exact
        budget = request.thinking_budget
        body["reasoning"] = {"max_tokens": budget} if budget else {"effort": "none"}
    elif row.reasoning and word:
        body["reasoning"] = {"effort": word}
    elif word:
        body["reasoning_effort"] = word


def _set_stop_and_seed(body: dict[str, Any], request: Request, target: Target, row: Row, notes: list[str]) -> None:
    if request.stop and not row.takes_stops(model_of(target)):
        notes.append("stop was left out: this model takes none")
    elif request.stop:
        body["stop"] = list(request.stop[: row.stops])
        if len(body["stop"]) < len(request.stop):
            notes.append(f"stop was cut to {row.stops}: this vendor takes no more")
    if request.seed is not None:
        if row.seed:
            body[row.seed] = request.seed
        else:
            notes.append("seed was left out: this vendor takes none")


def _write(
    thinking: str | None, nods: bool, turn: Turn, before: TurnRole | None, _running: bool
) -> tuple[bytes, list[str]]:
    notes: list[str] = []
    if turn.role == "assistant":
        messages = [_assistant(turn, thinking, notes)]
    elif turn.role == "user":
        nod = [{"role": "assistant", "content": NOD}] if nods and before == "tool" else []
        messages = [*nod, {"role": "user", "content": user_content(turn.parts, "text", _image)}]
    else:
        messages = [_result(part) for part in turn.parts if isinstance(part, ToolResult)]
    return (b"," if before else b"") + dumps(messages)[1:-1], notes


def _image(image: Image) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": image_url(image), **detail_of(image)}}


def _assistant(turn: Turn, thinking: str | None, notes: list[str]) -> dict[str, Any]:
    texts = [part.text for part in turn.parts if isinstance(part, Text)]
    message: dict[str, Any] = {"role": "assistant", "content": "\n\n".join(texts) or None}
    thoughts = [part.text for part in turn.parts if isinstance(part, Thinking)]
    details = [detail for part in turn.parts if isinstance(part, Thinking) for detail in _details(part)]
    if thinking:
        message[thinking] = "\n\n".join(thoughts) or UNTHOUGHT
    if details:
        message["reasoning_details"] = details
    if not thinking and any(not _details(part) for part in turn.parts if isinstance(part, Thinking)):
        notes.append("thinking of earlier answers was left out: this dialect takes none back")
    if turn.calls:
        message["tool_calls"] = [_call(call, notes) for call in turn.calls]
    return message


def _details(part: Thinking) -> list[Any]:
    """The details of its reasoning that a server gave, as they came."""
    try:
        return as_list(loads(part.signature or ""))
    except ValueError:
        return []


def _call(call: ToolCall, notes: list[str]) -> dict[str, Any]:
    function = {"name": call.name, "arguments": arguments_text(call)}
    entry = {"id": call.id, "type": "function", "function": function}
    if not call.signature:
        return entry
    extra = _object(call.signature)
    if not extra:
        notes.append("a tool call's damaged signature was left out")
    return {**entry, "extra_content": extra} if extra else entry


def _object(text: str) -> dict[str, Any]:
    """The object that a text of JSON says; an empty one if it says none."""
    try:
        return as_dict(loads(text))
    except ValueError:
        return {}


def _result(result: ToolResult) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": result.call_id, "content": result_text(result)}


# ------------------------------------------------------------------------------------------------------------ decode


_DETAIL, _PIECE = 512, 64  # bytes of memory that a detail of reasoning takes, and a piece of one, beside what it says
_SPOKEN = ("text", "summary")  # what of a detail comes in pieces


@attrs.define(eq=False)
class Detail:
    """One of `reasoning_details` in the making: its members, and the pieces of what it says."""

    members: dict[str, Any]
    pieces: dict[str, list[str]] = attrs.field(factory=dict)

    @property
    def whole(self) -> dict[str, Any]:
        """The detail as it has to come back."""
        return self.members | {name: "".join(pieces) for name, pieces in self.pieces.items()}


class OpenAIFold(Fold):
    """Folds deltas; a whole message is one delta that says everything."""

    rules = RULES

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._raw: str | None = None
        self._refused = False
        self._calls: dict[int, OpenCall] = {}  # by the index the server gives; the one that gets fragments now
        self._last: OpenCall | None = None
        self._details: list[Detail] = []
        self._open: dict[tuple[str, int | None], Detail] = {}  # those of which more may come
        self._thought: Run | None = None  # the thinking that they seal

    def chunk(self, name: str, payload: dict[str, Any]) -> list[StreamEvent]:
        if payload.get("error") or name == "error" or payload.get("object") == "error":
            return self.error(payload)
        self._head(payload)
        events: list[StreamEvent] = []
        choices = as_list(payload.get("choices"))
        for choice in map(as_dict, choices):
            if not choice.get("index"):  # the first choice alone is ours
                delta = as_dict(choice.get("delta"))
                for detail in as_list(delta.get("reasoning_details")):
                    events += self._reason(as_dict(detail))
                events += self._choice(choice, delta)
        if self._raw in BROKEN_FINISH:
            return events + self.broken(BROKEN_FINISH[self._raw], f"the answer ended with {self._raw!r}")
        if self._raw and not choices and payload.get("usage"):
            events += self._end()
        return events

    def whole(self, payload: Any) -> list[StreamEvent]:
        reply = as_dict(payload)
        choices = [as_dict(choice) for choice in as_list(reply.get("choices"))]
        if not choices:
            known = reply.get("error") or reply.get("object") == "error" or reply.get("detail")
            return self.error(payload) if known else self.broken(Kind.PROTOCOL, "the reply has no choices")
        self._head(reply)
        choice = next((choice for choice in choices if not choice.get("index")), choices[0])
        message = as_dict(choice.get("message"))
        for detail in filter(None, map(as_dict, as_list(message.get("reasoning_details")))):
            self._detail().members = detail
        events = self._choice(choice, message)
        if self._raw in BROKEN_FINISH:
            return self.error(reply) if reply.get("error") else self.broken(BROKEN_FINISH[self._raw], self._raw)
        return events + self._end()

    def done(self) -> list[StreamEvent]:
        if self._raw is None and any(not _is_whole(call) for call in self.draft.opened):
            return self.broken(Kind.CUT, "the stream ended inside a tool call")
        return self._end()

    def closed(self) -> list[StreamEvent]:
        return self._end() if self._raw else super().closed()

    def _end(self) -> list[StreamEvent]:
        if self._raw is None and self.draft.empty:
            return self.broken(Kind.PROTOCOL, "an empty answer without a finish reason")
        return self.ended(Finish.REFUSAL if self._refused else _finish(self._raw), self._raw)

    def ended(self, finish: Finish, raw: str | None) -> list[StreamEvent]:
        if self._details:
            self.draft.sign(dumps([detail.whole for detail in self._details]).decode(), self._thought)
        return super().ended(finish, raw)

    def _head(self, payload: dict[str, Any]) -> None:
        self.draft.model = as_text(payload.get("model")) or self.draft.model
        self.draft.response_id = self.draft.response_id or as_text(payload.get("id"))
        self._count(payload.get("usage"))
        self.draft.cite(as_list(payload.get("citations")))  # xAI's and Perplexity's place for them
        self.draft.cite(as_list(payload.get("search_results")))

    def _count(self, usage: Any) -> None:
        if isinstance(usage, dict):
            self.draft.usage = newest(self.draft.usage, _usage(usage))

    def _choice(self, choice: dict[str, Any], delta: dict[str, Any]) -> list[StreamEvent]:
        self._count(choice.get("usage"))  # Moonshot's place for it
        self.draft.cite(as_list(delta.get("annotations")))
        self.draft.cite(as_list(as_dict(delta.get("context")).get("citations")))  # Azure's, of one's own data
        events = self._thinking(delta) + self._content(delta.get("content"))
        if refusal := as_text(delta.get("refusal")):
            self._refused = True
            events += self.draft.text(refusal)
        for fragment in as_list(delta.get("tool_calls")):
            events += self._fragment(as_dict(fragment))
        if isinstance(delta.get("function_call"), dict):  # the form before tool_calls
            events += self._fragment({"index": 0, "function": delta["function_call"]})
        if reason := as_text(choice.get("finish_reason")):
            self._raw = reason
            events += self.finish_calls(_finish(reason))
        return events

    def _thinking(self, delta: dict[str, Any]) -> list[StreamEvent]:
        """DeepSeek's, vLLM's and llama.cpp's word for it, or that of Ollama, Groq and OpenRouter; some say both.
        Details are heard where they are all that is told."""
        plain = as_text(delta.get("reasoning_content")) or as_text(delta.get("reasoning"))
        details = map(as_dict, as_list(delta.get("reasoning_details")))
        return self.draft.thinking(plain or "".join(as_text(one.get(word)) for one in details for word in _SPOKEN))

    def _detail(self) -> Detail:
        """One more of OpenRouter's `reasoning_details`.

        They have to come back unchanged and in order: models go on from them in a tool loop, and Gemini 3 insists.
        https://openrouter.ai/docs/guides/best-practices/reasoning-tokens
        """
        self.draft.grow(_DETAIL)
        self._thought = self._thought or self.draft.begin_thinking()
        self._details.append(Detail({}))
        return self._details[-1]

    def _reason(self, fragment: dict[str, Any]) -> list[StreamEvent]:
        """A piece of a detail. Its type and its number tell of which; what is encrypted comes whole."""
        if not fragment:
            return []
        place = (as_text(fragment.get("type")), count(fragment.get("index")))
        detail = None if "data" in fragment else self._open.get(place)
        if detail is None:
            detail = self._detail()
            if "data" not in fragment:
                self._open[place] = detail
        for name, value in fragment.items():
            if name in _SPOKEN and isinstance(value, str):
                self.draft.grow(_PIECE + 4 * len(value))
                detail.pieces.setdefault(name, []).append(value)
            elif name not in detail.members or value not in (None, detail.members[name]):
                self.draft.grow(weight(dumps(value)))
                detail.members[name] = value
        return [Progress()]

    def _content(self, content: Any) -> list[StreamEvent]:
        """A string, or (Mistral) a list of parts; thinking and references to sources have parts of their own."""
        if not isinstance(content, list):
            return self.draft.text(as_text(content))
        events: list[StreamEvent] = []
        for part in map(as_dict, as_list(content)):
            self.draft.cite([part] if part.get("type") == "reference" else [])
            thought = part.get("thinking")
            for piece in map(as_dict, as_list(thought)):
                events += self.draft.thinking(as_text(piece.get("text")))
            events += self.draft.thinking(as_text(thought)) + self.draft.text(as_text(part.get("text")))
        return events

    def _fragment(self, fragment: dict[str, Any]) -> list[StreamEvent]:
        function = as_dict(fragment.get("function"))
        name, ident = as_text(function.get("name")), as_text(fragment.get("id"))
        call, events = self._call(fragment.get("index"), ident, name)
        call.id = call.id or ident
        call.name = call.name or name
        if extra := fragment.get("extra_content"):  # Gemini's thought signature, in its OpenAI clothes
            call.signature = dumps(extra).decode()
        arguments = function.get("arguments")
        piece = dumps(arguments).decode() if isinstance(arguments, dict) else as_text(arguments)
        if piece and call.call is None:
            return events + self.draft.argument(call, piece)
        return [*events, Progress()]

    def _call(self, index: Any, ident: str, name: str) -> tuple[OpenCall, list[StreamEvent]]:
        """The call a fragment belongs to. A new index begins one, and a new id: some servers number all 0."""
        current = self._calls.get(index) if isinstance(index, int) else self._last
        starts_anew = bool(name and ident and current and current.id and ident != current.id)
        if current and not starts_anew and (isinstance(index, int) or not name):
            return current, []
        events: list[StreamEvent] = []
        # The call before it is whole, if it looks it: only an object that is closed cannot go on.
        if self._last and self._last.raw.rstrip().endswith("}") and arguments_of(self._last.raw)[0]:
            events = self.draft.finish_call(self._last)
        self._last = self.draft.open_call(ident, name)
        if isinstance(index, int):
            self._calls[index] = self._last
        return self._last, events


def _finish(raw: str | None) -> Finish:
    """A server's word, whatever its capitals."""
    return FINISH.get((raw or "").lower(), Finish.OTHER)


def _is_whole(call: OpenCall) -> bool:
    """Whether its arguments are all there, as far as one can tell."""
    return bool(call.raw.strip()) and arguments_of(call.raw)[0]


def _usage(usage: dict[str, Any]) -> Usage:
    prompt, completion = count(usage.get("prompt_tokens")), count(usage.get("completion_tokens"))
    cached = count(as_dict(usage.get("prompt_tokens_details")).get("cached_tokens"))
    reasoning = count(as_dict(usage.get("completion_tokens_details")).get("reasoning_tokens"))
    total = count(usage.get("total_tokens"))
    if prompt is not None and completion is not None and reasoning and total == prompt + completion + reasoning:
        completion += reasoning  # xAI counts its reasoning beside the answer
    return Usage(
        prompt, completion, count(usage.get("prompt_cache_hit_tokens")) if cached is None else cached, reasoning
    )


def decode(reply: HttpReply, target: Target) -> Answer | Failure:
    """Read a whole reply."""
    return decode_with(OpenAIFold, reply, target)


def decoder(target: Target) -> StreamDecoder:
    """Read a stream."""
    return StreamDecoder(OpenAIFold(target))


WIRE = Wire("openai_chat", encode, decode, decoder, probe)
