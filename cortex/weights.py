"""How an agent should sound and how hard it should think: three numbers. Pure.

They do two things and no more: `render` says them in the system prompt, in the same words to every provider, and
`speed_vs_quality` moves the threshold of triage.
"""

from __future__ import annotations

from typing import Any, Final

import attrs

from cortex import checks


def _within(low: float, high: float) -> Any:
    def check(_: WeightConfig, field: attrs.Attribute[Any], value: object) -> None:
        checks.number(f"WeightConfig.{field.name}", value, low=low, high=high)

    return check


@attrs.frozen
class WeightConfig:
    """verbosity and formality from 0 to 1 (0.5: say nothing of it); speed_vs_quality from -1 (fast) to 1 (quality)."""

    verbosity: float = attrs.field(default=0.5, validator=_within(0, 1))
    formality: float = attrs.field(default=0.5, validator=_within(0, 1))
    speed_vs_quality: float = attrs.field(default=0.0, validator=_within(-1, 1))

    def override(self, name: str, value: float) -> WeightConfig:
        """The same weights with one changed; `ConfigError` for a name or a value that is none."""
        checks.one_of("weight", name, _names())
        return attrs.evolve(self, **{name: value})

    @classmethod
    def of(cls, given: object) -> WeightConfig:
        """The weights a user passed: some, a dict of them, or None for neutral ones."""
        if given is None:
            return cls()
        if isinstance(given, WeightConfig):
            return given
        fields = checks.mapping("weight_config", given, example='{"verbosity": 0.2}, or a WeightConfig')
        checks.known_keys("weight_config", fields, _names())
        return cls(**fields)


def _names() -> list[str]:
    return [field.name for field in attrs.fields(WeightConfig)]


_VERBOSITY: Final = (
    "Answer as briefly as the matter allows.",
    "Keep answers short.",
    "",
    "Explain your answers in some detail.",
    "Answer in full detail, with examples where they help.",
)
_FORMALITY: Final = (
    "Write casually, as to a friend.",
    "Write in an informal tone.",
    "",
    "Write in a polite, professional tone.",
    "Write in a strictly formal tone.",
)
_CARE: Final = (
    "Answer at once; a rough answer now is better than a perfect one later.",
    "Prefer a quick answer to an exhaustive one.",
    "",
    "Take care to be right; check your answer before you give it.",
    "Quality comes before speed: think it through and verify each step.",
)


def render(weights: WeightConfig) -> str:
    """Sentences for the system prompt; weights near the middle say nothing, so neutral ones render to ""."""
    chosen = (
        _VERBOSITY[_step(weights.verbosity)],
        _FORMALITY[_step(weights.formality)],
        _CARE[_step((weights.speed_vs_quality + 1) / 2)],
    )
    return " ".join(sentence for sentence in chosen if sentence)


def _step(value: float) -> int:
    """0..1 in five steps; 1 belongs to the last."""
    return min(int(value * 5), 4)
