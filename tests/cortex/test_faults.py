"""The fault catalogue at the public door: each fault on the primary, a healthy spare beside it, in virtual time.

The names are those of the catalogue: C connections, H HTTP, S streams, J JSON, M models.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import trio

from cortex.errors import (
    AuthError,
    BadReply,
    BillingError,
    ContextTooLong,
    DeadlineExceeded,
    ModelNotFound,
    NoProviderLeft,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
    RequestRejected,
    StreamInterrupted,
)
from cortex.results import Completion
from cortex.testing import Cut, Delay, Garbage, Hang, Pings, Raw, Redirect, Refuse, Reply, Reset, Status, StreamError

SPARE = "Hello from anthropic."
OWN = "Hello from openai."
INF = float("inf")

EITHER = (BadReply, ProviderUnavailable)
LIMITED = {"retry-after": "2"}

# fault on the primary -> class and kind in the trail, the primary's status afterwards, the error when nobody else is
# there. `slow`: how long the primary may keep the call (s).
FAULTS: dict[str, tuple[Any, str, str, str, Any, float]] = {
    "C3": (Refuse(), "transient", "protocol|transient|cut", "up", EITHER, 0),
    "C4": (Reset(), "transient", "transient|cut", "up", EITHER, 0),
    "C5": (Hang(), "transient", "timeout_first", "up", ProviderTimeout, 61),
    "C5 headers": (Hang("headers"), "transient", "timeout_first", "up", ProviderTimeout, 61),
    "H1": (Status(500), "transient", "transient", "up", ProviderUnavailable, 0),
    "H3 502": (Status(502, "<html>bad gateway</html>"), "transient", "transient", "up", ProviderUnavailable, 0),
    "H3 503": (Status(503, "<html>busy</html>"), "overload", "overloaded", "slow", ProviderUnavailable, 0),
    "H4": (Status(529), "overload", "overloaded", "slow", ProviderUnavailable, 0),
    "H5": (Status(429, headers=LIMITED), "rate", "rate_limit", "slow", RateLimited, 0),
    "H7": (Status(429, headers={"retry-after-ms": "150"}), "rate", "rate_limit", "slow", RateLimited, 0),
    "H8": (Status(429, headers={"retry-after": "1e309"}), "rate", "rate_limit", "slow", RateLimited, 0),
    "H9": (Status(429, headers={"retry-after": "86400"}), "rate", "rate_limit", "slow", RateLimited, 0),
    "H10": (Status(429, vendor_code="credit_balance_exhausted"), "billing", "quota", "down", BillingError, 0),
    "H12 401": (Status(401), "auth", "credential", "down", AuthError, 0),
    "H12 403": (Status(403), "auth", "permission|region", "down", AuthError, 0),
    "H13": (Status(402), "billing", "quota", "down", BillingError, 0),
    "H14": (Status(404, vendor_code="model_not_found"), "config", "model_gone", "down", ModelNotFound, 0),
    "H18 408": (Status(408), "transient", "conflict", "up", ProviderUnavailable, 0),
    "H18 409": (Status(409), "transient", "conflict", "up", ProviderUnavailable, 0),
    "H19": (Redirect("http://evil.example.com/v1"), "config", "route_gone", "down", ProviderUnavailable, 0),
    "H20": (Garbage("html"), "config", "not_api", "down", ProviderUnavailable, 0),
    "H21": (Garbage("empty"), "transient", "protocol|cut", "up", BadReply, 0),
    "H24": (Garbage("chunk_size"), "transient", "protocol|transient|cut", "up", EITHER, 0),
    "H24 line": (
        Garbage("status_line"),
        "transient",
        "protocol|transient|cut",
        "up",
        EITHER,
        0,
    ),
    "H23": (Garbage("huge_header"), "transient", "protocol|transient|cut", "up", EITHER, 0),
    "H25": (Cut(0.5), "transient", "cut", "up", BadReply, 0),
    "H26": (Garbage("gzip"), "transient", "protocol", "up", BadReply, 0),
    "C14": (Cut(0.5, "rst"), "transient", "cut", "up", BadReply, 0),
    "H25 clean": (Cut(0.5, "clean"), "transient", "protocol|cut", "up", BadReply, 0),
    "J1": (Garbage("json"), "transient", "protocol|cut", "up", BadReply, 0),
    "M1": (Reply("  \n ", finish=""), "transient", "protocol|cut", "up", BadReply, 0),
    "S1": (Pings(None, every=5.0), "transient", "timeout_first", "up", ProviderTimeout, 61),
}


def _kind(said: object, expected: str) -> bool:
    return str(said) in expected.split("|")


@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_of_the_primary_is_nobodys_but_the_trails(name: str, lab: Any, autojump_clock: Any) -> None:
    action, cls, kind, status, _, slow = FAULTS[name]
    lab.primary.script(action)
    async with lab.engine() as engine:
        started = trio.current_time()
        answer = await engine.complete("hi")
        assert trio.current_time() - started <= slow
        assert answer.content == SPARE
        meta = answer.metadata
        assert meta.failover
        assert (meta.provider, meta.model_used) == ("anthropic", lab.models["anthropic"])
        first, second = meta.attempts
        assert (first.provider, first.model, first.outcome) == ("openai", lab.models["openai"], cls)
        assert _kind(first.kind, kind), first
        assert first.reason
        assert first.duration <= slow
        assert (second.provider, second.outcome, second.reason) == ("anthropic", "ok", "")
        assert engine.health()["openai"].status == status
        assert engine.health()["anthropic"].status == "up"
        assert engine.health()["openai"].in_flight == 0
    assert len(lab.primary.requests) == len(lab.spare.requests) == 1


@pytest.mark.parametrize("name", FAULTS)
async def test_the_same_fault_before_a_streams_first_token(name: str, lab: Any, autojump_clock: Any) -> None:
    action, cls, _, _, _, slow = FAULTS[name]
    if isinstance(action, Cut):
        action = Cut(0, action.how)
    if isinstance(action, Reply):
        action = Reply("", finish="")
    lab.primary.script(action)
    async with lab.engine() as engine:
        started = trio.current_time()
        chunks = [chunk async for chunk in engine.stream("hi")]
        assert trio.current_time() - started <= slow
        assert "".join(chunk.content for chunk in chunks) == SPARE
        assert {chunk.kind for chunk in chunks} == {"text", "final"}
        trail = chunks[-1].metadata.attempts
        assert [(one.provider, one.outcome) for one in trail] == [("openai", cls), ("anthropic", "ok")]


@pytest.mark.parametrize("name", FAULTS)
async def test_with_one_provider_its_own_typed_error_is_raised(name: str, lab: Any, autojump_clock: Any) -> None:
    action, cls, kind, _, error, _ = FAULTS[name]
    lab.primary.always(action)
    async with lab.engine(spares=0) as engine:
        started = trio.current_time()
        with pytest.raises(error) as caught:
            await engine.complete("hi", timeout=100)
        assert trio.current_time() - started <= 100.1
        assert not isinstance(caught.value, NoProviderLeft)
        assert caught.value.provider == "openai"
        assert _kind(caught.value.kind, kind)
        assert 1 <= len(caught.value.attempts) <= 2
        assert caught.value.attempts[-1].outcome == cls
        assert str(caught.value).startswith("openai/gpt-4o-mini: ")


async def test_c1_a_closed_port_fails_over_at_once_and_opens_after_three(lab: Any, autojump_clock: Any) -> None:
    lab.primary.down()
    async with lab.engine() as engine:
        for number in range(3):
            answer = await engine.complete("hi")
            assert answer.content == SPARE
            assert len(answer.metadata.attempts) == 2, number
            assert answer.metadata.attempts[0].kind == "connect"
        assert trio.current_time() < 0.05
        assert engine.health()["openai"].status == "down"
        answer = await engine.complete("hi")
        assert [one.provider for one in answer.metadata.attempts] == ["anthropic"]  # nobody pays again
        assert answer.metadata.failover


async def test_h2_three_failures_open_and_it_comes_back_by_trials_and_ramp(lab: Any, autojump_clock: Any) -> None:
    lab.primary.script(Status(500), Status(500), Status(500))
    async with lab.engine() as engine:
        for _ in range(3):
            assert (await engine.complete("hi")).content == SPARE
        assert engine.health()["openai"].status == "down"
        for _ in range(5):
            await engine.complete("hi")
        assert len(lab.primary.requests) == 3
        seen = []
        for _ in range(80):
            await trio.sleep(1)
            await engine.complete("hi")
            seen.append(engine.health()["openai"].status)
        assert [status for status, _ in itertools.groupby(seen)] == ["down", "recovering", "up"]
        assert (await engine.complete("hi")).content == OWN


async def test_h15_a_wrong_request_is_sent_once_and_harms_nobody(lab: Any, autojump_clock: Any) -> None:
    lab.primary.always(Status(400, message="temperature is too high"))
    async with lab.engine(2) as engine:
        for _ in range(5):
            with pytest.raises(RequestRejected, match="temperature is too high") as caught:
                await engine.complete("hi")
            assert len(caught.value.attempts) == 1
            assert caught.value.attempts[0].outcome == "caller"
        assert len(lab.primary.requests) == 5
        assert lab.spare.requests == lab.third.requests == ()
        assert [one.status for one in engine.health().values()] == ["up"] * 3


async def test_h16_too_long_goes_only_to_a_larger_window(lab: Any, autojump_clock: Any) -> None:
    lab.primary.always(Status(400, vendor_code="context_length_exceeded", message="maximum context length is 128000"))
    async with lab.engine(1) as engine:  # 128k, then 200k
        assert (await engine.complete("hi")).content == SPARE
    async with lab.engine(
        1, worker_model="claude-haiku-4-5", orchestrator_model="gpt-4o", fallback_models=["gpt-4o"]
    ) as engine:
        lab.spare.always(Status(400, message="prompt is too long: 250000 tokens > 200000 maximum"))
        with pytest.raises(ContextTooLong) as caught:
            await engine.complete("hi")
        assert caught.value.provider == "anthropic"
        assert len(caught.value.attempts) == 1


async def test_h17_what_a_fallback_dislikes_does_not_hide_why_the_first_failed(lab: Any, autojump_clock: Any) -> None:
    lab.primary.always(Status(503))
    lab.spare.always(Status(400, message="prefill is not supported"))
    async with lab.engine() as engine:
        with pytest.raises(NoProviderLeft) as caught:
            await engine.complete("hi")
    error = caught.value
    assert (error.kind, error.status, error.provider) == ("overloaded", 503, "openai")
    assert [type(one) for one in error.errors] == [ProviderUnavailable, RequestRejected]
    assert "openai/gpt-4o-mini" in str(error)
    assert "prefill" in str(error)


async def test_h28_the_server_says_itself_whether_to_retry(lab: Any, autojump_clock: Any) -> None:
    lab.primary.script(Status(500, headers={"x-should-retry": "false"}))
    async with lab.engine(0) as engine:
        with pytest.raises(ProviderUnavailable) as caught:
            await engine.complete("hi")
        assert len(caught.value.attempts) == 1
    lab.primary.script(Status(400, headers={"x-should-retry": "true"}))
    async with lab.engine(2) as engine:
        answer = await engine.complete("hi")
        assert answer.content == OWN  # there, and nowhere else
        assert [one.provider for one in answer.metadata.attempts] == ["openai", "openai"]
    lab.primary.always(Status(400, headers={"x-should-retry": "true"}))
    async with lab.engine(2) as engine:
        with pytest.raises(RequestRejected) as caught2:
            await engine.complete("hi")
        assert len(caught2.value.attempts) == 2
    assert lab.spare.requests == ()


async def test_h5_alone_the_pause_is_kept_and_not_much_longer(lab: Any, autojump_clock: Any) -> None:
    lab.primary.script(Status(429, headers={"retry-after": "2"}))
    async with lab.engine(0) as engine:
        started = trio.current_time()
        assert (await engine.complete("hi")).content == OWN
        assert 2.0 <= trio.current_time() - started <= 3.0


async def test_h5_with_a_spare_nobody_waits_and_the_gate_holds(lab: Any, autojump_clock: Any) -> None:
    lab.primary.script(Status(429, headers={"retry-after": "2"}))
    async with lab.engine() as engine:
        started = trio.current_time()
        for _ in range(3):
            assert (await engine.complete("hi")).content == SPARE
        assert trio.current_time() - started < 0.1
        assert len(lab.primary.requests) == 1
        await trio.sleep(2.1)
        assert (await engine.complete("hi")).content == OWN


async def test_h6_a_date_is_read_by_the_servers_own_clock(lab: Any, autojump_clock: Any) -> None:
    dates = {"date": "Tue, 01 Jan 2030 00:00:00 GMT", "retry-after": "Tue, 01 Jan 2030 00:00:03 GMT"}
    lab.primary.script(Status(429, headers=dates))
    async with lab.engine(0) as engine:
        await engine.complete("hi")
        assert 3.0 <= trio.current_time() <= 4.0


async def test_h9_a_pause_of_a_day_is_reported_and_not_waited_for(lab: Any, autojump_clock: Any) -> None:
    lab.primary.always(Status(429, headers={"retry-after": "86400"}))
    async with lab.engine(0) as engine:
        with pytest.raises(RateLimited) as caught:
            await engine.complete("hi")
        assert caught.value.retry_after == 86400
        assert trio.current_time() < 1
        with pytest.raises(RateLimited) as caught:
            await engine.complete("hi")
        assert 500 < caught.value.retry_after <= 600  # what the gate believes
        assert len(lab.primary.requests) == 1


async def test_h11_geminis_pause_stands_in_its_body(lab: Any, autojump_clock: Any) -> None:
    retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "46s"}
    body = {"error": {"code": 429, "message": "slow", "status": "RESOURCE_EXHAUSTED", "details": [retry]}}
    lab.third.script(Status(429, body))
    async with lab.engine(2, worker_model="gemini-2.5-flash", fallback_models=["gpt-4o-mini"]) as engine:
        assert (await engine.complete("hi")).content == OWN
        await trio.sleep(45)
        assert (await engine.complete("hi")).content == OWN
        await trio.sleep(1.5)
        assert (await engine.complete("hi")).content == "Hello from gemini."


async def test_h14_only_the_missing_model_is_out(lab: Any, autojump_clock: Any) -> None:
    def by_model(seen: Any) -> Any:
        return Status(404, vendor_code="model_not_found") if seen.model == "gpt-4o-mini" else Reply(OWN)

    lab.primary.always(by_model)
    async with lab.engine() as engine:
        assert (await engine.complete("hi")).content == SPARE
        assert (await engine.complete("hi", model="gpt-4o")).content == OWN
        assert {one.model: one.status for one in engine.health()["openai"].lanes} == {
            "gpt-4o-mini": "down",
            "gpt-4o": "up",
        }


async def test_h19_the_key_is_never_carried_to_another_origin(lab: Any, autojump_clock: Any) -> None:
    lab.primary.always(Redirect(lab.third.base_url + "/chat/completions"))
    async with lab.engine() as engine:
        await engine.complete("hi")
    assert lab.third.requests == ()


async def test_all_rate_limited_says_so_and_when(lab: Any, autojump_clock: Any) -> None:
    lab.primary.always(Status(429, headers={"retry-after": "300"}))
    lab.spare.always(Status(429, headers={"retry-after": "200"}))
    async with lab.engine() as engine:
        for _ in range(2):
            with pytest.raises(NoProviderLeft) as caught:
                await engine.complete("hi")
            assert caught.value.kind == "rate_limit"
            assert caught.value.retry_after == pytest.approx(200, abs=1)
        assert len(lab.primary.requests) == len(lab.spare.requests) == 1


async def test_no_provider_left_names_each_with_its_cause(lab: Any, autojump_clock: Any) -> None:
    lab.primary.always(Status(500))
    lab.spare.always(Status(401))
    lab.third.down()
    async with lab.engine(2) as engine:
        with pytest.raises(NoProviderLeft) as caught:
            await engine.complete("hi")
    error = caught.value
    lines = str(error).splitlines()
    for name, model in lab.models.items():
        assert any(f"{name}/{model}: " in line for line in lines), error
    assert {type(one) for one in error.errors} == {ProviderUnavailable, AuthError}
    assert (error.kind, error.status) == ("credential", 401)
    assert len(error.attempts) <= 4
    assert len(error.errors) == len(error.attempts)


# ---------------------------------------------------------------------------------------------------------- streams


async def _read(stream: Any) -> tuple[list[Any], StreamInterrupted]:
    """The chunks of a stream that is interrupted, and the interruption."""
    chunks: list[Any] = []
    try:
        async for chunk in stream:
            chunks.append(chunk)  # noqa: PERF401 - what came before the error counts
    except StreamInterrupted as error:
        return chunks, error
    raise AssertionError("the stream was not interrupted")


async def _shown(stream: Any) -> tuple[str, StreamInterrupted]:
    chunks, error = await _read(stream)
    return "".join(chunk.content for chunk in chunks), error


INTERRUPTIONS = {
    "S4": Hang(2, reply=Reply("one two three four")),
    "S5": Cut(2, "clean", reply=Reply("one two three four")),
    "S6": Cut(0.6, "eof", reply=Reply("one two three four")),
    "S7": StreamError(2, "overloaded_error", reply=Reply("one two three four")),
    "C14": Cut(2, "rst", reply=Reply("one two three four")),
    "all but the end": Cut(99, "clean", reply=Reply("one two three four")),
}


@pytest.mark.parametrize("name", INTERRUPTIONS)
@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])
async def test_a_stream_that_dies_after_text_is_never_a_success(
    name: str, provider: str, lab: Any, autojump_clock: Any
) -> None:
    lab[provider].script(INTERRUPTIONS[name])
    options = {"worker_model": lab.models[provider], "orchestrator_model": lab.models[provider]}
    async with lab.engine(2, **options, fallback_models=[m for p, m in lab.models.items() if p != provider]) as engine:
        text, error = await _shown(engine.stream("hi"))
        assert text
        assert "one two three four".startswith(text)
        assert error.partial == text
        assert error.provider == provider
        assert [one.provider for one in error.attempts] == [provider]
        assert error.attempts[0].outcome in ("transient", "overload")
        whole = await engine.complete("hi")  # the same cut of a JSON answer costs nobody anything
        assert whole.content


@pytest.mark.parametrize("name", INTERRUPTIONS)
async def test_restart_takes_it_back_aloud_and_then_gives_one_whole_answer(
    name: str, lab: Any, autojump_clock: Any
) -> None:
    lab.primary.script(INTERRUPTIONS[name])
    async with lab.engine(policy={"on_interrupt": "restart"}) as engine:
        chunks = [chunk async for chunk in engine.stream("hi")]
    kinds = [chunk.kind for chunk in chunks]
    assert kinds.count("restart") == 1
    cut = kinds.index("restart")
    assert "one two three four".startswith("".join(chunk.content for chunk in chunks[:cut]))
    assert "".join(chunk.content for chunk in chunks[cut:]) == SPARE
    assert chunks[-1].response.content == SPARE


async def test_a_second_interruption_is_not_restarted(lab: Any, autojump_clock: Any) -> None:
    for provider in (lab.primary, lab.spare):
        provider.always(Cut(1, reply=Reply("one two")))
    async with lab.engine(policy={"on_interrupt": "restart"}) as engine:
        chunks, error = await _read(engine.stream("hi"))
        assert [chunk.kind for chunk in chunks].count("restart") == 1
        assert error.partial == "one"


async def test_s2_pings_keep_a_reasoning_stream_alive(lab: Any, autojump_clock: Any) -> None:
    lab.spare.script(Pings(5, every=30.0, reply=Reply("thought")))
    model = "claude-opus-5"
    async with lab.engine(1, worker_model=model, orchestrator_model=model, fallback_models=[]) as engine:
        chunks = [chunk async for chunk in engine.stream("hi")]
        assert chunks[-1].response.content == "thought"
        assert trio.current_time() >= 150


async def test_s3_headers_and_then_silence_is_not_yet_an_answer(lab: Any, autojump_clock: Any) -> None:
    lab.primary.script(Hang("headers"))
    async with lab.engine() as engine:
        chunks = [chunk async for chunk in engine.stream("hi")]
        assert chunks[-1].response.content == SPARE
        assert trio.current_time() <= 60.1


async def test_s4_the_progress_timer_ends_a_silent_stream(lab: Any, autojump_clock: Any) -> None:
    lab.primary.script(Hang(2))
    async with lab.engine() as engine:
        _, error = await _shown(engine.stream("hi"))
        assert error.kind == "timeout_gap"
        assert trio.current_time() == pytest.approx(60, abs=0.1)


async def test_s8_openais_error_inside_a_stream(lab: Any, autojump_clock: Any) -> None:
    lab.primary.script(StreamError(0, "rate_limit_exceeded"), StreamError(1, "server_error"))
    async with lab.engine() as engine:
        chunks = [chunk async for chunk in engine.stream("hi")]
        assert chunks[-1].response.content == SPARE
        assert chunks[-1].metadata.attempts[0].outcome == "rate"
        await trio.sleep(10)
        text, error = await _shown(engine.stream("hi"))
        assert text == error.partial


async def test_s16_what_comes_after_the_end_is_ignored(lab: Any, autojump_clock: Any) -> None:
    done = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
        b'data: {"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}]}\n\n'
        b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    )
    lab.primary.script(Raw(done + b'data: {"choices":[{"index":0,"delta":{"content":"more"}}]}\n\n'))
    async with lab.engine(0) as engine:
        chunks = [chunk async for chunk in engine.stream("hi")]
        assert "".join(chunk.content for chunk in chunks) == "hi"
        assert len(chunks[-1].metadata.attempts) == 1


async def test_s18_a_slow_drip_is_ended_by_the_deadline_and_blames_nobody(lab: Any, autojump_clock: Any) -> None:
    lab.primary.script(Reply("word " * 100, pace=10.0))
    async with lab.engine() as engine:
        with pytest.raises(DeadlineExceeded) as caught:
            async for _ in engine.stream("hi", timeout=45):
                pass
        assert trio.current_time() == pytest.approx(45, abs=0.1)
        assert [one.outcome for one in caught.value.attempts] == ["cancelled"]
        assert engine.health()["openai"].status == "up"


# ----------------------------------------------------------------------------------------------------------- models


@pytest.mark.parametrize("finish", ["content_filter", "refusal"])
@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])
async def test_m3_a_refusal_in_an_answer_is_an_answer(
    finish: str, provider: str, lab: Any, autojump_clock: Any
) -> None:
    lab[provider].script(Reply("I will not.", finish=finish))
    others = [m for p, m in lab.models.items() if p != provider]
    async with lab.engine(2, worker_model=lab.models[provider], fallback_models=others) as engine:
        answer = await engine.complete("hi")
        assert answer.content == "I will not."
        assert answer.metadata.finish_reason in ("content_filter", "refusal")
        assert len(answer.metadata.attempts) == 1


async def test_m4_the_name_asked_for_and_the_vendors_own(lab: Any, autojump_clock: Any) -> None:
    lab.primary.script(Reply("hi", model="gpt-4o-mini-2024-07-18"))
    async with lab.engine() as engine:
        meta = (await engine.complete("hi")).metadata
        assert (meta.model_used, meta.model_reported) == ("gpt-4o-mini", "gpt-4o-mini-2024-07-18")


async def test_m2_length_is_a_result(lab: Any, autojump_clock: Any) -> None:
    lab.primary.script(Reply("half an ans", finish="length"))
    async with lab.engine() as engine:
        answer: Completion = await engine.complete("hi")
        assert (answer.content, answer.metadata.finish_reason) == ("half an ans", "length")


# ------------------------------------------------------------------------------------------------ real loopback sockets


@pytest.mark.parametrize(
    "action",
    [
        Refuse(),
        Reset(),
        Status(503),
        Garbage("status_line"),
        Garbage("content_length"),
        Garbage("chunk_size"),
        Garbage("huge_header"),
        Garbage("gzip"),
        Cut(0.5),
        Cut(0.5, "rst"),
        Redirect("http://127.0.0.1:9/"),
        Raw(b""),
        Delay(0.01, Refuse()),
    ],
    ids=repr,
)
@pytest.mark.parametrize("stream", [False, True])
async def test_over_sockets_the_same(action: Any, stream: bool, lab: Any) -> None:
    if stream and isinstance(action, Cut):
        action = Cut(0, action.how)
    lab.primary.script(action)
    async with lab.wall, lab.engine(sockets=True) as engine:
        if stream:
            chunks = [chunk async for chunk in engine.stream("hi")]
            assert "".join(chunk.content for chunk in chunks) == SPARE
        else:
            assert (await engine.complete("hi")).content == SPARE
        assert (await engine.complete("hi", model="gpt-4o")).content  # its connections still work
        assert all(one.in_flight == 0 for one in engine.health().values())


async def test_over_sockets_a_closed_port_is_named(lab: Any) -> None:
    async with lab.wall, lab.engine(sockets=True) as engine:
        lab.primary.down()
        attempt = (await engine.complete("hi")).metadata.attempts[0]
        assert "Connection refused" in attempt.reason
        assert attempt.kind == "connect"
        assert attempt.duration < 0.5


async def test_c7_a_connection_that_the_server_gave_up_costs_nobody_anything(lab: Any) -> None:
    async with lab.wall, lab.engine(sockets=True) as engine:
        await engine.complete("hi")
        lab.primary.script(Refuse())  # on the kept-alive connection
        answer = await engine.complete("hi")
        assert answer.content == OWN
        assert [one.outcome for one in answer.metadata.attempts] == ["transient", "ok"]
        assert lab.spare.requests == ()
        assert engine.health()["openai"].status == "up"
