"""A miniature pair from nothing: tokenizer, target, draft by distillation, loaded and asked."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import models
from transformers import PreTrainedTokenizerFast

from engine.config import EngineConfig
from engine.errors import CheckpointError, ConfigError, TrainingError
from engine.loaded import LoadedEngine
from engine.protocol import Segment, StopSpec
from engine.sampling import SamplingParams
from engine.training.corpus import Corpus
from engine.training.draft import DraftJob, Trained, train_draft
from engine.training.examples import ExampleMix
from engine.training.held_out import Split, split
from engine.training.prepare import prepare
from engine.training.recipe import RECIPES
from engine.training.shapes import ModelShape
from engine.training.target import train_target
from engine.training.train import TrainPlan
from tests.engine.tiny import write_llama
from tests.engine.tiny_tokenizer import write_tokenizer

NAMES = ("amount", "balance", "colour", "depth", "energy", "factor", "growth", "height", "index", "joint")
RECIPE = replace(
    RECIPES["cpu"],
    target=ModelShape(64, 128, 2, 2, 1),
    draft=ModelShape(32, 64, 1, 2, 1),
    vocabulary=400,
    length=256,
    mix=ExampleMix(window=300, max_suffix=80, max_context=160, drill=0.0, rename=0.0),
    plan=TrainPlan(tokens=400_000, save_every=100),
)


def write_package(folder: Path, shift: int) -> None:
    """A package of classes that all look alike, with names of their own."""
    folder.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(f'[project]\nname = "{folder.name}"\nlicense = "MIT"\n')
    for number in range(10):
        names = [NAMES[(number + shift + i * (number + 1)) % len(NAMES)] for i in range(3)]
        methods = "\n".join(
            f"    def get_{name}(self):\n        return self.{name}\n\n"
            f"    def set_{name}(self, value):\n        self.{name} = value\n"
            for name in dict.fromkeys(names)
        )
        title = "".join(name.title() for name in names)
        (folder / f"{names[0]}_{number}.py").write_text(
            "\n\n\n".join(f"class {title}{folder.name.title()}{i}:\n{methods}" for i in range(4))
        )


@dataclass(frozen=True)
class Pair:
    work: Path
    target: Path
    parts: Split
    job: DraftJob
    trained: Trained
    said: list[str]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    work = tmp_path_factory.mktemp("pair")
    for shift, name in enumerate(("bank", "shop", "farm", "mill", "port")):
        write_package(work / "code" / name, shift)
    corpus = Corpus.from_folders([work / "code"])
    parts = split(corpus.files, {"port"})
    known, unseen = Corpus(), Corpus()
    known.files[:], unseen.files[:] = parts.train, parts.held_out
    prepare(known, unseen, RECIPE, work)
    train_target(RECIPE, work, compiled=False)
    target = work / "target" / "model"
    job = DraftJob(
        target=str(target),
        shape=RECIPE.draft,
        tokens=120_000,
        lessons=48,
        length=256,
        lesson_length=224,
        continuation=32,
    )
    said: list[str] = []
    return Pair(work, target, parts, job, train_draft(job, parts, work / "draft", said.append), said)


@pytest.mark.slow
def test_a_draft_that_learnt_from_its_target_raises_tokens_per_pass(pair: Pair):
    assert pair.trained.after > 1.3 * pair.trained.ngrams_alone
    log = json.loads((pair.work / "draft" / "work" / "distillation" / "training.json").read_text())["log"]
    assert log[-1]["same_best_token"] > 0.5


@pytest.mark.slow
def test_the_pair_loads_and_completes(pair: Pair):
    config = EngineConfig(model=str(pair.target), draft_model=str(pair.trained.folder))
    engine = LoadedEngine.load(config)
    code = "class Sum:\n    def get_amount(self):\n        "
    prompt = engine.prompts.code([Segment("prefix", code)], "bank/sum.py", "python", 8)
    stream = engine.text_stream(prompt.tokens, StopSpec(max_lines=1), prompt.owed)
    for _ in engine.decoder.generate(
        prompt.tokens,
        engine.decoder.new_slot(),
        SamplingParams(),
        stream,
        max_tokens=8,
        speculative=True,
        before_layer=lambda _: None,
        constraint=stream,
    ):
        pass
    assert stream.finish().startswith("return self.")


@pytest.mark.slow
def test_a_finished_training_is_measured_again_and_not_trained_again(pair: Pair):
    said: list[str] = []
    assert train_draft(pair.job, pair.parts, pair.work / "draft", said.append) == pair.trained
    assert said == ["Measuring."]
    assert len(pair.said) > len(said)


@pytest.mark.slow
def test_a_draft_is_continued_also_from_another_vocabulary(pair: Pair, tmp_path: Path):
    job = replace(pair.job, shape=None, tokens=8_000, lessons=8)
    same = train_draft(
        replace(job, start=str(pair.trained.folder)), pair.parts, tmp_path / "same", lambda _: None
    )
    assert same.before == pytest.approx(pair.trained.after)
    write_tokenizer(tmp_path / "other")
    write_llama(tmp_path / "other", vocab_size=320, tie_word_embeddings=False)
    said: list[str] = []
    other = train_draft(
        replace(job, start=str(tmp_path / "other")), pair.parts, tmp_path / "out", said.append
    )
    assert other.before is None
    assert other.after >= 1.0
    assert "carried over" in said[0]


@pytest.mark.slow
def test_a_folder_that_holds_another_training_is_refused(pair: Pair):
    with pytest.raises(TrainingError, match="other options, code or models"):
        train_draft(replace(pair.job, seed=1), pair.parts, pair.work / "draft", pair.said.append)


@pytest.mark.slow
def test_a_folder_begun_for_a_target_that_has_changed_since_is_refused(pair: Pair, tmp_path: Path):
    target, out = tmp_path / "target", tmp_path / "out"
    shutil.copytree(pair.target, target)
    job = replace(pair.job, target=str(target), tokens=8_000, lessons=4)
    train_draft(job, pair.parts, out, pair.said.append)
    weights = bytearray((target / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (target / "model.safetensors").write_bytes(weights)
    with pytest.raises(TrainingError, match="models"):
        train_draft(job, pair.parts, out, pair.said.append)


@pytest.mark.slow
def test_code_that_fills_no_row_is_refused(pair: Pair, tmp_path: Path):
    few = Split(pair.parts.train[:1], pair.parts.held_out[:1], "file", 0)
    job = replace(pair.job, length=4096)
    short = tuple(replace(file, text=file.text[:100]) for file in few.train)
    with pytest.raises(TrainingError, match="0 rows of 256 tokens"):
        train_draft(job, replace(few, train=short), tmp_path, pair.said.append)


@pytest.mark.slow
def test_a_quantised_draft_cannot_be_continued(pair: Pair, tmp_path: Path):
    job = replace(pair.job, shape=None, start="bundled:target")
    with pytest.raises(TrainingError, match="quantised"):
        train_draft(job, pair.parts, tmp_path, pair.said.append)


@pytest.mark.slow
def test_a_target_whose_files_name_neither_pad_nor_end_token_can_be_drafted_for(pair: Pair, tmp_path: Path):
    target = tmp_path / "target"
    shutil.copytree(pair.target, target)
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        known = json.loads((target / name).read_text())
        kept = {k: v for k, v in known.items() if not k.startswith(("pad_token", "eos_token"))}
        (target / name).write_text(json.dumps(kept))
    job = replace(pair.job, target=str(target), tokens=8_000, lessons=4)
    assert train_draft(job, pair.parts, tmp_path / "out", pair.said.append).after >= 1.0


def test_a_target_whose_tokenizer_knows_no_format_is_refused(tmp_path: Path):
    write_llama(tmp_path / "target")
    plain = FastTokenizer(models.BPE({chr(97 + i): i for i in range(26)}, []))
    PreTrainedTokenizerFast(tokenizer_object=plain).save_pretrained(str(tmp_path / "target"))
    job = DraftJob(target=str(tmp_path / "target"), shape=RECIPE.draft)
    with pytest.raises(ConfigError, match="fim"):
        train_draft(job, Split((), (), "file", 0), tmp_path / "out", lambda _: None)


def test_a_target_that_is_not_there_is_said(tmp_path: Path):
    job = DraftJob(target=str(tmp_path / "nowhere"), shape=RECIPE.draft)
    with pytest.raises(CheckpointError, match="nowhere"):
        train_draft(job, Split((), (), "file", 0), tmp_path, lambda _: None)
