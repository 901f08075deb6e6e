"""JSON of strangers in, JSON of ours out."""

from __future__ import annotations

import json
import math
import re
import tracemalloc
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


def logprob(word: str, top: int = 0) -> dict[str, object]:
    told: dict[str, object] = {"token": word, "logprob": -0.123456, "bytes": [*word.encode()]}
    return {**told, "top_logprobs": [logprob(word) for _ in range(top)]} if top else told


@pytest.mark.parametrize(
    "value",
    [
        "x" * (values.MAX_PARSED // 2 - 100),
        "x" * 1_400_000 + "…",
        "x" * 500_000 + "\U0001f600",
        "\U0001f600" * 60_000,
        'a, [b] {c: 1} \\ "d", ' * 40_000,
        [logprob(" word") for _ in range(4_000)],
        [logprob(" word", 5) for _ in range(700)],
    ],
    ids=["text", "wide text", "an emoji", "emojis", "code", "logprobs", "top logprobs"],
)
@pytest.mark.parametrize("as_ascii", [False, True])
def test_as_much_as_a_real_answer_says_is_read(value: object, as_ascii: bool) -> None:
    text = json.dumps(value, ensure_ascii=as_ascii)
    assert values.loads(text) == value
    assert values.loads(text.encode()) == value


@pytest.mark.parametrize(
    "text",
    [
        '{"ab":' * 100_000,
        f"[{'[],' * 60_000}0]",
        f"[{'0,' * 120_000}0]",
        '"' + '",'.join('"' + str(i) for i in range(110_000)) + '"',
        "{" + ",".join(f'"{i}":"{i}"' for i in range(60_000)) + "}",
        '"' + "x" * values.MAX_PARSED + '"',
        '"' + "x" * (values.MAX_PARSED // 4) + '…"',
        '"' + "x" * (values.MAX_PARSED // 8) + '\U0001f600"',
        '"' + "x" * (values.MAX_PARSED // 8) + '\\ud83d\\ude00"',
    ],
    ids=["nested", "lists", "numbers", "strings", "members", "text", "wide text", "an emoji", "an escaped emoji"],
)
def test_what_would_take_much_more_memory_than_its_length_is_not_parsed(text: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(values.TooMuch):
            values.loads(text.encode())
        assert tracemalloc.get_traced_memory()[1] < 3 * len(text) + 10_000_000
    finally:
        tracemalloc.stop()


@given(st.recursive(
    st.sampled_from(["1", '"a"', '"\\\\"', '"\\""', '",{[:"', '"\\\\\\",["', "{}", "[]"]),
    lambda inner: st.lists(inner, max_size=4).map(lambda some: f"[{','.join(some)}]")
    | inner.map('{{"a:,":{0},"b":{0}}}'.format),
))  # fmt: skip
def test_what_is_said_in_strings_is_no_value(text: str) -> None:
    def marks(value: object) -> str:
        if isinstance(value, dict):
            return "{" + ",".join(":" + marks(child) for child in value.values()) + "}"
        return f"[{','.join(map(marks, value))}]" if isinstance(value, list) else ""

    assert re.sub("[^][{},:]", "", values._unquoted(text.encode()).decode()) == marks(json.loads(text))


@pytest.mark.parametrize(
    ("digits", "read"), [(values.MAX_DIGITS, True), (values.MAX_DIGITS + 1, False), (4_200, False)]
)
def test_in_a_long_text_a_number_has_a_natural_length(digits: int, read: bool) -> None:
    text = f'["{"x" * 50_000}", {"9" * digits}]'
    assert values.arguments_of(text)[0] is read


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
        (Image(data=b"\x89PNG\r\n\x1a\n..."), "image/png"),
        (Image(data=b"\xff\xd8\xff.."), "image/jpeg"),
        (Image(data=b"RIFF\0\0\0\0WEBP"), "image/webp"),
        (Image("image/png", b"GIF89a"), "image/gif"),
        (Image("image/tiff", b"II"), "image/tiff"),
        (Image(data=b"RIFF\0\0\0\0WAVE"), "image/png"),
        (Image(data=b"?"), "image/png"),
        (Image(url="https://x.y/a.JPG?size=2"), "image/jpeg"),
        (Image(url="https://x.y/a"), "image/png"),
    ],
)
def test_an_images_kind(image: Image, kind: str) -> None:
    assert values.media_type(image) == kind


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("data:image/png;base64,aGk=", ("image/png", b"hi")),
        ("DATA:IMAGE/PNG;charset=x;BASE64,aGk=", ("image/png", b"hi")),
        ("data:;base64,aGk=", (None, b"hi")),
        ("data:image/png;base64,???", (None, b"")),
        ("data:image/png,hi", (None, b"")),
        ("data:image/png;base64", (None, b"")),
        ("https://x.y/a;base64,aGk=", (None, b"")),
    ],
)
def test_a_data_url_holds_bytes_or_nothing(url: str, told: tuple[str | None, bytes]) -> None:
    assert values.data_url(url) == told
