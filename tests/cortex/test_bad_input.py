"""What cannot work is a `ConfigError` of the very line that says it, at every door: it names the item, and nothing is
sent. The checks themselves are tested where they live; here it is that every door has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import cortex
from cortex.testing import FaultWall


def bare(order) -> str:  # type: ignore[no-untyped-def]
    """A tool whose parameter has no type hint."""
    return str(order)


def look(order: int) -> str:
    """A tool as it should be."""
    return str(order)


@cortex.tool(name="look")
def look_again(place: str) -> str:
    """Another of that name."""
    return place


class Opaque:
    """A type that nobody can make a schema of."""


BMP = b"BM\x36\x00\x00\x00"
RESULT = {"role": "tool", "tool_call_id": "call-7", "content": "3"}
TOOLS = [
    ([bare], r"^tool bare\.order: has no type hint"),
    ([look, look_again], r"^tools\[1\]: the name 'look' is taken"),
    ([look, 3], r"^tools\[1\]: must be a function or a tool, not int"),
]
OPTIONS = [
    ({"images": [BMP]}, r"^images\[0\]: is no PNG, JPEG, GIF or WebP"),
    ({"images": ["data:image/bmp;base64,Qk0="]}, r"^images\[0\]: is no PNG"),
    ({"images": [cortex.Image(url="file:///etc/passwd")]}, r"^images\[0\]\.url: must begin with http"),
    ({"output_type": Opaque}, r"^output_type: must be .*Opaque"),
    ({"output_type": 5}, r"^output_type: must be .* not int"),
    ({"output_type": Callable[[int], int]}, r"^output_type: must be "),
    ({"max_tokens": 10**5000}, r"^max_tokens: must be a whole number of at most 2147483647$"),
    ({"max_tokens": -(10**5000)}, r"^max_tokens: must be a whole number of at least 1, not -2147483647$"),
    ({"model": "openai/../../evil"}, r"^model: a model's name may hold no"),
    ({"model": "openai/x?alt=y"}, r"^model: a model's name may hold no"),
    ({"extra": {"stream": True}}, r"^extra\.stream: is decided by the method"),
]
MESSAGES = [
    (
        ["hi", cortex.Message("assistant", (cortex.ToolCall("1", "look", {"order": object()}),))],
        r"^messages\[1\]\.parts\[0\]\.arguments: cannot be written as JSON",
    ),
    ([RESULT], r"^messages\[0\]: the tool result for 'call-7' has no call before it"),
    (["hi", RESULT], r"^messages\[1\]: the tool result for 'call-7'"),
    ([cortex.Message("tool", (cortex.ToolResult("call-7", "look", "3"),)), "hi"], r"^messages\[0\]: the tool result"),
    ([{"role": "system", "content": "Be brief."}, RESULT, "hi"], r"^messages\[1\]: the tool result"),
    (
        [{"role": "user", "content": ["see", {"type": "image_url", "image_url": {"url": "data:image/x;base64,Qk0="}}]}],
        r"^messages\[0\]\.content\[1\]\.image_url\.url: is no PNG",
    ),
]


@pytest.fixture
def engine(make_engine: Callable[..., cortex.Engine], memory_wall: FaultWall) -> Any:
    yield make_engine("openai")
    assert memory_wall["openai"].requests == ()


# Each door is called and not awaited, read or entered further than its kind needs: the error is that line's.
SESSION_DOORS = ("run", "run_sync", "run_stream", "run_stream_sync")
ENGINE_DOORS = ("complete", "complete_sync", "stream", "stream_sync")


async def opened(result: Any) -> None:
    if hasattr(result, "__await__"):
        await result


@pytest.mark.parametrize(("tools", "match"), TOOLS)
@pytest.mark.parametrize("door", ENGINE_DOORS)
async def test_a_tool_offered_to_a_call(engine: cortex.Engine, door: str, tools: Any, match: str) -> None:
    with pytest.raises(cortex.ConfigError, match=match):
        await opened(getattr(engine, door)("hi", tools=tools))


@pytest.mark.parametrize(("tools", "match"), TOOLS)
def test_a_tool_of_an_agent(engine: cortex.Engine, tools: Any, match: str) -> None:
    with pytest.raises(cortex.ConfigError, match=match):
        engine.create_agent("a", tools=tools)


@pytest.mark.parametrize(("options", "match"), OPTIONS)
@pytest.mark.parametrize("door", [*ENGINE_DOORS, *SESSION_DOORS])
async def test_an_option(engine: cortex.Engine, door: str, options: dict[str, Any], match: str) -> None:
    owner = engine if door in ENGINE_DOORS else engine.create_agent("a").start_session()
    with pytest.raises(cortex.ConfigError, match=match):
        await opened(getattr(owner, door)("hi", **options))


@pytest.mark.parametrize(("messages", "match"), MESSAGES)
@pytest.mark.parametrize("door", ENGINE_DOORS)
async def test_a_message(engine: cortex.Engine, door: str, messages: Any, match: str) -> None:
    with pytest.raises(cortex.ConfigError, match=match):
        await opened(getattr(engine, door)(messages))


def test_a_tool_must_not_be_taken_for_a_typed_answer() -> None:
    with pytest.raises(cortex.ConfigError, match=r"structured_output__mine.*kept for typed answers"):
        cortex.tool(name="structured_output__mine")(look)


KEY = "sk-proj-VERYsecret1234567890"


@pytest.mark.parametrize(
    "build",
    [
        lambda: cortex.Engine({"openai": {KEY: "api_key"}}),
        lambda: cortex.Engine({KEY: {"api_key": "x"}}),
        lambda: cortex.Engine({"openai": {"api_key": {"env": KEY}}}),
        lambda: cortex.Engine({"openai": {"api_key": "k"}}, worker_model=KEY),
        lambda: cortex.Engine({"openai": {"api_key": "k", "models": [KEY, KEY]}}),
        lambda: cortex.Engine({"openai": {"api_key": "k"}}, policy={KEY: 1}),
    ],
)
def test_a_key_in_the_place_of_a_name_is_not_repeated(build: Callable[[], Any]) -> None:
    with pytest.raises(cortex.ConfigError) as caught:
        build()
    assert "secret" not in str(caught.value)
    assert "[a key]" in str(caught.value)
