"""What can go wrong in front of the engine. Every message says what happened and what to do about it.

::

    UmbrellaError (engine.errors)
    ├── InputError          a file or a place in it that cannot be completed
    ├── EngineUnavailable   (engine.errors) no engine answers
    │   └── EngineLost      it went away in the middle of an answer
    └── RequestError        (engine.errors) the engine refused what was asked

"No suggestion" is a value and a cancel is `asyncio.CancelledError`; neither is here.
"""

from __future__ import annotations

from engine.errors import EngineUnavailable, RequestError, UmbrellaError


class InputError(UmbrellaError):
    """A file that cannot be read as text, or a line or column that it does not have."""


class EngineLost(EngineUnavailable):
    """The engine went away in the middle of an answer. The next request finds or starts another."""


__all__ = ["EngineLost", "EngineUnavailable", "InputError", "RequestError", "UmbrellaError"]
