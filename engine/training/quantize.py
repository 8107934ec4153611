"""Quantises a trained checkpoint to AWQ INT4 with autoawq.

Needs the extra ``awq``. autoawq is imported here alone, when it is needed: importing it takes seconds and
resets Python's warning filters.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.errors import TrainingError

GROUP_SIZE = 128
CALIBRATION_ROWS = 64
CALIBRATION_TOKENS = 512
"""Of each row, at most: autoawq silently drops a row that is longer than its `max_calib_seq_len`."""


def calibration(rows_file: Path) -> list[Any]:
    """Ids to calibrate with, [rows][tokens], from packed rows [rows, length + 1].

    autoawq cuts what it is given, joined, into pieces of 512 tokens, and drops what is left over.
    Raises TrainingError where that would be everything.
    """
    rows = np.load(rows_file, mmap_mode="r")[:CALIBRATION_ROWS, :CALIBRATION_TOKENS]
    if rows.size < CALIBRATION_TOKENS:
        raise TrainingError(
            f"{rows_file} holds {rows.size} tokens, and quantising needs {CALIBRATION_TOKENS} to calibrate "
            "with; prepare more code"
        )
    return rows.tolist()


def quantize(source: Path, rows_file: Path, destination: Path) -> None:
    """Write `source`, a trained checkpoint, as AWQ INT4 (GEMM packing) in `destination`.

    At once or not at all; the tokenizer goes along. Raises TrainingError for too few rows, and where
    `destination` exists.
    """
    if destination.exists():
        raise TrainingError(f"{destination} exists; delete it, or name another folder")
    samples = calibration(rows_file)
    from awq import AutoAWQForCausalLM  # pyright: ignore[reportMissingImports, reportMissingTypeStubs]

    model = AutoAWQForCausalLM.from_pretrained(str(source), device_map="cpu")
    recipe = {"zero_point": True, "q_group_size": GROUP_SIZE, "w_bit": 4, "version": "GEMM"}
    # Duo scaling leaves no identity among the scales that are tried: it cost this target 0.22 nats a
    # token on held-out code, quantising without it 0.02.
    model.quantize(quant_config=recipe, calib_data=samples, duo_scaling=False)
    temporary = destination.with_name(f"{destination.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_quantized(str(temporary), safetensors=True)
    halve(temporary)
    _finish(source, temporary)
    temporary.replace(destination)


def halve(folder: Path) -> None:
    """Round what the checkpoint in `folder` keeps in float32 to float16, as its scales are.

    Half the size, and exactly what CPU kernels for float16 weights multiply with.
    """
    from safetensors.torch import load_file, save_file

    (path,) = folder.glob("*.safetensors")
    halved = {name: t.half() if t.dtype == torch.float32 else t for name, t in load_file(path).items()}
    save_file(halved, path, metadata={"format": "pt"})


def _finish(source: Path, folder: Path) -> None:
    """Put beside the weights what serving needs, and undo what autoawq leaves in the configuration."""
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copyfile(source / name, folder / name)
    path = folder / "config.json"
    config = json.loads(path.read_text()) | {"use_cache": True, "dtype": "float16"}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    # Weights are read by whoever installs the package, not by its builder alone.
    for file in folder.iterdir():
        file.chmod(0o644)


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
