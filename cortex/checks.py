"""Checks of what users pass, shared by the rooms that take it in. Pure.

Each check gives the value back in its canonical type, or raises a `ConfigError` that names the field, says what it got
and what to pass instead. A value is shown only where it can hold no secret: numbers and names, never a text or a dict.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from cortex.errors import ConfigError


def kind(value: object) -> str:
    """What a value is, in a word: the name of its type; None is "None"."""
    return "None" if value is None else type(value).__name__


def raised(error: Exception) -> str:
    """What a user's own code raised, in words; also an error that cannot say what it is."""
    try:
        text = str(error)
    except Exception:  # its __str__ is the user's own
        text = "(its text cannot be read)"
    return f"{type(error).__name__}: {text}"


def number(
    field: str,
    value: object,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    above: float = -math.inf,
    unit: str = "",
) -> float:
    """A finite number from `low` to `high` and greater than `above`. A bool is no number; NaN and infinity neither."""
    wanted = f"{field}: must be a finite number{_range(low, high, above)}{f' ({unit})' if unit else ''}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{wanted}, not {kind(value)}")
    try:
        plain = float(value)
    except OverflowError:
        plain = math.inf
    if not math.isfinite(plain) or not low <= plain <= high or plain <= above:
        raise ConfigError(f"{wanted}, not {plain:g}")
    return plain


MOST = 2**31 - 1
"""The largest count that every vendor can read."""


def whole(field: str, value: object, *, low: int = 1) -> int:
    """A whole number from `low` to MOST. A bool is none."""
    wanted = f"{field}: must be a whole number of at least {low}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{wanted}, not {kind(value)}")
    if value < low:
        raise ConfigError(f"{wanted}, not {max(value, -MOST)}")
    if value > MOST:
        raise ConfigError(f"{field}: must be a whole number of at most {MOST}")
    return int(value)


def model(field: str, value: object) -> str:
    """A model's name. It becomes part of addresses, so it may not lead elsewhere."""
    name = text(field, value, example="gpt-4o")
    if not name.isprintable() or set(name) & set("?#\\") or ".." in name.split("/"):
        raise ConfigError(f'{field}: a model\'s name may hold no line break, "?", "#" or "\\", and no ".." as a part')
    return name


def text(field: str, value: object, *, example: str = "") -> str:
    """A text that is not blank, without the space around it."""
    hint = f', e.g. "{example}"' if example else ""
    if not isinstance(value, str):
        raise ConfigError(f"{field}: must be a text{hint}, not {kind(value)}")
    if not value.strip():
        raise ConfigError(f"{field}: must be a text{hint}, but it is empty")
    return value.strip()


def any_text(field: str, value: object) -> str:
    """A text as it is, which may be blank."""
    if not isinstance(value, str):
        raise ConfigError(f"{field}: must be a text, not {kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{field}: holds half a surrogate pair, which no vendor takes; repair it first") from None
    return value


def one_of(field: str, value: object, choices: Collection[str]) -> str:
    """One of the words in `choices`."""
    if not isinstance(value, str):
        raise ConfigError(f"{field}: must be one of {listed(choices)}, not {kind(value)}")
    if value not in choices:
        raise ConfigError(f"{field}: must be one of {listed(choices)}, not {value!r}{nearest(value, choices)}")
    return value


def mapping(field: str, value: object, *, example: str) -> Mapping[str, Any]:
    """A dict whose keys are texts."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{field}: must be a dict such as {example}, not {kind(value)}")
    for key in value:
        if not isinstance(key, str):
            raise ConfigError(f"{field}: its keys must be texts, not {kind(key)}")
    return value


def known_keys(field: str, given: Iterable[str], known: Collection[str]) -> None:
    """Refuse a key that nobody reads: it is a typing error, and its value would be lost without a word."""
    for key in given:
        if key not in known:
            raise ConfigError(f"{field}: unknown key {key!r}{nearest(key, known)} (known: {listed(known)})")


def nearest(name: str, known: Collection[str]) -> str:
    """A hint at the known name that is nearest, or nothing."""
    found = difflib.get_close_matches(name.lower(), known, n=1)
    return f'; did you mean "{found[0]}"?' if found else ""


def listed(names: Iterable[str]) -> str:
    """Names as a sentence holds them."""
    return ", ".join(names) or "none"


def _range(low: float, high: float, above: float) -> str:
    bounds = [f"greater than {above:g}"] if above > -math.inf else []
    bounds += [f"at least {low:g}"] if low > -math.inf else []
    bounds += [f"at most {high:g}"] if high < math.inf else []
    return " " + " and ".join(bounds) if bounds else ""
