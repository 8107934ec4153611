"""A real LSP client over a real server process."""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from collections.abc import AsyncGenerator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lsprotocol import types
from pygls.exceptions import JsonRpcInternalError
from pygls.lsp.client import LanguageClient

from tests.umbrella_lsp.waiting import PATIENCE_S

URI = "file:///home/someone/app.py"
COMMAND = ("-m", "umbrella_lsp.cli", "--stdio")
REPOSITORY = Path(__file__).parents[2]


@dataclass
class Editor:
    """One editor window: what it has open, and what the server has told it."""

    client: LanguageClient
    runtime_dir: Path
    settings: object = None
    """What the client answers when it is asked for the section ``umbrella``."""
    answers_settings: bool = True
    """Else it answers null."""
    has_settings: asyncio.Event = field(default_factory=asyncio.Event)
    """Set as long as the client answers that."""
    messages: list[str] = field(default_factory=list)
    progress: list[dict[str, Any]] = field(default_factory=list)
    """All reports on how far some work is."""
    shows_progress: bool = True
    """Whether it agrees to be sent such reports."""
    refreshed: list[object] = field(default_factory=list)
    """What the server said it is worth asking again about."""
    statuses: list[dict[str, Any]] = field(default_factory=list)
    registered: dict[str, Any] = field(default_factory=dict)
    """What the server wants to be asked beside what it said at first: options by method."""
    stderr: str = ""
    exit_code: int | None = None

    @property
    def process(self) -> asyncio.subprocess.Process:
        assert self.client._server is not None
        return self.client._server

    async def initialize(
        self,
        *,
        root: Path | None = None,
        encoding: str = "utf-16",
        options: object = None,
        experimental: object = None,
        completion: types.CompletionClientCapabilities | None = None,
    ) -> types.InitializeResult:
        capabilities = types.ClientCapabilities(
            general=types.GeneralClientCapabilities(
                position_encodings=[types.PositionEncodingKind(encoding)]
            ),
            workspace=types.WorkspaceClientCapabilities(configuration=True),
            text_document=types.TextDocumentClientCapabilities(completion=completion),
            window=types.WindowClientCapabilities(work_done_progress=True),
            experimental=experimental,
        )
        folders = [types.WorkspaceFolder(root.as_uri(), "work")] if root else None
        result = await self.client.initialize_async(
            types.InitializeParams(
                capabilities,
                workspace_folders=folders,
                initialization_options=options,
                process_id=os.getpid(),
            )
        )
        self.client.initialized(types.InitializedParams())
        return result

    def open(self, uri: str, text: str, language: str = "python") -> None:
        item = types.TextDocumentItem(uri, language, 1, text)
        self.client.text_document_did_open(types.DidOpenTextDocumentParams(item))

    def insert(self, uri: str, line: int, character: int, text: str, version: int = 2) -> None:
        at = types.Position(line, character)
        change = types.TextDocumentContentChangePartial(types.Range(at, at), text)
        self.client.text_document_did_change(
            types.DidChangeTextDocumentParams(types.VersionedTextDocumentIdentifier(version, uri), [change])
        )

    def choose(self, settings: object) -> None:
        """Have the user's settings changed to these."""
        self.settings = settings
        self.client.workspace_did_change_configuration(types.DidChangeConfigurationParams(settings=None))

    def change_as(self, uri: str, change: object) -> None:
        """Send a change that this client's library would not send."""
        params = {"textDocument": {"uri": uri, "version": 2}, "contentChanges": [change]}
        self.tell(types.TEXT_DOCUMENT_DID_CHANGE, params)

    def ask(
        self,
        uri: str,
        line: int,
        character: int,
        *,
        request: str | None = None,
        selected: Any = None,
        kind: types.InlineCompletionTriggerKind = types.InlineCompletionTriggerKind.Automatic,
    ) -> asyncio.Future[types.InlineCompletionList | None]:
        """Send a request; what comes back is its answer, once there is one."""
        params = types.InlineCompletionParams(
            types.InlineCompletionContext(kind, selected_completion_info=selected),
            types.TextDocumentIdentifier(uri),
            types.Position(line, character),
        )
        return self.client.protocol.send_request_async(
            types.TEXT_DOCUMENT_INLINE_COMPLETION, params, msg_id=request
        )

    async def completions(
        self, uri: str, line: int, character: int, kind: types.CompletionTriggerKind | None = None
    ) -> list[types.CompletionItem]:
        """The items of an ordinary completion list."""
        where = types.TextDocumentIdentifier(uri), types.Position(line, character)
        context = types.CompletionContext(kind) if kind else None
        params = types.CompletionParams(*where, context=context)
        answer = await self.client.text_document_completion_async(params)
        if answer is None:
            return []
        assert isinstance(answer, types.CompletionList)
        return [*answer.items]

    async def run(self, command: str, *arguments: Any) -> Any:
        """What one of the server's commands returns."""
        params = types.ExecuteCommandParams(command, arguments=arguments)
        return plain(await self.client.workspace_execute_command_async(params))

    def tell(self, method: str, params: object) -> None:
        """Send a notification that this client's library need not know."""
        self.client.protocol._send_data({"jsonrpc": "2.0", "method": method, "params": params})

    def ask_as(
        self, params: object, method: str = types.TEXT_DOCUMENT_INLINE_COMPLETION
    ) -> asyncio.Future[Any]:
        """Send a request with parameters that this client's library would not send."""
        protocol, request = self.client.protocol, str(uuid.uuid4())
        answer = protocol._request_futures[request] = Future[Any]()
        protocol._result_types[request] = protocol.get_result_type(method)
        protocol._send_data({"jsonrpc": "2.0", "id": request, "method": method, "params": params})
        return asyncio.wrap_future(answer)

    def cancel(self, request: str) -> None:
        self.client.cancel_request(types.CancelParams(request))

    async def end(self, how: Literal["goodbye", "pipe", "signal"] = "goodbye") -> None:
        """Say goodbye, only close the pipe as killed editors do, or have the system end the server."""
        process = self.process
        assert process.stdin is not None
        assert process.stderr is not None
        if how == "goodbye":
            await self.client.shutdown_async(None)
            self.client.exit(None)
        if how == "signal":
            process.terminate()
        else:
            process.stdin.close()
        self.stderr = (await process.stderr.read()).decode()
        self.exit_code = await process.wait()


def plain(value: Any) -> Any:
    """What pygls has made named tuples of, as dictionaries."""
    return value._asdict() if hasattr(value, "_asdict") else value


def at(line: int, character: int) -> types.Range:
    return types.Range(types.Position(line, character), types.Position(line, character))


def items(answer: types.InlineCompletionList | None) -> list[tuple[object, types.Range | None]]:
    """Text and place of each item."""
    assert answer is not None
    return [(item.insert_text, item.range) for item in answer.items]


@asynccontextmanager
async def an_editor(runtime_dir: Path, *options: str, settings: object = None) -> AsyncGenerator[Editor]:
    """An editor with a server of its own, which meets its engine in `runtime_dir`."""
    client = LanguageClient("editor", "1")
    editor = Editor(client, runtime_dir, settings)
    editor.has_settings.set()

    async def configuration(params: types.ConfigurationParams) -> list[object] | None:
        await editor.has_settings.wait()
        return [editor.settings for _ in params.items] if editor.answers_settings else None

    def message(params: types.ShowMessageParams) -> None:
        editor.messages.append(params.message)

    def refresh(params: Any) -> None:
        editor.refreshed.append(params)

    def progress(params: types.ProgressParams) -> None:
        assert params.value is not None
        editor.progress.append({"token": params.token, **params.value})

    def create(_params: types.WorkDoneProgressCreateParams) -> None:
        if not editor.shows_progress:
            raise JsonRpcInternalError

    def status(params: Any) -> None:
        editor.statuses.append(plain(params))

    def register(params: types.RegistrationParams) -> None:
        editor.registered |= {one.method: one.register_options for one in params.registrations}

    def unregister(params: types.UnregistrationParams) -> None:
        for one in params.unregisterations:
            del editor.registered[one.method]

    client.feature(types.PROGRESS)(progress)
    client.feature(types.WINDOW_WORK_DONE_PROGRESS_CREATE)(create)
    client.feature("umbrella/refresh")(refresh)
    client.feature("umbrella/status")(status)
    client.feature(types.CLIENT_REGISTER_CAPABILITY)(register)
    client.feature(types.CLIENT_UNREGISTER_CAPABILITY)(unregister)
    client.feature(types.WORKSPACE_CONFIGURATION)(configuration)
    client.feature(types.WINDOW_SHOW_MESSAGE)(message)
    environment = {**os.environ, "UMBRELLA_RUNTIME_DIR": str(runtime_dir), "PYTHONWARNINGS": "error"}
    async with asyncio.timeout(PATIENCE_S):
        await client.start_io(sys.executable, *options, *COMMAND, env=environment, cwd=REPOSITORY)
        try:
            yield editor
        finally:
            if editor.exit_code is None:
                await editor.end("pipe")
            await client.stop()
