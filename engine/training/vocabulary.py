"""Vocabularies: a byte-level BPE tokenizer trained on code, and the step from one vocabulary to another."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from engine.tokenizer import Tokenizer as EngineTokenizer

SPECIAL_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|python_tag|>",
    "<|finetune_right_pad_id|>",
)

# A line break takes the next line's indentation with it: code after an editor's auto-indent then
# starts on a token boundary, which is where most completions are asked for.
SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+[ \t]*|[ \t]+"


def train_tokenizer(texts: Iterable[str], vocab_size: int, folder: Path) -> PreTrainedTokenizerFast:
    """Train on `texts` and save Hugging Face's tokenizer files in `folder`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=True,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        pad_token="<|finetune_right_pad_id|>",
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(str(folder))
    return fast


def carry_over(embedding: Tensor, old: EngineTokenizer, new: EngineTokenizer, size: int) -> Tensor:
    """An embedding [old vocabulary, width] as a start for another vocabulary: [size, width].

    A token both have keeps its row; any other takes the mean of the rows of what the old tokenizer makes
    of its text (fast vocabulary transfer, Gee et al. 2022).
    """
    known = old.vocabulary()
    rows = embedding.mean(0).repeat(size, 1)
    for token, index in new.vocabulary().items():
        pieces = [known[token]] if token in known else old.encode(new.decode([index]))
        if pieces:
            rows[index] = embedding[pieces].mean(0)
    return rows
