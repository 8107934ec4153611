"""Gathers the report: each part by itself and all at once, so that none waits for another or breaks it."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from umbrella_lsp.doctor.configuration import look_at_configuration
from umbrella_lsp.doctor.machine import look_at_machine, look_for_gpus
from umbrella_lsp.doctor.report import Report
from umbrella_lsp.doctor.running import look_at_engine, look_at_files, look_at_log, look_elsewhere
from umbrella_lsp.doctor.software import look_at_versions, look_for_editors
from umbrella_lsp.settings import EngineSettings

T = TypeVar("T")


def examine(settings: EngineSettings) -> Report:
    """Look at everything. `settings` are an editor's: which configuration, and which engine elsewhere."""
    failed: dict[str, str] = {}
    with ThreadPoolExecutor(max_workers=9) as threads:
        versions = threads.submit(look_at_versions)
        machine = threads.submit(look_at_machine)
        gpus = threads.submit(look_for_gpus)
        configuration = threads.submit(look_at_configuration, settings.config_path)
        engine = threads.submit(look_at_engine)
        elsewhere = threads.submit(look_elsewhere, settings)
        editors = threads.submit(look_for_editors)
        files = threads.submit(look_at_files)
        errors = threads.submit(look_at_log)
    return Report(
        versions=_part("versions", versions, failed),
        machine=_part("machine", machine, failed),
        gpus=_part("gpus", gpus, failed),
        configuration=_part("configuration", configuration, failed),
        engine=_part("engine", engine, failed),
        editors=_part("editors", editors, failed),
        files=_part("files", files, failed),
        last_errors=_part("last_errors", errors, failed),
        elsewhere=_part("elsewhere", elsewhere, failed),
        failed=failed,
    )


def _part(name: str, part: Future[T], failed: dict[str, str]) -> T | None:
    error = part.exception()
    if error is None:
        return part.result()
    # The type alone: a message may quote what it failed on.
    failed[name] = type(error).__name__
    return None
