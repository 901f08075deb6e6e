"""Gemini on Vertex AI: the address of a project's models, and the access token that lets a call in.

The token comes from google-auth (the extra `vertex`) and its Application Default Credentials: the file that
GOOGLE_APPLICATION_CREDENTIALS names, gcloud's own, or the metadata server of a machine in Google's cloud. It is a key
function: `keys` asks for it in a worker thread, keeps it until it is about to expire, and asks again after a 401.
"""

from __future__ import annotations

import re
from typing import Any, Final

import attrs

from cortex.errors import ConfigError
from cortex.messages import Failure, Kind, Phase

SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"
EXTRA: Final = "cortex-engine[vertex]"

_VERSION: Final = re.compile(r"/v\d+(alpha|beta)?\d*$")
_WORDS_LIMIT: Final = 300


def address(project: str, location: str, base_url: str | None = None) -> str:
    """Where a project's models live; `base_url` is a gateway's, which stands for the host of the location.

    One that names a project is whole already. https://cloud.google.com/vertex-ai/docs/reference/rest
    """
    if base_url is not None and "/projects/" in base_url:
        return base_url
    base = base_url if base_url is not None else f"https://{_host(location)}"
    versioned = base if _VERSION.search(base) else f"{base}/v1"
    return f"{versioned}/projects/{project}/locations/{location}/publishers/google"


def _host(location: str) -> str:
    """https://cloud.google.com/vertex-ai/generative-ai/docs/learn/locations"""
    if location == "global":
        return "aiplatform.googleapis.com"
    if location in ("us", "eu"):  # of several regions
        return f"aiplatform.{location}.rep.googleapis.com"
    return f"{location}-aiplatform.googleapis.com"


@attrs.define(eq=False)
class AccessToken:
    """A key function: each call asks Google for a new token, and blocks meanwhile."""

    _credentials: Any = attrs.field(default=None, init=False, repr=False)

    @property
    def fresh(self) -> bool:
        """Whether the last token can still be used; google-auth says no some minutes before it expires."""
        return self._credentials is not None and bool(self._credentials.valid)

    def __call__(self) -> str | Failure:
        """A new token, or why there is none."""
        from google.auth import exceptions

        try:
            return self._refreshed()
        except exceptions.TransportError as error:
            return _failed(Kind.CONNECT, error)
        except exceptions.GoogleAuthError as error:
            return _failed(Kind.TRANSIENT if error.retryable else Kind.CREDENTIAL, error)

    def _refreshed(self) -> str:
        import google.auth
        from google.auth.transport.requests import Request

        if self._credentials is None:
            self._credentials, _ = google.auth.default(scopes=[SCOPE])
        self._credentials.refresh(Request())
        token: str = self._credentials.token
        return token


def access_token(field: str) -> AccessToken:
    """The token of the Application Default Credentials; `ConfigError` without the extra. Nobody is asked yet.

    google-auth is loaded here, with the engine, and not beside a caller who may fork meanwhile.
    """
    try:
        import google.auth.transport.requests  # noqa: F401 - loaded, for what is used later
    except ImportError:
        raise ConfigError(
            f"{field}: is missing; for Google's own credentials install the extra: pip install '{EXTRA}', "
            "or pass a function that returns a Google access token"
        ) from None
    return AccessToken()


def _failed(kind: Kind, error: Exception) -> Failure:
    """In Google's words, which name a file or a cause and never a token."""
    words = f"Google gave no access token: {type(error).__name__}: {error.args[0] if error.args else ''}"
    return Failure(kind, words[:_WORDS_LIMIT], phase=Phase.NOT_SENT)
