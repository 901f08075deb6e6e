"""Retry tokens: a bad hour must not multiply the traffic.

One bucket per endpoint. Only a second attempt on an endpoint that the same call has already tried is charged; a
failover to an endpoint not tried yet is free, since its own admission bounds it. So with an empty bucket a call still
reaches every provider once. The shape is gRPC's retry throttling (proposal A6) with a refill by time, and
AWS's refund: a charged attempt that succeeded was worth it and gives its charge back.
"""

from __future__ import annotations

from typing import Final

import attrs

CAP: Final = 100.0
CHARGE: Final = 10.0
PER_SECOND: Final = 0.5
PER_OK: Final = 1.0


@attrs.frozen
class Budget:
    """The bucket: `level` tokens in [0, CAP] at time `at` (seconds), `out` charged and not settled yet."""

    level: float = CAP
    at: float = 0.0
    out: float = 0.0

    @classmethod
    def new(cls, now: float) -> Budget:
        """A full bucket."""
        return cls(at=now)


def refill(budget: Budget, now: float) -> Budget:
    """The bucket as it stands at `now`."""
    passed = now - budget.at
    if passed <= 0:
        return budget
    return attrs.evolve(budget, level=min(CAP, budget.level + PER_SECOND * passed), at=now)


def spend(budget: Budget, now: float) -> tuple[Budget, bool]:
    """Charge one attempt. False, and nothing charged, when there is too little left."""
    budget = refill(budget, now)
    if budget.level < CHARGE:
        return budget, False
    return attrs.evolve(budget, level=budget.level - CHARGE, out=budget.out + CHARGE), True


def settle(budget: Budget, now: float, *, ok: bool) -> Budget:
    """A charged attempt is over; its charge comes back when it succeeded. More than was charged never comes back."""
    budget = refill(budget, now)
    back = min(CHARGE, budget.out)
    return attrs.evolve(budget, out=budget.out - back, level=min(CAP, budget.level + back) if ok else budget.level)


def earn(budget: Budget, now: float) -> Budget:
    """A call succeeded here at its first attempt."""
    budget = refill(budget, now)
    return attrs.evolve(budget, level=min(CAP, budget.level + PER_OK))
