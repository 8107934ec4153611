"""What is known of the user's doings, and what never is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from umbrella_lsp.activity import MAX_DOCUMENTS, MAX_EDITS_AT_ONCE, MAX_PLACES, Activity, Place
from umbrella_lsp.document import Document, Edit


def a_document(name: str, text: str = "", scheme: str = "file") -> Document:
    return Document.of(f"{scheme}:///home/someone/{name}", text, "python", 1)


def typed(activity: Activity, document: Document, start: int, end: int, text: str) -> Document:
    after = document.replaced(start, end, text)
    activity.changed(after, (Edit(start, end, text),))
    return after


def spans(places: tuple[Place, ...]) -> list[tuple[str, int, int]]:
    lines = [place.lines() for place in places]
    return [(place.document.path.rpartition("/")[2], place.first, place.last) for place in lines]


def numbered(count: int) -> str:
    return "".join(f"line {number}\n" for number in range(count))


def test_what_is_typed_in_one_place_is_one_range_and_the_newest_comes_first() -> None:
    activity, document = Activity(), a_document("a.py", numbered(40))
    start = document.content.line_start(30)
    for number, char in enumerate("new\ncode"):
        document = typed(activity, document, start + number, start + number, char)
    document = typed(activity, document, 0, 4, "LINE")
    assert spans(activity.recent(document.uri).edits) == [("a.py", 0, 0), ("a.py", 30, 31)]


def test_ranges_move_with_edits_in_front_of_them() -> None:
    activity, document = Activity(), a_document("a.py", numbered(40))
    start = document.content.line_start(30)
    document = typed(activity, document, start, start, "x")
    activity.viewed(document, document.content.line_start(20))
    document = typed(activity, document, 0, 0, "one\ntwo\n")
    recent = activity.recent(document.uri)
    assert spans(recent.edits) == [("a.py", 0, 1), ("a.py", 32, 32)]
    assert spans(recent.views) == [("a.py", 22, 22)]


def test_what_is_deleted_takes_its_ranges_along() -> None:
    activity, document = Activity(), a_document("a.py", numbered(40))
    document = typed(activity, document, 100, 100, "x")
    document = typed(activity, document, 50, 200, "")
    assert len(activity.recent(document.uri).edits) == 1
    assert spans(activity.recent(document.uri).edits)[0][1] == document.content.line_of(50)


def test_what_a_tool_changes_all_at_once_is_not_what_the_user_is_at() -> None:
    activity, document = Activity(), a_document("a.py", "x\n" * 200)
    after = Document.of(document.uri, "y\n" * 200, "python", 2)
    activity.changed(after, tuple(Edit(2 * n, 2 * n + 1, "y") for n in range(MAX_EDITS_AT_ONCE + 1)))
    activity.changed(after, (Edit(0, len(after.content), str(after.content) * 10),))
    assert activity.recent("").edits == ()
    assert activity.recent("").documents == (after,)


def test_a_changed_document_counts_as_elsewhere_for_all_but_itself() -> None:
    activity, one, other = Activity(), a_document("a.py"), a_document("b.py")
    before = activity.recent(one.uri).elsewhere
    typed(activity, one, 0, 0, "x")
    assert activity.recent(one.uri).elsewhere == before
    assert activity.recent(other.uri).elsewhere != before


def test_secrets_are_never_taken_in_whatever_happens_to_them() -> None:
    activity = Activity()
    for name, scheme in ((".env", "file"), ("id_rsa", "vscode-remote"), (".ssh/config", "untitled")):
        document = a_document(name, "KEY=", scheme)
        activity.opened(document)
        activity.viewed(typed(activity, document, 4, 4, "hunter2"), 4)
    recent = activity.recent("")
    assert (recent.documents, recent.edits, recent.views, recent.elsewhere) == ((), (), (), 0)


def test_what_becomes_excluded_is_forgotten_with_all_its_ranges() -> None:
    activity, document = Activity(), a_document("plans.py", "x")
    activity.viewed(typed(activity, document, 0, 0, "y"), 1)
    activity.configure(lambda path: path.endswith("plans.py"))
    recent = activity.recent("")
    assert (recent.documents, recent.edits, recent.views) == ((), (), ())


def test_what_turns_out_to_be_excluded_while_it_is_open_is_forgotten_too() -> None:
    excluded = set[str]()
    activity, document = Activity(lambda path: path in excluded), a_document("plans.py", "x")
    activity.viewed(typed(activity, document, 0, 0, "y"), 1)
    assert activity.recent("").documents
    excluded.add(document.path)
    recent = activity.recent("")
    assert (recent.documents, recent.edits, recent.views) == ((), (), ())


def test_what_is_closed_is_forgotten_and_the_rest_is_bounded() -> None:
    activity = Activity()
    documents = [a_document(f"{number}.py", numbered(20)) for number in range(3 * MAX_DOCUMENTS)]
    for document in documents:
        after = typed(activity, document, 0, 0, "x")
        typed(activity, after, len(after.content), len(after.content), "y")
    activity.closed(documents[-1].uri)
    recent = activity.recent("")
    assert [d.uri for d in recent.documents] == [d.uri for d in reversed(documents[-MAX_DOCUMENTS:-1])]
    assert len(recent.edits) <= MAX_PLACES
    assert {place.document.uri for place in recent.edits} <= {d.uri for d in recent.documents}


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 8), st.text("ab\n", max_size=5)), max_size=20))
def test_whatever_is_edited_all_ranges_lie_within_the_document(edits: list[tuple[int, int, str]]) -> None:
    activity, document = Activity(), a_document("a.py", numbered(8))
    for at, size, text in edits:
        start = min(at, len(document.content))
        document = typed(activity, document, start, min(start + size, len(document.content)), text)
        activity.viewed(document, start)
        recent = activity.recent(document.uri)
        for place in (*recent.edits, *recent.views):
            lines = place.lines()
            assert 0 <= lines.first <= lines.last < document.content.line_count
        assert recent.edits
