from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.errors import ConfigError
from engine.low_bit.choice import ROWS, Kept, Kernels
from engine.low_bit.cpu_kernels import CpuKernel
from engine.low_bit.form import Shape
from engine.low_bit.kernel import Kernel, Parts
from engine.low_bit.torch_kernels import PlainKernel, agrees
from tests.engine.low_bit.weights import random_rows, random_weight

SHAPE = Shape(64, 32, 32)
PARTS = random_weight(64, 32).stored("cuda")
X = random_rows(3, 64, torch.float16)


class Timed:
    """A kernel that is right, and takes so long by a clock of its own: a constant, and something a row."""

    now_s = 0.0

    def __init__(self, name: str, once_s: float, row_s: float, most_rows: int = 1000) -> None:
        self.name = name
        self.calls: list[int] = []
        self._once_s, self._row_s, self._most_rows = once_s, row_s, most_rows
        self._inner = PlainKernel()

    def takes(self, shape: Shape, rows: int) -> bool:
        return rows <= self._most_rows

    def __call__(self, x: Tensor, parts: Parts, shape: Shape) -> Tensor:
        self.calls.append(len(x))
        Timed.now_s += self._once_s + self._row_s * len(x)
        return self._inner(x, parts, shape)


class Broken:
    """A kernel that its compiler refuses."""

    name = "broken"

    def takes(self, shape: Shape, rows: int) -> bool:
        return True

    def __call__(self, x: Tensor, parts: Parts, shape: Shape) -> Tensor:
        raise SyntaxError("no such instruction")


class Wrong:
    """A kernel that forgets one input feature."""

    name = "wrong"

    def takes(self, shape: Shape, rows: int) -> bool:
        return True

    def __call__(self, x: Tensor, parts: Parts, shape: Shape) -> Tensor:
        x = x.clone()
        x[:, -1] = 0
        return PlainKernel()(x, parts, shape)


class OutOfMemory(Wrong):
    def __call__(self, x: Tensor, parts: Parts, shape: Shape) -> Tensor:
        raise torch.OutOfMemoryError


@pytest.fixture(autouse=True)
def no_weight_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.low_bit.choice.SMALL_WEIGHTS", 0)


def kernels(*candidates: Kernel, file: Path | None = None) -> Kernels:
    return Kernels(candidates, agrees, Kept(file), clock=lambda: Timed.now_s)


def test_each_number_of_rows_goes_to_what_was_fastest_for_it() -> None:
    few, many = Timed("few", 0.001, 0.001, most_rows=64), Timed("many", 0.01, 0.0001)
    chosen = kernels(few, many)
    chosen.multiply(X, PARTS, SHAPE)
    for rows, kernel in [(1, few), (3, few), (8, few), (12, many), (64, many), (600, many)]:
        few.calls.clear()
        many.calls.clear()
        chosen.multiply(X[:1].expand(rows, -1), PARTS, SHAPE)
        assert kernel.calls == [rows]


def test_one_that_does_not_take_so_many_rows_is_not_asked() -> None:
    few, many = Timed("few", 0.0, 0.0, most_rows=8), Timed("many", 0.01, 0.0)
    chosen = kernels(few, many)
    chosen.multiply(random_rows(100, 64, torch.float16), PARTS, SHAPE)
    assert max(few.calls) == 8
    assert many.calls[-1] == 100


def test_measuring_ends_when_its_time_is_spent() -> None:
    slow, slower = Timed("slow", 0.0, 0.3), Timed("slower", 0.0, 0.4)
    chosen = kernels(slow, slower)
    chosen.multiply(X, PARTS, SHAPE)
    assert max(slow.calls[:-1]) < ROWS[-1]
    slower.calls.clear()
    chosen.multiply(random_rows(512, 64, torch.float16), PARTS, SHAPE)
    assert slower.calls == []


def test_a_choice_is_kept_for_the_next_start(tmp_path: Path) -> None:
    file = tmp_path / "kept" / "kernels.json"

    def started() -> list[Timed]:
        candidates = [Timed("few", 0.001, 0.001), Timed("many", 0.01, 0.0001)]
        kernels(*candidates, file=file).multiply(X, PARTS, SHAPE)
        return candidates

    measured, kept = started(), started()
    assert sum(len(kernel.calls) for kernel in measured) > 5 * len(ROWS)
    # What is verified before it is trusted is only what was chosen, and the last is trusted anyway.
    assert [len(kernel.calls) for kernel in kept] == [4 + 1, 0]


@pytest.mark.parametrize("content", [b"", b"{", b'{"64x32/32": ["few"]}', b'{"64x32/32": 1}'])
def test_a_damaged_choice_is_measured_anew(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "kernels.json"
    file.write_bytes(content)
    few = Timed("few", 0.001, 0.001)
    kernels(few, PlainKernel(), file=file).multiply(X, PARTS, SHAPE)
    assert len(few.calls) > len(ROWS)
    assert Kept(file).names(SHAPE)


def test_a_choice_that_cannot_be_kept_is_made_at_every_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    few = Timed("few", 0.001, 0.001)
    product = kernels(few, PlainKernel(), file=tmp_path / "file" / "x").multiply(X, PARTS, SHAPE)
    assert torch.equal(product, PlainKernel()(X, PARTS, SHAPE))


@pytest.mark.parametrize(
    ("bad", "reason"), [(Broken(), "SyntaxError: no such instruction"), (Wrong(), "of 1 rows is wrong")]
)
def test_a_kernel_that_fails_or_is_wrong_is_left_out_with_one_warning(
    bad: Kernel, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = kernels(bad, PlainKernel())
    with caplog.at_level(logging.WARNING):
        product = chosen.multiply(X, PARTS, SHAPE)
        other = Shape(64, 24, 32)
        chosen.multiply(X, random_weight(64, 24).stored("cuda"), other)
    assert torch.equal(product, PlainKernel()(X, PARTS, SHAPE))
    (warning,) = caplog.messages
    assert f"{bad.name} is left out" in warning
    assert reason in warning


def test_a_kept_choice_that_has_gone_wrong_is_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "kernels.json"
    Kept(file).keep(SHAPE, ["wrong"] * len(ROWS))
    product = kernels(Wrong(), PlainKernel(), file=file).multiply(X, PARTS, SHAPE)
    assert torch.equal(product, PlainKernel()(X, PARTS, SHAPE))
    assert len(caplog.messages) == 1
    assert set(Kept(file).names(SHAPE)) == {"plain"}


def test_a_device_without_memory_is_no_reason_to_leave_a_kernel_out() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        kernels(OutOfMemory(), PlainKernel()).multiply(X, PARTS, SHAPE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("part", ["codes", "zeros", "scales"])
def test_a_product_with_one_wrong_number_in_a_weight_is_seen(part: str, dtype: torch.dtype) -> None:
    x = random_rows(64, 64, dtype)
    assert agrees(PlainKernel()(x, PARTS, SHAPE), x, PARTS, SHAPE)
    wrong = {name: tensor.clone() for name, tensor in PARTS.items()}
    wrong[part].view(torch.int16)[-1, -1] ^= 0x3000  # The highest bits of a nibble, or of a scale's exponent.
    assert not agrees(PlainKernel()(x, wrong, SHAPE), x, PARTS, SHAPE)


@pytest.mark.parametrize("rows", [17, 33, 70])
def test_a_cpus_kernels_all_give_the_same_bits(rows: int) -> None:
    parts, x = random_weight(64, 32).stored("cpu"), random_rows(rows, 64, torch.bfloat16)
    at_once = CpuKernel()(x, parts, SHAPE)
    assert torch.equal(CpuKernel(16)(x, parts, SHAPE), at_once)


def test_a_cpu_without_an_int4_kernel_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> Tensor:
        raise NotImplementedError

    monkeypatch.setattr("engine.low_bit.cpu_kernels._multiply", missing)
    with pytest.raises(ConfigError, match="no INT4 kernel for this CPU; set dtype"):
        Kernels.of("cpu", torch.device("cpu"), torch.bfloat16)
