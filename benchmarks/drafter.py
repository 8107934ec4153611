"""Does a draft that was trained on a repository pay on what is written there afterwards?

``python -m benchmarks.drafter --repo DIR --since REV --work DIR`` continues a draft on the repository as it
was at REV, puts cursors into code that came later, and counts the tokens a pass of the target gives there:
with n-grams alone, with the draft before and with the draft after. Interrupted, it goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from benchmarks.cursors import Cursor
from benchmarks.history import (
    History,
    HistoryError,
    NewCode,
    cursors_in,
    known_windows,
    new_code,
    texts_under,
)
from benchmarks.judge import BLOCK_TOKENS, complete, extent
from benchmarks.report import print_report
from engine.checkpoint import Checkpoint, find
from engine.config import EngineConfig
from engine.decode import Decoder
from engine.draft.base import Drafter, TreeLimits
from engine.draft.lookup import PromptDrafter
from engine.errors import UmbrellaError
from engine.loaded import LoadedEngine
from engine.model import Transformer
from engine.prompt import BuiltPrompt
from engine.protocol import Segment, StopSpec, TokenCounts
from engine.templates import template_for
from engine.tokenizer import Tokenizer
from engine.training.acceptance import free_drafter, full_trees
from engine.training.corpus import Corpus
from engine.training.draft import DraftJob, Trained, train_draft
from engine.training.held_out import split

NGRAMS, BEFORE, AFTER = "ngrams", "before", "after"
ALONE = {BEFORE: "before_alone", AFTER: "after_alone"}
"""The same drafts without n-grams beside them."""
RESAMPLES = 10_000
LICENCE = "any"
"""It is the user's own code, and the draft stays with the user."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the target wrote at a cursor, and what that took."""

    tokens: tuple[int, ...]
    counts: TokenCounts


class Race:
    """Has one target complete the same prompts with several drafters, greedily."""

    def __init__(self, config: EngineConfig, drafts: Mapping[str, str]) -> None:
        """`drafts`: checkpoints by name, each tried beside n-grams, as it is shipped, and alone.

        Raises CheckpointError or ConfigError.
        """
        self._engine = engine = LoadedEngine.load(config)
        target, length = engine.decoder.target, engine.decoder.max_length
        limits = TreeLimits.of(config)
        drafters: dict[str, list[Drafter]] = {NGRAMS: [PromptDrafter()]}
        for name, draft in drafts.items():
            model = Transformer.load(Checkpoint.open(find(draft)), config.device, config.dtype)
            drafter = free_drafter(model, length, limits)
            drafters[name] = [PromptDrafter(), drafter]
            drafters[ALONE[name]] = [drafter]
        self._decoders = {
            name: Decoder(target, full_trees(few, limits), length) for name, few in drafters.items()
        }
        self._slots = {name: decoder.new_slot() for name, decoder in self._decoders.items()}
        # One cache of the target's for all, so that a prompt is run once and not once a drafter.
        for slot in self._slots.values():
            slot.target = self._slots[NGRAMS].target

    def ask(self, cursor: Cursor) -> dict[str, Answer]:
        """The answer with each drafter. Raises RequestError if the context holds no prompt at all."""
        segments = (Segment("prefix", cursor.prefix), Segment("suffix", cursor.suffix))
        prompt = self._engine.prompts.code(segments, cursor.path, cursor.language, BLOCK_TOKENS)
        # Passes over the prompt would count against whoever comes first.
        self._generate(NGRAMS, prompt, StopSpec(), 1)
        spec = extent(cursor).spec
        return {name: self._generate(name, prompt, spec, BLOCK_TOKENS) for name in self._decoders}

    def _generate(self, name: str, prompt: BuiltPrompt, spec: StopSpec, max_tokens: int) -> Answer:
        _, steps = complete(self._engine, self._decoders[name], self._slots[name], prompt, spec, max_tokens)
        return Answer(tuple(token for step in steps for token in step.tokens), steps[-1].counts)


def per_pass(spent: NDArray[np.int64]) -> NDArray[np.float64]:
    """Tokens a pass over all prompts; `spent` [..., prompts, 2]: the tokens and the passes of each."""
    total = spent.sum(axis=-2)
    return total[..., 0] / total[..., 1]


def compare(before: NDArray[np.int64], after: NDArray[np.int64], seed: int) -> dict[str, object]:
    """Tokens a pass of `after` over those of `before`, and the 95 % interval over prompts like these.

    Both are [prompts, 2] as in `per_pass`. Prompts are drawn anew with replacement, the same ones on both
    sides (paired percentile bootstrap; Efron and Tibshirani 1993).
    """
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(before), size=(RESAMPLES, len(before)))
    low, high = np.quantile(per_pass(after[drawn]) / per_pass(before[drawn]), (0.025, 0.975))
    ratio = float(per_pass(after) / per_pass(before))
    return {"ratio": round(ratio, 3), "interval_95": [round(float(low), 3), round(float(high), 3)]}


def summarize(answers: Sequence[Mapping[str, Answer]], seed: int) -> dict[str, object]:
    """Figures over `answers` [at least 1], each by drafter."""
    spent = {
        name: np.array([(each[name].counts.generated, each[name].counts.target_passes) for each in answers])
        for name in answers[0]
    }
    return {
        "prompts": len(answers),
        "tokens": int(spent[AFTER][:, 0].sum()),
        "tokens_per_pass": {name: round(float(per_pass(rows)), 3) for name, rows in spent.items()},
        "after_over_before": compare(spent[BEFORE], spent[AFTER], seed),
        "after_over_ngrams": compare(spent[NGRAMS], spent[AFTER], seed),
        "after_over_before_alone": compare(spent[ALONE[BEFORE]], spent[ALONE[AFTER]], seed),
        "divergences": sum(len({answer.tokens for answer in each.values()}) > 1 for each in answers),
    }


def pair(target: str, draft: str) -> EngineConfig:
    """Target and draft, in the target's own prompt template. Raises CheckpointError or ConfigError."""
    template = template_for(Tokenizer.load(find(target)).vocabulary().keys()).name
    return EngineConfig(model=target, draft_model=draft, template=template)


def newer_code(history: History, work: Path) -> list[NewCode]:
    """What HEAD has and the older commit had nowhere. Raises HistoryError if that is nothing."""
    old, new = (history.export(commit, work) for commit in (history.before, history.after))
    found = new_code(Corpus.from_folders([new], LICENCE).files, known_windows(texts_under(old)))
    if not found:
        raise HistoryError(
            f"no code is new since {history.before[:12]}: all was there, or was only moved. "
            "Name an older revision."
        )
    return found


def trained_on(corpus: Corpus, options: argparse.Namespace) -> Trained:
    """The draft after, from ``WORK/draft``."""
    job = DraftJob(
        target=options.target,
        start=options.draft,
        tokens=options.tokens,
        lessons=options.lessons,
        seed=options.seed,
    )
    parts = split(corpus.files, seed=options.seed)
    return train_draft(job, parts, options.work / "draft", lambda text: print(text, file=sys.stderr))


def figures(options: argparse.Namespace) -> dict[str, object]:
    """The whole measurement. Raises HistoryError or an UmbrellaError that says what cannot be used."""
    history = History.open(options.repo, options.since)
    config = pair(options.target, options.draft)
    # A pair that does not fit is refused before training begins, which loads the models for itself.
    LoadedEngine.load(config)
    found = newer_code(history, options.work)
    corpus = Corpus.from_folders([history.export(history.before, options.work)], LICENCE)
    trained = trained_on(corpus, options)
    race = Race(config, {BEFORE: options.draft, AFTER: str(trained.folder)})
    places = cursors_in(found, options.prompts, options.seed)
    answers = [race.ask(place) for place in track(places, "completing", console=Console(stderr=True))]
    summary = corpus.summary()
    return {
        "repository": history.name,
        "since": {"revision": options.since, "commit": history.before},
        "head": history.after,
        "models": {"target": options.target, "draft": options.draft, "digest": config.digest()},
        "seed": options.seed,
        "training": {
            "files": summary.files,
            "characters": summary.characters,
            "tokens": options.tokens,
            "lessons": options.lessons,
        },
        "held_out": {NGRAMS: trained.ngrams_alone, BEFORE: trained.before, AFTER: trained.after},
        "new_runs": len(found),
        "new_lines": sum(len(code.run) for code in found),
        **summarize(answers, options.seed),
    }


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options. Ends the program with a message about what cannot be used."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repo", type=Path, required=True, metavar="DIR", help="a git repository")
    parser.add_argument("--since", required=True, metavar="REV", help="what is after it is measured on")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="keeps trees and draft")
    parser.add_argument("--target", default="bundled:target", help="as in the configuration (%(default)s)")
    parser.add_argument("--draft", default="bundled:draft", help="what is trained on (%(default)s)")
    parser.add_argument("--tokens", type=int, metavar="N", help="code to read (two epochs)")
    parser.add_argument("--lessons", type=int, default=1000, metavar="N", help="(%(default)s)")
    parser.add_argument("--prompts", type=int, default=200, metavar="N", help="at most (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    for name in ("tokens", "lessons", "prompts"):
        value: int | None = getattr(options, name)
        if value is not None and value < 1:
            parser.error(f"--{name} must be at least 1")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    options = parse_arguments(arguments)
    try:
        found = figures(options)
    except (HistoryError, UmbrellaError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from error
    print_report("drafter", found)


if __name__ == "__main__":
    main()
