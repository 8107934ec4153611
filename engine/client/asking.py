"""Single questions to an engine, for code that has no event loop and does not want to load httpx."""

from __future__ import annotations

from engine.client.answers import read_health, refuse
from engine.client.connecting import ask
from engine.client.endpoint import CONNECT_TIMEOUT_S, Endpoint
from engine.protocol import UNLOAD_WAIT_S, Health


def fetch_health(endpoint: Endpoint, timeout_s: float | None = None) -> Health:
    """What the engine says of itself. Raises what `EngineClient` does."""
    return read_health(endpoint, *ask(endpoint, "GET", "/health", timeout_s))


def ask_to_drain(endpoint: Endpoint, timeout_s: float | None = None) -> None:
    """Ask the engine to finish what it has begun, take nothing new, and end."""
    status, data = ask(endpoint, "POST", "/drain", timeout_s)
    if status != 202:
        refuse(endpoint, status, data)


def ask_to_unload(endpoint: Endpoint) -> bool:
    """Ask the engine to give its models' memory back, and to go on without them until the next request.

    False where it will be once the engine has finished what it has begun.
    """
    status, data = ask(endpoint, "POST", "/unload", UNLOAD_WAIT_S + CONNECT_TIMEOUT_S)
    if status not in (200, 202):
        refuse(endpoint, status, data)
    return status == 200
