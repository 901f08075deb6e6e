"""The key of one provider: a text, or the user's own function, asked when a key is needed and not at every call.

A rotated key needs no restart: whoever is told that the key does not fit calls `forget`, and the next call asks anew.
Google's access tokens tell themselves when they expire, and are asked for before that.
"""

from __future__ import annotations

import inspect

import attrs
import trio

from cortex import checks, ends
from cortex.errors import CortexError
from cortex.messages import Failure, Kind, Phase
from cortex.protocol import Caller
from cortex.vendors import ApiKey
from cortex.vertex import AccessToken

ANY = object()

KEY_SECONDS = 10.0
"""How long the user's function may take, the wait for somebody else's question included."""


@attrs.define
class Keys:
    """Where a provider's key comes from. One asks at a time, the others wait for that answer."""

    source: ApiKey | None = attrs.field(repr=False)
    _cached: str | None = attrs.field(default=None, init=False, repr=False)
    _last: str | None = attrs.field(default=None, init=False, repr=False)
    _lock: trio.Lock = attrs.field(factory=trio.Lock, init=False, repr=False)

    @property
    def rotates(self) -> bool:
        """Whether asking again can give another key."""
        return callable(self.source)

    @property
    def needs_caller(self) -> bool:
        """Whether only a caller's own loop can run the function."""
        return inspect.iscoroutinefunction(self.source) or inspect.iscoroutinefunction(
            getattr(self.source, "__call__", None)  # noqa: B004 - an object whose call is async
        )

    @property
    def last(self) -> str | None:
        """The key as it was last used, for hiding it."""
        return self._last if callable(self.source) else self.source

    def forget(self, key: object = ANY) -> None:
        """The key may have been rotated; `key` is the one that did not fit, if the cached one is still that."""
        if key is ANY or key == self._cached:
            self._cached = None

    async def get(self, caller: Caller | None) -> str | Failure | None:
        """The key, None where there is none, or why it could not be had. `caller` None: nobody waits, it is a probe."""
        if not callable(self.source):
            return self.source
        if self._cached is not None and not self._expired:
            return self._cached
        with trio.move_on_after(KEY_SECONDS):
            async with self._lock:
                if self._cached is None or self._expired:
                    found = await self._ask(caller)
                    if isinstance(found, Failure):
                        return found
                    self._cached = self._last = found
                return self._cached
        who = "Google" if isinstance(self.source, AccessToken) else "the api_key function"
        return _failed(f"{who} gave no key within {KEY_SECONDS:.0f} s")

    @property
    def _expired(self) -> bool:
        return isinstance(self.source, AccessToken) and not self.source.fresh

    async def _ask(self, caller: Caller | None) -> str | Failure:
        source = self.source
        assert callable(source)
        try:
            if caller is not None:
                key = await caller.run(source, {}, is_async=self.needs_caller)
            else:
                key = await trio.to_thread.run_sync(ends.call, source, abandon_on_cancel=True)
        except Exception as error:  # the user's function may raise anything; its words may hold the key
            raised = error.__cause__ if isinstance(error, CortexError) else error
            return _failed(f"the api_key function raised {type(raised or error).__name__}")
        return _checked(key)


def _checked(key: object) -> str | Failure:
    """A key goes into a header: one line of visible ASCII."""
    if isinstance(key, Failure):  # Google's credentials know better than we why there is none
        return key
    if not isinstance(key, str):
        return _failed(f"the api_key function gave {checks.kind(key)} instead of a text")
    plain = key.strip()
    if not plain or " " in plain or not (plain.isascii() and plain.isprintable()):
        return _failed("the api_key function gave a text that is no key: it is empty, or holds a space or a line break")
    return plain


def _failed(words: str) -> Failure:
    """No key, no call: others may serve, and this one heals like any other wrong key."""
    return Failure(Kind.CREDENTIAL, words, phase=Phase.NOT_SENT)
