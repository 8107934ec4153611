"""The text to come at the cursor of a recording: what a perfect suggestion would say there."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.recordings import Patch, Recording, Transaction, states

MAX_TRANSACTIONS = 2_000
"""To look ahead."""


def texts_to_come(recording: Recording, keys: int) -> list[str]:
    """By state, from before the first transaction to after `keys`: the text to come at its cursor."""
    return [
        text_to_come(recording.transactions, state.number, state.cursor) for state in states(recording, keys)
    ]


def text_to_come(transactions: Sequence[Transaction], number: int, cursor: int) -> str:
    """What the transactions from `number` on leave at `cursor` until they go elsewhere.

    What is typed and taken back does not count. Deleting what stands before the cursor is going elsewhere;
    deleting what stands behind it is not. '' if nothing is to come.
    """
    zone = _Zone(cursor)
    for transaction in transactions[number : number + MAX_TRANSACTIONS]:
        if not zone.follow(transaction.patches):
            break
    return zone.text


class _Zone:
    """The text that has come at one place, which other patches of a transaction may move."""

    def __init__(self, start: int) -> None:
        self._start = start
        self.text = ""

    def follow(self, patches: Sequence[Patch]) -> bool:
        """Apply what one key did. False, and unchanged, if it was done elsewhere."""
        start, text, is_here = self._start, self.text, False
        for patch in patches:
            if start <= patch.at <= start + len(text):
                at = patch.at - start
                text = text[:at] + patch.inserted + text[at + patch.deleted :]
                is_here = True
            elif patch.deleted_end < start:
                start += len(patch.inserted) - patch.deleted
            elif patch.at <= start:
                return False
        if is_here:
            self._start, self.text = start, text
        return is_here
