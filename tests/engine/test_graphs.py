from __future__ import annotations

import gc
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import engine.graphs as graphs
from engine.checkpoint import Checkpoint
from engine.graphs import Pass, replay_passes, start_replaying
from engine.kv_cache import CacheFull
from engine.model import Block, Transformer
from engine.weights import DTypeName
from tests.engine.scripted import nothing
from tests.engine.tiny import write_model

VOCABULARY = 48
CAPACITY = 60


class FakeRecorder:
    """A recording that is only the pass itself, counted, with results that the next one overwrites."""

    def __init__(self) -> None:
        self.recorded = 0
        self.replayed = 0
        self._last: torch.Tensor | None = None

    def __call__(self, run: Pass) -> Pass:
        self.recorded += 1
        run()

        def replay() -> torch.Tensor:
            self.replayed += 1
            if self._last is not None:
                self._last.fill_(torch.nan)
            self._last = run()
            return self._last

        return replay


def load(folder: Path, family: str = "llama", **changes: Any) -> Transformer:
    write_model(folder, family, seed=3, vocab_size=VOCABULARY, num_hidden_layers=2, **changes)
    return Transformer.load(Checkpoint.open(folder), "cpu", "fp32")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Transformer:
    return load(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> Transformer:
    return load(tmp_path_factory.mktemp("mistral"), "mistral", sliding_window=6)


@pytest.fixture(autouse=True)
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "ROWS", (1, 4, 12))
    monkeypatch.setattr(graphs, "COLUMNS", 16)


@pytest.fixture
def plain(llama: Transformer) -> Iterator[Transformer]:
    yield llama
    llama.replay = None


@pytest.fixture
def windowed(mistral: Transformer) -> Iterator[Transformer]:
    yield mistral
    mistral.replay = None


def replaying(model: Transformer) -> FakeRecorder:
    recorder = FakeRecorder()
    start_replaying(model, recorder)
    assert model.replay is not None
    return recorder


def random_block(draws: random.Random, rows: int) -> Block:
    return Block(
        [draws.randrange(VOCABULARY) for _ in range(rows)], [draws.randrange(-1, row) for row in range(rows)]
    )


class Twin:
    """One text in two caches: one that passes are replayed on, one that they are not."""

    def __init__(self, model: Transformer) -> None:
        self._model = model
        self._replay = model.replay
        self.caches = [model.new_cache(CAPACITY) for _ in range(2)]
        # What memory happens to hold must not matter.
        self.caches[0]._stores[0].fill_(torch.nan)

    def forward(self, block: Block, rows: Sequence[int]) -> None:
        """A pass on both; the same comes out."""
        replayed, ordinary = self.caches
        ours = self._model.forward(block, replayed, rows, nothing)
        self._model.replay = None
        theirs = self._model.forward(block, ordinary, rows, nothing)
        self._model.replay = self._replay
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)

    def keep(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        for cache in self.caches:
            cache.keep(rows, tokens)
        self.compare()

    def truncate(self, length: int) -> None:
        for cache in self.caches:
            cache.truncate(length)

    def compare(self) -> None:
        ours, theirs = (cache._stores[0][:, :, :, : cache.length] for cache in self.caches)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)

    @property
    def length(self) -> int:
        return self.caches[0].length


def path_to(block: Block, row: int) -> list[int]:
    path: list[int] = []
    while row >= 0:
        path.append(row)
        row = block.parents[row]
    return path[::-1]


def drive(model: Transformer, seed: int, passes: int = 20) -> None:
    """Random trees in two texts that grow, shrink and branch, some run in two parts as a draft grows them."""
    draws = random.Random(seed)
    twins = [Twin(model), Twin(model)]
    for _ in range(passes):
        twin = draws.choice(twins)
        if draws.random() < 0.2:
            twin.truncate(draws.randint(0, twin.length))
        rows = draws.randint(1, min(16, CAPACITY - twin.length))
        block = random_block(draws, rows)
        if rows > 1 and draws.random() < 0.5:
            first = draws.randint(1, rows - 1)
            twin.forward(Block(block.tokens[:first], block.parents[:first]), range(first))
            block = Block(block.tokens, block.parents, first)
        wanted = draws.sample(range(block.first, rows), draws.randint(0, rows - block.first))
        twin.forward(block, sorted(wanted))
        path = path_to(block, draws.randrange(rows))
        if twin.length + len(path) < CAPACITY:
            twin.keep(path, [block.tokens[row] for row in path])


@pytest.mark.parametrize("family", ["plain", "windowed"])
@pytest.mark.parametrize("seed", range(5))
def test_a_replayed_pass_is_the_ordinary_one_whatever_came_before_it(
    request: pytest.FixtureRequest, family: str, seed: int
):
    model: Transformer = request.getfixturevalue(family)
    recorder = replaying(model)
    drive(model, seed)
    assert recorder.replayed > 15
    assert recorder.recorded < recorder.replayed


def test_each_shape_is_recorded_once_for_each_cache(plain: Transformer):
    recorder = replaying(plain)
    before = recorder.recorded
    one, two = plain.new_cache(CAPACITY), plain.new_cache(CAPACITY)
    for cache in (one, two, one):
        for rows in (1, 2, 3, 4):
            plain.forward(Block.chain(range(rows)), cache, [0], nothing)
    assert recorder.recorded - before == 4, "two buckets of rows in either cache"
    one.keep(range(4), range(4))
    plain.forward(Block.chain(range(10)), one, [0], nothing)
    one.keep(range(10), range(10))
    plain.forward(Block.chain([1]), one, [0], nothing)
    assert recorder.recorded - before == 5, "a larger bucket of rows"
    plain.forward(Block.chain([1, 2, 3]), one, [0], nothing)
    assert recorder.recorded - before == 6, "a larger bucket of the cache"


def test_recordings_go_with_their_cache(plain: Transformer):
    replaying(plain)
    cache = plain.new_cache(CAPACITY)
    plain.forward(Block.chain([1]), cache, [0], nothing)
    replay = plain.replay
    assert isinstance(replay, graphs.RecordedPasses)
    plain.replay = None
    gc.collect()
    assert len(replay._recorded) == 1
    del cache
    gc.collect()
    assert len(replay._recorded) == 0


def test_a_pass_too_wide_or_with_no_room_to_be_padded_is_not_replayed(plain: Transformer):
    recorder = replaying(plain)
    before = recorder.replayed
    plain.forward(Block.chain(range(13)), plain.new_cache(CAPACITY), [0], nothing)
    plain.forward(Block.chain(range(5)), plain.new_cache(11), [0], nothing)
    assert recorder.replayed == before
    with pytest.raises(CacheFull):
        plain.forward(Block.chain(range(5)), plain.new_cache(4), [0], nothing)


def test_padding_sees_something_for_the_mean_of_nothing_is_no_number(plain: Transformer):
    replaying(plain)
    plain.forward(Block.chain([1, 2]), plain.new_cache(CAPACITY), [0], nothing)
    assert isinstance(plain.replay, graphs.RecordedPasses)
    for frame in plain.replay._frames.values():
        for mask in frame.masks.values():
            assert (mask == 0).any(-1).all()


def test_an_interruption_comes_before_anything_is_run(plain: Transformer):
    recorder = replaying(plain)
    before, asked = recorder.replayed, list[int]()
    cache = plain.new_cache(CAPACITY)

    def interrupt(layer: int) -> None:
        asked.append(layer)
        if layer == 1:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        plain.forward(Block.chain([1, 2]), cache, [0], interrupt)
    assert asked == [0, 1]
    assert recorder.replayed == before
    with pytest.raises(ValueError, match="was not written"):
        cache.keep([0], [1])


def test_a_row_that_no_pass_has_left_cannot_be_followed(plain: Transformer):
    replaying(plain)
    with pytest.raises(ValueError, match="no pass left 1 whole rows"):
        plain.forward(Block([1, 2], [-1, 0], 1), plain.new_cache(CAPACITY), [1], nothing)


class WrongFrom(FakeRecorder):
    """Records passes that give something else from the replay numbered `nth` on."""

    def __init__(self, nth: int) -> None:
        super().__init__()
        self._nth = nth

    def __call__(self, run: Pass) -> Pass:
        right = super().__call__(run)

        def replay() -> torch.Tensor:
            result = right()
            return result if self.replayed < self._nth else result.roll(1, -1)

        return replay


@pytest.mark.parametrize("nth", [1, 2, 3, 4])
def test_recordings_that_come_out_otherwise_are_not_used(
    plain: Transformer, caplog: pytest.LogCaptureFixture, nth: int
):
    start_replaying(plain, WrongFrom(nth))
    assert plain.replay is None
    (warning,) = caplog.messages
    assert "CUDA graphs are not used" in warning


def test_where_recording_fails_passes_are_computed_as_ever(
    plain: Transformer, caplog: pytest.LogCaptureFixture
):
    def fail(run: Pass) -> Pass:
        raise RuntimeError("operation not permitted when stream is capturing")

    start_replaying(plain, fail)
    assert plain.replay is None
    assert len(caplog.messages) == 1


def test_a_recording_that_fails_later_costs_a_warning_and_no_result(
    plain: Transformer, caplog: pytest.LogCaptureFixture
):
    recorder = FakeRecorder()
    refuse = False

    def record(run: Pass) -> Pass:
        if refuse:
            raise RuntimeError("out of memory")
        return recorder(run)

    start_replaying(plain, record)
    cache = plain.new_cache(CAPACITY)
    block = Block.chain([1, 2, 3])
    refuse = True
    logits = plain.forward(block, cache, range(3), nothing)
    assert plain.replay is None
    assert len(caplog.messages) == 1
    torch.testing.assert_close(logits, plain.forward(block, plain.new_cache(CAPACITY), range(3), nothing))


def test_off_cuda_nothing_is_recorded(plain: Transformer):
    replay_passes(plain)
    assert plain.replay is None


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_cuda_graphs_pass_their_own_check(tmp_path: Path, caplog: pytest.LogCaptureFixture, dtype: DTypeName):
    write_model(tmp_path, "llama", seed=3, vocab_size=VOCABULARY)
    model = Transformer.load(Checkpoint.open(tmp_path), "cuda", dtype)
    replay_passes(model)
    assert model.replay is not None, caplog.text


@pytest.mark.gpu
@pytest.mark.parametrize(("family", "changes"), [("llama", {}), ("mistral", {"sliding_window": 6})])
def test_cuda_graphs_give_what_passes_give_without_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, family: str, changes: dict[str, Any]
):
    write_model(tmp_path, family, seed=3, vocab_size=VOCABULARY, **changes)
    model = Transformer.load(Checkpoint.open(tmp_path), "cuda", "fp32")
    replay_passes(model)
    for seed in range(5):
        drive(model, seed)
    assert model.replay is not None, caplog.text
