"""JSON of strangers in, JSON of ours out."""

from __future__ import annotations

import json
import math
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.messages import Image, ToolCall
from cortex.wire import values


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "nope",
        "[" * 100_000,
        '{"a":' * 5_000 + "1" + "}" * 5_000,
        "[" * 200 + "]" * 200,
        "1" * 5_000,
        b"\xff",
        b"{\x00",
    ],
)
def test_J3_what_cannot_be_read_is_a_ValueError(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        values.loads(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e999", math.inf),
        ('{"a":1,"a":2}', {"a": 2}),
        ('"\\ud83d"', "\ud83d"),
        (b"\xef\xbb\xbf[1]", [1]),
        ("[" * 100 + "]" * 100, None),
    ],
)
def test_J3_what_is_odd_is_read(text: str | bytes, value: object) -> None:
    assert values.loads(text) == value or value is None


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters())),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(st.characters()), children, max_size=3),
)


@given(json_values)
def test_whatever_is_written_is_valid_utf8_and_strict_json(value: object) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    json.loads(values.dumps(value).decode("utf-8", "strict"), parse_constant=refuse)


def test_writing_is_compact_keeps_letters_and_takes_any_mapping() -> None:
    assert values.dumps({"a": types.MappingProxyType({"é": (1, 2.5)})}) == '{"a":{"é":[1,2.5]}}'.encode()
    assert values.dumps({"x": math.nan, "\ud800": "a\udfffb"}) == '{"x":null,"\ufffd":"a\ufffdb"}'.encode()
    with pytest.raises(TypeError, match="bytes has no JSON form"):
        values.dumps({"x": b"1"})


def test_clean_joins_pairs_and_replaces_what_is_alone() -> None:
    assert values.clean("a\ud83d\ude00b\ud83dc") == "a\U0001f600b\ufffdc"


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (0, 0),
        (7, 7),
        (7.0, 7),
        (-1, None),
        (7.5, None),
        (True, None),
        ("7", None),
        (None, None),
        (math.nan, None),
        ([], None),
    ],
)
def test_J7_a_count_is_a_whole_number_that_is_not_negative(value: object, number: int | None) -> None:
    assert values.count(value) == number


@pytest.mark.parametrize(
    ("raw", "whole", "value"),
    [("", True, {}), (" ", True, {}), ("{}", True, {}), ('{"a": 1}', True, {"a": 1}), ("true", True, True),
     ("7", True, 7), ("Infinity", True, math.inf), ('{"a": ', False, None), ("null", True, None)],
)  # fmt: skip
def test_arguments(raw: str, whole: bool, value: object) -> None:
    assert values.arguments_of(raw) == (whole, value)


def test_arguments_for_a_dialect_that_takes_text_are_the_models_own_unless_they_are_no_object() -> None:
    spaced = '{ "a" : 1 }'
    assert values.arguments_text(ToolCall("1", "f", {"a": 1}, spaced)) == spaced
    assert values.arguments_text(ToolCall("1", "f", {"a": 1})) == '{"a":1}'
    assert values.arguments_text(ToolCall("1", "f", {}, "")) == "{}"
    assert values.arguments_text(ToolCall("1", "f", True, "true")) == '{"arguments":"true"}'
    assert values.arguments_text(ToolCall("1", "f", None, '{"a": ')) == '{"arguments":"{\\"a\\": "}'
    assert values.arguments_text(ToolCall("1", "f", {"a": math.inf}, '{"a": Infinity}')) == '{"a":null}'


@given(st.text(st.characters()))
def test_ids_fit_the_grammar_and_are_the_same_every_time(ident: str) -> None:
    mapped = values.id_grammar("[a-z]{1,9}", "c", 9)
    assert mapped(ident) == mapped(ident)
    assert 1 <= len(mapped(ident)) <= 9
    assert mapped(ident).isalnum()


def test_an_id_that_fits_stays() -> None:
    assert values.id_grammar("[a-z]{1,9}", "c", 9)("abc") == "abc"


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (Image(data=b"\x89PNG..."), "image/png"),
        (Image(data=b"\xff\xd8\xff.."), "image/jpeg"),
        (Image("image/tiff", b"II"), "image/tiff"),
        (Image(data=b"?"), "image/png"),
    ],
)
def test_an_images_kind(image: Image, kind: str) -> None:
    assert values.media_type(image) == kind
