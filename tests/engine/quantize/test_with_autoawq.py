"""What autoawq itself makes of two tiny models, against what the engine and transformers make of that."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from engine.checkpoint import Checkpoint
from engine.config import EngineConfig
from engine.loaded import LoadedEngine
from engine.low_bit.weight import Int4Weight, unpack
from engine.model import Block, Transformer
from tests.engine.tiny import chain, write_llama, write_model
from tests.engine.tiny_tokenizer import SAMPLE, write_tokenizer

TOKENS = list(range(3, 60, 3))
GROUPS = {"llama": 128, "qwen2": 32}
MAKE_BOTH = """
import sys
from pathlib import Path
from engine.cli import main
from engine.training.quantize import quantize

folder = Path(sys.argv[1])
quantize(folder / "llama", folder / "rows.npy", folder / "llama-awq")
sys.exit(main(["quantize", f"{folder / 'qwen2'}", f"{folder / 'qwen2-awq'}", "--group-size", "32", "--keep",
               "v_proj", "--calibration", f"{folder / 'code.py'}"]))
"""
pytestmark = pytest.mark.slow


def package() -> Path:
    """Where autoawq lies."""
    spec = importlib.util.find_spec("awq")
    if spec is None or not spec.submodule_search_locations:
        reason = "no autoawq here; CONTRIBUTING.md says how to install it"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return Path(spec.submodule_search_locations[0])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two dense models, and both quantised by our commands, beside them."""
    package()
    folder = tmp_path_factory.mktemp("quantised")
    for family in GROUPS:
        write_tokenizer(folder / family)
    write_quantisable(folder / "llama")
    write_model(
        folder / "qwen2", "qwen2", vocab_size=320, head_dim=32, intermediate_size=128, num_hidden_layers=1
    )
    np.save(folder / "rows.npy", np.random.default_rng(0).integers(0, 320, (4, 513)).astype(np.uint16))
    (folder / "code.py").write_text(SAMPLE * 30)
    # In a process of its own: importing autoawq warns, and resets the filters that make warnings errors.
    command = [sys.executable, "-W", "ignore", "-c", MAKE_BOTH, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "100%" in done.stderr
    return folder


def write_quantisable(folder: Path) -> None:
    """A Llama whose matrices hold sixteen evenly spaced values a group, so that four bits lose nothing."""
    write_llama(
        folder,
        vocab_size=320,
        hidden_size=128,
        head_dim=32,
        intermediate_size=256,
        num_hidden_layers=1,
        tie_word_embeddings=True,
    )
    tensors = load_file(folder / "model.safetensors")
    rng = torch.Generator().manual_seed(0)
    for name, tensor in tensors.items():
        if name.endswith("_proj.weight"):
            levels = torch.randint(0, 16, tensor.shape, generator=rng)
            levels[:, 0 :: GROUPS["llama"]], levels[:, 1 :: GROUPS["llama"]] = 0, 15
            tensors[name] = 0.02 * (levels - 8)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def logits(folder: Path) -> Tensor:
    model = Transformer.load(Checkpoint.open(folder), "cpu", "fp32")
    return model.forward(
        Block(TOKENS, chain(TOKENS)), model.new_cache(32), range(len(TOKENS)), lambda _: None
    )


def packing() -> ModuleType:
    """autoawq's own functions for its format: a module that stands alone, unlike the package."""
    spec = importlib.util.spec_from_file_location("packing", package() / "utils" / "packing_utils.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("family", GROUPS)
def test_a_weight_unpacks_as_autoawq_unpacks_it_to_the_bit(made: Path, family: str) -> None:
    tensors, reference = load_file(made / f"{family}-awq" / "model.safetensors"), packing()
    names = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
    assert len(names) == (7 if family == "llama" else 6)
    for name in names:
        stored = [tensors[f"{name}.{part}"] for part in ("qweight", "qzeros", "scales")]
        weight = Int4Weight(*stored)
        codes, zeros = reference.reverse_awq_order(*reference.unpack_awq(*stored[:2], 4), 4)
        assert torch.equal(unpack(weight.qweight), (codes & 15).byte())
        assert torch.equal(unpack(weight.qzeros), (zeros & 15).byte())
        dense = reference.dequantize_gemm(*stored, 4, GROUPS[family])
        assert torch.equal(weight.dequantised(torch.float16), dense.t())


@pytest.mark.parametrize("family", GROUPS)
def test_a_forward_pass_is_that_of_the_dequantised_copy_in_transformers(made: Path, family: str) -> None:
    folder, reference = made / f"{family}-awq", packing()
    tensors = load_file(folder / "model.safetensors")
    dense = {name: t.float() for name, t in tensors.items() if name.rsplit(".")[-1] in ("weight", "bias")}
    for name in (name.removesuffix(".scales") for name in tensors if name.endswith(".scales")):
        stored = [tensors[f"{name}.{part}"] for part in ("qweight", "qzeros", "scales")]
        dense[f"{name}.weight"] = reference.dequantize_gemm(*stored, 4, GROUPS[family]).t().float()
    model = AutoModelForCausalLM.from_pretrained(made / family, dtype=torch.float32)
    missing = model.load_state_dict(dense, strict=False)
    assert not missing.unexpected_keys
    assert missing.missing_keys in ([], ["lm_head.weight"])  # which is the embedding, where it is tied
    with torch.inference_mode():
        expected = model(torch.tensor([TOKENS])).logits[0]
    torch.testing.assert_close(logits(folder), expected, rtol=1e-5, atol=1e-5)


def test_what_four_bits_can_hold_says_what_the_original_says(made: Path) -> None:
    expected = logits(made / "llama")
    assert (logits(made / "llama-awq") - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("family", GROUPS)
def test_what_is_written_is_served_with_the_tokenizer_and_configuration_of_the_original(
    made: Path, family: str
) -> None:
    source, folder = made / family, made / f"{family}-awq"
    checkpoint = Checkpoint.open(folder)
    quantization = checkpoint.config.quantization
    assert quantization is not None
    assert quantization.group_size == GROUPS[family]
    assert quantization.modules_to_not_convert == (() if family == "llama" else ("v_proj",))
    assert checkpoint.tensor("model.norm.weight").dtype == torch.float16
    before, after = (json.loads((path / "config.json").read_text()) for path in (source, folder))
    assert {key for key in after if after[key] != before.get(key)} == {"dtype", "quantization_config"}
    generation = "generation_config.json"
    assert (folder / generation).read_text() == (source / generation).read_text()
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}
    assert not (made / f"{family}-awq.tmp").exists()
    engine = LoadedEngine.load(EngineConfig(model=str(folder), draft_model=None))
    assert engine.tokenizer.vocabulary() == write_tokenizer(made / "again").vocabulary()
