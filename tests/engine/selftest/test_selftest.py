"""Every check of the self-test can fail: tiny models, each damaged in another way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import engine.selftest.run as selftest
from engine.cli import main
from engine.config import EngineConfig
from engine.footprint import needed_bytes
from engine.loaded import LoadedEngine
from engine.offload.layout import PAGE
from engine.offload.machine import Machine
from engine.offload.plan import plan
from engine.protocol import Health
from engine.selftest.decoding import Decoding, Effort, Parting, always_drafting, part, prompts, same_text
from engine.selftest.run import check_memory, examine
from engine.selftest.verdict import Check, Verdict, laid_out
from tests.engine.offload.sparse import LLAMA_8B, write_sparse
from tests.engine.pair import tiny_pair
from tests.engine.tiny import write_model
from tests.engine.tiny_tokenizer import write_tokenizer

RUNNING = Health("ready", 1.0, "0.1.0", 1, "abc", pid=4711)


def silent(_message: str) -> None: ...


def failures(config: EngineConfig) -> dict[str, str]:
    """What failed, by check."""
    verdict = examine(config, None, silent)
    assert not verdict.passed
    return {check.name: check.message for check in verdict.checks if check.passed is False}


def change(folder: Path, name: str, to: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Rewrite one tensor of the checkpoint in `folder`."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors[name] = to(tensors[name]).contiguous()
    save_file(tensors, file, metadata={"format": "pt"})


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def blind(folder: Path) -> None:
    """Not a number in the middle of a tensor."""
    change(folder, "model.layers.1.mlp.up_proj.weight", lambda weight: weight.fill_(torch.nan))


def narrow(folder: Path) -> None:
    change(folder, "model.layers.1.mlp.up_proj.weight", lambda weight: weight[:-1])


def speechless(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def babylonian(folder: Path) -> None:
    """Another tokenizer than the target's, of the same size."""
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    file.write_text(json.dumps(tokenizer))


def talkative(folder: Path) -> None:
    """A tokenizer with more tokens than the model knows."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 100}))


@pytest.mark.parametrize(
    ("damage", "role", "check", "said"),
    [
        (cut, "target", "files of the target", "damaged or cut short"),
        (shutil.rmtree, "draft", "files of the draft", "no model"),
        (speechless, "draft", "tokenizer", "no tokenizer.json"),
        (talkative, "target", "vocabulary of the target", "makes ids up to"),
        (talkative, "draft", "vocabulary of the draft", "makes ids up to"),
        (babylonian, "draft", "one vocabulary for the target and the draft", "another vocabulary"),
        (blind, "target", "shapes and numbers", "not finite"),
        (narrow, "draft", "shapes and numbers", "has shape"),
    ],
)
def test_damage_is_found_and_named(
    damage: Callable[[Path], None], role: str, check: str, said: str, tmp_path: Path
) -> None:
    config = tiny_pair(tmp_path)
    damage(tmp_path / role)
    found = failures(config)
    assert list(found) == [check]
    assert said in found[check]


def test_a_template_of_another_family_is_found(tmp_path: Path) -> None:
    found = failures(replace(tiny_pair(tmp_path), template="qwen2.5-coder"))
    assert list(found) == ["prompt template"]
    assert "has no <|repo_name|>" in found["prompt template"]


@pytest.mark.parametrize(
    ("changed", "check", "said"),
    [
        ({"device": "cuda:77"}, "device and memory", "device 'cuda:77' cannot be used here"),
        ({"max_length": 33}, "speculation changes no text", "no room for a prompt"),
        ({"engine": "static", "growmap_path": "/no/map.json"}, "shapes and numbers", "map.json"),
    ],
)
def test_a_configuration_that_cannot_work_is_found(
    changed: dict, check: str, said: str, tmp_path: Path
) -> None:
    assert said in failures(replace(tiny_pair(tmp_path), **changed))[check]


def test_models_that_have_learnt_nothing_are_found_and_decoded_exactly_all_the_same(tmp_path: Path) -> None:
    verdict = examine(tiny_pair(tmp_path), None, silent)
    passed = {check.name: check.passed for check in verdict.checks}
    for role in ("target", "draft"):
        assert passed[f"known code is likely to the {role}"] is False
        assert passed[f"what must follow is likely to the {role}"] is False
    assert passed["speculation changes no text"] is True
    assert passed["drafting at every step changes no text"] is True
    assert verdict.figures is not None
    assert verdict.figures.drafted >= verdict.figures.accepted
    assert "FAIL" in "\n".join(laid_out(verdict))


def test_weights_that_overflow_give_no_probabilities(tmp_path: Path) -> None:
    config = tiny_pair(tmp_path)
    change(tmp_path / "target", "model.norm.weight", lambda weight: weight.fill_(3e38))
    assert "are not numbers" in failures(config)["known code is likely to the target"]


def test_a_text_that_parts_from_plain_decodings_is_told_with_the_lead_it_overcame(tmp_path: Path) -> None:
    config = tiny_pair(tmp_path)
    engine = LoadedEngine.load(config)
    decoding = Decoding(engine, 8)
    (prompt,) = built = prompts(engine, Effort(1, 8))
    (plain,) = decoding.runs(engine.decoder, built, speculative=False)
    (drafted,) = decoding.runs(always_drafting(engine, config), built, speculative=True)
    assert drafted.tokens == plain.tokens
    assert drafted.drafted > len(plain.tokens)
    assert part(engine.decoder.target, prompt, plain, drafted) is None
    other = replace(plain, tokens=(*plain.tokens[:3], plain.tokens[3] ^ 1, *plain.tokens[4:]))
    found = part(engine.decoder.target, prompt, plain, other)
    assert found is not None
    assert found.at == 3
    assert found.lead > 1e-3
    assert same_text("x", torch.float32, [None, found], 9).passed is False


@pytest.mark.parametrize(("lead", "passed"), [(0.0009, True), (0.2, False)])
def test_a_tie_is_told_apart_from_a_wrong_text(lead: float, passed: bool) -> None:
    check = same_text("x", torch.float32, [None, Parting(5, lead / 2), Parting(7, lead)], 9)
    assert check.passed is passed
    assert "1 of 3 texts" in check.message
    assert "9 tokens having been drafted" in check.message
    assert "after 5 tokens" in check.message
    assert f"widest lead is {lead:g}" in check.message
    assert same_text("x", torch.bfloat16, [Parting(7, lead)], 9).passed is True


def test_models_that_do_not_fit_beside_a_running_engine_are_not_loaded(tmp_path: Path) -> None:
    config = tiny_pair(tmp_path)
    needed = plan(replace(config, slots=1), Machine("cpu")).bytes_at("device")
    short, enough = Machine("cpu", ram_bytes=needed), Machine("cpu", ram_bytes=2 * needed)
    check = check_memory(config, RUNNING, short)
    assert check.passed is False
    assert "process 4711" in check.message
    assert "umbrella-engine stop" in check.message
    alone = check_memory(config, None, short)
    assert alone.passed is False
    assert "4711" not in alone.message
    assert check_memory(config, RUNNING, enough).passed is True
    assert check_memory(config, None, Machine("cpu")).passed is None


def test_what_streams_is_told_and_may_come_from_memory_but_not_from_disk_beside_an_engine(
    tmp_path: Path,
) -> None:
    config = EngineConfig(model=str(write_sparse(tmp_path / "8b", LLAMA_8B)), draft_model=None)
    assert "of 32 layers stream" in check_memory(config, RUNNING, Machine.card(6 << 30, 16 << 30)).message
    slow = Machine.card(6 << 30, 2 << 30)
    assert check_memory(config, RUNNING, slow).passed is False
    alone = check_memory(config, None, slow)
    assert alone.passed is True
    assert "from disk" in alone.message


def test_half_precision_and_quantised_weights_are_counted_as_they_are_loaded(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    write_model(tmp_path, "llama", dtype=torch.bfloat16)
    config = EngineConfig(model=str(tmp_path), draft_model=None)
    stored = sum(t.nbytes for t in load_file(tmp_path / "model.safetensors").values())
    pages = 3 * PAGE  # A layer is counted in whole ones.
    assert 2 * stored <= needed_bytes(config, on_gpu=False) < 2 * stored + pages
    assert stored <= needed_bytes(replace(config, dtype="bf16"), on_gpu=False) < stored + pages
    assert stored <= needed_bytes(config, on_gpu=True) < stored + pages
    write_model(tmp_path, "llama", dtype=torch.bfloat16, shard_size="100KB")
    (tmp_path / "model.safetensors").unlink()
    assert 2 * stored <= needed_bytes(config, on_gpu=False) < 2 * stored + pages


@pytest.mark.parametrize(
    ("pass_ms", "effort"), [(1.0, Effort(8, 32)), (200.0, Effort(3, 32)), (5000.0, Effort(2, 8))]
)
def test_a_slow_target_is_asked_for_less(pass_ms: float, effort: Effort) -> None:
    assert Effort.affordable(pass_ms) == effort


def test_the_command_prints_lines_or_one_object_and_fails_if_the_test_does(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    fault = Verdict(
        "/m", None, "abc", "", (Check("memory", False, "too little"), Check("x", None, "no")), None
    )
    monkeypatch.setattr(selftest, "examine", lambda *_: fault)
    assert main(["selftest"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "model  /m, no draft model",
        "FAIL   memory: too little",
        "skip   x: no",
        "The self-test failed.",
    ]
    assert main(["selftest", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["checks"][0]["passed"] is False
    assert main(["selftest", "--config", str(tmp_path / "nothing.toml")]) == 2


def test_an_interrupt_ends_it_without_a_traceback(monkeypatch, capsys) -> None:
    def interrupt(*_: object) -> Verdict:
        raise KeyboardInterrupt

    monkeypatch.setattr(selftest, "examine", interrupt)
    assert main(["selftest"]) == 130
    assert capsys.readouterr().err.endswith("interrupted\n")
