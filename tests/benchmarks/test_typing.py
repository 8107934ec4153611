from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.oracle_engine import EngineCounts
from benchmarks.recordings import Recording
from benchmarks.replay import Asked, Editor, Replay, Replayed
from benchmarks.typing import engine_counts, parse_arguments
from benchmarks.typing_figures import Tally, percentiles, tally
from tests.benchmarks.typed import recording, typed

ROOT = Path(__file__).parents[2]
SERVER = Path(__file__).with_name("scripted_server.py")


def replayed(
    folder: Path,
    typing: Recording,
    answers: dict[int, Any],
    *,
    editor: Editor = "vscode",
    speed: float = 0.0,
) -> Replayed:
    """`typing`, into a server that has an answer for each of some versions: one more than keys typed."""
    command = [sys.executable, "-S", str(SERVER), json.dumps(answers), str(folder / "notes")]
    replay = Replay(typing, len(typing.transactions), editor, speed)
    return asyncio.run(replay.run(command, os.environ, folder))


def judged(folder: Path, typing: Recording, answers: dict[int, Any], **how: Any) -> Tally:
    return tally(replayed(folder, typing, answers, **how))


def kinds(found: Tally) -> Sequence[tuple[int, str, int]]:
    return [(defect.key, defect.kind, defect.characters) for defect in found.defects]


def test_a_right_suggestion_is_saved_once_and_has_no_defect(tmp_path: Path):
    typing = typed("a = \n", 4, "one")
    answers = {
        2: {"text": "ne", "source": "new"},
        3: {"text": "e", "source": "cache"},
    }
    found = judged(tmp_path, typing, answers)
    assert (found.keys, found.requests, found.shown, found.saved, found.opportunities) == (3, 3, 2, 2, 1)
    assert found.sources == ["new", "cache", "silent"]
    assert (found.without_generation, found.cache_ms, len(found.server_ms)) == (1, [2.5], 3)
    assert (found.defects, found.flicker, found.exit_codes) == ([], 0, [0])
    assert len(found.first_ms) == 2


def test_an_answer_for_an_earlier_version_is_stale(tmp_path: Path):
    found = judged(tmp_path, typed("a = \n", 4, "one"), {3: {"text": "xyz", "version": 2}})
    assert kinds(found) == [(2, "stale: version", 3)]
    assert found.stale == 3


def test_an_answer_that_repeats_what_was_typed_is_stale(tmp_path: Path):
    found = judged(tmp_path, typed("a = \n", 4, "one"), {3: {"text": "one"}})
    assert kinds(found) == [(2, "stale: typed", 2)]


def test_a_suggestion_that_does_not_shrink_while_it_is_typed_is_stale(tmp_path: Path):
    same = {"text": "net"}
    found = judged(tmp_path, typed("a = \n", 4, "onest"), {2: same, 3: same})
    assert kinds(found) == [(2, "stale: typed", 1)]


def test_a_range_that_is_not_at_the_cursor_is_stale(tmp_path: Path):
    start = {"line": 0, "character": 0}
    found = judged(
        tmp_path, typed("a = \n", 4, "one"), {2: {"text": "ne", "range": {"start": start, "end": start}}}
    )
    assert kinds(found) == [(1, "stale: range", 2)]


def test_a_closer_that_is_there_already_is_doubled(tmp_path: Path):
    found = judged(tmp_path, typed("f()\n", 2, "ab"), {2: {"text": "b)"}})
    assert kinds(found) == [(1, "duplicated: doubled", 1)]
    assert found.duplicated == 1


def test_a_suggestion_that_is_replaced_by_one_that_does_not_go_on_with_it_flickers(tmp_path: Path):
    flickering = {2: {"text": "ne two"}, 3: {"text": "e thr"}, 4: {"text": " three"}}
    found = judged(tmp_path, typed("a = \n", 4, "one four"), flickering)
    assert (found.shown, found.flicker) == (3, 1)


def test_after_something_else_was_typed_nothing_flickers(tmp_path: Path):
    found = judged(tmp_path, typed("a = \n", 4, "one"), {2: {"text": "xy"}, 3: {"text": "zz"}})
    assert (found.shown, found.flicker) == (2, 0)


def test_ghost_text_that_is_taken_away_is_counted(tmp_path: Path):
    found = judged(tmp_path, typed("a = \n", 4, "one"), {2: {"text": "ne"}})
    assert found.vanished == 1


def test_vscode_cancels_then_tells_the_change_then_asks(tmp_path: Path):
    typing = recording("🙂\r\n", [(1, 0, "a")], [(3, 0, "b"), (0, 1, "")], pause_s=0.5)
    found = tally(replayed(tmp_path, typing, {2: "hold", 3: {"text": "x"}}, speed=5.0))
    change = (
        '[{"range": {"start": {"line": 0, "character": 2}, "end": {"line": 0, "character": 2}}, "text": "a"}]'
    )
    assert (tmp_path / "notes").read_text().splitlines()[1:5] == [
        f"change 2 {change}",
        'ask 2 {"line": 0, "character": 3}',
        "cancel 2",
        (tmp_path / "notes").read_text().splitlines()[4],
    ]
    assert (found.cancelled, found.sources, found.shown) == (1, ["new"], 1)


def test_neovim_never_cancels_and_takes_what_comes_too_late(tmp_path: Path):
    typing = typed("a = \n", 4, "one")
    found = judged(tmp_path, typing, {2: {"text": "ne", "version": 1}}, editor="neovim")
    assert "cancel" not in (tmp_path / "notes").read_text()
    assert found.stale == 2


def late(typing: Recording, read_state: int) -> Tally:
    """An answer to the question after the first key comes after the second."""
    position = {"line": 0, "character": 5}
    item = {"insertText": "ne", "range": {"start": position, "end": position}}
    asked = Asked(
        1, 1, 0.0, answers=1, answered_s=1.0, answered_state=2, read_state=read_state, result=[item]
    )
    return tally(Replayed(typing, "neovim", 2, (asked,), {}, 0, 1.0))


def test_only_what_may_have_crossed_with_a_key_is_excused():
    typing = typed("a = \n", 4, "on")
    assert (late(typing, 1).crossed, late(typing, 1).stale) == (1, 0)
    assert (late(typing, 2).crossed, late(typing, 2).stale) == (0, 2)


def test_a_server_that_ends_leaves_requests_without_an_answer(tmp_path: Path):
    typing = typed("a = \n", 4, "one")
    command = [sys.executable, "-S", "-c", SERVER.read_text().replace("held.append(request)", "sys.exit(3)")]
    command += [json.dumps({3: "hold"}), str(tmp_path / "notes")]
    found = tally(asyncio.run(Replay(typing, 3, "vscode", 0.0).run(command, os.environ, tmp_path)))
    assert (found.requests, found.unanswered, found.exit_codes) == (2, 1, [3])


def test_tallies_and_costs_of_several_traces_add_up():
    one = Tally(keys=2, requests=2, sources=["new", "silent"], first_ms=[1.0], shown=1)
    figures = one.plus(one).figures(EngineCounts(prompt=50, reused=10).plus(EngineCounts(prompt=4)))
    assert (figures["keys"], figures["answers"], figures["tokens_recomputed_per_key"]) == (4, 4, 11.0)
    assert figures["answered_from"] == {
        "cache": 0,
        "kept": 0,
        "new": 2,
        "silent": 2,
        "shares": {"cache": 0.0, "kept": 0.0, "new": 0.5, "silent": 0.5},
    }
    assert figures["wasted_target_passes"] is None


def test_percentiles_need_a_sample():
    assert percentiles([]) == {"p50": None, "p95": None, "p99": None}
    assert percentiles([float(number) for number in range(101)]) == {"p50": 50.0, "p95": 95.0, "p99": 99.0}


def test_a_real_engine_is_asked_for_its_counters():
    metrics = (
        "# TYPE umbrella_tokens counter\n"
        'umbrella_tokens_total{kind="prompt"} 70.0\numbrella_tokens_total{kind="reused"} 60.0\n'
        "# TYPE umbrella_target_passes counter\numbrella_target_passes_total 9.0\n"
    )
    assert engine_counts(metrics) == EngineCounts(passes=9, prompt=70, reused=60)


@pytest.mark.parametrize(
    "bad",
    [["--engine", "oracle:2"], ["--engine", "other"], ["--keys", "0"], ["--speed", "-1"], ["--pad", "nan"]],
)
def test_options_that_make_no_sense_are_refused(bad: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        parse_arguments(["some.json", *bad])
    assert bad[0] in capsys.readouterr().err


@pytest.mark.e2e
def test_the_command_replays_a_trace_through_the_real_server():
    command = [sys.executable, "-m", "benchmarks.typing", "benchmarks/traces/json-crdt-patch.json.gz"]
    command += ["--keys", "60", "--speed", "0", "--engine", "oracle:1", "--pass-ms", "1"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=120)
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["keys"], found["requests"], found["answers"]) == (60, 60, 60)
    assert (found["stale_characters"], found["unanswered"], found["server_exit_codes"]) == (0, 0, [0])
    assert found["answered_from"]["cache"] > found["answered_from"]["new"] > 0
    assert found["server_ms"]["p50"] is not None
