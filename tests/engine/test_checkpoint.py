from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from engine.checkpoint import Checkpoint, find
from engine.errors import CheckpointError
from tests.engine.tiny import write_llama

INDEX = "model.safetensors.index.json"


@pytest.fixture
def single(tmp_path: Path) -> Path:
    write_llama(tmp_path)
    return tmp_path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    write_llama(tmp_path, shard_size="50KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) == 9
    return tmp_path


def edit_index(folder: Path, tensor: str, shard: str) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"][tensor] = shard
    (folder / INDEX).write_text(json.dumps(index))


def test_tensors_are_read_as_they_are_stored(single: Path) -> None:
    stored = load_file(single / "model.safetensors")
    opened = Checkpoint.open(single)
    for name, tensor in stored.items():
        assert opened.has(name)
        assert torch.equal(opened.tensor(name, tuple(tensor.shape)), tensor)
    assert opened.size_bytes == (single / "model.safetensors").stat().st_size


def test_shards_are_one_checkpoint(sharded: Path) -> None:
    opened = Checkpoint.open(sharded)
    shards = sorted(sharded.glob("model-*.safetensors"))
    for shard in shards:
        for name, tensor in load_file(shard).items():
            assert opened.file(name) == shard
            assert torch.equal(opened.tensor(name), tensor)
    assert opened.size_bytes == sum(shard.stat().st_size for shard in shards)


def test_a_missing_tensor_is_named(single: Path) -> None:
    opened = Checkpoint.open(single)
    assert not opened.has("model.layers.9.mlp.up_proj.weight")
    with pytest.raises(CheckpointError, match=r"has no tensor model\.layers\.9\.mlp\.up_proj\.weight"):
        opened.tensor("model.layers.9.mlp.up_proj.weight")


def test_a_tensor_of_another_shape_is_named_with_its_file(single: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors: tensor model\.norm\.weight has shape \[64\].*\[65\]"
    ):
        Checkpoint.open(single).tensor("model.norm.weight", (65,))


def test_a_missing_shard_is_named(sharded: Path) -> None:
    shard = sorted(sharded.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"lacks {shard.name}, which {INDEX} names"):
        Checkpoint.open(sharded)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_truncated_shard_is_named(sharded: Path, kept: int) -> None:
    shard = max(sharded.glob("model-*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=f"{shard.name} is damaged or cut short"):
        Checkpoint.open(sharded)


def test_a_truncated_single_file_is_named_with_the_first_tensor_it_lost(single: Path) -> None:
    weights = single / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors is damaged or cut short from tensor model\."
    ):
        Checkpoint.open(single)


def test_a_tensor_with_a_number_that_is_none_is_named(single: Path) -> None:
    weights = single / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(
        CheckpointError, match=r"tensor model\.norm\.weight holds numbers that are not finite"
    ):
        Checkpoint.open(single).floats("model.norm.weight", (64,))


def test_an_index_that_promises_too_much_is_refused(sharded: Path) -> None:
    shard = min(sharded.glob("model-*.safetensors"))
    edit_index(sharded, "model.layers.7.mlp.up_proj.weight", shard.name)
    with pytest.raises(CheckpointError, match=f"{shard.name} lacks tensor model.layers.7.mlp.up_proj.weight"):
        Checkpoint.open(sharded)


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd"])
def test_an_index_cannot_point_outside_its_folder(sharded: Path, shard: str) -> None:
    edit_index(sharded, "model.norm.weight", shard)
    with pytest.raises(CheckpointError, match=r"tensor model\.norm\.weight is said to be in"):
        Checkpoint.open(sharded)


def test_an_index_without_a_map_is_refused(sharded: Path) -> None:
    (sharded / INDEX).write_text("{}")
    with pytest.raises(CheckpointError, match="weight_map"):
        Checkpoint.open(sharded)


def test_weights_that_are_no_safetensors_are_never_read(single: Path) -> None:
    (single / "model.safetensors").rename(single / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"only as pickle \(pytorch_model\.bin\).*save_pretrained"):
        Checkpoint.open(single)
    (single / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"holds neither .* nor .*; only safetensors"):
        Checkpoint.open(single)


def test_a_checkpoint_that_is_read_stays_out_of_memory(sharded: Path) -> None:
    opened = Checkpoint.open(sharded)
    norm = opened.tensor("model.norm.weight")
    assert ".safetensors" not in Path("/proc/self/maps").read_text()
    norm.zero_()
    assert opened.tensor("model.norm.weight").count_nonzero() == 64


def test_a_shard_that_is_cut_short_while_it_is_in_use_is_named(sharded: Path) -> None:
    opened = Checkpoint.open(sharded)
    path = opened.file("model.norm.weight")
    with path.open("r+b") as file:
        file.truncate(100)
    with pytest.raises(CheckpointError, match=rf"{path.name}: tensor model\.norm\.weight cannot be read"):
        opened.tensor("model.norm.weight")


def test_a_folder_is_found_by_its_path(tmp_path: Path) -> None:
    assert find(str(tmp_path)) == tmp_path


def test_a_bundled_model_lies_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.checkpoint.__file__", str(tmp_path / "checkpoint.py"))
    (tmp_path / "bundled" / "draft").mkdir(parents=True)
    assert find("bundled:draft") == tmp_path / "bundled" / "draft"
    with pytest.raises(CheckpointError, match=r"no bundled model 'bundled:other'.*reinstall"):
        find("bundled:other")


@pytest.mark.parametrize("name", ["/no/such/folder", "~nobody-here/model", "a b", ""])
def test_a_name_that_is_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="no model"):
        find(name)
