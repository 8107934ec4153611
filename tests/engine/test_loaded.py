from pathlib import Path

import pytest

from engine.config import EngineConfig
from engine.errors import CheckpointError, ConfigError
from engine.loaded import LoadedEngine
from tests.engine.tiny import write_llama
from tests.engine.tiny_tokenizer import write_tokenizer


def write_model(folder: Path, vocab_size: int = 320, tokens: int = 320) -> str:
    write_llama(folder, vocab_size=vocab_size)
    write_tokenizer(folder, tokens)
    return str(folder)


def test_a_draft_of_another_vocabulary_is_refused(tmp_path: Path):
    config = EngineConfig(
        model=write_model(tmp_path / "target"), draft_model=write_model(tmp_path / "draft", 300, 300)
    )
    with pytest.raises(ConfigError, match=r"draft_model = .* has another vocabulary"):
        LoadedEngine.load(config, lambda _: None)


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path: Path):
    config = EngineConfig(model=write_model(tmp_path / "target", vocab_size=200), draft_model=None)
    with pytest.raises(CheckpointError, match="makes ids up to"):
        LoadedEngine.load(config, lambda _: None)


def test_progress_rises_to_one(tmp_path: Path):
    told: list[float] = []
    pair = EngineConfig(model=write_model(tmp_path / "target"), draft_model=write_model(tmp_path / "draft"))
    LoadedEngine.load(pair, told.append)
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1.0)
