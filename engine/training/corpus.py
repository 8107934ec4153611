"""The corpus: source code out of wheels, installed packages and folders, filtered and cleaned.

Owns what may be learnt from and the record of it: of what was kept, whose it is, and of what was left
out, why. Wheels are read as archives and installed packages as files; nothing of them is run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import sysconfig
import zipfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from email.message import Message
from email.parser import HeaderParser
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import cast, get_args

from engine.errors import TrainingError
from engine.training.cleaning import MAX_FILE_BYTES, OWN, Reason, clean, fault
from engine.training.folders import LANGUAGES, is_secret, language_of, packages_under
from engine.training.licences import (
    LicencePolicy,
    allows,
    file_licence,
    folder_licence,
    is_permissive,
    wheel_licence,
)
from engine.training.near_duplicates import NearDuplicates

SKIPPED_FOLDERS = {
    *("_vendor", "vendored", "_vendored", "vendor", "migrations", "locale", "locales", "lib2to3"),
    *("test", "tests", "idlelib", "turtledemo", "site-packages", "encodings", "conf"),
}
LEAST_CHARACTERS = 20_000
"""Below this a draft would learn the files by heart and nothing else."""


@dataclass(frozen=True, slots=True)
class Source:
    """A package the corpus draws on, as recorded in the model card.

    `sha256` is a wheel's, else that of the texts kept; of a package out of a folder the version is not known.
    """

    package: str
    version: str
    licence: str
    sha256: str
    files: int
    characters: int


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One cleaned file. `path` is relative to the package's root, as an editor would show it."""

    package: str
    path: str
    text: str
    language: str = "python"


@dataclass(frozen=True, slots=True)
class Summary:
    """What a corpus holds and what it does without."""

    packages: int
    files: int
    characters: int
    languages: Mapping[str, int]
    """Files of each language, most first."""
    left_out: Mapping[Reason, int]
    """Files for each reason that occurred."""
    refused: Mapping[str, str]
    """Packages left out whole, with the licence they state."""

    def rows(self) -> list[tuple[str, str]]:
        """What and how much, for a table of two columns."""
        languages = ", ".join(f"{name} {count:,}" for name, count in self.languages.items())
        rows = [
            ("packages", f"{self.packages:,}"),
            ("files", f"{self.files:,} ({languages})"),
            ("characters", f"{self.characters:,}"),
        ]
        rows += [(f"left out: {reason}", f"{count:,}") for reason, count in self.left_out.items()]
        refused = self.refused.items()
        return rows + [
            (f"refused: {package}", licence or "states no licence") for package, licence in refused
        ]


def _wheel_files(wheel: Path) -> Iterator[tuple[str, str]]:
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".py") and not SKIPPED_FOLDERS & set(name.split("/")[:-1]):
                try:
                    yield name, archive.read(name).decode("utf-8")
                except UnicodeDecodeError:
                    continue


def _stdlib_files() -> Iterator[tuple[str, str]]:
    root = Path(sysconfig.get_path("stdlib"))
    yield from _readable((path.relative_to(root).as_posix(), path) for path in root.rglob("*.py"))


def _installed_files(installed: Distribution) -> Iterator[tuple[str, str]]:
    own = (file for file in installed.files or () if file.suffix == ".py" and ".." not in file.parts)
    yield from _readable((file.as_posix(), Path(str(file.locate()))) for file in own)


def _readable(files: Iterable[tuple[str, Path]]) -> Iterator[tuple[str, str]]:
    for name, path in files:
        if not SKIPPED_FOLDERS & set(name.split("/")[:-1]):
            try:
                yield name, path.read_text("utf-8")
            except (UnicodeDecodeError, OSError):
                continue


def _same_name(package: str) -> str:
    """A distribution's name as the package index compares it."""
    return re.sub(r"[-_.]+", "-", package).lower()


def _digest(files: Sequence[SourceFile]) -> str:
    return hashlib.sha256("\0".join(file.text for file in files).encode()).hexdigest()


def _by_hash(path: str) -> bytes:
    """A key to sort by that does not depend on how files are named, so that any part of them is a sample."""
    return hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest()


class Corpus:
    """Collects cleaned files, each once, and the record of where they came from."""

    def __init__(
        self, max_characters_per_package: int = 1_500_000, licence: LicencePolicy = "not-copyleft"
    ) -> None:
        """`licence` is asked of folders, and the cap not: wheels are many, are published, and are sampled."""
        self.files: list[SourceFile] = []
        self.sources: list[Source] = []
        self.refused: dict[str, str] = {}
        self._left_out: Counter[Reason] = Counter()
        self._seen: set[bytes] = set()
        self._alike = NearDuplicates()
        self._cap = max_characters_per_package
        self._policy: LicencePolicy = licence

    @staticmethod
    def from_folders(folders: Sequence[Path], licence: LicencePolicy = "not-copyleft") -> Corpus:
        """Read `folders` of code. Raises TrainingError where one is missing, or all hold too little."""
        corpus = Corpus(licence=licence)
        for folder in folders:
            corpus.add_folder(folder)
        corpus.require_enough()
        return corpus

    def add_wheel(self, wheel: Path) -> None:
        """Read one wheel. A wheel without a permissive licence is refused and remembered as such."""
        with zipfile.ZipFile(wheel) as archive:
            name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
            metadata = HeaderParser().parsestr(archive.read(name).decode("utf-8", "replace"))
        licence = wheel_licence(metadata)
        if not is_permissive(licence):
            self.refused[metadata["Name"]] = licence
            return
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        self._add(metadata["Name"], metadata["Version"], licence, digest, _wheel_files(wheel))

    def add_stdlib(self) -> None:
        version = ".".join(map(str, sys.version_info[:3]))
        self._add("python-stdlib", version, "PSF-2.0", None, _stdlib_files())

    def add_installed(self, without: Collection[str], path: Sequence[str] | None = None) -> None:
        """Read every package that is installed below `path` (sys.path), but for those named in `without`.

        The first of a name counts, as it does for an import; licences are judged as those of wheels are.
        """
        found: dict[str, tuple[Message, Distribution]] = {}
        for installed in distributions() if path is None else distributions(path=list(path)):
            # A Message, as a wheel's is; the standard library's stubs declare less.
            metadata = cast(Message, installed.metadata)
            found.setdefault(_same_name(metadata.get("Name", "")), (metadata, installed))
        for name in sorted(found.keys() - {"", *map(_same_name, without)}):
            metadata, installed = found[name]
            licence = wheel_licence(metadata)
            if is_permissive(licence):
                files = _installed_files(installed)
                self._add(metadata["Name"], metadata["Version"], licence, None, files)
            else:
                self.refused[metadata["Name"]] = licence

    def add_folder(self, folder: Path) -> None:
        """Read the packages in a folder, or the folder as one. Raises TrainingError if it cannot be read.

        Near duplicates are left out, here and of all folders read before. Text stays as its authors wrote
        it, but for licence headers.
        """
        if not folder.is_dir():
            kind = "is a file" if folder.exists() else "does not exist"
            raise TrainingError(f"{folder} {kind}; name a folder that holds code.")
        if not os.access(folder, os.R_OK | os.X_OK):
            raise TrainingError(f"{folder} may not be read; change its permissions or name another folder.")
        root = folder.resolve()
        for home, paths in packages_under(root).items():
            package = self._fresh_name(home.relative_to(root).as_posix() if home != root else root.name)
            self._add_package(package, home, folder_licence(home, root), paths)

    def _add_package(self, package: str, home: Path, licence: str, paths: Sequence[Path]) -> None:
        sources = [path for path in paths if language_of(path)]
        self._left_out["not source"] += len(paths) - len(sources)
        if not sources:
            return
        if not allows(self._policy, licence):
            self._left_out["licence"] += len(sources)
            self.refused[package] = licence
            return
        kept: list[SourceFile] = []
        for path in sorted(sources, key=lambda path: _by_hash(path.relative_to(home).as_posix())):
            file = self._read(package, home, path)
            if isinstance(file, SourceFile):
                kept.append(file)
            else:
                self._left_out[file] += 1
        characters = sum(len(file.text) for file in kept)
        self.files += kept
        self.sources.append(Source(package, "", licence, _digest(kept), len(kept), characters))

    def _read(self, package: str, home: Path, path: Path) -> SourceFile | Reason:
        """One file of a folder, cleaned, or why it is left out."""
        if is_secret(path):
            return "secret"
        try:
            if path.stat().st_size > 4 * MAX_FILE_BYTES:
                return "size"
            raw = path.read_bytes().decode("utf-8-sig")
        except (UnicodeDecodeError, OSError):
            return "binary"
        if reason := fault(raw, OWN):
            return reason
        if (stated := file_licence(raw)) and not allows(self._policy, stated):
            return "licence"
        language = language_of(path)
        text = clean(raw, language, OWN)
        if not self._is_new(text):
            return "duplicate"
        if not self._alike.add(text):
            return "near duplicate"
        return SourceFile(package, path.relative_to(home).as_posix(), text, language)

    def _is_new(self, text: str) -> bool:
        """Whether no file before had this text, whatever its layout. Remembers it."""
        key = hashlib.sha256(re.sub(r"\s+", "", text).encode()).digest()
        known = key in self._seen
        self._seen.add(key)
        return not known

    def _fresh_name(self, package: str) -> str:
        taken = {source.package for source in self.sources} | self.refused.keys()
        names = (package if n == 1 else f"{package} ({n})" for n in range(1, len(taken) + 2))
        return next(name for name in names if name not in taken)

    def _add(
        self, package: str, version: str, licence: str, digest: str | None, files: Iterable[tuple[str, str]]
    ) -> None:
        kept: list[SourceFile] = []
        characters = 0
        for path, raw in sorted(files, key=lambda item: _by_hash(item[0])):
            if reason := fault(raw):
                self._left_out[reason] += 1
                continue
            text = clean(raw)
            if characters + len(text) > self._cap:
                continue
            if not self._is_new(text):
                self._left_out["duplicate"] += 1
                continue
            characters += len(text)
            kept.append(SourceFile(package, path, text))
        self.files += kept
        digest = _digest(kept) if digest is None else digest
        self.sources.append(Source(package, version, licence, digest, len(kept), characters))

    def summary(self) -> Summary:
        """What is in it now."""
        languages = Counter(file.language for file in self.files)
        reasons: tuple[Reason, ...] = get_args(Reason)
        return Summary(
            packages=len({file.package for file in self.files}),
            files=len(self.files),
            characters=sum(len(file.text) for file in self.files),
            languages=dict(languages.most_common()),
            left_out={reason: self._left_out[reason] for reason in reasons if self._left_out[reason]},
            refused=dict(self.refused),
        )

    def require_enough(self, least: int = LEAST_CHARACTERS) -> None:
        """Raise TrainingError if fewer than `least` characters are left, saying where the others went."""
        summary = self.summary()
        if summary.characters >= least:
            return
        left_out = ", ".join(f"{count:,} {reason}" for reason, count in summary.left_out.items())
        raise TrainingError(
            f"the corpus holds {summary.characters:,} characters of code, and less than {least:,} teaches "
            f"nothing. {f'Files left out: {left_out}. ' if left_out else ''}{self._advice(summary)}"
        )

    @staticmethod
    def _advice(summary: Summary) -> str:
        """What to do about the reason that most files of a corpus were left out for."""
        # Files that are no source say little: every folder of code has some.
        code: dict[Reason, int] = {r: n for r, n in summary.left_out.items() if r != "not source"}
        counts = code or summary.left_out
        common = max(counts, key=lambda reason: counts[reason], default=None)
        match common if common and counts[common] > summary.files else None:
            case "licence":
                stated = ", ".join(sorted(set(summary.refused.values()))) or "in their headers"
                return f"Licences stated: {stated}. If you may learn from them, say --licence any."
            case "duplicate" | "near duplicate":
                return "They are copies of one another; name folders with other code."
            case "not source":
                return f"Code is what ends in {' '.join(LANGUAGES)}; name folders that hold more of it."
            case "binary":
                return "They are no text in UTF-8; name folders that hold code, not what is made of it."
            case _:
                return "Name more folders, or larger ones."

    def record(self) -> str:
        """The sources as JSON, for the model card and for rebuilding the same corpus."""
        return json.dumps([asdict(source) for source in self.sources], indent=1)
