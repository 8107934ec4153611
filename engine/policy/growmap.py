"""Grow maps: the shapes of static trees, in the JSON files that UMbreLLa's Sequoia code writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from engine.errors import ConfigError


@dataclass(frozen=True, slots=True)
class _GrowMapFile:
    """`Successors` says everything; what else a file holds is derived from it, and has to agree."""

    Successors: tuple[tuple[int, ...], ...]
    size: int | None = None
    depth: tuple[int, ...] | None = None
    roots: tuple[tuple[int, ...], ...] | None = None
    branches: tuple[tuple[int, ...], ...] | None = None
    mask: tuple[tuple[float, ...], ...] | None = None


@dataclass(frozen=True, slots=True)
class GrowMap:
    """A tree's shape: node 0 is the root, and children follow in the order of the draft's ranking."""

    successors: tuple[tuple[int, ...], ...]
    """By node: its children, the draft's first choice first."""

    def __post_init__(self) -> None:
        if not self.successors:
            raise ValueError("it has no nodes, not even a root")
        seen = {0}
        for node, children in enumerate(self.successors):
            for child in children:
                if not node < child < len(self.successors):
                    raise ValueError(f"node {child} is said to follow node {node}")
                if child in seen:
                    raise ValueError(f"node {child} follows more than one node")
                seen.add(child)
        if len(seen) != len(self.successors):
            missing = min(set(range(len(self.successors))) - seen)
            raise ValueError(f"node {missing} follows none")

    def __len__(self) -> int:
        return len(self.successors)

    @property
    def parents(self) -> list[int]:
        """By node: the node it follows; -1 for the root."""
        parents = [-1] * len(self)
        for node, children in enumerate(self.successors):
            for child in children:
                parents[child] = node
        return parents

    def levels(self) -> list[list[int]]:
        """Nodes by their distance from the root."""
        levels: list[list[int]] = [[0]]
        while below := [child for node in levels[-1] for child in self.successors[node]]:
            levels.append(below)
        return levels

    def to_json(self) -> bytes:
        """As a file that `read` reads, and UMbreLLa's code."""
        levels = self.levels()
        depths = {node: depth for depth, level in enumerate(levels) for node in level}
        file = _GrowMapFile(
            Successors=self.successors,
            size=len(self),
            depth=tuple(depths[node] for node in range(len(self))),
            roots=tuple(map(tuple, levels)),
            branches=tuple(tuple(len(self.successors[node]) for node in level) for level in levels),
            mask=tuple(tuple(row) for row in _mask(self.parents)),
        )
        return msgspec.json.encode(file)

    @staticmethod
    def read(path: Path, most_nodes: int) -> GrowMap:
        """The grow map in `path`.

        Raises ConfigError, naming the file, if it cannot be read, is no tree, contradicts itself, or has more
        than `most_nodes` nodes.
        """
        try:
            file = msgspec.json.decode(path.read_bytes(), type=_GrowMapFile)
            grow_map = GrowMap(file.Successors)
            _require_agreement(file, grow_map)
        except OSError as error:
            raise ConfigError(
                f"growmap_path {path} cannot be read ({error.strerror}); name a grow map's JSON file"
            ) from error
        except (msgspec.DecodeError, ValueError) as error:
            raise ConfigError(f"growmap_path {path} holds no token tree: {error}; make it anew") from error
        if len(grow_map) > most_nodes:
            raise ConfigError(
                f"growmap_path {path} has {len(grow_map)} nodes, more than the {most_nodes} that a context "
                "has room for; choose a smaller tree"
            )
        return grow_map


def _require_agreement(file: _GrowMapFile, grow_map: GrowMap) -> None:
    """Raise ValueError if anything in `file` describes another tree than `grow_map`."""
    levels = grow_map.levels()
    depths = {node: depth for depth, level in enumerate(levels) for node in level}
    if file.size is not None and file.size != len(grow_map):
        raise ValueError(f"size is {file.size}, but Successors has {len(grow_map)} nodes")
    if file.depth is not None and list(file.depth) != [depths[node] for node in range(len(grow_map))]:
        raise ValueError("depth contradicts Successors")
    if file.roots is not None and [sorted(level) for level in file.roots] != [sorted(one) for one in levels]:
        raise ValueError("roots contradicts Successors")
    if file.branches is not None and file.roots is not None:
        counted = [[len(grow_map.successors[node]) for node in level] for level in file.roots]
        if [list(level) for level in file.branches] != counted:
            raise ValueError("branches contradicts Successors")
    if file.mask is not None and [list(row) for row in file.mask] != _mask(grow_map.parents):
        raise ValueError("mask contradicts Successors")


def _mask(parents: Sequence[int]) -> list[list[float]]:
    """1 where a node's path holds another: [nodes, nodes]."""
    mask: list[list[float]] = []
    for node, parent in enumerate(parents):
        row = list(mask[parent]) if parent >= 0 else [0.0] * len(parents)
        row[node] = 1.0
        mask.append(row)
    return mask
