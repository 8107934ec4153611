"""What ``--explain`` says."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from engine.protocol import SegmentFate, StopReason, Timings, TokenCounts
from tests.umbrella_lsp.cursor import at_cursor
from umbrella_lsp.activity import Activity
from umbrella_lsp.context import build_context
from umbrella_lsp.document import Document
from umbrella_lsp.explain import account, laid_out
from umbrella_lsp.fit.stop import extent
from umbrella_lsp.index import Symbol, SymbolIndex, pack
from umbrella_lsp.outcome import Outcome, Suggestion
from umbrella_lsp.syntax.facts import CursorSyntax, Definition


def an_outcome() -> Outcome:
    """Of a cursor in a function, with a definition that is sent, an edit that is not, and a name with two."""
    document, offset = at_cursor("from shelf import fill\n\ndef f():\n    fill([both,‸\n")
    index = SymbolIndex()
    fill = "def fill(books):\n    [red]pass[/red]"
    index.update("shelf.py", pack([Symbol("fill", "function", "shelf.py", "python", 0, fill)]))
    for path in ("a.py", "b.py"):
        index.update(path, pack([Symbol("both", "function", path, "python", 0, f"def both(): {path}")]))
    syntax = CursorSyntax(
        imports=("from shelf import fill",),
        scopes=(Definition("function", "f", 2, 3, 0, "def f():"),),
        names=("both", "fill"),
        in_statement=True,
    )
    activity = Activity()
    activity.opened(Document.of("file:///home/someone/copy.py", fill, "python"))
    context, _ = build_context(
        document,
        offset,
        name_of=lambda path: path.rpartition("/")[2],
        syntax=syntax,
        index=index,
        recent=activity.recent(document.uri),
    )
    return Outcome(
        document,
        "suggested",
        (Suggestion("other])", offset, offset),),
        source="new",
        confidence=0.25,
        context=context,
        stop=StopReason.LINES,
        raw="other])\nmore",
        fates=(SegmentFate(0, "trimmed", 20), SegmentFate(1, "kept", 1), SegmentFate(2, "dropped", 0)),
        timings=Timings(1.0, 2.0, 3.0, 6.0),
        tokens=TokenCounts(prompt=50, reused=40, generated=3, drafted=8, accepted=2, target_passes=3),
        context_ms=1.5,
        server_ms=2.5,
        total_ms=9.0,
    )


def test_the_account_tells_what_was_found_sent_and_left_out() -> None:
    told = account(an_outcome(), 8)
    assert told["decision"]["because"] == "there is a text that fits"
    assert (told["scopes"], told["imports"], told["names"]) == (
        ["def f():"],
        ["from shelf import fill"],
        ["both", "fill"],
    )
    sent = [(s["kind"], s["path"], s["stability"], s["fate"], s["tokens"]) for s in told["segments"]]
    assert sent == [
        ("prefix", "app.py", "volatile", "trimmed", 20),
        ("suffix", "app.py", "stable", "kept", 1),
        ("definition", "shelf.py", "volatile", "dropped", 0),
    ]
    assert told["left_out"] == [
        {"kind": "snippet", "what": "copy.py", "why": "is shown already"},
        {"kind": "definition", "what": "both", "why": "is defined in several files"},
    ]


def test_the_account_tells_what_it_cost_and_where_it_ended() -> None:
    outcome = an_outcome()
    told = account(outcome, 8)
    assert told["tokens"]["recomputed"] == 10
    assert told["tokens"]["acceptance"] == 0.25
    assert told["timings"] == {
        "queue_ms": 1.0,
        "prefill_ms": 2.0,
        "decode_ms": 3.0,
        "context_ms": 1.5,
        "server_ms": 2.5,
        "total_ms": 9.0,
    }
    assert outcome.context is not None
    rule = extent(outcome.context, 8, invoked=True)
    assert told["stop"] == {"wanted": rule.reach, **asdict(rule.spec), "ended": "lines"}
    assert told["text"] == {"generated": "other])\nmore", "suggested": "other])"}


def test_what_the_engine_did_not_tell_is_said_to_be_untold() -> None:
    outcome = an_outcome()
    told = account(Outcome(outcome.document, "nothing", context=outcome.context), 8)
    assert {segment["fate"] for segment in told["segments"]} == {"untold"}
    assert told["tokens"]["acceptance"] is None


def test_people_get_all_of_it_and_code_as_it_is() -> None:
    told = account(an_outcome(), 8)
    lines = laid_out(told).plain.split("\n")
    assert lines[0] == "Suggested: there is a text that fits."
    assert "Segment 2: definition of shelf.py, volatile, rank 0.65, dropped, 0 tokens" in lines
    assert "      [red]pass[/red]" in lines
    for words in ("definition both is defined in several files", "recomputed 10", "in_statement", "def f():"):
        assert f"  {words}" in lines


@pytest.mark.parametrize(("reason", "said"), [("secret", "secrets"), ("too large", "too large")])
def test_a_refusal_is_explained_without_any_context(reason: str, said: str) -> None:
    document, _ = at_cursor("KEY=‸")
    told = account(Outcome(document, reason), 8)  # type: ignore[arg-type]
    assert "segments" not in told
    assert json.loads(json.dumps(told)) == told
    assert said in laid_out(told).plain.split("\n")[0]
