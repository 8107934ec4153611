"""The training loop: any objective, any model, resumable at every saved step.

Run alone, or one process a core or a GPU under ``torchrun``: accelerate places the model, averages the
gradients and casts to bfloat16 on CUDA. The schedule is warm-up, constant, linear decay (trapezoidal;
Hu et al. 2024, MiniCPM), so a plan can be shortened or lengthened until its decay begins.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Protocol

import torch
from accelerate import Accelerator  # pyright: ignore[reportMissingTypeStubs]
from torch import Tensor
from transformers import LlamaForCausalLM

from engine.errors import TrainingError
from engine.training.optimizer import muon_with_adamw
from engine.training.progress import (
    Checkpoint,
    Display,
    Figures,
    disk_full_is_an_error_of_ours,
    plot,
)


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """Everything that decides the result but model and data; saved beside it."""

    tokens: int
    seed: int = 0
    batch_rows: int = 8
    """Rows a step, over all processes."""
    micro_rows: int = 4
    """Rows of one forward pass: what memory allows."""
    matrix_lr: float = 0.02
    other_lr: float = 0.003
    weight_decay: float = 0.05
    warmup: float = 0.02
    decay: float = 0.45
    save_every: int = 100

    def steps(self, length: int) -> int:
        """Updates with rows of `length` tokens."""
        return max(1, self.tokens // (length * self.batch_rows))

    def scale(self, step: int, steps: int) -> float:
        """The learning rate's factor at `step`."""
        return min(1.0, (step + 1) / (self.warmup * steps + 1), (1.0 - step / steps) / self.decay)


class Objective(Protocol):
    """What there is to learn: rows of tokens, and how far off a model is on some of them."""

    @property
    def length(self) -> int:
        """Tokens of a row."""
        ...

    def __len__(self) -> int:
        """Rows there are."""
        ...

    def loss(self, model: Any, rows: Sequence[int], device: torch.device) -> Tensor:
        """Mean loss over `rows`, in nats a token."""
        ...

    def held_out(self, model: Any, device: torch.device) -> Figures:
        """Figures on data that is never learnt from."""
        ...


def choose_device() -> torch.device:
    """CUDA where it is, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _pieces(plan: TrainPlan, step: int, rows: int, rank: int, world: int) -> Iterator[list[int]]:
    """This process's rows of `step`. Rows are taken in their order, over and over."""
    mine = [(step * plan.batch_rows + rank + i) % rows for i in range(0, plan.batch_rows, world)]
    for i in range(0, len(mine), plan.micro_rows):
        yield mine[i : i + plan.micro_rows]


class _Run:
    """One process's share of a training."""

    def __init__(
        self, model: LlamaForCausalLM, objective: Objective, plan: TrainPlan, *, compiled: bool
    ) -> None:
        on_cuda = choose_device().type == "cuda"
        self._accelerator = Accelerator(mixed_precision="bf16" if on_cuda else "no", cpu=not on_cuda)
        self.model, self._objective, self._plan = model, objective, plan
        self._parallel = self._accelerator.prepare(torch.compile(model) if compiled else model)
        self.optimizer = muon_with_adamw(model, plan.matrix_lr, plan.other_lr, plan.weight_decay)
        self._rates = [group["lr"] for group in self.optimizer.param_groups]
        self.steps = plan.steps(objective.length)
        self.leads = self._accelerator.is_main_process

    def update(self, step: int) -> float:
        """One update. Returns this process's loss in nats a token; raises FloatingPointError on no number."""
        accelerator, plan = self._accelerator, self._plan
        self.optimizer.zero_grad(set_to_none=True)
        pieces = list(
            _pieces(plan, step, len(self._objective), accelerator.process_index, accelerator.num_processes)
        )
        total = 0.0
        for i, piece in enumerate(pieces):
            last = i + 1 == len(pieces)
            with nullcontext() if last else accelerator.no_sync(self._parallel), accelerator.autocast():
                loss = self._objective.loss(self._parallel, piece, accelerator.device) / len(pieces)
                accelerator.backward(loss)
            total += loss.item()
        # The norm of the averaged gradients is the same in every process, so that all of them stop.
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0))
        if not math.isfinite(norm):
            raise FloatingPointError(f"loss {total}, gradient norm {norm}")
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * plan.scale(step, self.steps)
        self.optimizer.step()
        return total

    @torch.no_grad()
    def held_out(self) -> Figures:
        self.model.eval()
        figures = self._objective.held_out(self.model, self._accelerator.device)
        self.model.train()
        return figures


def train(
    title: str,
    model: LlamaForCausalLM,
    objective: Objective,
    plan: TrainPlan,
    out: Path,
    *,
    compiled: bool = False,
) -> list[Figures]:
    """Train `model` to the end of `plan`, resuming from what `out` holds, and return the log.

    Leaves ``training.json`` (plan and log) and ``training.svg`` (the curve) in `out`. Raises TrainingError,
    the last good step being on disk, if the loss is no number or the disk is full.
    """
    run = _Run(model, objective, plan, compiled=compiled)
    checkpoint = Checkpoint(out)
    saved = checkpoint.load(model, run.optimizer)
    a_step = objective.length * plan.batch_rows
    model.train()
    with Display(title, run.steps, saved.step, a_step, quiet=not run.leads) as display:
        try:
            losses: list[float] = []
            for step in range(saved.step, run.steps):
                losses.append(run.update(step))
                saved.step = step + 1
                display.step(saved.step, losses[-1])
                if saved.step % plan.save_every == 0 or saved.step == run.steps:
                    figures: Figures = {
                        "step": saved.step,
                        "tokens": saved.step * a_step,
                        "loss": round(mean(losses), 4),
                    }
                    if run.leads:
                        figures |= run.held_out()
                        saved.log.append(figures)
                        display.figures(figures)
                        checkpoint.save(saved, model, run.optimizer)
                    losses.clear()
        except FloatingPointError as error:
            if run.leads:  # The step that failed has changed nothing yet.
                checkpoint.save(saved, model, run.optimizer)
            raise TrainingError(
                f"step {saved.step + 1} gave no number ({error}). {checkpoint.path} keeps the last good "
                "step: the same command goes on from there. If it fails again, begin anew with a lower "
                "learning rate, or look for what is odd in the data."
            ) from error
    if run.leads:
        with disk_full_is_an_error_of_ours(out):
            result = {"plan": asdict(plan), "log": saved.log}
            (out / "training.json").write_text(json.dumps(result, indent=1))
            plot(title, saved.log, out / "training.svg")
    return saved.log
