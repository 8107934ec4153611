"""What the doctor says, as data. Pure: knows nothing of where it comes from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import cast

from engine.selftest.verdict import Verdict, as_object
from umbrella_lsp.doctor.log import LogEntry


@dataclass(frozen=True, slots=True)
class Versions:
    """What runs here."""

    umbrella: str
    protocol: int
    python: str
    python_path: str
    system: str
    packages: Mapping[str, str | None]
    """Those that umbrella-lsp needs; None for one that is not installed. Empty if it is no package itself."""
    environment: Mapping[str, str]
    """Our own environment variables that are set."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Processor, memory and disk. None where the system does not tell."""

    processor: str
    cores: int
    """That this process may use."""
    instructions: tuple[str, ...]
    """Those that matrix products gain from."""
    memory_bytes: int | None
    free_memory_bytes: int | None
    cache_folder: str
    free_disk_bytes: int | None
    """Where the cache folder lies."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One that NVIDIA's driver knows."""

    name: str
    memory_mib: int | None
    """None if it has none of its own."""
    free_memory_mib: int | None
    driver: str


@dataclass(frozen=True, slots=True)
class Gpus:
    """What NVIDIA's tool says."""

    found: tuple[Gpu, ...] = ()
    problem: str = ""
    """Why it said nothing although it is there."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """The engine's configuration as a start would read it now."""

    file: str | None
    """None: the defaults."""
    named_by: str
    """``--config``, ``UMBRELLA_CONFIG``, "the default place" or "defaults"."""
    changed: Mapping[str, object]
    """Keys that differ from their defaults."""
    config_hash: str
    device: str
    problem: str = ""
    """Why it cannot be read."""
    models_problem: str = ""
    """Why a checkpoint that it names cannot be used, as far as can be told without loading it."""
    needed_bytes: int | None = None
    """Memory that the models take on the machine itself."""
    needed_gpu_bytes: int | None = None
    """Memory that they take on a GPU."""


@dataclass(frozen=True, slots=True)
class Place:
    """A file or folder by which engine and clients meet."""

    path: str
    exists: bool
    mode: str = ""
    """Permissions in octal; empty where they say nothing, as on Windows."""
    is_own: bool = True
    """Whether it belongs to this user."""


NOT_RUNNING, NOT_ANSWERING = "not running", "not answering"


@dataclass(frozen=True, slots=True)
class Engine:
    """The one engine of this user."""

    folder: Place
    socket: Place
    log: Place
    state: str
    """As its /health says it, or NOT_RUNNING or NOT_ANSWERING."""
    message: str = ""
    package: str = ""
    protocol: int | None = None
    pid: int | None = None
    config_hash: str = ""
    model: str = ""
    draft_model: str = ""
    busy: bool = False
    progress: float | None = None
    pass_ms: float | None = None
    crashed: bool = False
    """Whether it left its lock behind."""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The engine at the URL that an editor's settings name."""

    url: str
    state: str
    """As its /health says it, or NOT_ANSWERING."""
    package: str = ""
    model: str = ""
    warning: str = ""
    """About the way there."""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Editor:
    """One found on PATH."""

    command: str
    path: str
    version: str
    """Empty if it does not tell."""
    draws_inline_completion: bool | None = None
    """Whether it draws suggestions by itself; None where an extension or another way is needed."""


@dataclass(frozen=True, slots=True)
class KeptFile:
    """A file or folder of ours; sizes of folders are of all that they hold."""

    what: str
    path: str
    size_bytes: int | None
    """None: it does not exist."""


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What the process that tried the models found, or why it found nothing."""

    verdict: Verdict | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All of it. A part is None if it could not be looked at; `failed` then says what went wrong."""

    versions: Versions | None
    machine: Machine | None
    gpus: Gpus | None
    configuration: Configuration | None
    engine: Engine | None
    editors: tuple[Editor, ...] | None
    files: tuple[KeptFile, ...] | None
    last_errors: tuple[LogEntry, ...] | None
    failed: Mapping[str, str]
    """By part: the kind of error."""
    elsewhere: Elsewhere | None = None
    """None, too, if no URL was given."""
    selftest: SelfTest | None = None
    """None if nobody asked for it."""


def as_json_object(report: Report, actions: tuple[str, ...]) -> dict[str, object]:
    """The report with what there is to do, as ``--json`` prints it."""
    parts = asdict(report)
    test = report.selftest
    if test is not None:
        parts["selftest"] = {
            "passed": bool(test.verdict and test.verdict.passed),
            "problem": test.problem,
            **(as_object(test.verdict) if test.verdict else {"checks": [], "figures": None}),
        }
    return {"healthy": not actions, "actions": list(actions), **parts}


def without_home(text: str, home: str) -> str:
    """`text` with every path in it that is below `home` beginning with ``~`` instead."""
    home = home.rstrip("/\\")
    return re.sub(re.escape(home) + r"(?![\w.-])", "~", text) if home else text


def all_without_home(value: object, home: str) -> object:
    """`without_home` of every text in `value`, the parts of a JSON document."""
    if isinstance(value, str):
        return without_home(value, home)
    if isinstance(value, Mapping):
        items = cast("Mapping[str, object]", value).items()
        return {key: all_without_home(item, home) for key, item in items}
    if isinstance(value, list | tuple):
        return [all_without_home(item, home) for item in cast("list[object]", value)]
    return value
