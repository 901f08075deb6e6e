"""An engine on a local server that is spoken to in Ollama's own dialect: same answers, tools, failover and errors."""

from __future__ import annotations

from typing import Any

import pytest

import cortex
from cortex.errors import StreamInterrupted
from cortex.testing import Cut, FaultProvider, FaultWall, Reply, Seen, Status, StreamError, ToolCalls


@pytest.fixture
def wall() -> FaultWall:
    """A local server and a spare in the cloud."""
    wall = FaultWall()
    wall.add("local", dialect="openai")
    wall.add("anthropic")
    return wall


def native(server: FaultProvider) -> str:
    """The address of its own API: the OpenAI-compatible one is at /v1."""
    return server.base_url.removesuffix("/v1")


def engine_on(wall: FaultWall, *, sockets: bool = False, **local: Any) -> cortex.Engine:
    providers = {
        "local": {"base_url": native(wall["local"]), **local},
        "anthropic": {"api_key": "key-of-anthropic", "base_url": wall["anthropic"].base_url},
    }
    return cortex.Engine(
        providers,
        worker_model="qwen3:8b",
        fallback_models=["claude-haiku-4-5"],
        transport=None if sockets else wall.transport(),
    )


def last(server: FaultProvider) -> Seen:
    assert {seen.path for seen in server.requests} == {"/api/chat"}
    return server.requests[-1]


@pytest.mark.parametrize("sockets", [False, True])
async def test_whole_and_streamed(wall: FaultWall, sockets: bool) -> None:
    wall["local"].always(Reply("Paris is nice.", thinking="Hm. So."))
    async with wall, engine_on(wall, sockets=sockets) as engine:
        session = engine.create_agent("a", "Be brief.").start_session()
        answer = await session.run("Where?", system=1)
        assert (answer.content, answer.thinking) == ("Paris is nice.", "Hm. So.")
        assert (answer.metadata.provider, answer.metadata.model_used) == ("local", "qwen3:8b")
        assert (answer.metadata.finish_reason, answer.metadata.tokens_used) == ("stop", 6)
        assert last(wall["local"]).body["stream"] is False
        async with session.run_stream("And now?", system=1) as chunks:
            shown = [chunk.content async for chunk in chunks if chunk.content]
        assert shown == ["Paris", " is", " nice."]
        assert chunks.response.content == "Paris is nice."
        asked = last(wall["local"])
        assert asked.headers["accept"] == "application/x-ndjson"
        assert [message["role"] for message in asked.body["messages"]] == ["system", "user", "assistant", "user"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_is_called_and_its_result_brought_back(wall: FaultWall, stream: bool, autojump_clock: Any) -> None:
    ran: list[str] = []

    async def weather(city: str) -> str:
        """The weather of a city."""
        ran.append(city)
        return f"sunny in {city}"

    wall["local"].script(ToolCalls(("weather", {"city": "Rome"}), ("weather", {"city": "Oslo"}), thinking="Hm."))
    async with engine_on(wall) as engine:
        session = engine.create_agent("a", tools=[weather]).start_session()
        if stream:
            async with session.run_stream("Where?", system=1) as chunks:
                async for _ in chunks:
                    pass
            answer = chunks.response
        else:
            answer = await session.run("Where?", system=1)
    assert answer.content == "Hello from local."
    assert sorted(ran) == ["Oslo", "Rome"]
    _, said, *results = last(wall["local"]).body["messages"]
    assert said["thinking"] == "Hm."
    assert [call["function"]["arguments"] for call in said["tool_calls"]] == [{"city": "Rome"}, {"city": "Oslo"}]
    assert [(one["tool_name"], one["content"]) for one in results] == [
        ("weather", "sunny in Rome"),
        ("weather", "sunny in Oslo"),
    ]


@pytest.mark.parametrize("fault", [Status(503), Status(404), Cut(0, "clean"), StreamError(0), Cut("headers", "clean")])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_spare_takes_over(wall: FaultWall, fault: Any, stream: bool, autojump_clock: Any) -> None:
    wall["local"].always(fault)
    async with engine_on(wall) as engine:
        if stream:
            shown = [chunk.content async for chunk in engine.stream("hi")]
            assert "".join(shown) == "Hello from anthropic."
        else:
            assert (await engine.complete("hi")).content == "Hello from anthropic."
    assert last(wall["local"]).body["stream"] is stream


@pytest.mark.parametrize("fault", [Cut(2, "clean"), Cut(2), StreamError(2), Cut(99, "clean")])
async def test_a_stream_without_its_last_line_is_never_a_success(
    wall: FaultWall, fault: Any, lab: Any, autojump_clock: Any
) -> None:
    wall["local"].always(fault)
    chunks: list[Any] = []
    async with engine_on(wall) as engine:
        with pytest.raises(StreamInterrupted) as caught:
            await lab.read(engine.stream("hi"), chunks)
    assert chunks
    assert caught.value.partial == "".join(chunk.content for chunk in chunks)
    assert caught.value.provider == "local"


async def test_an_address_of_either_kind_will_do_when_the_dialect_is_named(
    wall: FaultWall, autojump_clock: Any
) -> None:
    for base_url in (wall["local"].base_url, native(wall["local"]) + "/api"):
        async with engine_on(wall, base_url=base_url, api="ollama") as engine:
            assert (await engine.complete("hi")).content == "Hello from local."
    assert len(wall["local"].requests) == 2
    last(wall["local"])
