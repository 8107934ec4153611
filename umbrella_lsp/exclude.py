"""Which files never go into a prompt, whoever asks. Pure but for one look into a directory."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path, PurePath

_SECRET_FILES = (
    ".env",
    ".env.*",
    "*.env",
    ".netrc",
    ".pgpass",
    ".pypirc",
    "*.key",
    "*.p12",
    "*.pem",
    "*.pfx",
    "credentials",
    "credentials.*",
    "id_dsa*",
    "id_ecdsa*",
    "id_ed25519*",
    "id_rsa*",
    "secrets.*",
)
_SECRET_DIRECTORIES = {".aws", ".gnupg", ".ssh"}
_FOREIGN_DIRECTORIES = {"__pycache__", "env", "node_modules", "site-packages", "venv"}


def is_secret(path: str) -> bool:
    """Whether a file is likely to hold passwords or keys, by its name alone."""
    pure = PurePath(path)
    name = pure.name.lower()
    return any(fnmatch(name, pattern) for pattern in _SECRET_FILES) or not _SECRET_DIRECTORIES.isdisjoint(
        pure.parts
    )


def is_foreign(directory: Path) -> bool:
    """Whether a directory holds what others wrote or tools keep: hidden ones, environments, caches."""
    name = directory.name
    return name.startswith(".") or name in _FOREIGN_DIRECTORIES or (directory / "pyvenv.cfg").exists()
