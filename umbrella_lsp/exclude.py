"""Which files never go into a prompt, whoever asks. Pure: names alone decide, and no disk is looked at."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import PurePath

_SECRET_FILES = (
    ".dockerconfigjson",
    ".env*",
    "*.env",
    ".git-credentials",
    ".htpasswd",
    ".netrc",
    ".npmrc",
    ".pgpass",
    ".pypirc",
    ".vault*",
    "*.jks",
    "*.kdbx",
    "*.key",
    "*.keystore",
    "*.p12",
    "*.pem",
    "*.pfx",
    "*.ppk",
    "*.tfstate",
    "*.tfvars",
    "*credentials.json",
    "credentials",
    "credentials.*",
    "id_dsa*",
    "id_ecdsa*",
    "id_ed25519*",
    "id_rsa*",
    "kubeconfig",
    "secrets.*",
    "service-account*.json",
)
_SECRET_DIRECTORIES = {".aws", ".gnupg", ".kube", ".ssh"}
_FOREIGN_DIRECTORIES = {"__pycache__", "env", "node_modules", "site-packages", "venv"}
_FOREIGN_MARKS = {"CACHEDIR.TAG", "pyvenv.cfg"}


def is_secret(path: str, patterns: Iterable[str] = ()) -> bool:
    """Whether a file is likely to hold passwords or keys, by its name or by one of the user's `patterns`.

    Those are like a shell's; one with a slash is compared with the end of the whole path, any other with
    the file's name, and letters match in either case.
    """
    pure = PurePath(path)
    name = pure.name.lower()
    if any(fnmatchcase(name, pattern) for pattern in _SECRET_FILES):
        return True
    if not _SECRET_DIRECTORIES.isdisjoint(pure.parts):
        return True
    whole = f"/{pure.as_posix().lower().lstrip('/')}"
    for pattern in map(str.lower, patterns):
        if fnmatchcase(whole, f"*/{pattern.lstrip('/')}") if "/" in pattern else fnmatchcase(name, pattern):
            return True
    return False


def is_foreign(name: str, entries: Iterable[str] = ()) -> bool:
    """Whether a directory holds what others wrote or tools keep: hidden ones, environments, caches.

    `entries` are the names in it, where they are known.
    """
    return name.startswith(".") or name in _FOREIGN_DIRECTORIES or not _FOREIGN_MARKS.isdisjoint(entries)
