"""The language server: LSP in, LSP out. The only file that imports pygls and lsprotocol.

Handlers check, convert, call and convert back; what is suggested is decided in `completer`. Imports here
are what `initialize` needs and nothing more: the rest comes with `session`, once the client has its
answer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lsprotocol import types
from pygls.exceptions import JsonRpcException
from pygls.lsp.server import LanguageServer
from pygls.protocol import LanguageServerProtocol

from engine import __version__
from umbrella_lsp.document import (
    Change,
    Document,
    DocumentStore,
    Position,
    PositionEncoding,
    language_of,
    path_of,
)
from umbrella_lsp.errors import EngineLost, UmbrellaError
from umbrella_lsp.settings import Settings, read_settings
from umbrella_lsp.supersede import LatestOnly

if TYPE_CHECKING:
    from umbrella_lsp.completer import Outcome, Selection
    from umbrella_lsp.session import Session

SECTION = "umbrella"
"""Of the client's settings."""

_log = logging.getLogger(__name__)


class UmbrellaProtocol(LanguageServerProtocol):
    """pygls' protocol, with an answer to requests that cannot be understood."""

    def structure_message(self, data: dict[str, Any]) -> Any:
        """Read one message; a request that is none is refused, as every request gets one answer."""
        if data.get("method") == types.TEXT_DOCUMENT_INLINE_COMPLETION:
            _mend_trigger_kind(data)
        try:
            return super().structure_message(data)
        except JsonRpcException as error:
            if "id" in data and "method" in data:
                self._send_response(data["id"], error=error.to_response_error())
            raise


class UmbrellaServer(LanguageServer):
    """One client's server."""

    def __init__(self) -> None:
        super().__init__(  # pyright: ignore[reportUnknownMemberType]  # pygls leaves some arguments untyped
            "umbrella-lsp",
            __version__,
            protocol_cls=UmbrellaProtocol,
            max_workers=1,  # It reads stdin.
        )
        self._documents = DocumentStore("utf-16")
        self._answers = LatestOnly[types.InlineCompletionList | None]()
        self._settings = Settings()
        self._initial = Settings()
        self._told: set[str] = set()
        self._opening: asyncio.Task[Session] | None = None
        self._register()

    def _register(self) -> None:
        # In the place of pygls' own documents, which split lines as `str.splitlines` does and clamp
        # columns one short of a last line's end: what is suggested must fit to the character.
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
        # Without options pygls does not advertise the capability.
        options = types.InlineCompletionOptions()
        self.feature(types.TEXT_DOCUMENT_INLINE_COMPLETION, options)(partial(self._inline_completion))

    def _did_open(self, params: types.DidOpenTextDocumentParams) -> None:
        item = params.text_document
        language = item.language_id or language_of(path_of(item.uri))
        self._documents.open(Document(item.uri, item.text, language, item.version))

    def _did_change(self, params: types.DidChangeTextDocumentParams) -> None:
        identifier = params.text_document
        self._documents.change(identifier.uri, identifier.version, map(_change, params.content_changes))
        # What is being made for the version before would fit it no longer.
        self._answers.supersede(identifier.uri)

    def _did_close(self, params: types.DidCloseTextDocumentParams) -> None:
        self._documents.close(params.text_document.uri)
        self._answers.supersede(params.text_document.uri)
        self._saved(params.text_document.uri)

    def _did_save(self, params: types.DidSaveTextDocumentParams) -> None:
        self._saved(params.text_document.uri)

    def _saved(self, uri: str) -> None:
        if self._opening is not None and self._opening.done():
            self._opening.result().saved(path_of(uri))

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
        if self._opening is not None:
            await (await self._opening).aclose()

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
            return None
        encoding = self._documents.encoding
        offset = document.offset_at(_position(params.position), encoding)
        request = self.protocol.msg_id  # Here, where it is surely this request's: the answer is a later task.
        work = self._answer(request, document, offset, params, encoding)
        return await self._answers.run(document.uri, work)

    async def _answer(
        self,
        request: object,
        document: Document,
        offset: int,
        params: types.InlineCompletionParams,
        encoding: PositionEncoding,
    ) -> types.InlineCompletionList | None:
        """One answer, and one line in the log, whatever happens."""
        started = time.perf_counter()
        try:
            session = await self._session()
            selection = _selection(document, params.context.selected_completion_info, encoding)
            invoked = params.context.trigger_kind == types.InlineCompletionTriggerKind.Invoked
            outcome = await session.completer.complete(document, offset, selection, invoked=invoked)
        except asyncio.CancelledError:
            _log.info("id=%s outcome=cancelled total_ms=%.0f", request, _since(started))
            raise
        except UmbrellaError as error:
            _log.info("id=%s outcome=%s total_ms=%.0f", request, type(error).__name__, _since(started))
            if not isinstance(error, EngineLost):  # A crash costs this one suggestion and nobody's attention.
                self._tell(str(error))
            return None
        _log_outcome(request, outcome, _since(started))
        return _answer(document, outcome, encoding)

    async def _session(self) -> Session:
        """What answers requests; made when it is first needed, and once."""
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
        return await asyncio.shield(self._opening)

    async def _open(self) -> Session:
        # In a thread, so that documents may change and requests be cancelled meanwhile.
        make = await asyncio.to_thread(_import_session)
        return make(self._settings, self._roots(), self._tell)

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


def _import_session() -> type[Session]:
    from umbrella_lsp.session import Session

    return Session


def _mend_trigger_kind(data: dict[str, Any]) -> None:
    """Older clients number the trigger kinds from 0. Nothing here depends on them, so any will do."""
    params = data.get("params")
    context = cast("dict[str, Any]", params).get("context") if isinstance(params, dict) else None
    if isinstance(context, dict) and cast("dict[str, Any]", context).get("triggerKind") not in (1, 2):
        context["triggerKind"] = types.InlineCompletionTriggerKind.Automatic.value


def _position(position: types.Position) -> Position:
    return Position(position.line, position.character)


def _change(change: types.TextDocumentContentChangeEvent) -> Change:
    if isinstance(change, types.TextDocumentContentChangePartial):
        return Change(change.text, _position(change.range.start), _position(change.range.end))
    return Change(change.text)


def _selection(
    document: Document, selected: types.SelectedCompletionInfo | None, encoding: PositionEncoding
) -> Selection | None:
    if selected is None:
        return None
    from umbrella_lsp.completer import Selection

    start = document.offset_at(_position(selected.range.start), encoding)
    end = document.offset_at(_position(selected.range.end), encoding)
    return Selection(start, end, selected.text)


def _answer(document: Document, outcome: Outcome, encoding: PositionEncoding) -> types.InlineCompletionList:
    """The items of `outcome`; none where old ghost text should go away."""
    suggestion = outcome.suggestion
    if suggestion is None:
        return types.InlineCompletionList([])
    start, end = (document.position_at(offset, encoding) for offset in (suggestion.start, suggestion.end))
    where = types.Range(types.Position(start.line, start.character), types.Position(end.line, end.character))
    return types.InlineCompletionList([types.InlineCompletionItem(suggestion.text, range=where)])


def _log_outcome(request: object, outcome: Outcome, total_ms: float) -> None:
    timings, tokens = outcome.timings, outcome.tokens
    _log.info(
        "id=%s outcome=%s total_ms=%.0f context_ms=%.0f queue_ms=%.0f prefill_ms=%.0f decode_ms=%.0f "
        "prompt=%d reused=%d generated=%d drafted=%d accepted=%d",
        request,
        outcome.reason,
        total_ms,
        outcome.context_ms,
        timings.queue_ms,
        timings.prefill_ms,
        timings.decode_ms,
        tokens.prompt,
        tokens.reused,
        tokens.generated,
        tokens.drafted,
        tokens.accepted,
    )


def _since(started: float) -> float:
    """Milliseconds since `started`."""
    return (time.perf_counter() - started) * 1000
