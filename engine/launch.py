"""Finds the user's engine, or starts it: however many clients ask at once, one engine runs. Torch-free.

The client that gets the lock starts the engine and hands the lock down to it; the others wait until
the socket answers. Nobody waits for models to load: requests do that, in the engine's queue.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from engine import __version__
from engine.client import Endpoint, ask_to_drain, ask_to_unload, fetch_health
from engine.config import EngineConfig, default_path, load_with_warnings
from engine.errors import EngineUnavailable, ProtocolMismatch
from engine.protocol import PROTOCOL_VERSION, Health
from engine.runtime import POLL_S, RuntimeDir

_CRASHED = "The engine ended unexpectedly; it was started again."
"""Short enough for one row of a terminal: Neovim would have the user press Enter for more, amid typing."""
ENGINE_COMMAND = (sys.executable, "-P", "-m", "engine.cli", "serve")
START_TIMEOUT_S = 30.0
PROBE_TIMEOUT_S = 5.0


def ensure_engine(
    config_path: Path | None = None,
    *,
    command: Sequence[str] = ENGINE_COMMAND,
    timeout_s: float = START_TIMEOUT_S,
) -> Endpoint:
    """Where the engine of this user answers; started first if none does. Blocks until it does.

    An engine of another version, or one that has another configuration but not its models, because they were
    given back or could not be loaded, is asked to end and is replaced. One that runs another configuration is
    kept, and `Endpoint.notice` says so; it also says so where this call has started one in the place of one
    that crashed. Raises ConfigError, or EngineUnavailable if none can be had.
    """
    config, _ = load_with_warnings(config_path)  # Whoever loads the models warns: once, not at every request.
    place = RuntimeDir.prepare()
    deadline = time.monotonic() + timeout_s
    started: subprocess.Popen[bytes] | None = None
    notice = ""
    asked_to_go: set[int] = set()
    while True:
        health = probe(place)
        if health is not None and _wanted(health, config):
            if health.state == "failed":
                raise EngineUnavailable(health.message)
            return replace(place.endpoint(), notice=notice or _notice(health, config, config_path))
        if health is not None and health.pid not in asked_to_go:
            asked_to_go.add(health.pid)
            _send_away(place)
        if started is None:
            lock = place.try_lock()
            if lock is not None:
                notice = _CRASHED if place.has_crashed(lock) else ""
                started = _start(place, lock, config_path, command)
        elif started.poll() is not None:
            raise EngineUnavailable(
                f"The engine ended as soon as it was started (exit {started.returncode}). "
                f"Read {place.log}, or run `umbrella-engine serve` to see why."
            )
        if time.monotonic() > deadline:
            raise EngineUnavailable(
                f"No engine answered within {timeout_s:g} s. Read {place.log}, and end what is left of it "
                "with `umbrella-engine stop`."
            )
        time.sleep(POLL_S)


def unload_engine() -> bool:
    """Have the engine of this user give its models' memory back, until the next request; see `ask_to_unload`.

    Raises EngineGone if none runs.
    """
    return ask_to_unload(RuntimeDir.prepare().endpoint())


def probe(place: RuntimeDir) -> Health | None:
    """What the engine at `place` says of itself; None if none answers."""
    try:
        return fetch_health(place.endpoint(), PROBE_TIMEOUT_S)
    except ProtocolMismatch:
        return Health("ready", 1.0, package="", protocol=0, config_hash="", pid=0)
    except EngineUnavailable:
        return None


def _wanted(health: Health, config: EngineConfig) -> bool:
    if health.protocol != PROTOCOL_VERSION or health.package != __version__ or health.state == "draining":
        return False
    return health.state not in ("failed", "unloaded") or health.config_hash == config.digest()


def _notice(health: Health, config: EngineConfig, config_path: Path | None) -> str:
    """What the user should know of the engine that runs."""
    asked_for = config_path or default_path()
    if asked_for is None or health.config_hash == config.digest():
        return ""
    return (
        f"The engine that runs was started with another configuration than {asked_for}. "
        "Run `umbrella-engine stop` to have it started with this one."
    )


def _send_away(place: RuntimeDir) -> None:
    try:
        ask_to_drain(place.endpoint(), PROBE_TIMEOUT_S)
    except EngineUnavailable:
        return  # It is gone already, or does not listen; its lock tells which.


def _start(
    place: RuntimeDir, lock: int, config_path: Path | None, command: Sequence[str]
) -> subprocess.Popen[bytes]:
    """Start an engine and hand `lock` down to it."""
    log: int | None = None
    try:
        log = place.open_log()
        arguments = [*command]
        # The default file too: the engine runs in another folder, where a relative path means nothing.
        config_path = config_path or default_path()
        if config_path is not None:
            arguments += ["--config", str(config_path.absolute())]
        inherited: tuple[int, ...] = ()
        if sys.platform != "win32":
            arguments += ["--lock-fd", str(lock)]
            inherited = (lock,)
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=place.path,
            env={**os.environ, "PYTHONPATH": _import_path(), "UMBRELLA_RUNTIME_DIR": str(place.path)},
            start_new_session=True,
            pass_fds=inherited,
        )
    except OSError as error:
        raise EngineUnavailable(f"The engine could not be started: {error}.") from error
    finally:
        os.close(lock)
        if log is not None:
            os.close(log)
    # It outlives us as a rule; where it does not, somebody has to take note of its end.
    threading.Thread(target=process.wait, name="umbrella-engine-ended", daemon=True).start()
    return process


def _import_path() -> str:
    """So that the engine is this package, also when it runs from a source tree."""
    package = str(Path(__file__).resolve().parent.parent)
    inherited = os.environ.get("PYTHONPATH")
    return os.pathsep.join([package, inherited]) if inherited else package
