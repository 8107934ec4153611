"""What a checkpoint's `config.json` and `generation_config.json` say about the model, in one form.

Both are read directly: importing transformers' configuration classes takes longer than loading a
small model. Keys that are absent take transformers' defaults for the Llama family. Whatever would make
the forward pass another one than `model.py`'s is refused here, by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from engine.errors import CheckpointError

ARCHITECTURES = ("LlamaForCausalLM",)
"""What `model.py` can run."""


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """Llama 3's scaling of RoPE's frequencies (Meta's reference code of Llama 3.1)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: int


@dataclass(frozen=True, slots=True)
class AwqConfig:
    """How linear layers are quantised: AWQ INT4 in GEMM packing (Lin et al. 2023)."""

    bits: int
    group_size: int
    """Input features that share a scale and a zero point; -1: all of them."""
    zero_point: bool
    modules_to_not_convert: tuple[str, ...]

    def converts(self, module: str) -> bool:
        """Whether the linear layer called `module` is quantised. The output layer never is."""
        return module != "lm_head" and not any(name in module for name in self.modules_to_not_convert)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The shape of a model, and the tokens it begins and ends with."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    tie_embeddings: bool
    attention_bias: bool
    mlp_bias: bool
    max_position: int
    """Tokens a context may hold."""
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    quantization: AwqConfig | None


_Size = Annotated[int, msgspec.Meta(ge=1)]
_Positive = Annotated[float, msgspec.Meta(gt=0)]
_TokenIds = int | list[int] | None


@dataclass(frozen=True, slots=True)
class _RopeFile:
    """`rope_parameters`, or `rope_scaling` as transformers before 5 wrote it."""

    rope_type: str | None = None
    type: str | None = None
    rope_theta: _Positive | None = None
    factor: _Positive | None = None
    low_freq_factor: _Positive | None = None
    high_freq_factor: _Positive | None = None
    original_max_position_embeddings: _Size | None = None
    partial_rotary_factor: _Positive = 1.0


@dataclass(frozen=True, slots=True)
class _QuantizationFile:
    """`quantization_config`."""

    quant_method: str = ""
    bits: int = 4
    group_size: int = 128
    zero_point: bool = True
    version: str = "gemm"
    modules_to_not_convert: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class _ConfigFile:
    """`config.json`: the keys that shape the forward pass."""

    vocab_size: _Size
    hidden_size: _Size
    intermediate_size: _Size
    num_hidden_layers: _Size
    num_attention_heads: _Size
    architectures: tuple[str, ...] = ()
    num_key_value_heads: _Size | None = None
    head_dim: _Size | None = None
    hidden_act: str = "silu"
    rms_norm_eps: _Positive = 1e-6
    rope_theta: _Positive = 10_000.0
    rope_parameters: _RopeFile | None = None
    rope_scaling: _RopeFile | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    max_position_embeddings: _Size = 2048
    bos_token_id: int | None = 1
    eos_token_id: _TokenIds = 2
    quantization_config: _QuantizationFile | None = None


@dataclass(frozen=True, slots=True)
class _ArchitectureFile:
    """`config.json` of any model, read first: another architecture has other keys."""

    architectures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _GenerationFile:
    """`generation_config.json`: the ids there win, since that is the file that is edited later."""

    bos_token_id: int | None = None
    eos_token_id: _TokenIds = None


def read_model_config(folder: Path) -> ModelConfig:
    """Read the configuration of the checkpoint in `folder`.

    Raises CheckpointError, naming file and key, if it is missing, malformed or not one we can run.
    """
    path = folder / "config.json"
    architectures = read_json(path, _ArchitectureFile).architectures
    if not set(architectures) & set(ARCHITECTURES):
        found = ", ".join(architectures) or "none"
        raise CheckpointError(f"{path}: architectures is {found}; supported are {', '.join(ARCHITECTURES)}")
    file = read_json(path, _ConfigFile)
    generation_path = folder / "generation_config.json"
    generation = _GenerationFile()
    if generation_path.exists():
        generation = read_json(generation_path, _GenerationFile)
    eos = file.eos_token_id if generation.eos_token_id is None else generation.eos_token_id
    kv_heads = file.num_key_value_heads or file.num_attention_heads
    config = ModelConfig(
        vocab_size=file.vocab_size,
        hidden_size=file.hidden_size,
        intermediate_size=file.intermediate_size,
        num_layers=file.num_hidden_layers,
        num_heads=file.num_attention_heads,
        num_kv_heads=kv_heads,
        head_dim=file.head_dim or file.hidden_size // file.num_attention_heads,
        rms_norm_eps=file.rms_norm_eps,
        rope_theta=_rope(file).rope_theta or file.rope_theta,
        rope_scaling=_rope_scaling(path, file),
        tie_embeddings=file.tie_word_embeddings,
        attention_bias=file.attention_bias,
        mlp_bias=file.mlp_bias,
        max_position=file.max_position_embeddings,
        bos_token_id=file.bos_token_id if generation.bos_token_id is None else generation.bos_token_id,
        eos_token_ids=() if eos is None else (eos,) if isinstance(eos, int) else tuple(eos),
        quantization=_quantization(path, file.quantization_config),
    )
    if file.hidden_act != "silu":
        raise CheckpointError(f"{path}: hidden_act is {file.hidden_act}; supported is silu")
    if config.num_heads % config.num_kv_heads:
        raise CheckpointError(
            f"{path}: num_attention_heads ({config.num_heads}) must be a multiple of "
            f"num_key_value_heads ({config.num_kv_heads})"
        )
    if config.head_dim % 2:
        raise CheckpointError(f"{path}: head_dim ({config.head_dim}) must be even")
    return config


def _rope(file: _ConfigFile) -> _RopeFile:
    return file.rope_parameters or file.rope_scaling or _RopeFile()


def _rope_scaling(path: Path, file: _ConfigFile) -> RopeScaling | None:
    rope = _rope(file)
    kind = rope.rope_type or rope.type or "default"
    if rope.partial_rotary_factor != 1.0:
        raise CheckpointError(f"{path}: partial_rotary_factor is not supported")
    if kind == "default":
        return None
    if kind != "llama3":
        raise CheckpointError(f"{path}: rope type is {kind}; supported are default, llama3")
    if rope.factor is None or rope.low_freq_factor is None or rope.high_freq_factor is None:
        raise CheckpointError(f"{path}: llama3 RoPE needs factor, low_freq_factor and high_freq_factor")
    if rope.high_freq_factor <= rope.low_freq_factor:
        raise CheckpointError(f"{path}: llama3 RoPE's high_freq_factor must exceed low_freq_factor")
    original = rope.original_max_position_embeddings or file.max_position_embeddings
    return RopeScaling(rope.factor, rope.low_freq_factor, rope.high_freq_factor, original)


def _quantization(path: Path, file: _QuantizationFile | None) -> AwqConfig | None:
    if file is None:
        return None
    where = f"{path}: quantization_config"
    if file.quant_method != "awq":
        raise CheckpointError(f"{where}.quant_method is {file.quant_method!r}; supported is 'awq'")
    if file.version.lower() != "gemm":
        raise CheckpointError(f"{where}.version is {file.version!r}; supported is 'gemm'")
    if file.bits != 4:
        raise CheckpointError(f"{where}.bits is {file.bits}; supported is 4")
    if not file.zero_point:
        raise CheckpointError(f"{where}.zero_point is false; supported is true")
    if file.group_size != -1 and file.group_size < 1:
        raise CheckpointError(f"{where}.group_size is {file.group_size}; it must be positive, or -1")
    return AwqConfig(file.bits, file.group_size, file.zero_point, file.modules_to_not_convert or ())


_T = TypeVar("_T")


def read_json(path: Path, kind: type[_T]) -> _T:
    """The JSON file at `path` as a `kind`; keys it does not know are ignored.

    Raises CheckpointError, naming the file and, where one is at fault, the key.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist; a checkpoint needs it") from error
    except (OSError, msgspec.DecodeError) as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from error
