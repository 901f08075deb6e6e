"""What a failure tells: how far the request had come, whether its connection had served before, and why, in words."""

from __future__ import annotations

import errno
import socket
from typing import Any

import httpx
import pytest
import trio
import trio.lowlevel

from cortex.messages import Kind, Phase
from cortex.mishaps import failure_of
from cortex.transport import Link, Progress, Transport
from cortex.transport.dial import TcpConnect
from cortex.wire.codec import Target

REPLY = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"


def told(got: Any) -> tuple[Any, str, bool]:
    assert got.error is not None
    assert str(got.error).strip()
    return got.failure, str(got.error.phase), got.error.reused


# ------------------------------------------------------------------------------------------------ nothing was sent


async def test_refused(ask: Any) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        got = await ask(Transport(), f"http://127.0.0.1:{unused.getsockname()[1]}/")
    assert told(got) == (httpx.ConnectError, "not_sent", False)
    assert "Connection refused" in str(got.error)


async def test_refused_at_every_address_of_a_name(monkeypatch: pytest.MonkeyPatch, ask: Any) -> None:
    def look_up(host: str, port: int, **_more: Any) -> Any:
        if host != "both.example":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        if _more.get("flags"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ("127.0.0.1", "127.0.0.2")]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        got = await ask(Transport(), f"http://both.example:{unused.getsockname()[1]}/")
    assert told(got) == (httpx.ConnectError, "not_sent", False)
    assert "Connection refused" in str(got.error)


@pytest.mark.parametrize("proxy", [None, "http", "https", "socks5"])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_port_that_cannot_be(scheme: str, proxy: str | None, ask: Any, Peers: Any) -> None:
    """The resolver takes it modulo 65536, and somebody else may listen there."""
    options = {} if proxy is None else {"proxy": f"{proxy}://127.0.0.1:9"}
    for transport in (Transport(verify=False, **options), Peers().transport(verify=False, **options)):
        got = await ask(transport, f"{scheme}://127.0.0.1:70000/")
        assert told(got) == (httpx.ConnectError, "not_sent", False)
        assert str(got.error) == "there is no port 70000"


async def test_what_the_caller_is_handling_is_no_cause(serve: Any, ask: Any) -> None:
    """It may be anything, and what is said of a provider stands in logs."""

    async def reset(stream: trio.SocketStream) -> None:
        await stream.receive_some(10_000)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        stream.socket.close()

    async def silent(_stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    unheard = await serve(silent, "https")
    for url in ("http://127.0.0.1:1/", await serve(reset), "http://no-such-host.invalid/", unheard):
        try:
            raise LookupError("my own secret")
        except LookupError:
            got = await ask(Transport(verify=False), url, timeout=0.05)
        assert got.error is not None
        assert "secret" not in str(got.error)
        assert "secret" not in failure_of(got.error, Target("p", url, "m"), phase=Phase.SENT).message


async def test_a_name_that_nobody_knows(ask: Any) -> None:
    got = await ask(Transport(), "http://no-such-host.invalid/")
    assert told(got) == (httpx.ConnectError, "not_sent", False)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", ["a" * 70 + ".example", "a..example", ".example", "a" * 300])
async def test_a_name_that_cannot_be_one(scheme: str, host: str, ask: Any, Peers: Any) -> None:
    """Found by the resolver's own encoding, or by TLS where somebody else connects."""
    got = await ask(Transport(verify=False), f"{scheme}://{host}/")
    assert told(got) == (httpx.ConnectError, "not_sent", False)
    assert str(got.error) == f"{host!r} cannot be the name of a host"
    if scheme == "https":
        peers = Peers(lambda _peer: b"\x15\x03\x03\x00\x02\x02\x28")  # an alert
        got = await ask(peers.transport(verify=False), f"https://{host}/")
        assert told(got) == (httpx.ConnectError, "not_sent", False)
        assert peers.alive == 0


async def test_a_connection_that_takes_too_long(Peers: Any, ask: Any, autojump_clock: Any) -> None:
    peers = Peers()
    peers.connecting = 60.0
    got = await ask(peers.transport(), "http://server:81/", timeout={"connect": 2.5})
    assert told(got) == (httpx.ConnectTimeout, "not_sent", False)
    assert str(got.error) == "server:81 took more than 2.5 s to connect"
    assert trio.current_time() == pytest.approx(2.5)


async def test_a_name_server_that_hangs(monkeypatch: pytest.MonkeyPatch, ask: Any) -> None:
    async def addresses(_self: Any, host: str, port: int) -> Any:
        await trio.sleep_forever()

    monkeypatch.setattr(TcpConnect, "_addresses", addresses)
    got = await ask(Transport(), "http://slow.example/", timeout={"connect": 0.05})
    assert told(got) == (httpx.ConnectTimeout, "not_sent", False)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"), Kind.CONNECT),
        (OSError(errno.EMFILE, "Too many open files"), Kind.LOCAL),
        (RuntimeError("can't start new thread"), Kind.LOCAL),
    ],
)
async def test_a_lookup_that_fails_says_why(
    error: Exception, kind: Kind, monkeypatch: pytest.MonkeyPatch, ask: Any
) -> None:
    """And not that the name is no address, which was looked at first."""
    numeric = socket.getaddrinfo

    def look_up(*args: Any, **options: Any) -> Any:
        if options.get("flags"):
            return numeric(*args, **options)
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    got = await ask(Transport(), "http://api.example.com/")
    assert told(got) == (httpx.ConnectError, "not_sent", False)
    assert str(error) in str(got.error)
    assert failure_of(got.error, Target("p", "http://api.example.com", "m"), phase=Phase.NOT_SENT).kind is kind


async def test_a_header_that_is_refused_is_not_quoted(ask: Any) -> None:
    got = await ask(Transport(), "http://127.0.0.1:9/", headers={"authorization": "Bearer my-secret\n"})
    assert told(got) == (httpx.LocalProtocolError, "not_sent", False)
    assert str(got.error).startswith("the header authorization holds a character that is not allowed there")


# ------------------------------------------------------------------------------------------------ it was sent


async def test_a_stream_that_has_no_words_for_its_end_is_given_those_of_its_beginning(ask: Any) -> None:
    """TLS reads nothing more after a send that failed."""

    class Broken(trio.abc.Stream):
        async def send_all(self, _data: Any) -> None:
            raise trio.BrokenResourceError from BrokenPipeError(errno.EPIPE, "Broken pipe")

        async def receive_some(self, _most: Any = None) -> bytes:
            raise trio.BrokenResourceError

        async def wait_send_all_might_not_block(self) -> None: ...

        async def aclose(self) -> None: ...

    async def connect(_host: str, _port: int) -> Link:
        return Link(Broken(), lambda: None, lambda: True)

    got = await ask(Transport(connect=connect), "http://server/")
    assert told(got) == (httpx.ReadError, "sent", False)
    assert str(got.error) == "[Errno 32] Broken pipe"


@pytest.mark.parametrize("served", [0, 1])
@pytest.mark.parametrize("body", [b"", b"x" * 200_000])
@pytest.mark.parametrize(
    ("said", "reset", "failure"),
    [
        (b"", False, httpx.RemoteProtocolError),
        (b"", True, httpx.ReadError),
        (HEAD[:-4], False, httpx.RemoteProtocolError),
        (HEAD[:-4], True, httpx.ReadError),
        (b"HTTP/1.1 100 Continue\r\n\r\n", False, httpx.RemoteProtocolError),
        (b"what?\r\n\r\n", False, httpx.RemoteProtocolError),
    ],
    ids=["EOF", "reset", "EOF in the head", "reset in the head", "EOF after 100", "no HTTP"],
)
async def test_no_reply(
    said: bytes, reset: bool, failure: Any, body: bytes, served: int, serve: Any, answering: Any, ask: Any
) -> None:
    url = await serve(answering(*[REPLY] * served, said, reset=reset))
    async with Transport() as transport:
        for _ in range(served):
            assert (await ask(transport, url)).body == b"ok"
        got = await ask(transport, url, "POST", content=body)
    assert told(got) == (failure, "sent", bool(served))
    assert got.status is None
    if reset:
        assert "reset by peer" in str(got.error)


@pytest.mark.parametrize("body", [b"", b"x" * 200_000])
async def test_a_silence_before_the_reply(body: bytes, serve: Any, heard: Any, ask: Any) -> None:
    async def handler(stream: trio.SocketStream) -> None:
        await heard(stream)
        await trio.sleep_forever()

    got = await ask(Transport(), await serve(handler), "POST", content=body, timeout={"read": 0.05})
    assert told(got) == (httpx.ReadTimeout, "sent", False)
    assert str(got.error) == "the server said nothing for 0.05 s"


@pytest.mark.parametrize("size", [0, 5, 200_000])
async def test_a_server_that_said_why_before_it_broke_off_is_heard(size: int, peers: Any, ask: Any) -> None:
    """Sending fails, and yet there is something to be read."""

    class Deaf(type(peers)):  # type: ignore[misc]
        async def __call__(self, host: str, port: int) -> Any:
            link = await super().__call__(host, port)

            async def send_all(_data: Any) -> None:
                await trio.lowlevel.checkpoint()
                raise trio.BrokenResourceError from BrokenPipeError(32, "Broken pipe")

            link.stream.send_all = send_all
            if says:
                link.stream.say(b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy")
            link.stream.leave()
            return link

    for says in (True, False):
        got = await ask(Deaf().transport(), "http://server/", "POST", content=b"x" * size)
        if says:
            assert (got.status, got.body, got.failure) == (503, b"busy", None)
        else:
            assert told(got) == (httpx.RemoteProtocolError, "sent", False)


# ------------------------------------------------------------------------------------------------ in the body


@pytest.mark.parametrize("served", [0, 1])
@pytest.mark.parametrize(
    ("said", "reset", "failure", "body"),
    [
        (HEAD, False, httpx.RemoteProtocolError, b""),
        (HEAD + b"hel", False, httpx.RemoteProtocolError, b"hel"),
        (HEAD + b"hel", True, httpx.ReadError, b"hel"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\nx", False, httpx.RemoteProtocolError, b"he"),
    ],
    ids=["EOF at once", "EOF", "reset", "a broken chunk"],
)
async def test_a_body_that_breaks_off(
    said: bytes, reset: bool, failure: Any, body: bytes, served: int, serve: Any, answering: Any, ask: Any
) -> None:
    url = await serve(answering(*[REPLY] * served, said, reset=reset))
    async with Transport() as transport:
        for _ in range(served):
            assert (await ask(transport, url)).body == b"ok"
        got = await ask(transport, url)
    assert told(got) == (failure, "headers", bool(served))
    assert (got.status, got.body) == (200, body)


async def test_a_silence_in_the_body(serve: Any, heard: Any, ask: Any) -> None:
    async def handler(stream: trio.SocketStream) -> None:
        await heard(stream)
        await stream.send_all(HEAD + b"hel")
        await trio.sleep_forever()

    got = await ask(Transport(), await serve(handler), timeout={"read": 0.05})
    assert told(got) == (httpx.ReadTimeout, "headers", False)
    assert (got.status, got.body) == (200, b"hel")


async def test_the_callers_own_progress_is_kept(serve: Any, answering: Any, ask: Any) -> None:
    """For whoever is not told by an exception: a caller whose own clock ran out."""
    url = await serve(answering(REPLY, REPLY))
    seen = []
    async with Transport() as transport:
        for _ in range(2):
            progress = Progress()
            request = httpx.Request("GET", url, extensions={"trace": progress})
            await (await transport.handle_async_request(request)).aread()
            seen.append((str(progress.phase), progress.reused))
    assert seen == [("headers", False), ("headers", True)]


# ------------------------------------------------------------------------------------------------ writing


async def test_a_server_that_never_reads(serve: Any, ask: Any) -> None:
    async def handler(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    got = await ask(Transport(), await serve(handler), "POST", content=b"x" * 50_000_000, timeout={"write": 0.1})
    assert told(got) == (httpx.WriteTimeout, "sent", False)
    assert str(got.error) == "the server took nothing for 0.1 s"


async def test_a_server_that_reads_slowly_has_the_time_for_each_step(serve: Any, ask: Any) -> None:
    """`write` is for one step; the whole takes many times as long."""

    async def handler(stream: trio.SocketStream) -> None:
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        size = 0
        while size < 4_000_000:
            await trio.sleep(0.005)
            size += len(await stream.receive_some(65536))
        await stream.send_all(REPLY)

    url = await serve(handler)
    async with Transport() as transport:
        got = await ask(transport, url, "POST", content=b"x" * 4_000_000, timeout={"write": 0.15})
    assert got.failure is None
