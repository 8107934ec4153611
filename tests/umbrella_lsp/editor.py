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
from pygls.lsp.client import LanguageClient

from tests.umbrella_lsp.waiting import PATIENCE_S

COMMAND = ("-m", "umbrella_lsp.cli", "--stdio")
REPOSITORY = Path(__file__).parents[2]


@dataclass
class Editor:
    """One editor window: what it has open, and what the server has told it."""

    client: LanguageClient
    runtime_dir: Path
    settings: object = None
    """What the client answers when it is asked for the section ``umbrella``."""
    messages: list[str] = field(default_factory=list)
    progress: list[str] = field(default_factory=list)
    """Kinds of all reports on how far the workspace is read."""
    refreshed: list[object] = field(default_factory=list)
    """What the server said it is worth asking again about."""
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
    ) -> types.InitializeResult:
        capabilities = types.ClientCapabilities(
            general=types.GeneralClientCapabilities(
                position_encodings=[types.PositionEncodingKind(encoding)]
            ),
            workspace=types.WorkspaceClientCapabilities(configuration=True),
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

    def change_as(self, uri: str, change: object) -> None:
        """Send a change that this client's library would not send."""
        method = types.TEXT_DOCUMENT_DID_CHANGE
        params = {"textDocument": {"uri": uri, "version": 2}, "contentChanges": [change]}
        self.client.protocol._send_data({"jsonrpc": "2.0", "method": method, "params": params})

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

    def ask_as(self, params: object) -> asyncio.Future[types.InlineCompletionList | None]:
        """Send a request for inline completion with parameters that this client's library would not send."""
        protocol, request = self.client.protocol, str(uuid.uuid4())
        method = types.TEXT_DOCUMENT_INLINE_COMPLETION
        answer = protocol._request_futures[request] = Future[Any]()
        protocol._result_types[request] = protocol.get_result_type(method)
        protocol._send_data({"jsonrpc": "2.0", "id": request, "method": method, "params": params})
        return asyncio.wrap_future(answer)

    def tell_change(self, params: object) -> None:
        """Send a change with parameters that this client's library would not send."""
        message = {"jsonrpc": "2.0", "method": types.TEXT_DOCUMENT_DID_CHANGE, "params": params}
        self.client.protocol._send_data(message)

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


@asynccontextmanager
async def an_editor(runtime_dir: Path, *options: str, settings: object = None) -> AsyncGenerator[Editor]:
    """An editor with a server of its own, which meets its engine in `runtime_dir`."""
    client = LanguageClient("editor", "1")
    editor = Editor(client, runtime_dir, settings)

    def configuration(params: types.ConfigurationParams) -> list[object]:
        return [editor.settings for _ in params.items]

    def message(params: types.ShowMessageParams) -> None:
        editor.messages.append(params.message)

    def refresh(params: object) -> None:
        editor.refreshed.append(params)

    def progress(params: types.ProgressParams) -> None:
        assert params.value is not None
        editor.progress.append(params.value["kind"])

    def create(_params: types.WorkDoneProgressCreateParams) -> None:
        return None

    client.feature(types.PROGRESS)(progress)
    client.feature(types.WINDOW_WORK_DONE_PROGRESS_CREATE)(create)
    client.feature("umbrella/refresh")(refresh)
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
