"""Costs: by the price lists where they are installed and know the model; never a guess."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

import cortex
from cortex import prices
from cortex.messages import Usage
from cortex.prices import cost_of

OPENAI = "https://api.openai.com/v1"
USAGE = Usage(1_000_000, 100_000)


@pytest.fixture(autouse=True)
def _lists() -> None:
    pytest.importorskip("genai_prices", reason="the extra `cost` is not installed")


def test_tokens_have_the_vendors_price() -> None:
    plain = cost_of(OPENAI, ["gpt-4o"], USAGE)
    assert plain == pytest.approx(3.5, rel=0.5)  # 2.50 and 10 dollars a million when this was written
    cached = cost_of(OPENAI, ["gpt-4o"], Usage(1_000_000, 100_000, cached_tokens=900_000))
    assert plain is not None
    assert cached is not None
    assert cached < plain


def test_what_is_written_to_a_cache_costs_more() -> None:
    address = "https://api.anthropic.com"
    plain = cost_of(address, ["claude-haiku-4-5"], USAGE)
    written = cost_of(address, ["claude-haiku-4-5"], Usage(1_000_000, 100_000, cache_written_tokens=900_000))
    assert plain is not None
    assert written is not None
    assert written > plain


def test_the_first_name_that_is_known_counts() -> None:
    assert cost_of(OPENAI, ["my-own-name", "gpt-4o"], USAGE) == cost_of(OPENAI, ["gpt-4o"], USAGE)


@pytest.mark.parametrize(
    ("address", "names", "usage"),
    [
        ("http://127.0.0.1:8000/v1", ["gpt-4o"], USAGE),
        ("https://gateway.example.com/v1", ["gpt-4o"], USAGE),
        (OPENAI, ["no-such-model"], USAGE),
        (OPENAI, [], USAGE),
        (OPENAI, ["gpt-4o"], Usage(None, 5)),
        (OPENAI, ["gpt-4o"], Usage(5, None)),
        (OPENAI, ["gpt-4o"], Usage(5, 5, cached_tokens=50)),
    ],
)
def test_what_is_not_known_is_none(address: str, names: list[str], usage: Usage) -> None:
    assert cost_of(address, names, usage) is None


def test_without_the_lists_there_is_no_price(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prices, "lists", lambda: None)
    assert cost_of(OPENAI, ["gpt-4o"], USAGE) is None


def answer(usage: dict[str, int] | None, status: int = 200) -> httpx.Response:
    choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    body = {"id": "x", "model": "gpt-4o-2024-08-06", "choices": [choice], **({"usage": usage} if usage else {})}
    return httpx.Response(status, headers={"content-type": "application/json"}, content=json.dumps(body).encode())


@pytest.mark.parametrize(
    ("usages", "known"),
    [
        ([{"prompt_tokens": 1000, "completion_tokens": 100}], True),
        ([None], False),
    ],
)
async def test_the_metadata_tells_it(usages: list[Any], known: bool, autojump_clock: Any) -> None:
    replies = iter(usages)
    transport = httpx.MockTransport(lambda request: answer(next(replies)))
    async with cortex.Engine({"openai": {"api_key": "k"}}, worker_model="gpt-4o", transport=transport) as engine:
        metadata = (await engine.complete("hi")).metadata
    if known:
        assert metadata.cost_usd == cost_of(OPENAI, ["gpt-4o"], Usage(1000, 100))
        assert metadata.cost_usd == metadata.attempts[0].cost_usd
    else:
        assert metadata.cost_usd is None


async def test_a_deployments_name_is_no_models_name(autojump_clock: Any) -> None:
    transport = httpx.MockTransport(lambda request: answer({"prompt_tokens": 1000, "completion_tokens": 100}))
    azure = {
        "api_key": "k",
        "base_url": "https://mine.openai.azure.com",
        "api_version": "2024-10-21",
        "models": {"gpt-4o": "gpt-35-turbo"},
    }
    async with cortex.Engine({"azure": azure}, worker_model="gpt-4o", transport=transport) as engine:
        cost = (await engine.complete("hi")).metadata.cost_usd
    assert cost == cost_of("https://mine.openai.azure.com", ["gpt-4o"], Usage(1000, 100))
