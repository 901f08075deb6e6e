"""One connection: requests out, replies in, which h11 reads. It knows nothing of pools."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TypeAlias

import attrs
import h11
import httpx
import trio

from cortex.messages import Phase

from .causes import words
from .dial import Link
from .progress import Progress
from .request import Body, BodyWriter, Head, Headers

RECEIVE_BYTES = 64 * 1024
AT_ONCE_BYTES = 64 * 1024
"""A body up to this size goes out in one piece with its head; for a larger one we listen while we send."""

MAX_HEAD_BYTES = 100 * 1024
MAX_HEADERS = 256
MAX_INTERIM = 64
"""Replies of the kind "103 Early Hints" before the real one: each of them proves that the server is alive, forever."""

AHEAD_BYTES, AHEAD_SECONDS = 64 * 1024, 1.0
"""How much of a refusal is read while we still send, and for how long."""

EXPECT_SECONDS = 1.0
"""How long to wait for "100 Continue" (RFC 9110, section 10.1.1: no client needs to wait for ever)."""

_FRAMING = (b"content-length", b"transfer-encoding")
_HEADS = (h11.Response, h11.InformationalResponse)
_AnyHead: TypeAlias = h11.Response | h11.InformationalResponse

_ASKED = {
    is_head: h11.Request(method="HEAD" if is_head else "GET", target="/", headers=[("host", "")])
    for is_head in (True, False)
}
"""All that h11 has to know of a request to read the reply: whether it asked for a body. `request.py` writes it."""


Timeouts: TypeAlias = Mapping[str, float | None]
"""httpx's extension `timeout`: seconds, or None, for "connect", "read", "write", "pool"; `read` and `write` are for one
step each."""


def _reader(is_head: bool) -> h11.Connection:
    """For one reply."""
    reader = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
    reader.send(_ASKED[is_head])
    return reader


class Connection:
    """One at a time: `exchange` a request, `read` the body of its reply to the end, and so on."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._h11 = _reader(is_head=False)
        self.is_sent = False
        """Whether all of the request has been sent."""
        self._starving = True
        self._ahead = b""
        self._over = False
        self._failed: httpx.HTTPError | None = None
        self._is_last = False
        self._unsent = ""

    # ---- between two requests

    def is_usable(self) -> bool:
        """Whether the next request may go out on it: the peer has said nothing since, not even good-bye."""
        return self._link.is_silent()

    def close(self) -> None:
        """At once, and without a word: whatever is in the way is lost."""
        self._link.close()

    @property
    def is_over(self) -> bool:
        """Whether the reply has been read to its end."""
        return self._over

    def is_complete(self) -> bool:
        """Whether all of the reply has been received, be it read or not."""
        self._pieces()
        return self._over

    def may_serve_again(self) -> bool:
        """Whether another request may follow: both must have said all, nothing more, and mean to go on."""
        done = self.is_sent and self._h11.their_state is h11.DONE
        return done and not self._is_last and not any(self._h11.trailing_data)

    # ---- a request

    async def exchange(
        self, head: Head, body: Body, timeouts: Timeouts, progress: Progress
    ) -> tuple[h11.Response, Headers]:
        """Send a request and read the head of its reply, whose headers are given as they came. httpx's exceptions;
        after any, the connection is good for nothing but `close`."""
        self._h11 = _reader(head.is_head)
        self.is_sent, self._starving, self._over, self._ahead = False, True, False, b""
        writer = BodyWriter(head.length)
        if isinstance(body, bytes) and len(body) <= AT_ONCE_BYTES and not head.expects:
            data = head.data + writer.piece(body) + writer.end()
            progress.phase = Phase.SENT
            if left := self._send_now(data):
                await self._send_rest(left, timeouts.get("write"))
            reply = await passing_over(self.event, timeouts.get("read"))
        else:
            reply = await _Upload(self, head, body, writer, timeouts, progress).run()
        headers = reply.headers.raw_items()
        if len(headers) > MAX_HEADERS:
            raise httpx.RemoteProtocolError(f"the reply has {len(headers)} headers; {MAX_HEADERS} are enough")
        names = [name.lower() for name, _ in headers]  # h11's own iteration takes ten times as long
        # Two framings contradict each other: whoever stands between may have read another one (RFC 9112, section 6.3).
        self._is_last = head.closes or sum(map(names.count, _FRAMING)) > 1
        return reply, headers

    def _send_now(self, data: bytes) -> bytes:
        """What cannot be sent without waiting; nothing can, and need be, where the server has hung up."""
        try:
            left = data[self._link.send(data) :]
        except OSError:
            return b""
        self.is_sent = not left
        return left

    async def _send_rest(self, data: bytes, patience: float | None) -> None:
        with suppress(httpx.WriteError):  # a server that hung up early may have said why
            await self.send(data, patience)
            self.is_sent = True

    async def send(self, data: bytes, patience: float | None) -> None:
        try:
            if data := data[self._link.send(data) :]:
                with trio.move_on_after(float("inf") if patience is None else patience) as scope:
                    await self._link.stream.send_all(data)
                if scope.cancelled_caught:
                    raise httpx.WriteTimeout(f"the server took nothing for {patience:g} s")
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._unsent = words(error) or "the connection broke while sending"
            raise httpx.WriteError(self._unsent) from error

    # ---- its reply

    async def event(self, patience: float | None) -> _AnyHead:
        """The next head of any kind."""
        while True:
            if self._starving:
                data = await self._receive(patience)
                if not data and self._h11.their_state is h11.SEND_RESPONSE:
                    raise httpx.RemoteProtocolError("Server disconnected without sending a response.")
                self._feed(data)
            event = self._parsed()
            if isinstance(event, _HEADS):
                return event
            assert event is h11.NEED_DATA  # whatever else begins a reply is an error of h11

    async def read(self, patience: float | None) -> bytes:
        """All of the reply's body that has come; b"" at the end."""
        if self._ahead:
            ahead, self._ahead = self._ahead, b""
            return ahead
        while True:
            pieces = self._pieces()
            if pieces:
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)
            if self._failed is not None:
                raise self._failed
            if self._over:
                return b""
            self._feed(await self._receive(patience))

    async def read_ahead(self) -> None:
        """Read some of the body now, and keep it: over TLS nothing can be read after a send that was cut short."""
        ahead = b""
        with trio.move_on_after(AHEAD_SECONDS):
            try:
                while not self._over and len(ahead) < AHEAD_BYTES:
                    ahead += await self.read(None)
            except httpx.HTTPError as error:
                self._failed = error
        self._ahead = ahead

    def _pieces(self) -> list[bytes]:
        """What of the body has been received. An error after it waits for its turn."""
        pieces: list[bytes] = []
        while not (self._starving or self._over) and self._failed is None:
            try:
                event = self._parsed()
            except httpx.RemoteProtocolError as error:
                self._failed = error
                break
            if isinstance(event, h11.Data):
                pieces.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                self._over = True
            else:
                break
        return pieces

    def _feed(self, data: bytes) -> None:
        self._h11.receive_data(data)
        self._starving = False

    def _parsed(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """What comes next of what was received. It is not asked for what it said it lacks: to ask costs a parsing."""
        try:
            event = self._h11.next_event()
        except h11.RemoteProtocolError as error:
            # h11 was told of no wish for another protocol, and says so, in its own words.
            other = "SWITCH" in str(error)
            told = "the server changed the protocol, and there is no other here" if other else str(error)
            raise httpx.RemoteProtocolError(told) from error
        self._starving = event is h11.NEED_DATA
        return event

    async def _receive(self, patience: float | None) -> bytes:
        try:
            if patience is None:
                return bytes(await self._link.receive(RECEIVE_BYTES))
            with trio.move_on_after(patience):
                return bytes(await self._link.receive(RECEIVE_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            # TLS reads nothing more after a send that failed, and has no words of its own for that.
            raise httpx.ReadError(words(error) or self._unsent or "the connection broke while reading") from error
        raise httpx.ReadTimeout(f"the server said nothing for {patience:g} s")


async def passing_over(
    next_head: Callable[[float | None], Awaitable[_AnyHead]], patience: float | None
) -> h11.Response:
    """The head of the reply; what comes before it is passed over."""
    for _ in range(MAX_INTERIM):
        event = await next_head(patience)
        if isinstance(event, h11.Response):
            return event
    raise httpx.RemoteProtocolError(f"{MAX_INTERIM} interim replies, and none to the request")


@attrs.define(repr=False)
class _Upload:
    """A request that is large, or of unknown size, or that waits to be asked for: it is sent while we listen, because a
    server may answer, and hang up, before it has heard all."""

    connection: Connection
    head: Head
    body: Body
    writer: BodyWriter
    timeouts: Timeouts
    progress: Progress
    begun: bool = False
    done: bool = False
    invited: trio.Event = attrs.field(factory=trio.Event)
    failed: Exception | None = None
    reply: h11.Response | None = None

    async def run(self) -> h11.Response:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send, nursery.cancel_scope)
            nursery.start_soon(self._listen, nursery.cancel_scope)
        if self.reply is not None and (self.failed is None or self._excused):
            return self.reply
        assert self.failed is not None
        raise self.failed

    @property
    def _excused(self) -> bool:
        """Whether an answer stands although not all could be sent: a refusal, or one whose server took nothing more. It
        does not for a body that failed of itself: that answer is one to something else."""
        refused = self.reply is not None and self.reply.status_code >= 400
        return refused or isinstance(self.failed, httpx.WriteTimeout)

    @trio.lowlevel.enable_ki_protection
    async def _send(self, both: trio.CancelScope) -> None:
        try:
            await self._speak()
            self.done = True
        except httpx.WriteError:
            self.done = True  # a server that hung up early may have said why: whoever listens will hear it
        except Exception as error:  # the caller's body may raise anything, and is told so
            self.failed = error
            both.cancel()

    async def _speak(self) -> None:
        self.progress.phase = Phase.SENT
        await self.connection.send(self.head.data, self.timeouts.get("write"))
        if self.head.expects:
            with trio.move_on_after(EXPECT_SECONDS):
                await self.invited.wait()
        self.begun = True
        if isinstance(self.body, bytes):
            for start in range(0, len(self.body), AT_ONCE_BYTES):
                await self._piece(self.body[start : start + AT_ONCE_BYTES])
        else:
            await self._pieces(aiter(self.body))
        await self._send_on(self.writer.end())
        self.connection.is_sent = True

    @trio.lowlevel.disable_ki_protection  # the body is the caller's own code, and may compute for long
    async def _pieces(self, pieces: AsyncIterator[bytes]) -> None:
        try:
            async for piece in pieces:
                await self._piece(piece)
        finally:
            if isinstance(pieces, AsyncGenerator):  # one that is left in the middle would end elsewhere, much later
                await pieces.aclose()

    async def _piece(self, piece: bytes) -> None:
        await self._send_on(self.writer.piece(piece))

    async def _send_on(self, data: bytes) -> None:
        if data:
            await self.connection.send(data, self.timeouts.get("write"))

    @trio.lowlevel.enable_ki_protection
    async def _listen(self, both: trio.CancelScope) -> None:
        try:
            self.reply = await passing_over(self._patiently, self.timeouts.get("read"))
            wanted = self.begun or self.invited.is_set() or not self.head.expects
            if self.reply.status_code < 400 and wanted:
                return  # the body goes on
            if not self.done:
                await self.connection.read_ahead()
        except httpx.HTTPError as error:
            self.failed = error
        both.cancel()

    async def _patiently(self, patience: float | None) -> _AnyHead:
        """While we still speak, nobody owes us an answer."""
        while True:
            speaking = not self.done
            try:
                event = await self.connection.event(patience)
            except httpx.ReadTimeout:
                if speaking:
                    continue
                raise
            if event.status_code == 100:
                self.invited.set()
            return event
