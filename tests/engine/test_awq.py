from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.checkpoint import Checkpoint
from engine.errors import CheckpointError
from engine.low_bit.weight import unpack
from engine.model import Block, Transformer
from tests.engine.low_bit.weights import pack, random_weight
from tests.engine.tiny import chain, write_llama

GROUP = 32
TOKENS = [1, 5, 9, 20, 33, 90, 7, 7, 64]


def write_awq(folder: Path, dense_folder: Path, kept: tuple[str, ...] = ()) -> None:
    """A Llama with random INT4 layers in `folder`, and its twin, dequantised to half, in `dense_folder`."""
    write_llama(dense_folder, intermediate_size=128, attention_bias=True)
    tensors = load_file(dense_folder / "model.safetensors")
    packed: dict[str, Tensor] = {}
    for seed, (name, tensor) in enumerate(sorted(tensors.items())):
        if not name.endswith("_proj.weight") or any(part in name for part in kept):
            packed[name] = tensor
            continue
        weight = random_weight(tensor.shape[1], tensor.shape[0], seed)
        tensors[name] = weight.dequantised(torch.float16).contiguous()
        module = name.removesuffix(".weight")
        packed[f"{module}.qweight"] = weight.qweight
        packed[f"{module}.qzeros"] = weight.qzeros
        packed[f"{module}.scales"] = weight.scales
    save_file(tensors, dense_folder / "model.safetensors")
    save_file(packed, folder / "model.safetensors")
    config = json.loads((dense_folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "awq",
        "bits": 4,
        "group_size": GROUP,
        "version": "gemm",
        "zero_point": True,
        "modules_to_not_convert": kept or None,
    }
    (folder / "config.json").write_text(json.dumps(config))


def logits(folder: Path, dtype: Any = "auto") -> Tensor:
    model = Transformer.load(Checkpoint.open(folder), "cpu", dtype)
    block = Block(TOKENS, chain(TOKENS))
    with closing(model):
        return model.forward(block, model.new_cache(16), range(len(TOKENS)), lambda _: None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("awq", "dense"):
        (tmp_path / name).mkdir()
    write_awq(tmp_path / "awq", tmp_path / "dense")
    return tmp_path


def damage(folder: Path, name: str, tensor: Tensor | None) -> None:
    """Replace tensor `name` of a checkpoint, or take it out."""
    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    save_file(tensors if tensor is None else tensors | {name: tensor}, folder / "model.safetensors")


def test_a_word_holds_even_features_in_its_low_half() -> None:
    assert unpack(torch.tensor([[0x75316420]], dtype=torch.int32)).tolist() == [list(range(8))]


def test_unpacking_undoes_packing_for_every_nibble_and_place() -> None:
    values = torch.arange(16).view(16, 1).add(torch.arange(24).view(1, 24)).remainder(16)
    assert torch.equal(unpack(pack(values)), values.to(torch.uint8))


def test_dequantising_follows_the_definition() -> None:
    weight = random_weight(64, 16)
    codes, zeros, scales = unpack(weight.qweight).int(), unpack(weight.qzeros).int(), weight.scales.float()
    dense = weight.dequantised(torch.float32)
    assert dense.shape == (16, 64)
    for feature_in, feature_out in [(0, 0), (31, 3), (32, 3), (63, 15)]:
        group = feature_in // GROUP
        code = codes[feature_in, feature_out] - zeros[group, feature_out]
        assert dense[feature_out, feature_in] == code * scales[group, feature_out]


def test_an_awq_model_is_its_dequantised_twin(folder: Path) -> None:
    assert torch.equal(logits(folder / "awq"), logits(folder / "dense"))


def test_a_model_that_stays_packed_is_close_to_its_dequantised_twin(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = logits(folder / "dense")
    monkeypatch.setattr("engine.footprint.SMALL_BYTES", 0)
    packed = logits(folder / "awq")
    assert not torch.equal(packed, expected)
    torch.testing.assert_close(packed, expected, rtol=0.0, atol=0.1)


def test_asking_for_float32_dequantises_a_model_of_any_size(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = logits(folder / "dense")
    monkeypatch.setattr("engine.footprint.SMALL_BYTES", 0)
    assert torch.equal(logits(folder / "awq", "fp32"), expected)


@pytest.mark.parametrize("kept", [("mlp.down_proj",), ("k_proj",)], ids=str)
def test_modules_may_be_left_unquantised_even_among_fused_ones(tmp_path: Path, kept: tuple[str, ...]) -> None:
    for name in ("awq", "dense"):
        (tmp_path / name).mkdir()
    write_awq(tmp_path / "awq", tmp_path / "dense", kept=kept)
    assert torch.equal(logits(tmp_path / "awq"), logits(tmp_path / "dense"))


@pytest.mark.parametrize("tensor", ["qweight", "qzeros", "scales"])
def test_a_missing_tensor_is_named(folder: Path, tensor: str) -> None:
    name = f"model.layers.1.mlp.up_proj.{tensor}"
    damage(folder / "awq", name, None)
    with pytest.raises(CheckpointError, match=f"has no tensor {name}"):
        logits(folder / "awq")


@pytest.mark.parametrize(
    ("tensor", "replacement", "message"),
    [
        ("qweight", torch.zeros(64, 15, dtype=torch.int32), r"shape \[64, 15\].*asks for \[64, 16\]"),
        ("qzeros", torch.zeros(1, 16, dtype=torch.int32), r"shape \[1, 16\].*asks for \[2, 16\]"),
        ("qweight", torch.zeros(64, 16, dtype=torch.float16), "float16; expected torch.int32"),
        ("scales", torch.full((2, 128), torch.nan), "not finite"),
        ("scales", torch.full((2, 128), torch.inf), "not finite"),
        ("scales", torch.zeros(2, 128, dtype=torch.int32), "torch.int32; expected floating point"),
    ],
)
def test_a_damaged_tensor_is_named_with_its_file(
    folder: Path, tensor: str, replacement: Tensor, message: str
) -> None:
    name = f"model.layers.1.mlp.up_proj.{tensor}"
    damage(folder / "awq", name, replacement)
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: tensor {name} .*{message}"):
        logits(folder / "awq")


def test_a_group_size_that_does_not_divide_is_refused(folder: Path) -> None:
    config = json.loads((folder / "awq" / "config.json").read_text())
    config["quantization_config"]["group_size"] = 48
    (folder / "awq" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"q_proj is 64 by 64, which groups of 48 .* do not divide"):
        logits(folder / "awq")
