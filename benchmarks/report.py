"""Summaries of samples, and what a benchmark ends with: one JSON document, or a picture as well."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median, quantiles


def spread(samples: Sequence[float], digits: int = 1) -> dict[str, float]:
    """Minimum, median, 95th percentile and maximum of `samples` [at least 1]."""
    p95 = quantiles(samples, n=20, method="inclusive")[18] if len(samples) > 1 else samples[0]
    found = {"min": min(samples), "p50": median(samples), "p95": p95, "max": max(samples)}
    return {name: round(value, digits) for name, value in found.items()} | {"n": len(samples)}


def quartiles(samples: Sequence[float], digits: int = 3) -> dict[str, float]:
    """Minimum, quartiles and maximum of `samples` [at least 1]."""
    low, middle, high = quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else 3 * [samples[0]]
    found = {"min": min(samples), "q1": low, "median": middle, "q3": high, "max": max(samples)}
    return {name: round(value, digits) for name, value in found.items()} | {"n": len(samples)}


def picture(name: str) -> Path:
    """The path of a picture to draw, as an argument's type: refused if that will not be possible."""
    path = Path(name)
    if path.suffix not in (".svg", ".png"):
        raise argparse.ArgumentTypeError(f"draws .svg or .png, not {name}")
    if find_spec("matplotlib") is None:
        raise argparse.ArgumentTypeError("needs matplotlib: pip install matplotlib")
    return path


def print_report(name: str, figures: Mapping[str, object]) -> None:
    """Print the document, machine included, on one last line."""
    machine = {"cpus": os.cpu_count(), "system": platform.system(), "python": platform.python_version()}
    print(json.dumps({"benchmark": name, "machine": machine, **figures}))
