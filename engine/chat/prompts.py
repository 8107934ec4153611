"""Files of prompts, and of answers to them: what is asked, and what has been answered already.

Answers are lines of JSON that are only ever appended: of two with one id, the later one counts.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from engine.errors import RequestError

OPTIONS = (
    *("model", "max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty"),
    *("presence_penalty", "frequency_penalty", "logit_bias", "seed", "stop"),
)
"""Fields of a prompt that go into its requests as they are."""
_BEGINNING = b'{"id": '
_ADVICE = (
    'Write a list of strings, or of objects with "prompt", "messages" or "turns" and, if you like, an "id".'
)


@dataclass(frozen=True, slots=True)
class Task:
    """One prompt of a file."""

    id: str | int
    turns: tuple[str, ...]
    """What the user says, one after the other, each behind the answer to what was before."""
    before: tuple[Mapping[str, object], ...] = ()
    """Messages in front of that."""
    options: tuple[tuple[str, object], ...] = ()
    raw: bool = False
    """Whether the only turn is text to be gone on with, without a chat template."""

    @property
    def digest(self) -> str:
        """A short hash of all that is asked."""
        content = json.dumps([self.turns, self.before, self.options, self.raw], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Answered:
    """What a file of answers says of earlier runs."""

    digests: Mapping[str | int, str]
    """Of each prompt that has an answer."""
    size_bytes: int
    """Of what is complete: a line that was cut off comes after that."""

    def open_tasks(self, tasks: Sequence[Task]) -> list[Task]:
        """Those without an answer, or with one to another prompt than it is by now."""
        return [task for task in tasks if self.digests.get(task.id) != task.digest]

    def changed(self, tasks: Sequence[Task]) -> int:
        """How many have an answer to another prompt."""
        return sum(self.digests.get(task.id, task.digest) != task.digest for task in tasks)


def read_tasks(path: Path, system: str, options: Mapping[str, object], *, raw: bool) -> list[Task]:
    """The prompts in `path`, JSON or, if its name says so, JSON lines. Raises RequestError.

    `options` are for those that do not say otherwise; `system` comes before every chat that has none.
    """
    try:
        text = path.read_text(encoding="utf-8")
        lines = [line for line in text.split("\n") if line.strip()] if path.suffix == ".jsonl" else []
        data = [json.loads(line) for line in lines] if lines else json.loads(text)
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} cannot be read as JSON ({error}). {_ADVICE}") from error
    if not isinstance(data, list) or not data:
        raise RequestError(f"{path} holds no list of prompts. {_ADVICE}")
    entries = cast("list[object]", data)
    tasks = [_task(path, at, entry, system, options, raw=raw) for at, entry in enumerate(entries)]
    seen: dict[str | int, int] = {}
    for at, task in enumerate(tasks):
        if task.id in seen:
            raise RequestError(f"{path}: prompts {seen[task.id]} and {at} have one id, {task.id!r}.", "id")
        seen[task.id] = at
    return tasks


def read_answered(path: Path) -> Answered:
    """What of `path` is complete. Raises RequestError if it is no file of answers."""
    try:
        data = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror or error}.") from error
    *lines, rest = data.split(b"\n")
    rows = [_row(line) for line in lines]
    # What is cut off has to look like a row of ours: it is about to be thrown away.
    is_ours = rest[: len(_BEGINNING)] == _BEGINNING[: len(rest)] and (not _is_json(rest) or _row(rest))
    if not is_ours or None in rows:
        raise RequestError(f"{path} holds something else than answers. Name another --output.")
    digests = {row["id"]: row["hash"] for row in rows if row and "error" not in row}
    return Answered(digests, len(data) - len(rest))


def _row(line: bytes) -> dict[str, Any] | None:
    """A row of a file of answers; None if it is something else."""
    try:
        row = cast("dict[str, Any] | None", json.loads(line))
    except ValueError:
        return None
    return row if isinstance(row, dict) and {"id", "hash"} <= row.keys() else None


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def open_repaired(path: Path, answered: Answered) -> int:
    """A file descriptor to append answers with, once a line that was cut off is gone."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.ftruncate(descriptor, answered.size_bytes)
    except OSError as error:
        raise RequestError(f"{path} cannot be written: {error.strerror or error}.") from error
    return descriptor


def _task(
    path: Path, at: int, entry: object, system: str, options: Mapping[str, object], *, raw: bool
) -> Task:
    where = f"{path}: prompt {at}"
    given = cast("dict[str, object]", entry) if isinstance(entry, dict) else {"prompt": entry}
    name = given.get("id", given.get("question_id", at))
    if not isinstance(name, str | int) or isinstance(name, bool):
        raise RequestError(f"{where}: its id must be a string or a whole number.", "id")
    kinds = [kind for kind in ("prompt", "messages", "turns") if kind in given]
    if len(kinds) != 1:
        raise RequestError(f"{where} must have one of prompt, messages and turns. {_ADVICE}")
    kind = kinds[0]
    if raw and kind != "prompt":
        raise RequestError(f"{where}: --raw takes prompts only, as they are.", kind)
    found = [given[kind]] if kind == "prompt" else given[kind]
    value = cast("list[Any]", found) if isinstance(found, list) else []
    wanted = dict if kind == "messages" else str
    if not value or not all(isinstance(part, wanted) for part in value):
        what = "a list of objects, as OpenAI has them" if kind == "messages" else "text"
        raise RequestError(f"{where}: {kind} must be {what}.", kind)
    before, turns = (value, []) if kind == "messages" else ([], value)
    if system and not raw and not any(message.get("role") == "system" for message in before):
        before = [{"role": "system", "content": system}, *before]
    chosen = {**options, **{key: given[key] for key in OPTIONS if key in given}}
    return Task(name, tuple(turns), tuple(before), tuple(sorted(chosen.items())), raw)
