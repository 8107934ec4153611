from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.checkpoint import Checkpoint
from engine.costs import CostCache, measure
from engine.decode import Decoder
from engine.draft.lookup import PreviousDrafter, PromptDrafter
from engine.errors import DeviceError
from engine.graphs import replay_passes
from engine.kv_cache import KVCache
from engine.low_bit.form import Form
from engine.low_bit.linear import QuantisedLinear
from engine.model import Block, Transformer
from engine.offload.link import Link
from engine.offload.ring import Ring
from engine.offload.thread_link import ThreadLink
from tests.engine.offload.models import (
    LAYERS,
    TEXT,
    PackingSource,
    load,
    nothing,
    placed,
    session,
    write_int4,
)
from tests.engine.scripted import CONTEXT, PROMPT, dynamic, run, tokens_of
from tests.engine.tiny import write_model

CopyInto = Callable[[int, Tensor], None]
SLOW = partial(ThreadLink, bytes_per_s=2e8)
"""A simulated link on which a layer takes about as long as computing one."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int4")
    write_int4(folder, "llama", attention_bias=True)
    return folder


@pytest.fixture(scope="module")
def expected(folder: Path) -> Tensor:
    """Logits of the model whose layers all stay."""
    with closing(load(folder, placed(LAYERS - 1))) as model:
        return session(model)


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """INT4 layers stay packed in models of any size."""
    monkeypatch.setattr("engine.footprint.SMALL_BYTES", 0)


@pytest.mark.parametrize("resident", range(LAYERS + 1))
@pytest.mark.parametrize(("slots", "on_disk"), [(1, 0), (2, 2), (3, 0)])
@pytest.mark.usefixtures("packed")
def test_wherever_layers_lie_the_logits_are_the_same(
    folder: Path, expected: Tensor, resident: int, slots: int, on_disk: int
):
    on_disk = min(on_disk, LAYERS - resident)
    with closing(load(folder, placed(resident, slots, on_disk), SLOW)) as model:
        assert model.split == (resident, LAYERS - resident - on_disk, on_disk)
        assert model.in_place == (resident == LAYERS)
        assert torch.equal(session(model), expected)


@pytest.mark.parametrize(
    ("family", "kept", "changes"),
    [
        ("qwen2", (), {}),
        ("qwen3", (), {}),
        ("llama", (), {"tie_word_embeddings": True}),
        ("llama", ("mlp.down_proj", "k_proj"), {}),
        ("llama", ("layers.1.", "layers.4."), {}),
    ],
)
@pytest.mark.usefixtures("packed")
def test_families_and_layers_that_are_not_quantised_stream_alike(
    tmp_path: Path, family: str, kept: Sequence[str], changes: dict[str, Any]
):
    write_int4(tmp_path, family, kept, **changes)
    with closing(load(tmp_path, placed(LAYERS))) as model:
        expected = session(model)
    for resident in (0, 2):
        with closing(load(tmp_path, placed(resident, 2, 1), SLOW)) as model:
            assert torch.equal(session(model), expected)


@pytest.mark.parametrize("resident", [0, 2, 4])
def test_layers_stream_to_memory_that_is_not_the_host_s(folder: Path, resident: int):
    with closing(load(folder, placed(resident, form="cuda"), SLOW)) as model:
        there = session(model)
    with closing(load(folder, placed(LAYERS, form="cuda"))) as model:
        assert model.in_place
        assert torch.equal(there, session(model))


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_model_that_is_not_quantised_streams_as_well(tmp_path: Path, family: str):
    write_model(tmp_path, family, num_hidden_layers=LAYERS)
    checkpoint = Checkpoint.open(tmp_path)
    expected = session(Transformer.load(checkpoint, "cpu", "bf16"))
    with closing(load(tmp_path, placed(1), SLOW)) as model:
        assert torch.equal(session(model), expected)


def test_text_is_the_same_with_speculation_and_without_it(folder: Path):
    texts: list[list[int]] = []
    for placement, speculative in [(placed(LAYERS - 1), False), (placed(2), False), (placed(2), True)]:
        with closing(load(folder, placement, SLOW, row_multiple=16)) as model:
            decoder = Decoder(model, dynamic(PreviousDrafter(), PromptDrafter()), CONTEXT)
            texts.append(tokens_of(run(decoder, prompt=PROMPT, speculative=speculative)))
    assert texts[0] == texts[1] == texts[2]


@pytest.mark.parametrize("boundary", range(LAYERS))
@pytest.mark.parametrize("resident", [0, 2])
def test_after_a_cancel_at_any_boundary_warm_equals_cold_and_the_first_layers_come_at_once(
    folder: Path, expected: Tensor, resident: int, boundary: int, monkeypatch
):
    rewind, rewound = Ring.rewind, list[Ring]()
    monkeypatch.setattr(Ring, "rewind", lambda ring: rewound.append(ring) or rewind(ring))

    def cancel(layer: int) -> None:
        if layer == boundary:
            raise InterruptedError

    with closing(load(folder, placed(resident), SLOW)) as model:
        cache = model.new_cache(32)
        for _ in range(2):
            with pytest.raises(InterruptedError):
                model.forward(Block.chain([8, 8]), cache, [0], cancel)
        assert len(rewound) == 2
        assert torch.equal(session(model, cache), expected)


def test_a_whole_pass_may_run_between_two_layers_of_another(folder: Path, expected: Tensor):
    with closing(load(folder, placed(2), SLOW)) as model:
        inner: list[Tensor] = []

        def pre_empt(_layer: int) -> None:
            inner.append(session(model))

        cache = model.new_cache(32)
        outer = model.forward(Block.chain(TEXT), cache, range(len(TEXT)), pre_empt)
        assert len(inner) == LAYERS
        assert all(torch.equal(logits, expected) for logits in inner)
        assert torch.equal(outer, expected[: len(TEXT)])


class Faulty:
    """Makes links whose copies of `layer` fail, once it is told to."""

    def __init__(self, layer: int) -> None:
        self._layer = layer
        self.failing = False

    def __call__(self, copy_into: CopyInto, slots: Sequence[Tensor]) -> Link:
        def copy(layer: int, slot: Tensor) -> None:
            if self.failing and layer == self._layer:
                slot.fill_(255)
                raise OSError("the disk is gone")
            copy_into(layer, slot)

        return ThreadLink(copy, slots)


@pytest.mark.parametrize("layer", range(LAYERS))
def test_a_copy_that_fails_ends_its_pass_and_the_next_one_is_right(
    folder: Path, expected: Tensor, layer: int, monkeypatch
):
    rewound: list[Ring] = []
    monkeypatch.setattr(Ring, "rewind", rewound.append)
    faults = Faulty(layer)
    with closing(load(folder, placed(0), faults)) as model:
        faults.failing = True
        cache = model.new_cache(32)
        with suppress(DeviceError):  # What was fetched before the fault may still be used once.
            model.forward(Block.chain(TEXT), cache, [0], nothing)
        with pytest.raises(DeviceError, match="disk is gone"):
            model.forward(Block.chain(TEXT), cache, [0], nothing)
        assert not rewound, "what has failed is not tried again before the next pass"
        faults.failing = False
        assert torch.equal(session(model, cache), expected)


@pytest.mark.parametrize("resident", [1, 3, LAYERS])
@pytest.mark.parametrize(
    ("form", "free", "ends"),
    [("cpu", 1 << 40, "disk"), ("cuda", 1 << 40, "host"), ("cuda", 0, "disk")],
    ids=["a-cpu", "host-memory", "no-host-memory"],
)
@pytest.mark.usefixtures("packed")
def test_layers_leave_the_device_little_by_little_in_the_middle_of_a_session(
    folder: Path, monkeypatch: pytest.MonkeyPatch, form: Form, free: int, ends: str, resident: int
):
    monkeypatch.setattr("engine.offload.streamed.free_bytes", lambda: free)
    with closing(load(folder, placed(resident, form=form), SLOW)) as model:
        expected, (stayed, on_host, on_disk) = session(model), model.split
        while model.shrink():
            assert torch.equal(session(model), expected)
            left = stayed - model.split[0]
            assert left > 0
            on_host, on_disk = (on_host + left, on_disk) if ends == "host" else (on_host, on_disk + left)
            stayed -= left
            assert model.split == (stayed, on_host, on_disk)
            assert "layers left it" in model.notice
        assert stayed == 0


def test_a_layer_that_is_larger_than_the_slots_stays(tmp_path: Path):
    write_int4(tmp_path, "llama", kept=("layers.1.",))
    with closing(load(tmp_path, placed(2), SLOW)) as model:
        expected = session(model)
        assert model.shrink()
        assert not model.shrink()
        assert model.split[0] == 1
        assert torch.equal(session(model), expected)


def test_layers_may_leave_the_device_between_two_layers_of_a_pass(folder: Path, expected: Tensor):
    with closing(load(folder, placed(3), SLOW)) as model:

        def before_layer(_layer: int) -> None:
            model.shrink()

        logits = model.forward(Block.chain(TEXT), model.new_cache(16), range(len(TEXT)), before_layer)
        assert model.split == (0, 2, 3)
        assert torch.equal(logits, expected[: len(TEXT)])


class Broken:
    """Has the next products fail with `errors`, one each."""

    def __init__(self, patch: pytest.MonkeyPatch, *errors: Exception) -> None:
        self._errors = list(errors)
        real = QuantisedLinear.__call__

        def multiply(linear: QuantisedLinear, x: Tensor, /) -> Tensor:
            if self._errors:
                raise self._errors.pop(0)
            return real(linear, x)

        patch.setattr(QuantisedLinear, "__call__", multiply)


def out_of_memory() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_a_pass_without_memory_is_run_again_with_fewer_layers_on_the_device(
    folder: Path, expected: Tensor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    with closing(load(folder, placed(3), SLOW)) as model:
        model.replay = lambda *_: None
        Broken(monkeypatch, out_of_memory())
        assert torch.equal(session(model), expected)
        assert model.split[0] == 2
        assert model.replay is None, "what was recorded reads from where layers were"
        assert [record.getMessage() for record in caplog.records] == [model.notice]
        assert "ran out of memory" in model.notice


def test_a_pass_that_lacks_memory_twice_fails_and_the_next_one_is_right(
    folder: Path, expected: Tensor, monkeypatch: pytest.MonkeyPatch
):
    with closing(load(folder, placed(3), SLOW)) as model:
        Broken(monkeypatch, out_of_memory(), out_of_memory())
        with pytest.raises(DeviceError, match=r"Memory ran out \(CUDA out of memory") as caught:
            session(model)
        assert not caught.value.lost
        assert torch.equal(session(model), expected)


def test_a_model_that_cannot_shrink_has_another_one_give_up_memory(
    folder: Path, expected: Tensor, monkeypatch: pytest.MonkeyPatch
):
    with closing(load(folder, placed(3))) as target, closing(load(folder, placed(0))) as draft:
        draft.relief = target
        Broken(monkeypatch, out_of_memory())
        assert torch.equal(session(draft), expected)
        assert target.split[0] == 2
        assert torch.equal(session(target), expected)


def test_a_cache_that_finds_no_memory_is_tried_again(folder: Path, monkeypatch: pytest.MonkeyPatch):
    errors = [out_of_memory()]
    real = KVCache.__init__

    def init(cache: KVCache, *arguments: Any) -> None:
        if errors:
            raise errors.pop()
        real(cache, *arguments)

    with closing(load(folder, placed(3))) as model:
        monkeypatch.setattr(KVCache, "__init__", init)
        assert model.new_cache(8).capacity == 8
        assert model.split[0] == 2


def test_a_gpu_that_is_lost_ends_the_pass_and_nothing_is_moved(folder: Path, monkeypatch: pytest.MonkeyPatch):
    with closing(load(folder, placed(3))) as model:
        Broken(monkeypatch, torch.AcceleratorError("CUDA error: an illegal memory access was encountered"))
        with pytest.raises(DeviceError, match="GPU stopped working") as caught:
            session(model)
        assert caught.value.lost
        assert (model.split[0], model.notice) == (3, "")


def test_waiting_is_for_layers_that_stream_and_have_not_come(folder: Path):
    arrive = threading.Event()

    def held(copy_into: CopyInto, slots: Sequence[Tensor]) -> Link:
        def copy(layer: int, slot: Tensor) -> None:
            assert arrive.wait(10)
            copy_into(layer, slot)

        return ThreadLink(copy, slots, bytes_per_s=1e6)

    with closing(load(folder, placed(2), held)) as model:
        waits = [model.wait_ms(layer) for layer in range(LAYERS)]
        streams = [layer not in placed(2).resident for layer in range(LAYERS)]
        assert [wait > 0.0 for wait in waits] == streams
        arrive.set()


def test_passes_of_a_model_that_streams_are_timed_and_not_recorded(folder: Path, tmp_path: Path):
    checkpoint = Checkpoint.open(folder)
    with closing(load(folder, placed(2))) as streams, closing(load(folder, placed(3))) as other:
        replay_passes(streams)
        assert streams.replay is None
        assert measure(streams, 8).rows[-1] == 8
        for model in (streams, other, streams):
            CostCache(tmp_path).table(checkpoint, model, 8)
        assert len(list(tmp_path.iterdir())) == 2


def test_a_model_that_is_closed_ends_its_threads_and_lets_go_of_its_source(folder: Path):
    before = set(threading.enumerate())
    source = PackingSource(Checkpoint.open(folder))
    model = load(folder, placed(2), SLOW, source)
    session(model)
    model.close()
    model.close()
    assert source.closed
    assert set(threading.enumerate()) <= before


def test_a_layer_that_cannot_be_read_ends_loading_and_leaves_nothing(folder: Path):
    class Unreadable(PackingSource):
        def read_into(self, layer: int, buffer: Tensor) -> None:
            if layer == 3:
                raise DeviceError("layer 3 cannot be read")
            super().read_into(layer, buffer)

    source = Unreadable(Checkpoint.open(folder))
    with pytest.raises(DeviceError, match="layer 3"):
        load(folder, placed(2), SLOW, source)
    assert source.closed


@pytest.mark.usefixtures("packed")
def test_layers_are_read_once_and_only_those_on_disk_again(folder: Path):
    source = PackingSource(Checkpoint.open(folder))
    with closing(load(folder, placed(2, 2, on_disk=1), None, source)) as model:
        assert source.reads[: LAYERS - 1] == [0, 1, 2, 3]
        session(model)
    assert set(source.reads[LAYERS - 1 :]) == {4}
