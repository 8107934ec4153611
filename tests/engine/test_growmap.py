from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.config import EngineConfig
from engine.errors import ConfigError
from engine.loaded import LoadedEngine
from engine.policy import GrowMap
from tests.engine.tiny import write_llama
from tests.engine.tiny_tokenizer import write_tokenizer

SHAPE = ((1, 2), (3,), (), (4, 5), (), ())


def grow_map_file(successors: tuple[tuple[int, ...], ...], **changes: Any) -> dict[str, Any]:
    """What UMbreLLa's code writes for a tree: everything twice and three times over."""
    size = len(successors)
    parents = {child: node for node, children in enumerate(successors) for child in children}

    def path(node: int) -> list[int]:
        return [*path(parents[node]), node] if node in parents else [node]

    depth = [len(path(node)) - 1 for node in range(size)]
    roots = [[node for node in range(size) if depth[node] == level] for level in range(max(depth) + 1)]
    said: dict[str, Any] = {
        "roots": roots,
        "branches": [[len(successors[node]) for node in level] for level in roots],
        "Successors": successors,
        "mask": [[int(other in path(node)) for other in range(size)] for node in range(size)],
        "depth": depth,
        "size": size,
    }
    return said | changes


def written(folder: Path, content: object) -> Path:
    path = folder / "map.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def refusal(path: Path, most_nodes: int = 64) -> str:
    with pytest.raises(ConfigError) as caught:
        GrowMap.read(path, most_nodes)
    assert f"growmap_path {path}" in str(caught.value)
    return str(caught.value)


def test_a_map_in_umbrellas_format_loads(tmp_path: Path):
    grow_map = GrowMap.read(written(tmp_path, grow_map_file(SHAPE)), most_nodes=6)
    assert len(grow_map) == 6
    assert grow_map.successors == SHAPE
    assert grow_map.parents == [-1, 0, 0, 1, 3, 3]
    assert grow_map.levels() == [[0], [1, 2], [3], [4, 5]]


def test_the_successors_say_it_all(tmp_path: Path):
    whole = GrowMap.read(written(tmp_path, grow_map_file(SHAPE)), 64)
    assert GrowMap.read(written(tmp_path, {"Successors": SHAPE, "note": "kept out"}), 64) == whole


@pytest.mark.parametrize(
    ("successors", "says"),
    [
        ([[1], [2], [1]], "node 1 is said to follow node 2"),
        ([[1], [0]], "node 0 is said to follow node 1"),
        ([[1], [1]], "node 1 is said to follow node 1"),
        ([[1, 2], [2], []], "node 2 follows more than one node"),
        ([[1, 1], []], "node 1 follows more than one node"),
        ([[1], [], []], "node 2 follows none"),
        ([[1, 5], []], "node 5 is said to follow node 0"),
        ([[-1], []], "node -1 is said to follow node 0"),
        ([], "holds no token tree"),
    ],
)
def test_what_is_no_tree_is_refused(tmp_path: Path, successors: list[list[int]], says: str):
    assert says in refusal(written(tmp_path, {"Successors": successors}))


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 7},
        {"depth": [0, 1, 1, 2, 3, 2]},
        {"depth": [0, 1, 1, 2, 3]},
        {"roots": [[0], [1, 2], [3, 4], [5]]},
        {"roots": [[0], [1, 2], [3]]},
        {"branches": [[2], [1, 0], [1], [0, 0]]},
        {"mask": [[1] * 6] * 6},
        {"mask": []},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_file_that_contradicts_itself_is_refused(tmp_path: Path, changes: dict[str, Any]):
    (key,) = changes
    assert f"{key} " in refusal(written(tmp_path, grow_map_file(SHAPE, **changes)))


@pytest.mark.parametrize("content", ["{", "[]", "{}", {"Successors": [["1"], []]}, {"Successors": 3}])
def test_what_holds_no_successors_is_refused(tmp_path: Path, content: object):
    assert "holds no token tree" in refusal(written(tmp_path, content))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path):
    assert "cannot be read" in refusal(tmp_path / "missing.json")


def test_a_tree_larger_than_the_context_is_refused(tmp_path: Path):
    assert "6 nodes, more than the 5" in refusal(written(tmp_path, grow_map_file(SHAPE)), most_nodes=5)


@pytest.mark.parametrize(
    ("successors", "says"),
    [([[1], [0]], "node 0 is said to follow node 1"), ([[n] for n in range(1, 64)] + [[]], "64 nodes")],
)
def test_an_engine_with_an_unusable_map_does_not_start(
    tmp_path: Path, successors: list[list[int]], says: str
):
    write_llama(tmp_path / "model", vocab_size=320)
    write_tokenizer(tmp_path / "model")
    path = written(tmp_path, {"Successors": successors})
    config = EngineConfig(
        model=str(tmp_path / "model"),
        draft_model=str(tmp_path / "model"),
        engine="static",
        growmap_path=str(path),
        max_length=48,
    )
    with pytest.raises(ConfigError, match=f"growmap_path {path} .*{says}"):
        LoadedEngine.load(config)
