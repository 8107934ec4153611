"""``umbrella-engine plan``: options in, a table out. Torch is imported only to ask CUDA for its memory.

What makes a plan and shows it is imported when it runs: every command of ``umbrella-engine`` reads this file.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from engine.config import EngineConfig, load_local
from engine.errors import ConfigError

if TYPE_CHECKING:
    from engine.offload.machine import Machine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML or JSON; see configs/")
    stated = parser.add_argument_group("for a machine other than this one")
    stated.add_argument("--vram", type=_positive, metavar="GIB", help="memory of its GPU")
    stated.add_argument(
        "--gpus", type=int, choices=range(1, 17), metavar="N", default=1, help="GPUs like that (1)"
    )
    stated.add_argument("--ram", type=_positive, metavar="GIB", help="free memory beside that")
    stated.add_argument("--gpu", metavar="NAME", default="", help="its GPU's name, as in '4090'")
    stated.add_argument(
        "--link", type=_positive, metavar="GB/S", help="from memory to the GPU (25: PCIe 4 x16)"
    )
    stated.add_argument("--disk", type=_positive, metavar="GB/S", help="of reading from disk (3)")
    parser.add_argument(
        "--acceptance", type=_positive, metavar="TOKENS", help="tokens that a pass yields (6)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace, _say: Callable[[str], None]) -> int:
    """Run the command; its exit code. Raises ConfigError or CheckpointError where there is no plan."""
    from engine.offload.plan import plan
    from engine.offload.plan_table import as_object, laid_out
    from engine.offload.prediction import USUAL_ACCEPTANCE, predict_what_pays

    config = load_local(options.config)
    machine = _machine(options, config)
    made = plan(config, machine)
    measured_ms = None
    if options.vram is None and options.link is None and options.disk is None:
        # Torch is there already: CUDA was asked for its memory.
        from engine.offload.measured import measured_pass_ms

        measured_ms = measured_pass_ms(config, made)
    acceptance = options.acceptance or USUAL_ACCEPTANCE
    prediction = predict_what_pays(config, machine, made, acceptance, measured_ms)
    if options.json:
        sys.stdout.write(msgspec.json.encode(as_object(machine, made, prediction)).decode() + "\n")
        return 0
    from rich.console import Console

    Console(highlight=False).print(laid_out(config, machine, made, prediction))
    return 0


def _machine(options: argparse.Namespace, config: EngineConfig) -> Machine:
    from engine.memory import GIB, free_bytes
    from engine.offload.machine import Machine

    ram = None if options.ram is None else int(options.ram * GIB)
    if options.vram is None and options.gpus > 1:
        raise ConfigError("--gpus counts GPUs of which --vram states the memory: state that, too.")
    if options.vram is None:
        here = Machine.here(config)
    elif config.device == "cpu":
        raise ConfigError("--vram states a GPU, but device = 'cpu': leave --vram out, or set device to auto.")
    else:
        here = Machine.card(int(options.vram * GIB), free_bytes(), options.gpu, options.gpus)
    return here.with_stated(
        ram_bytes=ram,
        link_bytes_per_s=options.link and options.link * 1e9,
        disk_bytes_per_s=options.disk and options.disk * 1e9,
    )


def _positive(text: str) -> float:
    with suppress(ValueError):
        value = float(text)
        if 0 < value < math.inf:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
