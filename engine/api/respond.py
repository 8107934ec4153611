"""Runs one generation for one connection: whole or as server-sent events, cancelled when it closes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from engine.api.problems import body_of, response_to, status_of
from engine.errors import RequestError, UmbrellaError
from engine.executor import Executor, Ticket
from engine.jobs import Chunk
from engine.metrics import Metrics, Outcome
from engine.protocol import Alternative, StopReason, UmbrellaReply
from engine.request import GenerationRequest

log = logging.getLogger(__name__)


class Dialect(Protocol):
    """How one endpoint words its answers."""

    @property
    def endpoint(self) -> str: ...
    @property
    def stream(self) -> bool: ...
    @property
    def length_field(self) -> str:
        """What it calls the number of tokens to generate."""
        ...

    @property
    def farewell(self) -> bytes:
        """What a stream closes with, after its last event."""
        ...

    def events(self, chunk: Chunk) -> Iterator[object]:
        """The JSON objects to stream for `chunk`."""
        ...

    def whole(self, texts: Sequence[Chunk]) -> object:
        """The JSON object to answer with: `texts` by index, each whole and the last with the final counts."""
        ...


def umbrella_of(chunk: Chunk, alternatives: Sequence[Chunk] = ()) -> UmbrellaReply:
    """Our part of an event, or of an answer with its whole `alternatives`."""
    newest = alternatives[-1] if alternatives else chunk
    return UmbrellaReply(
        timings=newest.timings,
        tokens=newest.counts,
        index=chunk.index,
        logprobs=chunk.logprobs,
        text_offsets=chunk.offsets,
        stop=chunk.ending.stop if chunk.ending else None,
        segments=chunk.fates,
        alternatives=tuple(
            Alternative(other.index, other.text, other.ending.stop, other.logprobs, other.offsets)
            for other in alternatives
            if other.ending
        ),
        tier=chunk.tier,
    )


def _silent(chunk: Chunk) -> Chunk:
    """`chunk` of a generation that was to evaluate its prompt and say nothing."""
    ending = chunk.ending
    if ending is not None and ending.stop is not StopReason.CANCELLED:
        ending = replace(ending, stop=StopReason.LENGTH, stop_string="")
    counts = replace(chunk.counts, generated=0)
    return replace(chunk, text="", logprobs=(), offsets=(), counts=counts, ending=ending)


def _error_after(last: Chunk, error: UmbrellaError) -> dict[str, object]:
    """The body of an `error` in a generation that had come as far as `last`."""
    return {**body_of(error), "umbrella": umbrella_of(replace(last, logprobs=(), offsets=(), fates=()))}


@dataclass(frozen=True, slots=True)
class GenerationResponse:
    """An ASGI answer. It starts once the first text or an error is there, so errors have their status.

    A `request` for 0 tokens evaluates and caches its prompt.
    """

    executor: Executor
    metrics: Metrics
    request: GenerationRequest
    dialect: Dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Generate until the end or until the client goes away."""
        loop = asyncio.get_running_loop()
        chunks: asyncio.Queue[Chunk | UmbrellaError] = asyncio.Queue()

        # A prompt is evaluated by the pass that gives the first token, which is then kept to ourselves.
        silent = self.request.max_tokens == 0
        request = replace(self.request, max_tokens=1, alternatives=1) if silent else self.request

        def deliver(chunk: Chunk | UmbrellaError) -> None:
            if silent and isinstance(chunk, Chunk):
                chunk = _silent(chunk)
            with suppress(RuntimeError):  # The loop is closed: the process is ending.
                loop.call_soon_threadsafe(chunks.put_nowait, chunk)

        try:
            job = self.executor.submit(request, deliver)
        except UmbrellaError as error:
            self._log("-", None, "failed")
            await response_to(error)(scope, receive, send)
            return
        watch = asyncio.create_task(self._cancel_at_disconnect(receive, job))
        try:
            first = await chunks.get()
            if isinstance(first, UmbrellaError):
                self._log(job.name, None, "refused" if isinstance(first, RequestError) else "failed")
                await response_to(self._renamed(first))(scope, receive, send)
            elif self.dialect.stream:
                await self._stream(job, first, chunks, send)
            else:
                await self._whole(job, first, chunks, scope, receive, send)
        finally:
            self.executor.cancel(job)
            watch.cancel()

    def _renamed(self, error: UmbrellaError) -> UmbrellaError:
        """`error` in the words of the dialect: prompts are built without knowing which it is."""
        if isinstance(error, RequestError) and error.field == "max_tokens":
            return RequestError(str(error), self.dialect.length_field)
        return error

    async def _cancel_at_disconnect(self, receive: Receive, job: Ticket) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.executor.cancel(job)

    async def _stream(
        self, job: Ticket, first: Chunk, chunks: asyncio.Queue[Chunk | UmbrellaError], send: Send
    ) -> None:
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        last = first
        chunk: Chunk | UmbrellaError = first
        while True:
            objects: Iterable[object]
            if isinstance(chunk, UmbrellaError):
                objects = [_error_after(last, chunk)]
            else:
                last, objects = chunk, self.dialect.events(chunk)
            data = b"".join(b"data: " + msgspec.json.encode(value) + b"\n\n" for value in objects)
            over = isinstance(chunk, UmbrellaError) or chunk.over
            if over:
                self._account(job, chunk)
                data += self.dialect.farewell
            await send({"type": "http.response.body", "body": data, "more_body": not over})
            if over:
                return
            chunk = await chunks.get()

    async def _whole(
        self,
        job: Ticket,
        first: Chunk,
        chunks: asyncio.Queue[Chunk | UmbrellaError],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        texts, chunk = [first], first
        while isinstance(chunk, Chunk) and not chunk.over:
            chunk = await chunks.get()
            if isinstance(chunk, Chunk):
                same = chunk.index == texts[-1].index
                texts = [*texts[:-1], chunk.after(texts[-1])] if same else [*texts, chunk]
        self._account(job, chunk)
        failed = isinstance(chunk, UmbrellaError)
        answer = _error_after(texts[-1], chunk) if failed else self.dialect.whole(texts)
        status = status_of(chunk) if failed else 200
        response = Response(msgspec.json.encode(answer), status, media_type="application/json")
        await response(scope, receive, send)

    def _account(self, job: Ticket, last: Chunk | UmbrellaError) -> None:
        if isinstance(last, UmbrellaError):
            self._log(job.name, None, "failed")
        else:
            cancelled = last.ending is not None and last.ending.stop is StopReason.CANCELLED
            self._log(job.name, last, "cancelled" if cancelled else "ok")

    def _log(self, name: str, last: Chunk | None, outcome: Outcome) -> None:
        """One line a request, numbers only: never any of its text, nor the name of its file."""
        self.metrics.request_ended(self.dialect.endpoint, outcome)
        if last is None:
            log.info("%s %s %s", name, self.dialect.endpoint, outcome)
            return
        counts, timings = last.counts, last.timings
        log.info(
            "%s %s %s tier=%s queue_ms=%.0f prefill_ms=%.0f decode_ms=%.0f total_ms=%.0f "
            "prompt=%d reused=%d generated=%d drafted=%d accepted=%d passes=%d",
            name,
            self.dialect.endpoint,
            outcome,
            last.tier,
            timings.queue_ms,
            timings.prefill_ms,
            timings.decode_ms,
            timings.total_ms,
            counts.prompt,
            counts.reused,
            counts.generated,
            counts.drafted,
            counts.accepted,
            counts.target_passes,
        )
