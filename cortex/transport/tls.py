"""Whom to trust: the system's own store, as curl and the browsers do.

On macOS and Windows through truststore. Elsewhere OpenSSL finds it by itself, and a truststore context would read the
whole store again for each connection: 18 ms in which nothing else runs.
"""

from __future__ import annotations

import ssl
import sys
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import trio

from .threads import in_thread

REREADING_SECONDS = 1.0
"""How long a call waits for certificates to be read again, where those that were read before may do as well."""

READERS = 2
"""Threads of one client that read certificates: of its own, for others may need all that there are."""

Cert: TypeAlias = str | tuple[str, ...]
"""A client's certificate: a PEM file that holds its key, too; or certificate and key; or these and its password."""


class Trust:
    """Whom a client trusts, and who it is itself, read when it is first needed. `verify` may be a context of the
    user's own, which has read its certificates itself: a `cert` beside it is a ValueError. TypeError for anything else.

    OSError for a file that cannot be read or does not fit; where one could be read before, that stays good.
    """

    def __init__(self, verify: bool | str | ssl.SSLContext, cert: Cert | None) -> None:
        if not isinstance(verify, bool | str | ssl.SSLContext):
            raise TypeError(f"verify: must be True, False, a path or an ssl.SSLContext, not {type(verify).__name__}")
        if not isinstance(cert, str | tuple | None):
            raise TypeError(f"cert: must be a path or a tuple of paths, not {type(cert).__name__}")
        if cert is not None and not isinstance(verify, bool | str):
            raise ValueError("cert: load it into the context that is given as verify")
        self._files = (verify, cert) if isinstance(verify, bool | str) else None
        self._context = None if isinstance(verify, bool | str) else verify
        self._fresh = self._context is not None
        self._reading = trio.Lock()
        self._threads = trio.CapacityLimiter(READERS)

    async def context(self) -> ssl.SSLContext:
        """The context. Many who come at once wait for one reading; who leaves leaves it alone."""
        if not self._fresh:
            async with self._reading:
                await self._read()
        assert self._context is not None
        return self._context

    async def _read(self) -> None:
        if self._fresh or self._files is None:
            return
        if self._context is None:
            self._context = await in_thread(shared_context, *self._files, limiter=self._threads)
        else:  # by now they may be half written, on a drive that hangs, or not for us to read any more
            with suppress(OSError), trio.move_on_after(REREADING_SECONDS):
                self._context = await in_thread(shared_context, *self._files, limiter=self._threads)
        self._fresh = True

    def doubt(self) -> None:
        """Look at the files again next time: certificates may be renewed while we run."""
        self._fresh = self._files is None


def shared_context(verify: bool | str = True, cert: Cert | None = None) -> ssl.SSLContext:
    """A context for clients, one for all who ask for the same: not to be changed. Reading the certificates takes 20 ms
    and more, so call it in a thread; they are read once, and again when their files have changed.

    `verify`: True for the system's store, False for nobody's word, or the path of a CA bundle or of a directory.
    OSError (ssl.SSLError among them) for a file that cannot be read or does not fit.
    """
    bundle = ssl.get_default_verify_paths().cafile if verify is True else verify or None
    files = [bundle, *([cert] if isinstance(cert, str) else (cert or ())[:2])]
    return _read(verify, cert, tuple(Path(file).stat().st_mtime_ns for file in files if file))


@lru_cache(maxsize=16)
def _read(verify: bool | str, cert: Cert | None, _changed: tuple[int, ...]) -> ssl.SSLContext:
    context = _trusting(verify)
    if cert is not None:
        file, key, password = (cert, None, "") if isinstance(cert, str) else (*cert, "")[:3]
        context.load_cert_chain(file, key, password)  # with None OpenSSL would ask for one at the terminal
    return context


def _trusting(verify: bool | str) -> ssl.SSLContext:
    if verify is True:
        return _system()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if verify is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif Path(verify).is_dir():
        context.load_verify_locations(capath=verify)
    else:
        context.load_verify_locations(cafile=verify)
    return context


def _system() -> ssl.SSLContext:
    """The system's own store; certifi's list where a bare container has none."""
    if sys.platform in ("darwin", "win32"):
        import truststore  # its contexts ask the system itself

        return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context = ssl.create_default_context()
    if not context.get_ca_certs() and not _has_certificates(ssl.get_default_verify_paths().capath):
        import certifi

        context.load_verify_locations(cafile=certifi.where())
    return context


def _has_certificates(folder: str | None) -> bool:
    return folder is not None and Path(folder).is_dir() and any(Path(folder).iterdir())
