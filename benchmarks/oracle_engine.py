"""An engine without models: says what an `Oracle` knows, at the pace of passes that it is told to have.

It listens where a user's engine would, in a thread. One pass of the target runs at a time; what was asked
for at lowest priority waits while anything else runs, in the middle of a pass too. A token is about
`TOKEN_CHARACTERS` characters. Knows nothing of recordings.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import threading
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from benchmarks.oracle import Answer, Oracle
from engine import __version__
from engine.protocol import (
    PROTOCOL_VERSION,
    Health,
    Segment,
    StopReason,
    Timings,
    TokenCounts,
    UmbrellaReply,
    UmbrellaRequest,
)
from engine.schema import read
from engine.text import find_cut

TOKEN_CHARACTERS = 4
SLOTS = 3
"""Prompts of a session whose keys and values are kept."""
PARTS = 10
"""Of a pass, between which what is urgent goes first."""
RIGHT_LOGPROB, WRONG_LOGPROB = -0.1, -1.0

_TOKEN = re.compile(rf"\n|[^\n]{{1,{TOKEN_CHARACTERS}}}")


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast the engine pretends to be."""

    pass_ms: float
    """A pass of the target."""
    draft_ms: float = 5.0
    """A whole text of the draft tier."""
    tokens_a_pass: int = 4
    """That the target accepts."""


@dataclass(frozen=True, slots=True)
class EngineCounts:
    """What an engine has done since it was started. Tokens and passes are the target's."""

    generations: int = 0
    cancels: int = 0
    passes: int = 0
    prompt: int = 0
    """Tokens of prompts."""
    reused: int = 0
    """Of them, those whose keys and values were still there."""
    wasted_passes: int | None = None
    """Begun after what had been typed ruled out that their text could be of use; None where nobody knows."""
    drafts: int | None = None
    """Generations of the draft tier."""
    prefetches: int | None = None
    right: int | None = None
    """Generations whose text was right to its end."""

    def since(self, before: EngineCounts) -> EngineCounts:
        """What has been added to `before`."""
        return self._with(before, -1)

    def plus(self, other: EngineCounts) -> EngineCounts:
        return self._with(other, 1)

    def _with(self, other: EngineCounts, sign: int) -> EngineCounts:
        summed: dict[str, int | None] = {}
        for field in fields(self):
            mine, theirs = (cast("int | None", getattr(each, field.name)) for each in (self, other))
            summed[field.name] = None if mine is None or theirs is None else mine + sign * theirs
        return EngineCounts(**cast("dict[str, Any]", summed))


@dataclass(frozen=True, slots=True)
class _Job:
    """One request, and what will be said."""

    umbrella: UmbrellaRequest
    prefix: str
    answer: Answer
    text: str
    """`answer`, as far as its stops let it come."""
    stop: StopReason

    @property
    def is_target(self) -> bool:
        return self.umbrella.tier == "target"


class OracleEngine:
    """Serves one oracle."""

    def __init__(self, oracle: Oracle, pace: Pace) -> None:
        self._oracle = oracle
        self._pace = pace
        self._tally = dict.fromkeys((field.name for field in fields(EngineCounts)), 0)
        self._target = asyncio.Lock()
        self._urgent = 0
        self._quiet = asyncio.Event()
        self._kept: defaultdict[str, list[str]] = defaultdict(list)
        """By session: prompts with what was said to them, the latest last."""

    def counts(self) -> EngineCounts:
        """So far. May be called from any thread."""
        return EngineCounts(**self._tally)

    def app(self) -> Starlette:
        """``GET /health``, ``POST /infill`` and ``POST /workspace`` as `engine.protocol` has them."""
        posts = [("/infill", self._infill), ("/workspace", self._workspace)]
        return Starlette(
            routes=[
                Route("/health", self._health),
                *(Route(path, endpoint, methods=["POST"]) for path, endpoint in posts),
            ]
        )

    async def _health(self, _request: Request) -> Response:
        pace = self._pace
        health = Health(
            "ready",
            1.0,
            __version__,
            PROTOCOL_VERSION,
            "oracle",
            os.getpid(),
            busy=self._target.locked(),
            pass_ms=pace.pass_ms,
            draft_ms=pace.draft_ms,
        )
        return JSONResponse(msgspec.to_builtins(health))

    async def _workspace(self, _request: Request) -> Response:
        return JSONResponse({}, 202)

    async def _infill(self, request: Request) -> Response:
        try:
            job = self._job(await request.json())
        except ClientDisconnect:
            return Response(status_code=499)
        return StreamingResponse(self._events(job), media_type="text/event-stream")

    def _job(self, body: dict[str, Any]) -> _Job:
        umbrella = read(UmbrellaRequest, body.get("umbrella", {}), where="umbrella")
        prefix = _joined(umbrella.segments, "prefix") or body.get("input_prefix", "")
        suffix = _joined(umbrella.segments, "suffix") or body.get("input_suffix", "")
        answer = self._oracle.answer(prefix, suffix, umbrella.tier)
        cut = find_cut(answer.text, umbrella.stop)
        text, stop = (answer.text[: cut.at], cut.reason) if cut else (answer.text, StopReason.END)
        tokens = _TOKEN.findall(text)
        limit = body.get("n_predict") or len(tokens)
        if len(tokens) > limit:
            text, stop = "".join(tokens[:limit]), StopReason.LENGTH
        return _Job(umbrella, prefix, answer, text, stop)

    async def _events(self, job: _Job) -> AsyncGenerator[bytes]:
        """Server-sent events. A client that goes away cancels this between two of them."""
        prompt = _prompt(job.umbrella.segments) or job.prefix
        kept = self._kept[job.umbrella.session + job.umbrella.tier]
        tokens = len(prompt) // TOKEN_CHARACTERS
        reused = max((_common(prompt, other) for other in kept), default=0) // TOKEN_CHARACTERS
        is_prefetch = job.umbrella.priority == "prefetch"
        self._count(job, tokens, reused)
        self._urgent += not is_prefetch
        said, is_over, started = "", False, time.perf_counter()
        timings, passes, generated = Timings(), 0, 0
        try:
            for texts in self._batches(job):
                await self._pass(job)
                passes += job.is_target
                timings = _timings(timings, started)
                for text in texts:
                    generated += 1
                    counts = TokenCounts(tokens, reused, generated, generated, generated, passes)
                    yield _event(job, text, _token(job, said, text), timings, counts)
                    said += text
            is_over = True
            counts = TokenCounts(tokens, reused, generated, generated, generated, passes)
            yield _event(job, "", None, timings, counts, job.stop)
        finally:
            self._urgent -= not is_prefetch
            if not self._urgent:
                self._quiet.set()
            self._tally["cancels"] += not is_over
            kept[:] = [*kept[1 - SLOTS :], prompt + said]

    def _batches(self, job: _Job) -> list[list[str]]:
        """The tokens that each pass gives; an empty text takes one too."""
        tokens: list[str] = _TOKEN.findall(job.text)
        size = self._pace.tokens_a_pass if job.is_target else max(len(tokens), 1)
        return [tokens[at : at + size] for at in range(0, max(len(tokens), 1), size)]

    async def _pass(self, job: _Job) -> None:
        if not job.is_target:
            await asyncio.sleep(self._pace.draft_ms / 1000)
            return
        self._tally["passes"] += 1
        self._tally["wasted_passes"] += self._oracle.is_astray(job.prefix, job.text)
        if job.umbrella.priority != "prefetch":
            async with self._target:
                await asyncio.sleep(self._pace.pass_ms / 1000)
            return
        for _ in range(PARTS):
            while self._urgent:
                self._quiet.clear()
                await self._quiet.wait()
            async with self._target:
                await asyncio.sleep(self._pace.pass_ms / 1000 / PARTS)

    def _count(self, job: _Job, tokens: int, reused: int) -> None:
        self._tally["prefetches"] += job.umbrella.priority == "prefetch"
        if not job.is_target:
            self._tally["drafts"] += 1
            return
        self._tally["generations"] += 1
        self._tally["right"] += job.answer.wrong_from is None
        self._tally["prompt"] += tokens
        self._tally["reused"] += reused


@contextmanager
def serving(engine: OracleEngine, folder: Path) -> Generator[None]:
    """`engine`, on ``engine.sock`` in `folder`, which must be this user's alone."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(folder / "engine.sock"))
        config = uvicorn.Config(engine.app(), log_config=None, lifespan="off", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="oracle")
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.005)
            yield
        finally:
            server.should_exit = True
            thread.join()
            (folder / "engine.sock").unlink(missing_ok=True)


def _joined(segments: Sequence[Segment], kind: str) -> str:
    return "".join(segment.text for segment in segments if segment.kind == kind)


def _prompt(segments: Sequence[Segment]) -> str:
    """In the order that `engine.templates` has: stable, volatile, suffix, prefix."""
    context = [segment for segment in segments if segment.kind not in ("prefix", "suffix")]
    context.sort(key=lambda segment: segment.stability != "stable")
    parts = [segment.path + "\n" + segment.text for segment in context]
    return "\n".join([*parts, _joined(segments, "suffix"), _joined(segments, "prefix")])


def _common(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _timings(before: Timings, started: float) -> Timings:
    total_ms = (time.perf_counter() - started) * 1000
    prefill_ms = before.prefill_ms or total_ms
    return Timings(0.0, prefill_ms, total_ms - prefill_ms, total_ms)


def _token(job: _Job, said: str, text: str) -> tuple[int, float]:
    """Where `text` begins, and how sure it is."""
    wrong_from = job.answer.wrong_from
    is_right = wrong_from is None or len(said) + len(text) <= wrong_from
    return len(said), RIGHT_LOGPROB if is_right else WRONG_LOGPROB


def _event(
    job: _Job,
    text: str,
    token: tuple[int, float] | None,
    timings: Timings,
    counts: TokenCounts,
    stop: StopReason | None = None,
) -> bytes:
    offsets, logprobs = ((), ()) if token is None else ((token[0],), (token[1],))
    reply = UmbrellaReply(
        timings, counts, logprobs=logprobs, text_offsets=offsets, stop=stop, tier=job.umbrella.tier
    )
    event = {"content": text, "stop": stop is not None, "umbrella": reply}
    return b"data: " + msgspec.json.encode(event) + b"\n\n"
