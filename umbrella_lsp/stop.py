"""How far a suggestion goes: what the engine is told, and what is seen while text arrives. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from engine.protocol import StopSpec
from umbrella_lsp.context import CLOSERS, CompletionContext
from umbrella_lsp.document import indent_of
from umbrella_lsp.syntax import block_is_complete

_OPENERS = (":", "{", "(", "[")


@dataclass(frozen=True, slots=True)
class Extent:
    """How far one suggestion may go."""

    spec: StopSpec
    is_block: bool
    """Several lines are wanted; otherwise only the rest of the cursor's line."""
    if_line_is_complete: bool = False
    """Further lines are wanted only if the cursor's own lacks nothing."""

    def completes_line(self, text: str) -> bool:
        """Whether `text`, which goes on past its first line, has with that all that is wanted."""
        return self.if_line_is_complete and bool(text.partition("\n")[0].strip())


def is_only_closers(text: str) -> bool:
    """Whether `text` is nothing but what editors close by themselves and what may follow it."""
    return not text.strip(CLOSERS + ",;: \t")


def last_code_line(text: str) -> str:
    """The last line of `text` that is not blank, or ''."""
    return text.rstrip().rsplit("\n", 1)[-1]


def opens_block(line: str) -> bool:
    """Whether more lines, indented further, are to follow `line`."""
    return line.rstrip().endswith(_OPENERS)


def extent(context: CompletionContext, max_lines: int, *, invoked: bool = False) -> Extent:
    """Several lines after what opens a block and on an empty line; one everywhere else.

    Someone who asked (`invoked`) at the end of a line that is complete gets the lines that follow it.
    Blocks end where a line is indented less than the block's own lines.
    """
    before, after = context.before, context.after
    if not is_only_closers(after) or max_lines == 1:
        return Extent(StopSpec(max_lines=1), is_block=False)
    if not before.strip() and not after.strip():
        above = last_code_line(context.prefix)
        indent = indent_of(above) + 1 if opens_block(above) else 0
        return Extent(
            StopSpec(max_lines=max_lines, min_indent=max(indent, len(before)) or None), is_block=True
        )
    if opens_block(before) and not after.strip():
        # The cursor's own line is complete with the line's end that comes first.
        return Extent(StopSpec(max_lines=max_lines + 1, min_indent=indent_of(before) + 1), is_block=True)
    if invoked and not after.strip():
        spec = StopSpec(max_lines=max_lines + 1, min_indent=indent_of(before) or None)
        return Extent(spec, is_block=True, if_line_is_complete=True)
    return Extent(StopSpec(max_lines=1), is_block=False)


def lines_below(suffix: str) -> list[str]:
    """The lines after the cursor's own, without blank ones and trailing blanks."""
    return [line.rstrip() for line in suffix.split("\n")[1:] if line.strip()]


def is_done(context: CompletionContext, extent: Extent, text: str) -> bool:
    """Whether `text`, as generated so far, needs nothing more. To be asked when a line has been completed.

    That is so when it has begun to repeat what stands below the cursor, or when its block is left by a
    ``return`` or the like.
    """
    if not extent.is_block or "\n" not in text:
        return False
    if extent.completes_line(text):
        return True
    source = context.prefix + text[: text.rfind("\n")]
    below = lines_below(context.suffix)
    if below and len(below[0].strip()) > 2 and last_code_line(source) == below[0]:
        return True
    return block_is_complete(source, len(context.prefix), context.language)
