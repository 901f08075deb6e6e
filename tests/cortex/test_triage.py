"""Triage: a table of messages, and the rules that hold for every message."""

from __future__ import annotations

import time
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.triage import decide
from cortex.weights import WeightConfig

FAST = [
    "What is the capital of France?",
    "Where is my order #1234?",
    "hi",
    "",
    "Translate 'good morning' into Spanish.",
    "What plan am I on?",
    "Why is the sky blue?",
    "Summarize this paragraph: the cat sat on the mat.",
]
DEEP = [
    "Analyze this dataset.",
    "Plan the migration of our database to Postgres.",
    "Please design a cache for this service.",
    "Make a plan for launching the product in three countries.",
    "Prove that there are infinitely many primes.",
    "Explain step by step how TLS works.",
    "Compare Postgres and MySQL for this load, and then tell me what it costs?",
    "Do the following:\n1. read the file\n2. count the lines\n\n```python\nprint(1)\n```",
    "Debug this: it fails with KeyError.",
]


@pytest.mark.parametrize("message", FAST)
def test_a_plain_question_is_for_system_1(message: str) -> None:
    assert decide(message).system == 1


@pytest.mark.parametrize("message", DEEP)
def test_work_that_wants_a_plan_is_for_system_2(message: str) -> None:
    decision = decide(message)
    assert decision.system == 2
    assert len(decision.reasons) > 1


def test_the_reasons_add_up_to_the_score() -> None:
    decision = decide("Compare a and b. Why? How? ```x```")
    signs = [float(reason.rpartition("(+")[2].rstrip(")")) for reason in decision.reasons if "(+" in reason]
    assert sum(signs) == pytest.approx(decision.score)
    assert f"score {decision.score:.2f}" in decision.reasons[-1]


def test_the_weights_move_the_threshold() -> None:
    message = "Compare apples and pears."
    fast, neutral, careful = (decide(message, 0, WeightConfig(speed_vs_quality=v)) for v in (-1, 0, 1))
    assert (fast.system, neutral.system, careful.system) == (1, 1, 2)
    assert fast.score == neutral.score == careful.score
    assert decide("What is the capital of France?", 0, WeightConfig(speed_vs_quality=1)).system == 1


def test_a_private_engine_never_chooses_system_2_by_itself() -> None:
    decision = decide("Analyze this dataset step by step.", private=True)
    assert decision.system == 1
    assert "more trusted" in decision.reasons[0]


texts = st.text(max_size=200) | st.sampled_from(FAST + DEEP)
biases = st.floats(min_value=-1, max_value=1)


@given(texts, st.integers(0, 100), st.sampled_from([1, 2]), st.booleans())
def test_the_callers_word_overrules(message: str, history: int, forced: Literal[1, 2], private: bool) -> None:
    assert decide(message, history, private=private, forced=forced).system == forced


@given(texts, st.integers(0, 100), biases, biases)
def test_more_weight_on_quality_never_leads_to_system_1(message: str, history: int, a: float, b: float) -> None:
    low, high = (decide(message, history, WeightConfig(speed_vs_quality=v)).system for v in sorted((a, b)))
    assert low <= high


@given(texts, st.integers(0, 100))
def test_it_is_a_function(message: str, history: int) -> None:
    assert decide(message, history) == decide(message, history)


@pytest.mark.parametrize("message", ["first " * 200_000, "- a\n" * 200_000, "why? " * 200_000, " \n" * 400_000])
def test_a_book_costs_nothing(message: str) -> None:
    started = time.perf_counter()
    decide(message)
    assert time.perf_counter() - started < 0.5
