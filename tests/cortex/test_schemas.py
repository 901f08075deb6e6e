"""Output types: the schema asked for, and the value an answer becomes."""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
import subprocess
import sys
import tracemalloc
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

DRAFT_7 = "http://json-schema.org/draft-07/schema#"


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


@given(st.text() | st.text("a-_ é/", min_size=60, max_size=70))
def test_a_title_becomes_a_name_that_every_vendor_takes(title: str) -> None:
    assert re.fullmatch("[a-zA-Z0-9_-]{1,64}", schema_of({"title": title, "type": "object"}).name)


def test_the_libraries_wait_for_the_first_type() -> None:
    code = "import sys, cortex; print([name for name in ('pydantic', 'jsonschema') if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


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


COUNT = {"type": "integer", "minimum": 0}
LIST = {"type": "array", "items": {"$ref": "#/definitions/n"}, "definitions": {"n": COUNT}}
TREE = {"type": "array", "items": {"$ref": "#"}, "maxItems": 2}
PATHS = {"anyOf": [COUNT, {"items": {"$ref": "#/anyOf/0"}}], "$defs": {"all": {"$ref": "#"}}}
NAMED = {"type": "array", "const": [{"$ref": "#"}]}


@pytest.mark.parametrize(
    ("schema", "fits", "fails"),
    [
        (LIST, [1], ["a"]),
        ({**LIST, "$schema": DRAFT_7}, [1], ["a"]),
        ({**LIST, "$id": "https://example.com/a", "items": {"$ref": "#/definitions/n"}}, [1], ["a"]),
        (TREE, [[], [[]]], [[], [[], [], []]]),
        (PATHS, [1], [-1]),
        ({"$ref": "#/$defs/all", "$defs": {"all": {"items": {"$ref": "#/$defs/all"}, "type": "array"}}}, [[]], [1]),
        ({**TREE, "$defs": {"value": {"type": "null"}}}, [[], [[]]], [[], [[], [], []]]),
        (NAMED, [{"$ref": "#"}], [1]),
    ],
    ids=json.dumps,
)
def test_a_reference_means_the_same_where_the_root_has_moved(schema: Any, fits: Any, fails: Any) -> None:
    asked = schema_of(schema).schema
    assert list(asked["properties"]) == ["value"]
    assert '"$ref": "#/properties' not in json.dumps(asked)  # which vendors do not follow
    for kind in (schema, asked):  # what is asked for is a schema itself, and says the same
        assert not parse_output(kind, json.dumps({"value": fits})).fault
        assert parse_output(kind, json.dumps({"value": fails})).fault


def test_a_dict_that_tells_only_its_properties_is_asked_for_as_an_object() -> None:
    assert schema_of({"properties": {"a": {"type": "integer"}}}).schema["type"] == "object"


@given(st.text())
def test_no_answer_breaks_it(text: str) -> None:
    for kind in (Data, int):
        parsed = parse_output(kind, text)
        assert len(parsed.fault) < 2000


def test_deep_nesting_is_a_fault_not_a_crash() -> None:
    assert parse_output(Data, '{"a":' * 100_000).fault


FENCED = [
    "```json\n{}\n```",
    "```JSON\n{}\n```",
    "```\n{}\n```",
    " \n\u00a0```json  \r\n \n{}\r\n \n```\n\t ",
    "```json\n```\n{}\n```\n```",
    "```python\n{}\n```",
    "```json {}\n```",
    "```json\n{}",
    "{}\n```",
    "{}",
]


@pytest.mark.parametrize("text", FENCED[:4] + FENCED[-1:])
def test_json_may_stand_in_a_fence(text: str) -> None:
    assert parse_output(int, text.format("5")) == Parsed(5)
    assert parse_output(str, text.format(json.dumps("```\n\n```"))) == Parsed("```\n\n```")


@pytest.mark.parametrize("text", FENCED[4:-1])
def test_what_is_no_fence_around_json_is_no_json(text: str) -> None:
    assert parse_output(int, text.format("5")).fault.startswith("not valid JSON: ")


@pytest.mark.parametrize(
    "text",
    ["```" + "\n" * 1_000_000, "```json" + " \n" * 500_000 + "x", "```\n" + "\n```" * 250_000 + "x", "`" * 1_000_000],
    ids=["lines", "spaces", "fences", "marks"],
)
def test_a_fence_without_end_is_read_at_once(text: str) -> None:
    assert parse_output(int, text).fault.startswith("not valid JSON: ")


@pytest.mark.parametrize(
    "text",
    [
        f"[{','.join(['[]'] * 950_000)}]",
        f"[{','.join(['0'] * 95_000)}]",
        f"[{','.join(['0'] * 45_000)}]",
        f'{{"value":[{",".join(["{}"] * 11_000)}]}}',
        "[" * 1_000_000,
    ],
    ids=["lists", "numbers", "fewer numbers", "objects", "nested"],
)
@pytest.mark.parametrize("kind", [list[str], {"type": "array", "items": {"anyOf": [{"type": "string"}] * 3}}], ids=str)
def test_a_huge_answer_that_does_not_fit_costs_little_memory(kind: Any, text: str) -> None:
    assert parse_output(kind, "[0]").fault
    tracemalloc.start()
    try:
        fault = parse_output(kind, text).fault
        assert tracemalloc.get_traced_memory()[1] < 2 * len(text) + 8_000_000
    finally:
        tracemalloc.stop()
    assert 0 < len(fault) < 1_600


def test_a_table_of_a_few_thousand_rows_comes_through() -> None:
    rows = [{"id": n, "name": "abc"} for n in range(2_500)]
    row = {"type": "object", "properties": {"id": {"type": "integer"}, "name": {"type": "string"}}, "required": ["id"]}
    assert parse_output({"type": "array", "items": {**row, "additionalProperties": False}}, json.dumps(rows)).value
    assert parse_output(list[dict[str, int | str]], json.dumps({"value": rows})).value == rows
    assert parse_output(str, json.dumps("x" * 1_500_000)).value


def test_as_many_faults_as_a_model_can_mend_are_told() -> None:
    assert parse_output(list[int], json.dumps(["a"] * 2_000)).fault.startswith("0: Input should be a valid integer")
    assert parse_output(list[int], json.dumps(["a"] * 2_001)).fault == "it does not fit in 2001 places"


def test_of_two_types_that_fit_the_first_is_meant_whatever_was_asked_before() -> None:
    @dataclasses.dataclass
    class One:
        x: int

    @dataclasses.dataclass
    class Two:
        x: int

    assert parse_output(One | Two, '{"x": 1}').value == One(1)
    assert parse_output(Two | One, '{"x": 1}').value == Two(1)
    assert parse_output(list[Two | One], '[{"x": 1}]').value == [Two(1)]
    assert parse_output(list[One | Two], '[{"x": 1}]').value == [One(1)]


@dataclasses.dataclass
class Said:
    text: str


@dataclasses.dataclass
class Boxed:
    value: int


@pytest.mark.parametrize("output_type", [Said, dict[str, str], {"type": "object", "required": ["text"]}])
def test_half_an_emoji_is_mended_wherever_it_stands(output_type: Any) -> None:
    value = parse_output(output_type, '{"text": "a \\ud83d b \\ud83d\\ude00"}').value
    assert (value.text if isinstance(value, Said) else value["text"]) == "a \ufffd b \U0001f600"


@pytest.mark.parametrize(("output_type", "boxed"), [(Boxed | None, Boxed(3)), (dict[str, int] | None, {"value": 3})])
def test_what_was_given_bare_may_look_wrapped(output_type: Any, boxed: Any) -> None:
    for text in ('{"value": 3}', '{"value": {"value": 3}}'):
        assert parse_output(output_type, text) == Parsed(boxed)
    assert parse_output(output_type, '{"value": null}') == Parsed(None)
    assert parse_output(output_type, '{"value": "a"}').fault
