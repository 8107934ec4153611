"""``umbrella-engine fetch``: models from the hub into the local Hugging Face cache."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.checkpoint import find_local
from engine.config import EngineConfig
from engine.config import load as load_config
from engine.errors import CheckpointError, ConfigError
from engine.hub import HubModel, fetch
from engine.progress import Progress

FETCHED, FAILED, INTERRUPTED = 0, 1, 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="a hub id, owner/name; default: all that the configuration names",
    )
    what.add_argument("--config", type=Path, metavar="FILE", help="TOML or JSON; see configs/")
    parser.add_argument("--revision", metavar="R", help="of MODEL: a commit, tag or branch")


def run(options: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Fetch, and print each model's folder. Raises ConfigError, or CheckpointError for a bundled name."""
    if options.revision and not options.model:
        raise ConfigError("--revision is of MODEL; the configuration has revision and draft_revision")
    named = ((options.model, options.revision),) if options.model else _named(load_config(options.config))
    models = [HubModel(name, revision) for name, revision in named if find_local(name) is None]
    if not models:
        say("There is nothing to fetch: no model is named by a hub id.")
    try:
        for model in models:
            with _bar() as progress:
                folder = fetch(model, progress)
            sys.stdout.write(f"{model.name}: {folder}\n")
            if model.revision != folder.name:
                say(f"To stay with it, pin it: revision, or draft_revision, = '{folder.name}'")
    except CheckpointError as error:
        say(str(error))
        return FAILED
    except KeyboardInterrupt:
        say("Interrupted. Files that have come whole stay: the same command goes on from there.")
        return INTERRUPTED
    return FETCHED


def _named(config: EngineConfig) -> Iterator[tuple[str, str | None]]:
    """The models that are loaded for `config`, each with its revision."""
    yield config.model, config.revision
    if config.model_drafted_with:
        yield config.model_drafted_with, config.draft_revision


@contextmanager
def _bar() -> Generator[Progress]:
    """A bar on the terminal, if there is one."""
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TextColumn("{task.percentage:.0f}%"),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda share, what: bar.update(task, completed=share, description=what)
