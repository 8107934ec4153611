"""Token healing: the word at the cursor is taken back from the prompt, and the answer has to begin with it.

A tokenizer that ends at ``self.na`` splits that unlike any text a model has seen, where ``.name`` is one
token. So the prompt ends before the word, and until the word is written again only tokens may come that
agree with it (the idea: guidance, "The art of prompt design: prompt boundaries and token healing", 2023).
Knows nothing of prompts or models.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial


class Beginnings:
    """Finds the tokens that agree with a text that has to be written next."""

    def __init__(self, texts: Iterable[tuple[int, str]]) -> None:
        """`texts`: ids with what each writes.

        Never allowed are those that write nothing, and those that write part of a character: the rest of it
        would not agree with anything.
        """
        whole = [(text, token) for token, text in texts if text and "\N{REPLACEMENT CHARACTER}" not in text]
        self._sorted = sorted(whole)
        self._texts = [text for text, _ in self._sorted]
        self._text_of = {token: text for text, token in whole}
        self.of = lru_cache(maxsize=64)(self._of)

    def after(self, owed: str, path: Sequence[int]) -> tuple[int, ...] | None:
        """The ids that agree with what of `owed` is left after `path`; None if nothing is, or none agrees."""
        for token in path:
            if not owed:
                return None
            owed = self.left(owed, token)
        return (self.of(owed) or None) if owed else None

    def left(self, owed: str, token: int) -> str:
        """What is still owed once `token` has come: nothing, too, where it did not agree."""
        written = self._text_of.get(token, "")
        return owed[len(written) :] if written and owed.startswith(written) else ""

    def _of(self, owed: str) -> tuple[int, ...]:
        """Ids, ascending, of the tokens that begin with `owed` or that `owed` begins with."""
        found: set[int] = set()
        for length in range(1, len(owed) + 1):
            found |= self._range(owed[:length], exact=length < len(owed))
        return tuple(sorted(found))

    def _range(self, text: str, *, exact: bool) -> set[int]:
        found: set[int] = set()
        for at in range(bisect_left(self._texts, text), len(self._texts)):
            known, token = self._sorted[at]
            if not (known == text if exact else known.startswith(text)):
                break
            found.add(token)
        return found


class Debt:
    """What of a word is still to be written again. Belongs to one answer."""

    def __init__(self, owed: str, beginnings: Beginnings) -> None:
        self._owed = owed
        self._beginnings = beginnings
        self.rewritten = 0
        """Tokens so far that wrote nothing new."""

    def allowed(self) -> tuple[int, ...] | None:
        """The ids that agree with what is owed; None if nothing is, or none agrees."""
        return self._beginnings.after(self._owed, ())

    def allowed_behind(self) -> Callable[[Sequence[int]], tuple[int, ...] | None]:
        """The same by a path of tokens from here on, whatever is paid meanwhile."""
        return partial(self._beginnings.after, self._owed)

    def pay(self, written: str) -> str:
        """Take in a token's text; what of it is new."""
        owed, self._owed = self._owed, ""
        if written.startswith(owed):
            new = written[len(owed) :]
        elif owed.startswith(written):
            self._owed, new = owed[len(written) :], ""
        else:
            new = written  # None agreed: the word is given up.
        self.rewritten += bool(owed) and not new
        return new
