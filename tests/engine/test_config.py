from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from engine.config import FOLLOWS_FROM_THE_MACHINE, EngineConfig, default_path, load
from engine.config_tables import ModelName
from engine.errors import ConfigError


def written(folder: Path, text: str, name: str = "engine.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_toml_and_json_of_the_same_content_are_the_same_configuration(tmp_path: Path) -> None:
    toml = load(written(tmp_path, 'model = "org/name"\nidle_s = 5\n'))
    json = load(written(tmp_path, '{"model": "org/name", "idle_s": 5.0}', "engine.json"))
    assert toml == json == EngineConfig(model="org/name", idle_s=5.0)
    assert toml.digest() == json.digest() != EngineConfig().digest()


def test_auto_is_what_leaving_out_is_for_every_value_that_follows_from_the_machine(tmp_path: Path) -> None:
    left_to_us = {field.name for field in fields(EngineConfig) if field.default in (None, "auto")}
    named = {"growmap_path", "revision", "draft_revision", "chat_template", "quantize"}
    assert left_to_us == {*FOLLOWS_FROM_THE_MACHINE, *named, "dtype", "device"}

    stated = load(written(tmp_path, "\n".join(f'{key} = "auto"' for key in left_to_us - named)))

    assert stated == EngineConfig()
    assert stated.digest() == EngineConfig().digest()


def test_what_is_said_of_offloading_and_of_the_hub_is_read(tmp_path: Path) -> None:
    text = "offload = true\nnum_cache_layers = 8\nmax_vram = 10\nmax_ram = 30.5\nrevision = 'v1'\n"
    config = load(written(tmp_path, text + "draft_revision = ''\ndownload = true\nunload_s = 0\n"))
    said = EngineConfig(offload=True, num_cache_layers=8, max_vram=10, max_ram=30.5, unload_s=0)
    assert config == replace(said, revision="v1", download=True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tempreature = 1", "tempreature is not a known key. Did you mean temperature?"),
        ('width = "4"', "width must be int, not str"),
        ('threads = "all"', 'threads must be int, not str; "auto" lets it follow from the machine'),
        ('offload = "yes"', 'offload must be bool, not str; "auto" lets it'),
        ('width = "auto"', "width must be int, not str."),
        ("max_vram = 0", "max_vram must be between 0.01 and 1048576"),
        ("max_ram = -1", "max_ram must be between"),
        ("num_cache_layers = -1", "num_cache_layers must be between 0 and 10000"),
        ("unload_s = -1", "unload_s must be between"),
        ("slots = true", "slots must be int, not bool"),
        ("slots = 0", "slots must be between 1 and 64"),
        ("temperature = nan", "temperature must be between 0 and 100"),
        ("topp = 0.0", "topp must be between"),
        ('dtype = "fp8"', "dtype must be one of 'auto', 'fp32', 'fp16', 'bf16'"),
        ('template = "none"', "template must be one of codellama, deepseek-coder, llama3-code"),
        ('model = ""', "model must name a checkpoint"),
        ('engine = "beam"', "engine must be one of 'dynamic', 'static', 'ar'"),
        ('engine = "static"', "must not be static without growmap_path and one draft_model"),
        ('engine = "static"\ngrowmap_path = "map.json"\ndraft_model = ""', "and one draft_model"),
        ('engine = "static"\ngrowmap_path = "map.json"\ndraft_model = ["a", "b"]', "and one draft_model"),
        ("draft_model = 3", "draft_model must be str | array | null, not int"),
        ('draft_model = ["a", 3]', "draft_model[1] must be str, not int"),
        ('draft_model = ["a", ""]', "draft_model must not have an empty name"),
        ('draft_model = ["a", "a"]', "draft_model must name each model once"),
        (f"draft_model = {[*map(str, range(9))]}", "draft_model must name at most 8 models"),
        ('draft_model = ["a", "b"]\ndraft_revision = "v1"', "draft_revision must have one entry for each"),
        ("width = 0", "width must be between 1 and 1024"),
        ("num_beams = 257", "num_beams must be between 1 and 256"),
        ("depth = 65", "depth must be between 1 and 64"),
        ("tree_size = 1025", "tree_size must be between 1 and 1024"),
        ("model = ", "is not valid TOML"),
    ],
)
def test_a_refusal_names_the_file_the_key_and_what_is_allowed(tmp_path: Path, text: str, says: str) -> None:
    assert says in refusal(written(tmp_path, text))


def test_a_file_that_is_no_object_or_no_text_or_not_there_is_refused(tmp_path: Path) -> None:
    assert "one object" in refusal(written(tmp_path, "[]", "list.json"))
    assert "is not valid JSON" in refusal(written(tmp_path, "{", "cut.json"))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    assert "cannot be read" in refusal(tmp_path / "binary.toml")
    assert "cannot be read" in refusal(tmp_path / "missing.toml")


def test_a_relative_checkpoint_or_grow_map_is_relative_to_the_file(tmp_path: Path) -> None:
    text = 'model = "./target"\ndraft_model = ["./draft", "o/n"]\ngrowmap_path = "maps/a.json"\n'
    config = load(written(tmp_path, text))
    assert config.model == str(tmp_path / "target")
    assert config.draft_model == (str(tmp_path / "draft"), "o/n")
    assert config.growmap_path == str(tmp_path / "maps" / "a.json")


def test_a_grow_map_may_stand_in_the_home_folder_or_anywhere(tmp_path: Path) -> None:
    elsewhere = load(written(tmp_path, 'growmap_path = "/maps/a.json"\n'))
    assert elsewhere.growmap_path == "/maps/a.json"
    at_home = load(written(tmp_path, 'growmap_path = "~/a.json"\n'))
    assert at_home.growmap_path == str(Path.home() / "a.json")


@pytest.mark.parametrize(
    ("text", "drafts"),
    [
        ("", (ModelName("bundled:draft"),)),
        ('engine = "ar"', ()),
        ('draft_model = ""', ()),
        ('draft_model = []\ndraft_revision = "unused"', ()),
        ('draft_model = "o/n"\ndraft_revision = "v1"', (ModelName("o/n", "v1"),)),
        ('draft_model = ["o/n"]', (ModelName("o/n"),)),
        (
            'draft_model = ["o/n", "o/m", "o/k"]\ndraft_revision = ["", "v2", ""]',
            (ModelName("o/n"), ModelName("o/m", "v2"), ModelName("o/k")),
        ),
    ],
)
def test_draft_models_are_loaded_only_where_they_are_used(
    tmp_path: Path, text: str, drafts: tuple[ModelName, ...]
) -> None:
    config = load(written(tmp_path, 'model = "o/t"\nrevision = "v0"\n' + text))
    assert config.drafts == drafts
    assert config.target == ModelName("o/t", "v0")


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (EngineConfig(), ("bundled:target", "bundled:draft")),
        (EngineConfig(model="o/n", draft_model=None), ("o/n", "")),
        (EngineConfig(model="/home/me/models/big", engine="ar"), ("models/big", "")),
        (EngineConfig(model="/big", draft_model="./small"), ("big", "small")),
        (EngineConfig(model="o/n", draft_model=("o/m", "/models/tiny")), ("o/n", "o/m, models/tiny")),
    ],
)
def test_models_are_shown_by_name_and_not_by_where_they_lie(
    config: EngineConfig, names: tuple[str, str]
) -> None:
    assert config.shown_names == names


def test_the_shipped_pair_knows_python_and_of_other_models_nothing_is_assumed() -> None:
    assert EngineConfig().languages == ("python",)
    assert EngineConfig(model="o/n").languages == ()


def test_the_default_file_is_the_named_one_else_the_users_else_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UMBRELLA_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert default_path() is None
    assert load() == EngineConfig()
    (tmp_path / "umbrella-lsp").mkdir()
    users = written(tmp_path / "umbrella-lsp", "slots = 3")
    assert default_path() == users
    assert load().slots == 3
    named = written(tmp_path, "slots = 4", "named.toml")
    monkeypatch.setenv("UMBRELLA_CONFIG", str(named))
    assert load().slots == 4
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UMBRELLA_CONFIG", "named.toml")
    assert default_path() == named
