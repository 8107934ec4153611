from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.cursors import Cursor, Position
from benchmarks.judge import Answer, extent, shown
from benchmarks.quality import main, measure
from engine.protocol import StopSpec, TokenCounts


def answer(text: str, *, confidence: float = 0.5, gap: float | None = None) -> Answer:
    counts = {
        "shipped": TokenCounts(generated=12, target_passes=4),
        "chain": TokenCounts(generated=12, target_passes=6),
        "tree": TokenCounts(generated=12, target_passes=5),
    }
    return Answer(text, confidence, confidence, counts, loss=2.0, gap=gap)


PLACES = [
    Cursor("next_line", "a = 1\n", "\n", "b = 2"),
    Cursor("line_end", "a = 1\nb = ", "\n", "2"),
    Cursor("between_text", "f(", ")\n", "x"),
    Cursor("block", "def f():\n    ", "\n", "x = 1\n    return x"),
]


def test_who_always_answers_what_stood_there_scores_everything():
    figures = measure(lambda place: answer(place.expected, confidence=1.0), PLACES).figures
    expected = {
        "line_exact_match": 1,
        "block_exact_match": 1,
        "edit_similarity": 1,
        "parse_success": 1,
        "empty": 0,
    }
    assert expected.items() <= figures.items()
    assert figures["calibration"]["likelihood"]["ece"] == 0  # pyright: ignore[reportIndexIssue]


def test_a_line_match_is_over_lines_expected_to_their_end():
    def all_but_next_lines(place: Cursor) -> Answer:
        return answer("wrong" if place.position == "next_line" else place.expected)

    assert measure(all_but_next_lines, PLACES).figures["line_exact_match"] == 0.5
    assert measure(all_but_next_lines, PLACES[2:]).figures["line_exact_match"] is None


def test_every_position_is_scored_beside_the_same_baselines():
    scores = measure(lambda place: answer(""), PLACES).scores
    assert list(scores) == ["next_line", "line_end", "between_text", "block"]
    assert all(list(found) == ["model", "copied", "most_frequent"] for found in scores.values())
    assert scores["line_end"]["model"].empty == 1


def test_tokens_per_pass_are_all_tokens_over_all_passes():
    figures = measure(lambda place: answer("x"), PLACES).figures
    assert figures["tokens_per_pass"] == 3.0
    assert figures["by_drafter"] == {"shipped": 3.0, "chain": 2.0, "tree": 2.4}
    assert figures["tree_over_chain"] == 1.2


def test_a_divergence_by_more_than_noise_is_unexplained():
    gaps = iter([None, 1e-6, 0.5, None])
    figures = measure(lambda place: answer("x", gap=next(gaps)), PLACES).figures
    assert figures["divergence_gaps"] == [1e-6, 0.5]
    assert (figures["divergences"], figures["unexplained_divergences"]) == (2, 1)


@pytest.mark.parametrize(
    ("position", "prefix", "spec"),
    [
        ("next_line", "    ", StopSpec(max_lines=1)),
        ("block", "def f():\n    ", StopSpec(max_lines=8, min_indent=4)),
        ("block", "  if x:", StopSpec(max_lines=8, min_indent=3)),
        ("block", "x", StopSpec(max_lines=8)),
    ],
)
def test_a_block_is_stopped_by_indentation_and_a_line_by_its_end(
    position: Position, prefix: str, spec: StopSpec
):
    assert extent(Cursor(position, prefix, "", "?")).spec == spec


def test_what_stands_to_the_right_of_the_cursor_is_not_inserted_again():
    place = Cursor("between_text", "print(", ")\n", "x")
    assert shown(place, "x, f(y))") == "x, f(y)"


def arguments(folder: Path, *lines: object) -> list[str]:
    path = folder / "prompts.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    return ["--prompts", str(path)]


@pytest.mark.slow
def test_the_shipped_pair_is_measured_on_a_users_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    prompts = [
        {"prefix": "import os\nimport ", "suffix": "\n", "expected": "sys"},
        {"prefix": "total = sum(", "suffix": ")\n", "expected": "values"},
        {
            "prefix": "def double(x):\n    ",
            "suffix": "\n",
            "expected": "y = x * 2\n    return y",
            "path": "a.py",
        },
    ]
    main(arguments(tmp_path, *prompts))
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures.keys() >= {
        *("line_exact_match", "block_exact_match", "edit_similarity", "parse_success", "tokens_per_pass"),
        *("loss", "copy_baseline", "divergences", "divergence_gaps", "tree_over_chain", "seed", "packages"),
    }
    assert list(figures["by_position"]) == ["line_end", "between_text", "block"]
    assert list(figures["by_drafter"]) == ["shipped", "plain", "ngram", "chain", "tree"]
    # A pass that only writes the word at the cursor again yields nothing.
    assert 0.9 < figures["by_drafter"]["plain"] <= 1.0
    assert figures["unexplained_divergences"] == 0
    assert figures["packages"] == {}


def test_a_bad_prompts_file_ends_the_command_with_its_line(tmp_path: Path):
    with pytest.raises(SystemExit, match=r"prompts\.jsonl, line 1: prefix is missing"):
        main(arguments(tmp_path, {"suffix": "", "expected": "x"}))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ([], "one of the arguments --work --prompts is required"),
        (["--work", "w", "--prompts-per-position", "0"], "must be at least 1"),
        (["--work", "w", "--plot", "figure.bmp"], "draws .svg or .png"),
    ],
)
def test_options_that_cannot_be_used_are_named_before_anything_is_loaded(
    options: list[str], problem: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit):
        main(options)
    assert problem in capsys.readouterr().err


def test_a_configuration_that_cannot_be_read_ends_the_command(tmp_path: Path):
    options = arguments(tmp_path, {"prefix": "", "suffix": "", "expected": "x"})
    with pytest.raises(SystemExit, match=r"none\.toml cannot be read"):
        main([*options, "--config", str(tmp_path / "none.toml")])


def test_the_picture_shows_every_position_and_confidence(tmp_path: Path):
    plot = pytest.importorskip("benchmarks.plot", reason="matplotlib is not installed", exc_type=ImportError)
    quality = measure(lambda place: answer(place.expected), PLACES)
    plot.draw(quality.scores, quality.calibrations, tmp_path / "figure.svg")
    picture = (tmp_path / "figure.svg").read_text(encoding="utf-8")
    assert all(word in picture for word in ("next line", "between text", "token likelihood"))
