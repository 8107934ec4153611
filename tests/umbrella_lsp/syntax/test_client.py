"""The syntax process from the server's side: answers, lateness, and grammars that are broken."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from umbrella_lsp.document import Document
from umbrella_lsp.syntax.client import MAX_CHARS, MAX_DOCUMENTS, SyntaxClient
from umbrella_lsp.syntax.facts import CursorSyntax
from umbrella_lsp.syntax.languages import GRAMMARS, Grammar

HOSTILE = "tests.umbrella_lsp.syntax.hostile"
TABLE = {
    "aborting": Grammar(HOSTILE, ("python",), "aborts"),
    "hanging": Grammar(HOSTILE, ("python",), "hangs"),
    "missing": Grammar("no_such_grammar", ("python",)),
    **GRAMMARS,
}
PATIENCE_S = 30.0


def document(text: str, language: str = "python", name: str = "a") -> Document:
    return Document.of(f"file:///{name}.py", text, language, 1)


def with_client(run: Callable[[SyntaxClient], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        client = SyntaxClient(TABLE, hang_s=PATIENCE_S)
        try:
            await run(client)
        finally:
            await client.aclose()

    asyncio.run(main())


@pytest.fixture(autouse=True)
def path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child finds the tests' modules, wherever the package is installed."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))


async def at(client: SyntaxClient, held: Document, offset: int) -> CursorSyntax | None:
    return await client.at(held, offset, within_s=PATIENCE_S)


async def scopes_at(client: SyntaxClient, held: Document, offset: int) -> list[str]:
    found = await at(client, held, offset)
    assert found is not None
    return [scope.name for scope in found.scopes]


def test_documents_are_followed_through_versions_and_back() -> None:
    async def run(client: SyntaxClient) -> None:
        first = document("def f():\n    x\n")
        assert await scopes_at(client, first, 14) == ["f"]
        second = first.replaced(4, 5, "größe")
        assert await scopes_at(client, second, 18) == ["größe"]
        assert await scopes_at(client, first, 14) == ["f"]
        inserted = await client.inserted(first, 13, 14, "return é\n", within_s=PATIENCE_S)
        assert inserted is not None
        assert inserted.leaves_at == 8
        assert await scopes_at(client, first, 14) == ["f"]

    with_client(run)


def test_offsets_of_documents_with_other_line_ends_and_lone_surrogates_are_understood() -> None:
    async def run(client: SyntaxClient) -> None:
        text = "def é():\r\n    '\ud800😀'\r\n\r\ndef g():\r\n    x\r\n"
        assert await scopes_at(client, document(text), text.index("'") + 1) == ["é"]
        assert await scopes_at(client, document(text), text.index("x") + 1) == ["g"]
        found = await client.inserted(
            document(text), text.index("x"), text.index("x") + 1, "f(\ud800)\n", within_s=PATIENCE_S
        )
        assert found is not None
        assert [bracket.at for bracket in found.brackets] == [1, 3]

    with_client(run)


def test_the_documents_asked_about_last_are_held_and_others_are_sent_again() -> None:
    async def run(client: SyntaxClient) -> None:
        held = [document(f"def f{n}():\n    x\n", name=str(n)) for n in range(MAX_DOCUMENTS + 2)]
        for n, one in enumerate([*held, *held]):
            assert await scopes_at(client, one, one.text.index("x")) == [f"f{n % len(held)}"]
        assert len(client._mirrors) == MAX_DOCUMENTS

    with_client(run)


def test_a_document_that_becomes_another_language_is_parsed_anew() -> None:
    async def run(client: SyntaxClient) -> None:
        assert await scopes_at(client, document("def f():\n    x\n"), 14) == ["f"]
        assert await scopes_at(client, document("function g() {\n  x\n}\n", "javascript"), 17) == ["g"]

    with_client(run)


@pytest.mark.parametrize(("text", "language"), [("x", "lua"), ("", ""), ("x" * (MAX_CHARS + 1), "python")])
def test_no_process_is_started_for_what_it_would_not_parse(text: str, language: str) -> None:
    async def run(client: SyntaxClient) -> None:
        assert await at(client, document(text, language), 0) is None
        assert client._child is None

    with_client(run)


def test_a_late_answer_is_none_and_the_next_question_finds_the_work_done() -> None:
    async def run(client: SyntaxClient) -> None:
        held = document("def f():\n    x\n")
        assert await client.at(held, 14, within_s=0) is None
        # The first question, which starts the process, is begun and given up.
        assert await client.at(held, 14, within_s=0.001) is None
        assert await scopes_at(client, held, 14) == ["f"]

    with_client(run)


def test_what_is_late_already_is_not_waited_for_by_the_next_question() -> None:
    async def run(client: SyntaxClient) -> None:
        held = document("x", "hanging")
        assert await client.at(held, 0, within_s=0.001) is None
        client._begun_s -= PATIENCE_S
        assert await at(client, held, 0) is None
        # Had it waited, the process would have been given up.
        assert client._exchange is not None
        assert not client._exchange.done()

    with_client(run)


def test_a_cancelled_question_does_not_leave_its_answer_to_another() -> None:
    async def run(client: SyntaxClient) -> None:
        held = document("def f():\n    x\n\n\ndef g():\n    y\n")
        for _ in range(20):
            cancelled = asyncio.create_task(at(client, held, held.text.index("y")))
            await asyncio.sleep(0)
            other = asyncio.create_task(scopes_at(client, held, held.text.index("x")))
            await asyncio.sleep(0)
            cancelled.cancel()
            assert await other == ["f"]

    with_client(run)


@pytest.mark.parametrize("language", ["aborting", "missing", "hanging"])
def test_a_broken_grammar_costs_its_language_and_no_other(
    language: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def run(client: SyntaxClient) -> None:
        python = document("def secret():\n    x\n", name="b")
        assert await scopes_at(client, python, 19) == ["secret"]
        for _ in range(2):
            # What hangs is waited for no longer than a test may take, and what starts as long as it takes.
            client._hang_s = 0.2 if language == "hanging" else PATIENCE_S
            assert await at(client, document("secret", language), 0) is None
            client._hang_s = PATIENCE_S
            assert await scopes_at(client, python, 19) == ["secret"]
        child = client._child
        assert await at(client, document("secret", language), 0) is None
        assert client._child is child

    with caplog.at_level(logging.WARNING):
        with_client(run)
    (message,) = (record.getMessage() for record in caplog.records if record.name.startswith("umbrella_lsp"))
    assert language in message
    assert "secret" not in message


def test_a_process_that_is_killed_is_replaced() -> None:
    async def run(client: SyntaxClient) -> None:
        held = document("def f():\n    x\n")
        assert await scopes_at(client, held, 14) == ["f"]
        assert client._child is not None
        os.kill(client._child.pid, 9)
        assert await at(client, held, 14) is None
        assert await scopes_at(client, held, 14) == ["f"]

    with_client(run)
