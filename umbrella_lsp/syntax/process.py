"""The syntax process: ``python -m umbrella_lsp.syntax.process``, started by `client`.

Holds the documents that are asked about, and answers one question after the other. An answer takes no longer
to parse for than `PARSE_S`: where a document takes longer, it is answered by what was known before, and the
rest is done while nobody asks. It checks nothing and survives nothing: whoever started it sees that it has
ended or is late, and starts another.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread

from umbrella_lsp.parent import Parent
from umbrella_lsp.syntax.cursor import cursor_syntax
from umbrella_lsp.syntax.grammar import load
from umbrella_lsp.syntax.inserted import inserted_syntax
from umbrella_lsp.syntax.messages import Answer, Question
from umbrella_lsp.syntax.tree import SyntaxTree
from umbrella_lsp.text import Text

PARSE_S, PARSE_AGAIN_S = 0.008, 0.002
"""Of this process's own time, and what a document gets for which it was not enough the last time. Nearly all
edits of a text of 5,000 lines take less than both; where it has errors all over, a third of a second."""
IDLE_S = 0.15
"""So long after an answer the rest is begun: one who types has the machine to themselves."""
SWITCH_S = 0.001
"""How soon a question is noticed during a parse."""


def answer(trees: dict[str, SyntaxTree], question: Question, clock: Callable[[], float]) -> Answer:
    """The answer to a question. `trees`, by URI, are brought to what the question says of its document.

    `clock` tells the seconds that count as this process's own. What is new is parsed whatever it takes.
    """
    if question.forget is not None:
        trees.pop(question.forget, None)
    if question.whole is not None:
        trees[question.uri] = SyntaxTree(load(question.grammar), Text.of(question.whole))
    tree = trees[question.uri]
    end_s = clock() + (PARSE_AGAIN_S if tree.is_slow else PARSE_S)

    def stop() -> bool:
        return clock() > end_s

    # Once a text: what that was not enough for is done while nobody asks.
    if question.change is not None:
        tree.replace(question.change.start, question.change.end, question.change.text)
        if not tree.is_rubble:
            tree.catch_up(stop)
    if tree.is_rubble:
        return Answer()
    about = question.about
    if isinstance(about, int):
        return Answer(cursor=cursor_syntax(tree, about))
    return Answer(inserted=inserted_syntax(tree, about.start, about.end, about.text, stop))


def main() -> None:
    """Answer questions until the server wants no more."""
    sys.setswitchinterval(SWITCH_S)
    parent = Parent()
    questions = SimpleQueue[Question | None]()
    Thread(target=_read, args=(parent, questions), daemon=True).start()
    trees: dict[str, SyntaxTree] = {}
    behind: SyntaxTree | None = None
    while True:
        try:
            question = questions.get(timeout=None if behind is None else IDLE_S)
        except Empty:
            assert behind is not None
            behind.catch_up(lambda: not questions.empty())
            behind = None
            continue
        if question is None:
            return
        parent.send(answer(trees, question, time.thread_time))
        tree = trees[question.uri]
        behind = None if tree.is_current else tree


def _read(parent: Parent, questions: SimpleQueue[Question | None]) -> None:
    try:
        while (question := parent.receive(Question)) is not None:
            questions.put(question)
    finally:
        questions.put(None)


if __name__ == "__main__":
    main()
