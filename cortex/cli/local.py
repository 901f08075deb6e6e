"""Finding a local server: who answers at the usual ports of this machine, and with which models.

Asked is `GET /v1/models`, which every OpenAI-compatible server has and which costs nothing. A port where something else
listens is passed over.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import attrs

from cortex import vendors
from cortex.errors import ConfigError

PORTS: Final[Mapping[int, str]] = {11434: "Ollama", 8080: "llama.cpp", 8000: "vLLM", 1234: "LM Studio"}
"""Where local servers listen unless told otherwise, in the order they are tried."""

PATIENCE: Final = 0.5
"""Seconds a server here has for its list of models; nobody at all is known at once."""

MAX_LIST: Final = 1_000_000
"""Bytes of a list that are read: what is longer is no list of models."""


@attrs.frozen
class Found:
    """A server that answers, and the first model it names."""

    base_url: str
    model: str


def find() -> Found | None:
    """The first of the usual ports on 127.0.0.1 where a server names a model."""
    for port in PORTS:
        base_url = f"http://127.0.0.1:{port}/v1"
        models = models_at(base_url)
        if models:
            return Found(base_url, models[0])
    return None


def first_model_of(providers: Mapping[str, Any], env: Mapping[str, str]) -> str:
    """The first model of the local server that the environment names; ConfigError when it tells none."""
    ((name, given),) = providers.items()
    base_url = vendors.provider(name, given, env).base_url
    models = models_at(base_url)
    if not models:
        raise ConfigError(f"{base_url} names no model; is the server running? Pass --model, or set CORTEX_WORKER_MODEL")
    return models[0]


def models_at(base_url: str) -> list[str]:
    """The models a server names; [] when nobody answers in time, or answers something else."""
    parts = urlsplit(base_url)
    secure = parts.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=PATIENCE)
    try:
        connection.request("GET", f"{parts.path.rstrip('/')}/models")
        return _names(json.loads(connection.getresponse().read(MAX_LIST)))
    except (OSError, ValueError, http.client.HTTPException):
        return []
    finally:
        connection.close()


def _names(listing: Any) -> list[str]:
    rows = listing.get("data") if isinstance(listing, dict) else None
    names = [row.get("id") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return [name for name in names if isinstance(name, str) and name]
