"""The command ``umbrella-engine``: the table of what it can do, and what of that is about the running engine.

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
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from engine import __version__, hub_command
from engine.backend import Backend
from engine.client import ask_to_drain
from engine.config import EngineConfig
from engine.config import load as load_config
from engine.errors import ConfigError, DeviceError, EngineUnavailable, TrainingError, UmbrellaError
from engine.growmap import command as growmap
from engine.launch import probe, unload_engine
from engine.offload import plan_command
from engine.progress import Progress
from engine.protocol import NO_SERVER, Health
from engine.quantize import command as quantize
from engine.runtime import POLL_S, RuntimeDir
from engine.selftest import command as selftest
from engine.training import command as train_draft

if TYPE_CHECKING:
    from engine.doors import Door
    from engine.workspace import Workspaces

LoadEngine = Callable[[EngineConfig, Progress, "Workspaces"], Backend[Any]]

DONE, FAILED, USAGE, NO_ENGINE = 0, 1, 2, 3
STOP_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class Command:
    """A row of the table: what its arguments are, and what it does with them for an exit code.

    `run` is also given what tells the user a sentence. It may raise an UmbrellaError, which is told as well.
    """

    name: str
    help: str
    run: Callable[[argparse.Namespace, Callable[[str], None]], int]
    add_arguments: Callable[[argparse.ArgumentParser], None] = lambda _parser: None


def commands(load: LoadEngine) -> tuple[Command, ...]:
    """Every command there is; ``serve`` loads models by `load`."""
    return (
        Command(
            "serve",
            "run the engine here; clients start one by themselves",
            partial(_serve, load),
            _serve_arguments,
        ),
        Command("status", "say whether an engine runs, and in which state", _status, _status_arguments),
        Command("unload", "free the memory of the models until the next request", _unload),
        Command("stop", "let the engine finish what it has begun, and end it", _stop),
        Command(
            "fetch",
            "fetch models from the Hugging Face hub into its local cache",
            hub_command.run,
            hub_command.add_arguments,
        ),
        Command(
            "quantize",
            "make an AWQ INT4 checkpoint of a dense one",
            quantize.run,
            quantize.add_arguments,
        ),
        Command(
            "growmap",
            "make the best static tree for the configured models on this machine",
            growmap.run,
            growmap.add_arguments,
        ),
        Command(
            "plan",
            "say what of a model goes where, and how fast it will be, without loading it",
            plan_command.run,
            plan_command.add_arguments,
        ),
        Command(
            "selftest",
            "load the configured models here, check them and time them",
            selftest.run,
            selftest.add_arguments,
        ),
        Command(
            "train-draft",
            "train a draft for a target on your own code",
            train_draft.run,
            train_draft.add_arguments,
        ),
    )


def load_engine(config: EngineConfig, progress: Progress, workspaces: Workspaces) -> Backend[Any]:
    """Load what `config` names, to draft from `workspaces`. Raises CheckpointError or ConfigError."""
    if config.threads is not None:
        # Numeric libraries read these once, when they are imported: what torch is told later holds for torch.
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
        os.environ.update(dict.fromkeys(names, str(config.threads)))
    # Torch is imported here, on the worker's thread, while the socket answers already.
    from engine.generation import EngineBackend

    backend = EngineBackend.load(config, progress, workspaces.snapshot)
    workspaces.start(backend.engine.tokenizer.encode_document)
    return backend


def main(arguments: Sequence[str] | None = None, *, load: LoadEngine = load_engine) -> int:
    """The entry point. Returns the exit code."""
    options = _parser(commands(load)).parse_args(arguments)
    try:
        return options.run(options, _say)
    except UmbrellaError as error:
        _say(str(error))
        if isinstance(error, (TrainingError, DeviceError)):
            return FAILED
        return NO_ENGINE if isinstance(error, EngineUnavailable) else USAGE


def _parser(table: Sequence[Command]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="umbrella-engine",
        description="The one engine of this user.",
        epilog="Exit codes: 0 done, 1 it failed, 2 bad usage or configuration, 3 no engine runs.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in table:
        description = f"{command.help[0].upper()}{command.help[1:]}."
        subparser = subparsers.add_parser(command.name, help=command.help, description=description)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    return parser


def _serve_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML or JSON; see configs/")
    tcp = parser.add_argument_group("TCP", "Beside the Unix socket, for other programs. Off without --port.")
    tcp.add_argument("--port", type=int, help="listen here too, for whoever has the token; 0: any free port")
    tcp.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen (%(default)s)")
    tcp.add_argument(
        "--token-file", type=Path, metavar="FILE", help="keep the token here; else each start has a new one"
    )
    tcp.add_argument(
        "--allow-remote",
        action="append",
        default=[],
        metavar="NAME",
        help="let --host be other than loopback, for clients that call this machine NAME; may be repeated",
    )
    tcp.add_argument("--tls-cert", type=Path, metavar="FILE", help="speak TLS with this certificate, in PEM")
    tcp.add_argument("--tls-key", type=Path, metavar="FILE", help="its key, if that is not in the same file")
    parser.add_argument("--lock-fd", type=int, help=argparse.SUPPRESS)


def _serve(load: LoadEngine, options: argparse.Namespace, _say: Callable[[str], None]) -> int:
    # Deferred: status and stop need none of it.
    from engine.server import serve
    from engine.workspace import Workspaces

    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    config = load_config(options.config)
    place = RuntimeDir.prepare()
    _hold_lock(place, options.lock_fd)
    tcp = _tcp_door(options)
    logging.getLogger(__name__).info("serving in %s", place.path)
    workspaces = Workspaces()
    local = config.local
    if not serve(
        config, lambda progress: load(local, progress, workspaces), place, workspaces=workspaces, tcp=tcp
    ):
        # The worker sits in a library call that cannot be interrupted, such as importing torch.
        # Ending the interpreter under it can crash; everything of ours is closed already.
        os._exit(DONE)
    return DONE


def _tcp_door(options: argparse.Namespace) -> Door | None:
    """Listen on TCP as the arguments say, if they do. Raises ConfigError."""
    from engine.doors import kept_token, listen_tcp, tls_context

    if options.port is None and sys.platform != "win32":
        named = {"--token-file": options.token_file, "--allow-remote": options.allow_remote}
        for option, value in {**named, "--tls-cert": options.tls_cert, "--tls-key": options.tls_key}.items():
            if value:
                raise ConfigError(f"{option} is about TCP, which is off: add --port.")
        return None
    if options.tls_key and not options.tls_cert:
        raise ConfigError("--tls-key needs --tls-cert: name the certificate that it belongs to.")
    return listen_tcp(
        options.host,
        options.port or 0,
        names=tuple(options.allow_remote),
        tls=tls_context(options.tls_cert, options.tls_key) if options.tls_cert else None,
        token=kept_token(options.token_file) if options.token_file else "",
    )


def _hold_lock(place: RuntimeDir, inherited: int | None) -> None:
    """Hold the lock for as long as this process lives: handed down by who started us, or taken here."""
    lock = place.try_lock() if inherited is None else inherited
    if lock is None:
        raise EngineUnavailable(
            "An engine runs already; see `umbrella-engine status`. To start it in another way, run "
            "`umbrella-engine stop` first."
        )
    os.set_inheritable(lock, False)
    place.sign_lock(lock)


def _status_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="the engine's /health as it is")


def _status(options: argparse.Namespace, say: Callable[[str], None]) -> int:
    place = RuntimeDir.prepare()
    health = probe(place)
    if options.json:
        sys.stdout.write((msgspec.json.encode(health) if health else b"null").decode() + "\n")
    elif health is None:
        say(f"No engine runs in {place.path}.")
    else:
        _show(place, health)
    return DONE if health else NO_ENGINE


def _show(place: RuntimeDir, health: Health) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False)
    is_loading = health.state == "loading" and not health.message.startswith(NO_SERVER)
    state = f"{health.state} ({health.progress:.0%} loaded)" if is_loading else health.state
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


def _unload(_options: argparse.Namespace, say: Callable[[str], None]) -> int:
    place = RuntimeDir.prepare()
    if probe(place) is None:
        say(f"No engine runs in {place.path}, so it holds no memory.")
        return NO_ENGINE
    if unload_engine():
        return DONE
    say("The engine is at work. It gives the memory back as soon as it has finished.")
    return FAILED


def _stop(_options: argparse.Namespace, say: Callable[[str], None]) -> int:
    place = RuntimeDir.prepare()
    deadline = time.monotonic() + STOP_TIMEOUT_S
    holder = place.holder()
    while holder is None:
        # An engine that starts has not signed yet, and one that ends no longer does.
        if (lock := place.lock_within(POLL_S)) is not None:
            os.close(lock)
            say(f"No engine runs in {place.path}.")
            return NO_ENGINE
        if time.monotonic() > deadline:
            say(f"Some process holds {place.path}, but no engine has signed for it. Its log is {place.log}.")
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
    say(f"The engine (process {holder}) does not end; kill it. Its log is {place.log}.")
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
