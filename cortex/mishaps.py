"""What an exception of the wire means: the only place that turns httpx's exceptions into `Failure`s."""

from __future__ import annotations

import errno
import ssl

import httpx
import trio

from cortex.messages import Failure, Kind, Phase
from cortex.wire.codec import Target
from cortex.wire.faults import scrub

_TABLE: tuple[tuple[type[Exception], Kind, Phase | None], ...] = (
    # the first that fits; a phase of None means: as far as we had come
    (httpx.ConnectTimeout, Kind.TIMEOUT_CONNECT, Phase.NOT_SENT),
    (httpx.PoolTimeout, Kind.LOCAL, Phase.NOT_SENT),
    (httpx.ConnectError, Kind.CONNECT, Phase.NOT_SENT),
    (httpx.ProxyError, Kind.CONNECT, Phase.NOT_SENT),
    (httpx.UnsupportedProtocol, Kind.LOCAL, Phase.NOT_SENT),
    (httpx.LocalProtocolError, Kind.LOCAL, Phase.NOT_SENT),
    (httpx.InvalidURL, Kind.LOCAL, Phase.NOT_SENT),
    (httpx.TimeoutException, Kind.TIMEOUT_GAP, None),
    (httpx.DecodingError, Kind.PROTOCOL, None),
    (httpx.StreamError, Kind.LOCAL, None),
    (httpx.HTTPError, Kind.TRANSIENT, None),
    (OSError, Kind.TRANSIENT, None),
)

_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def failure_of(error: Exception, target: Target, *, phase: Phase, reused: bool = False) -> Failure:
    """What an exception of the wire means, in words that name the cause and no secret of `target`."""
    kind, fixed = next((kind, fixed) for cls, kind, fixed in _TABLE if isinstance(error, cls))
    causes = _causes(error)
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        kind = Kind.CERTIFICATE
    elif any(isinstance(cause, OSError) and cause.errno in _OURS for cause in causes):
        kind = Kind.LOCAL
    elif kind is Kind.TRANSIENT and phase in (Phase.HEADERS, Phase.STREAM):
        kind = Kind.CUT
    return Failure(kind, _words(causes, target), phase=fixed or phase, reused=reused and fixed is None)


def _words(causes: list[BaseException], target: Target) -> str:
    """Never empty. The innermost exception that says something knows best: "Connection refused", or what TLS disliked,
    while the outer ones say at most that all attempts failed.

    A header that is refused is quoted by whoever refuses it, with the key that stands in it: hence the scrubbing.
    """
    speaking = (cause for cause in reversed(causes) if str(cause) and not isinstance(cause, _MUTE))
    silent = "it took too long" if isinstance(causes[0], httpx.TimeoutException) else "no further word"
    words = next((scrub(str(cause), target) for cause in speaking), silent)
    return f"{type(causes[0]).__name__}: {words}"


_MUTE = (trio.Cancelled, BaseExceptionGroup)
"""They tell how the wait was ended, or that there are several causes; never which."""


def _causes(error: BaseException) -> list[BaseException]:
    """The exception and what caused it, outermost first; a ring or a very long chain ends it."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain and len(chain) < 10:
        chain.append(current)
        # One address, one exception; of several addresses the last one tried speaks for all.
        inside = current.exceptions[-1] if isinstance(current, BaseExceptionGroup) else None
        current = inside or current.__cause__ or current.__context__
    return chain
