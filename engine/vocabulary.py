"""The target's tokens for whoever is not the worker: text to ids and back, from any thread.

Knows the tokenizer and nothing of models: it stays when they are given back. Imports tokenizers, so import it
late.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from engine.errors import RequestError
from engine.tokenizer import Tokenizer

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
"""How a vocabulary in SentencePiece's manner writes a token that is one byte."""


def _byte_alphabet() -> dict[str, int]:
    """What stands for each byte in a byte-level vocabulary (GPT-2's, Radford et al. 2019).

    Bytes that are printable in Latin-1 stand for themselves, the others for what follows Latin-1, in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


BYTES = _byte_alphabet()


class TokenizerVocabulary:
    """`engine.backend.Vocabulary` around a tokenizer whose settings nobody changes any more."""

    def __init__(self, tokenizer: Tokenizer, begin_token: int | None, max_length: int) -> None:
        self._tokenizer = tokenizer
        self._begin = [] if begin_token is None else [begin_token]
        self.max_length = max_length
        """Tokens of context, prompt and answer together."""
        self._specials = frozenset(tokenizer.specials().values())

    @property
    def size(self) -> int:
        """Ids in use, special tokens included."""
        return self._tokenizer.vocab_size

    def encode(self, text: str, *, begin: bool = False, specials: bool = False) -> list[int]:
        """Ids of `text`, behind the token that begins a text or not.

        Only where `specials` says so does text become special tokens.
        """
        encode = self._tokenizer.encode_marked if specials else self._tokenizer.encode_document
        return [*(self._begin if begin else ()), *encode(text)]

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of `tokens`, special ones as they are written. Raises RequestError for an unknown id."""
        for token in set(tokens):
            self._written(token)
        return self._tokenizer.decode_document(tokens)

    def piece(self, token: int) -> bytes:
        """What `token` writes behind other text, which may be a part of a character."""
        written = self._written(token)
        if token in self._specials:
            return written.encode()
        # Some tokenizers leave out the blank that a text begins with: something has to stand before it.
        before = self._tokenizer.encode("a")[-1:]
        text = self._tokenizer.decode([*before, token])[len(self._tokenizer.decode(before)) :]
        if "\N{REPLACEMENT CHARACTER}" not in text:
            return text.encode()
        if match := _BYTE.fullmatch(written):
            return bytes.fromhex(match[1])
        if all(character in BYTES for character in written):
            return bytes(BYTES[character] for character in written)
        return text.encode()

    def _written(self, token: int) -> str:
        """How the vocabulary writes `token`. Raises RequestError if it has none such."""
        written = self._tokenizer.written(token)
        if written is None:
            raise RequestError(f"there is no token {token}; ids are from 0 to {self.size - 1}", "tokens")
        return written
