"""Makes a generation's chunks of what a server streams. Pure: it is told what came, and the time.

Where the text ends is decided here, by the same rules as for models that run here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from engine.api.body import MAX_ID_DIGITS
from engine.backend import BuiltPrompt, Vocabulary
from engine.jobs import Chunk, Ending
from engine.protocol import StopReason, Timings, TokenCounts
from engine.remote.wire import Event, Garbage, Logprobs, Usage
from engine.request import GenerationRequest
from engine.text import TextStream

CHARACTERS_A_TOKEN = 256
"""No token writes more: a text that is longer than its tokens allow is none that was asked for."""


@dataclass(frozen=True, slots=True)
class _Tokens:
    """What is known of the tokens of one event: as many of each, or none."""

    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    tops: tuple[tuple[tuple[int, float], ...], ...] = ()
    offsets: tuple[int, ...] = ()


_NONE = _Tokens()


class RemoteAnswer:
    """One text on its way. Times are in milliseconds."""

    def __init__(
        self,
        request: GenerationRequest,
        prompt: BuiltPrompt,
        vocabulary: Vocabulary,
        max_tokens: int,
        accepted_ms: float,
    ) -> None:
        self.max_tokens = max_tokens
        """What there is room for."""
        self._request = request
        self._prompt = prompt
        self._vocabulary = vocabulary
        self._accepted_ms = self._sent_ms = accepted_ms
        self._first_ms: float | None = None
        self._pieces: list[str] = []
        stop = replace(request.stop, strings=(*request.stop.strings, *prompt.stop_strings))
        # A server streams text, so what is pushed is the number of a piece of it.
        self._text = TextStream(self._pieces.__getitem__, (), stop)
        self._length = 0
        self._has_line = False
        self._finish: str | None = None
        self._generated = 0
        self._usage = Usage()
        self._is_told = False

    def sent(self, now_ms: float) -> None:
        """A server is asked."""
        self._sent_ms = now_ms

    def take(self, event: Event, now_ms: float) -> Chunk | None:
        """What `event` brings that is certain; None where that is nothing. Raises Garbage."""
        if event.usage is not None:
            self._usage = event.usage
        if not event.choices:
            return None
        choice = event.choices[0]
        self._finish = choice.finish_reason or self._finish
        text = choice.text or ""
        known = self._known(choice.logprobs, choice.token_ids, self._length)
        if not text and not known.tokens:
            return None
        if self._first_ms is None:
            self._first_ms = now_ms
        self._length += len(text)
        self._generated += len(known.tokens) or 1
        if max(self._length, self._generated) > CHARACTERS_A_TOKEN * self.max_tokens:
            raise Garbage("its text is longer than what was asked for")
        self._pieces.append(text)
        stop = self._text.push(len(self._pieces) - 1)
        said = self._text.take()
        self._has_line = self._has_line or "\n" in said
        if stop is None and self._is_late(now_ms):
            stop, said = StopReason.DEADLINE, said + self._text.finish()
        return self._chunk(said, stop, now_ms, known)

    def end(self, now_ms: float) -> Chunk:
        """The last chunk of a stream that has been read to its end."""
        stop = StopReason.LENGTH if self._finish == "length" else StopReason.END
        return self._chunk(self._text.finish(), stop, now_ms)

    def cancelled(self, now_ms: float) -> Chunk:
        """The last chunk where nobody waits for more."""
        return self._chunk(self._text.finish(), StopReason.CANCELLED, now_ms)

    def _is_late(self, now_ms: float) -> bool:
        limit_ms = self._request.deadline_ms
        return limit_ms is not None and self._has_line and now_ms - (self._first_ms or now_ms) > limit_ms

    def _chunk(self, text: str, stop: StopReason | None, now_ms: float, known: _Tokens = _NONE) -> Chunk:
        fates = () if self._is_told else self._prompt.fates
        self._is_told = True
        return Chunk(
            text,
            known.logprobs,
            self._counts(),
            self._timings(now_ms),
            None if stop is None else Ending(stop, self._text.stop_string, self._prompt.truncated),
            offsets=known.offsets,
            fates=fates,
            tokens=known.tokens,
            tops=known.tops if self._request.top_logprobs else (),
        )

    def _counts(self) -> TokenCounts:
        usage = self._usage
        return TokenCounts(
            prompt=usage.prompt_tokens or len(self._prompt.tokens),
            reused=usage.cached,
            generated=usage.completion_tokens or self._generated,
        )

    def _timings(self, now_ms: float) -> Timings:
        first_ms = now_ms if self._first_ms is None else self._first_ms
        return Timings(
            queue_ms=self._sent_ms - self._accepted_ms,
            prefill_ms=first_ms - self._sent_ms,
            decode_ms=now_ms - first_ms,
            total_ms=now_ms - self._accepted_ms,
        )

    def _known(self, logprobs: Logprobs | None, ids: Sequence[int] | None, begins_at: int) -> _Tokens:
        """The tokens of an event, where the server has told all of them and each is one of ours."""
        texts, values, tops = _listed(logprobs)
        given = ids if ids is not None and len(ids) == len(texts) else [self._token(text) for text in texts]
        tokens = [token for token in given if token is not None and 0 <= token < self._vocabulary.size]
        numbers = [value for value in values if value is not None]
        if not len(tokens) == len(numbers) == len(texts):
            return _NONE
        best = tuple(self._best(top) for top in tops) if len(tops) == len(texts) else ()
        lengths = [len(self._vocabulary.piece(token).decode(errors="ignore")) for token in tokens[:-1]]
        offsets = tuple(accumulate(lengths, initial=begins_at)) if tokens else ()
        return _Tokens(tuple(tokens), tuple(numbers), best, offsets)

    def _best(self, top: Sequence[tuple[str, float]]) -> tuple[tuple[int, float], ...]:
        known = [(self._token(text), value) for text, value in sorted(top, key=lambda pair: -pair[1])]
        best = [(token, value) for token, value in known if token is not None]
        return tuple(best[: self._request.top_logprobs])

    def _token(self, text: str) -> int | None:
        """The id that `text` stands for, if there is one; vLLM writes ids where it is asked to."""
        number = text.removeprefix("token_id:")
        if number != text and number.isdecimal() and len(number) <= MAX_ID_DIGITS:
            return int(number)
        ids = self._vocabulary.encode(text)
        return ids[0] if len(ids) == 1 else None


def _listed(
    logprobs: Logprobs | None,
) -> tuple[list[str], list[float | None], list[list[tuple[str, float]]]]:
    """Tokens, their log-probabilities and the likeliest ones, in whichever of the two shapes they came."""
    if logprobs is None:
        return [], [], []
    if logprobs.content is not None:
        entries = logprobs.content
        tops = [[(each.named, each.logprob) for each in entry.top_logprobs or ()] for entry in entries]
        return [entry.named for entry in entries], [entry.logprob for entry in entries], tops
    tops = [list((top or {}).items()) for top in logprobs.top_logprobs or ()]
    return logprobs.tokens or [], logprobs.token_logprobs or [], tops
