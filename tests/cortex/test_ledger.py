"""The ledger: a call that ran is found again, at its place and with its arguments only."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cortex.ledger import Ledger, digest
from cortex.messages import ToolCall, ToolResult


def call(arguments: object = None, *, name: str = "book", raw: str = "") -> ToolCall:
    return ToolCall("id", name, arguments, raw)


def test_a_row_is_running_until_its_result_is_written() -> None:
    ledger = Ledger()
    ledger.begin(call({"seat": 1}), "1.0")
    row = ledger.find(call({"seat": 1}), "1.0")
    assert row is not None
    assert (row.state, row.result) == ("running", None)
    ledger.end("1.0", ToolResult("id", "book", "ok"))
    row = ledger.find(call({"seat": 1}), "1.0")
    assert row is not None
    assert row.state == "done"


def test_no_result_means_unknown() -> None:
    ledger = Ledger()
    ledger.begin(call({}), "1.0")
    ledger.end("1.0", None)
    assert [row.state for row in ledger.rows] == ["unknown"]


def test_another_place_name_or_argument_is_another_call() -> None:
    ledger = Ledger()
    ledger.begin(call({"seat": 1}), "1.0")
    assert ledger.find(call({"seat": 1}), "1.1") is None
    assert ledger.find(call({"seat": 2}), "1.0") is None
    assert ledger.find(call({"seat": 1}, name="cancel"), "1.0") is None


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.none()))
def test_the_order_of_keys_does_not_matter(arguments: dict[str, object]) -> None:
    assert digest(call(arguments)) == digest(call(dict(reversed(arguments.items()))))


@given(st.text())
def test_arguments_that_are_no_json_have_a_digest_too(raw: str) -> None:
    assert digest(call(None, raw=raw)) == digest(call(None, raw=raw))
    assert digest(call(None, raw=raw)) != digest(call(None, raw=raw + "x"))
