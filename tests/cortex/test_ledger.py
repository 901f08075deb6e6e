"""The ledger: a call that ran is found again, with its arguments only and as often as it ran."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from cortex.ledger import Ledger, Numbering
from cortex.messages import ToolResult


def test_a_row_is_running_until_its_result_is_written() -> None:
    ledger, key = Ledger(), Numbering().key("book", "1")
    ledger.begin(key)
    row = ledger.find(key)
    assert row is not None
    assert (row.name, row.state, row.result) == ("book", "running", None)
    ledger.end(key, ToolResult("id", "book", "ok"))
    row = ledger.find(key)
    assert row is not None
    assert row.state == "done"


def test_no_result_means_unknown() -> None:
    ledger, key = Ledger(), Numbering().key("book", "")
    ledger.begin(key)
    ledger.end(key, None)
    assert [row.state for row in ledger.rows] == ["unknown"]


def test_another_name_or_argument_is_another_call() -> None:
    ledger = Ledger()
    ledger.begin(Numbering().key("book", "1"))
    assert ledger.find(Numbering().key("book", "2")) is None
    assert ledger.find(Numbering().key("cancel", "1")) is None
    assert ledger.find(Numbering().key("book", "1")) is not None


@given(st.lists(st.tuples(st.sampled_from(["book", "cancel"]), st.integers(0, 2)), max_size=8), st.randoms())
def test_a_turn_that_is_played_again_in_another_order_finds_every_call(
    calls: list[tuple[str, int]], chance: random.Random
) -> None:
    """M7: and one call more of a kind is a new one."""
    ledger, first = Ledger(), Numbering()
    for name, seat in calls:
        ledger.begin(first.key(name, str(seat)))
    assert len(ledger.rows) == len(calls)
    chance.shuffle(calls)
    second = Numbering()
    assert all(ledger.find(second.key(name, str(seat))) for name, seat in calls)
    assert all(ledger.find(second.key(name, str(seat))) is None for name, seat in set(calls))
