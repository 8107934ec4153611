"""The page's doorkeeper and what it does; the page itself is in tests/e2e/test_chat.py."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import httpx
import pytest
from starlette.responses import PlainTextResponse

from engine.chat.conversation import Conversation, Wishes
from engine.chat.web import Guarded, Page, Shown, as_written
from engine.client import AsyncClient
from tests.engine.fakes import FakeBackend, Gate, eventually, running_engine

TOKEN = "a-token"


def door(**headers: str) -> httpx.AsyncClient:
    guarded = Guarded(PlainTextResponse("the page"), TOKEN, 7860)
    transport = httpx.ASGITransport(guarded)
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7860", headers=headers)


def answers(path: str, **headers: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with door(**headers) as browser:
            return await browser.get(path)

    return asyncio.run(ask())


def test_the_address_with_the_token_opens_the_page_and_leaves_a_cookie() -> None:
    async def visit() -> None:
        async with door() as browser:
            first = await browser.get(f"/?token={TOKEN}")
            assert (first.status_code, first.headers["location"]) == (303, "/")
            assert "httponly" in first.headers["set-cookie"].lower()
            assert "samesite=strict" in first.headers["set-cookie"].lower()
            assert (await browser.get("/")).text == "the page"

    asyncio.run(visit())


@pytest.mark.parametrize(
    "path", ["/", "/?token=", "/?token=another", "/gradio_api/queue/data", "/?token=%ff"]
)
def test_nobody_else_gets_in(path: str) -> None:
    for headers in ({}, {"cookie": "umbrella_chat_7860=another"}, {"cookie": f"umbrella_chat_7861={TOKEN}"}):
        refused = answers(path, **headers)
        assert refused.status_code == 403
        assert refused.text != "the page"


def test_a_page_that_has_made_its_name_mean_this_machine_gets_nothing() -> None:
    cookie = f"umbrella_chat_7860={TOKEN}"
    assert answers("/", cookie=cookie, host="attacker.example").status_code == 400
    assert answers("/", cookie=cookie, host="localhost:7860").text == "the page"


def test_the_browser_is_told_to_load_nothing_from_elsewhere() -> None:
    policy = answers("/", cookie=f"umbrella_chat_7860={TOKEN}").headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy


def shown(folder: Path, *questions: str, backend: FakeBackend | None = None) -> list[Shown]:
    """The last state of the page after each question."""

    async def run(url: str) -> list[Shown]:
        found: list[Shown] = []
        async with AsyncClient(url) as client:
            page, conversation = Page(client, "Be brief.", Wishes(), None), None
            for question in questions:
                last = None
                async with aclosing(page.answer(question, conversation, 4, 0.0, 1.0, 1.05)) as states:
                    async for state in states:
                        last = state
                assert last is not None
                found.append(last)
                conversation = last[1]
        return found

    with running_engine(folder, backend) as engine:
        return asyncio.run(run(f"unix://{engine.place.socket}"))


def test_the_page_shows_the_conversation_and_what_the_answer_cost(tmp_path: Path) -> None:
    first, second = shown(tmp_path, "one <b>", "two")
    history, conversation, performance, field = second
    assert [message["role"] for message in history] == ["user", "assistant"] * 2
    assert history[0]["content"] == "one &lt;b>"
    assert conversation.turns[0].question == "one <b>"
    assert (len(conversation.turns[1].answer), field) == (4, "")
    reused = conversation.turns[0].figures.prompt_tokens + 4
    assert f" {reused} of " in performance
    assert len(first[1].turns) == 1


def test_what_cannot_be_answered_stays_in_the_field(tmp_path: Path) -> None:
    def fail(_layer: int) -> None:
        raise ZeroDivisionError

    [(history, _, performance, field)] = shown(tmp_path, "one", backend=FakeBackend(in_layer=fail))
    assert (history, field) == ([], "one")
    assert "failed" in performance
    [(history, _, _, field)] = shown(tmp_path, "  ")
    assert (history, field) == ([], "  ")


def test_closing_the_answer_stops_the_engine_and_keeps_what_there_is(tmp_path: Path) -> None:
    gate = Gate(layer=1)

    async def stop_after_the_first_text(url: str) -> Conversation:
        async with AsyncClient(url) as client:
            page = Page(client, "", Wishes(), None)
            async with aclosing(page.answer("one", None, 100, 0.0, 1.0, 1.0)) as states:
                async for _, conversation, _, _ in states:
                    if conversation.turns:
                        return conversation
        raise AssertionError("nothing was said")

    with running_engine(tmp_path, FakeBackend(in_layer=gate)) as engine:
        gate.step()
        conversation = asyncio.run(stop_after_the_first_text(f"unix://{engine.place.socket}"))
        eventually(lambda: engine.metric("umbrella_cancels_total") == 1)
        gate.release()
    assert (len(conversation.turns[0].answer), conversation.turns[0].is_whole) == (1, False)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a < b and <b>", "a &lt; b and &lt;b>"),
        ("`<b>` <b>", "`<b>` &lt;b>"),
        ("```html\n<b>\n```\n<b>", "```html\n<b>\n```\n&lt;b>"),
        ("```html\n<b>", "```html\n<b>"),
    ],
)
def test_html_is_shown_as_it_was_written(text: str, written: str) -> None:
    assert as_written(text) == written
