"""The engine at the public door: single calls, plans, health, switches, configuration errors."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

import cortex
from cortex.testing import FaultWall, Reply, Status, ToolCalls

Make = Callable[..., cortex.Engine]


async def test_complete_is_one_routed_call(autojump_clock: object, make_engine: Make, memory_wall: FaultWall) -> None:
    memory_wall["gemini"].always(Reply("Paris.", usage=(5, 1)))
    async with make_engine("gemini", "openai") as engine:
        done = await engine.complete("Capital of France?", temperature=0.1, max_tokens=9)
    assert (done.content, done.metadata.model_used, done.metadata.provider) == ("Paris.", "gemini-2.5-flash", "gemini")
    assert done.metadata.system is None
    config = memory_wall["gemini"].requests[0].body["generationConfig"]
    assert (config["temperature"], config["maxOutputTokens"]) == (0.1, 9)


async def test_complete_takes_dicts_and_messages_and_a_role(
    autojump_clock: object, make_engine: Make, memory_wall: FaultWall
) -> None:
    async with make_engine("gemini", "openai") as engine:
        await engine.complete(
            [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Hi"},
                cortex.Message("assistant", (cortex.Text("Hello."),)),
                {"role": "user", "content": "Bye"},
            ],
            role="orchestrator",
        )
    sent = memory_wall["openai"].requests[0].body["messages"]
    assert [message["role"] for message in sent] == ["system", "user", "assistant", "user"]


async def test_complete_offers_tools_and_runs_none(
    autojump_clock: object, make_engine: Make, memory_wall: FaultWall
) -> None:
    ran: list[str] = []

    async def weather(city: str) -> str:
        """Weather of a city."""
        ran.append(city)
        return "sun"

    memory_wall["openai"].script(ToolCalls(("weather", {"city": "Paris"})))
    async with make_engine("openai") as engine:
        done = await engine.complete("Weather?", tools=[weather], tool_choice="required")
    assert [(call.name, call.arguments) for call in done.tool_calls] == [("weather", {"city": "Paris"})]
    assert done.metadata.finish_reason == "tool_calls"
    assert ran == []
    assert memory_wall["openai"].requests[0].body["tool_choice"] == "required"


def forecast(city: str) -> str:
    """Weather of a city."""
    return "sun"


@pytest.mark.parametrize(
    ("choice", "sent"), [("auto", ...), (None, ...), ("none", "none"), ("forecast", {"name": "forecast"})]
)
async def test_the_choice_of_a_tool_is_sent(
    autojump_clock: object, make_engine: Make, memory_wall: FaultWall, choice: str | None, sent: Any
) -> None:
    async with make_engine("openai") as engine:
        await engine.complete("Weather?", tools=[forecast], tool_choice=choice)
    told = memory_wall["openai"].requests[0].body.get("tool_choice", ...)
    assert (told["function"] if isinstance(told, dict) else told) == sent


@pytest.mark.parametrize(
    ("choice", "tools", "match"),
    [
        (
            "forcast",
            [forecast],
            r'must be one of auto, none, required, forecast, not \'forcast\'; did you mean "forecast"',
        ),
        ("forecast", [], "there are no tools"),
        ("required", [], "there are no tools"),
    ],
)
async def test_a_choice_among_tools_that_are_not_there(
    make_engine: Make, memory_wall: FaultWall, choice: str, tools: Any, match: str
) -> None:
    with pytest.raises(cortex.ConfigError, match=f"^tool_choice: {match}"):
        await make_engine("openai").complete("Weather?", tools=tools, tool_choice=choice)
    assert memory_wall["openai"].requests == ()


async def test_a_model_may_be_addressed_at_a_provider(
    autojump_clock: object, make_engine: Make, memory_wall: FaultWall
) -> None:
    async with make_engine("openai", "gemini") as engine:
        done = await engine.complete("hi", model="gemini/gemini-2.5-pro")
    assert (done.metadata.provider, memory_wall["openai"].requests) == ("gemini", ())


async def test_stream_gives_chunks_and_then_the_whole(
    autojump_clock: object, make_engine: Make, memory_wall: FaultWall
) -> None:
    memory_wall["openai"].always(Reply("one two three", thinking="hm"))
    async with make_engine("openai") as engine, engine.stream("count") as stream:
        chunks = [chunk async for chunk in stream]
    assert "".join(chunk.content for chunk in chunks) == "one two three"
    assert [chunk.kind for chunk in chunks][-1] == "final"
    assert {chunk.kind for chunk in chunks} == {"thinking", "text", "final"}
    assert stream.response.content == "one two three"
    assert chunks[-1].metadata is not None
    assert chunks[-1].metadata.provider == "openai"


@pytest.mark.parametrize("streamed", [False, True])
async def test_what_an_answer_cites_is_told_as_the_vendor_names_it(autojump_clock: object, streamed: bool) -> None:
    source = {"type": "url_citation", "url_citation": {"url": "https://a.example"}}

    def answer(request: httpx.Request) -> httpx.Response:
        said = {"content": "Paris.", "annotations": [source]}
        body = {"choices": [{"message": said, "delta": said, "finish_reason": "stop"}]}
        if json.loads(request.content).get("stream"):
            text = f"data: {json.dumps(body)}\n\ndata: [DONE]\n\n"
            return httpx.Response(200, headers={"content-type": "text/event-stream"}, text=text)
        return httpx.Response(200, json=body)

    providers = {"openai": {"api_key": "k"}}
    transport = httpx.MockTransport(answer)
    async with cortex.Engine(providers=providers, worker_model="gpt-4o", transport=transport) as engine:
        session = engine.create_agent("a").start_session()
        if streamed:
            async with engine.stream("Where?") as call, session.run_stream("Where?") as turn:
                finals = [[chunk async for chunk in stream][-1].response for stream in (call, turn)]
        else:
            finals = [await engine.complete("Where?"), await session.run("Where?")]
    assert [final.citations for final in finals if final] == [(source,), (source,)]


async def test_explain_starts_nothing_and_says_why(make_engine: Make, memory_wall: FaultWall) -> None:
    engine = make_engine("openai", "gemini", fallback_models=[])
    plan = engine.explain()
    assert [(lane.provider, lane.model, lane.verdict) for lane in plan.lanes] == [("openai", "gpt-4o", "ready")]
    assert json.dumps(plan.as_dict())
    assert "openai/gpt-4o" in str(plan)
    assert memory_wall["openai"].requests == ()


async def test_explain_tells_of_zones(make_engine: Make) -> None:
    engine = cortex.Engine(
        providers={"openai": {"api_key": "sk-x"}, "local": {"base_url": "http://localhost:11434/v1"}},
        orchestrator_model="gpt-4o",
        worker_model="llama3.1:8b",
    )
    lanes = {(lane.provider, lane.verdict): lane.reason for lane in engine.explain(role="worker").lanes}
    assert ("local", "ready") in lanes
    assert "zone" in lanes["openai", "left out"]


async def test_health_before_the_first_call(make_engine: Make) -> None:
    health = make_engine("openai", "gemini").health()
    assert {name: one.status for name, one in health.items()} == {"openai": "up", "gemini": "up"}
    assert json.dumps([one.as_dict() for one in health.values()])


async def test_set_enabled_takes_a_provider_out_and_puts_it_back(
    autojump_clock: object, make_engine: Make, memory_wall: FaultWall
) -> None:
    async with make_engine("openai", "gemini") as engine:
        await engine.set_enabled("openai", False)
        assert engine.health()["openai"].status == "off"
        assert (await engine.complete("hi")).metadata.provider == "gemini"
        assert memory_wall["openai"].requests == ()
        await engine.set_enabled("openai", True)
        assert (await engine.complete("hi")).metadata.provider == "openai"
        with pytest.raises(cortex.ConfigError, match="openay"):
            await engine.set_enabled("openay", True)


async def test_recheck_tries_a_mended_key_at_once(
    autojump_clock: object, make_engine: Make, memory_wall: FaultWall
) -> None:
    memory_wall["openai"].script(Status(401))
    async with make_engine("openai", "gemini") as engine:
        assert (await engine.complete("hi")).metadata.provider == "gemini"
        assert engine.health()["openai"].status == "down"
        await engine.recheck("openai")
        assert (await engine.complete("hi")).metadata.provider == "openai"


async def test_one_warning_when_a_model_nobody_named_serves(
    autojump_clock: object, make_engine: Make, memory_wall: FaultWall, caplog: pytest.LogCaptureFixture
) -> None:
    memory_wall["openai"].always(Status(400 + 1))
    with caplog.at_level(logging.WARNING, "cortex"):
        async with make_engine("openai", "gemini", worker_model="gpt-4o") as engine:
            used = {(await engine.complete("hi")).metadata.model_used for _ in range(3)}
    assert len(used) == 1
    said = [record for record in caplog.records if next(iter(used)) in record.getMessage()]
    assert len(said) == 1


def test_the_environment_makes_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [
        name for name in os.environ if name.endswith(("_API_KEY", "_HOST", "_BASE_URL")) or name.startswith("CORTEX_")
    ]:
        monkeypatch.delenv(name)
    with pytest.raises(cortex.ConfigError, match="OPENAI_API_KEY"):
        cortex.Engine.from_env()
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("GEMINI_API_KEY", "AIza-secret")
    monkeypatch.setenv("CORTEX_PROVIDERS", "openai")
    engine = cortex.Engine.from_env(worker_model="gpt-4o-mini")
    assert list(engine.health()) == ["openai"]
    assert engine.settings.worker_model == "gpt-4o-mini"


def test_a_file_makes_an_engine_and_its_errors_name_file_table_and_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret")
    path = tmp_path / "cortex.toml"
    path.write_text('worker_model = "gpt-4o"\n[providers.openai]\napi_key = {env = "MY_KEY"}\n')
    assert cortex.Engine.from_config(path).settings.worker_model == "gpt-4o"
    path.write_text('worker_model = "gpt-4o"\n[providers.openai]\napi_kee = "x"\n')
    with pytest.raises(cortex.ConfigError, match=r"cortex\.toml.*providers\.openai.*api_kee|api_kee") as caught:
        cortex.Engine.from_config(path)
    assert "cortex.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"providers": {}}, "providers"),
        ({"providers": []}, "list"),
        ({"providers": {"antropic": {"api_key": "k"}}}, "anthropic"),
        ({"providers": {"openai": {"api_kee": "k"}}}, "api_key"),
        ({"providers": {"openai": {"api_key": 7}}}, "int"),
        ({"providers": {"openai": {"api_key": "k"}}, "worker_model": "mystery"}, "mystery"),
        ({"providers": {"openai": {"api_key": "k"}}, "worker_model": 3}, "int"),
        ({"providers": {"openai": {"api_key": "k"}}, "fallback_models": "gpt-4o"}, "fallback_models"),
        ({"providers": {"openai": {"api_key": "k"}}, "policy": {"total_timeout": -1}}, "total_timeout"),
        ({"providers": {"openai": {"api_key": "k"}}, "policy": {"totl_timeout": 1}}, "total_timeout"),
        ({"providers": {"openai": {"api_key": "k"}}, "transport": object()}, "transport"),
        ({"providers": {"openai": {"api_key": "k", "base_url": "api.openai.com"}}}, "base_url"),
        ({"providers": {"openai": {"api_key": "k", "base_url": "https://u:p@x.com"}}}, "base_url"),
    ],
)
def test_a_configuration_that_cannot_work_is_an_error_at_once(given: dict[str, Any], word: str) -> None:
    with pytest.raises(cortex.ConfigError, match=word):
        cortex.Engine(**given)


def test_a_missing_key_names_the_field_and_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(cortex.ConfigError, match=r"providers\.openai\.api_key.*OPENAI_API_KEY"):
        cortex.Engine(providers={"openai": {}}, worker_model="gpt-4o")


@pytest.mark.parametrize(
    ("messages", "word"),
    [
        ([], "messages"),
        ([{"role": "tool", "tool_call_id": "x", "content": "y"}], "tool result"),
        ([{"role": "robot", "content": "y"}], "robot|role"),
        ([{"content": "y"}], "role"),
        (3, "int"),
    ],
)
async def test_bad_messages_are_typed_errors(make_engine: Make, messages: Any, word: str) -> None:
    with pytest.raises(cortex.ConfigError, match=word):
        await make_engine("openai").complete(messages)


async def test_bad_tools_are_typed_errors(make_engine: Make) -> None:
    def no_hints(x):  # type: ignore[no-untyped-def]
        """No hints."""

    def fine(x: int) -> int:
        """Fine."""
        return x

    engine = make_engine("openai")
    with pytest.raises(cortex.ConfigError, match="no_hints"):
        engine.create_agent(name="a", tools=[no_hints])
    with pytest.raises(cortex.ConfigError, match="fine"):
        engine.create_agent(name="a", tools=[fine, fine])
    with pytest.raises(cortex.ConfigError, match="name"):
        engine.create_agent(name="")


async def test_nothing_works_after_close_and_closing_twice_is_fine(
    autojump_clock: object, make_engine: Make, memory_wall: FaultWall
) -> None:
    async with make_engine("openai") as engine:
        session = engine.create_agent(name="a").start_session()
        await session.run("hi")
    await engine.aclose()
    with pytest.raises(cortex.EngineClosed):
        await session.run("hi")
    with pytest.raises(cortex.EngineClosed):
        await engine.complete("hi")
    with pytest.raises(cortex.EngineClosed):
        async with engine:
            pass


async def test_a_key_is_never_shown(autojump_clock: object, make_engine: Make, memory_wall: FaultWall) -> None:
    secret = "key-of-openai"
    memory_wall["openai"].always(Status(401, {"error": {"message": f"Incorrect API key provided: {secret}."}}))
    async with make_engine("openai") as engine:
        with pytest.raises(cortex.AuthError) as caught:
            await engine.complete("hi")
        shown = [
            repr(engine),
            repr(engine.settings),
            str(engine.explain()),
            str(engine.health()),
            repr(engine.health()),
        ]
    error = caught.value
    shown += [str(error), repr(error), str(error.attempts), repr(error.attempts)]
    for text in shown:
        assert secret not in text


async def test_a_users_own_transport_is_used_and_left_open(autojump_clock: object) -> None:
    class Counting(httpx.AsyncBaseTransport):
        calls, closed = 0, False

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            self.calls += 1
            await trio.lowlevel.checkpoint()
            return httpx.Response(
                200,
                json={
                    "model": "gpt-4o",
                    "choices": [{"message": {"role": "assistant", "content": "mine"}, "finish_reason": "stop"}],
                },
            )

        async def aclose(self) -> None:
            self.closed = True

    transport = Counting()
    engine = cortex.Engine(providers={"openai": {"api_key": "k"}}, worker_model="gpt-4o", transport=transport)
    async with engine:
        assert (await engine.complete("hi")).content == "mine"
    assert (transport.calls, transport.closed) == (1, False)
