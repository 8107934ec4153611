"""A byte-level tokenizer with Llama 3's special tokens, made in milliseconds, for tests."""

from __future__ import annotations

from pathlib import Path

from engine.tokenizer import Tokenizer
from engine.training.vocabulary import train_tokenizer

SAMPLE = "def add(self, value):\n    return self.value + value\n\n\nclass Account:\n    pass\n" * 3


def write_tokenizer(folder: Path, vocab_size: int = 320) -> Tokenizer:
    """Train on a few lines of code, save in `folder`, and load it as the engine does."""
    train_tokenizer([SAMPLE], vocab_size, folder)
    return Tokenizer.load(folder)
