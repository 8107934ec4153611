"""The syntax process from inside: what it says of a document for which its time does not suffice."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from umbrella_lsp.syntax.languages import GRAMMARS
from umbrella_lsp.syntax.messages import Answer, Question, Splice
from umbrella_lsp.syntax.process import PARSE_AGAIN_S, PARSE_S, answer
from umbrella_lsp.syntax.tree import MAX_RUBBLE, SyntaxTree

SOURCE = "".join(f"import m{n}\n\n\ndef f{n}():\n    return m{n}\n\n\n" for n in range(300))
AT = SOURCE.index("return m200")
BREAKING = Splice(AT, AT, "x = ((\n    y = ((\n    ")
"""All behind it has to be looked at again."""


def at_rest() -> float:
    """A clock for which parsing takes no time."""
    return 0.0


def ticking(step_s: float) -> Callable[[], float]:
    """A clock that goes on by so much whenever it is looked at."""
    return count(0.0, step_s).__next__


def held() -> dict[str, SyntaxTree]:
    trees: dict[str, SyntaxTree] = {}
    assert asked(trees, at_rest, 0, whole=SOURCE).cursor
    return trees


def asked(
    trees: dict[str, SyntaxTree],
    clock: Callable[[], float],
    about: int | Splice,
    change: Splice | None = None,
    whole: str | None = None,
) -> Answer:
    return answer(trees, Question("a", GRAMMARS["python"], whole, change, about, None), clock)


def test_a_cursor_in_what_takes_too_long_to_parse_is_told_what_surrounded_it_before() -> None:
    trees = held()
    offset = AT + len(BREAKING.text)
    found = asked(trees, ticking(PARSE_S), offset, BREAKING).cursor
    assert found is not None
    assert not found.is_current
    assert [(scope.name, scope.line) for scope in found.scopes] == [("f200", 200 * 7 + 3)]
    assert "m200" in found.names
    below = asked(trees, ticking(PARSE_S), trees["a"].text.line_start(201 * 7 + 2 + 4)).cursor
    assert below is not None
    assert [(scope.name, scope.line) for scope in below.scopes] == [("f201", 201 * 7 + 2 + 3)]
    assert asked(trees, ticking(PARSE_S), Splice(offset, offset, "x\n")).inserted is None
    assert trees["a"].catch_up()
    now = asked(trees, at_rest, offset).cursor
    assert now is not None
    assert now.is_current
    assert now.in_statement


def test_what_took_too_long_gets_less_time_until_it_does_not() -> None:
    trees = held()
    step_s = PARSE_AGAIN_S / 10
    asked(trees, ticking(PARSE_S), AT, BREAKING)
    looks = [0]

    def clock() -> float:
        looks[0] += 1
        return looks[0] * step_s

    # Another change, or it would go on where it was.
    asked(trees, clock, AT, Splice(0, 0, "\n"))
    assert not trees["a"].is_current
    assert looks[0] <= 12
    asked(trees, at_rest, AT, Splice(0, 0, "\n"))
    assert trees["a"].is_current
    assert not trees["a"].is_slow


def test_what_was_parsed_before_it_was_broken_off_is_not_parsed_again() -> None:
    def looks_of(stops: int) -> int:
        """How often one is asked whether to stop in all, after having said so for some times."""
        tree = held()["a"]
        tree.replace(BREAKING.start, BREAKING.end, BREAKING.text)
        said = [0]

        def stop() -> bool:
            said[0] += 1
            return said[0] % 5 == 0 and said[0] <= 5 * stops

        while not tree.catch_up(stop):
            pass
        return said[0]

    whole = looks_of(0)
    assert whole > 20
    assert looks_of(3) <= whole + 6


def test_text_that_takes_too_long_to_parse_is_not_told_about_and_leaves_nothing_behind() -> None:
    trees = held()
    offset = len(BREAKING.text)
    tried = Splice(AT, AT, BREAKING.text)
    assert asked(trees, ticking(PARSE_S), tried).inserted is None
    assert trees["a"].is_current
    found = asked(trees, at_rest, tried).inserted
    assert found is not None
    assert found.is_broken
    assert [bracket.at for bracket in found.brackets if bracket.at < offset]


def test_nothing_is_said_of_rubble() -> None:
    rubble = "func f() {\n" * MAX_RUBBLE
    assert answer({}, Question("a", GRAMMARS["go"], rubble, None, 0, None), at_rest) == Answer()
