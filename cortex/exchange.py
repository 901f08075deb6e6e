"""One HTTP exchange: send an encoded call, read the reply, and say what happened as a value.

The only place that turns httpx's exceptions into `Failure`s. Whatever goes wrong on the wire comes back as a value;
cancellation passes through untouched; an exception that is not httpx's is a bug and is left to the caller.

A stream is ended by cancelling its reader's own scope, never by leaving the iteration: that unwinds the nested
generators of the transport in order.
"""

from __future__ import annotations

import errno
import ssl
import zlib
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
    StreamEvent,
    TextDelta,
    ThinkingDelta,
)
from cortex.timers import Timers
from cortex.wire.codec import HttpCall, HttpReply, Target, Wire
from cortex.wire.faults import scrub

Emit = Callable[[StreamEvent], Awaitable[None]]

MAX_BODY = 64 * 1024 * 1024
"""Bytes of one reply, inflated: far above any real answer, far below a bomb."""

DRAIN_BYTES, DRAIN_SECONDS = 64 * 1024, 0.05
"""After the terminal event: how much is read on so that the connection can serve again."""

BUFFERED_PIECES = 10_000
"""What has been received already comes without a wait, so that no cancel is felt before it is through."""

CLEANUP_SECONDS = 1.0


@attrs.frozen
class Exchanged:
    """The result of an exchange, and the seconds until its first token (streams only)."""

    result: Answer | Failure
    first_token: float | None = None


class _BodyError(Exception):
    """A body that cannot be taken: too large, or not packed as it says."""


@attrs.define
class _Trace:
    """Listens to the transport: was a connection opened for us, or one reused? One that says nothing did neither."""

    opened: bool = False
    reused: bool = False

    async def __call__(self, name: str, info: object) -> None:  # noqa: ARG002 - the extension's signature
        if name == "connection.connect_tcp.started":
            self.opened = True
        elif name == "http11.send_request_headers.started":
            self.reused = not self.opened


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
                "read": max(timers.liveness, timers.first.seconds) + 5.0,
            },
        },
    )
    reader = _Reader(wire, target, timers, trace)
    try:
        if emit is None:
            return await reader.whole(transport, request)
        return await reader.stream(transport, request, emit)
    except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, OSError) as error:
        failure = failure_of(error, target, phase=reader.phase, reused=trace.reused)
        return Exchanged(failure, reader.first_token)
    except _BodyError as error:
        return Exchanged(Failure(Kind.PROTOCOL, str(error), phase=reader.phase), reader.first_token)


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
        with trio.move_on_after(self.timers.first.seconds):
            response = await self._send(transport, request)
            try:
                body = await _read(response)
            finally:
                await _close(response)
            return Exchanged(self._decode(response, body))
        return Exchanged(self._late("no answer", Kind.TIMEOUT_FIRST))

    async def stream(self, transport: httpx.AsyncBaseTransport, request: httpx.Request, emit: Emit) -> Exchanged:
        first_until = self.started + self.timers.first.seconds
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
        body = _Body.of(response)
        try:
            result = await self._follow(body, first_until, emit)
            if isinstance(result, Answer):
                await body.drain()
                return Exchanged(result, self.first_token)
            return Exchanged(self._in_stream(result, response), self.first_token)
        finally:
            await body.abandon()

    async def _follow(self, body: _Body, first_until: float, emit: Emit) -> Answer | Failure:
        """Read to the terminal event, and pass on what comes before it."""
        decoder = self.wire.decoder(self.target)
        until = first_until
        while True:
            # Only the reading is timed: while the consumer is slow, no provider is to blame.
            data: bytes | None = None
            with trio.move_on_at(min(until, trio.current_time() + self.timers.liveness)) as scope:
                data = await body.next()
            if scope.cancelled_caught:
                return self._stalled()
            verdict, semantic = await self._pass_on(decoder.close() if data is None else decoder.feed(data), emit)
            if verdict is not None:
                return verdict
            if data is None:
                raise RuntimeError(f"the {self.wire.name} decoder gave no verdict at the stream's end")
            if semantic:
                until = trio.current_time() + self.timers.progress
            # A reply that is all there already must not starve the others.
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def _pass_on(self, events: list[StreamEvent], emit: Emit) -> tuple[Answer | Failure | None, bool]:
        """The verdict, if it is among `events`, and whether any of them was progress: comments and pings are none."""
        semantic = False
        for event in events:
            match event:
                case Ended(answer):
                    self._note_first()
                    return answer, True
                case Broken(failure):
                    return failure, semantic
                case _:
                    semantic = True
                    self._note_first()
                    await emit(event)
        return None, semantic

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


@attrs.define
class _Body:
    """The body of a reply as it comes, inflated, at most MAX_BODY bytes. Whoever reads it abandons it in the end: a
    generator left in the middle would be closed by the garbage collector, in the wrong task.

    It is inflated here and not by httpx, whose decoders know no limit and leave the reader open when they fail.
    """

    chunks: AsyncIterator[bytes]
    inflate: Callable[[bytes], bytes] | None = None
    size: int = 0
    over: bool = False

    @classmethod
    def of(cls, response: httpx.Response) -> _Body:
        """The body of `response`, not yet read."""
        if response.is_stream_consumed:  # made whole by a transport that has no wire
            return cls(response.aiter_bytes())
        return cls(response.aiter_raw(), _inflater(response.headers.get("content-encoding", "")))

    async def next(self) -> bytes | None:
        """The next piece; None at the end."""
        data = await self._piece()
        if data is None:
            return None
        if self.inflate is not None:
            data = self.inflate(data)
        self.size += len(data)
        if self.size > MAX_BODY:
            raise _BodyError(f"the reply is larger than {MAX_BODY} bytes")
        return data

    async def _piece(self) -> bytes | None:
        self.over = True  # whatever ends the read, a cancel too, unwinds the generators inside
        data = await anext(self.chunks, None)
        self.over = data is None
        return data

    async def drain(self) -> None:
        """Read on to the end for a moment, so that the connection can be used again."""
        enough = self.size + DRAIN_BYTES
        with trio.move_on_after(DRAIN_SECONDS):
            try:
                while not self.over and self.size < enough:
                    await self.next()
            except (httpx.HTTPError, OSError, _BodyError):
                return  # the answer is whole already; how its connection ended matters to nobody

    async def abandon(self) -> None:
        """End the reading, wherever it is: a cancelled read unwinds the generators in order."""
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                for _ in range(BUFFERED_PIECES):
                    if self.over:
                        return
                    await self._piece()
            except (httpx.HTTPError, OSError):
                return


_PACKED = {"gzip": zlib.MAX_WBITS | 16, "x-gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}


def _inflater(encoding: str) -> Callable[[bytes], bytes] | None:
    """For what a server packs although nobody asked it to. None: it is plain."""
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return None
    bits = _PACKED.get(name)
    unpacker = zlib.decompressobj(bits) if bits is not None else None

    def inflate(data: bytes) -> bytes:
        if unpacker is None:
            raise _BodyError(f"the reply is packed as {name[:50]!r}, which nobody asked for")
        try:
            return unpacker.decompress(data, MAX_BODY + 1)
        except zlib.error as error:
            raise _BodyError(f"the reply says that it is {name}, and is not: {error}") from None

    return inflate


async def _read(response: httpx.Response) -> bytes:
    """The whole body."""
    body = _Body.of(response)
    parts: list[bytes] = []
    try:
        while (part := await body.next()) is not None:
            parts.append(part)
    finally:
        await body.abandon()
    return b"".join(parts)


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


def failure_of(error: Exception, target: Target, *, phase: Phase, reused: bool = False) -> Failure:
    """What an exception of the wire means, in words that name the cause and no secret of `target`."""
    kind, fixed = next((kind, fixed) for cls, kind, fixed in _TABLE if isinstance(error, cls))
    causes = _causes(error)
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        kind = Kind.CERTIFICATE
    elif any(isinstance(cause, OSError) and cause.errno in _OURS for cause in causes):
        kind = Kind.LOCAL
    elif kind is Kind.TRANSIENT and phase in (Phase.HEADERS, Phase.STREAM):
        kind = Kind.CUT
    return Failure(kind, _words(causes, target), phase=fixed or phase, reused=reused and fixed is None)


def _words(causes: list[BaseException], target: Target) -> str:
    """Never empty. The innermost exception that says something knows best: "Connection refused", or what TLS disliked,
    while the outer ones say at most that all attempts failed.

    A header that is refused is quoted by whoever refuses it, with the key that stands in it: hence the scrubbing.
    """
    speaking = (cause for cause in reversed(causes) if str(cause) and not isinstance(cause, _MUTE))
    silent = "it took too long" if isinstance(causes[0], httpx.TimeoutException) else "no further word"
    words = next((scrub(str(cause), target) for cause in speaking), silent)
    return f"{type(causes[0]).__name__}: {words}"


_MUTE = (trio.Cancelled, BaseExceptionGroup)
"""They tell how the wait was ended, or that there are several causes; never which."""


def _causes(error: BaseException) -> list[BaseException]:
    """The exception and what caused it, outermost first; a ring or a very long chain ends it."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain and len(chain) < 10:
        chain.append(current)
        # One address, one exception; of several addresses the last one tried speaks for all.
        inside = current.exceptions[-1] if isinstance(current, BaseExceptionGroup) else None
        current = inside or current.__cause__ or current.__context__
    return chain
