from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.cli import main
from engine.config import EngineConfig
from engine.growmap.acceptance import RANKS, Acceptance, Place, measured, places
from engine.loaded import LoadedEngine
from engine.policy import GrowMap
from engine.sampling import SamplingParams
from tests.engine.pair import tiny_model, tiny_pair
from tests.engine.scripted import run

SOURCE = "".join(f"value_{number} = compute({number})\n" for number in range(40))
SMALL = "tree_size = 4\ndepth = 2\nmax_length = 512\ndevice = 'cpu'\n"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> EngineConfig:
    return replace(tiny_pair(tmp_path_factory.mktemp("pair")), device="cpu", max_length=512, tree_size=4)


@pytest.fixture(scope="module")
def engine(pair: EngineConfig) -> Iterator[LoadedEngine]:
    with closing(LoadedEngine.load(pair)) as loaded:
        yield loaded


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "source.py"
    file.write_text(SOURCE, encoding="utf-8")
    return file


def written(folder: Path, pair: EngineConfig, more: str = "") -> Path:
    file = folder / "engine.toml"
    drafts = json.dumps([draft.name for draft in pair.drafts])
    file.write_text(f"model = '{pair.model}'\ndraft_model = {drafts}\n{SMALL}{more}", encoding="utf-8")
    return file


def test_each_token_is_counted_by_its_rank_in_the_draft(engine: LoadedEngine, source: Path) -> None:
    itself = replace(engine, drafts=(replace(engine.drafts[0], transformer=engine.decoder.target),))
    found = measured(itself, SamplingParams(), places([source]), 60)
    assert 60 <= found.tokens < 100
    assert found.hits == (found.tokens, *[0] * (RANKS - 1)), "greedily, a target draws its own first choice"
    drawn = measured(itself, SamplingParams(temperature=1.0), places([source]), 60)
    assert drawn.hits[0] < drawn.tokens
    assert sum(drawn.hits[:3]) > drawn.tokens / 3


def test_what_was_never_seen_is_unlikely_and_not_impossible() -> None:
    chances = Acceptance((60, 30, 0), 100).chances
    assert chances == pytest.approx((0.6, 0.3, 0.005), abs=0.005)
    assert chances[2] > 0


def test_places_are_all_beginnings_of_lines_in_one_order(source: Path) -> None:
    found = places([source])
    assert len(found) == 40
    assert {place.before + place.after for place in found if len(place.after) < 500}
    assert sorted(len(place.before) for place in found) != [len(place.before) for place in found]
    assert found == places([source])
    assert Place(source, SOURCE, "") in found


def test_a_tree_is_made_that_a_static_engine_uses(
    tmp_path: Path, pair: EngineConfig, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, tree = written(tmp_path, pair), tmp_path / "tree.json"
    arguments = ["growmap", "--config", str(config), "--output", str(tree)]
    assert main([*arguments, "--text", str(source), "--tokens", "40"]) == 0
    told = capsys.readouterr().out
    assert "engine = 'static'" in told
    assert f"growmap_path = '{tree}'" in told
    made = GrowMap.read(tree, 4)
    assert 2 <= len(made) <= 4
    assert made.to_json() == tree.read_bytes()
    static = replace(pair, engine="static", growmap_path=str(tree))
    with closing(LoadedEngine.load(static)) as engine:
        tokens = engine.tokenizer.encode("x = 1\n")
        assert run(engine.decoder, prompt=tokens, max_tokens=6)[-1].counts.drafted > 0


def test_of_several_drafts_the_first_is_measured_and_the_figures_are_one_json_object(
    tmp_path: Path, pair: EngineConfig, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    several = replace(pair, draft_model=(pair.drafts[0].name, tiny_model(tmp_path / "other", 2)))
    config, tree = written(tmp_path, several, "temperature = 0.5\n"), tmp_path / "tree.json"
    arguments = ["growmap", "--config", str(config), "--output", str(tree), "--json"]
    assert main([*arguments, "--text", str(source), "--tokens", "40"]) == 0
    said = capsys.readouterr()
    assert f"measuring {pair.drafts[0].name}" in said.err
    figures = json.loads(said.out)
    assert [row["nodes"] for row in figures["trees"]] == [1, 2, 3, 4]
    assert figures["trees"][0]["tokens_per_pass"] == 1.0
    assert figures["chosen"]["Successors"] == [list(row) for row in GrowMap.read(tree, 4).successors]
    assert len(figures["acceptance"]) == RANKS


@pytest.mark.parametrize(
    ("more", "arguments", "says"),
    [
        ("", ["--text", "/nowhere/a.py"], "/nowhere/a.py cannot be read"),
        ("", ["--text", "EMPTY"], "has no lines"),
        ("", ["--output", "/nowhere/tree.json"], "/nowhere is no folder"),
        ("tree_size = 1\n", [], "tree_size = 1 leaves no room"),
        ("draft_model = ''\n", [], "growmap needs a draft model"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: str, arguments: list[str], says: str
) -> None:
    (tmp_path / "empty.py").touch()
    config = tmp_path / "engine.toml"
    config.write_text(more, encoding="utf-8")
    given = [str(tmp_path / "empty.py") if each == "EMPTY" else each for each in arguments]
    tree = tmp_path / "tree.json"
    assert main(["growmap", "--config", str(config), "--output", str(tree), *given]) == 2
    assert says in capsys.readouterr().err
    assert not tree.exists()


def test_an_interruption_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> torch.Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr("engine.growmap.command._measured", interrupted)
    tree = tmp_path / "tree.json"
    (tmp_path / "engine.toml").touch()
    assert main(["growmap", "--config", str(tmp_path / "engine.toml"), "--output", str(tree)]) == 130
    assert "was not written" in capsys.readouterr().err
    assert not tree.exists()
