"""Tables of docs/figures.md, what speculation gains and how layers stream, from the benchmarks' documents.

``python -m benchmarks.tables benchmarks/results/speculation.json`` prints the one, ``.../offload.json`` the
other; a test compares them with that file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.offload import document as offload
from benchmarks.report import picture

NAMES = {
    "plain": "plain decoding",
    "ngram_8": "n-grams, 8 guesses a pass",
    "chain_4": "draft model, chain of 4",
    "tree_16": "all drafters, tree of 16, always",
    "beam_16x16": "UMbreLLa's 16 x 16 beam",
    "ours": "**as shipped: what pays**",
    "transformers": "transformers",
    "transformers_assisted": "transformers, assisted",
}
"""Rows, by the benchmark's names of modes."""


@dataclass(frozen=True, slots=True)
class _Named:
    benchmark: str


@dataclass(frozen=True, slots=True)
class _Spread:
    median: float
    q1: float
    q3: float


@dataclass(frozen=True, slots=True)
class _Mode:
    tokens_per_s: _Spread
    tokens_per_pass: _Spread | None
    nodes_per_pass: _Spread | None
    ms_per_pass: Mapping[str, _Spread | None]


@dataclass(frozen=True, slots=True)
class Document:
    """What of the benchmark's document the table shows."""

    modes: Mapping[str, Mapping[str, _Mode]]
    """By prompt set, then by mode."""


def table(document: Document) -> str:
    """Markdown: a row a mode, on held-out code."""
    rows = [
        (
            "| on held-out code | tokens/s (quartiles) | tokens a pass | guesses a pass "
            "| ms a pass: draft + verify + rest |"
        ),
        "| --- | --- | --- | --- | --- |",
    ]
    code = document.modes["code"]
    rows += [_row(title, code[name]) for name, title in NAMES.items() if name in code]
    return "\n".join(rows)


def _row(title: str, mode: _Mode) -> str:
    rate = mode.tokens_per_s
    cells = [title, f"{rate.median:.0f} ({rate.q1:.0f} to {rate.q3:.0f})"]
    cells += [_median(mode.tokens_per_pass, 2), _median(mode.nodes_per_pass, 1)]
    parts = [mode.ms_per_pass.get(part) for part in ("draft", "verify", "other")]
    cells.append(" + ".join(_median(part, 1) for part in parts) if all(parts) else "")
    return f"| {' | '.join(cells)} |"


def _median(spread: _Spread | None, digits: int) -> str:
    return "" if spread is None else f"{spread.median:.{digits}f}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("results", type=Path, help="the document that a benchmark ended with")
    parser.add_argument("--plot", type=picture, metavar="FILE", help="of offload.json: a picture as well")
    options = parser.parse_args()
    content = options.results.read_bytes()
    if msgspec.json.decode(content, type=_Named).benchmark != "offload":
        sys.stdout.write(table(msgspec.json.decode(content, type=Document)) + "\n")
        return
    found = msgspec.json.decode(content, type=offload.Document)
    sys.stdout.write(offload.table(found) + "\n")
    if options.plot:
        from benchmarks.plot import draw_passes

        draw_passes(found.caps, options.plot)


if __name__ == "__main__":
    main()
