"""Prompts by language, against files that people read and edit.

A file in ``golden/context`` holds cases. A line that begins with ``@@`` begins a part of one: ``case`` and
its title; ``file`` and its path in the workspace, ``open`` if an editor has it open, ``edited`` and its
lines, counted from 1, if they were edited; ``cursor``, the path of the cursor's document and, with ``reach``,
how many characters the engine reads of it; then each segment that is to be sent beside prefix and suffix.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.protocol import Segment
from tests.umbrella_lsp.cursor import CURSOR
from umbrella_lsp.activity import Activity
from umbrella_lsp.context import build_context
from umbrella_lsp.context.windows import MAX_PREFIX_CHARS
from umbrella_lsp.document import Document, Edit, language_of
from umbrella_lsp.index import SymbolIndex, pack
from umbrella_lsp.syntax.cursor import cursor_syntax
from umbrella_lsp.syntax.grammar import load
from umbrella_lsp.syntax.languages import GRAMMARS
from umbrella_lsp.syntax.tree import SyntaxTree, outline
from umbrella_lsp.text import Text
from umbrella_lsp.workspace.symbols import symbols_of

GOLDEN = Path(__file__).parents[1] / "golden" / "context"
ROOT = "/home/someone/"
Part = tuple[str, str]
"""What follows ``@@``, and the lines below it."""


def parts_of(text: str) -> list[Part]:
    heads_and_bodies = [part.partition("\n") for part in f"\n{text}".split("\n@@ ")[1:]]
    return [
        (head, body if not body or body.endswith("\n") else f"{body}\n") for head, _, body in heads_and_bodies
    ]


def cases_of(text: str) -> list[list[Part]]:
    cases: list[list[Part]] = []
    for part in parts_of(text):
        if part[0].startswith("case "):
            cases.append([])
        cases[-1].append(part)
    return cases


def document_of(path: str, text: str) -> Document:
    return Document.of(f"file://{ROOT}{path}", text, language_of(path), 1)


def put_into(index: SymbolIndex, activity: Activity, words: list[str], text: str) -> None:
    path = words[0]
    language = language_of(path)
    index.update(path, pack(symbols_of(path, text, language, outline(text, language).definitions)))
    document = document_of(path, text)
    if "open" in words:
        activity.opened(document)
    if "edited" in words:
        first, last = (int(line) - 1 for line in words[-1].split("-"))
        start, end = document.content.line_start(first), document.content.line_span(last)[1]
        activity.changed(document, (Edit(start, end, document.content.slice(start, end)),))


def segments_at(
    path: str, marked: str, reach: int, index: SymbolIndex, activity: Activity
) -> tuple[Segment, ...]:
    before, after = marked.split(CURSOR)
    document = document_of(path, before + after)
    grammar = GRAMMARS.get(document.language)
    tree = SyntaxTree(load(grammar), Text.of(before + after)) if grammar else None
    context, _ = build_context(
        document,
        len(before),
        name_of=lambda path: path.removeprefix(ROOT),
        syntax=cursor_syntax(tree, len(before)) if tree else None,
        index=index,
        recent=activity.recent(document.uri),
        reach=reach,
    )
    return context.segments[2:]


def answered(case: list[Part]) -> str:
    """The case as it would stand in its file if all were right."""
    index, activity, lines = SymbolIndex(), Activity(), list[str]()
    for head, body in case:
        kind, *words = head.split()
        if kind not in ("case", "file", "cursor"):
            continue
        lines.append(f"@@ {head}\n{body}")
        if kind == "file":
            put_into(index, activity, words, body)
        elif kind == "cursor":
            reach = int(words[2]) if "reach" in words else MAX_PREFIX_CHARS
            for segment in segments_at(words[0], body, reach, index, activity):
                rank = f"{segment.rank:.2f}"
                lines.append(f"@@ {segment.kind} {segment.path} {segment.stability} {rank}\n{segment.text}\n")
    return "".join(lines)


@pytest.mark.parametrize(
    "name", ["c", "cpp", "go", "java", "javascript", "plain", "python", "rust", "tsx", "typescript"]
)
def test_what_is_sent_beside_prefix_and_suffix_is_as_written_down(name: str) -> None:
    expected = (GOLDEN / f"{name}.txt").read_text("utf-8")
    assert "".join(map(answered, cases_of(expected))) == expected
