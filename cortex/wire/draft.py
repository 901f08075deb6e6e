"""An answer in the making: the pieces every dialect collects, whole JSON and streams alike.

Every `add` gives the events it causes, so that what is shown is what the finished answer holds, piece by piece.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import attrs

from cortex.messages import (
    Answer,
    Finish,
    Issuer,
    Part,
    Progress,
    StreamEvent,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolCall,
    ToolCallReady,
    Usage,
)
from cortex.wire.output import PREFIX
from cortex.wire.values import TooMuch, arguments_of, clean, digest, dumps, weight

RunKind: TypeAlias = Literal["text", "thinking"]

MAX_PARTS = 1_000  # of one answer, calls among them, and as many citations: more than ten times what a model gives
MAX_SIZE = 12 * 1024 * 1024  # bytes of memory of one answer: 180,000 tokens that come one by one
_PIECE = 64  # bytes a piece of text takes beside its letters


def _held(piece: str) -> int:
    """Bytes of memory a piece of text takes, at most."""
    return _PIECE + len(piece) * (1 if piece.isascii() else 4)


@attrs.define
class Run:
    """Consecutive pieces of text, or of thinking with its signature.

    An emoji may be cut in two by a vendor's tokens: half a surrogate pair waits here for its other half.
    """

    kind: RunKind
    pieces: list[str] = attrs.field(factory=list)
    seals: list[str] = attrs.field(factory=list)  # the pieces of the signature
    half: str = ""

    def add(self, text: str) -> str:
        """Take a piece; give what of it can be shown."""
        text = self.half + text
        self.half = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
        text = clean(text[: len(text) - len(self.half)])
        if text:
            self.pieces.append(text)
        return text


@attrs.define
class OpenCall:
    """A tool call whose argument text is still coming. `call` is set once it is whole. `said`: what was shown of it,
    where it is a structured answer."""

    id: str = ""
    name: str = ""
    signature: str | None = None
    place: int = 0  # among the answer's parts
    pieces: list[str] = attrs.field(factory=list)
    call: ToolCall | None = None
    said: Run = attrs.field(factory=lambda: Run("text"))

    @property
    def answers(self) -> bool:
        """Whether it is no call of the user's tools, but a structured answer."""
        return self.name.startswith(PREFIX)

    @property
    def raw(self) -> str:
        """The argument text so far."""
        return "".join(self.pieces)


class Draft:
    """Collects one answer of `issuer`. `response_id` salts the ids of calls that come without one."""

    def __init__(self, issuer: Issuer) -> None:
        self.issuer = issuer
        self.usage = Usage()
        self.model: str | None = None
        self.response_id = ""
        self.request_id: str | None = None
        self._size = 0
        self._parts: list[Run | OpenCall] = []
        self._citations: dict[bytes, Any] = {}  # by their JSON
        self._open: dict[int, OpenCall] = {}  # calls that are not whole yet, by their place: an answer may hold many

    def _append(self, part: Run | OpenCall) -> None:
        if len(self._parts) >= MAX_PARTS:
            raise TooMuch(f"more than {MAX_PARTS} parts")
        self._parts.append(part)

    def grow(self, size: int) -> None:
        """The answer takes so many bytes more; TooMuch when no answer takes so many."""
        self._size += size
        if self._size > MAX_SIZE:
            raise TooMuch(f"more than {MAX_SIZE} bytes")

    def _run(self, kind: RunKind) -> Run:
        last = self._parts[-1] if self._parts else None
        if isinstance(last, Run) and last.kind == kind and not last.seals:
            return last
        run = Run(kind)
        self._append(run)
        return run

    def _say(self, kind: RunKind, piece: str) -> str:
        self.grow(_held(piece))
        return self._run(kind).add(piece)

    def text(self, piece: str) -> list[StreamEvent]:
        """A piece of the visible answer."""
        shown = self._say("text", piece) if piece else ""
        return [TextDelta(shown)] if shown else []

    def thinking(self, piece: str) -> list[StreamEvent]:
        """A piece of thinking."""
        shown = self._say("thinking", piece) if piece else ""
        return [ThinkingDelta(shown)] if shown else []

    def begin_thinking(self) -> Run:
        """A block of thinking begins: what comes now is not part of the one before."""
        run = Run("thinking")
        self._append(run)
        return run

    def sign(self, signature: str, run: Run | None = None) -> list[StreamEvent]:
        """The signature of `run` (None: of the thinking so far), or a piece of it; it ends its run."""
        if not signature:
            return []
        last = self._parts[-1] if self._parts else None
        if run is None:
            run = last if isinstance(last, Run) and last.kind == "thinking" else self._run("thinking")
        self.grow(_held(signature))
        run.seals.append(signature)
        return [Progress()]

    def open_call(self, ident: str, name: str, signature: str | None = None) -> OpenCall:
        """A tool call begins."""
        call = self._open[len(self._parts)] = OpenCall(ident, name, signature, len(self._parts))
        self._append(call)
        return call

    def argument(self, call: OpenCall, piece: str) -> list[StreamEvent]:
        """A piece of a tool call's argument text: of a structured answer it is shown."""
        self.grow(_held(piece))
        call.pieces.append(piece)
        shown = call.said.add(piece) if call.answers else ""
        return [TextDelta(shown)] if shown else [Progress()]

    def finish_call(self, call: OpenCall, *, cut: bool = False) -> list[StreamEvent]:
        """A tool call is whole, as far as it will ever be; it is announced if its arguments can be read, and of a
        structured answer the rest is shown.

        `cut`: the answer did not end in order to call, so that no text means nothing came, not that there are no
        arguments.
        """
        if call.call is not None:
            return []
        self._open.pop(call.place)
        raw = call.raw
        self.grow(weight(raw) - _PIECE * len(call.pieces))
        call.pieces = [raw]
        whole, arguments = arguments_of(raw)
        if cut and not raw.strip():
            whole, arguments = False, None
        call.call = self._tool_call(call, arguments)
        if call.answers:
            return self._rest(call)
        return [ToolCallReady(call.call)] if whole and call.name else []

    def _rest(self, call: OpenCall) -> list[StreamEvent]:
        shown, text = "".join(call.said.pieces), clean(call.raw)
        rest = text.removeprefix(shown) if text.startswith(shown) else ""  # what was shown stands
        call.said.pieces.append(rest)
        return [TextDelta(rest)] if rest else []

    def _tool_call(self, call: OpenCall, arguments: object) -> ToolCall:
        made_up = "call_" + digest(self.response_id, str(call.place), call.name, call.raw)[:24]
        issuer = self.issuer if call.signature else None
        return ToolCall(call.id or made_up, call.name, arguments, clean(call.raw), call.signature, issuer)

    def cite(self, citations: list[Any]) -> None:
        """Sources as the server names them, each once: some servers name all of them in every chunk."""
        for citation in citations:
            data = dumps(citation) if citation else b""
            if not data or data in self._citations:
                continue
            if len(self._citations) >= MAX_PARTS:
                raise TooMuch(f"more than {MAX_PARTS} citations")
            self.grow(len(data) + weight(data))
            self._citations[data] = citation

    @property
    def unfinished(self) -> list[OpenCall]:
        """The tool calls of which more may come."""
        return [*self._open.values()]

    @property
    def opened(self) -> list[OpenCall]:
        """The tool calls so far, a structured answer among them."""
        return [part for part in self._parts if isinstance(part, OpenCall)]

    @property
    def calls(self) -> list[OpenCall]:
        """The calls of the user's tools so far."""
        return [call for call in self.opened if not call.answers]

    @property
    def are_whole(self) -> bool:
        """Whether there are calls of the user's tools, and all with arguments that can be read."""
        return bool(self.calls) and all(one.call is not None and one.call.arguments is not None for one in self.calls)

    @property
    def empty(self) -> bool:
        """Whether nothing of worth was said: no call, and nothing but white space."""
        return not any(isinstance(part, OpenCall) or "".join(part.pieces).strip() for part in self._parts)

    def answer(self, finish: Finish, raw: str | None) -> Answer:
        """The finished answer. Whatever word a vendor uses, an answer that stopped in order to call is one of calls.

        What is said beside a structured answer is no part of it: it counts as thinking.
        """
        beside = len(self.calls) < len(self.opened)
        if finish is Finish.STOP and self.calls:
            finish = Finish.TOOL_CALLS
        elif finish is Finish.TOOL_CALLS and not self.calls:
            finish = Finish.STOP
        return Answer(
            parts=tuple(part for raw_part in self._parts if (part := self._part(raw_part, beside)) is not None),
            finish=finish,
            raw_finish=raw,
            usage=self.usage,
            model_reported=self.model,
            request_id=self.request_id,
            citations=tuple(self._citations.values()),
        )

    def _part(self, part: Run | OpenCall, beside: bool) -> Part | None:
        if isinstance(part, OpenCall) and not part.answers:
            return part.call or self._tool_call(part, arguments_of(part.raw)[1])
        if isinstance(part, OpenCall):
            return _text("".join(part.said.pieces))
        text, signature = "".join(part.pieces), "".join(part.seals)
        if part.kind == "text" and not beside:
            return _text(text)
        return Thinking(text, signature or None, self.issuer) if text or signature else None


def _text(text: str) -> Text | None:
    return Text(text) if text else None


def newest(old: Usage, new: Usage) -> Usage:
    """Counts are cumulative: what was said last holds, field by field; what was not said again stays."""
    pairs = zip(attrs.astuple(old), attrs.astuple(new), strict=True)
    return Usage(*(was if now is None else now for was, now in pairs))
