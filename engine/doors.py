"""Where the engine can be reached: its user's Unix socket, and TCP where that is asked for.

It owns listening sockets and what each of them puts up with, and knows nothing of HTTP.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import ssl
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path

from engine.errors import ConfigError

log = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MIN_TOKEN_CHARS = 16
"""A shorter one could be guessed, at the thousands of tries a second that loopback allows."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one door puts up with. Beyond, a connection is told so, where it can be, and closed."""

    connections: int
    """Open at a time."""
    turned_away: int = 64
    """Further ones that are answered with 503, which needs them for a moment. Any beyond are closed unheard:
    without an end to them, strangers could use up the file descriptors that others need."""
    silent_s: float | None = None
    """Until the first byte. None: for ever, which is how the user's own clients notice that we end."""
    head_s: float = 10.0
    """For a TLS handshake, and for a request's headers: some kilobytes at most, which any line carries at
    once."""
    body_s: float = 60.0
    """For a request's body. The largest that is served takes so long at 2 Mbit/s."""
    unread_s: float = 30.0
    """For an answer that is not read, once what the kernel holds for the client is full."""
    discarded_bytes: int = 128 << 20
    """Of a body that has its answer already, such as that it is too large. Most clients read only once they
    have sent everything, so it is taken in and thrown away."""


UNIX_LIMITS = Limits(connections=512)
"""Only its user can open the socket, with more windows than this only by mistake."""
TCP_LIMITS = Limits(connections=256, silent_s=10.0)
"""Anybody on the machine can connect, token or not. Both doors together stay below the 1,024 file
descriptors that a process usually has."""
if sys.platform == "win32":
    TCP_LIMITS = UNIX_LIMITS  # There it is the only door.


@dataclass(frozen=True, slots=True)
class Door:
    """A socket that listens, and on what conditions it lets anybody in."""

    listener: socket.socket
    limits: Limits
    hosts: tuple[str, ...] = LOOPBACK
    """Over TCP: the names under which clients may address us."""
    tls: ssl.SSLContext | None = None
    token: str = field(default="", repr=False)
    """Over TCP: what clients have to show. '': one that is made at every start."""


class _Listener(socket.socket):
    """A socket that listens, and that closes what comes while `most` of its connections are open."""

    def __init__(self, family: int, most: int) -> None:
        super().__init__(family, socket.SOCK_STREAM)
        self._most = most
        self._open: list[socket.socket] = []

    def accept(self) -> tuple[socket.socket, object]:
        connection, address = super().accept()
        if len(self._open) >= self._most:
            self._open = [other for other in self._open if other.fileno() >= 0]
        if len(self._open) >= self._most:
            connection.close()
            raise ConnectionAbortedError  # For asyncio, one that was gone before it could be accepted.
        self._open.append(connection)
        return connection, address


def listen_tcp(
    host: str,
    port: int,
    *,
    names: tuple[str, ...] = (),
    tls: ssl.SSLContext | None = None,
    token: str = "",
    limits: Limits = TCP_LIMITS,
) -> Door:
    """Listen on TCP: on loopback, or where `names` say how clients elsewhere call this machine.

    Raises ConfigError where that is missing, or if the port cannot be had.
    """
    if host not in LOOPBACK and (not host or not names):
        raise ConfigError(
            f"--host {host} is refused: the engine listens on loopback only ({', '.join(LOOPBACK)}). "
            "Use an SSH tunnel to reach it from elsewhere, or add --allow-remote with the name by which "
            "others call this machine."
        )
    if host not in LOOPBACK and tls is None:
        log.warning(
            "--host %s without TLS: whoever can listen on that network reads the code that is sent, and the "
            "token. Add --tls-cert and --tls-key, or use an SSH tunnel.",
            host,
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = _Listener(family, limits.connections + limits.turned_away)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"--port {port} cannot be used on {host}: {reason}. Choose another.") from error
    return Door(listener, limits, (*LOOPBACK, *(name.lower() for name in names)), tls, token)


def tls_context(certificate: Path, key: Path | None) -> ssl.SSLContext:
    """What to speak TLS with. `key` is None where it is in `certificate`. Raises ConfigError."""
    if sys.platform == "win32":
        raise ConfigError(
            "--tls-cert is not supported on Windows, where editors of this machine use the port too. "
            "Put a proxy that speaks TLS before it."
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # An encrypted key would be asked for on a terminal that is not there.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ValueError) as error:  # SSLError is an OSError
        named = f"--tls-cert {certificate}" + (f" with --tls-key {key}" if key else "")
        raise ConfigError(
            f"{named} cannot be used: {error}. Name a certificate with its chain, and its key, unencrypted, "
            "both in PEM."
        ) from error
    return context


def kept_token(file: Path) -> str:
    """The token in `file`, which is made, with a new one, if it is not there. Raises ConfigError."""
    try:
        return _new_token(file) if not file.exists() else _read_token(file)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"--token-file {file} cannot be used: {error}.") from error


def _new_token(file: Path) -> str:
    token = secrets.token_urlsafe(32)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as made:
        made.write(token)
    return token


def _read_token(file: Path) -> str:
    with file.open(encoding="ascii") as opened:
        status = os.fstat(opened.fileno())
        token = opened.read(4096).strip()
    if sys.platform != "win32" and (status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077):
        raise ConfigError(
            f"--token-file {file} is open to other users. Run `chmod 600 {file}`, as its owner; if anybody "
            "else may have read it, delete it instead, and the engine makes a new one."
        )
    if len(token) < MIN_TOKEN_CHARS or not token.isprintable() or " " in token:
        raise ConfigError(
            f"--token-file {file} must hold {MIN_TOKEN_CHARS} characters or more without blanks. Delete it, "
            "and the engine makes one."
        )
    return token
