"""The ledger: which tool calls of a turn have run, so that none ever runs twice. Pure.

A row is written before a tool runs and its result after. A turn that is taken over by another provider goes on from
its transcript; one that is played again, by the other system or with `retry=True`, finds the results of the tools that
ran. A call is known by its name, by its arguments (what they mean, not how the model wrote them) and by its number
among its equals, not by its place: a model that asks again may ask in another order. A row that has no result is
`unknown`: the tool may have had its effect, so it is not run again either; the model is told.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Literal, TypeAlias

import attrs

from cortex.messages import ToolResult

Key: TypeAlias = tuple[str, str, int]
"""Name, hash of the arguments, number among the calls that are equal in these."""


@attrs.frozen
class Row:
    """One tool call, and what came of it."""

    key: Key
    state: Literal["running", "done", "unknown"] = "running"
    result: ToolResult | None = None

    @property
    def name(self) -> str:
        """The tool's name."""
        return self.key[0]


@attrs.define
class Ledger:
    """The rows of one turn, in memory."""

    _rows: dict[Key, Row] = attrs.field(factory=dict)

    def find(self, key: Key) -> Row | None:
        """The row of this very call."""
        return self._rows.get(key)

    def begin(self, key: Key) -> None:
        """Before the tool runs."""
        self._rows[key] = Row(key)

    def end(self, key: Key, result: ToolResult | None) -> None:
        """After it: its result, or None when nobody knows whether it had its effect."""
        self._rows[key] = Row(key, "unknown" if result is None else "done", result)

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows, oldest first."""
        return tuple(self._rows.values())


@attrs.define
class Numbering:
    """Tells equal calls apart while a turn is played once; the next time it is played it begins anew."""

    _seen: Counter[tuple[str, str]] = attrs.field(factory=Counter)

    def key(self, name: str, arguments: str) -> Key:
        """The key of the next call like this one; `arguments` is the same text whenever they mean the same."""
        kind = (name, hashlib.sha256(arguments.encode("utf-8", "surrogatepass")).hexdigest())
        number = self._seen[kind]
        self._seen[kind] += 1
        return (*kind, number)
