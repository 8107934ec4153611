"""The syntax process: ``python -m umbrella_lsp.syntax.process``, started by `client`.

Holds the documents that are asked about, and answers one question after the other. It checks nothing and
survives nothing: whoever started it sees that it has ended or is late, and starts another.
"""

from __future__ import annotations

from umbrella_lsp.child import Parent
from umbrella_lsp.syntax.cursor import cursor_syntax
from umbrella_lsp.syntax.grammar import load
from umbrella_lsp.syntax.inserted import inserted_syntax
from umbrella_lsp.syntax.messages import Answer, Question
from umbrella_lsp.syntax.tree import SyntaxTree
from umbrella_lsp.text import Text


def answer(trees: dict[str, SyntaxTree], question: Question) -> Answer:
    """The answer to a question. `trees`, by URI, are brought to what the question says of its document."""
    if question.forget is not None:
        trees.pop(question.forget, None)
    if question.whole is not None:
        trees[question.uri] = SyntaxTree(load(question.grammar), Text.of(question.whole))
    tree = trees[question.uri]
    if question.change is not None:
        tree.replace(question.change.start, question.change.end, question.change.text)
    about = question.about
    if isinstance(about, int):
        return Answer(cursor=cursor_syntax(tree, about))
    return Answer(inserted=inserted_syntax(tree, about.start, about.end, about.text))


def main() -> None:
    """Answer questions until the server wants no more."""
    parent = Parent()
    trees: dict[str, SyntaxTree] = {}
    while (question := parent.receive(Question)) is not None:
        parent.send(answer(trees, question))


if __name__ == "__main__":
    main()
