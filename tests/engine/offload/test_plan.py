from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.cli import main
from engine.config import EngineConfig, load
from engine.errors import CheckpointError, ConfigError
from engine.footprint import Footprint
from engine.loaded import LoadedEngine
from engine.memory import GIB
from engine.offload.machine import Compute, Machine
from engine.offload.plan import MemoryPlan, plan
from engine.offload.prediction import Prediction, Rates, predict, predict_what_pays, schedule
from tests.engine.offload.sparse import (
    DRAFTER_500M,
    LLAMA_1B,
    LLAMA_8B,
    LLAMA_70B,
    QWEN_32B,
    Shape,
    write_sparse,
)
from tests.engine.pair import tiny_pair

LARGE = 1024 * GIB


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sparse")
    shapes = {"70b": LLAMA_70B, "8b": LLAMA_8B, "1b": LLAMA_1B, "500m": DRAFTER_500M, "32b": QWEN_32B}
    shapes["small"] = Shape(16, 1024, 4096, 8, 8, 0, vocabulary=32_000, max_position=8192)
    for name, shape in shapes.items():
        write_sparse(folder / name, shape)
    return folder


def config(models: Path, model: str, draft: str | None = None, **changes: object) -> EngineConfig:
    named = EngineConfig(model=str(models / model), draft_model=str(models / draft) if draft else None)
    return replace(named, **changes)  # pyright: ignore[reportArgumentType]


def card(vram: float, ram: float = 64) -> Machine:
    return Machine.card(int(vram * GIB), int(ram * GIB))


def streamed(made: MemoryPlan) -> int:
    return len(made.target.streamed)


def test_a_70b_model_is_counted_as_its_figures_say(models: Path) -> None:
    found = Footprint.of(str(models / "70b"), None, "auto", "cuda")
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
    tied = Footprint.of(str(models / "1b"), None, "auto", "cuda")
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
    with pytest.raises(ConfigError, match=r"unpacked to fp32.*or raise max_ram"):
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


def test_a_pass_takes_what_the_link_takes_and_the_disk_makes_it_longer(models: Path) -> None:
    wanted = config(models, "70b", "500m")
    made = plan(wanted, card(24))
    bound_ms = 1000 * made.pass_bytes / 25e9
    found = predict(wanted, card(24), made, 6.0)
    assert bound_ms <= found.schedule.pass_ms <= 1.05 * bound_ms
    assert found.tokens_per_s == pytest.approx(6000 / found.schedule.pass_ms)
    short = plan(wanted, card(24, 16))
    slowed = predict(wanted, card(24, 16), short, 6.0)
    disk_ms = 1000 * short.disk_pass_bytes / 3e9
    bound_ms = max(disk_ms, 1000 * short.pass_bytes / 25e9)
    assert bound_ms <= slowed.schedule.pass_ms <= 1.15 * bound_ms, "it is read ahead"
    assert slowed.schedule.disk_ms == pytest.approx(disk_ms)
    assert slowed.without_disk is not None
    assert slowed.without_disk.pass_ms == pytest.approx(found.schedule.pass_ms, rel=0.01)


def test_what_a_full_tree_costs_more_than_it_brings_is_predicted_without(models: Path) -> None:
    def predicted(model: str, machine: Machine, **changes: object) -> Prediction:
        wanted = config(models, model, "500m", **changes)
        return predict_what_pays(wanted, machine, plan(wanted, machine), 6.0)

    streams, slow = card(24), Machine("cpu", ram_bytes=LARGE)
    assert (predicted("70b", streams).rows, predicted("70b", streams).acceptance) == (64, 6.0)
    plain = predicted("8b", slow, max_length=4096)
    assert (plain.rows, plain.acceptance, plain.rates.draft_ms) == (1, 1.0, 0.0)
    assert plain.pass_ms < 1000
    assert predicted("8b", slow, engine="static", growmap_path="any").rows == 64
    assert predicted("70b", streams, engine="ar").acceptance == 1.0


def test_a_prediction_follows_measured_times(models: Path) -> None:
    made = plan(config(models, "70b", "500m"), card(24))
    slow = schedule(made.target, made.layer_bytes, Rates(25e9, 3e9, layer_ms=25.0, head_ms=10.0))
    assert slow.pass_ms == pytest.approx(80 * 25 + 10, rel=0.01)
    assert slow.compute_ms == 80 * 25 + 10


def test_known_cards_are_told_apart() -> None:
    assert "4070 Ti" in Compute.of_gpu("NVIDIA GeForce RTX 4070 Ti SUPER").source
    assert Compute.of_gpu("rtx4090").memory_bytes_per_s > Compute.of_gpu("4080").memory_bytes_per_s
    assert "not known" in Compute.of_gpu("").source


def test_the_command_prints_a_table_that_fits_a_terminal(
    models: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    file = tmp_path / "c.toml"
    file.write_text(f'model = "{models / "70b"}"\ndraft_model = "{models / "8b"}"\n')
    options = ["plan", "--config", str(file), "--vram", "24", "--gpu", "4090", "--ram"]
    assert main([*options, "24", "--link", "12.5", "--disk", "5", "--acceptance", "9"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    for expected in (
        *("GPU memory", "Host memory", "from disk", "output head", "embedding", "keys and values", "draft"),
        *("slots that layers stream to", "resident layers", "streamed layers", "scratch", "444.5 MB"),
        *("12.5 GB/s", "5 GB/s", "Host memory does not suffice", "9 tokens a pass come to"),
    ):
        assert expected in shown
    assert "assumed" not in shown
    assert main([*options, "64"]) == 0
    shown = capsys.readouterr().out
    assert "Host memory suffices" in shown
    assert "25 GB/s (assumed)" in shown
    assert "6 tokens a pass (assumed)" in shown


def test_the_command_prints_one_object_and_its_refusals(models: Path, tmp_path: Path, capsys) -> None:
    file = tmp_path / "c.toml"
    file.write_text(f'model = "{models / "70b"}"\ndraft_model = ""\nmax_vram = 20\n')
    options = ["plan", "--config", str(file), "--ram", "64", "--json", "--vram"]
    assert main([*options, "24"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["fits_host_memory"] is True
    assert shown["plan"]["device_budget"] == 20 * GIB
    assert shown["plan"]["pass_bytes"] == sum(
        shown["plan"]["layer_bytes"][layer] for layer in shown["plan"]["target"]["streamed"]
    )
    assert shown["prediction"]["tokens_per_s"] > 0
    assert main([*options, "2"]) == 2
    assert "does not fit" in capsys.readouterr().err
    file.write_text(f'model = "{models / "70b"}"\ndevice = "cpu"\n')
    assert main([*options, "24"]) == 2
    assert "device = 'cpu'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*options, "-1"])


def test_what_a_pass_took_when_the_models_were_loaded_is_known(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    wanted = tiny_pair(tmp_path)
    file = tmp_path / "c.toml"
    file.write_text(f'model = "{wanted.model}"\ndraft_model = "{wanted.draft_model}"\ndevice = "cpu"\n')
    assert main(["plan", "--config", str(file)]) == 0
    assert "a guess" in capsys.readouterr().out
    engine = LoadedEngine.load(load(file))
    engine.close()
    assert main(["plan", "--config", str(file), "--json"]) == 0
    prediction = json.loads(capsys.readouterr().out)["prediction"]
    assert 0 < prediction["measured_ms"] < prediction["pass_ms"]
    assert main(["plan", "--config", str(file)]) == 0
    assert "last loaded so, a pass took" in capsys.readouterr().out


def test_a_plan_for_a_stated_machine_needs_no_torch_and_other_commands_nothing_of_plans(
    models: Path, tmp_path: Path
) -> None:
    file = tmp_path / "c.toml"
    file.write_text(f'model = "{models / "1b"}"\ndraft_model = ""\n')
    program = (
        "import sys; from engine.cli import main; print({'rich', 'engine.offload.plan'} & set(sys.modules));"
        f"main(['plan', '--config', {str(file)!r}, '--vram', '8']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    first, *_, last = done.stdout.splitlines()
    assert (first, last) == ("set()", "False")


def test_layers_that_all_have_a_slot_come_once_and_not_at_every_pass(models: Path) -> None:
    made = plan(
        replace(config(models, "8b"), offload=True), Machine("cuda", vram_bytes=80 * GIB, ram_bytes=64 * GIB)
    )
    assert 0 < len(made.target.streamed) <= made.target.slots
    assert made.pass_bytes == 0
