"""What is known of models by their names: family, tier, window, defaults. Data, as of 2026-11-25.

Sources, per vendor:
    openai     https://developers.openai.com/api/docs/models and /deprecations
    anthropic  https://platform.claude.com/docs/en/about-claude/models/overview
    gemini     https://ai.google.dev/gemini-api/docs/models

A table is read from the top and the first row that fits counts, so the special stands above the general. What no row
knows is None: unknown counts as able, and only the vendor's own answer decides. So a new name needs no row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

from cortex.routing import Caps

Kind: TypeAlias = Literal["openai", "azure", "anthropic", "gemini", "local"]
"""The dialect and the manners of a provider."""

Tier: TypeAlias = Literal["fast", "deep"]
"""What a model is for: the worker's quick answers, or the orchestrator's deep ones."""

_Table: TypeAlias = tuple[tuple[re.Pattern[str], Any], ...]


def _table(*rows: tuple[str, Any]) -> _Table:
    """Rows of (pattern, value); a pattern has to fit a name's beginning."""
    return tuple((re.compile(pattern), value) for pattern, value in rows)


def _find(table: _Table, model: str, *, anywhere: bool = True) -> Any:
    """`anywhere`: what a model is does not depend on who serves it, so "openai/o3" of a gateway is an o3."""
    name = model.lower().rpartition("/")[2] if anywhere else model.lower()
    name = name.removeprefix("ft:")
    return next((value for pattern, value in table if pattern.match(name)), None)


_FAMILIES: Final = _table(
    (r"gpt-(oss|j|neo)", None),  # open weights: whoever runs them says so
    (r"gpt-|chatgpt-|o\d+(-|$)", "openai"),
    (r"claude-", "anthropic"),
    (r"gemini-|gemma-", "gemini"),
)

_TIERS: Final = _table(
    (r"gpt-(oss|j|neo)", None),
    (r"gpt-3\.5", "fast"),
    (r"(gpt|o\d+|chatgpt)\b.*-(mini|nano|luna|terra)\b", "fast"),
    (r"gpt-|chatgpt-|o\d+(-|$)", "deep"),
    (r"claude-.*(haiku|instant)", "fast"),
    (r"claude-", "deep"),
    (r"gemini-.*(flash|lite|hydrogen)", "fast"),
    (r"gemini-", "deep"),
    (r"gemma-", "fast"),
)

_WINDOWS: Final = _table(
    (r"gpt-5(\.\d)?-chat", 128_000),
    (r"gpt-5\.4-(mini|nano)", 400_000),
    (r"gpt-5\.[456]", 1_050_000),
    (r"gpt-5", 400_000),
    (r"gpt-4\.1", 1_047_576),
    (r"(chat)?gpt-4o|gpt-4-(turbo|1106|0125|vision)", 128_000),
    (r"gpt-4-32k", 32_768),
    (r"gpt-4(-\d{4})?$", 8_192),
    (r"gpt-3\.5", 16_385),
    (r"o1-(mini|preview)", 128_000),
    (r"o[134](-|$)", 200_000),
    (r"claude-(fable|mythos|opus|sonnet|haiku)-[5-9]", 1_000_000),
    (r"claude-(opus|sonnet)-4-[678]", 1_000_000),
    (r"claude-(opus|sonnet|haiku)-4|claude-3", 200_000),
    (r"gemini-1\.5-pro", 2_097_152),
    (r"gemini-(1\.5|2|3)", 1_048_576),
)

_REASONING: Final = _table(
    (r"gpt-\d(\.\d+)?-chat", False),
    (r"o\d+(-|$)|gpt-[5-9]", True),
    (r"claude-(fable|mythos|opus|sonnet)-[5-9]", True),
    (r"gemini-.*(flash|lite|hydrogen)", False),
    (r"gemini-2\.5-pro|gemini-[3-9]", True),
    (r"deepseek-(r\d|reasoner|v[4-9])|kimi-k(2.*thinking|2\.[5-9]|[3-9])|qwq", True),
)

_LACKS: Final = _table(
    (r"gpt-3\.5", {"images", "schema"}),
    (r"gpt-4-turbo", {"schema"}),
    (r"gpt-4(-32k)?(-\d{4})?(-preview)?$", {"images", "schema"}),
    (r"o1-(mini|preview)", {"tools", "images", "schema"}),
    (r"o3-mini", {"images"}),
    (r"gemma-3-", {"tools", "schema"}),
)

_DEFAULTS: Final[Mapping[str, Mapping[Tier, str]]] = {
    "openai": {"fast": "gpt-6-luna", "deep": "gpt-6.1-sol"},
    "anthropic": {"fast": "claude-haiku-5-5", "deep": "claude-opus-5-5"},
    "gemini": {"fast": "gemini-3.8-flash", "deep": "gemini-4-argon"},
}
"""Current models whose vendor has announced no end for them (as of the date above)."""


def family(model: str) -> Literal["openai", "anthropic", "gemini"] | None:
    """Whose model a name is: the vendor whose own API serves it; None when the name does not tell."""
    found: Literal["openai", "anthropic", "gemini"] | None = _find(_FAMILIES, model, anywhere=False)
    return found


def tier(model: str) -> Tier | None:
    """Whether a model is its vendor's fast or deep one; None when unknown."""
    found: Tier | None = _find(_TIERS, model)
    return found


def window(model: str) -> int | None:
    """Tokens that fit into the model, answer included; None when unknown."""
    found: int | None = _find(_WINDOWS, model)
    return found


def reasoning(model: str) -> bool:
    """Whether the model by default thinks for minutes, not seconds, before its first visible token."""
    return bool(_find(_REASONING, model))


def caps(model: str) -> Caps:
    """What a model can do, as far as known. Only what is known to be missing is False; the rest is None, not True."""
    lacks = _find(_LACKS, model) or ()
    known = {name: False for name in ("tools", "images", "schema") if name in lacks}
    return Caps(window=window(model), **known)


def default_model(kind: str, wanted: Tier) -> str | None:
    """The model to ask a vendor for when nobody named one; None where only the user knows (azure, local)."""
    return _DEFAULTS.get(kind, {}).get(wanted)
