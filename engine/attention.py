"""Who attends to whom in a pass, and the attention itself.

A pass's rows see the cached tokens, their own ancestors in the block, and themselves; within a sliding
window (Mistral; Jiang et al. 2023) only the last so many of these. `MaskedAttention` says so with one
mask; `PathAttention` is the reference whose results do not depend on what else is in the pass. Both are
made once a pass and window, and called once a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional


class Attention(Protocol):
    """Grouped-query attention (Ainslie et al. 2023) of one pass.

    queries [rows, heads, head_dim], keys and values [kv_heads, length + T, head_dim]
    -> [rows, heads * head_dim]. Rows from T on are padding, and what they get means nothing.
    """

    def __call__(self, queries: Tensor, keys: Tensor, values: Tensor, /) -> Tensor: ...

    def select(self, rows: Sequence[int]) -> Attention:
        """The same for some of the pass's rows only, in the order given."""
        ...

    def to(self, device: torch.device) -> Attention:
        """The same for a layer that is on `device`."""
        ...


class AttentionKind(Protocol):
    """Makes the attention of a pass: `parents` [T] of its rows, after `length` cached tokens.

    A row sees itself and `window` - 1 positions before it on its path, or all of it where that is None.
    """

    def __call__(
        self,
        parents: Sequence[int],
        length: int,
        window: int | None,
        dtype: torch.dtype,
        device: torch.device,
        /,
    ) -> Attention: ...


class MaskedAttention:
    """All rows at once, with an additive mask [T, length + T]."""

    def __init__(self, mask: Tensor | None) -> None:
        self.mask = mask

    @staticmethod
    def of(
        parents: Sequence[int],
        length: int,
        window: int | None,
        dtype: torch.dtype,
        device: torch.device,
    ) -> MaskedAttention:
        """The attention of a pass. A single row sees everything within its window."""
        if window is not None and length + len(parents) <= window:
            window = None  # No row stands far enough for it to hide anything.
        if len(parents) == 1 and window is None:
            return MaskedAttention(None)
        # Only what the rows see of each other is sent to a device: layers may be on their way there.
        among_rows = _additive_mask(parents).to(device=device, dtype=dtype)
        mask = torch.cat((among_rows.new_zeros(len(parents), length), among_rows), dim=1)
        if window is not None:
            _narrow(mask, parents, length, window)
        return MaskedAttention(mask)

    def select(self, rows: Sequence[int]) -> MaskedAttention:
        return self if self.mask is None else MaskedAttention(self.mask[list(rows)])

    def to(self, device: torch.device) -> MaskedAttention:
        return self if self.mask is None else MaskedAttention(self.mask.to(device))

    def __call__(self, queries: Tensor, keys: Tensor, values: Tensor, /) -> Tensor:
        rows, heads, head_dim = queries.shape
        kv_heads = keys.shape[0]
        group = heads // kv_heads
        # [kv_heads, group, rows, head_dim]: a group's heads share keys by a stride of 0, without a copy.
        grouped = queries.view(rows, kv_heads, group, head_dim).permute(1, 2, 0, 3)
        shared_keys = keys.unsqueeze(1).expand(-1, group, -1, -1)
        shared_values = values.unsqueeze(1).expand(-1, group, -1, -1)
        mixed = functional.scaled_dot_product_attention(
            grouped, shared_keys, shared_values, attn_mask=self.mask
        )
        return mixed.permute(2, 0, 1, 3).reshape(rows, heads * head_dim)


def _additive_mask(parents: Sequence[int]) -> Tensor:
    """0 where a row sees another or itself, -inf elsewhere: [T, T], float32."""
    rows = len(parents)
    mask = torch.full((rows, rows), -torch.inf)
    chain = next((row for row, parent in enumerate(parents) if parent != row - 1), rows)
    mask[:chain, :chain].triu_(1)
    # NumPy's view of the same memory: setting a row costs a tenth of what torch's indexing does.
    block = mask.numpy()
    for row in range(chain, rows):
        if parents[row] >= 0:
            block[row] = block[parents[row]]
        block[row, row] = 0.0
    return mask


def _narrow(mask: Tensor, parents: Sequence[int], length: int, window: int) -> None:
    """Hide from every row of `mask` what stands `window` positions before it, or more."""
    places: list[int] = []
    for parent in parents:
        places.append(places[parent] + 1 if parent >= 0 else length)
    rows = torch.tensor(places, device=mask.device)
    columns = torch.cat((torch.arange(length, device=mask.device), rows))
    mask.masked_fill_(columns <= rows[:, None] - window, -torch.inf)


class PathAttention:
    """One row at a time, over exactly the keys on its path, in the order of their positions.

    The shapes and the order of summation depend on a row's position alone, so its result is the same bits
    whether it came in a prompt, in a tree or by itself. Slow: for reference.
    """

    def __init__(self, paths: Sequence[Tensor]) -> None:
        self._paths = paths

    @staticmethod
    def of(
        parents: Sequence[int],
        length: int,
        window: int | None,
        dtype: torch.dtype,  # noqa: ARG004 - as AttentionKind has it
        device: torch.device,
    ) -> PathAttention:
        """The attention of a pass."""
        paths: list[list[int]] = []
        for row, parent in enumerate(parents):
            before = paths[parent] if parent >= 0 else list(range(length))
            path = [*before, length + row]
            paths.append(path if window is None else path[-window:])
        return PathAttention([torch.tensor(path, device=device) for path in paths])

    def select(self, rows: Sequence[int]) -> PathAttention:
        return PathAttention([self._paths[row] for row in rows])

    def to(self, device: torch.device) -> PathAttention:
        return PathAttention([path.to(device) for path in self._paths])

    def __call__(self, queries: Tensor, keys: Tensor, values: Tensor, /) -> Tensor:
        rows, heads, head_dim = queries.shape
        kv_heads = keys.shape[0]
        result = queries.new_zeros(rows, heads * head_dim)
        for row, path in enumerate(self._paths):
            # Copies, so that the operands are laid out alike wherever they came from.
            query = queries[row].clone().view(kv_heads, heads // kv_heads, head_dim)
            scores = query @ keys.index_select(1, path).transpose(1, 2) * head_dim**-0.5
            mixed = scores.softmax(-1, dtype=torch.float32).to(values.dtype) @ values.index_select(1, path)
            result[row] = mixed.view(-1)
        return result
