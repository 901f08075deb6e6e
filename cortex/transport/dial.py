"""From a name to an open connection: DNS in threads of its own, several addresses side by side, TLS.

A lookup cannot be cancelled, only left alone, so a name server that hangs would take all the threads that others need:
hence a limit of its own.
"""

from __future__ import annotations

import itertools
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias

import attrs
import trio

from .causes import words
from .threads import in_thread

Address: TypeAlias = tuple[socket.AddressFamily, Any]

LOOKUPS = 8
"""Name lookups of one client at a time."""

EYEBALLS_SECONDS = 0.25
"""How long an address may take before the next one is tried beside it (RFC 8305, section 5)."""


@attrs.frozen
class Link:
    """An open byte stream, and what has to be possible at once, without awaiting.

    `is_silent`: there is nothing to be read, not even an end. `send`: how many bytes could be sent without waiting, a
    turn of the loop that most requests can be spared; OSError when the connection is broken. `receive`: what the stream
    receives, where there is a shorter way to it.
    """

    stream: trio.abc.Stream
    close: Callable[[], None]
    is_silent: Callable[[], bool]
    send: Callable[[bytes], int] = lambda _data: 0
    receive: Callable[[int], Awaitable[bytes]] = attrs.field(
        default=attrs.Factory(lambda link: link.stream.receive_some, takes_self=True)
    )


Connect: TypeAlias = Callable[[str, int], Awaitable[Link]]
"""Open a connection to a host and a port; OSError when it cannot be."""


class TcpConnect:
    """Connects to whichever address of a name answers first."""

    def __init__(self) -> None:
        self._lookups = trio.CapacityLimiter(LOOKUPS)

    async def __call__(self, host: str, port: int) -> Link:
        addresses = await self._addresses(host, port)
        sock = await (_connect(addresses[0]) if len(addresses) == 1 else _race(addresses))
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        close = partial(_close, stream.socket, os.getpid())
        return Link(
            stream, close, partial(_is_silent, sock, os.getpid()), partial(_send, sock), partial(_receive, sock)
        )

    async def _addresses(self, host: str, port: int) -> list[Address]:
        look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        try:
            found = look_up(flags=socket.AI_NUMERICHOST)  # asks nobody
        except UnicodeError:
            raise OSError(f"{host!r} cannot be the name of a host") from None
        except socket.gaierror:
            found = await in_thread(look_up, limiter=self._lookups)
        return _alternating([(family, address) for family, _, _, _, address in found])


def _alternating(addresses: list[Address]) -> list[Address]:
    """IPv6 and IPv4 in turns, in the order of the resolver's preference (RFC 8305, section 4)."""
    first = addresses[0][0]
    same = [address for address in addresses if address[0] is first]
    other = [address for address in addresses if address[0] is not first]
    return [one for pair in itertools.zip_longest(same, other) for one in pair if one is not None]


async def _connect(address: Address) -> socket.socket:
    family, where = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        await trio.socket.from_stdlib_socket(sock).connect(where)
    except BaseException:
        sock.close()
        raise
    return sock


@attrs.define
class _Race:
    """Several addresses, the first that answers wins: a dead one costs a moment and not the whole patience."""

    addresses: list[Address]
    winner: socket.socket | None = None
    errors: list[OSError] = attrs.field(factory=list)

    async def run(self) -> socket.socket:
        try:
            async with trio.open_nursery() as nursery:
                for address in self.addresses:
                    failed = trio.Event()
                    nursery.start_soon(self._try, address, failed, nursery.cancel_scope)
                    with trio.move_on_after(EYEBALLS_SECONDS):
                        await failed.wait()
        except BaseException:
            if self.winner is not None:
                self.winner.close()
            raise
        if self.winner is None:
            raise OSError("; ".join(map(str, self.errors))) from self.errors[-1]
        return self.winner

    @trio.lowlevel.enable_ki_protection
    async def _try(self, address: Address, failed: trio.Event, others: trio.CancelScope) -> None:
        try:
            sock = await _connect(address)
        except OSError as error:
            self.errors.append(error)
            failed.set()
            return
        if self.winner is None:
            self.winner = sock
            others.cancel()
        else:
            sock.close()


async def _race(addresses: list[Address]) -> socket.socket:
    return await _Race(addresses).run()


def _close(sock: trio.socket.SocketType, owner: int) -> None:
    """With a word to the peer, for the socket stays open as long as a forked child has it, too. Not from such a child:
    it would end its parent's connection."""
    if os.getpid() == owner:
        with suppress(OSError):  # the peer was first
            sock.shutdown(socket.SHUT_RDWR)
    sock.close()


def _is_silent(sock: socket.socket, owner: int) -> bool:
    """Never to a forked child, whose words would come between those of its parent."""
    if os.getpid() != owner:
        return False
    try:
        sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _send(sock: socket.socket, data: bytes) -> int:
    try:
        return sock.send(data)
    except BlockingIOError:
        return 0


async def _receive(sock: socket.socket, most: int) -> bytes:
    """Wait first: right after a request there is nothing yet, and to try would cost a call and an exception."""
    while True:
        try:
            await trio.lowlevel.wait_readable(sock)
            return sock.recv(most)
        except BlockingIOError:
            continue
        except (OSError, ValueError) as error:  # the latter for one that is closed
            raise trio.BrokenResourceError(str(error)) from error


async def secure(link: Link, context: ssl.SSLContext, host: str) -> Link:
    """TLS over an open connection, which is closed if that fails. OSError with the reason in words."""
    # "compatible": most servers of HTTPS hang up without the closing words that TLS asks for
    try:
        context.set_alpn_protocols(["http/1.1"])  # each time, as httpx does: a user's own context may have other users
        stream = trio.SSLStream(link.stream, context, server_hostname=host, https_compatible=True)
        await stream.do_handshake()
    except (trio.BrokenResourceError, ssl.SSLError, ValueError) as error:  # ValueError: it is no name for TLS
        link.close()
        raise OSError(words(error) or "the peer hung up during the TLS handshake") from error
    except BaseException:
        link.close()
        raise

    def is_silent() -> bool:
        # What has come, and was not asked for yet, waits inside of TLS: neither the socket nor `pending` tells of it.
        # This is private to trio: a release without it costs a handshake a call, and no call.
        waiting = getattr(getattr(stream, "_incoming", None), "pending", 1)
        return not waiting and link.is_silent()

    return Link(stream, link.close, is_silent)
