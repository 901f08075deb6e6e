"""For tests of actors: virtual time, a seeded schedule, a complete event log, probes and faults.

    def test_it() -> None:
        async def main(world: World) -> None:
            ref = await world.system.start(Spec(lambda: Faulty(crash_on(2)), "faulty"))
            ...
        simulate(main, seed=7)

One seed gives one run: the order of trio's tasks, the jitter of restarts and `ctx.rng` all come from it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

import attrs
import trio
import trio.testing

from . import events
from .actor import Actor, handle
from .mailbox import Ask
from .system import System

T = TypeVar("T")
E = TypeVar("E", bound=events.Event)


class EventLog:
    """All events of a system so far."""

    def __init__(self, stream: events.EventStream) -> None:
        self._stream = stream
        self._seen: list[events.Event] = []

    @property
    def all(self) -> list[events.Event]:
        self._seen += self._stream.drain()
        return list(self._seen)

    def of(self, kind: type[E], name: str | None = None) -> list[E]:
        """The events of one kind, optionally of the actor with this name."""
        found = [event for event in self.all if isinstance(event, kind)]
        return [event for event in found if name is None or event.path.rsplit("/", 1)[-1] == name]

    def assert_order(self, *kinds: type[events.Event]) -> None:
        """These kinds occurred in this order, with others between them or not."""
        rest = iter(self.all)
        for kind in kinds:
            if not any(isinstance(event, kind) for event in rest):
                raise AssertionError(f"no {kind.__name__} in its place in {[type(e).__name__ for e in self.all]}")


@attrs.frozen
class World:
    """What a simulation hands to its main function."""

    system: System
    log: EventLog


def simulate(main: Callable[[World], Awaitable[T]], seed: int = 0, **options: Any) -> T:
    """Run `main` in a fresh system under a clock that jumps; `options` go to `System`.

    Every answer of trio's scheduler is drawn from `seed` as well, for which trio has no public way: the two names of
    `trio._core._run` used here are those pytest-trio and hypothesis use.
    """
    scheduler: Any = trio._core._run
    before = scheduler._ALLOW_DETERMINISTIC_SCHEDULING, scheduler._r.getstate()

    async def run() -> T:
        system = System(seed=seed, **options)
        async with system.events(buffer=float("inf")) as stream:
            log = EventLog(stream)
            async with system:
                return await main(World(system, log))

    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True
    scheduler._r.seed(seed)
    try:
        return trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = before[0]
        scheduler._r.setstate(before[1])


@attrs.frozen
class Poke(Ask[int]):
    """Told or asked: `Faulty` answers how many it has handled in this life."""

    number: int = 0


Fault = Callable[[int], Awaitable[None]]


def crash_on(*numbers: int, error: Callable[[], Exception] = lambda: RuntimeError("scripted crash")) -> Fault:
    """A fault that raises at these numbers."""

    async def fault(number: int) -> None:
        if number in numbers:
            raise error()

    return fault


def hang_on(*numbers: int) -> Fault:
    """A fault that never returns at these numbers; it can be cancelled."""

    async def fault(number: int) -> None:
        if number in numbers:
            await trio.sleep_forever()

    return fault


def swallow_cancel(seconds: float, *numbers: int) -> Fault:
    """A fault that ignores its first cancellation and shields itself for `seconds` more."""

    async def fault(number: int) -> None:
        if number in numbers:
            with trio.CancelScope(shield=True):
                await trio.sleep(seconds)

    return fault


class Faulty(Actor[Poke]):
    """Runs its fault with the number of each `Poke`, then counts it; takes `slow_start` seconds to start."""

    def __init__(self, fault: Fault | None = None, slow_start: float = 0.0) -> None:
        self.fault = fault
        self.slow_start = slow_start
        self.handled = 0

    async def on_start(self) -> None:
        if self.slow_start:
            await trio.sleep(self.slow_start)

    @handle
    async def poke(self, message: Poke) -> int:
        if self.fault is not None:
            await self.fault(message.number)
        self.handled += 1
        return self.handled


def assert_conserved(log: EventLog, name: str, accepted: int, handled: int, ignore: Iterable[str] = ()) -> None:
    """Every accepted message of the actor `name` had one fate. Call it once the system has ended.

    `handled` counts what handlers began, crashed ones included; a refused message was never accepted.
    """
    skip = set(ignore)
    lost = [event for event in log.of(events.DeadLetter, name) if event.reason == "discarded"]
    fates: list[Any] = [*lost, *log.of(events.Skipped, name), *log.of(events.Superseded, name)]
    fates += log.of(events.Unhandled, name)
    counted = sum(event.msg_type not in skip for event in fates)
    if accepted != handled + counted:
        raise AssertionError(f"{name}: accepted {accepted}, handled {handled}, other fates {counted}")
