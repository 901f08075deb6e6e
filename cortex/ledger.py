"""The ledger: which tool calls of a turn have run, so that none ever runs twice. Pure.

A row is written before a tool runs and its result after. A turn that is taken over by another provider, or run again
with `retry=True`, finds the results of the tools that ran. A row that has no result is `unknown`: the tool may have
had its effect, so it is not run again either; the model is told.
"""

from __future__ import annotations

import hashlib
import json
from typing import Literal

import attrs

from cortex.messages import ToolCall, ToolResult


@attrs.frozen
class Row:
    """One tool call: its place in the turn, its name, the hash of its arguments, and what came of it."""

    key: str
    name: str
    digest: str
    state: Literal["running", "done", "unknown"] = "running"
    result: ToolResult | None = None


@attrs.define
class Ledger:
    """The rows of one turn, in memory."""

    _rows: dict[str, Row] = attrs.field(factory=dict)

    def find(self, call: ToolCall, key: str) -> Row | None:
        """The row of this very call: same place, same name, same arguments."""
        row = self._rows.get(key)
        return row if row is not None and (row.name, row.digest) == (call.name, digest(call)) else None

    def begin(self, call: ToolCall, key: str) -> None:
        """Before the tool runs."""
        self._rows[key] = Row(key, call.name, digest(call))

    def end(self, key: str, result: ToolResult | None) -> None:
        """After it: its result, or None when nobody knows whether it had its effect."""
        state: Literal["done", "unknown"] = "unknown" if result is None else "done"
        self._rows[key] = attrs.evolve(self._rows[key], state=state, result=result)

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows, oldest first."""
        return tuple(self._rows.values())


def digest(call: ToolCall) -> str:
    """A hash of a call's arguments that does not depend on the order of keys."""
    text = call.raw_arguments if call.arguments is None else json.dumps(call.arguments, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
