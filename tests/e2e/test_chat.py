"""`umbrella-chat` at a real terminal with the bundled pair, and its page in a real browser."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

from engine.config import EngineConfig
from engine.request import ChatPrompt, GenerationRequest
from tests.e2e.conftest import Desk, until
from tests.e2e.neovim.terminal import Terminal
from tests.e2e.vscode.workbench import NO_SANDBOX, QUIET, find_chromium, is_outside
from tests.engine.fake_parts import FakePrompt
from tests.engine.fakes import FakeBackend, RunningEngine, eventually, running_engine

CONTROLLING = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Makes the terminal the one whose Ctrl-C is a signal."""
ANSWER = """It returns the *n*-th number of Fibonacci, and needs **n** additions for it:

| n | 0 | 1 | 2 | 3 | 4 | 5 |
|---|---|---|---|---|---|---|
| f(n) | 0 | 1 | 1 | 2 | 3 | 5 |

Without the two variables, as a recursion:

```python
def f(n: int) -> int:
    return n if n < 2 else f(n - 1) + f(n - 2)
```

That is shorter, but takes a time that grows with the <b>result</b>. ![](http://example.com/x.png)
"""


class Chat(Terminal):
    """Somebody at a terminal."""

    def press(self, keys: str) -> None:
        os.write(self._controller, keys.encode())

    def text(self) -> str:
        """All of the screen, as if it had one long row."""
        return " ".join(row for row in self.rows() if row)

    def sees(self, text: str, within_s: float = 30.0) -> None:
        until(lambda: text in self.text(), f"{text!r} is on the screen", within_s)

    def sees_prompt(self) -> None:
        until(lambda: self.rows()[self.cursor()[0]] == ">", "there is a prompt")


@contextmanager
def chatting(desk: Desk, *arguments: str) -> Generator[Chat]:
    command = [sys.executable, "-c", CONTROLLING, desk.command("umbrella-chat"), *arguments]
    chat = Chat([*command], desk.environment | {"HOME": str(desk.folder)})
    try:
        yield chat
    finally:
        sys.stdout.write("\n".join(chat.rows()))  # pytest shows it where the test fails.
        chat.close()


def test_a_conversation_with_the_bundled_pair(desk: Desk) -> None:
    config = desk.folder / "engine.toml"
    config.write_text('chat_template = "meta-llama3"\n')
    with chatting(desk, "--config", str(config)) as chat:
        chat.sees("only go on with Python code", within_s=120)
        chat.sees_prompt()
        chat.press("def add(a, b):\r")
        until(lambda: chat.cursor()[0] > 8, "an answer grows")
        chat.press("\x03")
        chat.sees("Stopped.")
        chat.sees_prompt()
        chat.press("/stats\r")
        chat.sees("prompt tokens reused")
        chat.press(f"/save {desk.folder}/chat.json\r")
        chat.sees("chat.json. >")
        chat.press("half a line\x03")
        chat.sees("Ctrl-C once more leaves")
        chat.sees_prompt()
        chat.press("/reset\r")
        chat.sees("A new conversation.")
        chat.press("\x1b[A\x1b[A")  # What was typed before is there to go back to.
        until(lambda: "> /save" in chat.rows()[chat.cursor()[0]], "it is there again")
        chat.press("\x15\x04")
        assert chat.process.wait(30) == 0
    [figures] = json.loads((desk.folder / "chat.json").read_text())["figures"]
    assert figures["generated_tokens"] > 0
    assert figures["passes"] > 0


def test_ctrl_c_twice_at_an_empty_prompt_leaves(desk: Desk, tmp_path: Path) -> None:
    with running_engine(tmp_path / "run") as engine, chatting(desk, "--url", address(engine)) as chat:
        chat.sees_prompt()
        chat.press("\x03")
        chat.sees("Ctrl-C once more leaves")
        chat.sees_prompt()
        chat.press("\x03")
        assert chat.process.wait(30) == 0


class Scripted(FakeBackend):
    """Answers every chat with `ANSWER`."""

    def encode(self, request: GenerationRequest) -> FakePrompt:
        prompt = super().encode(request)
        assert isinstance(request.prompt, ChatPrompt)
        script, begun = f"{ANSWER}\0", len(prompt.tokens)
        self.answer = "".join(script[(at - begun) % len(script)] for at in range(len(script)))
        return prompt


def address(engine: RunningEngine) -> str:
    return f"unix://{engine.place.socket}"


def test_a_terminal_shows_markdown_and_nothing_of_the_text_is_taken_for_markup(
    desk: Desk, tmp_path: Path
) -> None:
    with (
        running_engine(tmp_path / "run", Scripted()) as engine,
        chatting(desk, "--url", address(engine)) as chat,
    ):
        chat.sees_prompt()
        chat.press("What does this do? [red]\r")
        chat.sees("<b>result</b>")
        chat.sees_prompt()
        rows = chat.rows()
    assert any(row.endswith("> What does this do? [red]") for row in rows)
    assert "     return n if n < 2 else f(n - 1) + f(n - 2)" in rows
    assert not any("**" in row or "```" in row for row in rows)


@pytest.fixture
def page() -> Iterator[Page]:
    """A page of a browser that counts who it asks."""
    chromium = find_chromium()
    if chromium is None:
        reason = "no Chromium here; name one in CHROMIUM"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=[*NO_SANDBOX, *QUIET])
        try:
            yield browser.new_page(viewport={"width": 1100, "height": 900})
        finally:
            browser.close()


def value(page: Page, name: str) -> str:
    return page.locator(f"#{name} textarea").input_value()


def test_a_conversation_in_a_browser(desk: Desk, tmp_path: Path, page: Page) -> None:
    asked: list[str] = []
    page.on("requestfinished", lambda request: asked.append(request.url))
    config = EngineConfig(model="a script instead of a model")
    with running_engine(tmp_path / "run", Scripted(), config) as engine:
        server = desk.start("umbrella-chat", "--web", "--url", address(engine), "--max-tokens", "2000")
        try:
            assert server.stdout is not None
            url = server.stdout.readline().decode().split()[-1]
            assert url.startswith("http://127.0.0.1:")
            page.goto(url.partition("?")[0])
            assert "it holds the token" in page.inner_text("body")
            page.goto(url)
            assert "token" not in page.url
            page.fill("#question textarea", "What does it do?\n\ndef f(n): ...")
            page.get_by_role("button", name="Send").click()
            page.locator("#chat").get_by_text("<b>result</b>").wait_for()
            page.wait_for_function("() => document.querySelector('#performance textarea').value")
            first = value(page, "performance")
            assert value(page, "question") == ""
            page.locator("#chat td", has_text="5").first.wait_for()
            take_picture(page, tmp_path)
            page.fill("#question textarea", "And again?")
            page.get_by_role("button", name="Send").click()
            eventually(lambda: value(page, "performance") not in ("", first))
            page.get_by_role("button", name="Reset", exact=True).click()
            page.locator("#chat .message").first.wait_for(state="detached")
            eventually(lambda: value(page, "performance") == "")
        finally:
            server.terminate()
            server.communicate(timeout=30)
    assert asked
    assert not [url for url in asked if is_outside(url)]


def take_picture(page: Page, otherwise: Path) -> None:
    picture = Path(os.environ.get("UMBRELLA_PICTURES", otherwise)) / "chat.png"
    page.screenshot(path=picture)
    assert picture.stat().st_size < 120_000
