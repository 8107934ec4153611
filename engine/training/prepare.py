"""Fetches the corpus by pinned version and hash, trains the tokenizer and writes packed rows.

``python -m engine.training.prepare --work DIR`` leaves ``tokenizer/``, ``rows.npy`` and
``held_out.npy`` in DIR, all a function of ``corpus.json`` beside this file and of the seed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from engine.training.corpus import Corpus, SourceFile
from engine.training.examples import ExampleMaker, ExampleMix, pack
from engine.training.vocabulary import train_tokenizer

CORPUS = Path(__file__).with_name("corpus.json")
LENGTH = 1024
VOCABULARY = 4096
TOKENIZER_FILES = 2500
SHARDS = 2
"""Files are dealt into so many parts, each with its own seed, so that two cores can work on them."""


def fetch(pins: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """The pinned wheels, downloaded with pip where `folder` lacks them. Raises ValueError on another hash."""
    folder.mkdir(parents=True, exist_ok=True)
    wheels: list[Path] = []
    for pin in pins:
        path = folder / pin["file"]
        if not path.exists():
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            requirement = f"{pin['package']}=={pin['version']}"
            subprocess.run([*command, "--dest", str(folder), requirement], check=True)
        if hashlib.sha256(path.read_bytes()).hexdigest() != pin["sha256"]:
            raise ValueError(f"{path} is not the file that corpus.json records; delete it and run again")
        wheels.append(path)
    return wheels


def _examples(
    files: Sequence[SourceFile], tokenizer_dir: Path, mix: ExampleMix, seed: int
) -> list[list[int]]:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_dir)
    return list(ExampleMaker(files, tokenizer, mix, seed).epoch())


def write_rows(files: Sequence[SourceFile], work: Path, name: str, mix: ExampleMix, seed: int) -> None:
    """One epoch of `files` as rows of LENGTH + 1 ids, shuffled, in ``work/name``."""
    packages = sorted({file.package for file in files})
    parts = [[f for f in files if f.package in packages[i::SHARDS]] for i in range(SHARDS)]
    with ProcessPoolExecutor(SHARDS) as pool:
        jobs = [pool.submit(_examples, p, work / "tokenizer", mix, seed + i) for i, p in enumerate(parts)]
        examples = [example for job in jobs for example in job.result()]
    random.Random(seed).shuffle(examples)
    rows = pack(iter(examples), LENGTH)
    np.random.default_rng(seed).shuffle(rows)
    np.save(work / name, rows)


def prepare(work: Path, seed: int = 0) -> None:
    """Make everything that training reads, in `work`."""
    pins = json.loads(CORPUS.read_text())
    corpus, held_out = Corpus(), Corpus()
    for wheel in fetch(pins["train"], work / "wheels"):
        corpus.add_wheel(wheel)
    corpus.add_stdlib()
    for wheel in fetch(pins["held_out"], work / "wheels"):
        held_out.add_wheel(wheel)
    (work / "sources.json").write_text(corpus.record())
    (work / "held_out_sources.json").write_text(held_out.record())
    sample = random.Random(seed).sample(corpus.files, k=min(TOKENIZER_FILES, len(corpus.files)))
    train_tokenizer((file.text for file in sample), VOCABULARY, work / "tokenizer")
    write_rows(corpus.files, work, "rows.npy", ExampleMix(), seed)
    write_rows(held_out.files, work, "held_out.npy", replace(ExampleMix(), rename=0.0), seed + 100)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for wheels and what is made of them")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    prepare(options.work, options.seed)


if __name__ == "__main__":
    main()
