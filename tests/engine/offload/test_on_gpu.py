"""What has to be looked at first on a machine with a GPU: whole models there, and their memory."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from time import perf_counter

import pytest
import torch
from torch import Tensor

from engine.checkpoint import Checkpoint
from engine.config import EngineConfig
from engine.graphs import replay_passes
from engine.loaded import LoadedEngine
from engine.memory import GIB
from engine.model import Block, Transformer
from engine.offload.arena import Arena, CudaRegistrar
from engine.offload.cuda_link import CudaLink
from engine.offload.machine import CUDA_BYTES
from tests.engine.offload.models import LAYERS, PackingSource, nothing, placed, session, write_int4
from tests.engine.tiny import write_model

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
COPY_BYTES = 256 << 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int4")
    write_int4(folder, "llama", attention_bias=True)
    return folder


def on_gpu(folder: Path, resident: int, slots: int = 2, on_disk: int = 0) -> Transformer:
    checkpoint = Checkpoint.open(folder)
    return Transformer.load(
        checkpoint,
        DEVICE,
        placement=placed(resident, slots, on_disk, "cuda"),
        source=PackingSource(checkpoint, "cuda"),
    )


@pytest.fixture(scope="module")
def expected(folder: Path) -> Tensor:
    with closing(on_gpu(folder, LAYERS)) as model:
        return session(model)


@pytest.mark.parametrize(("resident", "slots", "on_disk"), [(0, 2, 0), (2, 3, 0), (4, 1, 0), (1, 3, 2)])
def test_wherever_layers_lie_the_logits_are_the_same(
    folder: Path, expected: Tensor, resident: int, slots: int, on_disk: int
) -> None:
    before = torch.cuda.memory_allocated()
    with closing(on_gpu(folder, resident, slots, on_disk)) as model:
        for _ in range(3):
            assert torch.equal(session(model), expected)
        if resident > 2:
            assert model.shrink()
            assert torch.equal(session(model), expected)
    del model
    assert torch.cuda.memory_allocated() <= before


def test_a_packed_model_on_the_device_alone_is_replayed(
    folder: Path, expected: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(on_gpu(folder, LAYERS)) as model:
        assert model.in_place
        replay_passes(model)
        assert model.replay is not None, caplog.text
        torch.testing.assert_close(
            session(model), expected, rtol=0.05, atol=0.05 * float(expected.abs().max())
        )


def test_the_engine_keeps_to_max_vram_and_replays_its_models(caplog: pytest.LogCaptureFixture) -> None:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    with closing(LoadedEngine.load(EngineConfig(device=DEVICE, max_vram=2.0, max_length=1024))) as engine:
        assert engine.draft is not None
        assert engine.decoder.target.replay is not None, caplog.text
        assert engine.draft.target.replay is not None, caplog.text
        assert torch.cuda.max_memory_reserved() <= 2 * GIB - CUDA_BYTES
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.fixture
def link(folder: Path) -> Generator[CudaLink]:
    arena = Arena([COPY_BYTES] * 3, CudaRegistrar())
    host = {layer: arena.add(layer) for layer in range(3)}
    assert not arena.refused
    slots = [torch.empty(COPY_BYTES, dtype=torch.uint8, device=DEVICE) for _ in range(3)]
    source = PackingSource(Checkpoint.open(folder))
    with closing(CudaLink(host, slots, torch.device(DEVICE), source)) as link:
        yield link
    arena.close()


def test_a_small_pass_does_not_wait_for_the_layer_that_is_on_its_way(tmp_path: Path, link: CudaLink) -> None:
    write_model(tmp_path, "llama", max_position_embeddings=4096)
    model = Transformer.load(Checkpoint.open(tmp_path), DEVICE, "fp16")
    cache = model.new_cache(3000)
    text = [1] * 900
    for _ in range(3):
        model.forward(Block.chain(text), cache, [], nothing)
        cache.keep(range(len(text)), text)
    tree = Block([1] * 16, [-1, *(row // 2 for row in range(15))])

    def pass_s() -> float:
        begun_s = perf_counter()
        model.forward(tree, cache, range(16), nothing).cpu()
        return perf_counter() - begun_s

    def copies() -> None:
        for layer in range(3):
            link.copy(layer, layer, None)

    pass_s()
    torch.cuda.synchronize()
    begun_s = perf_counter()
    copies()
    torch.cuda.synchronize()
    copy_s = (perf_counter() - begun_s) / 3
    alone_s = min(pass_s() for _ in range(5))
    copies()
    assert pass_s() < alone_s + copy_s / 2
