"""The HTTP client of a provider: one each, so that a poisoned one poisons nobody else."""

from __future__ import annotations

from cortex.config import ProviderConfig
from cortex.errors import ConfigError
from cortex.transport import KEEPALIVE_SECONDS, Proxy, Transport, shared_context

MAX_CONNECTIONS = 1000


def new_client(config: ProviderConfig) -> Transport:
    """No retries, no redirects, no environment, HTTP/1.1. It connects to nobody yet."""
    return Transport(
        verify=config.verify,
        cert=config.cert,
        proxy=config.proxy,
        max_connections=MAX_CONNECTIONS,
        keepalive_expiry=KEEPALIVE_SECONDS,
    )


def check(config: ProviderConfig) -> None:
    """ConfigError for files that cannot be used, and for a proxy's address that cannot be read."""
    field = f"providers.{config.name}"
    if config.proxy is not None:
        try:
            Proxy.at(config.proxy)
        except ValueError:
            raise ConfigError(f"{field}.proxy: must be an address such as http://proxy.example.com:3128") from None
    if config.cert and not isinstance(config.verify, bool | str):
        raise ConfigError(f"{field}.cert: load it into the context that is given as verify")
    if config.cert or isinstance(config.verify, str):
        for name, given in (("verify", (config.verify, None)), ("cert", (config.verify, config.cert))):
            try:
                shared_context(*given)
            except (OSError, ValueError) as error:  # the latter for what can be no path
                raise ConfigError(f"{field}.{name}: cannot be used: {error}") from error
