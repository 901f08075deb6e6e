"""Goals: progress that is not invented, and circles that are found."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.goals import Goal
from cortex.messages import ToolCall


def call(name: str, arguments: Any = None, raw: str = "", id: str = "x") -> ToolCall:  # noqa: A002
    return ToolCall(id, name, arguments, raw)


def test_without_a_plan_progress_is_unknown() -> None:
    goal = Goal().heard("ship it").did(3)
    assert goal.as_dict() == {
        "goal": "ship it",
        "progress": None,
        "steps_done": 0,
        "steps_planned": None,
        "loop_detected": False,
    }


def test_the_first_message_names_the_goal() -> None:
    assert Goal().heard("one").heard("two").text == "one"
    assert Goal("set").heard("one").text == "set"


def test_a_plan_is_worked_off() -> None:
    goal = Goal("g").planned(4)
    assert goal.progress == 0.0
    assert goal.did().progress == 0.25
    assert goal.did(4).progress == 1.0
    assert goal.did(9).steps_done == 4
    assert goal.did(4).planned(4).progress == 0.5
    assert Goal("g").planned(0).progress is None


@pytest.mark.parametrize(
    ("rounds", "looping"),
    [
        ([[call("a", {"x": 1})]] * 2, False),
        ([[call("a", {"x": 1})]] * 3, True),
        ([[call("a", {"x": 1, "y": 2})], [call("a", {"y": 2, "x": 1})], [call("a", {"x": 1, "y": 2}, id="z")]], True),
        ([[call("a", {"x": 1})], [call("a", {"x": 2})], [call("a", {"x": 1})]], False),
        ([[call("a")], [call("b")], [call("a")], [call("b")], [call("a")], [call("b")]], False),
        ([[call("a")], [call("a"), call("b")], [call("b"), call("a")]], True),
        ([[call("a"), call("a"), call("a")]], False),
        ([[call("a", None, "{bad")]] * 3, True),
        ([[call("a", None, "{bad")], [call("a", None, "{worse")], [call("a", None, "{bad")]], False),
        ([[call("a")], [call("a")], [], [call("a")]], False),
    ],
)
def test_the_same_call_three_rounds_in_a_row_is_a_circle(rounds: list[list[ToolCall]], looping: bool) -> None:
    goal = Goal()
    for calls in rounds:
        assert not goal.loop_detected
        goal = goal.called(calls)
    assert goal.loop_detected is looping


def test_a_new_message_ends_the_streak_but_the_report_stays() -> None:
    goal = Goal().called([call("a")]).called([call("a")]).called([call("a")]).heard("again, please")
    assert goal.loop_detected
    assert not goal.called([call("a")]).loop_detected


@given(
    st.lists(
        st.lists(st.builds(call, st.sampled_from("abc"), st.dictionaries(st.text(max_size=2), st.integers()))),
        max_size=8,
    ),
    st.integers(0, 9),
    st.integers(0, 9),
)
def test_it_is_always_json_and_within_bounds(rounds: list[list[ToolCall]], planned: int, done: int) -> None:
    goal = Goal("g").planned(planned).did(done)
    for calls in rounds:
        goal = goal.called(calls)
    report = goal.as_dict()
    assert json.loads(json.dumps(report)) == report
    assert report["progress"] is None or 0 <= report["progress"] <= 1
    assert (report["progress"] is None) == (planned == 0)
