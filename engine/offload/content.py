"""What tells one checkpoint's weights from another's: a digest of the content of its files.

The hub's cache names a file by its digest already. Any other file is read once, and its digest remembered for
as long as nothing about the file changes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec

from engine.errors import CheckpointError
from engine.kept import replace_whole
from engine.progress import Progress

_BLOB = re.compile(r"[0-9a-f]{64}")
_PIECE_BYTES = 16 * 2**20


class Digests:
    """The digests of files, remembered in `file`, or not at all where that cannot be written."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def of_all(self, paths: Iterable[Path], progress: Progress) -> str:
        """One digest of the content of all `paths`, whatever they are called.

        Raises CheckpointError where one cannot be read.
        """
        paths = sorted(paths)
        digests: list[str] = []
        for done, path in enumerate(paths):
            say = partial(progress, done / len(paths), f"Checking weight file {done + 1} of {len(paths)}")
            try:
                digests.append(self._of(path.resolve(strict=True), say))
            except OSError as error:
                raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
        return hashlib.sha256("".join(digests).encode()).hexdigest()

    def _of(self, path: Path, reading: Callable[[], None]) -> str:
        if _BLOB.fullmatch(path.name) and path.parent.name == "blobs":
            return path.name
        status = path.stat()
        # The time of the last change of anything cannot be set back, as the one of the content can.
        state = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
        known = self._known()
        if known.get(str(path), ("", ""))[0] == state:
            return known[str(path)][1]
        reading()
        digest = _read_digest(path)
        with suppress(OSError):  # It is read again at the next start, then.
            replace_whole(self._file, msgspec.json.encode(self._known() | {str(path): (state, digest)}))
        return digest

    def _known(self) -> dict[str, tuple[str, str]]:
        """State and digest by path."""
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=dict[str, tuple[str, str]])
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return {}


def _read_digest(path: Path) -> str:
    digest = hashlib.sha256()
    piece = memoryview(bytearray(_PIECE_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(piece):
            digest.update(piece[:count])
    return digest.hexdigest()
