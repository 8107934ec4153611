import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import LlamaForCausalLM

from engine.training.lessons import Lessons
from engine.training.objectives import Distillation
from tests.engine.tiny import write_llama

CPU = torch.device("cpu")
LENGTH = 12


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[LlamaForCausalLM, LlamaForCausalLM]:
    folder = tmp_path_factory.mktemp("models")
    return write_llama(folder / "a", scale=2), write_llama(folder / "b", seed=1, scale=2)


def lessons_of(target: LlamaForCausalLM, kept: int) -> Lessons:
    tokens = np.random.default_rng(0).integers(0, 96, (3, LENGTH)).astype(np.int32)
    taught = np.zeros((3, LENGTH), np.bool_)
    taught[:, 4:9] = True
    with torch.no_grad():
        top = target(input_ids=torch.from_numpy(tokens).long()).logits.log_softmax(-1).topk(kept)
    return Lessons(tokens, taught, top.indices.int().numpy(), top.values.half().numpy())


def test_a_model_has_nothing_to_learn_from_itself(models: tuple[LlamaForCausalLM, LlamaForCausalLM]):
    target, other = models
    lessons = lessons_of(target, 8)
    objective = Distillation(lessons, lessons)
    assert objective.loss(target, [0, 1, 2], CPU).item() == pytest.approx(0.0, abs=1e-4)
    assert objective.held_out(target, CPU)["same_best_token"] == 1.0
    assert objective.loss(other, [0, 1, 2], CPU).item() > 0.1
    assert objective.held_out(other, CPU)["same_best_token"] < 1.0


def test_with_every_token_kept_it_is_the_divergence_of_the_whole_distributions(
    models: tuple[LlamaForCausalLM, LlamaForCausalLM],
):
    target, other = models
    lessons = lessons_of(target, 95)
    tokens = torch.from_numpy(lessons.tokens).long()
    with torch.no_grad():
        theirs, ours = (m(input_ids=tokens).logits[:, 4:9].log_softmax(-1) for m in models)
    whole = functional.kl_div(ours, theirs, log_target=True, reduction="none").sum(-1).mean()
    assert Distillation(lessons, lessons).loss(other, [0, 1, 2], CPU).item() == pytest.approx(
        whole.item(), rel=0.01
    )


def test_what_stands_outside_the_taught_positions_does_not_count(
    models: tuple[LlamaForCausalLM, LlamaForCausalLM],
):
    target, other = models
    lessons = lessons_of(target, 8)
    before = Distillation(lessons, lessons).loss(other, [0, 1], CPU)
    lessons.tokens[:, 9:] = 7
    lessons.best[:, 9:] = 5
    lessons.logprobs[:, :4] = -1.0
    assert torch.equal(before, Distillation(lessons, lessons).loss(other, [0, 1], CPU))
