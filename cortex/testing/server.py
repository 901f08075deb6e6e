"""The shell of sockets: steps over h11 on trio, one task per connection.

An answer ends when the client leaves, whatever it is waiting for: beside each answer runs a reader whose only news can
be the end of the connection, or the early bytes of a next request, which are kept.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import count

import h11
import trio

from .play import Bytes, Data, Drop, End, Head, Step, Wait
from .provider import FaultProvider, Request

BACKLOG = 128
MOST_EARLY = 65_536  # bytes of a next request that are taken before this one is answered
LINGER_NOT = struct.pack("ii", 1, 0)  # with it, close() sends RST


class Port:
    """A port of 127.0.0.1 that stays ours while nobody listens: a second socket is bound to it and never listens, so
    that connections are refused and the system gives the number to nobody else."""

    def __init__(self) -> None:
        self._guard = _bound(0)
        self.number: int = self._guard.getsockname()[1]

    def listen(self) -> socket.socket:
        try:
            listener = _bound(self.number)
        except OSError:  # not every system lets two sockets share a port; then it is unguarded while closed
            self._guard.close()
            listener = _bound(self.number)
        listener.listen(BACKLOG)
        return listener

    def close(self) -> None:
        self._guard.close()


def _bound(number: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", number))
    except BaseException:
        sock.close()
        raise
    return sock


class Wire:
    """One connection: h11 and the socket below it."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.SERVER)
        self._held = b""  # a piece that waits for what follows, see `perform`

    async def request(self) -> Request | None:
        """The next request, whole; None when the client has no more. Raises `h11.RemoteProtocolError`."""
        head: h11.Request | None = None
        content = bytearray()
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                content += event.data
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                return _request(head, bytes(content))
            elif isinstance(event, h11.ConnectionClosed):
                return None
            elif event is h11.NEED_DATA:
                if self._http.they_are_waiting_for_100_continue:
                    await self._send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue"))
                await self._hear()

    async def left(self) -> bool:
        """Returns when the client has gone (True), or when it is sending so much ahead that listening must stop."""
        while len(self._http.trailing_data[0]) < MOST_EARLY:
            if not await self._hear():
                return True
        return False

    async def perform(self, steps: Iterable[Step]) -> None:
        """Walks the steps. What comes last is held until the end and sent with it, with no checkpoint between: a client
        that leaves when it has read all would otherwise be taken for one that left too early."""
        for step in steps:
            match step:
                case Head(status, headers, length):
                    framing = [] if length is None else [("content-length", str(length))]
                    self._hold(h11.Response(status_code=status, headers=[*headers, *framing]))
                case Data(data):
                    await self._flush()
                    self._hold(h11.Data(data=data))
                case Wait(seconds):
                    await self._flush()
                    await trio.sleep(seconds)
                case End():
                    self._hold(h11.EndOfMessage())
                    await self._flush()
                case Bytes(data):
                    await self._flush()
                    self._held = data
                case Drop(reset):
                    await self._flush()
                    self.close(reset)

    def again(self) -> bool:
        """Whether the connection can take another request; makes it ready for that."""
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    def close(self, reset: bool = False) -> None:
        if reset and self._stream.socket.fileno() >= 0:
            self._stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        self._stream.socket.close()

    async def reject(self, error: h11.RemoteProtocolError) -> None:
        """Tells a client that does not speak HTTP so, if it is still in a state to be told."""
        if self._http.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            text = f"{error}\n".encode()
            head = Head(error.error_status_hint, (("content-type", "text/plain"), ("connection", "close")), len(text))
            await self.perform([head, Data(text), End()])

    async def _hear(self) -> bool:
        data = await self._stream.receive_some()
        self._http.receive_data(data)
        return bool(data)

    def _hold(self, event: h11.Event) -> None:
        self._held += self._http.send(event) or b""

    async def _flush(self) -> None:
        held, self._held = self._held, b""
        if held:
            await self._stream.send_all(held)

    async def _send(self, event: h11.Event) -> None:
        self._hold(event)
        await self._flush()


def _request(head: h11.Request, content: bytes) -> Request:
    path, _, query = head.target.decode("ascii").partition("?")
    headers = {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}
    return Request(head.method.decode("ascii"), path, query, headers, content)


class House:
    """Where a wall's sockets are served: one nursery in one trio loop, the caller's or that of a thread."""

    def __init__(self, nursery: trio.Nursery, now: Callable[[], float]) -> None:
        self.nursery = nursery
        self.now = now
        self.faults: list[Exception] = []  # what a script raised: a fault of the test, for the test to see
        self._token = trio.lowlevel.current_trio_token()
        self._thread = threading.get_ident()

    def stop(self) -> None:
        """Ends all that is served; from any thread, and again."""
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self.nursery.cancel_scope.cancel)

    def call(self, act: Callable[[], object], timeout: float = 5.0) -> None:
        """Runs `act` in the loop's thread and returns when it has ended; from any thread."""
        if threading.get_ident() == self._thread:
            act()
            return
        done = threading.Event()

        def in_loop() -> None:
            try:
                act()
            finally:
                done.set()

        try:
            self._token.run_sync_soon(in_loop)
        except trio.RunFinishedError:  # closed meanwhile: nothing is left to act on
            return
        if not done.wait(timeout):
            raise RuntimeError(f"the fault wall's loop did not answer in {timeout} s: something blocks it")


class Door:
    """A provider's port in a house: open or shut. `open` and `shut` run in the house's thread."""

    def __init__(self, house: House, provider: FaultProvider, port: Port) -> None:
        self._house = house
        self._provider = provider
        self._port = port
        self._connections = count(1)
        self._listener: trio.SocketListener | None = None
        self._scope = trio.CancelScope()
        self._wires: set[Wire] = set()

    def switch(self, up: bool) -> None:
        self._house.call(self.open if up else self.shut)

    def open(self) -> None:
        self._listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._port.listen()))
        self._scope = trio.CancelScope()
        self._house.nursery.start_soon(self._serve, self._listener, self._scope)

    def shut(self) -> None:
        """Closes by hand and at once; the tasks' ends follow."""
        if self._listener is not None:
            self._listener.socket.close()
        for wire in list(self._wires):
            wire.close()
        self._scope.cancel()

    async def _serve(self, listener: trio.SocketListener, scope: trio.CancelScope) -> None:
        try:
            with scope:
                await trio.serve_listeners(self._connection, [listener])
        except* trio.ClosedResourceError:
            pass
        finally:
            listener.socket.close()

    async def _connection(self, stream: trio.SocketStream) -> None:
        wire = Wire(stream)
        self._wires.add(wire)
        try:
            await self._converse(wire, next(self._connections))
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except* Exception as group:
            self._house.faults.append(group)
        finally:
            self._wires.discard(wire)
            wire.close()

    async def _converse(self, wire: Wire, connection: int) -> None:
        while True:
            try:
                request = await wire.request()
            except h11.RemoteProtocolError as error:
                await wire.reject(error)
                return
            if request is None:
                return
            index, steps = self._provider.receive(request, self._house.now(), connection)
            if not await _answered(wire, steps):
                self._provider.left(index)
                return
            if not wire.again():
                return


async def _answered(wire: Wire, steps: Iterable[Step]) -> bool:
    """Walks the steps to their end, or until the client leaves: then False."""
    finished = False
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            with suppress(trio.ClosedResourceError):  # a step closed the connection: not the client
                try:
                    if not await wire.left():
                        return
                except trio.BrokenResourceError:
                    pass
                nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        with suppress(trio.BrokenResourceError):
            await wire.perform(steps)
            finished = True
        nursery.cancel_scope.cancel()
    return finished
