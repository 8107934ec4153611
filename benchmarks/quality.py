"""How good the pair is on packages it never saw, beside what needs no model, and what speculation does there.

``python -m benchmarks.quality --work DIR`` fetches the held-out wheels that ``corpus.json`` pins, puts
cursors into them and completes each; ``--prompts FILE`` completes the user's own instead. Reported for each
position of the cursor and overall: exact matches, edit similarity, whether files still parse; tokens a
pass by drafter; what a confidence is worth; and every place where speculation and plain decoding chose
differently, with the gap between the two best logits there.

``--front-end`` instead adds the front end's rules to the bare engine one after another (`frontend.ROWS`), in
each of the languages that have a grammar, so that what each rule is worth is a figure. The bundled pair has
learnt Python and nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

from rich.console import Console
from rich.progress import track

from benchmarks.baselines import copied, most_frequent
from benchmarks.cursors import POSITIONS, Cursor, Position, cursors, read_prompts
from benchmarks.divergence import NOISE
from benchmarks.judge import CHAIN, SHIPPED, TREE, Answer, Judge, shown
from benchmarks.report import picture, print_report
from benchmarks.scoring import Calibration, Scores, calibrate, line_matches, score
from engine.config import EngineConfig, load
from engine.errors import UmbrellaError
from engine.loaded import LoadedEngine
from engine.training.corpus import Corpus, SourceFile
from umbrella_lsp.syntax.languages import GRAMMARS

LINES: tuple[Position, ...] = ("next_line", "line_end")
"""What `line_exact_match` is over: where a line is expected to its end."""


@dataclass(frozen=True, slots=True)
class Quality:
    """What was measured."""

    scores: Mapping[Position, Mapping[str, Scores]]
    """By position, then by who answered: the model or a baseline. Positions without cursors are left out."""
    calibrations: Mapping[str, Calibration]
    """Of two confidences, against exact matches of the first line."""
    figures: Mapping[str, object]
    """All of it, as the document has it."""


def held_out(work: Path) -> Corpus:
    """Cleaned files of the held-out packages."""
    # Needs what the extra `train` installs; prompts of the user's own do not.
    from engine.training.prepare import CORPUS, fetch

    corpus = Corpus()
    for wheel in fetch(json.loads(CORPUS.read_text())["held_out"], work / "wheels"):
        corpus.add_wheel(wheel)
    return corpus


def overall(places: Sequence[Cursor], texts: Sequence[str]) -> dict[str, float | None]:
    """One answerer's figures over all positions that each of them is about."""

    def over(*positions: Position) -> Scores:
        chosen = [(p, t) for p, t in zip(places, texts, strict=True) if p.position in positions]
        return score([place for place, _ in chosen], [text for _, text in chosen])

    everywhere = over(*POSITIONS)
    return {
        "line_exact_match": over(*LINES).exact_match,
        "block_exact_match": over("block").exact_match,
        "edit_similarity": everywhere.edit_similarity,
        "parse_success": everywhere.parse_success,
        "empty": everywhere.empty,
    }


def by_position(
    places: Sequence[Cursor], answers: Mapping[str, Sequence[str]]
) -> dict[Position, dict[str, Scores]]:
    """Scores at each position that `places` [n] have, of each list of `answers` [n]."""
    found: dict[Position, dict[str, Scores]] = {}
    for position in POSITIONS:
        at = [index for index, place in enumerate(places) if place.position == position]
        if at:
            here = [places[index] for index in at]
            found[position] = {
                name: score(here, [texts[index] for index in at]) for name, texts in answers.items()
            }
    return found


def calibrations(places: Sequence[Cursor], answers: Sequence[Answer]) -> dict[str, Calibration]:
    """How far each confidence can be relied on, over the answers that are not empty."""
    given = [(place, answer) for place, answer in zip(places, answers, strict=True) if answer.text]
    correct = [line_matches(place, answer.text) for place, answer in given]
    return {
        "token_likelihood": calibrate([answer.token_likelihood for _, answer in given], correct),
        "likelihood": calibrate([answer.likelihood for _, answer in given], correct),
    }


def tokens_per_pass(answers: Sequence[Answer]) -> dict[str, float]:
    """Tokens a pass of the target gave, by drafter."""
    return {
        name: round(
            sum(answer.counts[name].generated for answer in answers)
            / sum(answer.counts[name].target_passes for answer in answers),
            3,
        )
        for name in answers[0].counts
    }


def divergences(answers: Sequence[Answer]) -> dict[str, object]:
    """Where speculation and plain decoding differ, and how often by more than rounding explains."""
    gaps = [answer.gap for answer in answers if answer.gap is not None]
    return {
        "divergences": len(gaps),
        "divergence_gaps": [round(gap, 7) for gap in gaps],
        "unexplained_divergences": sum(gap > NOISE for gap in gaps),
    }


def measure(ask: Callable[[Cursor], Answer], places: Sequence[Cursor]) -> Quality:
    """All figures over `places` [at least 1], as `ask` answers them. Shows its progress on stderr."""
    answers = [ask(place) for place in track(places, "completing", console=Console(stderr=True))]
    texts = {
        "model": [answer.text for answer in answers],
        "copied": [shown(place, copied(place)) for place in places],
        "most_frequent": [shown(place, most_frequent(place)) for place in places],
    }
    baselines = {name: overall(places, texts[name]) for name in ("copied", "most_frequent")}
    scores, confidences = by_position(places, texts), calibrations(places, answers)
    passes = tokens_per_pass(answers)
    losses = [answer.loss for answer in answers if answer.loss is not None]
    figures: dict[str, object] = {
        "prompts": len(places),
        "loss": round(mean(losses), 4) if losses else None,
        **overall(places, texts["model"]),
        "copy_baseline": baselines["copied"]["line_exact_match"],
        "baselines": baselines,
        "by_position": {
            position: {name: asdict(scored) for name, scored in found.items()}
            for position, found in scores.items()
        },
        "tokens_per_pass": passes[SHIPPED],
        "by_drafter": passes,
        "tree_over_chain": round(passes[TREE] / passes[CHAIN], 3) if CHAIN in passes else None,
        "calibration": {name: asdict(found) for name, found in confidences.items()},
        **divergences(answers),
    }
    return Quality(scores, confidences, figures)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options. Ends the program with a message about what cannot be used, before anything long begins."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--work", type=Path, metavar="DIR", help="folder that keeps the held-out wheels")
    where.add_argument("--prompts", type=Path, metavar="FILE", help="JSON lines: prefix, suffix, expected")
    parser.add_argument(
        "--prompts-per-position", type=int, metavar="N", help="100; with --front-end 10 in each language"
    )
    parser.add_argument(
        "--front-end", action="store_true", help="measure what each rule of the front end adds to the engine"
    )
    parser.add_argument(
        "--languages", type=_names, metavar="NAME,...", help="with --front-end and --work: these; all without"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", type=Path, help="engine configuration; the bundled pair without")
    parser.add_argument("--plot", type=picture, metavar="FILE", help="picture of the figures, .svg or .png")
    options = parser.parse_args(arguments)
    if options.prompts_per_position is None:
        options.prompts_per_position = 10 if options.front_end else 100
    if options.prompts_per_position < 1:
        parser.error("--prompts-per-position must be at least 1")
    if options.front_end and options.plot:
        parser.error("--plot draws no picture of --front-end")
    if options.languages and not (options.front_end and options.work):
        parser.error("--languages are of the files that --front-end finds with --work")
    return options


def _names(text: str) -> tuple[str, ...]:
    """Languages that have a grammar, as an argument's type."""
    names = tuple(text.split(","))
    if unknown := set(names) - GRAMMARS.keys():
        raise argparse.ArgumentTypeError(f"knows {', '.join(GRAMMARS)}, not {', '.join(sorted(unknown))}")
    return names


def front_end(options: argparse.Namespace) -> None:
    """Measure the front end, and print the document. Raises UmbrellaError and ValueError."""
    from benchmarks.frontend import measure, own_engine

    files: list[SourceFile] = []
    places: list[Cursor] = []
    if options.prompts:
        places = read_prompts(options.prompts)
    else:
        from benchmarks.languages import read_languages

        languages: tuple[str, ...] = options.languages or tuple(GRAMMARS)
        if "python" in languages:
            files += held_out(options.work).files
        if set(languages) - {"python"}:
            files += read_languages(options.work).files
        for language in languages:
            # A language at a time, so that the cursors of one do not depend on the files of others.
            own = [file for file in files if file.language == language]
            if own:
                places += cursors(own, options.prompts_per_position, options.seed)
    with own_engine(options.config) as client:
        tables = asyncio.run(measure(client, files, places))
    print_report("front_end", {"seed": options.seed, "languages": tables})


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    options = parse_arguments(arguments)
    if options.front_end:
        try:
            front_end(options)
        except (UmbrellaError, ValueError) as error:
            raise SystemExit(str(error)) from error
        return
    try:
        config = load(options.config) if options.config else EngineConfig()
        corpus = held_out(options.work) if options.work else Corpus()
        places = (
            read_prompts(options.prompts)
            if options.prompts
            else cursors(corpus.files, options.prompts_per_position, options.seed)
        )
        engine = LoadedEngine.load(config)
    except (UmbrellaError, ValueError) as error:
        raise SystemExit(str(error)) from error
    quality = measure(Judge(engine, config).ask, places)
    asked = {
        "config": {"model": config.model, "draft_model": config.draft_model, "digest": config.digest()},
        "seed": options.seed,
        "packages": {source.package: source.version for source in corpus.sources},
    }
    print_report("quality", {**asked, **quality.figures})
    # Last, so that a folder that cannot be written to costs the picture and no figure.
    if options.plot:
        from benchmarks.plot import draw

        draw(quality.scores, quality.calibrations, options.plot)


if __name__ == "__main__":
    main()
