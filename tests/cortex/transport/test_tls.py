"""TLS: whom the client trusts, how it shows its own certificate, and how connections end that way."""

from __future__ import annotations

import datetime
import ipaddress
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio
import trio.testing

import cortex
from cortex.errors import ConfigError
from cortex.transport import Transport, shared_context, tls

x509 = pytest.importorskip("cryptography.x509")
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402 - only where it is
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402

PASSWORD = "pass-of-the-key"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nsafe"


# ------------------------------------------------------------------------------------------------ certificates


@attrs.frozen
class Authority:
    """One who signs, and the folder where everything is written as PEM files."""

    folder: Path
    key: Any = attrs.field(factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def file(self) -> str:
        return str(self.folder / "ca.pem")

    def __attrs_post_init__(self) -> None:
        self.folder.mkdir()
        Path(self.file).write_bytes(self._pem(self._signed("ca", self.key, [], 1, authority=True)))

    def certificate(self, name: str, *, host: str = "127.0.0.1", days: int = 1) -> tuple[str, str]:
        """The files of a new certificate and of its key; `days` until it ends, which may be past."""
        key = ec.generate_private_key(ec.SECP256R1())
        try:
            who: Any = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            who = x509.DNSName(host)
        files = str(self.folder / f"{name}.pem"), str(self.folder / f"{name}.key")
        Path(files[0]).write_bytes(self._pem(self._signed(name, key, [who], days)))
        Path(files[1]).write_bytes(self.private(key))
        return files

    @staticmethod
    def private(key: Any, password: str = "") -> bytes:
        sealed = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
        return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, sealed)

    @staticmethod
    def _pem(certificate: Any) -> bytes:
        return certificate.public_bytes(serialization.Encoding.PEM)

    def _signed(self, name: str, key: Any, hosts: list[Any], days: int, authority: bool = False) -> Any:
        def named(what: str) -> Any:
            return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, what)])

        now = datetime.datetime.now(datetime.UTC)
        key_id = x509.SubjectKeyIdentifier.from_public_key
        builder = (
            x509.CertificateBuilder()
            .subject_name(named(name))
            .issuer_name(named("ca"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=10))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(key_id(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        return builder.sign(self.key, hashes.SHA256())


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ca")


@pytest.fixture(scope="module")
def good(ca: Authority) -> tuple[str, str]:
    return ca.certificate("good")


@pytest.fixture(scope="module")
def client(ca: Authority) -> tuple[str, str]:
    return ca.certificate("client", host="client.example")


@pytest.fixture
def secured(heard: Any) -> Any:
    """`secured(files, client_ca=None, reply=OK, then="polite")`: a handler that answers over TLS until it is left."""

    def make(
        files: tuple[str, str], client_ca: str | None = None, reply: bytes = OK, then: str = "on", **more: Any
    ) -> Any:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*files)
        if client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(client_ca)
        for name, value in more.items():
            setattr(context, name, value) if name != "alpn" else context.set_alpn_protocols(value)

        async def handler(stream: trio.SocketStream) -> None:
            secure = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
            await secure.do_handshake()
            handler.seen.append(secure)  # type: ignore[attr-defined]
            while await heard(secure):
                await secure.send_all(reply)
                if then == "polite":
                    await secure.aclose()
                if then != "on":
                    return

        handler.seen = []  # type: ignore[attr-defined]
        return handler

    return make


@pytest.fixture
def openssl() -> Any:
    """`openssl(files, client_ca=None, version=None)`: a handler by OpenSSL alone, which says what it dislikes."""

    def make(files: tuple[str, str], client_ca: str | None = None, version: Any = None) -> Any:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*files)
        if client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(client_ca)
        if version is not None:
            context.minimum_version = context.maximum_version = version

        def answer(fd: int) -> None:
            plain = socket.socket(fileno=fd)
            plain.settimeout(2)
            with context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False) as secure:
                try:
                    secure.do_handshake()
                    while secure.recv(65536):
                        secure.sendall(OK)
                except ssl.SSLError:
                    secure.shutdown(socket.SHUT_WR)
                    while socket.socket.recv(secure, 65536):
                        pass  # else the system says "reset", and what TLS said is lost

        async def handler(stream: trio.SocketStream) -> None:
            await trio.to_thread.run_sync(answer, os.dup(stream.socket.fileno()))

        return handler

    return make


def why(got: Any) -> str:
    assert got.failure is httpx.ConnectError, got
    assert (got.error.phase, got.error.reused) == ("not_sent", False)
    return str(got.error)


# ------------------------------------------------------------------------------------------------ whom to trust


async def test_one_who_is_trusted(ca: Authority, good: Any, secured: Any, serve: Any, ask: Any) -> None:
    handler = secured(good)
    url = await serve(handler, "https")
    own = ssl.create_default_context(cafile=ca.file)
    for verify in (ca.file, own, False):
        async with Transport(verify=verify) as transport:
            for _ in range(2):
                assert (await ask(transport, url)).body == b"safe"
    assert len(handler.seen) == 3  # each served twice


async def test_a_folder_of_authorities(ca: Authority, good: Any, secured: Any, serve: Any, ask: Any) -> None:
    """Named by the hash of their subject, as OpenSSL wants it."""
    folder = ca.folder / "folder"
    folder.mkdir()
    digest = shutil.which("openssl")
    if digest is None:
        pytest.skip("no openssl here to tell the name that the file must have")
    told = await trio.run_process([digest, "x509", "-hash", "-noout", "-in", ca.file], capture_stdout=True)
    shutil.copy(ca.file, folder / f"{told.stdout.decode().strip()}.0")
    url = await serve(secured(good), "https")
    async with Transport(verify=str(folder)) as transport:
        assert (await ask(transport, url)).body == b"safe"


async def test_t1_an_authority_that_nobody_knows(good: Any, secured: Any, serve: Any, ask: Any) -> None:
    url = await serve(secured(good), "https")
    assert "unable to get local issuer certificate" in why(await ask(Transport(), url))


async def test_t2_a_certificate_of_another_host(ca: Authority, secured: Any, serve: Any, ask: Any) -> None:
    url = await serve(secured(ca.certificate("other", host="other.example")), "https")
    assert "IP address mismatch, certificate is not valid for '127.0.0.1'" in why(
        await ask(Transport(verify=ca.file), url)
    )
    by_name = url.replace("127.0.0.1", "localhost")
    assert "Hostname mismatch, certificate is not valid for 'localhost'" in why(
        await ask(Transport(verify=ca.file), by_name)
    )
    async with Transport(verify=False) as transport:
        assert (await ask(transport, url)).body == b"safe"


async def test_t3_a_certificate_that_has_expired(ca: Authority, secured: Any, serve: Any, ask: Any) -> None:
    url = await serve(secured(ca.certificate("expired", days=-1)), "https")
    assert "certificate has expired" in why(await ask(Transport(verify=ca.file), url))


async def test_an_authority_that_is_renewed_on_disk_is_trusted_without_a_restart(
    ca: Authority, good: Any, secured: Any, serve: Any, ask: Any, tmp_path: Path
) -> None:
    old = Authority(tmp_path / "old")
    file = tmp_path / "bundle.pem"
    shutil.copy(old.file, file)
    url = await serve(secured(good), "https")
    async with Transport(verify=str(file)) as transport:
        assert "certificate verify failed" in why(await ask(transport, url))
        shutil.copy(ca.file, file)
        os.utime(file, ns=(1, 1))  # whatever the clock of the file system
        assert (await ask(transport, url)).body == b"safe"


async def test_a_bundle_that_is_gone_is_told_and_found_again(
    ca: Authority, good: Any, secured: Any, serve: Any, ask: Any, tmp_path: Path
) -> None:
    file = tmp_path / "bundle.pem"
    url = await serve(secured(good), "https")
    async with Transport(verify=str(file)) as transport:
        assert "No such file" in why(await ask(transport, url))
        shutil.copy(ca.file, file)
        assert (await ask(transport, url)).body == b"safe"


@pytest.mark.parametrize("by_now", ["gone", "half written", "on a drive that hangs"])
async def test_what_was_read_before_stays_good(
    by_now: str,
    ca: Authority,
    good: Any,
    secured: Any,
    serve: Any,
    ask: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a failure the files are looked at again; it may have been a passing one, and they gone since."""
    monkeypatch.setattr(tls, "REREADING_SECONDS", 0.1)
    url, hung = await serve(secured(good), "https"), threading.Event()
    shutil.copy(ca.file, file := tmp_path / "bundle.pem")
    async with Transport(verify=str(file)) as transport:
        assert (await ask(transport, url)).body == b"safe"
        match by_now:
            case "gone":
                file.unlink()
            case "half written":
                file.write_text("-----BEGIN CERTIFICATE-----\nMIIB")
            case _:
                monkeypatch.setattr(tls, "shared_context", lambda *_: hung.wait(5))
        assert (await ask(transport, "https://127.0.0.1:9/")).failure is httpx.ConnectError
        assert (await ask(transport, url, headers={"connection": "close"})).body == b"safe"  # on the idle one
        assert (await ask(transport, url)).body == b"safe"
    hung.set()


# ------------------------------------------------------------------------------------------------ one's own certificate


@pytest.fixture(scope="module")
def forms(client: tuple[str, str], ca: Authority) -> dict[str, Any]:
    """The ways to give it."""
    both = ca.folder / "both.pem"
    both.write_bytes(b"".join(Path(file).read_bytes() for file in client))
    sealed = ca.folder / "sealed.key"
    key = serialization.load_pem_private_key(Path(client[1]).read_bytes(), None)
    sealed.write_bytes(ca.private(key, PASSWORD))
    return {
        "one file": str(both),
        "a pair": client,
        "with a password": (client[0], str(sealed), PASSWORD),
        "sealed": (client[0], str(sealed)),
        "a wrong password": (client[0], str(sealed), "wrong-secret"),
        "no key": client[0],
        "another's key": (client[0], str(ca.folder / "good.key")),
    }


@pytest.mark.parametrize("form", ["one file", "a pair", "with a password"])
async def test_it_is_shown_where_it_is_asked_for(
    form: str, forms: Any, ca: Authority, good: Any, secured: Any, serve: Any, ask: Any
) -> None:
    handler = secured(good, client_ca=ca.file)
    url = await serve(handler, "https")
    async with Transport(verify=ca.file, cert=forms[form]) as transport:
        assert (await ask(transport, url)).body == b"safe"
    assert handler.seen[0].getpeercert()["subjectAltName"] == (("DNS", "client.example"),)


@pytest.mark.parametrize("form", ["sealed", "a wrong password", "no key", "another's key"])
async def test_one_that_cannot_be_read_is_an_error_and_nobody_is_asked_for_a_password(
    form: str, forms: Any, ca: Authority, good: Any, secured: Any, serve: Any, ask: Any
) -> None:
    url = await serve(secured(good, client_ca=ca.file), "https")
    with trio.fail_after(2):
        message = why(await ask(Transport(verify=ca.file, cert=forms[form]), url))
    assert message
    assert PASSWORD not in message
    assert "wrong-secret" not in message


@pytest.mark.slow  # two more interpreters
def test_at_a_terminal_nobody_is_asked_for_a_password_either(forms: Any) -> None:
    """OpenSSL would ask there by itself, and wait for ever."""
    inner = f"from cortex.transport import shared_context; shared_context(False, {forms['sealed']!r})"
    outer = f"import pty, sys; sys.exit(pty.spawn([sys.executable, '-c', {inner!r}]) >> 8)"
    with subprocess.Popen(
        [sys.executable, "-c", outer], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            process.wait(10)
        finally:
            process.kill()
        assert process.stdout is not None
        told = process.stdout.read().decode()
    assert process.returncode == 1
    assert "ssl.SSLError" in told
    assert "pass phrase" not in told


each_version = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])


@each_version
async def test_none_is_shown_where_one_is_asked_for(
    version: Any, ca: Authority, good: Any, openssl: Any, serve: Any, ask: Any
) -> None:
    """In TLS 1.3 the handshake is over when the server dislikes it: the first read tells."""
    url = await serve(openssl(good, ca.file, version), "https")
    got = await ask(Transport(verify=ca.file), url)
    assert got.failure is (httpx.ConnectError if version is ssl.TLSVersion.TLSv1_2 else httpx.ReadError)
    assert "alert" in str(got.error)


@each_version
async def test_one_that_is_renewed_on_disk_is_shown_without_a_restart(
    version: Any, ca: Authority, good: Any, client: Any, openssl: Any, serve: Any, ask: Any, tmp_path: Path
) -> None:
    old = Authority(tmp_path / "old").certificate("client")
    files = str(tmp_path / "my.pem"), str(tmp_path / "my.key")
    for source, file in zip(old, files, strict=True):
        shutil.copy(source, file)
    url = await serve(openssl(good, ca.file, version), "https")
    async with Transport(verify=ca.file, cert=files) as transport:
        assert "alert" in str((await ask(transport, url)).error)
        for source, file in zip(client, files, strict=True):
            shutil.copy(source, file)
            os.utime(file, ns=(1, 1))
        assert (await ask(transport, url)).body == b"safe"


# ------------------------------------------------------------------------------------------------ the connection


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(
    ("theirs", "chosen"), [(["h2", "http/1.1"], "http/1.1"), (["h2"], None), ([], None)], ids=["both", "h2", "none"]
)
async def test_http_1_1_is_all_that_is_offered(
    theirs: list[str], chosen: str | None, own: bool, ca: Authority, good: Any, secured: Any, serve: Any, ask: Any
) -> None:
    handler = secured(good, **({"alpn": theirs} if theirs else {}))
    url = await serve(handler, "https")
    context = ssl.create_default_context(cafile=ca.file)
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with Transport(verify=context if own else ca.file) as transport:
        assert (await ask(transport, url)).body == b"safe"
    assert handler.seen[0].selected_alpn_protocol() == chosen


async def test_the_name_that_is_asked_for_is_that_of_the_address(
    ca: Authority, good: Any, secured: Any, serve: Any, ask: Any
) -> None:
    names: list[str | None] = []
    handler = secured(good, sni_callback=lambda _stream, name, _context: names.append(name))
    url = await serve(handler, "https")
    async with Transport(verify=False) as transport:
        await ask(transport, url.replace("127.0.0.1", "localhost"))
        await ask(transport, url)
        for _ in range(2):
            request = httpx.Request("GET", url, extensions={"sni_hostname": "many.test"})
            await (await transport.handle_async_request(request)).aread()
    assert names == ["localhost", None, "many.test"]  # RFC 6066, section 3: an address is no name


async def test_certificates_are_read_by_threads_of_their_own(
    ca: Authority, good: Any, secured: Any, serve: Any, ask: Any
) -> None:
    url = await serve(secured(good), "https")
    limiter = trio.to_thread.current_default_thread_limiter()
    busy = [object() for _ in range(int(limiter.available_tokens))]
    for one in busy:
        limiter.acquire_on_behalf_of_nowait(one)
    try:
        async with Transport(verify=ca.file) as transport:
            assert (await ask(transport, url, timeout=1.0)).body == b"safe"
    finally:
        for one in busy:
            limiter.release_on_behalf_of(one)


async def test_a_call_does_not_wait_for_a_file_that_cannot_be_read(
    serve: Any, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network drive, say. Many calls read it once, and the next one tries again."""
    stuck, readings = threading.Event(), 0

    def read(*_: Any) -> ssl.SSLContext:
        nonlocal readings
        readings += 1
        stuck.wait(5)
        return ssl.create_default_context()

    monkeypatch.setattr(tls, "shared_context", read)
    async with Transport() as transport:
        with trio.fail_after(2):
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(partial(ask, transport, "https://127.0.0.1:1", timeout={"connect": 0.1}))
            got = await ask(transport, "https://127.0.0.1:1", timeout={"connect": 0.1})
        assert str(got.error) == "127.0.0.1:1 took more than 0.1 s to read the certificates"
        assert readings <= 2
        stuck.set()


ENDS = {
    "a length": (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", httpx.RemoteProtocolError),
    "chunks": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", httpx.RemoteProtocolError),
    "neither": (b"HTTP/1.1 200 OK\r\n\r\nhalf", None),
}


@pytest.mark.parametrize("then", ["polite", "rude"])
@pytest.mark.parametrize("framing", ENDS)
async def test_t7_a_connection_that_is_closed_with_or_without_the_closing_words_of_tls(
    framing: str, then: str, ca: Authority, good: Any, secured: Any, serve: Any, ask: Any
) -> None:
    """Most servers leave them away, so where nothing else tells the end a reply that was cut off looks whole: streams
    have a last event, and JSON a last brace."""
    reply, failure = ENDS[framing]
    url = await serve(secured(good, reply=reply, then=then), "https")
    async with Transport(verify=ca.file) as transport:
        got = await ask(transport, url)
    assert (got.body, got.failure) == (b"half", failure)


@each_version
@pytest.mark.parametrize("together", [True, False])
async def test_what_follows_a_reply_is_never_taken_for_the_next(
    together: bool, version: Any, ca: Authority, good: Any, heard: Any, serve: Any, ask: Any
) -> None:
    """Records that have come with the reply wait inside of TLS, where the socket does not show them."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*good)
    context.maximum_version = version
    connections = []

    async def handler(stream: trio.SocketStream) -> None:
        held = Held(stream)
        secure = trio.SSLStream(held, context, server_side=True, https_compatible=True)
        connections.append(stream)
        await heard(secure)
        if len(connections) == 1:
            held.holding = together
            await secure.send_all(OK)
            await secure.send_all(OK.replace(b"safe", b"evil"))
            await held.flush()
            await heard(secure)
        await secure.send_all(OK.replace(b"safe", b"good"))

    url = await serve(handler, "https")
    async with Transport(verify=ca.file) as transport:
        assert (await ask(transport, url)).body == b"safe"
        await trio.testing.wait_all_tasks_blocked()
        assert (await ask(transport, url)).body == b"good"
    assert len(connections) == 2


class Held(trio.abc.Stream):
    """A stream that keeps what is sent, if it shall, until it is flushed: then all comes in one piece."""

    def __init__(self, inner: trio.SocketStream) -> None:
        self.holding = False
        self._inner = inner
        self._held = b""

    async def send_all(self, data: Any) -> None:
        self._held += bytes(data)
        if not self.holding:
            await self.flush()

    async def flush(self) -> None:
        held, self._held = self._held, b""
        await self._inner.send_all(held)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self._inner.receive_some(max_bytes))

    async def aclose(self) -> None:
        await self._inner.aclose()


async def test_c16_an_early_refusal_is_told_over_tls(ca: Authority, good: Any, serve: Any, ask: Any) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*good)

    async def handler(stream: trio.SocketStream) -> None:
        secure = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        data = b""
        while b"\r\n\r\n" not in data:
            data += await secure.receive_some(10_000)
        await secure.send_all(b"HTTP/1.1 413 No\r\nconnection: close\r\ncontent-length: 9\r\n\r\ntoo large")
        await trio.sleep(0.02)

    url = await serve(handler, "https")
    with trio.fail_after(2):
        got = await ask(Transport(verify=ca.file), url, "POST", content=b"x" * 50_000_000)
    assert (got.status, got.body, got.failure) == (413, b"too large", None)


async def test_a_server_of_another_version(ca: Authority, good: Any, openssl: Any, serve: Any, ask: Any) -> None:
    url = await serve(openssl(good, version=ssl.TLSVersion.TLSv1_2), "https")
    own = shared_context(ca.file)
    async with Transport(verify=own) as transport:
        assert (await ask(transport, url)).body == b"safe"
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    own.load_verify_locations(ca.file)
    own.minimum_version = ssl.TLSVersion.TLSv1_3
    assert "alert protocol version" in why(await ask(Transport(verify=own), url))


async def test_reading_the_certificates_takes_its_time_in_a_thread_and_is_not_forgotten_by_a_cancel(
    ca: Authority, good: Any, secured: Any, serve: Any, ask: Any
) -> None:
    url = await serve(secured(good), "https")
    async with Transport(verify=ca.file) as transport:
        for _ in range(20):
            with trio.move_on_after(0.0005):
                await ask(transport, url)
        assert (await ask(transport, url)).body == b"safe"


# ------------------------------------------------------------------------------------------------ configuration


def refused(**config: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        cortex.Engine({"openai": {"api_key": "the-api-key", **config}}, worker_model="gpt-4o-mini")
    assert "the-api-key" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("url", ["api.example.com/v1", "ftp://api.example.com", "https://", "https:///v1", "//x/v1"])
def test_a_base_url_that_is_none(url: str) -> None:
    assert refused(base_url=url).startswith("providers.openai.base_url: ")


@pytest.mark.parametrize("url", ["https://me:pass-word@api.example.com/v1", "https://tok-en@api.example.com/v1"])
def test_credentials_in_the_base_url(url: str) -> None:
    message = refused(base_url=url)
    assert message.startswith("providers.openai.base_url: holds credentials")
    assert "pass-word" not in message
    assert "tok-en" not in message


def test_authorities_that_do_not_exist(tmp_path: Path, ca: Authority, client: Any) -> None:
    assert refused(verify=str(tmp_path / "none.pem")).startswith("providers.openai.verify: cannot be used")
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    assert refused(verify=str(empty)).startswith("providers.openai.verify: cannot be used")
    assert refused(verify="no\0path").startswith("providers.openai.verify: cannot be used")
    assert refused(cert=str(tmp_path / "none.pem")).startswith("providers.openai.cert: cannot be used")
    assert refused(cert=(client[0], str(tmp_path / "none.key"))).startswith("providers.openai.cert: cannot be used")


@pytest.mark.parametrize("form", ["sealed", "a wrong password", "no key", "another's key"])
def test_a_certificate_that_does_not_fit(form: str, forms: Any) -> None:
    message = refused(cert=forms[form])
    assert message.startswith("providers.openai.cert: cannot be used: ")
    assert "wrong-secret" not in message


def test_what_is_no_trust_at_all(tmp_path: Path) -> None:
    wrong: Any = {"verify": tmp_path}, {"cert": tmp_path}
    for one in wrong:
        with pytest.raises(TypeError, match=rf"^{next(iter(one))}: must be .*, not {type(tmp_path).__name__}$"):
            Transport(**one)


async def test_a_context_that_fails_costs_no_socket(Peers: Any, ask: Any) -> None:
    class Broken(ssl.SSLContext):
        def set_alpn_protocols(self, alpn_protocols: Any) -> None:
            raise NotImplementedError

    peers = Peers()
    with pytest.raises(NotImplementedError):
        await ask(peers.transport(verify=Broken(ssl.PROTOCOL_TLS_CLIENT)), "https://server.example/")
    assert (len(peers.opened), peers.alive) == (1, 0)


@pytest.mark.parametrize("form", ["one file", "a pair", "with a password"])
def test_a_certificate_that_fits(form: str, forms: Any, ca: Authority) -> None:
    provider = {"api_key": "k", "verify": ca.file, "cert": forms[form]}
    engine = cortex.Engine({"openai": provider}, worker_model="gpt-4o-mini")
    assert PASSWORD not in repr(engine)
    assert PASSWORD not in repr(engine.settings)


@pytest.mark.parametrize(
    "proxy",
    [
        "ftp://me:pass-word@proxy:3128",
        "proxy.example:3128",
        "http://",
        "http://me:pass-word@:1",
        "socks4://p:1",
        "http://u:pass-word\x7f@h:1",
        "http://256.1.1.1:1",
    ],
)
def test_a_proxy_that_is_none(proxy: str) -> None:
    message = refused(proxy=proxy)
    assert message.startswith("providers.openai.proxy: ")
    assert "pass-word" not in message


def test_a_certificate_beside_a_context_would_be_lost(client: tuple[str, str]) -> None:
    context = ssl.create_default_context()
    assert refused(verify=context, cert=client) == (
        "providers.openai.cert: load it into the context that is given as verify"
    )
    with pytest.raises(ValueError, match=r"^cert: load it into the context"):
        Transport(verify=context, cert=client)


# ------------------------------------------------------------------------------------------------ through a proxy

ANSWER = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"safe"},"finish_reason":"stop"}]}'
SAFE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(ANSWER), ANSWER)


@pytest.mark.parametrize("way", ["none", "tunnel", "httpx"])
async def test_t1_a_certificate_that_nobody_trusts_is_told_whoever_carries_the_request(
    way: str, good: tuple[str, str], secured: Any, serve: Any, tunnel: Any
) -> None:
    url = await serve(secured(good), "https")
    given = {"api_key": "k", "base_url": f"{url}/v1"}
    if way == "tunnel":
        given["proxy"] = await serve(tunnel(port=httpx.URL(url).port))
    transport = httpx.AsyncHTTPTransport(trust_env=False) if way == "httpx" else None
    async with cortex.Engine({"openai": given}, worker_model="gpt-4o", transport=transport) as engine:
        with pytest.raises(cortex.ProviderUnavailable, match="unable to get local issuer certificate") as caught:
            await engine.complete("hi")
        assert caught.value.kind == "certificate"
        assert [attempt.outcome for attempt in caught.value.attempts] == ["config"]
        assert engine.health()["openai"].status == "down"


async def test_a_tunnel_serves_again_and_again(
    ca: Authority, good: tuple[str, str], secured: Any, serve: Any, tunnel: Any
) -> None:
    url = await serve(secured(good, reply=SAFE), "https")
    proxy = tunnel(port=httpx.URL(url).port)
    given = {"api_key": "k", "base_url": f"{url}/v1", "proxy": await serve(proxy), "verify": ca.file}
    async with cortex.Engine({"openai": given}, worker_model="gpt-4o") as engine:
        for _ in range(3):
            assert (await engine.complete("hi")).content == "safe"
    assert len(proxy.heads) == 1


async def test_a_proxy_of_https_is_trusted_as_a_server_is(
    ca: Authority, good: tuple[str, str], secured: Any, serve: Any, tunnel: Any, ask: Any
) -> None:
    """TLS to the proxy, and TLS to the server inside of it."""
    url = await serve(secured(good), "https")
    dig = tunnel(port=httpx.URL(url).port)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*good)

    async def proxy(stream: trio.SocketStream) -> None:
        await dig(trio.SSLStream(stream, context, server_side=True, https_compatible=True))

    address = await serve(proxy, "https")
    async with Transport(verify=ca.file, proxy=address) as transport:
        for _ in range(2):
            assert (await ask(transport, url)).body == b"safe"
    assert len(dig.heads) == 1
    async with Transport(proxy=address) as transport:
        got = await ask(transport, url)
    assert got.failure is httpx.ProxyError
    assert "certificate" in str(got.error)
