"""``umbrella-engine growmap``: options in, a tree for a static engine out. Imports torch when it runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from engine.config import EngineConfig, load_local
from engine.errors import ConfigError
from engine.progress import on_terminal

if TYPE_CHECKING:
    from engine.growmap.acceptance import Acceptance
    from engine.growmap.choice import Choice

MADE, INTERRUPTED = 0, 130
SHOWN_RANKS = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML or JSON; see configs/")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="receives the tree, as JSON"
    )
    parser.add_argument(
        "--text",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="code such as the models will meet; default: this package's own",
    )
    parser.add_argument(
        "--tokens",
        type=_positive,
        default=2000,
        metavar="N",
        help="that the target is to write for the measurement (%(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Measure, choose and write. Raises ConfigError or CheckpointError, and writes nothing where it does."""
    config = _drafting(load_local(options.config), say)
    if not options.output.parent.is_dir():
        raise ConfigError(f"--output: {options.output.parent} is no folder; make it first")
    try:
        found, trees = _measured(config, options.text or _own_sources(), options.tokens)
        from engine.kept import replace_whole

        chosen = max(trees[1:], key=lambda tree: tree.tokens_per_s)
        replace_whole(options.output, chosen.shape.to_json())
    except OSError as error:
        raise ConfigError(f"--output: {options.output} cannot be written ({error.strerror})") from error
    except KeyboardInterrupt:
        say(f"Interrupted. {options.output} was not written.")
        return INTERRUPTED
    if options.json:
        sys.stdout.write(msgspec.json.encode(_as_object(found, trees, chosen)).decode() + "\n")
    else:
        _show(found, trees, chosen, options.output.absolute())
    if trees[0].tokens_per_s >= chosen.tokens_per_s:
        say(
            "No tree pays on this machine: decoding one token a pass is faster. engine = 'dynamic' finds out."
        )
    return MADE


def _drafting(config: EngineConfig, say: Callable[[str], None]) -> EngineConfig:
    """`config` with trees that are made as they pay, by the one draft model that a static tree has."""
    dynamic = replace(config, engine="dynamic")
    if not dynamic.drafts:
        raise ConfigError("growmap needs a draft model: name one in draft_model")
    first, *others = dynamic.drafts
    if others:
        say(f"A static tree has one draft model: measuring {first.name}.")
    if config.tree_size < 2:
        raise ConfigError("tree_size = 1 leaves no room for a tree: raise it to what a pass may verify")
    return replace(dynamic, draft_model=first.name, draft_revision=first.revision)


def _own_sources() -> list[Path]:
    return sorted(Path(__file__).parent.parent.glob("*.py"))


def _measured(config: EngineConfig, text: Sequence[Path], tokens: int) -> tuple[Acceptance, list[Choice]]:
    """Acceptance, and what trees would give, by size, plain decoding first."""
    with on_terminal() as progress:
        progress(0.0, "Loading")
        from engine.draft.base import TreeLimits
        from engine.growmap.acceptance import measured, places
        from engine.growmap.choice import choices
        from engine.loaded import LoadedEngine
        from engine.sampling import SamplingParams

        starts = places(text)
        engine = LoadedEngine.load(config, progress)
        params = SamplingParams(
            temperature=config.temperature,
            top_k=config.topk,
            top_p=config.topp,
            repetition_penalty=config.repetition_penalty,
        )
        try:
            found = measured(engine, params, starts, tokens, progress)
            return found, choices(found.chances, TreeLimits.of(config), engine.costs, engine.drafts[0].costs)
        finally:
            engine.close()


def _as_object(found: Acceptance, trees: Sequence[Choice], chosen: Choice) -> dict[str, object]:
    """Plain values: times in milliseconds."""
    return {
        "tokens": found.tokens,
        "acceptance": found.chances,
        "trees": [_as_row(tree) for tree in trees],
        "chosen": _as_row(chosen) | {"Successors": chosen.shape.successors},
    }


def _as_row(tree: Choice) -> dict[str, object]:
    return {
        "nodes": len(tree.shape),
        "levels": tree.levels,
        "tokens_per_pass": tree.tokens,
        "pass_ms": tree.pass_ms,
        "tokens_per_s": tree.tokens_per_s,
    }


def _show(found: Acceptance, trees: Sequence[Choice], chosen: Choice, output: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    ranks = "  ".join(f"{chance:.1%}" for chance in found.chances[:SHOWN_RANKS])
    console.print(f"Of {found.tokens} tokens, the target drew the draft's first, second ... choice:")
    console.print(f"  {ranks}\n")
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("nodes", "levels", "tokens a pass", "ms a pass", "tokens/s"):
        table.add_column(title, justify="right")
    table.add_column("")
    for tree in trees:
        figures = (f"{tree.tokens:.2f}", f"{tree.pass_ms:.1f}", f"{tree.tokens_per_s:.1f}")
        note = "written" if tree is chosen else "plain decoding" if tree is trees[0] else ""
        table.add_row(f"{len(tree.shape)}", f"{tree.levels}", *figures, note)
    console.print(table)
    console.print("To use it, write into engine.toml:")
    console.print(f"  engine = 'static'\n  growmap_path = '{output}'", soft_wrap=True, markup=False)


def _positive(text: str) -> int:
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
