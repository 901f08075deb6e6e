"""The HTTP client of a provider: one each, so that a poisoned one poisons nobody else."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from importlib.util import find_spec

import attrs
import httpx
import trio

from cortex.config import ProviderConfig
from cortex.errors import ConfigError
from cortex.transport import KEEPALIVE_SECONDS, Transport, tls_context

MAX_CONNECTIONS = 1000


async def new_client(config: ProviderConfig) -> httpx.AsyncBaseTransport:
    """No retries, no redirects, no environment, HTTP/1.1. It connects to nobody yet."""
    if config.proxy is None:
        return Transport(
            verify=config.verify,
            cert=config.cert,
            max_connections=MAX_CONNECTIONS,
            keepalive_expiry=KEEPALIVE_SECONDS,
        )
    return Proxied(await _by_proxy(config, config.proxy), MAX_CONNECTIONS)


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


async def _by_proxy(config: ProviderConfig, proxy: str) -> httpx.AsyncHTTPTransport:
    context: ssl.SSLContext | bool = False  # no certificates are loaded for nothing
    if config.base_url.startswith("https:"):
        verify = config.verify
        context = (
            await trio.to_thread.run_sync(tls_context, verify, config.cert)
            if isinstance(verify, bool | str)
            else verify
        )
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=KEEPALIVE_SECONDS)
    return httpx.AsyncHTTPTransport(verify=context, trust_env=False, limits=limits, proxy=proxy)


class Proxied(httpx.AsyncBaseTransport):
    """httpx's own transport, which knows proxies, behind our bound: nobody ever waits inside its pool, where a
    cancelled wait would leave its slot taken for ever."""

    def __init__(self, inner: httpx.AsyncBaseTransport, limit: int) -> None:
        self._inner = inner
        self._limit = limit
        self._slots = trio.Semaphore(limit)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await self._enter(request.extensions.get("timeout", {}).get("pool"))
        try:
            response = await self._inner.handle_async_request(request)
        except BaseException:
            self._slots.release()
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Leaving(response.stream, self._slots.release)
        return response

    async def _enter(self, patience: float | None) -> None:
        with trio.move_on_after(float("inf") if patience is None else patience):
            await self._slots.acquire()
            return
        raise httpx.PoolTimeout(f"all {self._limit} connections were in use for {patience:g} s")

    async def aclose(self) -> None:
        await self._inner.aclose()


@attrs.define(eq=False)
class _Leaving(httpx.AsyncByteStream):
    """A body whose end is told, once."""

    inner: httpx.AsyncByteStream
    leave: Callable[[], None] | None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self.inner)

    async def aclose(self) -> None:
        leave, self.leave = self.leave, None
        try:
            await self.inner.aclose()
        finally:
            if leave is not None:
                leave()
