"""How a session's turns were routed between the two systems: counts per turn, not per model call. Pure."""

from __future__ import annotations

from typing import Literal

import attrs


@attrs.frozen(kw_only=True)
class DualProcessStats:
    """`escalations` are turns that went from System 1 on to System 2; where that answered, they count as System 2."""

    system1_count: int = 0
    system2_count: int = 0
    escalations: int = 0

    @property
    def total_decisions(self) -> int:
        """All turns."""
        return self.system1_count + self.system2_count

    @property
    def system2_ratio(self) -> float:
        """The share of System 2; 0.0 before the first turn."""
        return self.system2_count / self.total_decisions if self.total_decisions else 0.0

    def count(self, system: Literal[1, 2]) -> DualProcessStats:
        """The stats after one more turn that `system` answered."""
        return attrs.evolve(
            self,
            system1_count=self.system1_count + (system == 1),
            system2_count=self.system2_count + (system == 2),
        )

    def escalated(self) -> DualProcessStats:
        """The stats after one more turn went from System 1 on to System 2; the turn itself is not counted yet."""
        return attrs.evolve(self, escalations=self.escalations + 1)

    def as_dict(self) -> dict[str, int | float]:
        """The counts and what follows from them, JSON-serialisable."""
        return {
            "system1_count": self.system1_count,
            "system2_count": self.system2_count,
            "system2_ratio": self.system2_ratio,
            "total_decisions": self.total_decisions,
            "escalations": self.escalations,
        }
