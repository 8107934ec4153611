"""Which engine is asked, and what is said where it cannot be."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Generator
from contextlib import aclosing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from engine.client import Endpoint, EngineClient, InfillCall
from engine.errors import ConfigError, EngineGone
from engine.protocol import Health
from tests.engine.fakes import running_engine
from umbrella_lsp.engines import endpoint_at, find
from umbrella_lsp.errors import EngineUnavailable
from umbrella_lsp.settings import EngineSettings

HEALTH = {"state": "ready", "progress": 1, "package": "1", "protocol": 1, "config_hash": "", "pid": 1}


@contextmanager
def answering(
    body: object, status: int = 200, location: str = "", tls: ssl.SSLContext | None = None
) -> Generator[HTTPServer]:
    """A server that has one answer, on a port of its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            if location:
                self.send_header("Location", location)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_request(self, code: object = "", size: object = "") -> None: ...

    class Server(HTTPServer):
        def handle_error(self, request: object, client_address: object) -> None: ...

    with Server(("127.0.0.1", 0), Handler) as server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def url_of(server: HTTPServer, scheme: str = "http") -> str:
    return f"{scheme}://127.0.0.1:{server.server_port}"


def refused(engine: EngineSettings) -> str:
    """What is said to somebody who chose `engine`."""
    with pytest.raises(EngineUnavailable) as caught:
        find(engine)
    return str(caught.value)


async def asked_for_health(endpoint: Endpoint) -> Health:
    async with aclosing(EngineClient(endpoint)) as client:
        return await client.health()


async def generated(endpoint: Endpoint) -> str:
    async with aclosing(EngineClient(endpoint)) as client:
        return "".join([event.text async for event in client.infill(InfillCall("ab", max_tokens=3))])


def test_an_engine_at_a_port_is_used_with_the_token_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with running_engine(tmp_path / "run", with_tcp=True) as engine:
        assert engine.tcp is not None
        (tmp_path / "token").write_text(engine.tcp.token + "\n")
        url = f"http://localhost:{engine.tcp.port}/"
        endpoint = find(EngineSettings(url=url, token_file=str(tmp_path / "token")))
        assert (endpoint.url, endpoint.notice) == (url.rstrip("/"), "")
        assert engine.tcp.token not in repr(endpoint)
        assert asyncio.run(generated(endpoint)) == "def"


def test_an_engine_at_a_socket_needs_no_token(tmp_path: Path) -> None:
    with running_engine(tmp_path / "run") as engine:
        endpoint = find(EngineSettings(url=f"unix://{engine.place.socket}"))
        assert endpoint == Endpoint(engine.place.socket, url=f"unix://{engine.place.socket}")
        assert asyncio.run(generated(endpoint)) == "def"


def test_a_wrong_token_and_a_missing_one_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("guessed")
    with running_engine(tmp_path / "run", with_tcp=True) as engine:
        assert engine.tcp is not None
        url = f"http://127.0.0.1:{engine.tcp.port}"
        assert f"{url} wants a token" in refused(EngineSettings(url=url))
        said = refused(EngineSettings(url=url, token_file=str(tmp_path / "token")))
        assert f"{url} does not accept the token" in said
        assert "engine.token_file" in said
        # A restarted engine has another token: whoever had the old one looks again.
        with pytest.raises(EngineGone, match="does not accept the token"):
            asyncio.run(generated(Endpoint(token="old", url=url)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "There is no token file"),
        ("", "is empty"),
        (" \n", "is empty"),
        ("one\ntwo", "holds something else than a token"),
        ("x" * 5000, "holds something else than a token"),
        ("schlüssel", "holds something else than a token"),
        ("token\r\n\r\nx", "holds something else than a token"),
    ],
)
def test_a_token_file_that_holds_none_is_named(tmp_path: Path, content: str | None, said: str) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    message = refused(EngineSettings(url="https://engine.example", token_file=str(file)))
    assert said in message
    assert str(file) in message
    assert "engine.token from its runtime folder" in message


def test_files_of_a_user_there_is_not_are_named() -> None:
    named = "~nobody-of-that-name/x"
    said = refused(EngineSettings(url="https://engine.example", token_file=named))
    assert said.startswith(f"There is no token file {named}.")
    for config in (named, "a\0b"):
        with pytest.raises(ConfigError, match="Name a readable TOML or JSON file"):
            find(EngineSettings(config=config))


def test_an_answer_without_an_end_is_not_read_to_its_end() -> None:
    def pour(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.recv(4096)
            connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
            while True:
                connection.sendall(b"[" * 65536)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=pour, args=(listener,))
        server.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert "makes no sense to this version" in refused(EngineSettings(url=url))
        server.join()


def test_a_token_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    said = refused(EngineSettings(url="https://engine.example", token_file=str(tmp_path)))
    assert said.startswith(f"The token file {tmp_path} cannot be read: Is a directory.")


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8080",
        "http://localhost",
        "http://localhost:many",
        "http://:80",
        "ftp://localhost:21",
        "https://engine.example/v1",
        "https://engine.example?a=b",
        "https://[::1",
        "https://engine..example",
        "https://engine example",
        "https://engine\n.example",
        "unix:engine.sock",
        "unix://run/engine.sock",
    ],
)
def test_a_url_that_names_no_engine_is_refused(url: str) -> None:
    assert refused(EngineSettings(url=url)).startswith(f"The setting umbrella.engine.url, {url!r}, names")


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    said = refused(EngineSettings(url="https://me:hush@engine.example"))
    assert "engine.token_file" in said
    assert "hush" not in said


@pytest.mark.parametrize(
    ("url", "warning"),
    [
        ("http://192.0.2.1:80", "Your code goes to http://192.0.2.1:80 unencrypted."),
        ("http://engine.example:80", "Your code goes to http://engine.example:80 unencrypted."),
        ("https://engine.example", ""),
        ("http://localhost:80", ""),
        ("http://127.0.0.2:80", ""),
        ("http://[::1]:80", ""),
    ],
)
def test_code_that_goes_unencrypted_to_another_machine_is_warned_of(url: str, warning: str) -> None:
    notice = endpoint_at(EngineSettings(url=url)).notice
    assert notice.startswith(warning)
    assert bool(notice) == bool(warning)


def test_nobody_at_the_url_is_said_so(tmp_path: Path) -> None:
    with answering({}) as server:
        url = url_of(server)
    for nowhere in (url, f"unix://{tmp_path}/engine.sock"):
        said = refused(EngineSettings(url=nowhere))
        assert said.startswith(f"No engine answers at {nowhere} (")
        assert said.endswith("and that the setting umbrella.engine.url is right.")


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (HEALTH | {"protocol": 99, "package": "9.0"}, 200, "is of version 9.0, which"),
        (HEALTH | {"state": "failed", "message": "No such model."}, 200, "failed: No such model."),
        (HEALTH | {"state": "draining"}, 200, "is shutting down"),
        ({"hello": "world"}, 200, "makes no sense to this version"),
        ({}, 403, "refuses to serve this machine"),
        ({}, 404, "answered with HTTP status 404"),
    ],
)
def test_what_answers_but_cannot_serve_is_told(body: object, status: int, said: str) -> None:
    with answering(body, status) as server:
        assert said in refused(EngineSettings(url=url_of(server)))


def test_a_redirect_is_not_followed() -> None:
    with answering(HEALTH) as other, answering({}, 302, f"{url_of(other)}/health") as server:
        assert "answered with HTTP status 302" in refused(EngineSettings(url=url_of(server)))
        with pytest.raises(EngineUnavailable, match="answered with HTTP status 302"):
            asyncio.run(asked_for_health(Endpoint(url=url_of(server))))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
def test_a_certificate_must_be_one_that_the_system_trusts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=test"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(certificate), "-keyout", str(key)]
    subprocess.run([*make.split(), *names], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with answering(HEALTH, tls=context) as server:
        engine = EngineSettings(url=url_of(server, "https"))
        assert refused(engine).startswith(f"The certificate of {engine.url} is not trusted: self-signed")
        with pytest.raises(EngineGone, match="is not trusted: self-signed certificate"):
            asyncio.run(asked_for_health(Endpoint(url=engine.url)))
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert asyncio.run(asked_for_health(find(engine))).state == "ready"
        wrong_name = engine.url.replace("127.0.0.1", "localhost")
        assert "certificate is not valid for 'localhost'" in refused(EngineSettings(url=wrong_name))


def test_https_where_only_http_is_spoken_is_told() -> None:
    with answering(HEALTH) as server:
        url = url_of(server, "https")
        assert refused(EngineSettings(url=url)).startswith(f"TLS with {url} fails (")
