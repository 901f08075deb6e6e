"""Stats: honest counts."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from cortex.stats import DualProcessStats


def test_before_the_first_turn() -> None:
    assert DualProcessStats().as_dict() == {
        "system1_count": 0,
        "system2_count": 0,
        "system2_ratio": 0.0,
        "total_decisions": 0,
        "escalations": 0,
    }


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.booleans())))
def test_counts_are_those_of_the_turns(turns: list[tuple[int, bool]]) -> None:
    stats = DualProcessStats()
    for system, escalated in turns:
        before = stats
        stats = stats.escalated() if escalated else stats
        stats = stats.count(1 if system == 1 else 2)
        assert before is not stats
    got = stats.as_dict()
    assert got["system1_count"] == sum(system == 1 for system, _ in turns)
    assert got["system2_count"] == sum(system == 2 for system, _ in turns)
    assert got["total_decisions"] == len(turns)
    assert got["escalations"] == sum(escalated for _, escalated in turns)
    assert got["system2_ratio"] == (got["system2_count"] / len(turns) if turns else 0.0)
    assert json.loads(json.dumps(got)) == got
