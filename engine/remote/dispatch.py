"""Finds somebody to write a text, and asks again where that may help. Knows of one generation at a time."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import aclosing

from engine.errors import EngineBusy, EngineUnavailable
from engine.jobs import Chunk, now_ms
from engine.prompt import BuiltPrompt
from engine.remote.answer import RemoteAnswer
from engine.remote.job import RemoteJob
from engine.remote.pool import Pool
from engine.remote.prompts import RemotePrompts
from engine.remote.stand_in import StandIn
from engine.remote.upstream import Patience, Unanswered, Upstream
from engine.remote.wire import Garbage, body_of


async def write(
    job: RemoteJob,
    prompt: BuiltPrompt,
    prompts: RemotePrompts,
    pool: Pool,
    stand_in: StandIn | None,
    patience: Patience,
) -> Chunk | None:
    """Have a server write `job`'s text, or `stand_in` while none answers.

    Whoever fails before anything has come is not asked again while there are others, and then only after a
    pause. Returns the last chunk, or None if that has been delivered like those before it. Raises
    UmbrellaError.
    """
    most = prompts.room(job.request, prompt)
    answer = job.answer = RemoteAnswer(job.request, prompt, prompts.vocabulary, most, job.accepted_ms)
    failed, failure = set[Upstream](), None
    pause_s, give_up_at = patience.pause_s, time.monotonic() + patience.retry_s
    while True:
        upstream = await pool.lease(job.key, failed)
        if upstream is not None:
            try:
                return await _ask(upstream, job, answer, prompt, prompts)
            except Unanswered as error:
                job.is_waiting, failure = True, error
                failed.add(upstream)
                continue
            finally:
                pool.give_back(upstream)
        if stand_in is not None and not pool.up:
            if failed and time.monotonic() < give_up_at:
                await pool.look_now()  # It may have been but one connection, and models take long to load.
                failed.clear()
                continue
            job.is_waiting = False
            await stand_in.write(job)
            return None
        if failure is None:
            await _find_some(pool)
            continue
        wait_s = max(pause_s, failure.after_s or 0.0) * random.uniform(1.0, 1.5)
        if time.monotonic() + wait_s > give_up_at:
            kind = EngineUnavailable if failure.after_s is None else EngineBusy
            raise kind(f"No server answers: {failure}. Send the request again later.")
        await asyncio.sleep(wait_s)
        await pool.look_now()
        pause_s *= 2
        failed.clear()


async def _find_some(pool: Pool) -> None:
    """Raise EngineUnavailable unless a server is back that was not there a moment ago."""
    if pool.up:
        raise EngineBusy("All servers are busy, and want to be left alone for longer. Send it again later.")
    await pool.look_now()
    if not pool.up:
        raise EngineUnavailable(f"No server answers: {pool.problems}.")


async def _ask(
    upstream: Upstream, job: RemoteJob, answer: RemoteAnswer, prompt: BuiltPrompt, prompts: RemotePrompts
) -> Chunk:
    """Have `upstream` write the text, and deliver all but its last chunk, which is returned.

    Raises Unanswered while nothing has come, and UmbrellaError.
    """
    body = body_of(
        job.request,
        prompt.tokens if upstream.prompts == "ids" else prompts.written(prompt.tokens),
        answer.max_tokens,
        model=job.request.adapter or upstream.model,
        kind=upstream.kind,
        ends=prompts.end_tokens,
    )
    job.is_waiting = False
    answer.sent(now_ms())
    async with aclosing(upstream.stream(body)) as events:
        async for event in events:
            try:
                chunk = answer.take(event, now_ms())
            except Garbage as error:
                raise EngineUnavailable(f"{upstream.name} cannot be used: {error}.") from error
            if chunk is not None and chunk.over:
                return chunk
            if chunk is not None:
                job.deliver(chunk)
    return answer.end(now_ms())
