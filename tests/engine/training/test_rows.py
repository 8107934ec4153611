from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import engine.training.rows as module
from engine.tokenizer import Tokenizer
from engine.training.corpus import SourceFile
from engine.training.examples import ExampleMix
from engine.training.rows import RowFormat, drills, make_rows, pack
from tests.engine.tiny_tokenizer import write_tokenizer

CODE = "".join(f"def add{n}(self, value):\n    return self.value + value\n\n\n" for n in range(60))
FILES = [SourceFile(name, f"{name}/a.py", CODE) for name in ("bank", "shop", "till")]


def test_rows_follow_one_another_and_share_the_token_between_input_and_target():
    assert pack(iter([[1, 2, 3], [4, 5, 6, 7]]), 3, 10).tolist() == [[1, 2, 3, 4], [4, 5, 6, 7]]
    assert pack(iter([[1, 2, 3]]), 3, 10).shape == (0, 4)


def test_a_large_vocabularys_ids_fit():
    assert pack(iter([[128_000, 5, 70_000]]), 2, 128_256).tolist() == [[128_000, 5, 70_000]]


def test_a_drill_repeats_runs_that_it_has_shown():
    row = drills(np.arange(5000, dtype=np.uint16), 1, 1000, seed=0)[0].tolist()
    pairs = list(pairwise(row))
    assert len(set(pairs)) < 0.8 * len(pairs)


def test_rows_do_not_depend_on_how_many_processes_write_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_tokenizer(tmp_path)
    form = RowFormat(tmp_path, "llama3-code", 64)
    alone = make_rows(FILES, form, ExampleMix(), seed=1)
    monkeypatch.setattr(module, "SMALL", 0)
    assert np.array_equal(make_rows(FILES, form, ExampleMix(), seed=1), alone)
    assert alone.max() < Tokenizer.load(tmp_path).vocab_size
    assert alone.shape[1] == 65
