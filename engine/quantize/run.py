"""Writes a dense checkpoint as AWQ INT4, by autoawq.

Needs the extra ``awq``. autoawq is imported here alone, when it is needed: importing it takes seconds and
resets Python's warning filters.
"""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from engine.checkpoint import Checkpoint
from engine.errors import CheckpointError, TrainingError
from engine.hub import TOKENIZER_FILES
from engine.offload.layout import fused_linears

OUTPUTS = 64
"""Of which autoawq takes a multiple at a time when it looks for the best range of a weight."""
EXTRA = "quantising needs more packages: pip install 'umbrella-lsp[awq]'"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to quantise: input features that share a scale, and names of modules to leave as they are."""

    group_size: int = 128
    kept: tuple[str, ...] = ()


def check(source: Path, destination: Path, recipe: Recipe) -> None:
    """Raise TrainingError or CheckpointError where `quantize` cannot end well, before it takes hours."""
    if destination.exists():
        raise TrainingError(f"{destination} exists; delete it, or name another folder")
    config = Checkpoint.open(source).config
    if config.quantization is not None:
        raise CheckpointError(f"{source} is quantised already; name the dense model it was made from")
    for linear in fused_linears(config):
        for module, size in zip(linear.modules, linear.out_features, strict=True):
            if linear.in_features % recipe.group_size or size % OUTPUTS:
                raise CheckpointError(
                    f"{source}: {module} is {linear.in_features} by {size}, which groups of "
                    f"{recipe.group_size} and autoawq's steps of {OUTPUTS} do not divide; try a smaller "
                    "group size"
                )
    if find_spec("awq") is None:
        raise TrainingError(EXTRA)


def quantize(source: Path, destination: Path, rows: list[list[int]], recipe: Recipe) -> None:
    """Write the dense checkpoint in `source` as AWQ INT4 (GEMM packing) into `destination`.

    `rows`, ids [rows][at most 512], are what it is calibrated with. `destination` appears when it is whole;
    the tokenizer goes along. What stays dense becomes float16, as the scales are. A bar on standard error
    tells how far it is. Raises as `check`, TrainingError without the extra, and OSError if the disk is full.
    """
    check(source, destination, recipe)
    try:
        # What it says on that occasion is for developers, and stays unheard.
        with warnings.catch_warnings(record=True):
            autoawq = import_module("awq")
    except ModuleNotFoundError as error:
        raise TrainingError(f"{EXTRA} ({error})") from error

    # It would run a checkpoint's own code if it were let.
    model = autoawq.AutoAWQForCausalLM.from_pretrained(str(source), device_map="cpu", trust_remote_code=False)
    how: dict[str, object] = {
        "zero_point": True,
        "q_group_size": recipe.group_size,
        "w_bit": 4,
        "version": "GEMM",
    }
    if recipe.kept:
        how["modules_to_not_convert"] = list(recipe.kept)
    # Scales by activations alone, as in the paper. autoawq's own, by weights too, leave no identity among
    # those it tries: with them the bundled target lost 0.22 nats a token on held-out code, without 0.02.
    model.quantize(quant_config=how, calib_data=rows, duo_scaling=False)
    model.model.half()
    temporary = destination.with_name(f"{destination.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        model.save_quantized(str(temporary), safetensors=True)
        _finish(source, temporary)
        temporary.replace(destination)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _finish(source: Path, folder: Path) -> None:
    """Put beside the weights what serving needs; the configuration is the source's but for what changed.

    autoawq leaves ``use_cache`` off in it, and ``do_sample`` on in the one for generation.
    """
    written = json.loads((folder / "config.json").read_text())
    config = json.loads((source / "config.json").read_text())
    config.pop("torch_dtype", None)
    config |= {"quantization_config": written["quantization_config"], "dtype": "float16"}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (folder / "generation_config.json").unlink(missing_ok=True)
    for name in ("generation_config.json", *TOKENIZER_FILES):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    # Weights are read by whoever installs the package, not by its builder alone.
    for file in folder.iterdir():
        file.chmod(0o644)
