from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.checkpoint import Checkpoint
from engine.errors import ConfigError
from engine.model import Block, Transformer
from engine.weights import DTYPES, DTypeName, choose_device, choose_dtype
from tests.engine.tiny import write_llama

CPU, META = torch.device("cpu"), torch.device("meta")


def test_auto_is_a_cpu_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == CPU


def test_auto_is_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("cuda")


@pytest.mark.parametrize("name", ["tpu7", "", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"device '{name}' cannot be used here"):
        choose_device(name)


@pytest.mark.parametrize(
    ("name", "stored", "device", "chosen"),
    [
        ("auto", torch.bfloat16, CPU, torch.float32),
        ("auto", torch.bfloat16, META, torch.bfloat16),
        ("auto", torch.float16, META, torch.float16),
        ("auto", torch.float32, META, torch.float16),
        ("fp32", torch.bfloat16, META, torch.float32),
        ("bf16", torch.float16, CPU, torch.bfloat16),
    ],
)
def test_the_dtype_follows_device_and_checkpoint(
    tmp_path: Path, name: DTypeName, stored: torch.dtype, device: torch.device, chosen: torch.dtype
) -> None:
    write_llama(tmp_path, dtype=stored)
    assert DTYPES[choose_dtype(name, Checkpoint.open(tmp_path), device)] == chosen


@pytest.mark.parametrize("tied", [False, True])
def test_in_bfloat16_on_a_cpu_logits_are_finer_than_that(tmp_path: Path, tied: bool) -> None:
    write_llama(tmp_path, dtype=torch.float16, tie_word_embeddings=tied)
    model = Transformer.load(Checkpoint.open(tmp_path), "cpu", "bf16")
    logits = model.forward(Block.chain([1, 5, 9]), model.new_cache(3), [2], lambda _: None)
    assert not torch.equal(logits, logits.bfloat16().float())
    exact = Transformer.load(Checkpoint.open(tmp_path), "cpu", "fp32")
    expected = exact.forward(Block.chain([1, 5, 9]), exact.new_cache(3), [2], lambda _: None)
    torch.testing.assert_close(logits, expected, rtol=0.0, atol=0.05)
