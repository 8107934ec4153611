"""Text to token ids and back. Text never becomes a special token; ids become text as they arrive."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import cast

from tokenizers import AddedToken
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerFast

from engine.errors import CheckpointError

LONGEST_WORD = 80
"""Characters that are looked at for the word at the cursor; a longer one is left as it is."""
SHOWN_BEFORE = 6
"""Tokens of the prompt that the detokenizer is shown."""


class Tokenizer:
    """A checkpoint's own tokenizer, with the one guarantee that a prompt needs: text is data."""

    def __init__(
        self,
        fast: FastTokenizer,
        folder: Path,
        chat_template: str | None = None,
        named_tokens: Mapping[str, str | list[str]] | None = None,
    ) -> None:
        # Without this a file that contains "<|eot_id|>" would end the user's turn.
        fast.encode_special_tokens = True
        self._fast = fast
        self._folder = folder
        self.chat_template = chat_template
        """The Jinja template for chats that came with it, or None."""
        self.named_tokens = named_tokens or {}
        """Special tokens by what transformers calls them, as in ``bos_token``."""

    @staticmethod
    def load(folder: Path) -> Tokenizer:
        """Read the tokenizer files beside a checkpoint. Raises CheckpointError if there are none."""
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise CheckpointError(
                f"{folder} has no tokenizer.json. Put the checkpoint's own fast tokenizer there."
            )
        try:
            loaded = cast(
                "PreTrainedTokenizerFast",
                PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True),
            )
        except Exception as error:  # the tokenizers library raises plain Exception for what it cannot parse
            raise CheckpointError(f"{file} cannot be read ({error}). Fetch it again.") from error
        chats = cast("str | dict[str, str] | None", loaded.chat_template)
        chat_template = chats.get("default") if isinstance(chats, dict) else chats
        named_tokens = cast("dict[str, str | list[str]]", loaded.special_tokens_map)
        return Tokenizer(loaded.backend_tokenizer, folder, chat_template, named_tokens)

    @property
    def vocab_size(self) -> int:
        """Ids in use, special tokens included."""
        return self._fast.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """Ids of `text` alone: nothing added, nothing in it taken for a special token."""
        return self._fast.encode(text, add_special_tokens=False).ids

    def encode_document(self, text: str) -> list[int]:
        """`encode` for a thread beside others: they go on meanwhile."""
        # The library holds Python's lock while it encodes, a second for a megabyte, but not for a batch.
        return self._fast.encode_batch_fast([text], add_special_tokens=False)[0].ids

    def encode_marked(self, text: str) -> list[int]:
        """Ids of `text` in which special tokens are marked: what is written like one becomes it.

        For a thread beside others, as `encode_document` is.
        """
        return self._marking.encode_batch_fast([text], add_special_tokens=False)[0].ids

    @cached_property
    def _marking(self) -> FastTokenizer:
        """A tokenizer of the same parts: whether special tokens are read is one switch for all threads."""
        marking = FastTokenizer(self._fast.model)
        if self._fast.normalizer is not None:
            marking.normalizer = self._fast.normalizer
        if self._fast.pre_tokenizer is not None:
            marking.pre_tokenizer = self._fast.pre_tokenizer
        # In this order they get their ids again, as where a tokenizer is read from its file.
        added = [token for _, token in sorted(self._fast.get_added_tokens_decoder().items())]
        for is_special, tokens in groupby(added, key=lambda token: token.special):
            (marking.add_special_tokens if is_special else marking.add_tokens)(list(tokens))
        return marking

    def special(self, token: str) -> int:
        """The id of a special token. Raises CheckpointError if the vocabulary lacks it."""
        known = self.find_special(token)
        if known is None:
            raise CheckpointError(
                f"the tokenizer in {self._folder} has no {token}, which the prompt template needs; "
                "choose a template that this model was trained with."
            )
        return known

    def find_special(self, token: str) -> int | None:
        """The id of a special token, or None where the vocabulary lacks it."""
        return self._fast.token_to_id(token)

    def reserve(self, tokens: Iterable[str]) -> None:
        """Keep text from becoming one of `tokens`, where the vocabulary has it, and answers from showing it.

        Qwen's and DeepSeek's tokenizers call the tokens around a cursor plain words, which text may hold.
        """
        known = [token for token in tokens if self.find_special(token) is not None]
        self._fast.add_special_tokens([AddedToken(token, normalized=False) for token in known])

    def last_word(self, text: str) -> str:
        """The end of `text` that would be other tokens if more were typed: '' where nothing would.

        Indentation stays in the prompt: an editor has put it there, and it is right more often than not.
        """
        tail = text[-LONGEST_WORD:]
        splitter = self._fast.pre_tokenizer
        if tail and splitter is not None:
            _, (start, _) = splitter.pre_tokenize_str(tail)[-1]
            word = tail[start:]
        else:  # It splits nothing beforehand: only the last token is known to depend on what follows.
            before = self.decode(self.encode(tail)[:-1])
            word = tail[len(before) :] if tail.startswith(before) else ""
        sure = word.isascii() and "\n" not in word and len(word) < LONGEST_WORD
        return word if sure else ""

    def texts(self) -> list[tuple[int, str]]:
        """Every id with the text it writes behind other text; '' for special tokens."""
        ids = sorted(self.vocabulary().values())
        # Some tokenizers leave out the blank that a text begins with: something has to stand before it.
        before = self.encode("a")[-1:]
        start = len(self.decode(before))
        texts = self._fast.decode_batch([[*before, index] for index in ids], skip_special_tokens=True)
        return [(index, text[start:]) for index, text in zip(ids, texts, strict=True)]

    def decode(self, ids: Sequence[int], *, specials: bool = False) -> str:
        """Text of `ids`, special tokens left out, or as they are written where `specials` says so."""
        return self._fast.decode(list(ids), skip_special_tokens=not specials)

    def decode_document(self, ids: Sequence[int]) -> str:
        """`decode` with special tokens, for a thread beside others, as `encode_document` is."""
        return self._fast.decode_batch([list(ids)], skip_special_tokens=False)[0]

    def detokenizer(self, before: Sequence[int] = ()) -> Detokenizer:
        """A stream of text for the tokens that follow `before`."""
        return Detokenizer(self._fast, before)

    def vocabulary(self) -> dict[str, int]:
        """Every token and its id."""
        return self._fast.get_vocab(with_added_tokens=True)

    def specials(self) -> dict[str, int]:
        """The special tokens as they are written, and their ids."""
        added = self._fast.get_added_tokens_decoder()
        return {token.content: index for index, token in added.items() if token.special}

    def marks(self) -> dict[int, str]:
        """Added tokens of more than one character and more than blanks, special or not, by id.

        Other programs read them in any text that holds them.
        """
        added = self._fast.get_added_tokens_decoder()
        return {index: token.content for index, token in added.items() if len(token.content.strip()) > 1}

    def put_in_front(self) -> tuple[int, ...]:
        """What this tokenizer would put in front of a text by itself, as servers let it."""
        return tuple(self._fast.encode("", add_special_tokens=True).ids)

    def written(self, token: int) -> str | None:
        """How the vocabulary writes the id `token`; None where it has none such."""
        return self._fast.id_to_token(token) if 0 <= token < 1 << 32 else None

    def ordinary(self) -> dict[str, int]:
        """The tokens that text is made of and their ids, for comparing two vocabularies."""
        added = self._fast.get_added_tokens_decoder()
        return {token: index for token, index in self.vocabulary().items() if index not in added}


class Detokenizer:
    """Ids in, text out, one at a time; characters that span tokens come out whole.

    The concatenation of what `push` returned is the decoding of all ids, less a trailing incomplete
    character.
    """

    def __init__(self, fast: FastTokenizer, before: Sequence[int]) -> None:
        self._fast = fast
        # Some tokenizers write a word's first token differently at the start of a text: show them
        # a little of what came before. Not where that ends within a character, which the stream would
        # complete and hand out as new.
        shown = list(before[-SHOWN_BEFORE:])
        if fast.decode(shown, skip_special_tokens=True).endswith("\N{REPLACEMENT CHARACTER}"):
            shown = []
        self._stream = DecodeStream(ids=shown, skip_special_tokens=True)

    def push(self, token: int) -> str:
        """The text that `token` completes, which may be none yet."""
        return self._stream.step(self._fast, token) or ""
