"""Who is told how far a long piece of work has come. Torch-free; known to every layer of the engine."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

Progress = Callable[[float, str], None]
"""Told how much of a piece of work is done, 0 to 1, and what is being done in a few words for people, such as
"Loading layer 12 of 80". What it raises ends that work."""


def untold(_share: float, _what: str) -> None:
    """The `Progress` that nobody waits for."""


@contextmanager
def on_terminal() -> Generator[Progress]:
    """Shown as a bar on the terminal's stderr, if there is one."""
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TextColumn("{task.percentage:.0f}%"),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda share, what: bar.update(task, completed=share, description=what)
