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
from collections.abc import Callable, Sequence
from typing import Any, Literal, NotRequired

import attrs
import pydantic
import pytest
import typing_extensions
from hypothesis import given
from hypothesis import strategies as st

from cortex import json_schema
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


@given(st.text() | st.text("a-_ é/", min_size=60, max_size=70))
def test_a_title_becomes_a_name_that_every_vendor_takes(title: str) -> None:
    assert re.fullmatch("[a-zA-Z0-9_-]{1,64}", schema_of({"title": title, "type": "object"}).name)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ({"name": "Oslo"}, ""),
        ({"name": "Oslo", "size": "big", "kind": "city", "parts": [1, 2.0], "mayor": None}, ""),
        ({}, "$: 'name' is a required property"),
        ([], "$: [] is not of type 'object'"),
        ({"name": 5}, "$.name: 5 is not of type 'string'"),
        ({"name": "Oslo", "size": "huge"}, "$.size: 'huge' is not one of ['small', 'big']"),
        ({"name": "Oslo", "kind": "town"}, "$.kind: 'city' was expected"),
        ({"name": "Oslo", "parts": [1, True]}, "$.parts[1]: True is not of type 'integer'"),
        ({"name": "Oslo", "parts": [1.5]}, "$.parts[0]: 1.5 is not of type 'integer'"),
        ({"name": "Oslo", "mayor": 1}, "$.mayor: 1 is not of type 'string', 'null'"),
        ({"name": "Oslo", "extra": 1}, "$: Additional properties are not allowed ('extra' was unexpected)"),
        ({"name": 5, "mayor": 1}, "$.name: 5 is not of type 'string'; $.mayor: 1 is not of type 'string', 'null'"),
    ],
)
def test_an_answer_is_held_against_a_dict(value: Any, fault: str) -> None:
    assert parse_output(CITY, json.dumps(value)) == (Parsed(fault=fault) if fault else Parsed(value))


COUNT = {"type": "integer", "minimum": 0}
DRAFT_7 = "http://json-schema.org/draft-07/schema#"


@pytest.mark.parametrize(
    ("schema", "fits", "fails", "fault"),
    [
        ({"$ref": "#/$defs/n", "$defs": {"n": COUNT}}, 1, -5, "$: -5 is less than the minimum of 0"),
        ({"$ref": "#/definitions/n", "definitions": {"n": COUNT}}, 1, "a", "$: 'a' is not of type 'integer'"),
        ({"$schema": DRAFT_7, "$ref": "#/definitions/n", "definitions": {"n": COUNT}}, 1, -5, "$: -5 is less"),
        ({"properties": {"kids": {"items": {"$ref": "#"}}}, "required": ["kids"]}, {"kids": []}, {"kids": [{}]},
         "$.kids[0]: 'kids' is a required property"),
        ({"anyOf": [COUNT, {"type": "null"}]}, None, -5, "$: -5 is less than the minimum of 0"),
        ({"oneOf": [{"minimum": 3}, {"maximum": 5}]}, 9, 4, "$: 4 is valid under each of "),
        ({"not": {"type": "string"}}, 1, "a", "$: 'a' should not be valid under {'type': 'string'}"),
        ({"type": "string", "pattern": "^\\p{Lu}+$"}, "ÉA", "éa", "$: does not match '^\\\\p{Lu}+$'"),
        ({"type": "string", "minLength": 2}, "ab", "a", "$: 'a' is too short"),
        ({"type": "array", "items": [{"const": 1}], "$schema": DRAFT_7}, [1, 2], [2], "$[0]: 1 was expected"),
        ({"prefixItems": [{"const": 1}], "items": False}, [1], [1, 2], "$: Expected at most 1 item but found 1"),
        ({"uniqueItems": True}, [1, True, "1", [1], {"a": 1}], [1.0, {}, 1], "$: has an item twice"),
        ({"uniqueItems": True}, [{"a": 1, "b": 2}, {"a": 2, "b": 1}], [{"a": 1, "b": 2.0}, {"b": 2, "a": 1}],
         "$: has an item twice"),
        (
            {"properties": {"a": {"multipleOf": 0.01}}},
            {"a": 19.99},
            {"a": 0.075},
            "$.a: 0.075 is not a multiple of 0.01",
        ),
    ],
    ids=json.dumps,
)  # fmt: skip
def test_every_word_of_a_dict_is_held_against_an_answer(schema: Any, fits: Any, fails: Any, fault: str) -> None:
    assert parse_output(schema, json.dumps(fits)) == Parsed(fits)
    assert parse_output(schema, json.dumps(fails)).fault.startswith(fault)


def test_a_long_value_is_not_quoted_back() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
    fault = parse_output(schema, json.dumps({"a": "x" * 100_000, "b": "c"})).fault
    assert fault == """$.a: does not fit type: "integer"; $.b: 'c' is not of type 'integer'"""
    named = parse_output({**schema, "additionalProperties": False}, json.dumps({"x" * 100_000: 1})).fault
    assert named == "$: does not fit additionalProperties: false"


@pytest.mark.parametrize(
    ("schema", "match"),
    [
        ({"type": "strng"}, r"is no JSON schema: \$\.type: 'strng' is not valid under"),
        ({"properties": {"n": {"type": "integer", "minimum": "0"}}}, r"\$\.properties\.n\.minimum: '0' is not of type"),
        ({"required": "name"}, r"\$\.required: 'name' is not of type 'array'"),
        ({"$defs": {"n": {"enum": 1}}}, r"\$.*\$defs.*\.n\.enum: 1 is not of type 'array'"),
        ({"$schema": 5}, r"\$.*\$schema.*: 5 is not of type 'string'"),
        ({"$schema": DRAFT_7, "properties": None}, r"\$\.properties: None is not of type 'object'"),
        ({"$ref": "#/x/n", "x": {"n": 5}}, "is no JSON schema: "),
        ({"items": {"$ref": "https://example.com/n.json"}}, r"\$ref 'https://example.com/n.json' leads to nothing"),
        ({"$id": "https://example.com/a.json", "items": {"$ref": "b.json#/n"}}, r"\$ref 'b.json#/n' leads to nothing"),
        ({"$ref": "#/$defs/n"}, r"\$ref '#/\$defs/n' leads to nothing in this schema.*under \$defs"),
        ({"$ref": "#/$defs/n", "$defs": {"n": {"items": {"$ref": "#n"}}}}, "'#n' leads to nothing"),
        ({"$ref": "#/title/n", "title": "n"}, "'#/title/n' leads to nothing"),
        ({"items": {"$ref": "http://["}}, r"http://\["),
        ({"$schema": "http://["}, r"\$schema, \$id or \$ref is no address"),
        ({"items": {"pattern": "(?=a)"}}, r"the pattern '\(\?=a\)' cannot be used: .*look-around"),
        ({"patternProperties": {"a": {}}}, r"patternProperties cannot be checked; name the properties"),
        (
            {"dependencies": {"a": ["b"], "c": {"patternProperties": {"a": {}}}}, "$schema": DRAFT_7},
            "patternProperties cannot be checked",
        ),
        ({"dependencies": {"a": ["b"], "c": {"pattern": "("}}, "$schema": DRAFT_7}, r"the pattern '\(' cannot be used"),
        ({"properties": {"a": {"$id": "https://a", "$schema": DRAFT_7}}}, r"\$schema stands inside"),
        ({"$schema": "http://json-schema.org/draft-03/schema#", "extends": {}}, "names a draft that is too old"),
    ],
    ids=str,
)
def test_a_dict_that_is_no_schema_is_named_at_the_call(schema: Any, match: str) -> None:
    with pytest.raises(ConfigError, match=f"^output_type: .*{match}"):
        schema_of(schema)


def test_a_schema_too_deep_to_be_checked_is_named() -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(300):
        deep = {"type": "array", "items": deep}
    with pytest.raises(ConfigError, match=r"^output_type: .*nested too deeply"):
        schema_of(deep)


def test_what_python_writes_as_json_is_a_schema_too() -> None:
    schema = {"type": "object", "properties": {"a": {"enum": ("x", "y")}}, "required": ("a",)}
    assert parse_output(schema, '{"a": "x"}') == Parsed({"a": "x"})
    assert parse_output(schema, '{"a": "z"}').fault.startswith("$.a: 'z' is not one of ")


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
    for kind in (CITY, Data, int, {"type": "array"}):
        parsed = parse_output(kind, text)
        assert len(parsed.fault) < 2000


def test_deep_nesting_is_a_fault_not_a_crash() -> None:
    assert parse_output(CITY, "[" * 100_000).fault
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


EACH = {"l": {"$ref": "#/$defs/e"}, "r": {"$ref": "#/$defs/e"}}
EXPRESSION = {
    "$defs": {"e": {"anyOf": [{"properties": EACH, "required": [one]} for one in EACH] + [{"type": "integer"}]}},
    "type": "object",
    "properties": EACH,
}


@pytest.mark.parametrize(
    ("schema", "make"),
    [
        (EXPRESSION, lambda size: '{"l":' * size + '{"x":0}' + "}" * size),
        ({"$schema": DRAFT_7, "anyOf": [{"type": "integer"}] + [{"type": "array", "items": {"$ref": "#"}}] * 2},
         lambda size: "[" * size + '"x"' + "]" * size),
    ],
)  # fmt: skip
def test_alternatives_in_one_another_are_tried_within_bounds(schema: Any, make: Callable[[int], str]) -> None:
    assert "cannot be checked" in parse_output(schema, make(40)).fault


def test_a_pattern_and_unique_items_take_no_longer_than_the_answer_is_long() -> None:
    mail = {"type": "object", "properties": {"to": {"type": "string", "pattern": "[a-z]+@[a-z]+"}}}
    assert parse_output(mail, json.dumps({"to": "a" * 1_000_000})).fault.startswith("$.to: does not match")
    items = [{"n": n} for n in range(6_000)]
    assert parse_output({"type": "array", "uniqueItems": True}, json.dumps(items)) == Parsed(items)


@pytest.mark.parametrize(
    ("schema", "value", "fault"),
    [
        ({"multipleOf": 3}, "NaN", "it cannot be checked: "),
        ({"multipleOf": 3}, "1e999", "it cannot be checked: "),
        ({"multipleOf": 3}, "1" + "0" * 400, "$[0]: does not fit multipleOf: 3"),
        ({"multipleOf": 0.5}, "1" + "0" * 400, ""),
        ({"multipleOf": 1e-300}, "1e300", ""),
        ({"type": "string", "pattern": "a"}, '"\\ud83d"', "$[0]: does not match 'a'"),
    ],
)
def test_an_odd_value_is_no_crash(schema: Any, value: str, fault: str) -> None:
    told = parse_output({"items": schema}, f"[{value}]").fault
    assert told.startswith(fault)
    assert bool(told) is bool(fault)


def test_names_that_read_like_keywords_are_names() -> None:
    words = ["pattern", "patternProperties", "$schema", "properties"]
    schema = {"type": "object", "properties": {word: {"type": "string"} for word in words}}
    assert parse_output(schema, json.dumps(dict.fromkeys(words, "("))) == Parsed(dict.fromkeys(words, "("))


def test_half_a_schema_is_no_crash() -> None:
    odd = {"$schema": DRAFT_7, "dependencies": {"a": ["b"], "c": {"$ref": "#/definitions/typo"}}}
    assert parse_output(odd, '{"c": 1}').fault.startswith("it cannot be checked: ")


def test_alternatives_that_do_not_fit_are_no_hindrance() -> None:
    """Five kinds of edits, say, each an object with a word of its own."""
    kinds = [
        {
            "type": "object",
            "properties": {"kind": {"const": kind}, "at": {"type": "integer"}, "text": {"type": "string"}},
            "required": ["kind", "at"],
            "additionalProperties": False,
        }
        for kind in "abcde"
    ]
    schema = {"type": "object", "properties": {"edits": {"type": "array", "items": {"anyOf": kinds}}}}
    edits = [{"kind": "abcde"[n % 5], "at": n, "text": "x" * 20} for n in range(400)]
    assert parse_output(schema, json.dumps({"edits": edits})) == Parsed({"edits": edits})
    words = [f"word {n}" for n in range(1_500)]
    listed = {"type": "object", "properties": {"words": {"contains": {"const": words[-1]}}}}
    assert parse_output(listed, json.dumps({"words": words})).value == {"words": words}


def test_what_is_referred_to_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[Any] = []
    monkeypatch.setattr(json_schema, "_examine_form", lambda _draft, schema: looked_at.append(schema))
    item = {"type": "object", "properties": {"next": {"$ref": "#/$defs/item"}, "root": {"$ref": "#"}}}
    many = {f"a{n}": {"$ref": "#/$defs/item"} for n in range(100)}
    schema_of({"type": "object", "properties": many, "$defs": {"item": item}})
    assert len(looked_at) == 2


def test_a_table_of_a_few_thousand_rows_comes_through() -> None:
    rows = [{"id": n, "name": "abc"} for n in range(2_500)]
    row = {"type": "object", "properties": {"id": {"type": "integer"}, "name": {"type": "string"}}, "required": ["id"]}
    assert parse_output({"type": "array", "items": {**row, "additionalProperties": False}}, json.dumps(rows)).value
    assert parse_output(list[dict[str, int | str]], json.dumps({"value": rows})).value == rows
    assert parse_output(str, json.dumps("x" * 1_500_000)).value


def test_as_many_faults_as_a_model_can_mend_are_told() -> None:
    assert parse_output(list[int], json.dumps(["a"] * 2_000)).fault.startswith("0: Input should be a valid integer")
    assert parse_output(list[int], json.dumps(["a"] * 2_001)).fault == "it does not fit in 2001 places"
