"""Texts that are cheap to change, whatever their size. Knows nothing of documents, positions or LSP.

A `Text` is a tuple of blocks of whole lines. An edit makes new blocks for the lines it touches and shares
the others, with everything that was ever found out about them. Offsets count code points, lines count from
zero and end at LF, CR LF or CR and nowhere else: a form feed, which `str.splitlines` would take for a
line's end, is an ordinary character to every editor.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

BLOCK_CHARS = 4096
"""About as many code points go into a block; a longer line is a block by itself."""

_LINE_END = re.compile(r"\r\n?|\n")
_SURROGATE = re.compile("[\ud800-\udfff]")
_PRIME = 2**60 - 3677
"""Half of what is before it is prime too, so the powers of 256 do not repeat within any text."""

_Hash = tuple[int, int]
"""The UTF-8 bytes of a text as a number, and by what a number before them moves up. (Rabin's fingerprint.)"""


def normalised(text: str) -> str:
    """`text` as parsers and the engine see it: lines end in LF, and every character can be encoded.

    A lone surrogate is valid in JSON but not in UTF-8; it becomes a replacement character.
    """
    if "\r" in text:
        text = _LINE_END.sub("\n", text)
    return text if text.isascii() else _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _hash(text: str) -> _Hash:
    data = _utf8(text)
    return int.from_bytes(data, "big") % _PRIME, pow(256, len(data), _PRIME)


def _joined(one: _Hash, other: _Hash) -> _Hash:
    """The hash of two texts in a row."""
    return (one[0] * other[1] + other[0]) % _PRIME, one[1] * other[1] % _PRIME


def _digest(hashed: _Hash) -> int:
    """With a one put before the bytes, so that zeros at the beginning count."""
    return sum(hashed) % _PRIME


@dataclass(frozen=True, eq=False)
class _Block:
    """Whole lines. Not slotted: what is derived from them is kept with them."""

    text: str

    @cached_property
    def line_ends(self) -> int:
        text = self.text
        if "\r" not in text:
            return text.count("\n")
        return text.count("\n") + text.count("\r") - text.count("\r\n")

    @cached_property
    def line_starts(self) -> tuple[int, ...]:
        """Where lines begin, the one after the last line end included."""
        return (0, *(match.end() for match in _LINE_END.finditer(self.text)))

    @cached_property
    def size_bytes(self) -> int:
        return len(self.text) if self.text.isascii() else len(_utf8(self.text))

    @cached_property
    def hash(self) -> _Hash:
        return _hash(self.text)

    @cached_property
    def changed_by_normalising(self) -> _Block | None:
        # None in the place of itself: what refers to itself is freed late.
        text = normalised(self.text)
        return None if text == self.text else _Block(text)


def _block_end(text: str, start: int) -> int:
    """The last line end within a block's size of `start`; if there is none, the first after it."""
    limit = start + BLOCK_CHARS
    end = max(text.rfind("\n", start, limit), text.rfind("\r", start, limit)) + 1
    if end:
        return end + (text[end - 1 : end + 1] == "\r\n")
    match = _LINE_END.search(text, limit)
    return match.end() if match else len(text)


def _blocks(text: str) -> tuple[_Block, ...]:
    """`text` in blocks, at least one, none but an only one empty; no CR LF lies across two."""
    blocks: list[_Block] = []
    start = 0
    # Twice the size, so that typing does not cut a block again and again.
    while len(text) - start > 2 * BLOCK_CHARS and (end := _block_end(text, start)) < len(text):
        blocks.append(_Block(text[start:end]))
        start = end
    return (*blocks, _Block(text[start:]))


class Text:
    """A text that never changes. Offsets that are asked about lie within it, its end included.

    Not slotted: what is derived from it is kept with it.
    """

    def __init__(self, blocks: tuple[_Block, ...]) -> None:
        """`Text.of` and `Text.replaced` make texts; every block but the last ends with a line end."""
        self._blocks = blocks
        # Code points and line ends before each block.
        self._offsets = tuple(accumulate((len(block.text) for block in blocks[:-1]), initial=0))
        self._lines = tuple(accumulate((block.line_ends for block in blocks[:-1]), initial=0))

    @staticmethod
    def of(text: str) -> Text:
        """The text that `text` is."""
        return Text(_blocks(text))

    def __len__(self) -> int:
        """Code points."""
        return self._offsets[-1] + len(self._blocks[-1].text)

    def __str__(self) -> str:
        """All of it: the one method whose cost is that of the whole text."""
        return "".join(block.text for block in self._blocks)

    def __repr__(self) -> str:
        # Without the text: it is the user's, and this may reach a log.
        return f"<Text of {self.line_count} lines>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Text) and line_edit(self, other) is None

    def __hash__(self) -> int:
        return self.digest_before(len(self))

    @property
    def blocks(self) -> tuple[str, ...]:
        """The text in pieces of whole lines. Texts made from each other share most of them."""
        return tuple(block.text for block in self._blocks)

    @property
    def line_count(self) -> int:
        """At least one: what follows the last line end is a line, be it empty."""
        return self._lines[-1] + self._blocks[-1].line_ends + 1

    def slice(self, start: int, end: int) -> str:
        """The text from `start` to `end`, either of which may lie outside of it."""
        start, end = max(start, 0), min(end, len(self))
        if start >= end:
            return ""
        first, last = self._block_at(start), self._block_at(end)
        pieces = [block.text for block in self._blocks[first : last + 1]]
        pieces[-1] = pieces[-1][: end - self._offsets[last]]
        pieces[0] = pieces[0][start - self._offsets[first] :]
        return "".join(pieces)

    def replaced(self, start: int, end: int, new: str) -> Text:
        """This text with `new` in the place of what lies from `start` to `end`.

        Costs what the touched blocks cost, and a step a block.

        Raises ValueError if `start` and `end` are not within the text, in this order.
        """
        if not 0 <= start <= end <= len(self):
            raise ValueError(f"cannot replace {start} to {end} in a text of {len(self)} characters")
        first, last = self._block_at(start), self._block_at(end)
        head = self._blocks[first].text[: start - self._offsets[first]]
        text = head + new + self._blocks[last].text[end - self._offsets[last] :]
        if first:
            before = self._blocks[first - 1].text
            # A CR LF that comes about stays in one block, and what has become small joins its neighbour.
            if len(text) < BLOCK_CHARS // 2 or (before.endswith("\r") and text.startswith("\n")):
                first -= 1
                text = before + text
        return Text(self._blocks[:first] + _blocks(text) + self._blocks[last + 1 :])

    def line_of(self, offset: int) -> int:
        """The line that holds `offset`. A line ending belongs to the line it ends."""
        block = self._block_at(offset)
        starts = self._blocks[block].line_starts
        return self._lines[block] + bisect_right(starts, offset - self._offsets[block]) - 1

    def line_start(self, line: int) -> int:
        """The offset of a line's first character; of a line past the last one, the text's end."""
        if line >= self.line_count:
            return len(self)
        block = bisect_right(self._lines, line) - 1
        return self._offsets[block] + self._blocks[block].line_starts[line - self._lines[block]]

    def line_span(self, line: int) -> tuple[int, int]:
        """Offsets of a line's first character and of its end, its line ending excluded."""
        start, end = self.line_start(line), self.line_start(line + 1)
        if line + 1 < self.line_count:
            end -= 2 if self.slice(max(start, end - 2), end) == "\r\n" else 1
        return start, end

    def line(self, line: int) -> str:
        """A line, its line ending excluded."""
        return self.slice(*self.line_span(line))

    def digest_before(self, offset: int) -> int:
        """A number of 60 bits for what lies before `offset`: the same for the same, else hardly ever."""
        block = self._block_at(offset)
        part = self._blocks[block].text[: offset - self._offsets[block]]
        return _digest(_joined(self._hashes_before[block], _hash(part)))

    def digest_after(self, offset: int) -> int:
        """The like of `digest_before` for what lies after `offset`."""
        block = self._block_at(offset)
        part = self._blocks[block].text[offset - self._offsets[block] :]
        return _digest(_joined(_hash(part), self._hashes_after[-1 - block]))

    def bytes_before(self, line: int) -> int:
        """UTF-8 bytes before a line's first character; before a line past the last one, those of all."""
        offset = self.line_start(line)
        block = self._block_at(offset)
        return self._bytes[block] + len(_utf8(self._blocks[block].text[: offset - self._offsets[block]]))

    def read(self, byte: int) -> bytes:
        """UTF-8 from `byte` on, as much as lies in one block; nothing at the text's end and past it.

        Valid UTF-8 where the text is normalised: what else there may be is a lone surrogate.
        """
        block = bisect_right(self._bytes, byte) - 1
        return _utf8(self._blocks[block].text)[byte - self._bytes[block] :]

    def normalised(self) -> Text:
        """This text as `normalised` leaves it, with the same lines; itself where nothing is to be done."""
        return self if self._changed_by_normalising is None else self._changed_by_normalising

    @cached_property
    def _changed_by_normalising(self) -> Text | None:
        if all(block.changed_by_normalising is None for block in self._blocks):
            return None
        return Text(tuple(block.changed_by_normalising or block for block in self._blocks))

    @cached_property
    def _bytes(self) -> tuple[int, ...]:
        """UTF-8 bytes before each block."""
        return tuple(accumulate((block.size_bytes for block in self._blocks[:-1]), initial=0))

    @cached_property
    def _hashes_before(self) -> tuple[_Hash, ...]:
        """Of all before each block."""
        return tuple(accumulate((block.hash for block in self._blocks[:-1]), _joined, initial=(0, 1)))

    @cached_property
    def _hashes_after(self) -> tuple[_Hash, ...]:
        """Of all after each block, the last block first."""
        blocks = (block.hash for block in self._blocks[:0:-1])
        return tuple(accumulate(blocks, lambda after, block: _joined(block, after), initial=(0, 1)))

    def _block_at(self, offset: int) -> int:
        """The block that holds the character at `offset`; the last one at the text's end."""
        return bisect_right(self._offsets, offset) - 1


@dataclass(frozen=True, slots=True)
class LineEdit:
    """Lines [`first`, `old_end`) of one text became lines [`first`, `new_end`) of another."""

    first: int
    old_end: int
    new_end: int


def line_edit(old: Text, new: Text) -> LineEdit | None:
    """What differs between two texts, in whole lines with their endings; None where nothing does.

    Blocks that both share cost a step each, the others what their lines cost.
    """
    blocks, others = old.blocks, new.blocks
    before, after = _equal_ends(blocks, others)
    if before == len(blocks) == len(others):
        return None
    lines = _lines_of(blocks[before : len(blocks) - after], is_last=not after)
    changed = _lines_of(others[before : len(others) - after], is_last=not after)
    same, last_same = _equal_ends(lines, changed)
    if same == len(lines) == len(changed):
        return None
    line = new.line_of(sum(map(len, others[:before])))
    return LineEdit(line + same, line + len(lines) - last_same, line + len(changed) - last_same)


def _equal_ends(one: Sequence[str], other: Sequence[str]) -> tuple[int, int]:
    """How many items two sequences begin with alike, and how many of the rest they end with alike."""
    fewest = min(len(one), len(other))
    start = next((at for at in range(fewest) if one[at] != other[at]), fewest)
    most = fewest - start
    return start, next((at for at in range(most) if one[-1 - at] != other[-1 - at]), most)


def _lines_of(blocks: Sequence[str], *, is_last: bool) -> list[str]:
    """Lines with their endings; where the text ends, the last one is what follows the last line end."""
    text = "".join(blocks)
    starts = [0, *(match.end() for match in _LINE_END.finditer(text))]
    return [text[start:end] for start, end in pairwise(starts)] + ([text[starts[-1] :]] if is_last else [])
