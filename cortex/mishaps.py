"""What an exception of the wire means: the only place that turns httpx's exceptions into `Failure`s."""

from __future__ import annotations

import errno
import ssl

import httpx

from cortex.messages import Failure, Kind, Phase
from cortex.transport import causes, words
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

_LIMITS = {
    # of this machine, and not the provider's fault
    errno.EMFILE: "this process may open no more files and sockets, see ulimit -n",
    errno.ENFILE: "this machine may open no more files and sockets",
    errno.ENOBUFS: "this machine has no memory left for sockets",
    errno.ENOMEM: "this machine has no memory left",
    errno.EAGAIN: "this process may have no more of them, such as threads",
}


def failure_of(error: Exception, target: Target, *, phase: Phase, reused: bool = False) -> Failure:
    """What an exception of the wire means, in words that name the cause and no secret of `target`."""
    kind, fixed = next((kind, fixed) for cls, kind, fixed in _TABLE if isinstance(error, cls))
    chain, said = causes(error), _words(error, target)
    limit = next((_LIMITS[cause.errno] for cause in chain if isinstance(cause, OSError) and cause.errno in _LIMITS), "")
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in chain):
        kind = Kind.CERTIFICATE
    elif limit:
        kind, said = Kind.LOCAL, f"{said} ({limit})"
    elif kind is Kind.TRANSIENT and phase in (Phase.HEADERS, Phase.STREAM):
        kind = Kind.CUT
    return Failure(kind, said, phase=fixed or phase, reused=reused and fixed is None)


def _words(error: Exception, target: Target) -> str:
    """Never empty. A header that is refused is quoted by whoever refuses it, with the key that stands in it: hence the
    scrubbing."""
    silent = "it took too long" if isinstance(error, httpx.TimeoutException) else "no further word"
    return f"{type(error).__name__}: {scrub(words(error), target) or silent}"
