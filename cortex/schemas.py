"""Types -> JSON schemas, and a model's JSON -> values of these types. Pure.

Dataclasses, TypedDicts, pydantic models, attrs classes and whatever pydantic knows serve as types; a dict is a JSON
schema as it stands. pydantic is imported at the first use: `import cortex` stays light.

A schema asked of a model is one of an object, without alternatives at its root, for not every vendor takes another:
anything else travels as the `value` of one.
"""

from __future__ import annotations

import functools
import json
import operator
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import attrs

from cortex import checks
from cortex.errors import ConfigError
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
    from pydantic.errors import PydanticUserError

    try:
        if isinstance(output_type, types.FunctionType):  # pydantic would take its parameters for a type
            raise TypeError("a function is no type")
        adapter: TypeAdapter[Any] = TypeAdapter(adapted(output_type))
        return _Known(adapter, tidy(adapter.json_schema(schema_generator=quiet_generator())))
    except (PydanticUserError, NameError, TypeError, RecursionError) as error:
        raise ConfigError(
            "output_type: must be a dict with a JSON schema, a dataclass, a TypedDict, a pydantic model or an attrs "
            f"class, not {checks.kind(output_type)}: {first_line(error)}"
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


# ------------------------------------------------------------------------------------------ types pydantic lacks


def adapted(hint: Any) -> Any:
    """`hint` with each attrs class, and before Python 3.12 each `typing.TypedDict`, in a form that pydantic knows."""
    if isinstance(hint, type) and attrs.has(hint):
        return _adapted_attrs(hint)
    if sys.version_info < (3, 12) and typing.is_typeddict(hint):
        return _adapted_typed_dict(hint)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (None, typing.Literal) or not all(_is_hint(arg) for arg in args[:1]):
        return hint
    if origin is typing.Annotated:
        return typing.Annotated[(adapted(args[0]), *args[1:])]
    inner = tuple(adapted(arg) if _is_hint(arg) else arg for arg in args)
    if inner == args:
        return hint
    return functools.reduce(operator.or_, inner) if origin in (typing.Union, types.UnionType) else origin[inner]


def _is_hint(arg: Any) -> bool:
    return not isinstance(arg, list) and arg is not Ellipsis


def _adapted_typed_dict(hint: Any) -> Any:
    from typing_extensions import TypedDict

    fields = {}
    for name, inner in typing.get_type_hints(hint, include_extras=True).items():
        # The sets of keys miss a mark that stands in a postponed annotation, so the mark itself goes first.
        required = {typing.Required: True, typing.NotRequired: False}.get(
            typing.get_origin(inner), name in hint.__required_keys__
        )
        fields[name] = (typing.Required if required else typing.NotRequired)[adapted(_bare(inner))]
    return TypedDict(hint.__name__, fields)  # type: ignore[operator]


def _bare(hint: Any) -> Any:
    """Without Required[...] and NotRequired[...]."""
    while typing.get_origin(hint) in (typing.Required, typing.NotRequired):
        (hint,) = typing.get_args(hint)
    return hint


def _adapted_attrs(cls: type[Any]) -> Any:
    """A dict of its fields, from which the class is then built: its own validators and converters have their say."""
    from pydantic import GetPydanticSchema
    from pydantic_core import core_schema
    from typing_extensions import TypedDict

    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {}
    for field in attrs.fields(cls):
        if field.init:
            if field.name not in hints:
                raise ConfigError(f"{cls.__name__}.{field.name}: has no type hint")
            hint = adapted(hints[field.name])
            fields[field.alias or field.name] = hint if field.default is attrs.NOTHING else typing.NotRequired[hint]
    shadow = TypedDict(cls.__name__, fields)  # type: ignore[misc]

    def build(values: dict[str, Any]) -> Any:
        try:
            return cls(**values)
        except (ValueError, AssertionError):
            raise
        except Exception as error:  # pydantic lets only these two be a fault of the data
            raise ValueError(in_words(error)) from None

    def schema(_: Any, handler: Callable[[Any], Any]) -> Any:
        return core_schema.no_info_after_validator_function(build, handler(shadow))

    return typing.Annotated[cls, GetPydanticSchema(schema)]


# --------------------------------------------------------------------------------------------------- error texts


def faults(error: Exception) -> str:
    """What a check found wrong: pydantic's clauses, without the values, or what a user's own validator raised."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return in_words(error)
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, one['loc'])) or 'it'}: {one['msg']}" for one in found)


def in_words(error: Exception) -> str:
    """What a user's own code raised; an error that cannot even say what it is, too."""
    try:
        text = str(error)
    except Exception:  # its __str__ is the user's own
        text = "(its text cannot be read)"
    return f"{type(error).__name__}: {text}"


def bounded(text: str) -> str:
    """A text for the model, not longer than it has to be."""
    return text if len(text) <= FAULT_LIMIT else text[:FAULT_LIMIT] + " ..."


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return next(iter(str(error).splitlines()), type(error).__name__)
