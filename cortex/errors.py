"""Every error cortex raises, drawn once.

CortexError
  ConfigError (ValueError)         what you passed cannot work; says the field and the fix
  EngineClosed (RuntimeError)      used after close
  EngineFailed (RuntimeError)      no provider's fault: a bug of cortex (see the log), or a limit of this machine
  SessionBusy (RuntimeError)       `run` from inside this session's own turn
  QueueFull                        more calls wait than the policy allows
  DeadlineExceeded (TimeoutError)  the call's own deadline passed
  NetworkUnavailable (ConnectionError)  several providers at once cannot be reached: it is us
  ProviderError                    a provider failed; `except ProviderError` catches whatever is registered
    AuthError (PermissionError)  BillingError  RateLimited  ModelNotFound (LookupError)
    RequestRejected (ValueError)
      ContextTooLong  ContentRefused
    ProviderUnavailable (ConnectionError)  ProviderTimeout (TimeoutError)
    BadReply
      StreamInterrupted            a stream died after something was shown; `.partial` is what was shown
    OutcomeUnknown                 sent, not answered, and not safe to send again
    NoProviderLeft                 several were tried; `.errors` has one typed error per attempt
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cortex.messages import Failure, Kind

if TYPE_CHECKING:
    from cortex.results import Attempt

_KEY = re.compile(r"\b(?:sk|rk|xai|gsk|hf|pplx|AIza|ya29|eyJ)[-_.A-Za-z0-9]{14,}")
"""How the keys of well-known vendors begin."""

__all__ = [
    "AuthError",
    "BadReply",
    "BillingError",
    "ConfigError",
    "ContentRefused",
    "ContextTooLong",
    "CortexError",
    "DeadlineExceeded",
    "EngineClosed",
    "EngineFailed",
    "ModelNotFound",
    "NetworkUnavailable",
    "NoProviderLeft",
    "OutcomeUnknown",
    "ProviderError",
    "ProviderTimeout",
    "ProviderUnavailable",
    "QueueFull",
    "RateLimited",
    "RequestRejected",
    "SessionBusy",
    "StreamInterrupted",
]


class CortexError(Exception):
    """The root: everything cortex raises on purpose. `attempts` is the trail so far, where there is one."""

    attempts: tuple[Attempt, ...] = ()


class ConfigError(CortexError, ValueError):
    """What was passed cannot work. The message names the field, what it got and what to change.

    A key in the place of a name, the most common slip, would be quoted there, and then stand in a log.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_KEY.sub("[a key]", message))


class EngineClosed(CortexError, RuntimeError):
    """The engine or the session was used after its close."""


class EngineFailed(CortexError, RuntimeError):
    """No provider's fault: a bug of cortex itself, whose traceback is in the log, or a limit of this machine."""


class SessionBusy(CortexError, RuntimeError):
    """`run` was called from inside a turn of the same session, which would wait for itself."""


class QueueFull(CortexError):
    """`max_in_flight` calls are running and `max_queue` more are waiting."""


class DeadlineExceeded(CortexError, TimeoutError):
    """The caller's own deadline passed. No provider is blamed; `attempts` says what was tried."""

    def __init__(self, message: str, *, attempts: Sequence[Attempt] = ()) -> None:
        super().__init__(message)
        self.attempts = tuple(attempts)


class NetworkUnavailable(CortexError, ConnectionError):
    """Providers of different hosts became unreachable together: the network here is down."""

    def __init__(self, message: str, *, attempts: Sequence[Attempt] = ()) -> None:
        super().__init__(message)
        self.attempts = tuple(attempts)


class ProviderError(CortexError):
    """A provider failed.

    `provider`, `model`: who; `status`: the HTTP status or None; `kind`: what (see `cortex.messages.Kind`);
    `retry_after`: seconds; `request_id`: the vendor's; `retryable`: whether the same call may work later;
    `attempts`: the whole trail.
    """

    def __init__(
        self,
        message: str,
        *,
        provider: str,
        model: str,
        status: int | None = None,
        kind: Kind = Kind.TRANSIENT,
        retry_after: float | None = None,
        request_id: str | None = None,
        retryable: bool = False,
        attempts: Sequence[Attempt] = (),
    ) -> None:
        super().__init__(message)
        self.provider = provider
        self.model = model
        self.status = status
        self.kind = kind
        self.retry_after = retry_after
        self.request_id = request_id
        self.retryable = retryable
        self.attempts = tuple(attempts)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(cls: type[ProviderError], args: tuple[object, ...], state: dict[str, object]) -> ProviderError:
    """Unpickle: keyword-only arguments come back through the state."""
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class AuthError(ProviderError, PermissionError):
    """The key is wrong, or may not do this."""

    __init__ = ProviderError.__init__


class BillingError(ProviderError):
    """Somebody has to pay, or the quota's day has to pass."""


class RateLimited(ProviderError):
    """Too fast; `retry_after` says when."""


class ModelNotFound(ProviderError, LookupError):
    """This provider does not have the model."""


class RequestRejected(ProviderError, ValueError):
    """The request itself is wrong; no other provider was asked."""


class ContextTooLong(RequestRejected):
    """The conversation is longer than the model's window."""


class ContentRefused(RequestRejected):
    """A content policy refused the request."""


class ProviderUnavailable(ProviderError, ConnectionError):
    """Down, overloaded or unreachable."""

    __init__ = ProviderError.__init__


class ProviderTimeout(ProviderError, TimeoutError):
    """No answer, no first token or no next token in time."""

    __init__ = ProviderError.__init__


class BadReply(ProviderError):
    """The reply was cut off or is not what this dialect looks like."""


class StreamInterrupted(BadReply):
    """A stream died after something was shown. `partial` is the text shown."""

    partial: str = ""


class OutcomeUnknown(ProviderError):
    """The request was sent and not answered, and sending it again could do its work twice."""


class NoProviderLeft(ProviderError):
    """Every lane was tried or left out. `errors` has one typed error per attempt.

    `kind`, `status` and `retry_after` are those of the most actionable cause.
    """

    errors: tuple[ProviderError, ...] = ()


_CLASS_OF: dict[Kind, type[ProviderError]] = {
    Kind.TRANSIENT: ProviderUnavailable,
    Kind.OVERLOADED: ProviderUnavailable,
    Kind.RATE_LIMIT: RateLimited,
    Kind.QUOTA: BillingError,
    Kind.CREDENTIAL: AuthError,
    Kind.PERMISSION: AuthError,
    Kind.REGION: AuthError,
    Kind.MODEL_GONE: ModelNotFound,
    Kind.ROUTE_GONE: ProviderUnavailable,
    Kind.NOT_API: ProviderUnavailable,
    Kind.CERTIFICATE: ProviderUnavailable,
    Kind.CONTEXT: ContextTooLong,
    Kind.TOO_LARGE: RequestRejected,
    Kind.CONTENT: ContentRefused,
    Kind.BAD_REQUEST: RequestRejected,
    Kind.SIGNATURE: RequestRejected,
    Kind.CONFLICT: ProviderUnavailable,
    Kind.CONNECT: ProviderUnavailable,
    Kind.TIMEOUT_CONNECT: ProviderTimeout,
    Kind.TIMEOUT_FIRST: ProviderTimeout,
    Kind.TIMEOUT_GAP: ProviderTimeout,
    Kind.CUT: BadReply,
    Kind.PROTOCOL: BadReply,
    Kind.LOCAL: ProviderUnavailable,
    Kind.CANCELLED: ProviderUnavailable,
}


def error_of(
    failure: Failure,
    *,
    provider: str,
    model: str,
    retryable: bool,
    attempts: Sequence[Attempt] = (),
    cls: type[ProviderError] | None = None,
) -> ProviderError:
    """The exception a `Failure` becomes when it leaves the tree (`cls` overrides the kind's own)."""
    status = f" (HTTP {failure.status})" if failure.status is not None else ""
    return (cls or _CLASS_OF[failure.kind])(
        f"{provider}/{model}: {failure.kind}{status}: {failure.message}",
        provider=provider,
        model=model,
        status=failure.status,
        kind=failure.kind,
        retry_after=failure.retry_after,
        request_id=failure.request_id,
        retryable=retryable,
        attempts=attempts,
    )
