"""What of JSON schema a vendor takes: what it does not is told otherwise, or in a note, and never answered with 400."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.errors import ConfigError
from cortex.messages import Message, OutputSchema, Request, Text, ToolSpec
from cortex.wire import WIRES
from cortex.wire.codec import HttpCall, Target

HELLO = (Message("user", (Text("hello"),)),)
ADDRESS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]} | {
    "additionalProperties": False
}


def closed(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An object of these properties and no others."""
    object_ = {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
    return {**object_, **more}


def asked(dialect: str, schema: dict[str, Any]) -> tuple[dict[str, Any], bool | None]:
    """The schema an OpenAI model is sent, and whether it is strict."""
    call = WIRES[dialect].encode(
        Request(HELLO, output=OutputSchema("o", schema)), Target("p", "https://api.openai.com/v1", "gpt-4o")
    )
    body = json.loads(call.body)
    sent = body["response_format"]["json_schema"] if dialect == "openai_chat" else body["text"]["format"]
    return sent["schema"], sent.get("strict")


each_openai = pytest.mark.parametrize("dialect", ["openai_chat", "openai_responses"])


@each_openai
@pytest.mark.parametrize(
    "inner",
    [
        {},
        {"description": "whatever"},
        {"type": "array"},
        {"type": "array", "items": {}},
        {"enum": ["a", 1]},
        {"const": "a"},
        {"anyOf": [{"type": "string"}, {}]},
        True,
    ],
)
def test_a_schema_that_strict_mode_refuses_is_sent_as_a_guide(dialect: str, inner: Any) -> None:
    schema = closed({"x": inner})
    assert asked(dialect, schema) == (schema, None)


@each_openai
@pytest.mark.parametrize(
    "inner",
    [
        {"type": "array", "items": {"type": "string"}},
        {"type": ["string", "null"], "enum": ["a", None]},
        {"type": "string", "const": "a"},
        {"anyOf": [{"$ref": "#/$defs/A"}, {"type": "null"}], "description": "the home"},
    ],
)
def test_a_schema_it_takes_is_strict(dialect: str, inner: dict[str, Any]) -> None:
    schema = closed({"x": inner}, **{"$defs": {"A": ADDRESS}})
    assert asked(dialect, schema) == (schema, True)


@each_openai
def test_a_description_beside_a_reference_does_not_cost_strictness(dialect: str, rules: Any) -> None:
    homes = {"home": {"$ref": "#/$defs/A", "description": "the home"}, "$ref": {"type": "string"}}
    sent, strict = asked(dialect, closed(homes, **{"$defs": {"A": ADDRESS}}))
    assert strict
    assert sent["properties"] == {"home": {"$ref": "#/$defs/A"}, "$ref": {"type": "string"}}
    rules.check_strict(sent)


OLDER = closed(
    {"home": {"$ref": "#/definitions/A"}, "work": {"anyOf": [{"$ref": "#/definitions/A"}, {"type": "null"}]}}
)
HELD = {**ADDRESS, "properties": {"city": {"$ref": "#/definitions/B"}}}
OLD = {**OLDER, "definitions": {"A": HELD, "B": {"type": "string"}}}
BOTH = {**OLD, "$defs": {"A": {"type": "integer"}}, "properties": {**OLDER["properties"], "n": {"$ref": "#/$defs/A"}}}
BOTH["required"] = [*BOTH["properties"]]


def resolved(schema: Any, root: dict[str, Any]) -> Any:
    """A schema with what its references mean in their place."""
    if isinstance(schema, list):
        return [resolved(one, root) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        holder, name = schema["$ref"].split("/")[1:]
        return resolved(root[holder][name], root)
    return {key: resolved(one, root) for key, one in schema.items() if key not in ("$defs", "definitions")}


@each_openai
@pytest.mark.parametrize("schema", [OLD, BOTH])
def test_definitions_by_their_older_name_are_strict_too(dialect: str, schema: dict[str, Any], rules: Any) -> None:
    sent, strict = asked(dialect, schema)
    assert strict
    assert resolved(sent, sent) == resolved(schema, schema)
    rules.check_strict(sent)


# ------------------------------------------------------------------------------------------------------------ Gemini


def told(schema: dict[str, Any]) -> tuple[dict[str, Any], HttpCall]:
    """The schema Gemini is sent for an answer, the same as for a tool's parameters."""
    target = Target("p", "https://generativelanguage.googleapis.com", "gemini-3-pro")
    call = WIRES["gemini"].encode(
        Request(HELLO, output=OutputSchema("o", schema), tools=(ToolSpec("f", "d", schema),)), target
    )
    body = json.loads(call.body)
    sent: dict[str, Any] = body["generationConfig"]["responseJsonSchema"]
    assert body["tools"][0]["functionDeclarations"][0]["parametersJsonSchema"] == sent
    return sent, call


def left_out(words: str) -> tuple[str]:
    return (f"{words}: this vendor does not know it in a schema",)


@pytest.mark.parametrize(
    ("given", "sent", "notes"),
    [
        ({"type": "string", "const": "a"}, {"type": "string", "enum": ["a"]}, ()),
        ({"const": 7}, {"enum": [7]}, ()),
        ({"const": None}, {"type": "null"}, ()),
        ({"type": "boolean", "const": True}, {"type": "boolean"}, left_out("enum was left out")),
        (
            {"type": ["string", "null"], "enum": ["a", None]},
            {"type": ["string", "null"]},
            left_out("enum was left out"),
        ),
        ({"type": "integer", "exclusiveMinimum": 0}, {"type": "integer", "minimum": 1}, ()),
        ({"type": "integer", "exclusiveMaximum": 9.5, "maximum": 7}, {"type": "integer", "maximum": 7}, ()),
        ({"type": "number", "exclusiveMinimum": 0}, {"type": "number"}, left_out("exclusiveMinimum was left out")),
        ({"type": "string", "pattern": "a+", "default": "a"}, {"type": "string"}, left_out("default was left out")),
        ({"$ref": "#/$defs/A", "description": "the home"}, {"$ref": "#/$defs/A"}, ()),
        ({"type": "array", "prefixItems": [{"const": "a"}]}, {"type": "array", "prefixItems": [{"enum": ["a"]}]}, ()),
        ({}, {}, ()),
    ],
)
def test_each_keyword_is_told_in_geminis_words(
    given: dict[str, Any], sent: dict[str, Any], notes: tuple[str, ...], rules: Any
) -> None:
    schema, call = told(closed({"x": given, "const": {"type": "string"}}, **{"$defs": {"A": ADDRESS}}))
    assert schema["properties"] == {"x": sent, "const": {"type": "string"}}
    assert set(notes) <= set(call.notes)
    assert bool(notes) == bool(call.notes)
    rules.check_gemini_schema(schema)


@pytest.mark.parametrize("schema", [OLD, BOTH])
def test_gemini_is_told_definitions_by_the_name_it_knows(schema: dict[str, Any], rules: Any) -> None:
    sent, call = told(schema)
    assert resolved(sent, sent) == resolved(schema, schema)
    assert call.notes == ()
    rules.check_gemini_schema(sent)


def test_a_circle_through_older_definitions_is_opened(rules: Any) -> None:
    node = closed({"v": {"type": "integer"}, "next": {"$ref": "#/definitions/Node"}})
    schema, call = told(closed({"root": {"$ref": "#/definitions/Node"}}, definitions={"Node": node}))
    assert schema["$defs"]["Node"]["required"] == ["v"]
    assert call.notes == ("next is not required: this vendor takes no schema that needs itself",)
    rules.check_gemini_schema(schema)


KIDS = {"type": "array", "items": {"$ref": "#/$defs/Node"}}
NODE = closed({"v": {"type": "integer"}, "kids": KIDS})


def test_what_needs_itself_is_not_required(rules: Any) -> None:
    schema, call = told({**NODE, "$defs": {"Node": NODE}})
    assert schema["required"] == ["v", "kids"]  # the root refers to a node, and is none
    assert schema["$defs"]["Node"]["required"] == ["v"]
    assert call.notes == ("kids is not required: this vendor takes no schema that needs itself",)
    rules.check_gemini_schema(schema)


def test_a_circle_of_two_is_opened_once(rules: Any) -> None:
    man = closed({"wife": {"$ref": "#/$defs/Wife"}})
    wife = closed({"man": {"anyOf": [{"$ref": "#/$defs/Man"}, {"type": "null"}]}})
    schema, _ = told(closed({"man": {"$ref": "#/$defs/Man"}}, **{"$defs": {"Man": man, "Wife": wife}}))
    assert [schema["$defs"][name]["required"] for name in ("Man", "Wife")] == [[], ["man"]]
    assert schema["required"] == ["man"]
    rules.check_gemini_schema(schema)


def test_a_circle_that_is_open_stays_as_it_is() -> None:
    node = {**NODE, "required": ["v"]}
    schema = closed({"root": {"$ref": "#/$defs/Node"}}, **{"$defs": {"Node": node}})
    sent, call = told(schema)
    assert (sent, call.notes) == (schema, ())


def test_the_root_may_need_itself(rules: Any) -> None:
    schema, _ = told(closed({"v": {"type": "integer"}, "next": {"$ref": "#"}}))
    assert schema["required"] == ["v"]
    rules.check_gemini_schema(schema)


_LEAVES = st.sampled_from(
    [
        {},
        {"type": "string", "const": "a"},
        {"type": "integer", "exclusiveMinimum": 3},
        {"enum": ["a", None, True]},
        {"$ref": "#/$defs/a", "description": "x"},
        {"$ref": "#/$defs/b", "title": "x"},
        {"type": "string", "minLength": 2, "format": "date"},
        True,
    ]
)


def _inside(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.sampled_from(["a", "const", "$ref", "properties"])
    return st.one_of(
        st.dictionaries(names, inner, max_size=3).flatmap(
            lambda properties: st.sets(st.sampled_from([*properties] or ["a"])).map(
                lambda needed: {"type": "object", "properties": properties, "required": [*needed & set(properties)]}
            )
        ),
        inner.map(lambda one: {"type": "array", "items": one}),
        st.lists(inner, max_size=2).map(lambda many: {"anyOf": many}),
        inner.map(lambda one: {"not": one, "allOf": [one]}),
    )


@given(st.dictionaries(st.sampled_from("ab"), _inside(st.recursive(_LEAVES, _inside, max_leaves=6)), min_size=2))
def test_no_schema_breaks_geminis_rules(rules: Any, defs: dict[str, Any]) -> None:
    sent, _ = told(closed({"x": {"$ref": "#/$defs/a"}}, **{"$defs": defs}))
    assert set(sent["$defs"]) == {"a", "b"}
    rules.check_gemini_schema({**sent, "$defs": {name: _unneeding(one) for name, one in sent["$defs"].items()}})


def _unneeding(schema: Any) -> Any:
    """Without what is required: a circle through lists alone has no property that could be left open."""
    return {key: value for key, value in schema.items() if key != "required"} if isinstance(schema, dict) else schema


JUNK = st.sampled_from([None, True, 1, "object", [], ["a", {}, 1], {}, {"a": 1}, [{"$ref": 3}]])
WORDS = "type properties required items enum const anyOf $ref $defs definitions format exclusiveMinimum"


@given(
    st.recursive(
        JUNK,
        lambda inner: st.dictionaries(st.sampled_from([*WORDS.split(), "additionalProperties"]), inner, max_size=4),
    )
)
def test_a_schema_that_is_none_goes_out_as_it_can(junk: Any) -> None:
    """What is wrong with it the vendor says."""
    schema = {"type": "object", "properties": {"x": junk}, "$defs": junk, "definitions": junk, "required": ["x"]}
    told(schema)
    told(junk if isinstance(junk, dict) else {})
    asked("openai_chat", schema)


@pytest.mark.parametrize("dialect", ["openai_chat", "openai_responses", "gemini"])
def test_a_schema_too_deep_to_be_read_is_an_error_of_its_own(dialect: str) -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(5_000):
        deep = {"type": "array", "items": deep}
    base_url = "https://api.openai.com/v1" if dialect != "gemini" else "https://g"
    request = Request(HELLO, output=OutputSchema("o", closed({"x": deep})))
    with pytest.raises(ConfigError, match="cannot be written as JSON"):
        WIRES[dialect].encode(request, Target("p", base_url, "m"))
