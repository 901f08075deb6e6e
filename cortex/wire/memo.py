"""What was made of an immutable value, remembered as long as the value lives.

A conversation is encoded again and again with one more turn; what was made of the turns before is kept beside the
value it was made of, found by identity (equality would have to look at every word, and takes 1 for True). Nothing is
retained: when a conversation is dropped, so is what was made of it.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any
from weakref import ref

SCOPES = 8  # a value is encoded for a few models at a time; older ones are forgotten


class Memo:
    """`scope` tells what a thing was made for. Safe from any thread: at worst something is made twice."""

    def __init__(self) -> None:
        self._rows: dict[int, tuple[ref[Any], dict[Hashable, Any]]] = {}

    def get(self, value: object, scope: Hashable) -> Any:
        """What was made of this very value; None when nothing was."""
        row = self._rows.get(id(value))
        return row[1].get(scope) if row is not None and row[0]() is value else None

    def put(self, value: object, scope: Hashable, made: Any) -> None:
        """Remember `made`, which must not refer to `value`: it would keep it alive for ever."""
        row = self._rows.get(id(value))
        if row is None or row[0]() is not value:
            row = self._rows[id(value)] = (ref(value, self._forgetting(id(value))), {})
        if len(row[1]) >= SCOPES and scope not in row[1]:
            row[1].pop(next(iter(row[1])), None)
        row[1][scope] = made

    def _forgetting(self, key: int) -> Any:
        rows = self._rows

        def forget(dead: ref[Any]) -> None:
            row = rows.get(key)
            if row is not None and row[0] is dead:  # the number may belong to another value by now
                del rows[key]

        return forget

    def __len__(self) -> int:
        return len(self._rows)
