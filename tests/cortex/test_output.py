"""Typed answers at the public door: by a schema or by a tool, whole or streamed, they mean the same.

DeepSeek's chat model stands for those that know no schema, Gemini 2.5 for those that take none beside tools.
"""

from __future__ import annotations

import json
from typing import Any

import attrs
import httpx
import pytest

import cortex
from cortex.testing import FaultProvider, Reply, Seen, ToolCalls


@attrs.frozen
class City:
    name: str
    people: int


PARIS = {"name": "Paris", "people": 2}


@attrs.frozen
class Elsewhere(httpx.AsyncBaseTransport):
    """Takes requests for any address to one provider of the wall."""

    inner: httpx.AsyncBaseTransport
    provider: FaultProvider

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.url = request.url.copy_with(scheme="http", host="127.0.0.1", port=self.provider.port)
        return await self.inner.handle_async_request(request)


@pytest.fixture
def engine(lab: Any) -> Any:
    """`engine("native")`: answers by a schema; `engine("tool")`: by a tool."""

    def make(way: str) -> cortex.Engine:
        if way == "native":
            made: cortex.Engine = lab.engine(0)
            return made
        return cortex.Engine(
            {"openai": {"api_key": "k", "base_url": "https://api.deepseek.com", "models": ["deepseek-chat"]}},
            worker_model="deepseek-chat",
            fallback_models=[],
            transport=Elsewhere(lab.wall.transport(), lab.primary),
        )

    return make


def offered(seen: Seen) -> list[str]:
    """The names of the tools a request to OpenAI's dialect offers."""
    return [tool["function"]["name"] for tool in seen.body.get("tools", [])]


def says(way: str, value: dict[str, Any], **options: Any) -> Any:
    """A reply that gives `value` the way the request asked for it."""
    if way == "native":
        return Reply(json.dumps(value), **options)
    return lambda seen: ToolCalls((offered(seen)[-1], value), **options)


ways = pytest.mark.parametrize("way", ["native", "tool"])


def session_of(engine: cortex.Engine, *tools: Any) -> cortex.Session:
    return engine.create_agent("a", tools=tools).start_session()


@ways
async def test_an_answer_is_typed(autojump_clock: object, lab: Any, engine: Any, way: str) -> None:
    lab.primary.script(says(way, PARIS, usage=(10, 5)))
    async with engine(way) as running:
        session = session_of(running)
        response = await session.run("Paris?", output_type=City)
    assert response.output == City("Paris", 2)
    assert json.loads(response.content) == PARIS
    assert (response.tool_calls, response.metadata.tools_called) == ((), ())
    assert (response.metadata.finish_reason, response.metadata.tokens_used) == ("stop", 15)
    assert [message.role for message in session.history] == ["user", "assistant"]
    assert len(offered(lab.primary.requests[0])) == (way == "tool")


@ways
async def test_an_answer_that_does_not_fit_is_repaired(autojump_clock: object, lab: Any, engine: Any, way: str) -> None:
    lab.primary.script(says(way, {"name": "Paris"}, usage=(10, 5)), says(way, PARIS, usage=(20, 5)))
    async with engine(way) as running:
        session = session_of(running)
        response = await session.run("Paris?", output_type=City)
    assert response.output == City("Paris", 2)
    assert response.metadata.tokens_used == 40
    *_, faulty, fault = lab.primary.requests[1].body["messages"]
    assert (json.loads(faulty["content"]), "tool_calls" in faulty) == ({"name": "Paris"}, False)
    assert "people" in fault["content"]
    assert [message.role for message in session.history] == ["user", "assistant"]


@attrs.frozen
class Known:
    name: str = attrs.field(converter=lambda name: {"Paris": "Paris"}[name])


@ways
async def test_what_a_users_own_check_raises_is_repaired_and_then_a_bad_reply(
    autojump_clock: object, lab: Any, engine: Any, way: str
) -> None:
    wrong = {"name": "Atlantis"}
    lab.primary.script(says(way, wrong), says(way, {"name": "Paris"}), says(way, wrong), says(way, wrong))
    async with engine(way) as running:
        session = session_of(running)
        assert (await session.run("Which city?", output_type=Known)).output == Known("Paris")
        with pytest.raises(cortex.BadReply, match=r"does not fit Known: .*KeyError: 'Atlantis'"):
            await session.run("Which city?", output_type=Known)
    assert "KeyError: 'Atlantis'" in lab.primary.requests[1].body["messages"][-1]["content"]


@ways
@pytest.mark.parametrize(
    ("finish", "error", "words"),
    [
        ("refusal", cortex.ContentRefused, r"City was refused \(\w+\): I would rather not\."),
        ("content_filter", cortex.ContentRefused, r"City was refused \(content_filter\): I would rather not\."),
        ("length", cortex.BadReply, "limit of tokens before City was whole; raise max_tokens"),
    ],
)
async def test_who_would_not_or_could_not_answer_is_not_asked_again(
    autojump_clock: object, lab: Any, engine: Any, way: str, finish: str, error: type[Exception], words: str
) -> None:
    lab.primary.always(Reply("I would rather not.", finish=finish))
    async with engine(way) as running:
        session = session_of(running)
        for ask in (session.run, running.complete):
            with pytest.raises(error, match=words):
                await ask("Paris?", output_type=City)
        with pytest.raises(error, match=words):
            assert [chunk async for chunk in session.run_stream("Paris?", output_type=City)]
    assert len(lab.primary.requests) == 3


async def test_a_turn_that_was_stopped_gives_no_value_and_is_not_repaired(autojump_clock: object, lab: Any) -> None:
    ran: list[int] = []

    async def roll(sides: int) -> int:
        ran.append(sides)
        return sides

    lab.primary.always(lambda _: ToolCalls(("roll", {"sides": len(ran)})))
    async with lab.engine(0, policy={"max_tool_rounds": 2}) as running:
        with pytest.raises(cortex.BadReply, match="before there was City: stopped: the turn used up its 2 tool rounds"):
            await session_of(running, roll).run("Paris?", output_type=City)
    assert ran == [0, 1]
    assert len(lab.primary.requests) == 3


async def test_prose_beside_an_answer_by_a_tool_is_taken_back(autojump_clock: object, lab: Any, engine: Any) -> None:
    lab.primary.always(
        lambda seen: Reply("Let me answer.", tools=((offered(seen)[-1], PARIS),), finish="tool_calls", chunks=4)
    )
    async with engine("tool") as running:
        chunks = [chunk async for chunk in session_of(running).run_stream("Paris?", output_type=City)]
    kinds = [chunk.kind for chunk in chunks]
    begun = kinds.index("restart") + 1
    assert "".join(chunk.thinking for chunk in chunks[begun:]) == "Let me answer."
    final = chunks[-1].response
    assert final is not None
    assert "".join(chunk.content for chunk in chunks[begun:]) == final.content
    assert (json.loads(final.content), final.output) == (PARIS, City("Paris", 2))


async def test_what_tools_said_stands_when_prose_is_taken_back(autojump_clock: object, lab: Any, engine: Any) -> None:
    async def weather(city: str) -> str:
        return "sunny"

    lab.primary.script(
        Reply("Let me look.", tools=(("weather", {"city": "Paris"}),), finish="tool_calls"),
        lambda seen: Reply("Here it is.", tools=((offered(seen)[-1], PARIS),), finish="tool_calls"),
    )
    shown: list[str] = []
    async with engine("tool") as running:
        async for chunk in session_of(running, weather).run_stream("Paris?", output_type=City):
            match chunk.kind:
                case "restart":  # as a reader does who knows what it means
                    while shown and shown[-1] != "tool_result":
                        shown.pop()
                case "text" | "thinking":
                    shown.append(chunk.content or chunk.thinking)
                case kind:
                    shown.append(kind)
    assert "".join(shown[: shown.index("tool_call")]) == "Let me look."
    assert shown[shown.index("tool_call") :] == ["tool_call", "tool_result", "Here it is.", json.dumps(PARIS), "final"]


@pytest.mark.parametrize(("text", "value"), [("12", None), ('"12"', "12"), ('{"value": "12"}', "12")])
async def test_a_number_at_the_limit_may_have_lost_digits(
    autojump_clock: object, lab: Any, text: str, value: str | None
) -> None:
    lab.primary.always(Reply(text, finish="length"))
    async with lab.engine(0) as running:
        if value is None:
            with pytest.raises(cortex.BadReply, match="limit of tokens"):
                await running.complete("How many?", output_type=int | str)
        else:
            assert (await running.complete("How many?", output_type=int | str)).output == value


@ways
async def test_a_stream_shows_the_text_and_ends_with_the_value(
    autojump_clock: object, lab: Any, engine: Any, way: str
) -> None:
    lab.primary.script(says(way, PARIS, usage=(10, 5), chunks=4))
    async with engine(way) as running:
        chunks = [chunk async for chunk in session_of(running).run_stream("Paris?", output_type=City)]
    texts = [chunk.content for chunk in chunks if chunk.kind == "text"]
    assert json.loads("".join(texts)) == PARIS
    assert len(texts) > 2
    final = chunks[-1].response
    assert final is not None
    assert (final.output, final.content, final.metadata.tokens_used) == (City("Paris", 2), "".join(texts), 15)
    assert {chunk.kind for chunk in chunks} == {"text", "final"}


@ways
async def test_a_stream_that_does_not_fit_is_taken_back_and_repaired(
    autojump_clock: object, lab: Any, engine: Any, way: str
) -> None:
    lab.primary.script(says(way, {"name": "Paris"}, usage=(10, 5)), says(way, PARIS, usage=(20, 5)))
    async with engine(way) as running:
        session = session_of(running)
        chunks = [chunk async for chunk in session.run_stream("Paris?", output_type=City)]
    kinds = [chunk.kind for chunk in chunks]
    assert kinds.count("restart") == 1
    place = kinds.index("restart")
    before, after = ("".join(chunk.content for chunk in part) for part in (chunks[:place], chunks[place:]))
    assert (json.loads(before), json.loads(after)) == ({"name": "Paris"}, PARIS)
    final = chunks[-1].response
    assert final is not None
    assert (final.output, final.content) == (City("Paris", 2), after)
    assert (final.metadata.tokens_used, len(final.metadata.attempts)) == (40, 2)
    assert [message.role for message in session.history] == ["user", "assistant"]


@ways
async def test_a_stream_that_never_fits_is_a_bad_reply_as_with_run(
    autojump_clock: object, lab: Any, engine: Any, way: str
) -> None:
    lab.primary.always(says(way, {"name": "Paris"}))
    chunks: list[Any] = []
    async with engine(way) as running:
        session = session_of(running)
        with pytest.raises(cortex.BadReply, match="people") as caught:
            await lab.read(session.run_stream("Paris?", output_type=City), chunks)
    assert len(caught.value.attempts) == 2
    assert "final" not in {chunk.kind for chunk in chunks}
    assert session.history == ()


async def test_a_tool_runs_before_the_answer_where_both_are_offered(
    autojump_clock: object, lab: Any, engine: Any
) -> None:
    ran: list[str] = []

    async def people_of(city: str) -> int:
        """How many live there."""
        ran.append(city)
        return 2

    lab.primary.script(ToolCalls(("people_of", {"city": "Paris"})), says("tool", PARIS))
    async with engine("tool") as running:
        session = session_of(running, people_of)
        response = await session.run("Paris?", output_type=City)
    assert (response.output, ran, response.metadata.tools_called) == (City("Paris", 2), ["Paris"], ("people_of",))
    for seen in lab.primary.requests:
        assert (len(offered(seen)), seen.body["tool_choice"]) == (2, "required")
    assert [message.role for message in session.history] == ["user", "assistant", "tool", "assistant"]


async def test_a_model_that_takes_no_schema_beside_tools_gives_the_answer_by_one(
    autojump_clock: object, make_engine: Any, memory_wall: Any
) -> None:
    def people_of(city: str) -> int:
        """How many live there."""
        return 2

    def answer(seen: Seen) -> Any:
        own, final = seen.body["tools"][0]["functionDeclarations"]
        ran = any("functionResponse" in part for part in seen.body["contents"][-1]["parts"])
        return ToolCalls((final["name"], PARIS)) if ran else ToolCalls((own["name"], {"city": "Paris"}))

    memory_wall["gemini"].always(answer)
    async with make_engine("gemini") as running:
        session = session_of(running, people_of)
        response = await session.run("Paris?", output_type=City)
    assert response.output == City("Paris", 2)
    assert response.metadata.tools_called == ("people_of",)


async def test_another_provider_goes_on_in_its_own_way(autojump_clock: object, lab: Any) -> None:
    """Nothing of the tool is left in the conversation that the next one gets."""
    lab.primary.always(lambda seen: cortex.testing.Status(503))
    lab.spare.always(lambda seen: ToolCalls((seen.body["tools"][0]["name"], PARIS)))
    async with lab.engine(1) as running:
        session = session_of(running)
        assert (await session.run("Paris?", output_type=City)).output == City("Paris", 2)
        lab.primary.always(Reply("fine"))
        lab.spare.always(cortex.testing.Status(503))
        await running.recheck()
        assert (await session.run("Thanks")).content == "fine"
    roles = [(message["role"], "tool_calls" in message) for message in lab.primary.requests[-1].body["messages"]]
    assert roles == [("user", False), ("assistant", False), ("user", False)]
