"""Has the prompts of a file answered, some at once, and writes down each answer as soon as it is whole."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from typing import Any

from engine.chat.figures import Figures, Meter
from engine.chat.prompts import Task
from engine.client import AsyncClient
from engine.errors import EngineGone, UmbrellaError

MAX_GONE = 3
"""So many prompts in a row that no engine answered, and the rest need not be tried."""

Tell = Callable[[Task, UmbrellaError | None], None]
"""Called with each prompt that is over, and with what was wrong if it went unanswered."""


class Batch:
    """One run, which appends to the file behind the descriptor `output`."""

    def __init__(self, client: AsyncClient, output: int, tell: Tell) -> None:
        self._client, self._output, self._tell = client, output, tell
        self._gone = 0

    async def run(self, tasks: Sequence[Task], concurrency: int) -> None:
        """Until all have been tried. Raises EngineGone where there is no engine, to be run again later."""
        waiting = iter(tasks)
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(self._work(waiting))
        if self._gone >= MAX_GONE:
            raise EngineGone("No engine answers any more. What is missing is asked when you run this again.")

    async def _work(self, waiting: Iterator[Task]) -> None:
        for task in waiting:
            problem = await self._answer(task)
            self._gone = self._gone + 1 if isinstance(problem, EngineGone) else 0
            self._tell(task, problem)
            if self._gone >= MAX_GONE:
                return

    async def _answer(self, task: Task) -> UmbrellaError | None:
        row: dict[str, object] = {"id": task.id, "hash": task.digest}
        try:
            meters = await self._asked(task)
        except UmbrellaError as error:
            self._append({**row, "error": str(error)})
            return error
        texts = [meter.text for meter in meters]
        figures = Figures.together([meter.figures() for meter in meters])
        self._append(
            {
                **row,
                "text": texts[-1],
                **({"texts": texts} if len(texts) > 1 else {}),
                "finish_reason": meters[-1].finish_reason,
                **_measured(figures),
            }
        )
        return None

    async def _asked(self, task: Task) -> list[Meter]:
        """One answer a turn; one in all where the prompt is whole messages."""
        fields: dict[str, Any] = {**dict(task.options), "umbrella": {"priority": "chat"}}
        meters: list[Meter] = []
        messages = [*task.before]
        for turn in task.turns or (None,):
            if turn is not None:
                messages.append({"role": "user", "content": turn})
            meter = Meter()
            events = (
                self._client.complete(str(turn), stream=True, **fields)
                if task.raw
                else self._client.chat(messages, stream=True, **fields)
            )
            async with aclosing(events):
                async for event in events:
                    meter.note(event)
            messages.append({"role": "assistant", "content": meter.text})
            meter.stop()
            meters.append(meter)
        return meters

    def _append(self, row: dict[str, object]) -> None:
        # In one write: however the process ends, at most the last line is cut off.
        os.write(self._output, json.dumps(row, ensure_ascii=False).encode() + b"\n")


def _measured(figures: Figures) -> dict[str, object]:
    return {
        "queue_ms": round(figures.queue_ms, 3),
        "first_token_ms": round(figures.first_token_ms, 3),
        "total_ms": round(figures.total_ms, 3),
        "tokens_per_s": round(figures.tokens_per_s, 3),
        "accepted_per_pass": round(figures.accepted_per_pass, 3),
        "prompt_tokens": figures.prompt_tokens,
        "reused_tokens": figures.reused_tokens,
        "generated_tokens": figures.generated_tokens,
    }
