"""The benchmark of streaming: its replica of UMbreLLa's schedule, its models, and its document."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import cast

import pytest
import torch

from benchmarks.offload import gpu, wall
from benchmarks.offload.acceptance import recorded
from benchmarks.offload.caps import HEADLINES, Planned, figures
from benchmarks.offload.checkpoint import write
from benchmarks.offload.document import Document, table
from benchmarks.offload.served import SCALES, configured
from benchmarks.offload.shapes import CARDS, LLAMA_70B, Card, Shape
from benchmarks.offload.synthetic import Synthetic
from benchmarks.offload.umbrella import Habits, PassCosts, costs_of_habits, pass_ms
from benchmarks.offload.wall import Effort, Scaled, SimulatedLink
from engine.checkpoint import Checkpoint
from engine.config import load
from engine.layers import ResidentLayers
from engine.model import Block, Transformer
from engine.model_config import read_model_config
from engine.offload.layout import LayerLayout
from engine.offload.machine import Machine
from engine.offload.plan import plan
from engine.schema import read

SMALL = Shape("small", 64, 128, 8, 4, 2, 32, vocab_size=96, group_size=32, max_position=256)
COSTS = PassCosts(80, layer_ms=2.0, head_ms=1.0, copy_ms=18.0, device_copy_ms=1.0, draft_ms=100.0)
CACHED = 31
"""Layers of `COSTS` on the device."""
FREE_OF_HABITS = Habits(*(False for _ in fields(Habits)))


def test_umbrellas_schedule_adds_up_as_its_source_reads():
    plain = replace(COSTS, draft_ms=0.0, head_ms=0.0)
    streamed = Habits(per_tensor=False, draft_in_sequence=False)
    took = pass_ms(plain, CACHED, streamed)
    # A layer is copied while the one before it is computed, and the next copy waits for both.
    assert took == pytest.approx(CACHED * 2.0 + (80 - CACHED) * 18.0, rel=0.01)
    assert took < pass_ms(plain, CACHED) < pass_ms(COSTS, CACHED)


def test_without_its_habits_umbrellas_schedule_reaches_the_bound():
    bound_ms = (80 - CACHED) * COSTS.copy_ms
    assert pass_ms(COSTS, CACHED, FREE_OF_HABITS) == pytest.approx(bound_ms, rel=0.01)


def test_where_computing_takes_longest_streaming_is_free_without_habits():
    slow = replace(COSTS, layer_ms=30.0, draft_ms=0.0)
    assert pass_ms(slow, CACHED, FREE_OF_HABITS) == pytest.approx(slow.compute_ms, rel=0.01)


def test_what_habits_cost_adds_up_to_the_distance_from_the_bound():
    saved = costs_of_habits(COSTS, CACHED)
    distance = pass_ms(COSTS, CACHED) - pass_ms(COSTS, CACHED, FREE_OF_HABITS)
    assert sum(saved.values()) == pytest.approx(distance)
    assert saved["draft_in_sequence"] == pytest.approx(COSTS.draft_ms)
    assert saved["synchronise"] > 0.02 * pass_ms(COSTS, CACHED)


@pytest.fixture(scope="module")
def headers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("headers")


@pytest.fixture(scope="module", params=[CARDS[0], *CARDS[2:]], ids=lambda card: f"{card.gb}GB")
def found(request: pytest.FixtureRequest, headers: Path) -> tuple[Card, dict[str, object]]:
    card: Card = request.param
    return card, figures(Planned.of(card, headers), recorded(), lambda costs, _: 2 * costs.compute_ms)


def test_every_card_has_all_headlines_and_a_reason_for_each_null(found: tuple[Card, dict[str, object]]):
    card, figures = found
    assert set(HEADLINES) <= figures.keys()
    absent = [name for name in HEADLINES if figures[name] is None]
    assert bool(absent) == (card.umbrella_cached is None) == ("null_because" in figures)


def test_passes_keep_to_the_bound_and_cancels_to_three_layers(found: tuple[Card, dict[str, object]]):
    card, figures = found
    assert 1.0 <= float(str(figures["pass_over_bound"])) <= 1.05
    if card.umbrella_cached is not None:
        assert float(str(figures["cancel_to_idle_layers"])) <= 3.0
        least = 1.3 if card.gb == 24 else 1.1
        assert float(str(figures["umbrella_schedule_over_ours"])) >= least


def test_the_table_has_a_row_for_every_card(found: tuple[Card, dict[str, object]]):
    card, figures = found
    rows = table(read(Document, json.loads(json.dumps({"caps": {str(card.gb): figures}})))).splitlines()
    assert rows[2].startswith(f"| {card.gb} GB ({card.gpu}) | ")
    assert {row.count("|") for row in rows} == {8}


def test_a_checkpoint_without_weights_has_the_size_of_a_70b_and_takes_no_room(tmp_path: Path):
    folder = write(tmp_path, LLAMA_70B, weights=False)
    config = read_model_config(folder)
    assert config.num_layers == 80
    assert LayerLayout.of(config, 0, "cuda", "fp16").size_bytes == pytest.approx(444.6e6, rel=0.001)
    shards = list(folder.glob("*.safetensors"))
    assert sum(shard.stat().st_size for shard in shards) == pytest.approx(39.77e9, rel=0.001)
    assert sum(512 * shard.stat().st_blocks for shard in shards) < 2e6


def test_a_written_checkpoint_loads_from_several_shards(tmp_path: Path):
    checkpoint = Checkpoint.open(write(tmp_path, SMALL, shard_bytes=100_000))
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    model = Transformer.load(checkpoint, "cpu", "fp32")
    logits = model.forward(Block.chain([5, 6, 7]), model.new_cache(8), [2], lambda _: None)
    assert bool(logits.isfinite().all())
    assert float(logits.std()) > 0.1


def test_the_tiny_scale_of_the_served_engine_is_written_once_and_streams(tmp_path: Path):
    config = load(configured(tmp_path, SCALES["tiny"]))
    (weights,) = (tmp_path / "target").glob("*.safetensors")
    written = weights.stat().st_mtime_ns
    placement = plan(config, Machine("cpu")).target
    assert placement.resident
    assert placement.from_disk
    configured(tmp_path, SCALES["tiny"])
    assert weights.stat().st_mtime_ns == written


@pytest.fixture(scope="module")
def bench() -> SimulatedLink:
    return SimulatedLink(Synthetic.of(SMALL, torch.device("cpu")), 200e6)


def logits_of(model: Transformer) -> torch.Tensor:
    return model.forward(Block.chain([1, 2, 3]), model.new_cache(8), [0, 1, 2], lambda _: None)


def test_all_contestants_compute_the_same(bench: SimulatedLink):
    placement = wall.placed(bench, SMALL.num_layers, Scaled(0.25, 0.25, 0.0, 0.0, 3))
    expected = logits_of(bench.model.whole(ResidentLayers(bench.model.layers(bench.model.source.block))))
    with bench.ours(placement) as ours, bench.umbrella(range(2)) as umbrella:
        for model in (ours, umbrella):
            for _ in range(2):  # A second pass begins with what the first has left in the slots.
                assert torch.equal(logits_of(model), expected)


def test_the_wall_clock_measures_as_often_as_asked(bench: SimulatedLink, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(wall, "find_spec", lambda _: None)
    effort = Effort(rounds=2, passes=3, cancels=4, rows=1)
    scaled = Scaled(0.25, 0.25, 1.0, 1.0, 3)
    took = wall.take_turns(bench, wall.placed(bench, SMALL.num_layers, scaled), scaled, effort)
    assert {len(took.at_home), len(took.alone), len(took.ours), len(took.umbrella)} == {6}
    assert len(took.cancels) == 4
    assert not took.accelerate
    # Six layers come over the link at every pass: in all, it cannot have been faster than that.
    link_ms = 6000 * bench.model.source.size_bytes(0) / bench.bytes_per_s
    assert sum(took.umbrella) >= 6 * link_ms


@pytest.mark.slow
def test_accelerates_own_hooks_fetch_every_weight_before_its_product(bench: SimulatedLink):
    from benchmarks.offload.accelerated import virtual_pass_ms

    costs = replace(COSTS, num_layers=6)
    copies = 5 * (costs.copy_ms + 21 * 0.008)
    assert virtual_pass_ms(costs, 1) == pytest.approx(costs.draft_ms + costs.compute_ms + copies)
    expected = logits_of(bench.model.whole(ResidentLayers(bench.model.layers(bench.model.source.block))))
    with bench.accelerate(range(2)) as model:
        assert torch.equal(logits_of(model), expected)


def test_a_gpu_document_has_every_headline_of_every_card(
    bench: SimulatedLink, headers: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(gpu, "Gpu", lambda _model: bench)
    monkeypatch.setattr(Synthetic, "of", lambda *_: bench.model)
    monkeypatch.setattr(wall, "find_spec", lambda _: None)
    capped: list[float] = []
    for name, value in (
        ("mem_get_info", lambda _: (0, 96 << 30)),
        ("set_per_process_memory_fraction", capped.append),
        ("get_device_name", lambda _: "a GPU"),
        ("empty_cache", lambda: None),
    ):
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(gpu, "MOST_ROWS", 4)
    cards = [Planned.of(card, headers) for card in CARDS[2:]]
    effort, like = Effort(rounds=1, passes=1, cancels=1, rows=1), Scaled(0.25, 0.25, 1.0, 1.0, 3)
    found = gpu.on_gpu(cards, recorded(), effort, lambda *_: like, lambda _: None)
    assert found["link"] == "a GPU"
    assert capped == [0.25, 0.5]
    caps = cast("dict[str, dict[str, object]]", found["caps"])
    assert all(set(HEADLINES) <= cap.keys() for cap in caps.values())
    assert caps["24"]["pass_over_bound"] is not None
    assert caps["24"]["pass_ms_by_rows"]
    assert caps["48"]["null_because"]
