"""Arguments of a Gemini call that come in pieces: values at JSON paths such as `$.items[0].name`.

https://docs.cloud.google.com/vertex-ai/generative-ai/docs/multimodal/function-calling#streaming-fc. A string may come
in several pieces; each says whether more follow.
"""

from __future__ import annotations

import re
from typing import Any

from cortex.wire.values import as_dict, as_text

_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d{1,6})\]|\[['\"]([^'\"]*)['\"]\]")
_MAX_ITEMS = 10_000  # of one array: an index is a stranger's number, and must not cost memory
_MAX_STEPS = 64


class PartialArgs:
    """Collects the arguments of one call."""

    def __init__(self) -> None:
        self._value: dict[str, Any] = {}
        self._growing: dict[str, list[str]] = {}  # strings of which more may come, by path

    def replace(self, value: dict[str, Any]) -> None:
        """The arguments came whole."""
        self._value = value

    def close(self) -> dict[str, Any]:
        """The arguments, as far as they came."""
        for path in list(self._growing):
            self._put(path, "".join(self._growing.pop(path)))
        return self._value

    def add(self, pieces: list[Any]) -> None:
        """Put pieces where they belong; one that cannot be placed is passed over."""
        for piece in map(as_dict, pieces):
            path = as_text(piece.get("jsonPath"))
            if "stringValue" not in piece:
                self._put(path, next((piece[key] for key in ("numberValue", "boolValue") if key in piece), None))
                continue
            grown = self._growing.setdefault(path, [])
            grown.append(as_text(piece["stringValue"]))
            if piece.get("willContinue") is not True:
                self._put(path, "".join(self._growing.pop(path)))
            elif len(grown) == 1:
                self._put(path, "")  # keeps its place among its siblings

    def _put(self, path: str, value: Any) -> None:
        steps = [int(index) if index else name or quoted for name, index, quoted in _STEP.findall(path)]
        if steps and isinstance(steps[0], str) and len(steps) <= _MAX_STEPS:
            _put(self._value, steps, value)


def _put(node: Any, steps: list[str | int], value: Any) -> None:
    """Set the value at the path, making the objects and arrays on the way."""
    last = len(steps) - 1
    for place, step in enumerate(steps):
        fits = isinstance(node, dict) if isinstance(step, str) else _has_room(node, step)
        if not fits:
            return
        if place == last:
            node[step] = value
            return
        child = node.get(step) if isinstance(node, dict) else node[step]
        if not isinstance(child, dict | list):
            node[step] = child = {} if isinstance(steps[place + 1], str) else []
        node = child


def _has_room(node: Any, index: int) -> bool:
    """Whether the array holds this index; the one right after its end is made."""
    if not isinstance(node, list) or index > min(len(node), _MAX_ITEMS):
        return False
    if index == len(node):
        node.append(None)
    return True
