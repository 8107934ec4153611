"""A warm engine while someone types: time to the first suggestion, and from a cancel to an idle engine.

``python -m benchmarks.latency`` types this package's own source, some characters a request, through
the engine's socket, and cancels long generations by closing their connection.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from contextlib import aclosing
from pathlib import Path

from rich.progress import track

from benchmarks.report import print_report, spread
from engine.client import EngineClient, InfillCall
from engine.launch import ensure_engine
from engine.protocol import Segment, StopSpec, UmbrellaRequest

SOURCE = Path(__file__).parent.parent / "engine"
CHARACTERS_A_KEY = 6
"""Recorded typing comes in runs of about six characters."""


def call_at(prefix: str, suffix: str, file: str, stop: StopSpec, max_tokens: int) -> InfillCall:
    """What the front end would send for a cursor between the two."""
    segments = (Segment("prefix", prefix), Segment("suffix", suffix))
    umbrella = UmbrellaRequest(segments=segments, path=file, language="python", session=file, stop=stop)
    return InfillCall(umbrella=umbrella, max_tokens=max_tokens)


async def type_file(client: EngineClient, name: str, text: str, keys: int) -> tuple[list[float], list[float]]:
    """Milliseconds to the first text and to the whole line, of each request but the cold first."""
    start = len(text) // 3
    # What follows all that is typed: typing does not change it.
    suffix = text[start + (keys + 1) * CHARACTERS_A_KEY :]
    first: list[float] = []
    whole: list[float] = []
    for key in track(range(keys + 1), f"typing {name}"):
        typed = text[: start + key * CHARACTERS_A_KEY]
        call = call_at(typed, suffix, name, StopSpec(max_lines=1), 32)
        began, seen = time.perf_counter(), 0.0
        async for event in client.infill(call):
            if not seen and (event.text or event.final):
                seen = time.perf_counter()
        first.append((seen - began) * 1000)
        whole.append((time.perf_counter() - began) * 1000)
    return first[1:], whole[1:]


async def cancel_once(client: EngineClient, other: EngineClient, text: str) -> float:
    """Milliseconds from closing a stream until ``/health`` says the engine is idle."""
    call = call_at(text[: len(text) // 2], "", "cancel.py", StopSpec(), 400)
    async with aclosing(client.infill(call)) as stream:
        await anext(stream)
        closed = time.perf_counter()
    while (await other.health()).busy:
        pass
    return (time.perf_counter() - closed) * 1000


async def measure(texts: dict[str, str], keys: int, cancels: int) -> dict[str, object]:
    """All figures, against the engine that the environment names."""
    endpoint = await asyncio.to_thread(ensure_engine)
    client, other = EngineClient(endpoint), EngineClient(endpoint)
    try:
        first: list[float] = []
        whole: list[float] = []
        for name in ("decode.py", "prompt.py"):
            some_first, some_whole = await type_file(client, name, texts[name], keys)
            first += some_first
            whole += some_whole
        text = texts["model.py"]
        idle = [await cancel_once(client, other, text) for _ in track(range(cancels), "cancelling")]
    finally:
        await client.aclose()
        await other.aclose()
    return {"first_text_ms": spread(first), "whole_line_ms": spread(whole), "cancel_to_idle_ms": spread(idle)}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--keys", type=int, default=60, help="requests a file")
    parser.add_argument("--cancels", type=int, default=30)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="umb-") as folder:
        os.environ["UMBRELLA_RUNTIME_DIR"] = folder
        try:
            texts = {file.name: file.read_text(encoding="utf-8") for file in SOURCE.glob("*.py")}
            figures = asyncio.run(measure(texts, options.keys, options.cancels))
        finally:
            subprocess.run([sys.executable, "-m", "engine.cli", "stop"], check=False)
    print_report("latency", figures)


if __name__ == "__main__":
    main()
