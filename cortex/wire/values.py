"""JSON values as strangers send them, read without trust, and ours written without surprise.

What a server sends may be nested without end, hold NaN, half an emoji, a count of -1 or a list where an object belongs:
reading it gives a value or a ValueError, never anything else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from cortex import images
from cortex.messages import Image, ToolCall

MAX_DEPTH = 128  # no dialect and no schema nests deeper; far below what recursion bears
MAX_ITEMS = 5_000  # of an array that is walked: calls, parts, choices; the longest is a whole stream as one array
MAX_DIGITS = 100  # of a whole number in a long text: to read one takes the square of its length

# Bytes of memory that JSON may take while it is parsed: a small text can be a hundred times its length by then. What
# real replies come nearest are log probabilities, 1.4 KB a token: 4,500 tokens of an answer that comes in one piece.
MAX_PARSED = 6 * 1024 * 1024
# What each mark stands for, as measured in CPython 3.11: an object, a list, a member's place and value, its key.
_COSTS = ((b"{", 200), (b"[", 80), (b",", 64), (b":", 140))
_WIDE = (b"\xf0", b"\xf1", b"\xf2", b"\xf3", b"\xf4", b"\\ud", b"\\uD")  # how letters beyond U+FFFF begin
_MOST = 256  # bytes of memory a byte of JSON takes at most, whatever it says


class TooMuch(ValueError):
    """What a server sends is more than can be meant; the words say of what."""


def loads(text: str | bytes, limit: int = MAX_PARSED) -> Any:
    """Parse JSON as Python's own parser does (NaN and Infinity included); raises ValueError, and nothing else.

    Of it, `TooMuch` for what would take more bytes of memory than `limit`: seen before it is made, which takes seconds.
    """
    short = len(text) <= limit // _MOST
    if not short and weight(text, limit) > limit:
        raise TooMuch("too many values, or too long a text")
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig")
    try:
        value = json.loads(text) if short else _decode_long(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if text.count("{") + text.count("[") > MAX_DEPTH:
        _check_depth(value)
    return value


def _int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError("too long a number")
    return int(digits)


_decode_long = json.JSONDecoder(parse_int=_int).decode


def weight(text: str | bytes, limit: int = MAX_PARSED) -> int:
    """About how many bytes of memory a JSON text takes while it is parsed, itself included: rather more than less, and
    more exactly where it seems to be over `limit`."""
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    size = 2 * len(data) * _width(data)  # as text, and as value
    marks = _cost(data)
    return size + (marks if size + marks <= limit else _cost(_unquoted(data)))


def _width(data: bytes) -> int:
    """Bytes a letter takes: one emoji, raw or escaped, makes each letter beside it as wide."""
    if data.isascii() and b"\\u" not in data:
        return 1
    return 4 if any(mark in data for mark in _WIDE) else 2


def _cost(data: bytes) -> int:
    return sum(cost * data.count(mark) for mark, cost in _COSTS)


def _unquoted(data: bytes) -> bytes:
    """JSON without its strings: what is said in them costs only its length."""
    bare = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    if bare.count(b'"') > MAX_PARSED // 32:  # two a string, and each string has a mark
        return data
    return b"".join(bare.split(b'"')[::2])


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise ValueError("nested too deeply")


def _plain(value: Any) -> Any:
    """For what JSON's encoder does not know: any mapping is an object."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} has no JSON form")


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_plain).encode


def dumps(value: Any) -> bytes:
    """Compact JSON in UTF-8. Lone surrogates become U+FFFD, NaN and infinities null; a TypeError names a wrong type."""
    try:
        return _encode(value).encode()
    except ValueError:  # NaN, a lone surrogate, a circle
        return _encode(_mended(value)).encode()


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {clean(key) if isinstance(key, str) else key: _mended(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_mended(child) for child in value]
    return value


def clean(text: str) -> str:
    """The text, fit for UTF-8: surrogate pairs joined, lone surrogates replaced by U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def as_dict(value: Any) -> dict[str, Any]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """The value if it is an array, else an empty one; TooMuch for one of more than `MAX_ITEMS`."""
    if not isinstance(value, list):
        return []
    if len(value) > MAX_ITEMS:
        raise TooMuch(f"a list of more than {MAX_ITEMS} items")
    return value


def as_text(value: Any) -> str:
    """The value if it is a string, else ""."""
    return value if isinstance(value, str) else ""


def count(value: Any) -> int | None:
    """A number of tokens: a whole number that is not negative, else None."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and value >= 0 else None


def arguments_of(raw: str) -> tuple[bool, Any]:
    """Whether a tool call's argument text is whole JSON, and its value. Nothing at all means no arguments."""
    if not raw.strip():
        return True, {}
    try:
        return True, loads(raw)
    except ValueError:
        return False, None


def arguments_object(call: ToolCall) -> Mapping[str, Any]:
    """A call's arguments for a dialect that takes only an object: what is none is wrapped."""
    if isinstance(call.arguments, Mapping):
        return call.arguments
    return {"arguments": call.raw_arguments} if call.raw_arguments else {}


def arguments_text(call: ToolCall) -> str:
    """A call's arguments for a dialect that takes the text of an object: the model's own wherever it is one.

    Its own spacing matters: a prompt cache compares bytes.
    """
    raw = call.raw_arguments
    if raw and isinstance(call.arguments, Mapping) and "NaN" not in raw and "Infinity" not in raw:
        return raw
    return dumps(arguments_object(call)).decode()


def digest(*words: str) -> str:
    """A name made of words: the same words give the same 64 hex digits, everywhere and always."""
    return hashlib.sha256("\0".join(words).encode("utf-8", "surrogatepass")).hexdigest()


def id_grammar(pattern: str, prefix: str, length: int) -> Callable[[str], str]:
    """A mapping of call ids into a vendor's grammar: an id that fits stays, another becomes `length` characters."""
    fits = re.compile(pattern).fullmatch
    return lambda ident: ident if fits(ident) else (prefix + digest(ident))[:length]


_ENDING = re.compile(r"\.(png|jpe?g|gif|webp)$", re.IGNORECASE)


def media_type(image: Image) -> str:
    """What kind of image: by its first bytes, else as told, else by its address's ending, else PNG."""
    known = images.kind_of(image.data or b"") or image.media_type
    if known:
        return known
    ending = _ENDING.search(re.split("[?#]", image.url or "", maxsplit=1)[0])
    return f"image/{ending[1].lower().replace('jpg', 'jpeg')}" if ending else "image/png"


def data_url(url: str) -> tuple[str | None, bytes]:
    """The type and the bytes of a data URL; no bytes when it is none, or not in base64."""
    try:
        return images.data_url(url)
    except ValueError:
        return None, b""


def base64_of(image: Image) -> str:
    """The image's bytes in base64."""
    return base64.b64encode(image.data or b"").decode()


def number(text: str) -> float:
    """A JSON number that is not written as a whole one, as such where it is."""
    value = float(text)
    return int(value) if value.is_integer() else value
