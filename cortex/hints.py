"""Type hints in a form that pydantic reads, and what it says of those that have none. Pure.

pydantic knows no attrs class. It takes one in the guise of a dict of its fields, and looks into no other class for one:
so the classes around it go in the same guise.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from cortex import checks


def adapted(hint: Any, around: tuple[Any, ...] = ()) -> Any:
    """`hint` with each attrs class, and before Python 3.12 each `typing.TypedDict`, in a form that pydantic knows, also
    inside of other classes. `around`: the classes that `hint` stands in. TypeError for what has no such form.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    cls = origin or hint
    if isinstance(cls, type) and not hasattr(cls, "__get_pydantic_core_schema__") and _has_members(cls):
        return _adapted_class(hint, cls, around)
    if origin in (None, typing.Literal) or not all(_is_hint(arg) for arg in args[:1]):
        return hint
    if origin is typing.Annotated:
        return typing.Annotated[(adapted(args[0], around), *args[1:])]
    inner = tuple(adapted(arg, around) if _is_hint(arg) else arg for arg in args)
    if inner == args:
        return hint
    return functools.reduce(operator.or_, inner) if origin in (typing.Union, types.UnionType) else origin[inner]


def _is_hint(arg: Any) -> bool:
    return not isinstance(arg, list) and arg is not Ellipsis


def _has_members(cls: type[Any]) -> bool:
    from pydantic.dataclasses import is_pydantic_dataclass
    from typing_extensions import is_typeddict

    plain = dataclasses.is_dataclass(cls) and not is_pydantic_dataclass(cls)
    return attrs.has(cls) or plain or is_typeddict(cls)


def _adapted_class(hint: Any, cls: type[Any], around: tuple[Any, ...]) -> Any:
    """A dict of its members, from which the class is then built: its own validators and converters have their say.

    What pydantic reads by itself, because nothing in it has to be adapted, stays as it is.
    """
    from typing_extensions import TypedDict, is_typeddict

    foreign = attrs.has(cls) or (sys.version_info < (3, 12) and typing.is_typeddict(cls))
    if cls in around and attrs.has(cls):
        raise TypeError(f"{cls.__name__} holds itself, which an attrs class cannot here; make it a dataclass")
    if cls in around:
        return hint
    members = _members(cls, dict(zip(getattr(cls, "__parameters__", ()), typing.get_args(hint), strict=False)))
    inner = {name: (adapted(one, (*around, cls)), required) for name, (one, required) in members.items()}
    if inner == members and not foreign:
        return hint
    fields = {name: one if required else typing.NotRequired[one] for name, (one, required) in inner.items()}
    shadow = TypedDict(cls.__name__, fields)  # type: ignore[misc]
    return shadow if is_typeddict(cls) else _built(cls, shadow)


def _members(cls: type[Any], given: Mapping[Any, Any]) -> dict[str, tuple[Any, bool]]:
    """What a class is made of: for each name its type, and whether it has to be there. `given`: what its type
    variables stand for."""
    hints = {name: _filled(hint, given) for name, hint in typing.get_type_hints(cls, include_extras=True).items()}
    if attrs.has(cls):
        fields = [field for field in attrs.fields(cls) if field.init]
        for field in fields:
            if field.name not in hints:
                raise TypeError(f"{cls.__name__}.{field.name} has no type hint")
        return {field.alias or field.name: (hints[field.name], field.default is attrs.NOTHING) for field in fields}
    if dataclasses.is_dataclass(cls):
        return {
            field.name: (hints[field.name], field.default is field.default_factory is dataclasses.MISSING)
            for field in dataclasses.fields(cls)
            if field.init
        }
    return {name: (_bare(hint), _required(cls, name, hint)) for name, hint in hints.items()}


def _filled(hint: Any, given: Mapping[Any, Any]) -> Any:
    """`hint` with its type variables replaced."""
    if isinstance(hint, typing.TypeVar):
        return given.get(hint, hint)
    if isinstance(hint, type):
        return hint
    variables = getattr(hint, "__parameters__", ())
    return hint[tuple(given.get(one, one) for one in variables)] if variables else hint


def _required(cls: Any, name: str, hint: Any) -> bool:
    """The sets of keys miss a mark that stands in a postponed annotation, so the mark itself goes first."""
    marks = {typing.Required: True, typing.NotRequired: False}
    return marks.get(typing.get_origin(hint), name in cls.__required_keys__)


def _bare(hint: Any) -> Any:
    """Without Required[...] and NotRequired[...]."""
    while typing.get_origin(hint) in (typing.Required, typing.NotRequired):
        (hint,) = typing.get_args(hint)
    return hint


def _built(cls: type[Any], shadow: Any) -> Any:
    from pydantic import GetPydanticSchema
    from pydantic_core import core_schema

    def build(values: dict[str, Any]) -> Any:
        try:
            return cls(**values)
        except (ValueError, AssertionError):
            raise
        except Exception as error:  # pydantic lets only these two be a fault of the data
            raise ValueError(checks.raised(error)) from None

    def schema(_: Any, handler: Callable[[Any], Any]) -> Any:
        return core_schema.no_info_after_validator_function(build, handler(shadow))

    return typing.Annotated[cls, GetPydanticSchema(schema)]


@functools.cache
def misfits() -> tuple[type[Exception], ...]:
    """What the reading of a type raises where it has no JSON schema."""
    from pydantic.errors import PydanticUserError
    from pydantic_core import SchemaError

    return (PydanticUserError, SchemaError, AttributeError, NameError, SyntaxError, TypeError, RecursionError)


def reason(error: Exception) -> str:
    """The one line that says why: the first, or of faults in one another the innermost, which is the last."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[-1 if lines[0].startswith("Error building") else 0]
