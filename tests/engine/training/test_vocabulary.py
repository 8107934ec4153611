from pathlib import Path

import torch

from engine.tokenizer import Tokenizer
from engine.training.vocabulary import carry_over, train_tokenizer
from tests.engine.tiny_tokenizer import SAMPLE


def test_an_embedding_is_carried_over_token_by_token(tmp_path: Path):
    train_tokenizer([SAMPLE], 280, tmp_path / "old")
    train_tokenizer([SAMPLE], 320, tmp_path / "new")
    old, new = Tokenizer.load(tmp_path / "old"), Tokenizer.load(tmp_path / "new")
    table = torch.randn(300, 8)
    carried = carry_over(table, old, new, 330)
    assert carried.shape == (330, 8)
    for token, index in new.vocabulary().items():
        if token in old.vocabulary():
            assert torch.equal(carried[index], table[old.vocabulary()[token]])
    unknown = [index for token, index in new.vocabulary().items() if token not in old.vocabulary()]
    assert unknown
    for index in unknown:
        pieces = old.encode(new.decode([index]))
        assert torch.allclose(carried[index], table[pieces].mean(0))


def test_the_tokenizer_keeps_a_line_break_and_the_indentation_after_it_whole(tmp_path: Path):
    code = "class A:\n    def f(self):\n        if self:\n            return 1\n" * 20
    train_tokenizer([code], 400, tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    pieces = [tokenizer.decode([i]) for i in tokenizer.encode(code)]
    assert "".join(pieces) == code
    assert {"\n    ", "\n        ", "\n            "} <= set(pieces)
