"""``umbrella-engine fetch``: models from the hub into the local Hugging Face cache."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from engine.checkpoint import find_local
from engine.config import load as load_config
from engine.config_tables import ModelName
from engine.errors import CheckpointError, ConfigError
from engine.hub import HubModel, fetch
from engine.progress import on_terminal

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
    parser.add_argument(
        "--without-weights",
        action="store_true",
        help="only what a remote engine needs of a model that runs elsewhere",
    )


def run(options: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Fetch, and print each model's folder. Raises ConfigError, or CheckpointError for a bundled name."""
    if options.revision and not options.model:
        raise ConfigError("--revision is of MODEL; the configuration has revision and draft_revision")
    named, with_weights = _named(options)
    models = [
        HubModel(model.name, model.revision, with_weights)
        for model in named
        if find_local(model.name) is None
    ]
    if not models:
        say("There is nothing to fetch: no model is named by a hub id.")
    try:
        for model in models:
            with on_terminal() as progress:
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


def _named(options: argparse.Namespace) -> tuple[tuple[ModelName, ...], bool]:
    """The models that are named, or that a configuration loads, and whether with their weights."""
    with_weights = not options.without_weights
    if options.model:
        return (ModelName(options.model, options.revision),), with_weights
    config = load_config(options.config)
    if not config.runs_here:
        return (config.target,), False
    return (config.target, *config.local.drafts), with_weights
