"""What to do about what was found: a sentence or two each. Pure. Nothing to do is health."""

from __future__ import annotations

from collections.abc import Iterator

from engine import __version__
from engine.memory import GIB, gib
from engine.protocol import NO_SERVER
from umbrella_lsp.doctor.report import (
    NOT_ANSWERING,
    Configuration,
    Elsewhere,
    Engine,
    Machine,
    Report,
    Versions,
)

LEAST_DISK_BYTES = GIB // 10
RESTART = "Run `umbrella-engine stop`; the next request starts it anew."


def advice(report: Report) -> tuple[str, ...]:
    """Everything that needs somebody to act, the gravest first."""
    return tuple(_actions(report))


def _actions(report: Report) -> Iterator[str]:
    if report.configuration is not None:
        yield from _about_configuration(report.configuration)
    if report.engine is not None:
        yield from _about_engine(report.engine, report.configuration)
    if report.elsewhere is not None:
        yield from _about_elsewhere(report.elsewhere)
    yield from _about_gpu(report)
    if report.machine is not None:
        yield from _about_machine(report.machine)
        yield from _about_memory(report, report.machine)
    if report.versions is not None:
        yield from _about_versions(report.versions)
    yield from _about_selftest(report)
    for part, error in report.failed.items():
        yield f"The part {part!r} could not be looked at ({error}). Please report this as a defect."


def _about_configuration(configuration: Configuration) -> Iterator[str]:
    if configuration.problem:
        yield f"The configuration cannot be used: {configuration.problem} Until then no engine can start."
    if configuration.models_problem:
        yield f"A model cannot be used: {configuration.models_problem}."


def _about_engine(engine: Engine, configuration: Configuration | None) -> Iterator[str]:
    folder = engine.folder
    advised = "set UMBRELLA_RUNTIME_DIR to a folder of your own"
    if folder.exists and not folder.is_own:
        yield f"The runtime folder {folder.path} belongs to another user: {advised}."
    elif folder.mode and int(folder.mode, 8) & 0o077:
        yield f"The runtime folder {folder.path} is open to others: run `chmod 700 {folder.path}`."
    if engine.state == NOT_ANSWERING:
        who = f"An engine (process {engine.pid})" if engine.pid else "What listens at the engine's socket"
        why = f" ({engine.problem.rstrip('.')})" if engine.problem else ""
        yield f"{who} does not answer as it should{why}. {RESTART}"
        return
    if engine.crashed:
        yield f"The last engine ended unexpectedly. The end of its log, {engine.log.path}, may say why."
    if engine.state == "failed":
        yield f"The engine could not load its models: {engine.message}"
    if engine.message.startswith(NO_SERVER):
        yield f"{engine.message} Check the servers, and `upstreams` in the configuration."
    if engine.package and engine.package != __version__:
        yield (f"An engine of version {engine.package} runs, and this is {__version__}. {RESTART}")
    elif engine.config_hash and configuration and engine.config_hash != configuration.config_hash:
        named = configuration.file or "the default one"
        yield (f"The engine that runs was started with another configuration than {named}. {RESTART}")


def _about_elsewhere(engine: Elsewhere) -> Iterator[str]:
    if engine.problem:
        yield f"The engine at {engine.url} cannot be used: {engine.problem}"
    elif engine.package != __version__:
        yield (
            f"The engine at {engine.url} is of version {engine.package or 'unknown'}, and this is "
            f"{__version__}. Install the same version there and here."
        )
    if engine.warning:
        yield engine.warning


def _about_gpu(report: Report) -> Iterator[str]:
    gpus, configuration, versions = report.gpus, report.configuration, report.versions
    if gpus is None:
        return
    if gpus.problem:
        yield f"There is a tool of NVIDIA's, but {gpus.problem}. Check the driver."
    device = configuration.device if configuration else ""
    if device.startswith("cuda") and not gpus.found and not gpus.problem:
        yield f"The configuration says device = {device!r}, but no GPU was found. Set it to 'auto', or 'cpu'."
    torch = versions.packages.get("torch") if versions else None
    if gpus.found and torch and torch.endswith("+cpu") and device != "cpu":
        yield (
            f"There is a GPU, but torch {torch} cannot use it. Install torch for CUDA as pytorch.org says, "
            "or set device = 'cpu' in the configuration."
        )


def _about_machine(machine: Machine) -> Iterator[str]:
    if machine.free_disk_bytes is not None and machine.free_disk_bytes < LEAST_DISK_BYTES:
        yield (
            f"The disk of {machine.cache_folder} has {gib(machine.free_disk_bytes)} left. Make some room: "
            "measured times and statistics are kept there."
        )


def _about_memory(report: Report, machine: Machine) -> Iterator[str]:
    """Of models that cannot fit, however empty the machine is, or do not fit now.

    What a GPU has no room for lies in the machine's memory, and what that has no room for on disk.
    """
    configuration, engine = report.configuration, report.engine
    needed, name = configuration and configuration.needed_bytes, "machine has"
    has, free = machine.memory_bytes, machine.free_memory_bytes
    if runs_on_gpu(report):
        needed, name = configuration and configuration.needed_gpu_bytes, "GPU and the machine have"
        gpus = report.gpus.found if report.gpus else ()
        has = _sum(has, max((gpu.memory_mib for gpu in gpus if gpu.memory_mib is not None), default=None))
        free = _sum(
            free, max((gpu.free_memory_mib for gpu in gpus if gpu.free_memory_mib is not None), default=None)
        )
    if needed is None or has is None or free is None:
        return
    loaded = engine is not None and engine.pid is not None
    slow = "what has no room is read from disk at every pass, as `umbrella-engine plan` shows."
    if needed > has:
        yield (
            f"The models need about {gib(needed)}, and the {name} {gib(has)}: {slow} Choose smaller "
            "checkpoints, or ones quantised to INT4."
        )
    elif needed > free and not loaded:
        yield (
            f"The models need about {gib(needed)}, and the {name} {gib(free)} free: {slow} Close what takes "
            "the rest, or choose smaller checkpoints."
        )


def _sum(size_bytes: int | None, mib: int | None) -> int | None:
    return None if size_bytes is None or mib is None else size_bytes + (mib << 20)


def runs_on_gpu(report: Report) -> bool:
    """Whether the engine would load its models on a GPU."""
    device = report.configuration.device if report.configuration else ""
    torch = report.versions.packages.get("torch") if report.versions else None
    has_gpu = bool(report.gpus and report.gpus.found) and not (torch or "").endswith("+cpu")
    return has_gpu and (device == "auto" or device.startswith("cuda"))


def _about_versions(versions: Versions) -> Iterator[str]:
    missing = [name for name, version in versions.packages.items() if version is None]
    if missing:
        yield f"These packages are not installed: {', '.join(missing)}. Install umbrella-lsp again."
    if not versions.packages:
        yield "umbrella-lsp is not installed as a package. Install it, as README says."


def _about_selftest(report: Report) -> Iterator[str]:
    test = report.selftest
    if test is None:
        return
    if test.problem:
        yield f"The self-test came to no end: {test.problem}"
    if test.verdict is not None:
        for check in test.verdict.checks:
            if check.passed is False:
                yield f"The self-test found a fault. {check.name}: {check.message}."
