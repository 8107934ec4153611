from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import EngineConfig
from engine.config_tables import ModelName
from engine.draft.base import TreeLimits
from engine.errors import CheckpointError, ConfigError
from engine.footprint import Footprint
from engine.memory import GIB
from engine.offload.machine import Machine
from engine.offload.plan import MemoryPlan, plan
from engine.umbrella_keys import MOST_NODES
from tests.engine.offload.plans import card, config
from tests.engine.offload.sparse import Shape, write_sparse

LARGE = 1024 * GIB


def streamed(made: MemoryPlan) -> int:
    return len(made.target.streamed)


def test_a_70b_model_is_counted_as_its_figures_say(models: Path) -> None:
    found = Footprint.of(ModelName(str(models / "70b")), "auto", "cuda")
    assert {round(size / 1e6, 1) for size in found.layer_bytes} == {444.5}
    assert round(sum(found.layer_bytes) / 1e9, 1) == 35.6
    assert round(found.embedding_bytes / 1e9, 1) == 2.1
    assert round(found.head_bytes / 1e9, 1) == 2.1
    assert found.token_bytes == 2 * 80 * 8 * 128 * 2
    stored = sum(file.stat().st_size for file in (models / "70b").glob("*.safetensors"))
    assert found.weights_bytes == pytest.approx(stored, rel=0.001)


@pytest.mark.parametrize(
    ("vram", "draft", "streams"),
    [(12, "1b", 73), (16, "8b", 73), (24, "8b", 54), (24, "500m", 42), (48, "8b", 0)],
)
def test_how_much_of_a_70b_streams_on_which_card(models: Path, vram: int, draft: str, streams: int) -> None:
    """3 to 5 layers more than with nothing counted but weights, a short context and the ring: a desktop's
    reserve, what CUDA takes, prompts of 1024 rows a pass, and the draft tier's own context.
    """
    wanted = config(models, "70b", draft)
    made = plan(wanted, card(vram))
    assert streamed(made) == streams
    assert made.bytes_at("device") <= (vram - 0.5) * GIB
    assert sorted((*made.target.resident, *made.target.streamed)) == list(range(80))
    assert made.target.from_disk == ()
    assert made.pass_bytes == streams * made.layer_bytes[0]
    # And there is no room for one more.
    assert not streams or made.bytes_at("device") + made.layer_bytes[0] > (vram - 0.5) * GIB


def test_layers_stay_evenly_among_those_that_stream(models: Path) -> None:
    made = plan(config(models, "70b", "500m"), card(24))
    gaps = [later - layer for layer, later in pairwise(made.target.resident)]
    assert {2, 3} == set(gaps)


def test_what_nobody_stated_shrinks_before_a_layer_streams(models: Path) -> None:
    roomy = plan(config(models, "8b"), card(96))
    assert (roomy.max_length, roomy.slots) == (131_072, 3)
    shorter = plan(config(models, "8b"), card(16))
    assert (shorter.max_length, shorter.slots, streamed(shorter)) == (16_384, 3, 0)
    fewer = plan(config(models, "8b"), card(7.6))
    assert (fewer.max_length, fewer.slots, streamed(fewer)) == (4096, 1, 0)
    assert not fewer.target.embedding_on_host
    tight = plan(config(models, "8b"), card(7))
    assert (tight.max_length, tight.slots, streamed(tight)) == (4096, 1, 0)
    assert tight.target.embedding_on_host
    assert streamed(plan(config(models, "8b"), card(6))) > 0


def test_what_is_stated_stays_and_layers_stream_for_it(models: Path) -> None:
    made = plan(config(models, "8b", max_length=32_768, slots=2), card(12))
    assert (made.max_length, made.slots) == (32_768, 2)
    assert streamed(made) > 0
    assert plan(config(models, "8b", max_length=1 << 20, slots=1), card(96)).max_length == 131_072


def test_the_ring_has_a_third_slot_where_there_is_room_for_one(models: Path) -> None:
    wanted = config(models, "70b", max_length=4096, slots=1)
    usual = plan(wanted, card(24))
    layer = usual.layer_bytes[0]
    fixed = usual.bytes_at("device") - layer * (len(usual.target.resident) + usual.target.slots)
    tight, roomier = (
        plan(replace(wanted, max_vram=(fixed + room * layer) / GIB), card(24)).target for room in (2.5, 3.5)
    )
    assert (tight.slots, tight.resident) == (2, ())
    assert (roomier.slots, roomier.resident) == (3, ())


def test_offload_and_the_number_of_layers_that_stay_are_obeyed(models: Path) -> None:
    assert streamed(plan(config(models, "8b", offload=True), card(96))) == 1
    assert streamed(plan(config(models, "70b", num_cache_layers=16), card(24))) == 64
    assert streamed(plan(config(models, "70b", num_cache_layers=0), card(24))) == 80
    assert streamed(plan(config(models, "70b", num_cache_layers=80), card(96))) == 0
    assert streamed(plan(config(models, "8b", offload=False, num_cache_layers=3), card(96))) == 0


def test_bounds_on_memory_are_obeyed(models: Path) -> None:
    wanted = config(models, "70b", "500m", max_vram=12.0, max_ram=20.0)
    made = plan(wanted, card(48, 64))
    assert made.bytes_at("device") <= 12 * GIB
    assert made.bytes_at("host") <= 20 * GIB
    assert made.bytes_at("disk") == made.disk_pass_bytes > 0
    assert plan(replace(wanted, max_vram=48.0), card(24)).device_budget == 24 * GIB


def test_layers_without_room_in_host_memory_are_read_from_disk_evenly(models: Path) -> None:
    made = plan(config(models, "70b", "500m"), card(24, 16))
    assert made.bytes_at("host") <= 14 * GIB
    assert made.bytes_at("host") + made.layer_bytes[0] > 14 * GIB
    places = [made.target.streamed.index(layer) for layer in made.target.from_disk]
    gaps = {later - place for place, later in pairwise(places)}
    assert max(gaps) - min(gaps) <= 1


@settings(max_examples=60, deadline=None)
@given(
    form=st.sampled_from(["cuda", "cpu"]),
    vram_mib=st.integers(900, 3000),
    ram_mib=st.integers(300, 3000),
    stay=st.none() | st.integers(0, 16),
    offload=st.sampled_from([None, True, False]),
)
def test_whatever_the_machine_a_plan_keeps_to_its_bounds_or_is_refused(
    models: Path,
    form: Literal["cpu", "cuda"],
    vram_mib: int,
    ram_mib: int,
    stay: int | None,
    offload: bool | None,
) -> None:
    wanted = config(models, "small", num_cache_layers=stay, offload=offload)
    machine = Machine(form, vram_bytes=vram_mib << 20, ram_bytes=ram_mib << 20)
    try:
        made = plan(wanted, machine)
    except ConfigError:
        return
    target = made.target
    assert sorted((*target.resident, *target.streamed)) == list(range(16))
    assert set(target.from_disk) <= set(target.streamed)
    assert bool(target.slots) == bool(target.streamed)
    assert target.slots <= len(target.streamed)
    assert made.device_budget is not None
    assert made.host_budget is not None
    assert made.bytes_at("device") <= made.device_budget
    assert made.bytes_at("host") <= made.host_budget
    assert offload is not False or not target.streamed
    if form == "cuda":
        assert offload is not True or target.streamed
        assert stay is None or offload is False or len(target.resident) == min(stay, 16)


def test_a_tied_embedding_is_counted_once_and_stays_on_the_device(models: Path) -> None:
    made = plan(config(models, "1b", max_length=4096, slots=1), card(3))
    assert streamed(made) > 0
    assert not made.target.embedding_on_host
    assert made.bytes_at("device") <= 2.7 * GIB
    tied = Footprint.of(ModelName(str(models / "1b")), "auto", "cuda")
    assert tied.head_bytes < tied.embedding_bytes // 100


def test_on_a_cpu_everything_lies_in_memory_and_the_rest_is_read_from_disk(models: Path) -> None:
    wanted = config(models, "32b", offload=True, num_cache_layers=0)
    made = plan(wanted, Machine("cpu", ram_bytes=64 * GIB))
    assert made.target.streamed == ()
    assert (made.target.form, made.target.dtype) == ("cpu", "bf16")
    short = plan(wanted, Machine("cpu", ram_bytes=16 * GIB))
    assert short.target.from_disk == short.target.streamed != ()
    assert short.bytes_at("device") <= 14 * GIB
    assert short.bytes_at("host") == 0
    assert plan(wanted, Machine("cpu")).target.streamed == ()


def test_more_memory_never_streams_more(models: Path) -> None:
    sizes = (8, 10, 12, 16, 24, 40, 48)
    counts = [streamed(plan(config(models, "70b", "500m"), card(size))) for size in sizes]
    assert counts == sorted(counts, reverse=True)
    assert (counts[0], counts[-1]) == (80, 0)


@pytest.mark.parametrize(
    ("machine", "changes", "said"),
    [
        (
            card(4),
            {},
            ["70b does not fit", "even if every layer streams", "what is free", "Choose a smaller model"],
        ),
        (card(24), {"max_vram": 4.0}, ["max_vram = 4.0", "Choose a smaller model"]),
        (card(24), {"max_length": 131_072, "slots": 3}, ["slots = 1", "would fit"]),
        (card(12), {"max_length": 131_072, "slots": 1}, ["max_length = 16384 would fit"]),
        (card(24), {"offload": False}, ["offload = false", "Leave offload at auto to stream"]),
        (card(24), {"num_cache_layers": 60}, ["num_cache_layers = 60", "At most 42 layers", "auto"]),
        (card(96), {"offload": True, "num_cache_layers": 80}, ["offload = true", "num_cache_layers = 80"]),
        (card(24, 1), {}, ["embedding", "host memory", "max_ram"]),
        (Machine("cpu", ram_bytes=4 * GIB), {}, ["70b does not fit", "of memory"]),
        (
            Machine("cpu", ram_bytes=64 * GIB),
            {"offload": False, "max_ram": 20.0},
            ["max_ram = 20.0", "offload"],
        ),
        (Machine("cpu", ram_bytes=64 * GIB), {"dtype": "fp32"}, ["fp32", "Leave dtype at auto"]),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(
    models: Path, machine: Machine, changes: dict[str, object], said: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(replace(config(models, "70b"), **changes), machine)
    assert all(part in str(caught.value) for part in said), caught.value


def test_a_small_model_that_is_unpacked_is_not_read_from_disk() -> None:
    with pytest.raises(ConfigError, match=r"dequantised to fp32.*or raise max_ram"):
        plan(EngineConfig(max_ram=0.065), Machine("cpu"))


def test_a_draft_that_takes_the_room_is_named(models: Path) -> None:
    with pytest.raises(ConfigError, match="smaller draft_model"):
        plan(config(models, "70b", "8b"), card(9))


def test_a_checkpoint_that_is_not_whole_is_refused_by_name(tmp_path: Path) -> None:
    folder = write_sparse(tmp_path / "model", Shape(2, 64, 128, 4, 4, 0, 16, vocabulary=64, shards=2))
    wanted = EngineConfig(model=str(folder), draft_model=None)
    plan(wanted, card(8))
    second = folder / "model-00002-of-00002.safetensors"
    whole = second.stat().st_size
    with second.open("r+b") as file:
        file.truncate(whole - 1)
    with pytest.raises(CheckpointError, match=r"00002-of-00002.*cut short"):
        plan(wanted, card(8))
    with second.open("r+b") as file:
        file.truncate(whole)
        file.seek(8)
        file.write(b"x")
    with pytest.raises(CheckpointError, match=r"00002-of-00002.*damaged"):
        plan(wanted, card(8))
    second.unlink()
    with pytest.raises(CheckpointError, match="lacks model-00002-of-00002"):
        plan(wanted, card(8))


def test_layers_that_all_have_a_slot_come_once_and_not_at_every_pass(models: Path) -> None:
    made = plan(
        replace(config(models, "8b"), offload=True), Machine("cuda", vram_bytes=80 * GIB, ram_bytes=64 * GIB)
    )
    assert 0 < len(made.target.streamed) <= made.target.slots
    assert made.pass_bytes == 0


def parts(made: MemoryPlan, of: str) -> dict[str, int]:
    return {part.name: part.size_bytes for part in made.parts if part.name.startswith(of)}


def test_every_draft_is_counted_and_the_first_alone_has_the_draft_tiers_slots(models: Path) -> None:
    one, other = (plan(config(models, "70b", draft), card(80)) for draft in ("500m", "1b"))
    made = plan(config(models, "70b", "500m", "1b"), card(80))
    found = parts(made, "draft")
    assert [*found] == [f"draft {n}: {what}" for n in (1, 2) for what in ("weights", "keys and values")]
    assert len(made.drafts) == 2
    alone, beside = parts(one, "draft"), parts(other, "draft")
    assert found["draft 1: weights"] == alone["draft: weights"]
    assert found["draft 2: weights"] == beside["draft: weights"]
    assert found["draft 1: keys and values"] == alone["draft: keys and values"]
    assert found["draft 2: keys and values"] < beside["draft: keys and values"]


def test_a_drafts_cache_has_room_for_what_a_step_can_have_it_run(models: Path) -> None:
    wanted = config(models, "8b", "500m", slots=1, max_length=4096)
    token = Footprint.of(wanted.drafts[0], "auto", "cuda").token_bytes
    made = plan(wanted, card(48))
    assert parts(made, "draft: keys")["draft: keys and values"] == token * (
        4096 + TreeLimits.of(wanted).most_grown + 4096 + 1
    )
    static = replace(wanted, engine="static", growmap_path="any")
    assert parts(plan(static, card(48)), "draft: keys")["draft: keys and values"] == token * (
        4096 + MOST_NODES + 4096 + 1
    )
