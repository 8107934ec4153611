"""Source files in other languages than Python, which the bundled pair has learnt nothing of.

`languages.json` beside this file pins source archives of the package index that carry such files, under
permissive licences; they are fetched by pip when they are asked for, unpacked and read.
"""

from __future__ import annotations

import json
import tarfile
import tempfile
from pathlib import Path

from engine.training.corpus import Corpus
from engine.training.prepare import fetch

PINS = Path(__file__).with_name("languages.json")


def read_languages(work: Path) -> Corpus:
    """The files of every pinned archive in the languages it is pinned for; archives are kept in `work`.

    Raises TrainingError where one cannot be got or is another than the pinned one.
    """
    corpus = Corpus(licence="permissive")
    pins = json.loads(PINS.read_text(encoding="utf-8"))
    wanted: dict[str, list[str]] = {}
    for pin, archive in zip(pins, fetch(pins, work / "archives"), strict=True):
        name = archive.name.removesuffix(".tar.gz")
        folder = work / "sources" / name
        if not folder.exists():
            _unpack(archive, folder)
        before = len(corpus.sources)
        corpus.add_folder(folder)
        wanted |= {source.package: pin["languages"] for source in corpus.sources[before:]}
    corpus.files = [file for file in corpus.files if file.language in wanted[file.package]]
    return corpus


def _unpack(archive: Path, folder: Path) -> None:
    """Put what `archive` holds, a folder of that name, in the place of `folder`."""
    folder.parent.mkdir(exist_ok=True)
    # Moved into place whole, so that what is there has not been left half unpacked.
    with tempfile.TemporaryDirectory(dir=folder.parent) as part, tarfile.open(archive) as opened:
        opened.extractall(part, filter="data")
        (Path(part) / folder.name).rename(folder)
