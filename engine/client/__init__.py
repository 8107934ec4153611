"""Talks to an engine: where it is, what it says of itself, and text from it. Torch-free.

Closing a stream is how a client cancels: the connection closes, and the engine stops before its next
layer. `EngineClient` is for editors, `Client` and `AsyncClient` are for programs; only these two start an
engine, by `engine.launch`.
"""

from engine.client.answers import Answer
from engine.client.asking import ask_to_drain, ask_to_unload, fetch_health
from engine.client.connecting import prepare
from engine.client.editors import EngineClient, InfillCall, StreamEvent
from engine.client.endpoint import EDITORS, Endpoint, Naming, endpoint_at, token_in
from engine.client.programs import AsyncClient, Client

__all__ = [
    "EDITORS",
    "Answer",
    "AsyncClient",
    "Client",
    "Endpoint",
    "EngineClient",
    "InfillCall",
    "Naming",
    "StreamEvent",
    "ask_to_drain",
    "ask_to_unload",
    "endpoint_at",
    "fetch_health",
    "prepare",
    "token_in",
]
