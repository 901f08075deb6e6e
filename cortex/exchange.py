"""One HTTP exchange: send an encoded call, read the reply, and say what happened as a value.

Whatever goes wrong on the wire comes back as a value; cancellation passes through untouched; an exception that is not
httpx's is a bug and is left to the caller.

A stream is ended by cancelling its reader's own scope, never by leaving the iteration: that unwinds the nested
generators of the transport in order.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import lru_cache

import attrs
import httpx
import trio

from cortex.bodies import MAX_STREAM, Body, BodyError, read
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
from cortex.mishaps import failure_of
from cortex.timers import Timers
from cortex.transport import Progress, ReplyStream
from cortex.wire.codec import EVENT_STREAM, HttpCall, HttpReply, Target, Wire

Emit = Callable[[StreamEvent], Awaitable[None]]

CLEANUP_SECONDS = 1.0
"""How long closing a connection may take."""

CONNECT_FAIR = 1.0
"""Seconds without a connection for which a provider is to blame, however much of a hurry the caller is in."""


@attrs.frozen
class Exchanged:
    """The result of an exchange, and the seconds until its first token (streams only)."""

    result: Answer | Failure
    first_token: float | None = None


_VAGUE = ("", "text/plain", "application/octet-stream")


@lru_cache(maxsize=256)
def _address(url: str) -> tuple[httpx.URL, tuple[str, str]]:
    """The address, and the header that names its host. Parsing takes longer than all our choosing, and a provider has a
    handful of them."""
    parsed = httpx.URL(url)
    return parsed, ("host", parsed.netloc.decode("ascii"))


class _Payload(httpx.ByteStream):
    """A request's body whose iteration is no generator: httpcore leaves it open where a server hangs up early."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Once(b"".join(self))


@attrs.define
class _Once:
    data: bytes

    def __aiter__(self) -> _Once:
        return self

    async def __anext__(self) -> bytes:
        data, self.data = self.data, b""
        if not data:
            raise StopAsyncIteration
        return data


async def exchange(
    transport: httpx.AsyncBaseTransport, wire: Wire, target: Target, call: HttpCall, timers: Timers, emit: Emit | None
) -> Exchanged:
    """Send `call` and read the reply: whole when `emit` is None, else as a stream whose events go to `emit`.

    Never raises for what the other side does; `trio.Cancelled` passes.
    """
    progress = Progress()
    url, host = _address(call.url)
    size = [("content-length", str(len(call.body)))] if call.body else []
    request = httpx.Request(
        call.method,
        url,
        headers=[host, *call.headers, *size],
        stream=_Payload(call.body),
        extensions={
            "trace": progress,
            # Reading has no timer there: the scopes below are. Waiting for a connection ends first: it blames nobody.
            "timeout": {
                "connect": timers.connect,
                "write": timers.write,
                "pool": min(timers.connect, timers.first.seconds / 2),
            },
        },
    )
    reader = _Reader(wire, target, timers, progress, url.path)
    try:
        if emit is None:
            return await reader.whole(transport, request)
        return await reader.stream(transport, request, emit)
    except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, OSError) as error:
        failure = failure_of(error, target, phase=progress.phase, reused=progress.reused)
        return Exchanged(failure, reader.first_token)
    except BodyError as error:
        return Exchanged(Failure(Kind.PROTOCOL, str(error), phase=progress.phase), reader.first_token)


@attrs.define
class _Reader:
    """Reads one reply; `progress` and `first_token` tell how far it came if it raises."""

    wire: Wire
    target: Target
    timers: Timers
    progress: Progress
    path: str
    first_token: float | None = None
    started: float = attrs.field(factory=trio.current_time)

    async def whole(self, transport: httpx.AsyncBaseTransport, request: httpx.Request) -> Exchanged:
        with trio.move_on_after(self.timers.first.seconds):
            response = await self._send(transport, request)
            try:
                body = await read(response)
            finally:
                await _close(response)
            return Exchanged(self._decode(response, body))
        return Exchanged(self._late("no answer", Kind.TIMEOUT_FIRST))

    async def _send(self, transport: httpx.AsyncBaseTransport, request: httpx.Request) -> httpx.Response:
        response = await transport.handle_async_request(request)
        self.progress.phase = Phase.HEADERS
        return response

    async def stream(self, transport: httpx.AsyncBaseTransport, request: httpx.Request, emit: Emit) -> Exchanged:
        first_until = self.started + self.timers.first.seconds
        response: httpx.Response | None = None
        with trio.move_on_at(first_until):
            response = await self._send(transport, request)
        if response is None:
            return Exchanged(self._late("no reply", Kind.TIMEOUT_FIRST))
        try:
            if not _is_stream(response, self.wire):
                return await self._unstreamed(response, first_until, emit)
            return await self._events(response, first_until, emit)
        finally:
            await _close(response)

    async def _unstreamed(self, response: httpx.Response, until: float, emit: Emit) -> Exchanged:
        """An error status, or a server that answers a stream's request with one JSON body."""
        body: bytes | None = None
        with trio.move_on_at(until):
            body = await read(response)
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
        body = Body.of(response, MAX_STREAM)
        try:
            result = await self._follow(body, first_until, emit)
            if isinstance(result, Answer):
                await body.drain()
                return Exchanged(result, self.first_token)
            return Exchanged(self._in_stream(result, response), self.first_token)
        finally:
            await body.abandon()

    async def _follow(self, body: Body, first_until: float, emit: Emit) -> Answer | Failure:
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
            self.progress.phase = Phase.STREAM

    def _in_stream(self, failure: Failure, response: httpx.Response) -> Failure:
        request_id = response.headers.get("x-request-id") or response.headers.get("request-id")
        return attrs.evolve(failure, phase=self.progress.phase, request_id=failure.request_id or request_id)

    def _decode(self, response: httpx.Response, body: bytes) -> Answer | Failure:
        result = self.wire.decode(HttpReply(response.status_code, _headers(response), body), self.target)
        if isinstance(result, Failure) and result.kind is Kind.ROUTE_GONE:  # mostly base_url is too short or too long
            return attrs.evolve(result, message=f"{result.message} (asked for {self.path})")
        return result

    def _late(self, what: str, kind: Kind) -> Failure:
        waited = trio.current_time() - self.started
        phase = self.progress.phase
        if phase is Phase.NOT_SENT and (self.timers.first.fair or waited >= CONNECT_FAIR):
            what, kind = "no connection", Kind.TIMEOUT_CONNECT
        return Failure(kind, f"{what} within {waited:.1f} s", phase=phase, reused=self.progress.reused)

    def _stalled(self) -> Failure:
        if self.first_token is None:
            return self._late("no first token", Kind.TIMEOUT_FIRST)
        waited = trio.current_time() - self.started
        message = f"the stream stood still, {waited:.1f} s after the call was made"
        return Failure(Kind.TIMEOUT_GAP, message, phase=self.progress.phase, reused=self.progress.reused)


def _headers(response: httpx.Response) -> dict[str, str]:
    """By their names in lower case. The last of two wins, where httpx would take the time to join them."""
    return {name.lower().decode("latin-1"): value.decode("latin-1") for name, value in response.headers.raw}


async def _close(response: httpx.Response) -> None:
    if isinstance(response.stream, ReplyStream) and response.stream.is_ended:
        return  # it was read to its end
    with trio.move_on_after(CLEANUP_SECONDS, shield=True):
        try:
            await response.aclose()
        except (httpx.HTTPError, OSError):
            return  # a connection that cannot even be closed is gone


def _is_stream(response: httpx.Response, wire: Wire) -> bool:
    """Whether it is read as a stream: also under a type that says nothing. What it is then, its first byte tells."""
    said = response.headers.get("content-type", "").lower()
    vague = wire.stream_type == EVENT_STREAM and said.partition(";")[0].strip() in _VAGUE
    return response.status_code == 200 and (wire.stream_type in said or vague)
