"""The HTTP client of a provider: one each, so that a poisoned one poisons nobody else."""

from __future__ import annotations

import ssl
from functools import lru_cache
from pathlib import Path

import httpx
import trio

from cortex.config import ProviderConfig

KEEPALIVE_SECONDS = 5.0
"""Servers give up idle connections after 5 s and more; a shorter wait here loses fewer races against that."""


async def new_client(config: ProviderConfig) -> httpx.AsyncBaseTransport:
    """No retries, no redirects, no environment, HTTP/1.1; nobody ever waits inside its pool. Connects to nobody yet."""
    return httpx.AsyncHTTPTransport(
        verify=await _verify(config),
        trust_env=False,
        http1=True,
        http2=False,
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=KEEPALIVE_SECONDS),
        proxy=config.proxy,
        retries=0,
    )


async def _verify(config: ProviderConfig) -> ssl.SSLContext | bool:
    """Contexts are built in a worker thread: each takes 30 to 40 ms."""
    if not config.base_url.startswith("https:"):
        return False  # no certificates are loaded for nothing
    if not isinstance(config.verify, bool | str):
        context: ssl.SSLContext = config.verify
        return context
    return await trio.to_thread.run_sync(_tls_context, config.verify)


@lru_cache(maxsize=8)
def _tls_context(verify: bool | str) -> ssl.SSLContext:
    """`verify` is a bool, or the path of a CA bundle or of a directory of certificates. Built once and shared."""
    if isinstance(verify, bool):
        return httpx.create_ssl_context(verify=verify, trust_env=False)
    if Path(verify).is_dir():
        return ssl.create_default_context(capath=verify)
    return ssl.create_default_context(cafile=verify)
