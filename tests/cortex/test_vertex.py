"""Gemini on Vertex AI at the public door: Google's credentials, the tokens they give, and what is sent with them.

The credentials are a service account's file whose token server is on loopback: google-auth itself is under test too.
"""

from __future__ import annotations

import datetime
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import attrs
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

import cortex
from cortex.testing import FaultWall, Reply, Seen, Status

MODEL = "gemini-2.5-flash"


@attrs.define
class TokenServer:
    """Gives `token-1`, `token-2`, ... or, with `status`, refuses. `lasts`: seconds until a token expires."""

    url: str = ""
    asked: list[dict[str, list[str]]] = attrs.field(factory=list)
    threads: set[int] = attrs.field(factory=set)
    status: int = 200
    lasts: int = 3600

    def answer(self, form: dict[str, list[str]]) -> tuple[int, dict[str, Any]]:
        self.asked.append(form)
        if self.status != 200:
            return self.status, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
        return 200, {"access_token": f"token-{len(self.asked)}", "expires_in": self.lasts, "token_type": "Bearer"}


@pytest.fixture
def google() -> Iterator[TokenServer]:
    """A token server on loopback."""
    server = TokenServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
            status, body = server.answer(form)
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        server.url = f"http://127.0.0.1:{http.server_port}/token"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        http.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def private_key() -> str:
    """An RSA key, as a service account's file holds it."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key.private_bytes(*form).decode()


@pytest.fixture
def account(google: TokenServer, private_key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the Application Default Credentials are read from."""
    path = tmp_path / "account.json"
    email = "me@p-1.iam.gserviceaccount.com"
    fields = {"type": "service_account", "client_email": email, "private_key_id": "k", "private_key": private_key}
    path.write_text(json.dumps({**fields, "token_uri": google.url, "project_id": "p-1"}))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    return path


@pytest.fixture
def vertex(fault_wall: FaultWall) -> Callable[..., cortex.Engine]:
    """An engine whose first provider is Gemini on Vertex, at the wall; `spare`: OpenAI behind it."""
    gemini, spare = fault_wall.add("gemini"), fault_wall.add("openai")

    def make(*, with_spare: bool = False) -> cortex.Engine:
        where = {"project": "p-1", "location": "europe-west4", "base_url": gemini.base_url}
        providers: dict[str, Any] = {"gemini": where}
        if with_spare:
            providers["openai"] = {"api_key": "k", "base_url": spare.base_url, "default_model": "gpt-4o"}
        return cortex.Engine(providers, worker_model=MODEL, fallback_models=["gpt-4o"] if with_spare else [])

    return make


def only(token: str) -> Callable[[Seen], Any]:
    return lambda seen: Reply("hi") if seen.headers.get("authorization") == f"Bearer {token}" else Status(401)


@pytest.mark.usefixtures("account")
async def test_a_call_goes_to_the_projects_address_with_a_token_that_is_kept(
    vertex: Any, google: TokenServer, fault_wall: FaultWall
) -> None:
    async with vertex() as engine:
        assert (await engine.complete("hi")).content == "Hello from gemini."
        async with engine.stream("hi") as stream:
            assert "".join([chunk.content async for chunk in stream]) == "Hello from gemini."
    one, two = fault_wall["gemini"].requests
    path = f"/v1/projects/p-1/locations/europe-west4/publishers/google/models/{MODEL}"
    assert (one.path, two.path) == (f"{path}:generateContent", f"{path}:streamGenerateContent")
    assert {seen.headers["authorization"] for seen in (one, two)} == {"Bearer token-1"}
    assert "x-goog-api-key" not in one.headers
    assert len(google.asked) == 1
    assert google.asked[0]["assertion"]


@pytest.mark.usefixtures("account")
async def test_a_token_is_renewed_before_it_expires(vertex: Any, google: TokenServer, fault_wall: FaultWall) -> None:
    google.lasts = 60  # less than the minutes by which google-auth is early
    async with vertex() as engine:
        for _ in range(2):
            await engine.complete("hi")
    tokens = [seen.headers["authorization"] for seen in fault_wall["gemini"].requests]
    assert tokens == ["Bearer token-1", "Bearer token-2"]


@pytest.mark.usefixtures("account")
async def test_a_token_that_is_refused_is_renewed_within_the_call(
    vertex: Any, google: TokenServer, fault_wall: FaultWall
) -> None:
    fault_wall["gemini"].always(only("token-2"))
    async with vertex() as engine:
        answer = await engine.complete("hi")
    assert answer.content == "hi"
    assert len(answer.metadata.attempts) == 1
    assert len(google.asked) == 2


@pytest.mark.usefixtures("account")
async def test_credentials_that_google_refuses_are_told_and_failed_over(
    vertex: Any, google: TokenServer, fault_wall: FaultWall, private_key: str
) -> None:
    google.status = 400
    async with vertex(with_spare=True) as engine:
        answer = await engine.complete("hi")
    assert answer.metadata.provider == "openai"
    failed = answer.metadata.attempts[0]
    assert (failed.provider, failed.kind) == ("gemini", "credential")
    assert "RefreshError: invalid_grant: Invalid JWT Signature." in failed.reason
    assert fault_wall["gemini"].requests == ()
    assert private_key.splitlines()[1] not in repr(failed)


async def test_a_missing_file_is_told_by_name(vertex: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "nowhere.json"))
    async with vertex() as engine:
        with pytest.raises(cortex.AuthError, match=r"Google gave no access token: DefaultCredentialsError: .*nowhere"):
            await engine.complete("hi")


@pytest.mark.usefixtures("account")
async def test_a_token_server_out_of_reach_is_no_fault_of_the_credentials(
    vertex: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from google.auth import exceptions
    from google.oauth2 import service_account

    def refresh(*args: object) -> None:
        raise exceptions.TransportError("unreachable")

    monkeypatch.setattr(service_account.Credentials, "refresh", refresh)
    async with vertex(with_spare=True) as engine:
        answer = await engine.complete("hi")
    assert (answer.metadata.attempts[0].kind, answer.metadata.provider) == ("connect", "openai")


async def test_google_is_asked_in_a_worker_thread_and_once_for_many_calls(
    vertex: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import google.auth
    import trio

    class Credentials:
        token: str | None = None
        expiry = datetime.datetime.max
        asked: tuple[int, ...] = ()

        @property
        def valid(self) -> bool:
            return self.token is not None

        def refresh(self, request: object) -> None:
            self.asked += (threading.get_ident(),)
            self.token = "fake-token"

    made = Credentials()
    monkeypatch.setattr(google.auth, "default", lambda scopes: (made, "p-1"))
    async with vertex() as engine, trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(engine.complete, "hi")
    assert len(made.asked) == 1
    assert made.asked[0] != threading.get_ident()
