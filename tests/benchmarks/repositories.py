"""Git repositories for tests, made without the developer's own configuration."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

WHO = {
    f"GIT_{role}_{what}": value
    for role in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "Test"), ("EMAIL", "test@example.org"))
}


def git(repository: Path, *arguments: str) -> str:
    """What git prints, the whitespace around it apart."""
    environment = {
        "PATH": os.environ["PATH"],
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
    }
    command = ["git", "-C", str(repository), *arguments]
    return subprocess.run(
        command, capture_output=True, check=True, text=True, env=environment | WHO
    ).stdout.strip()


def commit(repository: Path) -> str:
    """Commit all that is in the folder, a repository from then on. Returns the commit."""
    git(repository, "init", "-q")
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", "A change")
    return git(repository, "rev-parse", "HEAD")
