"""Which engine is asked: this user's own, found or started, or the one elsewhere that the settings name."""

from __future__ import annotations

import ipaddress
import os
from contextlib import suppress
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from engine.client import Endpoint, fetch_health
from engine.launch import ensure_engine
from engine.protocol import PROTOCOL_VERSION
from umbrella_lsp.errors import EngineUnavailable
from umbrella_lsp.settings import EngineSettings

MAX_TOKEN_CHARS = 4096
_WHAT_TO_NAME = (
    "Name a file that holds the engine's token and nothing else, such as a copy of engine.token from its "
    "runtime folder."
)


def find(engine: EngineSettings) -> Endpoint:
    """Where the chosen engine answers. Blocks until it does.

    This user's own is started first if need be. One with a URL is asked once how it is, and never started or
    ended. Raises EngineUnavailable or ConfigError, which say what to do.
    """
    if not engine.url:
        return ensure_engine(engine.config_path)
    endpoint = endpoint_at(engine)
    health = fetch_health(endpoint)
    if health.protocol != PROTOCOL_VERSION:
        raise EngineUnavailable(
            f"The engine at {engine.url} is of version {health.package or 'unknown'}, which this one cannot "
            "talk to. Install the same version of umbrella-lsp there and here."
        )
    if health.state == "failed":
        raise EngineUnavailable(f"The engine at {engine.url} failed: {health.message}")
    if health.state == "draining":
        raise EngineUnavailable(f"The engine at {engine.url} is shutting down. Start it again there.")
    return endpoint


def endpoint_at(engine: EngineSettings) -> Endpoint:
    """The engine at the URL in the settings, with its token. Nothing is asked.

    Raises EngineUnavailable for a URL that makes no sense and for a token that cannot be read.
    """
    parts = _split(engine.url)
    token = _token_in(engine.token_file)
    if parts.scheme == "unix":
        return Endpoint(Path(unquote(parts.path)), token=token, url=engine.url)
    url = f"{parts.scheme}://{parts.netloc}"
    return Endpoint(token=token, notice=_warning(url, parts, token), url=url)


def _split(url: str) -> SplitResult:
    """The parts of a URL that may name an engine. Raises EngineUnavailable for any other."""
    if "@" in url and not url.startswith("unix:"):
        # Not quoted: it may hold a password.
        raise EngineUnavailable(
            "The setting umbrella.engine.url must not hold a user or a password. Put the engine's token into "
            "a file, and name that in the setting umbrella.engine.token_file."
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
        f"The setting umbrella.engine.url, {url!r}, names no engine. Write http://HOST:PORT, https://HOST or "
        "unix:///PATH."
    )


def _warning(url: str, parts: SplitResult, token: str) -> str:
    if parts.scheme == "https" or _is_loopback(parts.hostname or ""):
        return ""
    what = "Your code and the engine's token go" if token else "Your code goes"
    return f"{what} to {url} unencrypted. Use https, or an SSH tunnel and http://localhost."


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _token_in(file: str) -> str:
    """The bearer token that `file` holds, '' if none is named."""
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
