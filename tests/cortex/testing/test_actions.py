"""Every action, once over sockets and once in memory: one table, read by plain httpx."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from cortex.testing import (
    Cut,
    Delay,
    FaultWall,
    Garbage,
    Hang,
    Pings,
    Raw,
    Redirect,
    Refuse,
    Reply,
    Reset,
    Status,
    StreamError,
    ToolCalls,
)

SAID = Reply("Paris is nice.")
WHOLE = {"status": 200, "text": "Paris is nice.", "finished": True}
PARTLY = {"status": 200, "text": "Paris is", "finished": False}
NOTHING_YET = {"status": 200, "text": ""}
RAW = Raw(b"HTTP/1.1 418 Teapot\r\ncontent-length: 5\r\nconnection: close\r\n\r\nshort")

CASES: list[tuple[str, Any, bool, dict[str, Any]]] = [  # name, action, stream?, outcome
    ("reply", SAID, False, WHOLE),
    ("reply", SAID, True, WHOLE),
    ("reply in letters", Reply("Paris is nice.", chunks=1), True, WHOLE),
    ("reply with a pace", Reply("Paris is nice.", pace=0.01), True, WHOLE),
    ("reply of unicode", Reply("é\u2028\u0085 \U0001f600"), True, {**WHOLE, "text": "é\u2028\u0085 \U0001f600"}),
    ("reply made of the request", Reply(lambda seen: f"you said {seen.text}"), False, {**WHOLE, "text": "you said hi"}),
    ("callable", lambda seen: Reply(seen.text.upper()), True, {**WHOLE, "text": "HI"}),
    ("empty reply", Reply(""), True, {**WHOLE, "text": ""}),
    ("tool calls", ToolCalls(("f", {}), text="So"), True, {**WHOLE, "text": "So"}),
    ("status", Status(503, message="busy"), False, {"status": 503, "text": "busy"}),
    ("status", Status(529, message="busy"), True, {"status": 529, "text": "busy"}),
    ("status with html", Status(502, "<html>"), False, {"status": 502, "text": "<html>"}),
    ("status without body", Status(204), False, {"status": 204}),
    ("redirect", Redirect("http://127.0.0.1:1/"), False, {"status": 307}),
    ("delay", Delay(0.01, SAID), False, WHOLE),
    ("delay of a fault", Delay(0.01, Status(500, message="late")), True, {"status": 500, "text": "late"}),
    ("hang", Hang(), False, {"error": "ReadTimeout"}),
    ("hang", Hang("headers"), True, {**NOTHING_YET, "error": "ReadTimeout"}),
    ("hang", Hang(2, reply=SAID), True, {**PARTLY, "error": "ReadTimeout"}),
    ("hang", Hang(2, reply=SAID), False, {**NOTHING_YET, "error": "ReadTimeout"}),
    ("cut", Cut("headers"), True, {**NOTHING_YET, "error": "RemoteProtocolError"}),
    ("cut", Cut(0), True, {**NOTHING_YET, "error": "RemoteProtocolError"}),
    ("cut", Cut(2, reply=SAID), True, {**PARTLY, "error": "RemoteProtocolError"}),
    ("cut behind all", Cut(99, reply=SAID), True, {**WHOLE, "finished": False, "error": "RemoteProtocolError"}),
    ("cut", Cut(reply=SAID), False, {**NOTHING_YET, "error": "RemoteProtocolError"}),
    ("cut at a byte", Cut(0.9, reply=SAID), False, {**NOTHING_YET, "error": "RemoteProtocolError"}),
    ("cut clean", Cut(2, "clean", reply=SAID), True, PARTLY),
    ("cut clean", Cut(0.5, "clean", reply=SAID), False, NOTHING_YET),
    ("cut by reset", Cut(0, "rst"), True, {**NOTHING_YET, "error": "ReadError"}),
    ("cut by reset", Cut(1, "rst"), False, {**NOTHING_YET, "error": "ReadError"}),
    ("stream error", StreamError(message="no"), True, {**NOTHING_YET, "text": "!no"}),
    ("stream error", StreamError(2, message="no", reply=SAID), True, {**PARTLY, "text": "Paris is!no"}),
    ("refuse", Refuse(), False, {"error": "RemoteProtocolError"}),
    ("reset", Reset(), True, {"error": "ReadError"}),
    ("pings", Pings(2, 0.01, reply=SAID), True, WHOLE),
    ("pings", Pings(2, 0.01, reply=SAID), False, WHOLE),
    ("raw", RAW, False, {"status": 418, "text": "short"}),
    ("garbage", Garbage("status_line"), False, {"error": "RemoteProtocolError"}),
    ("garbage", Garbage("content_length"), False, {"error": "RemoteProtocolError"}),
    ("garbage", Garbage("chunk_size"), True, {**NOTHING_YET, "error": "RemoteProtocolError"}),
    ("garbage", Garbage("huge_header"), False, {"error": "RemoteProtocolError"}),
    ("garbage", Garbage("html"), False, NOTHING_YET),
    ("garbage", Garbage("empty"), False, NOTHING_YET),
    ("garbage", Garbage("json"), False, NOTHING_YET),
]
TABLE = pytest.mark.parametrize(
    ("action", "stream", "expected"),
    [row[1:] for row in CASES],
    ids=[f"{name}-{'sse' if stream else 'json'}-{index}" for index, (name, _, stream, _) in enumerate(CASES)],
)


@TABLE
async def test_over_sockets_in_the_callers_loop(
    asking, outcome, plain, autojump_clock, action, stream, expected
) -> None:
    autojump_clock.autojump_threshold = 0.01  # the system may take a moment to carry bytes between two sockets
    async with FaultWall() as wall, httpx.AsyncClient(**plain) as client:
        provider = wall.add(asking.vendor.provider)
        provider.script(action)
        assert await asking.trio(client, provider.base_url, stream=stream) == outcome(**expected)
        assert await asking.trio(client, provider.base_url, stream=False) == outcome(
            200, f"Hello from {provider.name}.", finished=True
        )


@TABLE
async def test_in_memory(asking, outcome, plain, autojump_clock, action, stream, expected) -> None:
    wall = FaultWall()
    provider = wall.add(asking.vendor.provider)
    provider.script(action)
    async with httpx.AsyncClient(transport=wall.transport(), **plain) as client:
        assert await asking.trio(client, provider.base_url, stream=stream) == outcome(**expected)
        assert await asking.trio(client, provider.base_url, stream=False) == outcome(
            200, f"Hello from {provider.name}.", finished=True
        )


def test_over_sockets_from_a_plain_thread(asking, outcome, plain) -> None:
    quick = [row for row in CASES if row[3].get("error") != "ReadTimeout"]
    with FaultWall() as wall, httpx.Client(**plain) as client:
        provider = wall.add(asking.vendor.provider)
        provider.script(*(row[1] for row in quick))
        got = [asking.sync(client, provider.base_url, stream=row[2]) for row in quick]
    assert got == [outcome(**row[3]) for row in quick]
    assert [seen.stream for seen in provider.requests] == [row[2] for row in quick]
    gone = [row[1] for row, seen in zip(quick, provider.requests, strict=True) if seen.gone]
    assert gone in ([], [Garbage("huge_header")])  # a client may leave in the middle of that, and only of that


@pytest.mark.parametrize("memory", [True, False], ids=["memory", "sockets"])
async def test_gzip_that_is_none(asking, outcome, plain, memory) -> None:
    async with FaultWall() as wall:
        provider = wall.add(asking.vendor.provider)
        provider.script(Garbage("gzip"))
        async with httpx.AsyncClient(transport=wall.transport() if memory else None, **plain) as client:
            request = client.build_request(**asking.vendor.request(provider.base_url))
            response = await client.send(request, stream=True)
            raw = b"".join([piece async for piece in response.aiter_raw()])
            await response.aclose()
    assert response.headers["content-encoding"] == "gzip"
    assert asking.vendor.read(200, raw, stream=False).text == "Hello from the wall."


def test_gzip_that_is_none_cannot_be_decoded(asking, outcome, plain) -> None:
    with FaultWall() as wall, httpx.Client(**plain) as client:
        provider = wall.add(asking.vendor.provider)
        provider.script(Garbage("gzip"))
        assert asking.sync(client, provider.base_url, stream=False) == outcome(200, error="DecodingError")


@pytest.mark.parametrize(
    ("action", "stream", "seconds"),
    [
        (Delay(30, Delay(10)), False, 40),
        (
            Reply("a b c", pace=2),
            True,
            {"openai": 10, "openai_responses": 20, "ollama": 6, "anthropic": 16, "gemini": 6},
        ),
        (Pings(3, 20), True, 60),
        (Pings(3, 20), False, 60),
    ],
)
@pytest.mark.parametrize("memory", [True, False], ids=["memory", "sockets"])
async def test_waits_are_of_the_loops_clock(asking, plain, autojump_clock, action, stream, seconds, memory) -> None:
    autojump_clock.autojump_threshold = 0.01
    async with FaultWall() as wall:
        provider = wall.add(asking.vendor.provider)
        provider.script(action)
        async with httpx.AsyncClient(
            transport=wall.transport() if memory else None, **{**plain, "timeout": None}
        ) as client:
            begun = autojump_clock.current_time()
            got = await asking.trio(client, provider.base_url, stream=stream)
            spent = autojump_clock.current_time() - begun
    assert got.finished
    assert spent == pytest.approx(seconds[asking.vendor.name] if isinstance(seconds, dict) else seconds)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Hang("respones"), "after is 'respones' (str); give 'request', 'headers', a count"),
        (lambda: Cut(-1), "after is -1"),
        (lambda: Cut(1.5), "after is 1.5"),
        (lambda: Cut(True), "after is True"),
        (lambda: Cut(how="fin"), "how is 'fin'; give one of 'eof', 'rst', 'clean'"),
        (lambda: Status(42), "code is 42 (int); give a number from 200 to 599"),
        (lambda: Status("503"), "code is '503' (str)"),
        (lambda: Delay(-1), "seconds is -1"),
        (lambda: Delay(float("nan")), "seconds is nan"),
        (lambda: Reply(chunks=0), "chunks is 0 (int); give a number from 1 on, or None: by words"),
        (lambda: Garbage("noise"), "what is 'noise'"),
        (lambda: Pings(every=0), "every is 0 while n is None"),
    ],
)
def test_a_wrong_field_is_named(make, said) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        make()
