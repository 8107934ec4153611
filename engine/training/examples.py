"""Training examples: files cut at a cursor and written through the daemon's own prompt template.

Owns what typing does to a prompt: where cursors fall, what the suffix looks like by then, which
context happens to be known. The rendering itself is `engine.templates`, so that the path the pair is
trained on is the path it is served on.
"""

from __future__ import annotations

import keyword
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from engine.protocol import Segment
from engine.templates import TEMPLATES, CodePrompt, Special
from engine.training.corpus import SourceFile

TEMPLATE = TEMPLATES["llama3-code"]
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
    max_suffix: int = 600
    max_context: int = 700


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


def _cursors(text: str, rng: random.Random) -> list[int]:
    """Offsets at which typing stood and the text was cut into separately encoded runs.

    Half of them anywhere, half just behind a blank within a line: ``self.name = `` is where people
    wait for a suggestion, and there the blank is a token of its own.
    """
    wanted = 1 + len(text) // 120
    anywhere = [rng.randrange(len(text) + 1) for _ in range(wanted)]
    blanks = [match.end() for match in re.finditer(r"\S (?=\S)", text)]
    return sorted({*anywhere, *rng.sample(blanks, k=min(wanted, len(blanks)))})


class ExampleMaker:
    """Turns files into token ids, one rendered prompt with its answer at a time."""

    def __init__(
        self, files: Sequence[SourceFile], tokenizer: PreTrainedTokenizerFast, mix: ExampleMix, seed: int
    ) -> None:
        self._files = files
        self._by_package: dict[str, list[SourceFile]] = defaultdict(list)
        names: set[str] = set()
        for file in files:
            self._by_package[file.package].append(file)
            names.update(w for w in WORD.findall(file.text[:2000]) if w.islower() and w not in RESERVED)
        self._names = sorted(names)
        self._encode = tokenizer.backend_tokenizer
        self._encode.encode_special_tokens = True
        self._mix = mix
        self._rng = random.Random(seed)

    def _special(self, token: str) -> int:
        known = self._encode.token_to_id(token)
        if known is None:
            raise ValueError(f"the tokenizer was trained without {token}")
        return known

    def _text_ids(self, text: str) -> list[int]:
        return self._encode.encode(text, add_special_tokens=False).ids if text else []

    def _neighbours(self, file: SourceFile) -> list[tuple[str, str]]:
        """Pieces of other files of the same package, each cut at line boundaries."""
        chosen: list[tuple[str, str]] = []
        for other in self._rng.sample(
            self._by_package[file.package], k=min(2, len(self._by_package[file.package]))
        ):
            if other is not file:
                start = self._rng.randrange(len(other.text))
                start = other.text.rfind("\n", 0, start) + 1
                piece = other.text[start : start + self._rng.randint(150, self._mix.max_context)]
                chosen.append((other.path, piece[: piece.rfind("\n") + 1] or piece))
        return chosen

    def example(self, file: SourceFile, start: int, end: int) -> list[int]:
        """The ids of one example: prompt, then ``file.text[start:end]`` as the answer, then the end token."""
        rng, mix = self._rng, self._mix
        code, suffix = file.text[start:end], ""
        if rng.random() < mix.suffix:
            skip = rng.randint(0, 200) if rng.random() < mix.stale_suffix else 0
            suffix = file.text[end + skip : end + skip + rng.randint(20, mix.max_suffix)]
        neighbours = self._neighbours(file) if rng.random() < mix.context else []
        if rng.random() < mix.rename:
            code, suffix, *pieces = _rename([code, suffix, *(p for _, p in neighbours)], self._names, rng)
            neighbours = [(path, piece) for (path, _), piece in zip(neighbours, pieces, strict=True)]
        prompt = CodePrompt(
            prefix=Segment("prefix", ""),
            suffix=Segment("suffix", suffix) if suffix else None,
            context=tuple(Segment("snippet", piece, path=path) for path, piece in neighbours),
            path=file.path,
            language="python",
        )
        ids: list[int] = []
        for piece in TEMPLATE.render(prompt):
            ids += [self._special(piece.token)] if isinstance(piece, Special) else self._text_ids(piece.text)
        previous = 0
        for cursor in [*_cursors(code, rng), len(code)]:
            ids += self._text_ids(code[previous:cursor])
            previous = cursor
        return [*ids, self._special(TEMPLATE.end_tokens[0])]

    def epoch(self) -> Iterator[list[int]]:
        """Every file once in random order, in windows that follow one another."""
        order = list(self._files)
        self._rng.shuffle(order)
        for file in order:
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


def pack(examples: Iterator[list[int]], length: int) -> NDArray[np.uint16]:
    """Join examples end to end and cut them into rows of `length` + 1 ids: [rows, length + 1]."""
    stream = np.fromiter((token for example in examples for token in example), dtype=np.uint16)
    rows = (len(stream) - 1) // length
    return np.stack([stream[i * length : i * length + length + 1] for i in range(rows)])
