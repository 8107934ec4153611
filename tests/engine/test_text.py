import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.protocol import StopReason, StopSpec
from engine.text import TextStream, find_cut

END = 0


def stream(spec: StopSpec) -> TextStream:
    """A stream whose tokens are code points, 0 being the end token."""
    return TextStream(chr, [END], spec)


def run(text: str, spec: StopSpec) -> tuple[str, StopReason | None]:
    """What is sent for `text`, in the pieces a client would see."""
    lines, sent = stream(spec), ""
    for character in text:
        reason = lines.push(ord(character))
        sent += lines.take()
        if reason:
            return sent + lines.finish(), reason
    return sent + lines.finish(), None


@pytest.mark.parametrize(
    ("spec", "text", "sent", "reason"),
    [
        (StopSpec(), "a\n  b", "a\n  b", None),
        (StopSpec(strings=("END",)), "abEENDc", "abE", StopReason.STRING),
        (StopSpec(strings=("bcd", "c")), "abcd", "ab", StopReason.STRING),
        (StopSpec(max_lines=1), "one\ntwo", "one", StopReason.LINES),
        (StopSpec(max_lines=2), "one\ntwo\nthree", "one\ntwo", StopReason.LINES),
        (StopSpec(min_indent=4), "x\n    y\nz", "x\n    y", StopReason.INDENT),
        (StopSpec(min_indent=4), "x\n\n    y\n\n\nz", "x\n\n    y", StopReason.INDENT),
        (StopSpec(min_indent=4), "x\n    y\n", "x\n    y\n", None),
    ],
)
def test_text_ends_where_its_stop_says(spec: StopSpec, text: str, sent: str, reason: StopReason | None):
    assert run(text, spec) == (sent, reason)


def test_an_end_token_ends_the_text_and_is_no_part_of_it():
    lines = stream(StopSpec())
    lines.push(ord("a"))
    assert lines.push(END) is StopReason.END
    assert lines.finish() == "a"


def test_the_stop_string_that_was_found_is_named():
    lines = stream(StopSpec(strings=("!!",)))
    for character in "ab!!":
        lines.push(ord(character))
    assert lines.stop_string == "!!"


SPECS = st.builds(
    StopSpec,
    strings=st.lists(st.text("ab\n ", min_size=1, max_size=3), max_size=2).map(tuple),
    max_lines=st.none() | st.integers(1, 3),
    min_indent=st.none() | st.integers(1, 3),
)


@given(st.text("ab\n ", max_size=25), SPECS)
def test_pieces_sent_add_up_to_the_text_before_the_cut_and_nothing_is_taken_back(text: str, spec: StopSpec):
    sent, reason = run(text, spec)
    assert text.startswith(sent)
    # The stream stops at the first cut there is; a later token cannot move it.
    first = next((cut for n in range(len(text) + 1) if (cut := find_cut(text[:n], spec))), None)
    assert (sent, reason) == ((text[: first.at], first.reason) if first else (text, None))
