"""The policy: its defaults, and an early error for every field that cannot work."""

from __future__ import annotations

import math

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.errors import ConfigError
from cortex.policy import Policy

SECONDS = [
    "total_timeout",
    "stream_timeout",
    "turn_timeout",
    "connect_timeout",
    "first_token_timeout",
    "progress_timeout",
    "queue_timeout",
    "grace",
]
COUNTS = ["max_attempts", "max_attempts_per_lane", "max_in_flight", "max_queue", "max_tool_rounds"]
NOT_SECONDS = ["5", True, math.nan, math.inf, -math.inf, -1, 10**400, [], {}, object()]
NOT_COUNTS = ["5", True, 1.0, math.nan, -1, [], object()]


def test_defaults_are_the_documented_ones() -> None:
    assert attrs.asdict(Policy()) == {
        "total_timeout": 120,
        "stream_timeout": 600,
        "turn_timeout": 900,
        "connect_timeout": 5,
        "first_token_timeout": None,
        "progress_timeout": 60,
        "queue_timeout": None,
        "max_attempts": None,
        "max_attempts_per_lane": 2,
        "max_in_flight": 2_000,
        "max_queue": 10_000,
        "on_interrupt": "raise",
        "max_tool_rounds": 10,
        "grace": 5,
    }


def test_every_field_is_in_a_table_of_this_file() -> None:
    assert {field.name for field in attrs.fields(Policy)} == {*SECONDS, *COUNTS, "on_interrupt"}


@pytest.mark.parametrize("field", SECONDS)
@pytest.mark.parametrize("value", NOT_SECONDS, ids=lambda value: f"{type(value).__name__}")
def test_a_time_that_is_none_is_refused(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^Policy\.{field}: must be a finite number") as caught:
        Policy(**{field: value})  # type: ignore[arg-type]
    assert "seconds" in str(caught.value)


@pytest.mark.parametrize("field", COUNTS)
@pytest.mark.parametrize("value", NOT_COUNTS, ids=lambda value: f"{type(value).__name__}")
def test_a_count_that_is_none_is_refused(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^Policy\.{field}: must be a whole number"):
        Policy(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("field", [*SECONDS, *COUNTS])
def test_zero_is_only_allowed_where_it_means_something(field: str) -> None:
    if field in ("grace", "max_queue"):
        assert getattr(Policy(**{field: 0}), field) == 0  # type: ignore[arg-type]
    else:
        with pytest.raises(ConfigError, match=field):
            Policy(**{field: 0})  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["total_timeout", "max_in_flight", "grace", "on_interrupt"])
def test_none_is_refused_where_there_is_no_other_meaning(field: str) -> None:
    with pytest.raises(ConfigError, match=rf"Policy\.{field}.*None"):
        Policy(**{field: None})  # type: ignore[arg-type]


def test_what_does_not_exist_yet_says_so() -> None:
    with pytest.raises(ConfigError, match=r'"continue" does not exist yet; pass "raise" or "restart"'):
        Policy(on_interrupt="continue")  # type: ignore[arg-type]


def test_on_interrupt_hints_at_the_nearest_word() -> None:
    with pytest.raises(ConfigError, match=r'did you mean "restart"'):
        Policy(on_interrupt="restrat")  # type: ignore[arg-type]


def test_of_takes_none_a_policy_and_a_dict() -> None:
    mine = Policy(grace=1)
    assert Policy.of(None) == Policy()
    assert Policy.of(mine) is mine
    assert Policy.of({"grace": 1}) == mine


@pytest.mark.parametrize(
    ("given_policy", "message"),
    [
        ({"total_timout": 3}, r'^policy: unknown key \'total_timout\'; did you mean "total_timeout"'),
        ({"total_timeout": "3"}, r"^Policy\.total_timeout: .*not str"),
        ("fast", r"^policy: must be a Policy, not str"),
        ({1: 2}, r"^policy: its keys must be texts, not int"),
    ],
)
def test_of_refuses_the_rest(given_policy: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Policy.of(given_policy)


@pytest.mark.parametrize(
    ("stream", "reasoning", "seconds"), [(False, False, 120), (True, False, 600), (False, True, 600), (True, True, 600)]
)
def test_call_timeout(stream: bool, reasoning: bool, seconds: float) -> None:
    assert Policy().call_timeout(stream=stream, reasoning=reasoning) == seconds


@given(st.sampled_from(SECONDS), st.floats(min_value=1e-6, max_value=1e9))
def test_any_positive_time_is_taken_as_it_is(field: str, value: float) -> None:
    assert getattr(Policy(**{field: value}), field) == value  # type: ignore[arg-type]
