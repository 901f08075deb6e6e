"""Supervisors at work: giving up, escalation, commands from inside, names, watches."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

import actors
from actors import events
from actors.testing import Faulty, Poke, World, crash_on

ALWAYS = actors.Restart(base=1.0, jitter=0, factor=1, max_restarts=2)
STOP = actors.Restart(base=1.0, jitter=0, factor=1, max_restarts=2, on_exhausted="stop")


def spec(kit: SimpleNamespace, name: str, book: list[Any] | None = None, **options: Any) -> actors.Spec[Any]:
    hooks = {key: options.pop(key) for key in ("start", "stop") if key in options}
    kept: list[Any] = [] if book is None else book
    return actors.Spec(lambda: kit.Worker(kept, **hooks), name, **options)


async def test_gives_up_and_the_name_is_free(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    ref = await world.system.start(spec(kit, "w", policy=STOP))
    error = ValueError("always")
    for _ in range(3):
        ref.tell(kit.Say(error))
    ended = await ref.wait_stopped()
    assert ended == actors.GaveUp(actors.Crashed(error, "handler", "Say"))
    assert trio.current_time() == 2
    again = await world.system.root.start_child(spec(kit, "w"))
    assert again != ref
    assert ref.tell(kit.Say(1)) is False
    assert await again.ask(kit.Get(1)) == 1
    assert len(world.log.of(events.GaveUp, "w")) == 1


async def test_escalation_restarts_the_supervisor_with_its_children(
    autojump_clock: Any, world: World, kit: SimpleNamespace
) -> None:
    books: dict[str, list[Any]] = {"a": [], "b": []}
    sup = await world.system.start(actors.SupervisorSpec("sup", policy=ALWAYS))
    a = await sup.start_child(spec(kit, "a", books["a"], policy=actors.Restart(max_restarts=0)))
    b = await sup.start_child(spec(kit, "b", books["b"]))
    bystander = await world.system.start(spec(kit, "c"))
    a.tell(kit.Say(ValueError()))
    a.tell(kit.Say("kept by a"))
    await trio.testing.wait_all_tasks_blocked()
    b.tell(kit.Say("kept by b"))
    with pytest.raises(actors.Unavailable):
        await b.ask(kit.Get(1), timeout=0.5)
    assert await b.ask(kit.Get(1), timeout=2) == 1
    assert books["a"] == [("start", 1), ("stop", "Crashed"), ("start", 2), "kept by a"]
    assert books["b"] == [("start", 1), ("stop", "Shutdown"), ("start", 2), "kept by b"]
    assert sup.children() == (a, b)
    assert await bystander.ask(kit.Get(2)) == 2
    assert [node.generation for node in world.system.tree().children] == [2, 1]
    world.log.assert_order(events.GaveUp, events.Escalated, events.RestartScheduled, events.Restarted)


async def test_a_root_that_gives_up_leaves_the_block(autojump_clock: Any, kit: SimpleNamespace) -> None:
    error = ValueError("last")
    with pytest.raises(actors.SupervisionFailed) as caught:  # noqa: PT012
        async with actors.System() as system:
            sup = await system.start(actors.SupervisorSpec("sup", policy=actors.Restart(max_restarts=0)))
            ref = await sup.start_child(spec(kit, "w", policy=actors.Restart(max_restarts=0)))
            ref.tell(kit.Say(error))
            await trio.sleep_forever()
    assert caught.value.__cause__ is error
    assert isinstance(await ref.wait_stopped(), actors.GaveUp)


async def test_healthy_siblings_are_left_alone(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    book: list[Any] = []
    other = await world.system.start(spec(kit, "other", book))
    ref = await world.system.start(actors.Spec(lambda: Faulty(crash_on(1)), "faulty", policy=ALWAYS))
    other.tell(kit.Say(1))
    ref.tell(Poke(1))
    await trio.sleep(5)
    other.tell(kit.Say(2))
    await other.ask(kit.Get(1))
    assert book == [("start", 1), 1, 2]


async def test_restart_child(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    book: list[Any] = []
    slow = actors.Restart(base=100, cap=100)
    ref = await world.system.start(spec(kit, "w", book, policy=slow))
    root = world.system.root
    assert await root.restart_child(ref) is True
    ref.tell(kit.Say(ValueError()))
    await trio.sleep(1)
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(root.restart_child, ref)
    assert trio.current_time() == 1
    assert await ref.ask(kit.Get(1)) == 1
    starts = [item for item in book if item[0] == "start"]
    assert starts == [("start", 1), ("start", 2), ("start", 3)]
    await root.stop_child(ref)
    assert await root.restart_child(ref) is False
    await root.remove_child(ref)
    assert root.children() == ()


async def test_restart_child_reports_a_failing_start(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    async def once(actor: Any) -> None:
        if actor.ctx.generation == 2:
            raise ValueError

    ref = await world.system.start(spec(kit, "w", start=once))
    assert await world.system.root.restart_child(ref) is False
    await trio.sleep(1)
    assert await ref.ask(kit.Get(1)) == 1


async def test_calls_from_inside_an_actor(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    sup = await world.system.start(actors.SupervisorSpec("sup"))
    boss = await sup.start_child(spec(kit, "boss"))

    async def job(actor: Any) -> Any:
        child = await sup.start_child(spec(kit, "child"))
        value = await child.ask(kit.Get("from the child"))
        await sup.restart_child(child)
        await sup.stop_child(child)
        return value, [ref.name for ref in sup.children()]

    assert await boss.ask(kit.Do(job)) == ("from the child", ["boss"])


async def test_a_cancelled_starter_leaves_no_child(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    async def slow(actor: Any) -> None:
        await trio.sleep(5)

    with trio.move_on_after(1):
        await world.system.start(spec(kit, "w", start=slow))
    await trio.testing.wait_all_tasks_blocked()
    assert world.system.get("w") is None
    assert trio.current_time() == 1


async def test_names(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    sup = await world.system.start(actors.SupervisorSpec("sup"))
    ref = await sup.start_child(spec(kit, "w"))
    with pytest.raises(actors.NameTaken, match="system/sup/w"):
        await world.system.start(spec(kit, "w"))
    assert world.system.get("w") == ref
    assert (ref.name, ref.path) == ("w", "system/sup/w")
    with pytest.raises(ValueError, match="not a child"):
        await world.system.root.stop_child(ref)
    ref.tell(kit.Say(ValueError()))
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(actors.NameTaken):  # held while it waits for its restart
        await world.system.start(spec(kit, "w"))
    await sup.stop_child(ref)
    assert world.system.get("w") is None


async def test_name_is_free_inside_the_handler_of_down(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    got: list[Any] = []

    class Heir(actors.Actor[actors.Down]):
        async def on_start(self) -> None:
            self.ctx.watch(target)

        @actors.handle
        async def down(self, message: actors.Down) -> None:
            got.append(await world.system.start(spec(kit, "w")))

    target = await world.system.start(spec(kit, "w"))
    await world.system.start(actors.Spec(Heir, "heir"))
    await world.system.root.stop_child(target)
    await trio.testing.wait_all_tasks_blocked()
    assert got[0].path == target.path
    assert got[0] != target


def watching(*refs: Any, restarts: bool = False) -> Any:
    async def hook(actor: Any) -> None:
        for ref in refs:
            actor.ctx.watch(ref, restarts=restarts)
            actor.ctx.watch(ref)

    return hook


async def test_down_comes_once_and_after_what_the_target_told(
    autojump_clock: Any, world: World, kit: SimpleNamespace
) -> None:
    book: list[Any] = []
    target = await world.system.start(spec(kit, "target", restart="temporary"))
    watcher = await world.system.start(spec(kit, "watcher", book, start=watching(target), mailbox=actors.Mailbox(2)))

    async def job(actor: Any) -> None:
        watcher.tell(kit.Say("last words"))
        raise ValueError("die")

    watcher.tell(kit.pause(1))
    target.tell(kit.Do(job))
    await trio.sleep(2)
    assert book[1] == "last words"
    (down,) = book[2:]
    assert (down.ref, type(down.exit), down.generation) == (target, actors.Crashed, 1)
    late = await world.system.start(spec(kit, "late", other := [], start=watching(target)))
    await late.ask(kit.Get(1))
    assert len([item for item in other if isinstance(item, actors.Down)]) == 2  # one for each watch of the dead


async def test_unwatch_takes_a_queued_down_back(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    book: list[Any] = []
    target = await world.system.start(spec(kit, "target"))
    watcher = await world.system.start(spec(kit, "watcher", book, start=watching(target)))

    async def job(actor: Any) -> None:
        await world.system.root.stop_child(target)
        actor.ctx.unwatch(target)

    await watcher.ask(kit.Do(job))
    await watcher.ask(kit.Get(1))
    assert book == [("start", 1)]


async def test_watching_restarts(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    quiet: list[Any] = []
    book: list[Any] = []
    target = await world.system.start(spec(kit, "target", policy=STOP))
    await world.system.start(spec(kit, "quiet", quiet, start=watching(target)))
    await world.system.start(spec(kit, "watcher", book, start=watching(target, restarts=True)))
    for _ in range(3):
        target.tell(kit.Say(ValueError()))
    await trio.sleep(5)
    kinds = [type(item).__name__ for item in book[1:]]
    assert kinds == ["Restarting", "Restarted", "Restarting", "Restarted", "Down"]
    assert [(item.k, item.delay) for item in book if isinstance(item, actors.Restarting)] == [(1, 1.0), (2, 1.0)]
    assert [type(item).__name__ for item in quiet[1:]] == ["Down"]


async def test_a_watch_dies_with_the_incarnation(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    book: list[Any] = []
    target = await world.system.start(spec(kit, "target"))

    async def first_life_only(actor: Any) -> None:
        if actor.ctx.generation == 1:
            actor.ctx.watch(target)

    watcher = await world.system.start(spec(kit, "watcher", book, start=first_life_only))

    async def job(actor: Any) -> None:
        await world.system.root.stop_child(target)
        raise ValueError("with a Down in the queue")

    watcher.tell(kit.Do(job))
    assert await watcher.ask(kit.Get(1)) == 1
    assert not any(isinstance(item, actors.Down) for item in book)


async def test_watch_needs_a_handler(autojump_clock: Any, world: World) -> None:
    class Deaf(actors.Actor[Poke]):
        async def on_start(self) -> None:
            self.ctx.watch(self.ctx.ref)

        @actors.handle
        def poke(self, message: Poke) -> int:
            return 1

    with pytest.raises(actors.StartError) as caught:
        await world.system.start(actors.Spec(Deaf, "deaf"))
    assert "Down" in str(caught.value.__cause__)


async def test_stop_of_oneself(autojump_clock: Any, world: World, kit: SimpleNamespace) -> None:
    async def job(actor: Any) -> str:
        actor.ctx.stop()
        return "last answer"

    ref = await world.system.start(spec(kit, "w", restart="transient"))
    assert await ref.ask(kit.Do(job)) == "last answer"
    assert await ref.wait_stopped() == actors.Normal()


async def test_a_supervisor_whose_own_code_fails(
    autojump_clock: Any, world: World, kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    sup = await world.system.start(actors.SupervisorSpec("sup", policy=ALWAYS))
    ref = await sup.start_child(spec(kit, "w"))
    with monkeypatch.context() as patch:
        patch.setattr(sup._node, "child_started", lambda node: 1 / 0)
        ref.tell(kit.Say(ValueError()))
        await trio.sleep(0.9)
    assert await ref.ask(kit.Get(1), timeout=10) == 1
    assert world.system.tree().children[0].generation > 1


def test_faulty_declarations() -> None:
    class Missing(actors.Actor[Poke | actors.Down]):
        @actors.handle
        def poke(self, message: Poke) -> int:
            return 1

    class Twice(actors.Actor[Poke]):
        @actors.handle
        def one(self, message: Poke) -> int:
            return 1

        @actors.handle
        def two(self, message: Poke) -> int:
            return 2

    class Bare(actors.Actor[Poke]):
        @actors.handle
        def one(self, message) -> int:  # type: ignore[no-untyped-def]
            return 1

    from actors.actor import handlers_of

    for cls, text in ((Missing, "declares Down"), (Twice, "two handlers for Poke"), (Bare, "annotated")):
        with pytest.raises(TypeError, match=text):
            handlers_of(cls)
