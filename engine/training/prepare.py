"""Fetches the corpus by pinned version and hash, trains the tokenizer and writes packed rows.

``python -m engine.training.prepare --work DIR`` leaves ``tokenizer/``, ``rows.npy`` and
``held_out.npy`` in DIR, all a function of ``corpus.json`` beside this file and of the recipe. With
``--installed`` the packages of this interpreter take the place of the pinned ones, for machines without
a network.
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

from engine.errors import TrainingError
from engine.training.corpus import Corpus
from engine.training.recipe import RECIPES, TEMPLATE, Recipe
from engine.training.rows import RowFormat, make_rows, save_rows
from engine.training.vocabulary import train_tokenizer

CORPUS = Path(__file__).with_name("corpus.json")
PYTHON = "3.11"
"""Whose wheels corpus.json pins."""
TOKENIZER_FILES = 2500
INSTALLED_CHARACTERS = 12_000_000
"""At most, of each installed package: they are few, so that more of each is learnt from."""
OURSELVES = "umbrella-lsp"
"""Never learnt from: README's examples are written to be completed."""


def fetch(pins: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """The pinned wheels and source archives, downloaded with pip where `folder` lacks them.

    Raises TrainingError where pip cannot get one, and where one has another hash.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wheels: list[Path] = []
    for pin in pins:
        path = folder / pin["file"]
        if not path.exists():
            _download(f"{pin['package']}=={pin['version']}", path)
        if hashlib.sha256(path.read_bytes()).hexdigest() != pin["sha256"]:
            raise TrainingError(f"{path} is not the file that was pinned; delete it and run again")
        wheels.append(path)
    return wheels


def _download(requirement: str, path: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(path.parent)]
    if path.suffix == ".whl":
        # Wheels are only read, so that those of the one Python that the pins are of serve any other.
        command += ["--only-binary=:all:", "--python-version", PYTHON]
    else:  # Of an archive, pip asks its own set-up for its name and version.
        command += ["--no-binary=:all:"]
    command.append(requirement)
    if subprocess.run(command, check=False).returncode or not path.exists():
        raise TrainingError(
            f"pip did not get {path.name}, see above. Without a network, put that file into {path.parent}"
        )


def read_corpus(work: Path, *, installed: bool = False) -> tuple[Corpus, Corpus]:
    """What is learnt from, and what never is; wheels are kept in `work`. Raises TrainingError."""
    pins = json.loads(CORPUS.read_text())
    if installed:
        corpus = Corpus(max_characters_per_package=INSTALLED_CHARACTERS)
        corpus.add_installed(without=[OURSELVES, *(pin["package"] for pin in pins["held_out"])])
    else:
        corpus = Corpus()
        for wheel in fetch(pins["train"], work / "wheels"):
            corpus.add_wheel(wheel)
    corpus.add_stdlib()
    held_out = Corpus()
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
    parser.add_argument(
        "--installed", action="store_true", help="learn from this interpreter's packages, not the pinned ones"
    )
    options = parser.parse_args()
    corpora = read_corpus(options.work, installed=options.installed)
    prepare(*corpora, RECIPES[options.recipe], options.work)


if __name__ == "__main__":
    main()
