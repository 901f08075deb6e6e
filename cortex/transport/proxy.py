"""Through a proxy: an HTTP one, by a tunnel or, for plain HTTP, by naming the whole address; or a SOCKS5 one.

Nothing but a connection is made here; what is said to the proxy on the way is no part of any request.
"""

from __future__ import annotations

import base64
import ipaddress
import ssl
from collections.abc import Awaitable, Callable

import attrs
import h11
import httpx
import trio

from .causes import words
from .dial import Connect, Link, secure

PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}
MAX_PORT = 65535
MAX_HEAD_BYTES = 64 * 1024
MAX_INTERIM = 64

_REFUSALS = {  # https://www.rfc-editor.org/rfc/rfc1928#section-6
    1: "general failure",
    2: "not allowed by its rules",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "it took too long",
    7: "it knows no such command",
    8: "it knows no such kind of address",
}


@attrs.frozen
class Proxy:
    """A proxy's address. `login`: user and password, if it wants any."""

    scheme: str
    host: str
    port: int
    login: tuple[str, str] | None = attrs.field(default=None, repr=False)

    @classmethod
    def at(cls, address: str) -> Proxy:
        """The proxy at an address such as http://user:password@proxy:3128; of socks5 and socks5h both leave the names
        to the proxy, as httpx does. ValueError for what is no address."""
        try:
            url = httpx.URL(address)
        except (httpx.InvalidURL, UnicodeError):
            url = httpx.URL()
        if url.scheme not in PORTS or not url.raw_host or not 0 <= (url.port or 0) <= MAX_PORT:
            # Nothing of it is shown: it may hold a password.
            raise ValueError("proxy: must be an address such as http://proxy.example.com:3128")
        login = (url.username, url.password) if url.username or url.password else None
        return cls(url.scheme, url.raw_host.decode("ascii"), url.port or PORTS[url.scheme], login)

    @property
    def is_socks(self) -> bool:
        return self.scheme.startswith("socks")

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """What an HTTP proxy has to be told of who asks."""
        if self.login is None:
            return []
        return [(b"proxy-authorization", b"Basic " + base64.b64encode(":".join(self.login).encode()))]

    def hushed(self, text: str) -> str:
        """A text of the proxy's without what it was told in confidence."""
        secrets = [value.decode().removeprefix("Basic ") for _, value in self.headers]
        for secret in filter(None, (*secrets, *(self.login or ())[1:])):
            text = text.replace(secret, "[secret]")
        return text

    def forwards(self, scheme: str) -> bool:
        """Whether it is asked for the whole address, and carries each request itself."""
        return scheme == "http" and not self.is_socks


async def through(
    proxy: Proxy, connect: Connect, scheme: str, host: str, port: int, trust: Callable[[], Awaitable[ssl.SSLContext]]
) -> Link:
    """A connection to `host` and `port`, through `proxy`; to the proxy itself where it forwards.

    `trust`: whom to trust as a proxy of HTTPS; OSError when that cannot be read. httpx.ProxyError when the proxy cannot
    be reached, or will not. Whatever goes wrong, a cancel too, nothing is left open.
    """
    context = await trust() if proxy.scheme == "https" else None  # before there is a socket to lose
    try:
        link = await connect(proxy.host, proxy.port)
        if context is not None:
            link = await secure(link, context, proxy.host)
    except OSError as error:
        raise httpx.ProxyError(words(error) or "the proxy cannot be reached") from error
    try:
        if proxy.is_socks:
            await _ask_socks(_Wire(link.stream), proxy, host, port)
        elif not proxy.forwards(scheme):
            await _dig(_Wire(link.stream), proxy, host, port)
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        link.close()
        raise httpx.ProxyError(words(error) or "the proxy hung up") from error
    except BaseException:
        link.close()
        raise
    return link


@attrs.define
class _Wire:
    """A proxy's stream."""

    stream: trio.abc.Stream

    async def say(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def hear(self, most: int = MAX_HEAD_BYTES) -> bytes:
        """What comes next, but not its end."""
        data = bytes(await self.stream.receive_some(most))
        if not data:
            raise httpx.ProxyError("the proxy hung up")
        return data

    async def hear_all(self, size: int) -> bytes:
        """Just so many bytes: what comes behind is the server's."""
        data = b""
        while len(data) < size:
            data += await self.hear(size - len(data))
        return data


# ------------------------------------------------------------------------------------------------------------ HTTP


async def _dig(wire: _Wire, proxy: Proxy, host: str, port: int) -> None:
    """https://www.rfc-editor.org/rfc/rfc9110#name-connect"""
    where = (f"[{host}]" if ":" in host else host).encode("ascii") + b":%d" % port
    state = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
    asked = h11.Request(method=b"CONNECT", target=where, headers=[(b"host", where), *proxy.headers])
    await wire.say((state.send(asked) or b"") + (state.send(h11.EndOfMessage()) or b""))
    try:
        event = await _reply(state, wire)
    except h11.RemoteProtocolError as error:
        raise httpx.ProxyError(f"the proxy is none of HTTP: {error}") from error
    if not 200 <= event.status_code < 300:
        said = f"{event.status_code} {bytes(event.reason).decode('latin-1')}"
        raise httpx.ProxyError(f"the proxy answered {proxy.hushed(said.strip())}")
    if state.trailing_data[0]:
        raise httpx.ProxyError("the proxy says more than it was asked")


async def _reply(state: h11.Connection, wire: _Wire) -> h11.Response:
    interim = 0
    while interim < MAX_INTERIM:
        event = state.next_event()
        if isinstance(event, h11.Response):
            return event
        if event is h11.NEED_DATA:
            state.receive_data(await wire.hear())
        else:
            interim += 1
    raise httpx.ProxyError(f"{MAX_INTERIM} interim replies of the proxy, and none to the request")


# ------------------------------------------------------------------------------------------------------------ SOCKS5


async def _ask_socks(wire: _Wire, proxy: Proxy, host: str, port: int) -> None:
    """https://www.rfc-editor.org/rfc/rfc1928, and /rfc1929 for the login."""
    await wire.say(b"\x05\x02\x00\x02" if proxy.login else b"\x05\x01\x00")
    version, method = await wire.hear_all(2)
    if version != 5:
        raise httpx.ProxyError("the proxy is none of SOCKS5")
    if method == 2 and proxy.login:
        await wire.say(b"\x01" + b"".join(map(_short, proxy.login)))
        if (await wire.hear_all(2))[1]:
            raise httpx.ProxyError("the proxy refused user and password")
    elif method:
        raise httpx.ProxyError("the proxy wants to be told who asks in a way that is not known here, or not at all")
    await wire.say(b"\x05\x01\x00" + _address(host) + port.to_bytes(2, "big"))
    version, refused, _, kind = await wire.hear_all(4)
    if version == 5 and refused:  # whatever follows: some say less then than they should
        raise httpx.ProxyError(f"the proxy could not connect: {_REFUSALS.get(refused, f'code {refused}')}")
    if version != 5 or kind not in (1, 3, 4):
        raise httpx.ProxyError("the proxy is none of SOCKS5")
    await wire.hear_all({1: 4, 4: 16}.get(kind) or (await wire.hear_all(1))[0])
    await wire.hear_all(2)


def _address(host: str) -> bytes:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return b"\x03" + _short(host)
    return bytes([1 if address.version == 4 else 4]) + address.packed


def _short(text: str) -> bytes:
    """A text behind its length, which is one byte."""
    data = text.encode()
    if len(data) > 255:
        raise httpx.ProxyError("SOCKS5 takes no name, user or password of more than 255 bytes")
    return bytes([len(data)]) + data
