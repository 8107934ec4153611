from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.checkpoint import Checkpoint
from engine.config import EngineConfig
from engine.errors import TrainingError
from engine.loaded import LoadedEngine
from engine.model import Block, Transformer
from engine.training.quantize import GROUP_SIZE, calibration, quantize
from tests.engine.tiny import chain, write_llama
from tests.engine.tiny_tokenizer import write_tokenizer

TOKENS = list(range(3, 60, 3))


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    rows = np.random.default_rng(0).integers(0, 320, (4, 513)).astype(np.uint16)
    np.save(tmp_path / "rows.npy", rows)
    return tmp_path / "rows.npy"


def write_quantisable(folder: Path) -> None:
    """A Llama whose matrices hold sixteen evenly spaced values a group, so that four bits lose nothing."""
    write_llama(
        folder,
        vocab_size=320,
        hidden_size=128,
        head_dim=32,
        intermediate_size=256,
        num_hidden_layers=2,
        tie_word_embeddings=True,
    )
    tensors = load_file(folder / "model.safetensors")
    rng = torch.Generator().manual_seed(0)
    for name, tensor in tensors.items():
        if name.endswith("_proj.weight"):
            levels = torch.randint(0, 16, tensor.shape, generator=rng)
            levels[:, 0::GROUP_SIZE], levels[:, 1::GROUP_SIZE] = 0, 15
            tensors[name] = 0.02 * (levels - 8)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def logits(folder: Path) -> Tensor:
    model = Transformer.load(Checkpoint.open(folder), "cpu", "fp32")
    return model.forward(
        Block(TOKENS, chain(TOKENS)), model.new_cache(32), range(len(TOKENS)), lambda _: None
    )


def run_quantizer(source: Path, rows_file: Path, out: Path) -> None:
    """In a process of its own: importing autoawq warns, and resets the filters that make warnings errors."""
    if importlib.util.find_spec("awq") is None:
        reason = "no autoawq here; CONTRIBUTING.md says how to install it"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    command = [sys.executable, "-W", "ignore", "-m", "engine.training.quantize", "--source", str(source)]
    command += ["--rows", str(rows_file), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_what_autoawq_makes_loads_and_says_what_the_original_says(tmp_path: Path, rows_file: Path):
    source, out = tmp_path / "source", tmp_path / "awq"
    tokenizer = write_tokenizer(source)
    write_quantisable(source)
    run_quantizer(source, rows_file, out)

    expected = logits(source)
    assert (logits(out) - expected).norm() < 0.02 * expected.norm()
    quantization = Checkpoint.open(out).config.quantization
    assert quantization is not None
    assert quantization.group_size == GROUP_SIZE
    assert json.loads((out / "config.json").read_text())["use_cache"] is True
    assert (out / "model.safetensors").stat().st_mode & 0o777 == 0o644
    engine = LoadedEngine.load(EngineConfig(model=str(out), draft_model=None), lambda _: None)
    assert engine.tokenizer.vocabulary() == tokenizer.vocabulary()


def test_calibration_takes_the_first_tokens_of_rows(rows_file: Path):
    samples = calibration(rows_file)
    assert [len(sample) for sample in samples] == [512] * 4
    assert samples[0] == np.load(rows_file)[0, :512].tolist()


def test_too_few_tokens_to_calibrate_with_are_refused_before_autoawq_is_asked(tmp_path: Path):
    np.save(tmp_path / "rows.npy", np.zeros((3, 65), np.uint16))
    with pytest.raises(TrainingError, match=r"holds 195 tokens.* needs 512"):
        quantize(tmp_path, tmp_path / "rows.npy", tmp_path / "out")
    assert not (tmp_path / "out").exists()
