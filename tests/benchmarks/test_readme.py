"""README's figures are the benchmark's."""

from pathlib import Path

import msgspec

from benchmarks.readme import Document, table

ROOT = Path(__file__).parents[2]


def test_the_table_in_readme_is_made_from_the_results():
    results = ROOT / "benchmarks" / "results" / "speculation.json"
    document = msgspec.json.decode(results.read_bytes(), type=Document)
    assert table(document) in (ROOT / "README.md").read_text()
