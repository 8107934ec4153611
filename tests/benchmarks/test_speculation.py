from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

import benchmarks.prompts as prompts
from benchmarks.beam import EPSILON, BeamPolicy, BeamShape
from benchmarks.peers import replica, require_alike
from benchmarks.prompts import third_edit
from benchmarks.speculation import Measured, divergences, main
from benchmarks.turns import (
    Run,
    decoding,
    fastest,
    nodes_per_pass,
    ratio,
    summary,
    take_turns,
    tokens_per_pass,
    with_prefill,
)
from engine.checkpoint import Checkpoint, find
from engine.costs import CostTable
from engine.draft.base import Opening, Outlook
from engine.draft.model import ModelDrafter
from engine.model import Block, Transformer
from engine.policy.base import Position
from engine.sampling import SamplingParams
from engine.tree import TokenTree
from tests.engine.tiny import write_llama
from tests.engine.tiny_tokenizer import write_tokenizer

HISTORY = [1, 5, 9, 20, 33]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("tiny")
    write_llama(folder, scale=3.0)
    return Checkpoint.open(folder)


@pytest.fixture(scope="module")
def model(tiny: Checkpoint) -> Transformer:
    return Transformer.load(tiny, "cpu", "fp32")


def chances_after(model: Transformer, tokens: Sequence[int]) -> list[float]:
    logits = model.forward(
        Block.chain(tokens), model.new_cache(len(tokens)), [len(tokens) - 1], lambda _: None
    )
    return logits[0].softmax(-1).tolist()


def grown(model: Transformer, shape: BeamShape, left: int) -> TokenTree:
    policy = BeamPolicy(ModelDrafter(model, 64, shape.size, CostTable.flat()), shape)
    session = policy.open(policy.new_memories(), Opening(HISTORY, []), greedy=True)
    tree = session.grow(Position(HISTORY, 0, left, Outlook()), lambda _: None)
    assert len(tree) <= policy.most_nodes
    return tree


def test_a_beams_levels_are_the_best_children_by_summed_log_probability(model: Transformer):
    shape = BeamShape(width=4, num_beams=3, depth=3)
    tree = grown(model, shape, left=10)
    level: dict[tuple[int, ...], float] = {(): 0.0}
    for depth in range(1, shape.depth + 1):
        children: dict[tuple[int, ...], float] = {}
        for path, score in level.items():
            chances = chances_after(model, [*HISTORY, *path])
            for token in sorted(range(len(chances)), key=lambda t: -chances[t])[: shape.num_beams]:
                children[*path, token] = score + math.log(chances[token] + EPSILON)
        level = dict(sorted(children.items(), key=lambda child: -child[1])[: shape.width])
        found = {tuple(tree.path(node)) for node in range(len(tree)) if tree.depths[node] == depth}
        assert found == set(level)
    # The root has no more than `num_beams` children.
    assert len(tree) == 1 + 3 + 4 + 4


def test_a_beam_is_no_deeper_than_the_text_may_be_long(model: Transformer):
    assert max(grown(model, BeamShape(2, 2, 8), left=4).depths) == 3
    assert len(grown(model, BeamShape(2, 2, 8), left=1)) == 1


def run(seconds: float, tokens: int = 11, first: int = 1, first_s: float = 1.0, passes: int = 5) -> Run:
    return Run(tuple(range(tokens)), first, first_s, seconds, passes, 20, 0.2 * seconds, 0.5 * seconds)


def test_rates_leave_out_the_pass_that_reads_the_prompt_or_count_it():
    runs = [run(2.0), run(3.0), run(0.0, tokens=2, first=2, passes=1)]
    assert decoding(runs) == (10 + 10) / 5
    assert with_prefill(runs) == (11 + 11 + 2) / 8
    assert tokens_per_pass(runs) == 24 / 11
    assert nodes_per_pass(runs) == 60 / 11
    assert decoding(runs[2:]) is None


def test_a_ratio_is_of_modes_in_the_same_round():
    # The machine is half as fast in the second round, and b slower still in the third.
    rounds = [{"a": [run(1.0)], "b": [run(2.0)]}, {"a": [run(2.0)], "b": [run(4.0)]}]
    rounds.append({"a": [run(1.0)], "b": [run(3.0)]})
    found = ratio(rounds, "a", "b")
    assert found == {"min": 2.0, "q1": 2.0, "median": 2.0, "q3": 2.5, "max": 3.0, "n": 3}
    assert ratio(rounds, "a", "c") is None
    assert ratio([], "a", "b") is None


def test_the_fastest_mode_is_so_over_all_rounds():
    rounds = [{"a": [run(1.0)], "b": [run(2.0)]}, {"a": [run(9.0)], "b": [run(2.0)]}]
    assert fastest(rounds, ["a", "b"]) == "b"


def test_what_a_pass_takes_is_split_and_leaves_the_first_one_out():
    parts = summary([{"a": [run(8.0), run(4.0)]}], "a")["ms_per_pass"]
    medians = {part: found["median"] for part, found in parts.items()}  # pyright: ignore[reportAttributeAccessIssue]
    assert medians == pytest.approx({"draft": 300, "verify": 750, "other": 450})
    uncounted = Run((1, 2), 1, 1.0, 1.0, 2)
    parts = summary([{"a": [uncounted]}], "a")["ms_per_pass"]
    assert parts == {"draft": None, "verify": None, "other": None}


@dataclass
class Noting:
    name: str
    notes: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])

    def run(self, prompt: Sequence[int]) -> Run:
        self.notes.append((self.name, prompt[0]))
        return run(1.0)


def test_every_prompt_is_begun_by_another_mode():
    notes: list[tuple[str, int]] = []
    modes = {name: Noting(name, notes) for name in "abc"}
    rounds = take_turns(modes, [[1], [2]], 2)
    assert notes[0::3] == [("a", 1), ("b", 2), ("c", 1), ("a", 2)]
    assert sorted(notes) == sorted(2 * [(name, prompt) for name in "abc" for prompt in (1, 2)])
    assert [{name: len(runs) for name, runs in each.items()} for each in rounds] == 2 * [
        dict.fromkeys("abc", 2)
    ]


def test_a_text_that_parts_from_plain_decodings_by_more_than_rounding_is_unexplained(model: Transformer):
    plain, other = Run((7, 8, 9), 1, 1.0, 1.0, 3), Run((7, 9, 9), 1, 1.0, 1.0, 2)
    one = {"plain": [plain, plain], "a": [plain, other], "b": [other, plain]}
    sets = {
        name: Measured([(1, 2), (3, 4)], SamplingParams(temperature), ["plain"], [one], {})
        for name, temperature in (("greedy", 0.0), ("random", 1.0))
    }
    found = divergences(sets, model)
    assert (found["divergences"], found["unexplained_divergences"]) == (2, 2)
    assert found["divergences_at_random"] == 2
    chances = [
        torch.tensor(chances_after(model, [*prompt, 7])).log().topk(2).values for prompt in ((1, 2), (3, 4))
    ]
    gaps = sorted((float(best[0] - best[1]) for best in chances), reverse=True)
    assert found["divergence_gaps"] == pytest.approx(gaps, abs=1e-4)


def test_an_edit_is_made_twice_and_begun_for_a_third_time():
    functions = [f'def f{n}(x):\n    """Text."""\n    return x + {n}\n' for n in range(3)]
    text = "\n".join(functions)
    (three,) = prompts._threes(text)
    cursor = third_edit(text, three, ["if x:", "    pass"])
    changed = [f.replace("    return", "    if x:\n        pass\n    return") for f in functions[:2]]
    assert cursor.prefix == "\n".join(changed) + '\ndef f2(x):\n    """Text."""\n    if '
    assert cursor.suffix == "\n    return x + 2\n"


def test_an_edit_is_made_only_where_statements_begin_on_a_line_of_their_own():
    text = "def f(): return 1\n\ndef g():\n    @cache\n    def h(): return 2\n    return h\n"
    assert prompts._places(text) == []


@pytest.mark.slow
def test_transformers_gets_the_weights_that_we_have(model: Transformer, tiny: Checkpoint, tmp_path: Path):
    target = Checkpoint.open(find("bundled:target"))
    require_alike(ours := Transformer.load(target, "cpu", "fp32"), replica(target, ours), HISTORY)
    require_alike(model, replica(tiny, model), HISTORY)
    write_llama(tmp_path, scale=3.0, rms_norm_eps=0.01)
    theirs = replica(Checkpoint.open(tmp_path), model)
    with pytest.raises(ValueError, match="not the same weights"):
        require_alike(model, theirs, HISTORY)


def arguments(folder: Path, *lines: object) -> list[str]:
    path = folder / "prompts.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    return ["--prompts", str(path), "--rounds", "2", "--max-tokens", "8"]


@pytest.mark.slow
def test_a_whole_run_on_a_users_prompts_ends_in_one_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pair = {"model": tmp_path / "target", "draft_model": tmp_path / "draft"}
    for seed, folder in enumerate(pair.values()):
        write_llama(folder, vocab_size=320, seed=seed, max_position_embeddings=512)
        write_tokenizer(folder)
    config = tmp_path / "engine.json"
    config.write_text(json.dumps({key: str(folder) for key, folder in pair.items()} | {"tree_size": 8}))
    lines = [{"prefix": "def f(x):\n    ", "suffix": "\n"}, {"prefix": "a = b = ", "suffix": ""}]
    main([*arguments(tmp_path, *lines), "--config", str(config), "--prompts-per-set", "2"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["benchmark"] == "speculation"
    assert found.keys() >= {"machine", "divergences", "unexplained_divergences", "packages"}
    for name in (
        *("ours_over_plain", "ours_over_plain_random_text", "ours_over_transformers"),
        *("ours_over_transformers_assisted", "tokens_per_pass", "tokens_per_pass_beam_16x16"),
        *("nodes_per_pass", "nodes_per_pass_beam_16x16"),
    ):
        assert found[name] > 0
    assert found["ours_over_plain_repeated_edit"] is None
    assert found["planner_over_best_fixed"].keys() == found["best_fixed"].keys() == {"code", "random_text"}
    assert found["equal_size"]["ours_64"]["nodes_per_pass"] <= 64
    assert found["nodes_per_pass_beam_16x16"] > 16 * 3
    assert found["ratios"]["ours_over_plain"]["n"] == 2
    plain, beam = (found["modes"]["code"][mode]["ms_per_pass"] for mode in ("plain", "beam_16x16"))
    assert plain["draft"]["max"] == 0 < plain["verify"]["min"]
    assert beam["draft"]["min"] > 0
    assert found["modes"]["code"]["transformers"]["tokens_per_pass"]["median"] == 1
    assert found["unexplained_divergences"] == 0


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--quick", "--max-tokens", "-1"], "--max-tokens must be at least 1"),
        (["--plot", "figure.bmp"], "draws .svg or .png"),
    ],
)
def test_options_that_cannot_be_used_are_named_before_anything_is_loaded(
    options: list[str], problem: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit):
        main(options)
    assert problem in capsys.readouterr().err


def test_a_bad_prompts_file_ends_the_command_with_its_line(tmp_path: Path):
    with pytest.raises(SystemExit, match=r"prompts\.jsonl, line 2: suffix is missing"):
        main(arguments(tmp_path, {"prefix": "a", "suffix": ""}, {"prefix": "a"}))


def test_a_package_that_is_missing_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prompts, "PACKAGES", ("no-such-package",))
    with pytest.raises(ValueError, match=r"no-such-package, .* is not installed: pip install"):
        prompts.held_out()


def test_the_picture_shows_every_mode(tmp_path: Path):
    plot = pytest.importorskip("benchmarks.plot", reason="matplotlib is not installed", exc_type=ImportError)
    rate = {"q1": 40.0, "median": 50.0, "q3": 70.0}
    plot.draw_rates({"plain": rate, "beam_16x16": rate, "ours": rate}, tmp_path / "figure.svg")
    picture = (tmp_path / "figure.svg").read_text(encoding="utf-8")
    assert all(word in picture for word in ("plain", "beam 16x16", "ours"))
