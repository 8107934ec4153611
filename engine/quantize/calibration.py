"""What a model is shown while it is quantised: rows of ids, from text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from engine.errors import TrainingError
from engine.model_config import read_model_config
from engine.tokenizer import Tokenizer
from engine.training.folders import is_secret, language_of, packages_under

ROWS = 128
TOKENS = 512
"""Of each row. autoawq joins rows and cuts them anew into as many, and silently drops one that is longer."""
_FILE_BYTES = 100_000
"""Of each file, at most: many files say more about a model's inputs than a long one."""

_Item = TypeVar("_Item")


def rows_of(model: Path, texts: Path) -> list[list[int]]:
    """Ids [rows][TOKENS] for the model in folder `model`, from all over `texts`: a file, or a folder of code.

    Each begins as the model's prompts do. Raises TrainingError if there is too little text for a row, and
    OSError for what cannot be read.
    """
    files = [texts] if texts.is_file() else _code_under(texts)
    readable = [text for path in _spread(files, 4 * ROWS) if (text := _text(path))]
    tokenizer, begin = Tokenizer.load(model), read_model_config(model).bos_token_id
    opening = [] if begin is None else [begin]
    room = TOKENS - len(opening)
    rows = [
        opening + ids[start : start + room]
        for ids in map(tokenizer.encode_document, _spread(readable, ROWS))
        for start in range(0, len(ids) - room + 1, room)
    ]
    if not rows:
        raise TrainingError(f"{texts} holds no text of {TOKENS} tokens to calibrate with; name more of it")
    return _spread(rows, ROWS)


def _code_under(folder: Path) -> list[Path]:
    found = packages_under(folder.resolve()).values()
    return [path for paths in found for path in paths if language_of(path) and not is_secret(path)]


def _spread(items: Sequence[_Item], count: int) -> list[_Item]:
    """`count` of `items`, as evenly as can be; all of them if there are no more."""
    if len(items) <= count:
        return list(items)
    return [items[index * len(items) // count] for index in range(count)]


def _text(path: Path) -> str:
    """The beginning of a file, or '' if it is no text."""
    with path.open("rb") as file:
        data = file.read(_FILE_BYTES)
    # A character may be cut in two at the end, and nowhere else.
    text = data.decode("utf-8", errors="replace").rstrip("\ufffd")
    return "" if "\0" in text or "\ufffd" in text else text
