"""Suggestions in ordinary completion lists, as clients without ghost text take them."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lsprotocol import types

from tests.umbrella_lsp.scripted_engine import Script
from tests.umbrella_lsp.window import URI, Editor, an_editor
from umbrella_lsp.acceptance.tally import read_days
from umbrella_lsp.completion_list import MAX_LABEL_CHARS, completion_list
from umbrella_lsp.document import Document, PositionEncoding
from umbrella_lsp.lsp import items as inline_items
from umbrella_lsp.outcome import Outcome, Suggestion

ABOUT: dict[str, object] = {"id": "s1"}
CODECS = {"utf-8": ("utf-8", 1), "utf-16": ("utf-16-le", 2), "utf-32": ("utf-32-le", 4)}
CHARS = "ab_1 .(){}\n\r\té€😋\u0301א$`"


def offset_of(text: str, position: types.Position, encoding: PositionEncoding) -> int:
    """Where a client that counts in `encoding` finds `position`."""
    ends = [0, *(match.end() for match in re.finditer(r"\r\n|\r|\n", text))]
    codec, width = CODECS[encoding]
    line = text[ends[position.line] :].encode(codec, "surrogatepass")
    return ends[position.line] + len(line[: position.character * width].decode(codec, "surrogatepass"))


def span_of(text: str, given: types.Range, encoding: PositionEncoding) -> tuple[int, int]:
    return offset_of(text, given.start, encoding), offset_of(text, given.end, encoding)


def edited(text: str, edit: types.TextEdit, encoding: PositionEncoding) -> str:
    start, end = span_of(text, edit.range, encoding)
    return text[:start] + edit.new_text + text[end:]


def edit_of(item: types.CompletionItem) -> types.TextEdit:
    assert isinstance(item.text_edit, types.TextEdit)  # An edit that is two confuses clients that know one.
    return item.text_edit


def chosen_in_emacs(text: str, offset: int, item: types.CompletionItem, encoding: PositionEncoding) -> str:
    """Puts the label in the place of the symbol at the cursor, undoes that and then does the edit, as eglot
    does: what is undone is only what stands behind the cursor as it was when the list was asked for.
    """
    symbol = offset - len(re.findall(r"\w*\Z", text[:offset])[0])
    label = item.label.lstrip()
    now = text[:symbol] + label + text[offset:]
    start, end = sorted((offset, symbol + len(label)))
    return edited(now[:start] + now[end:], edit_of(item), encoding)


@st.composite
def outcomes(draw: st.DrawFn) -> Outcome:
    text = draw(st.text(st.sampled_from(CHARS), max_size=30))
    word = draw(st.sampled_from(["", "", "ab", "é_1", "x" * (MAX_LABEL_CHARS + 3)]))
    line = draw(st.text(st.sampled_from("ab) ]😋"), max_size=5))
    below = draw(st.sampled_from(["", "\n", "\r\n    b = 1\r\n", "\rb"]))
    document = Document.of(URI, text + word + line + below)
    start = len(text) + len(word)
    end = start + draw(st.integers(0, len(line)))
    made = draw(st.lists(st.text(st.sampled_from(CHARS), min_size=1, max_size=30), min_size=1, max_size=3))
    return Outcome(document, "suggested", tuple(Suggestion(each, start, end) for each in made))


@given(outcomes(), st.sampled_from([*CODECS]), st.booleans())
def test_choosing_an_item_gives_the_text_that_taking_the_ghost_text_would(
    outcome: Outcome, encoding: PositionEncoding, markdown: bool
) -> None:
    before = outcome.document.text
    found = completion_list(outcome, encoding, ABOUT, markdown=markdown)
    inline = inline_items(outcome, encoding, ABOUT)
    assert len(found.items) == len(inline.items) == len(outcome.suggestions)
    for item, ghost, suggestion in zip(found.items, inline.items, outcome.suggestions, strict=True):
        assert ghost.range is not None
        assert isinstance(ghost.insert_text, str)
        after = edited(before, types.TextEdit(ghost.range, ghost.insert_text), encoding)
        assert edited(before, edit_of(item), encoding) == after
        assert chosen_in_emacs(before, suggestion.start, item, encoding) == after
        assert item.additional_text_edits is None
        assert item.command == ghost.command


@given(outcomes(), st.sampled_from([*CODECS]))
def test_an_item_is_found_by_the_word_at_the_cursor_and_shown_on_one_line(
    outcome: Outcome, encoding: PositionEncoding
) -> None:
    before = outcome.document.text
    found = completion_list(outcome, encoding, ABOUT, markdown=False)
    assert found.is_incomplete  # Or clients keep it, and never ask for what fits what is typed next.
    assert [item.sort_text for item in found.items] == sorted(str(item.sort_text) for item in found.items)
    for item, suggestion in zip(found.items, outcome.suggestions, strict=True):
        start, end = span_of(before, edit_of(item).range, encoding)
        typed = before[start : suggestion.start]
        assert re.fullmatch(r"\w*", typed)
        assert not re.search(r"\w\Z", before[:start])
        assert str(item.filter_text).startswith(typed)
        assert len((item.label + "|").splitlines()) == 1
        assert item.label.startswith(typed)
        assert edit_of(item).range.start.line == edit_of(item).range.end.line
        assert end == suggestion.end
        # Helix takes what is of the kind `Snippet` for one, whatever its format, and indents its lines anew.
        assert item.kind == types.CompletionItemKind.Text
        assert item.insert_text_format == types.InsertTextFormat.PlainText
        assert item.insert_text_mode == types.InsertTextMode.AsIs


class ListOnly:
    """An editor as Helix or Emacs has it: one document, a cursor, and a list as all there is to see."""

    def __init__(self, editor: Editor, text: str, cursor: int, encoding: PositionEncoding) -> None:
        self.text, self.cursor = text, cursor
        self._editor, self._version = editor, 1
        self._encoding: PositionEncoding = encoding
        editor.open(URI, text)

    def place(self, offset: int) -> types.Position:
        lines = re.split("\r\n|\r|\n", self.text[:offset])
        codec, width = CODECS[self._encoding]
        return types.Position(len(lines) - 1, len(lines[-1].encode(codec)) // width)

    def change(self, start: int, end: int, text: str) -> None:
        """Put `text` between two offsets, and the cursor behind it."""
        self._version += 1
        change = types.TextDocumentContentChangePartial(types.Range(self.place(start), self.place(end)), text)
        document = types.VersionedTextDocumentIdentifier(self._version, URI)
        self._editor.client.text_document_did_change(types.DidChangeTextDocumentParams(document, [change]))
        self.text, self.cursor = self.text[:start] + text + self.text[end:], start + len(text)

    async def listed(self) -> list[types.CompletionItem]:
        """What shows of the list: what fits the word at the cursor."""
        at = self.place(self.cursor)
        kind = types.CompletionTriggerKind.Invoked  # As both say, whoever asks.
        found = await self._editor.completions(URI, at.line, at.character, kind)
        word = re.findall(r"\w*\Z", self.text[: self.cursor])[0]
        fitting = [item for item in found if str(item.filter_text).startswith(word)]
        return sorted(fitting, key=lambda item: str(item.sort_text))

    def choose(self, item: types.CompletionItem) -> None:
        edit = edit_of(item)
        self.change(*span_of(self.text, edit.range, self._encoding), edit.new_text)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_who_has_only_a_list_is_offered_a_suggestion_and_then_what_follows_it(
    engine: Script,
    runtime_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    encoding: PositionEncoding,
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    engine.say("ret(")
    engine.say("\n        '😋', é\n    )")

    async def scenario() -> None:
        async with an_editor(runtime_dir) as editor:
            result = await editor.initialize(encoding=encoding, options={"completion_list": True})
            assert result.capabilities.completion_provider is not None
            above = "for é in '😋':\r\n    "
            shown = ListOnly(editor, f"{above}\r\n", len(above), encoding)
            for character in "sec":
                shown.change(shown.cursor, shown.cursor, character)
            for label in ("secret(", "'😋', é"):
                (item,) = await shown.listed()
                assert item.label == label
                shown.choose(item)
            assert shown.text == f"{above}secret(\r\n        '😋', é\r\n    )\r\n"
            await editor.end()

    asyncio.run(scenario())
    (day,) = read_days(tmp_path / "umbrella-lsp" / "acceptance.json").values()
    assert day["all"].accepted == 2
