"""The board: the newest snapshot of each provider, written by the router, read by anybody.

Reading takes no lock and starts nothing: each entry is frozen and replaced as a whole. Before the engine's first call
there is no snapshot: everybody counts as healthy.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Protocol
from urllib.parse import urlsplit

import attrs

from cortex import catalog, health, limits
from cortex.config import ProviderConfig, Settings
from cortex.health import Health
from cortex.limits import Limit
from cortex.protocol import LaneState, Snapshot
from cortex.routing import Lane, LaneView


class Clock(Protocol):
    """A clock that may be read from any thread, such as trio's own."""

    def current_time(self) -> float: ...


@attrs.define
class Board:
    """What is known of the providers. `present`: the actors that are up; `given_up`: those that crashed too often, and
    when (in seconds) they are started afresh; `clock` None: the engine has not started."""

    settings: Settings
    snapshots: dict[str, Snapshot] = attrs.field(factory=dict)
    present: set[str] = attrs.field(factory=set)
    given_up: dict[str, float] = attrs.field(factory=dict)
    abandoned_tools: int = 0
    clock: Clock | None = None
    configs: dict[str, ProviderConfig] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.configs = {config.name: config for config in self.settings.providers}

    def open(self, clock: Clock) -> None:
        """The engine starts; times are this clock's from now on."""
        self.snapshots.clear()
        self.present.clear()
        self.given_up.clear()
        self.clock = clock

    def switch(self, name: str, *, enabled: bool) -> None:
        """By hand, for good: a tree that grows anew (after a fork, say) begins with it."""
        self.configs[name] = attrs.evolve(self.configs[name], enabled=enabled)

    def now(self) -> float:
        """The engine's clock; 0 before its start."""
        return self.clock.current_time() if self.clock is not None else 0.0

    def view(self, lane: Lane, now: float, *, issued: int = 0, trial_out: bool = False) -> LaneView:
        """A lane for the ranking; `issued` picks are on their way that its snapshot cannot know yet."""
        config = self.configs[lane.provider]
        snapshot = self.snapshots.get(lane.provider)
        state = snapshot.lanes.get(lane) if snapshot is not None else None
        if state is None:
            state = LaneState(Health.new(now), Limit(configured=config.max_concurrency))
        return LaneView(
            lane,
            health.worse(state.health, snapshot.endpoint) if snapshot is not None else state.health,
            state.in_flight + issued,
            limits.ceiling(state.limit, now),
            trial_out,
            self.clock is None or lane.provider in self.present,
            self.given_up.get(lane.provider),
            snapshot.enabled if snapshot is not None else config.enabled,
            _caps_of(lane.model),
        )

    def status_of(self, name: str, now: float) -> tuple[str, str]:
        """A provider's status and why: its endpoint's, or its best lane's when the endpoint is well."""
        snapshot = self.snapshots.get(name)
        if snapshot is None:
            return ("up", "never asked") if self.configs[name].enabled else ("off", "switched off")
        if not snapshot.enabled:
            return "off", "switched off"
        best = snapshot.endpoint
        if health.status(best, now) == "up" and snapshot.lanes:
            every = [state.health for state in snapshot.lanes.values()]
            best = min(every, key=lambda one: _RANK[health.status(one, now)])
        return health.status(best, now), health.why(best, now)

    def offline(self, now: float) -> bool:
        """Whether it is our own network that is down: providers of two hosts could not be reached within five seconds
        and none has answered in that time. Loopback and private addresses prove nothing."""
        failed: set[str] = set()
        for name, snapshot in self.snapshots.items():
            host = public_host(self.configs[name].base_url)
            if host is None:
                continue
            if now - snapshot.answered_at < OFFLINE_WINDOW:
                return False
            if now - snapshot.unreached_at < OFFLINE_WINDOW:
                failed.add(host)
        return len(failed) >= 2


OFFLINE_WINDOW = 5.0
_RANK = {"up": 0, "slow": 1, "recovering": 2, "down": 3, "off": 4}


_caps_of = lru_cache(maxsize=1024)(catalog.caps)


@lru_cache(maxsize=1024)
def public_host(base_url: str) -> str | None:
    """The host of an address out in the world; None for loopback, private ones and bare names."""
    host = urlsplit(base_url).hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host if "." in host and not host.endswith((".local", ".internal", ".localhost")) else None
    return None if address.is_private or address.is_loopback or address.is_link_local else host
