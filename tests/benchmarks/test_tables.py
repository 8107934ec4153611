"""The published figures are the benchmarks'."""

from pathlib import Path

import msgspec

from benchmarks.offload import document as offload
from benchmarks.tables import Document, table

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
FIGURES = (ROOT / "docs" / "figures.md").read_text(encoding="utf-8")


def test_the_table_of_speculation_is_made_from_the_results():
    results = (RESULTS / "speculation.json").read_bytes()
    assert table(msgspec.json.decode(results, type=Document)) in FIGURES


def test_the_table_of_streaming_is_made_from_the_results():
    results = (RESULTS / "offload.json").read_bytes()
    assert offload.table(msgspec.json.decode(results, type=offload.Document)) in FIGURES
