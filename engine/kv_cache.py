"""The keys and values of the tokens a model has seen, and which tokens those are.

A `KVCache` belongs to one conversation with one model. It keeps its token ids beside their keys and
values, so the two cannot fall out of step, and so that it can tell how much of another prompt it
already holds. It knows nothing of trees: the rows of a pass lie behind the valid ones as scratch, and
become valid only when `keep` names them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from engine.lora.adapter import Adapter


class CacheFull(ValueError):
    """A pass needs more rows than the cache has left."""


class KVCache:
    """Preallocated keys and values: [layers, 2, kv_heads, capacity, head_dim], each layer's on its device.

    Attributes:
        capacity: rows there is room for, scratch included.
        tokens: ids of the tokens whose keys and values are valid, in order. Read only: `keep` and
            `truncate` change it.
        adapter: what the model computes the keys and values with besides its weights. Read only: `use`
            changes it.

    """

    def __init__(
        self,
        devices: Sequence[torch.device],
        num_kv_heads: int,
        capacity: int,
        head_dim: int,
        dtype: torch.dtype,
    ) -> None:
        """`devices`: of each layer."""
        self.capacity = capacity
        self.tokens: list[int] = []
        self.adapter: Adapter | None = None
        self._stores = [
            torch.empty((len(list(run)), 2, num_kv_heads, capacity, head_dim), dtype=dtype, device=device)
            for device, run in groupby(devices)
        ]
        # Views made once: finding a layer's keys again costs a small model as much as using them.
        layers = [layer.unbind(0) for store in self._stores for layer in store.unbind(0)]
        self._keys, self._values = ([layer[half] for layer in layers] for half in (0, 1))
        self._scratch = 0
        """Rows behind the valid ones that every layer has written."""

    @property
    def length(self) -> int:
        """How many tokens are valid."""
        return len(self.tokens)

    @property
    def size_bytes(self) -> int:
        """Memory held by the keys and values."""
        return sum(store.nbytes for store in self._stores)

    def common_prefix(self, tokens: Sequence[int]) -> int:
        """How many leading `tokens` are cached. Changes nothing."""
        for index, (cached, wanted) in enumerate(zip(self.tokens, tokens, strict=False)):
            if cached != wanted:
                return index
        return min(len(self.tokens), len(tokens))

    def use(self, adapter: Adapter | None) -> None:
        """Be for passes with `adapter` from now on: what was computed with another is forgotten."""
        if adapter is not self.adapter:
            self.truncate(0)
            self.adapter = adapter

    def truncate(self, length: int) -> None:
        """Forget every token past `length`, and the scratch rows.

        Views that `write` returned hold no meaning afterwards. Raises ValueError if `length` is
        negative or more than is cached.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot truncate a cache of {self.length} tokens to {length}")
        del self.tokens[length:]
        self._scratch = 0

    def write(self, layer: int, keys: Tensor, values: Tensor, first: int = 0) -> tuple[Tensor, Tensor]:
        """Store a pass's rows [kv_heads, T, head_dim] of one layer as scratch, from scratch row `first` on.

        Returns the layer's keys and values [kv_heads, length + first + T, head_dim], cached rows first,
        scratch rows of earlier passes next: views into the cache, right until the next call of any
        method that changes it. Neither `length` nor a row before these changes, so a pass may be
        abandoned after any layer. Raises, having written nothing, CacheFull if the rows do not fit,
        ValueError if the scratch rows before `first` are not whole.
        """
        rows = keys.shape[1]
        start = self.place(first, rows)
        stop = start + rows
        all_keys, all_values = self.stored(layer)
        all_keys.narrow(1, start, rows).copy_(keys)
        all_values.narrow(1, start, rows).copy_(values)
        # Layers run in order, so the rows are whole when the last layer has written them.
        self._scratch = first + rows if layer == len(self._keys) - 1 else first
        return all_keys.narrow(1, 0, stop), all_values.narrow(1, 0, stop)

    def place(self, first: int, rows: int) -> int:
        """Where scratch row `first` lies. Raises as `write` does if `rows` from there on do not fit."""
        if first > self._scratch:
            raise ValueError(f"no pass left {first} whole rows to follow: there are {self._scratch}")
        start = self.length + first
        if start + rows > self.capacity:
            raise CacheFull(f"{start + rows} rows do not fit a KV cache of {self.capacity}")
        return start

    def stored(self, layer: int) -> tuple[Tensor, Tensor]:
        """A layer's keys and values [kv_heads, capacity, head_dim], for a pass that writes them itself."""
        return self._keys[layer], self._values[layer]

    def wrote(self, rows: int) -> None:
        """Count the first `rows` of the scratch as whole, in every layer: a pass has written them itself."""
        self._scratch = rows

    @torch.inference_mode()
    def keep(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """Make `rows` of the scratch valid, in order; the rest of it is gone.

        `rows` are indices into the last pass's block, ascending, and `tokens` the ids they stand for. The
        kept rows are moved together to follow the valid ones. Raises ValueError, having changed
        nothing, if the two differ in length, if rows are not ascending, or if one is not in the scratch:
        its pass did not run through every layer, or was kept before.
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
            start = self.length + in_place
            for store in self._stores:
                source = torch.tensor(moved, device=store.device) + self.length
                store[:, :, :, start : start + len(moved)] = store.index_select(3, source)
        self.tokens.extend(tokens)
        self._scratch = 0

    @torch.inference_mode()
    def adopt(self, other: KVCache, length: int) -> None:
        """Hold a copy of the first `length` tokens of `other`, a cache of the same model, and nothing else.

        They are of the adapter that `other` is of, and so is this cache then.

        Views that `write` returned hold no meaning afterwards; `other` stays as it is. Raises ValueError,
        having changed nothing, if `length` is negative, more than `other` holds, or more than fits here.
        """
        if not 0 <= length <= min(other.length, self.capacity):
            raise ValueError(
                f"cannot adopt {length} tokens of {other.length} into a KV cache of {self.capacity}"
            )
        self.use(other.adapter)
        # What both have of them is the same already, and is most of it between one key and the next.
        new = slice(self.common_prefix(other.tokens[:length]), length)
        for ours, theirs in zip(self._stores, other._stores, strict=True):
            ours[:, :, :, new] = theirs[:, :, :, new]
        self.tokens[:] = other.tokens[:length]
        self._scratch = 0
