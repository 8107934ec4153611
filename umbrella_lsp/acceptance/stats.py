"""What is said about what became of suggestions, on a terminal and in an editor. Only reads."""

from __future__ import annotations

from dataclasses import asdict
from io import StringIO
from itertools import groupby

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from umbrella_lsp.acceptance.tally import (
    EARLIER,
    Counts,
    Days,
    UnreadableTally,
    read_days,
    totals,
    user_file,
)
from umbrella_lsp.acceptance.watcher import EVERYTHING, OUTCOMES
from umbrella_lsp.errors import InputError

_SHORTER = {"contradicted": "instead"}
"""Headings that would take too much room: here, that something else was written instead."""
NOTHING = "Nothing is recorded yet: suggestions are counted as they are offered in an editor."


def recorded() -> Days:
    """What the user's file has counted. Raises InputError if it cannot be read."""
    file = user_file()
    try:
        return read_days(file) if file else {}
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}); check its permissions.") from error
    except UnreadableTally as error:
        raise InputError(f"{file} does not hold counts; remove it, and counting starts anew.") from error


def _figures(counts: Counts) -> dict[str, float]:
    return {"offered": counts.offered, **asdict(counts), "saved_per_opportunity": round(counts.saved_each, 3)}


def as_object(days: Days) -> dict[str, object]:
    """All figures, as ``--json`` prints them: over all days by tag, and of everything by day."""
    return {
        "opportunities": totals(days.values()).get(EVERYTHING, Counts()).offered,
        "totals": {tag: _figures(counts) for tag, counts in sorted(totals(days.values()).items())},
        "days": {day: _figures(tags.get(EVERYTHING, Counts())) for day, tags in sorted(days.items())},
    }


def table(days: Days) -> Table:
    """The figures for people: everything, then a section for each group of tags. Fits 80 columns."""
    first = min(days)  # Dates sort before `EARLIER`, and some day is always apart.
    title = f"Suggestions since {'before ' if EARLIER in days else ''}{first}"
    found = Table(title=title, box=SIMPLE_HEAD, title_justify="left", padding=0, show_edge=False)
    found.add_column(no_wrap=True)
    for heading in ("offered", *OUTCOMES, "saved", "each"):
        found.add_column(_SHORTER.get(heading, heading), justify="right", no_wrap=True)
    # `EVERYTHING` is the only tag without a group, and so a group by itself.
    rows = sorted(totals(days.values()).items(), key=lambda row: (row[0] != EVERYTHING, row[0]))
    for name, group in groupby(rows, key=lambda row: row[0].partition(":")[0]):
        if name != EVERYTHING:
            found.add_row(f"[bold]{name}[/bold]")
        for tag, counts in group:
            found.add_row(tag.partition(":")[2] or tag, *_cells(counts))
        found.add_section()
    return found


def text(days: Days) -> str:
    """The same as plain text, 80 columns wide."""
    if not days:
        return NOTHING
    console = Console(file=StringIO(), width=80, color_system=None)
    with console.capture() as captured:
        console.print(table(days))
    return "\n".join(line.rstrip() for line in captured.get().splitlines()).strip("\n")


def _cells(counts: Counts) -> list[str]:
    shares = (f"{getattr(counts, outcome) / counts.offered:.0%}" for outcome in OUTCOMES)
    return [str(counts.offered), *shares, str(counts.saved), f"{counts.saved_each:.1f}"]
