"""A JSON schema given as a dict: looked through when it is given, held against an answer later. Pure.

jsonschema is imported at the first use. It is made safe for what a model may write: its checks are counted, its
patterns are searched in linear time, and nothing that a schema refers to is ever fetched.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any, Final

from cortex import checks
from cortex.errors import ConfigError
from cortex.hints import reason
from cortex.wire.values import TooMuch, number

MAX_STEPS: Final = 60_000
"""Steps in the check of one answer, a tenth of a second: a keyword that meets a value is one, and more where it takes
longer (`_steps`); a fault where it is found is ten. Only alternatives come so far: five for each of 1,700 items."""

_COMPOUND: Final = {
    "$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "not", "if", "items", "prefixItems", "contains", "properties",
    "additionalProperties", "propertyNames", "dependentSchemas", "unevaluatedItems", "unevaluatedProperties",
}  # fmt: skip
"""Keywords whose faults are those of schemas inside."""
_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")
ROOM: Final = 50
"""Calls that following a reference may take. The last is in Rust, where a full stack is no RecursionError but a panic,
with words on stderr (`misfit` catches those that come all the same); and how deep it goes is in the hands of who writes
the answer."""


def examined(output_type: Mapping[Any, Any]) -> dict[str, Any]:
    """A JSON schema of the user's, as JSON has it. ConfigError for what is none, refers to what it has not, or has a
    pattern that cannot be used."""
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
    if isinstance(named, str) and "draft-03" in named:
        raise ConfigError("output_type: $schema names a draft that is too old; draft 4 and newer are known")
    return validators.validator_for({"$schema": named} if isinstance(named, str) else {}, Draft202012Validator)


def _examine_parts(schema: dict[str, Any]) -> None:
    """That it is a schema, each reference leads to one in it, for nothing is fetched, and each pattern can be used."""
    from referencing import Registry
    from referencing.jsonschema import specification_with

    draft = _draft(schema)
    _examine_form(draft, schema)
    for one in _schemas(schema):
        _examine_words(one, is_root=one is schema)
    kind = specification_with(draft.ID_OF(draft.META_SCHEMA))
    root = kind.create_resource(schema)
    todo: list[tuple[Any, Any]] = [(root, Registry().resolver_with_root(root))]
    seen: set[int] = set()
    referred: set[int] = {id(schema)}
    while todo:
        one, resolver = todo.pop()
        if not isinstance(one.contents, dict) or id(one.contents) in seen:
            continue
        seen.add(id(one.contents))
        inside = [inner for inner in one.subresources() if isinstance(inner.contents, dict)]
        todo += [(inner, resolver.in_subresource(inner)) for inner in inside]
        for word in {"$ref", "$dynamicRef"} & one.contents.keys():
            found = _looked_up(resolver, checks.any_text(f"output_type: {word}", one.contents[word]))
            if id(found.contents) not in referred:
                referred.add(id(found.contents))
                _examine_form(draft, found.contents)  # it may stand where no schema is expected
                for part in _schemas(found.contents):
                    _examine_words(part, is_root=part is schema)
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


NAMING: Final = (
    "properties", "$defs", "definitions", "patternProperties", "dependentSchemas", "dependentRequired", "dependencies",
)  # fmt: skip
"""Keywords whose keys are names, and may read like keywords."""
VALUES: Final = ("default", "const", "enum", "examples")
"""Keywords whose values are no schemas, whatever they look like."""


def _schemas(node: Any, *, names: bool = False) -> Iterator[dict[str, Any]]:
    """The schema and all that may be one in it. `names`: the keys of `node` are names, and may read like keywords."""
    if isinstance(node, list):
        for item in node:
            yield from _schemas(item)
    elif isinstance(node, dict):
        if not names:
            yield node
        for key, value in node.items():
            if names or key not in VALUES:
                yield from _schemas(value, names=not names and key in NAMING)


def _examine_words(schema: Mapping[str, Any], *, is_root: bool) -> None:
    from pydantic_core import SchemaError

    if isinstance(schema.get("$schema"), str) and not is_root:  # the library would check it by that, uncounted
        raise ConfigError("output_type: $schema stands inside; one at the root holds for all")
    if "patternProperties" in schema:  # the library searches them by `re`, whose time a model's word can blow up
        raise ConfigError(
            "output_type: patternProperties cannot be checked; name the properties, or say what any may be"
        )
    try:
        _searcher(pattern if isinstance(pattern := schema.get("pattern"), str) else "")
    except SchemaError as error:
        raise ConfigError(f"output_type: the pattern {schema['pattern']!r} cannot be used: {reason(error)}") from None


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
    except Exception as error:  # the library's own at NaN and 10**400 and at half a schema, or `TooMuch`
        found.append(f"it cannot be checked: {error}")
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # Rust's, at a full stack where `_need_room` did not look
            raise
        found.append("it is nested too deeply")
    return "; ".join(found)


def _checker(schema: dict[str, Any]) -> Any:
    """The check of one answer, which ends at `MAX_STEPS`: alternatives in one another take their number to the power of
    their depth, and each has its faults made before the next is tried."""
    from jsonschema import validators
    from referencing import Registry

    left = MAX_STEPS

    def counted(word: str, keyword: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
        def check(validator: Any, wanted: Any, value: Any, around: Any) -> Iterator[Any]:
            nonlocal left
            if word in _REFERENCES:
                _need_room(ROOM)
            left -= _steps(word, wanted, value)
            if left < 0:
                raise TooMuch("it holds too many values")
            for error in keyword(validator, wanted, value, around) or ():
                left -= 0 if word in _COMPOUND else 10 + len(error.message) // 150
                yield error

        return check

    draft = _draft(schema)
    keywords = {**draft.VALIDATORS, "pattern": _pattern, "uniqueItems": _unique, "multipleOf": _multiple}
    counting = validators.extend(draft, {word: counted(word, keyword) for word, keyword in keywords.items()})
    # Without the word that would bring the class which does not count back, by a reference to the root.
    return counting({key: one for key, one in schema.items() if key != "$schema"}, registry=Registry())


def _steps(word: str, wanted: Any, value: Any) -> int:
    """What a keyword costs at a value, in steps of 1.7 us, the faults it finds aside; as measured."""
    size = len(value) if isinstance(value, list | dict) else 0
    match word:
        case "enum":
            return 1 + len(wanted) // 10
        case "properties" | "required" | "dependentRequired" | "dependentSchemas" | "dependencies":
            return 1 + len(wanted) // 40
        case "pattern":
            return 1 + (len(value) // 500 if isinstance(value, str) else 0)
        case "items" | "additionalItems" | "additionalProperties":
            return 1 + (size if isinstance(wanted, dict) else size // 10)
        case "contains" | "propertyNames" | "uniqueItems":
            return 1 + size
        case "unevaluatedItems" | "unevaluatedProperties":  # each is looked for among all
            return 1 + size + size * size // 400
    return 1


def _need_room(calls: int) -> None:
    """RecursionError here if so many calls in one another would be too many."""
    if calls:
        _need_room(calls - 1)


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


def _multiple(_: Any, step: float, value: Any, __: Any) -> Iterator[Any]:
    """As it is written: 19.99 is a multiple of 0.01, though no float near it is."""
    from jsonschema import ValidationError

    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and (Fraction(str(value)) / Fraction(str(step))).denominator != 1:
        yield ValidationError(f"{value!r} is not a multiple of {step}")


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
