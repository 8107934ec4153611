"""Counters for ``GET /metrics``, in Prometheus' text format. Numbers only: no text, no names of files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from engine.protocol import Timings, TokenCounts

CONTENT_TYPE = CONTENT_TYPE_LATEST

Outcome = Literal["ok", "cancelled", "refused", "failed"]


class Metrics:
    """One engine's counters. Safe to use from any thread."""

    def __init__(self) -> None:
        # A registry of our own: the default one is global, and describes the Python process at length.
        self._registry = CollectorRegistry()
        self.layers_started = self._counter("umbrella_layers_started", "Layers begun")
        self.layers_after_cancel = self._counter(
            "umbrella_layers_started_after_cancel", "Layers begun after their request was cancelled: always 0"
        )
        self.cancels = self._counter("umbrella_cancels", "Generations cancelled before their end")
        self.preemptions = self._counter(
            "umbrella_preemptions", "Generations interrupted for a more urgent one"
        )
        self.drafter_failures = self._counter(
            "umbrella_drafter_failures", "Drafters that raised and were left out", "drafter"
        )
        self._requests = self._counter("umbrella_requests", "Requests ended", "endpoint", "outcome")
        self._tokens = self._counter("umbrella_tokens", "Tokens, by what became of them", "kind")
        self._passes = self._counter("umbrella_target_passes", "Passes of the target")
        self._seconds = self._counter("umbrella_request_seconds", "Time spent on requests, by stage", "stage")
        self._queues: list[Callable[[], int]] = []
        waiting = Gauge("umbrella_queue_depth", "Requests waiting", registry=self._registry)
        waiting.set_function(lambda: sum(depth() for depth in self._queues))

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(name, documentation, labels, registry=self._registry)

    def watch_queue(self, depth: Callable[[], int]) -> None:
        """Report `depth()`, with what other queues there are, as the number of waiting requests."""
        self._queues.append(depth)

    def watch_workspaces(self, documents: Callable[[], int], tokens: Callable[[], int]) -> None:
        """Report how many `documents` and `tokens` of clients' workspaces are held, at every scrape."""
        held = Gauge("umbrella_workspace_held", "Held to draft from", ("kind",), registry=self._registry)
        held.labels("documents").set_function(documents)
        held.labels("tokens").set_function(tokens)

    def request_ended(self, endpoint: str, outcome: Outcome) -> None:
        """Count one request of `endpoint`, whether or not it got as far as a model."""
        self._requests.labels(endpoint, outcome).inc()

    def generation_ended(self, counts: TokenCounts, timings: Timings) -> None:
        """Add up what one generation cost."""
        for kind in ("prompt", "reused", "generated", "drafted", "accepted"):
            self._tokens.labels(kind).inc(getattr(counts, kind))
        self._passes.inc(counts.target_passes)
        for stage in ("queue", "prefill", "decode", "total"):
            self._seconds.labels(stage).inc(getattr(timings, f"{stage}_ms") / 1000)

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self._registry)
