"""Test your own failover: the fixture `fault_wall` comes with the package. Run it with `pytest examples`.

`summarise` stands for your own code. Each test says what the providers do, and then what your users get.
"""

import pytest

import cortex
from cortex.testing import Cut, FaultWall, Hang, Refuse, Reply, Status


def summarise(text: str, engine: cortex.Engine) -> str:
    """Your own code."""
    return engine.complete_sync(f"Summarise: {text}", timeout=30).content


@pytest.fixture
def engine(fault_wall: FaultWall) -> cortex.Engine:
    providers = {}
    for name in ("openai", "anthropic"):
        provider = fault_wall.add(name)
        provider.always(Reply("A summary."))
        providers[name] = {"api_key": "test", "base_url": provider.base_url, "timeout": 0.5}
    return cortex.Engine(providers, worker_model="gpt-4o-mini", fallback_models=["claude-haiku-4-5"])


FAULTS = [Status(500), Status(529), Refuse(), Hang(), Cut(after=0.5)]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_a_summary_comes_whatever_the_first_provider_does(
    fault_wall: FaultWall, engine: cortex.Engine, fault: Status | Refuse | Hang | Cut
) -> None:
    fault_wall["openai"].always(fault)
    assert summarise("a long text", engine) == "A summary."
    assert fault_wall["openai"].requests, "the first provider was really asked"


def test_a_wrong_key_is_not_hidden(fault_wall: FaultWall, engine: cortex.Engine) -> None:
    for provider in fault_wall.providers.values():
        provider.always(Status(401))
    with pytest.raises(cortex.ProviderError) as caught:
        summarise("a long text", engine)
    assert caught.value.kind == "credential"
    assert {attempt.provider for attempt in caught.value.attempts} == {"openai", "anthropic"}


def test_a_request_that_is_wrong_is_not_shopped_around(fault_wall: FaultWall, engine: cortex.Engine) -> None:
    fault_wall["openai"].always(Status(400))
    with pytest.raises(cortex.RequestRejected):
        summarise("a long text", engine)
    assert not fault_wall["anthropic"].requests
