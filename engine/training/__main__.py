"""Rebuilds the bundled pair from nothing: ``python -m engine.training --work DIR``.

Every stage leaves its result in DIR and is passed over where that is there, so an interrupted build
goes on where it was.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from transformers import LlamaForCausalLM

from engine.training.card import write_card
from engine.training.prepare import VOCABULARY, prepare

TOKENS = {"target": 9_500_000, "draft": 6_000_000}
BUNDLED = Path(__file__).parent.parent / "bundled"


def _run(module: str, *arguments: str | Path, processes: int = 1) -> None:
    start = [sys.executable, "-m"]
    if processes > 1:
        start += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    subprocess.run([*start, module, *map(str, arguments)], check=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for everything in between")
    parser.add_argument("--out", type=Path, default=BUNDLED, help="receives target/, draft/ and the card")
    options = parser.parse_args()
    work, out = options.work, options.out
    if not (work / "held_out.npy").exists():
        prepare(work)
    for shape, tokens in TOKENS.items():
        if not (work / shape / "training.json").exists():
            arguments = (shape, "--tokens", str(tokens), "--data", work, "--out", work / shape)
            _run("engine.training.train", *arguments, processes=min(2, os.cpu_count() or 1))
    pair = ("--target", work / "target" / "model", "--draft", work / "draft" / "model")
    _run("engine.training.quantize", *pair, "--rows", work / "rows.npy", "--out", out)
    parameters = {
        shape: LlamaForCausalLM.from_pretrained(work / shape / "model").num_parameters() for shape in TOKENS
    }
    write_card(work, parameters, VOCABULARY, out / "README.md")


if __name__ == "__main__":
    main()
