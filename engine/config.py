"""The engine's configuration: one frozen object, read from one TOML or JSON file. Torch-free.

Key names are UMbreLLa's where it has one (`engine.umbrella_keys` has what differs). Nothing is inherited or
merged: a file states what differs from the defaults, and an unknown key is an error, because a misspelt one
would silently do nothing. What follows from the machine is None here and ``"auto"`` in a file.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tomllib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, cast

from engine.config_tables import AdapterName, ModelName, UpstreamName
from engine.errors import ConfigError
from engine.quantization import Rounded
from engine.schema import SchemaError, read, require_between
from engine.templates import CHAT_TEMPLATES, TEMPLATES
from engine.umbrella_keys import MOST_NODES, translated

_log = logging.getLogger(__name__)

FOLLOWS_FROM_THE_MACHINE = (
    *("max_length", "threads", "slots"),
    *("offload", "num_cache_layers", "max_vram", "max_ram"),
)
"""Keys that may be ``"auto"`` in a file, which is None here and the same as leaving them out."""

USUAL_SLOTS = 3
"""Three let a chat and a prefetch be interrupted unharmed."""

MOST_DRAFTS = 8

BUNDLED_LANGUAGES = {"bundled:target": ("python",), "bundled:draft": ("python",)}
"""Of the models that ship with the package, the languages they were trained on, by editors' ids."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What the engine loads and how it decodes when a request does not say."""

    model: str = "bundled:target"
    """A bundled model, a folder, or a hub id that is in the local Hugging Face cache."""
    draft_model: str | tuple[str, ...] | None = "bundled:draft"
    """As `model`, or several of them, whose guesses become one tree. None drafts from the text alone. TOML
    has no null: write an empty string."""
    revision: str | None = None
    """Of `model`, if it is a hub id: a commit, tag or branch. None: the hub's main branch."""
    draft_revision: str | tuple[str, ...] | None = None
    """Of `draft_model`, in the same order. An empty string is None."""
    download: bool = False
    """Whether the engine may fetch a hub id that is not in the local cache."""
    adapters: tuple[AdapterName, ...] = ()
    """LoRA adapters to load with the target."""
    default_adapter: str = ""
    """Which of them requests that name no model are for, an editor's completions among them. '': none."""
    quantize: Rounded | None = None
    """What the linear layers of a dense target are rounded to when it is loaded: a half or a quarter of the
    memory. On a CPU a small model computes with the rounded weights, but gains neither memory nor speed."""
    template: str = "llama3-code"
    chat_template: str | None = None
    """How chats are rendered: the name of a template, as `template`. None: as the tokenizer's own says."""
    engine: Literal["dynamic", "static", "ar", "remote"] = "dynamic"
    """How trees are made: as it pays, or always as in `growmap_path`. ``ar`` decodes one token a pass.
    ``remote`` has `upstreams` run the target."""
    upstreams: tuple[UpstreamName, ...] = ()
    """Servers that have the target, for ``remote``: the least busy one that answers is asked."""
    fallback: bool = True
    """Whether a ``remote`` engine runs `model` here while no upstream answers."""
    growmap_path: str | None = None
    """The shape of static trees: a JSON file as UMbreLLa's Sequoia code writes it."""
    max_length: int | None = None
    """Tokens of context, prompt and answer together. None: what the target was trained for."""
    generation_length: int = 128
    """Tokens to generate at most where a request does not say."""
    temperature: float = 0.0
    topk: int = 0
    topp: float = 1.0
    repetition_penalty: float = 1.0
    dtype: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    width: int = 16
    """Nodes that the draft model adds a level at most."""
    num_beams: int = 8
    """Children that it considers for a node."""
    depth: int = 32
    """Levels drafted at most."""
    tree_size: int = 64
    """Nodes a target pass verifies at most, the root included."""
    device: str = "auto"
    """``cpu``, ``cuda``, ``cuda:1``, or several to spread the target's layers over, as in ``cuda:0,cuda:1``.
    ``auto``: the first GPU, the others too if the target fits on them all and not on one; without one, the
    CPU."""
    offload: bool | None = None
    """Whether layers of the target are kept off the device and streamed to it at every pass. None: those that
    do not fit. True: at least one. False: none; what does not fit is an error."""
    num_cache_layers: int | None = None
    """Layers of an offloaded target that stay on the device nevertheless. None: as many as fit."""
    max_vram: float | None = None
    """GiB of device memory that the engine may use. None: what is free, less a reserve for the desktop."""
    max_ram: float | None = None
    """GiB of host memory that weights may take. None: what is available, less a reserve."""
    cuda_graph: bool = True
    """On a CUDA device: replay small passes as one. A cancel then takes effect after the pass at hand."""
    threads: int | None = None
    """CPU threads. None: what torch thinks best."""
    slots: int | None = None
    """Prompts whose keys and values stay cached. None: `USUAL_SLOTS`, or fewer where device memory is short.
    The draft tier has slots of its own."""
    unload_s: float = 600.0
    """Seconds without a request after which the models are given back, while the process stays. 0: never."""
    idle_s: float = 900.0
    """Seconds without a request after which the engine ends. 0: never."""
    max_queue: int = 64
    """Requests that may wait which are as urgent as another or more so, for that one not to be refused."""

    def __post_init__(self) -> None:
        if self.template not in TEMPLATES:
            raise ValueError(f"template must be one of {', '.join(sorted(TEMPLATES))}")
        if self.chat_template is not None and self.chat_template not in CHAT_TEMPLATES:
            raise ValueError(f"chat_template must be one of {', '.join(sorted(CHAT_TEMPLATES))}")
        if not self.model:
            raise ValueError("model must name a checkpoint")
        _require_drafts(self)
        if (self.engine == "remote") != bool(self.upstreams):
            raise ValueError("upstreams must be given where engine is remote, and only there")
        _require_adapters(self)
        require_between("max_length", self.max_length, 32, 1 << 24)
        require_between("generation_length", self.generation_length, 1, 1 << 20)
        require_between("temperature", self.temperature, 0, 100)
        require_between("topk", self.topk, 0, 1 << 24)
        require_between("topp", self.topp, 1e-6, 1)
        require_between("repetition_penalty", self.repetition_penalty, 0.01, 100)
        require_between("width", self.width, 1, 1024)
        require_between("num_beams", self.num_beams, 1, 256)
        require_between("depth", self.depth, 1, 64)
        require_between("tree_size", self.tree_size, 1, MOST_NODES)
        require_between("threads", self.threads, 1, 1024)
        require_between("num_cache_layers", self.num_cache_layers, 0, 10_000)
        require_between("max_vram", self.max_vram, 0.01, 1 << 20)
        require_between("max_ram", self.max_ram, 0.01, 1 << 20)
        require_between("slots", self.slots, 1, 64)
        require_between("unload_s", self.unload_s, 0, 10**9)
        require_between("idle_s", self.idle_s, 0, 10**9)
        require_between("max_queue", self.max_queue, 1, 10_000)

    @property
    def target(self) -> ModelName:
        """The target to load."""
        return ModelName(self.model, self.revision or None, self.quantize)

    @property
    def drafts(self) -> tuple[ModelName, ...]:
        """The draft models to load, as far as any are needed."""
        return () if self.engine in ("ar", "remote") else _named_drafts(self)

    @property
    def runs_here(self) -> bool:
        """Whether models are loaded on this machine, or may be."""
        return self.engine != "remote" or self.fallback

    @property
    def local(self) -> EngineConfig:
        """What is run here: itself, and of a remote engine what stands in for its servers."""
        return replace(self, engine="dynamic", upstreams=()) if self.engine == "remote" else self

    @property
    def languages(self) -> tuple[str, ...]:
        """Editors' ids of the languages that the target was made for; () is any."""
        return BUNDLED_LANGUAGES.get(self.model, ())

    @property
    def shown_names(self) -> tuple[str, str]:
        """What to call the target and the draft models, '' for none: of a path, its last two parts."""
        return _shown(self.model), ", ".join(_shown(draft.name) for draft in self.drafts)

    def digest(self) -> str:
        """A short hash: equal configurations have equal digests, wherever they were read from."""
        content = json.dumps(asdict(self), sort_keys=True).encode()
        return hashlib.sha256(content).hexdigest()[:12]


def _named_drafts(config: EngineConfig) -> tuple[ModelName, ...]:
    names = _as_tuple(config.draft_model)
    revisions = _as_tuple(config.draft_revision) if names else ()
    revisions = revisions or ("",) * len(names)
    return tuple(ModelName(name, known or None) for name, known in zip(names, revisions, strict=True))


def _as_tuple(value: str | tuple[str, ...] | None) -> tuple[str, ...]:
    if not value:
        return ()
    return (value,) if isinstance(value, str) else value


def _require_drafts(config: EngineConfig) -> None:
    """Raise ValueError unless the draft models are said as they have to be."""
    names, revisions = _as_tuple(config.draft_model), _as_tuple(config.draft_revision)
    if not all(names):
        raise ValueError("draft_model must not have an empty name")
    if len(names) > MOST_DRAFTS:
        raise ValueError(f"draft_model must name at most {MOST_DRAFTS} models")
    if len(set(names)) < len(names):
        raise ValueError("draft_model must name each model once")
    if names and revisions and len(revisions) != len(names):
        raise ValueError(f"draft_revision must have one entry for each draft_model: {len(names)}")
    if config.engine == "static" and not (config.growmap_path and len(names) == 1):
        raise ValueError("engine must not be static without growmap_path and one draft_model")


def _require_adapters(config: EngineConfig) -> None:
    """Raise ValueError unless each adapter has a name of its own, by which requests can choose it."""
    names = [adapter.name for adapter in config.adapters]
    if len(set(names)) < len(names):
        raise ValueError("adapters must each have another name")
    if taken := {config.model, *config.shown_names}.intersection(names):
        raise ValueError(f"adapters must not have a model's name, as {min(taken)!r} has")
    if config.default_adapter and config.default_adapter not in names:
        raise ValueError(f"default_adapter must be one of adapters: {', '.join(names) or 'there are none'}")


def cache_folder() -> Path:
    """The user's folder for what can be made again: below ``$XDG_CACHE_HOME``, or ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or _expanded("~/.cache")
    return Path(base, "umbrella-lsp")


def default_path() -> Path | None:
    """The file used when none is named: ``UMBRELLA_CONFIG``, else the user's own if there is one."""
    if named := os.environ.get("UMBRELLA_CONFIG"):
        return Path(named).absolute()
    base = os.environ.get("XDG_CONFIG_HOME") or _expanded("~/.config")
    users = Path(base).absolute() / "umbrella-lsp" / "engine.toml"
    return users if users.is_file() else None


def load(path: Path | None = None) -> EngineConfig:
    """As `load_with_warnings`; the warnings go to the log."""
    config, warnings = load_with_warnings(path)
    for warning in warnings:
        _log.warning("%s", warning)
    return config


def load_local(path: Path | None = None) -> EngineConfig:
    """What of `load` is run on this machine. Raises ConfigError if nothing is."""
    config = load(path)
    if not config.runs_here:
        raise ConfigError(
            "No model of this configuration runs here: engine = 'remote' leaves that to its upstreams, and "
            "there is no fallback. `umbrella-engine status` says whether they answer."
        )
    return config.local


def load_with_warnings(path: Path | None = None) -> tuple[EngineConfig, tuple[str, ...]]:
    """Read `path`, or the default file, or the defaults. Raises ConfigError naming file and key.

    A checkpoint written as ``./``, ``../`` or ``~/`` is relative to the file's folder or the home.
    Returns also a warning for each key that has no effect, which names file and key.
    """
    path = path or default_path()
    if path is None:
        return EngineConfig(), ()
    data, warnings = translated(_parse(path))
    stated = {key: value for key, value in data.items() if not _is_auto(key, value)}
    try:
        config = read(EngineConfig, stated, forbid_unknown=True)
    except SchemaError as error:
        raise ConfigError(f"{path}: {_with_auto(error)}.") from error
    located = replace(
        config,
        model=_located(config.model, path.parent),
        draft_model=_draft_located(config.draft_model, path.parent),
        revision=config.revision or None,
        draft_revision=config.draft_revision or None,
        growmap_path=str(path.parent / _expanded(config.growmap_path)) if config.growmap_path else None,
        adapters=tuple(
            replace(each, path=str((path.parent / _expanded(each.path)).absolute()))
            for each in config.adapters
        ),
    )
    return located, tuple(f"{path}: {warning}" for warning in warnings)


def _is_auto(key: str, value: object) -> bool:
    return value == "auto" and key in FOLLOWS_FROM_THE_MACHINE


def _with_auto(error: SchemaError) -> str:
    """What is wrong, with ``"auto"`` among what is allowed where it is."""
    if error.field not in FOLLOWS_FROM_THE_MACHINE:
        return str(error)
    return f'{str(error).replace(" | null", "")}; "auto" lets it follow from the machine'


def _shown(model: str) -> str:
    path = Path(model)
    return "/".join(path.relative_to(path.anchor).parts[-2:])


def _expanded(path: str) -> str:
    """`path` below the user's home, or as it is where there is no such user."""
    return os.path.expanduser(path)  # noqa: PTH111 - Path's own raises instead


def _parse(path: Path) -> dict[str, object]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # the latter for what is no text, or no path
        raise ConfigError(f"{path} cannot be read ({error}). Name a readable TOML or JSON file.") from error
    try:
        data = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except ValueError as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise ConfigError(f"{path} is not valid {kind}: {error}.") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold one object of configuration keys.")
    return cast("dict[str, object]", data)


def _draft_located(draft: str | tuple[str, ...] | None, folder: Path) -> str | tuple[str, ...] | None:
    """One name as a string and none as None, however they were written."""
    found = tuple(_located(name, folder) for name in _as_tuple(draft))
    return found if len(found) > 1 else next(iter(found), None)


def _located(model: str, folder: Path) -> str:
    if model.startswith("~"):
        return _expanded(model)
    if model.startswith(("./", "../")):
        return str((folder / model).resolve())
    return model
