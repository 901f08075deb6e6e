"""The event decoder: by the letter of the standard, however the bytes were cut."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.wire.sse import SseDecoder, SseEvent, SseFault, SseItem


def decode(*pieces: bytes, limit: int = 1_000) -> list[SseItem]:
    decoder = SseDecoder(limit)
    return [item for piece in pieces for item in decoder.feed(piece)]


def data(*texts: str) -> list[SseItem]:
    return [SseEvent("", text) for text in texts]


@pytest.mark.parametrize(
    ("stream", "items"),
    [
        (b"data: a\n\ndata: b\n\n", data("a", "b")),
        (b"data:a\n\n", data("a")),
        (b"data:  a\n\n", data(" a")),
        (b"data: a\ndata: b\n\n", data("a\nb")),
        (b"event: ping\ndata: a\n\ndata: b\n\n", [SseEvent("ping", "a"), SseEvent("", "b")]),
        (b": a comment\n\ndata: a\n: another\n\n", data("a")),
        (b"id: 7\nretry: 10\ndata: a\n\n", data("a")),
        (b"event: ping\n\nid: 7\n\nretry: 10\n\ndata: a\n\n", data("a")),  # S13: no data, no event, no left-over name
        (b"data\n\ndata: a\n\n", data("a")),  # S13: data without a colon
        (b"data:\n\ndata: a\n\n", data("a")),
        (b"datax: no\nDATA: no\ndata: a\n\n", data("a")),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", data("a", "b")),
        (b"data: a\r\rdata: b\r\r", data("a", "b")),
        (b"event: x\r\ndata: a\r\ndata: b\r\n\r\n", [SseEvent("x", "a\nb")]),
        (b"data: a\n\r\ndata: b\r\n\r", data("a", "b")),
        (b"\xef\xbb\xbfdata: a\n\n", data("a")),  # S12
        (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", data("a")),  # a BOM is one at the very start alone
        ("data: a\u2028b\u0085c\x0cd\x1ce\n\n".encode(), data("a\u2028b\u0085c\x0cd\x1ce")),  # S11
        ("data: \u20ac\U0001f600\n\n".encode(), data("\u20ac\U0001f600")),
        (b"data: a\n\ndata: half", data("a")),
        (b"data: a\n", []),
        (b"data: \xff\n\ndata: b\n\n", [SseFault("an event is not UTF-8")]),
        (b": \xff\n\ndata: b\n\n", data("b")),
    ],
)
def test_the_letter(stream: bytes, items: list[SseItem]) -> None:
    assert decode(stream) == items
    assert decode(*(stream[i : i + 1] for i in range(len(stream)))) == items


def test_an_event_is_out_with_the_byte_that_ends_it() -> None:
    decoder = SseDecoder()
    assert decoder.feed(b"data: a\r\n\r") == data("a")
    assert decoder.feed(b"\ndata: b\n") == []
    assert decoder.feed(b"\n") == data("b")


@pytest.mark.parametrize(
    ("stream", "tail"),
    [(b"", False), (b"data: a\n\n", False), (b"data: a\n\ndat", True), (b"data: a\n", True), (b"data: a\n\r\n", False)],
)
def test_an_unterminated_tail_is_reported_and_not_delivered(stream: bytes, tail: bool) -> None:
    decoder = SseDecoder()
    decoder.feed(stream)
    assert decoder.close() is tail
    assert decoder.feed(b"\n\n") == []


@pytest.mark.parametrize(
    "stream",
    [
        b"data: " + b"x" * 1_000 + b"\n\n",
        b"data: " + b"x" * 400 + b"\ndata: " + b"x" * 700 + b"\n\n",
        b": " + b"x" * 1_000 + b"\n\n",
        b"x" * 1_001,
    ],
)
def test_S14_an_event_over_the_limit_is_a_fault(stream: bytes) -> None:
    stream = b"data: ok\n\n" + stream
    items = [SseEvent("", "ok"), SseFault("an event is longer than 1000 bytes")]
    assert decode(stream, b"data: more\n\n") == items
    assert decode(*(stream[i : i + 1] for i in range(len(stream)))) == items


def test_many_events_within_the_limit_are_none_of_its_business() -> None:
    assert len(decode(b"data: 0123456789\n\n" * 10_000)) == 10_000


pieces_of_streams = st.lists(
    st.one_of(
        st.sampled_from(
            [b"data: ", b"data", b"event: x", b":", b"\n", b"\r", b"\r\n", b"\n\n", b"\xef\xbb\xbf", b"\xff"]
        ),
        st.binary(max_size=6),
        st.text(max_size=4).map(lambda text: text.encode("utf-8", "surrogatepass")),
    ),
    max_size=30,
).map(b"".join)


@given(pieces_of_streams, st.lists(st.integers(0, 10_000), max_size=8))
def test_I19_cutting_never_changes_what_comes_out(chunks: Any, stream: bytes, cuts: list[int]) -> None:
    whole, cut = SseDecoder(60), SseDecoder(60)
    expected = whole.feed(stream)
    assert [item for piece in chunks(stream, cuts) for item in cut.feed(piece)] == expected
    assert whole.close() == cut.close()


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1), max_size=5))
def test_I19_what_was_framed_comes_back(texts: list[str]) -> None:
    stream = "".join(f": c\r\ndata: {text}\r\n\r\n" for text in texts).encode()
    assert decode(stream, limit=10_000) == data(*texts)


def test_the_work_is_linear_in_the_bytes() -> None:
    def seconds(size: int) -> float:
        stream = b"data: " + b"x" * size + b"\n\n"
        start = time.perf_counter()
        decoder = SseDecoder()
        for i in range(0, len(stream), 64):
            decoder.feed(stream[i : i + 64])
        return time.perf_counter() - start

    small, large = min(seconds(50_000) for _ in range(3)), min(seconds(800_000) for _ in range(3))
    assert large < small * 16 * 4  # 16 times the bytes; four times is for a noisy machine, not for a square (256)
