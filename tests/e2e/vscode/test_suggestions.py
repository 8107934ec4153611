"""What somebody sees who types in VS Code, with the engine and the models that ship."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from contextlib import contextmanager

from tests.e2e.vscode.workbench import READY, Workbench

POINT = """\
class Point:
    def __init__(self, x, y):
        self.x = x
        self.y"""

BODY = """\
class Account:
    def __init__(self, owner, balance):
        self.owner = owner
        self.balance = balance

    def deposit(self, amount):
        """

EQUAL = f"""\
{POINT} = y

    def __eq__(self, other):
        """

CANCELLED = -32800


@contextmanager
def held(bench: Workbench) -> Generator[None]:
    """Meanwhile the engine stands still."""
    engines = bench.desk.engines()
    assert engines
    for engine in engines:
        os.kill(engine, signal.SIGSTOP)
    try:
        yield
    finally:
        for engine in engines:
            os.kill(engine, signal.SIGCONT)


def block(bench: Workbench, name: str, text: str = BODY) -> str:
    """Have ghost text of several lines on the screen, and return it: asked for, it comes when it is whole."""
    bench.edit(name, text)
    bench.press("Alt+Backslash")
    ghost = bench.sees_ghost()
    assert "\n" in ghost
    return ghost


def test_ghost_text_appears_and_tab_inserts_exactly_it(bench: Workbench) -> None:
    bench.edit("tab.py", POINT)
    bench.type(" = ")
    ghost = bench.sees_ghost()
    bench.press("Tab")
    bench.sees_no_ghost()
    assert bench.saved() == f"{POINT} = {ghost}"
    [said] = bench.wait(lambda: bench.wire.told("workspace/executeCommand"), "the accept is reported")
    assert said["command"] == "umbrella.accepted"


def test_ghost_text_of_several_lines_is_drawn_and_inserted_whole(bench: Workbench) -> None:
    ghost = block(bench, "point.py", EQUAL)
    bench.picture("vscode.png", ".editor-group-container", height=275)
    bench.press("Tab")
    bench.sees_no_ghost()
    assert bench.saved() == EQUAL + ghost


def test_a_word_and_a_line_can_be_accepted_and_the_rest_stays(bench: Workbench) -> None:
    ghost = block(bench, "part.py")
    bench.press("Control+ArrowRight")
    rest = bench.sees_ghost(other_than=ghost)  # A suggestion of its own, once it has been asked for.
    word = ghost.removesuffix(rest)
    assert 0 < len(word) < len(ghost.partition("\n")[0])
    assert bench.saved() == BODY + word

    bench.press("Control+Alt+ArrowRight")
    line = rest.partition("\n")[0]
    bench.wait(lambda: line not in bench.ghost(), "the line is accepted")
    told = bench.wait(lambda: len(said := bench.wire.told("umbrella/feedback")) > 1 and said, "two reports")
    saved = bench.saved()
    assert saved.rstrip() == BODY + word + line
    assert {said["event"] for said in told} == {"partly"}
    assert [said["length"] for said in told] == [len(word), len(saved) - len(BODY + word)]


def test_a_dismissed_suggestion_goes_away_and_is_reported(bench: Workbench) -> None:
    bench.edit("dismiss.py", POINT)
    bench.type(" = ")
    bench.sees_ghost()
    bench.press("Escape")
    bench.sees_no_ghost()
    [said] = bench.wait(lambda: bench.wire.told("umbrella/feedback"), "the dismissal is reported")
    [item] = bench.wire.requests()[-1].items
    assert said == {"id": item["command"]["arguments"][0]["id"], "event": "dismissed"}
    assert bench.saved() == f"{POINT} = "


def test_typing_along_keeps_the_ghost_text_without_the_engine(bench: Workbench) -> None:
    ghost = block(bench, "along.py")
    with held(bench):
        for typed in range(1, 4):
            bench.type(ghost[typed - 1])
            bench.wait(lambda typed=typed: len(bench.wire.requests()) > typed, "a request for each key")
            bench.wait(lambda: bench.wire.requests()[-1].answer, "an answer without the engine")
            bench.sees(ghost[typed:])
    assert bench.saved() == BODY + ghost[:3]


def test_fast_typing_cancels_and_only_the_last_answer_shows(bench: Workbench) -> None:
    bench.edit("fast.py", POINT.removesuffix("self.y"))
    with held(bench):
        for number, letter in enumerate("self.y = ", 1):
            bench.type(letter)
            bench.wait(lambda number=number: len(bench.wire.requests()) >= number, "a request for each key")
        bench.sees_status("sync Umbrella")
    ghost = bench.sees_ghost()
    bench.sees_status(READY)
    *earlier, last = bench.wire.requests()
    assert last.texts[0] == ghost
    assert [request.error_code for request in earlier] == [CANCELLED] * len(earlier)


def test_a_trigger_asks_as_somebody_does_and_alternatives_can_be_gone_through(bench: Workbench) -> None:
    first = block(bench, "alternatives.py")
    request = bench.wire.requests()[-1]
    assert request.params["context"]["triggerKind"] == 1
    assert len(request.texts) > 1
    bench.press("Alt+BracketRight")
    bench.sees(request.texts[1])
    bench.press("Alt+BracketLeft")
    bench.sees(first)
    bench.press("Alt+BracketRight")
    bench.sees(request.texts[1])
    bench.press("Tab")
    bench.sees_no_ghost()
    assert bench.saved() == BODY + request.texts[1]


def test_tab_belongs_to_the_suggest_widget_while_that_is_open(bench: Workbench) -> None:
    bench.edit("widget.py", "coordinate_of_the_origin = 0\n\n\ndef origin():\n    return coord")
    bench.press("Control+Space")
    widget = bench.page.locator(".suggest-widget.visible .monaco-list-row.focused")
    widget.wait_for()
    assert "coordinate_of_the_origin" in (widget.get_attribute("aria-label") or "")
    bench.press("Tab")
    widget.wait_for(state="hidden")
    assert bench.saved().endswith("    return coordinate_of_the_origin")


def test_tab_is_a_tab_where_nothing_is_suggested(bench: Workbench) -> None:
    bench.edit("plain.txt", "")
    bench.press("Tab")
    assert bench.saved() == "    "


def test_further_lines_show_by_themselves_in_a_pause(bench: Workbench) -> None:
    bench.edit("pause.py", BODY[:-1])
    bench.type(" ")
    first = bench.sees_ghost()

    def whole() -> str:
        ghost, last = bench.ghost(), bench.wire.requests()[-1]
        return ghost if "\n" in ghost and ghost == last.texts[0] else ""

    assert bench.wait(whole, "what the server has come to").startswith(first)
    assert {request.params["context"]["triggerKind"] for request in bench.wire.requests()} == {2}
