"""The real engine with a 70B that does not fit: loaded, served, cancelled in mid-pass, and asked again.

``python -m benchmarks.offload.served --work DIR`` writes a checkpoint of a 70B's shape
(`benchmarks.offload.checkpoint`) and one of an 8B's to draft into DIR, 46 GB, where they stay for a next
time, as does what the engine makes of them, 36 GB if there is room. It starts the engine under a cap of
24 GB and asks it through ``/infill`` as a client does. ``--scale tiny`` does the same in seconds with a model
of 70 MB, most layers of which are read from disk at every pass, for machines without a GPU.

What such models write means nothing, and they accept next to no guesses: times are for passes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.latency import call_at
from benchmarks.offload.checkpoint import write
from benchmarks.offload.shapes import GB, LLAMA_8B, LLAMA_70B, TINY, Shape
from benchmarks.report import print_report
from engine.client import EngineClient, InfillCall
from engine.config import EngineConfig, load
from engine.launch import ensure_engine
from engine.offload.machine import Machine
from engine.offload.plan import plan
from engine.offload.prediction import Prediction, predict
from engine.protocol import Health, StopSpec

SOURCE = Path(__file__).read_text(encoding="utf-8")
CAP_GB = 24
POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Scale:
    """What is served, under which cap."""

    target: Shape
    draft: Shape | None
    settings: str
    """Of the engine's configuration, beside the models."""
    prefix_characters: int
    tokens: int

    def call(self, max_tokens: int) -> InfillCall:
        """A request to continue this file."""
        return call_at(SOURCE[: self.prefix_characters], "", "served.py", StopSpec(), max_tokens)


SCALES = {
    "70b": Scale(LLAMA_70B, LLAMA_8B, f"max_vram = {CAP_GB}\nmax_length = 4096\n", 4000, 32),
    "tiny": Scale(TINY, None, 'device = "cpu"\nmax_ram = 0.12\nslots = 1\nthreads = 1\n', 400, 8),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one request."""

    text: str
    first_text_ms: float
    """Until something was said, whatever it is."""
    total_ms: float
    decode_ms: float
    passes: int
    generated: int
    prompt_tokens: int
    reused_tokens: int


def configured(work: Path, scale: Scale) -> Path:
    """The configuration file below `work`, whose checkpoints are written unless they are there."""
    folders = {"model": work / "target"}
    for folder, shape in ((work / "target", scale.target), (work / "draft", scale.draft)):
        if shape is not None and not (folder / "written").exists():
            write(folder, shape)
            (folder / "written").touch()
    if scale.draft is not None:
        folders["draft_model"] = work / "draft"
    named = "".join(f'{key} = "{folder}"\n' for key, folder in folders.items())
    none = "" if scale.draft else 'draft_model = ""\n'
    file = work / "engine.toml"
    file.write_text(named + none + scale.settings)
    return file


async def loaded(client: EngineClient) -> tuple[Health, float, list[str]]:
    """Wait until the models are loaded: what the engine says then, seconds, what it said meanwhile."""
    began, said = time.perf_counter(), list[str]()
    while (health := await client.health()).state == "loading":
        if health.message and (not said or said[-1] != health.message):
            said.append(health.message)
        await asyncio.sleep(POLL_S)
    if health.state == "failed":
        raise SystemExit(health.message)
    return health, time.perf_counter() - began, said


async def ask(client: EngineClient, scale: Scale) -> Answer:
    """One request, to its end."""
    began, first, said = time.perf_counter(), 0.0, ""
    async for event in client.infill(scale.call(scale.tokens)):
        first = first or time.perf_counter()
        said += event.text
        if event.final:
            tokens, timings = event.reply.tokens, event.reply.timings
            return Answer(
                text=said,
                first_text_ms=round(1000 * (first - began), 1),
                total_ms=round(1000 * (time.perf_counter() - began), 1),
                decode_ms=round(timings.decode_ms, 1),
                passes=tokens.target_passes,
                generated=tokens.generated,
                prompt_tokens=tokens.prompt,
                reused_tokens=tokens.reused,
            )
    raise AssertionError("a stream ends with a final event")


async def cancel(client: EngineClient, other: EngineClient, scale: Scale, pass_ms: float) -> float:
    """Milliseconds from a cancel half a pass after the first text until the engine is idle."""
    async with aclosing(client.infill(scale.call(1000))) as stream:
        await anext(stream)
        await asyncio.sleep(pass_ms / 2000)
        closed = time.perf_counter()
    while (await other.health()).busy:
        pass
    return 1000 * (time.perf_counter() - closed)


async def measure(config: Path, scale: Scale) -> dict[str, object]:
    """All figures of one engine."""
    endpoint = await asyncio.to_thread(ensure_engine, config)
    client, other = EngineClient(endpoint), EngineClient(endpoint)
    try:
        health, load_s, said = await loaded(other)
        first = await ask(client, scale)
        pass_ms = first.decode_ms / max(1, first.passes - 1)
        cancelled_ms = await cancel(client, other, scale, pass_ms)
        second = await ask(client, scale)
    finally:
        await client.aclose()
        await other.aclose()
    shown = {name: value for name, value in asdict(first).items() if name != "text"}
    again = {name: value for name, value in asdict(second).items() if name != "text"}
    return {
        "load_s": round(load_s, 1),
        "loading_said": said[:: max(1, len(said) // 10)],
        "engine_pass_ms": round(health.pass_ms, 1),
        "pass_ms": round(pass_ms, 1),
        "first_request": shown,
        "cancel_to_idle_ms": round(cancelled_ms, 1),
        "second_request": again,
        "second_says_the_same": first.text == second.text,
    }


def predicted(config: EngineConfig, link_gb_per_s: float | None) -> Prediction:
    """What the plan says of this machine, its link's speed if stated, where hardly a guess is accepted."""
    link_bytes_per_s = None if link_gb_per_s is None else link_gb_per_s * GB
    machine = Machine.here(config).with_stated(link_bytes_per_s=link_bytes_per_s)
    return predict(config, machine, plan(config, machine), 1.0)


@contextmanager
def engine_of_its_own(runtime: Path, cache: Path) -> Generator[None]:
    """Have clients find no engine but one that this starts, with a cache of its own, and end that."""
    changed = {"UMBRELLA_RUNTIME_DIR": str(runtime), "XDG_CACHE_HOME": str(cache)}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        subprocess.run([sys.executable, "-m", "engine.cli", "stop"], check=False, stdout=sys.stderr)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def serve(work: Path, scale: Scale, link_gb_per_s: float | None) -> dict[str, object]:
    """Write what is to be served into `work`, serve it, and say how that went."""
    file = configured(work, scale)
    config = load(file)
    prediction = predicted(config, link_gb_per_s)
    with (
        tempfile.TemporaryDirectory(prefix="umb-") as folder,
        engine_of_its_own(Path(folder), work / "cache"),
    ):
        found = asyncio.run(measure(file, scale))
    foreseen_ms = prediction.schedule.pass_ms
    return {
        **found,
        "predicted_pass_ms": round(foreseen_ms, 1),
        "prediction_over_measured": round(foreseen_ms / float(str(found["pass_ms"])), 3),
        "rates": asdict(prediction.rates),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--scale", choices=list(SCALES), default="70b")
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="where checkpoints are, or are written and left"
    )
    parser.add_argument("--link", type=float, metavar="GB/S", help="of the GPU, for the prediction (25)")
    parser.add_argument("--write", action="store_true", help="only write the checkpoints")
    options = parser.parse_args(arguments)
    if options.write and options.work is None:
        parser.error("--write needs --work: where to leave them")
    with tempfile.TemporaryDirectory() as folder:
        work: Path = options.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        if options.write:
            configured(work.absolute(), SCALES[options.scale])
            return
        found = serve(work.absolute(), SCALES[options.scale], options.link)
    print_report("offload.served", {"scale": options.scale, **found})


if __name__ == "__main__":
    main()
