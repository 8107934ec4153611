"""Adapters against PEFT's own computation, and what of a folder is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from engine.checkpoint import Checkpoint
from engine.config import EngineConfig
from engine.config_tables import AdapterName
from engine.errors import CheckpointError, NoAdapter
from engine.footprint import footprints
from engine.lora.adapter import Adapter
from engine.lora.files import AdapterFiles
from engine.model import Block, Transformer
from engine.offload.demand import Part, demands
from tests.engine.lora import EVERY, change_settings, rewrite, write_adapter
from tests.engine.offload import models
from tests.engine.test_awq import write_awq
from tests.engine.tiny import write_llama, write_model

# PEFT reads a property that transformers warns about.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

TEXT = [1, 5, 9, 20, 33, 90, 7, 7, 64]


def nothing(_layer: int) -> None: ...


def load(folder: Path, **options: Any) -> Transformer:
    return Transformer.load(Checkpoint.open(folder), "cpu", "fp32", **options)


def logits(model: Transformer, adapter: Path | None) -> Tensor:
    """Of `TEXT`, in two passes."""
    cache = model.new_cache(16)
    cache.use(model.read_adapter(adapter) if adapter else None)
    first = model.forward(Block.chain(TEXT[:5]), cache, range(5), nothing)
    cache.keep(range(5), TEXT[:5])
    return torch.cat([first, model.forward(Block.chain(TEXT[5:]), cache, range(4), nothing)])


def theirs(model: Callable[..., Any]) -> Tensor:
    with torch.no_grad():
        return model(torch.tensor([TEXT])).logits[0]


ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "everything": ("llama", {}),
    "all-linear": ("qwen2", {"target_modules": "all-linear", "use_rslora": True}),
    "some": ("qwen3", {"target_modules": ["q_proj", "v_proj", "mlp.up_proj"]}),
    "patterns": (
        "mistral",
        {
            "rank_pattern": {"q_proj": 7, r"layers\.1\.mlp\..*": 3, "^model.layers.2.mlp.up_proj": 2},
            "alpha_pattern": {"k_proj": 11, "layers.0.self_attn.[qv]_proj": 1.5},
        },
    ),
    "a pattern of targets": (
        "llama",
        {"target_modules": r".*\.(q_proj|down_proj)", "exclude_modules": r".*layers\.1\..*"},
    ),
    "some layers": ("llama", {"layers_to_transform": [0, 2], "exclude_modules": ["k_proj"]}),
}


@pytest.mark.parametrize("row_multiple", [1, 4])
@pytest.mark.parametrize(("family", "options"), ADAPTERS.values(), ids=ADAPTERS)
def test_logits_are_those_of_peft(
    family: str, options: dict[str, Any], row_multiple: int, tmp_path: Path
) -> None:
    base = write_model(tmp_path, family)
    before = theirs(base)
    expected = theirs(write_adapter(tmp_path / "adapter", base, **options))
    ours = load(tmp_path, row_multiple=row_multiple)
    assert (expected - before).abs().max() > 0.1
    torch.testing.assert_close(logits(ours, tmp_path / "adapter"), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits(ours, None), before, atol=1e-4, rtol=1e-4)


def test_a_row_has_the_same_bits_whatever_pass_computes_it_on_the_reference_path(tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapter", write_llama(tmp_path))
    model = load(tmp_path, row_multiple=16)
    cache = model.new_cache(16)
    cache.use(model.read_adapter(tmp_path / "adapter"))
    whole = model.forward(Block.chain(TEXT), cache, range(len(TEXT)), nothing)
    assert torch.equal(whole, logits(model, tmp_path / "adapter"))


@pytest.fixture(scope="module")
def awq(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensor]:
    """A folder with an INT4 model and an adapter, and PEFT's logits over its dequantised twin."""
    folder = tmp_path_factory.mktemp("awq")
    for name in ("awq", "dense"):
        (folder / name).mkdir()
    write_awq(folder / "awq", folder / "dense")
    base = AutoModelForCausalLM.from_pretrained(folder / "dense", dtype=torch.float32)
    return folder, theirs(write_adapter(folder / "adapter", base, size=0.1))


def test_an_int4_base_is_adapted_as_its_dequantised_twin(awq: tuple[Path, Tensor]) -> None:
    folder, expected = awq
    torch.testing.assert_close(
        logits(load(folder / "awq"), folder / "adapter"), expected, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("resident", [models.LAYERS, 1])
def test_layers_that_stay_packed_or_stream_are_adapted_too(resident: int, tmp_path: Path) -> None:
    models.write_int4(tmp_path, "llama")
    shape = {"num_hidden_layers": models.LAYERS, "intermediate_size": 128}
    write_adapter(tmp_path / "adapter", write_llama(tmp_path / "dense", **shape), size=0.1)
    expected = logits(load(tmp_path), tmp_path / "adapter")
    ours = models.load(tmp_path, models.placed(resident))
    off = logits(ours, tmp_path / "adapter") - expected
    before = logits(ours, None) - expected
    ours.close()
    assert off.norm() < 0.03 * expected.norm() < 0.3 * before.norm(), "bfloat16 has eight bits"


def test_no_pass_with_an_adapter_is_replayed(tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapter", write_llama(tmp_path))
    model = load(tmp_path)
    plain, adapted = logits(model, None), logits(model, tmp_path / "adapter")
    replayed: list[int] = []

    def replay(inputs: Any, *_rest: object) -> None:
        replayed.append(len(inputs.tokens))

    model.replay = replay
    assert torch.equal(logits(model, None), plain)
    assert replayed == [5, 4]
    assert torch.equal(logits(model, tmp_path / "adapter"), adapted)
    assert replayed == [5, 4]


def test_names_as_old_and_foreign_tools_write_them_are_read(tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapter", write_llama(tmp_path), target_modules=["v_proj"])
    model = load(tmp_path)
    expected = logits(model, tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    for old, new in (
        ("lora_A.", "lora_A.default."),
        ("base_model.model.model.", "base_model.model."),
        ("base_model.", ""),
    ):
        renamed = {name.replace(old, new): tensor for name, tensor in tensors.items()}
        save_file(renamed, path)
        assert torch.equal(logits(model, tmp_path / "adapter"), expected)


WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
A, B = "layers.1.mlp.up_proj.lora_A.weight", "layers.1.mlp.up_proj.lora_B.weight"


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")


def shortened(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-8])


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no settings": (lambda f: (f / SETTINGS).unlink(), f"has no {SETTINGS}"),
    "no JSON": (lambda f: (f / SETTINGS).write_text("{"), f"{SETTINGS} cannot be used"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), f"has no {WEIGHTS}"),
    "pickle": (pickled, r"pickle \(adapter_model.bin\), which can run code"),
    "cut short": (shortened, r"cut short: tensor \S+ lies beyond its end"),
    "no safetensors": (lambda f: (f / WEIGHTS).write_bytes(b"PK\x03\x04" * 9), "is damaged"),
    "empty": (lambda f: (f / WEIGHTS).write_bytes(b"\x02" + b"\0" * 7 + b"{}"), "holds no tensors"),
    "other method": (
        lambda f: change_settings(f, peft_type="LOHA"),
        "peft_type is 'LOHA'; supported is 'LORA'",
    ),
    "DoRA": (lambda f: change_settings(f, use_dora=True), "use_dora is not supported"),
    "Conv1D": (lambda f: change_settings(f, fan_in_fan_out=True), "fan_in_fan_out is not supported"),
    "saved modules": (lambda f: change_settings(f, modules_to_save=["lm_head"]), "modules_to_save is not"),
    "bias": (lambda f: change_settings(f, bias="all"), "bias is 'all'; supported is 'none'"),
    "residual": (lambda f: change_settings(f, init_lora_weights="pissa_niter_4"), "changed the base model"),
    "no targets": (lambda f: change_settings(f, target_modules=None), "target_modules is missing"),
    "bad pattern": (lambda f: change_settings(f, target_modules="(q"), r"target_modules holds '\(q'"),
    "bad rank pattern": (lambda f: change_settings(f, rank_pattern={"*": 2}), r"rank_pattern holds"),
    "blocks": (lambda f: change_settings(f, layers_pattern="blocks"), "layers_pattern is 'blocks'"),
    "layers of a pattern": (
        lambda f: change_settings(f, target_modules=".*_proj", layers_to_transform=[1]),
        "layers_to_transform needs a list",
    ),
    "rank too large": (lambda f: change_settings(f, r=257), "a rank of 257; it must be between 1 and 256"),
    "rank 0": (lambda f: change_settings(f, rank_pattern={"q_proj": 0}), "a rank of 0"),
    "alpha": (lambda f: change_settings(f, lora_alpha="much"), "lora_alpha"),
    "other rank": (
        lambda f: change_settings(f, r=5),
        r"lora_A.weight has shape \[4, 96\]; .* ask for \[5, 96\]",
    ),
    "fewer targets": (lambda f: change_settings(f, target_modules=["q_proj"]), "not of one adapter"),
    "fewer layers": (lambda f: change_settings(f, layers_to_transform=1), r"layers.0\S+ is there, but"),
    "missing pair": (
        lambda f: rewrite(f, **{A: None, B: None}),
        "has no tensors for model.layers.1.mlp.up_proj",
    ),
    "missing B": (lambda f: rewrite(f, **{B: None}), f"{A} is there without its lora_B"),
    "other shape": (lambda f: rewrite(f, **{A: torch.zeros(4, 8)}), rf"{A} has shape \[4, 8\]"),
    "not a matrix": (lambda f: rewrite(f, **{A: torch.zeros(4)}), rf"{A} has shape \[4\]; expected a matrix"),
    "integers": (lambda f: rewrite(f, **{A: torch.zeros(4, 64).int()}), f"{A} is I32; expected floating"),
    "not finite": (
        lambda f: rewrite(f, **{A: torch.full((4, 64), torch.nan)}),
        f"{A} holds numbers that are not",
    ),
    "head": (
        lambda f: rewrite(f, **{"base_model.model.lm_head.lora_A.weight": torch.zeros(4, 64)}),
        "lm_head.lora_A.weight adapts what cannot be adapted; supported are the linear layers q_proj, k_proj",
    ),
    "embedding": (
        lambda f: rewrite(f, **{"base_model.model.model.embed_tokens.lora_embedding_A": torch.zeros(4, 96)}),
        "embed_tokens.lora_embedding_A adapts what cannot be adapted",
    ),
    "another model's": (
        lambda f: rewrite(f, **{A.replace("layers.1", "layers.9"): torch.zeros(4, 64)}),
        "is for layer 9, but the model has 2 layers",
    ),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Transformer, Path]:
    """A model, and a folder to write adapters for it in."""
    folder = tmp_path_factory.mktemp("base")
    write_adapter(folder / "good", write_llama(folder, num_hidden_layers=2))
    return load(folder), folder / "good"


@pytest.mark.parametrize(("damage", "message"), BAD.values(), ids=BAD)
def test_what_is_wrong_with_a_folder_is_said_by_name(
    damage: Callable[[Path], object], message: str, base: tuple[Transformer, Path], tmp_path: Path
) -> None:
    model, good = base
    folder = tmp_path / "adapter"
    shutil.copytree(good, folder)
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        model.read_adapter(folder)
    assert str(folder) in str(caught.value)
    assert not str(caught.value).endswith("."), "whoever shows it goes on"


KEYS = [
    *(
        "peft_type",
        "r",
        "lora_alpha",
        "use_rslora",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
    ),
    *("layers_pattern", "rank_pattern", "alpha_pattern", "bias", "init_lora_weights", "use_dora"),
]
ANYTHING: st.SearchStrategy[Any] = st.sampled_from(
    [
        None,
        True,
        False,
        0,
        -1,
        3,
        10**400,
        1e308,
        "",
        "q_proj",
        "(",
        [],
        ["q_proj"],
        [1],
        [["a"]],
        {},
        {"q_proj": 2},
    ]
)


@given(
    said=st.dictionaries(st.sampled_from(KEYS), ANYTHING, min_size=1),
    tensor=st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets"]), ANYTHING),
)
@settings(max_examples=60)
def test_whatever_the_files_say_it_is_used_or_refused(
    said: dict[str, Any],
    tensor: dict[str, Any],
    base: tuple[Transformer, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    model, good = base
    folder = tmp_path_factory.mktemp("any") / "adapter"
    shutil.copytree(good, folder)
    change_settings(folder, **said)
    raw = (good / WEIGHTS).read_bytes()
    begin = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:begin])
    header[min(header)] |= tensor
    written = json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(len(written).to_bytes(8, "little") + written + raw[begin:])
    with suppress(CheckpointError):
        model.read_adapter(folder)


def test_a_folder_that_is_not_there_is_no_adapter(base: tuple[Transformer, Path], tmp_path: Path) -> None:
    with pytest.raises(NoAdapter, match="is no folder"):
        base[0].read_adapter(tmp_path / "nowhere")


def test_numbers_too_large_for_the_dtype_are_refused(tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapter", write_llama(tmp_path), target_modules=["q_proj"], lora_alpha=1e6)
    half = Transformer.load(Checkpoint.open(tmp_path), "cpu", "fp16")
    with pytest.raises(
        CheckpointError, match=r"q_proj.lora_B.weight holds numbers too large for torch.float16"
    ):
        half.read_adapter(tmp_path / "adapter")


def test_sizes_are_known_without_reading_a_weight(base: tuple[Transformer, Path]) -> None:
    model, good = base
    files = AdapterFiles.open(good, model.config)
    assert files.numbers == sum(tensor.numel() for tensor in load_file(good / WEIGHTS).values())
    assert [len(layer) for layer in files.layers] == [len(EVERY)] * 2


def test_the_memory_plan_counts_adapters_in_the_targets_dtype(base: tuple[Transformer, Path]) -> None:
    model, good = base
    config = EngineConfig(
        model=str(good.parent), draft_model=None, dtype="bf16", adapters=(AdapterName("x", str(good)),)
    )
    with_it, without = (
        next(demands(each, *footprints(each, "cpu"), streams=False)).fixed()
        for each in (config, replace(config, adapters=()))
    )
    [part] = set(with_it) - set(without)
    assert part == Part("LoRA adapters", "device", 2 * AdapterFiles.open(good, model.config).numbers, "1")


def test_each_layers_part_lies_where_the_layer_is_computed(base: tuple[Transformer, Path]) -> None:
    model, good = base
    devices = [torch.device("cpu"), torch.device("meta")]
    adapter = Adapter.load(
        AdapterFiles.open(good, model.config), model.config, torch.float32, devices.__getitem__
    )
    for layer, device in zip(adapter.layers, devices, strict=True):
        assert {part.up.device for low in layer.values() for part in low.parts} == {device}
        assert {low.down.device for low in layer.values()} == {device}
