"""What a supervisor decides, without doing it: `step(state, event, now, rng) -> (state, actions)`. Pure, no trio.

A child is in one `Phase`. What each event does in each phase (a blank cell is a no-op, so late and doubled events are
harmless; an event of another generation is ignored everywhere):

              STARTING          RUNNING           BACKOFF       STOPPING          PARKED
    Started   -> RUNNING
    Ended     first: settle     decide            .             as ordered        .
              later: decide
    Stop      order, STOPPING   order, STOPPING   settle        settle when over  settle
    Again     .                 order, STOPPING   start now     .                 .
    Tick                                          start if due  kill if due
    Halt      in reverse order, one at a time: order, wait for Ended, go on; then Finish
    Abort     kill              kill              settle/park   kill              settle/park
    Resume    every child starts a new generation, its failures forgotten

Why consecutive failures and not OTP's sliding window (intensity, period): with exponential backoff the delays outgrow
any window and the limit is never reached. A count that only a stable run resets does not depend on time, so a child
that always crashes is always given up after exactly `max_restarts` restarts.

A supervisor that fails parks its children instead of settling them: their cells (address, queue, kept value) live on
if the parent restarts the supervisor. Who is parked and who is settled is decided here, once.
"""

# ruff: noqa: A001, A002 - an actor's exit is called exit

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from random import Random
from typing import Any, Literal, TypeAlias

import attrs

from .errors import Exit, GaveUp, Killed, Shutdown, cause_of, is_abnormal

RestartKind: TypeAlias = Literal["permanent", "transient", "temporary"]


def _between(low: float, high: float) -> Any:
    def check(_: object, attribute: attrs.Attribute[Any], value: float) -> None:
        if not low <= value <= high:
            raise ValueError(f"{attribute.name} must be between {low} and {high}, not {value!r}")

    return check


def _count_or_none(_: object, attribute: attrs.Attribute[Any], value: int | None) -> None:
    if value is not None and value < 0:
        raise ValueError(f"{attribute.name} must be a count from 0 up, or None for no limit, not {value!r}")


@attrs.frozen
class Restart:
    """How often, and after which delays, a child is restarted.

    `max_restarts` counts consecutive failures, None never gives up; a run of `stable_after` seconds forgets them.
    `fatal`: exceptions that are not worth a restart. `on_exhausted`: "escalate" fails the supervisor too, "stop" only
    ends this child. `delay` says what `base`, `factor`, `cap` (seconds) and `jitter` (a share) do.
    """

    max_restarts: int | None = attrs.field(default=5, validator=_count_or_none)
    base: float = attrs.field(default=0.1, validator=_between(0, 1e9))
    factor: float = attrs.field(default=2.0, validator=_between(1, 1000))
    cap: float = attrs.field(default=30.0, validator=_between(0, 1e9))
    jitter: float = attrs.field(default=0.2, validator=_between(0, 1))
    stable_after: float = attrs.field(default=30.0, validator=_between(0, math.inf))
    on_exhausted: Literal["escalate", "stop"] = attrs.field(
        default="escalate", validator=attrs.validators.in_(("escalate", "stop"))
    )
    fatal: tuple[type[BaseException], ...] = ()

    def delay(self, failures: int, u: float) -> float:
        """Seconds before the restart that follows the `failures`-th consecutive failure; `u` is drawn from [0, 1).

        The exponent is clamped, since 2.0 ** 1025 raises OverflowError and would kill the supervisor. Jitter only
        shortens, so `cap` is a true upper bound.
        """
        grown: float = self.base * self.factor ** min(failures - 1, 60)
        return min(self.cap, grown) * (1 - self.jitter * u)


class Phase(StrEnum):
    """Where a cell stands in its life: STOPPED is final."""

    STARTING = "starting"
    RUNNING = "running"
    BACKOFF = "backoff"
    STOPPING = "stopping"
    PARKED = "parked"  # no incarnation; waits for the supervisor's own fate
    STOPPED = "stopped"  # terminal: the child has left the state


class Then(StrEnum):
    """What follows the end of a child that was ordered to stop."""

    SETTLE = "settle"
    RESTART = "restart"
    PARK = "park"


@attrs.frozen
class Child:
    """`due`: when BACKOFF ends, or when STOPPING turns into a kill. `since`: when RUNNING began."""

    uid: int
    kind: RestartKind
    policy: Restart
    shutdown: float
    phase: Phase = Phase.STARTING
    generation: int = 1
    failures: int = 0
    since: float = 0.0
    due: float = math.inf
    then: Then = Then.SETTLE


@attrs.frozen
class State:
    """`children` in the order of their start; `exit` is what the supervisor will end with once it stops."""

    children: Mapping[int, Child] = attrs.field(factory=dict)
    timers: Mapping[int, float] = attrs.field(factory=dict)
    exit: Exit | None = None
    final: bool = False

    @property
    def due(self) -> float:
        """When the next Tick is wanted."""
        return min(self.timers.values(), default=math.inf)


# events


@attrs.frozen
class Add:
    uid: int
    kind: RestartKind
    policy: Restart
    shutdown: float


@attrs.frozen
class Started:
    uid: int
    generation: int


@attrs.frozen
class Ended:
    uid: int
    generation: int
    exit: Exit


@attrs.frozen
class Stop:
    uid: int


@attrs.frozen
class Again:
    uid: int


@attrs.frozen
class Tick:
    pass


@attrs.frozen
class Halt:
    """Stop all children. `final`: the supervisor will not come back, so they are settled, not parked."""

    exit: Exit
    final: bool


@attrs.frozen
class Abort:
    """Kill all children at once."""


@attrs.frozen
class Resume:
    pass


Event: TypeAlias = Add | Started | Ended | Stop | Again | Tick | Halt | Abort | Resume


# actions


@attrs.frozen
class Start:
    uid: int
    generation: int


@attrs.frozen
class Order:
    """Ask the child to stop. `final`: its queue goes to the dead letters now."""

    uid: int
    final: bool


@attrs.frozen
class Kill:
    uid: int


@attrs.frozen
class Backoff:
    uid: int
    exit: Exit
    k: int
    delay: float


@attrs.frozen
class Park:
    uid: int
    exit: Exit


@attrs.frozen
class Settle:
    uid: int
    exit: Exit


@attrs.frozen
class Finish:
    exit: Exit


Action: TypeAlias = Start | Order | Kill | Backoff | Park | Settle | Finish
Result: TypeAlias = tuple[State, list[Action]]


def step(state: State, event: Event, now: float, rng: Random) -> Result:
    match event:
        case Add(uid, kind, policy, shutdown):
            return _put(state, Child(uid, kind, policy, shutdown)), [Start(uid, 1)]
        case Tick():
            return _tick(state, now)
        case Halt(exit, final):
            halted = attrs.evolve(state, exit=state.exit or exit, final=state.final or final)
            return _halt_on(*_seal(halted, now), now)
        case Abort():
            return _abort(state, now)
        case Resume():
            return _resume(state)
        case Started() | Ended() | Stop() | Again():
            child = state.children.get(event.uid)
            if child is None:
                return state, []
            return _of_child(state, child, event, now, rng)


def _of_child(state: State, child: Child, event: Started | Ended | Stop | Again, now: float, rng: Random) -> Result:
    match event:
        case Started(generation=generation):
            if generation == child.generation and child.phase is Phase.STARTING:
                return _put(state, attrs.evolve(child, phase=Phase.RUNNING, since=now)), []
            return state, []
        case Ended(generation=generation, exit=exit):
            if generation != child.generation or child.phase in (Phase.BACKOFF, Phase.PARKED):
                return state, []
            return _ended(state, child, exit, now, rng)
        case Stop():
            return _stop(state, child, now)
        case Again():
            return _again(state, child, now)


def _put(state: State, child: Child) -> State:
    timers = dict(state.timers)
    timers.pop(child.uid, None)
    if child.due != math.inf:
        timers[child.uid] = child.due
    return attrs.evolve(state, children={**state.children, child.uid: child}, timers=timers)


def _settle(state: State, child: Child, exit: Exit) -> Result:
    children = {uid: other for uid, other in state.children.items() if uid != child.uid}
    timers = {uid: due for uid, due in state.timers.items() if uid != child.uid}
    return attrs.evolve(state, children=children, timers=timers), [Settle(child.uid, exit)]


def _park(state: State, child: Child, exit: Exit) -> Result:
    return _put(state, attrs.evolve(child, phase=Phase.PARKED, due=math.inf)), [Park(child.uid, exit)]


def _start(state: State, child: Child) -> Result:
    generation = child.generation + 1
    child = attrs.evolve(child, phase=Phase.STARTING, generation=generation, due=math.inf)
    return _put(state, child), [Start(child.uid, generation)]


def _order(state: State, child: Child, then: Then, now: float) -> Result:
    child = attrs.evolve(child, phase=Phase.STOPPING, then=then, due=now + child.shutdown)
    return _put(state, child), [Order(child.uid, then is Then.SETTLE)]


def _ended(state: State, child: Child, exit: Exit, now: float, rng: Random) -> Result:
    if child.phase is Phase.STOPPING:
        then = child.then
    elif state.exit is not None:
        then = _fate(state, child)
    elif child.phase is Phase.STARTING and child.generation == 1:
        then = Then.SETTLE
    else:
        return _decide(state, child, exit, now, rng)
    match then:
        case Then.SETTLE:
            return _halt_on(*_settle(state, child, exit), now)
        case Then.PARK:
            return _halt_on(*_park(state, child, exit), now)
        case Then.RESTART:
            state, actions = _start(state, child)
            return state, [Backoff(child.uid, exit, child.failures, 0.0), *actions]


def _decide(state: State, child: Child, exit: Exit, now: float, rng: Random) -> Result:
    """A child ended by itself: restart it, let it go, or give up."""
    if child.kind == "temporary" or (child.kind == "transient" and not is_abnormal(exit)):
        return _settle(state, child, exit)
    policy = child.policy
    stable = child.phase is Phase.RUNNING and now - child.since >= policy.stable_after
    failures = 1 if stable else child.failures + 1
    exhausted = policy.max_restarts is not None and failures > policy.max_restarts
    if exhausted or isinstance(cause_of(exit), policy.fatal):
        gave_up = GaveUp(exit)
        if policy.on_exhausted == "stop":
            return _settle(state, child, gave_up)
        state, actions = _park(attrs.evolve(state, exit=gave_up), child, gave_up)
        return _halt_on(state, actions, now)
    delay = policy.delay(failures, rng.random())
    child = attrs.evolve(child, phase=Phase.BACKOFF, failures=failures, due=now + delay)
    return _put(state, child), [Backoff(child.uid, exit, failures, delay)]


def _stop(state: State, child: Child, now: float) -> Result:
    match child.phase:
        case Phase.STARTING | Phase.RUNNING:
            return _order(state, child, Then.SETTLE, now)
        case Phase.STOPPING if child.then is not Then.SETTLE:
            return _put(state, attrs.evolve(child, then=Then.SETTLE)), [Order(child.uid, final=True)]
        case Phase.BACKOFF | Phase.PARKED:
            return _halt_on(*_settle(state, child, Shutdown()), now)
        case _:
            return state, []


def _again(state: State, child: Child, now: float) -> Result:
    if state.exit is not None:
        return state, []
    match child.phase:
        case Phase.RUNNING:
            return _order(state, child, Then.RESTART, now)
        case Phase.BACKOFF:
            return _start(state, child)
        case _:
            return state, []


def _tick(state: State, now: float) -> Result:
    actions: list[Action] = []
    due = [child for uid, child in state.children.items() if state.timers.get(uid, math.inf) <= now]
    for child in due:
        if child.phase is Phase.BACKOFF:
            state, more = _start(state, child)
        else:
            state, more = _put(state, attrs.evolve(child, due=math.inf)), [Kill(child.uid)]
        actions += more
    return state, actions


def _fate(state: State, child: Child) -> Then:
    """What becomes of a child of a supervisor that stops. One that never ran has nothing to come back to."""
    came_up = child.generation > 1 or child.phase is not Phase.STARTING
    return Then.PARK if not state.final and child.kind != "temporary" and came_up else Then.SETTLE


def _seal(state: State, now: float) -> Result:
    """A final halt overrules what was planned for the children already on their way out."""
    actions: list[Action] = []
    if state.final:
        for child in reversed(list(state.children.values())):
            if child.phase is Phase.STOPPING:
                state, more = _stop(state, child, now)
                actions += more
    return state, actions


def _halt_on(state: State, actions: list[Action], now: float) -> Result:
    """If the supervisor stops: stop the last child that still lives, or finish."""
    done, exit = actions, state.exit
    if exit is None:
        return state, done
    for child in reversed(list(state.children.values())):
        match child.phase:
            case Phase.STARTING | Phase.RUNNING:
                state, more = _order(state, child, _fate(state, child), now)
                return state, done + more
            case Phase.STOPPING:
                return state, done
            case _:
                state, more = _rest(state, child)
                done = done + more
    return state, [*done, Finish(exit)]


def _rest(state: State, child: Child) -> Result:
    """A child without an incarnation, of a supervisor that stops."""
    if _fate(state, child) is Then.SETTLE:
        return _settle(state, child, Shutdown())
    return (state, []) if child.phase is Phase.PARKED else _park(state, child, Shutdown())


def _abort(state: State, now: float) -> Result:
    state = attrs.evolve(state, exit=state.exit or Killed())
    actions: list[Action] = []
    for child in reversed(list(state.children.values())):
        if child.phase in (Phase.BACKOFF, Phase.PARKED):
            continue
        then = child.then if child.phase is Phase.STOPPING else _fate(state, child)
        state = _put(state, attrs.evolve(child, phase=Phase.STOPPING, then=then, due=math.inf))
        actions.append(Kill(child.uid))
    return _halt_on(state, actions, now)


def _resume(state: State) -> Result:
    actions: list[Action] = []
    state = attrs.evolve(state, exit=None, final=False)
    for child in state.children.values():
        state, more = _start(state, attrs.evolve(child, failures=0))
        actions += more
    return state, actions
