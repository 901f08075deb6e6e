"""Where a turn has its tools run: validated, timed, at most once, in the caller's own world.

A tool's fault is the model's to hear, never the user's: whatever goes wrong comes back as an error text.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import attrs
import trio

from cortex import checks
from cortex.ledger import Ledger, Numbering
from cortex.messages import ToolCall, ToolResult
from cortex.protocol import Caller
from cortex.tools import Tool, identity, render, validate

T = TypeVar("T")


@attrs.frozen
class Desk:
    """The tools of one turn, played once. `abandoned` is told of each sync tool that outlived its timeout in its
    thread."""

    tools: Mapping[str, Tool]
    ledger: Ledger
    caller: Caller
    abandoned: Callable[[str], None]
    numbering: Numbering = attrs.field(factory=Numbering)

    def ready(self, call: ToolCall) -> Callable[[], Awaitable[ToolResult]] | ToolResult:
        """What runs the call, or gives its result if it ran before, and never raises; or what is wrong with it."""
        tool = self.tools.get(call.name)
        if tool is None:
            names = ", ".join(sorted(self.tools)) or "none"
            return _error(call, f"there is no tool {call.name!r}; the tools are: {names}")
        arguments = _as_the_users(validate, tool, call.arguments)
        return _error(call, arguments) if isinstance(arguments, str) else partial(self._run, tool, arguments, call)

    async def _run(self, tool: Tool, arguments: Mapping[str, object], call: ToolCall) -> ToolResult:
        key = self.numbering.key(tool.name, identity(tool, arguments))
        row = self.ledger.find(key)
        if row is not None:
            known = row.result
            return attrs.evolve(known, call_id=call.id) if known is not None else self._unknown(call)
        self.ledger.begin(key)
        result: ToolResult | None = None
        try:
            result = await self._call(tool, arguments, call)
        finally:
            self.ledger.end(key, result)
        return result if result is not None else self._timed_out(tool, call)

    async def _call(self, tool: Tool, arguments: Mapping[str, object], call: ToolCall) -> ToolResult | None:
        """None: it did not end in time, and nobody knows what it did."""
        with trio.move_on_after(tool.timeout):
            try:
                value = await self.caller.run(tool.fn, arguments, is_async=tool.is_async)
            except Exception as error:
                return _error(call, checks.raised(error))
            return ToolResult(call.id, call.name, _as_the_users(render, value))
        return None

    def _timed_out(self, tool: Tool, call: ToolCall) -> ToolResult:
        if not tool.is_async:
            self.abandoned(tool.name)
        return _error(call, f"no result within {tool.timeout:g} s; whether it had its effect is unknown")

    @staticmethod
    def _unknown(call: ToolCall) -> ToolResult:
        return _error(call, "this call was begun before and did not end; whether it had its effect is unknown")


@trio.lowlevel.disable_ki_protection
def _as_the_users(fn: Callable[..., T], *args: Any) -> T:
    """`fn` calls what the types of the user's tools bring along: that may compute for long, and Ctrl-C ends it."""
    return fn(*args)


def _error(call: ToolCall, text: str) -> ToolResult:
    return ToolResult(call.id, call.name, text[:2000], is_error=True)
