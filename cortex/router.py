"""The router: it knows everybody's last snapshot, says who is asked next, and restarts what failed.

It never asks a provider anything: it reads what they publish. A call that nobody can serve now waits here, in order,
until a snapshot or a time changes that. A provider's actor that is being restarted is out of the picks; one that was
given up is started afresh at its recheck time.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable
from typing import Any

import attrs
import trio

import actors
from cortex import health
from cortex.board import Board
from cortex.budget import Budget
from cortex.config import ProviderConfig, Settings
from cortex.events import EventHub, HealthChanged, ProviderRestarted, wall_clock
from cortex.health import Health
from cortex.outcomes import Scope
from cortex.protocol import ByHand, Nobody, Pick, Picked, ProviderRecheck, ProviderSwitch, Publish, Snapshot
from cortex.routing import Lane, LaneView, NoneLeft, Ranked, Resorts, Verdict, Wait, choose, rank
from cortex.routing import Pick as Chosen

logger = logging.getLogger("cortex")

ProviderSpec = Callable[[ProviderConfig, actors.ActorRef[Any], Snapshot | None], actors.Spec[Any]]

PICK_SECONDS = 1.0
"""A pick that has not become a call by then is not counted any more: its caller left."""

OFF_AGAIN = 60.0
"""A provider that was switched off and then crashed too often has no recheck of its own; it is started afresh then."""


@attrs.frozen
class _Issued:
    """A pick on its way to its provider."""

    number: int
    lane: Lane
    trial: bool
    at: float


@attrs.define(eq=False)
class _Waiting:
    """A call that waits for somebody to be able to serve it."""

    pick: Pick
    reply: actors.Reply[Any]
    since: float
    until: float


class Router(actors.Actor[Pick | Snapshot | ByHand | actors.Down | actors.Restarting | actors.Restarted]):
    """Picks providers; owns the board, the order of the waiting, and the life of the provider actors."""

    def __init__(
        self,
        settings: Settings,
        board: Board,
        hub: EventHub,
        providers: actors.SupervisorRef,
        spec: ProviderSpec,
    ) -> None:
        self._settings = settings
        self._board = board
        self._hub = hub
        self._providers = providers
        self._spec = spec
        self._refs: dict[str, actors.ActorRef[Any]] = {}
        self._names: dict[actors.Ref, str] = {}
        self._issued: dict[str, list[_Issued]] = {config.name: [] for config in settings.providers}
        self._number = 0
        self._resorts = Resorts()
        self._waiting: deque[_Waiting] = deque()
        self._changed = trio.Event()
        self._statuses: dict[str, str] = {}
        self._reviving = trio.Lock()

    # ---- life

    async def on_start(self) -> None:
        """Start the providers, or find them again: they live beside the router and outlive it."""
        now = trio.current_time()
        self._statuses = {name: self._board.status_of(name, now)[0] for name in self._board.snapshots}
        for name in self._board.configs:
            await self._start(name)
        # Numbers go on from where they were: a provider counts as seen what an earlier router gave out.
        self._number = max((one.seen for one in self._board.snapshots.values()), default=0)
        self.ctx.spawn(self._keep_time)

    async def _start(self, name: str) -> None:
        """Start a provider's actor, with the health it left if it had lived before; what cannot start waits."""
        self._board.given_up.pop(name, None)
        living = next((ref for ref in self._providers.children() if ref.name == f"provider:{name}"), None)
        if isinstance(living, actors.ActorRef):
            self._adopt(name, living)
            living.tell(Publish())
            return
        spec = self._spec(self._board.configs[name], self.ctx.ref, self._board.snapshots.get(name))
        try:
            self._adopt(name, await self._providers.start_child(spec))
        except actors.StartError as error:
            logger.warning("provider %s could not be started: %s", name, error.__cause__ or error)
            self._give_up(name)

    async def _revive(self, name: str) -> None:
        """Start afresh what was given up; once, whoever asks for it: its time, or the user."""
        async with self._reviving:
            if name in self._board.given_up:
                await self._start(name)

    def _adopt(self, name: str, ref: actors.ActorRef[Any]) -> None:
        self._refs[name] = ref
        self._names[ref] = name
        self._board.present.add(name)
        self.ctx.watch(ref, restarts=True)

    # ---- what providers tell

    @actors.handle
    def snapshot(self, message: Snapshot) -> None:
        """The newest state of a provider; somebody who waits may go on now."""
        name = message.provider
        last = self._board.snapshots.get(name)
        self._board.snapshots[name] = message
        self._issued[name] = [one for one in self._issued[name] if one.number > message.seen]
        if last is None or not _as_healthy(last, message):
            self._report(name)
        if self._waiting:
            self._serve_waiting()

    def _report(self, name: str) -> None:
        status, why = self._board.status_of(name, trio.current_time())
        previous = self._statuses.get(name, "up")
        self._statuses[name] = status
        if status == previous:
            return
        level = logging.INFO if status == "up" else logging.WARNING
        logger.log(level, "provider %s is %s (was %s)%s", name, status, previous, f": {why}" if why else "")
        self._hub.emit(HealthChanged(name, status, previous, why, wall_clock()))

    @actors.handle
    def restarting(self, message: actors.Restarting) -> None:
        """Its actor crashed: out of the picks until it is back."""
        name = self._names.get(message.ref)
        if name is not None:
            self._board.present.discard(name)
            self._issued[name].clear()  # the picks on their way to it will find it gone
            self._hub.emit(ProviderRestarted(name, _cause(message.exit), wall_clock()))
            self._serve_waiting()

    @actors.handle
    def restarted(self, message: actors.Restarted) -> None:
        """It is back, with the health it had."""
        name = self._names.get(message.ref)
        if name is not None:
            self._board.present.add(name)
            self._serve_waiting()

    @actors.handle
    def down(self, message: actors.Down) -> None:
        """It crashed too often: disabled, and started afresh when its recheck is due."""
        name = self._names.pop(message.ref, None)
        if name is None or self._refs.get(name) != message.ref:
            return
        del self._refs[name]
        self._give_up(name)
        self._serve_waiting()

    def _give_up(self, name: str) -> None:
        """Its health says so, and when it is started afresh."""
        now = trio.current_time()
        self._board.present.discard(name)
        last = self._board.snapshots.get(name)
        if last is None:
            last = Snapshot(name, Health.new(now, Scope.ENDPOINT), {}, Budget.new(now))
        endpoint = health.step(last.endpoint, health.GaveUp(), now, self.ctx.rng)
        self._board.snapshots[name] = attrs.evolve(last, endpoint=endpoint, in_flight=0)
        self._board.given_up[name] = endpoint.until if endpoint.until is not None else now + OFF_AGAIN
        self._issued[name].clear()
        self._report(name)
        self._changed.set()

    # ---- picking

    @actors.handle
    def pick(self, message: Pick) -> Picked | Nobody | None:
        """Who may serve this call; answered later when it has to wait."""
        now = trio.current_time()
        choice, ranked = self._choose(message, now, now)
        if isinstance(choice, Wait):
            self._waiting.append(_Waiting(message, self.ctx.defer(), now, choice.until))
            self._changed.set()
            return None
        return self._settle(choice, ranked, now)

    def _choose(self, pick: Pick, since: float, now: float) -> tuple[Chosen | Wait | NoneLeft, tuple[Ranked, ...]]:
        views: dict[Lane, LaneView] = {}
        forgotten = math.inf  # when the first of the picks that are counted here is not counted any more
        for tier in pick.needs.tiers:
            for lane in tier:
                issued = [
                    one for one in self._issued[lane.provider] if one.lane == lane and one.at + PICK_SECONDS > now
                ]
                trial_out = any(one.trial for one in issued)
                views[lane] = self._board.view(lane, now, issued=len(issued), trial_out=trial_out)
                forgotten = min(forgotten, *(one.at + PICK_SECONDS for one in issued), math.inf)
        limit = self._settings.policy.max_attempts_per_lane
        ranked = rank(pick.needs, views, pick.tried, now, self.ctx.rng, max_per_lane=limit)
        choice = choose(ranked, now, resorts=self._resorts, since=since, deadline=pick.deadline)
        if isinstance(choice, Wait) and forgotten < choice.until:
            # A pick whose caller left is never heard of again: its end is no news, so the time must wake the waiting.
            choice = attrs.evolve(choice, until=forgotten)
        return choice, ranked

    def _settle(self, choice: Chosen | NoneLeft, ranked: tuple[Ranked, ...], now: float) -> Picked | Nobody:
        offline = self._board.offline(now)
        if isinstance(choice, NoneLeft):
            gated = all(one.verdict in (Verdict.GATED, Verdict.TRIED) for one in ranked)
            return Nobody(choice.reasons, choice.retry_after, offline, gated)
        if choice.resort == "open":
            self._resorts = attrs.evolve(self._resorts, opened=now)
        elif choice.resort == "disabled":
            self._resorts = attrs.evolve(self._resorts, disabled=now)
        lane = choice.lane
        self._number += 1
        self._issued[lane.provider].append(_Issued(self._number, lane, choice.trial, now))
        others = [one for one in ranked if one.lane != lane]
        return Picked(
            lane,
            self._refs[lane.provider],
            self._number,
            choice.trial,
            spares=sum(one.verdict in _COULD_SERVE for one in others),
            sole=all(one.verdict in (Verdict.UNFIT, Verdict.OFF) for one in others),
            offline=offline,
        )

    # ---- waiting

    def _serve_waiting(self) -> None:
        """Look again, in order. Calls with the same needs fare alike: when the first must wait, so must the others."""
        now = trio.current_time()
        stuck: set[tuple[object, ...]] = set()
        kept: deque[_Waiting] = deque()
        for one in self._waiting:
            if one.reply.settled:
                continue  # its caller left
            alike = _alike(one.pick)
            if alike in stuck and now < one.until:
                kept.append(one)
                continue
            choice, ranked = self._choose(one.pick, one.since, now)
            if isinstance(choice, Wait):
                one.until = choice.until
                stuck.add(alike)
                kept.append(one)
            else:
                one.reply.set(self._settle(choice, ranked, now))
        self._waiting = kept

    async def _keep_time(self) -> None:
        """Wakes when something waits for a time: a call for a lane, or a provider that was given up for its restart."""
        while True:
            self._changed = trio.Event()
            due = [one.until for one in self._waiting] + list(self._board.given_up.values())
            with trio.move_on_at(min(due, default=float("inf"))):
                await self._changed.wait()
                continue
            now = trio.current_time()
            for name in [name for name, at in self._board.given_up.items() if at <= now]:
                await self._revive(name)
            self._serve_waiting()

    # ---- by hand

    @actors.handle
    async def by_hand(self, message: ByHand) -> tuple[actors.ActorRef[Any], ...]:
        """Carry the order out where no actor is left to be told it, and say whom to tell."""
        names = [message.provider] if message.provider is not None else list(self._board.configs)
        for name in names:
            match message.order:
                case ProviderRecheck():
                    await self._revive(name)
                case ProviderSwitch(enabled=enabled):
                    self._board.switch(name, enabled=enabled)
                    if name in self._board.given_up:
                        self._switch(name, enabled=enabled)
                case _:
                    pass
        return tuple(self._refs[name] for name in names if name in self._refs)

    def _switch(self, name: str, *, enabled: bool) -> None:
        """For its next actor, which goes on from here."""
        now, event = trio.current_time(), health.Switched(enabled)
        last = self._board.snapshots[name]
        lanes = {
            lane: attrs.evolve(state, health=health.step(state.health, event, now, self.ctx.rng))
            for lane, state in last.lanes.items()
        }
        endpoint = health.step(last.endpoint, event, now, self.ctx.rng)
        self._board.snapshots[name] = attrs.evolve(last, endpoint=endpoint, lanes=lanes, enabled=enabled)
        self._report(name)
        self._serve_waiting()


def _as_healthy(one: Snapshot, other: Snapshot) -> bool:
    """Whether two snapshots differ in traffic alone: no health was touched."""
    return (
        one.endpoint is other.endpoint
        and one.enabled is other.enabled
        and one.lanes.keys() == other.lanes.keys()
        and all(state.health is other.lanes[lane].health for lane, state in one.lanes.items())
    )


def _cause(exit: actors.Exit) -> str:  # noqa: A002 - an actor's exit is called exit
    """In a line. Of an exception only its type: what it quotes may be anybody's, the log has its traceback."""
    return type(exit.exc if isinstance(exit, actors.Crashed | actors.StartFailed) else exit).__name__


def _alike(pick: Pick) -> tuple[object, ...]:
    """What decides who may serve a call. The chain is told by its identity: chains are made once and kept."""
    needs = pick.needs
    tried = tuple(pick.tried.items())
    return id(needs.tiers), needs.tools, needs.images, needs.output, needs.est_tokens, needs.min_window, tried


_COULD_SERVE = frozenset({Verdict.READY, Verdict.TRIAL, Verdict.BUSY, Verdict.RAMPING})
