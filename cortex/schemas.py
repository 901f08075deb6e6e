"""Types -> JSON schemas, and a model's JSON -> values of these types. Pure.

Dataclasses, TypedDicts, pydantic models, attrs classes and whatever pydantic knows serve as types; a dict is a JSON
schema as it stands. pydantic and jsonschema are imported at the first use: `import cortex` stays light.

A schema asked of a model is one of an object, without alternatives at its root, for not every vendor takes another:
anything else travels as the `value` of one.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import types
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import attrs

from cortex import checks
from cortex.errors import ConfigError
from cortex.hints import adapted, misfits, reason
from cortex.messages import OutputSchema
from cortex.wire.values import MAX_PARSED, TooMuch, clean, loads

if TYPE_CHECKING:
    from pydantic import TypeAdapter

FAULT_LIMIT: Final = 1_500
"""Characters of an error text for the model."""

MAX_ANSWER: Final = MAX_PARSED // 2
"""Bytes of memory an answer may take while it is parsed: 70 KB of the densest JSON, 1.5 MB of text. It is parsed twice,
and each fault that pydantic finds takes 300 bytes more."""
MAX_FAULTS: Final = 2_000
"""Faults of an answer that are told one by one: pydantic makes a dict of each, 4 KB, before the first can be read."""

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
        schema = _given(output_type)
        return OutputSchema(_name(schema.get("title")), _rooted(schema))
    return OutputSchema(_name(getattr(output_type, "__name__", None)), _rooted(_known(output_type).schema))


def parse_output(output_type: Any, text: str) -> Parsed:
    """An answer's text as a value of `output_type` (None: nothing to parse). JSON in a Markdown fence is taken too."""
    if output_type is None:
        return Parsed()
    text = _unfenced(text)
    try:
        value = loads(text, MAX_ANSWER)
    except ValueError as error:
        words = "more than can be read" if isinstance(error, TooMuch) else "not valid JSON"
        return Parsed(fault=bounded(f"{words}: {error}"))
    if isinstance(output_type, Mapping):
        schema = _given(output_type)
        value = _unwrapped(value, schema)
        fault = misfit(value, schema)
        return Parsed(fault=fault) if fault else Parsed(value)
    known = _known(output_type)
    inner = _unwrapped(value, known.schema)
    return validated(known.adapter.validate_json, text if inner is value else written(inner))


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


_NAMING: Final = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")
_VALUES: Final = ("default", "const", "enum", "examples")
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
        {key: value if key in _VALUES else _changed(value, change, names=key in _NAMING) for key, value in node.items()}
    )


def _rooted(schema: dict[str, Any]) -> dict[str, Any]:
    if _has_object_root(schema):
        return {"type": "object", **schema}
    home = _WRAPPED
    while home in schema.get("$defs", {}):
        home += "_"
    moved: dict[str, Any] = _changed(schema, functools.partial(_moved, f"#/$defs/{home}"))
    inner = {key: value for key, value in moved.items() if key not in _OF_ROOT}
    of_root = {key: value for key, value in moved.items() if key in _OF_ROOT}
    if moved != schema:  # vendors follow a reference to a definition, not to a property
        of_root["$defs"] = {**of_root.get("$defs", {}), home: inner}
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


# ------------------------------------------------------------------------------------------ a dict, which is a schema

MAX_CHECKS: Final = 16_000
"""Steps in the check of one answer, 50 ms in all: a keyword that meets a value is one; a fault is 20, it takes 3 KB.
A list of 2,500 objects with two properties comes through."""


def _given(output_type: Mapping[Any, Any]) -> dict[str, Any]:
    """A JSON schema of the user's as JSON has it."""
    given = checks.mapping("output_type", output_type, example='{"type": "object", "properties": {...}}')
    try:
        text = json.dumps(dict(given), allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise ConfigError("output_type: this JSON schema cannot be written as JSON") from None
    return _examined(text)


@functools.lru_cache(maxsize=256)
def _examined(text: str) -> dict[str, Any]:
    try:
        schema: dict[str, Any] = json.loads(text)
        _examine_parts(schema)
    except RecursionError:
        raise ConfigError("output_type: this JSON schema is nested too deeply") from None
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"output_type: $schema, $id or $ref is no address: {error}") from None
    return schema


def _draft(schema: Mapping[str, Any]) -> Any:
    """The class that checks by the draft a schema names, else by 2020-12."""
    from jsonschema import Draft202012Validator, validators

    named = schema.get("$schema")
    return validators.validator_for({"$schema": named} if isinstance(named, str) else {}, Draft202012Validator)


def _examine_parts(schema: dict[str, Any]) -> None:
    """That it is a schema, each reference leads to one in it, for nothing is fetched, and each pattern can be used."""
    from referencing import Registry
    from referencing.jsonschema import specification_with

    draft = _draft(schema)
    _examine_form(draft, schema)
    kind = specification_with(draft.ID_OF(draft.META_SCHEMA))
    root = kind.create_resource(schema)
    todo: list[tuple[Any, Any]] = [(root, Registry().resolver_with_root(root))]
    seen: set[int] = set()
    while todo:
        one, resolver = todo.pop()
        if not isinstance(one.contents, dict) or id(one.contents) in seen:
            continue
        seen.add(id(one.contents))
        _examine_patterns(one.contents)
        todo += [(inner, resolver.in_subresource(inner)) for inner in one.subresources()]
        for reference in map(one.contents.get, ("$ref", "$dynamicRef")):
            if not isinstance(reference, str):
                continue
            found = _looked_up(resolver, reference)
            _examine_form(draft, found.contents)
            todo.append((kind.create_resource(found.contents), found.resolver))


def _examine_form(draft: Any, schema: Any) -> None:
    wrong = next(draft(draft.META_SCHEMA).iter_errors(schema), None)
    if wrong is not None:
        raise ConfigError(f"output_type: is no JSON schema: {_told(wrong)}")


def _looked_up(resolver: Any, reference: str) -> Any:
    from referencing.exceptions import Unresolvable

    try:
        return resolver.lookup(reference)
    except (Unresolvable, TypeError, ValueError):  # the latter for a path through what is no object
        raise ConfigError(
            f"output_type: $ref {reference!r} leads to nothing in this schema, and nothing is fetched; put what it "
            "refers to under $defs"
        ) from None


def _examine_patterns(schema: Mapping[str, Any]) -> None:
    from pydantic_core import SchemaError

    patterns: list[tuple[Callable[[str], Any], str]] = [
        (re.compile, one) for one in schema.get("patternProperties", ())
    ]
    patterns += [(_searcher, schema["pattern"])] if "pattern" in schema else []
    for prepare, pattern in patterns:
        try:
            prepare(pattern)
        except (SchemaError, re.error) as error:
            raise ConfigError(f"output_type: the pattern {pattern!r} cannot be used: {reason(error)}") from None


@functools.lru_cache(maxsize=256)
def _searcher(pattern: str) -> Callable[[str], bool]:
    """pydantic's own search for patterns, for a type's as for these: its time is linear, whatever a model writes."""
    from pydantic_core import SchemaValidator, core_schema

    return SchemaValidator(core_schema.str_schema(pattern=pattern)).isinstance_python


def misfit(value: Any, schema: dict[str, Any]) -> str:
    """What in `value` does not fit, in words, or ""."""
    found: list[str] = []
    try:
        found.extend(map(_told, itertools.islice(_checker(schema).iter_errors(value), 5)))
    except RecursionError:
        found.append("it is nested too deeply")
    except (ValueError, ArithmeticError) as error:  # the library's own at NaN and 10**400, or `TooMuch`
        found.append(f"it cannot be checked: {error}")
    return bounded("; ".join(found))


def _checker(schema: dict[str, Any]) -> Any:
    """The check of one answer, which ends at `MAX_CHECKS`: alternatives in one another take their number to the power
    of their depth, and each has its faults made before the next is tried."""
    from jsonschema import validators
    from referencing import Registry

    left = MAX_CHECKS

    def counted(keyword: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
        def check(*given: Any) -> Iterator[Any]:
            nonlocal left
            left -= 1
            for error in keyword(*given) or ():
                left -= 20 + len(error.message) // 150
                yield error
            if left < 0:
                raise TooMuch("too many values")

        return check

    draft = _draft(schema)
    keywords = {**draft.VALIDATORS, "pattern": _pattern, "uniqueItems": _unique}
    counting = validators.extend(draft, {word: counted(keyword) for word, keyword in keywords.items()})
    # Without the word that would bring the class which does not count back, by a reference to the root.
    return counting({key: one for key, one in schema.items() if key != "$schema"}, registry=Registry())


def _pattern(_: Any, pattern: str, value: Any, __: Any) -> Iterator[Any]:
    from jsonschema import ValidationError

    if isinstance(value, str) and not _searcher(pattern)(value):
        yield ValidationError(f"does not match {pattern!r}")


def _unique(_: Any, wanted: bool, value: Any, __: Any) -> Iterator[Any]:
    """The library compares each item with each; this takes one look at each. 1 and 1.0 are one number."""
    from jsonschema import ValidationError

    if wanted and isinstance(value, list):
        items = json.loads(json.dumps(value), parse_float=number)
        if len(set(map(json.JSONEncoder(sort_keys=True).encode, items))) < len(items):
            yield ValidationError("has an item twice")


def number(text: str) -> float:
    """A JSON number that is not written as a whole one, as such where it is."""
    value = float(text)
    return int(value) if value.is_integer() else value


def _told(error: Any) -> str:
    """Where, and what is wrong: of alternatives what is nearest, and a long value by what it should have been."""
    from jsonschema.exceptions import best_match

    nearest = best_match(iter([error]))
    where, words = nearest.json_path, nearest.message
    if len(words) > 200:
        words = f"does not fit {nearest.validator}: {json.dumps(nearest.validator_value)}"
    return f"{_cut(where)}: {_cut(words)}"


def _cut(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + " ..."


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
