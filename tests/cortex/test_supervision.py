"""What happens when it is us who break: the router, a provider's actor, a codec, a role. Nobody else may notice."""

from __future__ import annotations

import functools
import logging
import shutil
from collections.abc import Callable
from typing import Any

import attrs
import certifi
import httpx
import pytest
import trio

import actors
from cortex import provider as provider_room
from cortex.errors import EngineFailed, ProviderUnavailable
from cortex.events import ProviderRestarted
from cortex.orchestrator import Orchestrator
from cortex.protocol import ByHand, Publish
from cortex.provider import Provider
from cortex.router import Router
from cortex.testing import Delay, Hang, Reply, Status, ToolCalls
from cortex.ward import Ward
from cortex.worker import Worker

SPARE = "Hello from anthropic."
OWN = "Hello from openai."


class Bug:
    """A handler of an actor that raises at its next `left` calls. To be made before the actor is started."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cls: type, name: str) -> None:
        self.left = 0
        original = getattr(cls, name)

        @functools.wraps(original)
        def broken(this: Any, *args: Any) -> Any:
            if self.left > 0:
                self.left -= 1
                raise RuntimeError("a bug of ours")
            return original(this, *args)

        monkeypatch.setattr(cls, name, broken)


async def crash(engine: Any, bug: Bug) -> None:
    """Once; `bug` is in `Provider.publish`, so that no call and no order of ours is concerned."""
    (ref,) = await engine.host._place.home.router.ask(ByHand("openai"))
    bug.left = 1
    ref.tell(Publish())
    await trio.sleep(0.01)
    assert bug.left == 0


class Faulty(httpx.AsyncBaseTransport):
    """Raises what is no error of HTTP, `times` times, for the hosts that `port` names."""

    def __init__(self, inner: httpx.AsyncBaseTransport, port: int, times: float) -> None:
        self.inner, self.port, self.times = inner, port, times

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.port == self.port and self.times > 0:
            self.times -= 1
            raise RuntimeError("a poisoned client")
        return await self.inner.handle_async_request(request)


def faulty(lab: Any, times: float) -> Callable[[httpx.AsyncBaseTransport], Faulty]:
    return lambda inner: Faulty(inner, lab.primary.port, times)


async def many(engine: Any, count: int, answers: list[str], **options: Any) -> None:
    async def one() -> None:
        answers.append((await engine.complete("hi", **options)).content)

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one)


async def test_a_router_that_crashes_takes_no_call_with_it(
    lab: Any, autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.primary.always(Delay(5, Reply(OWN)))
    answers: list[str] = []
    bug = Bug(monkeypatch, Router, "pick")
    async with lab.engine() as engine:
        await engine.complete("hi")
        before = {name: one.status for name, one in engine.health().items()}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(many, engine, 20, answers)
            await trio.sleep(1)
            bug.left = 1
            nursery.start_soon(many, engine, 5, answers)  # the first of these finds it
        assert bug.left == 0
        assert answers == [OWN] * 25
        assert {name: one.status for name, one in engine.health().items()} == before
        assert len(lab.primary.requests) == 26
        assert (await engine.complete("hi")).content == OWN


async def test_a_router_that_keeps_crashing_is_our_fault_and_passes(
    lab: Any, autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bug = Bug(monkeypatch, Router, "pick")
    async with lab.engine() as engine:
        bug.left = 20
        with pytest.raises(EngineFailed):
            await engine.complete("hi")
        bug.left = 0
        await trio.sleep(60)
        assert (await engine.complete("hi")).content == OWN


async def test_an_open_circuit_outlives_the_router(
    lab: Any, autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.primary.always(Status(500))
    bug = Bug(monkeypatch, Router, "pick")
    async with lab.engine() as engine:
        for _ in range(3):
            await engine.complete("hi")
        bug.left = 1
        assert (await engine.complete("hi")).content == SPARE
        assert engine.health()["openai"].status == "down"
        assert len(lab.primary.requests) == 3


async def test_a_poisoned_client_is_thrown_away_and_calls_fail_over(lab: Any, autojump_clock: Any) -> None:
    """Three faults of ours in a minute crash the actor on purpose; it comes back by itself, with a trial."""
    async with lab.engine(wrap=faulty(lab, 3)) as engine:
        events = engine.events()
        for _ in range(3):
            answer = await engine.complete("hi")
            assert answer.content == SPARE
            assert answer.metadata.attempts[0].outcome == "local"
        await trio.sleep(1)
        restarted = [event for event in _drain(events) if isinstance(event, ProviderRestarted)]
        assert [(one.provider, one.why) for one in restarted] == [("openai", "PoisonedError")]
        assert engine.health()["openai"].status == "recovering"
        assert (await engine.complete("hi")).content == OWN


def _drain(stream: Any) -> list[Any]:
    return list(stream._events)


async def test_its_calls_in_flight_fail_over_when_a_provider_crashes(
    lab: Any, autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.primary.script(*[Hang()] * 20)
    answers: list[str] = []
    bug = Bug(monkeypatch, Provider, "recheck")
    async with lab.engine() as engine, trio.open_nursery() as nursery:
        nursery.start_soon(many, engine, 20, answers)
        await trio.sleep(1)
        bug.left = 1
        await engine.recheck("openai")  # told to the actor that takes its place
        assert bug.left == 0
        await trio.sleep(1)
        assert answers == [SPARE] * 20
        assert all(seen.gone for seen in lab.primary.requests)


async def test_a_crash_forgets_no_health(lab: Any, autojump_clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.primary.always(Status(401))
    bug = Bug(monkeypatch, Provider, "publish")
    async with lab.engine() as engine:
        await engine.complete("hi")
        why = engine.health()["openai"].why
        await crash(engine, bug)
        await trio.sleep(2)
        assert engine.health()["openai"].status == "down"
        assert engine.health()["openai"].why.split(";")[0] == why.split(";")[0]
        await engine.complete("hi")
        assert sum(seen.method == "POST" for seen in lab.primary.requests) == 1


async def test_r7_it_is_given_up_after_six_crashes_and_revived_later(lab: Any, autojump_clock: Any) -> None:
    async with lab.engine(wrap=faulty(lab, float("inf"))) as engine:
        for _ in range(200):
            assert (await engine.complete("hi")).content == SPARE
            if "crashed" in engine.health()["openai"].why:
                break
            await trio.sleep(0.5)
        assert engine.health()["openai"].status == "down"
        assert engine.health()["anthropic"].status == "up"
        assert (await engine.complete("hi")).metadata.attempts[0].provider == "anthropic"


@pytest.mark.parametrize("by_hand", [True, False])
async def test_what_was_given_up_comes_back(by_hand: bool, lab: Any, autojump_clock: Any) -> None:
    transports: list[Faulty] = []

    def wrap(inner: httpx.AsyncBaseTransport) -> Faulty:
        transports.append(Faulty(inner, lab.primary.port, float("inf")))
        return transports[0]

    async with lab.engine(wrap=wrap) as engine:
        while "crashed" not in engine.health()["openai"].why:
            await engine.complete("hi")
            await trio.sleep(0.5)
        transports[0].times = 0
        if by_hand:
            await engine.recheck("openai")
        else:
            await trio.sleep(6)
        assert (await engine.complete("hi")).content == OWN


async def test_certificates_that_are_taken_away_harm_nobody_else(lab: Any, tmp_path: Any) -> None:
    bundle = tmp_path / "bundle.pem"
    shutil.copy(certifi.where(), bundle)
    async with lab.wall:
        at = {"base_url": lab.primary.base_url.replace("http:", "https:"), "verify": str(bundle)}
        async with lab.engine(each=at, sockets=True) as engine:
            bundle.unlink()
            answer = await engine.complete("hi")
            assert answer.content == SPARE
            assert "bundle.pem" in answer.metadata.attempts[0].reason


class Start:
    """How the actors of providers start: not at all for those in `broken`, after `slow` seconds for the others."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.broken: set[str] = set()
        self.slow = 0.0
        original = Provider.on_start

        async def on_start(this: Provider) -> None:
            if this._config.name in self.broken:
                raise RuntimeError("no CA bundle")
            await trio.sleep(self.slow)
            await original(this)

        monkeypatch.setattr(Provider, "on_start", on_start)


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Start:
    return Start(monkeypatch)


async def test_a_switch_holds_for_the_next_actor_too(lab: Any, autojump_clock: Any, start: Start) -> None:
    start.broken = {"openai"}
    async with lab.engine() as engine:
        await engine.set_enabled("openai", False)
        start.broken = set()
        await trio.sleep(100)
        assert engine.health()["openai"].status == "off"
        assert (await engine.complete("hi")).content == SPARE
        await engine.set_enabled("openai", True)
        assert (await engine.complete("hi")).content == OWN


async def test_switched_on_again_while_no_actor_lives(lab: Any, autojump_clock: Any, start: Start) -> None:
    start.broken = {"openai"}
    async with lab.engine() as engine:
        await engine.set_enabled("openai", False)
        assert engine.health()["openai"].status == "off"
        await engine.set_enabled("openai", True)
        assert engine.health()["openai"].status != "off"
        start.broken = set()
        await trio.sleep(100)
        assert (await engine.complete("hi")).content == OWN


@pytest.mark.parametrize("name", [None, "openai", "anthropic"])
async def test_by_hand_and_by_time_it_is_revived_once(
    name: str | None, lab: Any, autojump_clock: Any, start: Start
) -> None:
    """A recheck while the router's own revival is under way."""
    start.broken = {"openai", "anthropic"}
    async with lab.engine(2) as engine:
        start.broken, start.slow = set(), 3.0
        await trio.sleep(5.5)
        assert "provider:openai" in engine.host._place.home.system.names  # its second start is under way
        await engine.recheck(name)
        await trio.sleep(10)
        for provider in ("openai", "anthropic"):
            assert engine.health()[provider].status in ("up", "recovering"), engine.health()[provider]
        assert (await engine.complete("hi")).content == OWN


async def test_a_recheck_waits_for_one_that_starts_slowly(
    lab: Any, autojump_clock: Any, monkeypatch: pytest.MonkeyPatch, start: Start
) -> None:
    """Without asking it all the time."""
    bug = Bug(monkeypatch, Provider, "publish")
    async with lab.engine() as engine:
        await engine.complete("hi")
        start.slow = 1.0
        await crash(engine, bug)
        await trio.sleep(0.3)
        asked = 0
        ask = actors.ActorRef.ask

        def counting(this: Any, *args: Any, **options: Any) -> Any:
            nonlocal asked
            asked += 1
            return ask(this, *args, **options)

        monkeypatch.setattr(actors.ActorRef, "ask", counting)
        await engine.recheck("openai")
        assert 3 <= asked < 50


async def test_nobody_waits_for_one_that_comes_back_too_late(lab: Any, autojump_clock: Any, start: Start) -> None:
    start.broken = {"openai"}
    async with lab.engine(0) as engine:
        await trio.sleep(100)  # given up again and again, each time for longer
        started = trio.current_time()
        with pytest.raises(ProviderUnavailable, match="crashed too often; started afresh in") as caught:
            await engine.complete("hi", timeout=10)
        assert trio.current_time() == started
        assert caught.value.retry_after is not None
        assert caught.value.retry_after > 10
        start.broken = set()
        assert (await engine.complete("hi", timeout=120)).content == OWN


async def test_a_crash_under_a_trial_strands_nobody(
    lab: Any, autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bug = Bug(monkeypatch, Ward, "admit")
    async with lab.engine(0) as engine:
        await engine.set_enabled("openai", False)
        await engine.set_enabled("openai", True)
        bug.left = 1
        started = trio.current_time()
        assert (await engine.complete("hi", timeout=60)).content == OWN
        assert bug.left == 0
        assert trio.current_time() - started < 3


def break_encode(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    def encode(request: Any, target: Any) -> Any:
        raise ZeroDivisionError("a bug in a codec")

    wires = {
        name: attrs.evolve(wire, encode=encode) if name in names else wire for name, wire in provider_room.WIRES.items()
    }
    monkeypatch.setattr(provider_room, "WIRES", wires)


async def test_a_bug_in_one_codec_ends_that_call_alone(
    lab: Any, autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_encode(monkeypatch, "openai_chat")
    async with lab.engine() as engine:
        answer = await engine.complete("hi")
        assert answer.content == SPARE
        assert answer.metadata.attempts[0].outcome == "local"
        assert engine.health()["openai"].status == "up"


async def test_a_request_that_breaks_us_twice_walks_no_further(
    lab: Any, autojump_clock: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    break_encode(monkeypatch, "openai_chat", "anthropic", "gemini")
    async with lab.engine(2) as engine:
        with caplog.at_level(logging.ERROR, "cortex"), pytest.raises(EngineFailed, match="a bug in a codec") as caught:
            await engine.complete("hi")
        assert [one.outcome for one in caught.value.attempts] == ["local", "local"]
        assert "Traceback" in caplog.text
        assert "ZeroDivisionError: a bug in a codec" in caplog.text
    assert lab.third.requests == ()


@pytest.mark.parametrize("role", [Worker, Orchestrator])
async def test_a_role_that_crashes_fails_its_calls_and_serves_the_next(
    role: type, lab: Any, autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.primary.script(Hang())
    system = 1 if role is Worker else 2
    bug = Bug(monkeypatch, role, "turn")
    async with lab.engine() as engine:
        failed: list[Exception] = []

        async def in_flight() -> None:
            with pytest.raises(EngineFailed) as caught:
                await engine.create_agent("a").start_session().run("hi", system=system)
            failed.append(caught.value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(in_flight)
            await trio.sleep(1)
            bug.left = 1
            nursery.start_soon(in_flight)
        assert len(failed) == 2
        answer = await engine.create_agent("a").start_session().run("hi", system=system)
        assert answer.content == OWN


async def test_a_worker_that_crashes_under_a_delegation_is_told_to_the_model(
    lab: Any, autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.primary.script(ToolCalls(("delegate", {"tasks": ["one"]})), Reply("so be it"))
    bug = Bug(monkeypatch, Worker, "turn")
    async with lab.engine() as engine:
        bug.left = 1
        answer = await engine.create_agent("a").start_session().run("hi", system=2)
        assert answer.content == "so be it"
        assert "the worker failed" in str(lab.primary.requests[-1].body)


async def test_nothing_leaves_the_engines_block_but_what_the_body_raised(lab: Any, autojump_clock: Any) -> None:
    class Own(Exception):
        pass

    with pytest.raises(Own):  # noqa: PT012 - the block is what is tested
        async with lab.engine() as engine:
            await engine.complete("hi")
            raise Own
