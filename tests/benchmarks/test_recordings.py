from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.recordings import (
    MAX_PAUSE_S,
    USUAL_PAUSE_S,
    RecordingError,
    cursor_after,
    padded,
    read_recording,
    states,
)
from tests.benchmarks.typed import recording, typed

TRACES = Path(__file__).parents[2] / "benchmarks" / "traces"


def written(folder: Path, *transactions: Any, name: str = "some.json", **more: Any) -> Path:
    path = folder / name
    path.write_text(json.dumps({"startContent": "", "endContent": "", "txns": transactions, **more}))
    return path


def key(*patches: Any, time: Any = None) -> Any:
    return {"patches": list(patches)} | ({} if time is None else {"time": time})


def test_a_shipped_trace_ends_as_it_was_recorded():
    found = read_recording(TRACES / "sveltecomponent.json.gz")
    *_, last = states(found, len(found.transactions))
    assert last.text == found.end
    assert found.language == "svelte"


def test_positions_count_code_points_and_patches_follow_one_another(tmp_path: Path):
    path = written(tmp_path, key([0, 0, "🙂é"]), key([2, 0, "x"], [1, 1, "yz"]))
    assert [state.text for state in states(read_recording(path), 9)] == ["", "🙂é", "🙂yzx"]


def test_a_plain_file_reads_as_a_zipped_one(tmp_path: Path):
    plain = written(tmp_path, key([0, 0, "a"]))
    zipped = tmp_path / "some.json.gz"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    assert read_recording(plain) == read_recording(zipped)


def test_keys_of_one_time_share_what_passes_until_the_next(tmp_path: Path):
    second = "2020-01-01T00:00:0{}Z".format
    times = [second(1), second(1), second(2), second(9), second(8), None]
    path = written(tmp_path, *(key([0, 0, "a"], time=time) for time in times))
    pauses = [transaction.pause_s for transaction in read_recording(path).transactions]
    assert pauses == [0.5, 0.5, MAX_PAUSE_S, USUAL_PAUSE_S, USUAL_PAUSE_S, USUAL_PAUSE_S]


def test_the_language_can_be_said(tmp_path: Path):
    path = written(tmp_path, key([0, 0, "a"]))
    assert read_recording(path).language == "plaintext"
    assert read_recording(path, "rust").extension == ".rs"


def test_the_cursor_is_behind_what_came_last_but_inside_a_pair_that_is_written_into():
    closing = recording("f", [(1, 0, "()")], [(2, 0, "x")]).transactions
    assert cursor_after(closing, 1) == 2
    assert cursor_after(closing, 2) == 3
    assert cursor_after(recording("f", [(1, 0, "()")], [(3, 0, "x")]).transactions, 1) == 3


def test_padding_puts_whole_lines_around_and_moves_every_patch():
    original = typed("a\nb", 2, "xy")
    found = padded(original, 10)
    text = [state.text for state in states(found, 2)][-1]
    lines = text.split("\n")
    assert len(lines) >= 13
    assert "xyb" in lines[len(lines) // 2 - 2 : len(lines) // 2 + 2]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "no recording"),
        ('{"startContent": "", "txns": [{"patches": [[0, "x"]]}]}', "no recording"),
        ('{"startContent": "", "txns": [{"patches": [], "parents": [1]}]}', "several people"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, content: str, problem: str):
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(RecordingError, match=problem):
        read_recording(path)


def test_a_patch_outside_its_text_is_refused(tmp_path: Path):
    with pytest.raises(RecordingError, match="outside a text of 1"):
        list(states(recording("a", [(1, 1, "")]), 1))
