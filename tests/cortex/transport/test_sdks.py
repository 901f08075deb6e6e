"""The vendors' own asynchronous clients run on the transport, in trio."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import trio

from cortex.testing import Cut, FaultWall, Hang, Reply, Status
from cortex.transport import Transport

pytestmark = [
    pytest.mark.slow,  # importing the clients takes seconds
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # theirs, at import
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # their generators, left half read
]
SAID = Reply("Paris is nice.", usage=(11, 7))
HI = [{"role": "user", "content": "hi"}]


def over(transport: Transport, kind: Any, sdk: Any, base_url: str) -> Any:
    """The SDK's client on httpx's, or, where it takes none but httpx's successor, on that one over a bridge."""
    try:
        return kind(sdk, base_url, httpx.AsyncClient(transport=transport, timeout=5))
    except TypeError:
        return kind(sdk, base_url, bridged(transport))


def bridged(transport: Transport) -> Any:
    httpx2 = pytest.importorskip("httpx2")

    class Body(httpx2.AsyncByteStream):  # type: ignore[misc]
        def __init__(self, response: httpx.Response) -> None:
            self.response = response

        async def __aiter__(self) -> Any:
            try:
                async for piece in self.response.aiter_raw():
                    yield piece
            except httpx.HTTPError as error:
                raise getattr(httpx2, type(error).__name__)(str(error)) from error

        async def aclose(self) -> None:
            await self.response.aclose()

    class Bridge(httpx2.AsyncBaseTransport):  # type: ignore[misc]
        async def handle_async_request(self, request: Any) -> Any:
            inner = httpx.Request(
                request.method,
                str(request.url),
                headers=request.headers.raw,
                content=await request.aread(),
                extensions={"timeout": request.extensions.get("timeout", {})},
            )
            try:
                response = await transport.handle_async_request(inner)
            except httpx.HTTPError as error:
                raise getattr(httpx2, type(error).__name__)(str(error)) from error
            return httpx2.Response(
                response.status_code,
                headers=response.headers.raw,
                stream=Body(response),
                extensions=response.extensions,
            )

        async def aclose(self) -> None:
            await transport.aclose()

    return httpx2.AsyncClient(transport=Bridge(), timeout=5)


class OpenAI:
    name = "openai"

    def __init__(self, sdk: Any, base_url: str, http: Any) -> None:
        self.client = sdk.AsyncOpenAI(api_key="key", base_url=base_url, max_retries=0, timeout=5, http_client=http)
        self.ask = {"model": "gpt-4o", "messages": HI}

    async def whole(self) -> str:
        return (await self.client.chat.completions.create(**self.ask)).choices[0].message.content

    async def stream(self, most: int = 1000) -> list[str]:
        pieces: list[str] = []
        async with await self.client.chat.completions.create(**self.ask, stream=True) as events:
            async for event in events:
                pieces += [choice.delta.content for choice in event.choices if choice.delta.content]
                if len(pieces) >= most:
                    break
        return pieces


class Anthropic:
    name = "anthropic"

    def __init__(self, sdk: Any, base_url: str, http: Any) -> None:
        self.client = sdk.AsyncAnthropic(api_key="key", base_url=base_url, max_retries=0, timeout=5, http_client=http)
        self.ask = {"model": "claude-sonnet-4-5", "max_tokens": 100, "messages": HI}

    async def whole(self) -> str:
        return (await self.client.messages.create(**self.ask)).content[0].text

    async def stream(self, most: int = 1000) -> list[str]:
        pieces: list[str] = []
        async with self.client.messages.stream(**self.ask) as stream:
            async for text in stream.text_stream:
                pieces.append(text)
                if len(pieces) >= most:
                    break
        return pieces


@pytest.fixture(params=[OpenAI, Anthropic], ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def sdk(kind: Any) -> Any:
    return pytest.importorskip(kind.name)


async def test_json_and_stream_over_one_connection(kind: Any, sdk: Any) -> None:
    wall = FaultWall()
    provider = wall.add(kind.name)
    provider.always(SAID)
    async with wall, Transport() as transport:
        client = over(transport, kind, sdk, provider.base_url)
        for _ in range(2):
            assert await client.whole() == "Paris is nice."
            assert "".join(await client.stream()) == "Paris is nice."
    assert {seen.connection for seen in provider.requests} == {1}


async def test_what_goes_wrong_is_told_by_the_sdks_own_errors(kind: Any, sdk: Any) -> None:
    wall = FaultWall()
    provider = wall.add(kind.name)
    async with wall, Transport() as transport:
        client = over(transport, kind, sdk, provider.base_url)
        provider.script(Status(429), Cut(), Hang(), SAID)
        with pytest.raises(sdk.RateLimitError):
            await client.whole()
        with pytest.raises(sdk.APIConnectionError):
            await client.whole()
        client.client = client.client.with_options(timeout=0.1)
        with pytest.raises(sdk.APITimeoutError):
            await client.whole()
        client.client = client.client.with_options(timeout=5)
        assert await client.whole() == "Paris is nice."


async def test_a_stream_that_is_left_or_cancelled_leaves_nothing(kind: Any, sdk: Any) -> None:
    wall = FaultWall()
    provider = wall.add(kind.name)
    provider.always(Reply("word " * 500, pace=0.005))
    async with wall, Transport() as transport:
        client = over(transport, kind, sdk, provider.base_url)
        assert len(await client.stream(most=3)) == 3
        with trio.move_on_after(0.1) as scope:
            await client.stream()
        assert scope.cancelled_caught
        assert repr(transport) == "<Transport: 0 connections in use, 0 idle>"
