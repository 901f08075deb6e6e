"""What a service meets in years: storms of cancels, peers that vanish, no descriptor left, a fork. Afterwards the next
call succeeds at once, and nothing is left over."""

from __future__ import annotations

import errno
import gc
import math
import os
import random
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import trio
import trio.testing

from cortex import clients
from cortex.errors import EngineFailed, QueueFull
from cortex.messages import Phase
from cortex.testing import FaultWall, Hang, Raw, Reply, Reset
from cortex.transport import Transport, dial

BATCH, EVERY = 12, 0.01
"""Calls, and the seconds after which they are cancelled."""

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"3\r\none\r\n", b"3\r\ntwo\r\n", b"0\r\n\r\n")


async def until(true: Callable[[], bool], seconds: float = 2.0) -> None:
    with trio.fail_after(seconds):
        while not true():  # noqa: ASYNC110 - the kernel has no event for it
            await trio.sleep(0.002)


@asynccontextmanager
async def nothing_left(transport: Transport, open_files: Any) -> AsyncIterator[None]:
    """Around what may not leave anything in the pool, nor, when it is closed, an open file."""
    before = open_files()
    yield
    assert not any(pool.in_use or pool.waiting for pool in transport._origins.values())
    await transport.aclose()
    await until(lambda: open_files() <= before)
    assert transport._origins == {} or all(pool.is_unused for pool in transport._origins.values())


async def storm(call: Callable[[], Awaitable[object]], seconds: float) -> None:
    until = trio.current_time() + seconds
    while trio.current_time() < until:
        with trio.move_on_after(EVERY):
            async with trio.open_nursery() as nursery:
                for _ in range(BATCH):
                    nursery.start_soon(call)


def moody(heard: Any, moods: list[str]) -> Any:
    """A server that answers, answers slowly, in part, not at all, or vanishes; `moods` are drawn from."""
    chance = random.Random(7)

    async def handler(stream: Any) -> None:
        while await heard(stream):
            match chance.choice(moods):
                case "answer":
                    await stream.send_all(OK)
                case "slow":
                    await trio.sleep(chance.uniform(0, 2 * EVERY))
                    await stream.send_all(OK)
                case "drip":
                    for piece in CHUNKED:
                        await stream.send_all(piece)
                        await trio.sleep(EVERY / 4)
                case "hang":
                    await stream.receive_some(1)  # until the client leaves
                case "close":
                    return
                case "half":
                    await stream.send_all(CHUNKED[0] + CHUNKED[1][:4])
                    return
                case "reset":
                    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    return

    return handler


BUSY = ["answer", "slow", "slow", "drip", "hang"]
BROKEN = ["answer", "close", "half", "reset", "hang"]


@pytest.mark.parametrize("seconds", [0.5, pytest.param(10.0, marks=pytest.mark.slow)])
async def test_a_storm_of_cancels(seconds: float, ask: Any, heard: Any, serving: Any, open_files: Any) -> None:
    """There are fewer connections than calls: some are cancelled while they wait for one."""
    moods = list(BUSY)
    async with serving(moody(heard, moods)) as url:
        transport = Transport(max_connections=8)
        async with nothing_left(transport, open_files):
            await storm(lambda: ask(transport, url, "POST", content=b"x" * 100), seconds)
            moods[:] = ["answer"]
            with trio.fail_after(0.5):
                assert (await ask(transport, url)).body == b"ok"


async def test_peers_that_vanish(ask: Any, heard: Any, serving: Any, open_files: Any) -> None:
    moods = list(BROKEN)
    seen: set[Any] = set()

    async def call() -> None:
        got = await ask(transport, url, timeout={"connect": 1.0, "read": 0.02, "write": 1.0, "pool": 0.2})
        seen.add(got.failure)

    async with serving(moody(heard, moods)) as url:
        transport = Transport(max_connections=20)
        async with nothing_left(transport, open_files):
            for _ in range(8):
                async with trio.open_nursery() as nursery:
                    for _ in range(30):
                        nursery.start_soon(call)
            moods[:] = ["answer"]
            assert (await ask(transport, url)).body == b"ok"
    assert {None, httpx.ReadTimeout, httpx.RemoteProtocolError} <= seen
    assert seen <= {None, httpx.ReadTimeout, httpx.RemoteProtocolError, httpx.ReadError, httpx.PoolTimeout}


# --------------------------------------------------------------------------------------------------- the public door


@pytest.mark.parametrize("seconds", [0.3, pytest.param(5.0, marks=pytest.mark.slow)])
async def test_a_storm_at_the_public_door(seconds: float, lab: Any, open_files: Any) -> None:
    """Calls that run, and calls that wait to be let in."""
    before = open_files()
    async with lab.wall, lab.engine(0, sockets=True, policy={"max_in_flight": 6, "max_queue": 4}) as engine:
        full = 0

        async def call() -> None:
            nonlocal full
            try:
                async for _ in engine.stream("hi"):
                    pass
                await engine.complete("hi")
            except QueueFull:
                full += 1

        await engine.complete("warm")
        lab.primary.always(lambda _: Hang() if len(lab.primary.requests) % 3 else Reply("one two", pace=EVERY / 8))
        await storm(call, seconds)
        assert full
        lab.primary.always(Reply("still here"))
        await trio.testing.wait_all_tasks_blocked(0.01)  # streams that were dropped let go a moment later
        with trio.fail_after(1):
            assert (await engine.complete("hi")).content == "still here"
        health = engine.health()["openai"]
        assert (health.status, health.in_flight) == ("up", 0)
    await until(lambda: open_files() <= before)


async def test_providers_that_vanish_at_the_public_door(lab: Any) -> None:
    async with lab.wall, lab.engine(sockets=True) as engine:
        lab.primary.always(Reset())
        for _ in range(5):
            assert (await engine.complete("hi")).content == "Hello from anthropic."
        assert engine.health()["openai"].in_flight == 0


async def test_a_service_at_rest_keeps_no_socket(lab: Any, monkeypatch: pytest.MonkeyPatch, open_files: Any) -> None:
    """Where no next call comes to hear the server's good-bye, half of a closed connection would stay."""
    monkeypatch.setattr(clients, "KEEPALIVE_SECONDS", 0.2)
    async with lab.wall, lab.engine(sockets=True) as engine:
        before = open_files()
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(engine.complete, "hi")
            assert open_files() - before
            await until(lambda: open_files() <= before)


# ----------------------------------------------------------------------------------------------- no descriptor is left


class Exhausted:
    """The module `socket`, whose sockets cannot be made."""

    def __getattr__(self, name: str) -> Any:
        return getattr(socket, name)

    def socket(self, *_: Any) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


async def test_no_descriptor_for_one_more_connection(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is our own fault: told as such, nobody's health suffers, what is under way goes on, and it heals at once."""
    lab.primary.script(Reply("one two three four five", pace=0.02))
    async with lab.wall, lab.engine(sockets=True) as engine:
        stream = engine.stream("hi")
        assert (await anext(stream)).content == "one"
        with monkeypatch.context() as patch:
            patch.setattr(dial, "socket", Exhausted())
            for _ in range(5):
                with pytest.raises(EngineFailed, match=r"^no provider's fault.*Too many open files.*ulimit -n"):
                    await engine.complete("hi")
        assert [one.status for one in engine.health().values()] == ["up", "up"]
        assert (await engine.complete("hi")).content == "Hello from openai."
        assert "".join([chunk.content async for chunk in stream]) == " two three four five"


async def test_no_descriptor_costs_no_slot(
    monkeypatch: pytest.MonkeyPatch, ask: Any, heard: Any, serving: Any, open_files: Any
) -> None:
    async with serving(moody(heard, ["answer"])) as url:
        transport = Transport(max_connections=2)
        async with nothing_left(transport, open_files):
            with monkeypatch.context() as patch:
                patch.setattr(dial, "socket", Exhausted())
                for _ in range(5):
                    got = await ask(transport, url)
                    assert got.failure is httpx.ConnectError
                    assert got.error.phase is Phase.NOT_SENT
            assert (await ask(transport, url)).body == b"ok"


LAST = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n"
    b'{"choices":[{"index":0,"message":{"role":"assistant","content":"fine"},"finish_reason":"stop"}]}'
)
"""An answer after which the server closes the connection."""

LIMITED = """
    import os, resource
    from cortex.errors import EngineFailed
    assert complete() == complete() == "fine"
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 40, hard))
    taken = []
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    for _ in range(3):
        try:
            complete()
        except EngineFailed as error:
            assert "Too many open files" in str(error), error
        else:
            raise AssertionError("a connection without a descriptor")
    os.close(taken.pop())
    assert complete() == "fine", "one is enough"
    assert complete() == "fine", "what is open serves on"
"""

FORKED = """
    import os
    assert complete() == complete() == "fine"
    child = os.fork()
    if child == 0:
        assert complete() == complete() == "fine"
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert complete() == "fine"
"""

STREAMED = """
    import os, time
    with engine.stream_sync("hi") as stream:
        next(stream)
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
    print("left", flush=True)
    sys.stdin.readline()
    os.kill(child, 9)
    os.waitpid(child, 0)
"""

HEAD = """
    import sys
    import cortex
    engine = cortex.Engine({"openai": {"api_key": "k", "base_url": sys.argv[1]}}, worker_model="gpt-4o")
    def complete(): return engine.complete_sync("hi").content
"""


def process(script: str, url: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(HEAD) + textwrap.dedent(script), url]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts its descriptors in /proc")
def test_a_process_at_its_limit(fault_wall: FaultWall) -> None:
    provider = fault_wall.add("openai")
    provider.script(Reply("fine"), Raw(LAST))
    provider.always(Reply("fine"))
    with process(LIMITED, provider.base_url) as running:
        out, err = running.communicate(timeout=20)
    assert running.returncode == 0, out + err


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_never_speaks_on_its_parents_connection(fault_wall: FaultWall) -> None:
    provider = fault_wall.add("openai")
    provider.always(Reply("fine"))
    with process(FORKED, provider.base_url) as running:
        out, err = running.communicate(timeout=20)
    assert running.returncode == 0, out + err
    assert [seen.connection for seen in provider.requests] == [1, 1, 2, 2, 1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_stream_that_is_left_is_over_for_its_server_though_a_child_has_its_socket(fault_wall: FaultWall) -> None:
    provider = fault_wall.add("openai")
    provider.always(Reply("one two three four five six seven eight nine ten", pace=0.2))
    with process(STREAMED, provider.base_url) as running:
        assert running.stdout is not None
        said = running.stdout.readline()
        trio.run(until, lambda: provider.requests[0].gone, 1.5)
        out, err = running.communicate("\n", timeout=20)
    assert (said, running.returncode) == ("left\n", 0), out + err


# -------------------------------------------------------------------------------------------------------- a long life


def memory() -> float:
    """The MB this process holds."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
async def test_a_long_life(ask: Any, heard: Any, serving: Any, open_files: Any) -> None:
    """A minute of calls, at most 200,000, a tenth of them cancelled at random: memory and sockets stay as they are."""
    calls, sizes = 0, []
    started = stalled = trio.current_time()
    chance = random.Random(3)

    async def pulse() -> None:
        """When the machine last kept the loop itself from running: then no call can be blamed for its deadline."""
        nonlocal stalled
        while True:
            before = trio.current_time()
            await trio.sleep(0.1)
            if trio.current_time() - before > 1:
                stalled = trio.current_time()

    async def caller() -> None:
        nonlocal calls
        while calls < 200_000 and trio.current_time() < started + 60:
            calls += 1
            patience = chance.expovariate(1000) if chance.random() < 0.1 else math.inf
            begun = trio.current_time()
            with trio.move_on_after(patience):
                got = await ask(transport, url, timeout=5.0)
                if got.error is not None:
                    await trio.sleep(0.2)  # the pulse comes first
                assert got.body in (b"ok", b"onetwo") or stalled > begun, (got, getattr(got.error, "phase", None))
            if calls % 1000 == 0:
                gc.collect()
                sizes.append(memory())

    async with serving(moody(heard, ["answer"] * 20 + ["drip"])) as url:
        transport = Transport(max_connections=12)
        async with nothing_left(transport, open_files), trio.open_nursery() as watching:
            watching.start_soon(pulse)
            async with trio.open_nursery() as nursery:
                for _ in range(16):
                    nursery.start_soon(caller)
            watching.cancel_scope.cancel()
    assert calls > 5_000
    early, late = sizes[len(sizes) // 4], max(sizes[len(sizes) * 3 // 4 :])
    assert late - early < 3.0, (calls, sizes)
