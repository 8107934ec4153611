"""An engine whose target takes as long as one of 70 billion parameters does from host memory.

The models are real and the text is theirs; only the target's passes are stretched over `LAYERS` layers, and
its speculation knows. For tests of what a slow target must not do to somebody who types, and for benchmarks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from engine.config import EngineConfig
from engine.costs import CostTable
from engine.decode import Decoder
from engine.generation import EngineBackend
from engine.kv_cache import KVCache
from engine.layers import BeforeLayer
from engine.loaded import LoadedEngine, speed_of
from engine.model import Block, Transformer
from engine.progress import Progress
from engine.speculation import TimedModel, no_workspaces, tree_policy
from tests.engine.fakes import RunningEngine, running_engine

LAYERS = 80
PAIR = EngineConfig(threads=1)
"""The pair that ships."""
DRAFT_PASS_MS = 2.0
"""About what the bundled draft takes; beside such a target, any figure is small."""

InLayer = Callable[[int], None]


class SlowTransformer(Transformer):
    """`model`, whose weights it shares, as if it had `LAYERS` layers: `in_layer` is called inside each."""

    def __init__(self, model: Transformer, in_layer: InLayer) -> None:
        self.__dict__.update(vars(model))
        self._in_layer = in_layer

    @property
    def num_layers(self) -> int:
        return LAYERS

    def forward(self, block: Block, cache: KVCache, rows: Sequence[int], before_layer: BeforeLayer) -> Tensor:
        real = len(self._layers)

        def before_real_layer(layer: int) -> None:
            # The layers that this one stands for.
            for slow in range(layer * LAYERS // real, (layer + 1) * LAYERS // real):
                before_layer(slow)
                self._in_layer(slow)

        return super().forward(block, cache, rows, before_real_layer)


def slowed(engine: LoadedEngine, config: EngineConfig, pass_ms: float, in_layer: InLayer) -> LoadedEngine:
    """`engine`, loaded from `config` (any but a static one), with a target of `pass_ms` a pass.

    It says so of itself, and plans its trees by it: with such a target, rows cost nothing.
    """
    target = SlowTransformer(engine.decoder.target, in_layer)
    drafts = [replace(draft, costs=CostTable.flat(DRAFT_PASS_MS)) for draft in engine.drafts]
    timed = TimedModel(target, CostTable.flat(pass_ms))
    max_length = engine.decoder.max_length
    policy = tree_policy(config, timed, drafts, None, max_length, no_workspaces)
    speed = speed_of(timed, drafts[0] if drafts else None)
    return replace(engine, decoder=Decoder(target, policy, max_length), costs=timed.costs, speed=speed)


@contextmanager
def slowed_engine(
    folder: Path,
    pass_ms: float = 1000.0,
    *,
    config: EngineConfig = PAIR,
    in_layer: InLayer | None = None,
) -> Generator[RunningEngine]:
    """Serve `config`'s models in this process, on a socket in `folder`, at `pass_ms` a pass of the target.

    `in_layer` is called inside each of its layers in place of the sleep that makes it slow, so that a test
    can hold a pass at a layer rather than wait.
    """
    wait = in_layer or (lambda _layer: time.sleep(pass_ms / LAYERS / 1000))

    def load(progress: Progress) -> EngineBackend:
        # The models are timed as they are, which takes seconds at most, and once a home folder.
        return EngineBackend(slowed(LoadedEngine.load(config, progress), config, pass_ms, wait))

    with running_engine(folder, config=config, load=load) as engine:
        yield engine
