"""What a client is sent unasked, whatever it agrees to and whenever it goes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from lsprotocol import types
from pygls.exceptions import JsonRpcInternalError
from pygls.lsp.server import LanguageServer

from umbrella_lsp.editor import Editor
from umbrella_lsp.status import Status
from umbrella_lsp.workspace.client import Progress


class Client:
    """What of a pygls server an `Editor` uses, in front of a client that agrees to all or to nothing."""

    def __init__(self, *, agrees: bool = True, capabilities: types.ClientCapabilities | None = None) -> None:
        window = types.WindowClientCapabilities(work_done_progress=True)
        self.client_capabilities = capabilities or types.ClientCapabilities(window=window)
        self.work_done_progress = self.protocol = self
        self.agrees = agrees
        self.has_answered = asyncio.Event()
        self.has_answered.set()
        self.sent: list[str] = []

    async def create_async(self, _token: str) -> None:
        await self.has_answered.wait()
        if not self.agrees:
            raise JsonRpcInternalError

    def begin(self, _token: str, value: types.WorkDoneProgressBegin) -> None:
        self.sent.append(f"begin {value.percentage}")

    def report(self, _token: str, value: types.WorkDoneProgressReport) -> None:
        self.sent.append(f"report {value.percentage}")

    def end(self, _token: str, _value: types.WorkDoneProgressEnd) -> None:
        self.sent.append("end")

    def notify(self, method: str, _params: object) -> None:
        self.sent.append(method)

    def window_show_message(self, params: types.ShowMessageParams) -> None:
        self.sent.append(params.message)


def loading(share: float) -> Status:
    return Status("loading", progress=share)


def sent(client: Callable[[], Client], *happening: Callable[[Editor, Client], object]) -> list[str]:
    """All that the client is sent as these things happen, with time for it to answer between them."""

    async def scenario() -> list[str]:
        made = client()
        editor = Editor(cast("LanguageServer", made))
        for happens in happening:
            happens(editor, made)
            for _ in range(3):
                await asyncio.sleep(0)
        return made.sent

    return asyncio.run(scenario())


def test_loading_is_shown_from_its_beginning_to_its_end_and_never_goes_back() -> None:
    told = sent(
        Client,
        lambda editor, _: editor.status(loading(0.1)),
        lambda editor, _: editor.status(loading(0.5)),
        lambda editor, _: editor.status(loading(0.4)),
        lambda editor, _: editor.status(Status("ready")),
        lambda editor, _: editor.status(Status("unloaded")),
        lambda editor, _: editor.status(loading(0.0)),
        lambda editor, _: editor.status(Status("unloaded")),
    )
    assert told == ["begin 10", "report 50", "report 50", "end", "begin 0", "end"]


def test_the_workspace_is_shown_beside_the_model() -> None:
    told = sent(
        Client,
        lambda editor, _: editor.reading(Progress("begin", 0)),
        lambda editor, _: editor.status(loading(0.1)),
        lambda editor, _: editor.reading(Progress("report", 7)),
        lambda editor, _: editor.reading(Progress("end", 9)),
        lambda editor, _: editor.reading(Progress("end", 9)),
        lambda editor, _: editor.status(Status("ready")),
    )
    assert told == ["begin None", "begin 10", "report None", "end", "end"]


@pytest.mark.parametrize(
    "client", [lambda: Client(agrees=False), lambda: Client(capabilities=types.ClientCapabilities())]
)
def test_a_client_that_does_not_agree_is_shown_nothing(client: Callable[[], Client]) -> None:
    told = sent(
        client,
        lambda editor, _: editor.status(loading(0.1)),
        lambda editor, _: editor.status(loading(0.5)),
        lambda editor, _: editor.status(Status("ready")),
        lambda editor, _: editor.refresh("file:///a.py"),
    )
    assert told == []


def test_what_is_over_before_the_client_agrees_is_not_begun() -> None:
    told = sent(
        Client,
        lambda _, client: client.has_answered.clear(),
        lambda editor, _: editor.status(loading(0.1)),
        lambda editor, _: editor.status(Status("unloaded")),
        lambda _, client: client.has_answered.set(),
    )
    assert told == []


def test_what_is_begun_is_ended_at_the_end_and_nothing_is_said_after_it() -> None:
    experimental: Any = {"umbrella": {"status": True, "refresh": True}}
    window = types.WindowClientCapabilities(work_done_progress=True)
    capabilities = types.ClientCapabilities(window=window, experimental=experimental)
    told = sent(
        lambda: Client(capabilities=capabilities),
        lambda editor, _: editor.status(loading(0.1)),
        lambda editor, _: editor.refresh("file:///a.py"),
        lambda editor, _: editor.say_once("Mind the gap."),
        lambda editor, _: editor.say_once("Mind the gap."),
        lambda editor, _: editor.close(),
        lambda editor, _: editor.status(loading(0.5)),
        lambda editor, _: editor.reading(Progress("begin", 0)),
        lambda editor, _: editor.refresh("file:///a.py"),
        lambda editor, _: editor.say("Goodbye."),
    )
    assert told == ["umbrella/status", "begin 10", "umbrella/refresh", "Mind the gap.", "end"]
