"""Weights: checked numbers, and the sentences they become."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.errors import ConfigError
from cortex.weights import WeightConfig, render

configs = st.builds(
    WeightConfig, verbosity=st.floats(0, 1), formality=st.floats(0, 1), speed_vs_quality=st.floats(-1, 1)
)


def test_neutral_weights_say_nothing() -> None:
    assert render(WeightConfig()) == ""


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (WeightConfig(verbosity=0), "briefly"),
        (WeightConfig(verbosity=1), "full detail"),
        (WeightConfig(formality=0), "casually"),
        (WeightConfig(formality=1), "strictly formal"),
        (WeightConfig(speed_vs_quality=-1), "at once"),
        (WeightConfig(speed_vs_quality=1), "verify each step"),
    ],
)
def test_each_end_has_its_sentence(weights: WeightConfig, words: str) -> None:
    assert words in render(weights)
    assert render(weights).count(".") == 1


@given(configs)
def test_it_renders_at_most_three_sentences(weights: WeightConfig) -> None:
    text = render(weights)
    assert text == text.strip()
    assert text.count(".") <= 3
    assert render(weights) == text


@pytest.mark.parametrize("name", ["verbosity", "formality", "speed_vs_quality"])
@pytest.mark.parametrize("value", [1.01, -1.01, math.nan, math.inf, "1", None, True])
def test_what_is_out_of_range_is_named(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^WeightConfig\.{name}: must be a finite number at least"):
        WeightConfig(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=name):
        WeightConfig().override(name, value)  # type: ignore[arg-type]


def test_only_speed_may_be_negative() -> None:
    assert WeightConfig(speed_vs_quality=-0.5).speed_vs_quality == -0.5
    with pytest.raises(ConfigError, match="verbosity"):
        WeightConfig(verbosity=-0.5)


def test_override_changes_one_and_hints_at_the_nearest_name() -> None:
    mine = WeightConfig(formality=0.9)
    assert mine.override("verbosity", 1) == WeightConfig(verbosity=1, formality=0.9)
    assert mine == WeightConfig(formality=0.9)
    with pytest.raises(ConfigError, match=r'^weight: .*did you mean "verbosity"'):
        mine.override("verbositty", 1)


def test_of_takes_none_weights_and_a_dict() -> None:
    mine = WeightConfig(verbosity=0.1)
    assert WeightConfig.of(None) == WeightConfig()
    assert WeightConfig.of(mine) is mine
    assert WeightConfig.of({"verbosity": 0.1}) == mine


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        ({"verbose": 1}, r"^weight_config: unknown key 'verbose'; did you mean \"verbosity\""),
        (0.5, "^weight_config: must be a dict .* not float"),
    ],
)
def test_of_refuses_the_rest(weights: object, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        WeightConfig.of(weights)
