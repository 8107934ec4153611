"""Where an engine listens, how a user says so, and the token that opens it. Asks nothing of anybody."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from engine.errors import EngineUnavailable

CONNECT_TIMEOUT_S = 2.0
REMOTE_CONNECT_TIMEOUT_S = 10.0
"""For an engine elsewhere: half the world may lie between."""
MAX_TOKEN_CHARS = 4096
_WHAT_TO_NAME = (
    "Name a file that holds the engine's token and nothing else, such as a copy of engine.token from its "
    "runtime folder."
)


@dataclass(frozen=True, slots=True)
class Naming:
    """Where the user has written down an engine's address and its token, for messages about them."""

    url: str
    token: str


EDITORS = Naming("the setting umbrella.engine.url", "the setting umbrella.engine.token_file")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an engine listens: a Unix socket, a loopback port with a bearer token, or a URL."""

    socket: Path | None = None
    port: int = 0
    token: str = field(default="", repr=False)
    notice: str = ""
    """Something the user should be told once, such as that another configuration is running."""
    url: str = ""
    """How the user names an engine that is used as it is: ``http:``, ``https:``, or ``unix:`` for `socket`.
    '' for their own, which clients start and may end."""
    naming: Naming = EDITORS
    """Where `url` and `token` come from."""

    @property
    def base_url(self) -> str:
        """The URL that requests are relative to; over a Unix socket its host means nothing."""
        if self.socket:
            return "http://localhost"
        return self.url or f"http://127.0.0.1:{self.port}"

    @property
    def connect_timeout_s(self) -> float:
        """How long connecting may take."""
        return REMOTE_CONNECT_TIMEOUT_S if self.url else CONNECT_TIMEOUT_S

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}


def endpoint_at(url: str, token: str = "", naming: Naming = EDITORS) -> Endpoint:
    """The engine at `url`, with its token. Raises EngineUnavailable for a URL that makes no sense."""
    parts = _split(url, naming)
    if parts.scheme == "unix":
        return Endpoint(Path(unquote(parts.path)), token=token, url=url, naming=naming)
    base = f"{parts.scheme}://{parts.netloc}"
    return Endpoint(token=token, notice=_warning(base, parts, token), url=base, naming=naming)


def token_in(file: str) -> str:
    """The bearer token that `file` holds, '' if none is named. Raises EngineUnavailable if it holds none."""
    if not file:
        return ""
    path = Path(os.path.expanduser(file))  # noqa: PTH111 - Path's own raises for an unknown user
    try:
        with path.open(encoding="ascii") as opened:
            token = opened.read(MAX_TOKEN_CHARS + 1).strip()
    except FileNotFoundError as error:
        raise EngineUnavailable(f"There is no token file {path}. {_WHAT_TO_NAME}") from error
    except OSError as error:
        why = error.strerror or error
        raise EngineUnavailable(f"The token file {path} cannot be read: {why}. {_WHAT_TO_NAME}") from error
    except ValueError:  # It is not quoted, nor kept as a cause: it may be a secret.
        token = " "
    if not token:
        raise EngineUnavailable(f"The token file {path} is empty. {_WHAT_TO_NAME}")
    if len(token) > MAX_TOKEN_CHARS or not all("!" <= character <= "~" for character in token):
        raise EngineUnavailable(f"The token file {path} holds something else than a token. {_WHAT_TO_NAME}")
    return token


def _split(url: str, naming: Naming) -> SplitResult:
    """The parts of a URL that may name an engine. Raises EngineUnavailable for any other."""
    subject = f"{naming.url[0].upper()}{naming.url[1:]}"
    if "@" in url and not url.startswith("unix:"):
        # Not quoted: it may hold a password.
        raise EngineUnavailable(
            f"{subject} must not hold a user or a password. The engine's token belongs in {naming.token}."
        )
    with suppress(ValueError):  # No number for a port, an address cut short, a host that cannot be one.
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna")
        is_plain = url.isprintable() and " " not in url and not (parts.query or parts.fragment)
        is_file = parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/")
        has_port = parts.port or parts.scheme == "https"
        is_host = parts.scheme in ("http", "https") and host and has_port and parts.path in ("", "/")
        if is_plain and (is_file or is_host):
            return parts
    raise EngineUnavailable(
        f"{subject}, {url!r}, names no engine. Write http://HOST:PORT, https://HOST or unix:///PATH."
    )


def _warning(url: str, parts: SplitResult, token: str) -> str:
    if parts.scheme == "https" or _is_loopback(parts.hostname or ""):
        return ""
    what = "Your code and the engine's token go" if token else "Your code goes"
    return f"{what} to {url} unencrypted. Use https, or an SSH tunnel and http://localhost."


def _is_loopback(host: str) -> bool:
    import ipaddress  # Takes its time, and most engines are met at a socket.

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
