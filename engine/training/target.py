"""Trains the pair's target on prepared rows: ``python -m engine.training.target --work DIR``.

One process a core or a GPU under ``torchrun``. Resumes from ``DIR/target/last.safetensors``.
"""

from __future__ import annotations

import argparse
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from engine.tokenizer import Tokenizer
from engine.training.objectives import NextToken
from engine.training.recipe import RECIPES, Recipe
from engine.training.shapes import TokenIds, build
from engine.training.train import choose_device, train

SHARD = "14MB"
"""Weights travel in files of at most so much."""


def train_target(recipe: Recipe, work: Path, weights: Path | None = None, *, compiled: bool = True) -> None:
    """Train on ``work/rows.npy`` and leave the checkpoint in ``work/target/model``.

    `weights`: a checkpoint of the same shape to begin with instead of chance.
    """
    if choose_device().type == "cpu":
        torch.set_num_threads(1 if "WORLD_SIZE" in os.environ else os.cpu_count() or 1)
    tokenizer = Tokenizer.load(work / "tokenizer")
    names = ("<|begin_of_text|>", "<|eot_id|>", "<|finetune_right_pad_id|>")
    ids = TokenIds(recipe.vocabulary, *(tokenizer.special(name) for name in names))
    model = build(recipe.target, ids, recipe.length, recipe.plan.seed)
    if weights is not None:
        model.load_state_dict(load_file(weights / "model.safetensors"), strict=False)
    rows, unseen = (np.load(work / name, mmap_mode="r") for name in ("rows.npy", "held_out.npy"))
    train("target", model, NextToken(rows, unseen), recipe.plan, work / "target", compiled=compiled)
    if os.environ.get("RANK", "0") == "0":
        half = torch.bfloat16 if choose_device().type == "cuda" else torch.float32
        nn.Module.to(model, half)
        temporary = work / "target" / "model.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        model.save_pretrained(temporary, max_shard_size=SHARD)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(work / "tokenizer" / name, temporary / name)
        finished = work / "target" / "model"
        shutil.rmtree(finished, ignore_errors=True)
        temporary.replace(finished)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="what engine.training.prepare wrote")
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="cpu")
    parser.add_argument("--tokens", type=int, help="instead of the recipe's")
    parser.add_argument("--weights", type=Path, help="a checkpoint of the same shape to begin with")
    options = parser.parse_args()
    recipe = RECIPES[options.recipe]
    if options.tokens:
        recipe = replace(recipe, plan=replace(recipe.plan, tokens=options.tokens))
    train_target(recipe, options.work, options.weights)


if __name__ == "__main__":
    main()
