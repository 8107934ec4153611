from __future__ import annotations

from benchmarks.foresight import text_to_come, texts_to_come
from tests.benchmarks.typed import recording, typed


def test_each_key_leaves_less_to_come():
    assert texts_to_come(typed("ab\n", 2, "cde"), 3)[1:] == ["de", "e", ""]


def test_a_typing_error_that_is_taken_back_is_not_to_come():
    keys = recording("", [(0, 0, "a")], [(1, 0, "x")], [(1, 1, "")], [(1, 0, "b")])
    assert text_to_come(keys.transactions, 0, 0) == "ab"
    assert text_to_come(keys.transactions, 2, 2) == ""  # The next key takes away what stands there.
    assert text_to_come(keys.transactions, 3, 1) == "b"


def test_what_is_typed_elsewhere_does_not_come_here():
    keys = recording("one two", [(3, 0, "!")], [(0, 0, "x")], [(5, 0, "?")])
    assert text_to_come(keys.transactions, 0, 3) == "!"
    assert text_to_come(keys.transactions, 0, 7) == ""


def test_deleting_what_stands_behind_does_not_end_it():
    keys = recording("f)", [(1, 0, "(")], [(2, 1, "x")], [(3, 0, ")")])
    assert text_to_come(keys.transactions, 0, 1) == "(x)"


def test_patches_elsewhere_in_the_same_key_only_move_it():
    keys = recording("b", [(1, 0, "c"), (0, 0, "import\n")], [(9, 0, "d")])
    assert text_to_come(keys.transactions, 0, 1) == "cd"
