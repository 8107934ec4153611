"""The extension around the suggestions: status, switches, what is wrong and what is done about it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from tests.e2e.vscode.test_suggestions import POINT
from tests.e2e.vscode.workbench import COMMANDS, READY, Workbench

OFF = "circle-slash Umbrella"


def test_a_killed_engine_costs_one_message_and_the_next_suggestion_comes(bench: Workbench) -> None:
    [engine] = bench.desk.engines()
    os.kill(engine, signal.SIGKILL)
    bench.edit("killed.py", POINT)
    bench.type(" = ")
    bench.sees_ghost()
    assert bench.desk.engines() not in ([], [engine])
    bench.sees_status(READY)
    [message] = bench.wait(lambda: bench.messages, "a message")
    assert "ended unexpectedly" in message


def test_an_unloaded_engine_frees_its_memory_until_somebody_types(bench: Workbench) -> None:
    bench.edit("unloaded.py", POINT)
    engines = bench.desk.engines()
    bench.press(COMMANDS["umbrella.unloadEngine"])
    [message] = bench.wait(lambda: bench.messages, "a message that says so")
    assert "memory is free" in message
    status = bench.desk.run("umbrella-engine", "status", "--json")
    assert json.loads(status.stdout)["state"] == "unloaded"
    bench.clear_messages()
    bench.type(" = ")
    bench.sees_ghost()
    assert bench.desk.engines() == engines
    bench.sees_status(READY)


def test_switched_off_nothing_is_shown_or_asked(bench: Workbench) -> None:
    bench.edit("off.py", POINT)
    bench.type(" = ")
    bench.sees_ghost()
    bench.press(COMMANDS["umbrella.toggle"])
    bench.sees_status(OFF)
    bench.sees_no_ghost()
    assert "off" in bench.tooltip()
    bench.wire.mark()
    bench.press("Backspace")
    bench.wait(lambda: bench.wire.told("textDocument/didChange"), "the server knows the text")
    bench.press(COMMANDS["umbrella.toggle"])
    bench.sees_status(READY)
    assert not bench.wire.requests()
    bench.type(" ")
    bench.sees_ghost()
    at = [request.params["position"]["character"] for request in bench.wire.requests()]
    assert set(at) == {len("        self.y = ")}


def test_a_language_can_be_switched_off_alone(bench: Workbench) -> None:
    bench.edit("language.py", POINT)
    bench.press(COMMANDS["umbrella.toggleLanguage"])
    bench.sees_status(OFF)
    assert "Python" in bench.tooltip()
    bench.press(COMMANDS["umbrella.toggleLanguage"])
    bench.sees_status(READY)
    bench.type(" = ")
    bench.sees_ghost()


def test_where_the_model_knows_nothing_the_status_says_so(bench: Workbench) -> None:
    bench.edit("notes.txt", "")
    bench.sees_status(OFF)
    assert "Python" in bench.tooltip()


def test_the_status_goes_from_starting_through_loading_to_ready(bench: Workbench) -> None:
    kinds = [said["kind"] for said in bench.wire.told("umbrella/status", ever=True)]
    assert [kind for kind, last in zip(kinds, ["", *kinds], strict=False) if kind != last][:3] == [
        "starting",
        "loading",
        "ready",
    ]
    loading = [status for status in bench.statuses() if status.startswith("loading Umbrella ")]
    assert loading
    assert all(status.endswith("%") for status in loading)


def test_the_menu_holds_what_can_be_done(bench: Workbench) -> None:
    bench.edit("menu.py", "")
    bench.status_item.click()
    rows = bench.wait(bench.rows, "the menu opens")
    bench.picture("vscode-menu.png", ".quick-input-widget")
    for entry in ("Turn Off", "for Python", "Statistics", "Unload", "Restart", "Configuration", "Log"):
        assert any(entry in row for row in rows), f"{entry} is missing in {rows}"
    bench.press("Escape")


def test_statistics_open_as_a_page(bench: Workbench) -> None:
    bench.press(COMMANDS["umbrella.showStatistics"])
    bench.page.locator(".tab.active", has_text="Umbrella Statistics").wait_for()
    text = bench.page.locator(".editor-instance .view-lines")
    bench.wait(lambda: "accepted" in text.inner_text(), "the table")


def test_a_missing_server_is_explained_and_comes_back_with_a_restart(bench: Workbench) -> None:
    bench.edit("missing.py", POINT)
    program = Path(bench.desk.environment["HOME"], "env/bin/umbrella-lsp")
    away = program.rename(program.with_suffix(".away"))
    try:
        bench.press(COMMANDS["umbrella.restart"])
        bench.sees_status("error Umbrella")
        [message] = bench.wait(lambda: bench.messages, "a message")
        assert "Install umbrella-lsp" in message
        bench.page.locator(".notification-toast .monaco-button", has_text="How to Install").click()
        bench.page.locator(".tab.active", has_text="install.md").wait_for()
    finally:
        away.rename(program)
    bench.press(COMMANDS["umbrella.restart"])
    bench.sees_status(READY)
    bench.edit("found.py", POINT)
    bench.type(" = ")
    bench.sees_ghost()


def test_who_asks_while_the_server_starts_is_answered_once_it_has(bench: Workbench) -> None:
    bench.edit("early.py", f"{POINT} = ")
    bench.press(COMMANDS["umbrella.restart"])
    bench.press("Alt+Backslash")
    bench.sees_ghost()


def test_a_workspace_that_nobody_trusts_chooses_no_program(bench: Workbench) -> None:
    bench.edit("trust.py", POINT)
    bench.type(" = ")
    bench.sees_ghost()
    [settings, *_] = bench.wire.configurations()
    assert settings["workspace"] is False, "the workspace's harmless setting does not count"
    assert not Path(bench.desk.environment["HOME"], "chosen-by-workspace").exists()


def test_a_proposed_api_is_refused_as_in_stable_vs_code(bench: Workbench) -> None:
    told = Path(bench.desk.environment["HOME"], "proposed-api.txt").read_text()
    assert "timeline" in told, "another extension was granted an API that it did not ask for"


def test_nothing_leaves_the_machine(bench: Workbench) -> None:
    bench.edit("local.py", POINT)
    bench.type(" = ")
    bench.sees_ghost()
    assert bench.desk.engines(), "nobody to look at"
    assert bench.outside == []
    assert bench.sockets == set()
