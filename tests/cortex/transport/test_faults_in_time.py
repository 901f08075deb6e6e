"""Faults that only time tells: who is silent, and when it is given up.

Each in virtual time over streams in memory, with the timers of a real engine, and over loopback with short ones."""

from __future__ import annotations

import datetime
import gc
import ipaddress
import math
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio
from trio.testing import MockClock

import cortex
from cortex.errors import ProviderTimeout, StreamInterrupted
from cortex.exchange import exchange
from cortex.messages import Answer, Failure, Kind, Message, Phase, Request, Text
from cortex.timers import Chance, Timers
from cortex.transport import Link, Transport, dial
from cortex.wire import WIRES
from cortex.wire.codec import HttpCall, Target

Handler = Callable[[Any], Awaitable[None]]
Clock = MockClock | None
"""None: the real one. Whoever takes a `World` takes it too: it must be the test's own argument to be heeded."""

# ------------------------------------------------------------------------------------------------- the two worlds


@attrs.define(eq=False)
class World:
    """Where servers live. All its transports are closed in the end."""

    nursery: trio.Nursery
    start: Any
    virtual: bool
    handlers: dict[int, Handler | None] = attrs.field(factory=dict)
    opened: int = 0
    transports: list[Transport] = attrs.field(factory=list)

    async def serve(self, handler: Handler | None, tls: ssl.SSLContext | None = None) -> str:
        """The origin of a server; None: one that takes no connection."""
        scheme = "https" if tls else "http"
        if tls is not None and handler is not None:
            handler = secured(handler, tls)
        if not self.virtual:
            return str(await self.start(handler, scheme))
        self.handlers[len(self.handlers) + 1] = handler
        return f"{scheme}://127.0.0.1:{len(self.handlers)}"

    async def connect(self, _host: str, port: int) -> Link:
        handler = self.handlers[port]
        if handler is None:
            await trio.sleep_forever()
        assert handler is not None
        self.opened += 1
        near, far = trio.testing.lockstep_stream_pair()  # no buffer: who is not read cannot write
        self.nursery.start_soon(self._serve, handler, far)

        def close() -> None:
            near.send_stream.close()
            near.receive_stream.close()

        return Link(near, close, lambda: True)

    async def _serve(self, handler: Handler, stream: Any) -> None:
        try:
            await handler(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            await trio.aclose_forcefully(stream)

    def transport(self, **options: Any) -> Transport:
        self.transports.append(Transport(connect=self.connect if self.virtual else None, **options))
        return self.transports[-1]

    def engine(self, primary: str, spare: str | None = None, *, policy: Any = None, **options: Any) -> cortex.Engine:
        providers = {"openai": {"api_key": "k" * 9, "base_url": f"{primary}/v1"}}
        if spare is not None:
            providers["anthropic"] = {"api_key": "k" * 9, "base_url": spare}
        return cortex.Engine(
            providers,
            worker_model="gpt-4o-mini",
            fallback_models=["claude-haiku-4-5"] if spare else [],
            transport=self.transport(**options),
            policy=policy,
        )


@pytest.fixture(params=["virtual", "real"])
def clock(request: pytest.FixtureRequest) -> MockClock | None:
    return MockClock(autojump_threshold=0) if request.param == "virtual" else None


@pytest.fixture
async def world(clock: Clock, nursery: trio.Nursery, serve: Any) -> AsyncIterator[World]:
    world = World(nursery, serve, virtual=clock is not None)
    yield world
    for transport in world.transports:
        await transport.aclose()


@pytest.fixture
async def real_world(nursery: trio.Nursery, serve: Any) -> AsyncIterator[World]:
    world = World(nursery, serve, virtual=False)
    yield world
    for transport in world.transports:
        await transport.aclose()


def secured(handler: Handler, context: ssl.SSLContext) -> Handler:
    return lambda stream: handler(trio.SSLStream(stream, context, server_side=True, https_compatible=True))


def contexts(folder: Path, until: datetime.datetime) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's at 127.0.0.1, whose certificate ends `until` then, and that of a client that trusts it."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
    where = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).add_extension(where, False).not_valid_after(until)
    certificate = builder.not_valid_before(until - datetime.timedelta(9)).sign(key, hashes.SHA256())
    plain, pem = serialization.NoEncryption(), serialization.Encoding.PEM
    file = folder / "both.pem"
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    file.write_bytes(certificate.public_bytes(pem) + secret)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    return server, ssl.create_default_context(cafile=str(file))


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    tomorrow = datetime.datetime.now(datetime.UTC) + datetime.timedelta(1)
    return contexts(tmp_path_factory.mktemp("tls"), tomorrow)


# ------------------------------------------------------------------------------------------------------ what they say

SPARE = b'{"type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"spare"}],"stop_reason":'
SPARE += b'"end_turn","usage":{"input_tokens":1,"output_tokens":1}}'
OWN = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"own"},"finish_reason":"stop"}]}'
EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n%s\r\n"
WORD = b'data: {"choices":[{"index":0,"delta":{"content":"word"},"finish_reason":null}]}\n\n'
PING = b": ping\n\n"


def reply(body: bytes, status: bytes = b"200 OK", more: bytes = b"") -> bytes:
    head = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%s\r\n"
    return head % (status, len(body), more) + body


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@pytest.fixture
def answers(heard: Any) -> Callable[..., Handler]:
    def answers(body: bytes) -> Handler:
        async def handler(stream: Any) -> None:
            while await heard(stream):
                await stream.send_all(reply(body))

        return handler

    return answers


def says(heard: Any, *parts: bytes, every: float = 0.0, then: str = "vanish") -> Handler:
    """Hear a request and say `parts`; then hang up, or never do anything again."""

    async def handler(stream: Any) -> None:
        await heard(stream)
        for part in parts:
            await stream.send_all(part)
            await trio.sleep(every)
        if then == "vanish":
            await trio.sleep_forever()
        if isinstance(stream, trio.SSLStream):  # without the closing words
            await stream.transport_stream.aclose()

    return handler


ASK = Request((Message("user", (Text("hi"),)),))


async def once(
    transport: Transport, url: str, timers: Timers, *, stream: bool = False, body: bytes | None = None
) -> Answer | Failure:
    """One exchange. `body`: another one than the dialect's own."""
    wire, target = WIRES["openai_chat"], Target("openai", f"{url}/v1", "gpt-4o-mini", "secret-key")
    call: HttpCall = wire.encode(attrs.evolve(ASK, stream=stream), target)
    if body is not None:
        call = attrs.evolve(call, body=body)

    async def emit(_event: Any) -> None:
        await trio.lowlevel.checkpoint()

    async with transport:
        return (await exchange(transport, wire, target, call, timers, emit if stream else None)).result


async def follow(engine: cortex.Engine) -> tuple[str, StreamInterrupted]:
    """What a stream that is interrupted has shown, and its error."""
    shown = ""
    try:
        async for piece in engine.stream("hi"):
            shown += piece.content
    except StreamInterrupted as error:
        return shown, error
    raise AssertionError(f"a whole answer: {shown!r}")


# -------------------------------------------------------------------------------------- C2: nobody takes the connection


async def test_c2_a_black_hole_fails_over_at_the_connect_timer(clock: Clock, world: World, answers: Any) -> None:
    with Blackhole() as hole:
        primary = await world.serve(None) if world.virtual else hole.url
        seconds = 5.0 if world.virtual else 0.2
        spare = await world.serve(answers(SPARE))
        async with world.engine(primary, spare, policy={"connect_timeout": seconds}) as engine:
            started = trio.current_time()
            answer = await engine.complete("hi")
            assert trio.current_time() - started == pytest.approx(seconds, abs=0.01 if world.virtual else 0.2)
            assert answer.content == "spare"
            first = answer.metadata.attempts[0]
            assert (first.provider, first.outcome, first.kind) == ("openai", "transient", "timeout_connect")
            assert first.reason.endswith(f"took more than {seconds:g} s to connect")
            assert engine.health()["openai"].status == "up"


async def test_c2_alone_the_timeout_is_raised(autojump_clock: MockClock, nursery: trio.Nursery, serve: Any) -> None:
    world = World(nursery, serve, virtual=True)
    async with world.engine(await world.serve(None)) as engine:
        with pytest.raises(ProviderTimeout, match="took more than 5 s to connect") as caught:
            await engine.complete("hi", timeout=20.0)
        assert caught.value.kind == "timeout_connect"


class Blackhole:
    """A listener whose queue is full: the kernel answers no further SYN."""

    def __enter__(self) -> Blackhole:
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(0)
        self.address: tuple[str, int] = self._listener.getsockname()
        self.url = f"http://127.0.0.1:{self.address[1]}"
        self._fill = [socket.socket() for _ in range(4)]
        for one in self._fill:
            one.setblocking(False)
            one.connect_ex(self.address)
        return self

    def __exit__(self, *_: object) -> None:
        for one in (*self._fill, self._listener):
            one.close()


# ------------------------------------------------------------------------------------------------ C9-C11: name lookups


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names.look_up)
    return names


class Names:
    """The name server: what it knows, how often it was asked, and whether it hangs."""

    def __init__(self) -> None:
        self.known: dict[str, list[tuple[socket.AddressFamily, Any]]] = {}
        self.asked = self.inside = self.most = 0
        self.works = threading.Event()
        self.works.set()
        self._lock = threading.Lock()
        self._real = socket.getaddrinfo

    def look_up(self, host: Any, port: int, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> Any:  # noqa: A002
        name = host.decode() if isinstance(host, bytes) else host
        if flags & socket.AI_NUMERICHOST or not name.endswith(".test"):
            return self._real(host, port, family, type, proto, flags)
        with self._lock:
            self.asked += 1
            self.inside += 1
            self.most = max(self.most, self.inside)
        self.works.wait(10)
        with self._lock:
            self.inside -= 1
        return [(family, socket.SOCK_STREAM, 6, "", address) for family, address in self.known[name]]


async def test_c9_a_name_server_that_hangs_takes_its_own_threads(names: Names, answers: Any, real_world: World) -> None:
    url, spare = await real_world.serve(answers(OWN)), await real_world.serve(answers(SPARE))
    port = int(url.rpartition(":")[2])
    names.known["primary.test"] = [(socket.AF_INET, ("127.0.0.1", port))]
    names.works.clear()
    async with real_world.engine(f"http://primary.test:{port}", spare, policy={"connect_timeout": 0.3}) as engine:
        contents: list[str] = []

        async def ask() -> None:
            contents.append((await engine.complete("hi")).content)

        try:
            async with trio.open_nursery() as nursery:
                for _ in range(45):
                    nursery.start_soon(ask)
                await trio.sleep(0.1)
                with trio.fail_after(0.2):
                    assert await trio.to_thread.run_sync(lambda: "unrelated") == "unrelated"
            assert contents == ["spare"] * 45
            assert 1 <= names.most <= dial.LOOKUPS
            assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
        finally:
            names.works.set()


async def test_c9_it_heals_when_the_name_server_does(names: Names, answers: Any, serve: Any, ask: Any) -> None:
    port = int((await serve(answers(b"{}"))).rpartition(":")[2])
    names.known["primary.test"] = [(socket.AF_INET, ("127.0.0.1", port))]
    names.works.clear()
    async with Transport() as transport:
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(dial.LOOKUPS + 2):
                    nursery.start_soon(partial(ask, transport, f"http://primary.test:{port}/", timeout=0.1))
        finally:
            names.works.set()
        assert (await ask(transport, f"http://primary.test:{port}/")).body == b"{}"


async def test_c10_a_new_connection_asks_the_name_server_again(names: Names, answers: Any, real_world: World) -> None:
    with socket.socket() as dead:
        dead.bind(("127.0.0.1", 0))
        alive = await real_world.serve(answers(OWN))
        names.known["primary.test"] = [(socket.AF_INET, dead.getsockname())]
        async with real_world.engine("http://primary.test", await real_world.serve(answers(SPARE))) as engine:
            assert (await engine.complete("hi")).content == "spare"
            names.known["primary.test"] = [(socket.AF_INET, ("127.0.0.1", int(alive.rpartition(":")[2])))]
            assert (await engine.complete("hi")).content == "own"
            assert (await engine.complete("hi")).content == "own"
    assert names.asked == 2  # the third call went over the connection of the second


async def test_c11_a_dead_address_costs_a_quarter_of_a_second(
    names: Names, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, ask: Any
) -> None:
    async def connect(address: Any) -> socket.socket:
        if address[0] is socket.AF_INET6:
            await trio.sleep_forever()
        near, far = socket.socketpair()
        far.sendall(reply(b"{}"))
        ends.append(far)
        return near

    ends: list[socket.socket] = []
    monkeypatch.setattr(dial, "_connect", connect)
    names.known["primary.test"] = [(socket.AF_INET6, ("100::1", 80, 0, 0)), (socket.AF_INET, ("192.0.2.1", 80))]
    connector = dial.TcpConnect()

    async def found(*_: Any) -> Any:
        return names.known["primary.test"]  # no thread answers in virtual time

    monkeypatch.setattr(dial.TcpConnect, "_addresses", found)
    async with Transport(connect=connector) as transport:
        assert (await ask(transport, "http://primary.test/")).body == b"{}"
        assert trio.current_time() == pytest.approx(0.25)
    for end in ends:
        end.close()


async def test_c11_over_loopback(names: Names, answers: Any, real_world: World) -> None:
    with Blackhole() as hole:
        alive = ("127.0.0.1", int((await real_world.serve(answers(OWN))).rpartition(":")[2]))
        names.known["primary.test"] = [(socket.AF_INET, hole.address), (socket.AF_INET, alive)]
        async with real_world.engine("http://primary.test") as engine:
            started = trio.current_time()
            assert (await engine.complete("hi")).content == "own"
            assert 0.24 <= trio.current_time() - started < 0.5
            assert len((await engine.complete("hi")).metadata.attempts) == 1


# ------------------------------------------------------------------------------------ C13: who vanishes in a stream


async def test_c13_a_peer_that_vanishes_after_text(clock: Clock, world: World, heard: Any, answers: Any) -> None:
    """Nothing is heard any more, not even an end: the timer of liveness, whatever the longest pause may be."""
    chunked = EVENTS % b"transfer-encoding: chunked\r\n"
    primary = await world.serve(says(heard, chunked, chunk(WORD), chunk(WORD)))
    spare = await world.serve(answers(SPARE))
    policy = {"progress_timeout": 500.0 if world.virtual else 0.2}
    async with world.engine(primary, spare, policy=policy) as engine:
        started = trio.current_time()
        shown, error = await follow(engine)
        assert shown == error.partial == "wordword"
        assert error.kind == "timeout_gap"
        assert trio.current_time() - started == pytest.approx(75 if world.virtual else 0.2, abs=0.2)


async def test_c13_before_any_text_the_spare_answers(clock: Clock, world: World, heard: Any, answers: Any) -> None:
    primary = await world.serve(says(heard, EVENTS % b"transfer-encoding: chunked\r\n", chunk(PING), chunk(PING)))
    spare = await world.serve(answers(SPARE))
    policy = {} if world.virtual else {"first_token_timeout": 0.2}
    async with world.engine(primary, spare, policy=policy) as engine:
        started = trio.current_time()
        chunks = [chunk async for chunk in engine.stream("hi")]
        assert "".join(one.content for one in chunks) == "spare"
        assert chunks[-1].metadata.attempts[0].kind == "timeout_first"
        assert trio.current_time() - started == pytest.approx(60 if world.virtual else 0.2, abs=0.2)


# --------------------------------------------------------------------------------------------------- C15, C16: uploads

HUGE = b'{"messages":[]}' + b" " * 50_000_000
PATIENT = Timers(connect=5.0, first=Chance(math.inf), progress=60.0, write=30.0)


async def deaf(_stream: Any) -> None:
    await trio.sleep_forever()


async def test_c15_a_server_that_never_reads_is_given_up_by_the_write_timer(clock: Clock, world: World) -> None:
    url = await world.serve(deaf)
    write = 30.0 if world.virtual else 0.2
    started = trio.current_time()
    failure = await once(world.transport(), url, attrs.evolve(PATIENT, write=write), body=HUGE)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.phase) == (Kind.TIMEOUT_GAP, Phase.SENT)
    assert f"took nothing for {write:g} s" in failure.message
    assert trio.current_time() - started == pytest.approx(write, abs=0.4)


async def test_c15_a_cancel_of_the_upload_is_felt_at_once(clock: Clock, world: World) -> None:
    url = await world.serve(deaf)
    transport = world.transport()
    started = time.monotonic()
    with trio.move_on_after(0.1) as scope:
        await once(transport, url, PATIENT, body=HUGE)
    assert scope.cancelled_caught
    assert time.monotonic() - started < 0.5
    assert not transport._origins


REFUSALS = {"413": b"413 Payload Too Large", "429": b"429 Too Many Requests"}


def refuses(status: bytes, *, split: bool, lingers: bool) -> Handler:
    """Answer as soon as the request's head is there, and hang up, or stay and read no more."""

    async def handler(stream: Any) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += await stream.receive_some(1000)
        head, _, body = reply(b'{"error":{"message":"too much"}}', status).partition(b"\r\n\r\n")
        await stream.send_all(head + b"\r\n\r\n" + (b"" if split else body))
        if split:
            await trio.sleep(0.02)
            await stream.send_all(body)
        if lingers:
            await trio.sleep_forever()

    return handler


@pytest.mark.parametrize("lingers", [False, True], ids=["closes", "lingers"])
@pytest.mark.parametrize("split", [False, True], ids=["at once", "in two"])
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("code", ["413", pytest.param("429", marks=pytest.mark.slow)])
async def test_c16_an_early_refusal_is_heard(
    code: str, secure: bool, split: bool, lingers: bool, clock: Clock, world: World, tls: Any
) -> None:
    url = await world.serve(refuses(REFUSALS[code], split=split, lingers=lingers), tls[0] if secure else None)
    transport = world.transport(verify=tls[1])
    with trio.fail_after(2):
        failure = await once(transport, url, PATIENT, body=HUGE[:5_000_000])
    assert isinstance(failure, Failure)
    assert failure.status == int(code)
    assert "too much" in failure.message
    assert not transport._origins, "a connection with half a request on it is not kept"


async def test_c16_at_the_public_door(clock: Clock, world: World, answers: Any) -> None:
    primary = await world.serve(refuses(REFUSALS["429"], split=False, lingers=False))
    async with world.engine(primary, await world.serve(answers(SPARE))) as engine:
        answer = await engine.complete("word " * 200_000)
        assert answer.content == "spare"
        assert answer.metadata.attempts[0].kind == "rate_limit"


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_an_answer_that_begins_early_does_not_stop_the_upload(
    secure: bool, clock: Clock, world: World, tls: Any, heard: Any, ask: Any
) -> None:
    sizes: list[int] = []

    async def echo(stream: Any) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += await stream.receive_some(1000)
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
        _, body = await heard(stream, data)
        sizes.append(len(body))
        await stream.send_all(b"ok")
        assert await heard(stream)
        await stream.send_all(reply(b"more"))

    url = await world.serve(echo, tls[0] if secure else None)
    async with world.transport(verify=tls[1]) as transport:
        assert (await ask(transport, url, "POST", content=b"x" * 1_000_000)).body == b"ok"
        assert sizes == [1_000_000]
        assert (await ask(transport, url)).body == b"more"


async def test_a_connection_with_an_unfinished_upload_on_it_does_not_serve_again(
    autojump_clock: MockClock, peers: Any, ask: Any
) -> None:
    """The server refused, in whole, before it took the last bytes, which mark the end of what it was sent."""
    refusal = reply(b"{}", b"400 Bad Request")
    peers.reply = lambda peer: (
        refusal if b"piece" in peer.requests[-1] else reply(b"{}") if len(peers.opened) > 1 else b""
    )

    async def connect(host: str, port: int) -> Link:
        link: Link = await peers(host, port)
        peer: Any = link.stream
        takes = peer.send_all

        async def send_all(data: bytes) -> None:
            if data == b"0\r\n\r\n":
                await trio.sleep_forever()
            await takes(data)

        peer.send_all = send_all
        return link

    class Pieces(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"piece"

    async with Transport(connect=connect) as transport:
        headers = {"host": "x", "transfer-encoding": "chunked"}
        assert (await ask(transport, "http://x/", "POST", stream=Pieces(), headers=headers)).status == 400
        assert (await ask(transport, "http://x/")).status == 200
    assert [len(peer.requests) for peer in peers.opened] == [2, 1]


# --------------------------------------------------------------------------------------------------- C17: a long sleep


async def test_c17_after_a_sleep_nothing_stale_is_used_and_nobody_is_ejected(
    autojump_clock: MockClock, nursery: trio.Nursery, serve: Any, answers: Any
) -> None:
    world = World(nursery, serve, virtual=True)
    primary, spare = await world.serve(answers(OWN)), await world.serve(answers(SPARE))
    async with world.engine(primary, spare) as engine:
        for _ in range(3):
            assert (await engine.complete("hi")).content == "own"
        assert world.opened == 1
        autojump_clock.jump(3600)
        answer = await engine.complete("hi")
        assert (answer.content, len(answer.metadata.attempts)) == ("own", 1)
        assert world.opened == 2
        assert {one.status for one in engine.health().values()} == {"up"}


async def test_c17_a_clock_that_stood_still_while_the_machine_slept(
    clock: Clock, world: World, answers: Any, monkeypatch: pytest.MonkeyPatch, ask: Any
) -> None:
    """The loop's clock does not count a suspend, only the wall's does: what is idle was given up long ago."""
    url, real = await world.serve(answers(b"{}")), time.time
    async with world.transport() as transport:
        await ask(transport, url)
        kept = transport._origins
        assert [pool.idle for pool in kept.values()] == [1]
        (idle,) = (connection for pool in kept.values() for connection, _ in pool._idle)
        monkeypatch.setattr(time, "time", lambda: real() + 3600)
        assert (await ask(transport, url)).body == b"{}"
        (fresh,) = (connection for pool in kept.values() for connection, _ in pool._idle)
        assert fresh is not idle
        assert (await ask(transport, url)).body == b"{}"
        assert [connection for pool in kept.values() for connection, _ in pool._idle] == [fresh]


@pytest.mark.parametrize("jump", [200.0, 3600.0])
async def test_c17_streams_that_were_under_way_end_and_nobody_stays_ejected(
    autojump_clock: MockClock, nursery: trio.Nursery, serve: Any, heard: Any, answers: Any, jump: float
) -> None:
    """All their timers are over at once, or even their deadlines: the next call is served, and soon by the first."""
    world, asleep = World(nursery, serve, virtual=True), True

    async def sleepy(stream: Any) -> None:
        while await heard(stream):
            if not asleep:
                await stream.send_all(reply(OWN))
                continue
            await stream.send_all(EVENTS % b"transfer-encoding: chunked\r\n" + chunk(WORD))
            await trio.sleep_forever()

    async with world.engine(await world.serve(sleepy), await world.serve(answers(SPARE))) as engine:
        ended: list[str] = []

        async def read() -> None:
            try:
                async for _ in engine.stream("hi"):
                    pass
            except cortex.CortexError as error:
                ended.append(type(error).__name__)

        async with trio.open_nursery() as streams:
            for _ in range(20):
                streams.start_soon(read)
            await trio.sleep(0.1)
            autojump_clock.jump(jump)
            asleep = False
        assert len(ended) == 20
        assert (await engine.complete("hi")).content in ("own", "spare")
        assert engine.health()["anthropic"].status == "up"
        for _ in range(60):
            await trio.sleep(1)
            await engine.complete("hi")
        assert {one.status for one in engine.health().values()} == {"up"}
        assert (await engine.complete("hi")).content == "own"


# ------------------------------------------------------------------------------------------------------------ T3, T7


async def test_t3_an_expired_certificate_is_a_matter_of_configuration(
    clock: Clock, world: World, answers: Any, tmp_path: Path
) -> None:
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(1)
    server, client = contexts(tmp_path, yesterday)
    primary, spare = await world.serve(answers(OWN), server), await world.serve(answers(SPARE))
    async with world.engine(primary, spare, verify=client) as engine:
        answer = await engine.complete("hi")
        assert answer.content == "spare"
        first = answer.metadata.attempts[0]
        assert (first.outcome, first.kind) == ("config", "certificate")
        assert "expired" in first.reason
        assert engine.health()["openai"].status == "down"


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_t7_a_stream_that_ends_without_its_last_event_was_cut(
    secure: bool, clock: Clock, world: World, heard: Any, tls: Any
) -> None:
    """Nothing says how long the body is, and TLS was not ended in order: only the missing event tells."""
    handler = says(heard, EVENTS % b"connection: close\r\n", WORD, WORD, then="close")
    url = await world.serve(handler, tls[0] if secure else None)
    async with world.engine(url, verify=tls[1]) as engine:
        shown, error = await follow(engine)
        assert shown == error.partial == "wordword"
        assert error.kind == "cut"


async def test_t7_json_that_is_cut_is_no_answer(clock: Clock, world: World, heard: Any, tls: Any) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n"
    url = await world.serve(says(heard, head, OWN[:-30], then="close"), tls[0])
    failure = await once(world.transport(verify=tls[1]), url, PATIENT)
    assert isinstance(failure, Failure)
    assert failure.kind in (Kind.CUT, Kind.PROTOCOL)


# ---------------------------------------------------------------------------------------------------- H22: early hints

HINT = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"


@pytest.mark.parametrize("stream", [False, True])
async def test_h22_endless_hints_are_ended_by_the_first_timer(
    stream: bool, clock: Clock, world: World, heard: Any
) -> None:
    """Each of them proves that the server is alive, and none that it will answer."""
    seconds = 60.0 if world.virtual else 0.2
    url = await world.serve(says(heard, *[HINT] * 60, every=seconds / 20))
    started = trio.current_time()
    failure = await once(world.transport(), url, attrs.evolve(PATIENT, first=Chance(seconds)), stream=stream)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.phase) == (Kind.TIMEOUT_FIRST, Phase.SENT)
    assert trio.current_time() - started == pytest.approx(seconds, abs=0.2)


async def test_h22_too_many_hints_are_refused_at_once(clock: Clock, world: World, heard: Any, answers: Any) -> None:
    primary, spare = await world.serve(says(heard, *[HINT] * 100)), await world.serve(answers(SPARE))
    async with world.engine(primary, spare) as engine:
        started = trio.current_time()
        answer = await engine.complete("hi")
        assert trio.current_time() - started < 1.0
        assert answer.content == "spare"
        assert "interim replies" in answer.metadata.attempts[0].reason


async def test_nothing_is_left_to_the_garbage_collector(clock: Clock, world: World, heard: Any) -> None:
    url = await world.serve(says(heard, HINT, every=0.01))
    for stream in (False, True):
        await once(world.transport(), url, attrs.evolve(PATIENT, first=Chance(0.05)), stream=stream)
    gc.collect()
