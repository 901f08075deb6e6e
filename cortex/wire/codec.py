"""The shape of a wire dialect, and what all dialects share. Pure: bytes and values in, values out.

A dialect is one file with four moves and one name:

    encode(request, target) -> HttpCall          what to send
    decode(reply, target)   -> Answer | Failure  a whole JSON reply, of any status
    decoder(target)         -> Decoder           for a stream: feed(bytes) -> events, close() -> events
    probe(target)           -> HttpCall          a question that costs no token (a list of models)
    WIRE = Wire("name", encode, decode, decoder, probe)

Nothing here raises on what a server says: junk is a `Failure`. `encode` raises `ConfigError` for tools, an output
schema or an `extra` that has no JSON form.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import attrs

from cortex.errors import ConfigError
from cortex.messages import Answer, Effort, Failure, Issuer, Request, StreamEvent
from cortex.wire.values import dumps


@attrs.frozen
class Target:
    """Where a call goes: one provider, one model there, its key and its options.

    `base_url` has no trailing slash. `model` is the provider's own name for the model, `name` the public one. `options`
    are the provider's dialect options as configured (organization, api_version, thinking_budget, ...), `kind` what it
    is said to be.
    """

    provider: str
    base_url: str
    model: str
    api_key: str | None = attrs.field(default=None, repr=False)
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    options: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    kind: str = ""
    name: str = attrs.field(default=attrs.Factory(lambda target: target.model, takes_self=True))

    def called(self, family: str) -> str:
        """The model's name from the word `family` on, which is what its vendor's rules go by: a gateway puts its own
        words before it, and who deploys a model calls it as he likes, so that only the public name tells."""
        told = (re.search(rf"{family}\D*\d.*", name) for name in (self.model, self.name))
        return next((found[0] for found in told if found), self.model)

    @property
    def issuer(self) -> Issuer:
        """The stamp for opaque parts that come from here."""
        return Issuer(self.provider, self.model)


@attrs.frozen
class HttpCall:
    """A request, ready to be sent. `notes` says what of the neutral request this dialect could not carry."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = attrs.field(repr=False)
    body: bytes = attrs.field(default=b"", repr=False)
    notes: tuple[str, ...] = ()


@attrs.frozen
class HttpReply:
    """A whole reply. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = attrs.field(repr=False)


class Decoder(Protocol):
    """Reads one stream. After `Ended` or `Broken` nothing more comes out, whatever is fed."""

    def feed(self, data: bytes) -> list[StreamEvent]:
        """Take the next bytes, however they were cut, and give the events they complete."""
        ...

    def close(self) -> list[StreamEvent]:
        """The connection has ended: `Broken` with kind cut, unless the terminal event was seen."""
        ...


EVENT_STREAM = "text/event-stream"


@attrs.frozen
class Wire:
    """One dialect. `stream_type` is the content type by which a stream of it is known."""

    name: str
    encode: Callable[[Request, Target], HttpCall]
    decode: Callable[[HttpReply, Target], Answer | Failure]
    decoder: Callable[[Target], Decoder]
    probe: Callable[[Target], HttpCall]
    stream_type: str = EVENT_STREAM


# ---------------------------------------------------------------------------------------------- what encoders share

# What an effort is in tokens, for models that count: https://ai.google.dev/gemini-api/docs/openai#thinking
EFFORT_TOKENS: Mapping[Effort, int] = {"minimal": 1_024, "low": 1_024, "medium": 8_192, "high": 24_576}


@attrs.frozen
class Json:
    """A member of a body that is JSON already, in pieces: they are copied once, into the body."""

    pieces: Sequence[bytes]


def post(
    url: str,
    auth: Mapping[str, str],
    body: dict[str, Any],
    request: Request,
    target: Target,
    notes: Iterable[str],
    *,
    stream_type: str = EVENT_STREAM,
) -> HttpCall:
    """The call that asks for an answer: JSON, or events when the request wants a stream.

    Members of `body` may be `Json`. `request.extra` goes into the body as it stands: it wins, and an object in it is
    laid over ours key by key. A stream is asked for uncompressed: a compressor on the way would hold its pieces back.
    """
    for key, value in request.extra.items():
        ours = body.get(key)
        body[key] = {**ours, **value} if isinstance(ours, dict) and isinstance(value, Mapping) else value
    try:
        data = b"".join(_pieces(body))
    except (TypeError, RecursionError) as error:
        raise ConfigError(
            f"the request (its tools, output schema or extra) cannot be written as JSON: {error}"
        ) from None
    headers = {"content-type": "application/json", "accept": "application/json", **auth}
    if request.stream:
        headers |= {"accept": stream_type, "accept-encoding": "identity"}
    return HttpCall("POST", url, _headers(headers, target), data, tuple(dict.fromkeys(notes)))


def _pieces(body: Mapping[str, Any]) -> Iterator[bytes]:
    plain: dict[str, Any] = {}
    separator = b"{"
    for key, value in body.items():
        if not isinstance(value, Json):
            plain[key] = value
            continue
        if plain:
            yield separator + dumps(plain)[1:-1]
            plain, separator = {}, b","
        yield separator + dumps(key) + b":"
        yield from value.pieces
        separator = b","
    yield (separator + dumps(plain)[1:-1] if plain else b"") + b"}"


def get(url: str, auth: Mapping[str, str], target: Target) -> HttpCall:
    """A call that asks for a list of models."""
    return HttpCall("GET", url, _headers({"accept": "application/json", **auth}, target))


def _headers(ours: Mapping[str, str], target: Target) -> tuple[tuple[str, str], ...]:
    """Ours, under those configured for the target: what the user sets wins, whatever its capitals."""
    theirs = {name.lower(): value for name, value in target.headers.items()}
    return tuple({**ours, **theirs}.items())
