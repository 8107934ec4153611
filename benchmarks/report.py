"""Summaries of samples, and the one JSON document a benchmark ends with."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from statistics import median, quantiles


def spread(samples: Sequence[float], digits: int = 1) -> dict[str, float]:
    """Minimum, median, 95th percentile and maximum of `samples` [at least 1]."""
    p95 = quantiles(samples, n=20, method="inclusive")[18] if len(samples) > 1 else samples[0]
    found = {"min": min(samples), "p50": median(samples), "p95": p95, "max": max(samples)}
    return {name: round(value, digits) for name, value in found.items()} | {"n": len(samples)}


def print_report(name: str, figures: Mapping[str, object]) -> None:
    """Print the document, machine included, on one last line."""
    machine = {"cpus": os.cpu_count(), "system": platform.system(), "python": platform.python_version()}
    print(json.dumps({"benchmark": name, "machine": machine, **figures}))
