"""Quantises the bundled target, on the packed rows it was trained with; `engine.quantize` does it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import TrainingError
from engine.quantize.calibration import TOKENS
from engine.quantize.run import Recipe
from engine.quantize.run import quantize as quantize_on

CALIBRATION_ROWS = 64


def calibration(rows_file: Path) -> list[Any]:
    """Ids to calibrate with, [rows][tokens], from packed rows [rows, length + 1].

    autoawq cuts what it is given, joined, into pieces of 512 tokens, and drops what is left over.
    Raises TrainingError where that would be everything.
    """
    rows = np.load(rows_file, mmap_mode="r")[:CALIBRATION_ROWS, :TOKENS]
    if rows.size < TOKENS:
        raise TrainingError(
            f"{rows_file} holds {rows.size} tokens, and quantising needs {TOKENS} to calibrate "
            "with; prepare more code"
        )
    return rows.tolist()


def quantize(source: Path, rows_file: Path, destination: Path) -> None:
    """`engine.quantize.run.quantize` on `rows_file`. Raises as it does, and for too few rows."""
    quantize_on(source, destination, calibration(rows_file), Recipe())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--source", type=Path, required=True, help="a trained checkpoint")
    parser.add_argument("--rows", type=Path, required=True, help="packed rows to calibrate with")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must not exist")
    options = parser.parse_args()
    quantize(options.source, options.rows, options.out)


if __name__ == "__main__":
    main()
