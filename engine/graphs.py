"""Passes of fixed shape, recorded once as CUDA graphs and replayed.

A GPU is done with a small pass sooner than a CPU can ask for its kernels one by one; replaying asks once. A
recording has its shape and its addresses for good, so a pass is padded to a bucket of rows and attends to a
bucket of the cache, with a mask over what is not there, and what differs from pass to pass is copied into
tensors that stay. It knows nothing of how a model computes: `Transformer.run` is recorded as it is.

Between a recording's kernels nothing can be asked: a cancel takes effect before a pass or after it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from engine.attention import Attention, MaskedAttention
from engine.kv_cache import KVCache
from engine.layers import BeforeLayer
from engine.model import Block, PassInputs, Transformer

log = logging.getLogger(__name__)

ROWS = (1, 4, 16, 64)
"""Buckets of rows. A pass of more rows keeps the device busy by itself."""
COLUMNS = 512
"""The smallest bucket of a cache; each further one is twice as long."""

Pass = Callable[[], Tensor]
Recorder = Callable[[Pass], Pass]
"""Makes, of a pass over tensors that stay where they are, one that does the same to the same tensors. What
it returns may be overwritten by the next."""


class CudaRecorder:
    """CUDA graphs that share their memory, for only one runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._results: dict[torch.Size, Tensor] = {}

    def __call__(self, run: Pass) -> Pass:
        with torch.cuda.device(self._device):
            # What libraries set up at a first call cannot be recorded.
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                result = run()
            torch.cuda.current_stream().wait_stream(aside)
            # One a shape for all recordings: those of its own would stay in the pool for each of them.
            result = self._results.setdefault(result.shape, result)
            graph = torch.cuda.CUDAGraph()
            # Other threads may meanwhile copy the layers of another model: those are none of our recording.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                result.copy_(run())

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay


@dataclass(frozen=True, slots=True)
class _Frame:
    """The tensors that passes of one shape read: [rows] places, and masks [rows, columns] by window."""

    inputs: PassInputs
    masks: dict[int | None, Tensor]
    places: Tensor
    """Where in the cache the rows are written."""
    columns: int

    @staticmethod
    def like(inputs: PassInputs, dtype: torch.dtype, rows: int, columns: int) -> _Frame:
        device = inputs.tokens.device
        masks = {
            window: torch.empty((rows, columns), dtype=dtype, device=device) for window in inputs.attentions
        }
        return _Frame(
            PassInputs(
                tokens=torch.zeros(rows, dtype=torch.long, device=device),
                cos=torch.zeros((rows, *inputs.cos.shape[1:]), dtype=dtype, device=device),
                sin=torch.zeros((rows, *inputs.sin.shape[1:]), dtype=dtype, device=device),
                attentions={window: MaskedAttention(mask) for window, mask in masks.items()},
            ),
            masks,
            torch.empty(rows, dtype=torch.long, device=device),
            columns,
        )

    def fill(self, inputs: PassInputs, start: int) -> None:
        """Take in `inputs`, whose rows begin at place `start` of the cache."""
        rows = len(inputs.tokens)
        self.inputs.tokens[:rows] = inputs.tokens
        self.inputs.cos[:rows] = inputs.cos
        self.inputs.sin[:rows] = inputs.sin
        torch.arange(start, start + len(self.places), out=self.places)
        for window, mask in self.masks.items():
            mask.fill_(-torch.inf)
            # Padding sees something, for the mean of nothing is no number and would spread.
            mask[:, 0] = 0.0
            mask[:rows, : start + rows] = _mask_of(inputs.attentions[window])


def _mask_of(attention: Attention) -> Tensor | float:
    assert isinstance(attention, MaskedAttention), "the reference path is not replayed"
    return 0.0 if attention.mask is None else attention.mask


class RecordedPasses:
    """A model's passes by shape and cache, each recorded when it is first wanted: a `Replay`.

    A cache's recordings go with it. Should recording fail, one warning is logged, and the model computes
    everything as if there were no recordings.
    """

    def __init__(self, model: Transformer, record: Recorder) -> None:
        self._model = model
        self._record = record
        self._frames: dict[tuple[int, int], _Frame] = {}
        self._recorded: WeakKeyDictionary[KVCache, dict[tuple[int, int], Pass]] = WeakKeyDictionary()

    def __call__(
        self, inputs: PassInputs, cache: KVCache, first: int, before_layer: BeforeLayer
    ) -> Tensor | None:
        """The logits [rows, vocab] of `inputs` behind `first` rows of the scratch, or None: see `Replay`."""
        rows = len(inputs.tokens)
        shape = _shape(rows, cache.length + first, cache.capacity)
        if shape is None:
            return None
        for layer in range(self._model.num_layers):
            before_layer(layer)
        start = cache.place(first, rows)
        frame = self._frames.get(shape)
        if frame is None:
            frame = self._frames[shape] = _Frame.like(inputs, self._model.dtype, *shape)
        frame.fill(inputs, start)
        recorded = self._of(cache, start)
        if shape not in recorded:
            try:
                recorded[shape] = self._record(self._pass(frame, cache))
            except RuntimeError as error:
                stop_replaying(self._model, f"recording failed: {error}")
                return None
        logits = recorded[shape]()
        cache.wrote(first + rows)
        return logits[:rows]

    def _of(self, cache: KVCache, start: int) -> dict[tuple[int, int], Pass]:
        if cache not in self._recorded:
            self._recorded[cache] = {}
            for layer in range(self._model.num_layers):
                for stored in cache.stored(layer):
                    # A mask hides a number, but nothing hides what is none.
                    stored[:, start:].zero_()
        return self._recorded[cache]

    def _pass(self, frame: _Frame, cache: KVCache) -> Pass:
        # Not the cache itself: it would be kept alive by its own recordings.
        layers = [cache.stored(layer) for layer in range(self._model.num_layers)]

        def write(layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
            all_keys, all_values = layers[layer]
            all_keys.index_copy_(1, frame.places, keys)
            all_values.index_copy_(1, frame.places, values)
            return all_keys[:, : frame.columns], all_values[:, : frame.columns]

        every = range(len(frame.places))
        return lambda: self._model.run(frame.inputs, write, every, _nothing)


def _shape(rows: int, start: int, capacity: int) -> tuple[int, int] | None:
    """The bucket of rows and of columns for `rows` from `start` on; None if the padding finds no room."""
    padded = next((bucket for bucket in ROWS if bucket >= rows), None)
    if padded is None or start + padded > capacity:
        return None
    columns = COLUMNS
    while columns < start + padded:
        columns *= 2
    return padded, min(columns, capacity)


def _nothing(_layer: int) -> None: ...


def replay_passes(model: Transformer) -> None:
    """Have `model` replay its small passes if it is wholly on a CUDA device and they come out as ever."""
    if model.device.type == "cuda" and model.in_place:
        start_replaying(model, CudaRecorder(model.device))


def start_replaying(model: Transformer, record: Recorder) -> None:
    """Have `model` replay what `record` recorded, unless that differs from what it computes otherwise.

    Then, and if recording fails, a warning is logged, and everything stays as it was.
    """
    expected = _probe(model)
    passes = model.replay = RecordedPasses(model, record)
    replayed = _probe(model)
    if model.replay is not passes:
        return  # Recording failed, and that has been said.
    largest = max(float(logits.abs().max()) for logits in expected)
    off = max(float((ours - theirs).abs().max()) for ours, theirs in zip(replayed, expected, strict=True))
    # Padding changes the order of sums, and with it the last bits; a wrong row or column changes everything.
    if not off <= largest * math.sqrt(torch.finfo(model.dtype).eps):
        stop_replaying(model, f"logits are off by {off:.2g} where the largest is {largest:.2g}")


def stop_replaying(model: Transformer, reason: str) -> None:
    """Have `model` compute its passes one kernel at a time again, and say so."""
    model.replay = None
    log.warning("CUDA graphs are not used, which makes small passes slower: %s", reason)


def _probe(model: Transformer) -> Sequence[Tensor]:
    """Logits of passes that build on one another: a text, a tree, a part of it kept, a tree in two parts."""
    vocab = model.config.vocab_size
    cache = model.new_cache(2 * ROWS[-1])
    text = [index % vocab for index in range(9)]
    seen = [model.forward(Block.chain(text), cache, [len(text) - 1], _nothing)]
    cache.keep(range(len(text)), text)
    tree = Block([3 % vocab, 5 % vocab, 7 % vocab], [-1, 0, 0])
    seen.append(model.forward(tree, cache, range(3), _nothing))
    cache.keep([0, 2], [tree.tokens[0], tree.tokens[2]])
    seen.append(model.forward(Block.chain(text[:1]), cache, [0], _nothing))
    deeper = Block([text[0], *text], [-1, *range(9)], first=1)
    seen.append(model.forward(deeper, cache, range(1, 10), _nothing))
    return seen
