"""``umbrella-engine selftest``: options in, a verdict out. Imports torch only when it runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from engine.config import load_local
from engine.launch import probe
from engine.runtime import RuntimeDir, runtime_dir
from engine.selftest.verdict import as_object, laid_out

PASSED, FAILED, INTERRUPTED = 0, 1, 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML or JSON; see configs/")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Run the command; its exit code. Raises ConfigError for a configuration that cannot be read."""
    config = load_local(options.config)
    try:
        running = probe(RuntimeDir(runtime_dir()))
        say("loading torch")
        from engine.selftest.run import examine

        verdict = examine(config, running, say)
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    if options.json:
        sys.stdout.write(msgspec.json.encode(as_object(verdict)).decode() + "\n")
    else:
        sys.stdout.writelines(f"{line}\n" for line in laid_out(verdict))
    return PASSED if verdict.passed else FAILED
