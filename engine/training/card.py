"""The model card: what the pair was trained on, how, and how the loss fell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

INTRODUCTION = """# The bundled pair

Two small Llamas for Python, trained from scratch by `engine/training` for this project: `target` (AWQ
INT4) and `draft` (float16). They share a byte-level BPE tokenizer of {vocabulary} tokens that carries
Llama 3's special tokens, and know one prompt format, `llama3-code` as `engine/templates.py` renders it.
They continue simple code; they do not know libraries, do not chat, and should not be judged as larger
models are.

Rebuild: `python -m engine.training --work DIR` (extras `train` and `awq`), an hour or two on two CPU cores.
"""


def _model(name: str, training: dict[str, Any], parameters: int) -> str:
    plan, log = training["plan"], training["log"]
    tokens = f"{plan['tokens'] / 1e6:.1f}M"
    picked = [log[i * (len(log) - 1) // 7] for i in range(8)]
    curve = "\n".join(f"| {p['step']} | {p['loss']:.3f} | {p['held_out']:.3f} |" for p in picked)
    return f"""
## {name}

{parameters / 1e6:.2f}M parameters, {tokens} tokens, seed {plan["seed"]}; rows of {plan["length"]} tokens,
{plan["batch_rows"]} a step; Muon {plan["matrix_lr"]} on matrices, AdamW {plan["other_lr"]} on the rest;
warm-up {plan["warmup"]:.0%}, linear decay over the last {plan["decay"]:.0%}. Losses in nats a token:

| step | training batch | eight held-out rows |
| --- | --- | --- |
{curve}
"""


def _sources(title: str, sources: Sequence[dict[str, Any]]) -> str:
    rows = "\n".join(
        f"| {s['package']} | {s['version']} | {s['licence']} | {s['files']} | {s['characters'] // 1000}k |"
        for s in sources
        if s["files"]
    )
    return f"""
## {title}

| package | version | licence, as it states it | files | characters |
| --- | --- | --- | --- | --- |
{rows}
"""


def write_card(work: Path, parameters: dict[str, int], vocabulary: int, out: Path) -> None:
    """Write the card of what ``work`` holds to `out`. `parameters` counts each model's own."""
    parts = [INTRODUCTION.format(vocabulary=vocabulary)]
    for name, count in parameters.items():
        parts.append(_model(name, json.loads((work / name / "training.json").read_text()), count))
    parts.append(
        "\n## Cleaning\n\nLicence headers stripped, docstrings cut to their first line; generated files,"
        "\ntests and duplicates left out; at most 1.5M characters a package. In three of ten examples"
        "\nsome names were replaced, alike throughout, so that copying had to be learnt. Each wheel's"
        "\nSHA-256 is in `engine/training/corpus.json`.\n"
    )
    parts.append(_sources("Trained on", json.loads((work / "sources.json").read_text())))
    parts.append(_sources("Held out", json.loads((work / "held_out_sources.json").read_text())))
    out.write_text("".join(parts))
