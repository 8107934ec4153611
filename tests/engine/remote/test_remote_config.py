"""What a configuration may say of servers elsewhere, and what commands make of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engine.cli import main
from engine.config import EngineConfig, load, load_local
from engine.config_tables import UpstreamName
from engine.errors import CheckpointError, ConfigError
from engine.footprint import needed_bytes

TABLE = '[[upstreams]]\nurl = "http://gpu:8000"\n'


def read(folder: Path, text: str) -> EngineConfig:
    (folder / "engine.toml").write_text(text)
    return load(folder / "engine.toml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('engine = "remote"', "upstreams must be given where engine is remote"),
        (TABLE, "upstreams must be given where engine is remote, and only there"),
        (f'engine = "remote"\n{TABLE}tokn_env = "X"', "upstreams[0].tokn_env is not a known key. Did you"),
        ('engine = "remote"\nupstreams = [{ model = "x" }]', "upstreams[0].url is missing"),
        (f'engine = "remote"\n{TABLE}prompts = "both"', "upstreams[0].prompts must be one of 'ids', 'text'"),
        (f'engine = "remote"\n{TABLE}max_requests = 0', "upstreams[0].max_requests must be between 1 and"),
        ('engine = "remote"\n[[upstreams]]\nurl = "gpu:8000"', "url must be an http:// or https:// address"),
        ('engine = "remote"\n[[upstreams]]\nurl = "http://gpu:80000"', "Port out of range"),
        ('engine = "remote"\n[[upstreams]]\nurl = "http://gpu/v1/"', "url must end before /v1"),
        ('engine = "remote"\n[[upstreams]]\nurl = "https://me:pw@gpu"', "url must hold no user"),
    ],
)
def test_what_makes_no_sense_of_servers_is_refused_by_name(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, text)
    assert says in str(error.value)


def test_a_remote_engine_drafts_nothing_and_what_stands_in_for_its_servers_does(tmp_path: Path) -> None:
    config = read(tmp_path, f'engine = "remote"\n{TABLE}')

    assert config.upstreams == (UpstreamName("http://gpu:8000"),)
    assert config.drafts == ()
    assert config.runs_here
    assert config.local == EngineConfig()
    assert EngineConfig().local == EngineConfig()


def test_commands_about_models_say_that_none_runs_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read(tmp_path, f'engine = "remote"\nfallback = false\n{TABLE}')
    file = tmp_path / "engine.toml"
    with pytest.raises(ConfigError):
        load_local(file)

    for command in ("plan", "selftest"):
        assert main([command, "--config", str(file)]) == 2
        assert "No model of this configuration runs here" in capsys.readouterr().err


def test_of_a_model_that_runs_elsewhere_only_what_describes_it_is_needed(tmp_path: Path) -> None:
    config = read(tmp_path, f'engine = "remote"\nfallback = false\n{TABLE}')

    assert needed_bytes(config, on_gpu=False) == 0
    assert needed_bytes(replace(config, fallback=True), on_gpu=False) > 0
    with pytest.raises(CheckpointError, match="--without-weights"):
        needed_bytes(replace(config, model="a/b"), on_gpu=False)
