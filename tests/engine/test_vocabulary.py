"""The target's tokens as HTTP's endpoints see them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers
from tokenizers import Tokenizer as FastTokenizer

from engine.errors import RequestError
from engine.tokenizer import Tokenizer
from engine.vocabulary import TokenizerVocabulary
from tests.engine.tiny_tokenizer import write_tokenizer

BEGIN = "<|begin_of_text|>"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def vocabulary(tokenizer: Tokenizer) -> TokenizerVocabulary:
    return TokenizerVocabulary(tokenizer, tokenizer.special(BEGIN), 100)


def spaced() -> Tokenizer:
    """In SentencePiece's manner: blanks are marked, and bytes have tokens of their own."""
    pieces = ["<unk>", "<s>", "\N{LOWER ONE EIGHTH BLOCK}a", "b", "\N{LOWER ONE EIGHTH BLOCK}", "a"]
    vocab = {
        piece: index for index, piece in enumerate([*pieces, *(f"<0x{byte:02X}>" for byte in range(256))])
    }
    fast = FastTokenizer(
        models.BPE(vocab, [("\N{LOWER ONE EIGHTH BLOCK}", "a")], unk_token="<unk>", byte_fallback=True)
    )
    fast.normalizer = normalizers.Sequence(
        [
            normalizers.Prepend("\N{LOWER ONE EIGHTH BLOCK}"),
            normalizers.Replace(" ", "\N{LOWER ONE EIGHTH BLOCK}"),
        ]
    )
    fast.decoder = decoders.Sequence(
        [
            decoders.Replace("\N{LOWER ONE EIGHTH BLOCK}", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    fast.add_special_tokens([AddedToken("<s>", normalized=False)])
    return Tokenizer(fast, Path("spaced"))


@settings(max_examples=40)
@given(st.text(max_size=40) | st.sampled_from([BEGIN, f"a{BEGIN}", "<|eot_id|><|eot_id|>"]))
def test_text_comes_back_whole_as_text_and_in_pieces(vocabulary: TokenizerVocabulary, text: str) -> None:
    plain, marked = vocabulary.encode(text), vocabulary.encode(text, specials=True)
    for tokens in (plain, marked):
        assert vocabulary.decode(tokens) == text
        assert b"".join(map(vocabulary.piece, tokens)).decode() == text


def test_only_who_asks_for_it_gets_special_tokens_for_what_is_written_like_one(
    tokenizer: Tokenizer, vocabulary: TokenizerVocabulary
) -> None:
    begin, end = tokenizer.special(BEGIN), tokenizer.special("<|eot_id|>")
    text = "x<|eot_id|>y"
    assert end not in vocabulary.encode(text)
    assert vocabulary.encode(text, specials=True) == [*tokenizer.encode("x"), end, *tokenizer.encode("y")]
    assert vocabulary.encode(text, begin=True) == [begin, *vocabulary.encode(text)]
    assert TokenizerVocabulary(tokenizer, None, 9).encode("x", begin=True) == tokenizer.encode("x")


@pytest.mark.parametrize("token", [-1, 1 << 20, 1 << 40])
def test_an_id_that_there_is_not_is_refused(vocabulary: TokenizerVocabulary, token: int) -> None:
    with pytest.raises(RequestError, match=f"no token {token}") as caught:
        vocabulary.decode([token])
    assert caught.value.field == "tokens"
    with pytest.raises(RequestError):
        vocabulary.piece(token)


def test_a_piece_is_what_a_token_writes_behind_other_text() -> None:
    tokenizer = spaced()
    vocabulary = TokenizerVocabulary(tokenizer, 1, 100)
    tokens = vocabulary.encode("a é b")
    assert vocabulary.piece(tokens[0]) == b" a"
    assert b"".join(map(vocabulary.piece, tokens)).decode() == " a é b"
    assert vocabulary.decode(tokens) == "a é b"
    assert vocabulary.piece(1) == b"<s>"
