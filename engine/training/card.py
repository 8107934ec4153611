"""The model card: what the pair learnt from, how, how its losses fell, and what came of it.

``python -m engine.training.card --work DIR`` writes it anew from what training left in DIR and from the
figures of the last ``benchmarks.quality``. Knows the files they leave, and nothing of how they are made.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open

from engine.training.recipe import RECIPES, TEMPLATE, Recipe

BUNDLED = Path(__file__).parent.parent / "bundled"
QUALITY = Path(__file__).parents[2] / "benchmarks" / "results" / "quality.json"
TRAININGS = {
    "target": Path("target"),
    "draft": Path("draft", "work", "code"),
    "distillation": Path("draft", "work", "distillation"),
}
"""Each training's name and the folder below the work folder that holds its log and its curve."""
POINTS = 12
"""Lines of a loss curve's table."""

INTRODUCTION = """# The bundled pair

Two small Llamas for Python, trained by `engine/training` for this project: `target` (AWQ INT4) and `draft`
(float16), which guesses what the target will say. They share a byte-level BPE tokenizer of {vocabulary:,}
tokens that carries Llama 3's special tokens, know one prompt format, `{template}` as `engine/templates.py`
renders it, and {length:,} tokens of context. Apache-2.0, as the project.

Rebuild: `python -m engine.training --work DIR --recipe {recipe}` (extra `awq`).
"""
CLEANING = """
## Cleaning

Only packages that state a permissive licence. Licence headers stripped, docstrings cut to their first line;
generated files, tests and duplicates left out; of a large package a sample of its files. The SHA-256 of each
wheel is in `engine/training/corpus.json`.
"""
LIMITS = """
## Limits

- Python alone; other languages were not learnt, and a chat neither.
- They copy and vary what the prompt shows. They know few libraries, and an API that is not in the prompt
  may be invented.
- A longer prompt than the context is cut to its most important parts.
- What they write may be wrong, insecure, or like the code of a package named below: read it.
- The figures above are of packages by practised authors, in the style that the corpus has, too.
"""


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def number(value: float | None, digits: int = 3) -> str:
    """`value` for a table, where None is nothing measured."""
    return "" if value is None else f"{value:.{digits}f}"


def words(name: str) -> str:
    """A key of a document as it is read."""
    return name.replace("_", " ")


def parameters(folder: Path) -> dict[str, int]:
    """How many numbers each tensor of the checkpoint in `folder` has, by the headers of its weight files."""
    found: dict[str, int] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                size = 1
                for extent in file.get_slice(name).get_shape():
                    size *= extent
                found[name] = size
    return found


def _models(work: Path, recipe: Recipe, out: Path) -> str:
    rows: list[Sequence[object]] = []
    for name, shape in (("target", recipe.target), ("draft", recipe.draft)):
        sizes = parameters(work / name / "model")
        embedding = sum(size for tensor, size in sizes.items() if "embed_tokens" in tensor)
        stored = sum(path.stat().st_size for path in (out / name).glob("*.safetensors"))
        heads = f"{shape.num_attention_heads} ({shape.num_key_value_heads})"
        rows.append(
            [
                name,
                f"{sum(sizes.values()) / 1e6:.2f}M",
                f"{embedding / 1e6:.2f}M",
                shape.num_hidden_layers,
                shape.hidden_size,
                shape.intermediate_size,
                heads,
                f"{stored / 1e6:.1f} MB",
            ]
        )
    columns = (
        "model",
        "parameters",
        "of the embedding",
        "layers",
        "width",
        "MLP",
        "heads (of keys)",
        "stored",
    )
    return f"\n## Models\n\n{table(columns, rows)}\n"


def _shares(recipe: Recipe) -> str:
    mix = recipe.mix
    return f"""
## Examples

Files cut at a cursor and written through the prompt template, joined end to end.

- {mix.suffix:.0%} have code behind the cursor, and of that {mix.stale_suffix:.0%} begins too late.
- {mix.context:.0%} show pieces of up to {mix.pieces} other files of the package.
- {mix.rename:.0%} have some names replaced, alike throughout, so that copying had to be learnt.
- {mix.sibling:.0%} show the same code under other names, as a file's older twin would.
- {mix.drill:.0%} as many rows again are random runs and their repetitions, most of them early.
"""


def _training(name: str, work: Path) -> str:
    written = json.loads((work / TRAININGS[name] / "training.json").read_text())
    plan, log = written["plan"], written["log"]
    picked = [log[i] for i in sorted({i * (len(log) - 1) // (POINTS - 1) for i in range(POINTS)})]
    columns = list(log[-1])
    curve = table([*map(words, columns)], [[f"{entry[column]:,}" for column in columns] for entry in picked])
    return f"""
### {name}

{plan["tokens"]:,} tokens, {plan["batch_rows"]} rows a step, seed {plan["seed"]}. Muon {plan["matrix_lr"]} \
(weight decay {plan["weight_decay"]}) on matrices,
AdamW {plan["other_lr"]} on the rest. Warm-up {plan["warmup"]:.0%}, linear decay over the \
last {plan["decay"]:.0%}.

![Losses of {name}]({name}.svg)

{curve}
"""


def _trainings(work: Path, recipe: Recipe) -> str:
    parts = "".join(_training(name, work) for name in TRAININGS)
    return f"""
## Training

The target and the draft learn the next token of rows of {recipe.length:,}; the draft then learns, by
distillation, the target's probabilities on {recipe.lessons:,} continuations that the quantised target wrote.
Losses in nats a token.
{parts}"""


def _evaluation(quality: Path | None) -> str:
    if quality is None or not quality.exists():
        how = "python -m benchmarks.quality --work DIR | tail -n 1 > benchmarks/results/quality.json"
        return f"\n## Evaluation\n\nNot measured yet. `{how}`, and write this card anew.\n"
    figures: Mapping[str, Any] = json.loads(quality.read_text())
    scores = ("exact_match", "edit_similarity", "parse_success")
    everywhere = ("line_exact_match", "block_exact_match", "edit_similarity", "parse_success")
    overall = table(
        ("answered by", *map(words, everywhere)),
        [
            [words(who), *(number(found[key]) for key in everywhere)]
            for who, found in {"the pair": figures, **figures["baselines"]}.items()
        ],
    )
    by_position = table(
        ("cursor", "answered by", "prompts", *map(words, scores)),
        [
            [words(position), words(who), found["prompts"], *(number(found[key]) for key in scores)]
            for position, answers in figures["by_position"].items()
            for who, found in answers.items()
        ],
    )
    drafters = [[name, number(passes)] for name, passes in figures["by_drafter"].items()]
    errors = [[words(name), number(found["ece"])] for name, found in figures["calibration"].items()]
    packages = ", ".join(f"{name} {version}" for name, version in figures["packages"].items())
    return f"""
## Evaluation

`python -m benchmarks.quality`: {figures["prompts"]} random cursors (seed {figures["seed"]}) in packages \
that were never learnt from:
{packages}. `copied` is a copy of the nearest similar line, `most frequent` the most frequent line.
"Line" is over the next lines and the line ends. Loss on the code before the cursors: \
{number(figures["loss"])} nats a token.

{overall}

{by_position}

{table(("drafter", "tokens a pass of the target"), drafters)}

Chain and tree have the draft alone and 16 nodes. Plain decoding stays below one because the word at the
cursor is written again.

{table(("confidence", "expected calibration error"), errors)}
"""


def _sources(title: str, path: Path) -> str:
    kept = [source for source in json.loads(path.read_text()) if source["files"]]
    rows = [
        [s["package"], s["version"], s["licence"], s["files"], f"{s['characters'] // 1000:,}k"] for s in kept
    ]
    total = sum(source["characters"] for source in kept) / 1e6
    columns = ("package", "version", "licence, as it states it", "files", "characters")
    return f"\n## {title}\n\n{len(kept)} packages, {total:.1f}M characters.\n\n{table(columns, rows)}\n"


def _history(work: Path) -> str:
    notes = work / "notes.md"
    return f"\n## History of these weights\n\n{notes.read_text().strip()}\n" if notes.exists() else ""


def write_card(work: Path, recipe_name: str, out: Path, quality: Path | None = None) -> None:
    """Write ``README.md`` and the curves it shows to `out`, which holds target/ and draft/.

    `quality` is the document of a benchmark of this very pair: without it the card has no evaluation.
    ``work/notes.md``, where it is, becomes a section of its own.
    """
    recipe = RECIPES[recipe_name]
    for name, folder in TRAININGS.items():
        shutil.copyfile(work / folder / "training.svg", out / f"{name}.svg")
    introduction = INTRODUCTION.format(
        vocabulary=recipe.vocabulary, length=recipe.length, template=TEMPLATE, recipe=recipe_name
    )
    parts = (
        introduction,
        _models(work, recipe, out),
        _evaluation(quality),
        LIMITS,
        _trainings(work, recipe),
        _history(work),
        _shares(recipe),
        CLEANING,
        _sources("Trained on", work / "sources.json"),
        _sources("Held out", work / "held_out_sources.json"),
    )
    (out / "README.md").write_text("".join(parts), "utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="what python -m engine.training filled")
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="cpu")
    parser.add_argument("--out", type=Path, default=BUNDLED, help="folder of the pair")
    parser.add_argument("--quality", type=Path, default=QUALITY, help="figures of benchmarks.quality")
    options = parser.parse_args(arguments)
    write_card(options.work, options.recipe, options.out, options.quality)


if __name__ == "__main__":
    main()
