"""``umbrella-engine quantize``: options in, an AWQ checkpoint out. Imports torch only when it runs."""

from __future__ import annotations

import argparse
import sysconfig
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from engine.errors import TrainingError

GROUP_SIZES = (32, 64, 128)
KEPT = ("k_proj", "v_proj", "up_proj")
"""What autoawq can leave out: it needs the others of a layer to look at what goes in there."""
INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("source", metavar="SRC", help="a dense model, named as in the configuration")
    parser.add_argument("destination", type=Path, metavar="DST", help="folder to write; must not exist")
    parser.add_argument(
        "--group-size",
        type=int,
        choices=GROUP_SIZES,
        default=128,
        help="weights that share a scale: the smaller, the larger and the more exact (%(default)s)",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        default=Path(sysconfig.get_paths()["stdlib"]),
        metavar="PATH",
        help="a file, or a folder of code, such as the model will meet; default: Python's standard library",
    )
    parser.add_argument(
        "--keep",
        nargs="+",
        choices=KEPT,
        default=[],
        metavar="MODULE",
        help=f"leave these as they are in every layer: {', '.join(KEPT)}",
    )


def run(options: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Quantise. Raises TrainingError or CheckpointError, and leaves nothing behind where it does."""
    try:
        from engine.checkpoint import find
        from engine.quantize.calibration import rows_of
        from engine.quantize.run import Recipe, check, quantize

        source, recipe = find(options.source), Recipe(options.group_size, tuple(options.keep))
        if not options.calibration.exists():
            raise TrainingError(f"{options.calibration} does not exist; name text to calibrate with")
        check(source, options.destination, recipe)
        say("loading autoawq and the model")
        quantize(source, options.destination, rows_of(source, options.calibration), recipe)
    except KeyboardInterrupt:
        say(f"Interrupted. {options.destination} was not made.")
        return INTERRUPTED
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{error}. Make room for it to be written, or choose another DST.") from error
    say(f"Done. To use it, write into engine.toml: model = '{options.destination.resolve()}'")
    return 0
