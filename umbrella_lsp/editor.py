"""What the server says to its client unasked: messages, status, progress, and what it asks of it.

Knows what the client has said that it can do, and nothing of why something is to be said.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from lsprotocol import types
from pygls.exceptions import JsonRpcException
from pygls.lsp.server import LanguageServer

from umbrella_lsp import lsp
from umbrella_lsp.completion_list import TRIGGERS

if TYPE_CHECKING:
    from umbrella_lsp.status import Status
    from umbrella_lsp.workspace.client import Progress

SECTION = "umbrella"
"""Of the client's settings, and of what it says it can do under ``experimental``."""
STATUS = "umbrella/status"
"""Tells a client that asked for it, by ``experimental.umbrella.status``, what its status bar can show."""
REFRESH = "umbrella/refresh"
"""Tells a client that asked for it, by ``experimental.umbrella.refresh``, that asking again for a document's
suggestion is worth it: the target has come to a better one, or to one at all."""

_log = logging.getLogger(__name__)


class Editor:
    """One client, as seen from its server. Used from one event loop, once `initialize` has come."""

    def __init__(self, server: LanguageServer) -> None:
        self._server = server
        self._said: set[str] = set()
        self._numbers = itertools.count(1)
        self._reading: _Bar | None = None
        self._loading: _Bar | None = None
        self._offers_list = False
        self._has_gone = False

    def say(self, message: str, *, is_error: bool = False) -> None:
        """Show the user a sentence."""
        kind = types.MessageType.Error if is_error else types.MessageType.Warning
        if not self._has_gone:
            self._server.window_show_message(types.ShowMessageParams(kind, message))

    def say_once(self, message: str) -> None:
        """Show the user a sentence, unless they have seen it."""
        if message not in self._said:
            self._said.add(message)
            self.say(message)

    def status(self, status: Status) -> None:
        """The engine's state is another one than before."""
        if self._opted_in("status"):
            self._server.protocol.notify(STATUS, lsp.status(status))
        if status.kind == "loading":
            self._loading = self._loading or self._bar("Umbrella: loading the model")
            self._show(self._loading, status.message, status.progress)
        elif self._loading:
            self._loading.end("")
            self._loading = None

    def refresh(self, uri: str) -> None:
        """There is more for a document than its last answer said."""
        if self._opted_in("refresh"):
            self._server.protocol.notify(REFRESH, {"uri": uri})

    def reading(self, progress: Progress) -> None:
        """How far the workspace is read."""
        said = f"{progress.files} files"
        if progress.state == "end":
            if self._reading:
                self._reading.end(said)
            self._reading = None
            return
        self._reading = self._reading or self._bar("Umbrella: reading the workspace")
        self._show(self._reading, said, None)

    async def settings(self, pushed: object) -> object:
        """The user's settings: asked for if the client can be asked, else as it has `pushed` them."""
        workspace = self._server.client_capabilities.workspace
        section = cast("dict[str, Any]", pushed).get(SECTION) if isinstance(pushed, dict) else None
        if not (workspace and workspace.configuration):
            return section
        wanted = types.ConfigurationParams([types.ConfigurationItem(section=SECTION)])
        try:
            return (await self._server.workspace_configuration_async(wanted))[0]
        except (JsonRpcException, IndexError) as error:
            _log.warning("the client did not send its settings: %s", type(error).__name__)
            return section

    def watch_settings(self) -> None:
        """Have the client tell when the user's settings change."""
        workspace = self._server.client_capabilities.workspace
        changes = workspace.did_change_configuration if workspace else None
        if changes and changes.dynamic_registration:
            options = types.DidChangeConfigurationRegistrationOptions(section=SECTION)
            self._ask_for("configuration", types.WORKSPACE_DID_CHANGE_CONFIGURATION, options)

    def offer_list(self, wanted: bool) -> None:
        """Have the client ask for ordinary completion lists too, or no more, if it can learn so by now."""
        text_document = self._server.client_capabilities.text_document
        completion = text_document.completion if text_document else None
        if wanted == self._offers_list or not (completion and completion.dynamic_registration):
            return
        self._offers_list = wanted
        method = types.TEXT_DOCUMENT_COMPLETION
        if wanted:
            options = types.CompletionRegistrationOptions(trigger_characters=TRIGGERS)
            self._ask_for("completion-list", method, options)
        else:
            self._server.client_unregister_capability(
                types.UnregistrationParams([types.Unregistration("completion-list", method)])
            )

    def close(self) -> None:
        """Bring to an end what the client shows; nothing is said after that."""
        self._has_gone = True
        for bar in (self._reading, self._loading):
            if bar:
                bar.end("")
        self._reading = self._loading = None

    def _ask_for(self, name: str, method: str, options: object) -> None:
        registration = types.Registration(name, method, options)
        self._server.client_register_capability(types.RegistrationParams([registration]))

    def _opted_in(self, to: str) -> bool:
        experimental = self._server.client_capabilities.experimental
        ours = cast("dict[str, Any]", experimental).get(SECTION) if isinstance(experimental, dict) else None
        asked_for = isinstance(ours, dict) and cast("dict[str, Any]", ours).get(to) is True
        return asked_for and not self._has_gone

    def _bar(self, title: str) -> _Bar | None:
        window = self._server.client_capabilities.window
        if self._has_gone or not (window and window.work_done_progress):
            return None
        return _Bar(self._server, title, f"umbrella-{next(self._numbers)}")

    def _show(self, bar: _Bar | None, message: str, share: float | None) -> None:
        if bar:
            bar.report(message, share)


class _Bar:
    """How far one piece of work is, shown from when the client has agreed to it until the end."""

    def __init__(self, server: LanguageServer, title: str, token: str) -> None:
        self._server = server
        self._title = title
        self._token = token
        self._message: str | None = None
        self._percentage: int | None = None
        self._is_shown = False
        self._is_over = False
        self._creating = asyncio.create_task(self._create())

    def report(self, message: str, share: float | None) -> None:
        """`share` is from 0 to 1, or None where it is not known."""
        self._message = message or None
        # LSP: a client may ignore one that is lower than before.
        self._percentage = None if share is None else max(self._percentage or 0, int(share * 100))
        if self._is_shown:
            report = types.WorkDoneProgressReport(message=self._message, percentage=self._percentage)
            self._server.work_done_progress.report(self._token, report)

    def end(self, message: str) -> None:
        """It is done, or given up."""
        self._is_over = True
        if self._is_shown:
            end = types.WorkDoneProgressEnd(message=message or None)
            self._server.work_done_progress.end(self._token, end)

    async def _create(self) -> None:
        with suppress(JsonRpcException):  # A client that refuses is not shown any.
            await self._server.work_done_progress.create_async(self._token)  # pyright: ignore[reportUnknownMemberType]
            if self._is_over:
                return
            begin = types.WorkDoneProgressBegin(
                self._title, message=self._message, percentage=self._percentage
            )
            self._server.work_done_progress.begin(self._token, begin)
            self._is_shown = True
