"""The desk: tools run at most once, validated and timed; their faults are the model's to hear."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import trio

from cortex.desk import Desk
from cortex.ledger import Ledger
from cortex.messages import ToolCall, ToolResult
from cortex.tools import Tool, tool, toolbox


class Here:
    """A caller in this very loop."""

    async def run(self, fn: Callable[..., Any], kwargs: Mapping[str, Any], *, is_async: bool) -> Any:
        return await fn(**kwargs) if is_async else fn(**kwargs)


def desk_of(*tools: Any) -> tuple[Desk, list[str]]:
    abandoned: list[str] = []
    return Desk(toolbox(tools), Ledger(), Here(), abandoned.append), abandoned


def again(desk: Desk) -> Desk:
    """The desk of the same turn when it is played again."""
    return Desk(desk.tools, desk.ledger, desk.caller, desk.abandoned)


async def run(desk: Desk, call: ToolCall) -> ToolResult:
    job = desk.ready(call)
    return job if isinstance(job, ToolResult) else await job()


def call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall("c1", name, arguments, "")


async def test_a_result_comes_back_as_text_or_json() -> None:
    def add(a: int, b: int) -> dict[str, int]:
        """Add."""
        return {"sum": a + b}

    desk, _ = desk_of(add)
    result = await run(desk, call("add", a=1, b=2))
    assert (result.content, result.is_error, result.call_id) == ('{"sum": 3}', False, "c1")


async def test_a_turn_that_is_played_again_runs_nothing_twice() -> None:
    ran: list[int] = []

    def book(seat: int) -> str:
        """Book a seat."""
        ran.append(seat)
        return "booked"

    desk, _ = desk_of(book)
    first = await run(desk, call("book", seat=1))
    replayed = again(desk)
    other = await run(replayed, call("book", seat=2))
    known = await run(replayed, ToolCall("other-id", "book", {"seat": 1}, ""))
    assert ran == [1, 2]
    assert (first.content, other.content) == ("booked", "booked")
    assert (known.content, known.call_id) == ("booked", "other-id")


async def test_a_model_that_asks_for_the_same_twice_gets_it_twice() -> None:
    ran: list[int] = []

    def roll(sides: int) -> int:
        """Roll a die."""
        ran.append(sides)
        return len(ran)

    desk, _ = desk_of(roll)
    assert [(await run(desk, call("roll", sides=6))).content for _ in range(2)] == ["1", "2"]
    replayed = again(desk)
    assert [(await run(replayed, call("roll", sides=6))).content for _ in range(3)] == ["1", "2", "3"]


async def test_a_fault_of_the_tool_is_told_to_the_model() -> None:
    def fail() -> str:
        """Fail."""
        raise LookupError("no such order")

    desk, _ = desk_of(fail)
    result = await run(desk, call("fail"))
    assert result.is_error
    assert result.content == "LookupError: no such order"


async def test_a_fault_that_cannot_be_read_is_told_to_the_model() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    def fail() -> str:
        """Fail."""
        raise Mute

    desk, _ = desk_of(fail)
    result = await run(desk, call("fail"))
    assert (result.is_error, result.content) == (True, "Mute: (its text cannot be read)")


async def test_wrong_arguments_and_unknown_tools_are_told_to_the_model_and_run_nothing() -> None:
    ran: list[object] = []

    def book(seat: int) -> None:
        """Book."""
        ran.append(seat)

    desk, _ = desk_of(book)
    wrong = await run(desk, call("book", seat="front"))
    unknown = await run(desk, call("fly"))
    assert wrong.is_error
    assert "seat" in wrong.content
    assert unknown.is_error
    assert "book" in unknown.content
    assert ran == []


async def test_a_tool_that_does_not_end_in_time_is_unknown_and_never_run_again(autojump_clock: object) -> None:
    ran: list[int] = []

    @tool(timeout=2.0)
    async def slow() -> str:
        """Slow."""
        ran.append(1)
        await trio.sleep(60)
        return "late"

    desk, abandoned = desk_of(slow)
    start = trio.current_time()
    first = await run(desk, call("slow"))
    assert trio.current_time() - start == 2.0
    assert first.is_error
    assert "2 s" in first.content
    known = await run(again(desk), call("slow"))
    assert known.is_error
    assert "unknown" in known.content
    assert ran == [1]
    assert abandoned == []


async def test_a_cancelled_tool_is_unknown(autojump_clock: object) -> None:
    async def slow() -> str:
        """Slow."""
        await trio.sleep(10)
        return "late"

    desk, _ = desk_of(slow)
    with trio.move_on_after(1):
        await run(desk, call("slow"))
    assert [row.state for row in desk.ledger.rows] == ["unknown"]


def test_a_tool_is_still_a_function() -> None:
    @tool
    def double(x: int) -> int:
        """Double."""
        return 2 * x

    assert isinstance(double, Tool)
    assert double(2) == 4
