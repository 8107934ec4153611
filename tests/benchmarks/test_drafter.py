from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import engine.training.draft as draft
from benchmarks.drafter import Answer, compare, main, per_pass, summarize
from engine.protocol import TokenCounts
from tests.benchmarks.repositories import commit
from tests.engine.training.samples import python, write


def answer(passes: int, tokens: int = 12) -> Answer:
    return Answer(tuple(range(tokens)), TokenCounts(generated=tokens, target_passes=passes))


def answers(before: int, after: int) -> dict[str, Answer]:
    passes = {"ngrams": 12, "before": before, "after": after, "before_alone": 8, "after_alone": 2}
    return {name: answer(count) for name, count in passes.items()}


def test_tokens_per_pass_are_all_tokens_over_all_passes():
    spent = np.array([[12, 3], [0, 1], [8, 1]])
    assert per_pass(spent) == 4.0
    assert per_pass(np.stack([spent, spent[::-1] * 2])).tolist() == [4.0, 4.0]


def test_a_gain_that_every_prompt_shares_is_certain():
    before = np.array([[12, 6], [30, 10], [7, 7]])
    found = compare(before, before * np.array([3, 2]), seed=0)
    assert found == {"ratio": 1.5, "interval_95": [1.5, 1.5]}


def test_the_interval_of_a_gain_on_some_prompts_holds_both_ends():
    before = np.array([[8, 4]] * 40)
    after = np.array([[8, 2]] * 20 + [[8, 4]] * 20)
    found = compare(before, after, seed=0)
    # A mean of 3 passes with a standard error of sqrt(1/40): 4 / (3 ± 1.96 * 0.158).
    assert found["ratio"] == 1.333
    assert found["interval_95"] == pytest.approx([1.208, 1.486], abs=0.02)


def test_the_pairing_of_prompts_narrows_the_interval():
    rng = np.random.default_rng(0)
    passes = rng.integers(2, 40, size=60)
    before, after = (np.stack([np.full(60, 48), passes * k], axis=1) for k in (2, 1))
    assert compare(before, after, 0) == {"ratio": 2.0, "interval_95": [2.0, 2.0]}
    unpaired = compare(before, rng.permutation(after), 0)
    assert unpaired["ratio"] == 2.0
    assert unpaired["interval_95"] != [2.0, 2.0]


def test_drafters_are_compared_on_the_same_prompts():
    figures = summarize([answers(6, 4), answers(6, 2)], seed=0)
    assert figures["tokens_per_pass"] == {
        "ngrams": 1.0,
        "before": 2.0,
        "after": 4.0,
        "before_alone": 1.5,
        "after_alone": 6.0,
    }
    assert figures["after_over_before"] == {"ratio": 2.0, "interval_95": [1.5, 3.0]}
    assert figures["after_over_before_alone"] == {"ratio": 4.0, "interval_95": [4.0, 4.0]}
    assert (figures["prompts"], figures["tokens"], figures["divergences"]) == (2, 24, 0)


def test_a_drafter_that_changes_the_text_is_counted():
    other = answers(6, 4) | {"before": answer(6, tokens=11)}
    assert summarize([answers(6, 4), other], seed=0)["divergences"] == 1


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command says when it ends with exit code 2."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_what_cannot_be_measured_ends_the_command_with_a_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    repository = write(tmp_path / "shop", {"a.py": python(0, 200)})
    commit(repository)
    where = ("--repo", str(repository), "--work", str(tmp_path / "work"), "--since")
    assert "no commit 'v9'" in refused(capsys, *where, "v9")
    (repository / "a.py").rename(repository / "b.py")
    commit(repository)
    assert "no code is new since" in refused(capsys, *where, "HEAD~1")
    assert "nowhere" in refused(capsys, *where, "HEAD~1", "--draft", str(tmp_path / "nowhere"))
    assert "--prompts must be at least 1" in refused(capsys, *where, "HEAD~1", "--prompts", "0")


@pytest.mark.slow
def test_a_repository_is_learnt_from_and_its_newer_code_is_measured_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(draft, "MEASURED_PROMPTS", 2)
    monkeypatch.setattr(draft, "HELD_OUT_LESSONS", 2)
    repository = write(tmp_path / "shop", {f"m{seed}.py": python(seed, 24) for seed in range(8)})
    first = commit(repository)
    write(repository, {"m8.py": python(8, 6)})
    second = commit(repository)
    options = ["--repo", str(repository), "--since", "HEAD~1", "--work", str(tmp_path / "work")]
    main([*options, "--tokens", "8192", "--lessons", "2", "--prompts", "2"])
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["repository"] == "shop"
    assert (figures["since"], figures["head"]) == ({"revision": "HEAD~1", "commit": first}, second)
    assert figures["training"]["files"] == 8
    assert figures["new_runs"] >= figures["prompts"] == 2
    assert figures["tokens_per_pass"].keys() == {
        *("ngrams", "before", "after"),
        *("before_alone", "after_alone"),
    }
    low, high = figures["after_over_before"]["interval_95"]
    assert low <= figures["after_over_before"]["ratio"] <= high
    assert figures["divergences"] == 0
