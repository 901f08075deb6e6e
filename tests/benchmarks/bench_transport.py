"""What a request costs the client, as ratios to baselines measured in the same run.

    python tests/benchmarks/bench_transport.py

    floor     h11 on trio with a list of idle connections, without timers or care: what these two cost anybody
    transport `cortex.transport.Transport` alone / the floor; with 1, 64 and 512 calls in flight
    client    `httpx.AsyncClient` on our transport / on its own, with as many in flight
    tls       the transport / `httpx.AsyncHTTPTransport`, over TLS, one in flight
    stream    one streamed chunk of the transport / of the floor

Only the CPU of the client's thread counts: the server is a process of its own. With many in flight it thinks for a
moment, as models do: one that answers at once would be done with the first calls before httpx has sent the others. Even
so httpx, which is slow to ask, has only some sixty of its 512 at the server at a time; with all of them there it costs
twenty times as much. These machines are noisy: whoever is compared alternates in rounds, and the median of the rounds'
ratios counts. `--plot FILE` draws CPU per call against the calls in flight as an SVG.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import gc
import ipaddress
import json
import multiprocessing
import ssl
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import h11
import httpx
import trio

from cortex.transport import Transport

BODY = b'{"model":"gpt-4o","messages":[{"role":"user","content":"hello"}]}'
ANSWER = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"usage":{}}'
REPLY = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(ANSWER), ANSWER)
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"word"},"finish_reason":null}]}\n\n'
CHUNKS = 200
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
HEADERS = {"host": "127.0.0.1", "authorization": "Bearer sk-bench", "content-type": "application/json"}
LEVELS = (1, 64, 512)
WANTED = {
    **{f"transport/floor at {level}": 1.3 for level in LEVELS},
    "transport at 512/at 1": 1.25,
    **{f"client/httpx at {level}": wanted for level, wanted in zip(LEVELS, (0.6, 0.35, 0.15), strict=True)},
    "tls/httpx at 1": 0.7,
    "chunk/floor": 1.4,
}

Call = Callable[[], Awaitable[object]]


# -------------------------------------------------------------------------------- the server, in a process of its own


class Answering(asyncio.Protocol):
    """As little as a server can do: the requests are known. /s is streamed, any other path tells how many seconds to
    think about the answer."""

    def __init__(self) -> None:
        self._data = b""
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not self._data.endswith(BODY):
            return
        path, self._data = self._data.split(b" ", 2)[1], b""
        if path == b"/s":
            self._tasks.add(task := asyncio.ensure_future(self._stream()))
            task.add_done_callback(self._tasks.discard)
            return
        if seconds := float(path[1:]):
            asyncio.get_running_loop().call_later(seconds, self._transport.write, REPLY)
        else:
            self._transport.write(REPLY)

    async def _stream(self) -> None:
        self._transport.write(STREAM)
        for _ in range(CHUNKS):
            await asyncio.sleep(0.0005)  # each is a packet, and a turn of the client's loop
            self._transport.write(b"%x\r\n%s\r\n" % (len(EVENT), EVENT))
        self._transport.write(b"0\r\n\r\n")


def server(ports: Pipe, pem: str) -> None:
    async def main() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        loop = asyncio.get_running_loop()
        plain = await loop.create_server(Answering, "127.0.0.1", 0, backlog=2000)
        secure = await loop.create_server(Answering, "127.0.0.1", 0, backlog=2000, ssl=context)
        ports.send([one.sockets[0].getsockname()[1] for one in (plain, secure)])
        await asyncio.Event().wait()

    asyncio.run(main())


def certificate(file: Path) -> None:
    """A certificate for 127.0.0.1 and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now, day = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC), datetime.timedelta(1)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
    where = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - day).not_valid_after(now + day)
    signed = builder.add_extension(where, critical=False).sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(signed.public_bytes(pem) + secret)


# ------------------------------------------------------------------------------------------------------------ the floor


class Floor:
    """A bare client: one request, one reply, and a list of idle connections, the last one first."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[trio.SocketStream, h11.Connection]] = []
        self._headers = [*HEADERS.items(), ("content-length", str(len(BODY)))]

    async def call(self, path: str) -> bytes:
        parts: list[bytes] = []
        stream, state = self._idle.pop() if self._idle else await self._open()
        request = h11.Request(method="POST", target=path, headers=self._headers)
        data = (state.send(request) or b"") + (state.send(h11.Data(data=BODY)) or b"")
        state.send(h11.EndOfMessage())
        await stream.send_all(data)
        while True:
            event = state.next_event()
            if event is h11.NEED_DATA:
                state.receive_data(await stream.receive_some(65536))
            elif isinstance(event, h11.Data):
                parts.append(event.data)
            elif isinstance(event, h11.EndOfMessage):
                break
        state.start_next_cycle()
        self._idle.append((stream, state))
        return b"".join(parts)

    async def _open(self) -> tuple[trio.SocketStream, h11.Connection]:
        return await trio.open_tcp_stream("127.0.0.1", self._port), h11.Connection(h11.CLIENT)

    def close(self) -> None:
        for stream, _ in self._idle:
            stream.socket.close()


# ------------------------------------------------------------------------------------------------------------ measuring


def asking(url: str) -> httpx.Request:
    """The floor's request; as an engine sends it, with a timer for all but the reading, which it times as a whole."""
    timeout = {"connect": 5.0, "write": 30.0, "pool": 5.0}
    return httpx.Request("POST", url, headers=HEADERS, content=BODY, extensions={"timeout": timeout})


async def alone(transport: httpx.AsyncBaseTransport, request: httpx.Request) -> bytes:
    """A call on a transport without a client. To make the request is no business of the transport."""
    response = await transport.handle_async_request(request)
    try:
        return b"".join([piece async for piece in response.stream])  # type: ignore[union-attr]
    finally:
        await response.aclose()


async def posted(client: httpx.AsyncClient, url: str) -> bytes:
    while True:
        try:
            return (await client.post(url, headers=HEADERS, content=BODY)).content
        except (
            httpx.ReadError
        ):  # with hundreds in flight httpx's pool may close a connection that it has just given out
            continue


async def cpu_of(call: Call, calls: int, in_flight: int) -> float:
    """Seconds of this thread's CPU per call, `in_flight` at a time; the first call of each opens its connection and is
    not counted."""
    each = calls // in_flight

    async def all_of(times: int) -> None:
        async def work() -> None:
            for _ in range(times):
                await call()

        async with trio.open_nursery() as nursery:
            for _ in range(in_flight):
                nursery.start_soon(work)

    await all_of(1)
    start = time.thread_time()
    await all_of(each)
    return (time.thread_time() - start) / (each * in_flight)


async def interleaved(subjects: dict[str, Call], rounds: int, calls: int, in_flight: int) -> dict[str, list[float]]:
    """CPU per call of each subject, round by round; the first round only warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in subjects}
    for number in range(rounds + 1):
        for name, call in subjects.items():
            gc.collect()  # nobody pays for what others left
            spent = await cpu_of(call, calls, in_flight)
            if number:
                seconds[name].append(spent)
    return seconds


def ratio(above: list[float], below: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


async def bench_calls(
    ports: list[int], options: argparse.Namespace, times: dict[str, dict[int, float]]
) -> dict[str, float]:
    """The plain calls, at each number in flight."""
    floor, results = Floor(ports[0]), {}
    limits = httpx.Limits(max_connections=1000, max_keepalive_connections=1000, keepalive_expiry=60.0)
    async with (
        Transport(keepalive_expiry=60.0) as transport,
        httpx.AsyncClient(transport=Transport(keepalive_expiry=60.0), timeout=30.0) as ours,
        httpx.AsyncClient(limits=limits, timeout=30.0) as theirs,
    ):
        spread: dict[int, list[float]] = {}
        for level in LEVELS:
            path = "/0" if level == 1 else f"/{options.thinking}"
            url = f"http://127.0.0.1:{ports[0]}{path}"
            subjects: dict[str, Call] = {
                "floor": partial(floor.call, path),
                "transport": partial(alone, transport, asking(url)),
                "client": partial(posted, ours, url),
                "httpx": partial(posted, theirs, url),
            }
            many, few = max(options.calls, 4 * level), max(options.calls // 4, level)  # httpx takes its time
            seconds: dict[str, list[float]] = {}
            for below, above, calls in (("floor", "transport", many), ("httpx", "client", few)):
                pair = {name: subjects[name] for name in (below, above)}
                seconds |= await interleaved(pair, options.rounds, calls, level)
                results[f"{above}/{below} at {level}"] = ratio(seconds[above], seconds[below])
            spread[level] = seconds["transport"]
            for name in subjects:
                times.setdefault(name, {})[level] = statistics.median(seconds[name]) * 1e6
        results["transport at 512/at 1"] = statistics.median(spread[512]) / statistics.median(spread[1])
    floor.close()
    return results


async def bench_tls(ports: list[int], options: argparse.Namespace, context: ssl.SSLContext) -> dict[str, float]:
    url = f"https://127.0.0.1:{ports[1]}/0"
    async with Transport(verify=context) as ours, httpx.AsyncHTTPTransport(verify=context) as theirs:
        subjects: dict[str, Call] = {
            "ours": partial(alone, ours, asking(url)),
            "theirs": partial(alone, theirs, asking(url)),
        }
        seconds = await interleaved(subjects, options.rounds, options.calls, 1)
    return {"tls/httpx at 1": ratio(seconds["ours"], seconds["theirs"])}


async def bench_stream(ports: list[int], options: argparse.Namespace) -> dict[str, float]:
    """A stream's CPU / its chunks; what the head costs is little against 200 of them."""
    url, floor = f"http://127.0.0.1:{ports[0]}/s", Floor(ports[0])
    async with Transport() as transport:
        subjects: dict[str, Call] = {"floor": partial(floor.call, "/s"), "ours": partial(alone, transport, asking(url))}
        seconds = await interleaved(subjects, options.rounds, max(options.calls // 100, 3), 1)
    floor.close()
    return {"chunk/floor": ratio(seconds["ours"], seconds["floor"])}


# -------------------------------------------------------------------------------------------------------------- telling


def table(results: dict[str, float], times: dict[str, dict[int, float]]) -> str:
    """CPU per call in microseconds, and the ratios with what is wanted of them."""
    rows = [f"{'us per call, in flight':26}" + "".join(f"{level:>9}" for level in LEVELS)]
    rows += [f"{name:26}" + "".join(f"{each[level]:9.0f}" for level in LEVELS) for name, each in times.items()]
    rows += ["", f"{'ratio':26}{'is':>9}{'wanted':>9}"]
    for name, wanted in WANTED.items():
        missed = "" if results[name] <= wanted else "  missed"
        rows.append(f"{name:26}{results[name]:9.2f}{wanted:9.2f}{missed}")
    return "\n".join(rows)


COLORS = {"floor": "#888", "transport": "#06c", "client": "#093", "httpx": "#c30"}


def plot(times: dict[str, dict[int, float]]) -> str:
    """CPU per call against calls in flight, both on logarithmic scales, as an SVG."""
    from math import log10

    def x(level: float) -> float:
        return 60 + log10(level) / log10(LEVELS[-1]) * 460

    def y(spent: float) -> float:
        return 340 - (log10(spent) - 1) / 3 * 300

    marks = [(level, x(level), 360.0) for level in LEVELS] + [
        (f"{us} us", 30.0, y(us)) for us in (10, 100, 1000, 10000)
    ]
    lines = [
        f'<text x="{across:.0f}" y="{down:.0f}" text-anchor="middle">{mark}</text>' for mark, across, down in marks
    ]
    for row, (name, each) in enumerate(times.items()):
        path = "L".join(f"{x(level):.0f} {y(spent):.0f}" for level, spent in each.items())
        label = f'<text x="540" y="{40 + 18 * row}" fill="{COLORS[name]}">{name}</text>'
        lines += [f'<path d="M{path}" fill="none" stroke="{COLORS[name]}" stroke-width="2"/>', label]
    title = '<text x="60" y="20">CPU of the client per call, against calls in flight</text>'
    head = '<svg xmlns="http://www.w3.org/2000/svg" width="620" height="370" font-family="sans-serif" font-size="12">'
    return "\n".join([head, title, *lines, "</svg>", ""])


async def bench(ports: list[int], options: argparse.Namespace, context: ssl.SSLContext) -> tuple[dict[str, float], Any]:
    times: dict[str, dict[int, float]] = {}
    results = await bench_calls(ports, options, times)
    results |= await bench_tls(ports, options, context)
    results |= await bench_stream(ports, options)
    return results, times


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--thinking", type=float, default=0.05, help="seconds that the server takes for an answer")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plot", type=Path, help="where to write the SVG")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        certificate(pem := Path(folder) / "both.pem")
        here, there = multiprocessing.get_context("spawn").Pipe()
        process = multiprocessing.get_context("spawn").Process(target=server, args=(there, str(pem)), daemon=True)
        process.start()
        try:
            context = ssl.create_default_context(cafile=str(pem))
            results, times = trio.run(bench, here.recv(), options, context)
        finally:
            process.terminate()
            process.join()
    if options.plot:
        options.plot.write_text(plot(times))
    print(json.dumps({"ratios": results, "us": times}) if options.json else table(results, times))


if __name__ == "__main__":
    main()
