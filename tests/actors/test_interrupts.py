"""Ctrl-C at any line of ours: the block ends, its tree with it, and what is raised is the KeyboardInterrupt."""

from __future__ import annotations

from typing import Any, Never

import pytest
import trio

import actors


class Opener(actors.Actor[Never]):
    """Opens something, and closes it at its end."""

    def __init__(self, closed: list[str]) -> None:
        self.closed = closed

    async def on_start(self) -> None:
        self.closed.append("opened")

    async def on_stop(self, exit: actors.Exit) -> None:  # noqa: A002 - its name
        self.closed.append("closed")


async def _work(closed: list[str]) -> None:
    async with actors.System(grace=1) as system:
        await system.start(actors.Spec(lambda: Opener(closed), "counter"))
        group = await system.start(actors.SupervisorSpec("group"))
        child = await group.start_child(actors.Spec(lambda: Opener(closed), "child"))
        await group.stop_child(child)
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("step", [23, pytest.param(1, marks=pytest.mark.slow)])
def test_ctrl_c_at_any_line_ends_the_tree_in_order(step: int, AtLine: Any) -> None:
    for n in range(1, 100_000, step):
        closed: list[str] = []
        if AtLine(n, actors).run(lambda: _work(closed)):  # noqa: B023
            assert n > 500
            return
        assert closed.count("opened") == closed.count("closed"), n
    raise AssertionError("it never ended")


def test_ctrl_c_in_an_actor_hides_nothing_that_the_body_raised() -> None:
    class Pressed(actors.Actor[Never]):
        async def on_stop(self, exit: actors.Exit) -> None:  # noqa: A002 - its name
            raise KeyboardInterrupt

    async def main() -> None:
        async with actors.System(grace=1) as system:
            await system.start(actors.Spec(Pressed, "pressed"))
            raise LookupError("the body's own")

    with pytest.raises(KeyboardInterrupt) as caught:
        trio.run(main)
    assert isinstance(caught.value.__cause__, LookupError)
