"""The language server: LSP in, LSP out.

Handlers check, convert, call and convert back; what is suggested is decided in `completer`. Imports here
are what `initialize` needs and nothing more: the rest comes with `session`, once the client has its
answer.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lsprotocol import types
from pygls.exceptions import JsonRpcException
from pygls.io_ import StdoutWriter, run_async
from pygls.lsp.server import LanguageServer

from engine import __version__
from umbrella_lsp import lsp
from umbrella_lsp.document import Document, DocumentStore, PositionEncoding, language_of, path_of
from umbrella_lsp.errors import EngineLost, UmbrellaError
from umbrella_lsp.settings import Settings, read_settings
from umbrella_lsp.stdin import stdin_reader
from umbrella_lsp.supersede import LatestOnly

if TYPE_CHECKING:
    from umbrella_lsp.outcome import Outcome
    from umbrella_lsp.session import Session
    from umbrella_lsp.workspace.client import Progress

SECTION = "umbrella"
"""Of the client's settings, and of what it says it can do under ``experimental``."""
REFRESH = "umbrella/refresh"
"""Tells a client that asked for it, by ``experimental.umbrella.refresh``, that asking again for a document's
suggestion is worth it: the target has come to a better one, or to one at all."""

CLOSE_S = 5.0
"""An editor that is gone waits for nobody: what cannot be put away by then is left to the system."""

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
        self._answers = LatestOnly[types.InlineCompletionList | None]()
        self._settings = Settings()
        self._initial = Settings()
        self._told: set[str] = set()
        self._opening: asyncio.Task[Session] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._numbers = itertools.count(1)
        self._showing: asyncio.Task[None] | None = None
        """The last report of progress on its way to the client."""
        self._token = ""
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
        # pygls notes things on its handlers, which bound methods do not allow and partials do.
        for method, handler in handlers.items():
            self.feature(method)(partial(handler))
        self.command(lsp.ACCEPTED)(self._accepted_command())
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
        if self._ready and before and after:
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
        self._answers.supersede(uri)
        if self._ready:
            self._ready.closed(uri)

    def _did_save(self, params: types.DidSaveTextDocumentParams) -> None:
        if self._ready:
            self._ready.saved(params.text_document.uri)

    def _accepted_command(self) -> Callable[..., None]:
        def accepted(*arguments: object) -> None:
            if self._ready:
                self._ready.accepted(lsp.accepted_id(arguments))

        return accepted

    def report_server_error(self, error: Exception, source: Any) -> None:
        """Log a message that could not be handled, without its contents, and leave the user in peace."""
        _log.error("a message could not be handled: %s in %s", type(error).__name__, source.__name__)

    def _initialize(self, params: types.InitializeParams) -> None:
        encoding = self.workspace.position_encoding or types.PositionEncodingKind.Utf16
        self._documents.encoding = cast("PositionEncoding", str(getattr(encoding, "value", encoding)))
        self._initial = self._read(Settings(), params.initialization_options)
        self._settings = self._initial

    async def _initialized(self, _params: types.InitializedParams) -> None:
        workspace = self.client_capabilities.workspace
        changes = workspace.did_change_configuration if workspace else None
        if changes and changes.dynamic_registration:
            method = types.WORKSPACE_DID_CHANGE_CONFIGURATION
            options = types.DidChangeConfigurationRegistrationOptions(section=SECTION)
            self.client_register_capability(
                types.RegistrationParams([types.Registration("configuration", method, options)])
            )
        await self._fetch_settings(None)
        (await self._session()).configure(self._settings, self._roots())

    async def _shut_down(self, _params: None) -> None:
        await self._close()

    async def _configuration_changed(self, params: types.DidChangeConfigurationParams) -> None:
        await self._fetch_settings(params.settings)
        (await self._session()).configure(self._settings, self._roots())

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
        offset = document.offset_at(lsp.position(params.position), self._documents.encoding)
        request = self.protocol.msg_id  # Here, where it is surely this request's: the answer is a later task.
        return await self._answers.run(document.uri, self._answer(request, document, offset, params.context))

    async def _answer(
        self, request: object, document: Document, offset: int, context: types.InlineCompletionContext
    ) -> types.InlineCompletionList | None:
        """One answer, and one line in the log, whatever happens."""
        started = time.perf_counter()
        encoding = self._documents.encoding
        try:
            session = self._ready or await self._session()
            if self._documents.get(document.uri) is document:
                session.viewed(document, offset)
            outcome = await session.completer.complete(
                document,
                offset,
                lsp.selection(document, context.selected_completion_info, encoding),
                invoked=context.trigger_kind == types.InlineCompletionTriggerKind.Invoked,
                latest=lambda: self._documents.get(document.uri),
            )
        except asyncio.CancelledError:
            _log.info("id=%s outcome=cancelled total_ms=%.1f", request, _since(started))
            raise
        except UmbrellaError as error:
            _log.info("id=%s outcome=%s total_ms=%.1f", request, type(error).__name__, _since(started))
            if not isinstance(error, EngineLost):  # A crash costs this one suggestion and nobody's attention.
                self._tell(str(error))
            return None
        about = self._about(outcome)
        answer = None if outcome.reason == "outdated" else lsp.items(outcome, encoding, about)
        session.offered(str(about["id"]), outcome)
        _log_outcome(request, outcome, _since(started))
        return answer

    def _about(self, outcome: Outcome) -> dict[str, object]:
        return {
            "id": f"s{next(self._numbers)}",
            "source": outcome.source,
            "tier": outcome.tier,
            "version": outcome.document.version,
            "server_ms": round(outcome.server_ms, 2),
            "engine_ms": round(outcome.total_ms - outcome.server_ms, 2),
        }

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
        session = make(self._settings, self._roots(), self._tell, self._better, self._progressed)
        for document in self._documents:
            session.opened(document)
        return session

    def _roots(self) -> tuple[Path, ...]:
        folders = [folder.uri for folder in self.workspace.folders.values()]
        if not folders and self.workspace.root_uri:
            folders = [self.workspace.root_uri]
        return tuple(Path(path_of(uri)) for uri in folders if uri.startswith("file:"))

    async def _fetch_settings(self, pushed: object) -> None:
        """Read the section from the client if it can be asked, else from what it has pushed."""
        workspace = self.client_capabilities.workspace
        section = cast("dict[str, Any]", pushed).get(SECTION) if isinstance(pushed, dict) else None
        if workspace and workspace.configuration:
            asked_for = types.ConfigurationParams([types.ConfigurationItem(section=SECTION)])
            try:
                section = (await self.workspace_configuration_async(asked_for))[0]
            except (JsonRpcException, IndexError) as error:
                _log.warning("the client did not send its settings: %s", type(error).__name__)
        self._settings = self._read(self._initial, section)

    def _read(self, base: Settings, data: object) -> Settings:
        reading = read_settings(base, data)
        for problem in reading.problems:
            self._tell(problem)
        return reading.settings

    def _tell(self, message: str) -> None:
        """Show the user a sentence, once."""
        if message not in self._told:
            self._told.add(message)
            self.window_show_message(types.ShowMessageParams(types.MessageType.Warning, message))

    def _better(self, uri: str) -> None:
        """There is more for a document than its last answer said."""
        experimental = self.client_capabilities.experimental
        ours = cast("dict[str, Any]", experimental).get(SECTION) if isinstance(experimental, dict) else None
        if isinstance(ours, dict) and cast("dict[str, Any]", ours).get("refresh"):
            self.protocol.notify(REFRESH, {"uri": uri})

    def _progressed(self, progress: Progress) -> None:
        """How far the workspace is read, for an editor that shows such things."""
        window = self.client_capabilities.window
        if not (window and window.work_done_progress):
            return
        before = self._showing
        self._showing = asyncio.create_task(self._show(progress, before))

    async def _show(self, progress: Progress, before: asyncio.Task[None] | None) -> None:
        """Send `progress`, after what is sent already."""
        if before is not None:
            await asyncio.wait([before])
        said = f"{progress.files} files"
        token = self._token
        if progress.state == "begin":
            token = self._token = f"umbrella-{next(self._numbers)}"
            with suppress(JsonRpcException):  # A client that refuses is not shown any.
                await self.work_done_progress.create_async(token)  # pyright: ignore[reportUnknownMemberType]
            self.work_done_progress.begin(
                token, types.WorkDoneProgressBegin("Umbrella: reading the workspace", message=said)
            )
        elif progress.state == "report":
            self.work_done_progress.report(token, types.WorkDoneProgressReport(message=said))
        else:
            self.work_done_progress.end(token, types.WorkDoneProgressEnd(message=said))


async def _put_away(opening: asyncio.Task[Session]) -> None:
    await (await opening).aclose()


def _import_session() -> type[Session]:
    from umbrella_lsp.session import Session

    return Session


def _log_outcome(request: object, outcome: Outcome, total_ms: float) -> None:
    timings, tokens = outcome.timings, outcome.tokens
    _log.info(
        "id=%s outcome=%s source=%s tier=%s total_ms=%.1f server_ms=%.1f context_ms=%.1f queue_ms=%.0f "
        "prefill_ms=%.0f decode_ms=%.0f prompt=%d reused=%d generated=%d drafted=%d accepted=%d passes=%d",
        request,
        outcome.reason.replace(" ", "-"),
        outcome.source,
        outcome.tier,
        total_ms,
        outcome.server_ms + total_ms - outcome.total_ms,
        outcome.context_ms,
        timings.queue_ms,
        timings.prefill_ms,
        timings.decode_ms,
        tokens.prompt,
        tokens.reused,
        tokens.generated,
        tokens.drafted,
        tokens.accepted,
        tokens.target_passes,
    )


def _since(started: float) -> float:
    """Milliseconds since `started`."""
    return (time.perf_counter() - started) * 1000
