import json
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.config import EngineConfig
from engine.errors import CheckpointError, ConfigError
from engine.loaded import LoadedEngine
from engine.model import Transformer
from engine.offload.machine import Machine
from engine.offload.plan import plan
from tests.engine.offload.models import write_int4
from tests.engine.scripted import run, tokens_of
from tests.engine.tiny import write_llama
from tests.engine.tiny_tokenizer import write_tokenizer


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """INT4 layers stay packed in models of any size."""
    monkeypatch.setattr("engine.footprint.SMALL_BYTES", 0)


def write_model(folder: Path, vocab_size: int = 320, tokens: int = 320) -> str:
    write_llama(folder, vocab_size=vocab_size)
    write_tokenizer(folder, tokens)
    return str(folder)


def test_a_draft_of_another_vocabulary_is_refused(tmp_path: Path):
    config = EngineConfig(
        model=write_model(tmp_path / "target"), draft_model=write_model(tmp_path / "draft", 300, 300)
    )
    with pytest.raises(ConfigError, match=r"draft_model = .* has another vocabulary"):
        LoadedEngine.load(config)


def test_a_draft_may_call_special_tokens_by_other_names(tmp_path: Path):
    target, draft = write_model(tmp_path / "target"), write_model(tmp_path / "draft")
    file = Path(draft, "tokenizer.json")
    name = json.loads(file.read_text(encoding="utf-8"))["added_tokens"][-1]["content"]
    for named in (file, Path(draft, "tokenizer_config.json")):
        text = named.read_text(encoding="utf-8")
        named.write_text(text.replace(json.dumps(name), '"<|elsewhere|>"'), encoding="utf-8")
    with closing(LoadedEngine.load(EngineConfig(model=target, draft_model=draft))) as engine:
        assert engine.draft is not None


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path: Path):
    config = EngineConfig(model=write_model(tmp_path / "target", vocab_size=200), draft_model=None)
    with pytest.raises(CheckpointError, match="makes ids up to"):
        LoadedEngine.load(config)


def test_progress_rises_to_one_and_the_target_makes_room_where_the_draft_has_none(tmp_path: Path):
    told: list[float] = []
    pair = EngineConfig(model=write_model(tmp_path / "target"), draft_model=write_model(tmp_path / "draft"))
    engine = LoadedEngine.load(pair, lambda share, _what: told.append(share))
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1.0)
    assert engine.draft is not None
    assert engine.draft.target.relief is engine.decoder.target


@pytest.mark.usefixtures("packed")
def test_layers_that_memory_has_no_room_for_are_read_from_disk_and_the_text_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_int4(tmp_path, "llama", vocab_size=320)
    write_tokenizer(tmp_path, 320)
    config = EngineConfig(
        model=str(tmp_path), draft_model=None, device="cpu", engine="ar", max_length=64, slots=2
    )
    every = plan(config, Machine("cpu"))
    enough = every.bytes_at("device")
    texts: list[list[int]] = []
    for budget, split in [(enough, (5, 0, 0)), (enough - every.layer_bytes[0], (1, 0, 4))]:
        ram = next(size for size in range(budget, 2 * budget) if size - size // 8 == budget)
        monkeypatch.setattr(Machine, "here", partial(_machine, ram))
        with closing(LoadedEngine.load(config)) as engine:
            assert engine.decoder.target.split == split
            assert (engine.slots, engine.decoder.max_length, engine.notice) == (2, 64, "")
            texts.append(tokens_of(run(engine.decoder)))
    assert texts[0] == texts[1]


def _machine(ram_bytes: int, _config: EngineConfig) -> Machine:
    return Machine("cpu", ram_bytes=ram_bytes)


def test_several_drafts_are_loaded_and_each_has_to_share_the_vocabulary(tmp_path: Path):
    target, *drafts = (write_model(tmp_path / name) for name in ("target", "one", "two"))
    told: list[float] = []
    config = EngineConfig(model=target, draft_model=tuple(drafts), device="cpu")
    with closing(LoadedEngine.load(config, lambda share, _what: told.append(share))) as engine:
        assert len(engine.drafts) == len(engine.decoder.new_slot().drafts) - 3 == 2
        assert engine.draft is not None
        assert engine.draft.target is engine.drafts[0].transformer
        assert all(draft.transformer.relief is engine.decoder.target for draft in engine.drafts)
        plain = run(engine.decoder, speculative=False)
        assert tokens_of(run(engine.decoder)) == tokens_of(plain)
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1.0)
    other = write_model(tmp_path / "other", 300, 300)
    with pytest.raises(ConfigError, match=f"draft_model = '{other}' has another vocabulary"):
        LoadedEngine.load(EngineConfig(model=target, draft_model=(drafts[0], other)))


def test_a_draft_that_cannot_be_loaded_leaves_nothing_of_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    closed: list[Transformer] = []

    def close(model: Transformer) -> None:
        closed.append(model)

    monkeypatch.setattr(Transformer, "close", close)
    target, draft = write_model(tmp_path / "target"), write_model(tmp_path / "draft")
    tensors = load_file(tmp_path / "draft" / "model.safetensors")
    tensors["model.layers.2.mlp.down_proj.weight"].fill_(torch.nan)
    save_file(tensors, tmp_path / "draft" / "model.safetensors")
    with pytest.raises(CheckpointError, match="not finite"):
        LoadedEngine.load(EngineConfig(model=target, draft_model=draft, device="cpu"))
    assert len(closed) == 1
