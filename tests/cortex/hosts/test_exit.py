"""The interpreter's exit with nothing closed: no warning, no hang, exit code 0; and fork.

Each script runs in a process of its own, with warnings as errors and the development mode on; all run side by side.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest

from cortex.testing import FaultWall, Hang, Reply, Seen, ToolCalls
from cortex.testing.script import Action

SECONDS = 20
"""For all of them together, on a busy machine; a hang lasts for ever."""

HEAD = """
import asyncio, sys, threading, time
import cortex
engine = cortex.Engine(providers={"openai": {"api_key": "k", "base_url": sys.argv[1]}}, worker_model="gpt-4o")
session = engine.create_agent(name="a").start_session()
"""

SCRIPTS = {
    "never used": "",
    "run_sync": "session.run_sync('hi')",
    "asyncio": "asyncio.run(session.run('hi'))",
    "asyncio, in a frame": """
        async def main():
            engine = globals().pop("engine")
            await session.run("hi")
            await asyncio.sleep(0)
        asyncio.run(main())
    """,
    "trio": """
        import trio
        trio.run(session.run, "hi")
    """,
    "a stream half read": """
        async def main():
            async for _ in session.run_stream("slowly"):
                break
        asyncio.run(main())
    """,
    "a stream alive at exit": """
        stream = session.run_stream_sync("slowly")
        next(stream)
    """,
    "an async stream alive at exit": """
        stream = session.run_stream("slowly")
        async def main():
            await anext(stream)
        asyncio.run(main())
    """,
    "what is under way unwinds": """
        import httpx, trio
        class Waiting(httpx.AsyncBaseTransport):
            async def handle_async_request(self, request):
                asked.set()
                try:
                    await trio.sleep_forever()
                finally:
                    print("unwound")
        asked = threading.Event()
        engine = cortex.Engine(providers={"openai": {"api_key": "k"}}, worker_model="gpt-4o", transport=Waiting())
        threading.Thread(target=engine.complete_sync, args=("hi",), daemon=True).start()
        asked.wait()
    """,
    "Ctrl-C while the first call moves in": """
        from cortex.host.places import Runtime
        class Pressed:
            def __init__(self, lock):
                self.release, self.lock = lock.release, lock
            def __enter__(self):
                with self.lock:
                    raise KeyboardInterrupt
            def __exit__(self, *_):
                raise AssertionError("it was not entered")
        made = Runtime.__init__
        def make(self):
            made(self)
            self._starting = Pressed(self._starting)
        Runtime.__init__ = make
        try:
            session.run_sync("hi")
        except KeyboardInterrupt:
            pass
        began = time.monotonic()
        Runtime.at_exit()
        assert time.monotonic() - began < 2
    """,
    "a stream in a cycle": """
        class Cycle: pass
        cycle = Cycle()
        cycle.me, cycle.stream = cycle, session.run_stream_sync("slowly")
        next(cycle.stream)
        del cycle, session, engine
    """,
    "a call in flight in a daemon thread": """
        threading.Thread(target=session.run_sync, args=("hang",), daemon=True).start()
        time.sleep(0.3)
    """,
    "asyncio in flight in a daemon thread": """
        threading.Thread(target=lambda: asyncio.run(session.run("hang")), daemon=True).start()
        time.sleep(0.3)
    """,
    "a tool in flight in a daemon thread": """
        def slow() -> str:
            "Slow."
            time.sleep(60)
        async def slow_async() -> str:
            "Slow."
            await asyncio.sleep(60)
        session = engine.create_agent(name="a", tools=[slow, slow_async]).start_session()
        threading.Thread(target=session.run_sync, args=("tools",), daemon=True).start()
        time.sleep(0.4)
    """,
    "a subscriber that waits in a daemon thread": """
        async def read():
            async for _ in engine.events():
                pass
        threading.Thread(target=lambda: asyncio.run(read()), daemon=True).start()
        session.run_sync("hi")
    """,
    "used in a handler of the exit": """
        import atexit
        atexit.register(lambda: session.run_sync("hi"))
        session.run_sync("hi")
    """,
    "fork": """
        import os
        assert session.run_sync("hi").content == "fine"
        child = os.fork()
        if child == 0:
            assert session.run_sync("hi").content == "fine"
            assert [thread.name for thread in threading.enumerate()].count("cortex-runtime") == 1
            assert asyncio.run(engine.complete("hi")).content == "fine"
            sys.exit(0)
        assert session.run_sync("hi").content == "fine"
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert session.run_sync("hi").content == "fine"
        assert len(session.history) == 6
        stream = session.run_stream_sync("slowly")
        next(stream)
        child = os.fork()
        if child == 0:
            try:
                next(stream)
            except cortex.EngineClosed as error:
                assert "before the process forked" in str(error)
            began = time.monotonic()
            stream.close()
            assert time.monotonic() - began < 1
            sys.exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        next(stream)
        stream.close()
        asyncio.run(engine.set_enabled("openai", False))
        child = os.fork()
        if child == 0:
            try:
                session.run_sync("hi", timeout=5)
            except cortex.CortexError:
                sys.exit(0)
            sys.exit("it is switched on again")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        asyncio.run(engine.set_enabled("openai", True))
        child = os.fork()
        if child == 0:
            engine.close()  # nothing of the parent's is closed, and nothing waited for
            sys.exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert session.run_sync("hi").content == "fine"
    """,
    "fork under a turn": """
        import os
        at_it = threading.Thread(target=session.run_sync, args=("hang",), daemon=True)
        at_it.start()
        time.sleep(0.5)
        child = os.fork()
        if child == 0:
            assert session.run_sync("hi", timeout=5).content == "fine"
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    """,
    "fork of a child that drops the engine": """
        import os
        session.run_sync("hi")
        child = os.fork()
        if child == 0:
            del session, engine
            sys.exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert session.run_sync("hi").content == "fine"
    """,
}
QUICK = (
    "never used", "run_sync", "asyncio", "a stream half read", "a stream alive at exit",
    "a call in flight in a daemon thread", "what is under way unwinds", "fork",
)  # fmt: skip


def answer(seen: Seen) -> Action:
    if seen.text == "hang":
        return Hang()
    if seen.text == "tools" and seen.body["messages"][-1]["role"] == "user":
        return ToolCalls(("slow", {}), ("slow_async", {}))
    if seen.text == "slowly":
        return Reply("word " * 1000, pace=0.01)
    return Reply("fine")


class Processes:
    """The scripts, running: they are started together, and each test waits for its own."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._running: dict[str, subprocess.Popen[str]] = {}

    def start(self, name: str) -> None:
        environment = {**os.environ, "PYTHONDEVMODE": "1", "PYTHONWARNINGS": "error"}
        code = HEAD + textwrap.dedent(SCRIPTS[name])
        command = [sys.executable, "-W", "error", "-X", "dev", "-c", code, self._base_url]
        self._running[name] = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )

    def end(self, name: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        if name not in self._running:
            self.start(name)
        process = self._running[name]
        out, err = process.communicate(timeout=SECONDS)
        return process.returncode, out, err

    def stop(self) -> None:
        for process in self._running.values():
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def processes(request: pytest.FixtureRequest) -> Iterator[Processes]:
    with FaultWall() as wall:
        wall.add("openai").always(answer)
        processes = Processes(wall["openai"].base_url)
        for item in request.session.items:
            name = getattr(item, "callspec", None) and item.callspec.params.get("script")
            if item.path == request.path and name:
                processes.start(name)
        yield processes
        processes.stop()


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in SCRIPTS if name not in QUICK]


@pytest.mark.parametrize("script", [*QUICK, *SLOW])
def test_the_exit_is_silent(processes: Processes, script: str) -> None:
    said = "unwound\n" if script == "what is under way unwinds" else ""
    assert processes.end(script) == (0, said, "")
