"""System 2: the deep model, which may hand sub-tasks to the workers; and what it may see of a private session."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio.testing

import cortex
from cortex.errors import ConfigError, DeadlineExceeded
from cortex.testing import Delay, FaultWall, Hang, Reply, Status, ToolCalls

DEEP, FAST = "gpt-4o", "gpt-4o-mini"


def by_model(deep: list[Any], fast: Any) -> Any:
    """The orchestrator's answers in order; the workers' by the request."""
    left = list(deep)
    return lambda seen: left.pop(0) if seen.model == DEEP else fast(seen)


def session(engine: Any, *tools: Any) -> Any:
    return engine.create_agent("a", "Be brief.", tools=tools).start_session()


def delegate(*tasks: Any) -> ToolCalls:
    return ToolCalls(("delegate", {"tasks": list(tasks)}))


async def test_sub_tasks_run_side_by_side_and_come_back_in_order(lab: Any, autojump_clock: Any) -> None:
    lab.primary.always(
        by_model([delegate("one", "two", "three"), Reply("done")], lambda seen: Delay(5, Reply(f"<{seen.text}>")))
    )
    async with lab.engine() as engine:
        talk = session(engine)
        answer = await talk.run("plan", system=2)
        assert trio.current_time() == pytest.approx(5, abs=0.2)
    assert answer.content == "done"
    assert answer.metadata.model_used == DEEP
    (result,) = [one for one in answer.tool_results if one.name == "delegate"]
    assert json.loads(result.content) == [
        {"task": "one", "answer": "<one>"},
        {"task": "two", "answer": "<two>"},
        {"task": "three", "answer": "<three>"},
    ]
    assert len(answer.metadata.attempts) == 5  # every token that was paid for is in the trail
    progress = talk.get_goal_progress()
    assert (progress["steps_done"], progress["steps_planned"]) == (3, 3)


async def test_the_trail_has_the_sub_tasks_in_their_order(lab: Any, autojump_clock: Any) -> None:
    pauses = {"slow": 5, "quick": 1}
    lab.primary.always(
        by_model(
            [delegate("slow", "quick"), Reply("done")],
            lambda seen: Delay(pauses[seen.text], Reply("ok")),
        )
    )
    async with lab.engine() as engine:
        answer = await session(engine).run("plan", system=2)
    tasks = [one.duration for one in answer.metadata.attempts if one.model == FAST]
    assert tasks == [pytest.approx(5, abs=0.2), pytest.approx(1, abs=0.2)]


async def test_a_worker_sees_nothing_but_its_task(lab: Any, autojump_clock: Any) -> None:
    lab.primary.always(by_model([delegate("sub-task"), Reply("done")], lambda seen: Reply("ok")))
    async with lab.engine() as engine:
        await session(engine).run("the whole story", system=2)
    (seen,) = [seen for seen in lab.primary.requests if seen.model == FAST]
    assert "the whole story" not in json.dumps(seen.body)
    assert "Be brief." in json.dumps(seen.body)
    assert "delegate" not in json.dumps(seen.body)


async def test_a_sub_task_that_fails_is_told_and_the_others_count(lab: Any, autojump_clock: Any) -> None:
    def fast(seen: Any) -> Any:
        return Status(400, message="not this") if seen.text == "bad" else Reply("good")

    lab.primary.always(by_model([delegate("bad", "fine"), Reply("half of it")], fast))
    async with lab.engine(0) as engine:
        talk = session(engine)
        answer = await talk.run("plan", system=2)
        assert talk.get_goal_progress()["steps_done"] == 1
    bad, fine = json.loads(answer.tool_results[0].content)
    assert "not this" in bad["error"]
    assert fine["answer"] == "good"
    assert answer.content == "half of it"


@pytest.mark.parametrize(
    ("tasks", "words"),
    [([], "must be a list of texts"), (["x", 3], "must be a list of texts"), (["x"] * 17, "at most 16")],
)
async def test_wrong_tasks_are_the_models_to_hear(tasks: Any, words: str, lab: Any, autojump_clock: Any) -> None:
    lab.primary.always(by_model([delegate(*tasks), Reply("well then")], lambda seen: Reply("never")))
    async with lab.engine() as engine:
        answer = await session(engine).run("plan", system=2)
    assert answer.content == "well then"
    assert words in answer.tool_results[0].content
    assert {seen.model for seen in lab.primary.requests} == {DEEP}


async def test_workers_use_the_agents_tools_and_run_each_call_once(lab: Any, autojump_clock: Any) -> None:
    ran: list[str] = []

    async def look(what: str) -> str:
        """Look something up."""
        ran.append(what)
        return f"{what} found"

    def fast(seen: Any) -> Any:
        return Reply("looked") if "found" in json.dumps(seen.body) else ToolCalls(("look", {"what": seen.text}))

    lab.primary.always(by_model([delegate("a", "b"), Reply("done")], fast))
    async with lab.engine() as engine:
        answer = await session(engine, look).run("plan", system=2)
    assert sorted(ran) == ["a", "b"]
    assert sorted(answer.metadata.tools_called) == ["delegate", "look", "look"]


async def test_the_turns_deadline_bounds_the_workers_too(lab: Any, autojump_clock: Any) -> None:
    lab.primary.always(by_model([delegate("a", "b"), Reply("never asked")], lambda seen: Hang()))
    async with lab.engine(0) as engine:
        with pytest.raises(DeadlineExceeded) as caught:
            await session(engine).run("plan", system=2, timeout=10)
        assert trio.current_time() <= 10.1
        assert [one.model for one in caught.value.attempts] == [FAST, FAST, DEEP]
        assert [seen.model for seen in lab.primary.requests] == [DEEP, FAST, FAST]
        await trio.testing.wait_all_tasks_blocked()
        assert engine.health()["openai"].in_flight == 0
        assert all(seen.gone for seen in lab.primary.requests if seen.model == FAST)


@pytest.mark.parametrize("grace", [0, 1])
async def test_what_a_sub_task_tried_is_told_however_long_its_tools_linger(
    grace: float, lab: Any, autojump_clock: Any
) -> None:
    async def slow() -> str:
        """Slow, and slow to leave."""
        try:
            await trio.sleep(100)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(grace)
        return "done"

    for tools, fast in (((slow,), ToolCalls(("slow", {}))), ((), Hang())):
        lab.primary.always(by_model([delegate("a", "b")], lambda seen: fast))  # noqa: B023
        async with lab.engine(0, policy={"grace": grace}) as engine:
            with pytest.raises(DeadlineExceeded) as caught:
                await session(engine, *tools).run("plan", system=2, timeout=10)
            assert [one.model for one in caught.value.attempts] == [FAST, FAST, DEEP]


async def test_a_cancelled_turn_has_ended_in_its_workers_too(lab: Any, autojump_clock: Any) -> None:
    ended: list[float] = []

    async def slow() -> str:
        """Slow, and slow to leave."""
        try:
            await trio.sleep(100)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            ended.append(trio.current_time())
        return "done"

    lab.primary.always(by_model([delegate("a")], lambda seen: ToolCalls(("slow", {}))))
    async with lab.engine(0) as engine:
        with trio.move_on_after(2):
            await session(engine, slow).run("hi", system=2)
        assert ended == [3]


async def test_delegate_is_no_name_for_a_users_tool(lab: Any) -> None:
    def delegate(x: str) -> str:
        """Mine."""
        return x

    with pytest.raises(ConfigError, match="'delegate' is the orchestrator's own tool"):
        lab.engine().create_agent("a", tools=[delegate])


async def test_a_sub_task_that_failed_is_no_failover_of_the_answer(lab: Any, autojump_clock: Any) -> None:
    lab.primary.always(by_model([delegate("a"), Reply("done")], lambda seen: Status(500)))
    async with lab.engine() as engine:
        answer = await session(engine).run("hi", system=2)
    assert (answer.content, answer.metadata.failover) == ("done", False)
    assert any(not one.ok for one in answer.metadata.attempts)


def private_engine(wall: FaultWall) -> cortex.Engine:
    """The worker at home, the orchestrator in the cloud."""
    return cortex.Engine(
        {
            "openai": {"api_key": "key-of-openai", "base_url": wall["openai"].base_url},
            "home": {"kind": "local", "base_url": wall["home"].base_url, "models": ["llama"]},
        },
        worker_model="home/llama",
        orchestrator_model=DEEP,
        transport=wall.transport(),
    )


async def test_a_private_sessions_past_and_results_never_leave_home(autojump_clock: Any) -> None:
    async def secret() -> str:
        """Something private."""
        return "PRIVATE-RESULT"

    wall = FaultWall()
    cloud, home = wall.add("openai"), wall.add("home", "openai")
    home.script(ToolCalls(("secret", {})), Reply("PRIVATE-ANSWER"))
    async with private_engine(wall) as engine:
        talk = session(engine, secret)
        assert (await talk.run("PRIVATE-QUESTION")).content == "PRIVATE-ANSWER"
        assert cloud.requests == ()
        home.script(Reply(""))
        await talk.run("explain step by step, analyse and plan and compare everything in depth")
        assert cloud.requests == ()  # neither triage nor escalation leaves home by itself
        cloud.script(ToolCalls(("delegate", {"tasks": ["do it"]})), Reply("done"))
        home.script(ToolCalls(("secret", {})), Reply("the task's answer"))
        answer = await talk.run("now ask the cloud", system=2)
        assert answer.content == "done"
    sent = json.dumps([seen.body for seen in cloud.requests])
    assert "now ask the cloud" in sent
    assert "the task's answer" in sent
    for private in ("PRIVATE-QUESTION", "PRIVATE-RESULT", "PRIVATE-ANSWER", '"name": "secret"'):
        assert private not in sent
    assert "PRIVATE-RESULT" in json.dumps([seen.body for seen in home.requests])
