import errno
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

import engine.training.progress as progress
from engine.errors import TrainingError
from engine.training.objectives import NextToken
from engine.training.shapes import ModelShape, TokenIds, build
from engine.training.train import TrainPlan, train

PLAN = TrainPlan(tokens=32 * 2 * 6, batch_rows=2, micro_rows=1, save_every=2)
ROWS = np.random.default_rng(0).integers(8, 64, (16, 33)).astype(np.uint16)
DATA = NextToken(ROWS, ROWS[:4])


def fresh() -> LlamaForCausalLM:
    return build(ModelShape(32, 48, 2, 2, 1), TokenIds(64, 1, 2), 32, seed=0)


@dataclass(frozen=True)
class Breaking:
    """Code whose rows of the later steps give no number, or are never reached for a power cut."""

    fault: float | KeyboardInterrupt
    step: int = 4
    length: int = 32

    def __len__(self) -> int:
        return len(DATA)

    def loss(self, model: Any, rows: Sequence[int], device: torch.device) -> Tensor:
        loss = DATA.loss(model, rows, device)
        if rows[0] < self.step * PLAN.batch_rows:
            return loss
        if isinstance(self.fault, KeyboardInterrupt):
            raise self.fault
        return loss * self.fault

    def held_out(self, model: Any, device: torch.device) -> dict[str, float]:
        return DATA.held_out(model, device)


@pytest.mark.parametrize("step", [1, 3, 4, 5])
def test_training_that_was_interrupted_at_any_step_ends_where_it_would_have(tmp_path: Path, step: int):
    whole, resumed = fresh(), fresh()
    log = train("whole", whole, DATA, PLAN, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train("broken", fresh(), Breaking(KeyboardInterrupt(), step), PLAN, tmp_path / "broken")
    assert train("broken", resumed, DATA, PLAN, tmp_path / "broken") == log
    pairs = zip(whole.parameters(), resumed.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_training_that_is_over_is_not_done_again(tmp_path: Path):
    trained, loaded = fresh(), fresh()
    train("once", trained, DATA, PLAN, tmp_path)
    train("again", loaded, Breaking(KeyboardInterrupt(), 0), PLAN, tmp_path)
    assert torch.equal(trained.model.embed_tokens.weight, loaded.model.embed_tokens.weight)


def test_a_loss_that_is_no_number_stops_the_training_and_keeps_the_last_good_step(tmp_path: Path):
    with pytest.raises(TrainingError, match=r"step 5 gave no number .* keeps the last good step"):
        train("broken", fresh(), Breaking(float("nan")), replace(PLAN, save_every=100), tmp_path)
    good = fresh()
    assert progress.Checkpoint(tmp_path).load(good, train_optimizer(good)).step == 4
    assert all(parameter.isfinite().all() for parameter in good.parameters())


def train_optimizer(model: LlamaForCausalLM) -> torch.optim.Optimizer:
    from engine.training.optimizer import muon_with_adamw

    return muon_with_adamw(model, 0.01, 0.01, 0.0)


def test_a_full_disk_is_said_and_leaves_the_last_good_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save, saves = progress.save_file, 0

    def fill(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        nonlocal saves
        saves += 1
        if saves == 2:
            path.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(tensors, path, metadata)

    monkeypatch.setattr(progress, "save_file", fill)
    with pytest.raises(TrainingError, match=r"disk .* is full.*run the same command again"):
        train("full", fresh(), DATA, PLAN, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["last.safetensors"]
    whole, resumed = fresh(), fresh()
    train("whole", whole, DATA, PLAN, tmp_path / "whole")
    train("full", resumed, DATA, PLAN, tmp_path)
    assert torch.equal(whole.model.embed_tokens.weight, resumed.model.embed_tokens.weight)


def test_training_learns_and_leaves_its_plan_log_and_curve(tmp_path: Path):
    repeated = np.tile(ROWS[:2], (8, 1))
    plan = replace(PLAN, tokens=32 * 2 * 40, save_every=20)
    log = train("repeated", fresh(), NextToken(repeated, repeated), plan, tmp_path)
    assert log[-1]["held_out"] < 0.8 * log[0]["held_out"]
    written = json.loads((tmp_path / "training.json").read_text())
    assert written["log"] == log
    assert written["plan"]["tokens"] == plan.tokens
    assert "</svg>" in (tmp_path / "training.svg").read_text()


def test_the_learning_rate_warms_up_stays_and_decays_to_nothing():
    plan = TrainPlan(tokens=0, warmup=0.1, decay=0.4)
    rates = [plan.scale(step, 100) for step in range(101)]
    assert rates[:11] == sorted(rates[:11])
    assert rates[15:60] == [1.0] * 45
    assert rates[60:] == sorted(rates[60:], reverse=True)
    assert rates[100] == 0.0
