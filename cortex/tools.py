"""Functions -> tools a model may call: schemas, the check of a call, the text of a result. Pure: nothing runs here.

The schema of a tool comes from its type hints, its description from its docstring; pydantic makes the one and checks a
model's arguments against it. It is imported when the first tool is made: `import cortex` stays light.

A wrong argument is the model's mistake, not the user's: it comes back as a text the model can learn from.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, overload

import attrs

from cortex import checks
from cortex.docstrings import parameter_texts, summary
from cortex.errors import ConfigError
from cortex.hints import adapted, misfits, reason
from cortex.messages import ToolSpec
from cortex.schemas import Parsed, parse_output, quiet_generator, schema_of, tidy, validated, written
from cortex.wire.output import PREFIX
from cortex.wire.values import number

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = [
    "Parsed",
    "Tool",
    "build",
    "parse_output",
    "render",
    "schema_of",
    "spec",
    "tool",
    "toolbox",
    "validate",
]

TIMEOUT: Final = 30.0
RESULT_LIMIT: Final = 1_000_000
"""Bytes of a tool's result that a model is shown."""

_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_-]{0,63}")
"""What every vendor takes as a tool's name."""


@attrs.frozen
class Tool:
    """A function a model may call. `parameters` is its JSON schema; `timeout` is in seconds.

    It can still be called like the function it was made from.
    """

    name: str
    description: str
    parameters: Mapping[str, Any] = attrs.field(repr=False)
    fn: Callable[..., Any] = attrs.field(repr=False)
    is_async: bool
    timeout: float = TIMEOUT
    _model: type[BaseModel] = attrs.field(repr=False, kw_only=True, alias="model")
    _fields: Mapping[str, str] = attrs.field(repr=False, kw_only=True, alias="fields")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function itself: nothing is checked."""
        return self.fn(*args, **kwargs)


# ---------------------------------------------------------------------------------------------------- making tools


@overload
def tool(fn: Callable[..., Any], /) -> Tool: ...
@overload
def tool(
    *, name: str | None = None, description: str | None = None, timeout: float = TIMEOUT
) -> Callable[[Callable[..., Any]], Tool]: ...
def tool(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float = TIMEOUT,
) -> Any:
    """Make a tool of a sync or async function: `@tool`, or `@tool(name=..., description=..., timeout=...)`.

    The name defaults to the function's, the description to the first paragraph of its docstring. Raises `ConfigError`
    for a parameter without a type hint, for *args and **kwargs, and for a name no vendor takes.
    """
    if fn is not None:
        return build(fn, name=name, description=description, timeout=timeout)
    return lambda function: build(function, name=name, description=description, timeout=timeout)


def build(
    fn: Callable[..., Any], *, name: str | None = None, description: str | None = None, timeout: float = TIMEOUT
) -> Tool:
    """The tool a function makes; see `tool`."""
    given: object = fn
    if isinstance(given, type) or not callable(given):
        raise ConfigError(f"tool: must be a function, not {checks.kind(given)}; wrap a class in one")
    own_name: object = name if name is not None else getattr(fn, "__name__", "")
    field = f"tool {own_name}"
    if not isinstance(own_name, str) or not _NAME.fullmatch(own_name):
        fix = "pass name=..., at most 64 letters, digits, _ and -"
        raise ConfigError(f"tool: {own_name!r} is no name a vendor takes; {fix}")
    if own_name.startswith(PREFIX):
        raise ConfigError(
            f"tool: {own_name!r}: names that begin with {PREFIX} are kept for typed answers; pass name=..."
        )
    docstring = inspect.getdoc(fn) or ""
    model, fields = _model_of(field, fn, parameter_texts(docstring))
    return Tool(
        own_name,
        summary(docstring) if description is None else checks.text(f"{field}.description", description),
        MappingProxyType(_parameters_schema(model)),
        fn,
        _is_async(fn),
        checks.number(f"{field}.timeout", timeout, above=0, unit="seconds"),
        model=model,
        fields=fields,
    )


def _is_async(fn: Callable[..., Any]) -> bool:
    """An object with an async `__call__` counts, and so does a partial of an async function."""
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004


def _model_of(
    field: str, fn: Callable[..., Any], texts: Mapping[str, str]
) -> tuple[type[BaseModel], Mapping[str, str]]:
    """A model with a field per parameter, and which parameter each field is.

    The fields have names of their own, because a model refuses some (`schema`, `_x`) that a parameter may have.
    """
    from pydantic import ConfigDict, Field, create_model

    fields: dict[str, Any] = {}
    names: dict[str, str] = {}
    parameters = _parameters(field, fn)
    try:
        for index, parameter in enumerate(parameters):
            hint = parameter.annotation
            default = ... if parameter.default is inspect.Parameter.empty else parameter.default
            described = _description(hint, texts.get(parameter.name))
            fields[f"p{index}"] = (adapted(hint), Field(default, alias=parameter.name, **described))
            names[f"p{index}"] = parameter.name
        model: type[BaseModel] = create_model("arguments", __config__=ConfigDict(extra="forbid"), **fields)
        _parameters_schema(model)
    except misfits() as error:
        raise ConfigError(f"{field}: a type hint has no JSON schema: {reason(error)}") from None
    return model, names


def _description(hint: Any, text: str | None) -> dict[str, Any]:
    """What `Annotated` says of a parameter, else its line in the docstring."""
    metadata = getattr(hint, "__metadata__", ())
    if any(getattr(item, "description", None) for item in metadata):
        return {}
    words = next((item for item in metadata if isinstance(item, str)), text)
    return {"description": words} if words else {}


def _parameters_schema(model: type[BaseModel]) -> dict[str, Any]:
    schema = tidy(model.model_json_schema(by_alias=True, schema_generator=quiet_generator()))
    return {**schema, "properties": schema.get("properties", {})}


def _parameters(field: str, fn: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        parameters = list(inspect.signature(fn, eval_str=True).parameters.values())
    except (NameError, AttributeError, SyntaxError) as error:
        raise ConfigError(f"{field}: a type hint cannot be read: {error}") from None
    except (TypeError, ValueError):
        raise ConfigError(
            f"{field}: has no signature that can be read; wrap it in a function with type hints"
        ) from None
    for parameter in parameters:
        where = f"{field}.{parameter.name}"
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ConfigError(f"{where}: a model cannot be told what * and ** take; name each parameter")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise ConfigError(f"{where}: is positional-only, but a model's arguments have names; drop the /")
        if parameter.annotation is parameter.empty:
            raise ConfigError(f"{where}: has no type hint, e.g. {parameter.name}: str")
    return parameters


def toolbox(tools: object) -> Mapping[str, Tool]:
    """Tools by name, from tools and plain functions. A name that comes twice is a `ConfigError`."""
    if isinstance(tools, (str, bytes, Mapping)) or not isinstance(tools, Sequence):
        raise ConfigError(f"tools: must be a list of functions, not {checks.kind(tools)}")
    box: dict[str, Tool] = {}
    for index, item in enumerate(tools):
        if not isinstance(item, Tool) and not callable(item):
            raise ConfigError(f"tools[{index}]: must be a function or a tool, not {checks.kind(item)}")
        one = item if isinstance(item, Tool) else build(item)
        if one.name in box:
            raise ConfigError(f"tools[{index}]: the name {one.name!r} is taken; pass name=... to one of the two")
        box[one.name] = one
    return MappingProxyType(box)


def spec(tool: Tool) -> ToolSpec:
    """The tool as a model sees it."""
    return ToolSpec(tool.name, tool.description, tool.parameters)


# ---------------------------------------------------------------------------------------------- calls and results


def validate(tool: Tool, arguments: object) -> dict[str, Any] | str:
    """The keyword arguments for the function, converted to its types; or what is wrong, in words for the model."""
    if not isinstance(arguments, Mapping):
        what = "are not valid JSON" if arguments is None else f"must be a JSON object, not {checks.kind(arguments)}"
        return f"the arguments of {tool.name} {what}"
    parsed = validated(tool._model.model_validate_json, written(dict(arguments)))
    if parsed.fault:
        return f"wrong arguments for {tool.name}: {parsed.fault}"
    checked = parsed.value
    # A parameter that was not given is left out, so that the function's own default counts.
    return {tool._fields[field]: getattr(checked, field) for field in checked.model_fields_set}


def identity(tool: Tool, arguments: Mapping[str, Any]) -> str:
    """What tells a call from others, by what `validate` gave: 5, 5.0 and a default that was left out mean the same."""
    fields = tool._model.model_fields
    defaults = {tool._fields[name]: field.default for name, field in fields.items() if not field.is_required()}
    meant = dict(sorted({**defaults, **arguments}.items()))
    try:
        return json.dumps(json.loads(_to_json(meant), parse_float=number), sort_keys=True, ensure_ascii=False)
    except Exception:  # whatever a user's value does when it is looked at
        return _safe_repr(meant)


def render(result: object) -> str:
    """A tool's result as the text a model reads: a text as it is, anything else as JSON.

    What cannot be JSON is shown by its repr, with a note; more than a megabyte is cut off, with a note.
    """
    if isinstance(result, str):
        text = result
    else:
        try:
            text = _to_json(result)
        except Exception as error:  # whatever a user's value does when it is looked at
            text = f"(not JSON: {type(error).__name__}) {_safe_repr(result)}"
    data = text.encode("utf-8", "replace")
    if len(data) <= RESULT_LIMIT:
        return data.decode()
    note = f"\n(cut off: {len(data)} bytes in all, the first {RESULT_LIMIT} are shown)"
    return data[:RESULT_LIMIT].decode("utf-8", "ignore") + note


def _to_json(result: object) -> str:
    try:
        return json.dumps(result, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        from pydantic_core import to_json

        return to_json(result, inf_nan_mode="null", fallback=_plain).decode()


def _plain(value: Any) -> Any:
    """A value pydantic cannot write: an attrs instance is the dict of its fields."""
    if attrs.has(type(value)):
        return attrs.asdict(value, recurse=False)
    raise TypeError(f"{type(value).__name__} is not JSON")


def _safe_repr(result: object) -> str:
    try:
        return repr(result)
    except Exception as error:  # a repr that raises is the user's own
        return f"<{type(result).__name__}, whose repr raises {type(error).__name__}>"
