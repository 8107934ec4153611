import pytest

from engine.training.near_duplicates import ALIKE, SHINGLE, TOKEN, NearDuplicates, signature
from tests.engine.training.samples import python


def resemblance(one: str, other: str) -> float:
    """The exact share of shingles in common, which signatures estimate."""
    first, second = (
        set(zip(*(TOKEN.findall(text)[shift:] for shift in range(SHINGLE)), strict=False))
        for text in (one, other)
    )
    return len(first & second) / len(first | second)


@pytest.mark.parametrize("functions", [1, 4, 12, 40])
def test_signatures_estimate_the_share_of_shingles_in_common(functions: int):
    common = python(1, 40)
    other = common + "\n\n" + python(2, functions)
    estimated = (signature(common) == signature(other)).mean()
    assert estimated == pytest.approx(resemblance(common, other), abs=0.1)


def test_a_file_with_a_function_changed_is_known_and_another_is_not():
    alike = NearDuplicates()
    text = python(1, 40)
    assert alike.add(text)
    changed = text + "\n\n" + python(2, 2)
    assert resemblance(text, changed) > ALIKE
    assert alike.knows(changed)
    assert not alike.add(changed)
    assert not alike.knows(python(3, 40))


def test_layout_does_not_make_a_file_another():
    alike = NearDuplicates()
    alike.add(python(1))
    assert alike.knows(python(1).replace("\n", "\n\n").replace("    ", "\t"))


def test_a_text_that_was_not_new_is_not_remembered_so_that_likeness_does_not_drift():
    alike = NearDuplicates()
    text = python(1, 40)
    alike.add(text)
    drifted = [text + "\n\n" + python(2, functions) for functions in (4, 20)]
    assert alike.knows(drifted[0])
    assert alike.add(drifted[1])


def test_short_and_empty_texts_have_signatures_too():
    alike = NearDuplicates()
    assert [alike.add(text) for text in ("", "x", "x = 1", "x")] == [True, True, True, False]
