"""The engine that runs or does not, its folder and log, and the files we keep. Looks, and touches nothing."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from engine.client import fetch_health
from engine.config import cache_folder
from engine.errors import EngineGone, EngineUnavailable, UmbrellaError
from engine.protocol import Health
from engine.runtime import LOCK, RuntimeDir, runtime_dir
from umbrella_lsp.acceptance.tally import user_file
from umbrella_lsp.doctor.log import LogEntry, last_errors
from umbrella_lsp.doctor.report import NOT_ANSWERING, NOT_RUNNING, Elsewhere, Engine, KeptFile, Place
from umbrella_lsp.engines import endpoint_at
from umbrella_lsp.settings import EngineSettings

if sys.platform != "win32":
    import fcntl

TIMEOUT_S = 1.5
"""For the engine to answer."""
LOG_TAIL_BYTES = 256 * 1024
WITHHELD_URL = "(left out, for it holds a user or a password)"


def look_at_engine() -> Engine:
    """What answers in the runtime folder, or what lies there if nothing does."""
    # Not `prepare`: that would make the folder, or mend it.
    place = RuntimeDir(runtime_dir())
    folder, socket, log = _place(place.path), _place(place.socket), _place(place.log)
    try:
        health = fetch_health(place.endpoint(), TIMEOUT_S)
    except EngineGone:
        return _silent(place, folder, socket, log)
    except EngineUnavailable as error:
        return Engine(folder, socket, log, NOT_ANSWERING, problem=str(error))
    return _answering(health, folder, socket, log)


def look_elsewhere(engine: EngineSettings) -> Elsewhere | None:
    """What answers at the URL that `engine` names; None if it names none."""
    if not engine.url:
        return None
    try:
        endpoint = endpoint_at(engine)
        health = fetch_health(endpoint, TIMEOUT_S)
    except UmbrellaError as error:
        url = engine.url if "@" not in engine.url else WITHHELD_URL
        return Elsewhere(url, NOT_ANSWERING, problem=str(error))
    names = " + ".join(name for name in (health.model, health.draft_model) if name)
    return Elsewhere(endpoint.url, health.state, health.package, names, endpoint.notice, health.message)


def look_at_log() -> tuple[LogEntry, ...]:
    """The last warnings and errors in the engine's log; none if there is no log."""
    try:
        with RuntimeDir(runtime_dir()).log.open("rb") as opened:
            opened.seek(max(0, os.fstat(opened.fileno()).st_size - LOG_TAIL_BYTES))
            tail = opened.read(LOG_TAIL_BYTES)
    except FileNotFoundError:
        return ()
    return last_errors(tail.decode(errors="replace"))


def look_at_files() -> tuple[KeptFile, ...]:
    """What we have written on this machine."""
    statistics = user_file()
    kept = {
        "times of passes": cache_folder() / "costs",
        "packed layers": cache_folder() / "packed",
        "log": RuntimeDir(runtime_dir()).log,
    }
    if statistics is not None:
        kept["statistics"] = statistics
    return tuple(KeptFile(what, str(path), _size(path)) for what, path in kept.items())


def _answering(health: Health, folder: Place, socket: Place, log: Place) -> Engine:
    return Engine(
        folder,
        socket,
        log,
        health.state,
        health.message,
        package=health.package,
        protocol=health.protocol,
        pid=health.pid,
        config_hash=health.config_hash,
        model=health.model,
        draft_model=health.draft_model,
        busy=health.busy,
        progress=health.progress,
        pass_ms=health.pass_ms,
    )


def _silent(place: RuntimeDir, folder: Place, socket: Place, log: Place) -> Engine:
    """Where nothing answers: an engine puts its lock away as it ends, so what is in it tells how it ended."""
    lock = place.path / LOCK
    try:
        signed, is_held = lock.read_text(encoding="utf-8", errors="replace"), _is_held(lock)
    except OSError:
        return Engine(folder, socket, log, NOT_RUNNING)
    if is_held:
        pid = int(signed) if signed.isdecimal() else None
        return Engine(folder, socket, log, NOT_ANSWERING, pid=pid)
    return Engine(folder, socket, log, NOT_RUNNING, crashed=bool(signed.strip()))


def _is_held(lock: Path) -> bool:
    """Whether some process has the lock. Unlike taking it, this leaves in it what it says."""
    if sys.platform == "win32":
        return False  # There nobody else can even read what is locked.
    with lock.open("rb") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _place(path: Path) -> Place:
    try:
        status = path.lstat()
    except OSError:
        return Place(str(path), exists=False)
    if sys.platform == "win32":
        return Place(str(path), exists=True)
    return Place(str(path), True, f"{stat.S_IMODE(status.st_mode):04o}", status.st_uid == os.getuid())


def _size(path: Path) -> int | None:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    return path.stat().st_size if path.is_file() else None
