"""Trains one model of the pair: next-token loss on packed rows, resumable at every saved step.

Run alone, or one process a core with ``torchrun --nproc-per-node 2``; the processes average their
gradients. The schedule is warm-up, constant, linear decay (trapezoidal; Hu et al. 2024, MiniCPM).
Hidden matrices are optimised with Muon, the rest with AdamW.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from engine.training.muon import Muon


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A Llama of the pair. Widths are multiples of 128, AWQ's group size."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int


SHAPES = {
    "target": ModelShape(256, 768, 4, 4, 2),
    "draft": ModelShape(128, 384, 2, 2, 1),
}


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """Everything that decides the result, saved beside it."""

    shape: str
    tokens: int
    seed: int = 0
    length: int = 1024
    batch_rows: int = 8
    """Rows a step, over all processes."""
    matrix_lr: float = 0.02
    other_lr: float = 0.003
    weight_decay: float = 0.05
    warmup: float = 0.02
    decay: float = 0.45
    save_every: int = 100

    @property
    def steps(self) -> int:
        return self.tokens // (self.length * self.batch_rows)

    def scale(self, step: int) -> float:
        """The learning rate's factor at `step`."""
        done = step / self.steps
        return min(1.0, (step + 1) / (self.warmup * self.steps), (1.0 - done) / self.decay)


def build(shape: ModelShape, tokenizer: PreTrainedTokenizerFast, max_length: int) -> LlamaForCausalLM:
    """A fresh model of `shape` with the tokenizer's vocabulary and tied embeddings."""
    ids = tokenizer.backend_tokenizer.token_to_id
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        **asdict(shape),
        max_position_embeddings=max_length,
        tie_word_embeddings=True,
        bos_token_id=ids("<|begin_of_text|>"),
        eos_token_id=ids("<|eot_id|>"),
        pad_token_id=ids("<|finetune_right_pad_id|>"),
    )
    model = LlamaForCausalLM(config)
    depth_scale = (2 * shape.num_hidden_layers) ** -0.5
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            parameter.data *= depth_scale
    return model


def optimisers(model: nn.Module, plan: TrainPlan) -> list[torch.optim.Optimizer]:
    """Muon for hidden matrices, AdamW for the embedding and the norms."""
    matrices = [
        p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n and "lm_head" not in n
    ]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    muon = Muon(matrices, lr=plan.matrix_lr, weight_decay=plan.weight_decay)
    adam = torch.optim.AdamW(others, lr=plan.other_lr, betas=(0.9, 0.95), weight_decay=0.0)
    return [muon, adam]


class Checkpoint:
    """The last good step on disk: weights and optimiser state as safetensors, scalars as JSON, no pickle."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(
        self, step: int, model: nn.Module, optimizers: list[torch.optim.Optimizer], log: list[Any]
    ) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"model.{n}": p.detach().contiguous() for n, p in model.named_parameters()}
        for which, optimizer in enumerate(optimizers):
            for index, state in optimizer.state_dict()["state"].items():
                tensors |= {
                    f"opt.{which}.{index}.{k}": torch.as_tensor(v).contiguous() for k, v in state.items()
                }
        temporary = self._folder / "last.safetensors.tmp"
        save_file(tensors, temporary, metadata={"progress": json.dumps({"step": step, "log": log})})
        temporary.replace(self._folder / "last.safetensors")

    def load(self, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> tuple[int, list[Any]]:
        """Restore what was saved and return (next step, log); (0, []) where nothing was."""
        path = self._folder / "last.safetensors"
        if not path.exists():
            return 0, []
        with safe_open(path, framework="pt") as file:
            progress = json.loads(file.metadata()["progress"])
        tensors = load_file(path)
        for name, parameter in model.named_parameters():
            parameter.data.copy_(tensors[f"model.{name}"])
        for which, optimizer in enumerate(optimizers):
            state: dict[int, dict[str, Tensor]] = {}
            for key, tensor in tensors.items():
                if key.startswith(f"opt.{which}."):
                    _, _, index, name = key.split(".", 3)
                    state.setdefault(int(index), {})[name] = tensor
            whole = optimizer.state_dict()
            optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})
        return progress["step"], progress["log"]


def average_gradients(model: nn.Module, world: int) -> None:
    """Give every process the mean of all processes' gradients."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    offset = 0
    for gradient in gradients:
        gradient.copy_(flat[offset : offset + gradient.numel()].view_as(gradient) / world)
        offset += gradient.numel()


def loss_of(model: Any, rows: Tensor) -> Tensor:
    """Mean next-token loss in nats over `rows` [batch, length + 1]."""
    logits = model(input_ids=rows[:, :-1]).logits
    return nn.functional.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten())


def micro_batches(rows: Any, step: int, plan: TrainPlan, rank: int, world: int) -> Iterator[Tensor]:
    """This process's rows of `step`, in pieces of at most four. Training takes `rows` in their order."""
    first = step * plan.batch_rows + rank
    picked = [(first + i) % len(rows) for i in range(0, plan.batch_rows, world)]
    for i in range(0, len(picked), 4):
        yield torch.from_numpy(rows[picked[i : i + 4]].astype(np.int64))


class Trainer:
    """One process's share of a training run."""

    def __init__(self, plan: TrainPlan, data: Path, out: Path, *, compiled: bool) -> None:
        self._plan, self._out = plan, out
        self._world, self._rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
        if self._world > 1:
            dist.init_process_group("gloo")
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self._device.type == "cpu":
            torch.set_num_threads(1 if self._world > 1 else os.cpu_count() or 1)
        torch.manual_seed(plan.seed)
        self._tokenizer = PreTrainedTokenizerFast.from_pretrained(data / "tokenizer")
        self._rows = np.load(data / "rows.npy", mmap_mode="r")
        self._held_out = np.load(data / "held_out.npy", mmap_mode="r")
        self._model = build(SHAPES[plan.shape], self._tokenizer, plan.length)
        nn.Module.to(self._model, self._device)
        self._run = torch.compile(self._model) if compiled else self._model
        self._optimizers = optimisers(self._model, plan)
        self._base_rates = (plan.matrix_lr, plan.other_lr)
        self._checkpoint = Checkpoint(out)

    def train(self) -> None:
        """From the last saved step to the end of the plan."""
        plan, begun = self._plan, time.monotonic()
        start, log = self._checkpoint.load(self._model, self._optimizers)
        with Progress(
            TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), disable=self._rank > 0
        ) as bar:
            task = bar.add_task("training", total=plan.steps, completed=start)
            for step in range(start, plan.steps):
                loss = self._step(step)
                done = step + 1
                speed = (done - start) * plan.length * plan.batch_rows / (time.monotonic() - begun)
                bar.update(task, completed=done, description=f"loss {loss:.3f}  {speed:,.0f} tokens/s")
                if self._rank == 0 and (done % plan.save_every == 0 or done == plan.steps):
                    log.append({"step": done, "loss": round(loss, 4), "held_out": round(self._held(), 4)})
                    print(json.dumps(log[-1] | {"tokens_per_s": round(speed)}), flush=True)
                    self._checkpoint.save(done, self._model, self._optimizers, log)
        if self._rank == 0:
            self._model.save_pretrained(self._out / "model")
            self._tokenizer.save_pretrained(self._out / "model")
            result = {"plan": asdict(plan), "log": log}
            (self._out / "training.json").write_text(json.dumps(result, indent=1))

    def _step(self, step: int) -> float:
        """One update. Returns this process's loss, in nats a token."""
        for optimizer, rate in zip(self._optimizers, self._base_rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * self._plan.scale(step)
            optimizer.zero_grad(set_to_none=True)
        total = 0.0
        pieces = list(micro_batches(self._rows, step, self._plan, self._rank, self._world))
        for piece in pieces:
            with torch.autocast("cuda", torch.bfloat16, enabled=self._device.type == "cuda"):
                loss = loss_of(self._run, piece.to(self._device)) / len(pieces)
            loss.backward()
            total += loss.item()
        if self._world > 1:
            average_gradients(self._model, self._world)
        if not np.isfinite(total):
            raise FloatingPointError(
                f"the loss is {total} at step {step}; {self._out} keeps the last good step"
            )
        nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        for optimizer in self._optimizers:
            optimizer.step()
        return total

    @torch.no_grad()
    def _held(self) -> float:
        sample = torch.from_numpy(self._held_out[:8].astype(np.int64))
        return loss_of(self._model, sample.to(self._device)).item()


def train(plan: TrainPlan, data: Path, out: Path, *, compiled: bool = True) -> None:
    """Train to the end of `plan`, resuming from ``out/last.safetensors``, and save a checkpoint in `out`.

    `data` holds ``rows.npy``, ``held_out.npy`` and ``tokenizer/``. Raises FloatingPointError, the last good
    step being on disk, if the loss is no number.
    """
    Trainer(plan, data, out, compiled=compiled).train()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with rows.npy, held_out.npy and tokenizer/"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    plan = TrainPlan(shape=options.shape, tokens=options.tokens, seed=options.seed)
    train(plan, options.data, options.out)


if __name__ == "__main__":
    main()
