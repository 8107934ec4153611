"""What speculation gains: ours beside plain decoding, fixed policies, UMbreLLa's beam and transformers.

``python -m benchmarks.speculation`` continues three sets of prompts: code of packages that the bundled pair
was not trained on; code in which an edit was made twice and is being made again; and random text.
``--prompts FILE`` puts the user's own in place of the code and leaves the edits out. Modes take turns
(`benchmarks.turns`), each going on to an end token or ``--max-tokens``.

Code is continued greedily. Random text is token ids drawn evenly from the vocabulary, and continued at
temperature 1: greedily, a small model soon repeats itself there, and is guessed more easily than in code.

Each set has policies of its own, so nothing that was learnt on one is known on the next. As an engine that
has been in use has learnt from its user's text, they go through the set's first prompts once, untimed.
Every continuation starts from empty caches: no mode remembers having written the same text before.

Rates count from the end of the first pass, which reads the prompt; `..._with_prefill` counts all.
transformers gets the same token ids, end tokens and weights, and is checked to give the same logits. Which
fixed policy is the best one is told in hindsight, by the very times that are compared. Nodes are guesses:
a tree's root is none.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers
from rich.console import Console
from rich.progress import Progress

from benchmarks.cursors import read_lines
from benchmarks.divergence import NOISE, lead, parting
from benchmarks.modes import BEAM, OURS, PLAIN, Pair
from benchmarks.peers import Generate, replica, require_alike
from benchmarks.prompts import Cursor, Prompts, Tokens, held_out
from benchmarks.report import picture, print_report, spread
from benchmarks.turns import (
    Mode,
    Round,
    decoding,
    fastest,
    nodes_per_pass,
    over_prompts,
    ratio,
    summary,
    take_turns,
    tokens_per_pass,
    with_prefill,
)
from engine.checkpoint import Checkpoint, find
from engine.config import EngineConfig, load
from engine.errors import UmbrellaError
from engine.model import Block, Transformer
from engine.policy import TreePolicy
from engine.sampling import SamplingParams

CODE, EDITS, RANDOM = "code", "repeated_edit", "random_text"
TRANSFORMERS, ASSISTED = "transformers", "transformers_assisted"
GREEDY, AT_RANDOM = SamplingParams(), SamplingParams(temperature=1.0)
WARM_UP = 4
"""Of a set's prompts, at most: gone through untimed."""
RATIOS = {
    "ours_over_plain": (CODE, OURS, PLAIN),
    "ours_over_plain_repeated_edit": (EDITS, OURS, PLAIN),
    "ours_over_plain_random_text": (RANDOM, OURS, PLAIN),
    "ours_over_beam_16x16": (CODE, OURS, BEAM),
    "ours_over_transformers": (CODE, OURS, TRANSFORMERS),
    "ours_over_transformers_assisted": (CODE, OURS, ASSISTED),
}
"""By name: on which prompts, which mode, over which."""

Began = Callable[[str, int], Callable[[], None]]
"""Is told what begins, and of how many runs it will be; what it returns is called after each."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured."""

    prompts: int
    """A set."""
    rounds: int
    max_tokens: int


FULL, QUICK = Effort(prompts=16, rounds=5, max_tokens=64), Effort(prompts=2, rounds=2, max_tokens=32)


@dataclass(frozen=True, slots=True)
class Measured:
    """What became of the prompts of one set."""

    prompts: Sequence[Tokens]
    params: SamplingParams
    fixed: Sequence[str]
    """The modes that do the same at every step."""
    rounds: Sequence[Round]
    budgets: Round
    """One round more, of trees of a given size whatever they cost; empty but on code."""


def peers(pair: Pair, prompt: Tokens, max_tokens: int) -> dict[str, Mode]:
    """Those of transformers: without an assistant and, if there is a draft model, with it as one.

    Raises ValueError if their logits after `prompt` are not ours.
    """
    target = replica(pair.checkpoint, pair.target.transformer)
    require_alike(pair.target.transformer, target, prompt)
    ends = pair.engine.end_tokens
    found: dict[str, Mode] = {TRANSFORMERS: Generate(target, None, ends, max_tokens)}
    if pair.draft is not None:
        named = pair.config.drafts[0]
        draft = replica(Checkpoint.open(find(named.name, named.revision)), pair.draft.transformer)
        require_alike(pair.draft.transformer, draft, prompt)
        found[ASSISTED] = Generate(target, draft, ends, max_tokens)
    return found


def measure(
    pair: Pair, sets: Mapping[str, Sequence[Tokens]], effort: Effort, began: Began
) -> dict[str, Measured]:
    """Run everything, by set. Raises ValueError if transformers' models are not ours."""

    def run(title: str, modes: Mapping[str, Mode], prompts: Sequence[Tokens], rounds: int) -> list[Round]:
        warm_up = prompts[:WARM_UP]
        done = began(title, len(modes) * (len(warm_up) + rounds * len(prompts)))
        take_turns(modes, warm_up, 1, done)
        return take_turns(modes, prompts, rounds, done)

    def decodings(policies: Mapping[str, TreePolicy], params: SamplingParams) -> dict[str, Mode]:
        return {mode: pair.decoding(policy, effort.max_tokens, params) for mode, policy in policies.items()}

    found: dict[str, Measured] = {}
    for name, prompts in sets.items():
        params = AT_RANDOM if name == RANDOM else GREEDY
        fixed = pair.fixed() | (pair.beam() if name == CODE else {})
        modes = decodings(fixed | {OURS: pair.ours()}, params)
        budgets: dict[str, Mode] = {}
        if name == CODE:
            modes |= peers(pair, prompts[0], effort.max_tokens)
            budgets = decodings(pair.budgets(), params)
        rounds = run(name, modes, prompts, effort.rounds)
        once: Round = run("trees of equal size", budgets, prompts, 1)[0] if budgets else {}
        found[name] = Measured(prompts, params, list(fixed), rounds, once)
    return found


def figures(measured: Mapping[str, Measured], target: Transformer) -> dict[str, object]:
    """The document's figures: the headlines first, then all they were made from."""
    rounds = {name: each.rounds for name, each in measured.items()}
    ratios = {name: ratio(rounds.get(of, ()), mode, over) for name, (of, mode, over) in RATIOS.items()}
    best = {name: fastest(each.rounds, each.fixed) for name, each in measured.items()}
    planner = {name: ratio(rounds[name], OURS, mode) for name, mode in best.items()}
    # A tree does not depend on how fast the machine is but where the planner has its say, so in every round.
    everything = [run for each in rounds[CODE] for run in each[OURS]]
    beam = rounds[CODE][0].get(BEAM, ())
    return {
        **{name: found and found["median"] for name, found in ratios.items()},
        "planner_over_best_fixed": {name: found and found["median"] for name, found in planner.items()},
        "best_fixed": best,
        "tokens_per_pass": rounded(tokens_per_pass(everything)),
        "nodes_per_pass": rounded(nodes_per_pass(everything)),
        "tokens_per_pass_beam_16x16": rounded(tokens_per_pass(beam)),
        "nodes_per_pass_beam_16x16": rounded(nodes_per_pass(beam)),
        "equal_size": equal_size(measured[CODE]),
        **divergences(measured, target),
        "ratios": {
            **ratios,
            **{
                f"{name}_with_prefill": ratio(rounds.get(of, ()), mode, over, with_prefill)
                for name, (of, mode, over) in RATIOS.items()
            },
            **{f"planner_over_best_fixed_{name}": found for name, found in planner.items()},
        },
        "prompt_tokens": {name: spread([len(p) for p in each.prompts], 0) for name, each in measured.items()},
        "modes": {name: {mode: summary(each, mode) for mode in each[0]} for name, each in rounds.items()},
    }


def equal_size(code: Measured) -> dict[str, object]:
    """Trees of at most as many nodes as the beam's, and a quarter, where neither drafting nor nodes cost."""
    beam = tokens_per_pass(code.rounds[0].get(BEAM, ()))
    found: dict[str, object] = {}
    for mode, runs in code.budgets.items():
        gained = tokens_per_pass(runs)
        found[mode] = {
            "tokens_per_pass": rounded(gained),
            "nodes_per_pass": rounded(nodes_per_pass(runs)),
            "over_beam": rounded(gained / beam) if gained and beam else None,
        }
    return found


def divergences(measured: Mapping[str, Measured], target: Transformer) -> dict[str, object]:
    """Runs of other modes whose text is not plain decoding's, and how many more than rounding explains.

    That is told of greedy ones alone: a draw at random may be as close to any of many others.
    """
    places, at_random = Counter[Tokens](), 0
    for each in measured.values():
        budgets = {**each.budgets, PLAIN: each.rounds[0][PLAIN]}
        for one in (*each.rounds, budgets):
            found = _partings(each.prompts, one)
            if each.params.greedy:
                places.update(found)
            else:
                at_random += len(found)
    gaps = {place: _lead_after(place, target) for place in places}
    return {
        "divergences": places.total(),
        "unexplained_divergences": sum(places[place] for place, gap in gaps.items() if gap > NOISE),
        "divergence_gaps": sorted((round(gap, 7) for gap in gaps.values()), reverse=True),
        "divergences_at_random": at_random,
    }


def _partings(prompts: Sequence[Tokens], one: Round) -> list[Tokens]:
    """Prompts with what a mode wrote after them until it differed from plain decoding."""
    found: list[Tokens] = []
    for mode in one.keys() - {PLAIN}:
        for prompt, run, plain in zip(prompts, one[mode], one[PLAIN], strict=True):
            agreed = parting(run.tokens, plain.tokens)
            if agreed is not None:
                found.append((*prompt, *plain.tokens[:agreed]))
    return found


def _lead_after(tokens: Tokens, target: Transformer) -> float:
    cache = target.new_cache(len(tokens))
    return lead(target.forward(Block.chain(tokens), cache, [len(tokens) - 1], lambda _: None)[0])


def rounded(figure: float | None) -> float | None:
    """To three digits behind the point."""
    return None if figure is None else round(figure, 3)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options. Ends the program with a message about what cannot be used, before anything long begins."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="JSON lines: prefix, suffix")
    parser.add_argument("--quick", action="store_true", help="less than a minute, on few prompts")
    parser.add_argument(
        "--prompts-per-set", type=int, metavar="N", help=f"({FULL.prompts}); of a file's, the first"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help=f"({FULL.rounds})")
    parser.add_argument("--max-tokens", type=int, metavar="N", help=f"to generate ({FULL.max_tokens})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", type=Path, help="engine configuration; the bundled pair without")
    parser.add_argument("--plot", type=picture, metavar="FILE", help="picture of the rates, .svg or .png")
    options = parser.parse_args(arguments)
    usual = QUICK if options.quick else FULL
    for name, default in (
        ("prompts_per_set", usual.prompts),
        ("rounds", usual.rounds),
        ("max_tokens", usual.max_tokens),
    ):
        value: int | None = getattr(options, name)
        if value is None:
            setattr(options, name, default)
        elif value < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    return options


def prompt_sets(
    prompts: Prompts, own: Sequence[Cursor], packages: Mapping[str, Sequence[str]], count: int
) -> dict[str, list[Tokens]]:
    """`count` prompts a set: on code, those of `own` if there are any, else in the texts of `packages`.

    Raises ValueError or RequestError if none can be made.
    """
    random_text = {RANDOM: prompts.random_text(count)}
    if own:
        return {CODE: [prompts.around(cursor) for cursor in own[:count]], **random_text}
    texts = [text for package in packages.values() for text in package]
    return {
        CODE: prompts.code(texts, count),
        EDITS: prompts.repeated_edit(texts, count),
        **random_text,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    options = parse_arguments(arguments)
    # It warns of what it itself does.
    transformers.utils.logging.set_verbosity_error()
    effort = Effort(options.prompts_per_set, options.rounds, options.max_tokens)
    try:
        config = load(options.config) if options.config else EngineConfig()
        own = read_lines(options.prompts, Cursor) if options.prompts else []
        packages = {} if own else held_out()
        pair = Pair.load(config)
        prompts = Prompts(pair.engine, effort.max_tokens, options.seed)
        sets = prompt_sets(prompts, own, packages, effort.prompts)
        with Progress(console=Console(stderr=True)) as progress:

            def began(title: str, runs: int) -> Callable[[], None]:
                task = progress.add_task(title.replace("_", " "), total=runs)
                return lambda: progress.advance(task)

            measured = measure(pair, sets, effort, began)
    except (UmbrellaError, ValueError) as error:
        raise SystemExit(str(error)) from error
    found = figures(measured, pair.target.transformer)
    asked = {
        "config": {"model": config.model, "draft_model": config.draft_model, "digest": config.digest()},
        "effort": asdict(effort),
        "seed": options.seed,
        "packages": list(packages),
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "pass_ms": {
            "target": dict(zip(pair.target.costs.rows, pair.target.costs.times_ms, strict=True)),
            "draft": dict(zip(pair.draft.costs.rows, pair.draft.costs.times_ms, strict=True))
            if pair.draft
            else None,
        },
    }
    print_report("speculation", {**asked, **found})
    # Last, so that a folder that cannot be written to costs the picture and no figure.
    if options.plot:
        from benchmarks.plot import draw_rates

        code = measured[CODE].rounds
        rates = {mode: over_prompts(code, mode, decoding, 1) for mode in code[0]}
        draw_rates({mode: rate for mode, rate in rates.items() if rate}, options.plot)


if __name__ == "__main__":
    main()
