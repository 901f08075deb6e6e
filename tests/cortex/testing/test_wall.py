"""The wall itself: ports, logs, threads, loops, and what happens when a script is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest
import trio

import cortex.testing
from cortex.testing import Cut, Delay, FaultWall, Hang, Pings, Raw, Refuse, Reply, Status, ToolCalls


def ask(vendor, provider, client, **fields) -> httpx.Response:
    return client.send(client.build_request(**vendor.request(provider.base_url, **fields)))


async def ask_async(vendor, provider, client, **fields) -> httpx.Response:
    return await client.send(client.build_request(**vendor.request(provider.base_url, **fields)))


@pytest.fixture
def client(plain):
    with httpx.Client(**plain) as client:
        yield client


class TestPorts:
    def test_down_refuses_and_up_is_the_same_port(self, fault_wall, vendor, client) -> None:
        provider = fault_wall.add(vendor.provider)
        place = provider.base_url
        for _ in range(3):
            assert ask(vendor, provider, client).status_code == 200
            provider.down()
            with pytest.raises(httpx.ConnectError):
                ask(vendor, provider, client)
            provider.up()
        assert provider.base_url == place
        assert len(provider.requests) == 3

    def test_down_drops_open_connections(self, fault_wall, openai, client) -> None:
        provider = fault_wall.add("openai")
        provider.script(Hang())
        threading.Thread(target=lambda: (provider.wait_for(1), provider.down()), daemon=True).start()
        with pytest.raises(httpx.RemoteProtocolError):
            ask(openai, provider, client)
        assert provider.requests[0].gone is False

    @pytest.mark.parametrize("after", ["request", "headers"])
    async def test_down_drops_open_answers_in_memory(self, openai, autojump_clock, plain, after) -> None:
        wall = FaultWall()
        provider = wall.add("openai")
        provider.script(Hang(after))
        async with httpx.AsyncClient(transport=wall.transport(), **{**plain, "timeout": None}) as client:
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def fall() -> None:
                    await trio.sleep(60)
                    provider.down()
                    provider.up()

                with pytest.raises(httpx.ReadError):
                    await ask_async(openai, provider, client)
            assert trio.current_time() == pytest.approx(60)
            assert (await ask_async(openai, provider, client)).status_code == 200

    def test_nobody_else_gets_a_port_that_is_down(self, fault_wall) -> None:
        provider = fault_wall.add("openai")
        provider.down()
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", provider.port))

    def test_down_before_the_wall_is_open(self, vendor, client) -> None:
        wall = FaultWall()
        provider = wall.add(vendor.provider)
        provider.down()
        with wall:
            with pytest.raises(httpx.ConnectError):
                ask(vendor, provider, client)
            provider.up()
            assert ask(vendor, provider, client).status_code == 200

    def test_added_while_open(self, fault_wall, vendor, client) -> None:
        assert ask(vendor, fault_wall.add(vendor.provider), client).status_code == 200
        assert ask(vendor, fault_wall.add("second", dialect=vendor.provider), client).status_code == 200

    async def test_switched_from_another_thread(self, openai, plain) -> None:
        async with FaultWall() as wall, httpx.AsyncClient(**plain) as client:
            provider = wall.add("openai")
            await trio.to_thread.run_sync(provider.down)
            with pytest.raises(httpx.ConnectError):
                await ask_async(openai, provider, client)
            await trio.to_thread.run_sync(provider.up)
            assert (await ask_async(openai, provider, client)).status_code == 200

    async def test_switched_from_the_loop_of_another_wall(self, openai, plain) -> None:
        with FaultWall() as wall:
            provider = wall.add("openai")
            provider.down()
            provider.up()
            async with httpx.AsyncClient(**plain) as client:
                assert (await ask_async(openai, provider, client)).status_code == 200


class TestHTTP:
    def test_keep_alive(self, fault_wall, vendor, client) -> None:
        provider = fault_wall.add(vendor.provider)
        provider.script(Reply(), Status(429), Reply(), Refuse())
        for stream in (False, False, True):
            ask(vendor, provider, client, stream=stream)
        with pytest.raises(httpx.RemoteProtocolError):
            ask(vendor, provider, client)
        ask(vendor, provider, client)
        assert [seen.connection for seen in provider.requests] == [1, 1, 1, 1, 2]

    def test_pipelined_requests_are_answered_in_order(self, fault_wall) -> None:
        provider = fault_wall.add("openai")
        provider.script(Delay(0.02, Reply("first")), Reply("second"))
        body = b'{"model":"m","messages":[]}'
        one = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
        with socket.create_connection(("127.0.0.1", provider.port), timeout=5) as sock:
            sock.sendall(one + one)
            got = b""
            while b"second" not in got:
                got += sock.recv(65536)
        assert got.index(b"first") < got.index(b"second")
        assert [seen.gone for seen in provider.requests] == [False, False]

    def test_expect_100_continue(self, fault_wall) -> None:
        provider = fault_wall.add("openai")
        with socket.create_connection(("127.0.0.1", provider.port), timeout=5) as sock:
            head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n"
            sock.sendall(head)
            assert sock.recv(65536).startswith(b"HTTP/1.1 100 ")
            sock.sendall(b"{}")
            assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")

    def test_what_is_no_http_gets_400(self, fault_wall) -> None:
        provider = fault_wall.add("openai")
        with socket.create_connection(("127.0.0.1", provider.port), timeout=5) as sock:
            sock.sendall(b"\x16\x03\x01 this is TLS, or so\r\n\r\n")
            assert sock.recv(65536).startswith(b"HTTP/1.1 400 ")
        assert provider.requests == ()

    def test_other_places(self, fault_wall, vendor, client) -> None:
        provider = fault_wall.add(vendor.provider)
        provider.script(Status(500))
        models = client.get(provider.base_url + ("/models" if vendor.provider == "openai" else "/v1beta/models"))
        assert models.status_code == 200
        assert len(models.json()["models" if vendor.name == "gemini" else "data"]) == 2
        assert client.get(f"http://127.0.0.1:{provider.port}/api/version").json() == {"version": "0.6.0"}
        nowhere = client.post(provider.base_url + "/nowhere", json={})
        assert nowhere.status_code == 404
        assert "POST" in nowhere.json()["error"]["message"]
        assert ask(vendor, provider, client).status_code == 500, "only a request for a completion uses the script"


class TestLog:
    def test_what_is_seen(self, fault_wall, vendor, client) -> None:
        provider = fault_wall.add(vendor.provider)
        ask(vendor, provider, client, text="What is up?", stream=True, temperature=0.5)
        (seen,) = provider.wait_for(1)
        assert seen.text == "What is up?"
        assert seen.body["temperature"] == 0.5
        assert seen.headers["content-type"] == "application/json"
        assert (seen.method, seen.stream, seen.connection, seen.gone) == ("POST", True, 1, False)
        assert seen.query == ("alt=sse" if vendor.name == "gemini" else "")
        assert seen.model == ("gemini-2.5-flash" if vendor.name == "gemini" else "model-1")
        assert 0 <= time.monotonic() - seen.at < 60

    @pytest.mark.parametrize("action", [Hang(), Hang("headers"), Hang(1), Delay(3600), Reply("a b c", pace=3600)])
    def test_gone(self, fault_wall, openai, action) -> None:
        """The answer ends with the client: the log says so at once."""
        provider = fault_wall.add("openai")
        provider.script(action)
        with httpx.Client(verify=False, timeout=0.05) as client, pytest.raises(httpx.ReadTimeout):
            ask(openai, provider, client, stream=True)
        deadline = time.monotonic() + 5
        while not provider.requests[0].gone and time.monotonic() < deadline:
            time.sleep(0.002)
        assert provider.requests[0].gone

    @pytest.mark.parametrize("action", [Hang(), Hang("headers"), Hang(1), Pings(), Reply("a b c", pace=3600)])
    @pytest.mark.parametrize("memory", [True, False], ids=["memory", "sockets"])
    async def test_gone_when_cancelled(self, openai, autojump_clock, plain, action, memory) -> None:
        autojump_clock.autojump_threshold = 0.01
        async with FaultWall() as wall:
            provider = wall.add("openai")
            provider.script(action)
            transport = wall.transport() if memory else None
            async with httpx.AsyncClient(transport=transport, **{**plain, "timeout": None}) as client:
                with trio.move_on_after(30) as scope:
                    await ask_async(openai, provider, client, stream=True)
            await trio.sleep(1)
            assert scope.cancelled_caught
            assert provider.requests[0].gone

    def test_not_gone_when_all_was_read(self, fault_wall, vendor) -> None:
        provider = fault_wall.add(vendor.provider)
        actions = [Reply(), Cut(), Cut(how="clean"), Status(500), Refuse(), Raw(b"HTTP/1.1 200 OK\r\n\r\n")]
        provider.script(*actions * 10)
        for _ in range(60):
            with httpx.Client(verify=False) as client, contextlib.suppress(httpx.HTTPError):
                ask(vendor, provider, client, stream=True)
        assert [seen.gone for seen in provider.requests] == [False] * 60

    def test_wait_for(self, fault_wall, openai, client) -> None:
        provider = fault_wall.add("openai")
        with pytest.raises(TimeoutError, match=r"0 of 1 requests were seen in 0.01 s"):
            provider.wait_for(1, timeout=0.01)
        waiter = threading.Timer(0.02, lambda: ask(openai, provider, client))
        waiter.start()
        assert len(provider.wait_for(1)) == 1
        waiter.join()

    async def test_wait_for_in_trio(self, openai, autojump_clock, plain) -> None:
        wall = FaultWall()
        provider = wall.add("openai")
        with pytest.raises(TimeoutError):
            await provider.wait_for_async(1, timeout=100)
        assert trio.current_time() == pytest.approx(100)
        async with (
            httpx.AsyncClient(transport=wall.transport(), **plain) as client,
            trio.open_nursery() as nursery,
        ):

            @nursery.start_soon
            async def later() -> None:
                for _ in range(2):
                    await trio.sleep(50)
                    await ask_async(openai, provider, client)

            assert len(await provider.wait_for_async(2, timeout=1000)) == 2
        assert trio.current_time() == pytest.approx(200)


class TestLoops:
    def test_asyncio(self, fault_wall, vendor, plain) -> None:
        provider = fault_wall.add(vendor.provider)

        async def main() -> str:
            async with httpx.AsyncClient(**plain) as client:
                answers = await asyncio.gather(*(ask_async(vendor, provider, client) for _ in range(5)))
            assert len(await provider.wait_for_async(5)) == 5
            return str({answer.status_code for answer in answers})

        assert asyncio.run(main()) == "{200}"

    async def test_many_at_once(self, openai, autojump_clock, plain) -> None:
        """Everything waits at the same time: a hundred delays of a second take one."""
        autojump_clock.autojump_threshold = 0.01
        async with FaultWall() as wall, httpx.AsyncClient(**plain) as client, trio.open_nursery() as nursery:
            provider = wall.add("openai")
            provider.always(Delay(1))
            for _ in range(100):
                nursery.start_soon(ask_async, openai, provider, client)
            await provider.wait_for_async(100)
            assert trio.current_time() < 1
        assert trio.current_time() == pytest.approx(1, abs=0.5)

    @pytest.mark.parametrize("action", [Hang(), Hang(1), Pings(), Delay(3600)])
    def test_closing_ends_what_hangs(self, openai, action) -> None:
        failed: list[type[Exception]] = []
        begun = time.monotonic()
        with FaultWall() as wall:
            provider = wall.add("openai")
            provider.script(action)

            def wait() -> None:
                with httpx.Client(verify=False, timeout=30) as client:
                    try:
                        ask(openai, provider, client, stream=True)
                    except httpx.TransportError as error:
                        failed.append(type(error))

            waiter = threading.Thread(target=wait)
            waiter.start()
            provider.wait_for(1)
        waiter.join(5)
        assert len(failed) == 1
        assert time.monotonic() - begun < 5

    def test_nothing_is_left(self, openai) -> None:
        """No thread, no socket, no port, whether the wall was used, only opened, or never opened."""
        gc.collect()
        threads = set(threading.enumerate())
        walls = []
        with FaultWall() as wall, httpx.Client(verify=False) as client:
            ask(openai, wall.add("openai"), client)
            walls.append(wall)
        with FaultWall() as wall:
            wall.add("openai")
            walls.append(wall)
        walls.append(FaultWall())
        ports = [walls[0]["openai"].port, walls[1]["openai"].port, walls[2].add("openai").port]
        del wall, walls
        gc.collect()
        assert set(threading.enumerate()) <= threads  # an idle one of an earlier test may have ended meanwhile
        for port in ports:
            with socket.socket() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(("127.0.0.1", port))
                sock.listen()

    async def test_the_blocks_own_error_comes_out_bare(self) -> None:
        async def fail() -> None:
            async with FaultWall() as wall:
                wall.add("openai")
                raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            await fail()
        with pytest.raises(KeyError, match="mine"), FaultWall():
            raise KeyError("mine")

    async def test_a_cancel_goes_through(self, autojump_clock) -> None:
        with trio.move_on_after(5) as scope:
            async with FaultWall() as wall:
                wall.add("openai")
                await trio.sleep_forever()
        assert scope.cancelled_caught


class TestScripts:
    def test_queue_then_standing(self, fault_wall, openai, client) -> None:
        provider = fault_wall.add("openai")
        provider.script(Status(503), Reply("back"))
        provider.script(Status(429))
        provider.always(Reply("Paris."))
        got = [ask(openai, provider, client) for _ in range(5)]
        assert [answer.status_code for answer in got] == [503, 200, 429, 200, 200]
        assert openai.read(200, got[-1].content, stream=False).text == "Paris."

    def test_two_runs_are_the_same_bytes(self, openai, client) -> None:
        def run() -> list[bytes]:
            with FaultWall() as wall:
                provider = wall.add("openai")
                return [ask(openai, provider, client, stream=stream).content for stream in (True, False)]

        assert run() == run()

    def test_ids_differ_on_one_wall(self, fault_wall, vendor, client) -> None:
        providers = [fault_wall.add(name, dialect=vendor.provider) for name in ("one", "two")]
        for provider in providers:
            provider.always(ToolCalls(("f", {})))
        answers = [ask(vendor, provider, client).json() for provider in providers * 2]
        idents = {
            answer["message"]["tool_calls"][0]["id"]  # an answer of its own has none
            if vendor.name == "ollama"
            else answer.get("id") or answer["responseId"]
            for answer in answers
        }
        assert len(idents) == 4

    @pytest.mark.parametrize("wrong", [lambda seen: 1 / 0, lambda seen: 503, Reply(lambda seen: 1 / 0)])
    def test_what_a_script_raises_comes_out_of_the_wall(self, openai, client, wrong) -> None:
        def run() -> None:
            with FaultWall() as wall:
                provider = wall.add("openai")
                provider.script(wrong)
                with pytest.raises(httpx.RemoteProtocolError):
                    ask(openai, provider, client)
                assert ask(openai, provider, client).status_code == 200

        with pytest.raises(ExceptionGroup) as caught:
            run()
        assert caught.value.subgroup((ZeroDivisionError, TypeError)) is not None

    async def test_what_a_script_raises_in_memory_comes_out_of_the_call(self, openai, plain) -> None:
        wall = FaultWall()
        provider = wall.add("openai")
        provider.script(lambda seen: 1 / 0)
        async with httpx.AsyncClient(transport=wall.transport(), **plain) as client:
            with pytest.raises(ZeroDivisionError):
                await ask_async(openai, provider, client)

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [(503, "cannot be int"), (Hang, "cannot be the class Hang"), ("Paris.", "cannot be str"), (None, "NoneType")],
    )
    def test_what_is_no_action(self, wrong, said) -> None:
        provider = FaultWall().add("openai")
        with pytest.raises(TypeError, match=said):
            provider.script(Reply(), wrong)
        with pytest.raises(TypeError, match=said):
            provider.always(wrong)


class TestDoor:
    def test_names(self) -> None:
        wall = FaultWall()
        names = ("openai", "anthropic", "gemini")
        providers = [wall.add(name) for name in names]
        wall.add("spare", dialect="openai")
        ports = [provider.port for provider in providers]
        assert wall.env() == {
            "OPENAI_BASE_URL": f"http://127.0.0.1:{ports[0]}/v1",
            "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{ports[1]}",
            "GOOGLE_GEMINI_BASE_URL": f"http://127.0.0.1:{ports[2]}",
        }
        assert list(wall.providers) == [*names, "spare"]
        assert wall["gemini"] is providers[2]
        assert "up, 0 seen" in repr(wall["spare"])

    def test_wrong_names(self) -> None:
        wall = FaultWall()
        with pytest.raises(ValueError, match=r"dialect is None for the provider 'mine'; give one of openai,"):
            wall.add("mine")
        with pytest.raises(ValueError, match="dialect is 'cohere'"):
            wall.add("openai", dialect="cohere")
        wall.add("openai")
        with pytest.raises(ValueError, match="name is 'openai', which this wall has already"):
            wall.add("openai")

    def test_a_wall_is_entered_once(self) -> None:
        with FaultWall() as wall, pytest.raises(RuntimeError, match="the wall is open"):
            wall.__enter__()
        with pytest.raises(RuntimeError, match="the wall is closed"):
            wall.__enter__()
        with pytest.raises(RuntimeError, match="the wall is closed"):
            wall.add("openai")

    async def test_other_addresses_in_memory(self, plain) -> None:
        wall = FaultWall()
        wall.add("openai")
        async with httpx.AsyncClient(transport=wall.transport(), **plain) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get("http://127.0.0.1:1/v1/models")

    def test_every_public_name_is_there(self) -> None:
        for name in cortex.testing.__all__:
            assert getattr(cortex.testing, name).__module__.startswith("cortex.testing") or name in ("Action", "Script")
        with pytest.raises(AttributeError, match="has no attribute 'Relpy'"):
            cortex.testing.Relpy  # noqa: B018

    def test_the_plugin_imports_nothing_heavy(self) -> None:
        """It is loaded by every pytest run of a machine with cortex on it."""
        loaded = loaded_by("import cortex.testing.pytest_plugin")
        assert loaded & {"trio", "httpx", "h11", "attrs", "pydantic", "asyncio"} == set()

    def test_the_wall_stands_alone(self) -> None:
        loaded = loaded_by("import cortex.testing.wall")
        assert {name for name in loaded if name.startswith(("cortex.", "actors"))} == {
            name for name in loaded if name == "cortex.testing" or name.startswith("cortex.testing.")
        }


def loaded_by(statement: str) -> set[str]:
    """The modules that `statement` loads in a fresh interpreter where pytest is loaded already."""
    code = (
        "import sys, json, pytest; before = set(sys.modules)\n"
        f"{statement}\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(run.stdout))
