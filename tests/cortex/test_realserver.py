"""A real llama.cpp server with a tiny deterministic model, spoken to in each dialect that it knows.

The server's script and model are not part of this project: CORTEX_REALSERVER names their folder. Without it, or without
the `xllamacpp` wheel, these tests are skipped.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx
import pytest

import cortex
from cortex.messages import Message, Text, ToolCall, ToolResult

SERVER = Path(os.environ.get("CORTEX_REALSERVER", Path(__file__).parents[3] / "shared" / "realserver"))
SAYS = "Hello from a tiny local model."

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (SERVER / "serve.py").exists(), reason="no real server here: set CORTEX_REALSERVER"),
    pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="the wheel xllamacpp is not installed"),
]


class Server:
    """One server process on a free port."""

    def __init__(self, model: str = "markov.gguf") -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.base_url = f"http://127.0.0.1:{port}/v1"
        self._process = subprocess.Popen(
            [sys.executable, str(SERVER / "serve.py"), str(port), model, "--seconds", "120"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(300):
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        self.kill()
        pytest.fail("the real server did not start within 15 s")

    def kill(self) -> None:
        """Gone at once, sockets and all."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.kill()


@pytest.fixture
def spare() -> Iterator[Server]:
    one = Server()
    yield one
    one.kill()


def engine_on(*servers: Server) -> cortex.Engine:
    names = ["local", "backup"]
    providers = {name: {"kind": "local", "base_url": one.base_url} for name, one in zip(names, servers, strict=False)}
    return cortex.Engine(
        providers={name: {**given, "models": ["tiny"]} for name, given in providers.items()}, worker_model="tiny"
    )


async def test_a_session_as_json(server: Server) -> None:
    async with engine_on(server) as engine:
        session = engine.create_agent(name="a").start_session()
        response = await session.run("hello", temperature=0)
        cut = await session.run("again", temperature=0, max_tokens=3)
    assert response.content.strip() == SAYS
    assert (response.metadata.provider, response.metadata.finish_reason) == ("local", "stop")
    assert response.metadata.tokens_used > 0
    assert (cut.content, cut.metadata.finish_reason) == ("Hello from a", "length")


async def test_a_session_as_a_stream(server: Server) -> None:
    async with engine_on(server) as engine:
        chunks = [
            chunk async for chunk in engine.create_agent(name="a").start_session().run_stream("hi", temperature=0)
        ]
    assert "".join(chunk.content for chunk in chunks).strip() == SAYS
    assert len([chunk for chunk in chunks if chunk.kind == "text"]) > 1
    assert chunks[-1].kind == "final"


async def test_forced_tools_are_returned(server: Server) -> None:
    async def get_weather(city: str, unit: Literal["c", "f"]) -> str:
        """Weather."""
        return f"{city} {unit}"

    async with engine_on(server) as engine:
        done = await engine.complete(
            "weather?", tools=[get_weather], tool_choice="required", temperature=0, max_tokens=300
        )
    assert [(call.name, call.arguments) for call in done.tool_calls] == [
        ("get_weather", {"city": "Paris", "unit": "f"})
    ]
    assert done.metadata.finish_reason == "tool_calls"


async def test_a_server_that_dies_in_a_stream_is_an_interruption_with_what_was_shown(server: Server) -> None:
    shown: list[str] = []
    async with engine_on(server) as engine:

        async def read_and_kill() -> None:
            async for chunk in engine.stream("hello", extra={"ignore_eos": True}, max_tokens=3500):
                shown.append(chunk.content)
                server.kill()

        with pytest.raises(cortex.StreamInterrupted) as caught:
            await read_and_kill()
    assert caught.value.partial == "".join(shown)
    assert caught.value.partial
    assert caught.value.provider == "local"


async def test_a_second_server_takes_over(server: Server, spare: Server) -> None:
    async with engine_on(server, spare) as engine:
        session = engine.create_agent(name="a").start_session()
        await session.run("hello", temperature=0)
        server.kill()
        response = await session.run("again", temperature=0)
        response = await session.run("again", temperature=0)
    assert response.content.strip() == SAYS
    assert response.metadata.provider == "backup"


def test_cortex_ask(server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    cli = pytest.importorskip("cortex.cli")
    for name in [name for name in os.environ if name.endswith("_API_KEY") or name.startswith("CORTEX_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OLLAMA_HOST", server.base_url.removesuffix("/v1"))
    monkeypatch.setenv("CORTEX_WORKER_MODEL", "tiny")
    assert cli.main(["ask", "hello"]) == 0
    assert "tiny local model" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------- in each dialect

THOUGHT = "Let me think about it"


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    """One for tests that leave it as it was."""
    one = Server()
    yield one
    one.kill()


@pytest.fixture(scope="module")
def thinker() -> Iterator[Server]:
    one = Server("markov-think.gguf")
    yield one
    one.kill()


def spoken(server: Server, dialect: str) -> cortex.Engine:
    """An engine that speaks this dialect with the server."""
    provider: dict[str, object] = {
        "chat": {"kind": "local", "base_url": server.base_url},
        "responses": {"kind": "local", "base_url": server.base_url, "api": "responses"},
        "messages": {"kind": "anthropic", "base_url": server.base_url, "api_key": "none-is-asked"},
    }[dialect]
    return cortex.Engine(providers={"tiny": {**provider, "models": ["tiny"]}}, worker_model="tiny")


async def get_weather(city: str, unit: Literal["c", "f"]) -> str:
    """Weather."""
    return f"{city} {unit}"


every_dialect = pytest.mark.parametrize("dialect", ["chat", "responses", "messages"])


def without(dialect: str, why: str) -> pytest.MarkDecorator:
    """Each dialect but one, in which this server cannot do it."""
    names = ("chat", "responses", "messages")
    skip = pytest.mark.skip(reason=f"llama.cpp: {why}")
    return pytest.mark.parametrize(
        "dialect", [pytest.param(name, marks=skip) if name == dialect else name for name in names]
    )


@every_dialect
async def test_an_answer(shared: Server, dialect: str) -> None:
    async with spoken(shared, dialect) as engine:
        done = await engine.complete("hello", temperature=0)
    assert (done.content.strip(), done.metadata.finish_reason) == (SAYS, "stop")
    assert (done.metadata.usage.input_tokens, done.metadata.usage.output_tokens) == (24, 8)


@without("responses", "an answer that was cut is called completed")
async def test_an_answer_that_was_cut(shared: Server, dialect: str) -> None:
    async with spoken(shared, dialect) as engine:
        cut = await engine.complete("hello", temperature=0, max_tokens=3)
    assert (cut.content.strip(), cut.metadata.finish_reason) == ("Hello from a", "length")


@every_dialect
async def test_a_stream_is_the_same_answer(shared: Server, dialect: str) -> None:
    async with spoken(shared, dialect) as engine:
        done = await engine.complete("hello", temperature=0)
        chunks = [chunk async for chunk in engine.stream("hello", temperature=0)]
    texts = [chunk.content for chunk in chunks if chunk.kind == "text"]
    assert len(texts) > 3
    assert "".join(texts) == done.content == chunks[-1].response.content
    assert chunks[-1].metadata.usage.output_tokens == 8


@every_dialect
async def test_a_forced_tool(shared: Server, dialect: str) -> None:
    asked = {"tools": [get_weather], "tool_choice": "required", "temperature": 0, "max_tokens": 300}
    async with spoken(shared, dialect) as engine:
        done = await engine.complete("weather?", **asked)
        chunks = [chunk async for chunk in engine.stream("weather?", **asked)]
    for one in (done, chunks[-1].response):
        assert [(call.name, call.arguments) for call in one.tool_calls] == [
            ("get_weather", {"city": "Paris", "unit": "f"})
        ]
        assert (one.content.strip(), one.metadata.finish_reason) == (SAYS, "tool_calls")


@every_dialect
@pytest.mark.parametrize("stream", [False, True])
async def test_parallel_tools(shared: Server, dialect: str, stream: bool) -> None:
    """How many calls the model makes is a matter of luck: it is asked until it makes more than one."""
    told = {} if dialect == "messages" else {"parallel_tool_calls": True}
    asked = {"tools": [get_weather], "tool_choice": "required", "temperature": 1, "max_tokens": 300, "extra": told}
    async with spoken(shared, dialect) as engine:
        for _ in range(50):
            if stream:
                done = [chunk async for chunk in engine.stream("weather?", **asked)][-1].response
            else:
                done = await engine.complete("weather?", **asked)
            if len(done.tool_calls) > 1:
                break
    assert len(done.tool_calls) > 1
    assert len({call.id for call in done.tool_calls}) == len(done.tool_calls)
    assert {call.name for call in done.tool_calls} == {"get_weather"}


@every_dialect
async def test_what_tools_gave_is_taken_back(shared: Server, dialect: str) -> None:
    """The server reads a conversation of calls and results, one of which failed."""
    calls = (ToolCall("call_1", "get_weather", {"city": "Paris", "unit": "f"}), ToolCall("call_2", "get_weather", {}))
    results = (ToolResult("call_1", "get_weather", "sunny"), ToolResult("call_2", "get_weather", "no", is_error=True))
    history = [Message("user", (Text("weather?"),)), Message("assistant", calls), Message("tool", results)]
    async with spoken(shared, dialect) as engine:
        done = await engine.complete(history, tools=[get_weather], temperature=0)
    assert done.content.strip() == SAYS
    assert done.metadata.usage.input_tokens > 100


@dataclass
class Place:
    """What a typed answer is asked for as."""

    city: str
    n: int


@without("responses", "a schema is passed over")
async def test_a_typed_answer(shared: Server, dialect: str) -> None:
    async with spoken(shared, dialect) as engine:
        done = await engine.complete("where?", output_type=Place, temperature=0, max_tokens=300)
    assert done.output == Place("Paris", 4)


@every_dialect
async def test_thinking(thinker: Server, dialect: str) -> None:
    async with spoken(thinker, dialect) as engine:
        done = await engine.complete("hello", temperature=0)
        chunks = [chunk async for chunk in engine.stream("hello", temperature=0)]
    assert (done.content.strip(), done.thinking) == (SAYS, THOUGHT)
    assert "".join(chunk.thinking for chunk in chunks if chunk.kind == "thinking") == THOUGHT
    assert chunks[-1].response.thinking == THOUGHT
