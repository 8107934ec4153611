"""Types a recording into a language server, as an editor would, and notes what it is answered and when.

As VS Code does: at each key, cancel what is pending, tell the change, ask; ask again when told that there is
more. As Neovim does: tell the change, ask once there was no key for `NEOVIM_PAUSE_S`, never cancel. Where a
key is typed while an answer may be on its way, a request that no server knows follows it: what comes before
that is refused may have crossed with the key. Judges nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from benchmarks.client_document import ClientDocument, Encoding
from benchmarks.language_client import LanguageClient
from benchmarks.recordings import Recording, State, Transaction, states

Editor = Literal["vscode", "neovim"]
ENCODINGS: Mapping[Editor, Encoding] = {"vscode": "utf-16", "neovim": "utf-8"}

REFRESH = "umbrella/refresh"
FENCE = "benchmark/fence"
NEOVIM_PAUSE_S = 0.2
ANSWER_PATIENCE_S = 30.0
"""After which a request counts as one without an answer."""
START_PATIENCE_S = 120.0
"""For the first answer, which waits for models."""


@dataclass(slots=True)
class Asked:
    """One request for a suggestion, and what came of it."""

    id: int
    state: int
    """How many transactions had been typed when it was sent; the document's version is one more."""
    sent_s: float
    is_cancelled: bool = False
    answers: int = 0
    answered_s: float | None = None
    answered_state: int | None = None
    """How many had been typed when the first answer came."""
    read_state: int = 0
    """How many of them the server had surely read before it gave that answer."""
    result: Any = None
    error: int | None = None


@dataclass(frozen=True, slots=True)
class Replayed:
    """What was typed, and everything the server had to say."""

    recording: Recording
    editor: Editor
    keys: int
    asked: tuple[Asked, ...]
    log: Mapping[int, Mapping[str, str]] = field(repr=False)
    """By request: the figures of the server's line about it."""
    exit_code: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Replay:
    """How to type."""

    recording: Recording
    keys: int
    """Transactions to type at most."""
    editor: Editor = "vscode"
    speed: float = 1.0
    """Times the recorded speed; 0 types the next key once the last one's answer is there."""
    key_typed: Callable[[int, str, int], None] = lambda _number, _text, _cursor: None
    """Told the state, its text and its cursor before the server is."""

    async def run(self, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> Replayed:
        """Start `command` for a workspace in `folder`, and type. Raises RecordingError, ConnectionError."""
        path = folder / (self.recording.name + self.recording.extension)
        path.write_text(self.recording.start, encoding="utf-8", newline="")
        typist = _Typist(self, path.as_uri())
        client = await LanguageClient.start(command, environment, folder, typist.answered, typist.told)
        try:
            await typist.open(client, folder)
            started = time.perf_counter()
            await typist.type()
            seconds = time.perf_counter() - started
        finally:
            exit_code = await client.close()
        typed = min(self.keys, len(self.recording.transactions))
        return Replayed(
            self.recording, self.editor, typed, tuple(typist.asked), client.log, exit_code, seconds
        )


class _Typist:
    """One editor window with one document."""

    def __init__(self, replay: Replay, uri: str) -> None:
        self._replay = replay
        self._uri = uri
        self._document = ClientDocument(replay.recording.start, ENCODINGS[replay.editor])
        self._state = self._read_state = 0
        self._fences = dict[int, int]()
        """Requests that no server knows, and the state after which each was sent."""
        self._by_id = dict[int, Asked]()
        self._answer_came = asyncio.Event()
        self._later: asyncio.Task[None] | None = None
        self._cursor = len(replay.recording.start)
        self._typing = False

    @property
    def asked(self) -> list[Asked]:
        return list(self._by_id.values())

    def answered(self, request: int, message: dict[str, Any], now_s: float) -> None:
        """An answer has come."""
        self._read_state = self._fences.pop(request, self._read_state)
        asked = self._by_id.get(request)
        if asked is None:
            return
        asked.answers += 1
        if asked.answers == 1:
            asked.answered_s, asked.answered_state, asked.read_state = now_s, self._state, self._read_state
            asked.result = message.get("result")
            asked.error = message["error"]["code"] if "error" in message else None
        self._answer_came.set()

    def told(self, method: str) -> None:
        """The server says something by itself."""
        self._answer_came.set()
        if method == REFRESH and self._typing and not self._pending():
            self._ask(self._cursor)

    async def open(self, client: LanguageClient, folder: Path) -> None:
        """Get the server to where it answers, so that nothing after this waits for models."""
        self._client = client
        capabilities: dict[str, Any] = {"general": {"positionEncodings": [ENCODINGS[self._replay.editor]]}}
        if self._replay.editor == "vscode":
            capabilities["experimental"] = {"umbrella": {"refresh": True}}
        root = {"rootUri": folder.as_uri(), "workspaceFolders": [{"uri": folder.as_uri(), "name": "typing"}]}
        recording = self._replay.recording
        opened = {"uri": self._uri, "languageId": recording.language, "version": 1, "text": recording.start}
        async with asyncio.timeout(START_PATIENCE_S):
            await client.ask("initialize", {"processId": None, "capabilities": capabilities, **root})
            client.notify("initialized", {})
            client.notify("textDocument/didOpen", {"textDocument": opened})
            self._replay.key_typed(0, recording.start, len(recording.start))
            await client.ask("textDocument/inlineCompletion", self._question(self._cursor))
        self._typing = True

    async def type(self) -> None:
        """Type it all, and wait for what is still to be answered."""
        replay = self._replay
        due_s = time.perf_counter()
        transactions = replay.recording.transactions[: replay.keys]
        following = states(replay.recording, replay.keys)
        next(following)
        for state, transaction in zip(following, transactions, strict=True):
            if self._client.has_ended:
                break
            replay.key_typed(state.number, state.text, state.cursor)
            self._key(state, transaction)
            if replay.editor == "vscode" or not replay.speed:
                self._ask(state.cursor)
            else:
                self._later = asyncio.create_task(self._ask_later(state.cursor))
            await self._client.drain()
            if replay.speed:
                due_s += transaction.pause_s / replay.speed
                await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            else:
                await self._wait_for_answers()
        if self._later:
            await self._later
        await self._wait_for_answers()

    def _key(self, state: State, transaction: Transaction) -> None:
        if self._later:
            self._later.cancel()
        if self._replay.editor == "vscode":
            for asked in self._pending():
                asked.is_cancelled = True
                self._client.notify("$/cancelRequest", {"id": asked.id})
        changes = [self._document.change(patch) for patch in transaction.patches]
        document = {"uri": self._uri, "version": state.number + 1}
        self._client.notify("textDocument/didChange", {"textDocument": document, "contentChanges": changes})
        self._state, self._cursor = state.number, state.cursor
        if self._replay.editor == "neovim" and self._pending():
            self._fences[self._client.send(FENCE, {})] = state.number

    async def _ask_later(self, cursor: int) -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(NEOVIM_PAUSE_S / self._replay.speed)
            self._ask(cursor)

    def _ask(self, cursor: int) -> None:
        sent_s = time.perf_counter()
        request = self._client.send("textDocument/inlineCompletion", self._question(cursor))
        self._by_id[request] = Asked(request, self._state, sent_s)

    def _question(self, cursor: int) -> dict[str, Any]:
        return {
            "textDocument": {"uri": self._uri},
            "position": self._document.position(cursor),
            "context": {"triggerKind": 2},
        }

    def _pending(self) -> list[Asked]:
        latest = list(self._by_id.values())[-8:]
        return [asked for asked in latest if not asked.answers and not asked.is_cancelled]

    async def _wait_for_answers(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_PATIENCE_S):
                while self._pending() and not self._client.has_ended:
                    self._answer_came.clear()
                    await self._answer_came.wait()


def items_of(result: object) -> list[dict[str, Any]]:
    """The items of an answer, of either form that LSP allows."""
    found = cast("dict[str, Any]", result).get("items") if isinstance(result, dict) else result
    return cast("list[dict[str, Any]]", found) if isinstance(found, list) else []
