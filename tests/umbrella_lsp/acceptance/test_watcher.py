"""What is told of suggestions from how a document changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbrella_lsp.acceptance.watcher import Fate, Offer, Watcher
from umbrella_lsp.document import Document, Edit

URI = "file:///w/secret_project/a.py"


class Desk:
    """A document that is open, a cursor in it, and what is told of it."""

    def __init__(self, text: str, language: str = "python") -> None:
        before, _, after = text.partition("|")
        self.cursor = len(before)
        self.document = Document.of(URI, before + after, language, 1)
        self.fates: list[Fate] = []
        self.watcher = Watcher(self.fates.append)
        self.offers = 0

    def offer(self, text: str, **facts: Any) -> None:
        self.offers += 1
        self.watcher.offered(self.document, self.cursor, Offer(str(self.offers), text, **facts))

    def edit(self, *edits: Edit) -> None:
        before = self.document
        for edit in edits:
            self.document = self.document.replaced(edit.start, edit.end, edit.text)
            self.cursor = edit.start + len(edit.text)
        self.watcher.changed(before, edits, self.document)

    def insert(self, text: str, replaces: int = 0) -> None:
        self.edit(Edit(self.cursor, self.cursor + replaces, text))

    def type(self, keys: str) -> None:
        for key in keys:
            self.insert(key)

    def pair(self, pair: str) -> None:
        """Type an opener that the editor closes."""
        self.insert(pair)
        self.cursor -= 1

    def back(self, count: int = 1, right: int = 0) -> None:
        self.edit(Edit(self.cursor - count, self.cursor + right, ""))

    def undo_to(self, text: str, start: int) -> None:
        """Put `text` back where everything from `start` to the cursor stands."""
        self.edit(Edit(start, self.cursor, text))
        self.cursor = start

    def said(self) -> str:
        """The fates so far, a word each, with the counts that are not zero."""
        names = ("words", "lines", "saved")
        each = ([f.outcome, *(f"{n}={v}" for n in names if (v := getattr(f, n)))] for f in self.fates)
        return "; ".join(" ".join(one) for one in each)


Told = Callable[[Desk], object]

SEQUENCES: dict[str, tuple[str, list[Told], str]] = {
    "the whole at once is accepted": (
        "x = |\n",
        [lambda d: d.offer("call(1)"), lambda d: d.insert("call(1)"), lambda d: d.type("\n")],
        "accepted saved=7",
    ),
    "accepting counts once the user goes on, even without a key": (
        "x = |\n",
        [lambda d: d.offer("call(1)"), lambda d: d.insert("call(1)"), lambda d: d.offer(" + 1")],
        "accepted saved=7",
    ),
    "a word and then something else is a part": (
        "x = |\n",
        [lambda d: d.offer("one two"), lambda d: d.insert("one "), lambda d: d.type("q")],
        "partly words=1 saved=4",
    ),
    "words to the end are the whole": (
        "x = |\n",
        [
            lambda d: d.offer("one two"),
            lambda d: d.insert("one "),
            lambda d: d.insert("two"),
            lambda d: d.type("\n"),
        ],
        "accepted words=1 saved=7",
    ),
    "a line of a block is a part, and indentation that editors write saves nothing": (
        "if x:|\n",
        [
            lambda d: d.offer("\n    one()\n    two()"),
            lambda d: d.insert("\n    one()"),
            lambda d: d.type("q"),
        ],
        "partly lines=1 saved=6",
    ),
    "what is typed key by key saves nothing": (
        "x = |\n",
        [lambda d: d.offer("abc"), lambda d: d.type("abc"), lambda d: d.type("\n")],
        "typed",
    ),
    "what is typed before the rest is accepted is not saved": (
        "x = |\n",
        [
            lambda d: d.offer("abcdef"),
            lambda d: d.type("ab"),
            lambda d: d.insert("cdef"),
            lambda d: d.type("\n"),
        ],
        "accepted saved=4",
    ),
    "keys and an accept in one message are told apart": (
        "x = |\n",
        [
            lambda d: d.offer("abcdef"),
            lambda d: d.edit(Edit(4, 4, "a"), Edit(5, 5, "b"), Edit(6, 6, "cdef")),
            lambda d: d.watcher.closed(URI),
        ],
        "accepted saved=4",
    ),
    "keys that come in one message are typed": (
        "x = |\n",
        [
            lambda d: d.offer("abcdef"),
            lambda d: d.edit(Edit(4, 4, "a"), Edit(5, 5, "b")),
            lambda d: d.watcher.closed(URI),
        ],
        "left",
    ),
    "another key contradicts": (
        "x = |\n",
        [lambda d: d.offer("abc"), lambda d: d.type("aq")],
        "contradicted",
    ),
    "several suggestions along one run are one opportunity": (
        "x = |\n",
        [
            lambda d: d.offer("abc"),
            lambda d: d.type("a"),
            lambda d: d.offer("bc + def"),
            lambda d: d.type("b"),
            lambda d: d.offer("c + de"),
            lambda d: d.insert("c + de"),
            lambda d: d.type("\n"),
        ],
        "accepted saved=6",
    ),
    "an edit elsewhere leaves it": (
        "x = |\ny = 1\n",
        [lambda d: d.offer("abc"), lambda d: d.edit(Edit(9, 10, "2"))],
        "left",
    ),
    "as many characters elsewhere leave it too": (
        "abcd\nx = |\n",
        [lambda d: d.offer("abc"), lambda d: d.edit(Edit(0, 0, "ab"), Edit(4, 6, ""))],
        "left",
    ),
    "a suggestion elsewhere leaves it": (
        "x = |\ny = 1\n",
        [lambda d: d.offer("abc"), lambda d: setattr(d, "cursor", 10), lambda d: d.offer("2")],
        "left",
    ),
    "an undo takes an accept back": (
        "x = |\n",
        [lambda d: d.offer("abc"), lambda d: d.insert("abc"), lambda d: d.back(3), lambda d: d.type("q")],
        "contradicted",
    ),
    "an undo brings back what was replaced": (
        "f(|)\n",
        [
            lambda d: d.offer("a, b):", replaces=1),
            lambda d: d.insert("a, b):", replaces=1),
            lambda d: d.undo_to(")", 2),
            lambda d: d.insert("a, b):", replaces=1),
            lambda d: d.type("\n"),
        ],
        "accepted saved=6",
    ),
    "backspace returns along the suggestion": (
        "x = |\n",
        [
            lambda d: d.offer("abcd"),
            lambda d: d.type("ab"),
            lambda d: d.back(),
            lambda d: d.insert("bcd"),
            lambda d: d.type("\n"),
        ],
        "accepted saved=3",
    ),
    "a closer that the editor adds counts for nothing": (
        "x = |\n",
        [
            lambda d: d.offer("f(abc)"),
            lambda d: d.type("f"),
            lambda d: d.pair("()"),
            lambda d: d.offer("abc"),
            lambda d: d.insert("abc"),
            lambda d: d.watcher.closed(URI),
        ],
        "accepted saved=3",
    ),
    "a pair goes with its opener": (
        "x = |\n",
        [
            lambda d: d.offer("f(abc)"),
            lambda d: d.type("f"),
            lambda d: d.pair("()"),
            lambda d: d.back(1, right=1),
            lambda d: d.insert("(abc)"),
            lambda d: d.type("\n"),
        ],
        "accepted saved=5",
    ),
    "typing over a closer is typing along": (
        "f(a|)\n",
        [
            lambda d: d.offer(") + abc"),
            lambda d: d.insert(")", replaces=1),
            lambda d: d.insert(" + abc"),
            lambda d: d.type("\n"),
        ],
        "accepted saved=6",
    ),
    "typing over a closer that no message tells of is typing along": (
        "f(a|)\n",
        [
            lambda d: d.offer(") + abc", replaces=1),
            lambda d: setattr(d, "cursor", d.cursor + 1),
            lambda d: d.offer(" + abc"),
            lambda d: d.insert(" + abc"),
            lambda d: d.type("\n"),
        ],
        "accepted saved=6",
    ),
    "a deleted closer is no agreement": (
        "f(|)\n",
        [lambda d: d.offer("a)", replaces=1), lambda d: d.edit(Edit(2, 3, ""))],
        "contradicted",
    ),
    "return with the indentation after it is one key": (
        "if x:|\n",
        [
            lambda d: d.offer("\n    one()"),
            lambda d: d.insert("\n    "),
            lambda d: d.insert("one()"),
            lambda d: d.type("\n"),
        ],
        "accepted saved=5",
    ),
    "return between braces is one key": (
        "if (x) {|}\n",
        [
            lambda d: d.offer("\n    one();\n"),
            lambda d: d.edit(Edit(8, 8, "\n    \n")),
            lambda d: setattr(d, "cursor", 13),
            lambda d: d.insert("one();"),
            lambda d: d.watcher.closed(URI),
        ],
        "accepted saved=6",
    ),
    "line ends are the document's": (
        "if x:|\r\n",
        [
            lambda d: d.offer("\n    one()\n    two()"),
            lambda d: d.insert("\r\n    one()"),
            lambda d: d.type("q"),
        ],
        "partly lines=1 saved=6",
    ),
    "a shortest difference says the same": (
        "x = |a)\n",
        # "ab" put before "a)", as an editor tells it that looks for the first character that differs.
        [lambda d: d.offer("ab, "), lambda d: d.edit(Edit(5, 5, "b, a")), lambda d: d.watcher.closed(URI)],
        "accepted saved=4",
    ),
    "so does the whole text": (
        "x = |\n",
        [
            lambda d: d.offer("abc"),
            lambda d: d.edit(Edit(0, 5, "x = abc\n")),
            lambda d: d.watcher.closed(URI),
        ],
        "accepted saved=3",
    ),
    "an alternative may be the one accepted": (
        "x = |\n",
        [
            lambda d: d.offer("abc", alternatives=("axyz", "other")),
            lambda d: d.type("a"),
            lambda d: d.insert("xyz"),
            lambda d: d.type("\n"),
        ],
        "accepted saved=3",
    ),
    "one character accepted by key is typed, unless the editor says so": (
        "f(a|\n",
        [
            lambda d: d.offer(")"),
            lambda d: d.insert(")"),
            lambda d: d.watcher.accepted("1"),
            lambda d: d.type("\n"),
        ],
        "accepted saved=1",
    ),
    "an editor may say so before the text has changed": (
        "f(a|\n",
        [
            lambda d: d.offer(")"),
            lambda d: d.watcher.accepted("1"),
            lambda d: d.insert(")"),
            lambda d: d.type("\n"),
        ],
        "accepted saved=1",
    ),
    "what the editor says holds though it wrote something else": (
        "x = |\n",
        [lambda d: d.offer("a+b"), lambda d: d.watcher.accepted("1"), lambda d: d.insert("a + b")],
        "accepted saved=3",
    ),
    "a part that the editor tells of before the text has changed is counted once": (
        "x = |\n",
        [
            lambda d: d.offer("one two"),
            lambda d: d.watcher.accepted("1", 4),
            lambda d: d.insert("one "),
            lambda d: d.type("q"),
        ],
        "partly words=1 saved=4",
    ),
    "so is one that it tells of afterwards": (
        "x = |\n",
        [
            lambda d: d.offer("one two"),
            lambda d: d.insert("one "),
            lambda d: d.watcher.accepted("1", 4),
            lambda d: d.type("q"),
        ],
        "partly words=1 saved=4",
    ),
    "a part of one character is one if the editor says so": (
        "x = |\n",
        [
            lambda d: d.offer("(one)"),
            lambda d: d.insert("("),
            lambda d: d.watcher.accepted("1", 1),
            lambda d: d.type("q"),
        ],
        "partly words=1 saved=1",
    ),
    "parts are counted from where their item begins, in the editor's units": (
        "x = |\n",
        [
            lambda d: d.offer("😋one two"),
            lambda d: d.type("😋"),
            lambda d: d.offer("one 😋 two"),
            lambda d: d.watcher.accepted("2", 7),
            lambda d: d.insert("one 😋 "),
            lambda d: d.watcher.accepted("2", 7),
            lambda d: d.type("q"),
        ],
        "partly words=1 saved=6",
    ),
    "a part that was taken back is none": (
        "x = |\n",
        [
            lambda d: d.offer("one two"),
            lambda d: d.insert("one "),
            lambda d: d.watcher.accepted("1", 4),
            lambda d: d.back(4),
            lambda d: d.type("q"),
        ],
        "contradicted words=1",
    ),
    "parts to the end are the whole, though the editor tells of parts alone": (
        "x = |\n",
        [
            lambda d: d.offer("a b"),
            lambda d: d.watcher.accepted("1", 2),
            lambda d: d.insert("a "),
            lambda d: d.watcher.accepted("1", 3),
            lambda d: d.insert("b"),
            lambda d: d.type("\n"),
        ],
        "accepted words=1 saved=3",
    ),
    "an alternative that was accepted whole was": (
        "x = |\n",
        [
            lambda d: d.offer("abc", alternatives=("longer than that",)),
            lambda d: d.watcher.accepted("1"),
            lambda d: d.insert("longer than that"),
            lambda d: d.type("\n"),
        ],
        "accepted saved=16",
    ),
    "what is sent away is dismissed": (
        "x = |\n",
        [lambda d: d.offer("abc"), lambda d: d.watcher.dismissed("1"), lambda d: d.type("abc")],
        "dismissed",
    ),
    "what is sent away after a part of it was accepted is a part": (
        "x = |\n",
        [lambda d: d.offer("one two"), lambda d: d.insert("one "), lambda d: d.watcher.dismissed("1")],
        "partly words=1 saved=4",
    ),
    "an editor that says what it shows is believed about what it does not": (
        "x = |\n",
        [
            lambda d: d.offer("abc"),
            lambda d: d.watcher.shown("1"),
            lambda d: d.type("q"),
            lambda d: d.offer("rst"),
            lambda d: d.type("x"),
            lambda d: d.offer("y"),
            lambda d: d.type("y"),
            lambda d: d.watcher.close(),
        ],
        "contradicted",
    ),
    "what was accepted was shown, whatever an editor says": (
        "x = |\n",
        [
            lambda d: d.watcher.shown("nothing that is known"),
            lambda d: d.offer("abc"),
            lambda d: d.insert("abc"),
            lambda d: d.type("\n"),
        ],
        "accepted saved=3",
    ),
    "of what was accepted and then offered otherwise only what both say counts": (
        "x = |\n",
        [
            lambda d: d.offer("one two"),
            lambda d: d.watcher.accepted("1"),
            lambda d: d.offer("one"),
            lambda d: d.watcher.close(),
        ],
        "accepted saved=3",
    ),
    "an accept of what has ended is nothing": (
        "x = |\n",
        [
            lambda d: d.offer("abc"),
            lambda d: d.type("q"),
            lambda d: d.watcher.accepted("1"),
            lambda d: d.offer("r"),
        ],
        "contradicted",
    ),
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_what_is_told_of(name: str) -> None:
    text, steps, told = SEQUENCES[name]
    desk = Desk(text)
    for step in steps:
        step(desk)
    assert desk.said() == told


def test_an_opportunity_is_counted_under_how_it_was_offered_last_and_where_it_came_from_first() -> None:
    desk = Desk("x = |\n", language="my-own-language")
    desk.offer("abc\n    d", tier="draft", source="new", confidence=0.31)
    desk.type("a")
    desk.offer("bc\n    d", source="cache", confidence=1.0)
    desk.watcher.close()
    tags = {"all", "language:other", "tier:target", "source:new", "shape:block", "confidence:0.9"}
    assert set(desk.fates[0].tags) == tags


TEXTS = st.text(st.sampled_from("ab() \n😋"), max_size=6)


@given(st.data())
def test_whatever_happens_every_opportunity_ends_once(data: st.DataObject) -> None:
    desk = Desk(data.draw(TEXTS) + "|" + data.draw(TEXTS))
    for _ in range(data.draw(st.integers(1, 12))):
        size = len(desk.document.content)
        offered = desk.watcher.open
        steps = ["offer", "along", "edit", "edits", "accepted", "partly", "shown", "dismissed", "closed"]
        match data.draw(st.sampled_from(steps)):
            case "offer":
                desk.cursor = data.draw(st.integers(0, size))
                facts = {"replaces": data.draw(st.integers(0, 2)), "alternatives": (data.draw(TEXTS) + "a",)}
                desk.offer(data.draw(TEXTS) + "b", **facts)
                assert desk.watcher.open == 1
            case "along":
                desk.insert(data.draw(TEXTS))
            case "edit" | "edits" as kind:
                edits: list[Edit] = []
                for _ in range(1 if kind == "edit" else 3):
                    start = data.draw(st.integers(0, size))
                    end = data.draw(st.integers(start, size))
                    edits.append(Edit(start, end, data.draw(TEXTS)))
                    size += len(edits[-1].text) - (end - start)
                desk.edit(*edits)
            case "accepted":
                desk.watcher.accepted(str(desk.offers))
                assert desk.watcher.open == offered
            case "partly":
                desk.watcher.accepted(str(desk.offers), data.draw(st.integers(1, 9)))
                assert desk.watcher.open == offered
            case "shown":
                desk.watcher.shown(str(desk.offers))
                assert desk.watcher.open == offered
            case "dismissed":
                desk.watcher.dismissed(str(desk.offers))
            case _:
                desk.watcher.closed(URI)
                assert desk.watcher.open == 0
        assert desk.watcher.offers == len(desk.fates) + desk.watcher.open
    assert all(fate.saved >= 0 for fate in desk.fates)


@given(st.text(st.sampled_from("ab()😋"), min_size=2, max_size=8), TEXTS, TEXTS)
def test_what_is_accepted_whole_is_always_told(text: str, before: str, after: str) -> None:
    desk = Desk(before + "|" + after)
    desk.offer(text)
    desk.insert(text)
    desk.watcher.close()
    assert desk.said() == f"accepted saved={len(text)}"
