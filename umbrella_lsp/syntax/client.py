"""The server's side of the syntax process: what to send it, how long to wait for it, when to replace it.

Knows documents, but neither tree-sitter nor what the answers mean.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from umbrella_lsp.child import Child, ChildGone
from umbrella_lsp.document import Document
from umbrella_lsp.syntax.facts import CursorSyntax, InsertedSyntax
from umbrella_lsp.syntax.languages import GRAMMARS, Grammar
from umbrella_lsp.syntax.messages import Answer, Question, Splice
from umbrella_lsp.text import Text, line_edit, normalised

MAX_CHARS = 3_000_000
"""Of a document: more than 50,000 lines. Longer ones are generated, and their first parse takes seconds."""
MAX_DOCUMENTS = 16
"""Held by the process: those asked about last."""
MAX_FAILURES = 2
"""So often may a language's grammar crash or hang; then the language has no grammar any more."""
AT_S = 0.08
INSERTED_S = 0.04
"""What an answer may take, on a busy machine. A late one is not for nothing: the document is then parsed for
the next key."""
HANG_S = 3.0
"""A process that is silent for so long hangs..."""
CHARS_PER_S = 300_000
"""... but for what a document takes to parse: more than ten times as long as on a machine at rest."""

_log = logging.getLogger(__name__)


class _Mirror(NamedTuple):
    """What the process holds of a document."""

    language: str
    text: Text


class SyntaxClient:
    """Asks a process of its own, which is started for the first question, about documents.

    Used from one event loop. Every answer may be None: for a language without a grammar, a document that is
    too long, an answer that is late, a grammar that is broken.
    """

    def __init__(self, grammars: Mapping[str, Grammar] = GRAMMARS, *, hang_s: float = HANG_S) -> None:
        self._grammars = grammars
        self._hang_s = hang_s
        self._child: Child | None = None
        self._mirrors: dict[str, _Mirror] = {}
        """By URI, the one asked about last last."""
        self._failures = Counter[str]()
        """By language."""
        self._exchange: asyncio.Task[Answer | None] | None = None
        """The last one begun. There is never more than one that is not done."""
        self._begun_s = 0.0
        """When that was."""

    async def at(self, document: Document, offset: int, *, within_s: float = AT_S) -> CursorSyntax | None:
        """What stands around `offset` of a document."""
        answer = await self._answer(document, _lf_offset(document, offset), within_s)
        return answer.cursor if answer else None

    async def inserted(
        self, document: Document, start: int, end: int, text: str, *, within_s: float = INSERTED_S
    ) -> InsertedSyntax | None:
        """What `text`, which has LF line ends, is in the place of `start` to `end` of a document."""
        splice = Splice(_lf_offset(document, start), _lf_offset(document, end), normalised(text))
        answer = await self._answer(document, splice, within_s)
        return answer.inserted if answer else None

    async def aclose(self) -> None:
        """End the process. Nothing may be asked afterwards."""
        if self._exchange is not None:
            self._exchange.cancel()
            with suppress(asyncio.CancelledError):
                await self._exchange
        await self._drop_child()

    async def _answer(self, document: Document, about: int | Splice, within_s: float) -> Answer | None:
        """The answer if it comes in time. A question whose turn does not come in time is never sent.

        An exchange that is late already, as the first one about a long document, is not waited for by
        one question after the other.
        """
        if document.language not in self._grammars or len(document.content) > MAX_CHARS:
            return None
        try:
            async with asyncio.timeout(within_s):
                while self._exchange is not None and not self._exchange.done():
                    async with asyncio.timeout_at(self._begun_s + within_s):
                        await asyncio.wait([self._exchange])
                if self._failures[document.language] >= MAX_FAILURES:
                    return None
                self._begun_s = asyncio.get_running_loop().time()
                self._exchange = asyncio.create_task(self._exchanged(document, about))
                # Once begun it goes to its end, whatever becomes of the caller: the next answer is another's.
                return await asyncio.shield(self._exchange)
        except TimeoutError:
            return None

    async def _exchanged(self, document: Document, about: int | Splice) -> Answer | None:
        """A question and its answer; None where the process had to be replaced."""
        try:
            async with asyncio.timeout(self._hang_s + len(document.content) / CHARS_PER_S):
                if self._child is None:
                    self._child = await Child.start("umbrella_lsp.syntax.process")
                await self._child.send(self._question(document, about))
                return await self._child.receive(Answer)
        except (ChildGone, TimeoutError):
            await self._drop_child()
            self._failures[document.language] += 1
            if self._failures[document.language] == MAX_FAILURES:
                _log.warning(
                    "the grammar of %s crashed or hung %d times and is not used any more: "
                    "its documents are completed by indentation",
                    document.language,
                    MAX_FAILURES,
                )
            return None

    def _question(self, document: Document, about: int | Splice) -> Question:
        """What to send, and by that, what the process holds from then on."""
        language, text = document.language, document.content.normalised()
        mirror = self._mirrors.pop(document.uri, None)
        self._mirrors[document.uri] = _Mirror(language, text)
        is_known = mirror is not None and mirror.language == language
        forget = next(iter(self._mirrors)) if len(self._mirrors) > MAX_DOCUMENTS else None
        if forget is not None:
            del self._mirrors[forget]
        return Question(
            document.uri,
            self._grammars[language],
            whole=None if is_known else str(text),
            change=_change(mirror.text, text) if mirror is not None and is_known else None,
            about=about,
            forget=forget,
        )

    async def _drop_child(self) -> None:
        child, self._child = self._child, None
        self._mirrors.clear()
        if child is not None:
            child.kill()
            await child.aclose()


def _lf_offset(document: Document, offset: int) -> int:
    """Where an offset is once all lines end in LF."""
    content, text = document.content, document.content.normalised()
    if content is text:
        return offset
    line = content.line_of(offset)
    start, end = content.line_span(line)
    return text.line_start(line) + min(offset, end) - start


def _change(old: Text, new: Text) -> Splice | None:
    """What makes one text into another; None if they are the same."""
    edit = line_edit(old, new)
    if edit is None:
        return None
    lines = new.slice(new.line_start(edit.first), new.line_start(edit.new_end))
    return Splice(old.line_start(edit.first), old.line_start(edit.old_end), lines)
