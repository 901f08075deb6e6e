"""Gemini generateContent: https://ai.google.dev/api/generate-content. Also Vertex, whose address names a project.

The terminal event is a chunk with a finish reason (its usage comes with it; there is no other mark), or one that blocks
the prompt. Without `alt=sse` a stream is one JSON array, which is read too. Before Gemini 3 calls have no ids: results
are paired with them by order and name. A thought signature goes back on the call it came with, that of a text behind
it, on an empty part of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import quote

from cortex.messages import (
    Answer,
    Broken,
    Effort,
    Ended,
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
from cortex.wire.gemini_args import PartialArgs
from cortex.wire.history import CLOSING, NO_IMAGE, Turn, TurnRole, details_lost, in_role, tidy
from cortex.wire.output import by_tool
from cortex.wire.stream import Fold, StreamDecoder, decode_with
from cortex.wire.subsets import gemini_schema
from cortex.wire.values import arguments_object, as_dict, as_list, as_text, base64_of, count, dumps, media_type

RULES = Rules(
    # https://ai.google.dev/gemini-api/docs/troubleshooting, https://cloud.google.com/apis/design/errors
    codes={"api_key_invalid": Kind.CREDENTIAL, "api_key_expired": Kind.CREDENTIAL},
    inband={
        "invalid_argument": Kind.BAD_REQUEST,
        "failed_precondition": Kind.BAD_REQUEST,
        "unauthenticated": Kind.CREDENTIAL,
        "permission_denied": Kind.PERMISSION,
        "not_found": Kind.MODEL_GONE,
        "resource_exhausted": Kind.RATE_LIMIT,
        "unavailable": Kind.OVERLOADED,
        "deadline_exceeded": Kind.TIMEOUT_FIRST,
        "internal": Kind.TRANSIENT,
        "cancelled": Kind.TRANSIENT,
    },
    phrases=(
        # Only the quota's name tells a day's quota from a minute's: the message is the same.
        phrase(Kind.QUOTA, "429", r"PerDay|\blimit: 0\b"),
        phrase(Kind.QUOTA, "400 403", r"billing"),
        # Vertex, when its shared capacity is spent: not this key's limit.
        phrase(Kind.OVERLOADED, "429", r"^resource (has been )?exhausted\b[^\n]{0,60}try again"),
        phrase(Kind.TIMEOUT_FIRST, "504", r"deadline"),
    ),
)

FINISH = {
    "STOP": Finish.STOP,
    "MAX_TOKENS": Finish.LENGTH,
    "SAFETY": Finish.CONTENT_FILTER,
    "RECITATION": Finish.CONTENT_FILTER,
    "BLOCKLIST": Finish.CONTENT_FILTER,
    "PROHIBITED_CONTENT": Finish.CONTENT_FILTER,
    "SPII": Finish.CONTENT_FILTER,
    "MODEL_ARMOR": Finish.CONTENT_FILTER,
    "IMAGE_SAFETY": Finish.CONTENT_FILTER,
}
BROKEN_FINISH = {  # the model's own accident: the same request may go well
    "MALFORMED_FUNCTION_CALL": Kind.PROTOCOL,
    "UNEXPECTED_TOOL_CALL": Kind.PROTOCOL,
    "TOO_MANY_TOOL_CALLS": Kind.PROTOCOL,
    "MALFORMED_RESPONSE": Kind.PROTOCOL,
    "MISSING_THOUGHT_SIGNATURE": Kind.SIGNATURE,
}

ROLES = {"user": "user", "tool": "user", "assistant": "model"}
GIF = "image/gif"  # not among the types of https://ai.google.dev/gemini-api/docs/image-understanding
MAX_STOPS = 5  # https://ai.google.dev/api/generate-content#generationconfig
# https://ai.google.dev/gemini-api/docs/thinking
UNTHINKING = re.compile(r"gemini-(1|2\.0)|gemma")
LEVELS: tuple[tuple[re.Pattern[str], Mapping[Effort, str]], ...] = (
    (re.compile("gemini-3-pro"), {"minimal": "low", "low": "low", "medium": "high", "high": "high"}),
    (re.compile(r"gemini-(\d+(\.\d+)?-)?pro"), {"minimal": "low", "low": "low", "medium": "medium", "high": "high"}),
    (re.compile(""), {"minimal": "minimal", "low": "low", "medium": "medium", "high": "high"}),
)
# The tokens of thought a model takes, and whether it takes 0: https://ai.google.dev/gemini-api/docs/thinking#set-budget
BUDGETS = (
    (re.compile(r"gemini-(2\.5-)?flash-lite"), 512, 24_576, True),
    (re.compile(r"gemini-2\.5-flash"), 1, 24_576, True),
    (re.compile(r"gemini-(\d+(\.\d+)?-)?pro"), 128, 32_768, False),
)

# From Gemini 3 on a running tool loop needs a signature at its calls; for calls that another model made this word
# stands in: https://ai.google.dev/gemini-api/docs/thought-signatures. It also pairs results by the calls' ids: without
# them it ends with STOP and says nothing. Older models answer 400 to an id, on Vertex at least.
_SIGNED = re.compile(r"gemini-([3-9]|\d\d|(flash|pro)-latest)")
_UNSIGNED = "skip_thought_signature_validator"


# ------------------------------------------------------------------------------------------------------------ encode


def encode(request: Request, target: Target) -> HttpCall:
    """The call for `models/{model}:generateContent` or its stream. Option: `thinking_budget` (tokens)."""
    model = _known(target)
    signed = bool(_SIGNED.match(model))
    if request.tools and not signed:  # before Gemini 3 an output schema does not go together with tools
        request = by_tool(request)
    history = tidy(request, target, str, user_first=True)
    contents, left_out = history.write("gemini", partial(_write, signed))
    notes = [*history.notes, *left_out]
    config = _config(request, target, model, notes)
    if request.output:
        schema = gemini_schema(request.output.schema, notes)
        config |= {"responseMimeType": "application/json", "responseJsonSchema": schema}
    body: dict[str, Any] = {"contents": Json([b"[", *contents, CLOSING, b"]"])}
    if history.system:
        body["systemInstruction"] = {"parts": [{"text": history.system}]}
    if request.tools:
        body["tools"] = [{"functionDeclarations": [_function(tool, notes) for tool in request.tools]}]
        if request.tool_choice is not None:
            body["toolConfig"] = {"functionCallingConfig": _choice(request.tool_choice)}
        if request.parallel_tools is False:
            notes.append("parallel_tools was left out: this vendor is not told")
    if config:
        body["generationConfig"] = config
    move = ":streamGenerateContent?alt=sse" if request.stream else ":generateContent"
    return post(f"{_base(target)}/{_path(_model(target))}{move}", _auth(target), body, request, target, notes)


def _config(request: Request, target: Target, model: str, notes: list[str]) -> dict[str, Any]:
    config: dict[str, Any] = {}
    if request.temperature is not None:
        config["temperature"] = request.temperature
    if request.max_tokens is not None:
        config["maxOutputTokens"] = request.max_tokens
    if request.stop:
        config["stopSequences"] = list(request.stop[:MAX_STOPS])
        if len(request.stop) > MAX_STOPS:
            notes.append(f"stop was cut to {MAX_STOPS}: this vendor takes no more")
    if request.seed is not None:
        config["seed"] = request.seed
    if thinking := _thinking(request, target, model, notes):
        config["thinkingConfig"] = thinking
    return config


def _thinking(request: Request, target: Target, model: str, notes: list[str]) -> dict[str, Any] | None:
    """A level from Gemini 3 on, tokens before it; never both."""
    budget, effort = request.thinking_budget, request.effort
    if UNTHINKING.match(model):
        if budget or effort:
            notes.append("effort and thinking_budget were left out: this model does not think")
        return None
    if budget is None and effort is not None:
        if _SIGNED.match(model):
            level = next(levels for name, levels in LEVELS if name.match(model))[effort]
            if level != effort:
                notes.append(f"effort {effort} was told as {level}: this model does not know it")
            return {"thinkingLevel": level, "includeThoughts": True}
        budget = EFFORT_TOKENS[effort]
    budget = count(target.options.get("thinking_budget")) if budget is None else budget
    if budget is None:
        return None
    budget = _fitted(budget, model, notes)
    return {"thinkingBudget": budget, "includeThoughts": budget > 0}


def _fitted(budget: int, model: str, notes: list[str]) -> int:
    """The number of tokens nearest to it that the model takes."""
    for name, low, high, may_be_off in BUDGETS:
        if name.match(model):
            fitted = 0 if may_be_off and not budget else min(max(budget, low), high)
            if fitted != budget:
                takes = f"{low} to {high}" + (", or 0" if may_be_off else "")
                notes.append(f"thinking_budget {budget} was told as {fitted}: this model takes {takes}")
            return fitted
    return budget


def probe(target: Target) -> HttpCall:
    """Ask for the list of models: costs no token."""
    return get(f"{_base(target)}/models?pageSize=1", _auth(target), target)


def _base(target: Target) -> str:
    """Where models live: as it stands when the address names a version or a project, else below /v1beta."""
    versioned = re.search(r"/v\d+(alpha|beta)?\d*(/|$)", target.base_url)
    return target.base_url if versioned else target.base_url + "/v1beta"


def _model(target: Target) -> str:
    return target.model.removeprefix("models/")


def _known(target: Target) -> str:
    """The name by which a model's rules are known; an endpoint of Vertex has a number for a name."""
    return target.called("gemini-").removeprefix("models/")


def _path(model: str) -> str:
    """The resource's name; one that has a slash (a tuned model) is whole."""
    return quote(model if "/" in model else f"models/{model}", safe="/@.-_")


def _auth(target: Target) -> dict[str, str]:
    if not target.api_key:
        return {}
    if "/projects/" in target.base_url:  # Vertex takes a token, no key
        return {"authorization": f"Bearer {target.api_key}"}
    return {"x-goog-api-key": target.api_key}


def _function(tool: ToolSpec, notes: list[str]) -> dict[str, Any]:
    parameters = gemini_schema(tool.parameters, notes)
    return {"name": tool.name, "description": tool.description, "parametersJsonSchema": parameters}


def _choice(choice: str) -> dict[str, Any]:
    mode = {"none": "NONE", "required": "ANY"}.get(choice)
    return {"mode": mode} if mode else {"mode": "ANY", "allowedFunctionNames": [choice]}


def _write(signed: bool, turn: Turn, before: TurnRole | None, running: bool) -> tuple[bytes, list[str]]:
    """Results and what the user says next are one content, results first."""
    parts = [wire for part in turn.parts if (wire := _part(part, has_ids=signed)) is not None]
    calls = [part for part in parts if "functionCall" in part]
    if signed and calls and running:
        calls[0].setdefault("thoughtSignature", _UNSIGNED)  # of parallel calls only the first is signed
    notes = ["thinking without a signature was left out"] if len(parts) < len(turn.parts) else []
    if any(isinstance(part, Image) and media_type(part) == GIF for part in turn.parts):
        notes.append("a GIF was left out: this vendor takes none")
    notes += details_lost(turn.parts)
    return in_role(ROLES[turn.role], before and ROLES[before], "parts", parts), notes


def _part(part: Part, *, has_ids: bool) -> dict[str, Any] | None:
    match part:
        case Text():
            return {"text": part.text}
        case Thinking():  # thoughts are only a summary: what counts is the signature
            thought = {"thought": True} if part.text else {}
            return {"text": part.text, **thought, "thoughtSignature": part.signature} if part.signature else None
        case ToolCall():
            ident = {"id": part.id} if has_ids else {}
            call = {"functionCall": {**ident, "name": part.name, "args": arguments_object(part)}}
            return {**call, "thoughtSignature": part.signature} if part.signature else call
        case ToolResult():
            ident = {"id": part.call_id} if has_ids else {}
            said = {"error" if part.is_error else "output": part.content}
            return {"functionResponse": {**ident, "name": part.name, "response": said}}
        case Image():
            if media_type(part) == GIF:
                return {"text": NO_IMAGE}
            if part.data:
                return {"inlineData": {"mimeType": media_type(part), "data": base64_of(part)}}
            return {"fileData": {"mimeType": media_type(part), "fileUri": part.url or ""}}


# ------------------------------------------------------------------------------------------------------------ decode


class GeminiFold(Fold):
    """Folds chunks; a whole reply is one chunk, or a list of them."""

    rules = RULES

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._open: OpenCall | None = None
        self._partial = PartialArgs()
        self._saw_part = False

    def chunk(self, name: str, payload: dict[str, Any]) -> list[StreamEvent]:
        if payload.get("error") or name == "error":
            return self.error(payload)
        self._head(payload)
        if reason := as_text(as_dict(payload.get("promptFeedback")).get("blockReason")):
            return self.ended(Finish.CONTENT_FILTER, reason)
        events: list[StreamEvent] = []
        for candidate in map(as_dict, as_list(payload.get("candidates"))):
            if candidate.get("index"):  # the first candidate alone is ours
                continue
            self.draft.cite([candidate.get("groundingMetadata"), candidate.get("citationMetadata")])
            for part in as_list(as_dict(candidate.get("content")).get("parts")):
                events += self._part(as_dict(part))
            reason = as_text(candidate.get("finishReason"))
            if reason and reason != "FINISH_REASON_UNSPECIFIED":
                return events + self._end(reason, as_text(candidate.get("finishMessage")))
        return events

    def whole(self, payload: Any) -> list[StreamEvent]:
        chunks = as_list(payload) if isinstance(payload, list) else [payload]
        events: list[StreamEvent] = []
        for chunk in map(as_dict, chunks):
            events += self.chunk("", chunk)
            if events and isinstance(events[-1], Ended | Broken):
                return events
        return events + self._unfinished(len(chunks) > 1)

    def _unfinished(self, streamed: bool) -> list[StreamEvent]:
        """A whole reply without a finish reason: what was said counts, unless the reply is the stump of a stream."""
        if streamed:
            return self.closed()
        if self.draft.empty:
            return self.broken(Kind.PROTOCOL, "the reply has no candidate with content")
        return self.ended(Finish.OTHER, None)

    def _head(self, payload: dict[str, Any]) -> None:
        draft = self.draft
        draft.model = as_text(payload.get("modelVersion")) or draft.model
        draft.request_id = as_text(payload.get("responseId"))[:200] or draft.request_id
        draft.response_id = draft.request_id or ""
        if isinstance(payload.get("usageMetadata"), dict):
            draft.usage = newest(draft.usage, _usage(payload["usageMetadata"]))

    def _part(self, part: dict[str, Any]) -> list[StreamEvent]:
        self._saw_part = self._saw_part or bool(part.get("text") or set(part) - {"text", "thought"})
        signature = as_text(part.get("thoughtSignature"))
        if isinstance(part.get("functionCall"), dict):
            return self._call(part["functionCall"], signature)
        text = as_text(part.get("text"))
        if part.get("thought") is True:
            events = self.draft.thinking(text)
        elif text:
            events = self.draft.text(text)
        else:  # a server's own tool, a file: work, but none of ours
            events = [Progress()] if set(part) - {"text", "thoughtSignature"} else []
        return events + self.draft.sign(signature)

    def _call(self, function: dict[str, Any], signature: str) -> list[StreamEvent]:
        """A call comes whole, or begins with its name and `willContinue` and grows by pieces without a name."""
        name = as_text(function.get("name"))
        events: list[StreamEvent] = []
        if name or self._open is None:
            events += self._close_call()
            self._open = self.draft.open_call(as_text(function.get("id")), name, signature or None)
            self._partial = PartialArgs()
        if isinstance(function.get("args"), dict):
            self._partial.replace(function["args"])
        pieces = as_list(function.get("partialArgs"))
        self.draft.grow(len(dumps(pieces)))  # about what they take until they are put together
        self._partial.add(pieces)
        return [*events, Progress()] if function.get("willContinue") is True else events + self._close_call()

    def _close_call(self, *, cut: bool = False) -> list[StreamEvent]:
        call, self._open = self._open, None
        if call is None:
            return []
        text = dumps(self._partial.close()).decode()
        call.pieces.append(text[:-1] if cut else text)  # an object that was never closed
        return self.draft.finish_call(call)

    def _end(self, reason: str, message: str) -> list[StreamEvent]:
        if reason in BROKEN_FINISH:
            return self.broken(BROKEN_FINISH[reason], message or f"the answer ended with {reason}", reason)
        if reason == "STOP" and not self._saw_part:
            return self.broken(Kind.PROTOCOL, "the answer ended with STOP and holds nothing", reason)
        return self._close_call(cut=reason != "STOP") + self.ended(FINISH.get(reason, Finish.OTHER), reason)


def _usage(usage: dict[str, Any]) -> Usage:
    """Gemini counts its thoughts beside the answer, and what its own tools said beside the prompt; here they are part
    of the output, and of the input."""
    prompt, used = count(usage.get("promptTokenCount")), count(usage.get("toolUsePromptTokenCount"))
    given = None if prompt is None and used is None else (prompt or 0) + (used or 0)
    answer, thoughts = count(usage.get("candidatesTokenCount")), count(usage.get("thoughtsTokenCount"))
    output = None if answer is None and thoughts is None else (answer or 0) + (thoughts or 0)
    return Usage(given, output, count(usage.get("cachedContentTokenCount")), thoughts)


def decode(reply: HttpReply, target: Target) -> Answer | Failure:
    """Read a whole reply."""
    return decode_with(GeminiFold, reply, target)


def decoder(target: Target) -> StreamDecoder:
    """Read a stream."""
    return StreamDecoder(GeminiFold(target))


WIRE = Wire("gemini", encode, decode, decoder, probe)
