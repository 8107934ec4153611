"""Trains a draft for a target on folders of code: next token first, then the target's own probabilities.

Every stage leaves its result in ``OUT/work`` and is passed over where that is there, so the same command,
run again after any interruption, goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import LlamaForCausalLM
from transformers.utils import logging as transformers_logging

from engine.checkpoint import Checkpoint, find
from engine.config import EngineConfig
from engine.errors import TrainingError
from engine.loaded import LoadedEngine
from engine.templates import CodeTemplate, template_for
from engine.tokenizer import Tokenizer
from engine.training.acceptance import tokens_per_pass
from engine.training.corpus import SourceFile
from engine.training.examples import ExampleMaker, ExampleMix, Opening
from engine.training.held_out import Split
from engine.training.lessons import Lessons, Teacher, missing
from engine.training.objectives import Distillation, NextToken
from engine.training.progress import disk_full_is_an_error_of_ours
from engine.training.rows import RowFormat, make_rows, save_rows
from engine.training.shapes import ModelShape, TokenIds, build
from engine.training.train import TrainPlan, choose_device, train
from engine.training.vocabulary import carry_over

HELD_OUT_LESSONS = 32
MEASURED_PROMPTS = 40
TOKENS_PER_PARAMETER = 20
"""What pays for a model trained from nothing (Hoffmann et al. 2022)."""
DISTILLATION_EPOCHS = 3
ENDS_BYTES = 1 << 20
LOGIT_BYTES = 10
"""Of one logit while it is learnt from: in half precision, in float32, and its gradient."""
CPU_LOGITS_BYTES = 2 << 30

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class DraftJob:
    """What to train, and how long."""

    target: str
    """A bundled model, a folder, or a hub id in the local cache: whatever the engine serves."""
    shape: ModelShape | None = None
    """A new draft of this shape; None continues `start`."""
    start: str | None = None
    """An existing draft."""
    tokens: int | None = None
    """Of next-token training. None: 20 a parameter, at most 8 epochs; 2 epochs where a draft is continued."""
    lessons: int = 1000
    """Continuations the target writes."""
    length: int = 1024
    """Tokens a row of code."""
    lesson_length: int = 512
    """Tokens of a lesson, the target's continuation included."""
    continuation: int = 96
    learning_rate: float | None = None
    """Of the matrices (Muon). None: 0.02 and then 0.01 for a new draft, 0.005 where one is continued."""
    seed: int = 0
    compiled: bool = False


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished draft, and tokens per pass of the target on held-out prompts."""

    folder: Path
    template: str
    parameters: int
    ngrams_alone: float
    before: float | None
    """With the draft that was continued, where it had the target's vocabulary."""
    after: float


@dataclass(frozen=True, slots=True)
class _Target:
    """What a draft has to know of its target."""

    folder: Path
    tokenizer: Tokenizer
    template: CodeTemplate
    ids: TokenIds
    max_length: int

    @staticmethod
    def open(name: str) -> _Target:
        checkpoint = Checkpoint.open(find(name))
        tokenizer = Tokenizer.load(checkpoint.folder)
        config = checkpoint.config
        ends = list(config.eos_token_ids)
        ids = TokenIds(config.vocab_size, config.bos_token_id, ends[0] if len(ends) == 1 else ends or None)
        template = template_for(tokenizer.vocabulary().keys())
        tokenizer.reserve((*template.special_tokens, *template.end_tokens))
        return _Target(checkpoint.folder, tokenizer, template, ids, config.max_position)


def train_draft(job: DraftJob, split: Split, out: Path, say: Say) -> Trained:
    """Train, distil, save in ``out/model`` and measure. Raises TrainingError or CheckpointError.

    `say` is told what begins, a sentence at a time.
    """
    transformers_logging.disable_progress_bar()
    target = _Target.open(job.target)
    length, lesson_length = (min(n, target.max_length) for n in (job.length, job.lesson_length))
    job = replace(job, length=length, lesson_length=lesson_length)
    work = out / "work"
    with disk_full_is_an_error_of_ours(out):
        work.mkdir(parents=True, exist_ok=True)
        _claim(work / "job.json", job, split)
    course = _Course(job, target, split, work, say)
    model, has_the_vocabulary = _begin(job, target, say)
    finished = out / "model"
    if not finished.exists():
        course.learn_code(model)
    # No longer than what it is asked about: a context of 128k would be gigabytes of cache.
    config = EngineConfig(
        model=job.target, draft_model=None, template=target.template.name, max_length=lesson_length
    )
    engine = LoadedEngine.load(config)
    if not finished.exists():
        course.learn_from_target(model, engine)
        with disk_full_is_an_error_of_ours(out):
            _save(model, target, finished)
    say("Measuring.")
    prompts = list(islice(course.openings(split.held_out, job.seed + 2), MEASURED_PROMPTS))
    before = job.start if has_the_vocabulary else None
    return Trained(
        folder=finished,
        template=target.template.name,
        parameters=model.num_parameters(),
        ngrams_alone=tokens_per_pass(engine, config, None, prompts),
        before=tokens_per_pass(engine, config, before, prompts) if before else None,
        after=tokens_per_pass(engine, config, str(finished), prompts),
    )


def _claim(path: Path, job: DraftJob, split: Split) -> None:
    """Write down what this folder is for. Raises TrainingError if it is for something else."""
    corpus, models = hashlib.sha256(), hashlib.sha256()
    for file in (*split.train, *split.held_out):
        corpus.update(f"{file.package}\0{file.path}\0{file.text}\0".encode("utf-8", "surrogateescape"))
    for name in filter(None, (job.target, job.start)):
        for weights in sorted(find(name).glob("*.safetensors")):
            models.update(_ends(weights))
    digests = {"corpus": corpus.hexdigest(), "models": models.hexdigest()}
    # Compiled or not, the result is the same; with other batches it is not.
    decisive = {name: value for name, value in asdict(job).items() if name != "compiled"}
    claim = json.dumps(decisive | {"batch_rows": _batch_rows()} | digests, indent=1)
    if not path.exists():
        temporary = path.with_suffix(".tmp")
        temporary.write_text(claim)
        temporary.replace(path)
    elif path.read_text() != claim:
        raise TrainingError(
            f"{path.parent} was begun with other options, code or models, and cannot be resumed with these. "
            "Choose another --out, or delete that folder."
        )


def _batch_rows() -> int:
    return 64 if choose_device().type == "cuda" else 8


def _ends(weights: Path) -> bytes:
    """A file's size, first and last megabyte: enough to tell two trainings apart, and soon read."""
    size = weights.stat().st_size
    with weights.open("rb") as file:
        head = file.read(ENDS_BYTES)
        file.seek(max(0, size - ENDS_BYTES))
        return str(size).encode() + head + file.read()


def _begin(job: DraftJob, target: _Target, say: Say) -> tuple[LlamaForCausalLM, bool]:
    """The model to train, and whether it is an existing one that has the target's vocabulary."""
    if job.start is None:
        assert job.shape is not None
        return build(job.shape, target.ids, target.max_length, job.seed), False
    checkpoint = Checkpoint.open(find(job.start))
    if checkpoint.config.quantization is not None:
        raise TrainingError(
            f"{job.start} is quantised and cannot be trained; give the checkpoint it was made of"
        )
    model = LlamaForCausalLM.from_pretrained(checkpoint.folder, dtype=torch.float32, local_files_only=True)
    tokenizer = Tokenizer.load(checkpoint.folder)
    if tokenizer.vocabulary() == target.tokenizer.vocabulary() and model.vocab_size == target.ids.size:
        return model, True
    say(f"{job.start} has another vocabulary than {job.target}: its embedding is carried over by token.")
    old = [carry_over(t.weight.data, tokenizer, target.tokenizer, target.ids.size) for t in _tables(model)]
    model.resize_token_embeddings(target.ids.size, mean_resizing=False)
    for table, rows in zip(_tables(model), old, strict=True):
        table.weight.data.copy_(rows)
    model.config.bos_token_id, model.config.eos_token_id = target.ids.bos, target.ids.eos
    return model, False


def _tables(model: LlamaForCausalLM) -> list[nn.Embedding | nn.Linear]:
    """What a model has a row of for every token."""
    return [model.model.embed_tokens, *([] if model.config.tie_word_embeddings else [model.lm_head])]


@dataclass(frozen=True, slots=True)
class _Course:
    """The two things a draft learns, one after the other, each resumable in `work`."""

    job: DraftJob
    target: _Target
    split: Split
    work: Path
    say: Say

    def learn_code(self, model: LlamaForCausalLM) -> None:
        """Next-token training."""
        job = self.job
        mix = ExampleMix() if job.start is None else replace(ExampleMix(), drill=0.0)
        rows = self._rows("rows", self.split.train, mix)
        unseen = self._rows("held_out", self.split.held_out, replace(mix, rename=0.0, sibling=0.0, drill=0.0))
        if not len(rows) or not len(unseen):
            shutil.rmtree(self.work)  # So that the same --out can be used with what the message advises.
            raise TrainingError(
                f"the code fills {len(rows)} rows of {job.length} tokens to learn from and {len(unseen)} to "
                "measure on; at least one of each is needed. Give more code, or shorter rows with --length."
            )
        size, epoch = model.num_parameters(), rows.size
        enough = 2 * epoch if job.start else min(TOKENS_PER_PARAMETER * size, 8 * epoch)
        tokens = job.tokens or enough
        self.say(f"Learning code: {tokens:,} tokens, {tokens / epoch:.1f} epochs; {size:,} parameters.")
        plan = self._plan(tokens, job.length, 0.02 if job.start is None else 0.005)
        train("next token", model, NextToken(rows, unseen), plan, self.work / "code", compiled=job.compiled)

    def learn_from_target(self, model: LlamaForCausalLM, engine: LoadedEngine) -> None:
        """Distillation on the target's own continuations."""
        job = self.job
        self.say(f"Asking {job.target} for {job.lessons} continuations.")
        teacher = Teacher(engine.decoder, engine.end_tokens, job.lesson_length, job.continuation, job.seed)
        lessons = self._lessons(teacher, "lessons", self.split.train, job.lessons)
        unseen = self._lessons(teacher, "held-out-lessons", self.split.held_out, HELD_OUT_LESSONS)
        self.say("Learning from the target.")
        tokens = DISTILLATION_EPOCHS * lessons.tokens.size
        plan = self._plan(tokens, job.lesson_length, 0.01 if job.start is None else 0.005)
        objective = Distillation(lessons, unseen)
        train("distillation", model, objective, plan, self.work / "distillation", compiled=job.compiled)

    def openings(self, files: Sequence[SourceFile], seed: int) -> Iterator[Opening]:
        """Prompts that leave the target room to write."""
        mix = replace(ExampleMix(), rename=0.0, sibling=0.0)
        maker = ExampleMaker(files, self.target.tokenizer, self.target.template, mix, seed)
        return maker.openings(self.job.lesson_length - self.job.continuation)

    def _rows(self, name: str, files: Sequence[SourceFile], mix: ExampleMix) -> NDArray[Any]:
        path = self.work / f"{name}.npy"
        if not path.exists():
            form = RowFormat(self.target.folder, self.target.template.name, self.job.length)
            save_rows(make_rows(files, form, mix, self.job.seed), path)
        return np.load(path, mmap_mode="r")

    def _lessons(self, teacher: Teacher, name: str, files: Sequence[SourceFile], count: int) -> Lessons:
        folder = self.work / name
        if missing(folder, count):
            teacher.teach(self.openings(files, self.job.seed + 1), count, folder)
        return Lessons.load(folder)

    def _plan(self, tokens: int, length: int, matrix_lr: float) -> TrainPlan:
        rate = self.job.learning_rate or matrix_lr
        on_cuda = choose_device().type == "cuda"
        memory = torch.cuda.mem_get_info()[1] // 4 if on_cuda else CPU_LOGITS_BYTES
        fit = memory // (length * self.target.ids.size * LOGIT_BYTES)
        return TrainPlan(
            tokens=tokens,
            seed=self.job.seed,
            batch_rows=_batch_rows(),
            micro_rows=max(1, min(16 if on_cuda else 4, fit)),
            matrix_lr=rate,
            other_lr=0.15 * rate,
        )


def _save(model: LlamaForCausalLM, target: _Target, folder: Path) -> None:
    """Write the checkpoint with the target's tokenizer beside it, at once or not at all."""
    temporary = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    model.half().save_pretrained(temporary)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (target.folder / name).exists():
            shutil.copyfile(target.folder / name, temporary / name)
    temporary.replace(folder)
