"""The one owner of text that clients pushed: by workspace, in an index that drafting reads.

A thread of its own encodes and sorts, in the order of the pushes; neither a push nor a look-up waits for
it. Knows nothing of HTTP or models, and the tokenizer only as a function. Torch-free.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from engine.protocol import WorkspacePush
from engine.workspace_index import WorkspaceIndex, packed

BUDGET_TOKENS = 2_000_000
QUEUE_BYTES = 64 << 20
"""Memory of pushes that wait, such as for the models to be loaded."""
PUSH_BYTES = 256
"""Memory of a push beside its strings."""
DOCUMENT_TOKENS = 64
"""What a document counts for beside its own tokens, for its name and its places in dictionaries."""
ROUND_BYTES = 4 << 20
"""Memory of pushes that are indexed together: sorting once is cheaper than sorting often."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Change:
    """Several pushes to one workspace as one: a text that another replaced is never encoded."""

    clear: bool = False
    removed: set[str] = field(default_factory=set[str])
    texts: dict[str, str] = field(default_factory=dict[str, str])

    def take(self, push: WorkspacePush) -> None:
        """Add what came later."""
        if push.clear:
            self.clear = True
            self.removed.clear()
            self.texts.clear()
        for path in push.removed:
            self.texts.pop(path, None)
        for document in push.documents:
            self.texts.pop(document.path, None)  # So that the order is that of the last pushes.
            self.texts[document.path] = document.text
        self.removed.update(push.removed)


class Workspaces:
    """Text by workspace, at most so much of it. Every method is safe from any thread.

    Beyond the budget it forgets, of the workspace that was used least recently, the documents that were
    pushed least recently; then of the next. Of pushes that wait it drops the oldest.
    """

    def __init__(self, *, budget_tokens: int = BUDGET_TOKENS, queue_bytes: int = QUEUE_BYTES) -> None:
        self._budget_tokens = budget_tokens
        self._queue_bytes = queue_bytes
        self._changed = threading.Condition()
        """Guards all that follows. Nobody holds it while encoding or sorting."""
        self._waiting = deque[tuple[int, WorkspacePush]]()
        """Pushes with their bytes, the oldest first."""
        self._waiting_bytes = 0
        self._in_work = 0
        self._indexes = OrderedDict[str, WorkspaceIndex]()
        """The least recently used first. Only the thread puts anything in or takes it out."""
        self._thread: threading.Thread | None = None
        self._closed = False

    def start(self, encode: Callable[[str], Sequence[int]]) -> None:
        """Index what waits and what comes. `encode` must let other threads run meanwhile.

        Only the first call counts: models that are loaded again have the same tokenizer.
        """
        if self._thread is not None:
            return
        self._thread = threading.Thread(
            target=self._run, args=(encode,), name="umbrella-workspaces", daemon=True
        )
        self._thread.start()

    def close(self, timeout_s: float) -> None:
        """Drop what waits, and end the thread."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def push(self, push: WorkspacePush) -> None:
        """Queue a push. Texts must be free of surrogates."""
        size_bytes = _size_bytes(push)
        with self._changed:
            self._waiting.append((size_bytes, push))
            self._waiting_bytes += size_bytes
            while self._waiting_bytes > self._queue_bytes:
                dropped_bytes, _ = self._waiting.popleft()
                self._waiting_bytes -= dropped_bytes
            self._changed.notify_all()

    def snapshot(self, key: str) -> WorkspaceIndex | None:
        """The workspace's index as it is now, which never changes; None where nothing is held."""
        with self._changed:
            index = self._indexes.get(key)
            if index is not None:
                self._indexes.move_to_end(key)
            return index

    @property
    def waiting(self) -> int:
        """Pushes that are not in an index yet."""
        with self._changed:
            return len(self._waiting) + self._in_work

    @property
    def documents(self) -> int:
        """Documents held."""
        return sum(index.documents for index in self._held())

    @property
    def tokens(self) -> int:
        """Tokens held."""
        return sum(index.tokens for index in self._held())

    def _held(self) -> tuple[WorkspaceIndex, ...]:
        with self._changed:
            return tuple(self._indexes.values())

    def _run(self, encode: Callable[[str], Sequence[int]]) -> None:
        while pushes := self._take():
            changes = dict[str, _Change]()
            for push in pushes:
                changes.setdefault(push.workspace, _Change()).take(push)
            for key, change in changes.items():
                try:
                    self._apply(key, change, encode)
                except Exception as error:  # noqa: BLE001 - later pushes must find a thread that takes them
                    log.warning("a push to a workspace was lost: %s while indexing it", type(error).__name__)
            with self._changed:
                self._in_work = 0

    def _take(self) -> list[WorkspacePush]:
        """The next pushes, once there are any; none at the end."""
        pushes: list[WorkspacePush] = []
        taken_bytes = 0
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            while self._waiting and taken_bytes < ROUND_BYTES:
                size_bytes, push = self._waiting.popleft()
                self._waiting_bytes -= size_bytes
                taken_bytes += size_bytes
                pushes.append(push)
            self._in_work = len(pushes)
        return pushes

    def _apply(self, key: str, change: _Change, encode: Callable[[str], Sequence[int]]) -> None:
        added: dict[str, bytes] = {}
        for path, text in change.texts.items():
            if self._closed:
                return
            ids = _encoded(text, encode)
            if ids:
                added[path] = packed(ids)
        known = self.snapshot(key)
        index = WorkspaceIndex() if known is None or change.clear else known
        self._put(key, index.changed(added, change.removed | change.texts.keys()))
        while (excess := self._cost() - self._budget_tokens) > 0:
            with self._changed:
                key, index = next(iter(self._indexes.items()))
            self._put(key, index.changed({}, index.oldest(excess)))

    def _cost(self) -> int:
        return sum(index.tokens + DOCUMENT_TOKENS * index.documents for index in self._held())

    def _put(self, key: str, index: WorkspaceIndex) -> None:
        with self._changed:
            self._indexes[key] = index  # One that is new is the most recently used.
            if not index.documents:
                del self._indexes[key]


def _size_bytes(push: WorkspacePush) -> int:
    strings: Iterable[str] = (s for document in push.documents for s in (document.path, document.text))
    strings = (push.workspace, *strings, *push.removed)
    return PUSH_BYTES + sum(map(sys.getsizeof, strings))


def _encoded(text: str, encode: Callable[[str], Sequence[int]]) -> Sequence[int]:
    try:
        return encode(text)
    except Exception as error:  # noqa: BLE001 - one document's failure is not the others'
        # Its message may quote the text.
        log.warning("a workspace document was left out: %s while encoding it", type(error).__name__)
        return ()
