"""A turn: model calls and tool rounds, whoever serves them; both roles."""

from __future__ import annotations

import json
import threading
from typing import Annotated, Any

import attrs
import pytest
import trio
from pydantic import AfterValidator

from cortex.errors import DeadlineExceeded, NoProviderLeft, ProviderUnavailable, StreamInterrupted
from cortex.messages import Text, ToolResult
from cortex.testing import Cut, Delay, Hang, Reply, Status, ToolCalls
from cortex.tools import tool

SPARE = "Hello from anthropic."
OWN = "Hello from openai."


class Tools:
    """Tools that remember how often they ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    async def weather(self, city: str) -> str:
        """The weather of a city."""
        self.ran.append(city)
        return f"{city}: sunny"

    async def slow(self, city: str) -> str:
        """Takes two seconds."""
        await trio.sleep(2)
        self.ran.append(city)
        return city

    async def wipe(self, path: str = "/") -> str:
        """Removes it all, unless it is told what."""
        self.ran.append(path)
        return "gone"

    async def broken(self) -> str:
        """Raises."""
        raise ValueError("out of order")


@pytest.fixture
def tools() -> Tools:
    return Tools()


def session(engine: Any, *given: Any, **options: Any) -> Any:
    return engine.create_agent("a", "Be brief.", tools=given, **options).start_session()


async def test_a_tools_result_goes_back_and_the_answer_comes(lab: Any, tools: Tools, autojump_clock: Any) -> None:
    lab.primary.script(ToolCalls(("weather", {"city": "Paris"})), Reply("It is sunny."))
    async with lab.engine() as engine:
        talk = session(engine, tools.weather)
        answer = await talk.run("weather?")
    assert answer.content == "It is sunny."
    assert [result.content for result in answer.tool_results] == ["Paris: sunny"]
    assert answer.metadata.tools_called == ("weather",)
    assert answer.metadata.steps_taken == 2
    assert len(answer.metadata.attempts) == 2
    assert not answer.metadata.failover
    assert "Paris: sunny" in json.dumps(lab.primary.requests[1].body)
    assert [message.role for message in talk.history] == ["user", "assistant", "tool", "assistant"]


async def test_tools_of_one_answer_run_side_by_side_and_in_order(lab: Any, tools: Tools, autojump_clock: Any) -> None:
    lab.primary.script(ToolCalls(*[("slow", {"city": name}) for name in ("a", "b", "c")]))
    async with lab.engine() as engine:
        answer = await session(engine, tools.slow).run("go")
        assert trio.current_time() == pytest.approx(2, abs=0.1)
        assert [result.content for result in answer.tool_results] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (("nonsense", {}), "there is no tool 'nonsense'; the tools are: weather"),
        (("weather", {"town": "Paris"}), "wrong arguments for weather"),
        (("weather", {"city": [1]}), "wrong arguments for weather"),
    ],
)
async def test_m5_the_model_is_told_of_its_mistakes(
    call: Any, words: str, lab: Any, tools: Tools, autojump_clock: Any
) -> None:
    lab.primary.script(ToolCalls(call), Reply("sorry"))
    async with lab.engine() as engine:
        answer = await session(engine, tools.weather).run("go")
        assert answer.content == "sorry"
        assert answer.tool_results[0].is_error
        assert words in answer.tool_results[0].content
        assert tools.ran == []
        assert engine.health()["openai"].status == "up"


async def test_a_tool_that_raises_is_told_to_the_model(lab: Any, tools: Tools, autojump_clock: Any) -> None:
    lab.primary.script(ToolCalls(("broken", {})), Reply("I see"))
    async with lab.engine() as engine:
        answer = await session(engine, tools.broken).run("go")
    assert answer.content == "I see"
    assert answer.tool_results[0].content == "ValueError: out of order"


async def test_the_same_call_three_times_in_a_row_ends_the_loop(lab: Any, tools: Tools, autojump_clock: Any) -> None:
    lab.primary.always(ToolCalls(("weather", {"city": "Paris"})))
    async with lab.engine() as engine:
        talk = session(engine, tools.weather)
        answer = await talk.run("go")
        assert len(tools.ran) == 2
        assert any("three times" in note for note in answer.metadata.notes)
        assert talk.get_goal_progress()["loop_detected"] is True
        # Every call in the history has its answer: the next turn can be sent to anybody.
        calls = [part.id for message in talk.history for part in message.parts if type(part).__name__ == "ToolCall"]
        results = [part.call_id for message in talk.history for part in message.parts if isinstance(part, ToolResult)]
        assert sorted(calls) == sorted(results)
        lab.primary.always(Reply(OWN))
        assert (await talk.run("and now?")).content == OWN


async def test_max_tool_rounds(lab: Any, tools: Tools, autojump_clock: Any) -> None:
    lab.primary.always(lambda seen: ToolCalls(("weather", {"city": f"city {len(tools.ran)}"})))
    async with lab.engine(policy={"max_tool_rounds": 3}) as engine:
        answer = await session(engine, tools.weather).run("go")
    assert len(tools.ran) == 3
    assert any("3 tool rounds" in note for note in answer.metadata.notes)


async def test_m2_half_a_tool_call_is_not_run(lab: Any, tools: Tools, autojump_clock: Any) -> None:
    lab.primary.script(ToolCalls(("weather", {"city": "Paris"}), finish="length"))
    async with lab.engine() as engine:
        answer = await session(engine, tools.weather).run("go", system=1)
    assert answer.metadata.finish_reason == "length"
    assert tools.ran == []
    assert len(lab.primary.requests) == 1


def spoken(*deltas: tuple[dict[str, Any], str | None]) -> Status:
    """A stream that says just this, and then that it is done."""
    events = [{"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]} for delta, finish in deltas]
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    return Status(200, body, headers={"content-type": "text/event-stream"})


@pytest.mark.parametrize("said", ["", '{"path": "/x"}'])
@pytest.mark.parametrize("finish", ["content_filter", "length", "refusal", "a_new_word"])
async def test_m2_no_tool_is_run_but_for_an_answer_that_ended_in_order_to_call(
    said: str, finish: str, lab: Any, tools: Tools, autojump_clock: Any
) -> None:
    call = {"index": 0, "id": "c", "function": {"name": "wipe", "arguments": said}}
    lab.primary.script(spoken(({"tool_calls": [call]}, None), ({}, finish)))
    async with lab.engine(0) as engine:
        chunks = [chunk async for chunk in session(engine, tools.wipe).run_stream("go", system=1)]
    assert tools.ran == []
    assert [chunk.kind for chunk in chunks] == ["final"]
    assert chunks[0].response.metadata.notes == (f"no tool was run: the answer ended with {finish}",)
    assert chunks[0].response.metadata.raw_finish_reason == finish


@pytest.mark.parametrize("said", ["", '{"path": "/'])
async def test_m2_a_stream_that_is_done_without_a_reason_inside_a_call_is_cut(
    said: str, lab: Any, tools: Tools, autojump_clock: Any
) -> None:
    call = {"index": 0, "id": "c", "function": {"name": "wipe", "arguments": said}}
    lab.primary.always(spoken(({"tool_calls": [call]}, None)))
    lab.spare.script(Reply("nothing needed"))
    async with lab.engine() as engine:
        chunks = [chunk async for chunk in session(engine, tools.wipe).run_stream("go", system=1)]
    assert tools.ran == []
    assert chunks[-1].response.content == "nothing needed"


async def test_a_failover_between_rounds_runs_no_tool_twice(lab: Any, tools: Tools, autojump_clock: Any) -> None:
    lab.primary.script(ToolCalls(("weather", {"city": "Paris"})), Status(500), Reply("Both sunny."))
    lab.spare.script(ToolCalls(("weather", {"city": "Rome"})))
    async with lab.engine() as engine:
        answer = await session(engine, tools.weather).run("go")
    assert answer.content == "Both sunny."
    assert tools.ran == ["Paris", "Rome"]
    assert [(one.provider, one.outcome) for one in answer.metadata.attempts] == [
        ("openai", "ok"),
        ("openai", "transient"),
        ("anthropic", "ok"),
        ("openai", "ok"),
    ]
    assert "Paris: sunny" in json.dumps(lab.spare.requests[0].body)
    assert "Rome: sunny" in json.dumps(lab.primary.requests[-1].body)


async def test_m6_a_retry_uses_the_results_that_are_there(lab: Any, tools: Tools, autojump_clock: Any) -> None:
    lab.primary.script(ToolCalls(("weather", {"city": "Paris"})), *[Status(500)] * 2)
    async with lab.engine(0) as engine:
        talk = session(engine, tools.weather)
        with pytest.raises(ProviderUnavailable):
            await talk.run("go", system=1)
        assert talk.history == ()
        lab.primary.script(ToolCalls(("weather", {"city": "Paris"})), Reply("sunny"))
        answer = await talk.run("go", system=1, retry=True)
        assert answer.content == "sunny"
        assert tools.ran == ["Paris"]


async def test_i14_a_stream_that_dies_with_a_call_open_runs_nothing(
    lab: Any, tools: Tools, autojump_clock: Any
) -> None:
    lab.primary.script(Cut(99, "clean", reply=ToolCalls(("weather", {"city": "Paris"}))))
    lab.spare.script(Reply("nothing needed"))
    async with lab.engine() as engine:
        chunks = [chunk async for chunk in session(engine, tools.weather).run_stream("go")]
    assert chunks[-1].response.content == "nothing needed"
    assert tools.ran == []


async def test_a_stream_shows_calls_results_and_text(lab: Any, tools: Tools, autojump_clock: Any) -> None:
    lab.primary.script(ToolCalls(("weather", {"city": "Paris"})), Reply("It is sunny."))
    async with lab.engine() as engine:
        chunks = [chunk async for chunk in session(engine, tools.weather).run_stream("go")]
    kinds = [chunk.kind for chunk in chunks]
    assert list(dict.fromkeys(kinds)) == ["tool_call", "tool_result", "text", "final"]
    assert "".join(chunk.content for chunk in chunks) == "It is sunny."


async def test_a_call_that_cannot_be_run_is_not_shown_as_one(lab: Any, tools: Tools, autojump_clock: Any) -> None:
    said = ['{"city": "Par', '["Paris"]', '{"city": 5}', '{"town": "Paris"}', '{"city": "Rome"}']
    calls = [
        {"index": index, "id": f"c{index}", "function": {"name": "weather", "arguments": text}}
        for index, text in enumerate(said)
    ]
    lab.primary.script(spoken(({"tool_calls": calls}, None), ({}, "tool_calls")), Reply("It is sunny."))
    async with lab.engine() as engine:
        chunks = [chunk async for chunk in session(engine, tools.weather).run_stream("go", system=1)]
    assert [chunk.tool_call.arguments for chunk in chunks if chunk.kind == "tool_call"] == [{"city": "Rome"}]
    told = [chunk.tool_result for chunk in chunks if chunk.kind == "tool_result"]
    assert [one.is_error for one in told] == [True, True, True, True, False]
    assert tools.ran == ["Rome"]


@pytest.mark.parametrize("word", ["tool_use", "tool_call", "TOOL_CALLS", "stop", "STOP", "COMPLETE"])
async def test_whatever_a_gateway_calls_it_the_tools_run(
    word: str, lab: Any, tools: Tools, autojump_clock: Any
) -> None:
    call = {"index": 0, "id": "c", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    lab.primary.script(spoken(({"tool_calls": [call]}, None), ({}, word)), Reply("It is sunny."))
    async with lab.engine(0) as engine:
        chunks = [chunk async for chunk in session(engine, tools.weather).run_stream("go", system=1)]
    assert tools.ran == ["Rome"]
    assert chunks[-1].response.content == "It is sunny."


CHECKED: list[int] = []


def noted(value: int) -> int:
    """A check of the user's own, with an effect."""
    CHECKED.append(value)
    return value


async def roll(sides: Annotated[int, AfterValidator(noted)]) -> int:
    """Rolls a die."""
    return sides


async def test_arguments_are_checked_once(lab: Any, autojump_clock: Any) -> None:
    CHECKED.clear()
    lab.primary.script(ToolCalls(("roll", {"sides": 6})), Reply("done"))
    async with lab.engine(0) as engine:
        assert [chunk async for chunk in session(engine, roll).run_stream("go", system=1)]
    assert CHECKED == [6]


async def test_the_turns_deadline_ends_tools_and_tells_the_trail(lab: Any, tools: Tools, autojump_clock: Any) -> None:
    lab.primary.always(ToolCalls(("slow", {"city": "Paris"})))
    async with lab.engine() as engine:
        with pytest.raises(DeadlineExceeded, match="while the tools of step 1 ran") as caught:
            await session(engine, tools.slow).run("go", timeout=1)
        assert trio.current_time() <= 1.1
        assert [one.outcome for one in caught.value.attempts] == ["ok"]


async def test_the_turns_deadline_ends_a_model_call_and_tells_the_trail(
    lab: Any, tools: Tools, autojump_clock: Any
) -> None:
    lab.primary.script(ToolCalls(("weather", {"city": "Paris"})), Hang())
    async with lab.engine(0) as engine:
        with pytest.raises(DeadlineExceeded) as caught:
            await session(engine, tools.weather).run("go", timeout=3)
        assert trio.current_time() <= 3.1
        assert [one.outcome for one in caught.value.attempts] == ["ok", "cancelled"]


def test_a_sync_tool_that_outlives_its_timeout_is_counted(lab: Any) -> None:
    release = threading.Event()

    @tool(timeout=0.05)
    def stuck() -> str:
        """Stuck."""
        release.wait(10)
        return "late"

    lab.primary.script(ToolCalls(("stuck", {})), Reply("done"))
    with lab.engine(0) as engine:
        assert session(engine, stuck).run_sync("go", system=1).content == "done"
        assert engine.health().abandoned_tools == 1
        release.set()


# ------------------------------------------------------------------------------------------------------- escalation


async def test_an_empty_system_1_turn_escalates_once(lab: Any, autojump_clock: Any) -> None:
    lab.primary.script(Reply(""), Reply("thought about it"))
    async with lab.engine() as engine:
        talk = session(engine)
        answer = await talk.run("hi")
        assert answer.content == "thought about it"
        assert answer.metadata.system == 2
        assert [seen.model for seen in lab.primary.requests] == ["gpt-4o-mini", "gpt-4o"]
        assert talk.get_dual_process_stats()["escalations"] == 1


@pytest.mark.parametrize("finish", ["content_filter", "length"])
async def test_a_refusal_does_not_escalate(finish: str, lab: Any, autojump_clock: Any) -> None:
    lab.primary.always(lambda seen: Reply("", finish=finish) if seen.model == "gpt-4o-mini" else Reply("sure"))
    async with lab.engine(0) as engine:
        answer = await session(engine).run("hi")
    assert (answer.content, answer.metadata.finish_reason) == ("", finish)
    assert [seen.model for seen in lab.primary.requests] == ["gpt-4o-mini"]


async def test_what_tools_did_in_system_1_is_done_for_system_2(lab: Any, tools: Tools, autojump_clock: Any) -> None:
    def play(seen: Any) -> Any:
        rounds = sum(message["role"] == "tool" for message in seen.body["messages"])
        if seen.model == "gpt-4o":
            return Reply("done") if rounds else ToolCalls(("weather", {"city": "Rome"}))
        return Reply("") if rounds else ToolCalls(("weather", {"city": "Rome"}))

    lab.primary.always(play)
    async with lab.engine(0) as engine:
        answer = await session(engine, tools.weather).run("hi")
    assert (answer.content, answer.metadata.system) == ("done", 2)
    assert tools.ran == ["Rome"]


async def test_an_escalated_answer_is_repaired_too(lab: Any, autojump_clock: Any) -> None:
    @attrs.frozen
    class City:
        name: str

    answers = iter(['{"nom": "Rome"}', '{"name": "Rome"}'])
    lab.primary.always(lambda seen: Reply(next(answers)) if seen.model == "gpt-4o" else Status(500))
    async with lab.engine(0, fallback_models=None) as engine:
        answer = await session(engine).run("hi", output_type=City)
    assert answer.output == City("Rome")
    assert answer.metadata.failover


async def test_the_partial_text_is_that_of_the_whole_turn(lab: Any, tools: Tools, autojump_clock: Any) -> None:
    lab.primary.script(
        ToolCalls(("weather", {"city": "Rome"}), text="Let me see. "), Cut(2, reply=Reply("Seat one is yours now"))
    )
    chunks: list[Any] = []
    async with lab.engine(0) as engine:
        with pytest.raises(StreamInterrupted) as caught:
            await lab.read(session(engine, tools.weather).run_stream("hi", system=1), chunks)
    text = "".join(chunk.content for chunk in chunks)
    assert text.startswith("Let me see. Seat")
    assert caught.value.partial == text


async def test_a_forced_system_does_not_escalate(lab: Any, autojump_clock: Any) -> None:
    lab.primary.script(Reply(""))
    async with lab.engine() as engine:
        answer = await session(engine).run("hi", system=1)
        assert (answer.content, answer.metadata.system) == ("", 1)


async def test_an_exhausted_system_1_turn_escalates_only_to_somebody_new(lab: Any, autojump_clock: Any) -> None:
    for name in ("openai", "anthropic"):
        lab[name].always(Status(500))
    async with lab.engine(worker_model="gpt-4o", orchestrator_model="gpt-4o") as engine:
        with pytest.raises(NoProviderLeft) as caught:
            await session(engine).run("hi")
        assert len(caught.value.attempts) == 3
    async with lab.engine(fallback_models=None) as engine:  # here System 2 has a model of its own to ask
        with pytest.raises(NoProviderLeft) as caught:
            await session(engine).run("hi")
        assert "gpt-4o" in {one.model for one in caught.value.attempts}


async def test_an_escalation_in_vain_tells_of_both_roles(lab: Any, autojump_clock: Any) -> None:
    lab.primary.always(lambda seen: Status(401) if seen.model == "gpt-4o-mini" else Status(500))
    lab.spare.always(Status(500))
    async with lab.engine(fallback_models=None) as engine:
        with pytest.raises(NoProviderLeft) as caught:
            await session(engine).run("hi")
    told = str(caught.value)
    assert "openai/gpt-4o-mini: credential (HTTP 401)" in told
    assert not any("gpt-4o-mini: not asked" in line for line in told.splitlines())
    assert "AuthError" in {type(one).__name__ for one in caught.value.errors}
    assert len(caught.value.errors) == len(caught.value.attempts)


async def test_who_named_the_fallbacks_named_all_of_them(lab: Any, autojump_clock: Any) -> None:
    """No other vendor by the back door of the other role."""
    lab.primary.always(Status(500))
    spare = {"orchestrator_model": "claude-opus-4-5", "fallback_models": []}
    async with lab.engine(**spare) as engine:
        with pytest.raises(ProviderUnavailable):
            await session(engine).run("hi")
        assert lab.spare.requests == ()
        lab.primary.always(Reply(""))
        assert (await session(engine).run("hi")).metadata.system == 2  # an empty answer is no failure


async def test_a_delayed_answer_is_waited_for(lab: Any, autojump_clock: Any) -> None:
    lab.primary.script(Delay(50, Reply("slow but sure")))
    async with lab.engine() as engine:
        talk = session(engine)
        assert (await talk.run("hi", system=1)).content == "slow but sure"
        assert talk.history[-1].parts == (Text("slow but sure"),)
