"""``umbrella-lsp --doctor``: options in, a report on stdout, progress of the self-test on stderr."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace

from umbrella_lsp.doctor.advice import advice
from umbrella_lsp.doctor.examination import examine
from umbrella_lsp.doctor.report import all_without_home, as_json_object
from umbrella_lsp.doctor.trying import try_models
from umbrella_lsp.settings import EngineSettings

HEALTHY, NEEDS_ACTION, INTERRUPTED = 0, 1, 130


def run(options: argparse.Namespace) -> int:
    """Examine and report; the exit code: 0 healthy, 1 something needs to be done, 130 interrupted."""
    settings = EngineSettings(options.config, options.engine_url, options.token_file)
    try:
        report = examine(settings)
        if options.selftest:
            report = replace(report, selftest=try_models(settings.config_path))
    except KeyboardInterrupt:
        return INTERRUPTED
    actions = advice(report)
    home = os.path.expanduser("~")  # noqa: PTH111 - Path's own raises for a user without a home
    if options.json:
        told = all_without_home(as_json_object(report, actions), home)
        sys.stdout.write(json.dumps(told, indent=2) + "\n")
    else:
        from rich.console import Console

        from umbrella_lsp.doctor.rendering import rendered

        Console(soft_wrap=True, highlight=False).print(rendered(report, actions, home), end="")
    return NEEDS_ACTION if actions else HEALTHY
