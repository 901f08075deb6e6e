"""System 1 or System 2? A pure function of the message, the transcript and the weights, and it says why.

It reads signs, it does not understand: each sign of work that wants a plan adds to a score, and from a threshold on the
deep model answers. What it gets wrong is cheap: the worker is no fool, a failed or empty System 1 turn escalates once,
and `run(..., system=1|2)` overrules it.

When the worker's zone is the more trusted one, System 2 is never chosen here: that would carry the message out of it.
"""

from __future__ import annotations

import re
from typing import Final, Literal

import attrs

from cortex.weights import WeightConfig

THRESHOLD: Final = 1.0
SHIFT: Final = 0.75
"""How far `speed_vs_quality` moves the threshold, each way."""


@attrs.frozen
class Decision:
    """Which system answers, the score, and the reasons: the signs that made it and the threshold it met."""

    system: Literal[1, 2]
    score: float
    reasons: tuple[str, ...]


_SIGNS: Final[tuple[tuple[str, float, re.Pattern[str]], ...]] = tuple(
    (name, weight, re.compile(pattern, re.IGNORECASE | re.MULTILINE))
    for name, weight, pattern in (
        (
            "asks for a plan or a design",
            1.0,
            r"^[ \t]*(plan|design|architect)\b|\b(to|and|please|you|me|us) (plan|design|architect)\b"
            r"|\b(a|the|your) ([\w-]+ )?(plan|design) (for|of|to)\b|\b(roadmap|strategy for)\b",
        ),
        (
            "asks for reasoning",
            1.0,
            r"\b(prove|derive|analy[sz]e|evaluate|investigate|diagnose|root cause|debug|refactor|optimi[sz]e)\b",
        ),
        ("asks to go step by step", 1.0, r"\bstep[- ]by[- ]step\b|\bthink (hard|carefully|it through)\b"),
        ("asks for a comparison", 0.7, r"\b(compare|contrast|trade-?offs?|pros and cons|versus|vs\.?)\b"),
        ("asks why or how it would be", 0.3, r"\b(why|what if|how (would|should|could))\b"),
        ("is a chain of tasks", 0.6, r"\b(and then|after that|afterwards|finally|first\b.{1,200}\bthen)\b"),
        ("holds code", 0.4, r"```|^[ \t]*(def|class|function|import|#include|SELECT)\b"),
    )
)
_ITEM: Final = re.compile(r"^[ \t]*(?:\d+[.)]|[-*•])[ \t]+\S", re.MULTILINE)
_READ: Final = 2_000
"""Characters the signs are looked for in: triage must cost nothing for a message that holds a book."""

_LONG, _VERY_LONG = 600, 3_000
_LONG_TALK: Final = 20


def decide(
    message: str,
    history_len: int = 0,
    weights: WeightConfig | None = None,
    *,
    private: bool = False,
    forced: Literal[1, 2] | None = None,
) -> Decision:
    """Choose the system for `message`; `history_len` counts the messages before it.

    `private`: the worker's zone is the more trusted, so only `forced` leads to System 2.
    """
    score, signs = _score(message, history_len)
    if forced is not None:
        return Decision(forced, score, ("the caller chose", *signs))
    if private:
        return Decision(1, score, ("the worker's zone is the more trusted: System 2 only on the caller's word", *signs))
    bias = weights.speed_vs_quality if weights is not None else 0.0
    threshold = THRESHOLD - SHIFT * bias
    verdict = "reaches" if score >= threshold else "is below"
    reasons = (*signs, f"score {score:.2f} {verdict} the threshold {threshold:.2f}")
    return Decision(2 if score >= threshold else 1, score, reasons)


def _score(message: str, history_len: int) -> tuple[float, tuple[str, ...]]:
    head = message[:_READ]
    found = [(name, weight) for name, weight, pattern in _SIGNS if pattern.search(head)]
    if len(_ITEM.findall(head)) > 1:
        found.append(("has several parts", 0.6))
    if head.count("?") > 1:
        found.append(("asks several questions", 0.4))
    if len(message) > _VERY_LONG:
        found.append((f"is longer than {_VERY_LONG} characters", 0.7))
    elif len(message) > _LONG:
        found.append((f"is longer than {_LONG} characters", 0.3))
    if history_len > _LONG_TALK:
        found.append(("belongs to a long conversation", 0.1))
    return round(sum(weight for _, weight in found), 2), tuple(f"{name} (+{weight:g})" for name, weight in found)
