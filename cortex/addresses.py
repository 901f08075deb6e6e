"""Addresses of providers: what a user may write, and whether a host is near. Pure; no name is ever looked up."""

from __future__ import annotations

import ipaddress
from typing import Final
from urllib.parse import urlsplit

from cortex import checks
from cortex.errors import ConfigError

_OLLAMA_PORT: Final = "11434"


def url(field: str, value: object) -> str:
    """An http(s) address without credentials, query or trailing slash."""
    plain = checks.text(field, value, example="https://api.example.com/v1")
    try:
        parts = urlsplit(plain)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigError(f"{field}: is not an address; pass e.g. https://api.example.com/v1") from None
    if parts.username is not None or parts.password is not None:
        raise ConfigError(f"{field}: holds credentials; pass the key as api_key, or what else is needed in headers")
    if parts.scheme not in ("http", "https"):
        raise ConfigError(f"{field}: must begin with http:// or https://")
    if port == 0:
        raise ConfigError(f"{field}: nothing can listen on port 0")
    if not host or not plain.isprintable() or " " in plain:
        raise ConfigError(f"{field}: names no host; pass e.g. https://api.example.com/v1")
    if parts.query or parts.fragment:
        raise ConfigError(f"{field}: may have no query and no fragment; what the dialect needs is added to it")
    return plain.rstrip("/")


def ollama_url(value: str) -> str:
    """The OpenAI-compatible address behind OLLAMA_HOST, which Ollama reads as `host`, `host:port`, `:port` or a URL.

    The variable may hold the address a server listens on: 0.0.0.0 then means this machine. Ports as Ollama has them:
    11434, or the scheme's own when there is a scheme (source: ollama's envconfig, `Host`).
    """
    scheme, found, rest = value.strip().partition("://")
    if not found:
        scheme, rest = "http", scheme
    authority, _, path = rest.partition("/")
    host, port = _host_and_port(authority)
    if host in ("", "0.0.0.0", "::"):  # noqa: S104 - read, not bound
        host = "127.0.0.1"
    default_port = _OLLAMA_PORT if not found else {"http": "80", "https": "443"}.get(scheme, _OLLAMA_PORT)
    shown = f"[{host}]" if ":" in host else host
    path = path.strip("/")
    if path.split("/")[-1] != "v1":
        path = f"{path}/v1".lstrip("/")
    return url("OLLAMA_HOST", f"{scheme}://{shown}:{port or default_port}/{path}")


def is_ollamas(base_url: str) -> bool:
    """Whether the address of a local server is that of Ollama's own API: it has no path, or one that ends in /api.

    An OpenAI-compatible server is reached at a path, which mostly ends in /v1.
    """
    path = urlsplit(base_url).path
    return path in ("", "/") or path.endswith("/api")


def _host_and_port(authority: str) -> tuple[str, str]:
    if authority.startswith("["):
        host, _, rest = authority[1:].partition("]")
        return host, rest.removeprefix(":")
    if authority.count(":") > 1:  # an IPv6 address without its brackets
        return authority, ""
    host, _, port = authority.partition(":")
    return host, port


def is_near(host: str) -> bool:
    """Whether a host is loopback, private or a bare name: a machine of one's own, as far as an address can tell."""
    host = host.rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        # A number alone, decimal or hexadecimal, is an IPv4 address in disguise.
        return "." not in host and not host.isdigit() and not host.startswith("0x")
    mapped = getattr(address, "ipv4_mapped", None)
    address = mapped if mapped is not None else address
    return address.is_loopback or address.is_private or address.is_link_local
