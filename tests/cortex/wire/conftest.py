"""What the tests of the dialects share: how bytes are cut, how a stream is read, and the recorded replies."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cortex.messages import Broken, Ended, StreamEvent
from cortex.wire.codec import HttpReply, Target, Wire

ROOT = Path(__file__).parents[3]


def chunks(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """The bytes, cut at these places."""
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(places)]


def read(wire: Wire, pieces: Iterable[bytes], target: Target | None = None) -> list[StreamEvent]:
    """Everything a decoder gives for these pieces and the close."""
    decoder = wire.decoder(target or Target("p", "https://h/v1", "m"))
    events = [event for piece in pieces for event in decoder.feed(piece)]
    events += decoder.close()
    assert decoder.feed(b"data: {}\n\n") == [] == decoder.close(), "something came after the end"
    assert sum(isinstance(event, Ended | Broken) for event in events) == 1, "not exactly one terminal event"
    assert isinstance(events[-1], Ended | Broken), "the terminal event is not the last"
    return events


def sse(*payloads: Any, done: bool = False) -> bytes:
    """Payloads as a stream of events; a tuple is (name, payload), a string stands as it is."""
    lines: list[str] = []
    for payload in payloads:
        name, data = payload if isinstance(payload, tuple) else ("", payload)
        lines.append((f"event: {name}\n" if name else "") + "data: " + json.dumps(data) + "\n\n")
    return ("".join(lines) + ("data: [DONE]\n\n" if done else "")).encode()


def reply(payload: Any, status: int = 200, **headers: str) -> HttpReply:
    """A whole reply; a payload that is no bytes becomes JSON."""
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return HttpReply(status, {"content-type": "application/json", **named}, body)


@pytest.fixture(scope="session", name="chunks")
def _chunks() -> Callable[..., list[bytes]]:
    return chunks


@pytest.fixture(scope="session", name="read")
def _read() -> Callable[..., list[StreamEvent]]:
    return read


@pytest.fixture(scope="session", name="sse")
def _sse() -> Callable[..., bytes]:
    return sse


@pytest.fixture(scope="session", name="reply")
def _reply() -> Callable[..., HttpReply]:
    return reply


def module(name: str) -> ModuleType:
    """A helper module of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(f"wire_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec
    assert spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="session")
def rules() -> ModuleType:
    return module("rules")


@pytest.fixture(scope="session")
def conversations() -> ModuleType:
    return module("conversations")


def recorded_root() -> Path | None:
    """Where the recorded replies are: CORTEX_WIRE_DATA, else shared/wire beside the project."""
    places = [Path(os.environ["CORTEX_WIRE_DATA"])] if os.environ.get("CORTEX_WIRE_DATA") else []
    places.append(ROOT.parent / "shared" / "wire")
    return next((place for place in places if (place / "index.json").is_file()), None)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`case` is each recorded reply of `DIALECTS` of the module that asks; `stream` each of them that streams;
    `recorded` is their folder."""
    name = next((name for name in ("case", "stream", "recorded") if name in metafunc.fixturenames), None)
    if name is None or not hasattr(metafunc.module, "DIALECTS"):
        return
    root = recorded_root()
    if root is None:
        mark = pytest.mark.skip(reason="no recorded replies: set CORTEX_WIRE_DATA to their folder")
        metafunc.parametrize(name, [pytest.param(None, marks=mark, id="none")])
        return
    if name == "recorded":
        metafunc.parametrize(name, [root], ids=["all"])
        return
    folders = sorted(metafunc.module.DIALECTS)
    cases = [json.loads(path.read_text()) for folder in folders for path in sorted((root / folder).glob("*.json"))]
    if name == "stream":
        cases = [case for case in cases if case["stream"] and case["response"]["status"] == 200]
    metafunc.parametrize(name, cases, ids=[case["id"] for case in cases])
