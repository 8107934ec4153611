"""The keys and values of the tokens a model has seen, and which tokens those are.

A `KVCache` belongs to one conversation with one model. It keeps its token ids beside their keys and
values, so the two cannot fall out of step, and so that it can tell how much of another prompt it
already holds. It knows nothing of trees: the rows of a pass lie behind the valid ones as scratch, and
become valid only when `keep` names them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class CacheFull(ValueError):
    """A pass needs more rows than the cache has left."""


class KVCache:
    """Preallocated keys and values: [layers, 2, kv_heads, capacity, head_dim].

    Attributes:
        capacity: rows there is room for, scratch included.
        tokens: ids of the tokens whose keys and values are valid, in order. Read only: `keep` and
            `truncate` change it.

    """

    def __init__(
        self,
        num_layers: int,
        num_kv_heads: int,
        capacity: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.capacity = capacity
        self.tokens: list[int] = []
        self._store = torch.empty(
            (num_layers, 2, num_kv_heads, capacity, head_dim), dtype=dtype, device=device
        )
        # Views made once: finding a layer's keys again costs a small model as much as using them.
        self._keys, self._values = (list(half.unbind(0)) for half in self._store.unbind(1))
        self._scratch = 0
        """Rows behind the valid ones that every layer has written."""

    @property
    def length(self) -> int:
        """How many tokens are valid."""
        return len(self.tokens)

    @property
    def size_bytes(self) -> int:
        """Memory held by the keys and values."""
        return self._store.nbytes

    def common_prefix(self, tokens: Sequence[int]) -> int:
        """How many leading `tokens` are cached. Changes nothing."""
        for index, (cached, wanted) in enumerate(zip(self.tokens, tokens, strict=False)):
            if cached != wanted:
                return index
        return min(len(self.tokens), len(tokens))

    def truncate(self, length: int) -> None:
        """Forget every token past `length`, and the scratch rows.

        Views that `write` returned hold no meaning afterwards. Raises ValueError if `length` is
        negative or more than is cached.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot truncate a cache of {self.length} tokens to {length}")
        del self.tokens[length:]
        self._scratch = 0

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store a pass's rows [kv_heads, T, head_dim] of one layer behind the valid ones, as scratch.

        Returns the layer's keys and values [kv_heads, length + T, head_dim], cached rows first: views
        into the cache, right until the next call of any method that changes it. Neither `length` nor
        a valid row changes, so a pass may be abandoned after any layer. Raises CacheFull, having
        written nothing, if the rows do not fit.
        """
        start, rows = self.length, keys.shape[1]
        stop = start + rows
        if stop > self.capacity:
            raise CacheFull(f"{stop} rows do not fit a KV cache of {self.capacity}")
        all_keys, all_values = self._keys[layer], self._values[layer]
        all_keys.narrow(1, start, rows).copy_(keys)
        all_values.narrow(1, start, rows).copy_(values)
        # Layers run in order, so the rows are whole when the last layer has written them.
        self._scratch = rows if layer == len(self._keys) - 1 else 0
        return all_keys.narrow(1, 0, stop), all_values.narrow(1, 0, stop)

    @torch.inference_mode()
    def keep(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """Make `rows` of the last pass valid, in order; the rest of that pass is gone.

        `rows` are indices into the pass's block, ascending, and `tokens` the ids they stand for. The
        kept rows are moved together to follow the valid ones. Raises ValueError, having changed
        nothing, if the two differ in length, if rows are not ascending, or if the last pass did not
        run through every layer or was kept before.
        """
        if len(rows) != len(tokens):
            raise ValueError(f"{len(rows)} rows cannot stand for {len(tokens)} tokens")
        if any(later <= earlier for earlier, later in zip([-1, *rows], rows, strict=False)):
            raise ValueError("the rows to keep must be ascending")
        if rows and rows[-1] >= self._scratch:
            raise ValueError(f"row {rows[-1]} was not written: the last pass left {self._scratch} whole rows")
        in_place = next((index for index, row in enumerate(rows) if row != index), len(rows))
        moved = rows[in_place:]
        if moved:
            source = torch.tensor(moved, device=self._store.device) + self.length
            start = self.length + in_place
            self._store[:, :, :, start : start + len(moved)] = self._store.index_select(3, source)
        self.tokens.extend(tokens)
        self._scratch = 0
