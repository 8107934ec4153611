"""What passes will take, and the command that says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from engine.cli import main
from engine.config import load
from engine.loaded import LoadedEngine
from engine.memory import GIB
from engine.offload.machine import Compute, Machine
from engine.offload.plan import plan
from engine.offload.prediction import Prediction, Rates, predict, predict_what_pays, schedule
from tests.engine.offload.plans import card, config
from tests.engine.pair import tiny_pair

LARGE = 1024 * GIB


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
    file.write_text(f'model = "{wanted.model}"\ndraft_model = "{wanted.drafts[0].name}"\ndevice = "cpu"\n')
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


def test_all_drafts_are_asked_between_two_passes(models: Path) -> None:
    def draft_ms(*drafts: str) -> float:
        wanted = config(models, "70b", *drafts)
        return predict(wanted, card(80), plan(wanted, card(80)), 6.0).rates.draft_ms

    assert draft_ms("500m", "1b") == pytest.approx(draft_ms("500m") + draft_ms("1b"), rel=0.01)
