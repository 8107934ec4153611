"""Which kernel multiplies how many rows with a weight of which shape: measured here, and kept.

No kernel is trusted before it has given the right product of the very weight that it is first asked to
multiply with. One that fails or is wrong is left out, with a warning.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from engine.errors import ConfigError
from engine.kept import folder_for, replace_whole, speed_facts
from engine.low_bit.cpu_kernels import CpuKernel
from engine.low_bit.form import Form, Shape
from engine.low_bit.int8_kernel import Int8Kernel
from engine.low_bit.kernel import Kernel, Parts
from engine.low_bit.torch_kernels import PlainKernel, agrees
from engine.rounding import to_int4, to_int8

log = logging.getLogger(__name__)

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Rows that are timed. Rows in between are multiplied as the next of these, more rows as the last."""
SMALL_WEIGHTS = 2**20
"""Up to so many, a product takes no longer than starting it, and nothing is timed."""
ROUNDS = 5
_FAR_BEHIND = 2.0
BUDGET_S = 1.0
"""For each shape. Once it is spent, more rows are multiplied as those that were timed last."""

Agrees = Callable[[Tensor, Tensor, Parts, Shape], bool]
"""Whether a product is right, of x, parts and shape."""


class Kept:
    """The names of the kernels that were chosen for a device before. Without a file, none are kept."""

    def __init__(self, file: Path | None) -> None:
        self._file = file

    @staticmethod
    def of_user(device: torch.device, dtype: torch.dtype, candidates: Sequence[Kernel]) -> Kept:
        folder = folder_for("kernels")
        if folder is None:
            return Kept(None)
        facts = [*speed_facts(device), str(dtype), *(kernel.name for kernel in candidates)]
        return Kept(folder / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]}.json")

    def names(self, shape: Shape) -> list[str]:
        """By `ROWS`; empty if there are none."""
        names = self._all().get(_key(shape), [])
        return names if len(names) == len(ROWS) else []

    def keep(self, shape: Shape, names: list[str]) -> None:
        """Remember `names`, if that is possible."""
        if self._file is None:
            return
        try:
            replace_whole(self._file, msgspec.json.encode(self._all() | {_key(shape): names}))
        except OSError as error:
            log.info("which kernels are fastest is measured at every start: %s", error.strerror)

    def _all(self) -> dict[str, list[str]]:
        try:
            return msgspec.json.decode(
                self._file.read_bytes() if self._file else b"{}", type=dict[str, list[str]]
            )
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return {}


def _key(shape: Shape) -> str:
    return f"{shape.in_features}x{shape.out_features}/{shape.group_size}"


class Kernels:
    """The kernels of one device, shared by all layers of a model. Belongs to the thread that runs it.

    `candidates` are tried in this order, and the last takes everything. `agrees` is asked of each before it
    is trusted; None where they all give the same bits.
    """

    def __init__(
        self,
        candidates: Sequence[Kernel],
        agrees: Agrees | None = None,
        kept: Kept | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._candidates = list(candidates)
        self._agrees = agrees
        self._kept = kept or Kept(None)
        self._clock = clock
        self._chosen: dict[Shape, list[Kernel]] = {}

    @staticmethod
    def of(form: Form, device: torch.device, dtype: torch.dtype, bits: int = 4) -> Kernels:
        """Those for weights of so many bits stored as `form` on `device`, multiplied with x in `dtype`.

        Raises ConfigError if torch has no such kernel for this CPU.
        """
        if form == "cpu":
            cpu = [CpuKernel(), CpuKernel(16), CpuKernel(32), CpuKernel(64)] if bits == 4 else [Int8Kernel()]
            _require(cpu[0], bits)
            return Kernels(cpu, None, Kept.of_user(device, dtype, cpu))
        cuda = [*(_triton_kernels(device, dtype) if bits == 4 else [Int8Kernel()]), PlainKernel()]
        return Kernels(cuda, agrees, Kept.of_user(device, dtype, cuda))

    def multiply(self, x: Tensor, parts: Parts, shape: Shape) -> Tensor:
        """X [rows, in_features] times the weight that `parts` hold -> [rows, out_features], in x's dtype."""
        kernels = self._chosen.get(shape)
        if kernels is None:
            kernels = self._chosen[shape] = self._choose(x, parts, shape)
        return kernels[min(bisect_left(ROWS, len(x)), len(ROWS) - 1)](x, parts, shape)

    def _choose(self, like: Tensor, parts: Parts, shape: Shape) -> list[Kernel]:
        """By `ROWS`. At the first product with a weight of `shape`, whose content is there by then."""
        rng = torch.Generator().manual_seed(0)
        x = torch.randn(ROWS[-1], shape.in_features, generator=rng).to(like.device, like.dtype)
        if shape.in_features * shape.out_features <= SMALL_WEIGHTS:
            return [self._right(x[:rows], parts, shape)[0] for rows in ROWS]
        known = {kernel.name: kernel for kernel in self._candidates}
        names = self._kept.names(shape)
        if names and all(name in known for name in names):
            kernels = [known[name] for name in names]
            if all(self._is_right(k, x[:n], parts, shape) for n, k in zip(ROWS, kernels, strict=True)):
                return kernels
        kernels = self._measure(x, parts, shape)
        self._kept.keep(shape, [kernel.name for kernel in kernels])
        return kernels

    def _measure(self, x: Tensor, parts: Parts, shape: Shape) -> list[Kernel]:
        chosen: list[Kernel] = []
        spent_s = 0.0
        for rows in ROWS:
            if spent_s > BUDGET_S and chosen[-1].takes(shape, rows):
                chosen.append(chosen[-1])
                continue
            best_s: dict[Kernel, float] = {}
            kernels = self._right(x[:rows], parts, shape)
            for _ in range(ROUNDS if len(kernels) > 1 else 0):
                least_s = min(best_s.values(), default=0.0)
                # One that is far behind is not worth the time of another try.
                for kernel in (k for k in kernels if best_s.get(k, 0.0) <= _FAR_BEHIND * least_s):
                    taken_s = self._timed(kernel, x[:rows], parts, shape)
                    spent_s += taken_s
                    # The least, for whatever else goes on only adds to it.
                    best_s[kernel] = min(taken_s, best_s.get(kernel, taken_s))
                if spent_s > BUDGET_S:
                    break
            chosen.append(min(kernels, key=lambda kernel: best_s.get(kernel, 0.0)))
        return chosen

    def _timed(self, kernel: Kernel, x: Tensor, parts: Parts, shape: Shape) -> float:
        began = self._clock()
        kernel(x, parts, shape)
        if x.device.type == "cuda":
            # Not the whole device: the next layers may be on their way to it.
            torch.cuda.current_stream(x.device).synchronize()
        return self._clock() - began

    def _right(self, x: Tensor, parts: Parts, shape: Shape) -> list[Kernel]:
        """The candidates that multiply x rightly, in order."""
        able = [kernel for kernel in self._candidates if kernel.takes(shape, len(x))]
        return [kernel for kernel in able if self._is_right(kernel, x, parts, shape)] or able[-1:]

    def _is_right(self, kernel: Kernel, x: Tensor, parts: Parts, shape: Shape) -> bool:
        """Whether it gives the right product. One that does not is no candidate any more."""
        if self._agrees is None or kernel is self._candidates[-1]:
            return True
        try:
            if self._agrees(kernel(x, parts, shape), x, parts, shape):
                return True
            reason = f"its product of {len(x)} rows is wrong"
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise  # That is the device's failure, and not the kernel's.
        except Exception as error:  # noqa: BLE001 - compilers raise whatever they like
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        self._candidates.remove(kernel)
        log.warning("kernel %s is left out at %s: %s", kernel.name, _key(shape), reason)
        return False


def _triton_kernels(device: torch.device, dtype: torch.dtype) -> list[Kernel]:
    """Those that are written in Triton, where it can be had and has the dtype."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return []
    try:
        from engine.low_bit.triton_kernels import FusedKernel, ScratchKernel
    except ImportError:
        log.warning(
            "INT4 products are slow here: Triton, which comes with torch for CUDA on Linux, is missing"
        )
        return []
    return [*(FusedKernel(shares) for shares in (1, 2, 4, 8)), ScratchKernel(device)]


def _require(kernel: Kernel, bits: int) -> None:
    """Raise ConfigError unless `kernel` multiplies a small weight rightly on this CPU."""
    rng = torch.Generator().manual_seed(0)
    dense = torch.randn(32, 64, generator=rng)
    weight = to_int4(dense, 32) if bits == 4 else to_int8(dense)
    shape = Shape(64, 32, 32 if bits == 4 else 64, bits)
    x = torch.randn(3, 64, generator=rng).bfloat16()
    expected = x.float() @ weight.dequantised(torch.float32).t()
    try:
        product = kernel(x, weight.stored("cpu"), shape).float()
        right = torch.allclose(product, expected, rtol=0.02, atol=0.02 * float(expected.abs().max()))
    except (AttributeError, RuntimeError, NotImplementedError):
        right = False
    if not right:
        raise ConfigError(
            f'torch has no INT{bits} kernel for this CPU; set dtype = "fp32" to have weights dequantised'
        )
