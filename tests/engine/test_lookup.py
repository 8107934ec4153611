from __future__ import annotations

from collections.abc import Sequence

import pytest

from engine.draft.base import DraftSession, Opening, Outlook, TreeLimits
from engine.draft.lookup import PRIORS, PreviousDrafter, PromptDrafter, WorkspaceDrafter
from engine.draft.suffix import LONGEST, Match, SuffixIndex
from tests.engine.growth import OpenGrowth
from tests.engine.scripted import nothing

LIMITS = TreeLimits(size=64, depth=4, width=4, num_beams=3)


def drafted(session: DraftSession, history: Sequence[int], **options: Outlook) -> OpenGrowth:
    growth = OpenGrowth(history, PRIORS, LIMITS, **options)
    session.begin(history)
    session.deepen(growth, nothing)
    return growth


def from_previous(previous: Sequence[int], prompt: Sequence[int]) -> DraftSession:
    return PreviousDrafter().new_memory().open(Opening(prompt, previous))


def test_the_prompt_is_followed_from_where_its_end_stood_before():
    growth = drafted(PromptDrafter().new_memory().open(Opening([], [])), [1, 2, 3, 4, 5, 6, 7, 1, 2])
    assert growth.paths() == [[3, 4, 5, 6]]


def chance_of(history: Sequence[int], token: int) -> float:
    """How sure the prompt's drafter is at first that `token` follows `history`."""
    tree = drafted(PromptDrafter().new_memory().open(Opening([], [])), history).tree
    return tree.chances[tree.children(0)[token]]


def test_the_longer_places_agree_the_surer_is_the_guess():
    chances = [chance_of([*range(30), *range(length)], length) for length in (2, 4, 8, LONGEST)]
    assert chances == sorted(set(chances))
    assert chance_of([*range(30), *range(20)], 20) == chances[-1], "up to a bound"


def test_a_deeper_guess_is_the_surer_for_those_before_it():
    tree = drafted(PromptDrafter().new_memory().open(Opening([], [])), [1, 2, 3, 4, 5, 6, 1, 2]).tree
    assert tree.chances[1:] == sorted(set(tree.chances[1:]))


def test_places_that_contradict_each_other_make_branches_the_longest_agreement_the_surest():
    history = [5, 1, 2, 8, 0, 4, 1, 2, 9, 0, 5, 1, 2]
    growth = drafted(PromptDrafter().new_memory().open(Opening([], [])), history)
    assert growth.paths() == [[8, 0, 4, 1], [9, 0, 5, 1]]
    assert chance_of(history, 8) > chance_of(history, 9)


def test_places_that_agree_are_surer_than_one_and_one_than_places_that_do_not():
    agreeing = chance_of([1, 2, 8, 0, 1, 2, 8, 4, 1, 2], 8)
    alone = chance_of([1, 2, 8, 0, 1, 2], 8)
    disputed = chance_of([1, 2, 9, 0, 1, 2, 8, 4, 1, 2], 8)
    assert agreeing > alone > disputed


def test_a_step_is_looked_up_once():
    session = PromptDrafter().new_memory().open(Opening([], []))
    growth = drafted(session, [1, 2, 3, 1, 2])
    assert session.uncovered(growth) == 0.0
    session.begin(growth.history)
    assert session.uncovered(growth) > 0.0


def test_a_slots_next_request_is_drafted_from_its_own_text_alone():
    memory = PromptDrafter().new_memory()
    drafted(memory.open(Opening([], [])), [1, 2, 3, 4, 1, 2])
    growth = drafted(memory.open(Opening([], [])), [1, 2, 7, 8, 1, 2])
    assert growth.paths() == [[7, 8, 1, 2]]


def test_guesses_end_where_the_text_does():
    session = PromptDrafter().new_memory().open(Opening([], []))
    growth = drafted(session, [1, 2, 3, 0, 5, 1, 2], outlook=Outlook(ends=frozenset({0})))
    assert growth.paths() == [[3, 0]]


def test_typing_along_a_suggestion_drafts_the_rest_of_it():
    previous = [1, 2, 3, 10, 11, 12, 13]
    growth = drafted(from_previous(previous, [1, 2, 3, 10, 11]), [1, 2, 3, 10, 11])
    assert growth.paths() == [[12, 13]]


def test_text_just_deleted_is_drafted_where_it_stood():
    growth = drafted(from_previous([1, 2, 3, 10, 11, 12], [1, 2, 3]), [1, 2, 3])
    assert growth.paths() == [[10, 11, 12]]


def test_text_just_replaced_is_taken_up_again_after_the_replacement():
    session = from_previous([1, 2, 3, 10, 11, 12], [1, 2, 3, 20])
    assert drafted(session, [1, 2, 3, 20]).paths() == []
    assert drafted(session, [1, 2, 3, 20, 11]).paths() == [[12]]


@pytest.mark.parametrize("previous", [[], [1, 2, 3]])
def test_without_a_previous_suggestion_nothing_is_drafted(previous: list[int]):
    assert drafted(from_previous(previous, [1, 2, 3]), [1, 2, 3]).paths() == []


class Spy:
    """A workspace's index that remembers what was looked up."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._index = SuffixIndex(key=2)
        self._index.update(tokens)
        self.tails: list[Sequence[int]] = []

    def matches(self, tail: Sequence[int], limit: int) -> Sequence[Match]:
        self.tails.append(tail)
        return self._index.matches(tail, limit)


def test_the_workspace_that_the_request_names_is_followed():
    spies = {"a": Spy([1, 2, 3, 4, 5]), "b": Spy([1, 2, 9])}
    memory = WorkspaceDrafter(spies.get).new_memory()
    history = [*range(50, 90), 1, 2]
    assert drafted(memory.open(Opening([], [], "b")), history).paths() == [[9]]
    assert spies["b"].tails == [history[-LONGEST:]], "no more than may count is handed over"
    assert drafted(memory.open(Opening([], [], "a")), history).paths() == [[3, 4, 5]]
    for unknown in ("", "c"):
        assert drafted(memory.open(Opening([], [], unknown)), history).paths() == []
