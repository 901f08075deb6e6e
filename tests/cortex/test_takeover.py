"""A conversation carried on by somebody else, in the middle of its tools: no tool runs twice, nothing is lost, and what
only its issuer can read stays with it. Every vendor's dialect takes over from every other."""

from __future__ import annotations

import importlib.util
import itertools
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

import cortex
from cortex.testing import FaultWall, Reply, Seen, Status, ToolCalls

MODELS = {
    "openai": "gpt-4o",
    "anthropic": "claude-haiku-4-5",
    "gemini": "gemini-2.5-flash",
    "local": "qwen3:8b",
    "deepseek": "deepseek-v4-pro",
    "mistral": "mistral-large-latest",
}
HOSTS = {"deepseek": "https://api.deepseek.com", "mistral": "https://api.mistral.ai/v1"}  # whose ways the host tells
WIRES = {"anthropic": "anthropic", "gemini": "gemini", "local": "ollama"}  # others speak OpenAI's
PAIRS = list(itertools.permutations(MODELS, 2))
THOUGHT = "First the seat, then the sky."


def pairs_of(seen: Seen, dialect: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The calls and the results of a request, in order: their ids (Gemini: names) and arguments, or contents."""
    calls: list[tuple[str, str]] = []
    results: list[tuple[str, str]] = []
    if dialect not in ("anthropic", "gemini"):
        for message in seen.body["messages"]:
            for one in message.get("tool_calls", ()):
                given = one["function"]["arguments"]
                calls.append((one["id"], given if isinstance(given, str) else json.dumps(given)))  # Ollama's: an object
            if message["role"] == "tool":
                results.append((message["tool_call_id"], message["content"]))
        return calls, results
    if dialect == "anthropic":
        for block in itertools.chain.from_iterable(
            message["content"] for message in seen.body["messages"] if not isinstance(message["content"], str)
        ):
            if block["type"] == "tool_use":
                calls.append((block["id"], json.dumps(block["input"])))
            if block["type"] == "tool_result":
                results.append((block["tool_use_id"], json.dumps(block["content"])))
        return calls, results
    for part in itertools.chain.from_iterable(message["parts"] for message in seen.body["contents"]):
        if "functionCall" in part:
            calls.append((part["functionCall"]["name"], json.dumps(part["functionCall"]["args"])))
        if "functionResponse" in part:
            results.append((part["functionResponse"]["name"], json.dumps(part["functionResponse"]["response"])))
    return calls, results


def wall_of_all() -> tuple[FaultWall, dict[str, dict[str, Any]]]:
    """A wall with everybody on it, and the configuration of each."""
    wall = FaultWall()
    for name in MODELS:
        wall.add(name, dialect="openai" if name == "local" or name in HOSTS else None)
    providers: dict[str, dict[str, Any]] = {
        name: {"api_key": f"key-of-{name}", "base_url": HOSTS.get(name) or wall[name].base_url} for name in MODELS
    }
    providers["local"] = {"base_url": wall["local"].base_url.removesuffix("/v1")}
    for name in HOSTS:
        providers[name] |= {"kind": "openai", "models": [MODELS[name]]}
    return wall, providers


class Hosts(httpx.AsyncBaseTransport):
    """The wall in memory, some of it under the names of real hosts."""

    def __init__(self, wall: FaultWall) -> None:
        self._inner = wall.transport()
        self._homes = {url: wall[name].base_url for name, url in HOSTS.items()}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        for url, home in self._homes.items():
            if str(request.url).startswith(url):
                request.url = httpx.URL(home + str(request.url).removeprefix(url))
        return await self._inner.handle_async_request(request)


def _rules() -> ModuleType:
    """The vendors' own rules: a module beside the tests of the wire, which are no package."""
    spec = importlib.util.spec_from_file_location("rules", Path(__file__).parent / "wire" / "rules.py")
    assert spec
    assert spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


RULES = _rules()


def accepted(seen: Seen, name: str) -> None:
    """The vendor would take it."""
    host = HOSTS.get(name, "https://api.openai.com/v1" if name == "openai" else "")
    RULES.accept(WIRES.get(name, "openai_chat"), json.dumps(seen.body).encode(), MODELS[name], host)


class Tools:
    """Two that work and one that does not; they remember how often they ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    async def book(self, seat: int) -> str:
        """Book a seat."""
        self.ran.append(f"book {seat}")
        return f"seat {seat} is booked"

    async def weather(self, city: str) -> dict[str, Any]:
        """The weather of a city."""
        self.ran.append(f"weather {city}")
        return {"sky": "blue"}

    async def broken(self) -> str:
        """Raises."""
        self.ran.append("broken")
        raise LookupError("out of order")


CALLS = ToolCalls(
    ("book", {"seat": 1}), ("weather", {"city": "Rome"}), ("book", {"seat": 2}), ("broken", {}), thinking=THOUGHT
)
RAN = ["book 1", "weather Rome", "book 2", "broken"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("first", "second"), PAIRS)
async def test_m7_between_two_rounds_of_tools(first: str, second: str, stream: bool, autojump_clock: Any) -> None:
    (wall, providers), tools = wall_of_all(), Tools()
    wall[first].script(CALLS, Status(500))
    engine = cortex.Engine(
        {name: providers[name] for name in (first, second)},
        worker_model=MODELS[first],
        fallback_models=[MODELS[second]],
        transport=Hosts(wall),
    )
    async with engine:
        agent = engine.create_agent("a", "Be brief.", tools=[tools.book, tools.weather, tools.broken])
        session = agent.start_session()
        answer = await ask(session, "Go.", stream)
        assert sorted(tools.ran) == sorted(RAN)
        assert answer.content == f"Hello from {second}."
        assert answer.metadata.failover
        took_over = wall[second].requests[-1]
        whole(took_over, second)
        accepted(took_over, second)
        assert THOUGHT not in json.dumps(took_over.body)

        # ... and back again: the first one is well, and goes on from what the second one said.
        again = await ask(session, "And now?", stream)
        assert again.content == f"Hello from {first}."
        back = wall[first].requests[-1]
        whole(back, first)
        accepted(back, first)
        assert (THOUGHT in json.dumps(back.body)) is (first in ("anthropic", "deepseek"))
        assert f"Hello from {second}." in json.dumps(back.body)
        assert sorted(tools.ran) == sorted(RAN)


async def ask(session: Any, message: str, stream: bool) -> Any:
    if not stream:
        return await session.run(message, system=1)
    async with session.run_stream(message, system=1) as chunks:
        async for _ in chunks:
            pass
        return chunks.response


def whole(seen: Seen, dialect: str) -> None:
    """Every call is there with its arguments, and each has its result, in the same order."""
    calls, results = pairs_of(seen, dialect)
    assert [json.loads(arguments) for _, arguments in calls] == [{"seat": 1}, {"city": "Rome"}, {"seat": 2}, {}]
    assert [ident for ident, _ in calls] == [ident for ident, _ in results]
    contents = [content for _, content in results]
    for words, content in zip(("seat 1", "blue", "seat 2", "out of order"), contents, strict=True):
        assert words in content
    if dialect != "gemini":
        assert len({ident for ident, _ in calls}) == 4


async def test_round_the_circle_of_all_and_back(autojump_clock: Any) -> None:
    """One turn each, with thinking and tools; the last one knows everything that was said."""
    (wall, providers), tools = wall_of_all(), Tools()
    async with cortex.Engine(providers, worker_model="gpt-4o", transport=Hosts(wall)) as engine:
        session = engine.create_agent("a", tools=[tools.book]).start_session()
        circle = [*MODELS, *MODELS, "openai"]
        for number, name in enumerate(circle):
            said = ToolCalls(("book", {"seat": number}), text=f"Let me see {number}.", thinking=f"Hm {number}.")
            wall[name].script(said, Reply(f"Answer {number}.", thinking=f"So {number}."))
            answer = await session.run(f"Question {number}?", system=1, model=MODELS[name])
            assert answer.content == f"Answer {number}."
        assert tools.ran == [f"book {number}" for number in range(len(circle))]
        last = json.dumps(wall["openai"].requests[-1].body)
        for number in range(len(circle)):
            assert f"Question {number}?" in last
            assert f"Let me see {number}." in last
            assert f"seat {number} is booked" in last
        assert all(f"Answer {number}." in last for number in range(len(circle) - 1))
        # What Anthropic signed goes back to it, and to nobody else.
        own = json.dumps(wall["anthropic"].requests[-1].body)
        assert '"thinking": "Hm 1."' in own
        assert "Hm 0." not in own
        # What DeepSeek thought aloud it wants back, for good, and a blank for what it did not think.
        told = [m.get("reasoning_content") for m in wall["deepseek"].requests[-1].body["messages"]]
        assert [thought for thought in told if thought and thought.strip()] == ["Hm 4.", "So 4.", "Hm 10."]
        for name in MODELS:
            for seen in wall[name].requests:
                accepted(seen, name)
