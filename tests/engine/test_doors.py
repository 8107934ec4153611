"""Where the engine listens and for whom: hosts, names, tokens, certificates, and what web pages are told."""

from __future__ import annotations

import shutil
import socket
import ssl
import stat
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from engine.cli import main
from engine.doors import MIN_TOKEN_CHARS, TCP_LIMITS, kept_token, listen_tcp, tls_context
from engine.errors import ConfigError
from tests.engine.fakes import RunningEngine, error_of, load_fake, running_engine


def over_tcp(engine: RunningEngine) -> httpx.Client:
    assert engine.tcp is not None
    return httpx.Client(base_url=engine.tcp.base_url, headers=engine.tcp.headers, trust_env=False)


def test_only_loopback_can_be_listened_on_without_more_ado() -> None:
    for host in ("0.0.0.0", "::", "example.org"):
        with pytest.raises(ConfigError, match=r"loopback only.*--allow-remote"):
            listen_tcp(host, 0)
    with pytest.raises(ConfigError, match="loopback only"):
        listen_tcp("", 0, names=("somewhere",))


@pytest.mark.parametrize("port", ["in use", -1, 1 << 20])
def test_a_port_that_cannot_be_had_is_named(port: object) -> None:
    with closing(listen_tcp("127.0.0.1", 0).listener) as taken:
        wanted = port if isinstance(port, int) else taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {wanted} cannot be used"):
            listen_tcp("127.0.0.1", wanted)


def test_elsewhere_it_answers_to_the_names_it_was_given_and_warns_without_tls(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    door = listen_tcp("0.0.0.0", 0, names=("GPU-box", "192.0.2.7"))
    assert "without TLS" in caplog.text
    with running_engine(tmp_path, door=door) as engine, over_tcp(engine) as http:
        for host, status in {
            "gpu-box:8012": 200,
            "192.0.2.7": 200,
            "localhost": 200,
            "gpu-box.evil": 403,
        }.items():
            assert http.get("/health", headers={"Host": host}).status_code == status
        assert http.get("/health", headers={"Authorization": ""}).status_code == 401


def test_loopback_needs_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    listen_tcp("127.0.0.1", 0).listener.close()
    assert not caplog.text


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "http://localhost:8012", "null", "vscode-file://app"]
)
def test_web_pages_are_refused_and_told_nothing(served: RunningEngine, origin: str) -> None:
    with over_tcp(served) as http:
        asks = http.post("/infill", json={}, headers={"Origin": origin})
        preflight = http.options(
            "/infill",
            headers={"Origin": origin, "Access-Control-Request-Method": "POST", "Authorization": ""},
        )
        for response in (asks, preflight):
            assert response.status_code == 403
            assert "web pages" in error_of(response)["message"]
            assert not [name for name in response.headers if name.startswith("access-control")]


def test_a_proxys_headers_do_not_say_where_a_request_comes_from(served: RunningEngine) -> None:
    with over_tcp(served) as http:
        headers = {"X-Forwarded-For": "", "X-Forwarded-Host": "localhost", "X-Forwarded-Proto": "https"}
        assert http.get("/health", headers={**headers, "Authorization": ""}).status_code == 401
        assert http.get("/health", headers={**headers, "Host": "evil.example"}).status_code == 403


def test_a_body_of_two_lengths_is_refused(served: RunningEngine) -> None:
    with over_tcp(served) as http:
        lengths = {"Content-Length": "5", "Transfer-Encoding": "chunked"}
        response = http.post("/infill", content=b"0\r\n\r\n", headers=lengths)
        assert response.status_code == 400
        assert response.headers["connection"] == "close"


def test_no_answer_may_be_read_by_pages_of_other_origins(served: RunningEngine) -> None:
    with over_tcp(served) as http:
        assert "access-control-allow-origin" not in http.get("/health").headers


@pytest.fixture(scope="module")
def served(home: Path) -> Iterator[RunningEngine]:
    with running_engine(home / "doors", with_tcp=True) as engine:
        yield engine


# A token that stays.


def test_a_token_file_is_made_once_and_for_its_user_alone(tmp_path: Path) -> None:
    file = tmp_path / "new" / "token"
    token = kept_token(file)
    assert len(token) >= 32
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert kept_token(file) == token


def test_a_token_of_the_users_own_is_taken_without_its_line_end(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.touch(0o600)
    file.write_text("0123456789abcdef\n")
    assert kept_token(file) == "0123456789abcdef"


@pytest.mark.parametrize(
    ("mode", "text", "reason"),
    [
        (0o644, "0123456789abcdef", "chmod 600"),
        (0o660, "0123456789abcdef", "chmod 600"),
        (0o600, "x" * (MIN_TOKEN_CHARS - 1), "16 characters"),
        (0o600, "", "16 characters"),
        (0o600, "0123456789 abcdef", "without blanks"),
        (0o600, "0123456789abcdefé", "cannot be used"),
    ],
)
def test_a_token_that_others_could_know_is_refused(tmp_path: Path, mode: int, text: str, reason: str) -> None:
    file = tmp_path / "token"
    file.write_text(text)
    file.chmod(mode)
    with pytest.raises(ConfigError, match=reason) as refused:
        kept_token(file)
    assert str(file) in str(refused.value)
    assert not text or text not in str(refused.value)


def test_a_token_file_that_cannot_be_made_is_named() -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        kept_token(Path("/dev/null/token"))


def test_a_kept_token_is_the_one_that_is_asked_for(tmp_path: Path) -> None:
    door = listen_tcp("127.0.0.1", 0, token="0123456789abcdef")
    with running_engine(tmp_path, door=door) as engine:
        assert engine.tcp is not None
        assert engine.tcp.token == "0123456789abcdef"
        assert engine.tcp.token not in repr(door)
        with over_tcp(engine) as http:
            assert http.get("/health").status_code == 200


# TLS.


@pytest.fixture(scope="module")
def certificate(home: Path) -> Path:
    """A certificate with its key, for 127.0.0.1."""
    if shutil.which("openssl") is None:
        pytest.skip("makes a certificate with openssl")
    file, key = home / "certificate.pem", home / "key.pem"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=test"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(file), "-keyout", str(key)]
    subprocess.run([*make.split(), *names], check=True, capture_output=True)
    return file


def test_over_tls_it_answers_and_the_users_own_socket_stays_as_it_is(
    tmp_path: Path, certificate: Path
) -> None:
    door = listen_tcp("127.0.0.1", 0, tls=tls_context(certificate, certificate.with_name("key.pem")))
    with running_engine(tmp_path, door=door) as engine:
        assert engine.tcp is not None
        assert engine.http.get("/health").status_code == 200
        url = engine.tcp.base_url.replace("http:", "https:")
        trusted = ssl.create_default_context(cafile=str(certificate))
        with httpx.Client(base_url=url, headers=engine.tcp.headers, verify=trusted, trust_env=False) as http:
            assert (
                http.post("/infill", json={"input_prefix": "ab", "n_predict": 3}).json()["content"] == "def"
            )
        with pytest.raises(httpx.RemoteProtocolError), over_tcp(engine) as plain:
            plain.get("/health")


def test_a_handshake_that_does_not_come_is_not_waited_for(tmp_path: Path, certificate: Path) -> None:
    limits = replace(TCP_LIMITS, head_s=0.05)
    door = listen_tcp(
        "127.0.0.1", 0, tls=tls_context(certificate, certificate.with_name("key.pem")), limits=limits
    )
    with running_engine(tmp_path, door=door) as engine:
        assert engine.tcp is not None
        with socket.create_connection(("127.0.0.1", engine.tcp.port), 20) as silent:
            assert silent.recv(100) == b""


def test_a_certificate_that_cannot_be_used_is_named(tmp_path: Path, certificate: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_text("no certificate")
    for file, key in (
        (tmp_path / "none.pem", None),
        (other, None),
        (certificate, None),
        (certificate, other),
    ):
        with pytest.raises(ConfigError, match=r"--tls-cert .* cannot be used"):
            tls_context(file, key)


# The command line.


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--allow-remote", "gpu-box"], "--allow-remote is about TCP, which is off: add --port"),
        (["--token-file", "x"], "--token-file is about TCP"),
        (["--tls-cert", "x"], "--tls-cert is about TCP"),
        (["--port", "0", "--tls-key", "x"], "--tls-key needs --tls-cert"),
        (["--port", "0", "--tls-cert", "/nowhere"], "--tls-cert /nowhere cannot be used"),
        (["--port", "0", "--host", "0.0.0.0"], "loopback only"),
        (["--port", "0", "--token-file", "/dev/null/token"], "--token-file /dev/null/token cannot be used"),
    ],
)
def test_arguments_that_do_not_go_together_are_bad_usage(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.setenv("UMBRELLA_RUNTIME_DIR", str(tmp_path))
    assert main(["serve", *arguments], load=load_fake) == 2
    assert said in capsys.readouterr().err
