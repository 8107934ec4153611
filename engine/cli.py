"""``umbrella-engine serve|status|stop|selftest|train-draft``.

Exit codes: 0 done, 1 it failed, 2 bad usage or configuration, 3 no engine runs.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from engine.backend import Backend
from engine.client import ask_to_drain
from engine.config import EngineConfig
from engine.config import load as load_config
from engine.errors import EngineUnavailable, TrainingError, UmbrellaError
from engine.launch import probe
from engine.protocol import Health
from engine.runtime import POLL_S, RuntimeDir
from engine.selftest import command as selftest
from engine.training import command as train_draft

if TYPE_CHECKING:
    from engine.workspace import Workspaces

LoadEngine = Callable[[EngineConfig, Callable[[float], None], "Workspaces"], Backend[Any]]

DONE, FAILED, USAGE, NO_ENGINE = 0, 1, 2, 3
STOP_TIMEOUT_S = 15.0


def load_engine(
    config: EngineConfig, progress: Callable[[float], None], workspaces: Workspaces
) -> Backend[Any]:
    """Load what `config` names, to draft from `workspaces`. Raises CheckpointError or ConfigError."""
    # Torch is imported here, on the worker's thread, while the socket answers already.
    from engine.generation import EngineBackend

    backend = EngineBackend.load(config, progress, workspaces.snapshot)
    workspaces.start(backend.engine.tokenizer.encode_document)
    return backend


def main(arguments: Sequence[str] | None = None, *, load: LoadEngine = load_engine) -> int:
    """The entry point. Returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "serve":
            return _serve(options, load)
        if options.command == "train-draft":
            return train_draft.run(options, _say)
        if options.command == "selftest":
            return selftest.run(options, _say)
        return _status(options) if options.command == "status" else _stop()
    except UmbrellaError as error:
        _say(str(error))
        if isinstance(error, TrainingError):
            return FAILED
        return NO_ENGINE if isinstance(error, EngineUnavailable) else USAGE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="umbrella-engine",
        description="The one engine of this user.",
        epilog="Exit codes: 0 done, 1 it failed, 2 bad usage or configuration, 3 no engine runs.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="run the engine here; clients start one by themselves")
    serve.add_argument("--config", type=Path, metavar="FILE", help="TOML or JSON; see configs/")
    serve.add_argument("--host", default="127.0.0.1", help="loopback address of --port (%(default)s)")
    serve.add_argument("--port", type=int, help="listen on TCP too, with the token in engine.token; 0: any")
    serve.add_argument("--lock-fd", type=int, help=argparse.SUPPRESS)
    status = commands.add_parser("status", help="say whether an engine runs, and in which state")
    status.add_argument("--json", action="store_true", help="the engine's /health as it is")
    commands.add_parser("stop", help="let the engine finish what it has begun, and end it")
    selftest.add_arguments(
        commands.add_parser("selftest", help="load the configured models here, check them and time them")
    )
    train_draft.add_arguments(
        commands.add_parser("train-draft", help="train a draft for a target on your own code")
    )
    return parser


def _serve(options: argparse.Namespace, load: LoadEngine) -> int:
    # Deferred: status and stop need none of it.
    from engine.server import listen_tcp, serve
    from engine.workspace import Workspaces

    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    config = load_config(options.config)
    place = RuntimeDir.prepare()
    _hold_lock(place, options.lock_fd)
    wants_tcp = options.port is not None or sys.platform == "win32"
    tcp = listen_tcp(options.host, options.port or 0) if wants_tcp else None
    logging.getLogger(__name__).info("serving in %s", place.path)
    workspaces = Workspaces()
    if not serve(
        config, lambda progress: load(config, progress, workspaces), place, workspaces=workspaces, tcp=tcp
    ):
        # The worker sits in a library call that cannot be interrupted, such as importing torch.
        # Ending the interpreter under it can crash; everything of ours is closed already.
        os._exit(DONE)
    return DONE


def _hold_lock(place: RuntimeDir, inherited: int | None) -> None:
    """Hold the lock for as long as this process lives: handed down by who started us, or taken here."""
    lock = place.try_lock() if inherited is None else inherited
    if lock is None:
        raise EngineUnavailable("An engine runs already; see `umbrella-engine status`.")
    os.set_inheritable(lock, False)
    place.sign_lock(lock)


def _status(options: argparse.Namespace) -> int:
    place = RuntimeDir.prepare()
    health = probe(place)
    if options.json:
        sys.stdout.write((msgspec.json.encode(health) if health else b"null").decode() + "\n")
    elif health is None:
        _say(f"No engine runs in {place.path}.")
    else:
        _show(place, health)
    return DONE if health else NO_ENGINE


def _show(place: RuntimeDir, health: Health) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False)
    state = f"{health.state} ({health.progress:.0%} loaded)" if health.state == "loading" else health.state
    rows = {
        "state": state,
        "message": health.message,
        "model": health.model,
        "draft model": health.draft_model,
        "languages": ", ".join(health.languages),
        "pid": str(health.pid),
        "version": f"{health.package}, protocol {health.protocol}",
        "configuration": health.config_hash,
        "socket": str(place.socket),
        "log": str(place.log),
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, value)
    Console().print(table)


def _stop() -> int:
    place = RuntimeDir.prepare()
    deadline = time.monotonic() + STOP_TIMEOUT_S
    holder = place.holder()
    while holder is None:
        # An engine that starts has not signed yet, and one that ends no longer does.
        if (lock := place.lock_within(POLL_S)) is not None:
            os.close(lock)
            _say(f"No engine runs in {place.path}.")
            return NO_ENGINE
        if time.monotonic() > deadline:
            _say(f"Some process holds {place.path}, but no engine has signed for it. Its log is {place.log}.")
            return FAILED
        holder = place.holder()
    with suppress(EngineUnavailable):  # One that hangs gets a signal below.
        ask_to_drain(place.endpoint())
        if _has_ended(place):
            return DONE
    with suppress(ProcessLookupError):  # It ended just now.
        os.kill(holder, signal.SIGTERM)
    if _has_ended(place):
        return DONE
    _say(f"The engine (process {holder}) does not end; kill it. Its log is {place.log}.")
    return FAILED


def _has_ended(place: RuntimeDir) -> bool:
    """Wait for the engine's lock, which it gives up only by ending; what it could not put away, we do."""
    lock = place.lock_within(STOP_TIMEOUT_S)
    if lock is not None:
        place.clear()  # It was told to end: that is no crash, however it went.
        os.close(lock)
    return lock is not None


def _say(message: str) -> None:
    sys.stderr.write(f"umbrella-engine: {message}\n")


if __name__ == "__main__":
    sys.exit(main())
