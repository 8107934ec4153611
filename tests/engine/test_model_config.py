from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from transformers import PreTrainedConfig

from engine.errors import CheckpointError, ConfigError
from engine.model_config import (
    ARCHITECTURES,
    LinearRope,
    Llama3Rope,
    ModelConfig,
    RopeScaling,
    YarnRope,
    read_model_config,
)
from engine.quantization import Quantization
from tests.engine.tiny import FAMILIES

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
FULL, SLIDING = "full_attention", "sliding_attention"
QWEN2 = {"architectures": ["Qwen2ForCausalLM"]}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1, "high_freq_factor": 4.0}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "damp_percent": 0.01, "meta": {"mse": 0.0}}


def read(folder: Path, generation: dict[str, Any] | None = None, **changes: Any) -> ModelConfig:
    (folder / "config.json").write_text(json.dumps(LLAMA | changes))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return read_model_config(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_absent_keys_take_the_family_s_defaults(tmp_path: Path, family: str) -> None:
    kind = FAMILIES[family]
    theirs = cast("Callable[..., PreTrainedConfig]", kind.config_class)(num_attention_heads=32)
    ours = read(tmp_path, architectures=[kind.__name__], num_attention_heads=32, hidden_size=4096)
    head_dim = getattr(theirs, "head_dim", theirs.hidden_size // 32)
    eos = theirs.eos_token_id
    assert (ours.num_kv_heads, ours.head_dim) == (theirs.num_key_value_heads, head_dim)
    assert ours.rms_norm_eps == theirs.rms_norm_eps
    assert (ours.rope_theta, ours.rope_scaling) == (theirs.rope_parameters["rope_theta"], None)
    assert ours.max_position == theirs.max_position_embeddings
    assert (ours.bos_token_id, ours.eos_token_ids) == (theirs.bos_token_id, () if eos is None else (eos,))
    assert ours.tie_embeddings == theirs.tie_word_embeddings
    assert ours.windows == ((4096, 4096) if family == "mistral" else (None, None))
    assert (ours.output_bias, ours.mlp_bias, ours.quantization) == (False, False, None)
    assert (ours.qkv_bias, ours.qk_norm) == (family == "qwen2", family == "qwen3")


@pytest.mark.parametrize(
    ("architecture", "biases"),
    [
        ("LlamaForCausalLM", (True, True, True)),
        ("Qwen2ForCausalLM", (True, False, False)),
        ("Qwen3ForCausalLM", (True, True, False)),
        ("MistralForCausalLM", (False, False, False)),
    ],
)
def test_biases_are_where_the_family_s_model_has_them(
    tmp_path: Path, architecture: str, biases: tuple[bool, ...]
) -> None:
    config = read(
        tmp_path, architectures=[architecture], num_key_value_heads=4, attention_bias=True, mlp_bias=True
    )
    assert (config.qkv_bias, config.output_bias, config.mlp_bias) == biases


@pytest.mark.parametrize(
    ("architecture", "changes", "windows"),
    [
        ("LlamaForCausalLM", {"sliding_window": 8}, (None, None)),
        ("MistralForCausalLM", {"sliding_window": 8}, (8, 8)),
        ("MistralForCausalLM", {"sliding_window": None}, (None, None)),
        ("Qwen2ForCausalLM", {"sliding_window": 8, "max_window_layers": 1}, (None, None)),
        ("Qwen2ForCausalLM", {"use_sliding_window": True, "max_window_layers": 1}, (None, 4096)),
        ("Qwen3ForCausalLM", {"use_sliding_window": True, "layer_types": [SLIDING, FULL]}, (4096, None)),
    ],
)
def test_windows_are_those_of_the_family_s_model(
    tmp_path: Path, architecture: str, changes: dict[str, Any], windows: tuple[int | None, ...]
) -> None:
    assert read(tmp_path, architectures=[architecture], num_key_value_heads=4, **changes).windows == windows


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}},
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
        {"rope_theta": 5e5, "rope_scaling": {"type": "llama3", **LLAMA3}},
    ],
)
def test_llama3_rope_is_read_in_every_spelling(tmp_path: Path, rope: dict[str, Any]) -> None:
    config = read(tmp_path, max_position_embeddings=512, **rope)
    assert config.rope_theta == 5e5
    assert config.rope_scaling == Llama3Rope(8.0, 1.0, 4.0, 512)


@pytest.mark.parametrize(
    ("written", "scaling", "max_position"),
    [
        ({"type": "linear", "factor": 4}, LinearRope(4.0), 512),
        ({"type": "yarn", "factor": 1.0}, YarnRope(1.0, 512, 1.0, 32.0, 1.0, True), 512),
        (
            {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256, "attention_factor": 1.5},
            YarnRope(4.0, 256, 1.5, 32.0, 1.0, True),
            1024,
        ),
    ],
)
def test_stretched_rope_is_read_with_the_context_it_reaches(
    tmp_path: Path, written: dict[str, Any], scaling: RopeScaling, max_position: int
) -> None:
    config = read(tmp_path, max_position_embeddings=512, rope_scaling=written)
    assert (config.rope_scaling, config.max_position) == (scaling, max_position)


@pytest.mark.parametrize(
    ("generation", "end"),
    [
        (None, (7,)),
        ({}, (7,)),
        ({"eos_token_id": 8}, (8,)),
        ({"eos_token_id": [8, 9]}, (8, 9)),
    ],
)
def test_generation_config_has_the_last_word_on_end_tokens(
    tmp_path: Path, generation: dict[str, Any] | None, end: tuple[int, ...]
) -> None:
    assert read(tmp_path, generation, eos_token_id=7).eos_token_ids == end


def test_a_model_may_have_no_end_token(tmp_path: Path) -> None:
    assert read(tmp_path, eos_token_id=None).eos_token_ids == ()


def test_awq_is_read_with_the_modules_it_leaves_alone(tmp_path: Path) -> None:
    config = read(tmp_path, quantization_config=AWQ | {"modules_to_not_convert": ["o_proj"]})
    assert config.quantization is not None
    assert config.quantization.group_size == 32
    assert config.quantization.converts("model.layers.0.self_attn.q_proj")
    assert not config.quantization.converts("model.layers.0.self_attn.o_proj")
    assert not config.quantization.converts("lm_head")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sym": True}, Quantization("gptq", 4, 32)),
        ({"checkpoint_format": "gptq_v2", "dynamic": None}, Quantization("gptq_v2", 4, 32)),
        ({"format": "gptq_v2"}, Quantization("gptq_v2", 4, 32)),
        ({"desc_act": True}, Quantization("gptq", 4, 32, reordered=True)),
        # All input features are one group, so there is nothing to put in order.
        ({"desc_act": True, "group_size": -1}, Quantization("gptq", 4, -1)),
        (
            {"modules_in_block_to_quantize": [["self_attn.q_proj", "self_attn.k_proj"], ["mlp.up_proj"]]},
            Quantization("gptq", 4, 32, False, ("v_proj", "o_proj", "gate_proj", "down_proj")),
        ),
    ],
)
def test_gptq_is_read_with_its_formats_and_exceptions(
    tmp_path: Path, changes: dict[str, Any], expected: Quantization
) -> None:
    assert read(tmp_path, quantization_config=GPTQ | changes).quantization == expected


def test_what_is_quantised_already_is_not_to_be_quantised(tmp_path: Path) -> None:
    read(tmp_path, quantization_config=GPTQ)
    with pytest.raises(ConfigError, match=r"quantize = 'int8' is for dense weights.*already.*gptq INT4"):
        read_model_config(tmp_path, "int8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": ["MambaForCausalLM"]},
            "MambaForCausalLM; supported are " + ", ".join(ARCHITECTURES),
        ),
        ({"architectures": []}, "architectures is none; supported are LlamaForCausalLM"),
        ({"hidden_size": "64"}, "`int`.*hidden_size"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"num_key_value_heads": 3}, r"num_attention_heads \(4\) must be a multiple of .* \(3\)"),
        ({"head_dim": 7}, r"head_dim \(7\) must be even"),
        ({"hidden_act": "gelu"}, "hidden_act is gelu"),
        (
            {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
            "rope type is dynamic; supported are default",
        ),
        ({"rope_scaling": {"rope_type": "linear"}}, "linear RoPE needs factor"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "mscale": 1.0}}, "yarn RoPE's mscale"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "llama3 RoPE needs low_freq_factor"),
        (
            {"rope_scaling": {"rope_type": "llama3", **LLAMA3, "high_freq_factor": 1.0}},
            "high_freq_factor must exceed",
        ),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        (
            QWEN2 | {"layer_types": [FULL, "chunked_attention"]},
            "layer_types has chunked_attention; supported",
        ),
        (QWEN2 | {"layer_types": [FULL]}, "layer_types has 1 entries, num_hidden_layers is 2"),
        (
            QWEN2 | {"layer_types": [FULL, SLIDING]},
            "layer_types has sliding_attention, but use_sliding_window",
        ),
        ({"architectures": ["MistralForCausalLM"], "layer_types": [FULL] * 2}, "has no layer_types"),
        ({"quantization_config": {"quant_method": "hqq"}}, "'hqq'; supported are 'awq', 'gptq'"),
        ({"quantization_config": AWQ | {"bits": 8}}, "bits is 8; supported is 4"),
        ({"quantization_config": AWQ | {"version": "gemv"}}, "version is 'gemv'; supported is 'gemm'"),
        ({"quantization_config": AWQ | {"zero_point": False}}, "zero_point is false"),
        ({"quantization_config": AWQ | {"group_size": 0}}, "group_size is 0"),
        ({"quantization_config": GPTQ | {"bits": 8}}, "bits is 8; supported is 4"),
        ({"quantization_config": GPTQ | {"checkpoint_format": "marlin"}}, "checkpoint_format is 'marlin'"),
        ({"quantization_config": GPTQ | {"format": "bitblas"}}, "checkpoint_format is 'bitblas'"),
        ({"quantization_config": GPTQ | {"pack_dtype": "int16"}}, "pack_dtype is 'int16'"),
        ({"quantization_config": GPTQ | {"lm_head": True}}, "lm_head is true"),
        ({"quantization_config": GPTQ | {"dynamic": {"-:.*down.*": {}}}}, "dynamic sets modules apart"),
    ],
)
def test_what_cannot_be_run_is_refused_by_file_and_key(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        read(tmp_path, **changes)
    assert str(tmp_path / "config.json") in str(caught.value)


@pytest.mark.parametrize("data", [b'{"architectures": ', b'{"architectures": ["\xff"]}'])
def test_a_file_that_is_no_json_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"config\.json cannot be used"):
        read_model_config(tmp_path)


def test_a_folder_without_configuration_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json does not exist"):
        read_model_config(tmp_path)
