"""The ledger: a call that ran is found again, with its arguments only and as often as it ran."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from cortex.ledger import Ledger, Numbering, digest
from cortex.messages import ToolCall, ToolResult


def call(arguments: object = None, *, name: str = "book", raw: str = "") -> ToolCall:
    return ToolCall("id", name, arguments, raw)


def test_a_row_is_running_until_its_result_is_written() -> None:
    ledger, key = Ledger(), Numbering().key(call({"seat": 1}))
    ledger.begin(key)
    row = ledger.find(key)
    assert row is not None
    assert (row.name, row.state, row.result) == ("book", "running", None)
    ledger.end(key, ToolResult("id", "book", "ok"))
    row = ledger.find(key)
    assert row is not None
    assert row.state == "done"


def test_no_result_means_unknown() -> None:
    ledger, key = Ledger(), Numbering().key(call({}))
    ledger.begin(key)
    ledger.end(key, None)
    assert [row.state for row in ledger.rows] == ["unknown"]


def test_another_name_or_argument_is_another_call() -> None:
    ledger = Ledger()
    ledger.begin(Numbering().key(call({"seat": 1})))
    assert ledger.find(Numbering().key(call({"seat": 2}))) is None
    assert ledger.find(Numbering().key(call({"seat": 1}, name="cancel"))) is None
    assert ledger.find(Numbering().key(call({"seat": 1}))) is not None


@given(st.lists(st.tuples(st.sampled_from(["book", "cancel"]), st.integers(0, 2)), max_size=8), st.randoms())
def test_a_turn_that_is_played_again_in_another_order_finds_every_call(
    calls: list[tuple[str, int]], chance: random.Random
) -> None:
    """M7: and one call more of a kind is a new one."""
    ledger, first = Ledger(), Numbering()
    for name, seat in calls:
        ledger.begin(first.key(call({"seat": seat}, name=name)))
    assert len(ledger.rows) == len(calls)
    chance.shuffle(calls)
    second = Numbering()
    assert all(ledger.find(second.key(call({"seat": seat}, name=name))) for name, seat in calls)
    assert all(ledger.find(second.key(call({"seat": seat}, name=name))) is None for name, seat in set(calls))


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.none()))
def test_the_order_of_keys_does_not_matter(arguments: dict[str, object]) -> None:
    assert digest(call(arguments)) == digest(call(dict(reversed(arguments.items()))))


@given(st.text())
def test_arguments_that_are_no_json_have_a_digest_too(raw: str) -> None:
    assert digest(call(None, raw=raw)) == digest(call(None, raw=raw))
    assert digest(call(None, raw=raw)) != digest(call(None, raw=raw + "x"))
