"""How far a training has come: on disk, so that any crash can be resumed, and before the user's eyes."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn, track
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from engine.errors import TrainingError

Item = TypeVar("Item")
Figures = dict[str, float]
"""One line of the log: ``step``, ``tokens``, ``loss``, and what the objective measures on held-out data."""


@dataclass(slots=True)
class Saved:
    """What a checkpoint holds beside weights and optimiser state."""

    step: int = 0
    log: list[Figures] = field(default_factory=list[Figures])


@contextmanager
def disk_full_is_an_error_of_ours(folder: Path) -> Generator[None]:
    """Turn the operating system's "no space left" into a TrainingError that says what is still there."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        if not full:
            raise
        raise TrainingError(
            f"the disk that holds {folder} is full. What was saved before is whole: free some space and run "
            "the same command again to go on from there."
        ) from error


class Checkpoint:
    """The last good step: weights and optimiser state as safetensors, scalars as JSON, never a pickle."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.path = folder / "last.safetensors"

    def save(self, saved: Saved, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Replace what was saved, at once or not at all. Raises TrainingError if the disk is full."""
        tensors = {f"model.{n}": p.detach().contiguous() for n, p in model.named_parameters()}
        whole = optimizer.state_dict()
        for index, state in whole["state"].items():
            tensors |= {f"opt.{index}.{k}": torch.as_tensor(v).contiguous() for k, v in state.items()}
        steps = [group.get("step", 0) for group in whole["param_groups"]]
        scalars = json.dumps({"step": saved.step, "log": saved.log, "optimizer_steps": steps})
        temporary = self.path.with_suffix(".tmp")
        with disk_full_is_an_error_of_ours(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                save_file(tensors, temporary, metadata={"progress": scalars})
                temporary.replace(self.path)
            finally:
                temporary.unlink(missing_ok=True)

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Saved:
        """Restore what was saved and say how far it had come; nothing and step 0 where nothing was."""
        if not self.path.exists():
            return Saved()
        with safe_open(self.path, framework="pt") as file:
            progress = json.loads(file.metadata()["progress"])
        tensors = load_file(self.path)
        for name, parameter in model.named_parameters():
            parameter.data.copy_(tensors[f"model.{name}"])
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            if key.startswith("opt."):
                _, index, name = key.split(".", 2)
                state.setdefault(int(index), {})[name] = tensor
        groups = optimizer.state_dict()["param_groups"]
        for group, step in zip(groups, progress["optimizer_steps"], strict=True):
            group["step"] = step
        optimizer.load_state_dict({"state": state, "param_groups": groups})
        return Saved(progress["step"], progress["log"])


def watched(items: Sequence[Item], title: str) -> Iterator[Item]:
    """`items`, one after the other, behind a bar where somebody watches."""
    console = Console(stderr=True)
    yield from track(items, title, console=console, transient=True, disable=not console.is_terminal)


class Display:
    """A bar with loss, tokens a second and the time that is left; where nobody watches, a line a save."""

    def __init__(self, title: str, steps: int, start: int, tokens_a_step: int, *, quiet: bool) -> None:
        console = Console(stderr=True)
        self._watched = console.is_terminal and not quiet
        self._quiet = quiet
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:.0f}%"),
            TimeRemainingColumn(),
            console=console,
            disable=not self._watched,
        )
        self._title, self._start, self._tokens_a_step = title, start, tokens_a_step
        self._begun = time.monotonic()
        self._task = self._bar.add_task(title, total=steps, completed=start)

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def step(self, done: int, loss: float) -> None:
        speed = (done - self._start) * self._tokens_a_step / (time.monotonic() - self._begun)
        text = f"{self._title}: loss {loss:.3f}, {speed:,.0f} tokens/s"
        self._bar.update(self._task, completed=done, description=text)

    def figures(self, figures: Figures) -> None:
        """Say what was measured when a step was saved."""
        if not self._quiet:
            text = ", ".join(f"{name} {value:,.4g}" for name, value in figures.items())
            self._bar.console.print(f"{self._title}: {text}", highlight=False)


def plot(title: str, log: list[Figures], path: Path) -> None:
    """Draw every figure of `log` over the tokens seen, as SVG."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    names: Any = [name for name in log[-1] if name not in ("step", "tokens")] if log else []
    for name in names:
        axes.plot([entry["tokens"] / 1e6 for entry in log], [entry[name] for entry in log], label=name)
    axes.set(title=title, xlabel="tokens seen, millions", ylabel="nats a token, or a share")
    axes.grid(visible=True, alpha=0.3)
    if names:
        axes.legend()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
