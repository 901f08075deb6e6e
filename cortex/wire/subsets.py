"""What of JSON schema a vendor takes, where it refuses the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeAlias

from cortex.errors import ConfigError
from cortex.wire.values import as_dict, as_text

Schema: TypeAlias = Mapping[str, Any]

_NAMED, _LISTED, _ALONE = ("properties", "$defs"), ("anyOf", "oneOf", "prefixItems"), ("items",)
"""Keywords that hold schemas: by name, in a list, and one."""


TOO_DEEP = "the request (its tools or output schema) cannot be written as JSON: a schema is nested too deeply"


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _inner(schema: Schema) -> Iterator[Any]:
    """The schemas right inside, but for that of further properties, which no object has to have."""
    for key, value in schema.items():
        if key in _NAMED and isinstance(value, Mapping):
            yield from value.values()
        elif key in _LISTED and isinstance(value, list):
            yield from value
        elif key in _ALONE:
            yield value


def _changed(schema: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """A copy in which each schema is changed, the inner ones first."""
    if not isinstance(schema, Mapping):
        return schema
    copy = dict(schema)
    for key, value in schema.items():
        if key in _NAMED and isinstance(value, Mapping):
            copy[key] = {name: _changed(one, change) for name, one in value.items()}
        elif key in _LISTED and isinstance(value, list):
            copy[key] = [_changed(one, change) for one in value]
        elif key in _ALONE or key == "additionalProperties":
            copy[key] = _changed(value, change)
    return change(copy)


def _with_defs(schema: Schema) -> Schema:
    """The definitions at the root by the one name that vendors know, whatever the draft, and with it the references."""
    older, newer = schema.get("definitions"), schema.get("$defs")
    if not isinstance(older, Mapping):
        return schema
    defs = dict(newer) if isinstance(newer, Mapping) else {}
    names: dict[str, str] = {}
    for name, one in older.items():
        names[name] = name
        while names[name] in defs:
            names[name] += "_"
        defs[names[name]] = one
    rest = {key: value for key, value in schema.items() if key != "definitions"}
    renamed: Schema = _changed({**rest, "$defs": defs}, partial(_renamed, names))
    return renamed


def _renamed(names: Mapping[str, str], one: dict[str, Any]) -> dict[str, Any]:
    start, found, path = as_text(one.get("$ref")).partition("#/definitions/")
    if start or not found:
        return one
    name, *inside = path.split("/")
    return {**one, "$ref": "/".join(["#/$defs", names.get(name, name), *inside])}


# ------------------------------------------------------------------------------------------------------------ OpenAI

# https://platform.openai.com/docs/guides/structured-outputs#supported-schemas
_STRICT_KEYS = {
    "type", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf", "$ref", "$defs",
    "title", "description", "pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
    "multipleOf", "minItems", "maxItems",
}  # fmt: skip
_STRICT_FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid")


def strict_schema(schema: Schema) -> Schema | None:
    """The schema as strict mode takes it: an object at the root, every object closed, with all its properties required,
    every value of some type, and no keyword that it does not know. None for one that is no such: it is sent as a guide.
    `ConfigError` for one that is nested too deeply.
    """
    try:
        bare: Schema = _changed(_with_defs(schema), _without_words)
        return bare if bare.get("type") == "object" and "anyOf" not in bare and _is_strict(bare) else None
    except RecursionError:
        raise ConfigError(TOO_DEEP) from None


def _without_words(one: dict[str, Any]) -> dict[str, Any]:
    """Nothing may stand beside a reference: what is said of it there is left out."""
    return {key: value for key, value in one.items() if key not in ("title", "description")} if "$ref" in one else one


def _is_strict(schema: Any) -> bool:
    if not isinstance(schema, Mapping) or not _STRICT_KEYS.issuperset(schema):
        return False
    if "$ref" in schema:
        return len(schema) == 1
    kind = schema.get("type")
    kinds = [kind] if isinstance(kind, str) else _items(kind)
    properties, required = as_dict(schema.get("properties")), _items(schema.get("required"))
    closed = schema.get("additionalProperties") is False and len(required) == len(properties)
    closed = closed and all(field in required for field in properties)
    return (
        bool(kinds or "anyOf" in schema)
        and (closed or not ("object" in kinds or "properties" in schema))
        and ("items" in schema or "array" not in kinds)
        and schema.get("format", "date") in _STRICT_FORMATS
        and all(map(_is_strict, _inner(schema)))
    )


# ------------------------------------------------------------------------------------------------------------ Gemini

# https://ai.google.dev/api/generate-content, at `responseJsonSchema`
_GEMINI_KEYS = {
    "$id", "$defs", "$ref", "$anchor", "type", "format", "title", "description", "enum", "items", "prefixItems",
    "minItems", "maxItems", "minimum", "maximum", "anyOf", "oneOf", "properties", "additionalProperties", "required",
    "propertyOrdering",
}  # fmt: skip


def gemini_schema(schema: Schema, notes: list[str]) -> Schema:
    """The schema in the keywords that Gemini knows; what cannot be said in them is told in `notes`.
    `ConfigError` for one that is nested too deeply."""
    try:
        told: dict[str, Any] = _changed(_with_defs(schema), partial(_in_its_words, notes))
    except RecursionError:
        raise ConfigError(TOO_DEEP) from None
    _open_circles(told, notes)
    return told


def _in_its_words(notes: list[str], one: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in one:
        return {key: value for key, value in one.items() if key.startswith("$") and key in _GEMINI_KEYS}
    if "const" in one:
        value = one.pop("const")
        one |= {"type": "null"} if value is None else {"enum": [value]}
    if one.get("type") == "integer":
        _set_bound(one, "exclusiveMinimum", "minimum", lambda bound: math.floor(bound) + 1, max)
        _set_bound(one, "exclusiveMaximum", "maximum", lambda bound: math.ceil(bound) - 1, min)
    unknown = [key for key in one if key not in _GEMINI_KEYS]
    if not all(type(value) in (str, int, float) for value in _items(one.get("enum"))):
        unknown.append("enum")
    notes += [f"{key} was left out: this vendor does not know it in a schema" for key in unknown]
    return {key: value for key, value in one.items() if key not in unknown}


def _set_bound(
    one: dict[str, Any], beyond: str, word: str, next_to: Callable[[float], int], tighter: Callable[[Any, Any], Any]
) -> None:
    """An integer's bound that is no part of its range, told as the first or last that is."""
    if type(one.get(beyond)) in (int, float):
        bound = next_to(one.pop(beyond))
        one[word] = tighter(bound, one.get(word, bound))


def _open_circles(schema: dict[str, Any], notes: list[str]) -> None:
    """A reference may lead back to where it stands only from a property that is not required."""
    known = {"#": schema, **{f"#/$defs/{name}": as_dict(one) for name, one in as_dict(schema.get("$defs")).items()}}
    for name, one in known.items():
        for field, inner in _required(one):
            if name in _needed(inner, known):
                one["required"] = [other for other in one["required"] if other != field]
                notes.append(f"{field} is not required: this vendor takes no schema that needs itself")


def _required(schema: Schema) -> list[tuple[str, Any]]:
    required = _items(schema.get("required"))
    return [(field, inner) for field, inner in as_dict(schema.get("properties")).items() if field in required]


def _needed(schema: Any, known: Mapping[str, Schema]) -> set[str]:
    """The references that no value of this schema can do without."""
    found: set[str] = set()
    todo = [schema]
    while todo:
        one = todo.pop()
        if not isinstance(one, Mapping):
            continue
        reference = as_text(one.get("$ref"))
        if reference in known and reference not in found:
            found.add(reference)
            todo.append(known[reference])
        todo += [inner for _, inner in _required(one)]
        todo += _inner({key: value for key, value in one.items() if key not in _NAMED})
    return found
