from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.errors import CheckpointError
from engine.model_config import ModelConfig, RopeScaling, read_model_config

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1, "high_freq_factor": 4.0}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}


def read(folder: Path, generation: dict[str, Any] | None = None, **changes: Any) -> ModelConfig:
    (folder / "config.json").write_text(json.dumps(LLAMA | changes))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return read_model_config(folder)


def test_absent_keys_take_the_family_s_defaults(tmp_path: Path) -> None:
    config = read(tmp_path)
    assert (config.num_kv_heads, config.head_dim) == (4, 16)
    assert (config.rms_norm_eps, config.rope_theta, config.rope_scaling) == (1e-6, 10_000.0, None)
    assert (config.bos_token_id, config.eos_token_ids) == (1, (2,))
    assert (config.tie_embeddings, config.attention_bias, config.mlp_bias) == (False, False, False)
    assert config.quantization is None


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
    assert config.rope_scaling == RopeScaling(8.0, 1.0, 4.0, 512)


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
    ("changes", "message"),
    [
        ({"architectures": ["MambaForCausalLM"]}, "MambaForCausalLM; supported are LlamaForCausalLM"),
        ({"architectures": []}, "architectures is none; supported are LlamaForCausalLM"),
        ({"hidden_size": "64"}, "`int`.*hidden_size"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"num_key_value_heads": 3}, r"num_attention_heads \(4\) must be a multiple of .* \(3\)"),
        ({"head_dim": 7}, r"head_dim \(7\) must be even"),
        ({"hidden_act": "gelu"}, "hidden_act is gelu"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope type is yarn; supported are default"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "llama3 RoPE needs factor"),
        (
            {"rope_scaling": {"rope_type": "llama3", **LLAMA3, "high_freq_factor": 1.0}},
            "high_freq_factor must exceed",
        ),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quant_method is 'gptq'; supported is 'awq'"),
        ({"quantization_config": AWQ | {"bits": 8}}, "bits is 8; supported is 4"),
        ({"quantization_config": AWQ | {"version": "gemv"}}, "version is 'gemv'; supported is 'gemm'"),
        ({"quantization_config": AWQ | {"zero_point": False}}, "zero_point is false"),
        ({"quantization_config": AWQ | {"group_size": 0}}, "group_size is 0"),
    ],
)
def test_what_cannot_be_run_is_refused_by_file_and_key(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        read(tmp_path, **changes)
    assert str(tmp_path / "config.json") in str(caught.value)


def test_a_file_that_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ')
    with pytest.raises(CheckpointError, match=r"config\.json cannot be used"):
        read_model_config(tmp_path)


def test_a_folder_without_configuration_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json does not exist"):
        read_model_config(tmp_path)
