"""A conversation that grows is written as if it were written anew, and costs no more than its new turn."""

from __future__ import annotations

import copy
import gc
import json
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.messages import Issuer, Message, Request, Text, Thinking, ToolCall, ToolResult
from cortex.wire import WIRES, history
from cortex.wire.codec import HttpCall, Target

TARGETS = {
    "openai_chat": ("https://api.deepseek.com", "m"),  # takes its thinking back
    "openai_responses": ("https://api.deepseek.com", "m"),
    "anthropic": ("https://a", "claude-sonnet-4-5"),
    "gemini": ("https://g", "gemini-3-pro"),
}


def encode(dialect: str, messages: tuple[Message, ...], **fields: Any) -> HttpCall:
    base_url, model = TARGETS.get(dialect, ("http://box", "m"))
    return WIRES[dialect].encode(Request(messages, **fields), Target("p", base_url, model))


def unknown(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The same conversation, in values that were never seen."""
    return tuple(attrs.evolve(message, parts=copy.deepcopy(message.parts)) for message in messages)


@pytest.mark.parametrize("dialect", sorted(WIRES))
@given(data=st.data())
def test_a_conversation_that_grows_is_written_as_if_anew(dialect: str, conversations: Any, data: st.DataObject) -> None:
    messages = tuple(data.draw(conversations.conversations))
    for end in data.draw(st.lists(st.integers(0, len(messages)), max_size=6)):  # forth and back, as retries do
        assert encode(dialect, messages[:end]) == encode(dialect, unknown(messages[:end]))
    assert encode(dialect, messages) == encode(dialect, unknown(messages))


def conversation(rounds: int) -> tuple[Message, ...]:
    messages = [Message("user", (Text("go on"),))]
    for number in range(rounds):
        call = ToolCall(f"c{number}", "f", {"n": number}, f'{{"n": {number}}}')
        messages.append(Message("assistant", (Thinking("hm", "sig", Issuer("p", "m")), Text("well"), call)))
        messages.append(Message("tool", (ToolResult(f"c{number}", "f", "done"),)))
    return tuple(messages)


@pytest.mark.parametrize("dialect", sorted(WIRES))
def test_an_old_turn_is_not_written_again(dialect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = conversation(100)
    encode(dialect, messages[:-2])
    written: list[history.Turn] = []
    tidied: list[Message] = []
    write, take = history.Written, history._Tidier.take
    monkeypatch.setattr(history, "Written", lambda turn, *rest: written.append(turn) or write(turn, *rest))
    monkeypatch.setattr(history._Tidier, "take", lambda self, new: tidied.extend(new) or take(self, new))
    call = encode(dialect, messages)
    assert (len(written), len(tidied)) == (2, 2)
    assert call == encode(dialect, unknown(messages))


@pytest.mark.parametrize("dialect", sorted(WIRES))
def test_what_was_made_of_a_conversation_goes_with_it(dialect: str) -> None:
    gc.collect()
    before = len(history._memo)
    kept = conversation(3)
    encode(dialect, kept)
    encode(dialect, conversation(3))
    gc.collect()
    assert len(history._memo) == before + 1
    del kept
    gc.collect()
    assert len(history._memo) == before


def test_equal_is_not_the_same() -> None:
    """1 == True, but not to a tool."""
    one, true = ({"a": value} for value in (1, True))
    user = Message("user", (Text("hi"),))
    for arguments in (one, true):
        said = Message("assistant", (ToolCall("c", "f", arguments, ""),))
        messages = (user, said, Message("tool", (ToolResult("c", "f", "x"),)))
        call = json.loads(encode("openai_chat", messages).body)["messages"][1]["tool_calls"][0]
        assert json.loads(call["function"]["arguments"])["a"] is arguments["a"]


def test_two_models_of_one_provider_know_nothing_of_each_other() -> None:
    messages = conversation(2)
    one, two = (
        WIRES["anthropic"].encode(Request(messages), Target("p", "https://a", model)).body for model in ("m", "n")
    )
    assert b'"signature"' in one
    assert b'"signature"' not in two


def said_by(rules: Any, dialect: str, *messages: Message) -> list[Any]:
    told: list[Any] = rules.said(dialect, json.loads(encode(dialect, messages).body))
    return told


@pytest.mark.parametrize("dialect", sorted(WIRES))
def test_two_texts_of_a_user_are_told_apart_and_an_answers_are_one(dialect: str, rules: Any) -> None:
    """What a user gives in parts are things of their own; a model's text may come in pieces of a sentence."""
    parts = (Text("see "), Text("this"))
    told = said_by(rules, dialect, Message("user", parts), Message("assistant", parts), Message("user", (Text("?"),)))
    assert [one[2] for one in told] == ["see \n\nthis", "see this", "?"]


@pytest.mark.parametrize("dialect", ["openai_chat", "openai_responses", "ollama"])
def test_an_error_is_told_in_words_where_there_is_no_mark_for_it(dialect: str, rules: Any) -> None:
    calls = tuple(ToolCall(name, name, {}, "{}") for name in ("a1", "b1", "c1"))
    results = (ToolResult("a1", "a1", "rows: 0", is_error=True), ToolResult("b1", "b1", "rows: 0"))
    messages = (Message("user", (Text("go"),)), Message("assistant", calls), Message("tool", results))
    told = [one[2] for one in said_by(rules, dialect, *messages) if one[0] == "result"]
    assert told == ["Error: rows: 0", "rows: 0", "Error: This call was not run."]


LATE = "a tool result that came late was moved to its call"
NOT_RUN = "a tool call without a result was answered as not run"
ASKED, CHANGED = Message("user", (Text("go"),)), Message("user", (Text("wait"),))


def called(*idents: str) -> Message:
    return Message("assistant", tuple(ToolCall(ident, "f", {}, "{}") for ident in idents))


def came(*results: tuple[str, str]) -> Message:
    return Message("tool", tuple(ToolResult(ident, "f", content) for ident, content in results))


@pytest.mark.parametrize("grows", [False, True])
@pytest.mark.parametrize("dialect", sorted(WIRES))
@pytest.mark.parametrize(
    ("messages", "results", "notes"),
    [
        ((ASKED, called("a"), CHANGED, came(("a", "42"))), ["42"], (LATE,)),
        ((ASKED, called("a"), Message("assistant", (Text("hm"),)), came(("a", "42")), CHANGED), ["42"], (LATE,)),
        ((ASKED, called("a", "b"), CHANGED, came(("b", "2")), ASKED), [None, "2"], (LATE, NOT_RUN)),
        ((ASKED, called("a", "b"), came(("b", "2")), CHANGED, came(("a", "1")), ASKED), ["1", "2"], (LATE,)),
        ((ASKED, called("0"), CHANGED, called("0"), came(("0", "2")), ASKED), [None, "2"], (NOT_RUN,)),
        ((ASKED, called("0", "0"), CHANGED, came(("0", "1"), ("0", "2"))), ["1", "2"], (LATE,)),
        (
            (ASKED, called("a"), CHANGED, came(("a", "1"), ("a", "2"))),
            ["1"],
            (LATE, "a tool result without its call was left out"),
        ),
        ((ASKED, called("a"), CHANGED), [None], (NOT_RUN,)),
    ],
)
def test_a_result_that_comes_late_belongs_to_its_call(
    messages: tuple[Message, ...],
    results: list[str | None],
    notes: tuple[str, ...],
    dialect: str,
    grows: bool,
    rules: Any,
) -> None:
    for end in range(1, len(messages)) if grows else ():
        encode(dialect, messages[:end])
    call = encode(dialect, messages)
    told = [one[2].removeprefix("Error: ") for one in rules.said(dialect, json.loads(call.body)) if one[0] == "result"]
    assert told == [result or history.NO_RESULT for result in results]
    assert call.notes == notes
    assert call == encode(dialect, unknown(messages))
