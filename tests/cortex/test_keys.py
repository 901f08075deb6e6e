"""Keys that are functions: where they run, when they are asked, what happens when they do not give one."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import pytest
import trio

import cortex
from cortex import circuit
from cortex.errors import AuthError, StreamInterrupted
from cortex.testing import Reply, Status, StreamError

SPARE = "Hello from anthropic."
OWN = "Hello from openai."


def only(key: str) -> Any:
    """A server that takes one key."""
    return lambda seen: Reply(OWN) if seen.headers.get("authorization") == f"Bearer {key}" else Status(401)


async def test_an_async_key_runs_in_the_callers_own_loop_and_is_asked_once(lab: Any, autojump_clock: Any) -> None:
    asked: list[Any] = []

    async def key() -> str:
        await trio.sleep(0.1)
        asked.append(trio.lowlevel.current_trio_token())
        return "fresh-key"

    lab.primary.always(only("fresh-key"))
    async with lab.engine(each={"api_key": key}) as engine:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(engine.complete, "hi")
        assert (await engine.complete("hi")).content == OWN
    assert asked == [trio.lowlevel.current_trio_token()]


async def test_a_sync_key_runs_in_a_worker_thread(lab: Any) -> None:
    threads: list[int] = []

    def key() -> str:
        threads.append(threading.get_ident())
        return "  fresh-key\n"

    lab.primary.always(only("fresh-key"))
    async with lab.engine(each={"api_key": key}) as engine:
        assert (await engine.complete("hi")).content == OWN
    assert threads
    assert threads[0] != threading.get_ident()


async def test_a_rotated_key_needs_no_restart(lab: Any, autojump_clock: Any) -> None:
    keys = ["key-number-1"]

    async def key() -> str:
        return keys[-1]

    async with lab.engine(each={"api_key": key}) as engine:
        for number in range(1, 4):
            keys.append(f"key-number-{number}")
            lab.primary.always(only(keys[-1]))
            answer = await engine.complete("hi")
            assert answer.content == OWN
            assert len(answer.metadata.attempts) == 1
        assert engine.health()["openai"].status == "up"


async def test_a_stream_that_has_begun_is_not_sent_again_with_a_fresh_key(lab: Any, autojump_clock: Any) -> None:
    keys = iter(["key-number-1", "key-number-2"])
    said = Reply("one two three four")
    lab.spare.script(StreamError(2, "authentication_error", "expired", reply=said), said)

    async def key() -> str:
        return next(keys)

    providers = {"anthropic": {"api_key": key, "base_url": lab.spare.base_url}}
    async with cortex.Engine(providers, worker_model="claude-haiku-4-5", transport=lab.wall.transport()) as engine:
        chunks: list[Any] = []
        with pytest.raises(StreamInterrupted) as caught:
            await lab.read(engine.stream("hi"), chunks)
    text = "".join(chunk.content for chunk in chunks)
    assert text == caught.value.partial
    assert said.text.startswith(text)
    assert len(lab.spare.requests) == 1


async def test_an_object_whose_call_is_async_is_a_function_too(lab: Any, autojump_clock: Any) -> None:
    class Vault:
        async def __call__(self) -> str:
            await trio.sleep(0.1)
            return "key-of-the-vault"

    lab.primary.always(only("key-of-the-vault"))
    async with lab.engine(0, each={"api_key": Vault()}) as engine:
        assert (await engine.complete("hi")).content == OWN


def test_a_key_function_that_exits_ends_nothing_but_its_question(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe asks it, in the thread where every engine of the process lives."""
    monkeypatch.setitem(circuit._RECHECK, circuit.Cause.AUTH, (0.05, 0.05))
    asked: list[int] = []

    def key() -> str:
        asked.append(1)
        if len(asked) > 2:
            sys.exit(3)
        return f"key-number-{len(asked)}"

    lab.primary.script(Status(401), Status(401))
    with lab.engine(0, each={"api_key": key}) as engine, lab.engine(0) as other:
        with pytest.raises(AuthError):
            engine.complete_sync("hi")
        give_up = time.monotonic() + 5
        while len(asked) < 4 and time.monotonic() < give_up:
            time.sleep(0.01)
        assert len(asked) >= 4
        assert other.complete_sync("hi", timeout=5).content == OWN


async def test_a_key_that_never_fits_is_asked_once_more_and_no_oftener(lab: Any, autojump_clock: Any) -> None:
    lab.primary.always(Status(401))
    asked = []

    async def key() -> str:
        asked.append(1)
        return f"key-number-{len(asked)}"

    async with lab.engine(each={"api_key": key}) as engine:
        assert (await engine.complete("hi")).content == SPARE
    assert len(asked) == 2
    assert len(lab.primary.requests) == 2


@pytest.mark.parametrize("given", ["", "  ", "two words", "line\nbreak", "kÉy-with-accents", 42, None, b"bytes-key"])
async def test_what_is_no_key_is_an_auth_error_that_does_not_quote_it(
    given: Any, lab: Any, autojump_clock: Any
) -> None:
    async def key() -> Any:
        return given

    async with lab.engine(0, each={"api_key": key}) as engine:
        with pytest.raises(AuthError, match="api_key function gave") as caught:
            await engine.complete("hi")
        assert "words" not in str(caught.value)
        assert "accents" not in str(caught.value)
    assert lab.primary.requests == ()


async def test_a_key_function_that_raises_fails_over_and_heals(
    lab: Any, autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    broken = [True]

    async def key() -> str:
        if broken[0]:
            raise LookupError("vault says: SECRET")
        return "good-key"

    async with lab.engine(each={"api_key": key}) as engine:
        answer = await engine.complete("hi")
        assert answer.content == SPARE
        assert answer.metadata.attempts[0].outcome == "auth"
        assert "LookupError" in answer.metadata.attempts[0].reason
        broken[0] = False
        await engine.recheck("openai")
        assert (await engine.complete("hi")).content == OWN
    assert "SECRET" not in caplog.text


async def test_a_key_function_that_hangs_costs_ten_seconds_and_not_the_call(lab: Any, autojump_clock: Any) -> None:
    async def key() -> str:
        await trio.sleep_forever()
        return ""

    async with lab.engine(each={"api_key": key}) as engine:
        assert (await engine.complete("hi")).content == SPARE
        assert trio.current_time() == pytest.approx(10, abs=0.1)
        assert (await engine.complete("hi")).content == SPARE
        assert trio.current_time() == pytest.approx(10, abs=0.2)
