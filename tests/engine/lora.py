"""Random LoRA adapters on disk, made by PEFT itself, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

EVERY = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def write_adapter(
    folder: Path, model: PreTrainedModel, *, seed: int = 1, size: float = 0.3, **options: Any
) -> PeftModel:
    """Save a random adapter for `model` under `folder`, and return PEFT's own of it.

    `model` is changed by it. `options` are PEFT's; `size` is how large the numbers are.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        settings: dict[str, Any] = {"r": 4, "lora_alpha": 6, "target_modules": list(EVERY)}
        adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **(settings | options))).eval()
        with torch.no_grad():
            for name, weight in adapted.named_parameters():
                if "lora_" in name:
                    weight.copy_(size * torch.randn_like(weight))
    adapted.save_pretrained(str(folder))
    return adapted


def change_settings(folder: Path, **changes: object) -> None:
    """Set keys of `adapter_config.json`."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite(folder: Path, **changes: torch.Tensor | None) -> None:
    """Set tensors of `adapter_model.safetensors`, by the ends of their names; None takes one out."""
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    for name, tensor in changes.items():
        key = next((key for key in tensors if key.endswith(name)), name)
        if tensor is None:
            del tensors[key]
        else:
            tensors[key] = tensor
    save_file(tensors, path)
