"""How typing fares while other programs use the engine, and what becomes of those.

``python -m benchmarks.serving`` starts an engine with the bundled pair on loopback TCP, and types through its
socket: alone, beside programs that want text all the time, beside 200 clients at once, and beside clients
that misbehave. A line of text is asked for again and again, with pauses as between keystrokes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from rich.progress import track

from benchmarks.latency import call_at
from benchmarks.report import print_report, spread
from benchmarks.serving.load import LOADS
from benchmarks.startup import megabytes_of
from engine.client import EngineClient
from engine.errors import EngineUnavailable
from engine.launch import probe
from engine.protocol import StopSpec
from engine.runtime import RuntimeDir

SOURCE = (Path(__file__).parents[2] / "engine" / "decode.py").read_text(encoding="utf-8")
PAUSE_S = 0.1
"""Between an answer and the next key."""
START_S = 120.0
BEGUN_S = 2.0
"""How long load is made before typing beside it begins."""


@dataclass(frozen=True, slots=True)
class Engine:
    """One that runs."""

    process: int
    port: int
    token: str
    client: EngineClient


@contextmanager
def engine(folder: Path) -> Generator[Engine]:
    """An engine of our own, on a port of its choice, ready to serve."""
    os.environ["UMBRELLA_RUNTIME_DIR"] = str(folder)
    command = [sys.executable, "-m", "engine.cli", "serve", "--port", "0"]
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        place = RuntimeDir.prepare()
        until = time.monotonic() + START_S
        while (health := probe(place)) is None or health.state != "ready":
            if time.monotonic() > until or process.poll() is not None:
                raise SystemExit((folder / "serve.log").read_text())
            time.sleep(0.1)
        tcp = place.tcp_endpoint()
        yield Engine(process.pid, tcp.port, tcp.token, EngineClient(place.endpoint()))
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def load(kind: str, on: Engine) -> Generator[dict[str, object]]:
    """Load of `kind` meanwhile; what became of it is in what this yields, afterwards."""
    command = [sys.executable, "-m", "benchmarks.serving.load", kind, str(on.port)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    process.stdin.write(on.token + "\n")
    process.stdin.flush()
    became: dict[str, object] = {}
    began = time.perf_counter()
    try:
        time.sleep(BEGUN_S)
        yield became
    finally:
        output, _ = process.communicate()
        became.update(json.loads(output), seconds=round(time.perf_counter() - began, 1))


async def typed(client: EngineClient, keys: int, what: str) -> dict[str, object]:
    """What `keys` requests took, of a cursor that moves along a file, and how many were refused."""
    first: list[float] = []
    whole: list[float] = []
    refused, start = 0, len(SOURCE) // 3
    for key in track(range(keys + 1), f"typing {what}"):
        call = call_at(SOURCE[: start + 6 * key], "", "decode.py", StopSpec(max_lines=1), 32)
        began, seen = time.perf_counter(), 0.0
        try:
            async for event in client.infill(call):
                if not seen and (event.text or event.final):
                    seen = time.perf_counter()
        except EngineUnavailable:
            refused += 1
            continue
        if key:  # The first reads the file.
            first.append(1000 * (seen - began))
            whole.append(1000 * (time.perf_counter() - began))
        await asyncio.sleep(PAUSE_S)
    return {"first_text_ms": spread(first), "whole_line_ms": spread(whole), "refused": refused}


def jain(shares: list[int]) -> float:
    """How evenly something is shared: 1 where all have the same, 1/n where one has all (Jain et al. 1984)."""
    return round(sum(shares) ** 2 / max(1, len(shares) * sum(share**2 for share in shares)), 3)


async def measure(on: Engine, keys: int) -> dict[str, object]:
    """All figures, of one engine."""
    figures: dict[str, object] = {"alone": await typed(on.client, keys, "alone")}
    for kind in LOADS:
        before = megabytes_of(on.process)
        with load(kind, on) as became:
            beside = await typed(on.client, keys, f"beside {kind}")
            during = megabytes_of(on.process)
        tokens = cast("dict[str, int]", became.pop("tokens"))
        seconds = cast("float", became["seconds"])
        shares = [*tokens.values()]
        beside |= became
        beside["tokens_per_s"] = round(sum(shares) / seconds, 1)
        beside["clients_served"] = sum(share > 0 for share in shares)
        if kind == "bulk":
            beside["share_of_each_client"] = tokens
            beside["fairness"] = jain(shares)
        beside["engine_mb"] = {"before": round(before), "during": round(during)}
        figures[kind] = beside
    figures["alone_again"] = await typed(on.client, keys, "alone again")
    await on.client.aclose()
    return figures


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--keys", type=int, default=100, help="requests to each load")
    keys = parser.parse_args().keys
    with tempfile.TemporaryDirectory(prefix="umb-") as folder, engine(Path(folder)) as running:
        figures = asyncio.run(measure(running, keys))
    print_report("serving", figures)


if __name__ == "__main__":
    main()
