"""Grammars that no one would want."""

from __future__ import annotations

import os


def aborts() -> object:
    """Ends the process as a failed assertion in C does."""
    os.abort()


def hangs() -> object:
    """Never comes back."""
    while True:
        pass
