from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from engine.checkpoint import Checkpoint
from engine.config_tables import ModelName
from engine.errors import CheckpointError
from engine.footprint import Footprint
from engine.model import Transformer
from engine.offload.pack import pack_layer
from engine.offload.packed_file import open_source
from engine.progress import untold
from tests.engine.gptq_files import Scheme, write_gptq
from tests.engine.offload.models import load, placed, session
from tests.engine.test_awq import damage, logits

TOKENS = [1, 5, 9, 20, 33, 90, 7, 7, 64]

SCHEMES = {
    "sym": Scheme(sym=True),
    "asym": Scheme(),
    "asym, v2": Scheme(layout="gptq_v2"),
    "groups of 64": Scheme(group=64),
    "one group": Scheme(group=-1),
    "reordered": Scheme(reordered=True),
    "reordered, v2, some kept": Scheme(reordered=True, layout="gptq_v2", kept=("down_proj", "k_proj")),
}


def in_transformers(folder: Path) -> Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        return model(torch.tensor([TOKENS])).logits[0]


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES.keys())
def test_a_gptq_model_is_its_dequantised_twin(tmp_path: Path, scheme: Scheme, family: str) -> None:
    write_gptq(tmp_path / "gptq", tmp_path / "dense", scheme, family)
    ours = logits(tmp_path / "gptq")
    assert torch.equal(ours, logits(tmp_path / "dense"))
    torch.testing.assert_close(ours, in_transformers(tmp_path / "dense"), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", ["cpu", "cuda"])
@pytest.mark.parametrize("scheme", [Scheme(), Scheme(sym=True, reordered=True)], ids=["asym", "reordered"])
def test_one_that_stays_packed_and_streams_is_close_to_its_twin(
    tmp_path: Path, scheme: Scheme, form: Any
) -> None:
    write_gptq(tmp_path / "gptq", tmp_path / "dense", scheme, num_hidden_layers=5)
    with closing(Transformer.load(Checkpoint.open(tmp_path / "dense"), "cpu", "fp32")) as twin:
        expected = session(twin)
    seen: list[Tensor] = []
    for resident in (4, 2):
        with closing(load(tmp_path / "gptq", placed(resident, form=form))) as model:
            seen.append(session(model))
    assert torch.equal(seen[0], seen[1])
    torch.testing.assert_close(seen[0], expected, rtol=0.0, atol=0.15)


def test_its_zero_points_may_be_nought_in_either_format(tmp_path: Path) -> None:
    seen: list[Tensor] = []
    for layout in ("gptq", "gptq_v2"):
        folder = tmp_path / layout
        write_gptq(folder, tmp_path / "dense", Scheme(layout=layout))
        tensors = load_file(folder / "model.safetensors")
        borrowed = -0x11111111 if layout == "gptq" else 0
        for name in tensors:
            if name.endswith("qzeros"):
                tensors[name] = torch.full_like(tensors[name], 0x50301020) + borrowed
        save_file(tensors, folder / "model.safetensors")
        seen.append(logits(folder))
    assert torch.equal(*seen)


def test_in_order_already_it_needs_no_list_of_groups(tmp_path: Path) -> None:
    write_gptq(tmp_path / "gptq", tmp_path / "dense", Scheme())
    expected, file = logits(tmp_path / "gptq"), tmp_path / "gptq" / "model.safetensors"
    save_file({name: each for name, each in load_file(file).items() if "g_idx" not in name}, file)
    assert torch.equal(logits(tmp_path / "gptq"), expected)


def test_a_packed_file_of_another_quantisation_of_the_same_words_is_another(tmp_path: Path) -> None:
    write_gptq(tmp_path / "gptq", tmp_path / "dense", Scheme(layout="gptq_v2"))
    files: set[str] = set()
    contents: list[Tensor] = []
    for layout in ("gptq", "gptq_v2"):
        file = tmp_path / "gptq" / "config.json"
        config = json.loads(file.read_text())
        config["quantization_config"]["checkpoint_format"] = layout
        file.write_text(json.dumps(config))
        checkpoint = Checkpoint.open(tmp_path / "gptq")
        cache = tmp_path / "packed"
        with closing(open_source(checkpoint, "cuda", "fp16", untold, cache=cache)) as source:
            buffer = torch.empty(source.size_bytes(0), dtype=torch.uint8)
            source.read_into(0, buffer)
        straight = torch.empty_like(buffer)
        pack_layer(checkpoint, 0, "cuda", "fp16", straight)
        assert torch.equal(buffer, straight)
        contents.append(buffer)
        files |= {path.name for path in cache.glob("*.packed")}
    assert len(files) == 2
    assert not torch.equal(*contents)


@pytest.mark.parametrize("reordered", [False, True])
def test_what_it_takes_is_known_beforehand(tmp_path: Path, reordered: bool) -> None:
    write_gptq(tmp_path / "gptq", tmp_path / "dense", Scheme(reordered=reordered))
    checkpoint = Checkpoint.open(tmp_path / "gptq")
    found = Footprint.of(ModelName(str(tmp_path / "gptq")), "auto", "cuda")
    with closing(open_source(checkpoint, "cuda", "fp16", untold, cache=None)) as source:
        assert found.layer_bytes == tuple(source.size_bytes(layer) for layer in range(3))
    assert found.stays_packed


@pytest.mark.parametrize(
    ("tensor", "replacement", "message"),
    [
        ("qweight", None, "has no tensor {name}"),
        ("qweight", torch.zeros(64, 16, dtype=torch.int32), r"shape \[64, 16\].*asks for \[8, 128\]"),
        ("qzeros", torch.zeros(2, 16), "float32; expected torch.int32"),
        ("scales", torch.full((2, 128), torch.nan), "not finite"),
        (
            "g_idx",
            torch.zeros(64, dtype=torch.int32),
            "32 input features in every group, in order, as desc_act",
        ),
    ],
)
def test_a_damaged_tensor_is_named(
    tmp_path: Path, tensor: str, replacement: Tensor | None, message: str
) -> None:
    write_gptq(tmp_path / "gptq", tmp_path / "dense", Scheme())
    name = f"model.layers.1.mlp.up_proj.{tensor}"
    damage(tmp_path / "gptq", name, replacement)
    with pytest.raises(CheckpointError, match=message.format(name=name)) as caught:
        logits(tmp_path / "gptq")
    assert name in str(caught.value)


def test_groups_of_unequal_size_are_refused(tmp_path: Path) -> None:
    write_gptq(tmp_path / "gptq", tmp_path / "dense", Scheme(reordered=True))
    name = "model.layers.0.self_attn.q_proj.g_idx"
    damage(tmp_path / "gptq", name, torch.zeros(64, dtype=torch.int32))
    with pytest.raises(
        CheckpointError, match=f"tensor {name} does not have 32 input features in every group"
    ):
        logits(tmp_path / "gptq")


def test_layers_that_order_one_input_in_two_ways_are_refused_where_they_stay_packed(tmp_path: Path) -> None:
    write_gptq(
        tmp_path / "gptq", tmp_path / "dense", Scheme(reordered=True), orders=(1, 2, 3), num_hidden_layers=5
    )
    assert torch.equal(logits(tmp_path / "gptq"), logits(tmp_path / "dense"))
    with pytest.raises(
        CheckpointError, match=r"_proj orders its inputs otherwise than .*_proj.*desc_act = false"
    ):
        load(tmp_path / "gptq", placed(4))


def test_a_group_size_that_does_not_divide_is_refused(tmp_path: Path) -> None:
    write_gptq(tmp_path / "gptq", tmp_path / "dense", Scheme())
    file = tmp_path / "gptq" / "config.json"
    file.write_text(file.read_text().replace('"group_size": 32', '"group_size": 48'))
    with pytest.raises(CheckpointError, match=r"q_proj is 64 by 64, which groups of 48 .* do not divide"):
        logits(tmp_path / "gptq")
