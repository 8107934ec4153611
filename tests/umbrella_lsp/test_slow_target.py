"""The front end with a real engine whose target takes as long as one of 70 billion parameters does."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.fakes import RunningEngine
from tests.engine.slowed import slowed_engine
from tests.umbrella_lsp.fakes import NoSyntax
from tests.umbrella_lsp.waiting import until
from umbrella_lsp.completer import Completer
from umbrella_lsp.document import Document
from umbrella_lsp.link import EngineLink
from umbrella_lsp.outcome import Outcome
from umbrella_lsp.pace import Speed, Speedometer
from umbrella_lsp.settings import Settings

CODE = """class Account:
    def __init__(self, owner, balance):
        self.owner = owner
        self.balance = """

LAYER_S = 0.05

pytestmark = pytest.mark.slow


class Pass:
    """What happens inside a layer of the target: it takes a while until it `may_end`."""

    def __init__(self) -> None:
        self.has_begun = threading.Event()
        self.may_end = threading.Event()

    def __call__(self, _layer: int) -> None:
        self.has_begun.set()
        self.may_end.wait(LAYER_S)


@pytest.fixture
def target() -> Pass:
    return Pass()


@pytest.fixture
def engine(target: Pass) -> Iterator[RunningEngine]:
    with (
        tempfile.TemporaryDirectory(prefix="umb-") as folder,
        slowed_engine(Path(folder), 1000.0, in_layer=target) as engine,
    ):
        yield engine


class Window:
    """An editor with one document, its cursor always at its end."""

    def __init__(self, engine: RunningEngine, name: str = "account.py") -> None:
        self.better: list[str] = []
        self.link = EngineLink(lambda: engine.endpoint)
        self.completer = Completer(
            self.link,
            NoSyntax(),
            settings=Settings(min_confidence=0.0),
            speed=Speedometer(Speed(1000.0, 20.0)),
            better=self.better.append,
        )
        self.document = Document.of(f"file:///home/someone/{name}", "", "python", 0)

    async def types(self, text: str) -> Outcome:
        version = (self.document.version or 0) + 1
        self.document = Document.of(self.document.uri, text, "python", version)
        self.completer.changed(self.document)
        return await self.asks()

    async def asks(self) -> Outcome:
        return await self.completer.complete(self.document, len(self.document.content))

    async def close(self) -> None:
        self.completer.close()
        await self.link.aclose()


def text_of(outcome: Outcome) -> str:
    return outcome.suggestion.text if outcome.suggestion else ""


def test_the_draft_answers_while_the_target_is_in_a_pass_and_the_target_has_the_last_word(
    engine: RunningEngine, target: Pass
) -> None:
    async def scenario() -> None:
        window, other = Window(engine), Window(engine, "other.py")
        first = await window.types(CODE)
        assert (first.tier, first.tokens.target_passes) == ("draft", 0)
        await until(target.has_begun.is_set)  # It was asked after the pause.
        beside = await other.types(CODE)
        assert (beside.tier, beside.tokens.target_passes) == ("draft", 0)
        assert window.better == []
        target.may_end.set()
        await until(lambda: window.better)
        last = await window.asks()
        assert (text_of(last), last.tier) == ("balance", "target")
        await window.close()
        await other.close()

    asyncio.run(scenario())


def test_a_key_that_contradicts_ends_the_pass_before_its_next_layer(
    engine: RunningEngine, target: Pass
) -> None:
    async def scenario() -> None:
        window = Window(engine)
        await window.types(CODE)
        await until(target.has_begun.is_set)
        await window.types(CODE + "[")
        await until(lambda: engine.metric("umbrella_cancels_total") >= 1)
        target.may_end.set()
        assert engine.metric("umbrella_layers_after_cancel_total") == 0
        await window.close()

    asyncio.run(scenario())
