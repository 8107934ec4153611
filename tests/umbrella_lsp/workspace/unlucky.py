"""The process that reads the workspace, with a parser that some words crash or hang."""

from __future__ import annotations

import os
import time

from umbrella_lsp.syntax.tree import Outline, outline
from umbrella_lsp.workspace.__main__ import main


def unlucky_outline(source: str, language: str) -> Outline:
    if "CRASH" in source:
        os.abort()
    while "HANG" in source:
        time.sleep(60)
    return outline(source, language)


if __name__ == "__main__":
    main(unlucky_outline)
