"""Servers that answer before they have heard all, and requests that wait to be asked for their body."""

from __future__ import annotations

import signal
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Any

import attrs
import httpx
import pytest
import trio
import trio.testing

from cortex.transport import Link, Transport, connection

MANY = 50_000_000
TOO_LARGE = b"HTTP/1.1 413 Payload Too Large\r\nconnection: close\r\ncontent-length: 9\r\n\r\ntoo large"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


async def upload() -> AsyncGenerator[bytes, None]:
    for _ in range(MANY // 100_000):
        yield b"x" * 100_000


async def post(ask: Any, transport: Transport, url: str, streamed: bool, **more: Any) -> Any:
    """Send very much, whole or in pieces. Whoever gives a generator closes it."""
    if not streamed:
        return await ask(transport, url, "POST", content=b"x" * MANY, **more)
    async with aclosing(upload()) as body:
        got = await ask(transport, url, "POST", content=body, **more)
        assert await anext(body, None) is not None, "all of it was taken"
    return got


async def head_of(stream: Any) -> bytes:
    """Read the head of a request; gives what has come of the body."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += await stream.receive_some(10_000)
    return data.partition(b"\r\n\r\n")[2]


# ------------------------------------------------------------------------------------------------ 413 and the like


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("how", ["close", "reset", "stop reading", "read a little"])
async def test_c16_an_early_refusal_is_told_and_no_broken_pipe(how: str, streamed: bool, serve: Any, ask: Any) -> None:
    async def handler(stream: trio.SocketStream) -> None:
        await head_of(stream)
        if how == "read a little":
            for _ in range(20):
                await stream.receive_some(65536)
        await stream.send_all(TOO_LARGE)
        if how == "stop reading":
            await trio.sleep_forever()
        await trio.sleep(0.02)  # it was on its way before the connection broke
        if how == "reset":
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    url = await serve(handler)
    with trio.fail_after(2):
        got = await post(ask, Transport(), url, streamed)
    assert (got.status, got.body, got.failure) == (413, b"too large", None)


async def test_an_early_refusal_costs_the_connection(serve: Any, heard: Any, ask: Any) -> None:
    """Whatever of the body is still to come would be taken for the next request."""
    connections = []

    async def handler(stream: trio.SocketStream) -> None:
        connections.append(stream)
        if len(connections) == 1:
            await head_of(stream)
            await stream.send_all(TOO_LARGE.replace(b"connection: close\r\n", b""))
            while await stream.receive_some(65536):
                pass
        while await heard(stream):
            await stream.send_all(OK)

    url = await serve(handler)
    async with Transport() as transport:
        assert (await ask(transport, url, "POST", content=b"x" * MANY)).status == 413
        for _ in range(2):
            assert (await ask(transport, url, "POST", content=b"x" * 1_000_000)).status == 200
    assert len(connections) == 2


async def test_a_connection_that_served_well_does_not_serve_again_when_a_body_was_not_wanted(
    serve: Any, heard: Any, ask: Any
) -> None:
    async def handler(stream: trio.SocketStream) -> None:
        await heard(stream)
        await stream.send_all(OK)
        await head_of(stream)
        await stream.send_all(OK)
        await trio.sleep_forever()

    url = await serve(handler)
    async with Transport() as transport:
        assert (await ask(transport, url)).status == 200
        assert repr(transport) == "<Transport: 0 connections in use, 1 idle>"
        assert (await ask(transport, url, "POST", content=b"hello", headers=EXPECT)).status == 200
        assert repr(transport) == "<Transport: 0 connections in use, 0 idle>"


@pytest.mark.parametrize("at_once", ["nothing", "a little", "it is broken"])
async def test_a_request_that_could_not_be_sent_wholly_costs_the_connection(at_once: str, peers: Any, ask: Any) -> None:
    """The refusal was said before; the connection seems to be silent after it."""

    def send(_data: bytes) -> int:
        if at_once == "it is broken":
            raise BrokenPipeError
        return 7 if at_once == "a little" else 0

    async def send_all(_data: Any) -> None:
        await trio.lowlevel.checkpoint()
        raise trio.BrokenResourceError

    async def connect(host: str, port: int) -> Link:
        link = await peers(host, port)
        link.stream.send_all = send_all
        link.stream.say(TOO_LARGE.replace(b"connection: close\r\n", b""))
        return attrs.evolve(link, send=send)

    async with Transport(connect=connect) as transport:
        assert (await ask(transport, "http://server/", "POST", content=b"hello")).status == 413
        assert repr(transport) == "<Transport: 0 connections in use, 0 idle>"


async def test_the_rest_of_a_small_request_has_its_time_to_be_taken(peers: Any, ask: Any, autojump_clock: Any) -> None:
    async def never(_data: Any) -> None:
        await trio.sleep_forever()

    async def connect(host: str, port: int) -> Link:
        link = await peers(host, port)
        link.stream.send_all = never
        return attrs.evolve(link, send=lambda _data: 7)

    started = trio.current_time()
    got = await ask(Transport(connect=connect), "http://server/", "POST", content=b"hello", timeout={"write": 3.0})
    assert (got.failure, str(got.error)) == (httpx.WriteTimeout, "the server took nothing for 3 s")
    assert trio.current_time() - started == 3.0
    assert peers.alive == 0


async def test_a_reply_that_comes_while_the_body_is_sent_is_read_to_its_end(serve: Any, ask: Any) -> None:
    """Larger than what is read ahead, and it comes slowly."""

    async def handler(stream: trio.SocketStream) -> None:
        await head_of(stream)
        await stream.send_all(b"HTTP/1.1 400 Bad\r\nconnection: close\r\ncontent-length: 300000\r\n\r\n")
        for _ in range(30):
            await stream.send_all(b"x" * 10_000)
            await trio.sleep(0.001)
        while await stream.receive_some(1_000_000):
            pass

    got = await ask(Transport(), await serve(handler), "POST", content=b"x" * MANY)
    assert (got.status, len(got.body), got.failure) == (400, 300_000, None)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("how", ["close", "stop reading"])
async def test_an_early_reply_that_is_no_refusal_is_told_when_the_server_listens_no_longer(
    how: str, streamed: bool, serve: Any, ask: Any
) -> None:
    async def handler(stream: trio.SocketStream) -> None:
        await head_of(stream)
        await stream.send_all(OK)
        if how == "stop reading":
            await trio.sleep_forever()
        await trio.sleep(0.02)

    url = await serve(handler)
    async with Transport() as transport:
        with trio.fail_after(2):
            got = await post(ask, transport, url, streamed, timeout={"write": 0.1})
        assert (got.status, got.body, got.failure) == (200, b"ok", None)
        assert repr(transport) == "<Transport: 0 connections in use, 0 idle>"


@pytest.mark.parametrize("status", [200, 413])
async def test_a_body_that_fails_is_told_although_an_answer_had_come(status: int, serve: Any, ask: Any) -> None:
    """The answer is one to half a request; a refusal is one to any."""

    async def handler(stream: Any) -> None:
        await stream.receive_some(65536)
        await stream.send_all(b"HTTP/1.1 %d So\r\ncontent-length: 2\r\n\r\nok" % status)
        async for _ in stream:
            pass

    async def body() -> AsyncIterator[bytes]:
        yield b"one"
        await trio.sleep(0.05)
        raise ZeroDivisionError("the file could not be read on")

    url = await serve(handler)
    async with Transport() as transport:
        if status == 413:
            assert (await ask(transport, url, "POST", content=body())).status == 413
        else:
            with pytest.raises(ZeroDivisionError, match="could not be read on"):
                await ask(transport, url, "POST", content=body())
        assert "0 connections in use, 0 idle" in repr(transport)


async def test_a_reply_that_grows_with_the_request_is_read_to_its_end(serve: Any, ask: Any) -> None:
    async def echo(stream: trio.SocketStream) -> None:
        data = await head_of(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 300000\r\n\r\n" + data)
        size = len(data)
        while size < 300_000:
            data = await stream.receive_some(100_000)
            size += len(data)
            await stream.send_all(data)
        await stream.receive_some(1)

    url = await serve(echo)
    async with Transport() as transport:
        with trio.fail_after(2):
            got = await ask(transport, url, "POST", content=b"x" * 300_000, timeout={"write": 0.2})
    assert (got.status, len(got.body), got.failure) == (200, 300_000, None)


async def test_a_server_that_hangs_up_without_a_word(serve: Any, ask: Any) -> None:
    async def handler(stream: trio.SocketStream) -> None:
        await head_of(stream)

    got = await ask(Transport(), await serve(handler), "POST", content=b"x" * MANY)
    assert got.failure in (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
    assert str(got.error)
    assert got.error.phase == "sent"


# ------------------------------------------------------------------------------------------------ a server that is deaf


@pytest.mark.parametrize("streamed", [False, True])
async def test_c15_a_cancel_in_the_middle_of_an_upload_returns_at_once(streamed: bool, serve: Any, ask: Any) -> None:
    async def deaf(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    url = await serve(deaf)
    async with Transport() as transport:
        started = trio.current_time()
        with trio.move_on_after(0.05) as scope:
            await post(ask, transport, url, streamed, timeout={})
        assert scope.cancelled_caught
        assert trio.current_time() - started < 0.5
        assert repr(transport) == "<Transport: 0 connections in use, 0 idle>"


async def test_nobody_owes_an_answer_while_we_still_speak(serve: Any, heard: Any, ask: Any) -> None:
    """`read` counts from the end of the request."""

    async def slowly() -> AsyncIterator[bytes]:
        for _ in range(5):
            await trio.sleep(0.05)
            yield b"x"

    async def handler(stream: trio.SocketStream) -> None:
        await heard(stream)
        await stream.send_all(OK)
        await heard(stream)

    async with Transport() as transport:
        got = await ask(transport, await serve(handler), "POST", content=slowly(), timeout={"read": 0.1})
    assert (got.status, got.failure) == (200, None)


# ------------------------------------------------------------------------------------------------ Expect: 100-continue

EXPECT = {"expect": "100-continue"}


@pytest.fixture
def no_patience_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for a patience of ours to end waits for a minute."""
    monkeypatch.setattr(connection, "EXPECT_SECONDS", 60.0)
    monkeypatch.setattr(connection, "AHEAD_SECONDS", 60.0)


@pytest.mark.usefixtures("no_patience_helps")
@pytest.mark.parametrize("size", [5, 200_000])
async def test_the_body_waits_to_be_asked_for(size: int, serve: Any, heard: Any, ask: Any) -> None:
    early: list[bytes] = []

    async def handler(stream: trio.SocketStream) -> None:
        data = await stream.receive_some(10_000)
        early.append(data.partition(b"\r\n\r\n")[2])
        with trio.move_on_after(0.03):
            early.append(await stream.receive_some(10_000))
        await stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert len((await heard(stream, data))[1]) == size
        await stream.send_all(OK)
        await heard(stream)

    async with Transport() as transport:
        with trio.fail_after(5):
            got = await ask(transport, await serve(handler), "POST", content=b"x" * size, headers=EXPECT)
        assert repr(transport) == "<Transport: 0 connections in use, 1 idle>"
    assert (got.status, got.body) == (200, b"ok")
    assert early == [b""]


@pytest.mark.usefixtures("no_patience_helps")
@pytest.mark.parametrize("status", [200, 302, 413, 417])
async def test_a_final_answer_instead_means_that_nobody_wants_the_body(status: int, serve: Any, ask: Any) -> None:
    heard: list[bytes] = []

    async def handler(stream: trio.SocketStream) -> None:
        await head_of(stream)
        await stream.send_all(OK.replace(b"200", b"%d" % status))
        heard.append(await stream.receive_some(10_000))

    async with Transport() as transport:
        with trio.fail_after(5):
            got = await ask(transport, await serve(handler), "POST", content=b"x" * MANY, headers=EXPECT)
        assert (got.status, got.body, got.failure) == (status, b"ok", None)
        assert repr(transport) == "<Transport: 0 connections in use, 0 idle>"
    await trio.testing.wait_all_tasks_blocked()
    assert heard == [b""]


async def test_silence_is_borne_for_a_second_and_then_the_body_is_sent(
    serve: Any, heard: Any, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert connection.EXPECT_SECONDS == 1.0
    monkeypatch.setattr(connection, "EXPECT_SECONDS", 0.1)

    async def handler(stream: trio.SocketStream) -> None:
        assert (await heard(stream))[1] == b"hello"
        await stream.send_all(OK)
        await heard(stream)

    started = trio.current_time()
    async with Transport() as transport:
        got = await ask(transport, await serve(handler), "POST", content=b"hello", headers=EXPECT)
    assert (got.status, got.failure) == (200, None)
    assert 0.1 <= trio.current_time() - started < 0.6


async def test_once_the_body_is_sent_unasked_an_early_answer_ends_nothing(
    serve: Any, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that knows nothing of expectations, and answers while it reads."""
    monkeypatch.setattr(connection, "EXPECT_SECONDS", 0.05)
    monkeypatch.setattr(connection, "AHEAD_SECONDS", 0.05)

    async def slowly() -> AsyncIterator[bytes]:
        for _ in range(10):
            await trio.sleep(0.02)
            yield b"x" * 100

    async def handler(stream: trio.SocketStream) -> None:
        data = await stream.receive_some(1000)
        data += await stream.receive_some(1000)  # not before the client's patience is at its end
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
        while b"0\r\n\r\n" not in data:
            data += (more := await stream.receive_some(1000))
            assert more
        await stream.send_all(b"%d" % data.count(b"x" * 100))
        await stream.receive_some(1)

    async with Transport() as transport:
        got = await ask(transport, await serve(handler), "POST", content=slowly(), headers=EXPECT)
        assert repr(transport) == "<Transport: 0 connections in use, 1 idle>"
    assert (got.status, got.body, got.failure) == (200, b"10", None)


@pytest.mark.usefixtures("no_patience_helps")
@pytest.mark.parametrize("body", [None, b""])
async def test_an_expectation_without_a_body(body: Any, serve: Any, heard: Any, ask: Any) -> None:
    """There is nothing to wait for."""

    async def handler(stream: trio.SocketStream) -> None:
        await heard(stream)
        await stream.send_all(OK)
        await heard(stream)

    async with Transport() as transport:
        with trio.fail_after(5):
            got = await ask(transport, await serve(handler), "POST", content=body, headers=EXPECT)
    assert (got.status, got.failure) == (200, None)


# ------------------------------------------------------------------------------------------------ Ctrl-C


def test_ctrl_c_ends_a_body_that_computes(peers: Any, ask: Any) -> None:
    """It is the caller's own code, between whose lines trio raises it."""
    lines: list[str] = []

    async def body() -> AsyncIterator[bytes]:
        signal.raise_signal(signal.SIGINT)
        lines.append("goes on")
        yield b"x"

    with pytest.raises((KeyboardInterrupt, BaseExceptionGroup)):
        trio.run(partial(ask, peers.transport(), "http://server/", "POST", content=body()))
    assert lines == []
    assert peers.alive == 0
