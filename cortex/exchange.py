"""One HTTP exchange: send an encoded call, read the reply, and say what happened as a value.

The only place that turns httpx's exceptions into `Failure`s. Whatever goes wrong on the wire comes back as a value;
cancellation passes through untouched; an exception that is not httpx's is a bug and is left to the caller.

A stream is ended by cancelling its reader's own scope, never by leaving the iteration: that unwinds the nested
generators of the transport in order.
"""

from __future__ import annotations

import errno
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

import attrs
import httpx
import trio

from cortex.messages import (
    Answer,
    Broken,
    Ended,
    Failure,
    Kind,
    Phase,
    Progress,
    StreamEvent,
    TextDelta,
    ThinkingDelta,
    ToolCallReady,
)
from cortex.timers import Timers
from cortex.wire.codec import HttpCall, HttpReply, Target, Wire

Emit = Callable[[StreamEvent], Awaitable[None]]

MAX_BODY = 64 * 1024 * 1024
"""Bytes of one reply, inflated: far above any real answer, far below a bomb."""

DRAIN_BYTES, DRAIN_SECONDS = 64 * 1024, 0.05
"""After the terminal event: how much is read on so that the connection can serve again."""

CLEANUP_SECONDS = 1.0


@attrs.frozen
class Exchanged:
    """The result of an exchange, and the seconds until its first token (streams only)."""

    result: Answer | Failure
    first_token: float | None = None


class _TooBigError(Exception):
    """A body outgrew MAX_BODY."""


@attrs.define
class _Trace:
    """Listens to the transport: was a connection opened for us, or one reused?"""

    reused: bool = True

    async def __call__(self, name: str, info: object) -> None:  # noqa: ARG002 - the extension's signature
        if name == "connection.connect_tcp.started":
            self.reused = False


async def exchange(
    transport: httpx.AsyncBaseTransport, wire: Wire, target: Target, call: HttpCall, timers: Timers, emit: Emit | None
) -> Exchanged:
    """Send `call` and read the reply: whole when `emit` is None, else as a stream whose events go to `emit`.

    Never raises for what the other side does; `trio.Cancelled` passes.
    """
    trace = _Trace()
    request = httpx.Request(
        call.method,
        call.url,
        headers=list(call.headers),
        content=call.body or None,
        extensions={
            "trace": trace,
            "timeout": {
                "connect": timers.connect,
                "write": timers.write,
                "pool": 1.0,
                # Only a backstop: the real timers are the scopes below.
                "read": max(timers.liveness, timers.first) + 5.0,
            },
        },
    )
    reader = _Reader(wire, target, timers, trace)
    try:
        if emit is None:
            return await reader.whole(transport, request)
        return await reader.stream(transport, request, emit)
    except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, OSError) as error:
        return Exchanged(failure_of(error, phase=reader.phase, reused=trace.reused), reader.first_token)
    except _TooBigError:
        text = f"the reply is larger than {MAX_BODY} bytes"
        return Exchanged(Failure(Kind.PROTOCOL, text, phase=reader.phase), reader.first_token)


@attrs.define
class _Reader:
    """Reads one reply; `phase` and `first_token` tell how far it came if it raises."""

    wire: Wire
    target: Target
    timers: Timers
    trace: _Trace
    phase: Phase = Phase.NOT_SENT
    first_token: float | None = None
    started: float = attrs.field(factory=trio.current_time)

    async def whole(self, transport: httpx.AsyncBaseTransport, request: httpx.Request) -> Exchanged:
        with trio.move_on_after(self.timers.first):
            response = await self._send(transport, request)
            try:
                body = await _read(response)
            finally:
                await _close(response)
            return Exchanged(self._decode(response, body))
        return Exchanged(self._late("no answer", Kind.TIMEOUT_FIRST))

    async def stream(self, transport: httpx.AsyncBaseTransport, request: httpx.Request, emit: Emit) -> Exchanged:
        first_until = self.started + self.timers.first
        response: httpx.Response | None = None
        with trio.move_on_at(first_until):
            response = await self._send(transport, request)
        if response is None:
            return Exchanged(self._late("no reply", Kind.TIMEOUT_FIRST))
        try:
            if not _is_event_stream(response):
                return await self._unstreamed(response, first_until, emit)
            return await self._events(response, first_until, emit)
        finally:
            await _close(response)

    async def _send(self, transport: httpx.AsyncBaseTransport, request: httpx.Request) -> httpx.Response:
        self.phase = Phase.SENT
        response = await transport.handle_async_request(request)
        self.phase = Phase.HEADERS
        return response

    async def _unstreamed(self, response: httpx.Response, until: float, emit: Emit) -> Exchanged:
        """An error status, or a server that answers a stream's request with one JSON body."""
        body: bytes | None = None
        with trio.move_on_at(until):
            body = await _read(response)
        if body is None:
            return Exchanged(self._late("no answer", Kind.TIMEOUT_FIRST))
        result = self._decode(response, body)
        if isinstance(result, Answer):
            self._note_first()
            if result.thinking:
                await emit(ThinkingDelta(result.thinking))
            if result.text:
                await emit(TextDelta(result.text))
        return Exchanged(result, self.first_token)

    async def _events(self, response: httpx.Response, first_until: float, emit: Emit) -> Exchanged:
        decoder = self.wire.decoder(self.target)
        chunks = aiter(response.aiter_bytes() if "content-encoding" in response.headers else response.aiter_raw())
        progress_until = first_until
        size = 0
        while True:
            # Only the reading is timed: while the consumer is slow, no provider is to blame.
            now = trio.current_time()
            data: bytes | None = None
            with trio.move_on_at(min(progress_until, now + self.timers.liveness)) as scope:
                data = await anext(chunks, None)
            if scope.cancelled_caught:
                return Exchanged(self._stalled(), self.first_token)
            size += len(data or b"")
            if size > MAX_BODY:
                await _abandon(chunks)
                raise _TooBigError
            semantic = False
            for event in decoder.close() if data is None else decoder.feed(data):
                match event:
                    case Ended(answer):
                        self._note_first()
                        await _drain(chunks)
                        return Exchanged(answer, self.first_token)
                    case Broken(failure):
                        await _abandon(chunks)
                        return Exchanged(self._in_stream(failure, response), self.first_token)
                    case TextDelta() | ThinkingDelta() | ToolCallReady() | Progress():
                        semantic = True
                        self._note_first()
                        await emit(event)
            if data is None:
                raise RuntimeError(f"the {self.wire.name} decoder gave no verdict at the stream's end")
            if semantic:
                progress_until = trio.current_time() + self.timers.progress
            # A reply that is all there already must not starve the others or a cancel.
            await trio.lowlevel.cancel_shielded_checkpoint()

    def _note_first(self) -> None:
        if self.first_token is None:
            self.first_token = trio.current_time() - self.started
            self.phase = Phase.STREAM

    def _in_stream(self, failure: Failure, response: httpx.Response) -> Failure:
        request_id = response.headers.get("x-request-id") or response.headers.get("request-id")
        return attrs.evolve(failure, phase=self.phase, request_id=failure.request_id or request_id)

    def _decode(self, response: httpx.Response, body: bytes) -> Answer | Failure:
        headers = {name.lower(): value for name, value in response.headers.items()}
        return self.wire.decode(HttpReply(response.status_code, headers, body), self.target)

    def _late(self, what: str, kind: Kind) -> Failure:
        waited = trio.current_time() - self.started
        return Failure(kind, f"{what} within {waited:.1f} s", phase=self.phase, reused=self.trace.reused)

    def _stalled(self) -> Failure:
        if self.first_token is None:
            return self._late("no first token", Kind.TIMEOUT_FIRST)
        return self._late("the stream stood still; it had begun", Kind.TIMEOUT_GAP)


async def _read(response: httpx.Response) -> bytes:
    """The whole body, inflated, at most MAX_BODY bytes."""
    parts: list[bytes] = []
    size = 0
    chunks = response.aiter_bytes(64 * 1024)
    async for part in chunks:
        size += len(part)
        if size > MAX_BODY:
            await _abandon(chunks)
            raise _TooBigError
        parts.append(part)
    return b"".join(parts)


async def _drain(chunks: AsyncIterator[bytes]) -> None:
    """Read on to the end for a moment, so that the connection can be used again; then give it up."""
    left = DRAIN_BYTES
    with trio.move_on_after(DRAIN_SECONDS):
        while left > 0:
            try:
                data = await anext(chunks, None)
            except (httpx.HTTPError, OSError):
                return  # the answer is whole already; how its connection ended matters to nobody
            if data is None:
                return
            left -= len(data)
        await _abandon(chunks)


async def _abandon(chunks: AsyncIterator[bytes]) -> None:
    """End an iteration before its end: a cancelled read unwinds the generators inside it."""
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await anext(chunks, None)
        except (httpx.HTTPError, OSError):
            return


async def _close(response: httpx.Response) -> None:
    with trio.move_on_after(CLEANUP_SECONDS, shield=True):
        try:
            await response.aclose()
        except (httpx.HTTPError, OSError):
            return  # a connection that cannot even be closed is gone


def _is_event_stream(response: httpx.Response) -> bool:
    return response.status_code == 200 and "text/event-stream" in response.headers.get("content-type", "")


# --------------------------------------------------------------------------------------------- exceptions to values

_TABLE: tuple[tuple[type[Exception], Kind, Phase | None], ...] = (
    # the first that fits; a phase of None means: as far as we had come
    (httpx.ConnectTimeout, Kind.TIMEOUT_CONNECT, Phase.NOT_SENT),
    (httpx.PoolTimeout, Kind.LOCAL, Phase.NOT_SENT),
    (httpx.ConnectError, Kind.CONNECT, Phase.NOT_SENT),
    (httpx.ProxyError, Kind.CONNECT, Phase.NOT_SENT),
    (httpx.UnsupportedProtocol, Kind.LOCAL, Phase.NOT_SENT),
    (httpx.LocalProtocolError, Kind.LOCAL, Phase.NOT_SENT),
    (httpx.InvalidURL, Kind.LOCAL, Phase.NOT_SENT),
    (httpx.TimeoutException, Kind.TIMEOUT_GAP, None),
    (httpx.DecodingError, Kind.PROTOCOL, None),
    (httpx.StreamError, Kind.LOCAL, None),
    (httpx.HTTPError, Kind.TRANSIENT, None),
    (OSError, Kind.TRANSIENT, None),
)

_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def failure_of(error: Exception, *, phase: Phase, reused: bool = False) -> Failure:
    """What an exception of the wire means. The message is never empty: TLS errors often have none of their own."""
    kind, fixed = next((kind, fixed) for cls, kind, fixed in _TABLE if isinstance(error, cls))
    causes = _causes(error)
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        kind = Kind.CERTIFICATE
    elif any(isinstance(cause, OSError) and cause.errno in _OURS for cause in causes):
        kind = Kind.LOCAL
    elif kind is Kind.TRANSIENT and phase in (Phase.HEADERS, Phase.STREAM):
        kind = Kind.CUT
    words = next((str(cause) for cause in causes if str(cause)), "no further word")
    name = type(causes[0]).__name__
    return Failure(kind, f"{name}: {words}"[:500], phase=fixed or phase, reused=reused and fixed is None)


def _causes(error: BaseException) -> list[BaseException]:
    """The exception and what caused it, outermost first; a ring or a very long chain ends it."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain and len(chain) < 10:
        chain.append(current)
        current = current.__cause__ or current.__context__
    return chain
