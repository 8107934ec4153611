from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.memory import total_bytes
from engine.offload.arena import Arena
from tests.engine.offload.models import write_int4

SIZES = [4096, 8192, 4096]


class FakeRegistrar:
    """Registers memory, up to `most` tensors."""

    def __init__(self, most: int = 9) -> None:
        self.registered: dict[int, int] = {}
        self._most = most

    def register(self, memory: Tensor) -> None:
        if len(self.registered) == self._most:
            raise RuntimeError("operation not permitted")
        self.registered[memory.data_ptr()] = memory.nbytes

    def unregister(self, memory: Tensor) -> None:
        assert self.registered.pop(memory.data_ptr()) == memory.nbytes


def test_every_layer_has_a_place_of_its_own_and_keeps_it():
    arena = Arena(SIZES)
    for layer in (2, 0, 1):
        arena.add(layer).fill_(layer + 1)
    assert [len(arena[layer]) for layer in range(3)] == SIZES
    assert all(bool((arena[layer] == layer + 1).all()) for layer in range(3))
    arena.drop(1)
    assert [layer in arena for layer in range(3)] == [True, False, True]
    with pytest.raises(KeyError):
        arena[1]
    assert arena.add(1).sum() == 0
    assert bool((arena[2] == 3).all())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is not known how much memory there is")
def test_there_may_be_places_for_more_than_the_machines_memory_as_long_as_they_stay_empty():
    arena = Arena([4096, 2 * (total_bytes() or 0)])
    assert arena.add(0).sum() == 0


def test_just_what_is_held_is_registered_and_in_the_end_nothing():
    registrar = FakeRegistrar()
    arena = Arena(SIZES, registrar)
    held = [arena.add(layer) for layer in (0, 1)]
    assert registrar.registered == {memory.data_ptr(): memory.nbytes for memory in held}
    arena.drop(0)
    assert list(registrar.registered.values()) == [8192]
    arena.close()
    arena.close()
    assert registrar.registered == {}


def test_memory_that_cannot_be_registered_still_holds_layers_and_that_is_said_once(
    caplog: pytest.LogCaptureFixture,
):
    registrar = FakeRegistrar(most=1)
    arena = Arena(SIZES, registrar)
    for layer in range(3):
        arena.add(layer).fill_(7)
    assert len(caplog.messages) == 1
    assert "makes streaming slower: operation not permitted" in caplog.messages[0]
    arena.close()
    assert registrar.registered == {}


_LOADS = """
import gc, json, sys
from pathlib import Path
import torch
import engine.footprint
from engine.checkpoint import Checkpoint
from engine.memory import give_back
from engine.model import Block, Transformer
from engine.offload.placement import Placement

engine.footprint.SMALL_BYTES = 0

def kept_kib(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))

def load(folder, told):
    checkpoint = Checkpoint.open(folder)
    model = Transformer.load(checkpoint, "cpu", "bf16", progress=lambda part, what: told.append((part, what)))
    return checkpoint, model

# What is set up once, at a first load of anything, is no part of a checkpoint's own.
first, model = load(Path(sys.argv[1]), [])
model.close()
del model
give_back()
before = kept_kib("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
told = []
checkpoint, model = load(Path(sys.argv[2]), told)
peak, loaded = kept_kib("VmHWM") - before, kept_kib("VmRSS") - before
model.forward(Block.chain([1, 2, 3]), model.new_cache(8), [2], lambda _: None)
model.close()
give_back()
print(json.dumps({
    "size": checkpoint.size_bytes / 1024, "peak": peak, "loaded": loaded,
    "closed": kept_kib("VmRSS") - before, "told": told,
}))
"""


def deepen(folder: Path, layers: int) -> None:
    """Repeat the one layer of a checkpoint."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    own = {name: tensor for name, tensor in tensors.items() if ".layers.0." in name}
    for layer in range(1, layers):
        tensors |= {name.replace(".0.", f".{layer}.", 1): tensor.clone() for name, tensor in own.items()}
    save_file(tensors, path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers}))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted by /proc")
def test_a_checkpoint_loads_within_its_own_size_layer_by_layer_and_closing_gives_all_back(tmp_path: Path):
    shape: dict[str, Any] = {
        "group": 128,
        "hidden_size": 512,
        "intermediate_size": 1024,
        "head_dim": 128,
        "num_hidden_layers": 1,
    }
    for name, layers in {"small": 2, "large": 60}.items():
        write_int4(tmp_path / name, "llama", **shape)
        deepen(tmp_path / name, layers)
    folders = [str(tmp_path / name) for name in ("small", "large")]
    done = subprocess.run(
        [sys.executable, "-c", _LOADS, *folders], capture_output=True, text=True, check=True, timeout=120
    )
    seen = json.loads(done.stdout)
    assert seen["size"] > 60 * 1024
    # One copy, and what is worked with beside it.
    assert seen["peak"] < 1.1 * seen["size"], seen
    assert seen["loaded"] > 0.8 * seen["size"]
    assert seen["closed"] < 0.1 * seen["size"], seen
    shares = [part for part, _ in seen["told"]]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert {f"Packing layer {n} of 60" for n in range(1, 61)} <= {what for _, what in seen["told"]}
    assert {f"Loading layer {n} of 60" for n in range(1, 61)} <= {what for _, what in seen["told"]}
