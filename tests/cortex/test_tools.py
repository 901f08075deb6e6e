"""Tools: what a function's hints and docstring become, how a model's call is checked, how a result is told."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import functools
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypedDict

import attrs
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.errors import ConfigError
from cortex.messages import ToolSpec
from cortex.tools import RESULT_LIMIT, Tool, build, identity, parse_output, render, spec, tool, toolbox, validate


class Color(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


@attrs.frozen
class Point:
    x: int
    y: int = 0


class Place(TypedDict, total=False):
    city: str


def search(query: str, limit: int = 10) -> list[str]:
    """Search the catalogue for
    what is asked.

    Slow on Mondays.

    Args:
        query: What to look for,
            in plain words.
        limit (int): How many at most.

    Returns:
        The names found.
    """
    return [query] * limit


# ---------------------------------------------------------------------------------------------------- making tools


def test_a_function_becomes_a_tool() -> None:
    made = build(search)
    assert spec(made) == ToolSpec(
        "search",
        "Search the catalogue for what is asked.",
        {
            "type": "object",
            "properties": {
                "query": {"type": "string", "description": "What to look for, in plain words."},
                "limit": {"type": "integer", "default": 10, "description": "How many at most."},
            },
            "required": ["query"],
            "additionalProperties": False,
        },
    )
    assert (made.is_async, made.timeout, made.fn) == (False, 30.0, search)
    assert made("a", limit=2) == ["a", "a"]


def test_the_decorator_bare_and_with_options() -> None:
    @tool
    async def wait(seconds: float) -> None:
        """Wait."""

    @tool(name="pause", description="Pause a while.", timeout=5)
    def rest(seconds: float) -> None:
        """Wait."""

    assert (wait.name, wait.description, wait.is_async, wait.timeout) == ("wait", "Wait.", True, 30.0)
    assert (rest.name, rest.description, rest.is_async, rest.timeout) == ("pause", "Pause a while.", False, 5.0)


def test_a_tool_may_take_nothing() -> None:
    def now() -> str:
        return "noon"

    made = build(now)
    assert made.description == ""
    assert made.parameters == {"type": "object", "properties": {}, "additionalProperties": False}
    assert validate(made, {}) == {}


def numpy(city: str, days: int) -> None:
    """Forecast.

    Parameters
    ----------
    city : str
        Where.
    days
        How far
        ahead.

    Returns
    -------
    str
        nothing
    """


def sphinx(city: str, days: int) -> None:
    """Forecast.

    :param city: Where.
    :param int days: How far
        ahead.
    :returns: nothing
    """


def google(city: str, days: int) -> None:
    """Forecast.

    Args:
        city (str): Where.
        days: How far
            ahead.

    Raises:
        ValueError: never
    """


def annotated(
    city: Annotated[str, "Where."], days: Annotated[int, pydantic.Field(description="How far ahead.")]
) -> None:
    """Forecast.

    Args:
        days: not this
    """


@pytest.mark.parametrize("fn", [numpy, sphinx, google, annotated])
def test_what_is_said_of_the_parameters(fn: Callable[..., Any]) -> None:
    made = build(fn)
    assert made.description == "Forecast."
    properties = made.parameters["properties"]
    assert {name: field.get("description") for name, field in properties.items()} == {
        "city": "Where.",
        "days": "How far ahead.",
    }


def test_parameters_may_have_names_that_a_model_refuses() -> None:
    def odd(schema: str, _hidden: int, copy: bool, title: str, model_config: str) -> None: ...

    made = build(odd)
    names = ["schema", "_hidden", "copy", "title", "model_config"]
    assert list(made.parameters["properties"]) == names
    arguments = {"schema": "s", "_hidden": 1, "copy": True, "title": "t", "model_config": "m"}
    assert validate(made, arguments) == arguments


def test_a_callable_object_and_a_bound_method_serve() -> None:
    class Desk:
        async def __call__(self, note: str) -> None: ...

        def read(self, page: int) -> None:
            """Read."""

    assert build(Desk(), name="desk").is_async
    assert build(Desk().read).parameters["required"] == ["page"]


@attrs.frozen
class Endless:
    inner: list[Endless] = attrs.field(factory=list)


def unhinted(a) -> None: ...  # type: ignore[no-untyped-def]
def starred(*args: int) -> None: ...
def keyed(**kwargs: int) -> None: ...
def positional(a: int, /) -> None: ...
def unreadable(a: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821
def unschemable(a: Callable[[int], int]) -> None: ...
def unknown_class(a: pytest.Item) -> None: ...
def endless(a: Endless) -> None: ...
def ahead(a: Annotated[str, pydantic.Field(pattern="(?=a)")]) -> None: ...


@pytest.mark.parametrize(
    ("fn", "match"),
    [
        (unhinted, r"^tool unhinted\.a: has no type hint, e\.g\. a: str"),
        (starred, r"^tool starred\.args: "),
        (keyed, r"^tool keyed\.kwargs: "),
        (positional, r"^tool positional\.a: is positional-only"),
        (unreadable, r"^tool unreadable: a type hint cannot be read: .*Missing"),
        (unschemable, r"^tool unschemable: a type hint has no JSON schema"),
        (unknown_class, r"^tool unknown_class: a type hint has no JSON schema"),
        (endless, r"^tool endless: a type hint has no JSON schema: Endless holds itself"),
        (ahead, r"^tool ahead: a type hint has no JSON schema: .*look-around"),
        (lambda a: a, r"^tool: '<lambda>' is no name a vendor takes; pass name="),
        (functools.partial(search, "x"), r"^tool: '' is no name"),
        (5, "^tool: must be a function, not int"),
        (Point, "^tool: must be a function, not type"),
    ],
)
def test_a_function_that_cannot_be_a_tool_is_named(fn: Any, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        tool(fn)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"name": "two words"}, "'two words' is no name"),
        ({"name": "x" * 65}, "is no name"),
        ({"name": 5}, "5 is no name"),
        ({"timeout": 0}, r"^tool search\.timeout: "),
        ({"timeout": "1s"}, r"^tool search\.timeout: .*not str"),
        ({"description": 5}, r"^tool search\.description: .*not int"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        tool(**options)(search)


def test_a_default_that_is_no_json_is_no_news_to_the_model() -> None:
    def since(when: datetime.date | None = None, unit: Color = Color.RED, key: Any = object()) -> None: ...  # noqa: B008

    properties = build(since).parameters["properties"]
    assert "default" not in properties["key"]
    assert properties["unit"]["default"] == "red"


def test_toolbox_takes_functions_and_tools() -> None:
    made = tool(name="other")(search)
    box = toolbox([search, made])
    assert list(box) == ["search", "other"]
    assert box["other"] is made
    assert toolbox(()) == {}


@pytest.mark.parametrize(
    ("tools", "match"),
    [
        ([search, search], r"^tools\[1\]: the name 'search' is taken"),
        ([search, 5], r"^tools\[1\]: must be a function or a tool, not int"),
        (search, "^tools: must be a list of functions, not function"),
        ("search", "^tools: .*not str"),
        (None, "^tools: .*not None"),
        ([unhinted], r"^tool unhinted\.a: "),
    ],
)
def test_toolbox_names_the_item(tools: object, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        toolbox(tools)


# ------------------------------------------------------------------------------------------------- checking a call


def rich(
    when: datetime.date,
    color: Color,
    point: Point,
    place: Place | None = None,
    mode: Literal["a", "b"] = "a",
    tags: list[str] = [],  # noqa: B006
) -> None: ...


def test_arguments_become_the_types_of_the_function() -> None:
    arguments = {"when": "2026-01-02", "color": "blue", "point": {"x": "3"}, "place": {"city": "Oslo"}}
    assert validate(build(rich), arguments) == {
        "when": datetime.date(2026, 1, 2),
        "color": Color.BLUE,
        "point": Point(3),
        "place": {"city": "Oslo"},
    }


class Booking(pydantic.BaseModel, strict=True):
    when: datetime.date
    seats: tuple[int, ...]


def strict(
    when: Annotated[datetime.date, pydantic.Strict()],
    color: Annotated[Color, pydantic.Strict()],
    pair: Annotated[tuple[int, int], pydantic.Strict()],
    booking: Booking,
    by_row: dict[int, str],
    note: Any,
) -> None: ...


def test_a_strict_type_takes_what_json_can_write() -> None:
    booking = {"when": "2026-01-02", "seats": [1, 2]}
    arguments = {"when": "2026-01-02", "color": "blue", "pair": [1, 2], "booking": booking}
    assert validate(build(strict), {**arguments, "by_row": {"7": "A"}, "note": {"a": float("inf")}}) == {
        "when": datetime.date(2026, 1, 2),
        "color": Color.BLUE,
        "pair": (1, 2),
        "booking": Booking(when=datetime.date(2026, 1, 2), seats=(1, 2)),
        "by_row": {7: "A"},
        "note": {"a": float("inf")},
    }
    answer = validate(build(strict), {**arguments, "by_row": {}, "note": 1, "pair": "12"})
    assert answer == "wrong arguments for strict: pair: Input should be a valid array"


def test_half_an_emoji_in_an_argument_is_mended() -> None:
    assert validate(_SEARCH, {"query": "a\ud83d"}) == {"query": "a\ufffd"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (None, "the arguments of search are not valid JSON"),
        ([1], "the arguments of search must be a JSON object, not list"),
        ("query", "must be a JSON object, not str"),
        ({}, "wrong arguments for search: query: Field required"),
        ({"query": 5}, "query: Input should be a valid string"),
        ({"query": "a", "limit": "many"}, "limit: Input should be a valid integer"),
        ({"query": "a", "limits": 5}, "limits: Extra inputs are not permitted"),
    ],
)
def test_a_wrong_call_is_a_text_for_the_model(arguments: object, words: str) -> None:
    answer = validate(build(search), arguments)
    assert isinstance(answer, str)
    assert words in answer


def test_a_wrong_call_has_a_short_answer() -> None:
    answer = validate(build(search), {f"wrong{index}": "x" * 1000 for index in range(1000)})
    assert isinstance(answer, str)
    assert len(answer) < 2000


@given(st.dictionaries(st.sampled_from(["query", "limit", "x"]), st.none() | st.integers() | st.text() | st.floats()))
def test_any_call_is_either_right_or_explained(arguments: dict[str, Any]) -> None:
    answer = validate(_SEARCH, arguments)
    if isinstance(answer, dict):
        assert isinstance(answer["query"], str)
        assert isinstance(answer.get("limit", 1), int)
        assert answer.keys() == arguments.keys()


_SEARCH: Tool = build(search)


# ------------------------------------------------------------------------------------------------ telling a result


@dataclasses.dataclass
class Row:
    id: int


class Model(pydantic.BaseModel):
    when: datetime.date


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ("plain", "plain"),
        (Color.RED, "red"),
        ("", ""),
        (None, "null"),
        (5, "5"),
        ({"a": [1, "ü"]}, '{"a": [1, "ü"]}'),
        (Row(1), '{"id":1}'),
        (Point(1, 2), '{"x":1,"y":2}'),
        ([Point(1, 2)], '[{"x":1,"y":2}]'),
        (Model(when=datetime.date(2026, 1, 2)), '{"when":"2026-01-02"}'),
        (datetime.date(2026, 1, 2), '"2026-01-02"'),
        ({1}, "[1]"),
        (float("nan"), "null"),
        ("half \ud800", "half ?"),
    ],
)
def test_a_result_is_text_or_json(result: object, text: str) -> None:
    assert render(result) == text


def test_what_is_no_json_is_told_by_its_repr() -> None:
    class Odd:
        def __repr__(self) -> str:
            return "<Odd>"

    class Broken:
        def __repr__(self) -> str:
            raise ZeroDivisionError

    circle: list[Any] = []
    circle.append(circle)
    assert render(Odd()).startswith("(not JSON: ")
    assert render(Odd()).endswith("<Odd>")
    assert "whose repr raises ZeroDivisionError" in render(Broken())
    assert "[[...]]" in render(circle)


@pytest.mark.parametrize("result", ["é" * RESULT_LIMIT, ["x" * 10] * RESULT_LIMIT])
def test_a_huge_result_is_cut_off_and_says_so(result: object) -> None:
    text = render(result)
    assert len(text.encode()) < RESULT_LIMIT + 200
    assert "(cut off: " in text[-100:]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda i: st.lists(i) | st.dictionaries(st.text(), i)
    )
)
def test_json_comes_through(result: Any) -> None:
    text = render(result)
    if not isinstance(result, str):
        assert json.loads(text.encode().decode()) == json.loads(json.dumps(result).encode("utf-8", "replace"))


def test_pydantic_waits_for_the_first_tool() -> None:
    code = "import sys, cortex.tools; print('pydantic' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


@attrs.frozen
class _Seat:
    row: int
    letter: str = "A"


def test_two_calls_are_the_same_when_they_mean_the_same() -> None:
    def book(seat: _Seat, extra: dict[str, int], price: float = 5) -> str:
        """Book."""
        return f"{seat}{extra}{price}"

    made = tool(book)

    def meant(arguments: dict[str, object]) -> str:
        checked = validate(made, arguments)
        assert isinstance(checked, dict), checked
        return identity(made, checked)

    first = meant({"seat": {"row": 1}, "extra": {"a": 1, "b": 2}})
    assert first == meant({"price": 5, "extra": {"b": 2, "a": 1}, "seat": {"letter": "A", "row": "1"}})
    assert first != meant({"seat": {"row": 2}, "extra": {"a": 1, "b": 2}})
    assert first != meant({"seat": {"row": 1}, "extra": {"a": 1, "b": 3}})


@attrs.frozen
class Looked:
    at: int = attrs.field(converter=lambda value: {1: 1}[value])


@dataclasses.dataclass
class Ratio:
    a: int
    b: int

    def __post_init__(self) -> None:
        self.a / self.b


class Indexed(pydantic.BaseModel):
    at: int

    @pydantic.field_validator("at")
    @classmethod
    def _known(cls, value: int) -> int:
        return [1][value]


class Mute(Exception):
    """An error that cannot even say what it is."""

    def __str__(self) -> str:
        raise RuntimeError


class MuteValue(Mute, ValueError):
    """One of the kind that pydantic takes for a fault of the data."""


def _refuse(error: type[Exception]) -> Callable[..., None]:
    def refuse(*_: object) -> None:
        raise error

    return refuse


@attrs.frozen
class Muted:
    at: int = attrs.field(validator=_refuse(Mute))


@attrs.frozen
class MutedValue:
    at: int = attrs.field(validator=_refuse(MuteValue))


RAISING = [
    (Looked, {"at": 7}, "KeyError: 7"),
    (Ratio, {"a": 1, "b": 0}, "ZeroDivisionError: division by zero"),
    (Indexed, {"at": 5}, "IndexError: list index out of range"),
    (Muted, {"at": 1}, "Mute: (its text cannot be read)"),
    (MutedValue, {"at": 1}, "RuntimeError"),  # of its __str__, which pydantic asks
]


@pytest.mark.parametrize(("kind", "given", "words"), RAISING)
def test_whatever_a_validator_raises_is_told_to_the_model(kind: Any, given: Any, words: str) -> None:
    def take(it: Any) -> None:
        """Take it."""

    take.__annotations__["it"] = kind
    said = validate(build(take), {"it": given})
    assert isinstance(said, str)
    assert said.startswith("wrong arguments for take: ")
    assert words in said
    assert words in parse_output(kind, json.dumps(given)).fault
