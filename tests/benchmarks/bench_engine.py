"""What a routed call costs, as ratios to a baseline measured in the same run.

    python tests/benchmarks/bench_engine.py

    run      CPU of `session.run` under trio / a bare `httpx.AsyncClient` call, one in flight; the client's thread alone
    import   wall time of `import cortex`, and of that with its engine (the package loads its rooms when they are first
             used), / of importing trio, httpx and attrs; in fresh interpreters with compiled files
    runs     10,000 runs of one engine: tasks, threads, descriptors and memory after / before
    drops    1,000 engines made and dropped: tasks, threads, descriptors and memory before and after

These machines are noisy: baseline and subject alternate in rounds, and the median of the rounds counts.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable

import httpx
import trio

import cortex
from cortex.testing import FaultWall, Reply


def engine_on(wall: FaultWall) -> cortex.Engine:
    """One provider, one model: what is measured is the way, not the choice."""
    return engine_at(wall["openai"].base_url)


def engine_at(base_url: str) -> cortex.Engine:
    return cortex.Engine(providers={"openai": {"api_key": "sk-bench", "base_url": base_url}}, worker_model="gpt-4o")


async def cpu_of(work: Callable[[], Awaitable[object]], calls: int) -> float:
    """Seconds of this thread's CPU per call."""
    start = time.thread_time()
    for _ in range(calls):
        await work()
    return (time.thread_time() - start) / calls


async def bench_run(wall: FaultWall, rounds: int, calls: int) -> dict[str, float]:
    """`session.run` against bare httpx: the same request to the same server."""
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}
    url = wall["openai"].base_url + "/chat/completions"
    bare, routed = [], []
    async with engine_on(wall) as engine, httpx.AsyncClient() as client:
        agent = engine.create_agent(name="bench")

        async def run_bare() -> None:
            reply = await client.post(url, json=body, headers={"authorization": "Bearer sk-bench"})
            assert reply.json()["choices"][0]["message"]["content"] == "hi"

        sessions: list[cortex.Session] = []

        async def run_routed() -> None:
            response = await sessions.pop().run("hello")
            assert response.content == "hi"

        sessions += [agent.start_session() for _ in range(calls)]
        await cpu_of(run_bare, calls)
        await cpu_of(run_routed, calls)
        for _ in range(rounds):
            sessions += [agent.start_session() for _ in range(calls)]
            bare.append(await cpu_of(run_bare, calls))
            routed.append(await cpu_of(run_routed, calls))
    ratio = statistics.median(b / a for a, b in zip(bare, routed, strict=True))
    return {
        "bare_us": statistics.median(bare) * 1e6,
        "session_run_us": statistics.median(routed) * 1e6,
        "ratio": ratio,
    }


def bench_import(rounds: int) -> dict[str, float]:
    """Fresh interpreters, alternating."""
    statements = {
        "base": "import trio, httpx, attrs",
        "door": "import cortex",
        "engine": "import cortex; cortex.Engine",
    }
    times: dict[str, list[float]] = {name: [] for name in statements}
    for statement in statements.values():
        _import_time(statement)  # writes the compiled files
    for _ in range(rounds):
        for name, statement in statements.items():
            times[name].append(_import_time(statement))
    medians = {name: statistics.median(each) for name, each in times.items()}
    return {
        **{f"{name}_ms": seconds * 1e3 for name, seconds in medians.items()},
        "ratio": medians["door"] / medians["base"],
        "engine_ratio": medians["engine"] / medians["base"],
    }


def _import_time(statement: str) -> float:
    code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    return float(done.stdout)


WALL = """
import sys
from cortex.testing import FaultWall, Reply
with FaultWall() as wall:
    provider = wall.add("openai")
    provider.always(Reply("hi"))
    print(provider.base_url, flush=True)
    sys.stdin.read()
"""


def bench_runs(runs: int) -> dict[str, float]:
    """Many runs of one engine. The wall has a process of its own: it keeps a log of what it received."""
    with subprocess.Popen([sys.executable, "-c", WALL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as it:
        assert it.stdout is not None
        assert it.stdin is not None
        figures = trio.run(_many_runs, it.stdout.readline().strip(), runs)
        it.stdin.close()
    return figures


async def _many_runs(base_url: str, runs: int) -> dict[str, float]:
    async with engine_at(base_url) as engine:
        agent = engine.create_agent(name="bench")
        for _ in range(1000):
            await agent.start_session().run("hello")
        before = _footprint() | {"tasks": trio.lowlevel.current_statistics().tasks_living}
        for _ in range(runs):
            await agent.start_session().run("hello")
        gc.collect()
        after = _footprint() | {"tasks": trio.lowlevel.current_statistics().tasks_living}
    return {name: after[name] - before[name] for name in before}


def bench_drops(wall: FaultWall, engines: int) -> dict[str, float]:
    """Engines made, some of them used, all dropped without a word."""
    for _ in range(20):
        engine_on(wall).create_agent(name="warm").start_session().run_sync("hello")
    _settle()
    before = _footprint()
    for number in range(engines):
        engine = engine_on(wall)
        if number % 20 == 0:
            engine.create_agent(name="bench").start_session().run_sync("hello")
        del engine
    _settle()
    after = _footprint()
    return {name: after[name] - before[name] for name in before}


def _settle() -> None:
    for _ in range(50):
        gc.collect()
        time.sleep(0.02)
        if not any(thread.name == "cortex-runtime" for thread in threading.enumerate()):
            return


def _footprint() -> dict[str, float]:
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return {
        "threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "rss_mb": pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
    }


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with FaultWall() as wall:
        wall.add("openai", dialect="openai").always(Reply("hi"))
        results = {
            "run": trio.run(bench_run, wall, options.rounds, options.calls),
            "import": bench_import(options.rounds),
            "runs": bench_runs(10_000),
            "drops": bench_drops(wall, 1000),
        }
    if options.json:
        print(json.dumps(results))
        return
    for name, figures in results.items():
        print(f"{name:8}" + "  ".join(f"{key} {value:.2f}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
