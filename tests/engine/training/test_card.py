from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from engine.training.card import TRAININGS, main, number, parameters, write_card
from engine.training.recipe import RECIPES
from engine.training.train import TrainPlan

SOURCE = {"package": "bank", "version": "1.0", "licence": "MIT", "sha256": "", "files": 2, "characters": 5000}
SCORES = {"prompts": 100, "exact_match": 0.31, "edit_similarity": 0.62, "parse_success": None}
QUALITY: dict[str, Any] = {
    "seed": 3,
    "prompts": 400,
    "packages": {"arrow": "1.4.0"},
    "loss": 1.9,
    "line_exact_match": 0.29,
    "block_exact_match": 0.04,
    "edit_similarity": 0.55,
    "parse_success": 0.96,
    "baselines": {
        "copied": {
            "line_exact_match": 0.11,
            "block_exact_match": None,
            "edit_similarity": 0.3,
            "parse_success": 0.8,
        }
    },
    "by_position": {"next_line": {"model": SCORES, "copied": SCORES | {"exact_match": 0.123}}},
    "by_drafter": {"plain": 1.0, "tree": 2.75},
    "calibration": {"likelihood": {"ece": 0.0432, "threshold": None, "bins": []}},
}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """What a build leaves behind."""
    work = tmp_path / "work"
    for name, folder in TRAININGS.items():
        (work / folder).mkdir(parents=True)
        log = [{"step": n, "tokens": n * 8192, "loss": 5.0 - n / 100, "held_out": 4.0} for n in range(1, 101)]
        plan = asdict(TrainPlan(tokens=819_200, seed=7))
        (work / folder / "training.json").write_text(json.dumps({"plan": plan, "log": log}))
        (work / folder / "training.svg").write_text(f"<svg>{name}</svg>")
    (work / "sources.json").write_text(json.dumps([SOURCE, SOURCE | {"package": "empty", "files": 0}]))
    (work / "held_out_sources.json").write_text(json.dumps([SOURCE | {"package": "arrow"}]))
    for name in ("target", "draft"):
        for folder in (work / name / "model", tmp_path / "out" / name):
            folder.mkdir(parents=True)
            tensors = {"model.embed_tokens.weight": np.zeros((300, 100), np.float16)}
            save_file(tensors, folder / "model-00001-of-00002.safetensors")
            layer = {"model.layers.0.mlp.up_proj.weight": np.zeros((200, 100), np.float16)}
            save_file(layer, folder / "model-00002-of-00002.safetensors")
    return work


def test_the_card_says_what_was_learnt_from_how_and_with_what_curve(tmp_path: Path, work: Path):
    out = tmp_path / "out"
    write_card(work, "cpu", out)
    card = (out / "README.md").read_text()
    assert "| bank | 1.0 | MIT | 2 | 5k |" in card
    assert "| empty |" not in card
    assert card.index("## Trained on") < card.index("| bank |") < card.index("## Held out")
    assert card.index("## Held out") < card.index("| arrow |")
    assert "| target | 0.05M | 0.03M | 4 | 256 | 768 | 4 (2) | 0.1 MB |" in card
    assert "819,200 tokens, 8 rows a step, seed 7" in card
    assert card.count("| 1 | 8,192 | 4.99 | 4.0 |") == card.count("| 100 | 819,200 | 4.0 | 4.0 |") == 3
    assert f"{RECIPES['cpu'].mix.drill:.0%} as many rows" in card
    assert "--recipe cpu" in card
    for name in TRAININGS:
        assert f"]({name}.svg)" in card
        assert (out / f"{name}.svg").read_text() == f"<svg>{name}</svg>"


def test_a_pair_that_was_not_measured_is_said_to_be_so(tmp_path: Path, work: Path):
    write_card(work, "cpu", tmp_path / "out", tmp_path / "nowhere.json")
    assert "Not measured yet" in (tmp_path / "out" / "README.md").read_text()


def test_the_figures_of_a_benchmark_are_shown_beside_the_baselines(tmp_path: Path, work: Path):
    (tmp_path / "quality.json").write_text(json.dumps(QUALITY))
    out = tmp_path / "out"
    main(["--work", str(work), "--out", str(out), "--quality", str(tmp_path / "quality.json")])
    card = (out / "README.md").read_text()
    assert "Not measured yet" not in card
    assert "| next line | model | 100 | 0.310 | 0.620 |  |" in card
    assert "| next line | copied | 100 | 0.123 | 0.620 |  |" in card
    assert "| the pair | 0.290 | 0.040 | 0.550 | 0.960 |" in card
    assert "| copied | 0.110 |  | 0.300 | 0.800 |" in card
    assert "| tree | 2.750 |" in card
    assert "| likelihood | 0.043 |" in card
    assert "arrow 1.4.0." in card


def test_notes_on_how_the_weights_came_about_have_a_section_where_there_are_any(tmp_path: Path, work: Path):
    out = tmp_path / "out"
    write_card(work, "cpu", out)
    assert "## History" not in (out / "README.md").read_text()
    (work / "notes.md").write_text("Continued from an older target.\n")
    write_card(work, "cpu", out)
    assert (
        "## History of these weights\n\nContinued from an older target.\n" in (out / "README.md").read_text()
    )


def test_parameters_are_counted_over_all_shards(work: Path):
    assert sum(parameters(work / "target" / "model").values()) == 50_000
    assert number(None) == ""
