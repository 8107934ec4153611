from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

import engine.training.lessons as module
from engine.checkpoint import Checkpoint
from engine.decode import Decoder
from engine.errors import TrainingError
from engine.model import Transformer
from engine.policy import PlainPolicy
from engine.training.examples import Opening
from engine.training.lessons import KEPT, Lessons, Teacher, missing
from tests.engine.tiny import write_llama

LENGTH, CONTINUATION = 40, 12


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> tuple[LlamaForCausalLM, Teacher]:
    folder = tmp_path_factory.mktemp("target")
    model = write_llama(folder, scale=2)
    transformer = Transformer.load(Checkpoint.open(folder), "cpu", "fp32")
    decoder = Decoder(transformer, PlainPolicy(), 256)
    return model, Teacher(decoder, frozenset({2}), LENGTH, CONTINUATION)


def openings() -> Iterator[Opening]:
    rng = np.random.default_rng(0)
    while True:
        length = int(rng.integers(8, LENGTH - CONTINUATION))
        yield Opening(tuple(rng.integers(3, 96, length).tolist()), 5)


def test_a_lesson_is_the_targets_own_text_and_its_probabilities_along_it(
    target: tuple[LlamaForCausalLM, Teacher], tmp_path: Path
):
    model, teacher = target
    teacher.teach(openings(), 4, tmp_path)
    lessons = Lessons.load(tmp_path)
    assert lessons.tokens.shape == (4, LENGTH)
    for row, opening in enumerate(islice(openings(), 4)):
        count = int(lessons.taught[row].nonzero()[0][-1]) + 2
        text = torch.from_numpy(lessons.tokens[row, :count]).long()
        assert tuple(text[: len(opening.tokens)].tolist()) == opening.tokens
        assert len(opening.tokens) < count <= len(opening.tokens) + CONTINUATION
        assert lessons.taught[row].nonzero()[0][0] == opening.code_start - 1
        with torch.no_grad():
            logprobs = model(input_ids=text[None]).logits[0].log_softmax(-1)
        for position in lessons.taught[row].nonzero()[0]:
            best = logprobs[position].topk(KEPT)
            assert lessons.best[row, position].tolist() == best.indices.tolist()
            assert lessons.logprobs[row, position] == pytest.approx(best.values.numpy(), abs=0.02)


def test_every_other_continuation_is_greedy_and_the_rest_are_drawn(
    target: tuple[LlamaForCausalLM, Teacher], tmp_path: Path
):
    _, teacher = target
    teacher.teach(openings(), 8, tmp_path)
    lessons = Lessons.load(tmp_path)
    greedy: list[bool] = []
    for row, opening in enumerate(islice(openings(), 8)):
        written = range(len(opening.tokens), int(lessons.taught[row].nonzero()[0][-1]) + 2)
        greedy.append(all(lessons.tokens[row, i] == lessons.best[row, i - 1, 0] for i in written))
    assert greedy[::2] == [True] * 4
    assert not all(greedy[1::2])


def test_teaching_that_was_interrupted_gives_the_same_lessons(
    target: tuple[LlamaForCausalLM, Teacher], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "SHARD", 2)
    _, teacher = target
    teacher.teach(openings(), 5, tmp_path / "whole")
    teacher.teach(openings(), 3, tmp_path / "broken")
    (tmp_path / "broken" / "00000002.safetensors").unlink()
    assert missing(tmp_path / "broken", 5)
    teacher.teach(openings(), 5, tmp_path / "broken")
    assert not missing(tmp_path / "broken", 5)
    whole, broken = Lessons.load(tmp_path / "whole"), Lessons.load(tmp_path / "broken")
    assert np.array_equal(whole.tokens, broken.tokens)
    assert np.array_equal(whole.logprobs, broken.logprobs)


def test_every_opening_is_taught_once(
    target: tuple[LlamaForCausalLM, Teacher], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "SHARD", 2)
    given = list(islice(openings(), 5))
    target[1].teach(given, 9, tmp_path)
    lessons = Lessons.load(tmp_path)
    begun = [tuple(row[: len(opening.tokens)]) for row, opening in zip(lessons.tokens, given, strict=True)]
    assert begun == [opening.tokens for opening in given]


def test_code_without_a_prompt_that_fits_is_said(target: tuple[LlamaForCausalLM, Teacher], tmp_path: Path):
    with pytest.raises(TrainingError, match="no prompt is short enough"):
        target[1].teach([], 4, tmp_path)
