"""What a checkpoint's `config.json` and `generation_config.json` say about the model, in one form.

Both are read directly: importing transformers' configuration classes takes longer than loading a
small model. Keys that are absent take transformers' defaults for the family, and keys that its model class
does not read are not read here. Whatever would make the forward pass another one than `model.py`'s is
refused, by name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from engine.errors import CheckpointError, ConfigError
from engine.quantization import ROUNDED, Quantization, QuantizationFile, Rounded, quantization_of

LLAMA, QWEN2, QWEN3, MISTRAL = (
    "LlamaForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "MistralForCausalLM",
)
ARCHITECTURES = (LLAMA, QWEN2, QWEN3, MISTRAL)
"""What `model.py` can run."""

FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True, slots=True)
class LinearRope:
    """All of RoPE's frequencies divided by `factor` (Chen et al. 2023, "position interpolation")."""

    factor: float


@dataclass(frozen=True, slots=True)
class Llama3Rope:
    """Llama 3's scaling of RoPE's frequencies (Meta's reference code of Llama 3.1)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: int


@dataclass(frozen=True, slots=True)
class YarnRope:
    """YaRN's scaling of RoPE's frequencies, and of what is rotated (Peng et al. 2023)."""

    factor: float
    original_max_position: int
    amplitude: float
    """Queries and keys are multiplied by it."""
    beta_fast: float
    """Features that turn more often than this over the original context keep their frequency."""
    beta_slow: float
    """Features that turn less often than this have it divided by `factor`."""
    truncate: bool
    """Whether the bounds between the two are whole features."""


RopeScaling = LinearRope | Llama3Rope | YarnRope


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
    qkv_bias: bool
    output_bias: bool
    """Of the layer behind the attention."""
    mlp_bias: bool
    qk_norm: bool
    """Whether each head's queries and keys pass a norm before they are rotated."""
    windows: tuple[int | None, ...]
    """By layer: how many positions a token sees, its own included; None: all before it."""
    max_position: int
    """Tokens a context may hold."""
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    quantization: Quantization | None


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
    attention_factor: _Positive | None = None
    beta_fast: _Positive | None = None
    beta_slow: _Positive | None = None
    truncate: bool = True
    mscale: float | None = None
    mscale_all_dim: float | None = None


@dataclass(frozen=True, slots=True)
class _ConfigFile:
    """`config.json`: the keys that shape the forward pass, with Llama's defaults."""

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
    partial_rotary_factor: _Positive = 1.0
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    sliding_window: _Size | None = None
    use_sliding_window: bool = False
    max_window_layers: int = 28
    layer_types: tuple[str, ...] | None = None
    max_position_embeddings: _Size = 2048
    original_max_position_embeddings: _Size | None = None
    bos_token_id: int | None = 1
    eos_token_id: _TokenIds = 2
    quantization_config: QuantizationFile | None = None


@dataclass(frozen=True, slots=True)
class _Qwen2File(_ConfigFile):
    num_key_value_heads: _Size | None = 32
    sliding_window: _Size | None = 4096
    max_position_embeddings: _Size = 32_768
    bos_token_id: int | None = None
    eos_token_id: _TokenIds = None


@dataclass(frozen=True, slots=True)
class _Qwen3File(_Qwen2File):
    head_dim: _Size | None = 128


@dataclass(frozen=True, slots=True)
class _MistralFile(_ConfigFile):
    num_key_value_heads: _Size | None = 8
    sliding_window: _Size | None = 4096
    max_position_embeddings: _Size = 131_072


_FILES: dict[str, type[_ConfigFile]] = {
    LLAMA: _ConfigFile,
    QWEN2: _Qwen2File,
    QWEN3: _Qwen3File,
    MISTRAL: _MistralFile,
}


@dataclass(frozen=True, slots=True)
class _ArchitectureFile:
    """`config.json` of any model, read first: another architecture has other keys."""

    architectures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _GenerationFile:
    """`generation_config.json`: the ids there win, since that is the file that is edited later."""

    bos_token_id: int | None = None
    eos_token_id: _TokenIds = None


def read_model_config(folder: Path, quantize: Rounded | None = None) -> ModelConfig:
    """Read the configuration of the checkpoint in `folder`, which `quantize` says to round to fewer bits.

    Raises CheckpointError, naming file and key, if it is missing, malformed or not one we can run, and
    ConfigError if it is to be quantised and is already.
    """
    path = folder / "config.json"
    architecture = _architecture(path)
    file = read_json(path, _FILES[architecture])
    generation_path = folder / "generation_config.json"
    generation = _GenerationFile()
    if generation_path.exists():
        generation = read_json(generation_path, _GenerationFile)
    eos = file.eos_token_id if generation.eos_token_id is None else generation.eos_token_id
    attention_bias = file.attention_bias and architecture in (LLAMA, QWEN3)
    rope_scaling = _rope_scaling(path, file)
    config = ModelConfig(
        vocab_size=file.vocab_size,
        hidden_size=file.hidden_size,
        intermediate_size=file.intermediate_size,
        num_layers=file.num_hidden_layers,
        num_heads=file.num_attention_heads,
        num_kv_heads=file.num_key_value_heads or file.num_attention_heads,
        head_dim=file.head_dim or file.hidden_size // file.num_attention_heads,
        rms_norm_eps=file.rms_norm_eps,
        rope_theta=_rope(file).rope_theta or file.rope_theta,
        rope_scaling=rope_scaling,
        tie_embeddings=file.tie_word_embeddings,
        qkv_bias=attention_bias or architecture == QWEN2,
        output_bias=attention_bias,
        mlp_bias=file.mlp_bias and architecture == LLAMA,
        qk_norm=architecture == QWEN3,
        windows=_windows(path, architecture, file),
        max_position=_max_position(file, rope_scaling),
        bos_token_id=file.bos_token_id if generation.bos_token_id is None else generation.bos_token_id,
        eos_token_ids=() if eos is None else (eos,) if isinstance(eos, int) else tuple(eos),
        quantization=_quantization(path, file.quantization_config, quantize),
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


def _architecture(path: Path) -> str:
    """The first of the checkpoint's architectures that we can run."""
    named = read_json(path, _ArchitectureFile).architectures
    known = [name for name in named if name in ARCHITECTURES]
    if not known:
        found = ", ".join(named) or "none"
        raise CheckpointError(f"{path}: architectures is {found}; supported are {', '.join(ARCHITECTURES)}")
    return known[0]


def _windows(path: Path, architecture: str, file: _ConfigFile) -> tuple[int | None, ...]:
    """`ModelConfig.windows`, by the rules of each family's model class in transformers."""
    layers = range(file.num_hidden_layers)
    if architecture == LLAMA:
        return tuple(None for _ in layers)
    kinds = file.layer_types
    if architecture == MISTRAL:
        if kinds is not None:
            raise CheckpointError(f"{path}: {MISTRAL} has no layer_types; its layers have one sliding_window")
        return tuple(file.sliding_window for _ in layers)
    window = file.sliding_window if file.use_sliding_window else None
    if kinds is None:
        return tuple(window if index >= file.max_window_layers else None for index in layers)
    if other := sorted(set(kinds) - {FULL, SLIDING}):
        raise CheckpointError(f"{path}: layer_types has {other[0]}; supported are {FULL}, {SLIDING}")
    if len(kinds) != len(layers):
        raise CheckpointError(
            f"{path}: layer_types has {len(kinds)} entries, num_hidden_layers is {len(layers)}"
        )
    if SLIDING in kinds and window is None:
        raise CheckpointError(
            f"{path}: layer_types has {SLIDING}, but use_sliding_window or the window is off"
        )
    return tuple(window if kind == SLIDING else None for kind in kinds)


def _max_position(file: _ConfigFile, rope: RopeScaling | None) -> int:
    """YaRN is switched on for a longer context, which files made by hand often leave at the original's."""
    reached = int(rope.factor * rope.original_max_position) if isinstance(rope, YarnRope) else 0
    return max(file.max_position_embeddings, reached)


def _rope(file: _ConfigFile) -> _RopeFile:
    return file.rope_scaling or file.rope_parameters or _RopeFile()


def _rope_scaling(path: Path, file: _ConfigFile) -> RopeScaling | None:
    rope = _rope(file)
    kind = rope.rope_type or rope.type or "default"
    if rope.partial_rotary_factor != 1.0 or file.partial_rotary_factor != 1.0:
        raise CheckpointError(f"{path}: partial_rotary_factor is not supported")
    if kind == "default":
        return None
    if kind not in ("linear", "llama3", "yarn"):
        raise CheckpointError(f"{path}: rope type is {kind}; supported are default, linear, llama3, yarn")
    if rope.factor is None:
        raise CheckpointError(f"{path}: {kind} RoPE needs factor")
    if kind == "linear":
        return LinearRope(rope.factor)
    original = (
        file.original_max_position_embeddings
        or rope.original_max_position_embeddings
        or file.max_position_embeddings
    )
    if kind == "yarn":
        return _yarn(path, rope, rope.factor, original)
    if rope.low_freq_factor is None or rope.high_freq_factor is None:
        raise CheckpointError(f"{path}: llama3 RoPE needs low_freq_factor and high_freq_factor")
    if rope.high_freq_factor <= rope.low_freq_factor:
        raise CheckpointError(f"{path}: llama3 RoPE's high_freq_factor must exceed low_freq_factor")
    return Llama3Rope(rope.factor, rope.low_freq_factor, rope.high_freq_factor, original)


def _yarn(path: Path, rope: _RopeFile, factor: float, original: int) -> YarnRope:
    if rope.mscale is not None or rope.mscale_all_dim is not None:
        raise CheckpointError(f"{path}: yarn RoPE's mscale and mscale_all_dim are not supported")
    amplitude = rope.attention_factor or (0.1 * math.log(factor) + 1.0 if factor > 1.0 else 1.0)
    return YarnRope(factor, original, amplitude, rope.beta_fast or 32.0, rope.beta_slow or 1.0, rope.truncate)


def _quantization(path: Path, file: QuantizationFile | None, quantize: Rounded | None) -> Quantization | None:
    found = quantization_of(path, file)
    if quantize is None:
        return found
    if found is not None:
        raise ConfigError(
            f"quantize = {quantize!r} is for dense weights, and {path.parent} is quantised already "
            f"({found.method} INT{found.bits}). Leave it out of the configuration."
        )
    return ROUNDED[quantize]


_T = TypeVar("_T")


def read_json(path: Path, kind: type[_T]) -> _T:
    """The JSON file at `path` as a `kind`; keys it does not know are ignored.

    Raises CheckpointError, naming the file and, where one is at fault, the key.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist; a checkpoint needs it") from error
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from error
