"""The command ``umbrella-complete``: one suggestion for one place in a file, on stdout.

Exit codes: 0 a suggestion, 1 none, 2 bad usage, 3 no engine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import stat
import sys
from collections.abc import Sequence
from contextlib import aclosing, suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from engine import __version__
from umbrella_lsp.document import Document, language_of
from umbrella_lsp.errors import EngineUnavailable, InputError, UmbrellaError
from umbrella_lsp.exclude import is_secret
from umbrella_lsp.settings import Settings

if TYPE_CHECKING:
    from engine.client import Endpoint
    from umbrella_lsp.link import EngineLink
    from umbrella_lsp.outcome import Outcome

EXIT_SUGGESTION, EXIT_NOTHING, EXIT_USAGE, EXIT_NO_ENGINE, EXIT_INTERRUPTED = 0, 1, 2, 3, 130
MAX_FILE_BYTES = 10_000_000
SETTINGS = Settings(alternatives=1)
"""What an editor's user may choose otherwise stays as it is, but that one text is printed."""
READING_S = 0.25
"""How long reading the workspace, of which what is nearest comes first, may take once all else is there."""
PARSING_S = 1.0
"""What the syntax of the document may take, the start of the process that knows it included."""
SESSION = "umbrella-complete"
"""One slot of the engine for all runs, so that they do not take an editor's."""

_PLACE = re.compile(r"(?P<file>.+?)(?::(?P<line>\d{1,9}))(?::(?P<column>\d{1,9}))?", re.DOTALL)
_FILE_WITH_COLON = re.compile(r"(?P<file>.+):(?P<line>\d{1,9})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Place:
    """A file and a place in it, as people count: from 1. Without a column, the line's end."""

    file: Path
    line: int
    column: int | None = None


def parse_place(text: str) -> Place:
    """``FILE:LINE[:COLUMN]``. Where a file's name has colons itself, the reading that names a file wins."""
    readings = [m for pattern in (_PLACE, _FILE_WITH_COLON) if (m := pattern.fullmatch(text))]
    if not readings:
        raise InputError(f"{text} names no line; write FILE:LINE or FILE:LINE:COLUMN, counted from 1.")
    # Unlike `Path.exists`, `os.path.exists` takes a name that cannot be looked up for one not there.
    chosen = next((m for m in readings if os.path.exists(m["file"])), readings[0])  # noqa: PTH110
    column = chosen.groupdict().get("column")
    return Place(Path(chosen["file"]), int(chosen["line"]), int(column) if column else None)


def read_text(file: Path) -> str:
    """The text of a file, its line endings as they are. Raises InputError if it is not for completing."""
    try:
        status = file.stat()
        if stat.S_ISDIR(status.st_mode):
            raise InputError(f"{file} is a directory; name a file in it.")
        if not stat.S_ISREG(status.st_mode):  # Opening a pipe could block, and a device may never end.
            raise InputError(f"{file} is a device or a pipe; name a text file.")
        with file.open("rb") as opened:
            # The size a file states is not always its own: it may grow, and those in /proc state none.
            data = opened.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise InputError(f"There is no file {file}; check its name.") from error
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}); check its permissions.") from error
    if len(data) > MAX_FILE_BYTES:
        raise InputError(f"{file} has more than {MAX_FILE_BYTES / 1e6:.0f} MB; name a smaller file.")
    if not data:
        raise InputError(f"{file} is empty, so there is nothing to continue; write a first line.")
    if b"\0" in data:
        raise InputError(f"{file} is a binary file; name a text file.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 from byte {error.start} on; save it as UTF-8.") from error


def offset_of(document: Document, place: Place) -> int:
    """The offset of `place`. Raises InputError if the document has no such line or column."""
    lines = document.content.line_count
    if not 1 <= place.line <= lines:
        raise InputError(f"{place.file} has lines 1 to {lines}, so there is no line {place.line}.")
    start, end = document.content.line_span(place.line - 1)
    if place.column is None:
        return end
    columns = end - start + 1
    if not 1 <= place.column <= columns:
        raise InputError(
            f"Line {place.line} of {place.file} has columns 1 to {columns}, "
            f"so there is no column {place.column}."
        )
    return start + place.column - 1


def project_of(folder: Path) -> Path:
    """The nearest directory around `folder`, itself included, that looks like a project's; else `folder`."""
    from umbrella_lsp.workspace.walk import PROJECT_MARKS

    for path in (folder, *folder.parents):
        if any(os.path.lexists(path / mark) for mark in PROJECT_MARKS):
            return path
    return folder


async def _complete(document: Document, offset: int, config: Path | None, speculative: bool) -> Outcome:
    # Imported here so that a wrong place is reported at once; and what starts processes before what does not,
    # so that they get ready while this one imports the rest.
    if is_secret(document.path):
        from umbrella_lsp.outcome import Outcome

        return Outcome(document, "secret")
    from umbrella_lsp.index import SymbolIndex
    from umbrella_lsp.syntax.client import SyntaxClient
    from umbrella_lsp.workspace.client import Workspace

    folder = Path(document.path).parent
    roots = (project_of(folder),)
    syntax, index = SyntaxClient(), SymbolIndex()
    workspace = Workspace(index, in_background=False)
    async with aclosing(syntax), aclosing(workspace):
        workspace.configure(roots, SETTINGS, "", near=folder)
        _, link = await asyncio.gather(syntax.at(document, offset, within_s=PARSING_S), _connected(config))
        async with aclosing(link):
            with suppress(TimeoutError):
                async with asyncio.timeout(READING_S):
                    await workspace.settled()
            from umbrella_lsp.completer import Completer
            from umbrella_lsp.names import digest

            session = digest(SESSION)
            completer = Completer(
                link,
                syntax,
                index=index,
                roots=roots,
                settings=SETTINGS,
                session=session,
                speculative=speculative,
            )
            try:
                return await completer.complete(document, offset, invoked=True)
            finally:
                completer.close()


async def _connected(config: Path | None) -> EngineLink:
    """A way to the engine, once one answers; and all that is needed to ask it, imported."""
    await asyncio.to_thread(import_module, "umbrella_lsp.link")
    from umbrella_lsp.link import EngineLink, Found, LinkEvent

    def find() -> Endpoint:
        from engine.launch import ensure_engine

        return ensure_engine(config)

    said = {""}

    def listen(event: LinkEvent) -> None:
        if isinstance(event, Found) and event.endpoint.notice not in said:
            said.add(event.endpoint.notice)
            print(f"umbrella-complete: {event.endpoint.notice}", file=sys.stderr)

    link = EngineLink(find, listen)
    await asyncio.gather(link.connect(), asyncio.to_thread(_import_the_rest))
    return link


def _import_the_rest() -> None:
    from engine.client import prepare

    import_module("umbrella_lsp.completer")
    prepare()


def as_json(document: Document, outcome: Outcome, *, is_explained: bool) -> str:
    """`outcome` as one JSON object. Ranges are as in LSP with utf-32: from 0, in code points."""
    from umbrella_lsp.explain import account

    items: list[dict[str, object]] = []
    suggestion = outcome.suggestion
    if suggestion:
        ends = {"start": suggestion.start, "end": suggestion.end}
        where = {name: asdict(document.position_at(at, "utf-32")) for name, at in ends.items()}
        items.append({"insertText": suggestion.text, "range": where})
    timings = outcome.timings
    return json.dumps(
        {
            "text": suggestion.text if suggestion else "",
            "items": items,
            "stop": outcome.stop,
            "timings": {
                "context_ms": round(outcome.context_ms, 3),
                "queue_ms": round(timings.queue_ms, 3),
                "prefill_ms": round(timings.prefill_ms, 3),
                "decode_ms": round(timings.decode_ms, 3),
                "total_ms": round(outcome.total_ms, 3),
            },
            "tokens": asdict(outcome.tokens),
            **({"explain": account(outcome, SETTINGS.max_lines)} if is_explained else {}),
        }
    )


def _print_explanation(outcome: Outcome) -> None:
    from rich.console import Console

    from umbrella_lsp.explain import account, laid_out

    Console(soft_wrap=True, highlight=False).print(laid_out(account(outcome, SETTINGS.max_lines)), end="")


def why_not(place: Place, outcome: Outcome) -> str:
    """One sentence about a missing suggestion."""
    if outcome.reason == "secret":
        return f"{place.file} looks like a file of secrets, so the model is not shown it."
    return f"The model has nothing to add at line {place.line} of {place.file}."


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="umbrella-complete",
        description="Print what the model would insert at a place in a file.",
        epilog="Exit codes: 0 a suggestion, 1 none, 2 bad usage, 3 no engine.",
    )
    parser.add_argument(
        "place",
        nargs="?",
        metavar="FILE:LINE[:COLUMN]",
        help="where to complete, counted from 1 in code points; the column defaults to the line's end",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one object: text, items, stop, timings and tokens; its ranges count code points from 0",
    )
    parser.add_argument(
        "--explain",
        action="store_true",
        help="print all that led to the answer: what was found, sent and left out, and what it cost",
    )
    parser.add_argument(
        "--stats", action="store_true", help="print what became of the suggestions made in editors, and end"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration to start an engine with")
    parser.add_argument(
        "--no-speculation", action="store_true", help="decode plainly, one token a pass, for comparison"
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def _print_stats(*, json_wanted: bool) -> int:
    from rich.console import Console

    from umbrella_lsp.acceptance.stats import NOTHING, as_object, recorded, table

    days = recorded()
    if json_wanted:
        print(json.dumps(as_object(days)))
    elif days:
        Console(soft_wrap=True).print(table(days))
    else:
        print(NOTHING)
    return 0


def _run(options: argparse.Namespace) -> int:
    if options.stats:
        return _print_stats(json_wanted=options.json)
    place = parse_place(options.place)
    text = read_text(place.file)
    named = place.file.absolute()
    # A link is as secret as its name or its target.
    path = named if is_secret(str(named)) else named.resolve()
    document = Document.of(path.as_uri(), text, language_of(place.file.name))
    offset = offset_of(document, place)
    outcome = asyncio.run(_complete(document, offset, options.config, not options.no_speculation))
    if options.json:
        print(as_json(document, outcome, is_explained=options.explain))
    elif options.explain:
        _print_explanation(outcome)
    elif outcome.suggestion:
        print(outcome.suggestion.text)
    if outcome.suggestion:
        return EXIT_SUGGESTION
    print(f"umbrella-complete: {why_not(place, outcome)}", file=sys.stderr)
    return EXIT_NOTHING


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if bool(options.place) == options.stats:
        parser.error("name a place, FILE:LINE or FILE:LINE:COLUMN, or say --stats alone")
    if (reconfigure := getattr(sys.stdout, "reconfigure", None)) is not None:
        # What is printed is the text to insert, byte for byte, whatever the locale.
        reconfigure(encoding="utf-8", newline="")
    try:
        return _run(options)
    except UmbrellaError as error:
        print(f"umbrella-complete: {error}", file=sys.stderr)
        return EXIT_NO_ENGINE if isinstance(error, EngineUnavailable) else EXIT_USAGE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
