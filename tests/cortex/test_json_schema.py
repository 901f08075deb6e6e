"""JSON schemas given as dicts: what is told of them at the call, and of an answer that does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex import json_schema
from cortex.errors import ConfigError
from cortex.schemas import Parsed, parse_output, schema_of

DRAFT_7 = "http://json-schema.org/draft-07/schema#"

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
        ({"$ref": "#/x/n", "x": {"n": {"items": {"$ref": "#/nowhere"}}}}, "'#/nowhere' leads to nothing"),
        ({"$dynamicRef": "#nowhere"}, "'#nowhere' leads to nothing"),
        ({"const": float("nan")}, "cannot be written as JSON"),
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
        ({"dependencies": {"c": {"pattern": "("}, "a": ["b"]}, "$schema": DRAFT_7}, r"the pattern '\(' cannot be used"),
        ({"$ref": "#/default", "default": {"patternProperties": {"a": {}}}}, "patternProperties cannot be checked"),
        ({"$ref": "#/examples/0", "examples": [{"items": {"pattern": "("}}]}, r"the pattern '\(' cannot be used"),
        ({"properties": {"a": {"$id": "https://a", "$schema": DRAFT_7}}}, r"\$schema stands inside"),
        (
            {"items": {"$ref": 1}, "$schema": "http://json-schema.org/draft-04/schema#"},
            r"\$ref: must be a text, not int",
        ),
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


def test_a_schema_too_deep_to_be_written_is_named() -> None:
    deep: dict[str, Any] = {}
    for _ in range(20_000):
        deep = {"items": deep}
    with pytest.raises(ConfigError, match=r"^output_type: .*cannot be written as JSON"):
        schema_of(deep)


def test_what_python_writes_as_json_is_a_schema_too() -> None:
    schema = {"type": "object", "properties": {"a": {"enum": ("x", "y")}}, "required": ("a",)}
    assert parse_output(schema, '{"a": "x"}') == Parsed({"a": "x"})
    assert parse_output(schema, '{"a": "z"}').fault.startswith("$.a: 'z' is not one of ")


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


@pytest.mark.parametrize(
    ("schema", "items"),
    [
        ({"enum": [f"word {n}" for n in range(2_000)]}, ["word 1999"] * 300),
        ({"anyOf": [{"type": one} for one in ("null", "integer", "boolean", "array", "string")]}, ["x" * 1_500] * 900),
        ({"properties": {f"p{n}": True for n in range(2_000)}}, [{}] * 5_000),
        ({"dependentRequired": {f"p{n}": ["a"] for n in range(2_000)}}, [{}] * 5_000),
        ({"allOf": [{"pattern": "a"}] * 200}, ["a" * 500_000]),
        ({"allOf": [{"items": {}}] * 20}, [[0] * 5_000]),
        ({"allOf": [{"items": True}] * 200}, [[0] * 5_000]),
        ({"allOf": [{"contains": True}] * 20}, [[0] * 5_000]),
        ({"allOf": [{"uniqueItems": True}] * 20}, [list(range(5_000))]),
        ({"allOf": [{"additionalProperties": {}}] * 20}, [{str(one): 1 for one in range(5_000)}]),
        ({"allOf": [{"propertyNames": {}}] * 20}, [{str(one): 1 for one in range(5_000)}]),
        ({"unevaluatedItems": {}}, [[0] * 6_000]),
        ({"unevaluatedProperties": {}}, [{str(one): 1 for one in range(6_000)}]),
    ],
    ids=[
        "words of an enum",
        "faults that quote long values",
        "properties",
        "dependentRequired",
        "pattern",
        "items",
        "any items",
        "contains",
        "uniqueItems",
        "additionalProperties",
        "propertyNames",
        "unevaluatedItems",
        "unevaluatedProperties",
    ],
)
def test_what_takes_long_for_each_value_counts_for_more(schema: Any, items: list[str]) -> None:
    """Each would else be a step or a few of the 60,000."""
    assert "it holds too many values" in parse_output({"type": "array", "items": schema}, json.dumps(items)).fault


def test_five_faults_are_enough() -> None:
    schema = {"type": "array", "items": {"type": "string"}}
    assert parse_output(schema, "[1, 2, 3, 4, 5, 6, 7]").fault.count("; ") == 4


def test_a_pattern_and_unique_items_take_no_longer_than_the_answer_is_long() -> None:
    mail = {"type": "object", "properties": {"to": {"type": "string", "pattern": "[a-z]+@[a-z]+"}}}
    assert parse_output(mail, json.dumps({"to": "a" * 1_000_000})).fault.startswith("$.to: does not match")
    items = [{"n": n} for n in range(6_000)]
    assert parse_output({"type": "array", "uniqueItems": True}, json.dumps(items)) == Parsed(items)


@pytest.mark.parametrize(
    ("schema", "value", "fault"),
    [
        ({"multipleOf": 2}, "true", ""),
        ({"maximum": 3}, "NaN", "not valid JSON: NaN and infinities are none of its numbers"),
        ({"maximum": 3}, "-Infinity", "not valid JSON: NaN"),
        ({"minimum": 3}, "1e999", "not valid JSON: NaN"),
        ({"minimum": 3}, "1" + "0" * 400 + ".0", "not valid JSON: NaN"),
        ({"type": "string"}, '"NaN, Infinity and 1e999"', ""),
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


@pytest.mark.parametrize("word", ["default", "const", "enum", "examples"])
def test_values_that_read_like_schemas_are_values(word: str) -> None:
    value = [{"patternProperties": {"$ref": "#/nowhere"}, "pattern": "("}]
    assert parse_output({word: value}, json.dumps(value if word == "const" else value[0])).fault == ""


def test_a_schema_that_hangs_on_a_name_that_reads_like_a_keyword_is_one() -> None:
    schema = {"type": "object", "dependentSchemas": {"patternProperties": {"required": ["a"]}}}
    assert parse_output(schema, '{"a": 1, "patternProperties": 1}').fault == ""
    assert parse_output(schema, '{"patternProperties": 1}').fault == "$: 'a' is a required property"


def test_a_word_that_may_hold_lists_and_schemas_is_read_in_any_order() -> None:
    for words in ({"a": {"required": ["b"]}, "c": ["d"]}, {"c": ["d"], "a": {"required": ["b"]}}):
        schema = {"$schema": DRAFT_7, "type": "object", "dependencies": words}
        assert parse_output(schema, '{"a": 1}').fault == "$: 'b' is a required property"
        assert parse_output(schema, '{"c": 1}').fault == "$: 'd' is a dependency of 'c'"


def test_what_is_no_word_of_its_draft_may_be_anything() -> None:
    schema = {"$schema": DRAFT_7, "type": "array", "$defs": 5, "items": {"$ref": "#"}}
    assert schema_of(schema).schema["$defs"].keys() == {"value"}
    required = {"type": "object", "dependentRequired": {"patternProperties": ["a"]}}
    assert parse_output(required, '{"patternProperties": 1, "a": 1}').fault == ""


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


@given(st.text())
def test_no_answer_breaks_it(text: str) -> None:
    for schema in (CITY, {"type": "array"}):
        assert len(parse_output(schema, text).fault) < 2000


def test_deep_nesting_is_a_fault_not_a_crash() -> None:
    assert parse_output(CITY, "[" * 100_000).fault


NODE = {"anyOf": [{"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}, {"type": "integer"}]}
CHAIN = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, "$defs": {"node": NODE}}


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (CHAIN, '{"next":' * 120 + "1" + "}" * 120),
        ({"not": {"$ref": "#"}}, "1"),
        ({"not": {"$dynamicRef": "#"}}, "1"),
        ({"$schema": "https://json-schema.org/draft/2019-09/schema", "not": {"$recursiveRef": "#"}}, "1"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "1"),
    ],
    ids=["a long chain", "not itself", "not itself, dynamically", "not itself, recursively", "itself"],
)
def test_wherever_the_stack_is_full_it_is_a_fault(schema: Any, text: str) -> None:
    """The library's lookups are in Rust, and panic where there is no room for one call more."""
    schema_of(schema)
    for more in range(40):
        assert further_down(more, lambda: parse_output(schema, text)).fault == "it is nested too deeply"


def test_a_panic_of_rust_is_a_fault() -> None:
    """Between two references nobody looks for room, and `type` looks things up in Rust, too."""
    inner: dict[str, Any] = {"$ref": "#/$defs/n"}
    for _ in range(8):
        inner = {"anyOf": [{"allOf": [{"type": "object", "properties": {"a": inner}}]}, {"type": "null"}]}
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/n"}}, "$defs": {"n": inner}}
    faults = {
        further_down(more, lambda: parse_output(schema, '{"a":' * deep + "null" + "}" * deep)).fault  # noqa: B023
        for deep in range(60, 126)
        for more in (0, 1)
    }
    assert faults == {"", "it is nested too deeply"}


def test_wherever_the_stack_is_full_a_schema_is_named() -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(100):
        deep = {"type": "object", "properties": {"next": deep}}
    for more in range(40):
        with pytest.raises(ConfigError, match=r"^output_type: .*nested too deeply"):
            further_down(more, lambda: schema_of(deep))


def further_down(more: int, act: Callable[[], Any]) -> Any:
    return further_down(more - 1, act) if more else act()
