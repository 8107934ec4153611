"""What the user has open, edits and looks at, as far as prompts may know. Knows nothing of prompts.

Files that are not for prompts, secrets above all, are never taken in. What is kept is bounded, and the
places in it move with the edits that are made in front of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from umbrella_lsp.document import Document, Edit
from umbrella_lsp.exclude import is_secret

MAX_DOCUMENTS = 16
MAX_PLACES = 16
"""Edited ranges, and as many viewed places."""
MAX_EDIT_CHARS = 2_000
MAX_EDITS_AT_ONCE = 50
"""What changes more at once is a formatter or another tool, and says nothing of what the user is at."""
NEARBY_LINES = 3
"""Places that are no further apart are one."""


@dataclass(frozen=True, slots=True)
class LineRange:
    """Lines `first` to `last`, both included, of one version of a document."""

    document: Document
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Place:
    """Code points [`start`, `end`) of one version of a document."""

    document: Document
    start: int
    end: int

    def lines(self) -> LineRange:
        """The lines that it lies in."""
        content = self.document.content
        size = len(content)
        start, end = min(self.start, size), min(self.end, size)
        return LineRange(self.document, content.line_of(start), content.line_of(max(start, end - 1)))


@dataclass(frozen=True, slots=True)
class Recent:
    """What the user did lately, as of one moment; everything newest first."""

    documents: tuple[Document, ...] = ()
    edits: tuple[Place, ...] = ()
    views: tuple[Place, ...] = ()
    elsewhere: int = 0
    """Changes whenever a document other than the one that is asked about does."""


@dataclass(frozen=True, slots=True)
class _Span:
    """Code points [`start`, `end`) of a document as it is now."""

    uri: str
    start: int
    end: int

    def moved(self, edit: Edit) -> _Span | None:
        """Where it is after `edit`; None where nothing is left of it."""
        grown = len(edit.text) - (edit.end - edit.start)
        if edit.end <= self.start:
            return _Span(self.uri, self.start + grown, self.end + grown)
        if edit.start >= self.end:
            return self
        if edit.start <= self.start and edit.end >= self.end:
            return None
        start = min(self.start, edit.start)
        return _Span(self.uri, start, max(start, max(self.end, edit.end) + grown))


@dataclass(slots=True)
class _Places:
    """Spans, newest first, none close to another of its document."""

    spans: list[_Span] = field(default_factory=list[_Span])

    def add(self, document: Document, start: int, end: int) -> None:
        new = Place(document, start, end).lines()
        others: list[_Span] = []
        for span in self.spans:
            low, high = min(start, span.start), max(end, span.end)
            # Looked at by characters first: most places are far away, and finding lines takes longer.
            if span.uri == document.uri and high - low <= MAX_EDIT_CHARS:
                old = Place(document, span.start, span.end).lines()
                if old.first - NEARBY_LINES <= new.last and new.first <= old.last + NEARBY_LINES:
                    start, end = low, high
                    continue
            others.append(span)
        self.spans = [_Span(document.uri, start, end), *others][:MAX_PLACES]

    def move(self, uri: str, edits: Sequence[Edit]) -> None:
        moved = list[_Span]()
        for span in self.spans:
            left: _Span | None = span
            for edit in edits if span.uri == uri else ():
                left = left.moved(edit) if left else None
            if left:
                moved.append(left)
        self.spans = moved

    def forget(self, uri: str) -> None:
        self.spans = [span for span in self.spans if span.uri != uri]

    def of(self, documents: dict[str, Document]) -> tuple[Place, ...]:
        return tuple(
            Place(document, span.start, span.end)
            for span in self.spans
            if (document := documents.get(span.uri)) is not None
        )


class Activity:
    """The user's recent doings over all documents. Used from one event loop.

    `is_excluded` says of a path, or of the path part of a URI that is no file, whether prompts must not
    know of it.
    """

    def __init__(self, is_excluded: Callable[[str], bool] = is_secret) -> None:
        self._is_excluded = is_excluded
        self._documents: OrderedDict[str, Document] = OrderedDict()
        """The one last used is the last one."""
        self._changed: dict[str, int] = {}
        """Number of the last change of each of them."""
        self._changes = 0
        self._edits = _Places()
        self._views = _Places()

    def configure(self, is_excluded: Callable[[str], bool]) -> None:
        """Exclude other files from now on, those known already included."""
        self._is_excluded = is_excluded
        self._forget_excluded()

    def opened(self, document: Document) -> None:
        """A document was opened, or is shown again."""
        self._take(document)

    def changed(self, document: Document, edits: Sequence[Edit]) -> None:
        """`edits`, in order, each in the text that the one before left, have led to `document`."""
        if not self._take(document):
            return
        self._changes += 1
        self._changed[document.uri] = self._changes
        if len(edits) > MAX_EDITS_AT_ONCE:
            self._edits.forget(document.uri)
            self._views.forget(document.uri)
            return
        self._edits.move(document.uri, edits)
        self._views.move(document.uri, edits)
        size = len(document.content)
        for number, edit in enumerate(edits):
            if len(edit.text) > MAX_EDIT_CHARS:
                continue
            made: _Span | None = _Span(document.uri, edit.start, edit.start + len(edit.text))
            for later in edits[number + 1 :]:
                made = made.moved(later) if made else None
            if made and made.end <= size:
                self._edits.add(document, made.start, made.end)

    def viewed(self, document: Document, offset: int) -> None:
        """The cursor stands at `offset` of a document."""
        if self._take(document):
            self._views.add(document, offset, offset)

    def closed(self, uri: str) -> None:
        """A document was closed: what it holds is not the user's concern any more."""
        self._documents.pop(uri, None)
        self._changed.pop(uri, None)
        self._edits.forget(uri)
        self._views.forget(uri)

    def recent(self, uri: str) -> Recent:
        """What is known now, for a prompt about document `uri`."""
        self._forget_excluded()  # The workspace's rules are read in the background, and may change.
        return Recent(
            documents=tuple(reversed(self._documents.values())),
            edits=self._edits.of(self._documents),
            views=self._views.of(self._documents),
            elsewhere=max((at for other, at in self._changed.items() if other != uri), default=0),
        )

    def _forget_excluded(self) -> None:
        for uri in [uri for uri, known in self._documents.items() if self._is_excluded(known.path)]:
            self.closed(uri)

    def _take(self, document: Document) -> bool:
        """Keep a document's latest version, unless prompts must not know of it."""
        if self._is_excluded(document.path):
            self.closed(document.uri)
            return False
        self._documents[document.uri] = document
        self._documents.move_to_end(document.uri)
        if len(self._documents) > MAX_DOCUMENTS:
            self.closed(next(iter(self._documents)))
        return True
