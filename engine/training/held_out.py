"""Divides a corpus into what is learnt from and what a draft is measured on. Pure."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from engine.errors import TrainingError
from engine.training.corpus import SourceFile
from engine.training.near_duplicates import NearDuplicates

LARGEST_SHARE = 0.25
"""A package that would take more than this away from learning is not held out unless it is named."""


@dataclass(frozen=True, slots=True)
class Split:
    """A corpus in two parts with no package in common, or no file where packages leave no choice."""

    train: tuple[SourceFile, ...]
    held_out: tuple[SourceFile, ...]
    by: Literal["package", "file"]
    near_duplicates: int
    """Files in neither part, because one that is held out is nearly the same."""


def split(
    files: Sequence[SourceFile], held_out: Collection[str] | None = None, share: float = 0.05, seed: int = 0
) -> Split:
    """Hold out the packages named, or about `share` of all characters in packages chosen by hash and `seed`.

    The order of choice is each package's own, so that adding one seldom changes what the others are for.
    Where there is one package, or none small enough, files are chosen in the same way. Raises
    TrainingError for a package that is not there, and where one of the parts would be empty.
    """
    packages = sorted({file.package for file in files})
    if unknown := sorted(set(held_out or ()) - set(packages)):
        known = ", ".join(packages[:20]) + (" and others" if len(packages) > 20 else "")
        raise TrainingError(f"no package of the corpus is called {', '.join(unknown)}. There are: {known}.")
    if held_out:
        return _divided(files, _package, set(held_out), "package")
    if chosen := _chosen(files, _package, share, seed, LARGEST_SHARE):
        return _divided(files, _package, chosen, "package")
    return _divided(files, _file, _chosen(files, _file, share, seed, 1.0), "file")


def _order(seed: int, name: str) -> bytes:
    # A file's name need not be UTF-8.
    return hashlib.sha256(f"{seed} {name}".encode("utf-8", "surrogateescape")).digest()


def _package(file: SourceFile) -> str:
    return file.package


def _file(file: SourceFile) -> str:
    return f"{file.package}/{file.path}"


def _chosen(
    files: Sequence[SourceFile], unit: Callable[[SourceFile], str], share: float, seed: int, largest: float
) -> set[str]:
    """Units in the order of their hashes, those passed over that would double the share, until it is full."""
    sizes: Counter[str] = Counter()
    for file in files:
        sizes[unit(file)] += len(file.text)
    wanted, held = share * sizes.total(), 0
    chosen: set[str] = set()
    for name in sorted(sizes, key=lambda name: _order(seed, name)):
        if held < wanted and held + sizes[name] <= 2 * wanted:
            chosen.add(name)
            held += sizes[name]
    smallest = min(sizes, key=lambda name: (sizes[name], name), default="")
    if not chosen and len(sizes) > 1 and sizes[smallest] <= largest * sizes.total():
        return {smallest}
    return chosen


def _divided(
    files: Sequence[SourceFile],
    unit: Callable[[SourceFile], str],
    chosen: set[str],
    by: Literal["package", "file"],
) -> Split:
    held_out = tuple(file for file in files if unit(file) in chosen)
    alike = NearDuplicates()
    for file in held_out:
        alike.add(file.text)
    others = [file for file in files if unit(file) not in chosen]
    train = tuple(file for file in others if not alike.knows(file.text))
    if not held_out or not train:
        what = "nothing is left to learn from" if held_out else "there is nothing to hold out"
        raise TrainingError(
            f"{what}: the corpus has {len(files)} files. Name more folders, or hold out less."
        )
    return Split(train, held_out, by, len(others) - len(train))
