"""What the wire dialects cost, as ratios to a baseline measured in the same run.

    python tests/benchmarks/bench_wire.py

    encode   CPU of encoding a conversation of 200 messages that has grown by one turn / encoding that turn alone
    decode   CPU of reading one chunk of a stream, as it comes from the network / `json.loads` of the same payload
    hostile  the longest stall and the memory that a body of 50 MB costs which means harm, as a whole reply, as an error
             and as a stream, and of the largest bodies that are just taken; each in a fresh interpreter

These machines are noisy: baseline and subject alternate in rounds, and the median of the rounds counts.
"""

from __future__ import annotations

import argparse
import bisect
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from cortex.messages import Ended, Message, Request, Text, ToolCall, ToolResult, ToolSpec
from cortex.wire import WIRES
from cortex.wire.codec import HttpReply, Target
from cortex.wire.sse import LIMIT
from cortex.wire.values import MAX_PARSED, weight

TARGET = Target("bench", "https://h/v1", "model-1", api_key="sk-bench")
TOOLS = (ToolSpec("get_weather", "The weather of a city.", {"type": "object", "properties": {"city": {}}}),)
WORDS = "The quick brown fox jumps over the lazy dog, and nobody knows why it does. "


# ------------------------------------------------------------------------------------------------------------- encode


def turn(number: int) -> tuple[Message, ...]:
    """One turn of a session: a question, a call, its result, an answer; about 1.5 KB."""
    ident = f"call_{number}"
    return (
        Message("user", (Text(f"Question {number}. {WORDS * 4}"),)),
        Message("assistant", (ToolCall(ident, "get_weather", {"city": "Paris"}, '{"city":"Paris"}'),)),
        Message("tool", (ToolResult(ident, "get_weather", WORDS * 4),)),
        Message("assistant", (Text(f"Answer {number}. {WORDS * 8}"),)),
    )


def cpu_of(work: Callable[[], object]) -> float:
    """Seconds of this thread's CPU."""
    start = time.thread_time()
    work()
    return time.thread_time() - start


def bench_encode(dialect: str, rounds: int, turns: int) -> dict[str, float]:
    """A conversation that grows turn by turn beyond 200 messages, against each of these turns alone."""
    encode = WIRES[dialect].encode
    alone, grown = [], []
    for _ in range(rounds):
        history = tuple(message for number in range(50) for message in turn(number))
        encode(Request(history, "Be brief.", TOOLS), TARGET)
        one: list[float] = []
        more: list[float] = []
        for number in range(50, 50 + turns):
            fresh, again = turn(number), turn(number)
            history += again
            one.append(cpu_of(lambda fresh=fresh: encode(Request(fresh, "Be brief.", TOOLS), TARGET)))
            more.append(cpu_of(lambda history=history: encode(Request(history, "Be brief.", TOOLS), TARGET)))
        alone.append(statistics.median(one))
        grown.append(statistics.median(more))
    return {
        "alone_us": statistics.median(alone) * 1e6,
        "grown_us": statistics.median(grown) * 1e6,
        "ratio": statistics.median(b / a for a, b in zip(alone, grown, strict=True)),
    }


# ------------------------------------------------------------------------------------------------------------- decode

_CHAT = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "system_fingerprint": "fp"}
_HASH = {"item_id": "msg_1", "output_index": 0, "content_index": 0, "logprobs": [], "obfuscation": "abcdefgh"}
_USAGE = {"promptTokenCount": 7, "candidatesTokenCount": 3, "totalTokenCount": 10}
CHUNKS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {  # a piece of text, and what ends the stream
    "openai_chat": (
        {**_CHAT, "choices": [{"index": 0, "delta": {"content": " word"}, "logprobs": None, "finish_reason": None}]},
        [
            {**_CHAT, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
            {"choices": [], "usage": {"x": 1}},
        ],
    ),
    "openai_responses": (
        {"type": "response.output_text.delta", "sequence_number": 5, **_HASH, "delta": " word"},
        [{"type": "response.completed", "response": {"id": "r", "status": "completed"}}],
    ),
    "anthropic": (
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": " word"}},
        [{"type": "message_delta", "delta": {"stop_reason": "end_turn"}}, {"type": "message_stop"}],
    ),
    "gemini": (
        {
            "candidates": [{"content": {"parts": [{"text": " word"}], "role": "model"}, "index": 0}],
            "usageMetadata": _USAGE,
            "modelVersion": "gemini-2.5-flash",
            "responseId": "r1",
        },
        [{"candidates": [{"content": {"parts": [{"text": "."}]}, "finishReason": "STOP"}]}],
    ),
    "ollama": (
        {"model": "m", "created_at": "2026-01-01T00:00:00Z", "message": {"role": "assistant", "content": " word"}},
        [{"model": "m", "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"}],
    ),
}


def framed(dialect: str, payload: dict[str, Any]) -> bytes:
    """A payload as a server frames it."""
    data = json.dumps(payload, separators=(",", ":"))
    if dialect == "ollama":
        return f"{data}\n".encode()
    name = f"event: {payload['type']}\n" if "type" in payload else ""
    return f"{name}data: {data}\n\n".encode()


def bench_decode(dialect: str, rounds: int, chunks: int) -> dict[str, float]:
    """A stream of many small pieces of text, each fed as it comes."""
    piece, end = CHUNKS[dialect]
    wire, bare = framed(dialect, piece), json.dumps(piece, separators=(",", ":"))
    last = [framed(dialect, one) for one in end]

    def read() -> None:
        decoder = WIRES[dialect].decoder(TARGET)
        for _ in range(chunks):
            decoder.feed(wire)
        events = [event for one in last for event in decoder.feed(one)] + decoder.close()
        assert isinstance(events[-1], Ended)
        assert len(events[-1].answer.text) >= 5 * chunks

    def parse() -> None:
        for _ in range(chunks):
            json.loads(bare)

    parsed, folded = [], []
    read()
    for _ in range(rounds):
        parsed.append(cpu_of(parse) / chunks)
        folded.append(cpu_of(read) / chunks)
    return {
        "json_us": statistics.median(parsed) * 1e6,
        "chunk_us": statistics.median(folded) * 1e6,
        "ratio": statistics.median(b / a for a, b in zip(parsed, folded, strict=True)),
    }


# ------------------------------------------------------------------------------------------------------------ hostile

SIZE = 50_000_000  # bytes
PIECE = 65_536
ANSWER = b'{"choices":[{"message":{%b},"finish_reason":"stop"}]}'


def most(make: Callable[[int], bytes]) -> bytes:
    """The largest of these bodies that is still parsed."""
    return make(bisect.bisect_left(range(LIMIT), MAX_PARSED, key=lambda n: weight(make(n))) - 1)


HOSTILE: dict[str, Callable[[], bytes]] = {
    "text": lambda: b'{"choices":[{"message":{"content":"%b"},"finish_reason":"stop"}]}' % (b"x" * SIZE),
    "objects": lambda: b"[" + b"{}," * (SIZE // 3) + b"0]",
    "depth": lambda: b"[" * SIZE,
    "rubbish": lambda: b"\xff" * SIZE,
    "taken text": lambda: ANSWER % (b'"content":"%b"' % (b"x" * (LIMIT - 1_000))),
    "taken marks": lambda: ANSWER % (b'"content":"%b"' % (b'\\",{[' * (LIMIT // 5 - 200))),
    "taken values": lambda: most(lambda n: ANSWER % (b'"x":[%b0]' % (b'{"a":"b"},' * n))),
    "taken arguments": lambda: (
        ANSWER
        % b'"tool_calls":[{"function":{"name":"f","arguments":"%b"}}]'
        % most(lambda n: b"[" + b"{}," * n + b"0]")
    ),
}
WAYS = {"reply": 200, "error": 400, "stream": None}


def hostile(name: str, way: str) -> dict[str, float]:
    """In this process: the longest stall of one call, and the memory at its highest, above what was there before."""
    body, status = HOSTILE[name](), WAYS[way]
    before = _memory("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the high-water mark begins anew
    stall = _stalls(body) if status is None else _stall(lambda: _decode(status, body))
    return {"stall_ms": stall * 1e3, "rss_mb": (_memory("VmHWM") - before) / 1e3}


def _decode(status: int, body: bytes) -> object:
    return WIRES["openai_chat"].decode(HttpReply(status, {}, body), TARGET)


def _stalls(body: bytes) -> float:
    decoder, longest = WIRES["openai_chat"].decoder(TARGET), 0.0
    pieces = (body[place : place + PIECE] for place in range(0, len(body), PIECE))
    for piece in itertools.chain([b"data: "], pieces, [b"\n\n"]):
        longest = max(longest, _stall(lambda piece=piece: decoder.feed(piece)))
    return longest


def _stall(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _memory(name: str) -> float:
    """A line of this process's status, in KB."""
    with open("/proc/self/status") as file:
        return next(float(line.split()[1]) for line in file if line.startswith(name))


def bench_hostile(name: str, way: str) -> dict[str, float]:
    """The same in a fresh interpreter."""
    code = f"import json, bench_wire; print(json.dumps(bench_wire.hostile({name!r}, {way!r})))"
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    return dict(json.loads(done.stdout))


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--chunks", type=int, default=2000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = {
        "encode": {name: bench_encode(name, options.rounds, options.turns) for name in WIRES},
        "decode": {name: bench_decode(name, options.rounds, options.chunks) for name in WIRES},
        "hostile": {f"{name} as {way}": bench_hostile(name, way) for name in HOSTILE for way in WAYS},
    }
    if options.json:
        print(json.dumps(results))
        return
    for kind, rows in results.items():
        for name, figures in rows.items():
            print(f"{kind:9}{name:20}" + "  ".join(f"{key} {value:8.2f}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
