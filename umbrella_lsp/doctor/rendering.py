"""The report for people: titles, and what there is under each, as text that can be pasted. Only words it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from rich.text import Text

from engine.memory import gib
from engine.selftest.verdict import laid_out
from umbrella_lsp.doctor.report import (
    Configuration,
    Elsewhere,
    Engine,
    Gpus,
    Machine,
    Place,
    Report,
    SelfTest,
    Versions,
    without_home,
)

Rows = Iterable[tuple[str, str]]
"""Names and values; lines without a name are values alone."""
NAME_WIDTH = 24


def rendered(report: Report, actions: tuple[str, ...], home: str) -> Text:
    """The whole of it, what there is to do at the end. Not marked up, as it quotes paths and messages."""
    text = Text()
    for line, style in _lines(report, actions):
        text.append(f"{without_home(line, home)}\n", style)
    return text


def _lines(report: Report, actions: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Lines with their styles."""
    for title, rows in _sections(report):
        yield title, "bold"
        yield from ((f"  {name:<{NAME_WIDTH}}{value}" if name else f"  {value}", "") for name, value in rows)
        yield "", ""
    if not actions:
        yield "Nothing needs to be done.", "bold"
        return
    yield "To do", "bold"
    yield from ((f"  - {action}", "yellow") for action in actions)


def _sections(report: Report) -> Iterator[tuple[str, Rows]]:
    yield "Versions", _versions(report.versions) if report.versions else _UNKNOWN
    yield "Machine", _machine(report.machine) if report.machine else _UNKNOWN
    yield "GPU", _gpus(report.gpus) if report.gpus else _UNKNOWN
    yield "Configuration", _configuration(report.configuration) if report.configuration else _UNKNOWN
    yield "Engine", _engine(report.engine) if report.engine else _UNKNOWN
    if report.elsewhere is not None:
        yield "Engine elsewhere", _elsewhere(report.elsewhere)
    yield "Editors", _editors(report)
    yield "Files", _files(report)
    yield "Last warnings and errors of the engine", _errors(report)
    if report.selftest is not None:
        yield "Self-test", _selftest(report.selftest)


_UNKNOWN: Rows = (("", "could not be looked at"),)
_NONE: Rows = (("", "none"),)


def _versions(versions: Versions) -> Rows:
    yield "umbrella-lsp", f"{versions.umbrella}, protocol {versions.protocol}"
    yield "Python", f"{versions.python}, {versions.python_path}"
    yield "system", versions.system
    for name, version in versions.packages.items():
        yield name, f"{version or 'not installed'}"
    yield from versions.environment.items()


def _machine(machine: Machine) -> Rows:
    yield "processor", f"{machine.processor}, {machine.cores} cores"
    yield "instructions", " ".join(machine.instructions) or "none that matter"
    yield "memory", f"{_size(machine.free_memory_bytes)} free of {_size(machine.memory_bytes)}"
    yield "disk", f"{_size(machine.free_disk_bytes)} free at {machine.cache_folder}"


def _gpus(gpus: Gpus) -> Rows:
    for gpu in gpus.found:
        own = f"{gpu.free_memory_mib} MiB free of {gpu.memory_mib} MiB"
        memory = "no memory of its own" if gpu.memory_mib is None else own
        yield "", f"{gpu.name}, {memory}, driver {gpu.driver}"
    if not gpus.found:
        yield "", gpus.problem or "none"


def _configuration(configuration: Configuration) -> Rows:
    named = f" ({configuration.named_by})" if configuration.file else ""
    yield "file", f"{configuration.file or 'none, so the defaults hold'}{named}"
    if configuration.problem:
        yield "problem", configuration.problem
        return
    yield "hash", configuration.config_hash
    for key, value in configuration.changed.items():
        yield key, repr(value)
    if configuration.models_problem:
        yield "models", configuration.models_problem
    elif configuration.needed_bytes == 0:
        yield "memory needed", "none: the model runs elsewhere"
    else:
        needed = _size(configuration.needed_bytes), _size(configuration.needed_gpu_bytes)
        yield "memory needed", f"about {needed[0]} on a processor, {needed[1]} on a GPU"


def _engine(engine: Engine) -> Rows:
    loading = f", {engine.progress:.0%} loaded" if engine.state == "loading" and engine.progress else ""
    yield "state", f"{engine.state}{loading}{', busy' if engine.busy else ''}"
    rows: Mapping[str, object] = {
        "message": engine.message or engine.problem,
        "version": f"{engine.package}, protocol {engine.protocol}" if engine.package else "",
        "process": engine.pid,
        "model": " + ".join(name for name in (engine.model, engine.draft_model) if name),
        "hash": engine.config_hash,
        "pass": f"{engine.pass_ms:.1f} ms" if engine.pass_ms else "",
    }
    yield from ((name, str(value)) for name, value in rows.items() if value)
    if engine.crashed:
        yield "lock", "left behind: the last engine ended unexpectedly"
    yield from (
        ("folder", _place(engine.folder)),
        ("socket", _place(engine.socket)),
        ("log", _place(engine.log)),
    )


def _elsewhere(engine: Elsewhere) -> Rows:
    yield "url", engine.url
    yield "state", engine.state
    rows = {"version": engine.package, "model": engine.model, "problem": engine.problem}
    yield from ((name, value) for name, value in rows.items() if value)


def _editors(report: Report) -> Rows:
    if report.editors is None:
        return _UNKNOWN
    drawn = {True: ", draws inline completion", False: ", needs the plugin to draw suggestions", None: ""}
    rows = [
        (
            editor.command,
            f"{editor.version or 'unknown version'}{drawn[editor.draws_inline_completion]}, {editor.path}",
        )
        for editor in report.editors
    ]
    return rows or _NONE


def _files(report: Report) -> Rows:
    if report.files is None:
        return _UNKNOWN
    return [(file.what, f"{_size(file.size_bytes, 'none')}, {file.path}") for file in report.files]


def _errors(report: Report) -> Rows:
    if report.last_errors is None:
        return _UNKNOWN
    rows: list[tuple[str, str]] = []
    for entry in report.last_errors:
        rows.append(("", f"{entry.time} {entry.level} {entry.logger} {entry.message}"))
        if entry.error or entry.frames:
            rows.append(("", f"  {entry.error or 'error'} at {' > '.join(entry.frames)}"))
    return rows or _NONE


def _selftest(test: SelfTest) -> Rows:
    return [("", line) for line in (laid_out(test.verdict) if test.verdict else [test.problem])]


def _place(place: Place) -> str:
    if not place.exists:
        return f"{place.path} (not there)"
    mode = f" (mode {place.mode})" if place.mode else ""
    return f"{place.path}{mode}{'' if place.is_own else ', of another user'}"


def _size(size_bytes: int | None, unknown: str = "an unknown amount") -> str:
    return unknown if size_bytes is None else gib(size_bytes)
