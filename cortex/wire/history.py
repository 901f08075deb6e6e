"""A conversation made fit for any vendor, before a dialect writes it down.

Vendors answer 400 to what a long-lived history easily comes to hold: a call without its result, a result without its
call, two calls with one id, two messages of one role in a row, an empty text, a tool's name that a model made up. So
the rules they share are kept here once; what they do not share (where results stand, which ids) the dialect tells.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Literal, TypeAlias

import attrs

from cortex.messages import Image, Message, Part, Request, Text, Thinking, ToolCall, ToolResult
from cortex.wire.codec import Target

TurnRole: TypeAlias = Literal["user", "assistant", "tool"]

NO_RESULT = "This call was not run."  # what stands for a result that never came
NO_OUTPUT = "(no output)"  # and for an empty one
OPENING = "(The conversation goes on.)"  # what a user said where a vendor wants a user first


@attrs.frozen
class Turn:
    """One or more messages of one role. A tool turn answers every call of the assistant turn before it, in order."""

    role: TurnRole
    parts: tuple[Part, ...]

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The tool calls in it."""
        return tuple(part for part in self.parts if isinstance(part, ToolCall))


@attrs.frozen
class History:
    """The tidied conversation: the system prompt, the turns, and what had to be left out."""

    system: str
    turns: tuple[Turn, ...]
    notes: tuple[str, ...]

    @property
    def loop_start(self) -> int:
        """Where the running tool loop began: the index after the last turn a user wrote."""
        return max((i + 1 for i, turn in enumerate(self.turns) if turn.role == "user"), default=0)


def tidy(request: Request, target: Target, id_of: Callable[[str], str], *, user_first: bool = False) -> History:
    """The request's conversation by the common rules.

    Roles alternate but for tool turns, which stand right after the calls they answer; each call has exactly one result;
    ids fit `id_of` and are used once; opaque parts of other issuers and empty texts are gone. With `user_first` a user
    opens the conversation, whatever it was trimmed to.
    """
    return _Tidier(target, id_of).run(request, user_first)


class _Tidier:
    def __init__(self, target: Target, id_of: Callable[[str], str]) -> None:
        self._issuer = target.issuer
        self._id_of = id_of
        self._used: set[str] = set()
        # Calls without a result: the id in the history -> the calls as we write them, as one id may stand twice.
        self._open: dict[str, list[ToolCall]] = {}
        self._results: dict[str, ToolResult] = {}  # for those that have one, by the id as we write it
        self._order: list[ToolCall] = []
        self._turns: list[Turn] = []
        self.notes: list[str] = []

    def run(self, request: Request, user_first: bool) -> History:
        system = [request.system]
        for message in request.messages:
            if message.role == "system":
                system.append(message.text)
            elif message.role == "assistant":
                self._settle()
                self._add("assistant", self._assistant(message))
            else:
                self._user(message)
        self._settle()
        if user_first and (not self._turns or self._turns[0].role != "user"):
            self._turns.insert(0, Turn("user", (Text(OPENING),)))
        return History("\n\n".join(filter(str.strip, system)), tuple(self._turns), tuple(dict.fromkeys(self.notes)))

    def _add(self, role: TurnRole, parts: tuple[Part, ...]) -> None:
        if not parts:
            return
        if self._turns and self._turns[-1].role == role:
            self._turns[-1] = Turn(role, self._turns[-1].parts + parts)
        else:
            self._turns.append(Turn(role, parts))

    # ---------------------------------------------------------------------------------------------- an assistant's

    def _assistant(self, message: Message) -> tuple[Part, ...]:
        parts = tuple(self._assistant_parts(message))
        # Thinking alone is not a turn: no vendor takes an assistant message that says and calls nothing.
        return parts if any(isinstance(part, Text | ToolCall) for part in parts) else ()

    def _assistant_parts(self, message: Message) -> Iterator[Part]:
        for part in _joined(message.parts):
            match part:
                case Text():
                    yield part
                case Thinking():
                    if part.issuer == self._issuer:
                        yield part
                    else:
                        self.notes.append("thinking of another issuer was left out")
                case ToolCall():
                    yield self._call(part)
                case _:
                    self.notes.append(f"an assistant's {type(part).__name__} was left out")

    def _call(self, call: ToolCall) -> ToolCall:
        ident = self._fresh_id(call.id)
        signature = call.signature if call.issuer == self._issuer else None
        if call.signature and not signature:
            self.notes.append("a tool call's signature of another issuer was left out")
        ours = attrs.evolve(call, id=ident, name=_safe_name(call.name), signature=signature)
        self._open.setdefault(call.id, []).append(ours)
        self._order.append(ours)
        return ours

    def _fresh_id(self, ident: str) -> str:
        """The id in the vendor's grammar; one that was used before is told apart by how many there were."""
        ours = self._id_of(ident) if ident else self._id_of(f"call #{len(self._used)}")
        while ours in self._used:
            ours = self._id_of(f"{ident} #{len(self._used)}/{ours}")
        self._used.add(ours)
        return ours

    # --------------------------------------------------------------------------------------------- a user's, a tool's

    def _user(self, message: Message) -> None:
        rest: list[Part] = []
        for part in _joined(message.parts):
            match part:
                case ToolResult():
                    self._result(part)
                case Image() if not part.data and not part.url:
                    self.notes.append("an image without data or url was left out")
                case Text() | Image():
                    rest.append(part)
                case _:
                    self.notes.append(f"a user's {type(part).__name__} was left out")
        if rest:
            self._settle()
            self._add("user", tuple(rest))

    def _result(self, result: ToolResult) -> None:
        waiting = self._open.get(result.call_id)
        if not waiting:
            self.notes.append("a tool result without its call was left out")
            return
        call = waiting.pop(0)
        content = result.content if result.content.strip() else NO_OUTPUT
        self._results[call.id] = attrs.evolve(result, call_id=call.id, name=call.name, content=content)

    def _settle(self) -> None:
        """Close the calls: one tool turn, with a result for each, in the order of the calls."""
        parts: list[Part] = []
        for call in self._order:
            result = self._results.get(call.id)
            if result is None:
                self.notes.append("a tool call without a result was answered as not run")
                result = ToolResult(call.id, call.name, NO_RESULT, is_error=True)
            parts.append(result)
        self._open.clear()
        self._results.clear()
        self._order.clear()
        self._add("tool", tuple(parts))


def _joined(parts: tuple[Part, ...]) -> Iterator[Part]:
    """The parts with neighbouring texts glued together, and texts of nothing but white space left out."""
    held = ""
    for part in parts:
        if isinstance(part, Text):
            held += part.text
            continue
        if held.strip():
            yield Text(held)
        held = ""
        yield part
    if held.strip():
        yield Text(held)


def _safe_name(name: str) -> str:
    """A tool's name every vendor takes; one that a model made up must not spoil the history for good."""
    name = re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:64]
    return name if re.match("[a-zA-Z_]", name) else f"_{name}"[:64]
