"""A provider as callers see it: its health over time, its permits, its limits; nothing it knows is ever shown."""

from __future__ import annotations

import json
import logging
from typing import Any

import httpx
import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cortex
from cortex.errors import CortexError, ProviderUnavailable
from cortex.testing import Delay, FaultWall, Hang, Reply, Status

SPARE = "Hello from anthropic."
OWN = "Hello from openai."


def posts(provider: Any) -> int:
    return sum(seen.method == "POST" for seen in provider.requests)


async def test_a_wrong_key_heals_by_a_probe_that_costs_no_token(lab: Any, autojump_clock: Any) -> None:
    lab.primary.script(Status(401))
    async with lab.engine() as engine:
        assert (await engine.complete("hi")).content == SPARE
        for _ in range(3):
            assert (await engine.complete("hi")).content == SPARE
        assert posts(lab.primary) == 1
        await trio.sleep(61)
        assert [seen.method for seen in lab.primary.requests] == ["POST", "GET"]
        assert engine.health()["openai"].status == "recovering"
        assert (await engine.complete("hi")).content == OWN


async def test_a_deployment_is_judged_by_its_models_public_name(lab: Any, autojump_clock: Any) -> None:
    cloud = lab.wall.add("azure", dialect="openai")
    providers = {"azure": {"api_key": "k", "base_url": cloud.base_url, "models": {"gpt-5": "team-a-prod"}}}
    async with cortex.Engine(providers, worker_model="gpt-5", transport=lab.wall.transport()) as engine:
        await engine.complete("hi", max_tokens=9, temperature=0.5)
    body = cloud.requests[0].body
    assert (body["model"], body["max_completion_tokens"]) == ("team-a-prod", 9)
    assert "temperature" not in body


async def test_an_address_that_was_down_for_long_is_found_again_within_seconds(lab: Any, autojump_clock: Any) -> None:
    """By probes; its time to be tried by a call would be up to a minute away."""
    lab.primary.down()
    async with lab.engine() as engine:
        for _ in range(600):
            assert (await engine.complete("hi")).content == SPARE
            if (engine.health()["openai"].next_try or 0.0) > 30:
                break
            await trio.sleep(1)
        lab.primary.up()
        await trio.sleep(25)
        assert [seen.method for seen in lab.primary.requests] == ["GET"]
        assert engine.health()["openai"].status == "recovering"
        assert (await engine.complete("hi")).content == OWN


async def test_a_model_that_fails_is_tried_by_calls_alone(lab: Any, autojump_clock: Any) -> None:
    """A list of models says nothing of it: answered, it would send every few seconds a user into the fault."""
    lab.primary.always(Status(500))
    async with lab.engine() as engine:
        for _ in range(120):
            assert (await engine.complete("hi")).content == SPARE
            await trio.sleep(1)
    assert {seen.method for seen in lab.primary.requests} == {"POST"}
    assert len(lab.primary.requests) < 12


async def test_a_recheck_by_hand_needs_no_probe(lab: Any, autojump_clock: Any) -> None:
    lab.primary.script(Status(401))
    async with lab.engine() as engine:
        await engine.complete("hi")
        await engine.recheck("openai")
        assert engine.health()["openai"].status == "recovering"
        assert (await engine.complete("hi")).content == OWN
        assert trio.current_time() < 1


async def test_switched_off_it_drains_and_comes_back(lab: Any, autojump_clock: Any) -> None:
    lab.primary.script(Delay(10, Reply("late")))
    answers: list[str] = []

    async def call(engine: Any) -> None:
        answers.append((await engine.complete("hi")).content)

    async with lab.engine() as engine, trio.open_nursery() as nursery:
        nursery.start_soon(call, engine)
        await trio.sleep(1)
        await engine.set_enabled("openai", False)
        assert engine.health()["openai"].status == "off"
        assert (await engine.complete("hi")).content == SPARE
        assert not (await engine.complete("hi")).metadata.attempts[1:]
        await trio.sleep(20)
        assert answers == ["late"]
        assert engine.health()["openai"].status == "off"
        await engine.recheck("openai")
        assert engine.health()["openai"].status == "off"  # only the switch undoes the switch
        await engine.set_enabled("openai", True)
        assert (await engine.complete("hi")).content == OWN


async def test_switched_off_and_alone_nobody_is_asked(lab: Any, autojump_clock: Any) -> None:
    async with lab.engine(0) as engine:
        await engine.set_enabled("openai", False)
        with pytest.raises(ProviderUnavailable, match="switched off"):
            await engine.complete("hi")
        assert lab.primary.requests == ()


@pytest.mark.parametrize("fault", [Status(500), Status(401), Status(402), Status(404, "<html>gone</html>")])
async def test_i8_the_only_one_is_asked_although_it_is_down(fault: Any, lab: Any, autojump_clock: Any) -> None:
    lab.primary.script(*[fault] * 20)
    async with lab.engine(0) as engine:
        for _ in range(8):
            with pytest.raises(CortexError):
                await engine.complete("hi", timeout=3)
        assert engine.health()["openai"].status == "down"
        lab.primary._script.clear()
        await trio.sleep(5.1)
        assert (await engine.complete("hi")).content == OWN


async def test_a_half_open_circuit_has_one_trial_at_a_time(lab: Any, autojump_clock: Any) -> None:
    lab.primary.script(Status(500), Status(500), Status(500))
    lab.primary.always(Delay(0.5, Reply(OWN)))
    async with lab.engine() as engine:
        for _ in range(3):
            await engine.complete("hi")
        await trio.sleep(6)
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(engine.complete, "hi")
        assert posts(lab.primary) == 4


async def test_a_trial_that_is_cancelled_gives_its_permit_back(lab: Any, autojump_clock: Any) -> None:
    lab.primary.script(Status(500), Status(500), Status(500), Hang())
    async with lab.engine() as engine:
        for _ in range(3):
            await engine.complete("hi")
        await trio.sleep(6)
        with trio.move_on_after(0.5):
            await engine.complete("hi")
        assert (await engine.complete("hi")).content == OWN


async def test_a_trial_that_hangs_costs_somebody_ten_seconds_at_most(lab: Any, autojump_clock: Any) -> None:
    lab.primary.script(Status(500), Status(500), Status(500), Hang())
    async with lab.engine() as engine:
        for _ in range(3):
            await engine.complete("hi")
        await trio.sleep(6)
        started = trio.current_time()
        assert (await engine.complete("hi")).content == SPARE
        assert trio.current_time() - started <= 10.1


async def test_a_hundred_hangs_open_it_once(lab: Any, autojump_clock: Any) -> None:
    lab.primary.always(Hang())
    async with lab.engine() as engine:
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(engine.complete, "hi")
        assert 0 < engine.health()["openai"].next_try <= 5  # the first opening, not the hundredth


async def test_max_concurrency_is_kept_and_the_others_wait(lab: Any, autojump_clock: Any) -> None:
    inside, most = [0], [0]

    class Counting(httpx.AsyncBaseTransport):
        def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
            self.inner = inner

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            try:
                return await self.inner.handle_async_request(request)
            finally:
                inside[0] -= 1

    lab.primary.always(Delay(3, Reply(OWN)))
    answers: list[str] = []

    async def call(engine: Any) -> None:
        answers.append((await engine.complete("hi")).content)

    async with lab.engine(0, each={"max_concurrency": 2}, wrap=Counting) as engine:
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(call, engine)
        assert answers == [OWN] * 10
        assert most == [2]
        assert trio.current_time() == pytest.approx(15, abs=0.1)


async def test_who_is_still_in_flight_is_known_however_long_it_takes(lab: Any, autojump_clock: Any) -> None:
    lab.primary.always(Delay(30, Reply(OWN)))
    async with lab.engine() as engine, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(engine.complete, "hi")
        await trio.sleep(10)
        assert engine.health()["openai"].in_flight == 3


async def test_i28_ten_thousand_models_leave_a_bounded_memory(lab: Any, autojump_clock: Any) -> None:
    async with lab.engine(0) as engine:
        for number in range(300):
            await engine.complete("hi", model=f"openai/model-{number}")
        assert len(engine.health()["openai"].lanes) == 256
        assert engine.health()["openai"].lanes[-1].model == "model-299"


# --------------------------------------------------------------------------------------------------------- secrets

keys = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.", min_size=8, max_size=60)


@given(st.random_module(), keys.map("sk-".__add__))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_i27_a_key_is_never_shown(chance: Any, key: str) -> None:
    """Not even when the vendor repeats it, or a transport quotes the header it dislikes."""
    said: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(self.format(record))

    def echo(seen: Any) -> Any:
        return Status(next(codes), message=f"bad key {seen.headers['authorization']}", headers={"x-key": key})

    class Quoting(httpx.AsyncBaseTransport):
        def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
            self.inner, self.count = inner, 0

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            self.count += 1
            if self.count % 3 == 1:
                raise httpx.LocalProtocolError(f"Illegal header value {request.headers['authorization']!r}")
            if self.count % 3 == 2:
                raise RuntimeError(f"a bug that quotes {request.headers['authorization']}")
            return await self.inner.handle_async_request(request)

    codes = iter([500, 401, 429, 403, 400, 404] * 100)

    async def main() -> None:
        wall = FaultWall()
        wall.add("openai").always(echo)
        engine = cortex.Engine(
            {"openai": {"api_key": key, "base_url": wall["openai"].base_url}},
            worker_model="gpt-4o-mini",
            transport=Quoting(wall.transport()),
        )
        async with engine:
            events = engine.events()
            for _ in range(9):
                try:
                    await engine.complete("hi", timeout=5)
                except CortexError as error:
                    said.extend(
                        [
                            str(error),
                            repr(error),
                            repr(error.attempts),
                            *map(repr, error.__notes__ if hasattr(error, "__notes__") else []),
                        ]
                    )
                said.extend([repr(engine), json.dumps(engine.health()["openai"].as_dict()), str(engine.explain())])
                await trio.sleep(30)
            said.extend(map(repr, events._events))
            said.extend([repr(engine.settings), repr(engine.explain()), repr(engine.health())])

    handler = Handler()
    logging.getLogger().addHandler(handler)
    try:
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        logging.getLogger().removeHandler(handler)
    assert said
    assert not [text for text in said if key in text]


async def test_what_a_provider_is_its_kind_says_and_not_its_host(autojump_clock: Any) -> None:
    """Azure behind a gateway of one's own: its addresses, and its header for the key."""
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
        return httpx.Response(200, json={"choices": [choice]})

    providers = {"mine": {"kind": "azure", "api_key": "k", "base_url": "https://gateway.corp/oai"}}
    async with cortex.Engine(providers, worker_model="mine/dep", transport=httpx.MockTransport(answer)) as engine:
        await engine.complete("hi")
    (request,) = asked
    assert request.url.path == "/oai/openai/deployments/dep/chat/completions"
    assert (request.headers["api-key"], request.headers.get("authorization")) == ("k", None)
