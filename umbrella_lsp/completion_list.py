"""Suggestions as items of an ordinary completion list, for editors that show no ghost text.

Made so that simple clients insert them right: a range on one line that begins with the word at the cursor,
plain text, nothing to resolve, and a text to filter by that begins with what is typed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lsprotocol import types

from umbrella_lsp.lsp import accepted_command, range_of

if TYPE_CHECKING:
    from umbrella_lsp.document import Document, PositionEncoding
    from umbrella_lsp.outcome import Outcome, Suggestion

TRIGGERS = (".", "(", "[", "{", "=", ",", ":")
"""Beside characters of words, after which every client asks. Not the blank: a list at each would be in the
way of somebody who does not want one."""
MAX_LABEL_CHARS = 80
"""Beside the word at the cursor."""

_WORD_END = re.compile(r"\w*\Z")
_FENCES = re.compile(r"`{3,}")


def completion_list(
    outcome: Outcome, encoding: PositionEncoding, about: dict[str, object], *, markdown: bool
) -> types.CompletionList:
    """The items of `outcome`, each with what is to be known `about` the answer as its command's argument.

    The list is incomplete: what is typed next may lead to other suggestions.
    """
    command = accepted_command(about)
    items = [
        _item(outcome.document, suggestion, number, encoding, markdown=markdown)
        for number, suggestion in enumerate(outcome.suggestions)
    ]
    for item in items:
        item.command = command
    return types.CompletionList(is_incomplete=True, items=items)


def word_before(document: Document, offset: int) -> str:
    """What of a word stands before `offset`."""
    start, _ = document.content.line_span(document.content.line_of(offset))
    found = _WORD_END.search(document.content.slice(start, offset))
    return found[0] if found else ""


def is_asked_for(context: types.CompletionContext | None, *, typed_just_now: bool) -> bool:
    """Whether somebody asked for the list, rather than an editor by itself while they typed.

    Many clients say `Invoked` for both. What tells them apart is what came before: a client asks by itself
    once the user has typed a character of a word, so the first request after such a key is taken for that.
    Who asks again in the same place, or after anything else, means it.
    """
    invoked = types.CompletionTriggerKind.Invoked
    return context is not None and context.trigger_kind == invoked and not typed_just_now


def _item(
    document: Document, suggestion: Suggestion, number: int, encoding: PositionEncoding, *, markdown: bool
) -> types.CompletionItem:
    word = word_before(document, suggestion.start)
    where = range_of(document, suggestion.start - len(word), suggestion.end, encoding)
    text = word + suggestion.text
    line = _line_to_show(word, suggestion.text)
    limit = len(word) + MAX_LABEL_CHARS  # Emacs undoes a label as if it began with the word.
    shown = line if len(line) <= limit else line[: limit - 1] + "…"
    return types.CompletionItem(
        shown,
        kind=types.CompletionItemKind.Text,
        detail="umbrella",
        documentation=_fenced(text, document.language) if markdown else text,
        preselect=False,
        # Before what others offer where a client finds both equally good: none of them begins with a blank.
        sort_text=f" {number}",
        filter_text=line,
        insert_text_format=types.InsertTextFormat.PlainText,
        insert_text_mode=types.InsertTextMode.AsIs,
        text_edit=types.TextEdit(where, text),
    )


def _line_to_show(word: str, text: str) -> str:
    """One line that begins with `word` and says what the suggestion is."""
    first, *others = text.splitlines() or [""]
    if first.strip():
        return word + first.rstrip() if word else first.strip()
    below = next((line.strip() for line in others if line.strip()), "")
    return f"{word} … {below}" if word else below


def _fenced(text: str, language: str) -> types.MarkupContent:
    """A block of code that no fence within the text can end."""
    fence = max([*_FENCES.findall(text), "``"], key=len) + "`"
    return types.MarkupContent(types.MarkupKind.Markdown, f"{fence}{language}\n{text}\n{fence}")
