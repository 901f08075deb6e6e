"""Throughput of actors as ratios to raw trio in the same run, so that the noise of the machine cancels.

Run: python tests/benchmarks/bench_actors.py [rounds]. The base of tell and send is a memory channel (buffer 1024, one
producer, one consumer); the base of ask is a channel plus one Event per call, without a deadline.
"""

from __future__ import annotations

import statistics
import sys
import time
import tracemalloc
from collections.abc import Awaitable, Callable

import attrs
import trio

import actors

MESSAGES = 100_000
ASKS = 10_000


@attrs.frozen
class Note:
    number: int


@attrs.frozen
class Question(actors.Ask[int]):
    number: int


@attrs.frozen
class Flush(actors.Ask[int]):
    pass


@attrs.frozen
class Task(actors.Ask[int]):
    number: int


class Sink(actors.Actor[Note | Question | Flush | Task]):
    @actors.handle
    def note(self, message: Note) -> None:
        pass

    @actors.handle
    def question(self, message: Question) -> int:
        return message.number

    @actors.handle
    def flush(self, message: Flush) -> int:
        return 0

    @actors.handle
    def task(self, message: Task) -> None:
        self.ctx.spawn(self.work, message, reply=self.ctx.defer())

    async def work(self, message: Task) -> int:
        return message.number


async def raw_channel() -> float:
    send, receive = trio.open_memory_channel[Note](1024)

    async def produce() -> None:
        async with send:
            for number in range(MESSAGES // 10):
                await send.send(Note(number))

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce)
        async for _ in receive:
            pass
    return MESSAGES / 10 / (time.perf_counter() - began)


async def raw_ask() -> float:
    send, receive = trio.open_memory_channel[tuple[int, list[int], trio.Event]](1024)

    async def serve() -> None:
        async for number, box, event in receive:
            box.append(number)
            event.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        began = time.perf_counter()
        for number in range(ASKS):
            box: list[int] = []
            event = trio.Event()
            await send.send((number, box, event))
            await event.wait()
        took = time.perf_counter() - began
        send.close()
    return ASKS / took


async def raw_task() -> float:
    """As raw_ask, but each call is served by a task of its own."""
    send, receive = trio.open_memory_channel[tuple[int, list[int], trio.Event]](1024)

    async def work(number: int, box: list[int], event: trio.Event) -> None:
        with trio.CancelScope():  # noqa: ASYNC100 - its cost is what we compare with
            box.append(number)
        event.set()

    async def serve(nursery: trio.Nursery) -> None:
        async for item in receive:
            nursery.start_soon(work, *item)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, nursery)
        began = time.perf_counter()
        for number in range(ASKS):
            box: list[int] = []
            event = trio.Event()
            await send.send((number, box, event))
            await event.wait()
        took = time.perf_counter() - began
        send.close()
    return ASKS / took


async def tell() -> float:
    async with actors.System() as system:
        ref = await system.start(actors.Spec(Sink, "sink", mailbox=actors.Mailbox(1024)))
        began = time.perf_counter()
        bursts = MESSAGES // 512
        for _ in range(bursts):
            for number in range(512):
                ref.tell(Note(number))
            await ref.ask(Flush())
        return bursts * 512 / (time.perf_counter() - began)


async def send() -> float:
    async with actors.System() as system:
        ref = await system.start(actors.Spec(Sink, "sink", mailbox=actors.Mailbox(1024)))
        began = time.perf_counter()
        for number in range(MESSAGES):
            await ref.send(Note(number))
        await ref.ask(Flush())
        return MESSAGES / (time.perf_counter() - began)


async def ask(make: Callable[[int], actors.Ask[int]], timeout: float) -> float:
    async with actors.System() as system:
        ref = await system.start(actors.Spec(Sink, "sink"))
        began = time.perf_counter()
        for number in range(ASKS):
            await ref.ask(make(number), timeout=timeout)
        return ASKS / (time.perf_counter() - began)


async def idle_bytes() -> float:
    count = 500
    async with actors.System() as system:
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for number in range(count):
            await system.start(actors.Spec(Sink, f"sink-{number}"))
        size = (tracemalloc.get_traced_memory()[0] - before) / count
        tracemalloc.stop()
        return size


ROWS: list[tuple[str, Callable[[], Awaitable[float]], Callable[[], Awaitable[float]], float]] = [
    ("tell in bursts", tell, raw_channel, 8.0),
    ("send", send, raw_channel, 8.0),
    ("ask", lambda: ask(Question, float("inf")), raw_ask, 1.15),
    ("ask with a deadline", lambda: ask(Question, 30), raw_ask, 1.0),
    ("ask served by a task, with a deadline", lambda: ask(Task, 30), raw_task, 0.8),
]


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    print(f"{'':40}{'per second':>14}{'x base':>9}{'target':>9}")
    for label, ours, base, target in ROWS:
        speeds, ratios = [], []
        for _ in range(rounds):
            speed, raw = trio.run(ours), trio.run(base)
            speeds.append(speed)
            ratios.append(speed / raw)
        print(f"{label:40}{statistics.median(speeds):14,.0f}{statistics.median(ratios):9.2f}{target:9.2f}")
    print(f"{'bytes of an idle actor':40}{trio.run(idle_bytes):14,.0f}{'':9}{8192:9,}")


if __name__ == "__main__":
    main()
