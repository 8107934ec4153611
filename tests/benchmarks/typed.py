"""Recordings as short as a test needs them."""

from __future__ import annotations

from benchmarks.recordings import Patch, Recording, Transaction


def recording(start: str, *keys: list[tuple[int, int, str]], pause_s: float = 0.0) -> Recording:
    """`keys` are the patches of one transaction each."""
    transactions = tuple(Transaction(tuple(Patch(*patch) for patch in key), pause_s) for key in keys)
    return Recording("short", "python", ".py", start, transactions, "")


def typed(start: str, at: int, text: str) -> Recording:
    """`text` is typed at `at`, a character a key."""
    return recording(start, *([(at + number, 0, character)] for number, character in enumerate(text)))
