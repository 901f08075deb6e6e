"""A conversation carried on by somebody else, in the middle of its tools: no tool runs twice, nothing is lost, and what
only its issuer can read stays with it. Every vendor's dialect takes over from every other."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

import cortex
from cortex.testing import FaultWall, Reply, Seen, Status, ToolCalls

MODELS = {"openai": "gpt-4o", "anthropic": "claude-haiku-4-5", "gemini": "gemini-2.5-flash", "local": "qwen3:8b"}
PAIRS = list(itertools.permutations(MODELS, 2))
THOUGHT = "First the seat, then the sky."


def pairs_of(seen: Seen, dialect: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The calls and the results of a request, in order: their ids (Gemini: names) and arguments, or contents."""
    calls: list[tuple[str, str]] = []
    results: list[tuple[str, str]] = []
    if dialect in ("openai", "local"):  # local: in Ollama's own dialect, where arguments are an object
        for message in seen.body["messages"]:
            for one in message.get("tool_calls", ()):
                given = one["function"]["arguments"]
                calls.append((one["id"], given if dialect == "openai" else json.dumps(given)))
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
        wall.add(name, dialect="openai" if name == "local" else None)
    providers = {name: {"api_key": f"key-of-{name}", "base_url": wall[name].base_url} for name in MODELS}
    providers["local"] = {"base_url": wall["local"].base_url.removesuffix("/v1")}
    return wall, providers


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
        transport=wall.transport(),
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
        assert THOUGHT not in json.dumps(took_over.body)

        # ... and back again: the first one is well, and goes on from what the second one said.
        again = await ask(session, "And now?", stream)
        assert again.content == f"Hello from {first}."
        back = wall[first].requests[-1]
        whole(back, first)
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
    async with cortex.Engine(providers, worker_model="gpt-4o", transport=wall.transport()) as engine:
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
