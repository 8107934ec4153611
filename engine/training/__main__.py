"""Rebuilds the bundled pair from nothing: ``python -m engine.training --work DIR``.

Every stage leaves its result in DIR and is passed over where that is there, so an interrupted build
goes on where it was.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from engine.training.card import BUNDLED, write_card
from engine.training.draft import DraftJob, train_draft
from engine.training.held_out import split
from engine.training.prepare import prepare, read_corpus
from engine.training.quantize import quantize
from engine.training.recipe import RECIPES, Recipe


def _train_target(name: str, work: Path) -> None:
    start = [sys.executable, "-m"]
    processes = min(2, os.cpu_count() or 1)
    if name == "cpu" and processes > 1:
        start += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    subprocess.run([*start, "engine.training.target", "--work", str(work), "--recipe", name], check=True)


def draft_job(recipe: Recipe, target: Path) -> DraftJob:
    """The pair's draft, for the quantised `target`: what it will be asked to foresee."""
    return DraftJob(
        target=str(target),
        shape=recipe.draft,
        tokens=recipe.draft_tokens,
        lessons=recipe.lessons,
        length=recipe.length,
        lesson_length=recipe.lesson_length,
        seed=recipe.plan.seed,
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for everything in between")
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="cpu")
    parser.add_argument(
        "--installed", action="store_true", help="learn from this interpreter's packages, not the pinned ones"
    )
    parser.add_argument("--out", type=Path, default=BUNDLED, help="receives target/, draft/ and the card")
    options = parser.parse_args()
    work, out, recipe = options.work, options.out, RECIPES[options.recipe]
    corpus, held_out = read_corpus(work, installed=options.installed)
    if not (work / "rows.npy").exists():
        prepare(corpus, held_out, recipe, work)
    if not (work / "target" / "model").exists():
        _train_target(options.recipe, work)
    quantised = work / "target" / "awq"
    if not quantised.exists():
        quantize(work / "target" / "model", work / "rows.npy", quantised)
    parts = split([*corpus.files, *held_out.files], {file.package for file in held_out.files})
    draft = train_draft(draft_job(recipe, quantised), parts, work / "draft", print)
    for name, folder in (("target", quantised), ("draft", draft.folder)):
        shutil.copytree(folder, out / name, dirs_exist_ok=True)
        for file in (out / name).iterdir():
            file.chmod(0o644)  # Read by whoever installs the package, not by its builder alone.
    # What the last benchmark measured was another pair.
    write_card(work, options.recipe, out)


if __name__ == "__main__":
    main()
