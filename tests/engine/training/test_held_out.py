import pytest

from engine.errors import TrainingError
from engine.training.corpus import SourceFile
from engine.training.held_out import Split, split
from tests.engine.training.samples import python


def files(packages: int, each: int = 2, functions: int = 4, first: int = 0) -> list[SourceFile]:
    return [
        SourceFile(f"package{p}", f"{n}.py", python(1000 * p + n, functions))
        for p in range(first, first + packages)
        for n in range(each)
    ]


def packages_of(part: tuple[SourceFile, ...]) -> set[str]:
    return {file.package for file in part}


def test_a_file_whose_name_is_no_utf_8_is_split_like_any_other():
    files = [
        SourceFile("a", f"caf\udce9{i}.py", "".join(f"a{i}_{j} = {j * i}\n" for j in range(99)))
        for i in range(30)
    ]
    assert split(files).by == "file"


def test_whole_packages_are_held_out_until_about_the_share_is():
    corpus = files(40)
    parts = split(corpus, share=0.1)
    assert parts.by == "package"
    assert packages_of(parts.train).isdisjoint(packages_of(parts.held_out))
    assert {*parts.train, *parts.held_out} == set(corpus)
    held = sum(len(file.text) for file in parts.held_out) / sum(len(file.text) for file in corpus)
    assert 0.08 < held < 0.2


def test_the_choice_does_not_depend_on_order_and_does_on_the_seed():
    corpus = files(40)
    chosen = packages_of(split(corpus).held_out)
    assert packages_of(split(corpus[::-1]).held_out) == chosen
    assert any(packages_of(split(corpus, seed=seed).held_out) != chosen for seed in (1, 2))


def test_adding_packages_moves_few_of_the_others():
    before = packages_of(split(files(40), share=0.2).held_out)
    after = packages_of(split(files(44), share=0.2).held_out)
    assert len(before & after) >= len(before) - 2


def test_packages_named_are_held_out_whatever_their_size():
    parts = split(files(3), held_out=["package1", "package2"])
    assert packages_of(parts.held_out) == {"package1", "package2"}
    assert packages_of(parts.train) == {"package0"}


def test_an_unknown_package_is_refused_with_those_there_are():
    with pytest.raises(TrainingError, match=r"called nosuch\. There are: package0, package1, package2\."):
        split(files(3), held_out=["package1", "nosuch"])


def test_one_package_is_divided_by_files_and_says_so():
    parts = split(files(1, each=40), share=0.1)
    assert parts.by == "file"
    assert 2 <= len(parts.held_out) <= 8
    assert len(parts.train) + len(parts.held_out) == 40


def test_no_package_that_is_most_of_the_corpus_is_held_out():
    assert split(files(2, each=20)).by == "file"
    small_and_large = files(1, each=2) + files(1, each=40, first=1)
    assert packages_of(split(small_and_large, share=0.01).held_out) == {"package0"}


def test_what_resembles_a_held_out_file_is_not_learnt_from():
    corpus = files(4, functions=40)
    twin = SourceFile("package1", "twin.py", corpus[0].text + "\n\nlast = 1\n")
    parts = split([*corpus, twin], held_out=["package0"])
    assert parts.near_duplicates == 1
    assert twin not in parts.train
    assert len(parts.train) == 6


@pytest.mark.parametrize(
    ("corpus", "held_out", "says"),
    [
        ([], None, "nothing to hold out"),
        (files(1, each=1), None, "nothing to hold out"),
        (files(1), ["package0"], "nothing is left to learn from"),
    ],
)
def test_a_corpus_that_cannot_be_divided_is_refused(corpus: list[SourceFile], held_out: list[str], says: str):
    with pytest.raises(TrainingError, match=says):
        split(corpus, held_out)


def test_two_files_are_enough_for_one_on_each_side():
    parts = split(files(1, each=2))
    assert isinstance(parts, Split)
    assert (len(parts.train), len(parts.held_out)) == (1, 1)
