"""What ``umbrella-complete --explain`` says about one request: all that led to its answer. Only words it.

There is one account of a request, an object as ``--json`` prints it; people get the same, laid out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.text import Text

from engine.protocol import SegmentFate
from umbrella_lsp.context import CompletionContext
from umbrella_lsp.fit.stop import extent
from umbrella_lsp.outcome import Outcome, Reason

REASONS: dict[Reason, str] = {
    "suggested": "there is a text that fits",
    "nothing": "the model has nothing to add, or nothing that is not there already",
    "unsure": "the model itself does not think its text likely",
    "inside a word": "the cursor stands inside a word",
    "not now": "the model takes so long that it is not worth asking here",
    "outdated": "the document changed meanwhile",
    "disabled": "the settings say so",
    "other language": "the settings leave this language out, or the model was not made for it",
    "secret": "the file looks like one of secrets, so the model is not shown it",
    "too large": "the file is too large",
}
UNTOLD = "untold"
"""The fate of a segment where reading ended before the engine said."""


def account(outcome: Outcome, max_lines: int) -> dict[str, Any]:
    """Everything about `outcome`, of a request that somebody made for texts of `max_lines`."""
    told: dict[str, Any] = {
        "decision": {
            "reason": outcome.reason,
            "because": REASONS[outcome.reason],
            "source": outcome.source,
            "tier": outcome.tier,
            "confidence": outcome.confidence,
        }
    }
    if outcome.context is not None:
        told |= _context(outcome.context, outcome.fates)
        reach = extent(outcome.context, max_lines, invoked=True)
        told["stop"] = {"wanted": reach.reach, **asdict(reach.spec), "ended": outcome.stop}
    suggestion = outcome.suggestion
    told["text"] = {"generated": outcome.raw, "suggested": suggestion.text if suggestion else ""}
    tokens = outcome.tokens
    told["tokens"] = {
        **asdict(tokens),
        "recomputed": tokens.prompt - tokens.reused,
        "acceptance": round(tokens.accepted / tokens.drafted, 3) if tokens.drafted else None,
    }
    engine = {name: round(value, 3) for name, value in asdict(outcome.timings).items() if name != "total_ms"}
    stages = {"context_ms": outcome.context_ms, "server_ms": outcome.server_ms, "total_ms": outcome.total_ms}
    told["timings"] = {**engine, **{name: round(value, 3) for name, value in stages.items()}}
    return told


def _context(context: CompletionContext, fates: tuple[SegmentFate, ...]) -> dict[str, Any]:
    syntax = context.syntax
    by_index = {fate.index: fate for fate in fates}
    segments: list[dict[str, object]] = []
    for index, segment in enumerate(context.segments):
        fate = by_index.get(index)
        said = {"fate": fate.fate if fate else UNTOLD, "tokens": fate.tokens if fate else None}
        segments.append({**asdict(segment), **said})
    return {
        "cursor": {
            "path": context.path,
            "language": context.language,
            "before": context.before,
            "after": context.after,
            "known_by": "syntax" if syntax else "indentation",
            "within": syntax.within if syntax else None,
            "opens_block": syntax.opens_block if syntax else None,
            "in_statement": syntax.in_statement if syntax else None,
        },
        "scopes": [scope.header for scope in syntax.scopes] if syntax else [],
        "imports": list(syntax.imports) if syntax else [],
        "names": list(syntax.names) if syntax else [],
        "segments": segments,
        "left_out": [asdict(left) for left in context.left_out],
    }


def laid_out(told: dict[str, Any]) -> Text:
    """An account for people: titles, and what there is under each. Not marked up, as it quotes code."""
    text = Text()
    for line in _lines(told):
        text.append(f"{line}\n", "" if line.startswith(" ") else "bold")
    return text


def _lines(told: dict[str, Any]) -> Iterator[str]:
    decision = told["decision"]
    spoke = "Suggested" if decision["reason"] == "suggested" else "Silent"
    yield f"{spoke}: {decision['because']}."
    if decision["source"] != "none":
        yield f"  by the {decision['tier']}, {decision['source']}"
    if decision["confidence"] is not None:
        yield f"  probability of its first line {decision['confidence']:.3g}"
    if "cursor" in told:
        yield from _context_lines(told)
        yield from _section("Stop", (f"{name} {value}" for name, value in told["stop"].items() if value))
    yield from _section(
        "Tokens", (f"{name} {value}" for name, value in told["tokens"].items() if value is not None)
    )
    yield from _section(
        "Milliseconds", (f"{n.removesuffix('_ms')} {v:.1f}" for n, v in told["timings"].items())
    )
    yield from _section("Generated", told["text"]["generated"].split("\n"))
    yield from _section("Suggested", told["text"]["suggested"].splitlines())


def _context_lines(told: dict[str, Any]) -> Iterator[str]:
    cursor = told["cursor"]
    where = [f"{cursor['path']} ({cursor['language'] or 'no language'}), known by {cursor['known_by']}"]
    flags = [name for name in ("opens_block", "in_statement") if cursor[name]]
    where += [f"in {cursor['within']}", *flags] if cursor["within"] else []
    yield from _section("Cursor", where)
    yield from _section("Scopes", told["scopes"])
    yield from _section("Imports", told["imports"])
    yield from _section("Names", [" ".join(told["names"])] if told["names"] else [])
    for number, segment in enumerate(told["segments"]):
        tokens = "" if segment["tokens"] is None else f", {segment['tokens']} tokens"
        head = (
            f"Segment {number}: {segment['kind']} of {segment['path']}, {segment['stability']}, "
            f"rank {segment['rank']:.2f}, {segment['fate']}{tokens}"
        )
        yield from _section(head, segment["text"].split("\n"))
    yield from _section(
        "Left out", (f"{left['kind']} {left['what']} {left['why']}" for left in told["left_out"])
    )


def _section(title: str, lines: Iterator[str] | list[str]) -> Iterator[str]:
    """A title over its lines; nothing where there are none."""
    indented = [f"  {part}" for line in lines for part in line.split("\n")]
    if any(line.strip() for line in indented):
        yield from ("", title, *indented)
