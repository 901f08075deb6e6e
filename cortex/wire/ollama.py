"""Ollama's own dialect: https://docs.ollama.com/api/chat and https://github.com/ollama/ollama/blob/main/docs/api.md

A stream is JSON lines, and the line that says `done` is its end. What this dialect has beyond the OpenAI-compatible one
of the same server: levels of thinking, thinking brought back in a tool loop, and `truncate`, which tells the server to
refuse a conversation that does not fit its window; unasked it forgets the beginning in silence.
"""

from __future__ import annotations

import re
from typing import Any

from cortex.messages import (
    Answer,
    Failure,
    Finish,
    Image,
    Kind,
    Request,
    StreamEvent,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    Usage,
)
from cortex.wire.codec import HttpCall, HttpReply, Target, Wire, get, post
from cortex.wire.draft import newest
from cortex.wire.faults import Rules, phrase
from cortex.wire.history import NO_IMAGE, Turn, TurnRole, details_lost, result_text, tidy, with_system
from cortex.wire.ndjson import NdjsonDecoder
from cortex.wire.stream import Fold, decode_with
from cortex.wire.values import arguments_object, as_dict, as_list, as_text, base64_of, count, dumps

NDJSON = "application/x-ndjson"
FINISH = {"stop": Finish.STOP, "length": Finish.LENGTH}
IDLE = ("load", "unload")  # reasons of a reply to no question: the model was moved into memory, or out of it
RULES = Rules(phrases=(phrase(Kind.QUOTA, "402 403 429", "usage limit"),))  # of ollama.com

# Who thinks: https://ollama.com/search?c=thinking. Asked to think, any other model answers 400; not to, none does.
THINKS = re.compile(
    r"gpt-oss|qwen-?3(?!.*(coder|instruct))|deepseek-(r\d|v3\.\d|v[4-9])|magistral|gemma-?[4-9]|nemotron-[3-9]"
    r"|glm-[4-9]|minimax-m\d|\bthinking",
    re.IGNORECASE,
)
GRADED = re.compile("gpt-oss", re.IGNORECASE)  # knows low, medium and high, and cannot be told not to think


# ------------------------------------------------------------------------------------------------------------ encode


def encode(request: Request, target: Target) -> HttpCall:
    """The call for `POST /api/chat`. Of `extra`, an object `options` is laid over ours: `num_ctx`, `top_k`, ..."""
    history = tidy(request, target, str)
    messages, left_out = history.write("ollama", _write)
    notes = [*history.notes, *left_out]
    tools = _tools(request, notes)
    body: dict[str, Any] = {"model": target.model}
    system = _set_output(request, history.system, body, tools, notes)
    body["messages"] = with_system(system, messages)
    if tools:
        body["tools"] = tools
    think = _think(request, target.model, notes)
    if think is not None:
        body["think"] = think
    if options := _options(request):
        body["options"] = options
    body |= {"truncate": False, "stream": request.stream}  # it would stream unasked
    return post(f"{_base(target)}/api/chat", _auth(target), body, request, target, notes, stream_type=NDJSON)


def probe(target: Target) -> HttpCall:
    """Ask for the server's version: costs no token."""
    return get(f"{_base(target)}/api/version", _auth(target), target)


def _base(target: Target) -> str:
    """The server's address: it may have been given with the path of this API, or of the OpenAI-compatible one."""
    return target.base_url.removesuffix("/api").removesuffix("/v1")


def _auth(target: Target) -> dict[str, str]:
    return {"authorization": f"Bearer {target.api_key}"} if target.api_key else {}


def _options(request: Request) -> dict[str, Any]:
    options = {
        "temperature": request.temperature,
        "num_predict": request.max_tokens,
        "seed": request.seed,
        "stop": list(request.stop) or None,
    }
    return {name: value for name, value in options.items() if value is not None}


def _tools(request: Request, notes: list[str]) -> list[dict[str, Any]]:
    if not request.tools or request.tool_choice == "none":  # which is told by naming none
        return []
    if request.tool_choice is not None:
        notes.append("tool_choice was left out: this vendor leaves it to the model")
    if request.parallel_tools is not None:
        notes.append("parallel_tools was left out: this vendor is not told")
    return [
        {"type": "function", "function": {"name": t.name, "description": t.description, "parameters": t.parameters}}
        for t in request.tools
    ]


def _set_output(
    request: Request, system: str, body: dict[str, Any], tools: list[dict[str, Any]], notes: list[str]
) -> str:
    """Ask for the output schema; gives the system prompt. As a format it would keep the model from calling tools."""
    if request.output is None:
        return system
    if not tools:
        body["format"] = request.output.schema
        return system
    notes.append("the output schema was told in words: this vendor does not take it beside tools")
    told = dumps(request.output.schema).decode()
    return f"{system}\n\nGive the final answer as one JSON value that satisfies this JSON schema: {told}".strip()


def _think(request: Request, model: str, notes: list[str]) -> bool | str | None:
    """Whether to think, or how much; None: as the model usually does."""
    effort, budget = request.effort, request.thinking_budget
    if effort is None and budget is None:
        return None
    if GRADED.search(model):
        return _level(request, notes)
    if budget == 0:
        return False
    if not THINKS.search(model):
        notes.append("effort and thinking_budget were left out: this model is not known to think")
        return None
    asked = "thinking_budget" if effort is None else "effort"
    notes.append(f"{asked} was told as think: this model knows no degrees")
    return True


def _level(request: Request, notes: list[str]) -> bool | str:
    """For a model that knows levels, and none of them is no thinking."""
    if request.effort is None and request.thinking_budget:
        notes.append("thinking_budget was told as think: this dialect knows an effort, no number of tokens")
        return True
    if request.effort is None or request.effort == "minimal":
        asked = "thinking_budget 0" if request.effort is None else "effort minimal"
        notes.append(f"{asked} was told as low: this model knows no less")
        return "low"
    return request.effort


# ------------------------------------------------------------------------------------------------------ its messages


def _write(turn: Turn, before: TurnRole | None, running: bool) -> tuple[bytes, list[str]]:
    notes: list[str] = []
    if turn.role == "assistant":
        messages = [_assistant(turn, running, notes)]
    elif turn.role == "user":
        messages = [_user(turn, notes)]
    else:
        messages = [_result(part) for part in turn.parts if isinstance(part, ToolResult)]
    return (b"," if before else b"") + dumps(messages)[1:-1], notes


def _user(turn: Turn, notes: list[str]) -> dict[str, Any]:
    """The texts, and the images beside them: their places among the texts are not told."""
    texts: list[str] = []
    images: list[str] = []
    for part in turn.parts:
        if isinstance(part, Text):
            texts.append(part.text)
        elif isinstance(part, Image) and part.data:
            images.append(base64_of(part))
        elif isinstance(part, Image):
            texts.append(NO_IMAGE)  # the server would not fetch it
            notes.append("an image at a URL was left out: this dialect takes only an image's bytes")
    notes += details_lost(turn.parts)
    message: dict[str, Any] = {"role": "user", "content": "\n\n".join(texts)}
    return {**message, "images": images} if images else message


def _assistant(turn: Turn, running: bool, notes: list[str]) -> dict[str, Any]:
    texts = [part.text for part in turn.parts if isinstance(part, Text)]
    message: dict[str, Any] = {"role": "assistant", "content": "\n\n".join(texts)}
    thoughts = [part.text for part in turn.parts if isinstance(part, Thinking) and part.text]
    if thoughts and running and turn.calls:
        message["thinking"] = "\n\n".join(thoughts)
    elif thoughts:
        notes.append("thinking of earlier answers was left out: only a running tool loop takes it back")
    if turn.calls:
        message["tool_calls"] = [_call(call) for call in turn.calls]
    return message


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "function": {"name": call.name, "arguments": arguments_object(call)}}


def _result(result: ToolResult) -> dict[str, Any]:
    """Older servers pair it with its call by order or by name, newer ones by id."""
    content = {"role": "tool", "content": result_text(result)}
    return {**content, "tool_name": result.name, "tool_call_id": result.call_id}


# ------------------------------------------------------------------------------------------------------------ decode


class OllamaFold(Fold):
    """Folds lines; a whole reply is one line that says everything."""

    rules = RULES

    def chunk(self, name: str, payload: dict[str, Any]) -> list[StreamEvent]:  # noqa: ARG002 - lines have no names
        if payload.get("error"):
            return self.error(payload)
        draft = self.draft
        draft.model = as_text(payload.get("model")) or draft.model
        draft.response_id = draft.response_id or as_text(payload.get("created_at"))  # the nearest to an id there is
        draft.usage = newest(
            draft.usage, Usage(count(payload.get("prompt_eval_count")), count(payload.get("eval_count")))
        )
        message = as_dict(payload.get("message"))
        events = draft.thinking(as_text(message.get("thinking"))) + draft.text(as_text(message.get("content")))
        for call in as_list(message.get("tool_calls")):
            events += self._call(as_dict(call))
        return events + self._end(as_text(payload.get("done_reason"))) if payload.get("done") is True else events

    def whole(self, payload: Any) -> list[StreamEvent]:
        reply = as_dict(payload)
        events = self.chunk("", reply)
        if reply.get("error") or reply.get("done") is True:
            return events
        return self.broken(Kind.PROTOCOL, "not a reply of Ollama's /api/chat; an OpenAI-compatible server is at /v1")

    def _call(self, call: dict[str, Any]) -> list[StreamEvent]:
        """A call comes whole; older servers give it no id."""
        function = as_dict(call.get("function"))
        opened = self.draft.open_call(as_text(call.get("id")), as_text(function.get("name")))
        arguments = function.get("arguments")
        if arguments is not None:
            self.draft.argument(opened, arguments if isinstance(arguments, str) else dumps(arguments).decode())
        return self.draft.finish_call(opened)

    def _end(self, reason: str) -> list[StreamEvent]:
        if reason in IDLE:
            return self.broken(Kind.PROTOCOL, f"no answer: the reply ended with {reason!r}", reason)
        # Servers of old gave no reason.
        return self.ended(FINISH.get(reason, Finish.OTHER) if reason else Finish.STOP, reason or None)


def decode(reply: HttpReply, target: Target) -> Answer | Failure:
    """Read a whole reply."""
    return decode_with(OllamaFold, reply, target)


def decoder(target: Target) -> NdjsonDecoder:
    """Read a stream."""
    return NdjsonDecoder(OllamaFold(target))


WIRE = Wire("ollama", encode, decode, decoder, probe, NDJSON)
