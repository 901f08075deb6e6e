"""One HTTP exchange over real sockets: what goes wrong is told in words, and nothing is left open."""

from __future__ import annotations

import errno
import gc
import shutil
import socket
import ssl
import subprocess
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio
import trio.lowlevel

import cortex
from cortex import bodies
from cortex import exchange as exchanges
from cortex.clients import new_client
from cortex.errors import BadReply, ProviderUnavailable, StreamInterrupted
from cortex.exchange import exchange
from cortex.messages import Answer, Failure, Kind, Message, Phase, Request, StreamEvent, Text, TextDelta
from cortex.mishaps import failure_of
from cortex.testing import Cut, Hang, Pings, Raw, Reply, Status
from cortex.timers import Chance, Timers
from cortex.vendors import ProviderConfig, provider
from cortex.wire import WIRES
from cortex.wire.codec import Target

TIMERS = Timers(connect=1.0, first=Chance(2.0), progress=2.0, write=2.0)
ASK = Request((Message("user", (Text("hi"),)),))


def at(url: str, **more: Any) -> tuple[ProviderConfig, Target]:
    config = provider("openai", {"api_key": "secret-key", "base_url": url, **more}, {})
    return config, Target("openai", url, "gpt-4o-mini", "secret-key")


async def once(
    url: str, *, emit: Any = None, client: httpx.AsyncBaseTransport | None = None, timers: Timers = TIMERS, **more: Any
) -> Answer | Failure:
    config, target = at(url, **more)
    wire = WIRES["openai_chat"]
    http = wire.encode(attrs.evolve(ASK, stream=emit is not None), target)
    async with client or new_client(config) as transport:
        return (await exchange(transport, wire, target, http, timers, emit)).result


@pytest.fixture
async def serve(nursery: trio.Nursery) -> Callable[..., Any]:
    """Serve raw connections on loopback; gives the address."""

    async def start(handler: Any, scheme: str = "http") -> str:
        (listener,) = await nursery.start(partial(trio.serve_tcp, handler, 0, host="127.0.0.1"))
        return f"{scheme}://127.0.0.1:{listener.socket.getsockname()[1]}/v1"

    return start


async def close(stream: trio.SocketStream) -> None:
    await stream.receive_some(65536)
    await stream.aclose()


async def hang(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def reset(stream: trio.SocketStream) -> None:
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    await stream.aclose()


async def speak_plainly(stream: trio.SocketStream) -> None:
    await stream.receive_some(10)
    await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await stream.aclose()


# ------------------------------------------------------------------------------------------------ words and phases


async def test_c1_refused_in_the_systems_own_words() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        failure = await once(f"http://127.0.0.1:{unused.getsockname()[1]}/v1")
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.phase) == (Kind.CONNECT, Phase.NOT_SENT)
    assert "Connection refused" in failure.message


async def test_c8_a_name_that_does_not_exist() -> None:
    failure = await once("http://no-such-host.invalid/v1")
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.phase) == (Kind.CONNECT, Phase.NOT_SENT)
    assert failure.message not in ("", "ConnectError: ")


@pytest.mark.parametrize(
    ("handler", "scheme", "kind", "words"),
    [
        (close, "http", Kind.TRANSIENT, "disconnected"),
        (reset, "http", Kind.TRANSIENT, ""),
        (hang, "http", Kind.TIMEOUT_FIRST, "no answer within 0.2 s"),
        (speak_plainly, "https", Kind.CONNECT, "wrong version number"),
        (close, "https", Kind.CONNECT, "EOF"),
        (hang, "https", Kind.TIMEOUT_CONNECT, "no connection within 0.2 s"),
    ],
    ids=["close", "reset", "hang", "T5 plain", "T6 close in handshake", "T4 hang in handshake"],
)
async def test_a_connection_that_comes_to_nothing(
    handler: Any, scheme: str, kind: Kind, words: str, serve: Any
) -> None:
    url = await serve(handler, scheme)
    failure = await once(url, timers=Timers(1.0, Chance(0.2), 1.0, 1.0), verify=False)
    assert isinstance(failure, Failure)
    assert failure.kind == kind
    assert words in failure.message
    assert failure.message.strip(": ")


async def test_t4_a_handshake_that_hangs_ends_with_the_connect_timer(serve: Any) -> None:
    url = await serve(hang, "https")
    failure = await once(url, timers=Timers(0.1, Chance(5.0), 5.0, 5.0), verify=False)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.phase) == (Kind.TIMEOUT_CONNECT, Phase.NOT_SENT)
    assert failure.message.endswith("took more than 0.1 s to agree on TLS")


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate that nobody trusts, for 127.0.0.1, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    options = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    name = ["-subj", "/CN=loopback", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", *options, *name, "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


def secured(certificate: tuple[Path, Path]) -> Any:
    """A handler that answers one request over TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)

    async def handler(stream: trio.SocketStream) -> None:
        secure = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        body = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"safe"},"finish_reason":"stop"}]}'
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        try:
            await secure.receive_some(65536)
            await secure.send_all(head + body)
        except trio.BrokenResourceError:
            pass

    return handler


async def test_t1_an_untrusted_certificate_is_a_matter_of_configuration(
    certificate: tuple[Path, Path], serve: Any
) -> None:
    url = await serve(secured(certificate), "https")
    failure = await once(url)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.phase) == (Kind.CERTIFICATE, Phase.NOT_SENT)
    assert "self-signed certificate" in failure.message or "self signed certificate" in failure.message


async def test_t2_the_wrong_host_name(certificate: tuple[Path, Path], serve: Any) -> None:
    url = (await serve(secured(certificate), "https")).replace("127.0.0.1", "localhost")
    failure = await once(url, verify=str(certificate[0]))
    assert isinstance(failure, Failure)
    assert failure.kind == Kind.CERTIFICATE
    assert "localhost" in failure.message


async def test_a_bundle_or_a_context_of_ones_own_is_trusted(certificate: tuple[Path, Path], serve: Any) -> None:
    url = await serve(secured(certificate), "https")
    for verify in (str(certificate[0]), ssl.create_default_context(cafile=str(certificate[0])), False):
        answer = await once(url, verify=verify)
        assert isinstance(answer, Answer)
        assert answer.text == "safe"


async def test_t1_at_the_public_door(certificate: tuple[Path, Path], serve: Any) -> None:
    url = await serve(secured(certificate), "https")
    async with cortex.Engine({"openai": {"api_key": "k" * 9, "base_url": url}}, worker_model="gpt-4o-mini") as engine:
        with pytest.raises(ProviderUnavailable, match="certificate") as caught:
            await engine.complete("hi")
        assert caught.value.kind == "certificate"
        assert len(caught.value.attempts) == 1
        assert engine.health()["openai"].status == "down"


def test_every_exception_of_httpx_has_words_and_a_kind() -> None:
    target = at("http://127.0.0.1:1/v1")[1]
    names = [name for name in dir(httpx) if isinstance(getattr(httpx, name), type)]
    classes = [getattr(httpx, name) for name in names if issubclass(getattr(httpx, name), httpx.RequestError)]
    assert len(classes) > 10
    for cls in [*classes, OSError, ConnectionResetError]:
        failure = failure_of(cls(""), target, phase=Phase.SENT)
        assert failure.message.startswith(cls.__name__)
        assert not failure.message.endswith(": ")


def test_r6_too_many_files_are_ours() -> None:
    error = httpx.ConnectError("all attempts failed")
    error.__cause__ = OSError(24, "Too many open files")
    failure = failure_of(error, at("http://127.0.0.1:1/v1")[1], phase=Phase.SENT)
    assert failure.kind == Kind.LOCAL
    said, hint = "ConnectError: [Errno 24] Too many open files", "this process may open no more files and sockets"
    assert failure.message == f"{said} ({hint}, see ulimit -n)"


@pytest.mark.parametrize("limit", [errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN])
def test_other_limits_of_the_machine_are_ours_too(limit: int) -> None:
    error = httpx.ConnectError("no")
    error.__cause__ = OSError(limit, "no")
    failure = failure_of(error, at("http://127.0.0.1:1/v1")[1], phase=Phase.SENT)
    assert failure.kind == Kind.LOCAL
    assert "(this " in failure.message


def test_a_header_that_is_refused_is_not_quoted_with_its_key() -> None:
    error = httpx.LocalProtocolError("Illegal header value b'Bearer secret-key'")
    failure = failure_of(error, at("http://127.0.0.1:1/v1")[1], phase=Phase.SENT)
    assert "secret-key" not in failure.message


# ------------------------------------------------------------------------------------------------------------- sizes


def packed(data: bytes, name: str, bits: int) -> Raw:
    squeezed = zlib.compressobj(9, zlib.DEFLATED, bits)
    body = squeezed.compress(data) + squeezed.flush()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: {name}\r\nconnection: close\r\n"
    return Raw(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)


GOOD = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"small"},"finish_reason":"stop"}]}'


@pytest.mark.parametrize(("name", "bits"), [("gzip", 31), ("GZIP", 31), ("deflate", 15)])
async def test_a_packed_answer_is_read(name: str, bits: int, lab: Any, autojump_clock: Any) -> None:
    lab.primary.script(packed(GOOD, name, bits))
    async with lab.engine(0) as engine:
        assert (await engine.complete("hi")).content == "small"


async def test_an_unknown_packing_is_named(lab: Any, autojump_clock: Any) -> None:
    lab.primary.always(packed(GOOD, "lzma", 31))
    async with lab.engine(0) as engine:
        with pytest.raises(BadReply, match="packed as 'lzma'"):
            await engine.complete("hi")


async def test_h27_a_bomb_is_defused(lab: Any, autojump_clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "MAX_BODY", 1_000_000)
    lab.primary.always(packed(b"0" * 50_000_000, "gzip", 31))
    async with lab.engine() as engine:
        answer = await engine.complete("hi")
        assert answer.content == "Hello from anthropic."
        assert "larger than 1000000 bytes" in answer.metadata.attempts[0].reason


@pytest.mark.parametrize("stream", [False, True])
async def test_a_reply_that_is_too_long_is_cut_off(
    stream: bool, lab: Any, autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchanges if stream else bodies, "MAX_STREAM" if stream else "MAX_BODY", 20_000)
    lab.primary.script(Reply("word " * 10_000))
    async with lab.engine(0) as engine:
        if stream:
            with pytest.raises(StreamInterrupted, match="larger than 20000 bytes"):
                async for _ in engine.stream("hi"):
                    pass
        else:
            lab.primary.script(Reply("word " * 10_000))
            with pytest.raises(BadReply, match="larger than 20000 bytes"):
                await engine.complete("hi")


# ------------------------------------------------------------------------------------------- nothing is left behind


LEAVES = [
    Reply("one two three", pace=0.005),
    Cut(2),
    Cut(2, "rst"),
    Cut(2, "clean"),
    Hang(2),
    Pings(None, every=0.01),
    Status(500),
]


@pytest.mark.parametrize("action", LEAVES, ids=lambda action: type(action).__name__ + str(getattr(action, "how", "")))
@pytest.mark.parametrize("patience", [0.02, 0.3])
async def test_however_it_ends_no_reader_is_left_open(action: Any, patience: float, lab: Any) -> None:
    """A generator that is left in the middle would warn when it is collected, and warnings are errors here."""
    lab.primary.always(action)
    async with lab.wall, lab.engine(0, sockets=True) as engine:
        for _ in range(3):
            with trio.move_on_after(patience):
                try:
                    async for _ in engine.stream("hi", timeout=0.2):
                        pass
                except cortex.CortexError:
                    pass
        gc.collect()
        await trio.lowlevel.checkpoint()
    gc.collect()


async def test_a_consumer_that_raises_leaves_no_reader_open(lab: Any) -> None:
    lab.primary.script(Reply("one two three four"))

    async def emit(event: StreamEvent) -> None:
        if isinstance(event, TextDelta):
            raise ZeroDivisionError

    async with lab.wall:
        with pytest.raises(ZeroDivisionError):
            await once(lab.primary.base_url, emit=emit)
    gc.collect()


async def test_r2_a_storm_of_cancels_leaves_the_client_whole(lab: Any) -> None:
    lab.primary.always(Hang())
    async with lab.wall, lab.engine(0, sockets=True) as engine:
        for _ in range(10):
            with trio.move_on_after(0.01):
                async with trio.open_nursery() as nursery:
                    for _ in range(12):
                        nursery.start_soon(engine.complete, "hi")
        lab.primary.always(Reply("still here"))
        assert (await engine.complete("hi")).content == "still here"
        assert engine.health()["openai"].status == "up"
        assert engine.health()["openai"].in_flight == 0


async def test_r5_a_stream_that_is_abandoned_closes_its_connection(lab: Any) -> None:
    lab.primary.always(Reply("word " * 1000, pace=0.005))
    async with lab.wall, lab.engine(0, sockets=True) as engine:
        async with engine.stream("hi") as stream:
            async for _ in stream:
                break
        with trio.fail_after(1):
            while not lab.primary.requests[0].gone:  # noqa: ASYNC110 - the wall has no event for it
                await trio.sleep(0.005)


async def test_the_connection_serves_again_after_json_and_after_a_stream(lab: Any) -> None:
    async with lab.wall, lab.engine(0, sockets=True) as engine:
        for _ in range(3):
            await engine.complete("hi")
            async for _ in engine.stream("hi"):
                pass
    assert {seen.connection for seen in lab.primary.requests} == {1}


async def test_an_address_that_leads_nowhere_is_told(serve: Any) -> None:
    async def nowhere(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        await stream.send_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 9\r\n\r\nNo route.")
        await stream.aclose()

    failure = await once(await serve(nowhere))
    assert isinstance(failure, Failure)
    assert failure.kind is Kind.ROUTE_GONE
    assert failure.message == "No route. (asked for /v1/chat/completions)"


@pytest.mark.parametrize(
    "kind", ["", "content-type: text/plain; charset=utf-8\r\n", "content-type: application/octet-stream\r\n"]
)
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            'data: {"choices":[{"index":0,"delta":{"content":"fine"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n',
            "fine",
        ),
        ('{"choices":[{"index":0,"message":{"content":"fine"},"finish_reason":"stop"}]}', "fine"),
        ('data: {"choices":[{"index":0,"delta":{"content":"fi"}}]}\n\n', Kind.CUT),
        ("<html>Log in</html>", Kind.NOT_API),
    ],
)
async def test_a_stream_is_known_by_what_it_says_where_its_type_says_nothing(
    kind: str, body: str, expected: str, serve: Any
) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        await stream.send_all(f"HTTP/1.1 200 OK\r\n{kind}content-length: {len(body)}\r\n\r\n{body}".encode())
        await stream.aclose()

    async def emit(_: Any) -> None:
        await trio.lowlevel.checkpoint()

    result = await once(await serve(answer), emit=emit)
    assert (result.text if isinstance(result, Answer) else result.kind) == expected
