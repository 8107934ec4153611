"""The command ``umbrella-lsp``: a language server on stdin and stdout, or a report on its surroundings.

Logs go to stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress

from engine import __version__


class _WithoutContents(logging.Filter):
    """Takes everything out of others' records that may quote a message, which is the user's code."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("umbrella_lsp"):
            # The first line alone: asyncio shows the error of a lost task below it, message and all.
            record.msg, record.args = str(record.msg).partition("\n")[0], ()
        if record.exc_info and record.exc_info[0]:
            frames = "".join(traceback.format_tb(record.exc_info[2]))
            record.exc_text = f"{frames}{record.exc_info[0].__name__}"
            record.exc_info = None
        return True


def configure_logging() -> None:
    """Our own records from INFO, others' from WARNING, all to stderr and none with source text."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_WithoutContents())
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("umbrella_lsp").setLevel(logging.INFO)
    logging.getLogger("pygls").setLevel(logging.WARNING)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="umbrella-lsp",
        description="Inline completion for editors that speak LSP 3.18. Editors start it; it finds or starts "
        "the engine by itself.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--stdio", action="store_true", help="talk to an editor over stdin and stdout; the only way there is"
    )
    what.add_argument(
        "--doctor",
        action="store_true",
        help="report on versions, configuration, engine and machine, and what needs to be done; it holds no "
        "source text. Exit codes: 0 healthy, 1 something needs to be done",
    )
    doctor = parser.add_argument_group("with --doctor")
    doctor.add_argument("--json", action="store_true", help="print one JSON object")
    doctor.add_argument(
        "--selftest",
        action="store_true",
        help="also load the configured models, in a process of their own, check them and time them",
    )
    doctor.add_argument(
        "--config",
        default="",
        metavar="FILE",
        help="the engine configuration that the editor names, if it does",
    )
    doctor.add_argument(
        "--engine-url",
        default="",
        metavar="URL",
        help="the engine elsewhere that the editor names, if it does",
    )
    doctor.add_argument("--token-file", default="", metavar="FILE", help="the file that holds its token")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until stdin ends or the client says `exit`, or report; the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.doctor:
        from umbrella_lsp.doctor.command import run

        return run(options)
    if options.json or options.selftest or options.config or options.engine_url or options.token_file:
        parser.error("all other options go with --doctor")
    configure_logging()
    from umbrella_lsp.server import UmbrellaServer

    server = UmbrellaServer()
    # `exit` ends the loop by SystemExit, whose code says no more than that nobody had said `shutdown`.
    with suppress(SystemExit, KeyboardInterrupt, BrokenPipeError):
        asyncio.run(server.serve())
    server.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
