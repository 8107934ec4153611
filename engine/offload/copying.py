"""What links that copy real bytes have in common: how a copy ended, and how long others need. Torch-free."""

from __future__ import annotations

from collections import deque
from concurrent.futures import CancelledError, Future
from typing import Protocol

from engine.errors import DeviceError
from engine.offload.link import Mark


class Copy(Protocol):
    """A copy that was issued, and the mark of its end."""

    @property
    def size_bytes(self) -> int: ...

    def has_ended(self) -> bool: ...

    def gone_ms(self) -> float:
        """For how long it has been running; 0.0 before it has begun, or if that is not known."""
        ...


class Pending:
    """Copies that run one after another, oldest first, as long as they have not ended."""

    def __init__(self) -> None:
        self._copies: deque[Copy] = deque()

    def add(self, copy: Copy) -> None:
        self._copies.append(copy)

    def ended(self) -> list[Copy]:
        """Those that have ended since this was last asked. They are no longer pending."""
        ended: list[Copy] = []
        while self._copies and self._copies[0].has_ended():
            ended.append(self._copies.popleft())
        return ended

    def left_ms(self, mark: Mark, ms_per_byte: float) -> float:
        """How long until the copy `mark` ends, if copies take so long. 0.0 if it is not pending."""
        left_ms = 0.0
        for copy in self._copies:
            left_ms += max(0.0, copy.size_bytes * ms_per_byte - copy.gone_ms())
            if copy is mark:
                return left_ms
        return 0.0


def raise_failure(done: Future[None]) -> None:
    """Wait for `done`, and raise DeviceError if that copy failed or was given up."""
    try:
        done.result()
    except DeviceError:
        raise
    except CancelledError as error:
        raise DeviceError("The model was closed meanwhile. Ask again.") from error
    except Exception as error:
        raise DeviceError(f"A layer of the model could not be copied: {error}") from error
