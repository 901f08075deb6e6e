"""What the tests of the fault wall share: how to ask in each dialect, and how to read what comes back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import closing
from typing import Any

import httpx
import pytest
from attrs import evolve, frozen

DIALECTS = ("openai", "openai_responses", "ollama", "anthropic", "gemini")
FINAL = {
    "openai": "data: [DONE]",
    "openai_responses": '"response.completed"',
    "ollama": '"done":true',
    "anthropic": '"message_stop"',
    "gemini": '"finishReason"',
}


@frozen
class Outcome:
    """What a client got: `finished` says that it saw the vendor's mark of a whole answer."""

    status: int | None = None
    text: str = ""
    finished: bool = False
    error: str | None = None


class Vendor:
    """A client of one dialect, as plain as can be: requests as dicts, answers as text."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.provider = name if name in ("anthropic", "gemini") else "openai"  # whom the wall lets answer

    def request(self, base_url: str, text: str = "hi", *, stream: bool = False, **fields: Any) -> dict[str, Any]:
        """Arguments for `httpx.Client.build_request`."""
        if self.name == "gemini":
            place = "streamGenerateContent?alt=sse" if stream else "generateContent"
            body = {"contents": [{"role": "user", "parts": [{"text": text}]}], **fields}
            return {"method": "POST", "url": f"{base_url}/v1beta/models/gemini-2.5-flash:{place}", "json": body}
        if self.name == "openai_responses":
            body = {"model": "model-1", "input": [{"role": "user", "content": text}], **fields}
            body |= {"stream": True} if stream else {}
            return {"method": "POST", "url": f"{base_url}/responses", "json": body}
        if self.name == "ollama":
            body = {"model": "model-1", "messages": [{"role": "user", "content": text}], "stream": stream, **fields}
            return {"method": "POST", "url": f"{base_url.removesuffix('/v1')}/api/chat", "json": body}
        path = "/chat/completions" if self.name == "openai" else "/v1/messages"
        body = {"model": "model-1", "messages": [{"role": "user", "content": text}], **fields}
        return {"method": "POST", "url": base_url + path, "json": {**body, **({"stream": True} if stream else {})}}

    def read(self, status: int, body: bytes, *, stream: bool) -> Outcome:
        """The outcome of a body, which may be cut anywhere."""
        text = body.decode()
        if status != 200 or not stream:
            return self._whole(status, text)
        mark = "" if self.name == "ollama" else "data: "
        lines = [line.removeprefix(mark) for line in text.split("\n") if line.startswith(mark + "{")]
        pieces = [self._piece(json.loads(line)) for line in lines]
        return Outcome(status, "".join(pieces), finished=FINAL[self.name] in text)

    def _whole(self, status: int, text: str) -> Outcome:
        try:
            value = json.loads(text)
        except ValueError:
            return Outcome(status, text if status != 200 else "")
        if status != 200:
            return Outcome(status, value["error"] if self.name == "ollama" else value["error"]["message"])
        if self.name == "ollama":
            return Outcome(status, value["message"]["content"], finished=value["done"])
        if self.name == "openai":
            return Outcome(status, value["choices"][0]["message"]["content"], finished=True)
        if self.name == "openai_responses":
            said = [part for item in value["output"] for part in item.get("content", ())]
            return Outcome(status, "".join(part["text"] for part in said), finished=True)
        if self.name == "anthropic":
            return Outcome(status, "".join(part.get("text", "") for part in value["content"]), finished=True)
        return Outcome(status, self._gemini(value), finished=True)

    def _piece(self, event: dict[str, Any]) -> str:
        if event.get("error"):
            return "!" + (event["error"] if self.name == "ollama" else event["error"]["message"])
        if self.name == "ollama":
            return str(event["message"]["content"])
        if self.name == "openai":
            return "".join(choice["delta"].get("content") or "" for choice in event["choices"])
        if self.name == "openai_responses":
            return event["delta"] if event["type"] == "response.output_text.delta" else ""
        if self.name == "anthropic":
            return str(event.get("delta", {}).get("text", ""))
        return self._gemini(event)

    def _gemini(self, value: dict[str, Any]) -> str:
        parts: Iterable[dict[str, Any]] = value["candidates"][0]["content"].get("parts", ())
        return "".join(part.get("text", "") for part in parts if not part.get("thought"))


@pytest.fixture(params=DIALECTS)
def vendor(request: pytest.FixtureRequest) -> Vendor:
    return Vendor(request.param)


@pytest.fixture
def openai() -> Vendor:
    return Vendor("openai")


class Asking:
    """One request through a client, whatever happens told as an `Outcome`."""

    def __init__(self, vendor: Vendor) -> None:
        self.vendor = vendor

    def sync(self, client: httpx.Client, base_url: str, *, stream: bool) -> Outcome:
        status, body = None, bytearray()
        try:
            response = client.send(client.build_request(**self.vendor.request(base_url, stream=stream)), stream=True)
            status = response.status_code
            with closing(response):
                for piece in response.iter_bytes():
                    body += piece
        except httpx.HTTPError as error:
            return self._failed(status, bytes(body), error, stream=stream)
        return self.vendor.read(status, bytes(body), stream=stream)

    async def trio(self, client: httpx.AsyncClient, base_url: str, *, stream: bool) -> Outcome:
        status, body = None, bytearray()
        try:
            request = client.build_request(**self.vendor.request(base_url, stream=stream))
            response = await client.send(request, stream=True)
            status = response.status_code
            try:
                async for piece in response.aiter_raw():
                    body += piece
            finally:
                await response.aclose()
        except httpx.HTTPError as error:
            return self._failed(status, bytes(body), error, stream=stream)
        return self.vendor.read(status, bytes(body), stream=stream)

    def _failed(self, status: int | None, body: bytes, error: httpx.HTTPError, *, stream: bool) -> Outcome:
        name = type(error).__name__
        if status is None:
            return Outcome(error=name)
        return evolve(self.vendor.read(status, body, stream=stream), error=name)


@pytest.fixture
def plain() -> dict[str, Any]:
    """Options of httpx clients here: certificates are not loaded, which would take most of a test's time."""
    return {"verify": False, "trust_env": False, "timeout": 5}


@pytest.fixture
def asking(vendor: Vendor) -> Asking:
    return Asking(vendor)


@pytest.fixture
def outcome() -> type[Outcome]:
    return Outcome
