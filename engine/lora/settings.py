"""What an adapter's `adapter_config.json` says: which linear layers it adapts, and how strongly. Torch-free.

The rules are those of PEFT's LoRA tuner. Whatever would compute something else than
base(x) + scaling * B A x is refused, by name. Patterns in the file are trusted as much as those of a
checkpoint's tokenizer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.errors import CheckpointError
from engine.model_config import read_json

SETTINGS = "adapter_config.json"
MAX_RANK = 256
_ALL_LINEAR = "all-linear"
_NAMED_LAYER = re.compile(r"(?:^|.*?\.)layers\.(\d+)\.")
_RESIDUAL_INITS = ("pissa", "corda", "olora", "loftq", "lora_ga")
"""Ways to begin training that change the base's weights too: the adapter is for the changed ones."""


@dataclass(frozen=True, slots=True)
class _SettingsFile:
    """The keys that shape what is computed, with PEFT's defaults."""

    peft_type: str = ""
    r: int = 8
    lora_alpha: float = 8
    use_rslora: bool = False
    target_modules: str | tuple[str, ...] | None = None
    exclude_modules: str | tuple[str, ...] | None = None
    layers_to_transform: int | tuple[int, ...] | None = None
    layers_pattern: str | tuple[str, ...] | None = None
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    init_lora_weights: bool | str | None = True
    bias: str = "none"
    # Each of these computes something else where it is set.
    fan_in_fan_out: object = None
    use_dora: object = None
    lora_bias: object = None
    modules_to_save: object = None
    trainable_token_indices: object = None
    target_parameters: object = None
    layer_replication: object = None
    alora_invocation_tokens: object = None
    use_qalora: object = None
    use_bdlora: object = None
    arrow_config: object = None
    kasa_config: object = None
    monteclora_config: object = None
    velora_config: object = None


_UNSUPPORTED = (
    *("fan_in_fan_out", "use_dora", "lora_bias", "modules_to_save", "trainable_token_indices"),
    *("target_parameters", "layer_replication", "alora_invocation_tokens", "use_qalora", "use_bdlora"),
    *("arrow_config", "kasa_config", "monteclora_config", "velora_config"),
)


@dataclass(frozen=True, slots=True)
class AdapterSettings:
    """The rules by which modules are adapted. Modules go by the name that they have in the trained model."""

    path: Path
    rank: int
    alpha: float
    by_root: bool
    """Whether the scaling is alpha / sqrt(rank) (Kalajdzievski 2023) instead of alpha / rank."""
    targets: str | tuple[str, ...]
    excluded: str | tuple[str, ...]
    layers: frozenset[int] | None
    """Those whose modules are adapted; None: all."""
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]

    @staticmethod
    def read(folder: Path) -> AdapterSettings:
        """Of the adapter in `folder`. Raises CheckpointError, naming file and key, if it is none for us."""
        path = folder / SETTINGS
        file = read_json(path, _SettingsFile)
        if file.peft_type.upper() != "LORA":
            raise CheckpointError(f"{path}: peft_type is {file.peft_type!r}; supported is 'LORA'")
        _refuse_unsupported(path, file)
        if file.target_modules is None:
            raise CheckpointError(f"{path}: target_modules is missing; it says which modules are adapted")
        ranks, alphas = file.rank_pattern or {}, file.alpha_pattern or {}
        for rank in (file.r, *ranks.values()):
            if not 1 <= rank <= MAX_RANK:
                raise CheckpointError(f"{path}: a rank of {rank}; it must be between 1 and {MAX_RANK}")
        for alpha in (file.lora_alpha, *alphas.values()):
            if not math.isfinite(alpha):
                raise CheckpointError(f"{path}: an alpha of {alpha}; it must be a finite number")
        layers = file.layers_to_transform
        chosen = (layers,) if isinstance(layers, int) else layers or ()
        settings = AdapterSettings(
            path=path,
            rank=file.r,
            alpha=file.lora_alpha,
            by_root=file.use_rslora,
            targets=file.target_modules,
            excluded=file.exclude_modules or (),
            layers=frozenset(chosen) or None,
            ranks=ranks,
            alphas=alphas,
        )
        settings.scaling("model.layers.0.self_attn.q_proj")  # A broken pattern is told of before any weight.
        settings.adapts("model.layers.0.self_attn.q_proj")
        return settings

    def adapts(self, module: str) -> bool:
        """Whether the linear layer called `module`, as in ``model.layers.0.mlp.up_proj``, is adapted."""
        if self._matches("exclude_modules", self.excluded, module):
            return False
        if self.targets == _ALL_LINEAR:
            return True
        if not self._matches("target_modules", self.targets, module):
            return False
        if self.layers is None:
            return True
        numbered = _NAMED_LAYER.match(module)
        return numbered is not None and int(numbered[1]) in self.layers

    def rank_of(self, module: str) -> int:
        """The rank of what is added to the layer called `module`."""
        return self.ranks.get(self._pattern("rank_pattern", self.ranks, module), self.rank)

    def scaling(self, module: str) -> float:
        """What B A x is multiplied by at the layer called `module`."""
        alpha = self.alphas.get(self._pattern("alpha_pattern", self.alphas, module), self.alpha)
        rank = self.rank_of(module)
        return alpha / (math.sqrt(rank) if self.by_root else rank)

    def _matches(self, key: str, rule: str | Sequence[str], module: str) -> bool:
        if isinstance(rule, str):
            return self._compiled(key, rule).fullmatch(module) is not None
        return any(module == name or module.endswith(f".{name}") for name in rule)

    def _pattern(self, key: str, patterns: Mapping[str, object], module: str) -> str:
        """The first of `patterns` that is for `module`; '' if none is."""
        found = (text for text in patterns if self._compiled(key, rf"(.*\.)?({text})$").match(module))
        return next(found, "")

    def _compiled(self, key: str, pattern: str) -> re.Pattern[str]:
        try:
            return re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise CheckpointError(f"{self.path}: {key} holds {pattern!r}, which is no pattern") from error


def _refuse_unsupported(path: Path, file: _SettingsFile) -> None:
    for key in _UNSUPPORTED:
        if getattr(file, key):
            raise CheckpointError(f"{path}: {key} is not supported. Train the adapter without it")
    if file.bias != "none":
        raise CheckpointError(f"{path}: bias is {file.bias!r}; supported is 'none'")
    if file.layers_pattern not in (None, "", (), "layers", ("layers",)):
        raise CheckpointError(f"{path}: layers_pattern is {file.layers_pattern!r}; supported is 'layers'")
    if file.layers_to_transform is not None and isinstance(file.target_modules, str):
        raise CheckpointError(f"{path}: layers_to_transform needs a list of target_modules, not a pattern")
    init = file.init_lora_weights
    if isinstance(init, str) and init.lower().startswith(_RESIDUAL_INITS):
        raise CheckpointError(
            f"{path}: init_lora_weights is {init!r}, which changed the base model's weights too. Save the "
            "adapter with PEFT's path_initial_model_for_weight_conversion, which makes a plain one of it"
        )
