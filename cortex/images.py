"""Images as users pass them -> `Image`: only what every vendor can see, by its own first bytes. Pure."""

from __future__ import annotations

import base64
import binascii
from typing import Final

import attrs

from cortex import checks
from cortex.errors import ConfigError
from cortex.messages import DETAILS, Detail, Image

_MAGIC: Final = ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif"))
_MEDIA_TYPES: Final = ("image/png", "image/jpeg", "image/gif", "image/webp")


def image(field: str, item: object) -> Image:
    """An image: bytes (PNG, JPEG, GIF or WebP), a data URL, an http(s) URL, or an `Image`.

    A path is not read here: opening files is the caller's, with `Path(...).read_bytes()`.
    """
    if isinstance(item, Image):
        if (item.data is None) == (item.url is None):
            raise ConfigError(f"{field}: an Image has either data or a url")
        found = _sniffed(field, item.data, item.media_type) if item.data is not None else _linked(field, item)
        return attrs.evolve(found, detail=detail(f"{field}.detail", item.detail))
    if isinstance(item, (bytes, bytearray, memoryview)):
        return _sniffed(field, bytes(item), None)
    if not isinstance(item, str):
        hint = "; read it with .read_bytes()" if hasattr(item, "__fspath__") else ""
        raise ConfigError(f"{field}: must be bytes, a data URL or an http(s) URL, not {checks.kind(item)}{hint}")
    if item[:5].lower() == "data:":
        return _data_url(field, item)
    if item.lower().startswith(("http://", "https://")):
        return Image(url=item)
    raise ConfigError(f"{field}: must begin with http://, https:// or data:; pass a file's bytes, not its path")


def kind_of(data: bytes) -> str | None:
    """The type of an image that every vendor can see, by its first bytes; None for anything else."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for magic, kind in _MAGIC if data.startswith(magic)), None)


def data_url(url: str) -> tuple[str | None, bytes]:
    """The type that a data URL tells, if any, and its bytes; ValueError says why it has none."""
    head, comma, payload = url[5:].partition(",")
    if url[:5].lower() != "data:" or not comma or not head.lower().endswith(";base64"):
        raise ValueError("must be a data URL in base64, e.g. data:image/png;base64,...")
    try:
        data = base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is not valid base64") from None
    return head.split(";")[0].lower() or None, data


def detail(field: str, given: object) -> Detail | None:
    """How closely a model is to look at an image."""
    if given is None:
        return None
    word = checks.one_of(field, given, DETAILS)
    return next(known for known in DETAILS if known == word)


def _linked(field: str, item: Image) -> Image:
    found = image(f"{field}.url", checks.any_text(f"{field}.url", item.url))
    if found.data is not None or item.media_type is None:
        return found
    return Image(checks.one_of(f"{field}.media_type", item.media_type, _MEDIA_TYPES), url=found.url)


def _data_url(field: str, item: str) -> Image:
    try:
        declared, data = data_url(item)
    except ValueError as error:
        raise ConfigError(f"{field}: {error}") from None
    return _sniffed(field, data, declared)


def _sniffed(field: str, data: object, declared: str | None) -> Image:
    """The bytes decide what an image is; a declared type only counts where it agrees."""
    if not isinstance(data, bytes):
        raise ConfigError(f"{field}.data: must be bytes, not {checks.kind(data)}")
    found = kind_of(data)
    if found is None:
        said = f" (declared as {declared})" if declared in _MEDIA_TYPES else ""
        raise ConfigError(f"{field}: is no PNG, JPEG, GIF or WebP{said}")
    return Image(media_type=found, data=data)
