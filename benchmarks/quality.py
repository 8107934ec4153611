"""How good the pair is on packages it never saw, and what speculation does there.

``python -m benchmarks.quality --work DIR`` fetches the held-out wheels that ``corpus.json`` pins, puts
cursors into them, and reports loss, exact matches beside a copying baseline, tokens per pass, and
every place where speculation and plain decoding chose differently, with the gap between the two best
logits there.
"""

from __future__ import annotations

import argparse
import difflib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean

import torch
from rich.progress import track

from benchmarks.report import print_report
from engine.config import EngineConfig, load
from engine.decode import Step
from engine.loaded import LoadedEngine
from engine.model import Block
from engine.protocol import Segment, StopSpec
from engine.sampling import SamplingParams
from engine.training.corpus import Corpus, SourceFile
from engine.training.prepare import CORPUS, fetch

PREFIX_LINES, SUFFIX_LINES, MAX_TOKENS = 60, 15, 48
NOISE = 1e-3
"""Logits of float32 passes of different shapes differ by less than this; measured about 1e-5."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in a held-out file: what stands before and after it, and how its line went on."""

    file: SourceFile
    prefix: str
    suffix: str
    expected: str
    whole_line: bool


def cursors(files: Sequence[SourceFile], count: int, seed: int) -> Iterator[Cursor]:
    """Random lines, alternately to be written whole and from somewhere within."""
    rng = random.Random(seed)
    while count:
        file = rng.choice(files)
        lines = file.text.split("\n")
        at = rng.randrange(len(lines))
        line = lines[at]
        code = line.strip()
        if at < 5 or len(code) < 4 or code.startswith("#"):
            continue
        indent = len(line) - len(line.lstrip())
        whole = count % 2 == 0
        column = indent if whole else rng.randrange(indent + 1, len(line))
        before = [*lines[max(0, at - PREFIX_LINES) : at], line[:column]]
        after = lines[at + 1 : at + 1 + SUFFIX_LINES]
        yield Cursor(file, "\n".join(before), "\n" + "\n".join(after), line[column:], whole)
        count -= 1


def copied(cursor: Cursor) -> str:
    """The baseline: go on as the nearest similar line above did."""
    *above, left = cursor.prefix.split("\n")
    if not cursor.whole_line:
        for line in reversed(above):
            if line.strip().startswith(left.strip()):
                return line.strip()[len(left.strip()) :]
    previous = above[-1].strip() if above else ""
    _, best = max(
        ((difflib.SequenceMatcher(None, a.strip(), previous).ratio(), b) for a, b in pairwise(above)),
        default=(0.0, ""),
    )
    return best.strip()


@dataclass(frozen=True, slots=True)
class Answer:
    """One cursor answered twice: with speculation and plainly."""

    text: str
    tokens: tuple[int, ...]
    last: Step
    plain_tokens: tuple[int, ...]
    loss: float
    gap: float | None
    """Where the two diverge: the target's best logit less its second best."""


class Judge:
    """Asks a loaded engine, without a server between."""

    def __init__(self, engine: LoadedEngine) -> None:
        self._engine = engine

    def ask(self, cursor: Cursor) -> Answer:
        """Complete the cursor's line."""
        segments = (Segment("prefix", cursor.prefix), Segment("suffix", cursor.suffix))
        prompt = self._engine.prompts.code(segments, cursor.file.path, "python", MAX_TOKENS).tokens
        text, steps = self._generate(prompt, speculative=True)
        _, plain = self._generate(prompt, speculative=False)
        tokens, plain_tokens = _tokens(steps), _tokens(plain)
        agreed = next((i for i, (a, b) in enumerate(zip(tokens, plain_tokens, strict=False)) if a != b), None)
        gap = None if agreed is None else self._gap([*prompt, *tokens[:agreed]])
        return Answer(text, tokens, steps[-1], plain_tokens, self._loss(prompt, cursor.prefix), gap)

    def _generate(self, prompt: Sequence[int], *, speculative: bool) -> tuple[str, list[Step]]:
        decoder = self._engine.decoder
        stream = self._engine.text_stream(prompt, StopSpec(max_lines=1))
        steps = list(
            decoder.generate(
                prompt,
                decoder.new_slot(),
                SamplingParams(),
                stream,
                max_tokens=MAX_TOKENS,
                speculative=speculative,
                before_layer=lambda _: None,
            )
        )
        return stream.finish(), steps

    def _logits(self, tokens: Sequence[int], rows: range) -> torch.Tensor:
        decoder = self._engine.decoder
        return decoder.target.forward(Block.chain(tokens), decoder.new_slot().target, rows, lambda _: None)

    def _gap(self, tokens: Sequence[int]) -> float:
        best = self._logits(tokens, range(len(tokens) - 1, len(tokens)))[0].topk(2).values
        return float(best[0] - best[1])

    def _loss(self, prompt: Sequence[int], prefix: str) -> float:
        """Mean nats a token of the code before the cursor."""
        code = min(len(self._engine.tokenizer.encode(prefix)), len(prompt) - 1)
        rows = range(len(prompt) - code - 1, len(prompt) - 1)
        wanted = torch.tensor(prompt[len(prompt) - code :])
        return float(torch.nn.functional.cross_entropy(self._logits(prompt, rows).cpu(), wanted))


def _tokens(steps: Sequence[Step]) -> tuple[int, ...]:
    return tuple(token for step in steps for token in step.tokens)


def held_out(work: Path) -> list[SourceFile]:
    """Cleaned files of the held-out packages."""
    corpus = Corpus()
    for wheel in fetch(json.loads(CORPUS.read_text())["held_out"], work / "wheels"):
        corpus.add_wheel(wheel)
    return corpus.files


def measure(engine: LoadedEngine, places: Sequence[Cursor]) -> dict[str, object]:
    """All figures over `places`."""
    judge = Judge(engine)
    answers = [judge.ask(place) for place in track(places, "completing")]
    pairs = list(zip(places, answers, strict=True))
    gaps = [answer.gap for answer in answers if answer.gap is not None]

    def share(hits: Sequence[bool]) -> float:
        return round(mean(hits), 4)

    def exact(*, whole_line: bool) -> float:
        return share([a.text.strip() == p.expected.strip() for p, a in pairs if p.whole_line == whole_line])

    def baseline(*, whole_line: bool) -> float:
        return share([copied(p) == p.expected.strip() for p, _ in pairs if p.whole_line == whole_line])

    return {
        "prompts": len(pairs),
        "loss": round(mean(answer.loss for answer in answers), 4),
        "line_exact_match": share([a.text.strip() == p.expected.strip() for p, a in pairs]),
        "copy_baseline": share([copied(p) == p.expected.strip() for p, _ in pairs]),
        "whole_line": {"exact_match": exact(whole_line=True), "copy_baseline": baseline(whole_line=True)},
        "rest_of_line": {"exact_match": exact(whole_line=False), "copy_baseline": baseline(whole_line=False)},
        "edit_similarity": round(
            mean(difflib.SequenceMatcher(None, a.text, p.expected).ratio() for p, a in pairs), 4
        ),
        "tokens_per_pass": round(
            sum(a.last.counts.generated for a in answers) / sum(a.last.counts.target_passes for a in answers),
            3,
        ),
        "divergences": len(gaps),
        "divergence_gaps": [round(gap, 7) for gap in gaps],
        "unexplained_divergences": sum(gap > NOISE for gap in gaps),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps the held-out wheels")
    parser.add_argument("--prompts", type=int, default=200, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", type=Path, help="engine configuration; the bundled pair without")
    options = parser.parse_args()
    config = load(options.config) if options.config else EngineConfig()
    engine = LoadedEngine.load(config, lambda _: None)
    places = list(cursors(held_out(options.work), options.prompts, options.seed))
    print_report("quality", measure(engine, places))


if __name__ == "__main__":
    main()
