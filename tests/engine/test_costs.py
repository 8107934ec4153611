from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import engine.costs as costs
from engine.checkpoint import Checkpoint
from engine.costs import CostCache, CostTable, measure
from engine.model import Block, Transformer
from engine.offload.placement import Placement
from engine.offload.stages import Stage
from tests.engine.tiny import write_llama

TIMES = st.lists(st.floats(0.01, 1000.0), min_size=1, max_size=8)


@given(TIMES)
def test_a_table_of_measurements_never_falls_and_never_says_more_than_was_measured(times: list[float]):
    table = CostTable.of(range(1, len(times) + 1), times)
    said = [table.ms(rows) for rows in range(1, len(times) + 4)]
    assert said == sorted(said)
    assert all(ms <= measured for ms, measured in zip(said, times, strict=False))
    assert said[len(times) - 1] == times[-1]


def test_rows_between_two_sizes_cost_in_proportion_and_beyond_the_last_at_its_slope():
    table = CostTable((1, 4, 8), (10.0, 16.0, 32.0))
    assert [table.ms(rows) for rows in (1, 2, 4, 6, 8, 10)] == [10.0, 12.0, 16.0, 24.0, 32.0, 40.0]
    assert CostTable((1,), (10.0,)).ms(3) == 30.0


@pytest.mark.parametrize(
    ("rows", "times", "says"),
    [
        ((), (), "must begin with 1"),
        ((2, 4), (1.0, 2.0), "must begin with 1"),
        ((1, 2), (1.0,), "one entry each"),
        ((1, 2, 2), (1.0, 2.0, 3.0), "ascending"),
        ((1, 2), (1.0, 0.0), "positive"),
        ((1, 2), (1.0, float("nan")), "positive"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(rows: tuple[int, ...], times: tuple[float, ...], says: str):
    with pytest.raises(ValueError, match=says):
        CostTable(rows, times)


class Timed:
    """Takes the place of a model, its cache and the clock: a pass of n rows takes ``pass_ms(n)``."""

    device = torch.device("cpu")
    config = type("Config", (), {"max_position": 64, "vocab_size": 7})

    def __init__(self, pass_ms: Callable[[int], float]) -> None:
        self._pass_ms = pass_ms
        self.now = 0.0
        self.passes: list[int] = []

    def new_cache(self, capacity: int) -> Timed:
        self.length = 0
        return self

    def keep(self, rows: range, tokens: list[int]) -> None:
        self.length += len(tokens)

    def forward(self, block: Block, *_: object) -> None:
        block.depths()  # Raises if it is none.
        self.passes.append(len(block))
        self.now += self._pass_ms(len(block)) / 1000

    def measured(self, most_rows: int) -> CostTable:
        return measure(cast(Transformer, self), most_rows, lambda: self.now)


def test_passes_are_measured_up_to_the_most_rows_a_tree_may_have():
    table = Timed(lambda rows: 10.0 + rows).measured(20)
    assert table.rows[-1] == 20
    assert [table.ms(rows) for rows in (1, 8, 20)] == pytest.approx([11.0, 18.0, 30.0])
    assert Timed(lambda rows: 1.0).measured(1).rows == (1,)


def test_a_slow_model_is_measured_in_little_time():
    slow = Timed(lambda rows: 400.0)
    assert slow.measured(512).rows[-1] == 512
    assert slow.now < 10.0
    assert len(Timed(lambda rows: 0.1).measured(512).rows) > len(slow.measured(512).rows)


class Bench:
    """A user's cache folder, and models whose measuring is counted and not done."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder / "cache"
        self.measured = 0
        self._models = folder
        patch.setattr(costs, "measure", self._measure)

    def _measure(self, model: Transformer, most_rows: int) -> CostTable:
        self.measured += 1
        return CostTable((1, most_rows), (1.0, float(self.measured)))

    def model(self, name: str, **changes: int) -> tuple[Checkpoint, Transformer]:
        write_llama(self._models / name, num_hidden_layers=1, **changes)
        checkpoint = Checkpoint.open(self._models / name)
        return checkpoint, Transformer.load(checkpoint, "cpu", "fp32")

    def table(self, model: tuple[Checkpoint, Transformer], most_rows: int = 8) -> CostTable:
        return CostCache(self.folder).table(*model, most_rows)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def test_a_table_is_measured_once_and_kept(bench: Bench):
    model = bench.model("a")
    assert bench.table(model) == bench.table(model)
    assert bench.measured == 1


def test_another_model_another_machine_and_other_sizes_are_measured_by_themselves(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    model = bench.model("a")
    bench.table(model)
    bench.table(bench.model("b", intermediate_size=128))
    bench.table(model, most_rows=16)
    monkeypatch.setattr(costs, "speed_facts", lambda _device: ["another"])
    bench.table(model)
    assert bench.measured == 4
    assert len(list(bench.folder.iterdir())) == 4


def test_a_rounded_model_and_one_on_several_devices_are_measured_by_themselves(bench: Bench):
    checkpoint, model = bench.model("a")
    bench.table((checkpoint, model))
    rounded = Checkpoint.open(checkpoint.folder, "int8")
    bench.table((rounded, Transformer.load(rounded, "cpu", "fp32")))
    write_llama(checkpoint.folder, num_hidden_layers=2)
    deeper = Checkpoint.open(checkpoint.folder)
    whole = Placement.whole(2, "cpu", "fp32")
    for stages in ((), (Stage("cpu", 1), Stage("cpu:0", 1))):
        bench.table((deeper, Transformer.load(deeper, placement=replace(whole, stages=stages))))
    assert bench.measured == 4


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"rows": [2], "times_ms": [1]}',
        b'{"rows": 1}',
        b'{"rows": [1, 1%s], "times_ms": [1, 2]}' % (b"0" * 400),
    ],
)
def test_a_damaged_file_is_measured_anew_and_replaced(bench: Bench, damage: bytes):
    model = bench.model("a")
    bench.table(model)
    (file,) = bench.folder.iterdir()
    file.write_bytes(damage)
    assert bench.table(model).times_ms == (1.0, 2.0)
    assert bench.table(model).times_ms == (1.0, 2.0)
    assert bench.measured == 2
    assert list(bench.folder.iterdir()) == [file]


def test_a_user_without_a_home_has_passes_measured_at_every_start(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    checkpoint, model = bench.model("a")
    for _ in range(2):
        CostCache.of_user().table(checkpoint, model, 8)
    assert bench.measured == 2
    assert sorted(tmp_path.iterdir()) == sorted([*before, checkpoint.folder])


def test_a_folder_that_cannot_be_written_costs_only_the_measuring(
    bench: Bench, caplog: pytest.LogCaptureFixture
):
    model = bench.model("a")
    bench.folder.write_text("a file stands in the way")
    with caplog.at_level("INFO"):
        assert bench.table(model).rows == (1, 8)
    assert "measured at every start" in caplog.text


def test_the_users_cache_folder_is_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    CostCache.of_user().table(*bench.model("a"), 8)
    assert list((tmp_path / "xdg" / "umbrella-lsp" / "costs").glob("*.json"))
