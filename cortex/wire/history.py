"""A conversation made fit for any vendor, before a dialect writes it down.

Vendors answer 400 to what a long-lived history easily comes to hold: a call without its result, a result without its
call, two calls with one id, two messages of one role in a row, an empty text, a tool's name that a model made up. So
the rules they share are kept here once; what they do not share (where results stand, which ids) the dialect tells.

A conversation grows at its end. What was tidied and written of its beginning is remembered (`memo`), so that one more
turn costs what that turn costs.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, Literal, TypeAlias

import attrs

from cortex.messages import Image, Message, Part, Request, Text, Thinking, ToolCall, ToolResult
from cortex.wire.codec import Json, Target
from cortex.wire.memo import Memo
from cortex.wire.values import data_url, dumps

TurnRole: TypeAlias = Literal["user", "assistant", "tool"]

NO_RESULT = "This call was not run."  # what stands for a result that never came
NO_OUTPUT = "(no output)"  # and for an empty one
NO_IMAGE = "(An image that cannot be shown.)"  # and for one that a vendor takes in no such form
NOD = "OK."  # what an assistant said to a tool's result, where a vendor wants that before a user says more
OPENING = "(The conversation goes on.)"  # what a user said where nothing was, or where a vendor wants a user first


@attrs.frozen
class Turn:
    """One or more messages of one role. A tool turn answers every call of the assistant turn before it, in order."""

    role: TurnRole
    parts: tuple[Part, ...]

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The tool calls in it."""
        return tuple(part for part in self.parts if isinstance(part, ToolCall))


@attrs.frozen(eq=False)
class Written:
    """A turn as a dialect wrote it: `running` when it was part of the running tool loop."""

    turn: Turn
    running: bool
    data: bytes
    notes: tuple[str, ...]


Write: TypeAlias = Callable[[Turn, TurnRole | None, bool], tuple[bytes, Sequence[str]]]
"""How a dialect writes a turn: the turn, the role of the one before it, whether it is part of the running tool loop ->
its JSON, separated from what stands before, and what had to be left out."""


def in_role(role: str, before: str | None, field: str, blocks: list[dict[str, Any]]) -> bytes:
    """For dialects that join turns of one role: the blocks, in the list `field` of the message that is open.

    `before` is the role of the turn before, None at the beginning. The last message stays open: `CLOSING` ends it.
    """
    data = dumps(blocks)[1:-1]
    if role == before:
        return b"," + data
    opening = f'{{"role":"{role}","{field}":['.encode()
    return (CLOSING + b"," if before else b"") + opening + data


CLOSING = b"]}"


def with_system(system: str, messages: list[bytes]) -> Json:
    """For dialects whose system prompt is the first message: the list of all."""
    first = [dumps({"role": "system", "content": system}), b","] if system else []
    return Json([b"[", *first, *messages, b"]"])


@attrs.frozen
class History:
    """The tidied conversation: the system prompt, the turns, and what had to be left out.

    `loop_start`: where the running tool loop began, the index after the last turn a user wrote. `called`: the names of
    the tools that were called.
    """

    system: str
    turns: tuple[Turn, ...]
    notes: tuple[str, ...]
    loop_start: int = 0
    called: frozenset[str] = frozenset()
    _written: dict[Hashable, list[Written]] = attrs.field(factory=dict, eq=False, repr=False)

    def write(self, dialect: Hashable, write: Write) -> tuple[list[bytes], tuple[str, ...]]:
        """Each turn in a dialect, and what it had to leave out; turns that were written before are not written again.

        `dialect` names all that `write` depends on beside its arguments.
        """
        known, turns = self._written.get(dialect, []), self.turns
        keep = min(len(known), len(turns))
        # A turn is written anew when it has grown, or when the loop it was part of has ended.
        while keep and not (
            known[keep - 1].turn is turns[keep - 1] and self._runs(keep - 1) is known[keep - 1].running
        ):
            keep -= 1
        now = known[:keep]
        for index in range(keep, len(turns)):
            running = self._runs(index)
            data, notes = write(turns[index], turns[index - 1].role if index else None, running)
            now.append(Written(turns[index], running, data, tuple(notes)))
        self._written[dialect] = now
        return [one.data for one in now], tuple(dict.fromkeys(n for one in now if one.notes for n in one.notes))

    def _runs(self, index: int) -> bool:
        return index >= self.loop_start


def tidy(request: Request, target: Target, id_of: Callable[[str], str], *, user_first: bool = False) -> History:
    """The request's conversation by the common rules.

    Roles alternate but for tool turns, which stand right after the calls they answer; each call has exactly one result;
    ids fit `id_of` and are used once; opaque parts of other issuers and empty texts are gone. There is at least one
    turn, and with `user_first` the first is a user's, whatever the conversation was trimmed to.
    """
    messages = request.messages
    first, scope = messages[0] if messages else None, (target.issuer, id_of, user_first)
    past: _Past | None = _memo.get(first, scope) if first is not None else None
    tidier = _Tidier(target, id_of, user_first)
    if past is not None and past.fits(messages):
        tidier.resume(past)
    else:
        past = None
    tidier.take(messages[len(past.parts) if past else 0 :])
    written = past.written if past and not tidier.moved else {}
    if first is not None and tidier.settled:
        _memo.put(first, scope, tidier.past(messages, written))
    return tidier.history(request.system, written)


_memo = Memo()


@attrs.frozen(eq=False)
class _Past:
    """Messages, and what was made of them. `used` and the dicts are shared with who comes after, and only grow."""

    roles: list[str]
    parts: list[tuple[Part, ...]]
    turns: list[Turn]
    system: list[str]
    notes: dict[str, None]
    used: frozenset[str]
    called: frozenset[str]
    loop_start: int
    late: dict[str, list[tuple[int, ToolCall]]]
    not_run: int
    written: dict[Hashable, list[Written]]

    def fits(self, messages: tuple[Message, ...]) -> bool:
        """Whether it was made of the beginning of these very messages."""
        count = len(self.parts)
        head = messages[:count]
        return (
            count <= len(messages)
            and all(map(operator.is_, self.parts, [message.parts for message in head]))
            and self.roles == [message.role for message in head]
        )


class _Tidier:
    def __init__(self, target: Target, id_of: Callable[[str], str], user_first: bool) -> None:
        self._issuer = target.issuer
        self._id_of = id_of
        self._user_first = user_first
        self._used: set[str] = set()
        self._called: set[str] = set()
        # Calls without a result: the id in the history -> the calls as we write them, as one id may stand twice.
        self._open: dict[str, list[ToolCall]] = {}
        self._results: dict[str, ToolResult] = {}  # for those that have one, by the id as we write it
        self._order: list[ToolCall] = []
        # Calls that were answered as not run, each with its tool turn's place: a result may still come.
        self._late: dict[str, list[tuple[int, ToolCall]]] = {}
        self._not_run = 0  # how many of them got none
        self.moved = False  # whether one did: a turn of long ago is another now
        self._turns: list[Turn] = []
        self._loop_start = 0
        self._system: list[str] = []
        self._notes: dict[str, None] = {}

    def resume(self, past: _Past) -> None:
        """Go on from there."""
        self._used, self._called = set(past.used), set(past.called)
        self._turns, self._loop_start = [*past.turns], past.loop_start
        self._system, self._notes = [*past.system], {**past.notes}
        self._late, self._not_run = {ident: [*calls] for ident, calls in past.late.items()}, past.not_run

    def take(self, messages: tuple[Message, ...]) -> None:
        """The next messages."""
        for message in messages:
            if message.role == "system":
                self._system.append("\n\n".join(part.text for part in message.parts if isinstance(part, Text)))
            elif message.role == "assistant":
                self._settle()
                self._add("assistant", self._assistant(message))
            else:
                self._user(message)

    @property
    def settled(self) -> bool:
        """Whether every call so far has its result: what comes next can change nothing that is before it."""
        return len(self._results) == len(self._order)

    def past(self, messages: tuple[Message, ...], written: dict[Hashable, list[Written]]) -> _Past:
        """What to remember of these messages."""
        self._settle()
        return _Past(
            [message.role for message in messages],
            [message.parts for message in messages],
            [*self._turns],
            [*self._system],
            {**self._notes},
            frozenset(self._used),
            frozenset(self._called),
            self._loop_start,
            {ident: [*calls] for ident, calls in self._late.items()},
            self._not_run,
            written,
        )

    def history(self, system: str, written: dict[Hashable, list[Written]]) -> History:
        """The end: what is still open is closed."""
        self._settle()
        if self._not_run:
            self._note("a tool call without a result was answered as not run")
        if not self._turns:  # nobody answers to nothing
            self._add("user", (Text(OPENING),))
        return History(
            "\n\n".join(filter(str.strip, [system, *self._system])),
            tuple(self._turns),
            tuple(self._notes),
            self._loop_start,
            frozenset(self._called),
            written,
        )

    def _note(self, words: str) -> None:
        self._notes[words] = None

    def _add(self, role: TurnRole, parts: tuple[Part, ...]) -> None:
        if not parts:
            return
        if self._user_first and not self._turns and role != "user":
            self._add("user", (Text(OPENING),))
        if self._turns and self._turns[-1].role == role:
            self._turns[-1] = Turn(role, self._turns[-1].parts + parts)
        else:
            self._turns.append(Turn(role, parts))
        if role == "user":
            self._loop_start = len(self._turns)

    # ---------------------------------------------------------------------------------------------- an assistant's

    def _assistant(self, message: Message) -> tuple[Part, ...]:
        parts = tuple(self._assistant_parts(message))
        # Thinking alone is not a turn: no vendor takes an assistant message that says and calls nothing.
        return parts if any(isinstance(part, Text | ToolCall) for part in parts) else ()

    def _assistant_parts(self, message: Message) -> Iterator[Part]:
        for part in _joined(message.parts, ""):  # pieces of a sentence, as they come
            match part:
                case Text():
                    yield part
                case Thinking():
                    if part.issuer == self._issuer:
                        yield part
                    else:
                        self._note("thinking of another issuer was left out")
                case ToolCall():
                    yield self._call(part)
                case _:
                    self._note(f"an assistant's {type(part).__name__} was left out")

    def _call(self, call: ToolCall) -> ToolCall:
        ident, name = self._fresh_id(call.id), _safe_name(call.name)
        signature = call.signature if call.issuer == self._issuer else None
        if call.signature and not signature:
            self._note("a tool call's signature of another issuer was left out")
        ours = call
        if (ident, name, signature) != (call.id, call.name, call.signature):
            ours = attrs.evolve(call, id=ident, name=name, signature=signature)
        self._late.pop(call.id, None)  # the id means another call now
        self._open.setdefault(call.id, []).append(ours)
        self._order.append(ours)
        self._called.add(name)
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
        for part in _joined(message.parts, "\n\n"):
            match part:
                case ToolResult():
                    self._result(part)
                case Image():
                    image = _whole(part)
                    rest += [image] if image else []
                    if not image:
                        self._note("an image without data or url was left out")
                case Text():
                    rest.append(part)
                case _:
                    self._note(f"a user's {type(part).__name__} was left out")
        if rest:
            self._settle()
            self._add("user", tuple(rest))

    def _result(self, result: ToolResult) -> None:
        if waiting := self._open.get(result.call_id):
            call = waiting.pop(0)
            self._results[call.id] = _result_of(call, result)
        elif late := self._late.get(result.call_id):
            place, call = late.pop(0)
            self._move(place, _result_of(call, result))
        else:
            self._note("a tool result without its call was left out")

    def _move(self, place: int, result: ToolResult) -> None:
        """A result that came after a user, or an assistant, had gone on: it stands where its call is answered."""
        self._note("a tool result that came late was moved to its call")
        self._not_run -= 1
        self.moved = True
        parts = self._turns[place].parts
        answers = (result if isinstance(one, ToolResult) and one.call_id == result.call_id else one for one in parts)
        self._turns[place] = Turn("tool", tuple(answers))

    def _settle(self) -> None:
        """Close the calls: one tool turn, with a result for each, in the order of the calls."""
        if not self._order:
            return
        parts: list[Part] = []
        for call in self._order:
            result = self._results.get(call.id)
            parts.append(result or ToolResult(call.id, call.name, NO_RESULT, is_error=True))
        self._add("tool", tuple(parts))
        for ident, calls in self._open.items():
            self._late.setdefault(ident, []).extend((len(self._turns) - 1, call) for call in calls)
            self._not_run += len(calls)
        self._open.clear()
        self._results.clear()
        self._order.clear()


def asked_on(history: History) -> tuple[History, list[str]]:
    """For who does not go on with an answer that was begun, or says its beginning again: a user asks to go on."""
    if history.turns[-1].role != "assistant":
        return history, []
    turns = (*history.turns, Turn("user", (Text(OPENING),)))
    note = "an answer that was begun is followed by a word of the user: this model takes no other last word"
    return attrs.evolve(history, turns=turns, loop_start=len(turns)), [note]


def _result_of(call: ToolCall, result: ToolResult) -> ToolResult:
    """The result as that of this call; an empty one says so."""
    content = result.content if result.content.strip() else NO_OUTPUT
    if (call.id, call.name, content) == (result.call_id, result.name, result.content):
        return result
    return ToolResult(call.id, call.name, content, result.is_error)


def result_text(result: ToolResult) -> str:
    """A result's text, for a dialect that has no mark for an error."""
    return f"Error: {result.content}" if result.is_error else result.content


def details_lost(parts: Iterable[Part]) -> list[str]:
    """The note of a dialect that cannot be told how closely to look."""
    told = any(isinstance(part, Image) and part.detail for part in parts)
    return ["an image's detail was left out: this vendor is not told"] if told else []


def _whole(image: Image) -> Image | None:
    """The image with its bytes, if its URL holds them; None when there is nothing in it."""
    if image.data or not (image.url or "").startswith("data:"):
        return image if image.data or image.url else None
    media_type, data = data_url(image.url or "")
    return attrs.evolve(image, media_type=image.media_type or media_type, data=data, url=None) if data else None


def _joined(parts: tuple[Part, ...], gap: str) -> Iterator[Part]:
    """The parts with neighbouring texts as one, `gap` between them, and texts of nothing but white space left out."""
    held: list[Text] = []
    for part in (*parts, None):
        if isinstance(part, Text):
            held.append(part)
            continue
        if held:
            text = held[0] if len(held) == 1 else Text(gap.join(one.text for one in held))
            held.clear()
            if text.text.strip():
                yield text
        if part is not None:
            yield part


_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_-]{0,63}")


def _safe_name(name: str) -> str:
    """A tool's name every vendor takes; one that a model made up must not spoil the history for good."""
    if _NAME.fullmatch(name):
        return name
    name = re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:64]
    return name if re.match("[a-zA-Z_]", name) else f"_{name}"[:64]
