"""Runs generations for one connection: whole or as server-sent events, cancelled when it closes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, groupby
from typing import Protocol

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from engine.api.problems import problem_of
from engine.errors import RequestError, UmbrellaError
from engine.executor import Executor, Ticket
from engine.jobs import Chunk
from engine.metrics import Metrics, Outcome
from engine.protocol import Alternative, StopReason, TokenCounts, UmbrellaReply
from engine.request import GenerationRequest

log = logging.getLogger(__name__)

Texts = Sequence[Chunk]
"""What one generation has written: the main text and then its alternatives, each whole."""


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

    def events(self, job: int, chunk: Chunk, /) -> Iterator[object]:
        """The JSON objects to stream for `chunk` of generation number `job`."""
        ...

    def whole(self, jobs: Sequence[Texts], /) -> object:
        """The JSON object to answer with; the last chunk of each of `jobs` has its final counts."""
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


def umbrella_of_all(jobs: Sequence[Texts], main: int = 0) -> UmbrellaReply:
    """Our part of a whole answer: of several generations, number `main` with the counts of all together.

    Timings are those of the one that took longest.
    """
    first = umbrella_of(jobs[main][0], jobs[main][1:])
    if len(jobs) == 1:
        return first
    newest = [texts[-1] for texts in jobs]
    slowest = max(newest, key=lambda chunk: chunk.timings.total_ms)
    return replace(first, timings=slowest.timings, tokens=added_up([chunk.counts for chunk in newest]))


def added_up(counts: Sequence[TokenCounts]) -> TokenCounts:
    """The counts of several generations together."""
    return TokenCounts(
        prompt=sum(each.prompt for each in counts),
        reused=sum(each.reused for each in counts),
        generated=sum(each.generated for each in counts),
        drafted=sum(each.drafted for each in counts),
        accepted=sum(each.accepted for each in counts),
        target_passes=sum(each.target_passes for each in counts),
    )


def texts_of(chunks: Sequence[Chunk]) -> Texts:
    """The chunks of one generation, those of each text put together."""
    return [_joined(list(of_one)) for _, of_one in groupby(chunks, key=lambda chunk: chunk.index)]


def _joined(chunks: Sequence[Chunk]) -> Chunk:
    return replace(
        chunks[-1],
        text="".join(chunk.text for chunk in chunks),
        logprobs=tuple(chain.from_iterable(chunk.logprobs for chunk in chunks)),
        offsets=tuple(chain.from_iterable(chunk.offsets for chunk in chunks)),
        tokens=tuple(chain.from_iterable(chunk.tokens for chunk in chunks)),
        tops=tuple(chain.from_iterable(chunk.tops for chunk in chunks)),
        fates=chunks[0].fates,
    )


def _silent(chunk: Chunk) -> Chunk:
    """`chunk` of a generation that was to evaluate its prompt and say nothing."""
    ending = chunk.ending
    if ending is not None and ending.stop is not StopReason.CANCELLED:
        ending = replace(ending, stop=StopReason.LENGTH, stop_string="")
    counts = replace(chunk.counts, generated=0)
    return replace(chunk, text="", logprobs=(), offsets=(), tokens=(), tops=(), counts=counts, ending=ending)


@dataclass(frozen=True, slots=True)
class _News:
    """What has come of generation number `job`."""

    job: int
    chunk: Chunk | UmbrellaError


@dataclass(slots=True)
class _Running:
    """Generations under way, and what has come of each so far."""

    tickets: Sequence[Ticket]
    news: asyncio.Queue[_News]
    last: list[Chunk | None]
    """The newest chunk of each."""

    @property
    def over(self) -> bool:
        """Whether nothing more comes."""
        return all(chunk is not None and chunk.over for chunk in self.last)

    async def next(self) -> _News:
        """Wait for what comes next."""
        news = await self.news.get()
        if isinstance(news.chunk, Chunk):
            self.last[news.job] = news.chunk
        return news


@dataclass(frozen=True, slots=True)
class GenerationResponse:
    """An ASGI answer. It starts once the first text or an error is there, so errors have their status.

    It runs all of `requests`, and where one fails none. One for 0 tokens evaluates and caches its prompt.
    """

    executor: Executor
    metrics: Metrics
    requests: Sequence[GenerationRequest]
    dialect: Dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Generate until the end or until the client goes away."""
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[_News] = asyncio.Queue()
        asked = [self._asked(loop, arrived, number) for number in range(len(self.requests))]
        try:
            tickets = self.executor.submit_all(asked)
        except UmbrellaError as error:
            self._log("-", None, "failed")
            await problem_of(error).response(self.dialect.endpoint)(scope, receive, send)
            return
        running = _Running(tickets, arrived, [None] * len(tickets))
        watch = asyncio.create_task(self._cancel_at_disconnect(receive, tickets))
        try:
            first = await running.next()
            if isinstance(first.chunk, UmbrellaError):
                await self._refuse(running, first, scope, receive, send)
            elif self.dialect.stream:
                await self._stream(running, first, send)
            else:
                await self._whole(running, first, scope, receive, send)
        finally:
            self._cancel(tickets)
            watch.cancel()

    def _asked(
        self, loop: asyncio.AbstractEventLoop, arrived: asyncio.Queue[_News], number: int
    ) -> tuple[GenerationRequest, Callable[[Chunk | UmbrellaError], None]]:
        request = self.requests[number]
        # A prompt is evaluated by the pass that gives the first token, which is then kept to ourselves.
        silent = request.max_tokens == 0

        def deliver(chunk: Chunk | UmbrellaError) -> None:
            if silent and isinstance(chunk, Chunk):
                chunk = _silent(chunk)
            with suppress(RuntimeError):  # The loop is closed: the process is ending.
                loop.call_soon_threadsafe(arrived.put_nowait, _News(number, chunk))

        return replace(request, max_tokens=1, alternatives=1) if silent else request, deliver

    def _cancel(self, tickets: Sequence[Ticket]) -> None:
        for ticket in tickets:
            self.executor.cancel(ticket)

    async def _cancel_at_disconnect(self, receive: Receive, tickets: Sequence[Ticket]) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._cancel(tickets)

    async def _refuse(
        self, running: _Running, news: _News, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer with the error that `news` is, which is the first that has come."""
        error = news.chunk
        assert isinstance(error, UmbrellaError)
        self._account(running, news)
        if isinstance(error, RequestError) and error.field == "max_tokens":
            # Prompts are built without knowing whose dialect it is.
            error = RequestError(str(error), self.dialect.length_field)
        await problem_of(error).response(self.dialect.endpoint)(scope, receive, send)

    async def _stream(self, running: _Running, news: _News, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while True:
            failed = isinstance(news.chunk, UmbrellaError)
            if isinstance(news.chunk, UmbrellaError):
                objects = iter([self._error_after(running.last[news.job], news.chunk)])
            else:
                objects = self.dialect.events(news.job, news.chunk)
            data = b"".join(b"data: " + msgspec.json.encode(value) + b"\n\n" for value in objects)
            over = failed or running.over
            if failed or (isinstance(news.chunk, Chunk) and news.chunk.over):
                self._account(running, news)
            if over:
                data += self.dialect.farewell
            await send({"type": "http.response.body", "body": data, "more_body": not over})
            if over:
                return
            news = await running.next()

    async def _whole(
        self, running: _Running, news: _News, scope: Scope, receive: Receive, send: Send
    ) -> None:
        jobs: list[list[Chunk]] = [[] for _ in self.requests]
        while isinstance(news.chunk, Chunk):
            jobs[news.job].append(news.chunk)
            if news.chunk.over:
                self._account(running, news)
            if running.over:
                break
            news = await running.next()
        if isinstance(news.chunk, UmbrellaError):
            self._account(running, news)
            answer: object = self._error_after(running.last[news.job], news.chunk)
            status = problem_of(news.chunk).status_at(self.dialect.endpoint)
        else:
            answer, status = self.dialect.whole([texts_of(chunks) for chunks in jobs]), 200
        response = Response(msgspec.json.encode(answer), status, media_type="application/json")
        await response(scope, receive, send)

    def _error_after(self, last: Chunk | None, error: UmbrellaError) -> dict[str, object]:
        """The body of an `error` in a generation that had come as far as `last`."""
        body = problem_of(error).body_at(self.dialect.endpoint)
        if last is None:
            return body
        bare = replace(last, logprobs=(), offsets=(), tokens=(), tops=(), fates=())
        return {**body, "umbrella": umbrella_of(bare)}

    def _account(self, running: _Running, news: _News) -> None:
        """Log that a generation is over."""
        name = running.tickets[news.job].name
        if isinstance(news.chunk, UmbrellaError):
            refused = running.last[news.job] is None and isinstance(news.chunk, RequestError)
            self._log(name, None, "refused" if refused else "failed")
        else:
            ending = news.chunk.ending
            cancelled = ending is not None and ending.stop is StopReason.CANCELLED
            self._log(name, news.chunk, "cancelled" if cancelled else "ok")

    def _log(self, name: str, last: Chunk | None, outcome: Outcome) -> None:
        """One line a generation, numbers only: never any of its text, nor the name of its file."""
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
