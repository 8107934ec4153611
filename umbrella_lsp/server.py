"""The language server: LSP in, LSP out.

Handlers check, convert, call and convert back; what is suggested is decided in `completer`. Imports here
are what `initialize` needs and nothing more: the rest comes with `session`, once the client has its
answer.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lsprotocol import types
from pygls.io_ import StdoutWriter, run_async
from pygls.lsp.server import LanguageServer

from engine import __version__
from umbrella_lsp import lsp
from umbrella_lsp.completion_list import TRIGGERS, completion_list, is_asked_for, word_before
from umbrella_lsp.document import Document, DocumentStore, PositionEncoding, language_of, path_of
from umbrella_lsp.editor import Editor
from umbrella_lsp.errors import UmbrellaError
from umbrella_lsp.log_line import log_line
from umbrella_lsp.settings import Settings, read_settings
from umbrella_lsp.stdin import stdin_reader
from umbrella_lsp.supersede import LatestOnly

if TYPE_CHECKING:
    from umbrella_lsp.outcome import Outcome, Selection
    from umbrella_lsp.session import Session

    _Answered = tuple[Outcome, dict[str, object]]
    """With what is to be known about it."""

CLOSE_S = 5.0
"""An editor that is gone waits for nobody: what cannot be put away by then is left to the system."""
SETTINGS_S = 0.5
"""How long the first request waits for the client's settings, which it has been asked for by then."""

_log = logging.getLogger(__name__)


class UmbrellaServer(LanguageServer):
    """One client's server."""

    def __init__(self) -> None:
        super().__init__(  # pyright: ignore[reportUnknownMemberType]  # pygls leaves some arguments untyped
            "umbrella-lsp",
            __version__,
            protocol_cls=lsp.UmbrellaProtocol,
            max_workers=1,  # It reads stdin.
        )
        self._documents = DocumentStore("utf-16")
        self._editor = Editor(self)
        self._answers = LatestOnly["_Answered | None"]()
        self._settings = Settings()
        self._initial = Settings()
        self._has_settings = asyncio.Event()
        self._opening: asyncio.Task[Session] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._typed: set[str] = set()
        """Documents whose last change no completion list was asked for since."""
        self._register()

    def _register(self) -> None:
        # In the place of pygls' own documents, which split lines as `str.splitlines` does, clamp columns one
        # short of a last line's end and put the whole text together at each change.
        documents: dict[str, Callable[[Any], None]] = {
            types.TEXT_DOCUMENT_DID_OPEN: self._did_open,
            types.TEXT_DOCUMENT_DID_CHANGE: self._did_change,
            types.TEXT_DOCUMENT_DID_CLOSE: self._did_close,
        }
        for method, handler in documents.items():
            self.protocol.fm.add_builtin_feature(method, handler)  # pyright: ignore[reportUnknownMemberType]
        handlers: dict[str, Callable[[Any], Any]] = {
            types.INITIALIZE: self._initialize,
            types.INITIALIZED: self._initialized,
            types.SHUTDOWN: self._shut_down,
            types.WORKSPACE_DID_CHANGE_CONFIGURATION: self._configuration_changed,
            types.WORKSPACE_DID_CHANGE_WORKSPACE_FOLDERS: self._folders_changed,
            types.TEXT_DOCUMENT_DID_SAVE: self._did_save,
        }
        # pygls notes things on its handlers, which bound methods do not allow and partials do. Nor does it
        # take a partial whose first parameter may be any object for one that wants the server itself.
        for method, handler in handlers.items():
            self.feature(method)(partial(handler))
        for method in lsp.FEEDBACKS:
            self.feature(method)(partial(self._feedback, method))
        commands: dict[str, Callable[..., Awaitable[object]]] = {
            lsp.ACCEPTED: self._accepted,
            lsp.TELL_STATUS: self._tell_status,
            lsp.TELL_STATISTICS: self._tell_statistics,
            lsp.UNLOAD: self._unload,
        }
        for name, command in commands.items():
            self.command(name)(partial(command))
        # Without options pygls does not advertise the capability.
        options = types.InlineCompletionOptions()
        self.feature(types.TEXT_DOCUMENT_INLINE_COMPLETION, options)(partial(self._inline_completion))

    async def serve(self) -> None:
        """Talk over stdin and stdout until one of them ends, the client says so or the system does; then put
        all away.
        """
        self.protocol.set_writer(StdoutWriter(sys.stdout.buffer))
        reader, ended = stdin_reader(), threading.Event()
        with suppress(NotImplementedError):  # Where there are no signals.
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, reader.feed_eof)
        try:
            with suppress(asyncio.IncompleteReadError):  # It ended amid a message.
                await run_async(ended, reader, self.protocol, None, self.report_server_error)
        finally:
            # Many an editor only closes the pipe.
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await self._close()

    @property
    def _ready(self) -> Session | None:
        """What answers requests, if it is there already."""
        opening = self._opening
        return opening.result() if opening and opening.done() and not opening.cancelled() else None

    def _did_open(self, params: types.DidOpenTextDocumentParams) -> None:
        item = params.text_document
        if self._documents.get(item.uri):
            self._close_document(item.uri)  # Opened anew: what was known of it may not be true of it now.
        language = item.language_id or language_of(path_of(item.uri))
        document = Document.of(item.uri, item.text, language, item.version)
        self._documents.open(document)
        if self._ready:
            self._ready.opened(document)

    def _did_change(self, params: types.DidChangeTextDocumentParams) -> None:
        identifier = params.text_document
        before = self._documents.get(identifier.uri)
        changes = map(lsp.change, params.content_changes)
        version = None if identifier.version == lsp.NO_VERSION else identifier.version
        edits = self._documents.change(identifier.uri, version, changes)
        after = self._documents.get(identifier.uri)
        if before and after:
            self._typed.add(identifier.uri)
            if self._ready:
                self._ready.changed(before, edits, after)

    def forget(self, uri: str) -> None:
        """Act as if the document were not open: what it holds is not known any more."""
        if self._documents.get(uri):
            _log.warning("a change that makes no sense was ignored, and its document with it: open it again")
            self._close_document(uri)

    def _did_close(self, params: types.DidCloseTextDocumentParams) -> None:
        self._close_document(params.text_document.uri)

    def _close_document(self, uri: str) -> None:
        self._documents.close(uri)
        self._typed.discard(uri)
        self._answers.supersede(uri)
        self._answers.supersede(_list_of(uri))
        if self._ready:
            self._ready.closed(uri)

    def _did_save(self, params: types.DidSaveTextDocumentParams) -> None:
        if self._ready:
            self._ready.saved(params.text_document.uri)

    def _feedback(self, method: str, params: object) -> None:
        said = lsp.feedback(method, params)
        if self._ready and said:
            self._ready.told(said.id, said.event, said.units)

    async def _accepted(self, *arguments: object) -> None:
        if self._ready:
            self._ready.told(lsp.accepted_id(arguments), "accepted")

    async def _tell_status(self, *_arguments: object) -> object:
        return lsp.status((await self._session()).status)

    async def _tell_statistics(self, *_arguments: object) -> object:
        return {"text": await (await self._session()).statistics()}

    async def _unload(self, *_arguments: object) -> object:
        return {"message": await (await self._session()).unload()}

    def report_server_error(self, error: Exception, source: Any) -> None:
        """Log a message that could not be handled, without its contents, and leave the user in peace."""
        _log.error("a message could not be handled: %s in %s", type(error).__name__, source.__name__)

    def _initialize(self, params: types.InitializeParams) -> None:
        encoding = self.workspace.position_encoding or types.PositionEncodingKind.Utf16
        self._documents.encoding = cast("PositionEncoding", str(getattr(encoding, "value", encoding)))
        self._initial = self._read(Settings(), params.initialization_options)
        self._settings = self._initial
        if self._settings.completion_list:
            # What is a feature by now is among the capabilities.
            options = types.CompletionOptions(trigger_characters=TRIGGERS)
            self.feature(types.TEXT_DOCUMENT_COMPLETION, options)(partial(self._completion))

    async def _initialized(self, _params: types.InitializedParams) -> None:
        self._editor.watch_settings()
        if not self._initial.completion_list:
            self.feature(types.TEXT_DOCUMENT_COMPLETION)(partial(self._completion))
        await self._configure(None)

    async def _shut_down(self, _params: None) -> None:
        self._editor.close()
        await self._close()

    async def _configuration_changed(self, params: types.DidChangeConfigurationParams) -> None:
        await self._configure(params.settings)

    async def _configure(self, pushed: object) -> None:
        """Use the client's settings: those it has `pushed`, if it cannot be asked."""
        opening = asyncio.create_task(self._session())  # Which takes time, as the answer may.
        self._settings = self._read(self._initial, await self._editor.settings(pushed))
        self._has_settings.set()
        if not self._initial.completion_list:
            self._editor.offer_list(self._settings.completion_list)
        (await opening).configure(self._settings, self._roots())

    async def _folders_changed(self, _params: types.DidChangeWorkspaceFoldersParams) -> None:
        (await self._session()).configure(self._settings, self._roots())

    async def _inline_completion(
        self, params: types.InlineCompletionParams
    ) -> types.InlineCompletionList | None:
        # Nothing is awaited before the snapshot: this is the document the client asked about.
        document = self._documents.get(params.text_document.uri)
        if document is None:
            _log.warning("a suggestion for a document that is not open was asked for")
            return None
        encoding, context = self._documents.encoding, params.context
        offset = document.offset_at(lsp.position(params.position), encoding)
        selection = lsp.selection(document, context.selected_completion_info, encoding)
        invoked = context.trigger_kind == types.InlineCompletionTriggerKind.Invoked
        answer = self._answer(self.protocol.msg_id, document, offset, selection, invoked=invoked)
        outcome, about = await self._answers.run(document.uri, answer) or (None, {})
        return lsp.items(outcome, encoding, about) if outcome else None

    async def _completion(self, params: types.CompletionParams) -> types.CompletionList | None:
        document = self._documents.get(params.text_document.uri)
        if document is None or not self._settings.completion_list:
            return None
        encoding = self._documents.encoding
        offset = document.offset_at(lsp.position(params.position), encoding)
        typed_just_now = document.uri in self._typed and word_before(document, offset) != ""
        self._typed.discard(document.uri)
        invoked = is_asked_for(params.context, typed_just_now=typed_just_now)
        answer = self._answer(self.protocol.msg_id, document, offset, None, invoked=invoked)
        outcome, about = await self._answers.run(_list_of(document.uri), answer) or (None, {})
        markdown = lsp.takes_markdown(self.client_capabilities)
        return completion_list(outcome, encoding, about, markdown=markdown) if outcome else None

    async def _answer(
        self, request: object, document: Document, offset: int, selection: Selection | None, *, invoked: bool
    ) -> _Answered | None:
        """One outcome, and one line in the log, whatever happens; None if it is no answer any more.

        `request` comes from the handler, where it is surely this request's: this runs as a later task.
        """
        started = time.perf_counter()
        session = self._ready
        try:
            session = session or await self._session()
            if self._documents.get(document.uri) is document:
                session.viewed(document, offset)
            outcome = await session.completer.complete(
                document,
                offset,
                selection,
                invoked=invoked,
                latest=lambda: self._documents.get(document.uri),
            )
        except asyncio.CancelledError:
            _log.info("id=%s outcome=cancelled total_ms=%.1f", request, _since(started))
            raise
        except UmbrellaError as error:
            _log.info("id=%s outcome=%s total_ms=%.1f", request, type(error).__name__, _since(started))
            if session:
                session.failed(error)
            return None
        _log.info("id=%s %s", request, log_line(outcome, _since(started)))
        about = session.offered(outcome)
        return None if outcome.reason == "outdated" else (outcome, about)

    async def _session(self) -> Session:
        """What answers requests; made when it is first needed, and once."""
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
        return await asyncio.shield(self._opening)

    async def _close(self) -> None:
        """Put away what answers requests; once, whoever asks for it."""
        if self._closing is None and self._opening is not None:
            self._closing = asyncio.create_task(_put_away(self._opening))
        if self._closing is not None:
            await asyncio.shield(self._closing)

    async def _open(self) -> Session:
        # In a thread, so that documents may change and requests be cancelled meanwhile.
        make = await asyncio.to_thread(_import_session)
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTINGS_S):
                await self._has_settings.wait()
        session = make(self._settings, self._roots(), self._editor)
        for document in self._documents:
            session.opened(document)
        return session

    def _roots(self) -> tuple[Path, ...]:
        return lsp.roots(self.workspace)

    def _read(self, base: Settings, data: object) -> Settings:
        reading = read_settings(base, data)
        for problem in reading.problems:
            self._editor.say_once(problem)
        return reading.settings


def _list_of(uri: str) -> str:
    """What answers to requests for a document's completion list go by, beside those for ghost text."""
    return f"list {uri}"


async def _put_away(opening: asyncio.Task[Session]) -> None:
    await (await opening).aclose()


def _import_session() -> type[Session]:
    from umbrella_lsp.session import Session

    return Session


def _since(started: float) -> float:
    """Milliseconds since `started`."""
    return (time.perf_counter() - started) * 1000
