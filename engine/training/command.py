"""``umbrella-engine train-draft``: options in, a draft and a table out. Imports torch only when it runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import TrainingError

if TYPE_CHECKING:
    from engine.training.corpus import Summary
    from engine.training.draft import Trained

SIZES = ("5M", "30M", "100M", "500M")
LICENCES = ("permissive", "not-copyleft", "any")
INTERRUPTED = 130
EXTRA = "training needs more packages: pip install 'umbrella-lsp[train]'"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--target",
        default="bundled:target",
        help="the model to draft for, as in the configuration (%(default)s)",
    )
    parser.add_argument(
        "--corpus", type=Path, nargs="+", required=True, metavar="DIR", help="folders of code to learn from"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="receives model/ and work/")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--size", choices=SIZES, help="a new draft: parameters of its layers, embedding apart")
    what.add_argument("--continue", dest="start", metavar="DRAFT", help="go on with this draft instead")
    parser.add_argument("--tokens", type=int, metavar="N", help="code to read; default: by the corpus' size")
    parser.add_argument(
        "--lessons", type=int, default=1000, metavar="N", help="continuations the target writes (%(default)s)"
    )
    parser.add_argument("--length", type=int, default=1024, metavar="N", help="tokens a row (%(default)s)")
    parser.add_argument(
        "--held-out",
        nargs="+",
        metavar="PACKAGE",
        help="what to measure on; default: a twentieth, by hash",
    )
    parser.add_argument(
        "--licence",
        choices=LICENCES,
        default="not-copyleft",
        help="what a package may state about itself to be learnt from (%(default)s)",
    )
    parser.add_argument(
        "--learning-rate", type=float, metavar="R", help="of the matrices; by default 0.005 to 0.02"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action="store_true", help="compile the model first: worth it on a GPU")


def run(options: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Train and print what came of it. Raises TrainingError, CheckpointError or ConfigError."""
    try:
        return _run(options, say)
    except KeyboardInterrupt:
        say(f"Interrupted. {options.out} keeps what was saved last: the same command goes on from there.")
        return INTERRUPTED
    except OSError as error:
        raise TrainingError(f"{error}. Make room for it to be written, or choose another --out.") from error


def _run(options: argparse.Namespace, say: Callable[[str], None]) -> int:
    try:
        from engine.training.corpus import Corpus
        from engine.training.draft import DraftJob, train_draft
        from engine.training.held_out import split
        from engine.training.shapes import DRAFT_SIZES
    except ModuleNotFoundError as error:
        raise TrainingError(f"{EXTRA} ({error})") from error
    for name, least in (("tokens", 1), ("lessons", 1), ("length", 1), ("seed", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise TrainingError(f"--{name} must be at least {least}")
    if options.learning_rate is not None and not 0 < options.learning_rate < 1:
        raise TrainingError("--learning-rate must be between 0 and 1")
    corpus = Corpus.from_folders(options.corpus, options.licence)
    _show_corpus(corpus.summary())
    parts = split(corpus.files, options.held_out, seed=options.seed)
    held_out = sorted({file.package for file in parts.held_out})
    say(f"Measuring on {', '.join(held_out)}" + (", by file." if parts.by == "file" else "."))
    job = DraftJob(
        target=options.target,
        shape=DRAFT_SIZES[options.size] if options.size else None,
        start=options.start,
        tokens=options.tokens,
        lessons=options.lessons,
        length=options.length,
        learning_rate=options.learning_rate,
        seed=options.seed,
        compiled=options.compile,
    )
    _show_result(train_draft(job, parts, options.out, say), options.target)
    return 0


def _show_corpus(summary: Summary) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False)
    for what, how_much in summary.rows():
        table.add_row(what, how_much)
    Console(stderr=True).print(table)


def _show_result(trained: Trained, target: str) -> None:
    lines = [
        f"{trained.folder}: {trained.parameters:,} parameters.",
        "Tokens a pass of the target, on held-out prompts:",
        f"  without a draft model  {trained.ngrams_alone:.2f}",
        *([] if trained.before is None else [f"  with the draft before  {trained.before:.2f}"]),
        f"  with this draft        {trained.after:.2f}",
        f"The curves of its training are in {trained.folder.parent / 'work'}.",
        "To use it, write into engine.toml:",
        f"  model = '{target}'",
        f"  draft_model = '{trained.folder.resolve()}'",
        f"  template = '{trained.template}'",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
