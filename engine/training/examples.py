"""Training examples: files cut at a cursor and written through the daemon's own prompt template.

Owns what typing does to a prompt: where the cursor is, what the suffix looks like by then, which context
happens to be known. The rendering itself is `engine.templates`, so that the path a model is
trained on is the path it is served on.
"""

from __future__ import annotations

import keyword
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from engine.protocol import Segment
from engine.templates import CodePrompt, CodeTemplate, Special
from engine.tokenizer import Tokenizer
from engine.training.corpus import SourceFile

WORD = re.compile(r"[A-Za-z]{3,}")
RESERVED = {
    *keyword.kwlist,
    *("self", "cls", "init", "args", "kwargs", "str", "int", "len", "dict", "list", "tuple", "set"),
    *("bool", "range", "super", "print", "isinstance", "object", "property", "type"),
}


@dataclass(frozen=True, slots=True)
class ExampleMix:
    """Shares of what an example contains, and its lengths in characters."""

    window: int = 2200
    """Code before the end of the completion."""
    suffix: float = 0.55
    stale_suffix: float = 0.25
    context: float = 0.3
    rename: float = 0.3
    sibling: float = 0.1
    """Examples whose context holds the same code under other names, as a file's older twin would."""
    drill: float = 0.1
    """Rows of repeated random runs, as a share of the rows of code."""
    max_suffix: int = 600
    max_context: int = 700
    pieces: int = 2
    """Other files of the package that may be shown, at most."""


def _rename(texts: list[str], names: Sequence[str], rng: random.Random) -> list[str]:
    """Give some words of a file other names, alike in all `texts`, so that copying has to be learnt."""
    counts: dict[str, int] = defaultdict(int)
    for text in texts:
        for word in WORD.findall(text):
            counts[word] += 1
    candidates = [w for w, n in counts.items() if n >= 2 and w not in RESERVED and w.islower()]
    chosen = rng.sample(candidates, k=int(len(candidates) * rng.uniform(0.2, 0.6)))
    mapping = dict(zip(chosen, rng.sample(names, k=len(chosen)), strict=True))
    return [WORD.sub(lambda m: mapping.get(m.group(), m.group()), text) for text in texts]


def _end_of_middle(text: str, rng: random.Random) -> int:
    """An offset where a completion would end: mostly a line's end, sometimes within one or at the file's."""
    kind = rng.random()
    if kind < 0.15:
        return len(text)
    offset = rng.randrange(1, len(text) + 1)
    if kind < 0.8:
        line_end = text.find("\n", offset)
        return len(text) if line_end < 0 else line_end
    return offset


@dataclass(frozen=True, slots=True)
class Example:
    """One rendered prompt with its answer and the end token.

    Attributes:
        tokens: all ids.
        code_start: index of the first id of code that leads to the answer without a break: the prefix where
            the template ends with it, else the answer alone.

    """

    tokens: list[int]
    code_start: int


@dataclass(frozen=True, slots=True)
class Opening:
    """An example cut somewhere in its code, for a target to go on from."""

    tokens: tuple[int, ...]
    code_start: int
    """As in `Example`: what stands before it is the template's, and teaches nothing."""


class ExampleMaker:
    """Turns files into token ids, one rendered prompt with its answer at a time."""

    def __init__(
        self,
        files: Sequence[SourceFile],
        tokenizer: Tokenizer,
        template: CodeTemplate,
        mix: ExampleMix,
        seed: int,
    ) -> None:
        self._by_package: dict[str, list[SourceFile]] = defaultdict(list)
        names: set[str] = set()
        for file in files:
            self._by_package[file.package].append(file)
            names.update(w for w in WORD.findall(file.text[:2000]) if w.islower() and w not in RESERVED)
        self._names = sorted(names)
        self._tokenizer = tokenizer
        self._template = template
        self._end = tokenizer.special(template.end_tokens[0])
        self._mix = mix
        self._rng = random.Random(seed)

    def _neighbours(self, file: SourceFile) -> list[tuple[str, str]]:
        """Pieces of other files of the same package, each cut at line boundaries."""
        chosen: list[tuple[str, str]] = []
        package = self._by_package[file.package]
        for other in self._rng.sample(package, k=min(self._mix.pieces, len(package))):
            if other is not file:
                start = self._rng.randrange(len(other.text))
                start = other.text.rfind("\n", 0, start) + 1
                piece = other.text[start : start + self._rng.randint(150, self._mix.max_context)]
                chosen.append((other.path, piece[: piece.rfind("\n") + 1] or piece))
        return chosen

    def _twin(self, code: str) -> str:
        """A run of `code`'s lines with some of its names changed."""
        start = self._rng.randrange(len(code))
        run = code[code.rfind("\n", 0, start) + 1 :][: self._mix.max_context]
        return _rename([run], self._names, self._rng)[0] if self._rng.random() < 0.7 else run

    def example(self, file: SourceFile, start: int, end: int) -> Example:
        """A prompt from within ``file.text[start:end]``, answered with the rest of it."""
        rng, mix = self._rng, self._mix
        code, suffix = file.text[start:end], ""
        if rng.random() < mix.suffix:
            skip = rng.randint(0, 200) if rng.random() < mix.stale_suffix else 0
            suffix = file.text[end + skip : end + skip + rng.randint(20, mix.max_suffix)]
        neighbours = self._neighbours(file) if rng.random() < mix.context else []
        if rng.random() < mix.sibling:
            neighbours.append((file.path, self._twin(code)))
        if rng.random() < mix.rename:
            code, suffix, *pieces = _rename([code, suffix, *(p for _, p in neighbours)], self._names, rng)
            neighbours = [(path, piece) for (path, _), piece in zip(neighbours, pieces, strict=True)]
        typed = code[: rng.randrange(len(code) + 1)]
        # The word at the cursor is the answer's to write: see `engine.healing`.
        prefix = Segment("prefix", typed[: len(typed) - len(self._tokenizer.last_word(typed))])
        prompt = CodePrompt(
            prefix=prefix,
            suffix=Segment("suffix", suffix) if suffix else None,
            context=tuple(Segment("snippet", piece, path=path) for path, piece in neighbours),
            path=file.path,
            language=file.language,
        )
        ids: list[int] = []
        code_start = 0
        for piece in self._template.render(prompt):
            code_start = len(ids)
            if isinstance(piece, Special):
                ids.append(self._tokenizer.special(piece.token))
            else:
                ids += self._tokenizer.encode(piece.text)
            if isinstance(piece, Special) or piece.segment is not prefix:
                code_start = len(ids)
        ids += self._tokenizer.encode(code[len(prefix.text) :])
        return Example([*ids, self._end], code_start)

    def epoch(self) -> Iterator[Example]:
        """Every file once, in windows that follow one another.

        Packages come in random order and their files together, so that what is read at once is of one
        repository and one file can help with the next.
        """
        packages = list(self._by_package.values())
        self._rng.shuffle(packages)
        for file in (file for package in packages for file in self._rng.sample(package, k=len(package))):
            start = 0
            while start < len(file.text) - 50:
                limit = min(len(file.text), start + self._rng.randint(300, self._mix.window))
                end = start + _end_of_middle(file.text[start:limit], self._rng)
                if end - start >= 40:
                    yield self.example(file, start, end)
                # A window is followed by the rest of the file, cut at a line as a trimmed prompt is.
                start = file.text.rfind("\n", 0, max(end, start + 41)) + 1 if end < len(file.text) else end
                if end - start > 41:
                    start = end

    def openings(self, length: int) -> Iterator[Opening]:
        """Prompts of at most `length` tokens, each cut at a random token of its code; those that fit."""
        while True:
            found = False
            for example in self.epoch():
                first, last = example.code_start + 1, min(length, len(example.tokens) - 1)
                if first < last:
                    found = True
                    cut = self._rng.randint(first, last)
                    yield Opening(tuple(example.tokens[:cut]), example.code_start)
            if not found:
                return
