"""The whole front end at cursors in files, rule by rule: what each adds to what the engine says by itself.

The parts are the server's own, put together without a server: the engine is asked over its socket, and
syntax is read in this process, so that no answer depends on how busy the machine is. A file's workspace is
the rest of its package.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Literal, get_args

from rich.console import Console
from rich.progress import track

from benchmarks.cursors import Cursor
from benchmarks.scoring import line_matches, score, share
from engine.client import EngineClient, InfillCall
from engine.launch import ensure_engine
from engine.protocol import Segment, StopSpec, UmbrellaRequest
from engine.training.corpus import SourceFile
from umbrella_lsp.activity import Activity
from umbrella_lsp.asking import Asker
from umbrella_lsp.document import Document
from umbrella_lsp.fit.postprocess import Fitted
from umbrella_lsp.fit.stop import is_silent_here
from umbrella_lsp.generation import Engine, Place
from umbrella_lsp.index import Packed, SymbolIndex, pack
from umbrella_lsp.memory import Memory
from umbrella_lsp.settings import Settings
from umbrella_lsp.syntax.cursor import cursor_syntax
from umbrella_lsp.syntax.facts import CursorSyntax, InsertedSyntax
from umbrella_lsp.syntax.grammar import load
from umbrella_lsp.syntax.inserted import inserted_syntax
from umbrella_lsp.syntax.languages import GRAMMARS
from umbrella_lsp.syntax.tree import SyntaxTree, outline
from umbrella_lsp.workspace.symbols import symbols_of

ROOT = Path("/workspace")
"""Where the files pretend to be. Nothing is read or written there."""
SETTINGS = Settings()

Row = Literal["bare engine", "+ document", "+ workspace", "+ stop", "+ post-processing", "+ silence"]
ROWS: tuple[Row, ...] = get_args(Row)
"""Each has all that is in the rows above it.

bare engine: the text before and after the cursor, and no more lines than the front end would ever show.
+ document: imports, enclosing scopes and definitions of the same file that the text does not show.
+ workspace: definitions from other files.
+ stop: the line, statement or block that is wanted decides where the text ends.
+ post-processing: the text is made to fit what stands around it.
+ silence: nothing amid a word, nor what the model itself does not think likely.
"""


class Trees:
    """The syntax of one file at a time, read in this process."""

    def __init__(self) -> None:
        self._document: Document | None = None
        self._tree: SyntaxTree | None = None

    def _tree_of(self, document: Document) -> SyntaxTree | None:
        if document is not self._document:
            grammar = GRAMMARS.get(document.language)
            self._tree = SyntaxTree(load(grammar), document.content.normalised()) if grammar else None
            self._document = document
        return self._tree

    async def at(self, document: Document, offset: int) -> CursorSyntax | None:
        tree = self._tree_of(document)
        return cursor_syntax(tree, offset) if tree else None

    async def inserted(self, document: Document, start: int, end: int, text: str) -> InsertedSyntax | None:
        tree = self._tree_of(document)
        return inserted_syntax(tree, start, end, text) if tree else None


class FrontEnd:
    """Answers cursors in `files`, as far as each row goes."""

    def __init__(self, engine: Engine, files: Sequence[SourceFile]) -> None:
        self._engine = engine
        self._trees = Trees()
        self._packages: dict[str, list[SourceFile]] = {}
        for file in files:
            self._packages.setdefault(file.package, []).append(file)
        self._symbols: dict[str, dict[str, Packed]] = {}

    async def answer(self, cursor: Cursor) -> dict[Row, Fitted]:
        """What each row shows. Raises EngineUnavailable and RequestError."""
        document = Document.of((ROOT / cursor.path).as_uri(), cursor.filled(""), cursor.language)
        offset = len(cursor.head) + len(cursor.prefix)
        memory = Memory()
        alone = await self._asker(memory, SymbolIndex()).place(document, offset)
        asker = self._asker(memory, self._workspace(cursor))
        place = await asker.place(document, offset)
        # First: an engine that has said the same before says it in fewer pieces.
        generation = asker.generate(place)
        while not generation.over:
            await generation.news()
        if generation.error is not None:
            raise generation.error
        bare = await self._text(place, place.context.segments[:2])
        own = await self._text(alone, alone.context.segments)
        is_same = place.context.segments == alone.context.segments
        shared = own if is_same else await self._text(place, place.context.segments)
        stopped = generation.raw
        if generation.stop == "complete":
            stopped = stopped[: stopped.rfind("\n")]
        left = next(memory.left(document, offset), None)
        fit = left.fitted if left else Fitted("")
        is_sure = left is not None and left.logprob >= math.log(SETTINGS.min_confidence)
        is_shown = is_sure and not is_silent_here(place.context, invoked=False)
        texts = (
            Fitted(bare),
            Fitted(own),
            Fitted(shared),
            Fitted(stopped),
            fit,
            fit if is_shown else Fitted(""),
        )
        return dict(zip(ROWS, texts, strict=True))

    def _asker(self, memory: Memory, index: SymbolIndex) -> Asker:
        asker = Asker(
            self._engine,
            self._trees,
            memory,
            index,
            Activity(),
            session="quality",
            speculative=True,
            ended=lambda _: None,
        )
        asker.settings, asker.roots = SETTINGS, (ROOT,)
        return asker

    async def _text(self, place: Place, segments: tuple[Segment, ...]) -> str:
        """What the engine says of `segments` if nothing but the number of lines ends it."""
        context = place.context
        request = UmbrellaRequest(
            segments=segments,
            path=context.path,
            language=context.language,
            session="bare",
            stop=StopSpec(max_lines=SETTINGS.max_lines),
        )
        call = InfillCall(umbrella=request, max_tokens=SETTINGS.max_tokens)
        return "".join([event.text async for event in self._engine.infill(call)])

    def _workspace(self, cursor: Cursor) -> SymbolIndex:
        """Symbols of the other files of the cursor's package."""
        if cursor.package not in self._symbols:
            files = self._packages.get(cursor.package, [])
            self._symbols[cursor.package] = {file.path: _symbols(file) for file in files}
        index = SymbolIndex()
        for path, packed in self._symbols[cursor.package].items():
            if path != cursor.path:
                index.update(path, packed)
        return index


def _symbols(file: SourceFile) -> Packed:
    definitions = outline(file.text, file.language).definitions
    return pack(symbols_of(file.path, file.text, file.language, definitions))


@dataclass(frozen=True, slots=True)
class Worth:
    """How good one row's answers are. Shares are from 0 to 1, and None where nothing is counted."""

    exact_match: float | None
    first_line_match: float | None
    edit_similarity: float | None
    parse_success: float | None
    empty: float | None
    shown_right: float | None
    """Of answers that are not empty: those whose first line is right."""
    characters_right: float
    """A cursor: of whole lines from the answer's first on that are what was expected, blanks aside."""
    characters_wrong: float
    """A cursor: of all others that were answered."""


def worth(places: Sequence[Cursor], answers: Sequence[Fitted]) -> Worth:
    """Judge the answers to `places` [at least 1]."""
    pairs = [(_with_replaced(place, fit), fit.text) for place, fit in zip(places, answers, strict=True)]
    scores = score([place for place, _ in pairs], [text for _, text in pairs])
    right = [_right(place.expected, text) for place, text in pairs]
    said = [sum(len(line.strip()) for line in text.split("\n")) for _, text in pairs]
    return Worth(
        scores.exact_match,
        scores.first_line_match,
        scores.edit_similarity,
        scores.parse_success,
        scores.empty,
        shown_right=share([line_matches(place, text) for place, text in pairs if text.strip()]),
        characters_right=round(fmean(right), 2),
        characters_wrong=round(fmean(said) - fmean(right), 2),
    )


def _with_replaced(place: Cursor, fit: Fitted) -> Cursor:
    """`place`, with what an answer takes the place of expected in it."""
    return replace(
        place, expected=place.expected + place.suffix[: fit.replaces], suffix=place.suffix[fit.replaces :]
    )


def _right(expected: str, text: str) -> int:
    count = 0
    for said, wanted in zip(text.split("\n"), expected.split("\n"), strict=False):
        if said.strip() != wanted.strip():
            break
        count += len(said.strip())
    return count


def by_language(
    places: Sequence[Cursor], answers: Sequence[Mapping[Row, Fitted]]
) -> dict[str, dict[str, object]]:
    """A table of `ROWS` for each language of `places` [n], and one for all where there are several."""
    languages = list(dict.fromkeys(place.language for place in places))
    groups = {language: {language} for language in languages}
    if len(languages) > 1:
        groups["all"] = set(languages)
    tables: dict[str, dict[str, object]] = {}
    for name, group in groups.items():
        at = [index for index, place in enumerate(places) if place.language in group]
        here = [places[index] for index in at]
        rows = {row: asdict(worth(here, [answers[index][row] for index in at])) for row in ROWS}
        tables[name] = {"prompts": len(at), **rows}
    return tables


@contextmanager
def own_engine(config: Path | None) -> Generator[EngineClient]:
    """A client of an engine of its own, which ends with it. Raises EngineUnavailable and ConfigError."""
    with tempfile.TemporaryDirectory(prefix="umb-") as folder:
        os.environ["UMBRELLA_RUNTIME_DIR"] = folder
        try:
            yield EngineClient(ensure_engine(config))
        finally:
            subprocess.run([sys.executable, "-m", "engine.cli", "stop"], check=False)


async def measure(
    client: EngineClient, files: Sequence[SourceFile], places: Sequence[Cursor]
) -> dict[str, dict[str, object]]:
    """Tables by language over `places`, whose packages are in `files`. Shows its progress on stderr."""
    front_end = FrontEnd(client, files)
    try:
        shown = track(places, "completing", console=Console(stderr=True))
        answers = [await front_end.answer(place) for place in shown]
    finally:
        await client.aclose()
    return by_language(places, answers)
