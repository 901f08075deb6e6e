"""Unpacking in bounded steps: the same bytes come out however they are cut, and a bomb goes off little by little."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.inflate import STEP_BYTES, unpacker

brotli = pytest.importorskip("brotli")
zstd = pytest.importorskip("backports.zstd")


def _raw(data: bytes) -> bytes:
    squeezed = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return squeezed.compress(data) + squeezed.flush()


SKIPPED = b"\x57\x2a\x4d\x18\x04\0\0\0abcd"
"""A frame of zstd that holds nothing of the body (RFC 8878, section 3.1.2)."""

PACKERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("x-gzip", gzip.compress),
    "two gzips in a row": ("gzip", lambda data: gzip.compress(data[:3]) + gzip.compress(data[3:])),
    "deflate": ("deflate", zlib.compress),
    "deflate without its wrapping": ("deflate", _raw),
    "br": ("br", brotli.compress),
    "zstd": ("zstd", zstd.compress),
    "two zstds in a row": ("zstd", lambda data: zstd.compress(data[:3]) + SKIPPED + zstd.compress(data[3:])),
}
each = pytest.mark.parametrize("packing", PACKERS)


def unpack(name: str, pieces: list[bytes]) -> tuple[bytes, bool, int]:
    """What comes out, whether it is whole, and the longest step."""
    inner = unpacker(name)
    assert inner is not None
    steps = [step for piece in pieces for step in inner.feed(piece)]
    return b"".join(steps), inner.is_ended, max(map(len, steps), default=0)


@each
@given(data=st.binary(min_size=1, max_size=2000), cuts=st.lists(st.integers(0, 2100), max_size=5))
def test_however_it_is_cut(packing: str, data: bytes, cuts: list[int]) -> None:
    name, pack = PACKERS[packing]
    packed = pack(data)
    edges = [0, *sorted(min(cut, len(packed)) for cut in cuts), len(packed)]
    pieces = [packed[start:end] for start, end in pairwise(edges)]
    assert unpack(name, pieces)[:2] == (data, True)


@each
def test_a_bomb_goes_off_in_steps(packing: str) -> None:
    name, pack = PACKERS[packing]
    data = b"0" * 3_000_000
    out, whole, longest = unpack(name, [pack(data)])
    assert out == data
    assert whole
    assert longest <= 2 * STEP_BYTES  # brotli takes its bound a little lightly


@each
def test_what_was_cut_off_is_not_whole(packing: str) -> None:
    name, pack = PACKERS[packing]
    packed = pack(bytes(range(256)) * 20)
    for end in (1, 5, len(packed) // 2, len(packed) - 1):
        assert not unpack(name, [packed[:end]])[1]


@each
def test_junk_raises_and_never_hangs(packing: str) -> None:
    name, _ = PACKERS[packing]
    with pytest.raises(Exception, match=r"\S"):
        unpack(name, [b"\xff\xfe this is nothing that was packed"])


@pytest.mark.parametrize("packing", ["gzip", "two gzips in a row", "deflate", "zstd", "two zstds in a row"])
@given(behind=st.sampled_from([b"\n", b"\0" * 8, b"garbage", b"\x1fx", b"\x28\xb5x"]), cuts=st.sets(st.integers(1, 12)))
def test_what_stands_behind_the_end_is_passed_over(packing: str, behind: bytes, cuts: set[int]) -> None:
    name, pack = PACKERS[packing]
    packed = pack(b"hello, hello") + behind
    edges = [0, *sorted(len(packed) - cut for cut in cuts), len(packed)]
    pieces = [packed[start:end] for start, end in pairwise(edges)]
    assert unpack(name, pieces)[:2] == (b"hello, hello", True)


@pytest.mark.parametrize("packing", ["gzip", "zstd"])
def test_a_second_member_that_was_cut_anywhere_is_not_whole(packing: str) -> None:
    name, pack = PACKERS[packing]
    first, second = pack(b"one"), pack(b"two")
    for end in range(len(second) + 1):
        assert unpack(name, [first + second[:end]])[1] == (end in (0, len(second)))
        assert unpack(name, [first, second[:end]])[1] == (end in (0, len(second)))


def test_a_window_that_a_server_may_not_ask_for_is_not_given() -> None:
    """RFC 9659; it would be taken for each reply, whatever the reply holds."""
    for log in (23, 24, 27):
        options = {zstd.CompressionParameter.window_log: log, zstd.CompressionParameter.content_size_flag: 0}
        packer = zstd.ZstdCompressor(options=options)
        packed = packer.compress(b"hello " * 10_000_000) + packer.flush()
        if log == 23:
            assert unpack("zstd", [packed])[1]
        else:
            with pytest.raises(zstd.ZstdError, match="too much memory"):
                unpack("zstd", [packed])


@pytest.mark.parametrize("packing", ["gzip", "zstd"])
def test_many_that_hold_nothing_are_as_many_steps(packing: str) -> None:
    """Each costs some 10 us: in one step nothing else would run for a tenth of a second."""
    name, pack = PACKERS[packing]
    inner = unpacker(name)
    assert inner is not None
    assert list(inner.feed(pack(b"") * 1000)) == [b""] * 1000


@pytest.mark.parametrize("name", ["lzma", "gzip, br", "identity "])
def test_others_cannot_be_read(name: str) -> None:
    assert unpacker(name) is None
