"""What the engine is shown, and what of it stays while somebody types."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.protocol import Segment, SegmentFate
from tests.umbrella_lsp.cursor import at_cursor, context_at
from umbrella_lsp.activity import Activity
from umbrella_lsp.context import CompletionContext, Shown, build_context, known_reach
from umbrella_lsp.context.build import JUMP_LINES, MAX_APPENDED
from umbrella_lsp.context.segments import MAX_CONTEXT_CHARS, code_lines
from umbrella_lsp.context.windows import MAX_PREFIX_CHARS, MAX_SUFFIX_CHARS, shown_suffix, window_start
from umbrella_lsp.document import Document, Edit
from umbrella_lsp.index import Symbol, SymbolIndex, pack
from umbrella_lsp.syntax.facts import CursorSyntax, Definition
from umbrella_lsp.text import Text

SECRET = "hunter2hunter2"


def an_index(files: dict[str, str], language: str = "python") -> SymbolIndex:
    """Every line of a file is a function of the name that follows its first word."""
    index = SymbolIndex()
    for path, source in files.items():
        lines = {re.split(r"\W+", line)[1]: line for line in source.splitlines()}
        symbols = [Symbol(name, "function", path, language, 0, line) for name, line in lines.items()]
        index.update(path, pack(symbols))
    return index


def path_in_workspace(path: str) -> str:
    return path.removeprefix("/home/someone/")


def build(
    document: Document,
    offset: int,
    syntax: CursorSyntax | None = None,
    index: SymbolIndex | None = None,
    activity: Activity | None = None,
    shown: Shown | None = None,
    reach: int = MAX_PREFIX_CHARS,
) -> tuple[CompletionContext, Shown]:
    recent = activity.recent(document.uri) if activity else None
    return build_context(
        document,
        offset,
        name_of=path_in_workspace,
        syntax=syntax,
        index=index,
        recent=recent,
        shown=shown,
        reach=reach,
    )


def a_file(name: str, text: str, language: str = "python") -> Document:
    return Document.of(f"file:///home/someone/{name}", text, language, 1)


def beside(context: CompletionContext) -> tuple[Segment, ...]:
    """The segments but prefix and suffix."""
    return context.segments[2:]


def places(segments: Iterable[Segment]) -> list[tuple[str, str]]:
    return [(segment.kind, segment.path) for segment in segments]


# The cursor's own surroundings


def test_a_short_file_is_shown_whole_with_line_feeds() -> None:
    context = context_at("import os\r\n\r\nx = ‸os\r\n")
    assert (context.prefix, context.suffix) == ("import os\n\nx = ", "os\n")
    assert (context.before, context.after) == ("x = ", "os")
    assert [s.kind for s in context.segments] == ["prefix", "suffix"]
    assert {(s.path, s.language) for s in context.segments} == {("app.py", "python")}


def test_a_long_suffix_is_cut() -> None:
    assert len(context_at("x = ‸" + "y" * 9000).suffix) == MAX_SUFFIX_CHARS


@given(st.integers(0, 50_000), st.integers(1, 200), st.sampled_from([900, 3000, MAX_PREFIX_CHARS]))
def test_typing_moves_the_window_at_most_once(offset: int, typed: int, reach: int) -> None:
    text = Text.of("0123456789\n" * 5000)
    starts = {window_start(text, offset + n, reach) for n in range(typed)}
    assert len(starts) <= 2
    for start in starts:
        assert text.line_start(text.line_of(start)) == start
        assert offset - start <= reach
    assert offset < reach or offset - min(starts) >= reach - reach // 3 - 12


def test_a_window_into_one_endless_line_begins_within_it() -> None:
    text = Text.of("x" * 100_000)
    assert 0 < len(text) - window_start(text, len(text)) <= MAX_PREFIX_CHARS
    assert context_at("x = 1\n" + "y" * 50_000 + "‸").prefix.startswith("yyy")


@pytest.mark.parametrize(
    ("suffix", "shown_before", "shown"),
    [
        (")\nnext\n", '")])\nnext\n', '")])\nnext\n'),
        (")\nnext\n", "hello)\nnext\n", ")\nnext\n"),
        (")\nnext\n", "\nnext\n", "\nnext\n"),
        ('")]\nnext\n', "\nnext\n", "\nnext\n"),
        ("\n\t\nnext\n", "\nnext\n", "\nnext\n"),
        ("\nnext\n", "\n    \nnext\n", "\n    \nnext\n"),
        ("\nnext\n", "next\n", "\nnext\n"),
        ("next\n", "\nnext\n", "next\n"),
        ("next\n", "one\nnext\n", "next\n"),
        ("other\n", "one\n", "other\n"),
        ("one\n", "", "one\n"),
        ("", "", ""),
    ],
    ids=[
        "closers typed over",
        "a word passed",
        "closer",
        "closers",
        "blank line",
        "no blank line",
        "no longer on the line",
        "now on the line",
        "another line",
        "another place",
        "first time",
        "nothing",
    ],
)
def test_the_suffix_stays_as_it_was_while_its_line_is_typed(
    suffix: str, shown_before: str, shown: str
) -> None:
    assert shown_suffix(suffix, shown_before) == shown


def test_a_suffix_longer_than_its_window_stays_too() -> None:
    text = '"])' + "\nline" * 1000
    before = text[:MAX_SUFFIX_CHARS]
    assert shown_suffix(text[2 : MAX_SUFFIX_CHARS + 2], before) == before


def test_the_segment_may_be_stale_but_the_suffix_itself_never_is() -> None:
    document, offset = at_cursor("f(‸\n")
    _, shown = build(document, offset)
    context, _ = build(document.replaced(offset, offset, "a)"), offset + 1, shown=shown)
    assert context.suffix == ")\n"
    assert context.segments[1].text == "\n"


@pytest.mark.parametrize(("before", "after"), [(MAX_PREFIX_CHARS, 1200), (900, 900)])
def test_what_the_engine_drops_of_a_prefix_tells_how_far_it_reads(before: int, after: int) -> None:
    segments = (Segment("suffix", ""), Segment("prefix", "x" * 9000))
    reach = known_reach(before, segments, (SegmentFate(0, "kept", 0), SegmentFate(1, "trimmed", 400)))
    assert reach == after
    # In its next step it keeps more, and what is beyond is still not sure to be read.
    assert known_reach(reach, segments, (SegmentFate(1, "trimmed", 450),)) == reach
    assert known_reach(reach, segments, (SegmentFate(1, "kept", 1000),)) == 3000


# What lies around


FILLER = "".join(f"        self.value_{n} = {n}\n" for n in range(1000))
SCOPES = (
    Definition("class", "Shelf", 3, 1010, 0, "class Shelf:"),
    Definition("function", "fill", 4, 1010, 4, "def fill(\n        self,\n    ):"),
)


def in_a_long_file() -> tuple[Document, int]:
    head = "import os\nfrom shop import till\n\nclass Shelf:\n    def fill(\n        self,\n    ):\n"
    return at_cursor(f"{head}{FILLER}        ‸\n")


def test_imports_and_enclosing_headers_that_are_out_of_sight_are_shown_and_stable() -> None:
    document, offset = in_a_long_file()
    syntax = CursorSyntax(imports=("import os", "from shop import till"), scopes=SCOPES)
    context, _ = build(document, offset, syntax)
    assert len(context.prefix) <= MAX_PREFIX_CHARS
    assert context.prefix.startswith("        self.value_")
    assert [s.text for s in beside(context)] == [
        "import os\nfrom shop import till",
        "class Shelf:\n    def fill(\n        self,\n    ):",
    ]
    assert {s.stability for s in beside(context)} == {"stable"}


def test_without_a_grammar_indentation_tells_the_headers() -> None:
    context, _ = build(*in_a_long_file())
    assert [s.text for s in beside(context)] == ["class Shelf:\n    def fill("]


def test_a_file_that_the_engine_reads_whole_needs_neither() -> None:
    document, offset = at_cursor("import os\n\nclass Shelf:\n    def fill(self):\n        ‸\n")
    syntax = CursorSyntax(imports=("import os",), scopes=SCOPES)
    assert not beside(build(document, offset, syntax)[0])


def test_an_engine_that_reads_little_is_shown_what_it_does_not_reach() -> None:
    body = "".join(f"        print({n})\n" for n in range(100))
    document, offset = at_cursor(f"import os\n\nclass Shelf:\n    def fill(self):\n{body}        ‸\n")
    scopes = (Definition("class", "Shelf", 2, 200, 0, "class Shelf:"),)
    syntax = CursorSyntax(imports=("import os",), scopes=scopes)
    context, _ = build(document, offset, syntax, reach=600)
    assert [s.text for s in beside(context)] == ["import os", "class Shelf:"]
    assert context.prefix.startswith("import os")


def test_of_too_many_imports_those_in_use_are_shown_in_their_order() -> None:
    document, offset = in_a_long_file()
    imports = tuple(f"from package_number_{n} import name_{n}" for n in range(100))
    syntax = CursorSyntax(imports=imports, names=("name_3",))
    (shown,) = beside(build(document, offset, syntax)[0])
    lines = shown.text.split("\n")
    assert lines[0] == imports[3]
    assert lines[-1] == imports[-1]
    assert len(shown.text) <= 1000


def test_definitions_of_this_document_that_are_out_of_sight_are_shown() -> None:
    far = "def helper(x):\n    return x\n"
    document, offset = at_cursor("def near(): ...\n" + "near(helper(‸\n" + "\n" * MAX_SUFFIX_CHARS + far)
    line = document.content.line_count - 3
    definitions = (
        Definition("function", "near", 0, 0, 0, "def near():"),
        Definition("function", "helper", line, line + 1, 0, "def helper(x):"),
    )
    syntax = CursorSyntax(names=("helper", "near"), definitions=definitions)
    index = an_index({"other.py": "def helper(y): ..."})
    (shown,) = beside(build(document, offset, syntax, index)[0])
    assert (shown.text, shown.path, shown.stability) == (far.rstrip(), "app.py", "volatile")


def test_a_definition_comes_from_the_file_that_the_import_names() -> None:
    files = ("shop/shelf.py", "lib/tank.py", "x.py")
    index = an_index({path: f"def fill(): in {path}" for path in files})
    document, offset = at_cursor("from shop.shelf import fill\n\nfill(‸\n")
    syntax = CursorSyntax(imports=("from shop.shelf import fill",), names=("fill",))
    assert places(beside(build(document, offset, syntax, index)[0])) == [("definition", "shop/shelf.py")]


@pytest.mark.parametrize(
    ("language", "statement", "path", "others"),
    [
        ("python", "from .shelf import thing", "shop/shelf.py", ["lib/tank.py"]),
        ("python", "from shop import thing", "shop/__init__.py", ["lib/__init__.py"]),
        ("typescript", "import { thing } from './models/shelf'", "src/models/shelf.ts", ["src/tank.ts"]),
        ("typescript", "import { thing } from './shelf'", "shelf/index.ts", ["tank/index.ts"]),
        ("go", 'import "example.com/shop/shelf"', "shelf/new.go", ["tank/new.go"]),
        ("rust", "use crate::shelf::thing;", "src/shelf.rs", ["src/tank.rs"]),
        ("cpp", '#include "shelf.hpp"', "include/shelf.hpp", ["src/shelf.cpp", "include/tank.hpp"]),
        ("java", "import com.shop.Shelf;", "src/com/shop/Shelf.java", ["src/com/lib/Tank.java"]),
    ],
)
def test_imports_tell_files_apart_in_every_language(
    language: str, statement: str, path: str, others: Sequence[str]
) -> None:
    index = an_index({name: f"def thing(): in {name}" for name in (*others, path)}, language)
    document, offset = at_cursor(f"{statement}\nthing(‸\n", language)
    syntax = CursorSyntax(imports=(statement,), names=("thing",))
    assert places(beside(build(document, offset, syntax, index)[0])) == [("definition", path)]


def test_where_a_folder_is_a_package_no_import_is_needed() -> None:
    index = an_index({"shop/shelf.go": "func thing() {", "lib/tank.go": "func thing() ["}, "go")
    document = a_file("shop/till.go", "thing(", "go")
    context, _ = build(document, 6, CursorSyntax(names=("thing",)), index)
    assert places(beside(context)) == [("definition", "shop/shelf.go")]


@pytest.mark.parametrize(
    ("files", "imports", "why"),
    [
        ({"a.py": "def thing(): 1", "b.py": "def thing(): 2"}, (), "is defined in several files"),
        ({"a.py": "def thing(): 1"}, ("from json import thing",), "is imported from outside the workspace"),
    ],
)
def test_a_definition_that_may_be_another_one_is_left_out_and_said_so(
    files: dict[str, str], imports: tuple[str, ...], why: str
) -> None:
    document, offset = at_cursor("thing(‸\n")
    syntax = CursorSyntax(imports=imports, names=("thing",))
    context, _ = build(document, offset, syntax, an_index(files))
    assert not beside(context)
    assert [(left.what, left.why) for left in context.left_out] == [("thing", why)]


def test_what_lies_within_another_definition_is_meant_only_where_a_member_is() -> None:
    index = SymbolIndex()
    method = "    def now(self):\n        return 1"
    index.update("a.py", pack([Symbol("now", "function", "a.py", "python", 3, method)]))
    assert not beside(context_at("now = 1\nprint(now, ‸\n", index))
    assert [s.text for s in beside(context_at("clock.now(‸\n", index))] == [method]


def test_definitions_of_this_file_and_of_foreign_languages_are_not_taken_from_the_index() -> None:
    index = an_index({"app.py": "def thing(): ..."})
    index.update("a.go", pack([Symbol("thing", "function", "a.go", "go", 0, "func thing() {")]))
    assert not beside(context_at("thing(‸\n", index))


def test_a_name_that_is_still_being_typed_asks_for_nothing() -> None:
    index = an_index({"s.py": "def thing(): ..."})
    assert not beside(context_at("x = thing‸\n", index))
    assert beside(context_at("x = thing(‸\n", index))


def test_recent_edits_are_shown_as_the_code_is_now_the_newest_first() -> None:
    activity = Activity()
    one, other = a_file("one.py", "def first():\n    pass\n" * 3), a_file("other.py", "value = 1\n")
    for document, start, end, text in ((one, 17, 21, "return 7"), (other, 8, 9, "23")):
        activity.changed(document.replaced(start, end, text), (Edit(start, end, text),))
    document, offset = at_cursor("x = ‸\n")
    segments = beside(build(document, offset, activity=activity)[0])
    assert places(segments) == [("edit", "other.py"), ("edit", "one.py")]
    assert segments[0].text == "value = 23"
    assert segments[1].text == "def first():\n    return 7\ndef first():"


def test_an_edit_that_the_window_shows_is_not_shown_again() -> None:
    activity = Activity()
    document, offset = at_cursor("x = ‸\n")
    after = document.replaced(offset, offset, "1")
    activity.changed(after, (Edit(offset, offset, "1"),))
    assert not beside(build(after, offset + 1, activity=activity)[0])


def test_of_open_files_the_pieces_that_share_names_with_the_cursors_surroundings_are_shown() -> None:
    activity = Activity()
    alike = "def fill(shelf, books):\n    for book in books:\n        shelf.append(book)\n"
    noise = "".join(f"unrelated = {n}\n" for n in range(80))
    activity.opened(a_file("noise.py", noise))
    activity.opened(a_file("alike.py", noise + alike + noise))
    document, offset = at_cursor("def drain(shelf, books):\n    for book in books:\n        ‸\n")
    activity.opened(document)
    segments = beside(build(document, offset, activity=activity)[0])
    assert set(places(segments)) == {("snippet", "alike.py")}
    assert "shelf.append(book)" in segments[0].text
    assert all(line in noise + alike for line in segments[0].text.split("\n"))


# No text twice, no text without end, no secrets


def test_no_text_is_shown_twice() -> None:
    body = "def fill(shelf):\n    shelf.append(1)\n    return shelf\n"
    index = SymbolIndex()
    index.update("shelf.py", pack([Symbol("fill", "function", "shelf.py", "python", 0, body)]))
    activity = Activity()
    activity.opened(a_file("copy.py", body))
    shelf = a_file("shelf.py", body)
    activity.changed(shelf.replaced(0, 0, ""), (Edit(0, 0, ""),))
    document, offset = at_cursor("def drain(shelf):\n    fill(shelf)\n    return ‸\n")
    context, _ = build(document, offset, index=index, activity=activity)
    lines = [line for segment in context.segments for line in code_lines(segment.text)]
    assert places(beside(context)) == [("definition", "shelf.py")]
    assert len(set(lines)) == len(lines)
    assert {left.why for left in context.left_out} == {"is shown already"}


def test_what_is_shown_is_bounded_whatever_there_is() -> None:
    activity = Activity()
    index = SymbolIndex()
    names = tuple(f"name_{n}" for n in range(64))
    for number, name in enumerate(names):
        text = f"def {name}(\n" + "".join(f"    {name}_{n}={'1' * 30},\n" for n in range(11))
        index.update(f"{name}.py", pack([Symbol(name, "function", f"{name}.py", "python", 0, text)]))
        document = a_file(f"open_{number}.py", text * 50)
        activity.changed(document, (Edit(0, len(text), text),))
        activity.viewed(document, 5000)
    document, offset = at_cursor("".join(f"{name}()\n" for name in names[:20]) + "‸\n")
    context, _ = build(document, offset, CursorSyntax(names=names), index, activity)
    assert 8 <= len(beside(context)) <= 12
    assert sum(len(s.text) for s in beside(context)) <= MAX_CONTEXT_CHARS
    assert all(0 < s.rank < 0.9 for s in beside(context))


def test_secrets_that_are_open_edited_or_indexed_are_never_shown() -> None:
    activity, index = Activity(), SymbolIndex()
    for path in (".env", "deploy/id_rsa", "prod.env.local/.env.local", "secrets.py"):
        text = f"token = fill(shelf)\npassword = '{SECRET}'\n"
        index.update(path, pack([Symbol("token", "variable", path, "python", 0, text)]))
        document = a_file(path, text)
        activity.opened(document)
        activity.changed(document, (Edit(0, 5, "token"),))
        activity.viewed(document, 3)
    document, offset = at_cursor("token = fill(shelf)\npassword = ‸\n")
    context, _ = build(document, offset, CursorSyntax(names=("token",)), index, activity)
    assert not beside(context)
    assert SECRET not in repr(context)


# What stays while somebody types


def workspace() -> SymbolIndex:
    return an_index({f"m{n}.py": f"def helper_{n}(): ..." for n in range(40)})


def typed_along(text: str, at: str, index: SymbolIndex) -> list[CompletionContext]:
    """The contexts of every key while `text` is typed at the cursor of `at`."""
    document, offset = at_cursor(at)
    activity = Activity()
    activity.opened(a_file("open.py", "print(helper_1(total))\n" * 30))
    activity.opened(document)
    shown: Shown | None = None
    contexts: list[CompletionContext] = []
    for char in text:
        document = document.replaced(offset, offset, char)
        activity.changed(document, (Edit(offset, offset, char),))
        offset += 1
        activity.viewed(document, offset)
        context, shown = build(document, offset, None, index, activity, shown)
        contexts.append(context)
    return contexts


def test_forty_characters_in_a_line_change_nothing_but_the_prefix_or_append() -> None:
    at = "total = helper_0(helper_1(3))\n\n\ndef f():\n    ‸\n    return total\n"
    contexts = typed_along("total += helper_7(total, helper_8(9)) * 2", at, workspace())
    assert beside(contexts[0])
    for one, next_one in pairwise(contexts):
        assert next_one.segments[1] == one.segments[1]
        assert beside(next_one)[: len(beside(one))] == beside(one)
    added = beside(contexts[-1])[len(beside(contexts[0])) :]
    assert [s.path for s in added] == ["m7.py", "m8.py"]
    changes = sum(beside(a) != beside(b) for a, b in pairwise(contexts))
    assert changes == 2


def test_line_after_line_typed_in_one_place_keeps_what_is_shown() -> None:
    at = "total = helper_0(3)\n\n\ndef f():\n    ‸\n    return total\n"
    contexts = typed_along("\n    x = 1" * (JUMP_LINES - 1), at, workspace())
    assert len({context.segments[1:] for context in contexts}) == 1


def test_needing_many_new_definitions_makes_a_new_choice() -> None:
    many = ", ".join(f"helper_{n}()" for n in range(10, 13 + MAX_APPENDED))
    contexts = typed_along(f"f({many})", "total = helper_0()\nx = ‸\n", workspace())
    last = beside(contexts[-1])
    assert len(last) <= 8
    assert f"m{12 + MAX_APPENDED}.py" in {segment.path for segment in last}


def test_a_jump_makes_a_new_choice_that_keeps_the_order_of_what_it_shares() -> None:
    lines = ["helper_1(helper_2())", *["pass"] * (2 * JUMP_LINES), "helper_3(helper_2(helper_1()))", ""]
    document = a_file("app.py", "\n".join(lines))
    index = workspace()
    _, shown = build(document, len(lines[0]), index=index)
    near, kept = build(document, len(lines[0]) + 6, index=index, shown=shown)
    assert kept.segments == shown.segments
    far, _ = build(document, len(document.content), index=index, shown=shown)
    assert [s.path for s in beside(near)] == ["m2.py", "m1.py"]
    assert [s.path for s in beside(far)] == ["m2.py", "m1.py", "m3.py"]


def test_a_change_in_another_document_makes_a_new_choice() -> None:
    activity, (document, offset) = Activity(), at_cursor("x = ‸\n")
    other = a_file("other.py", "value = 1\n")
    activity.opened(other)
    context, shown = build(document, offset, activity=activity)
    assert not beside(context)
    activity.changed(other.replaced(8, 9, "2"), (Edit(8, 9, "2"),))
    context, _ = build(document, offset, activity=activity, shown=shown)
    assert [s.text for s in beside(context)] == ["value = 2"]


def test_syntax_that_comes_late_makes_a_new_choice_and_one_that_fails_to_come_none() -> None:
    document, offset = in_a_long_file()
    syntax = CursorSyntax(imports=("import os",), scopes=SCOPES)
    late, shown = build(document, offset)
    there, shown = build(document, offset, syntax, shown=shown)
    missing, _ = build(document, offset, None, shown=shown)
    assert beside(late) != beside(there) == beside(missing)


def test_syntax_of_an_earlier_text_tells_what_surrounds_a_cursor_and_nothing_of_the_cursor() -> None:
    document, offset = at_cursor("x\n" * 20_000 + "‸")
    facts = CursorSyntax(imports=("import elsewhere",), within="string", is_current=False)
    context, shown = build(document, offset, facts)
    assert "import elsewhere" in [segment.text for segment in beside(context)]
    assert context.syntax is None
    current, _ = build(document, offset, replace(facts, is_current=True), shown=shown)
    assert beside(current) == beside(context)
    assert current.syntax is not None


def test_words_in_strings_and_comments_are_no_names() -> None:
    document, offset = at_cursor("x = 1  # ‸\n")
    _, shown = build(document, offset, CursorSyntax(), workspace())
    document = document.replaced(offset, offset, "helper_1 is ")
    context, _ = build(document, offset + 12, CursorSyntax(within="comment"), workspace(), shown=shown)
    assert not beside(context)


def test_the_same_arguments_give_the_same_context() -> None:
    document, offset = in_a_long_file()
    assert build(document, offset, index=workspace()) == build(document, offset, index=workspace())
