from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from engine.checkpoint import Checkpoint
from engine.model import Transformer
from engine.training.train import Checkpoint as Progress
from engine.training.train import TrainPlan, loss_of, train
from tests.engine.tiny_tokenizer import write_tokenizer

PLAN = TrainPlan("draft", tokens=32 * 2 * 6, length=32, batch_rows=2, save_every=2)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    write_tokenizer(folder / "tokenizer")
    rows = np.random.default_rng(0).integers(8, 300, (16, 33)).astype(np.uint16)
    np.save(folder / "rows.npy", rows)
    np.save(folder / "held_out.npy", rows[:4])
    return folder


@pytest.mark.slow
def test_training_that_was_interrupted_ends_where_it_would_have(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(PLAN, data, whole, compiled=False)
    saved = Progress.save

    def pull_the_plug(self: Progress, step: int, *rest: object) -> None:
        saved(self, step, *rest)  # pyright: ignore[reportArgumentType]
        if step == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "save", pull_the_plug)
    with pytest.raises(KeyboardInterrupt):
        train(PLAN, data, broken, compiled=False)
    monkeypatch.undo()
    train(PLAN, data, broken, compiled=False)
    expected = load_file(whole / "model" / "model.safetensors")
    resumed = load_file(broken / "model" / "model.safetensors")
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)
    assert Transformer.load(Checkpoint.open(broken / "model"), "cpu", "fp32").num_layers == 2


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_the_training_and_keeps_the_last_good_step(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    losses = 0

    def break_down(model: torch.nn.Module, rows: torch.Tensor) -> torch.Tensor:
        nonlocal losses
        losses += 1
        return loss_of(model, rows) * (float("nan") if losses > 5 else 1.0)

    monkeypatch.setattr("engine.training.train.loss_of", break_down)
    with pytest.raises(FloatingPointError, match="last good step"):
        train(PLAN, data, tmp_path / "out", compiled=False)
    assert (tmp_path / "out" / "last.safetensors").exists()
