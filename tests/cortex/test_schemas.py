"""Output types: the schema asked for, and the value an answer becomes."""

from __future__ import annotations

import dataclasses
import datetime
import json
import typing
from collections.abc import Sequence
from typing import Any, Literal, NotRequired

import attrs
import pydantic
import pytest
import typing_extensions
from hypothesis import given
from hypothesis import strategies as st

from cortex.errors import ConfigError
from cortex.hints import adapted
from cortex.schemas import Parsed, parse_output, schema_of

T = typing.TypeVar("T")


@dataclasses.dataclass
class Data:
    name: str
    born: datetime.date


class Typed(typing.TypedDict):
    name: str
    born: datetime.date


class Extended(typing_extensions.TypedDict):
    name: str
    born: datetime.date


class Model(pydantic.BaseModel):
    name: str
    born: datetime.date


@attrs.frozen
class Attrs:
    name: str
    born: datetime.date


class Tree(pydantic.BaseModel):
    title: str
    children: list[Tree] = []


class Value(pydantic.BaseModel):
    value: int


@attrs.frozen
class Positive:
    n: int = attrs.field(validator=attrs.validators.gt(0))
    unit: str = "m"
    _hidden: int = 1


class Loose(typing.TypedDict):
    n: NotRequired[int]
    parts: list[Typed]


ANN = {"name": "Ann", "born": datetime.date(1990, 1, 2)}
ANN_TEXT = '{"name": "Ann", "born": "1990-01-02"}'


@pytest.mark.parametrize("kind", [Data, Typed, Extended, Model, Attrs])
def test_every_kind_of_class_gives_the_same_schema_and_its_own_value(kind: Any) -> None:
    asked = schema_of(kind)
    assert asked.name == kind.__name__
    assert asked.schema == {
        "type": "object",
        "properties": {"name": {"type": "string"}, "born": {"type": "string", "format": "date"}},
        "required": ["name", "born"],
        "additionalProperties": False,
    }
    parsed = parse_output(kind, ANN_TEXT)
    assert parsed == Parsed(kind(**ANN))
    assert parse_output(kind, f"```json\n{ANN_TEXT}\n```\n") == parsed


@pytest.mark.parametrize("kind", [Data, Typed, Extended, Model, Attrs])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not valid JSON"),
        ("Ann was born", "not valid JSON"),
        (ANN_TEXT[:-5], "not valid JSON"),
        ('{"name": "Ann"}', "born"),
        ('{"name": "Ann", "born": "soon"}', "born"),
        ("[1]", "it: "),
    ],
)
def test_what_does_not_fit_is_told_in_words(kind: Any, text: str, words: str) -> None:
    parsed = parse_output(kind, text)
    assert parsed.value is None
    assert words in parsed.fault


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (int, 3),
        (str, "x"),
        (list[int], [1, 2]),
        (int | None, None),
        (Literal["a", "b"], "b"),
        (list[Attrs], [Attrs(**ANN)]),  # type: ignore[arg-type]
        (dict[str, Attrs] | None, {"a": Attrs(**ANN)}),  # type: ignore[arg-type]
        (tuple[int, ...], (1, 2)),
        (Sequence[Typed], [ANN]),
    ],
)
def test_what_is_no_object_travels_inside_one(kind: Any, value: Any) -> None:
    asked = schema_of(kind).schema
    assert asked["type"] == "object"
    plain = pydantic.TypeAdapter(Any).dump_python(attrs_free(value), mode="json")
    if list(asked.get("properties", ())) == ["value"]:
        assert parse_output(kind, json.dumps({"value": plain})) == Parsed(value)
    assert parse_output(kind, json.dumps(plain)) == Parsed(value)


def attrs_free(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [attrs_free(item) for item in value]
    if isinstance(value, dict):
        return {key: attrs_free(item) for key, item in value.items()}
    return attrs.asdict(value) if attrs.has(type(value)) else value


def test_a_class_with_a_field_named_value_is_not_taken_for_a_wrapping() -> None:
    assert parse_output(Value, '{"value": 3}') == Parsed(Value(value=3))


def test_a_recursive_type_has_an_object_at_its_root() -> None:
    asked = schema_of(Tree)
    assert asked.schema["type"] == "object"
    assert "title" in asked.schema["properties"]
    assert parse_output(Tree, '{"title": "a", "children": [{"title": "b"}]}').value.children[0].title == "b"


def test_attrs_validators_and_defaults_have_their_say() -> None:
    assert schema_of(Positive).schema["required"] == ["n"]
    assert "hidden" in schema_of(Positive).schema["properties"]
    assert parse_output(Positive, '{"n": 1}') == Parsed(Positive(1))
    assert "> 0" in parse_output(Positive, '{"n": -1}').fault


def test_typed_dicts_keep_what_may_be_missing() -> None:
    assert schema_of(Loose).schema["required"] == ["parts"]
    assert parse_output(Loose, json.dumps({"parts": [json.loads(ANN_TEXT)]})) == Parsed({"parts": [ANN]})


@attrs.frozen
class Box(typing.Generic[T]):
    inside: T
    more: list[T] = attrs.field(factory=list)


@attrs.frozen
class Pair(typing.Generic[T]):
    box: Box[T]


@dataclasses.dataclass
class Shelf:
    first: Attrs
    by_name: dict[str, Attrs] = dataclasses.field(default_factory=dict)
    high: bool = False


@dataclasses.dataclass
class Rack(typing.Generic[T]):
    of: T


class Drawer(typing.TypedDict):
    holds: Attrs
    label: NotRequired[str]


class WideDrawer(typing_extensions.TypedDict):
    holds: Attrs


@dataclasses.dataclass
class Branch:
    name: str
    twigs: list[Branch] = dataclasses.field(default_factory=list)


BORN = {"name": "Ann", "born": "1990-01-02"}
IT = Attrs("Ann", datetime.date(1990, 1, 2))


@pytest.mark.parametrize(
    ("kind", "given", "value"),
    [
        (Box[int], {"inside": 1, "more": [2]}, Box(1, [2])),
        (Box[Attrs], {"inside": BORN}, Box(IT)),
        (Pair[int], {"box": {"inside": 1}}, Pair(Box(1))),
        (Shelf, {"first": BORN, "by_name": {"a": BORN}}, Shelf(IT, {"a": IT})),
        (Rack[Attrs], {"of": BORN}, Rack(IT)),
        (Rack[int], {"of": 1}, Rack(1)),
        (list[Shelf], {"value": [{"first": BORN}]}, [Shelf(IT)]),
        (Drawer, {"holds": BORN}, {"holds": IT}),
        (WideDrawer, {"holds": BORN}, {"holds": IT}),
        (Branch, {"name": "a", "twigs": [{"name": "b"}]}, Branch("a", [Branch("b")])),
    ],
    ids=str,
)
def test_classes_stand_in_one_another(kind: Any, given: Any, value: Any) -> None:
    assert set(schema_of(kind).schema["properties"]) >= set(given)
    assert parse_output(kind, json.dumps(given)) == Parsed(value)


def test_what_a_generic_class_holds_is_checked() -> None:
    assert parse_output(Box[int], '{"inside": "x"}').fault.startswith("inside: ")
    assert parse_output(Shelf, '{"first": {"name": "Ann"}}').fault.startswith("first.born: ")
    assert parse_output(Shelf, "{}").fault.startswith("first: ")


def test_types_that_need_no_adapting_stay_the_same() -> None:
    for hint in (int, list[int], int | None, Model, Literal["a"], typing.Annotated[int, 1], typing.Any):
        assert adapted(hint) is hint or adapted(hint) == hint


@attrs.frozen
class Endless:
    inner: list[Endless] = attrs.field(factory=list)


@dataclasses.dataclass
class Ahead:
    code: typing.Annotated[str, pydantic.Field(pattern="(?=a)")]


@attrs.frozen
class Bare:
    x = attrs.field()


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        (Endless, "Endless holds itself"),
        (list[Endless], "Endless holds itself"),
        (Ahead, "look-around"),
        (Bare, r"Bare\.x has no type hint"),
    ],
)
def test_a_class_that_cannot_be_read_is_named(kind: Any, match: str) -> None:
    with pytest.raises(ConfigError, match=f"^output_type: .*{match}"):
        schema_of(kind)


def test_none_asks_for_nothing() -> None:
    assert parse_output(None, "hello") == Parsed()


@pytest.mark.parametrize("kind", [5, "Data", object(), pytest.Item, lambda: 0, {"a": object()}, {1: 2}])
def test_a_type_without_a_schema_is_named(kind: Any) -> None:
    with pytest.raises(ConfigError, match=r"^output_type: "):
        schema_of(kind)


# ------------------------------------------------------------------------------------------------ dict JSON schemas

CITY = {
    "title": "A city",
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "size": {"enum": ["small", "big"]},
        "kind": {"const": "city"},
        "parts": {"type": "array", "items": {"type": "integer"}},
        "mayor": {"type": ["string", "null"]},
    },
    "required": ["name"],
    "additionalProperties": False,
}


def test_a_dict_is_a_schema_as_it_stands() -> None:
    asked = schema_of(CITY)
    assert (asked.name, asked.schema) == ("A_city", CITY)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ({"name": "Oslo"}, ""),
        ({"name": "Oslo", "size": "big", "kind": "city", "parts": [1, 2.0], "mayor": None}, ""),
        ({}, "$.name is missing"),
        ([], "$ must be of type object"),
        ({"name": 5}, "$.name must be of type string"),
        ({"name": "Oslo", "size": "huge"}, '$.size must be one of ["small", "big"]'),
        ({"name": "Oslo", "kind": "town"}, '$.kind must be "city"'),
        ({"name": "Oslo", "parts": [1, True]}, "$.parts[1] must be of type integer"),
        ({"name": "Oslo", "parts": [1.5]}, "$.parts[0] must be of type integer"),
        ({"name": "Oslo", "mayor": 1}, "$.mayor must be of type ['string', 'null']"),
        ({"name": "Oslo", "extra": 1}, "$.extra is not allowed"),
    ],
)
def test_an_answer_is_held_against_a_dict(value: Any, fault: str) -> None:
    assert parse_output(CITY, json.dumps(value)) == (Parsed(fault=fault) if fault else Parsed(value))


def test_a_dict_whose_root_is_no_object_travels_inside_one() -> None:
    schema = {"type": "array", "items": {"$ref": "#/$defs/n"}, "$defs": {"n": {"type": "integer"}}}
    asked = schema_of(schema).schema
    assert asked["properties"] == {"value": {"type": "array", "items": {"$ref": "#/$defs/n"}}}
    assert asked["$defs"] == schema["$defs"]
    assert parse_output(schema, '{"value": [1]}') == Parsed([1])
    assert parse_output(schema, "[1]") == Parsed([1])


def test_a_dict_with_alternatives_at_its_root_travels_inside_one() -> None:
    schema = {"type": "object", "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}
    asked = schema_of(schema).schema
    assert asked["properties"] == {"value": schema}
    assert parse_output(schema, '{"value": {"a": 1}}') == Parsed({"a": 1})
    assert parse_output(schema, '{"a": 1}') == Parsed({"a": 1})


def test_a_dict_that_tells_only_its_properties_is_asked_for_as_an_object() -> None:
    assert schema_of({"properties": {"a": {"type": "integer"}}}).schema["type"] == "object"


@given(st.text())
def test_no_answer_breaks_it(text: str) -> None:
    for kind in (CITY, Data, int, {"type": "array"}):
        parsed = parse_output(kind, text)
        assert len(parsed.fault) < 2000


def test_deep_nesting_is_a_fault_not_a_crash() -> None:
    assert parse_output(CITY, "[" * 100_000).fault
    assert parse_output(Data, '{"a":' * 100_000).fault
