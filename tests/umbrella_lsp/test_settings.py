"""What an editor may send as settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from umbrella_lsp.settings import EngineSettings, Settings, read_settings


def test_known_keys_replace_what_was_chosen_before() -> None:
    base = Settings(max_lines=3, engine=EngineSettings(token_file="t", url="http://a:1"))
    reading = read_settings(base, {"max_tokens": 40, "enabled": False, "engine": {"url": "http://b:2"}})
    engine = EngineSettings(token_file="t", url="http://b:2")
    assert reading.settings == Settings(max_lines=3, max_tokens=40, enabled=False, engine=engine)
    assert reading.problems == ()


def test_keys_may_be_written_in_camel_case() -> None:
    sent = {"maxLines": 3, "disabledLanguages": ["latex"], "engine": {"tokenFile": "t"}}
    wanted = Settings(max_lines=3, disabled_languages=("latex",), engine=EngineSettings(token_file="t"))
    assert read_settings(Settings(), sent).settings == wanted


def test_a_whole_number_is_a_number_where_any_will_do() -> None:
    assert read_settings(Settings(), {"min_confidence": 0}).settings == Settings(min_confidence=0.0)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"lines": 3}, "umbrella.lines is no setting; there are enabled, languages"),
        ({"max_lines": "3"}, "umbrella.max_lines must be a whole number, not '3'"),
        ({"maxLines": "3"}, "umbrella.maxLines must be a whole number, not '3'"),
        ({"max_lines": True}, "umbrella.max_lines must be a whole number, not True"),
        ({"max_lines": 0}, "umbrella.max_lines must be from 1 to 100, not 0"),
        ({"min_confidence": 1.5}, "umbrella.min_confidence must be from 0 to 1, not 1.5"),
        ({"min_confidence": "high"}, "umbrella.min_confidence must be a number, not 'high'"),
        ({"enabled": 1}, "umbrella.enabled must be true or false, not 1"),
        ({"secret_files": ["*.x", 1]}, "umbrella.secret_files must be a list of texts, not ['*.x', 1]"),
        ({"languages": "python"}, "umbrella.languages must be a list of texts, not 'python'"),
        ({"engine": "http://a:1"}, "umbrella.engine must be an object of settings, not 'http://a:1'"),
        ({"engine": {"uri": ""}}, "umbrella.engine.uri is no setting; there are config, url, token_file"),
        ({"engine": {"tokenFile": 1}}, "umbrella.engine.tokenFile must be a text, not 1"),
        ({"engine": {"server": {}}}, "umbrella.engine.server is no setting"),
        (["enabled"], "umbrella must be an object of settings, not ['enabled']"),
    ],
)
def test_what_is_not_understood_changes_nothing_and_is_reported(data: object, said: str) -> None:
    reading = read_settings(Settings(), data)
    assert reading.settings == Settings()
    assert [problem[: len(said)] for problem in reading.problems] == [said]


@pytest.mark.parametrize(
    "data", ["x" * 999, {"x" * 999: 1}, {"languages": [*range(999)]}, {"engine": "x" * 999}]
)
def test_what_is_quoted_of_them_is_short_enough_to_be_read(data: object) -> None:
    (problem,) = read_settings(Settings(), data).problems
    assert "…" in problem
    assert len(problem) < 400


def test_a_list_of_texts_is_read_as_one() -> None:
    assert read_settings(Settings(), {"secret_files": ["*.x"]}).settings == Settings(secret_files=("*.x",))


@pytest.mark.parametrize(
    "data", [None, {"server": {"path": "umbrella-lsp"}, "trace": {"server": "off"}}], ids=["nothing", "own"]
)
def test_an_editor_with_nothing_to_say_to_us_is_no_problem(data: object) -> None:
    assert read_settings(Settings(), data).problems == ()


def test_a_home_folder_in_the_engines_configuration_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert EngineSettings(config="~/e.toml").config_path == Path("/home/me/e.toml")
    assert EngineSettings().config_path is None
