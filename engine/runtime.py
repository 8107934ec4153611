"""The folder where a user's one engine and its clients meet: socket, lock, log, token. Torch-free.

The folder belongs to the user alone, and so does everything in it. Whoever holds the lock is the
engine, or is starting it: the lock goes with the process, however it ends, so a crash leaves nothing
to clean up but a socket that nobody listens on.
"""

from __future__ import annotations

import os
import secrets
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from engine.client import Endpoint
from engine.errors import EngineUnavailable

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_ENDED_UNEXPECTEDLY = b"ended unexpectedly"
"""What the lock says, once somebody has taken it, where an engine signed and did not put it away."""
SOCKET, LOCK, LOG, TOKEN, PORT = "engine.sock", "engine.lock", "engine.log", "engine.token", "engine.port"
POLL_S = 0.05
MAX_SOCKET_PATH_BYTES = 100
"""Linux takes 107, macOS 103."""
_ADVICE = "Set UMBRELLA_RUNTIME_DIR to a folder of your own (chmod 700)."


def runtime_dir() -> Path:
    """Where the engine of this user is met: ``UMBRELLA_RUNTIME_DIR``, else the user's runtime folder."""
    if named := os.environ.get("UMBRELLA_RUNTIME_DIR"):
        return Path(named).absolute()
    if base := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(base) / "umbrella-lsp"
    user = os.getuid() if sys.platform != "win32" else "user"
    return Path(tempfile.gettempdir()) / f"umbrella-lsp-{user}"


@dataclass(frozen=True, slots=True)
class RuntimeDir:
    """The folder, once `prepare` has found it safe."""

    path: Path

    @staticmethod
    def prepare(path: Path | None = None) -> RuntimeDir:
        """Create `path` (by default `runtime_dir()`) with mode 0700, or check that it is safe to use.

        Raises EngineUnavailable if it cannot be used, or if somebody else could use it too.
        """
        path = path or runtime_dir()
        if len(os.fsencode(path / SOCKET)) > MAX_SOCKET_PATH_BYTES:
            raise EngineUnavailable(
                f"The path of the engine's socket, {path / SOCKET}, is longer than the "
                f"{MAX_SOCKET_PATH_BYTES} bytes a socket may have. Set UMBRELLA_RUNTIME_DIR to a shorter one."
            )
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _require_private(path)
        except OSError as error:
            raise EngineUnavailable(
                f"The runtime folder {path} cannot be used: {error.strerror or error}. {_ADVICE}"
            ) from error
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            raise EngineUnavailable(f"The runtime folder {path} cannot be written to. {_ADVICE}")
        return RuntimeDir(path)

    @property
    def socket(self) -> Path:
        """Where the engine listens."""
        return self.path / SOCKET

    @property
    def log(self) -> Path:
        """What the engine had to say; never any text of the user's."""
        return self.path / LOG

    def endpoint(self) -> Endpoint:
        """Where clients of this user reach the engine, whether or not one runs."""
        if sys.platform != "win32":
            return Endpoint(self.socket)
        try:
            return self.tcp_endpoint()
        except (OSError, ValueError):
            return Endpoint(port=1)  # Nobody listens there: no engine has written its port yet.

    def tcp_endpoint(self) -> Endpoint:
        """The loopback port that ``serve --port`` added. Raises OSError or ValueError if none was."""
        port = int((self.path / PORT).read_text(encoding="ascii"))
        return Endpoint(port=port, token=(self.path / TOKEN).read_text(encoding="ascii"))

    def try_lock(self) -> int | None:
        """Become the engine: a file descriptor that holds the lock until it and its copies are closed.

        None if an engine runs or is being started. Raises EngineUnavailable if the file cannot be opened.
        """
        with _opening(self.path / LOCK):
            lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if sys.platform == "win32":
                msvcrt.locking(lock, msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return None
        # Until the new engine signs, `holder` must not name the last one: its pid may be anybody's by now.
        if os.pread(lock, 1, 0).isdigit():
            self._write_lock(lock, _ENDED_UNEXPECTEDLY)
        return lock

    def has_crashed(self, lock: int) -> bool:
        """Whether the last engine ended without `clear`. Only for the holder of the lock, before it signs."""
        return os.pread(lock, len(_ENDED_UNEXPECTEDLY), 0) == _ENDED_UNEXPECTEDLY

    def sign_lock(self, lock: int) -> None:
        """Write into the lock which process holds it, for `holder`."""
        self._write_lock(lock, str(os.getpid()).encode())

    def holder(self) -> int | None:
        """The process that holds the lock. None if none does, it has not signed yet, or it cannot be read."""
        lock = self.try_lock()
        if lock is not None:
            os.close(lock)
            return None
        text = ""
        with suppress(OSError):  # On Windows nobody else can read what is locked.
            text = (self.path / LOCK).read_text(encoding="ascii")
        return int(text) if text.isdecimal() else None

    def lock_within(self, timeout_s: float) -> int | None:
        """`try_lock` until it succeeds, which is when the engine has ended. None if it has not in time."""
        deadline = time.monotonic() + timeout_s
        while (lock := self.try_lock()) is None and time.monotonic() < deadline:
            time.sleep(POLL_S)
        return lock

    def listen(self) -> socket.socket:
        """Listen on the Unix socket, mode 0600. Only for the holder of the lock.

        A socket file that is there already is stale, because its engine would hold the lock.
        """
        self.socket.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            listener.bind(str(self.socket))
        finally:
            os.umask(before)
        listener.listen(128)
        return listener

    def write_tcp(self, port: int, token: str = "") -> str:
        """Leave `port` and its bearer `token`, by default a new one, for our clients. Returns the token."""
        token = token or secrets.token_urlsafe(32)
        self._write(TOKEN, token)
        self._write(PORT, str(port))
        return token

    def clear_tcp(self) -> None:
        """Remove what `write_tcp` left, here or in an engine that was killed. Only for the lock's holder."""
        for name in (TOKEN, PORT):
            (self.path / name).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove what only a running engine should leave behind. Only for the holder of the lock."""
        self.socket.unlink(missing_ok=True)
        self.clear_tcp()
        with suppress(OSError):  # Windows lets nobody write to what is locked; the next holder truncates it.
            os.truncate(self.path / LOCK, 0)

    def open_log(self, max_size_bytes: int = 1 << 20) -> int:
        """A file descriptor at the log's end, mode 0600. A log that has grown large starts anew.

        Raises EngineUnavailable if it cannot be opened.
        """
        with _opening(self.log):
            large = self.log.exists() and self.log.stat().st_size > max_size_bytes
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | (os.O_TRUNC if large else 0)
            return os.open(self.log, flags, 0o600)

    def _write_lock(self, lock: int, text: bytes) -> None:
        os.truncate(lock, 0)
        os.pwrite(lock, text, 0)

    def _write(self, name: str, text: str) -> None:
        """Write a 0600 file that is never there in part."""
        draft = self.path / f".{name}.{os.getpid()}"
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        draft.replace(self.path / name)


@contextmanager
def _opening(path: Path) -> Generator[None]:
    """Turn an OSError about `path`, a file of ours, into EngineUnavailable."""
    try:
        yield
    except OSError as error:
        raise EngineUnavailable(
            f"{path} cannot be opened: {error.strerror or error}. Remove it, or set UMBRELLA_RUNTIME_DIR to "
            "another folder of your own (chmod 700)."
        ) from error


def _require_private(path: Path) -> None:
    """Raise EngineUnavailable unless `path` is a folder that this user alone can enter."""
    if sys.platform == "win32":
        return  # The default folder is inside the user's profile, which is private already.
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise EngineUnavailable(f"The runtime folder {path} is not a folder. {_ADVICE}")
    if status.st_uid != os.getuid():
        raise EngineUnavailable(f"The runtime folder {path} belongs to another user. {_ADVICE}")
    if stat.S_IMODE(status.st_mode) & 0o077:
        ours = {SOCKET, LOCK, LOG, TOKEN, PORT}
        if any(entry.name not in ours for entry in path.iterdir()):
            # Somebody's folder for other things, perhaps shared on purpose: not ours to close.
            raise EngineUnavailable(f"The runtime folder {path} is open to other users. {_ADVICE}")
        path.chmod(0o700)
