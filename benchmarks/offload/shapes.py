"""What the benchmark streams: a 70B's shape and its drafts', the cards it is meant for, a link's speed.

All of it is stated here and nothing measured. Torch-free.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

GB = 10**9
GIB = 2**30
COPY_LAUNCH_MS = 0.008
"""From one copy's end to the next one's begin, and of the host to ask for one: what small copies cost."""
SYNCHRONISE_MS = 0.02
"""Of the host to see that a device is done, and of the device to begin anew."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A Llama, by what its `config.json` says."""

    name: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int = 128_256
    group_size: int | None = 128
    """Of AWQ INT4; None: plain float16, the output layer tied to the embedding."""
    max_position: int = 131_072

    def with_layers(self, num_layers: int) -> Shape:
        """The same with another number of layers."""
        return replace(self, num_layers=num_layers)


LLAMA_70B = Shape("Llama-3.1-70B AWQ", 8192, 28_672, 80, 64, 8, 128)
LLAMA_8B = Shape("Llama-3.1-8B AWQ", 4096, 14_336, 32, 32, 8, 128)
CODE_DRAFTER = Shape("CodeDrafter-500M", 2048, 8192, 4, 32, 8, 64, group_size=None)
"""So many parameters; how they are shaped is made up."""
SCALED = Shape("scaled-down block", 1024, 2816, 24, 16, 4, 64, vocab_size=4096, max_position=2048)
"""For a CPU and a simulated link."""
TINY = Shape("tiny", 1024, 2816, 6, 16, 4, 64, vocab_size=8448, max_position=1024)
"""Just large enough that a CPU keeps it packed, with room for the bundled pair's vocabulary."""
HUB = {
    "hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4": LLAMA_70B,
    "hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4": LLAMA_8B,
    "InfiniAILab/CodeDrafter-500M": CODE_DRAFTER,
}
"""The models that the shipped configurations name, by hub id."""


@dataclass(frozen=True, slots=True)
class Card:
    """A memory cap, a GPU that has so much, and what UMbreLLa's published configuration for it does."""

    gb: int
    gpu: str
    umbrella_cached: int | None
    """Its `num_cache_layers`; None: it streams nothing there."""
    umbrella_levels: int
    """Its `depth`: passes of the draft model before each of the target's, always so many."""

    @property
    def config(self) -> str:
        """The shipped configuration for it."""
        return f"configs/{self.gb}gb.toml"


CARDS = (
    Card(12, "RTX 4070 Ti", 0, 16),
    Card(16, "RTX 4080 SUPER", 0, 24),
    Card(24, "RTX 4090", 16, 24),
    Card(48, "L40", None, 0),
)
RAM_GB = 64
"""Beside the card."""
LINKS_GB_PER_S = (12.5, 25.0, 50.0)
"""PCIe 3, 4 and 5 with 16 lanes, as far as copies reach."""
LINK_GB_PER_S = 25.0
"""Of the headline figures."""
ROWS = (1, 64, 256, 512, 1024)
"""Of a pass, for its time by rows."""
