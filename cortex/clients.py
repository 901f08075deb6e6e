"""The HTTP client of a provider: one each, so that a poisoned one poisons nobody else."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from cortex.config import ProviderConfig
from cortex.errors import ConfigError
from cortex.transport import KEEPALIVE_SECONDS, Pooled, Proxied, Transport, Trust, tls_context

MAX_CONNECTIONS = 1000


def new_client(config: ProviderConfig) -> Pooled[Any]:
    """No retries, no redirects, no environment, HTTP/1.1. It connects to nobody yet."""
    most, expiry, trust = MAX_CONNECTIONS, KEEPALIVE_SECONDS, Trust(config.verify, config.cert)
    if config.proxy is None:
        return Transport(verify=trust, max_connections=most, keepalive_expiry=expiry)
    return Proxied(config.proxy, verify=trust, max_connections=most, keepalive_expiry=expiry)


def check(config: ProviderConfig) -> None:
    """ConfigError for files that cannot be used, and for a proxy that would need another package."""
    field = f"providers.{config.name}"
    files = config.cert, config.verify if isinstance(config.verify, str) else None
    if any(files):
        for name, given in (("verify", (config.verify, None)), ("cert", (config.verify, config.cert))):
            try:
                tls_context(*given)
            except OSError as error:
                raise ConfigError(f"{field}.{name}: cannot be used: {error}") from error
    if (config.proxy or "").startswith("socks") and find_spec("socksio") is None:
        raise ConfigError(f"{field}.proxy: a SOCKS proxy needs another package: pip install 'httpx[socks]'")
