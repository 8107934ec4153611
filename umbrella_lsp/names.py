"""What the engine and the model are told in the place of names and paths. Pure."""

from __future__ import annotations

import hashlib
from pathlib import Path

from umbrella_lsp.text import normalised


def digest(name: str) -> str:
    """A name the engine may know a document or folder by; it says nothing of where that is."""
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def workspace_key(roots: tuple[Path, ...]) -> str:
    """What the engine knows a workspace by; '' for none."""
    return digest(str(roots[0])) if roots else ""


def shown_path(path: str, roots: tuple[Path, ...]) -> str:
    """How the model is told a file's path: relative to its workspace folder, or the name alone."""
    for root in roots:
        if Path(path).is_relative_to(root):
            return normalised(Path(path).relative_to(root).as_posix())
    return normalised(Path(path).name)
