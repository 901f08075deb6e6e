"""Types -> JSON schemas, and a model's JSON -> values of these types. Pure.

Dataclasses, TypedDicts, pydantic models, attrs classes and whatever pydantic knows serve as types; a dict is a JSON
schema as it stands. pydantic is imported at the first use: `import cortex` stays light.

A schema asked of a model is one of an object, without alternatives at its root, for not every vendor takes another:
anything else travels as the `value` of one.
"""

from __future__ import annotations

import functools
import json
import re
import types
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import attrs

from cortex import checks
from cortex.errors import ConfigError
from cortex.hints import adapted, misfits, reason
from cortex.json_schema import NAMING, VALUES, examined, misfit
from cortex.messages import OutputSchema
from cortex.wire.values import MAX_PARSED, TooMuch, as_dict, clean, loads

if TYPE_CHECKING:
    from pydantic import TypeAdapter

FAULT_LIMIT: Final = 1_500
"""Characters of an error text for the model."""

MAX_ANSWER: Final = MAX_PARSED // 2
"""Bytes of memory an answer may take while it is parsed: 70 KB of the densest JSON, 1.5 MB of text. It is parsed twice,
and each fault that pydantic finds takes 300 bytes more."""
MAX_FAULTS: Final = 2_000
"""Faults of an answer that are told one by one: pydantic makes a dict of each, 4 KB, before the first can be read."""

_UNNUMBERED: Final = re.compile(r"NaN|Infinity|\d[eE]\+?\d{3}|(?<!\d)\d{309}")
"""Where NaN or an infinity may be, which are no JSON, and within any bounds: nothing is greater than NaN."""

_HALVES: Final = re.compile(r"\\u[dD][89a-fA-F]")
"""Where half an emoji may be, written as one: neither pydantic nor whoever sends the value on can take it."""

_FENCE: Final = "```"
_WRAPPED: Final = "value"


@attrs.frozen
class Parsed:
    """The value of an answer, or in `fault` what is wrong with it, in words for the model ("": nothing)."""

    value: Any = None
    fault: str = ""


# ------------------------------------------------------------------------------------------------- an output type


def schema_of(output_type: Any) -> OutputSchema:
    """The schema an answer has to satisfy to be parsed as `output_type`; `ConfigError` for a type that has none, and
    for a dict that is no JSON schema or refers to what it does not hold."""
    if isinstance(output_type, Mapping):
        schema = examined(output_type)
        return OutputSchema(_name(schema.get("title")), _rooted(schema))
    return OutputSchema(_name(getattr(output_type, "__name__", None)), _rooted(_known(output_type).schema))


def parse_output(output_type: Any, text: str) -> Parsed:
    """An answer's text as a value of `output_type` (None: nothing to parse). JSON in a Markdown fence is taken too."""
    if output_type is None:
        return Parsed()
    text = _unfenced(clean(text))
    try:
        value = loads(text, MAX_ANSWER)
        if _UNNUMBERED.search(text):
            _check_numbers(value)
        if _HALVES.search(text):
            text = written(value)
            value = json.loads(text)
    except ValueError as error:
        words = "more than can be read" if isinstance(error, TooMuch) else "not valid JSON"
        return Parsed(fault=bounded(f"{words}: {error}"))
    if isinstance(output_type, Mapping):
        schema = examined(output_type)
        value = _unwrapped(value, schema)
        fault = misfit(value, schema)
        return Parsed(fault=bounded(fault)) if fault else Parsed(value)
    known = _known(output_type)
    inner = _unwrapped(value, known.schema)
    if inner is not value:
        unwrapped = validated(known.adapter.validate_json, written(inner))
        bare = validated(known.adapter.validate_json, text) if unwrapped.fault else unwrapped
        return unwrapped if bare.fault else bare  # it may only look as if it were wrapped
    return validated(known.adapter.validate_json, text)


def _check_numbers(value: object) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        raise ValueError("NaN and infinities are none of its numbers") from None


def _unfenced(text: str) -> str:
    """What stands in a Markdown fence, if all does."""
    text = text.strip()
    if not (text.startswith(_FENCE) and text.endswith(_FENCE)):
        return text
    language, _, inside = text[len(_FENCE) : -len(_FENCE)].partition("\n")
    return inside.strip() if language.strip().lower() in ("", "json") else text


def validated(check: Callable[[str], Any], text: str) -> Parsed:
    """The value pydantic makes of JSON. As text, so that a strict type takes a date or a tuple the way JSON has to
    write it."""
    try:
        return Parsed(check(text))
    except Exception as error:  # whatever a user's own validator raises
        return Parsed(fault=bounded(faults(error)))


def written(value: object) -> str:
    """A value that was JSON, as JSON again: what is half an emoji is mended, for pydantic reads no text with it."""
    return clean(json.dumps(value, ensure_ascii=False))


def _name(name: object) -> str:
    plain = re.sub(r"[^a-zA-Z0-9_-]+", "_", name).strip("_") if isinstance(name, str) else ""
    return plain[:64] or "output"


@attrs.frozen
class _Known:
    """A type pydantic reads, and its schema."""

    adapter: TypeAdapter[Any]
    schema: dict[str, Any]


def _known(output_type: Any) -> _Known:
    try:
        hash(output_type)
    except TypeError:
        return _learn(output_type)
    return _learn_once(output_type, repr(output_type))


def _learn(output_type: Any, _order: str = "") -> _Known:
    """`_order`: A | B and B | A are equal, and not the same: of two that fit, the first is meant."""
    from pydantic import TypeAdapter

    try:
        if isinstance(output_type, types.FunctionType):  # pydantic would take its parameters for a type
            raise TypeError("a function is no type")
        adapter: TypeAdapter[Any] = TypeAdapter(adapted(output_type))
        return _Known(adapter, tidy(adapter.json_schema(schema_generator=quiet_generator())))
    except misfits() as error:
        raise ConfigError(
            "output_type: must be a dict with a JSON schema, a dataclass, a TypedDict, a pydantic model or an attrs "
            f"class, not {checks.kind(output_type)}: {reason(error)}"
        ) from None


_learn_once = functools.lru_cache(maxsize=256)(_learn)


# --------------------------------------------------------------------------------------------------- JSON schemas


@functools.cache
def quiet_generator() -> Any:
    """pydantic's generator without its warning for a default that is not JSON: the model needs not know it."""
    from pydantic.json_schema import GenerateJsonSchema

    class Quiet(GenerateJsonSchema):
        ignored_warning_kinds = frozenset({"skipped-choice", "non-serializable-default"})  # type: ignore[assignment]

    return Quiet


def tidy(schema: dict[str, Any]) -> dict[str, Any]:
    """Without the titles pydantic adds (they repeat the names and cost tokens), and closed: nothing but what is named.

    A root that is a reference (a recursive type) is replaced by what it refers to.
    """
    tidied: dict[str, Any] = _changed(schema, _tidied)
    reference = tidied.pop("$ref", None)
    if reference is not None:
        tidied = {**tidied["$defs"][reference.rpartition("/")[2]], **tidied}
    return tidied


def _tidied(one: dict[str, Any]) -> dict[str, Any]:
    tidied = {key: value for key, value in one.items() if not (key == "title" and isinstance(value, str))}
    if "properties" in tidied:
        tidied.setdefault("additionalProperties", False)
    return tidied


_OF_ROOT: Final = ("$schema", "$id", "$defs", "definitions")
"""Keywords that mean what they say only at the root."""


def _changed(node: Any, change: Callable[[dict[str, Any]], dict[str, Any]], *, names: bool = False) -> Any:
    """A copy in which each schema is changed, the inner ones first. `names`: the keys of `node` are names (of
    properties, of definitions), and may read like keywords."""
    if isinstance(node, list):
        return [_changed(item, change) for item in node]
    if not isinstance(node, dict):
        return node
    if names:
        return {key: _changed(value, change) for key, value in node.items()}
    return change(
        {key: value if key in VALUES else _changed(value, change, names=key in NAMING) for key, value in node.items()}
    )


def _rooted(schema: dict[str, Any]) -> dict[str, Any]:
    if _has_object_root(schema):
        return {"type": "object", **schema}
    home = _WRAPPED
    while home in as_dict(schema.get("$defs")):
        home += "_"
    moved: dict[str, Any] = _changed(schema, functools.partial(_moved, f"#/$defs/{home}"))
    inner = {key: value for key, value in moved.items() if key not in _OF_ROOT}
    of_root = {key: value for key, value in moved.items() if key in _OF_ROOT}
    if moved != schema:  # vendors follow a reference to a definition, not to a property
        of_root["$defs"] = {**as_dict(of_root.get("$defs")), home: inner}
        inner = {"$ref": f"#/$defs/{home}"}
    root = {"type": "object", "properties": {_WRAPPED: inner}, "required": [_WRAPPED], "additionalProperties": False}
    return {**root, **of_root}


def _moved(home: str, one: dict[str, Any]) -> dict[str, Any]:
    """A reference to what was the root, or to a place in it but the definitions: they stay."""
    reference = one.get("$ref")
    if not isinstance(reference, str) or not re.match(r"#(/|$)(?!(\$defs|definitions)/)", reference):
        return one
    return {**one, "$ref": home + reference[1:]}


def _unwrapped(value: Any, schema: Mapping[str, Any]) -> Any:
    """The inverse for an answer; one that was given bare is taken as it is."""
    wrapped = not _has_object_root(schema) and isinstance(value, dict) and list(value) == [_WRAPPED]
    return value[_WRAPPED] if wrapped else value


def _has_object_root(schema: Mapping[str, Any]) -> bool:
    known = schema.get("type", "object" if "properties" in schema else None)
    return known == "object" and not {"anyOf", "oneOf", "allOf"} & set(schema)


# --------------------------------------------------------------------------------------------------- error texts


def faults(error: Exception) -> str:
    """What a check found wrong: pydantic's clauses, without the values, or what a user's own validator raised."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return checks.raised(error)
    if error.error_count() > MAX_FAULTS:
        return f"it does not fit in {error.error_count()} places"
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, one['loc'])) or 'it'}: {one['msg']}" for one in found)


def bounded(text: str) -> str:
    """A text for the model, not longer than it has to be."""
    return text if len(text) <= FAULT_LIMIT else text[:FAULT_LIMIT] + " ..."
