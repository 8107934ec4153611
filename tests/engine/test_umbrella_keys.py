"""Configurations written for UMbreLLa mean here what they mean there."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest

from engine.config import EngineConfig, load, load_with_warnings
from engine.errors import ConfigError

Keys = dict[str, object]

LLAMA_70B = "hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4"
LLAMA_8B = "hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4"
LLAMA_1B = "meta-llama/Llama-3.2-1B-Instruct"

_SAMPLED: Keys = {"topk": 32, "temperature": 0.6, "topp": 0.9, "repetition_penalty": 1.05}
_GREEDY: Keys = {"topk": 32, "temperature": 0, "topp": 0.9, "repetition_penalty": 1.0}
_STREAMED: Keys = {
    "model": LLAMA_70B,
    "offload": True,
    "generation_length": 256,
    "engine": "dynamic",
    "num_beams": 24,
    "template": "meta-llama3",
}
_RESIDENT: Keys = {
    "offload": False,
    "cuda_graph": True,
    "max_length": 2048,
    "num_cache_layers": 0,
    "generation_length": 256,
    "max_turns": 16,
    "engine": "static",
    "exit_layer": 16,
}


def _streamed(draft: str, max_length: int, layers: int, turns: int, width: int, depth: int) -> Keys:
    size: Keys = {"max_length": max_length, "num_cache_layers": layers, "width": width, "depth": depth}
    return _STREAMED | {"draft_model": draft, "max_turns": turns} | size


def _resident(model: str, draft: str, template: str, tree: str) -> Keys:
    names: Keys = {"model": model, "draft_model": draft, "template": template}
    return _RESIDENT | names | {"growmap_path": f"../umbrella/trees/{tree}.json"}


_12GB = _streamed(LLAMA_1B, 4096, 0, 12, 16, 16)
_16GB = _streamed(LLAMA_8B, 8192, 0, 16, 16, 24)
_24GB = _streamed(LLAMA_8B, 8192, 16, 16, 21, 24)
_CHAT_TREE, _CODE_TREE, _CODE_DRAFT = (
    "sequoia_tree-3x4",
    "8b_sequoia_tree-5x6",
    "InfiniAILab/CodeDrafter-500M",
)

PUBLISHED: dict[str, Keys] = {
    "chat_config_12gb": _12GB | _SAMPLED,
    "chat_config_16gb": _16GB | _SAMPLED,
    "chat_config_24gb": _24GB | _SAMPLED,
    "chat_config_48gb": _resident(LLAMA_70B, LLAMA_1B, "meta-llama3", _CHAT_TREE) | _SAMPLED,
    "chat_config_48gb_qwen": _resident(
        "Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-0.5B-Instruct", "qwen", _CHAT_TREE
    )
    | _SAMPLED
    | {"exit_layer": 24},
    "code_config_24gb": _resident("meta-llama/Llama-3.1-8B-Instruct", LLAMA_1B, "llama3-code", _CODE_TREE)
    | _GREEDY,
    "code_config_48gb": _resident(LLAMA_70B, _CODE_DRAFT, "llama3-code", _CODE_TREE) | _GREEDY,
    "greedy_config_12gb": _12GB | _GREEDY,
    "greedy_config_16gb": _16GB | _GREEDY,
    "greedy_config_24gb": _24GB | _GREEDY,
    "greedy_config_48gb": _resident(
        "casperhansen/llama-3.3-70b-instruct-awq", LLAMA_1B, "meta-llama3", _CHAT_TREE
    )
    | _GREEDY,
    "the README's": _12GB | _SAMPLED | {"cuda_graph": False, "growmap_path": "../umbrella/trees/a.json"},
}
"""The keys and values of every configuration that UMbreLLa publishes."""


def written(folder: Path, content: Keys) -> Path:
    path = folder / "engine.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_configuration_is_read_key_by_key_or_answered_with_one_warning_a_key(
    tmp_path: Path, name: str
) -> None:
    keys = PUBLISHED[name]
    path = written(tmp_path, keys)

    config, warnings = load_with_warnings(path)

    named = [re.sub(r": (\w+) has no effect.*", r": \1", warning) for warning in warnings]
    without_meaning = ["max_turns", "exit_layer"] + ([] if keys["offload"] else ["num_cache_layers"])
    assert sorted(named) == sorted(f"{path}: {key}" for key in without_meaning if key in keys)
    expected = {key: value for key, value in keys.items() if key not in without_meaning}
    if "growmap_path" in keys:
        expected["growmap_path"] = str(tmp_path / str(keys["growmap_path"]))
    assert expected == {key: getattr(config, key) for key in expected}


def test_a_dynamic_tree_has_width_times_depth_nodes_and_a_root_as_there(tmp_path: Path) -> None:
    assert load(written(tmp_path, _24GB)).tree_size == 21 * 24 + 1
    assert load(written(tmp_path, _24GB | {"tree_size": 64})).tree_size == 64
    assert load(written(tmp_path, {"width": 1000, "depth": 64})).tree_size == 1024
    assert load(written(tmp_path, {"width": 16})).tree_size == EngineConfig().tree_size
    with pytest.raises(ConfigError, match="depth must be int, not str"):
        load(written(tmp_path, {"width": 16, "depth": "24"}))
    with pytest.raises(ConfigError, match="width must be between"):
        load(written(tmp_path, {"width": -1, "depth": 2}))


@pytest.mark.parametrize(
    ("there", "here"),
    [
        ("float16", "fp16"),
        ("torch.bfloat16", "bf16"),
        ("bfloat16", "bf16"),
        ("half", "fp16"),
        ("float32", "fp32"),
    ],
)
def test_a_dtype_may_be_spelt_as_torch_spells_it(tmp_path: Path, there: str, here: str) -> None:
    assert load(written(tmp_path, {"dtype": there})).dtype == here


def test_layers_to_keep_are_no_contradiction_unless_nothing_is_offloaded(tmp_path: Path) -> None:
    def warnings(**keys: object) -> int:
        return len(load_with_warnings(written(tmp_path, keys))[1])

    assert warnings(offload=False, num_cache_layers=0) == 1
    assert load(written(tmp_path, {"offload": False, "num_cache_layers": 0})) == EngineConfig(offload=False)
    assert warnings(offload=False, num_cache_layers="auto") == 0
    assert warnings(offload="auto", num_cache_layers=8) == 0


def test_a_key_without_meaning_changes_nothing_and_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        config = load(written(tmp_path, {"stop_distance": 32, "safe_buffer": 64, "model": "o/n"}))

    assert config == EngineConfig(model="o/n")
    assert [record.message.count("stop_distance has no effect") for record in caplog.records] == [1, 0]
    assert [record.message.count("safe_buffer has no effect") for record in caplog.records] == [0, 1]
    assert all("instead" in record.message for record in caplog.records)


def test_a_template_for_models_that_do_not_run_here_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="template must be one of"):
        load(written(tmp_path, {"template": "gemma2-it"}))
