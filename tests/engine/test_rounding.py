from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaForCausalLM

from engine.checkpoint import Checkpoint
from engine.config_tables import ModelName
from engine.decode import Decoder
from engine.errors import ConfigError
from engine.footprint import Footprint
from engine.linear_weights import plain_weight
from engine.low_bit.choice import Kernels
from engine.low_bit.form import ITEM_BYTES, Form, Shape, parts
from engine.low_bit.linear import QuantisedLinear
from engine.low_bit.torch_kernels import agrees
from engine.low_bit.weight import unpack
from engine.model import Block, Transformer
from engine.offload.packed_file import open_source
from engine.policy import PlainPolicy
from engine.progress import untold
from engine.quantization import Rounded
from engine.rounding import to_int4, to_int8
from engine.sampling import SamplingParams
from tests.engine.low_bit.weights import random_rows
from tests.engine.offload.models import LAYERS, placed, session
from tests.engine.scripted import (
    CONTEXT,
    PROMPT,
    VOCABULARY,
    ScriptedPolicy,
    at_random,
    beam,
    oracle,
    run,
    tokens_of,
)
from tests.engine.tiny import chain, write_model

CPU = torch.device("cpu")
TOKENS = [1, 5, 9, 20, 33, 90, 7, 7, 64]
BOTH: list[Rounded] = ["int8", "int4"]


def weights(seed: int, outs: int = 40, ins: int = 64, spread: float = 1.0, middle: float = 0.0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    # Output features differ in size, as they do in models.
    sizes = torch.rand(outs, 1, generator=rng) + 0.1
    return middle + spread * sizes * torch.randn(outs, ins, generator=rng)


@given(
    st.integers(0, 1 << 30),
    st.sampled_from([1e-4, 0.02, 1.0, 300.0]),
    st.sampled_from([0.0, 1.0, -5.0]),
    st.sampled_from([32, 64]),
)
@settings(max_examples=40, deadline=None)
def test_no_weight_is_off_by_more_than_half_a_step(
    seed: int, spread: float, middle: float, group: int
) -> None:
    dense = weights(seed, spread=spread, middle=middle * spread)
    four, eight = to_int4(dense, group), to_int8(dense)
    steps = four.scales.float().t().repeat_interleave(group, 1)
    for weight, step in ((four, steps), (eight, eight.scales.float().unsqueeze(1))):
        off = (weight.dequantised(torch.float32) - dense).abs()
        assert bool((off <= step * (0.5 + 1e-4)).all())


def test_steps_are_as_small_as_the_weights_allow() -> None:
    dense = weights(3)
    grouped = dense.view(40, 2, 32)
    span = (grouped.amax(2).clamp(min=0) - grouped.amin(2).clamp(max=0)).t()
    assert bool((to_int4(dense, 32).scales.float() <= span / 15 * (1 + 2**-7)).all())
    assert bool((to_int8(dense).scales.float() <= dense.abs().amax(1) / 127 * (1 + 2**-7)).all())


def test_every_kernel_holds_a_scale_exactly() -> None:
    for spread in (1e-6, 1e-3, 1.0, 300.0):
        for weight in (to_int4(weights(1, spread=spread), 32), to_int8(weights(1, spread=spread))):
            assert torch.equal(weight.scales.to(torch.bfloat16).float(), weight.scales.float())


def test_nought_stays_nought_and_the_largest_take_the_outermost_codes() -> None:
    dense = torch.zeros(8, 32)
    for weight in (to_int4(dense, 32), to_int8(dense)):
        assert torch.equal(weight.dequantised(torch.float32), dense)
    dense[:, 5] = torch.tensor([-3.0, 2.0, 1.0, 0.0, 7.5, -7.5, 15.0, 1.0])
    four, eight = to_int4(dense, 32), to_int8(dense)
    assert unpack(four.qweight)[5].tolist() == [0, 15, 15, 0, 15, 0, 15, 15]
    assert [code in (0, 126, 127) for code in eight.codes[:, 5].abs().tolist()] == [True] * 8
    for weight in (four, eight):
        assert not bool(weight.dequantised(torch.float32)[:, :5].any())


def test_rounding_in_pieces_is_rounding_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = weights(5, outs=72)
    four, eight = to_int4(dense, 32), to_int8(dense)
    monkeypatch.setattr("engine.rounding._CHUNK", 16)
    pieces_of_four, pieces_of_eight = to_int4(dense, 32), to_int8(dense)
    for name in ("qweight", "qzeros", "scales"):
        assert torch.equal(getattr(four, name), getattr(pieces_of_four, name))
    assert torch.equal(eight.codes, pieces_of_eight.codes)
    assert torch.equal(eight.scales, pieces_of_eight.scales)


def int8_linear(form: Form, dtype: torch.dtype, outs: int = 40) -> tuple[QuantisedLinear, Tensor]:
    weight = to_int8(weights(2, outs))
    shape = Shape(64, outs, 64, bits=8)
    stored = weight.stored(form)
    planned = parts(form, shape)
    assert [(p.name, p.shape, ITEM_BYTES[p.dtype]) for p in planned] == [
        (name, tuple(t.shape), t.itemsize) for name, t in stored.items()
    ]
    kernels = Kernels.of(form, CPU, dtype, 8)
    return QuantisedLinear(stored, shape, None, kernels), weight.dequantised(torch.float32)


@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize("outs", [8, 40, 33])
@pytest.mark.parametrize(("form", "dtype"), [("cpu", torch.bfloat16), ("cuda", torch.float16)])
def test_int8_multiplies_with_the_weight_and_each_row_by_itself(
    form: Form, dtype: torch.dtype, outs: int, rows: int
) -> None:
    linear, dense = int8_linear(form, dtype, outs)
    x = random_rows(rows, 64, dtype)
    product = linear(x)
    assert product.dtype == dtype
    torch.testing.assert_close(product.float(), x.float() @ dense.t(), rtol=0.02, atol=0.1)
    if form == "cpu":
        assert all(torch.equal(linear(x[row : row + 1])[0], product[row]) for row in range(rows))


def test_where_torch_has_no_int8_kernel_the_plain_one_multiplies_or_a_cpu_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing(*_: object) -> Tensor:
        raise NotImplementedError("no such operator")

    monkeypatch.setattr("engine.low_bit.int8_kernel.Int8Kernel.__call__", missing)
    with pytest.raises(ConfigError, match="no INT8 kernel for this CPU; set dtype"):
        int8_linear("cpu", torch.bfloat16)
    linear, dense = int8_linear("cuda", torch.bfloat16)
    x = random_rows(3, 64, torch.bfloat16)
    torch.testing.assert_close(linear(x).float(), x.float() @ dense.t(), rtol=0.02, atol=0.1)
    assert "kernel int8 is left out" in caplog.text


def opened(folder: Path, quantize: Rounded | None) -> Checkpoint:
    return Checkpoint.open(folder, quantize)


def logits(checkpoint: Checkpoint, dtype: Any = "auto") -> Tensor:
    with closing(Transformer.load(checkpoint, "cpu", dtype)) as model:
        block = Block(TOKENS, chain(TOKENS))
        return model.forward(block, model.new_cache(16), range(len(TOKENS)), lambda _: None)


def rounded_by_hand(folder: Path, quantize: Rounded) -> dict[str, Tensor]:
    """The tensors of the model, its linear layers as they come out of rounding."""
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        if name.endswith("_proj.weight"):
            weight = (
                to_int8(tensor)
                if quantize == "int8"
                else to_int4(tensor, 64 if tensor.shape[1] == 64 else 128)
            )
            tensors[name] = weight.dequantised(torch.float16).float()
    return tensors


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("quantize", BOTH)
def test_it_is_the_model_of_the_rounded_weights_in_transformers(
    tmp_path: Path, quantize: Rounded, stored: torch.dtype
) -> None:
    write_model(tmp_path, "llama", intermediate_size=128, dtype=stored)
    # Read anew, for the conversion to `stored` took the rotary frequencies along.
    model = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    model.load_state_dict(rounded_by_hand(tmp_path, quantize))
    with torch.inference_mode():
        expected = model(torch.tensor([TOKENS])).logits[0]
    torch.testing.assert_close(logits(opened(tmp_path, quantize)), expected, rtol=1e-4, atol=1e-4)
    assert not torch.equal(logits(opened(tmp_path, quantize)), logits(opened(tmp_path, None)))


@pytest.mark.parametrize("form", ["cpu", "cuda"])
@pytest.mark.parametrize("quantize", BOTH)
def test_layers_that_stay_packed_give_the_same_wherever_they_are(
    tmp_path: Path, quantize: Rounded, form: Form
) -> None:
    write_model(tmp_path, "llama", intermediate_size=128, num_hidden_layers=LAYERS)
    checkpoint = opened(tmp_path, quantize)
    seen: list[Tensor] = []
    for resident in (4, 1):
        source = open_source(checkpoint, form, "bf16", untold, cache=tmp_path / "packed")
        with closing(
            Transformer.load(checkpoint, "cpu", placement=placed(resident, form=form), source=source)
        ) as m:
            seen.append(session(m))
    assert torch.equal(*seen)
    with closing(Transformer.load(checkpoint, "cpu", "fp32")) as dequantised:
        torch.testing.assert_close(seen[0], session(dequantised), rtol=0.0, atol=0.15)


def test_what_it_takes_is_known_beforehand_and_its_packed_files_are_told_apart(tmp_path: Path) -> None:
    write_model(tmp_path, "llama", intermediate_size=128)
    sizes: dict[str | None, tuple[int, ...]] = {}
    for quantize in (None, *BOTH):
        sizes[quantize] = Footprint.of(ModelName(str(tmp_path), None, quantize), "auto", "cuda").layer_bytes
        with closing(
            open_source(opened(tmp_path, quantize), "cuda", "fp16", untold, cache=tmp_path / "p")
        ) as s:
            assert sizes[quantize] == tuple(s.size_bytes(layer) for layer in range(3))
        # A dense model needs none, and one of the same checkpoint takes the place of the other.
        assert len(list((tmp_path / "p").glob("*.packed"))) == (quantize is not None)
    assert sum(sizes["int4"]) < 0.65 * sum(sizes["int8"]) < 0.65 * 0.65 * sum(sizes[None])


def test_layers_that_no_group_divides_stay_as_they_are(tmp_path: Path) -> None:
    write_model(tmp_path, "llama", hidden_size=72, intermediate_size=128)
    checkpoint = opened(tmp_path, "int4")
    found = Footprint.of(ModelName(str(tmp_path), None, "int4"), "auto", "cuda")
    with closing(open_source(checkpoint, "cuda", "fp16", untold, cache=None)) as source:
        assert found.layer_bytes == tuple(source.size_bytes(layer) for layer in range(3))
    stays, changes = "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"
    for module, outs, ins in ((stays, 64, 72), (changes, 72, 128)):
        stored = checkpoint.tensor(f"{module}.weight")
        assert torch.equal(plain_weight(checkpoint, module, ins, outs), stored) == (module == stays)


@pytest.mark.parametrize("form", ["cpu", "cuda"])
@pytest.mark.parametrize("quantize", BOTH)
def test_layers_of_odd_sizes_are_multiplied_all_the_same(
    tmp_path: Path, quantize: Rounded, form: Form
) -> None:
    """Torch's kernel for INT8 would read beyond such a weight, and a word would be of two modules."""
    odd: dict[str, Any] = {"hidden_size": {"int8": 72, "int4": 64}[quantize], "head_dim": 20}
    odd |= {"num_hidden_layers": LAYERS, "intermediate_size": 128, "num_key_value_heads": 1}
    write_model(tmp_path, "llama", **odd)
    checkpoint = opened(tmp_path, quantize)
    source = open_source(checkpoint, form, "bf16", untold, cache=None)
    with closing(
        Transformer.load(checkpoint, "cpu", placement=placed(4, form=form), source=source)
    ) as packed:
        seen = session(packed)
    with closing(Transformer.load(checkpoint, "cpu", "fp32")) as dequantised:
        torch.testing.assert_close(seen, session(dequantised), rtol=0.0, atol=0.15)


@pytest.mark.parametrize(("quantize", "temperature"), [("int8", 0.0), ("int4", 1.3)])
def test_speculation_on_rounded_weights_changes_how_fast_text_comes_and_not_which(
    tmp_path: Path, quantize: Rounded, temperature: float
) -> None:
    write_model(tmp_path, "llama", scale=3.0, vocab_size=VOCABULARY, num_hidden_layers=LAYERS)
    params = SamplingParams(temperature=temperature, seed=3)
    checkpoint = opened(tmp_path, quantize)
    source = open_source(checkpoint, "cpu", "bf16", untold, cache=None)
    with closing(
        Transformer.load(checkpoint, "cpu", placement=placed(4), source=source, row_multiple=16)
    ) as model:
        plain = tokens_of(run(Decoder(model, PlainPolicy(), CONTEXT), params=params))
        truth = Decoder(model, ScriptedPolicy(oracle([*PROMPT, *plain])), CONTEXT)
        for policy in (ScriptedPolicy(at_random(3)), ScriptedPolicy(beam(4, 3))):
            assert tokens_of(run(Decoder(model, policy, CONTEXT), params=params)) == plain
        steps = run(truth, params=params)
        assert tokens_of(steps) == plain
        assert len(steps) < len(plain)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_int8_multiplies_rightly_on_the_device(dtype: torch.dtype) -> None:
    device, shape = torch.device("cuda"), Shape(2048, 4096, 2048, bits=8)
    parts = {name: part.to(device) for name, part in to_int8(weights(1, 4096, 2048)).stored("cuda").items()}
    kernels = Kernels.of("cuda", device, dtype, 8)
    for rows in (1, 7, 64, 200):
        x = random_rows(rows, 2048, dtype).to(device)
        product = kernels.multiply(x, parts, shape)
        assert agrees(product, x, parts, shape)
        assert torch.equal(product, kernels.multiply(x, parts, shape))
