"""The one line in the log that tells what a request came to and what it cost. No text, no paths."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from umbrella_lsp.outcome import Outcome


def log_line(outcome: Outcome, total_ms: float) -> str:
    """What became of a request that took `total_ms` from when it was read."""
    timings, tokens = outcome.timings, outcome.tokens
    facts = {
        "outcome": outcome.reason.replace(" ", "-"),
        "source": outcome.source,
        "tier": outcome.tier,
        "total_ms": f"{total_ms:.1f}",
        "server_ms": f"{outcome.server_ms + total_ms - outcome.total_ms:.1f}",
        "context_ms": f"{outcome.context_ms:.1f}",
        "queue_ms": f"{timings.queue_ms:.0f}",
        "prefill_ms": f"{timings.prefill_ms:.0f}",
        "decode_ms": f"{timings.decode_ms:.0f}",
        "prompt": tokens.prompt,
        "reused": tokens.reused,
        "generated": tokens.generated,
        "drafted": tokens.drafted,
        "accepted": tokens.accepted,
        "passes": tokens.target_passes,
    }
    return " ".join(f"{name}={value}" for name, value in facts.items())
