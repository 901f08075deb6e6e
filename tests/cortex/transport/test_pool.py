"""The pool, seen from outside: which connection serves whom, who waits, and what is left when all have gone."""

from __future__ import annotations

import os
import time
from typing import Any

import httpx
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from cortex.transport import Transport
from cortex.transport.pool import Slots

URL = "http://server/"


def numbered(peer: Any) -> bytes:
    """Answers with the number of the requests this connection has had."""
    body = b"%d" % len(peer.requests)
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


async def reply_to(transport: Transport, url: str = URL, **timeout: float) -> httpx.Response:
    return await transport.handle_async_request(httpx.Request("GET", url, extensions={"timeout": timeout}))


# ------------------------------------------------------------------------------------------------ idle ones


async def test_the_one_that_was_used_last_serves_first(peers: Any, ask: Any, autojump_clock: Any) -> None:
    transport = peers.transport()
    responses = [await reply_to(transport) for _ in range(3)]
    for index in (1, 0, 2):
        await responses[index].aread()
    for _ in range(4):
        await ask(transport, URL)
    assert [len(peer.requests) for peer in peers.opened] == [1, 1, 5]
    two = [await reply_to(transport) for _ in range(2)]
    assert [len(peer.requests) for peer in peers.opened] == [2, 1, 6]
    for response in two:
        await response.aclose()


async def test_an_idle_one_is_kept_for_its_time_and_no_longer(peers: Any, ask: Any, autojump_clock: Any) -> None:
    transport = peers.transport(keepalive_expiry=5.0)
    await ask(transport, URL)
    for pause, opened in ((4.9, 1), (4.9, 1), (5.0, 2), (60.0, 3)):
        await trio.sleep(pause)
        await ask(transport, URL)
        assert len(peers.opened) == opened
        assert peers.alive == 1


async def test_one_that_is_too_old_is_not_used_though_it_was_not_swept_away_yet(
    peers: Any, ask: Any, autojump_clock: Any
) -> None:
    """What nobody asks for is looked at once in the time that it is kept; what is taken, each time."""
    transport = peers.transport(keepalive_expiry=5.0)
    for second, url, opened in ((4.0, URL, 1), (5.0, "http://other/", 2), (9.5, URL, 3)):
        await trio.sleep(second - trio.current_time())
        await ask(transport, url)
        assert len(peers.opened) == opened


async def test_those_that_grow_old_at_the_bottom_are_closed_though_nobody_asks_for_them(
    peers: Any, ask: Any, autojump_clock: Any
) -> None:
    transport = peers.transport(keepalive_expiry=5.0)
    for response in [await reply_to(transport) for _ in range(10)]:
        await response.aread()
    assert peers.alive == 10
    for _ in range(3):
        await trio.sleep(2)
        await ask(transport, URL)
    assert peers.alive == 1


async def test_with_a_sweeper_they_are_closed_though_no_call_comes_any_more(
    peers: Any, ask: Any, nursery: trio.Nursery, autojump_clock: Any
) -> None:
    transport = peers.transport(keepalive_expiry=5.0)
    nursery.start_soon(transport.sweep_forever)
    for _ in range(2):  # it rests, and wakes again
        for response in [await reply_to(transport, url) for url in (URL, URL, "http://other/")]:
            await response.aread()
        await trio.sleep(4.9)
        assert peers.alive == 3
        await trio.sleep(5.2)
        assert peers.alive == 0
        assert repr(transport) == "<Transport: 0 connections in use, 0 idle>"
        await trio.sleep(100)


async def test_a_forked_child_takes_none_of_its_parents(
    serve: Any, heard: Any, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients: list[int] = []

    async def handler(stream: trio.SocketStream) -> None:
        clients.append(stream.socket.getpeername()[1])
        while await heard(stream):
            await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    async with Transport() as transport:
        url = await serve(handler)
        for child in (0, 0, 1, 1):
            monkeypatch.setattr(os, "getpid", lambda child=child: child)
            assert (await ask(transport, url)).status == 200
        assert len(clients) == 2


class Reading(trio.abc.Clock):
    """A clock that reads what it is told, and a little more."""

    def __init__(self, start: float) -> None:
        self.start = start - time.perf_counter()

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return self.start + time.perf_counter()

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return deadline - self.current_time()


@pytest.mark.parametrize("later", [10.0, 2_000_000.0])
def test_what_another_trio_run_left_is_swept_away_whatever_its_clock_read(later: float, peers: Any, ask: Any) -> None:
    transport = peers.transport(keepalive_expiry=0.02)

    async def visit() -> None:
        for host in "abc":
            await ask(transport, f"http://{host}/")
            await trio.sleep(0.03)
        assert peers.alive == 1

    for start in (1_000_000.0, later):
        trio.run(visit, clock=Reading(start))


async def test_a_burst_that_comes_again_connects_to_nobody(peers: Any, autojump_clock: Any) -> None:
    transport = peers.transport()
    for _ in range(2):
        for response in [await reply_to(transport) for _ in range(150)]:
            await response.aread()
        assert len(peers.opened) == peers.alive == 150
    assert repr(transport) == "<Transport: 0 connections in use, 150 idle>"


@pytest.mark.parametrize("news", ["end", "byte"])
async def test_one_whose_server_has_spoken_or_left_is_not_used(
    news: str, peers: Any, ask: Any, autojump_clock: Any
) -> None:
    transport = peers.transport()
    await ask(transport, URL)
    peers.opened[0].leave() if news == "end" else peers.opened[0].say(b"H")
    got = await ask(transport, URL)
    assert (got.status, got.body) == (200, b"ok")
    assert [(len(peer.requests), peer.closed) for peer in peers.opened] == [(1, True), (1, False)]


async def test_each_origin_has_its_own(peers: Any, ask: Any, autojump_clock: Any) -> None:
    transport = peers.transport(max_connections=1)
    urls = [
        "http://a/",
        "http://b/",
        "http://a:8080/",
        "http://A/x",
        "http://a:80/y",
        "http://[::1]:81/",
        "http://a:0/",
    ]
    for url in urls:
        assert (await ask(transport, url)).status == 200
    assert peers.addresses == [("a", 80), ("b", 80), ("a", 8080), ("::1", 81), ("a", 0)]


@pytest.mark.parametrize("hundreds", [30, pytest.param(100, marks=pytest.mark.slow)])
async def test_however_many_origins_are_visited_they_leave_nothing(
    hundreds: int, peers: Any, ask: Any, autojump_clock: Any
) -> None:
    """Each leaves an idle connection behind, which nobody will ever ask for."""
    transport = peers.transport()
    most = 0
    for hundred in range(hundreds):
        for number in range(100):
            await ask(transport, f"http://host{hundred}-{number}/")
        most = max(most, sum(slots.idle for slots in transport._origins.values()))
        await trio.sleep(1)
    assert most <= 1000  # those of the last ten seconds
    await trio.sleep(10)
    await ask(transport, URL)
    assert peers.alive == 1
    assert len(transport._origins) == 1


@pytest.mark.parametrize("how", ["close", "refuse"])
async def test_origins_that_keep_nothing_are_forgotten_at_once(how: str, Peers: Any, ask: Any) -> None:
    peers = Peers(lambda _peer: b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")

    async def refuse(host: str, port: int) -> Any:
        raise ConnectionRefusedError(111, "Connection refused")

    transport = Transport(connect=peers if how == "close" else refuse)
    for number in range(100):
        await ask(transport, f"http://host{number}/")
    assert not transport._origins


# ------------------------------------------------------------------------------------------------ the bound


async def test_whoever_comes_too_many_waits_and_is_served_in_order(Peers: Any, ask: Any, autojump_clock: Any) -> None:
    peers = Peers(numbered)
    transport = peers.transport(max_connections=3)
    served: list[int] = []

    async def call(number: int) -> None:
        await trio.sleep(number / 100)
        response = await reply_to(transport)
        served.append(number)
        await trio.sleep(1)
        await response.aread()

    async with trio.open_nursery() as nursery:
        for number in range(12):
            nursery.start_soon(call, number)
    assert served == list(range(12))
    assert len(peers.opened) == 3
    assert trio.current_time() == pytest.approx(4.0, abs=0.2)


async def test_nobody_overtakes_those_who_wait(Peers: Any, ask: Any, autojump_clock: Any) -> None:
    transport = Peers().transport(max_connections=1)
    order: list[str] = []

    async def call(name: str) -> None:
        await ask(transport, URL)
        order.append(name)

    first = await reply_to(transport)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call, "waited")
        await trio.testing.wait_all_tasks_blocked()
        await first.aread()  # the one who waits is served now, but does not run yet
        nursery.start_soon(call, "came later")
    assert order == ["waited", "came later"]


async def test_a_wait_that_takes_too_long(peers: Any, ask: Any, autojump_clock: Any) -> None:
    transport = peers.transport(max_connections=2)
    held = [await reply_to(transport) for _ in range(2)]
    got = await ask(transport, URL, timeout={"pool": 3.0})
    assert got.failure is httpx.PoolTimeout
    assert str(got.error) == "all 2 connections were in use for 3 s"
    assert (got.error.phase, got.error.reused) == ("not_sent", False)
    assert trio.current_time() == pytest.approx(3.0)
    for response in held:
        await response.aclose()
    assert repr(transport) == "<Transport: 0 connections in use, 2 idle>"


async def test_a_wait_of_one_origin_holds_up_no_other(peers: Any, ask: Any, autojump_clock: Any) -> None:
    transport = peers.transport(max_connections=1)
    held = await reply_to(transport)
    assert (await ask(transport, "http://other/")).status == 200
    await held.aclose()


async def test_who_fails_to_connect_hands_the_slot_on(peers: Any, ask: Any, autojump_clock: Any) -> None:
    fails = 3

    async def connect(host: str, port: int) -> Any:
        nonlocal fails
        await trio.sleep(1)
        if fails:
            fails -= 1
            raise ConnectionRefusedError(111, "Connection refused")
        return await peers(host, port)

    transport = Transport(connect=connect, max_connections=1)
    got: list[Any] = []

    async def call() -> None:
        got.append(await ask(transport, URL, timeout=100.0))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(call)
    assert [one.status for one in got] == [None, None, None, 200, 200]
    assert len(peers.opened) == 1


# ------------------------------------------------------------------------------------------------ those who leave


async def test_a_wait_that_is_cancelled_leaves_no_trace(peers: Any, ask: Any, autojump_clock: Any) -> None:
    transport = peers.transport(max_connections=1)
    held = await reply_to(transport)
    for _ in range(100):
        with trio.move_on_after(0.1):
            await reply_to(transport)
    (slots,) = transport._origins.values()
    assert (slots.in_use, slots.waiting) == (1, 0)
    await held.aclose()
    assert (slots.in_use, slots.idle) == (0, 1)
    assert (await ask(transport, URL)).status == 200


class Token:
    """What a pool holds here: something that was given to one at a time."""

    closed = False

    def is_usable(self) -> bool:
        return not self.closed

    def close(self) -> None:
        self.closed = True


@given(
    chance=st.random_module(),
    plans=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), max_size=30),
)
def test_whoever_leaves_in_the_moment_of_being_served_passes_it_on(
    chance: Any, plans: list[tuple[int, int, int]]
) -> None:
    """Arrivals, holds and cancels all fall on the same few moments."""

    async def main() -> None:
        slots: Slots[Token] = Slots(2)
        held: set[Token] = set()
        using = 0

        async def call(arrive: int, hold: int, leave: int) -> None:
            nonlocal using
            await trio.sleep(arrive)
            with trio.move_on_at(trio.current_time() + leave):
                token = await slots.wait() if slots.must_wait() else slots.take(trio.current_time())
                token = token or Token()
                assert token not in held
                assert not token.closed
                held.add(token)
                using += 1
                assert using <= 2
                try:
                    await trio.sleep(hold)
                finally:
                    using -= 1
                    held.remove(token)
                    slots.give(token, trio.current_time())

        async with trio.open_nursery() as nursery:
            for plan in plans:
                nursery.start_soon(call, *plan)
        assert (slots.in_use, slots.waiting) == (0, 0)
        assert slots.idle <= 2

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@given(
    chance=st.random_module(),
    plans=st.lists(st.tuples(st.integers(0, 4), st.sampled_from([0, 1, 2, 3, 100])), min_size=1, max_size=20),
    bound=st.integers(1, 3),
)
def test_however_calls_are_cancelled_the_pool_is_whole(
    chance: Any, plans: list[tuple[int, int]], bound: int, Peers: Any, ask: Any
) -> None:
    async def main() -> None:
        def reply(peer: Any) -> bytes:
            async def later() -> None:
                await trio.sleep(1)
                peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
                await trio.sleep(1)
                peer.say(b"ok")

            server.start_soon(later)
            return b""

        peers = Peers(reply)
        peers.connecting = 1.0
        transport = peers.transport(max_connections=bound)
        done = 0

        async def call(arrive: int, leave: int) -> None:
            nonlocal done
            await trio.sleep(arrive)
            with trio.move_on_after(leave) as scope:
                assert (await ask(transport, URL, timeout={})).body == b"ok"
            done += not scope.cancelled_caught
            assert peers.alive <= bound

        async with trio.open_nursery() as server:
            async with trio.open_nursery() as callers:
                for plan in plans:
                    callers.start_soon(call, *plan)
            assert done >= sum(leave == 100 for _, leave in plans)
            for slots in transport._origins.values():
                assert (slots.in_use, slots.waiting) == (0, 0)
            assert (await ask(transport, URL, timeout={})).status == 200
            await transport.aclose()
        assert peers.alive == 0

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_a_reply_that_is_left_unread_gives_its_connection_back_if_it_has_come(
    peers: Any, autojump_clock: Any
) -> None:
    transport = peers.transport()
    for _ in range(3):
        await (await reply_to(transport)).aclose()
    assert len(peers.opened) == 1


async def test_a_reply_that_is_left_half_read_closes_its_connection(Peers: Any, autojump_clock: Any) -> None:
    peers = Peers(lambda _peer: b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel")
    transport = peers.transport()
    response = await reply_to(transport)
    assert await anext(aiter(response.stream)) == b"hel"  # type: ignore[arg-type]
    await response.aclose()
    await response.aclose()
    assert peers.opened[0].closed
    assert not transport._origins


# ------------------------------------------------------------------------------------------------ the end


async def test_what_is_open_at_the_end_goes_on_and_is_closed_at_its_own_end(Peers: Any, autojump_clock: Any) -> None:
    peers = Peers(lambda _peer: b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nto")
    transport = peers.transport()
    response = await reply_to(transport)
    await transport.aclose()
    assert not peers.opened[0].closed
    peers.opened[0].say(b"ok")
    assert await response.aread() == b"took"
    assert peers.opened[0].closed
    assert not transport._origins


async def test_the_end_closes_what_is_idle_and_refuses_what_comes(peers: Any, ask: Any, autojump_clock: Any) -> None:
    async with peers.transport() as transport:
        await ask(transport, URL)
        assert peers.alive == 1
    assert peers.alive == 0
    got = await ask(transport, URL)
    assert got.failure is httpx.LocalProtocolError
    assert str(got.error) == "this transport is closed"
    assert got.error.phase == "not_sent"
    await transport.aclose()


async def test_who_waits_at_the_end_is_still_served_and_leaves_nothing(
    peers: Any, ask: Any, autojump_clock: Any
) -> None:
    transport = peers.transport(max_connections=1)
    held = await reply_to(transport)
    got: list[Any] = []

    async def call() -> None:
        got.append(await ask(transport, URL))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        await transport.aclose()
        await held.aread()
    assert [one.status for one in got] == [200, 200, 200]
    assert peers.alive == 0
    assert not transport._origins
