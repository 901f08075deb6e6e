"""One logical call: its deadline, its trail, its end; and the invariants under scripts drawn at random."""

from __future__ import annotations

from typing import Any

import attrs
import httpx
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

import cortex
from cortex import provider as provider_room
from cortex.attempts import MAX_REFUSALS
from cortex.errors import (
    CortexError,
    DeadlineExceeded,
    EngineFailed,
    NetworkUnavailable,
    NoProviderLeft,
    OutcomeUnknown,
    ProviderTimeout,
    ProviderUnavailable,
    StreamInterrupted,
)
from cortex.events import FailedOver
from cortex.protocol import Refused
from cortex.testing import Cut, Delay, FaultWall, Garbage, Hang, Pings, Redirect, Refuse, Reply, Status, StreamError
from cortex.ward import Ward

SPARE = "Hello from anthropic."
OWN = "Hello from openai."

# -------------------------------------------------------------------------------------------------------- deadlines


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("timeout", [0.05, 1.0, 9.0, 29.0])
@pytest.mark.parametrize("spares", [0, 1])
async def test_a_callers_hurry_harms_nobodys_health(
    timeout: float, spares: int, stream: bool, lab: Any, autojump_clock: Any
) -> None:
    """I6: silence that is shorter than a fair chance proves nothing; at most somebody else is asked first."""
    for name in ("openai", "anthropic"):
        lab[name].always(Hang())
    async with lab.engine(spares) as engine:
        for _ in range(6):
            started = trio.current_time()
            with pytest.raises(CortexError) as caught:
                await _ask(engine, stream, timeout=timeout)
            assert trio.current_time() - started <= timeout + 0.1
            assert isinstance(caught.value, DeadlineExceeded | NoProviderLeft | ProviderTimeout)
            trail = caught.value.attempts
            assert trail
            assert trail[0].outcome in ("cancelled", "transient")
            assert {one.status for one in engine.health().values()} <= ({"up", "slow"} if timeout > 0.5 else {"up"})
            assert engine.health()["openai"].breaker != "open"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("timeout", [5.0, 20.0, 29.0])
async def test_in_a_hurry_a_spare_serves_all_the_same(
    timeout: float, stream: bool, lab: Any, autojump_clock: Any
) -> None:
    lab.primary.always(Hang())
    async with lab.engine() as engine:
        assert await _ask(engine, stream, timeout=timeout) == SPARE
        assert trio.current_time() < timeout


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("warm", [0, 10])
@pytest.mark.parametrize("timeout", [1.0, 2.0, 5.0, 10.0, 20.0, 29.0, 31.0, 35.0, 59.0])
async def test_who_is_always_in_a_hurry_does_not_pay_for_a_hang_on_every_call(
    timeout: float, warm: int, stream: bool, lab: Any, autojump_clock: Any
) -> None:
    """No single wait is long enough to blame, but a few in a row put the lane behind the others."""
    for name in ("openai", "anthropic"):
        lab[name].always(Delay(0.2, Reply(f"Hello from {name}.")))
    async with lab.engine() as engine:
        for _ in range(warm):
            await _ask(engine, stream, timeout=timeout)
        lab.primary.always(Hang())
        before = len(lab.primary.requests)
        lost = 0
        for _ in range(20):
            started = trio.current_time()
            try:
                assert await _ask(engine, stream, timeout=timeout) == SPARE
            except CortexError:
                lost += 1
            assert trio.current_time() - started <= timeout + 0.1
        assert len(lab.primary.requests) - before <= 5
        assert lost <= (3 if timeout <= 2 else 0)
        await trio.sleep(61)  # it is tried again, once
        lab.primary.always(Delay(0.2, Reply(OWN)))
        assert await _ask(engine, stream, timeout=timeout) == OWN


@pytest.mark.parametrize("timeout", [30.0, 31.0, 32.0, 35.0, 40.0, 50.0, 60.0])
async def test_a_longer_timeout_loses_no_call_that_a_shorter_one_serves(
    timeout: float, lab: Any, autojump_clock: Any
) -> None:
    lab.primary.always(Hang())
    lab.spare.always(Delay(12, Reply(SPARE)))
    async with lab.engine() as engine:
        assert await _ask(engine, False, timeout=timeout) == SPARE


async def test_a_silence_far_beyond_the_usual_is_not_paid_for_on_every_call(lab: Any, autojump_clock: Any) -> None:
    async with lab.engine() as engine:
        for _ in range(10):
            assert await _ask(engine, False, timeout=20.0) == OWN
        lab.primary.always(Hang())
        waits = []
        for _ in range(4):
            started = trio.current_time()
            assert await _ask(engine, False, timeout=20.0) == SPARE
            waits.append(trio.current_time() - started)
    assert waits[:2] == pytest.approx([10, 10], abs=0.1)
    assert waits[2:] == pytest.approx([0, 0], abs=0.1)


async def _ask(engine: Any, stream: bool, **options: Any) -> str:
    if not stream:
        return (await engine.complete("hi", **options)).content
    text = ""
    async for chunk in engine.stream("hi", **options):
        text = "" if chunk.kind == "restart" else text + chunk.content
    return text


async def test_a_deadline_names_what_was_tried(lab: Any, autojump_clock: Any) -> None:
    lab.primary.always(Hang())
    async with lab.engine() as engine:
        with pytest.raises(DeadlineExceeded, match="openai/gpt-4o-mini cancelled") as caught:
            await engine.complete("hi", timeout=2)
    (attempt,) = caught.value.attempts
    assert attempt.outcome == "cancelled"
    assert attempt.duration == pytest.approx(2)


async def test_a_cancel_by_the_caller_closes_the_socket_and_harms_nobody(lab: Any, autojump_clock: Any) -> None:
    lab.primary.always(Hang())
    async with lab.engine() as engine:
        for _ in range(6):
            with trio.move_on_after(20) as scope:
                await engine.complete("hi")
            assert scope.cancelled_caught
        await trio.testing.wait_all_tasks_blocked()
        assert engine.health()["openai"].status == "up"
        assert engine.health()["openai"].in_flight == 0
        assert all(seen.gone for seen in lab.primary.requests)


@pytest.mark.parametrize(("spares", "most"), [(1, 61), (2, 81)])
async def test_a_hang_leaves_time_for_the_next(spares: int, most: float, lab: Any, autojump_clock: Any) -> None:
    lab.primary.always(Hang())
    lab.spare.always(Hang() if spares == 2 else Reply(SPARE))
    async with lab.engine(spares) as engine:
        assert (await engine.complete("hi")).content in (SPARE, "Hello from gemini.")
        assert trio.current_time() <= most


async def test_the_providers_own_timeout_counts(lab: Any, autojump_clock: Any) -> None:
    lab.primary.always(Hang())
    async with lab.engine(each={"timeout": 3.0}) as engine:
        answer = await engine.complete("hi")
        assert answer.content == SPARE
        assert trio.current_time() == pytest.approx(3.0, abs=0.1)
        await engine.complete("hi")
        assert engine.health()["openai"].status == "down"  # two timeouts, of weight two


async def test_nothing_is_begun_in_the_last_moment(lab: Any, autojump_clock: Any) -> None:
    """The last failure is the error then, not the clock."""
    lab.primary.always(Hang())
    async with lab.engine(0) as engine:
        with pytest.raises(ProviderTimeout) as caught:
            await engine.complete("hi", timeout=60)
        assert len(caught.value.attempts) == 1


# ------------------------------------------------------------------------------------------------------ the trail


async def test_a_failover_is_an_event_and_a_log_line(
    lab: Any, autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    lab.primary.script(Status(500))
    caplog.set_level("INFO", "cortex")
    async with lab.engine() as engine:
        events = engine.events()
        await engine.complete("hi")
        event = await anext(events)
        assert isinstance(event, FailedOver)
        assert (event.provider, event.model, event.outcome) == ("anthropic", lab.models["anthropic"], "ok")
        assert event.cause.startswith("openai/gpt-4o-mini transient")
    assert "failover to anthropic/claude-haiku-4-5 (ok) after openai/gpt-4o-mini transient" in caplog.text


async def test_the_trail_adds_up(lab: Any, autojump_clock: Any) -> None:
    lab.primary.script(Delay(3, Status(500)))
    lab.spare.script(Delay(2, Reply("word", usage=(11, 7))))
    async with lab.engine() as engine:
        meta = (await engine.complete("hi")).metadata
    first, second = meta.attempts
    assert (first.duration, second.duration) == (pytest.approx(3), pytest.approx(2))
    assert (first.waited, second.waited) == (pytest.approx(0, abs=0.1), pytest.approx(0, abs=0.1))
    assert meta.latency_ms == pytest.approx(5000, abs=50)
    assert (meta.tokens_used, meta.tokens_total) == (18, 18)
    assert second.first_token is None


async def test_the_wait_before_an_attempt_is_told(lab: Any, autojump_clock: Any) -> None:
    lab.primary.script(Status(429, headers={"retry-after": "4"}))
    async with lab.engine(0) as engine:
        _, second = (await engine.complete("hi")).metadata.attempts
        assert 4.0 <= second.waited <= 4.5


async def test_every_option_reaches_the_vendor_or_is_told(lab: Any, autojump_clock: Any) -> None:
    options = {"stop": "END", "seed": 7, "effort": "low", "max_tokens": 50}
    async with lab.engine() as engine:
        answer = await engine.complete("hi", **options)
        told = {"stop": ["END"], "seed": 7, "max_tokens": 50, "reasoning_effort": "low"}
        assert lab.primary.requests[-1].body.items() >= told.items()
        assert answer.metadata.notes == ()
        lab.primary.always(Status(500))
        answer = await engine.create_agent("a").start_session().run("hi", system=1, **options)
        assert lab.spare.requests[-1].body["stop_sequences"] == ["END"]
        assert any("seed" in note for note in answer.metadata.notes)


async def test_what_is_written_for_one_vendor_is_not_sent_to_another(lab: Any, autojump_clock: Any) -> None:
    lab.primary.script(Status(500))
    async with lab.engine() as engine:
        answer = await engine.complete("hi", extra={"top_logprobs": 3})
        assert lab.primary.requests[-1].body["top_logprobs"] == 3
        assert "top_logprobs" not in lab.spare.requests[-1].body
        assert answer.metadata.notes == ("extra was left out: it is written for openai",)
        answer = await engine.complete("hi", extra={"top_k": 3}, model="claude-haiku-4-5")
        assert lab.spare.requests[-1].body["top_k"] == 3
        assert answer.metadata.notes == ()


@attrs.frozen
class Elsewhere(httpx.AsyncBaseTransport):
    """Another address of loopback providers."""

    inner: httpx.AsyncBaseTransport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.url = request.url.copy_with(host="127.0.0.1")
        return await self.inner.handle_async_request(request)


@pytest.mark.parametrize(("host", "is_sent"), [("api.example.com", False), ("127.0.0.1", True)])
async def test_nor_to_another_who_speaks_the_same_dialect(
    host: str, is_sent: bool, lab: Any, autojump_clock: Any
) -> None:
    """Mistral, say, refuses what OpenAI knows."""
    second = lab.wall.add("two", dialect="openai")
    lab.primary.always(Status(500))
    providers = {
        name: {"kind": "openai", "api_key": "k", "base_url": url, "models": ["m"]}
        for name, url in (("one", lab.primary.base_url), ("two", second.base_url.replace("127.0.0.1", host)))
    }
    lanes = {"worker_model": "one/m", "fallback_models": ["two/m"]}
    async with cortex.Engine(providers, transport=Elsewhere(lab.wall.transport()), **lanes) as engine:
        answer = await engine.complete("hi", extra={"service_tier": "flex"})
    assert lab.primary.requests[-1].body["service_tier"] == "flex"
    assert ("service_tier" in second.requests[-1].body) is is_sent
    assert answer.metadata.notes == (() if is_sent else ("extra was left out: it is written for one",))


async def test_max_attempts_bounds_a_call(lab: Any, autojump_clock: Any) -> None:
    for name in ("openai", "anthropic", "gemini"):
        lab[name].always(Status(500))
    async with lab.engine(2, policy={"max_attempts": 2}) as engine:
        with pytest.raises(NoProviderLeft) as caught:
            await engine.complete("hi")
        assert [one.provider for one in caught.value.attempts] == ["openai", "anthropic"]
    async with lab.engine(2) as engine:
        with pytest.raises(NoProviderLeft) as caught:
            await engine.complete("hi")
        assert len(caught.value.attempts) == 4


async def test_a_provider_that_refuses_every_pick_is_our_fault(
    lab: Any, autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ward, "admit", lambda self, call, now: Refused("out of order"))
    async with lab.engine(0) as engine:
        with pytest.raises(EngineFailed, match=f"openai refused {MAX_REFUSALS} picks"):
            await engine.complete("hi")


async def test_what_cannot_be_written_down_is_the_requests_fault(
    lab: Any, autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(request: Any, target: Any) -> Any:
        raise cortex.ConfigError("tools[0]: its schema cannot be written as JSON")

    wires = {name: attrs.evolve(wire, encode=encode) for name, wire in provider_room.WIRES.items()}
    monkeypatch.setattr(provider_room, "WIRES", wires)
    async with lab.engine() as engine:
        with pytest.raises(cortex.RequestRejected, match="cannot be written as JSON"):
            await engine.complete("hi")
        assert lab.primary.requests == lab.spare.requests == ()
        assert engine.health()["openai"].status == "up"


async def test_c12_when_nobody_can_be_reached_it_is_us(autojump_clock: Any) -> None:
    def unreachable(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("Network is unreachable")

    providers = {"openai": {"api_key": "k" * 9}, "anthropic": {"api_key": "k" * 9}}
    async with cortex.Engine(
        providers,
        worker_model="gpt-4o-mini",
        fallback_models=["claude-haiku-4-5"],
        transport=httpx.MockTransport(unreachable),
    ) as engine:
        for _ in range(5):
            with pytest.raises(NetworkUnavailable, match="Network is unreachable"):
                await engine.complete("hi")
        assert {one.status for one in engine.health().values()} == {"up"}


# --------------------------------------------------------------------------------------------------------- properties

TEXT = "one two three four five"
replies = st.builds(Reply, st.sampled_from([TEXT, "short"]), pace=st.sampled_from([0.0, 0.5, 30.0]))
actions = st.one_of(
    replies,
    st.builds(Status, st.sampled_from([400, 401, 402, 403, 404, 408, 409, 413, 429, 500, 502, 503, 504, 529])),
    st.builds(Status, st.just(429), headers=st.sampled_from([{"retry-after": "3"}, {"retry-after": "junk"}])),
    st.builds(Hang, st.sampled_from(["request", "headers", 0, 1, 2, 0.5]), reply=replies),
    st.builds(
        Cut, st.sampled_from(["headers", 0, 1, 3, 0.3, 99]), st.sampled_from(["eof", "rst", "clean"]), reply=replies
    ),
    st.builds(StreamError, st.integers(0, 3), reply=replies),
    st.just(Refuse()),
    st.builds(Garbage, st.sampled_from(["status_line", "chunk_size", "html", "empty", "json", "gzip"])),
    st.just(Redirect("http://127.0.0.1:1/")),
    st.builds(Pings, st.sampled_from([0, 3, None]), every=st.sampled_from([1.0, 20.0]), reply=replies),
    st.builds(Delay, st.sampled_from([0.1, 5.0, 50.0]), replies),
)
scripts = st.lists(st.lists(actions, max_size=4), min_size=1, max_size=3)


class Tally:
    """What one logical call showed, and how it ended."""

    def __init__(self) -> None:
        self.runs: list[str] = [""]
        self.end: Any = None


async def _observe(engine: Any, stream: bool, timeout: float) -> Tally:
    tally = Tally()
    try:
        if stream:
            async for chunk in engine.stream("hi", timeout=timeout):
                if chunk.kind == "restart":
                    tally.runs.append("")
                tally.runs[-1] += chunk.content
                if chunk.kind == "final":
                    assert tally.end is None
                    tally.end = chunk.response
        else:
            tally.end = await engine.complete("hi", timeout=timeout)
    except CortexError as error:
        assert tally.end is None
        tally.end = error
    return tally


def _whole() -> set[str]:
    return {TEXT, "short", "Hello from openai.", "Hello from anthropic.", "Hello from gemini.", "Hello from the wall."}


async def test_a_refusal_in_mid_stream_is_not_shopped_around(lab: Any, autojump_clock: Any) -> None:
    refusal = StreamError(2, "content_filter", "refused by content policy", reply=Reply("one two three four"))
    lab.primary.script(refusal)
    async with lab.engine(policy={"on_interrupt": "restart"}) as engine:
        chunks: list[Any] = []
        with pytest.raises(StreamInterrupted) as caught:
            await lab.read(engine.stream("hi"), chunks)
    assert {chunk.kind for chunk in chunks} == {"text"}
    assert not caught.value.retryable
    assert not lab.spare.requests


STATEFUL = [
    {"previous_response_id": "resp_1"},
    {"tools": [{"type": "code_interpreter"}]},
    {"tools": [{"googleSearch": {}}]},
    {"mcp_servers": [{"url": "https://example.com"}]},
]


@pytest.mark.parametrize("extra", STATEFUL)
async def test_what_has_effects_at_the_provider_is_not_sent_twice(
    extra: dict[str, Any], lab: Any, autojump_clock: Any
) -> None:
    lab.primary.script(Cut(0.5))
    async with lab.engine() as engine:
        with pytest.raises(OutcomeUnknown):
            await engine.complete("hi", extra=extra)
    assert len(lab.primary.requests) == 1
    assert not lab.spare.requests


@pytest.mark.parametrize("fault", [Status(401), Status(503), Status(429)])
@pytest.mark.parametrize("extra", STATEFUL)
async def test_what_was_turned_away_had_no_effect(
    extra: dict[str, Any], fault: Any, lab: Any, autojump_clock: Any
) -> None:
    lab.primary.always(fault)
    async with lab.engine() as engine:
        assert (await engine.complete("hi", extra=extra)).content == SPARE


@pytest.mark.parametrize("extra", [{"store": True}, {"tools": [{"type": "function"}, {"name": "f"}]}, {"tools": "?"}])
async def test_what_is_only_kept_there_may_be_sent_again(extra: dict[str, Any], lab: Any, autojump_clock: Any) -> None:
    lab.primary.script(Cut(0.5))
    async with lab.engine() as engine:
        assert (await engine.complete("hi", extra=extra)).content == SPARE


@given(
    st.random_module(),
    scripts,
    st.booleans(),
    st.sampled_from([0.05, 2.0, 40.0, 120.0]),
    st.sampled_from(["raise", "restart"]),
    st.integers(1, 5),
)
@settings(max_examples=60)
def test_any_script_ends_once_in_time_with_a_whole_answer_or_an_error(
    chance: Any, plans: list[list[Any]], stream: bool, timeout: float, on_interrupt: Any, calls: int
) -> None:
    """I1, I2, I3, I10, I11, I12 at the public door."""

    async def main() -> None:
        wall = FaultWall()
        names = ["openai", "anthropic", "gemini"][: len(plans)]
        models = ["gpt-4o-mini", "claude-haiku-4-5", "gemini-2.5-flash"][: len(plans)]
        for name, plan in zip(names, plans, strict=True):
            wall.add(name).script(*plan)
        engine = cortex.Engine(
            {name: {"api_key": f"key-of-{name}", "base_url": wall[name].base_url} for name in names},
            worker_model=models[0],
            fallback_models=models[1:],
            policy={"on_interrupt": on_interrupt},
            transport=wall.transport(),
        )
        async with engine:
            for _ in range(calls):
                await one(engine, wall, len(names))
            await trio.testing.wait_all_tasks_blocked()
            assert all(each.in_flight == 0 for each in engine.health().values())

    async def one(engine: Any, wall: FaultWall, providers: int) -> None:
        before = _asked(wall)
        started = trio.current_time()
        tally = await _observe(engine, stream, timeout)
        assert trio.current_time() - started <= timeout + 0.1
        end = tally.end
        trail = end.attempts if isinstance(end, CortexError) else end.metadata.attempts
        assert len(trail) <= providers + 1
        assert _asked(wall) - before <= len(trail)
        lanes = [(each.provider, each.model) for each in trail]
        assert all(lanes.count(lane) <= 2 for lane in lanes)
        assert all(not each.ok for each in trail[:-1])
        assert len(tally.runs) <= (2 if on_interrupt == "restart" else 1)
        for run in tally.runs:
            assert any(whole.startswith(run) for whole in _whole()), run
        if isinstance(end, CortexError):
            assert str(end)
            assert not trail or not trail[-1].ok
            if isinstance(end, StreamInterrupted):
                assert end.partial == tally.runs[-1]
        else:
            assert end.content in _whole()
            assert trail[-1].ok
            if stream:
                assert tally.runs[-1] == end.content

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def _asked(wall: FaultWall) -> int:
    return sum(seen.method == "POST" for provider in wall.providers.values() for seen in provider.requests)


@given(st.random_module(), st.lists(st.sampled_from(["fail", "hang", "ok"]), max_size=10))
@settings(max_examples=15)
def test_after_healing_the_primary_has_its_traffic_back(chance: Any, fate: list[str]) -> None:
    """I7, I8: whatever was, within two minutes of traffic the primary serves again."""
    acts = {"fail": Status(500), "hang": Hang(), "ok": Reply(OWN)}

    async def main() -> None:
        wall = FaultWall()
        wall.add("openai").script(*[acts[word] for word in fate])
        wall.add("anthropic")
        engine = cortex.Engine(
            {name: {"api_key": f"key-of-{name}", "base_url": wall[name].base_url} for name in ("openai", "anthropic")},
            worker_model="gpt-4o-mini",
            fallback_models=["claude-haiku-4-5"],
            transport=wall.transport(),
        )
        async with engine:
            while wall["openai"]._script:
                await engine.complete("hi")
                await trio.sleep(1)
            for _ in range(60):
                await engine.complete("hi")
                await trio.sleep(2)
            assert engine.health()["openai"].status == "up"
            assert (await engine.complete("hi")).content == OWN

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("spares", [0, 1])
async def test_i8_a_long_outage_ends_without_anybodys_help(spares: int, lab: Any, autojump_clock: Any) -> None:
    for name in ("openai", "anthropic"):
        lab[name].always(Status(500))
    async with lab.engine(spares) as engine:
        for _ in range(100):
            with pytest.raises((ProviderUnavailable, NoProviderLeft)):
                await engine.complete("hi", timeout=5)
            await trio.sleep(1)
        asked = len(lab.primary.requests) + len(lab.spare.requests)
        assert asked < 400  # a sick provider is not hammered
        for name in ("openai", "anthropic"):
            lab[name].always(Reply("back"))
        await trio.sleep(5)
        assert (await engine.complete("hi")).content == "back"  # at once
