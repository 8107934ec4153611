"""Log-probabilities of tokens in OpenAI's two forms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from engine.executor import Vocabulary
from engine.jobs import Chunk
from engine.protocol import StopReason

_LIMITS = (StopReason.LENGTH, StopReason.DEADLINE, StopReason.CANCELLED)


@dataclass(frozen=True, slots=True)
class Told:
    """One token of an answer."""

    token: int
    logprob: float
    offset: int
    """Where it begins in the text."""
    top: tuple[tuple[int, float], ...]


def told(chunk: Chunk, length: int) -> Iterator[Told]:
    """The tokens of `chunk`, as far as their ids are known, of a text that has `length` characters with it.

    What ended the text and is no part of it is left out: an end token, or those of a stop string.
    """
    stopped = chunk.ending is not None and chunk.ending.stop not in _LIMITS
    tops = chunk.tops or ((),) * len(chunk.tokens)
    for token, logprob, offset, top in zip(chunk.tokens, chunk.logprobs, chunk.offsets, tops, strict=False):
        if not (stopped and offset >= length):
            yield Told(token, logprob, offset, top)


def written(piece: bytes) -> str:
    """A token as text, or as bytes where it is a part of a character."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def completion_logprobs(chunk: Chunk, length: int, words: Vocabulary, count: int) -> dict[str, object]:
    """The `logprobs` of a completion's choice, `count` at a position; `length` as in `told`."""
    tokens = list(told(chunk, length))

    def tops(each: Told) -> dict[str, float]:
        # OpenAI's always has the token that was chosen.
        both = (*each.top, (each.token, each.logprob))
        return {written(words.piece(token)): logprob for token, logprob in both}

    return {
        "tokens": [written(words.piece(each.token)) for each in tokens],
        "token_logprobs": [each.logprob for each in tokens],
        "top_logprobs": [tops(each) for each in tokens] if count else None,
        "text_offset": [each.offset for each in tokens],
    }


def chat_logprobs(chunk: Chunk, length: int, words: Vocabulary) -> dict[str, object]:
    """The `logprobs` of a chat's choice; `length` as in `told`."""

    def entry(token: int, logprob: float) -> dict[str, object]:
        piece = words.piece(token)
        return {"token": written(piece), "logprob": logprob, "bytes": list(piece)}

    content = [
        {
            **entry(each.token, each.logprob),
            "top_logprobs": [entry(token, logprob) for token, logprob in each.top],
        }
        for each in told(chunk, length)
    ]
    return {"content": content, "refusal": None}
