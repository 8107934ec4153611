"""Layers spread over several devices: where they go, and that a pass goes there too."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from engine.checkpoint import Checkpoint
from engine.cli import main
from engine.config import EngineConfig
from engine.errors import ConfigError
from engine.graphs import replay_passes
from engine.kv_cache import KVCache
from engine.memory import GIB
from engine.model import Block, Transformer
from engine.offload.machine import Gpu, Machine
from engine.offload.placement import Placement
from engine.offload.plan import plan
from engine.offload.stages import Stage, split
from engine.weights import further_devices
from tests.engine.offload.models import LAYERS, PackingSource, session, write_int4
from tests.engine.offload.sparse import LLAMA_1B, LLAMA_70B, write_sparse
from tests.engine.tiny import write_model

ROOMS = st.lists(st.integers(0, 60), min_size=1, max_size=3)
SIZES = st.lists(st.integers(1, 20), min_size=1, max_size=6)


def fits(rooms: list[int], sizes: list[int]) -> bool:
    """Whether any runs of layers fit, by trying them all."""
    for cuts in combinations_with_replacement(range(len(sizes) + 1), len(rooms) - 1):
        ends = [*cuts, len(sizes)]
        runs = [sizes[begin:end] for begin, end in zip([0, *cuts], ends, strict=True)]
        if all(sum(run) <= room for run, room in zip(runs, rooms, strict=True)):
            return True
    return False


@given(ROOMS, SIZES)
def test_layers_are_split_wherever_they_can_be(rooms: list[int], sizes: list[int]) -> None:
    counts = split(rooms, sizes)
    assert (counts is not None) == fits(rooms, sizes)
    if counts is not None:
        assert sum(counts) == len(sizes)
        begin = 0
        for room, count in zip(rooms, counts, strict=True):
            assert sum(sizes[begin : begin + count]) <= room
            begin += count


def test_layers_are_split_in_proportion_to_the_room() -> None:
    assert split([1000, 1000], [10] * 80) == (40, 40)
    assert split([3000, 1000], [10] * 80) == (60, 20)
    assert split([100, 1000], [10] * 80) == (7, 73)
    assert split([100, 100], [10] * 21) is None


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sparse")
    write_sparse(folder / "70b", LLAMA_70B)
    write_sparse(folder / "1b", LLAMA_1B)
    return folder


def large(models: Path, **changes: Any) -> EngineConfig:
    return replace(EngineConfig(model=str(models / "70b"), draft_model=str(models / "1b")), **changes)


def cards(vram: float, count: int) -> Machine:
    return Machine.card(int(vram * GIB), 64 * GIB, "4090", count)


def test_a_target_that_one_gpu_does_not_hold_is_spread_over_two(models: Path) -> None:
    made = plan(large(models, max_length=8192), cards(24, 2))
    assert not made.target.streamed
    first, second = made.target.stages
    assert (first.device, second.device) == ("cuda", "cuda:1")
    assert first.layers + second.layers == 80
    # The first has the embedding, the head and the draft, too.
    assert 15 < first.layers < second.layers
    assert made.bytes_at("device") <= 24 * GIB
    assert made.bytes_at("others") <= 24 * GIB
    kept = [part.size_bytes for part in made.parts if part.name.endswith("keys and values")]
    assert sum(kept) > made.slots * 8192 * 2 * 80 * 8 * 128 * 2


def test_one_that_fits_on_the_first_stays_there(models: Path) -> None:
    def never() -> int:
        raise AssertionError("asking makes a context of CUDA there")

    machine = replace(cards(48, 1), others=(Gpu("cuda:1"),))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Gpu, "free_bytes", lambda _self: never())
        assert plan(large(models, max_length=4096), machine).target.stages == ()


def test_where_all_gpus_do_not_hold_it_layers_stream_to_the_first(models: Path) -> None:
    made = plan(large(models, max_length=4096), cards(12, 2))
    assert made.target.stages == ()
    assert made.target.streamed


def test_devices_that_are_named_are_all_used(models: Path) -> None:
    named = large(models, device="cuda:0,cuda:1", max_length=4096)
    assert sum(stage.layers for stage in plan(named, cards(48, 2)).target.stages) == 80
    for config, machine in ((named, cards(12, 2)), (replace(named, offload=True), cards(48, 2))):
        with pytest.raises(ConfigError, match=r"finds no room on cuda:0,cuda:1 .*stream to one device only"):
            plan(config, machine)


def test_the_split_is_printed(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "engine.json"
    file.write_text(json.dumps({"model": str(models / "70b"), "draft_model": ""}))
    stated = ["plan", "--config", str(file), "--vram", "24", "--gpus", "2", "--ram", "64"]
    assert main(stated) == 0
    said = capsys.readouterr().out
    assert "with 24.0 GiB, 1 more of them" in said
    assert "Memory of the other GPUs" in said
    assert "cuda:1: resident layers" in said
    assert main(["plan", "--config", str(file), "--gpus", "2"]) == 2
    assert "--vram states the memory" in capsys.readouterr().err
    assert main([*stated, "--json"]) == 0
    stages = json.loads(capsys.readouterr().out)["plan"]["target"]["stages"]
    assert [stage["device"] for stage in stages] == ["cuda", "cuda:1"]


@pytest.mark.parametrize("name", ["cuda:0,cuda:0", "cuda:0,cpu", "cuda:0,cuda:9", "cuda,cuda:1"])
def test_what_layers_cannot_be_spread_over_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(ConfigError, match=r"must list CUDA devices, each once.*has cuda:0, cuda:1"):
        further_devices(name)


def test_further_devices_are_those_behind_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    assert further_devices("auto") == ("cuda:1", "cuda:2")
    assert further_devices("cuda:2, cuda:0") == ("cuda:0",)
    assert further_devices("cuda:1") == ()


def spread_over(*stages: tuple[str, int], form: Any = "cpu", dtype: Any = "fp32") -> Placement:
    made = tuple(Stage(device, count) for device, count in stages)
    return replace(Placement.whole(sum(stage.layers for stage in made), form, dtype), stages=made)


@pytest.mark.parametrize("row_multiple", [1, 16])
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_a_model_in_stages_gives_the_same_logits(tmp_path: Path, family: str, row_multiple: int) -> None:
    window: dict[str, Any] = {"sliding_window": 8} if family == "mistral" else {}
    write_model(tmp_path, family, num_hidden_layers=4, **window)
    checkpoint = Checkpoint.open(tmp_path)
    places = spread_over(("cpu", 1), ("cpu:0", 2), ("cpu", 1))
    with (
        closing(Transformer.load(checkpoint, "cpu", "fp32", row_multiple=row_multiple)) as whole,
        closing(Transformer.load(checkpoint, "cpu", placement=places, row_multiple=row_multiple)) as model,
    ):
        assert not model.in_place
        replay_passes(model)
        assert model.replay is None
        assert [str(model.device_of(layer)) for layer in range(4)] == ["cpu", "cpu:0", "cpu:0", "cpu"]
        assert torch.equal(session(model), session(whole))
        # Another cache takes over what one has on every device.
        ours, theirs = model.new_cache(32), model.new_cache(32)
        session(model, theirs)
        ours.adopt(theirs, theirs.length)
        assert torch.equal(continued(model, ours), continued(model, theirs))


def continued(model: Transformer, cache: KVCache) -> Tensor:
    return model.forward(Block.chain([7, 9]), cache, range(2), lambda _: None)


def test_quantised_layers_in_stages_give_the_same_logits(tmp_path: Path) -> None:
    write_int4(tmp_path, "llama")
    checkpoint = Checkpoint.open(tmp_path)
    seen: list[Tensor] = []
    for stages in ((), (("cpu", 2), ("cpu:0", LAYERS - 2))):
        places = (
            spread_over(*stages, form="cuda", dtype="bf16")
            if stages
            else Placement.whole(LAYERS, "cuda", "bf16")
        )
        source = PackingSource(checkpoint, "cuda")
        with closing(Transformer.load(checkpoint, "cpu", placement=places, source=source)) as model:
            assert model.split == (LAYERS, 0, 0)
            seen.append(session(model))
        assert source.closed
        assert sorted(source.reads) == list(range(LAYERS))
    assert torch.equal(*seen)


class Places(TorchFunctionMode):
    """Knows where tensors would be if "cpu" and "cpu:0" were two devices, and lets none meet another's."""

    def __init__(self) -> None:
        super().__init__()
        self._of = WeakTensorKeyDictionary()
        self.moves: list[str] = []

    def put(self, found: object, device: torch.device) -> None:
        for tensor in tensors_in(found, set()):
            self._of[tensor] = device

    def of(self, tensor: Tensor) -> torch.device | None:
        return cast("torch.device | None", self._of.get(tensor))

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func == Tensor.device.__get__:
            return self.of(args[0]) or torch.device("cpu")
        given = tree_leaves((args, kwargs or {}))
        result = func(*args, **(kwargs or {}))
        stated = [each for each in given if isinstance(each, torch.device)]
        places = {self.of(each) for each in given if isinstance(each, Tensor) and each.dim()}
        if stated and func == Tensor.to:
            result = result.clone()
            self.moves.append(str(stated[0]))
        assert stated or len(places) <= 1, f"{func} mixes {places}"
        place = stated[0] if stated else next(iter(places), None)
        for each in tree_leaves(result):
            if isinstance(each, Tensor) and place is not None:
                self._of[each] = place
        return result


def tensors_in(found: object, seen: set[int]) -> Iterator[Tensor]:
    """Every tensor that `found` is, or that it or what it holds has as an attribute."""
    if isinstance(found, Tensor):
        yield found
    elif id(found) not in seen and (
        isinstance(found, (list, tuple, dict)) or type(found).__module__.startswith("engine.")
    ):
        seen.add(id(found))
        slots = [name for kind in type(found).__mro__ for name in getattr(kind, "__slots__", ())]
        held = [getattr(found, name, None) for name in (*getattr(found, "__dict__", {}), *slots)]
        inside = (
            found.values() if isinstance(found, dict) else found if isinstance(found, (list, tuple)) else ()
        )
        for each in (*held, *cast("Iterable[object]", inside)):
            yield from tensors_in(each, seen)


@pytest.mark.parametrize("row_multiple", [1, 16])
def test_no_operation_of_a_pass_mixes_devices(tmp_path: Path, row_multiple: int) -> None:
    write_model(tmp_path, "qwen3", num_hidden_layers=4)
    first, second = torch.device("cpu"), torch.device("cpu:0")
    places = spread_over((str(first), 1), (str(second), 3))
    checkpoint = Checkpoint.open(tmp_path)
    with closing(
        Transformer.load(checkpoint, "cpu", "bf16", placement=places, row_multiple=row_multiple)
    ) as model:
        expected = session(model)
        watched = Places()
        watched.put(model, first)
        for index, layer in enumerate(model._layers.walk(lambda _: None)):
            watched.put(layer, model.device_of(index))
        with watched:
            found = session(model)
        assert torch.equal(found, expected)
        assert str(second) in watched.moves
        model._devices = (first, first, second, second)
        with watched, pytest.raises(AssertionError, match="mixes"):
            session(model)
