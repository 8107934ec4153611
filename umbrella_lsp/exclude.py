"""Which files never go into a prompt, whoever asks. Pure: names alone decide, and no disk is looked at."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

_SECRET_NAMES = {
    ".boto",
    ".flaskenv",
    ".git-credentials",
    ".htdigest",
    ".my.cnf",
    ".mylogin.cnf",
    ".netrc",
    ".npmrc",
    ".pgpass",
    ".pypirc",
    ".s3cfg",
    ".terraformrc",
    ".token",
    "_netrc",
    "auth.json",
    "local.settings.json",
    "pgpass.conf",
    "rclone.conf",
    "terraform.rc",
    "token.json",
    "token.txt",
    "wp-config.php",
}
_SECRET_BEGINNINGS = (
    ".dockercfg",
    ".dockerconfigjson",
    ".env",
    ".passwd",
    ".secret",
    ".vault",
    ".yarnrc",
    "credentials.",
    "id_dsa",
    "id_ecdsa",
    "id_ed25519",
    "id_rsa",
    "kubeconfig.",
    "secrets.",
    "secring.",
)
_SECRET_ENDINGS = (
    ".env",
    ".jks",
    ".kdb",
    ".kdbx",
    ".key",
    ".keystore",
    ".ovpn",
    ".p12",
    ".p8",
    ".pem",
    ".pfx",
    ".pkcs12",
    ".ppk",
    ".tfstate",
    ".tfvars",
    ".tfvars.json",
    "_history",
    "credentials",
    "credentials.json",
    "htpasswd",
    "kubeconfig",
)
# In the name of a program these words say what it is about, in that of data what it holds.
_SECRET_WORDS = re.compile(r"api[-_]?key|firebase-adminsdk|passw|secret|service[-_]?account")
_DATA_ENDINGS = (
    ".cfg",
    ".conf",
    ".csv",
    ".ini",
    ".json",
    ".properties",
    ".toml",
    ".txt",
    ".xml",
    ".yaml",
    ".yml",
)
_SECRET_PLACES = re.compile(
    r"/(?:\.(?:aws|azure|gnupg|kube|password-store|ssh)/|\.config/(?:gcloud|gh|op)/|run/secrets/"
    r"|(?:\.docker/config\.json|\.gradle/gradle\.properties|\.m2/settings\.xml)\Z)"
)
_COPY = re.compile(r"(?:~|\.(?:bak|backup|git|old|orig|save|sw[op]))+\Z")
"""What editors, VS Code in its view of git's states among them, put behind the name of what they keep."""
_FOREIGN_DIRECTORIES = {"__pycache__", "env", "node_modules", "site-packages", "venv"}
_FOREIGN_MARKS = {"CACHEDIR.TAG", "pyvenv.cfg"}


def is_secret(path: str, patterns: Iterable[str] = ()) -> bool:
    """Whether a file is likely to hold passwords or keys, by its name or by one of the user's `patterns`.

    Those are like a shell's; one with a slash is compared with the end of the whole path, any other with
    the file's name, and letters match in either case. A copy, such as an editor's, is as secret as what it
    is a copy of.
    """
    whole = "/" + path.replace("\\", "/").lower().lstrip("/")
    original = _COPY.sub("", whole)
    if _holds_secrets(original):
        return True
    for pattern in map(str.lower, patterns):
        is_for_path = "/" in pattern
        meant = f"*/{pattern.lstrip('/')}" if is_for_path else pattern
        if any(fnmatchcase(one if is_for_path else _name(one), meant) for one in (whole, original)):
            return True
    return False


def _holds_secrets(path: str) -> bool:
    name = _name(path)
    return (
        name in _SECRET_NAMES
        or name.startswith(_SECRET_BEGINNINGS)
        or name.endswith(_SECRET_ENDINGS)
        or (name.endswith(_DATA_ENDINGS) and _SECRET_WORDS.search(name) is not None)
        or _SECRET_PLACES.search(path) is not None
    )


def _name(path: str) -> str:
    return path[path.rfind("/") + 1 :]


def is_foreign(name: str, entries: Iterable[str] = ()) -> bool:
    """Whether a directory holds what others wrote or tools keep: hidden ones, environments, caches.

    `entries` are the names in it, where they are known.
    """
    return name.startswith(".") or name in _FOREIGN_DIRECTORIES or not _FOREIGN_MARKS.isdisjoint(entries)
