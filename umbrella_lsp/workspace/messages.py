"""What the server and the process that reads the workspace tell each other. Paths are the system's."""

from __future__ import annotations

from typing import Literal

import msgspec

from umbrella_lsp.index import Packed

WATCHES = "watches"
"""What `At` says while the system is asked for watches. No path: those are absolute."""

IN_BACKGROUND = "--in-background"
"""The process is told at its start that nobody waits for it."""


class Configure(msgspec.Struct, tag=True, frozen=True):
    """What to read from now on."""

    roots: tuple[str, ...]
    near: str
    """A directory to begin with, '' for none."""
    max_files: int
    secret_files: tuple[str, ...]
    key: str
    """What the engine knows the workspace by; '' to push nothing."""
    known: dict[str, int]
    """Files whose symbols the server has, and their stamps."""
    skipped: tuple[str, ...]
    """Files and directories to keep away from, and `WATCHES`."""


class Reached(msgspec.Struct, tag=True, frozen=True):
    """An engine listens there."""

    socket: str
    port: int
    token: str
    url: str = ""


class Look(msgspec.Struct, tag=True, frozen=True):
    """A file may have changed. Answered with `Indexed` or `Gone`, whatever is known of it."""

    path: str


class Shown(msgspec.Struct, tag=True, frozen=True):
    """The text of an open document. Answered with `Outlined`."""

    path: str
    """Or the URI of what is no file."""
    language: str
    text: str


class At(msgspec.Struct, tag=True, frozen=True):
    """This is worked on until the next message; '' is nothing. What crashes or hangs then, does so by it."""

    path: str


class Indexed(msgspec.Struct, tag=True, frozen=True):
    """What a file holds."""

    path: str
    stamp: int
    symbols: Packed


class Outlined(msgspec.Struct, tag=True, frozen=True):
    """What an open document holds."""

    path: str
    symbols: Packed
    is_excluded: bool
    """The workspace has rules that leave it out."""


class Gone(msgspec.Struct, tag=True, frozen=True):
    """A file is none of the workspace's any more."""

    path: str


class Settled(msgspec.Struct, tag=True, frozen=True):
    """All that there was to read has been read."""


class Noted(msgspec.Struct, tag=True, frozen=True):
    """Something that the user's log should say."""

    what: Literal["left out", "too broad", "unwatched"]


ServerMessage = Configure | Reached | Look | Shown
ChildMessage = At | Indexed | Outlined | Gone | Settled | Noted


class ToChild(msgspec.Struct, frozen=True, array_like=True):
    """One frame to the child."""

    message: ServerMessage


class ToServer(msgspec.Struct, frozen=True, array_like=True):
    """One frame to the server."""

    message: ChildMessage
