"""A tree that follows edits says what a fresh one would."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umbrella_lsp.syntax.cursor import cursor_syntax
from umbrella_lsp.syntax.grammar import load
from umbrella_lsp.syntax.inserted import inserted_syntax
from umbrella_lsp.syntax.languages import GRAMMARS
from umbrella_lsp.syntax.tree import SyntaxTree, outline
from umbrella_lsp.text import Text

SOURCES = {
    "python": (
        "import os\nLIMIT = 3\n\n\nclass Wörter(dict):\n    größe: int = 0\n\n    def add(self, wort,\n"
        "            where=0):\n        local = [1, {'a': '😀'}]\n        return f'{wort}é'\n\n\n"
        "@decorated\nasync def run():\n    def inner():\n        pass\n    return inner\n"
    ),
    "typescript": (
        "import { a } from './a';\nexport const größe = 3;\n\nexport class Wort<T> extends Base {\n"
        "  private x: number = 1;\n  add(w: string): void {\n    const local = `😀${w}é`;\n    if (w) {\n"
        "      return;\n    }\n  }\n}\n\ninterface I { f(): void }\nconst f = (a) => {\n  return a;\n};\n"
    ),
    "c": (
        '#include "a.h"\nstruct S { int a; };\n\nstatic int *f(int a) {\n  int local = 1;\n  /* é😀 */\n'
        "  while (a) { a--; }\n  return 0;\n}\n\nint größe = 3;\n"
    ),
}
PIECES = (
    "",
    "\n",
    "    ",
    "x",
    "é😀",
    "(",
    ")",
    "{",
    "}",
    ":",
    '"',
    "def g():\n    pass\n",
    "// ",
    "# ",
    "y = 1\n",
)

edits = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 30), st.sampled_from(PIECES), st.floats(0, 1), st.booleans()),
    max_size=8,
)


@pytest.mark.parametrize("language", SOURCES)
@settings(max_examples=50, deadline=None)
@given(edits=edits)
def test_random_edits_lead_to_the_facts_of_a_fresh_parse(
    language: str, edits: list[tuple[float, int, str, float, bool]]
) -> None:
    text = SOURCES[language]
    grammar = load(GRAMMARS[language])
    tree = SyntaxTree(grammar, Text.of(text))
    for at, size, new, cursor, is_in_time in edits:
        start = round(at * len(text))
        end = min(start + size, len(text))
        text = text[:start] + new + text[end:]
        tree.replace(start, end, new)
        assert str(tree.text) == text
        offset = round(cursor * len(text))
        if not is_in_time:
            assert not cursor_syntax(tree, offset).is_current
            continue
        assert tree.catch_up()
        whole = [p for p in tree._held.placed if not p.is_broken]
        assert whole == sorted(p for p in tree._found(0, len(text)) if not p.is_broken)
        # Asking for what is not there changes nothing, and no place is one where a question fails.
        inserted_syntax(tree, offset, offset, "ü(\n")
        facts = cursor_syntax(tree, offset)
        fresh = SyntaxTree(grammar, Text.of(text))
        # How an error is recovered from depends on how it came about.
        if not tree.tree.root_node.has_error and not fresh.tree.root_node.has_error:
            assert facts == cursor_syntax(fresh, offset)
            found = outline(text, language)
            assert tree.imports == found.imports
            assert tuple(p.definition(tree.text) for p in tree.definitions()) == found.definitions


def test_a_key_in_a_long_file_looks_at_few_of_its_definitions(monkeypatch: pytest.MonkeyPatch) -> None:
    source = "".join(f"class C{n}:\n    def f{n}(self):\n        return {n}\n\n\n" for n in range(2_000))
    tree = SyntaxTree(load(GRAMMARS["python"]), Text.of(source))
    looked_at: list[str] = []
    placed_at = SyntaxTree._placed_at

    def counting(*arguments: object) -> object:
        placed = placed_at(*arguments)  # type: ignore[arg-type]
        looked_at.append(placed.name)
        return placed

    monkeypatch.setattr(SyntaxTree, "_placed_at", counting)
    offset = source.index("return 1000")
    tree.replace(offset, offset, "x = 1\n        ")
    tree.catch_up()
    assert set(looked_at) <= {"C1000", "f1000", "x"}
    assert [d.line for d in tree.named({"f999", "f1000", "f1001"}, 0, 9)] == [4996, 5001, 5007]
