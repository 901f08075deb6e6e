"""A session at the public door: turns are atomic, history is the user's, the reports are true."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio

import cortex
from cortex.errors import ProviderUnavailable
from cortex.testing import Delay, FaultWall, Reply, Seen, Status, ToolCalls

Make = Callable[..., cortex.Engine]


def texts(seen: Seen) -> list[str]:
    """The contents of an OpenAI request's messages."""
    return [message["content"] for message in seen.body["messages"]]


async def test_a_turn_is_answered_and_remembered(
    autojump_clock: object, make_engine: Make, memory_wall: FaultWall
) -> None:
    memory_wall["openai"].script(Reply("Paris.", usage=(10, 2)), Reply("About two million.", usage=(20, 4)))
    async with make_engine("openai") as engine:
        session = engine.create_agent(name="a", system_prompt="Be brief.").start_session()
        first = await session.run("Capital of France?")
        second = await session.run("How many live there?")
    assert (first.content, second.content) == ("Paris.", "About two million.")
    assert texts(memory_wall["openai"].requests[1]) == [
        "Be brief.",
        "Capital of France?",
        "Paris.",
        "How many live there?",
    ]
    assert [message.role for message in session.history] == ["user", "assistant", "user", "assistant"]
    meta = second.metadata
    assert (meta.model_used, meta.provider, meta.tokens_used, meta.tokens_total) == ("gpt-4o", "openai", 24, 24)
    assert (meta.failover, meta.finish_reason, meta.system, len(meta.attempts)) == (False, "stop", 1, 1)


async def test_a_failed_turn_leaves_history_as_it_was(
    autojump_clock: object, make_engine: Make, memory_wall: FaultWall
) -> None:
    async with make_engine("openai") as engine:
        session = engine.create_agent(name="a").start_session()
        await session.run("one")
        before = session.history
        memory_wall["openai"].always(Status(400))
        with pytest.raises(cortex.RequestRejected):
            await session.run("two")
        assert session.history == before
        memory_wall["openai"].always(Reply("fine"))
        assert (await session.run("three")).content == "fine"
    assert "two" not in texts(memory_wall["openai"].requests[-1])


async def test_a_cancelled_turn_leaves_history_and_health_as_they_were(
    autojump_clock: object, make_engine: Make, memory_wall: FaultWall
) -> None:
    memory_wall["openai"].script(Delay(60, Reply("late")))
    async with make_engine("openai") as engine:
        session = engine.create_agent(name="a").start_session()
        with trio.move_on_after(1):
            await session.run("one")
        assert session.history == ()
        assert engine.health()["openai"].status == "up"
        assert (await session.run("two")).content == "Hello from openai."


async def test_turns_of_one_session_run_in_the_order_they_were_asked_for(
    autojump_clock: object, make_engine: Make, memory_wall: FaultWall
) -> None:
    memory_wall["openai"].always(lambda seen: Delay(1.0, Reply(f"to {seen.text}")))
    answers: list[str] = []
    async with make_engine("openai") as engine, trio.open_nursery() as nursery:
        session = engine.create_agent(name="a").start_session()

        async def ask(text: str) -> None:
            answers.append((await session.run(text)).content)

        for number in range(5):
            nursery.start_soon(ask, f"{number}")
            await trio.sleep(0.01)
    assert answers == [f"to {number}" for number in range(5)]
    assert [seen.text for seen in memory_wall["openai"].requests] == [f"{number}" for number in range(5)]
    assert len(texts(memory_wall["openai"].requests[-1])) == 9


async def test_sessions_do_not_wait_for_each_other(
    autojump_clock: object, make_engine: Make, memory_wall: FaultWall
) -> None:
    memory_wall["openai"].always(Delay(1.0, Reply("done")))
    async with make_engine("openai") as engine:
        agent = engine.create_agent(name="a")
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(agent.start_session().run, "hello")
        assert trio.current_time() - start == pytest.approx(1.0, abs=0.2)


async def test_history_limit_trims_whole_turns(
    autojump_clock: object, make_engine: Make, memory_wall: FaultWall
) -> None:
    async def look() -> str:
        """Look."""
        return "seen"

    memory_wall["openai"].script(ToolCalls(("look", {})), Reply("one"), Reply("two"), Reply("three"))
    async with make_engine("openai") as engine:
        session = engine.create_agent(name="a", tools=[look], history_limit=4).start_session()
        for text in ("first", "second", "third"):
            await session.run(text)
    last = memory_wall["openai"].requests[-1].body["messages"]
    assert [message["role"] for message in last] == ["user", "assistant", "user"]
    assert len(session.history) == 8


async def test_goals_and_stats_tell_what_happened(autojump_clock: object, make_engine: Make) -> None:
    async with make_engine("gemini", "openai") as engine:
        session = engine.create_agent(name="a").start_session()
        assert session.get_dual_process_stats()["system2_ratio"] == 0.0
        await session.run("Book a flight")
        deep = await session.run("And a hotel", system=2)
        assert deep.metadata.model_used == "gpt-4o"
        assert deep.metadata.system == 2
        stats = session.get_dual_process_stats()
        assert stats == {
            "system1_count": 1,
            "system2_count": 1,
            "system2_ratio": 0.5,
            "total_decisions": 2,
            "escalations": 0,
        }
        goal = session.get_goal_progress()
        assert (goal["goal"], goal["progress"], goal["loop_detected"]) == ("Book a flight", None, False)
        closing = await session.close()
        json.dumps([stats, goal, closing, session.get_weights()])
        with pytest.raises(cortex.EngineClosed, match="closed"):
            await session.run("more")


async def test_set_goal_wins_over_the_first_message(autojump_clock: object, make_engine: Make) -> None:
    async with make_engine("openai") as engine:
        session = engine.create_agent(name="a").start_session()
        session.set_goal("Travel to Rome")
        await session.run("hello")
        assert session.get_goal_progress()["goal"] == "Travel to Rome"


async def test_weights_are_said_to_every_provider_alike(
    autojump_clock: object, make_engine: Make, memory_wall: FaultWall
) -> None:
    memory_wall["gemini"].always(Status(503))
    async with make_engine("gemini", "openai") as engine:
        session = engine.create_agent(name="a", system_prompt="Base.", weight_config={"verbosity": 0.0}).start_session()
        await session.run("hello")
        session.override_weight("formality", 1.0)
        assert session.get_weights() == {"verbosity": 0.0, "formality": 1.0, "speed_vs_quality": 0.0}
    gemini = memory_wall["gemini"].requests[0].body["systemInstruction"]["parts"][0]["text"]
    assert texts(memory_wall["openai"].requests[0])[0] == gemini
    assert gemini.startswith("Base.\n\n")


async def test_a_retry_uses_the_results_of_tools_that_ran(
    autojump_clock: object, make_engine: Make, memory_wall: FaultWall
) -> None:
    booked: list[int] = []

    async def book(seat: int) -> str:
        """Book a seat."""
        booked.append(seat)
        return f"seat {seat} booked"

    memory_wall["openai"].script(
        ToolCalls(("book", {"seat": 7})), Status(400), ToolCalls(("book", {"seat": 7})), Reply("done")
    )
    async with make_engine("openai") as engine:
        session = engine.create_agent(name="a", tools=[book]).start_session()
        with pytest.raises(cortex.RequestRejected):
            await session.run("book seat 7")
        response = await session.run("book seat 7", retry=True)
    assert response.content == "done"
    assert booked == [7]
    assert [result.content for result in response.tool_results] == ["seat 7 booked"]


async def test_no_tool_runs_twice_however_the_retry_goes(
    autojump_clock: object, make_engine: Make, memory_wall: FaultWall
) -> None:
    """The model asks in another order, is interrupted again, and asks in the first order."""
    ran: list[str] = []

    async def pay(cents: int) -> str:
        """Pay."""
        ran.append(f"pay {cents}")
        return "paid"

    async def note(cents: int) -> str:
        """Note."""
        ran.append(f"note {cents}")
        return "noted"

    failing = [Status(500), Status(500)]
    rounds = [[("pay", {"cents": 1})], [("note", {"cents": 1})], [("pay", {"cents": 1}), ("note", {"cents": 1})]]
    async with make_engine("openai") as engine:
        session = engine.create_agent("a", tools=[pay, note]).start_session()
        for calls in rounds[:-1]:
            memory_wall["openai"].script(ToolCalls(*calls), *failing)
            with pytest.raises(ProviderUnavailable):
                await session.run("hi", system=1, retry=True)
            await trio.sleep(200)
        memory_wall["openai"].script(ToolCalls(*rounds[-1]), Reply("done"))
        answer = await session.run("hi", system=1, retry=True)
    assert ran == ["pay 1", "note 1"]
    assert [one.content for one in answer.tool_results] == ["paid", "noted"]


async def test_a_turn_that_waited_behind_the_failed_one_takes_nothing_from_its_retry(
    autojump_clock: object, make_engine: Make, memory_wall: FaultWall
) -> None:
    charged: list[int] = []

    async def charge(amount: int) -> str:
        """Charge."""
        charged.append(amount)
        return "charged"

    memory_wall["openai"].script(
        ToolCalls(("charge", {"amount": 5})),
        Status(400),
        Reply("fine"),
        ToolCalls(("charge", {"amount": 5})),
        Reply("done"),
    )
    async with make_engine("openai") as engine:
        session = engine.create_agent(name="a", tools=[charge]).start_session()
        with pytest.raises(cortex.RequestRejected):
            await session.run("pay", system=1)
        await session.run("another matter", system=1)
        assert (await session.run("pay", system=1, retry=True)).content == "done"
    assert charged == [5]


@pytest.mark.parametrize("second", [{"amount": 5.0}, {"amount": "5"}, {"unit": "EUR", "amount": 5}])
async def test_a_call_is_known_by_what_its_arguments_mean(
    second: dict[str, Any], autojump_clock: object, make_engine: Make, memory_wall: FaultWall
) -> None:
    charged: list[int] = []

    async def charge(amount: int, unit: str = "EUR") -> str:
        """Charge."""
        charged.append(amount)
        return "charged"

    memory_wall["openai"].script(
        ToolCalls(("charge", {"amount": 5})), Status(400), ToolCalls(("charge", second)), Reply("done")
    )
    async with make_engine("openai") as engine:
        session = engine.create_agent(name="a", tools=[charge]).start_session()
        with pytest.raises(cortex.RequestRejected):
            await session.run("pay", system=1)
        assert (await session.run("pay", system=1, retry=True)).content == "done"
    assert charged == [5]


async def test_without_retry_the_results_are_dropped_with_an_event(
    autojump_clock: object, make_engine: Make, memory_wall: FaultWall
) -> None:
    booked: list[int] = []

    async def book(seat: int) -> str:
        """Book a seat."""
        booked.append(seat)
        return "booked"

    memory_wall["openai"].script(ToolCalls(("book", {"seat": 7})), Status(400))
    async with make_engine("openai") as engine:
        events = engine.events()
        session = engine.create_agent(name="a", tools=[book]).start_session()
        with pytest.raises(cortex.RequestRejected):
            await session.run("book seat 7")
        await session.run("never mind")  # between a turn and its retry others may come
        await session.run("book seat 7")
        event: Any = await anext(events)
    assert (event.session_id, event.tools) == (session.session_id, ("book",))


@attrs.frozen
class City:
    name: str
    people: int


async def test_output_type_gives_a_typed_value(
    autojump_clock: object, make_engine: Make, memory_wall: FaultWall
) -> None:
    memory_wall["openai"].script(Reply('{"name": "Paris", "people": 2}'))
    async with make_engine("openai") as engine:
        response = await engine.create_agent(name="a").start_session().run("Paris?", output_type=City)
    assert response.output == City("Paris", 2)
    assert memory_wall["openai"].requests[0].body["response_format"]["type"] == "json_schema"


async def test_an_answer_that_does_not_fit_is_repaired_once(
    autojump_clock: object, make_engine: Make, memory_wall: FaultWall
) -> None:
    memory_wall["openai"].script(
        Reply('{"name": "Paris"}', usage=(5, 5)), Reply('{"name": "Paris", "people": 2}', usage=(7, 7))
    )
    async with make_engine("openai") as engine:
        session = engine.create_agent(name="a").start_session()
        response = await session.run("Paris?", output_type=City)
    assert response.output == City("Paris", 2)
    assert "people" in texts(memory_wall["openai"].requests[1])[-1]
    assert response.metadata.tokens_used == 24
    assert [message.role for message in session.history] == ["user", "assistant"]


async def test_an_answer_that_never_fits_is_a_bad_reply(
    autojump_clock: object, make_engine: Make, memory_wall: FaultWall
) -> None:
    memory_wall["openai"].always(Reply("no JSON at all"))
    async with make_engine("openai") as engine:
        with pytest.raises(cortex.BadReply, match="openai/gpt-4o") as caught:
            await engine.create_agent(name="a").start_session().run("Paris?", output_type=City)
    assert len(caught.value.attempts) == 2


@pytest.mark.parametrize(
    ("message", "options", "word"),
    [
        ("", {}, "message"),
        ("   ", {}, "message"),
        (42, {}, "int"),
        (None, {}, "None"),
        ("hi", {"temperature": "hot"}, "temperature"),
        ("hi", {"max_tokens": 0}, "max_tokens"),
        ("hi", {"stop": ["", "x"]}, "stop"),
        ("hi", {"stop": 7}, "stop"),
        ("hi", {"seed": -1}, "seed"),
        ("hi", {"effort": "hard"}, "effort"),
        ("hi", {"thinking_budget": 1.5}, "thinking_budget"),
        ("hi", {"parallel_tools": 1}, "parallel_tools"),
        ("hi", {"timeout": -1}, "timeout"),
        ("hi", {"timeout": float("nan")}, "timeout"),
        ("hi", {"system": 3}, "system"),
        ("hi", {"system": True}, "system"),
        ("hi", {"retry": "yes"}, "retry"),
        ("hi", {"tempreture": 1}, "temperature"),
        ("hi", {"model": "no-such-model"}, "no-such-model"),
        ("hi", {"images": [b"not an image"]}, r"images\[0\]"),
        ("hi", {"extra": {"x": object()}}, "extra.x"),
        ("hi", {"output_type": object()}, "output_type|object"),
    ],
)
async def test_bad_input_is_a_typed_error_that_names_the_field(
    make_engine: Make, memory_wall: FaultWall, message: Any, options: dict[str, Any], word: str
) -> None:
    session = make_engine("openai").create_agent(name="a").start_session()
    with pytest.raises(cortex.ConfigError, match=word):
        await session.run(message, **options)
    assert memory_wall["openai"].requests == ()
