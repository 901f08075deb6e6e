"""What `engine.health()` and `engine.explain()` answer: frozen, JSON-able reports made from the board. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs

from cortex import circuit, health
from cortex.board import Board
from cortex.config import Chain
from cortex.routing import Needs, Ranked, rank

Status = Literal["up", "slow", "down", "recovering", "off"]


@attrs.frozen
class LaneHealth:
    """One model at a provider. Times in seconds; `latency` is what the next call has to expect, None if never asked."""

    model: str
    status: Status
    why: str
    in_flight: int
    latency: float | None


@attrs.frozen
class ProviderHealth:
    """One provider. `since`: seconds in this state; `next_try`: seconds until it is tried again, None if nothing waits.

    `why` is empty when all is well. `breaker` names the constants that opened it.
    """

    provider: str
    status: Status
    why: str
    since: float
    next_try: float | None
    in_flight: int
    lanes: tuple[LaneHealth, ...] = ()
    breaker: Mapping[str, float] = attrs.field(factory=dict, repr=False)

    def __str__(self) -> str:
        return f"{self.provider}: {self.status}" + (f" ({self.why})" if self.why else "")

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return attrs.asdict(self)


BREAKER: Mapping[str, float] = {
    "failures_in_a_row_with_spare": circuit.K_WITH_SPARE,
    "failures_in_a_row_alone": circuit.K_ALONE,
    "failure_ratio": circuit.RATIO,
    "failure_ratio_volume": circuit.VOLUME,
    "first_open_seconds": circuit.OPEN_FIRST,
    "longest_open_seconds": circuit.OPEN_MAX,
    "ramp_seconds": circuit.RAMP,
}


class EngineHealth(dict[str, ProviderHealth]):
    """Every provider's report by its name, in the order registered.

    `abandoned_tools`: sync tools that outlived their timeout since the engine began; a thread was left to each.
    """

    abandoned_tools: int = 0


def health_of(board: Board) -> EngineHealth:
    """The report of every provider."""
    now = board.now()
    report = EngineHealth({name: _provider(board, name, now) for name in board.configs})
    report.abandoned_tools = board.abandoned_tools
    return report


def _provider(board: Board, name: str, now: float) -> ProviderHealth:
    snapshot = board.snapshots.get(name)
    status, why = board.status_of(name, now)
    if snapshot is None:
        return ProviderHealth(name, status, why, 0.0, None, 0, breaker=BREAKER)  # type: ignore[arg-type]
    effective = [health.worse(state.health, snapshot.endpoint) for state in snapshot.lanes.values()]
    nearest = [one.until - now for one in (snapshot.endpoint, *effective) if one.until is not None and one.until > now]
    return ProviderHealth(
        provider=name,
        status=status,  # type: ignore[arg-type]
        why=why,
        since=max(0.0, now - max([snapshot.endpoint.since, *(one.since for one in effective)])),
        next_try=min(nearest, default=None),
        in_flight=snapshot.in_flight,
        lanes=tuple(
            LaneHealth(
                lane.model,
                health.status(one, now),  # type: ignore[arg-type]
                health.why(one, now),
                state.in_flight,
                _latency(one, now),
            )
            for (lane, state), one in zip(snapshot.lanes.items(), effective, strict=True)
        ),
        breaker=BREAKER,
    )


def _latency(one: health.Health, now: float) -> float | None:
    measured = [latency for latency in (one.answer, one.first) if latency.peak is not None]
    return measured[0].expected(now) if measured else None


@attrs.frozen
class PlannedLane:
    """A lane of a plan: `verdict` says what it can do now, `reason` why."""

    provider: str
    model: str
    verdict: str
    reason: str

    def __str__(self) -> str:
        return f"{self.provider}/{self.model}: {self.verdict} ({self.reason})"


@attrs.frozen
class Plan:
    """Every lane a call would be offered to, in order, then those that are left out; each with its reason."""

    role: str
    model: str
    lanes: tuple[PlannedLane, ...]

    def __str__(self) -> str:
        return f"{self.role} {self.model}:\n" + "\n".join(f"  {number}. {lane}" for number, lane in self._numbered())

    def _numbered(self) -> list[tuple[int, PlannedLane]]:
        return list(enumerate(self.lanes, start=1))

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return attrs.asdict(self)


class _Fair:
    """A plan draws no lots: equals stand in the order of the chain."""

    def random(self) -> float:
        return 0.5


def plan(board: Board, chain: Chain, needs: Needs, *, role: str, model: str) -> Plan:
    """A dry run of the router's own ranking. It starts nothing and asks nobody."""
    now = board.now()
    views = {lane: board.view(lane, now) for lane in chain.lanes}
    ranked = rank(needs, views, {}, now, _Fair(), max_per_lane=board.settings.policy.max_attempts_per_lane)
    lanes = [_planned(one) for one in ranked]
    lanes += [PlannedLane(lane.provider, lane.model, "left out", why) for lane, why in chain.left_out]
    return Plan(role, model, tuple(lanes))


def _planned(one: Ranked) -> PlannedLane:
    return PlannedLane(one.lane.provider, one.lane.model, str(one.verdict), one.reason)
