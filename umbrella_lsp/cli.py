"""The command ``umbrella-lsp``: a language server on stdin and stdout. Logs go to stderr."""

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
            record.msg, record.args = str(record.msg).replace("\n", " "), ()
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
    parser.add_argument(
        "--stdio", action="store_true", help="talk over stdin and stdout; the only way there is"
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until stdin ends or the client says `exit`; the exit code."""
    parser = _parser()
    if not parser.parse_args(arguments).stdio:
        parser.error("say --stdio: editors talk to this command over stdin and stdout")
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
