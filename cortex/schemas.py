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
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import attrs

from cortex import checks
from cortex.errors import ConfigError
from cortex.hints import adapted, misfits, reason
from cortex.messages import OutputSchema

if TYPE_CHECKING:
    from pydantic import TypeAdapter

FAULT_LIMIT: Final = 1_500
"""Characters of an error text for the model."""

_FENCED: Final = re.compile(r"\s*```(?:json)?\s*\n(.*)\n\s*```\s*", re.DOTALL | re.IGNORECASE)
_WRAPPED: Final = "value"


@attrs.frozen
class Parsed:
    """The value of an answer, or in `fault` what is wrong with it, in words for the model ("": nothing)."""

    value: Any = None
    fault: str = ""


# ------------------------------------------------------------------------------------------------- an output type


def schema_of(output_type: Any) -> OutputSchema:
    """The schema an answer has to satisfy to be parsed as `output_type`; `ConfigError` for a type that has none."""
    if isinstance(output_type, Mapping):
        title = output_type.get("title")
        return OutputSchema(_name(title), _rooted(_checked(output_type)))
    return OutputSchema(_name(getattr(output_type, "__name__", None)), _rooted(_known(output_type).schema))


def parse_output(output_type: Any, text: str) -> Parsed:
    """An answer's text as a value of `output_type` (None: nothing to parse). JSON in a Markdown fence is taken too."""
    if output_type is None:
        return Parsed()
    fenced = _FENCED.fullmatch(text)
    try:
        value = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError) as error:
        return Parsed(fault=bounded(f"not valid JSON: {error}"))
    if isinstance(output_type, Mapping):
        value = _unwrapped(value, output_type)
        fault = _mismatch(value, output_type, "$")
        return Parsed(fault=bounded(fault)) if fault else Parsed(value)
    known = _known(output_type)
    return _validated(known.adapter, _unwrapped(value, known.schema))


def _validated(adapter: TypeAdapter[Any], value: Any) -> Parsed:
    try:
        # As JSON, so that a strict model takes a date or a tuple the way JSON has to write it.
        return Parsed(adapter.validate_json(json.dumps(value)))
    except Exception as error:  # whatever a user's own validator raises
        return Parsed(fault=bounded(faults(error)))


def _checked(given: Mapping[Any, Any]) -> dict[str, Any]:
    schema = dict(checks.mapping("output_type", given, example='{"type": "object", "properties": {...}}'))
    try:
        json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise ConfigError("output_type: this JSON schema cannot be written as JSON") from None
    return schema


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
    return _learn_once(output_type)


def _learn(output_type: Any) -> _Known:
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
    tidied: dict[str, Any] = _tidied(schema)
    reference = tidied.pop("$ref", None)
    if reference is not None:
        tidied = {**tidied["$defs"][reference.rpartition("/")[2]], **tidied}
    return tidied


def _tidied(node: Any, *, names: bool = False) -> Any:
    """`names`: the keys of `node` are names (of properties, of definitions), and "title" may be one of them."""
    if isinstance(node, list):
        return [_tidied(item) for item in node]
    if not isinstance(node, dict):
        return node
    if names:
        return {key: _tidied(value) for key, value in node.items()}
    tidied = {
        key: value if key in ("default", "const", "enum", "examples") else _tidied(value, names=key in _NAMING)
        for key, value in node.items()
        if not (key == "title" and isinstance(value, str))
    }
    if "properties" in tidied:
        tidied.setdefault("additionalProperties", False)
    return tidied


_NAMING: Final = ("properties", "$defs", "patternProperties")


def _rooted(schema: dict[str, Any]) -> dict[str, Any]:
    if _has_object_root(schema):
        return {"type": "object", **schema}
    inner = {key: value for key, value in schema.items() if key != "$defs"}
    root = {"type": "object", "properties": {_WRAPPED: inner}, "required": [_WRAPPED], "additionalProperties": False}
    return {**root, "$defs": schema["$defs"]} if "$defs" in schema else root


def _unwrapped(value: Any, schema: Mapping[str, Any]) -> Any:
    """The inverse for an answer; one that was given bare is taken as it is."""
    wrapped = not _has_object_root(schema) and isinstance(value, dict) and list(value) == [_WRAPPED]
    return value[_WRAPPED] if wrapped else value


def _has_object_root(schema: Mapping[str, Any]) -> bool:
    known = schema.get("type", "object" if "properties" in schema else None)
    return known == "object" and not {"anyOf", "oneOf", "allOf"} & set(schema)


_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
}


def _mismatch(value: Any, schema: Any, where: str) -> str:
    """What in `value` does not fit, or "". It knows the words type, enum, const, properties, required, items and
    additionalProperties=false; any other word is the vendor's to enforce."""
    if not isinstance(schema, Mapping):
        return ""
    wanted = schema.get("type")
    if wanted is not None and not any(_is(value, name) for name in ([wanted] if isinstance(wanted, str) else wanted)):
        return f"{where} must be of type {wanted}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{where} must be one of {json.dumps(schema['enum'])}"
    if "const" in schema and value != schema["const"]:
        return f"{where} must be {json.dumps(schema['const'])}"
    if isinstance(value, dict):
        return _object_mismatch(value, schema, where)
    if isinstance(value, list):
        found = (_mismatch(item, schema.get("items"), f"{where}[{i}]") for i, item in enumerate(value))
        return next(filter(None, found), "")
    return ""


def _object_mismatch(value: dict[str, Any], schema: Mapping[str, Any], where: str) -> str:
    known = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            return f"{where}.{name} is missing"
    if schema.get("additionalProperties") is False:
        for name in value:
            if name not in known:
                return f"{where}.{name} is not allowed"
    found = (_mismatch(item, known.get(name), f"{where}.{name}") for name, item in value.items())
    return next(filter(None, found), "")


def _is(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES.get(name, (object,)))


# --------------------------------------------------------------------------------------------------- error texts


def faults(error: Exception) -> str:
    """What a check found wrong: pydantic's clauses, without the values, or what a user's own validator raised."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return checks.raised(error)
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, one['loc'])) or 'it'}: {one['msg']}" for one in found)


def bounded(text: str) -> str:
    """A text for the model, not longer than it has to be."""
    return text if len(text) <= FAULT_LIMIT else text[:FAULT_LIMIT] + " ..."
