"""The router: it knows everybody's last snapshot, says who is asked next, and restarts what failed.

It never asks a provider anything: it reads what they publish. A call that nobody can serve now waits here, in order,
until a snapshot or a time changes that. A provider's actor that is being restarted is out of the picks; one that was
given up is started afresh at its recheck time.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

import attrs
import trio

import actors
from cortex import health
from cortex.board import Board
from cortex.config import ProviderConfig, Settings
from cortex.events import EventHub, HealthChanged, ProviderRestarted, wall_clock
from cortex.protocol import Nobody, Pick, Picked, Publish, Recheck, Snapshot
from cortex.routing import Lane, LaneView, NoneLeft, Ranked, Resorts, Verdict, Wait, choose, rank
from cortex.routing import Pick as Chosen

logger = logging.getLogger("cortex")

ProviderSpec = Callable[[ProviderConfig, actors.ActorRef[Any], Snapshot | None], actors.Spec[Any]]

PICK_SECONDS = 1.0
"""A pick that has not become a call by then is not counted any more: its caller left."""

SNAPSHOT_SECONDS = 0.1
"""A restarted router waits so long for the snapshots it asked for before it judges without them."""


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


class Router(actors.Actor[Pick | Snapshot | Recheck | actors.Down | actors.Restarting | actors.Restarted]):
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
        self._gone: dict[str, float] = {}
        self._ready_at = 0.0

    # ---- life

    async def on_start(self) -> None:
        """Start the providers, or find them again: they live beside the router and outlive it."""
        living = {ref.name: ref for ref in self._providers.children()}
        for config in self._settings.providers:
            ref = living.get(f"provider:{config.name}")
            if isinstance(ref, actors.ActorRef):
                self._adopt(config.name, ref)
                ref.tell(Publish())
            else:
                await self._start(config)
        self._ready_at = trio.current_time() + SNAPSHOT_SECONDS
        self.ctx.spawn(self._keep_time)

    async def _start(self, config: ProviderConfig) -> None:
        last = self._board.snapshots.get(config.name)
        ref = await self._providers.start_child(self._spec(config, self.ctx.ref, last))
        self._gone.pop(config.name, None)
        self._adopt(config.name, ref)

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
        self._board.snapshots[name] = message
        self._issued[name] = [one for one in self._issued[name] if one.number > message.seen]
        self._report(name)
        if self._waiting:
            self._serve_waiting()

    def _report(self, name: str) -> None:
        status, why = self._board.status_of(name, trio.current_time())
        previous = self._statuses.get(name, "up")
        self._statuses[name] = status
        if status == previous:
            return
        logger.warning("provider %s is %s (was %s)%s", name, status, previous, f": {why}" if why else "")
        self._hub.emit(HealthChanged(name, status, previous, why, wall_clock()))

    @actors.handle
    def restarting(self, message: actors.Restarting) -> None:
        """Its actor crashed: out of the picks until it is back."""
        name = self._names.get(message.ref)
        if name is not None:
            self._board.present.discard(name)
            self._hub.emit(ProviderRestarted(name, f"{message.exit}", wall_clock()))

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
        now = trio.current_time()
        self._board.present.discard(name)
        snapshot = self._board.snapshots.get(name)
        if snapshot is None:
            self._gone[name] = now + 5.0
        else:
            endpoint = health.step(snapshot.endpoint, health.GaveUp(), now, self.ctx.rng)
            self._board.snapshots[name] = attrs.evolve(snapshot, endpoint=endpoint)
            self._gone[name] = endpoint.until or now + 5.0
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
        for tier in pick.needs.tiers:
            for lane in tier:
                if lane.provider in self._board.snapshots or now >= self._ready_at:
                    issued = [
                        one for one in self._issued[lane.provider] if one.lane == lane and now - one.at < PICK_SECONDS
                    ]
                    trial_out = any(one.trial for one in issued)
                    views[lane] = self._board.view(lane, now, issued=len(issued), trial_out=trial_out)
        limit = self._settings.policy.max_attempts_per_lane
        ranked = rank(pick.needs, views, pick.tried, now, self.ctx.rng, max_per_lane=limit)
        return choose(ranked, now, resorts=self._resorts, since=since, deadline=pick.deadline), ranked

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
        stuck: set[int] = set()
        kept: deque[_Waiting] = deque()
        for one in self._waiting:
            if one.reply.settled:
                continue  # its caller left
            alike = id(one.pick.needs.tiers)
            if alike in stuck and not one.pick.tried and now < one.until:
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
            due = [one.until for one in self._waiting] + list(self._gone.values())
            with trio.move_on_at(min(due, default=float("inf"))):
                await self._changed.wait()
                continue
            now = trio.current_time()
            for name in [name for name, at in self._gone.items() if at <= now]:
                await self._revive(name)
            self._serve_waiting()

    async def _revive(self, name: str) -> None:
        del self._gone[name]
        try:
            await self._start(self._board.configs[name])
        except (actors.StartError, actors.NameTaken) as error:
            logger.warning("provider %s could not be started afresh: %s", name, error.__cause__ or error)
            self._gone[name] = trio.current_time() + 5.0

    # ---- by hand

    @actors.handle
    async def recheck(self, message: Recheck) -> tuple[actors.ActorRef[Any], ...]:
        """Revive what was given up if asked to, and say whom to tell."""
        names = [message.provider] if message.provider is not None else list(self._board.configs)
        for name in names:
            if message.revive and name in self._gone:
                await self._revive(name)
        return tuple(self._refs[name] for name in names)


_COULD_SERVE = frozenset({Verdict.READY, Verdict.TRIAL, Verdict.BUSY, Verdict.RAMPING})
