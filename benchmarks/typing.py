"""Recorded typing, replayed through the real language server: what people would see, how soon, at what cost.

``python -m benchmarks.typing TRACE... --keys N --speed X --engine oracle:0.7`` types the first N
transactions of each trace into an `umbrella-lsp --stdio` of its own and judges every answer. The engine is
the shipped pair (``--engine pair``, for latency), or an author who knows the text to come and gets the rest
of a line right with probability P (``--engine oracle:P``, for logic; see `benchmarks.oracle`), at
``--pass-ms`` a target pass.

- `answers` are responses that say something, be it that there is nothing to suggest (`silent`); what was
  cancelled or superseded is counted apart. `answered_from` is what the server says of each, `server_ms` its
  own work for a request: without the engine, and without waiting.
- `stale_characters` and `duplicated_characters`: see `benchmarks.defects`. Nothing that the recording itself
  goes on to say counts.
- `flicker`: suggestions that took the place of another, of which something was left to type, without going
  on with it.
- `characters_saved_per_opportunity`: an opportunity is a key at which something is to come and a suggestion
  is asked for; whole lines (or what is suggested of one) are accepted if they are right, and the keys that
  they cover are no opportunities any more. The mean of what is saved.
- `tokens_recomputed_per_key`: of the target's prompts, those whose keys and values were not cached.
- `shown_without_new_pass`: of the keys that show a suggestion, those that waited for no target pass.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.progress import Progress

from benchmarks.foresight import texts_to_come
from benchmarks.indexing import make_workspace
from benchmarks.oracle import Oracle
from benchmarks.oracle_engine import EngineCounts, OracleEngine, Pace, serving
from benchmarks.recordings import Recording, RecordingError, padded, read_recording
from benchmarks.replay import Editor, Replay
from benchmarks.report import print_report
from benchmarks.typing_figures import Tally, tally
from engine.errors import UmbrellaError
from engine.launch import ensure_engine

SERVER = (sys.executable, "-P", "-m", "umbrella_lsp.cli", "--stdio")
PAIR = "pair"


@dataclass(frozen=True, slots=True)
class RunningEngine:
    """What a replay needs of an engine that a server will find."""

    counts: Callable[[], EngineCounts]
    show: Callable[[str, int, str], None] = lambda _text, _cursor, _coming: None
    """Told the document, its cursor and what is to come there, before the server is."""


@contextmanager
def oracle_engine(oracle: Oracle, pace: Pace, folder: Path) -> Generator[RunningEngine]:
    """One that knows what is to come."""
    engine = OracleEngine(oracle, pace)
    with serving(engine, folder):
        yield RunningEngine(engine.counts, oracle.show)


@contextmanager
def pair_engine() -> Generator[RunningEngine]:
    """The shipped pair, in the runtime folder of the environment. Raises EngineUnavailable."""
    endpoint = ensure_engine()
    try:
        transport = httpx.HTTPTransport(uds=str(endpoint.socket)) if endpoint.socket else None
        with httpx.Client(
            transport=transport, base_url=endpoint.base_url, headers=endpoint.headers
        ) as client:
            yield RunningEngine(lambda: engine_counts(client.get("/metrics").raise_for_status().text))
    finally:
        subprocess.run([sys.executable, "-P", "-m", "engine.cli", "stop"], check=False, stdout=sys.stderr)


def engine_counts(metrics: str) -> EngineCounts:
    """What ``GET /metrics`` says."""
    samples = [sample for family in text_string_to_metric_families(metrics) for sample in family.samples]

    def total(name: str, **labels: str) -> int:
        found = (s.value for s in samples if s.name == name and labels.items() <= s.labels.items())
        return int(sum(found))

    return EngineCounts(
        generations=total("umbrella_requests_total", endpoint="/infill"),
        cancels=total("umbrella_cancels_total"),
        passes=total("umbrella_target_passes_total"),
        prompt=total("umbrella_tokens_total", kind="prompt"),
        reused=total("umbrella_tokens_total", kind="reused"),
    )


@dataclass(frozen=True, slots=True)
class Typing:
    """How to replay."""

    keys: int
    speed: float
    editor: Editor

    def replay(
        self, recording: Recording, engine: RunningEngine, folder: Path, advance: Callable[[], None]
    ) -> tuple[Tally, EngineCounts]:
        """What a server of its own makes of `recording`, and what that cost the engine."""
        coming = texts_to_come(recording, self.keys)
        before = engine.counts()

        def key_typed(number: int, text: str, cursor: int) -> None:
            nonlocal before
            engine.show(text, cursor, coming[number])
            if number == 1:  # What the first prompt of all costs is no key's.
                before = engine.counts()
            if number:
                advance()

        replay = Replay(recording, self.keys, self.editor, self.speed, key_typed)
        replayed = asyncio.run(replay.run(SERVER, os.environ, folder))
        return tally(replayed), engine.counts().since(before)


def oracle_share(name: str) -> float | None:
    """P of ``oracle:P``, or None for the pair: an argument's type."""
    kind, _, share = name.partition(":")
    if name == PAIR:
        return None
    try:
        right = float(share) if kind == "oracle" else -1.0
    except ValueError:
        right = -1.0
    if not 0 <= right <= 1:
        raise argparse.ArgumentTypeError(f"is pair or oracle:P with P from 0 to 1, not {name}")
    return right


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options. Ends the program with a message about what cannot be used."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("traces", nargs="+", type=Path, metavar="TRACE", help="files of recorded typing")
    parser.add_argument("--keys", type=int, default=1000, metavar="N", help="of each, to type (%(default)s)")
    parser.add_argument(
        "--speed",
        type=float,
        default=1.0,
        metavar="X",
        help="times the recorded one (1); 0 waits for each answer and for nothing else",
    )
    parser.add_argument("--engine", type=oracle_share, default="oracle:0.7", metavar="pair|oracle:P")
    parser.add_argument(
        "--pass-ms", type=float, default=20.0, metavar="MS", help="that an oracle's target pass takes (20)"
    )
    parser.add_argument("--draft-ms", type=float, default=5.0, metavar="MS", help="an oracle's draft (5)")
    parser.add_argument("--client", choices=("vscode", "neovim"), default="vscode", help="(%(default)s)")
    parser.add_argument("--language", default="", metavar="ID", help="an editor's name; guessed without")
    parser.add_argument("--pad", type=int, default=0, metavar="LINES", help="of the same kind to put around")
    parser.add_argument(
        "--files", type=int, default=0, metavar="N", help="of the workspace, read while it is typed"
    )
    parser.add_argument("--seed", type=int, default=0, help="of what an oracle gets wrong")
    options = parser.parse_args(arguments)
    limits = {"keys": 1, "speed": 0, "pass_ms": 0, "draft_ms": 0, "pad": 0, "files": 0}
    for name, lowest in limits.items():
        if not lowest <= getattr(options, name) < float("inf"):
            parser.error(f"--{name.replace('_', '-')} must be at least {lowest}")
    return options


def read_all(options: argparse.Namespace) -> list[Recording]:
    """The recordings to replay. Raises RecordingError and OSError."""
    found: list[Recording] = []
    for path in options.traces:
        recording = read_recording(path, options.language)
        found.append(padded(recording, options.pad) if options.pad else recording)
    return found


def measure(recordings: Sequence[Recording], options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Replay all, one after another. The figures of all together, and of each."""
    runtime = folder / "run"
    runtime.mkdir(mode=0o700)
    # Nothing of the user's is read, and nothing is left among it.
    os.environ["UMBRELLA_RUNTIME_DIR"] = str(runtime)
    for name in ("CONFIG", "STATE", "DATA", "CACHE"):
        os.environ[f"XDG_{name}_HOME"] = str(folder / name.lower())
    os.environ.pop("UMBRELLA_CONFIG", None)
    typing = Typing(options.keys, options.speed, options.client)
    pace = Pace(options.pass_ms, options.draft_ms)
    is_pair = options.engine is None
    running = pair_engine() if is_pair else oracle_engine(Oracle(options.engine, options.seed), pace, runtime)
    measured: list[tuple[str, Tally, EngineCounts]] = []
    with running as engine, Progress(console=Console(stderr=True)) as progress:
        for number, recording in enumerate(recordings):
            task = progress.add_task(recording.name, total=min(options.keys, len(recording.transactions)))
            workspace = folder / f"work{number}"
            workspace.mkdir()
            make_workspace(workspace / "source", options.files)
            tallied, cost = typing.replay(
                recording, engine, workspace, lambda task=task: progress.advance(task)
            )
            measured.append((recording.name, tallied, cost))
    whole = reduce(Tally.plus, (tallied for _, tallied, _ in measured))
    cost = reduce(EngineCounts.plus, (cost for _, _, cost in measured))
    traces = [{"trace": name, **tallied.figures(cost)} for name, tallied, cost in measured]
    return {**whole.figures(cost), "traces": traces}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    options = parse_arguments(arguments)
    is_pair = options.engine is None
    asked = {
        "engine": PAIR if is_pair else f"oracle:{options.engine:g}",
        "pass_ms": None if is_pair else options.pass_ms,
        "speed": options.speed,
        "client": options.client,
        "padded_lines": options.pad,
        "workspace_files": options.files,
        "seed": options.seed,
    }
    try:
        recordings = read_all(options)
        with tempfile.TemporaryDirectory(prefix="umb-") as folder:
            figures = measure(recordings, options, Path(folder))
    except (RecordingError, UmbrellaError, OSError, TimeoutError) as error:
        raise SystemExit(f"benchmarks.typing: {error}") from error
    print_report("typing", {**asked, **figures})


if __name__ == "__main__":
    main()
