"""Fetches the corpus by pinned version and hash, trains the tokenizer and writes packed rows.

``python -m engine.training.prepare --work DIR`` leaves ``tokenizer/``, ``rows.npy`` and
``held_out.npy`` in DIR, all a function of ``corpus.json`` beside this file and of the recipe.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.training.corpus import Corpus
from engine.training.recipe import RECIPES, TEMPLATE, Recipe
from engine.training.rows import RowFormat, make_rows, save_rows
from engine.training.vocabulary import train_tokenizer

CORPUS = Path(__file__).with_name("corpus.json")
TOKENIZER_FILES = 2500


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


def read_corpus(work: Path) -> tuple[Corpus, Corpus]:
    """What is learnt from, and what never is; wheels are kept in `work`."""
    pins = json.loads(CORPUS.read_text())
    corpus, held_out = Corpus(), Corpus()
    for wheel in fetch(pins["train"], work / "wheels"):
        corpus.add_wheel(wheel)
    corpus.add_stdlib()
    for wheel in fetch(pins["held_out"], work / "wheels"):
        held_out.add_wheel(wheel)
    return corpus, held_out


def prepare(corpus: Corpus, held_out: Corpus, recipe: Recipe, work: Path) -> None:
    """Write everything that training the target reads to `work`; ``rows.npy`` last."""
    seed, mix = recipe.plan.seed, recipe.mix
    (work / "sources.json").write_text(corpus.record())
    (work / "held_out_sources.json").write_text(held_out.record())
    sample = random.Random(seed).sample(corpus.files, k=min(TOKENIZER_FILES, len(corpus.files)))
    train_tokenizer((file.text for file in sample), recipe.vocabulary, work / "tokenizer")
    form = RowFormat(work / "tokenizer", TEMPLATE, recipe.length)
    plain = replace(mix, rename=0.0, sibling=0.0, drill=0.0)
    save_rows(make_rows(held_out.files, form, plain, seed + 100), work / "held_out.npy")
    save_rows(make_rows(corpus.files, form, mix, seed), work / "rows.npy")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for wheels and what is made of them")
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="cpu")
    options = parser.parse_args()
    prepare(*read_corpus(options.work), RECIPES[options.recipe], options.work)


if __name__ == "__main__":
    main()
