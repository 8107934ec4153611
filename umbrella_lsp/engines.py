"""Which engine is asked: this user's own, found or started, or the one elsewhere that the settings name."""

from __future__ import annotations

from engine import client
from engine.client import Endpoint, fetch_health
from engine.launch import ensure_engine
from engine.protocol import PROTOCOL_VERSION
from umbrella_lsp.errors import EngineUnavailable
from umbrella_lsp.settings import EngineSettings


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
    return client.endpoint_at(engine.url, client.token_in(engine.token_file))
