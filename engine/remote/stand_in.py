"""Models that run here while no server answers. Knows nothing of servers, nor what runs the models."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from engine.backend import Speed
from engine.errors import EngineUnavailable, UmbrellaError
from engine.executor import Executor
from engine.jobs import Chunk
from engine.protocol import HealthState
from engine.remote.job import RemoteJob

log = logging.getLogger(__name__)


class StandIn:
    """An executor that is started when it is first needed. `name` is what it runs."""

    def __init__(self, executor: Executor, name: str) -> None:
        self._executor = executor
        self._name = name
        self._is_started = False

    @property
    def state(self) -> HealthState:
        """``unloaded`` until it is needed."""
        return self._executor.state if self._is_started else "unloaded"

    @property
    def load_share(self) -> float:
        """0 to 1: how much is loaded."""
        return self._executor.load_share

    @property
    def speed(self) -> Speed:
        """What to expect of the models, once they have been loaded."""
        return self._executor.speed

    @property
    def is_lost(self) -> bool:
        """Whether its device is gone, so that its thread may never end."""
        return self._executor.is_lost

    @property
    def message(self) -> str:
        """What it does about it that no server answers."""
        if self.state == "failed":
            return f"{self._name} cannot run here either: {self._executor.message}"
        return f"{self._name} runs here meanwhile."

    async def write(self, job: RemoteJob) -> None:
        """Bring `job` to its end. Raises EngineUnavailable if it is refused."""
        if not self._is_started:
            log.warning("no server answers: %s is loaded here", self._name)
            self._is_started = True
            self._executor.start(lambda: None)
        loop, over = asyncio.get_running_loop(), asyncio.Event()

        def relay(news: Chunk | UmbrellaError) -> None:
            is_last = isinstance(news, UmbrellaError) or news.over
            job.deliver(self._explained(news) if isinstance(news, EngineUnavailable) else news)
            if is_last:
                with suppress(RuntimeError):  # The loop is closed: nobody waited any more.
                    loop.call_soon_threadsafe(over.set)

        try:
            ticket = self._executor.submit(job.request, relay)
        except EngineUnavailable as error:
            raise self._explained(error) from error
        try:
            await over.wait()
        except asyncio.CancelledError:
            self._executor.cancel(ticket)
            await over.wait()

    def unload(self, then: Callable[[], None]) -> None:
        """Give the models' memory back, if there are any, and call `then`."""
        if self._is_started:
            self._executor.unload(then)
        else:
            then()

    def stop(self, timeout_s: float) -> bool:
        """Cancel everything and end. False if something is still busy after `timeout_s`."""
        return not self._is_started or self._executor.stop(timeout_s)

    def _explained(self, error: EngineUnavailable) -> EngineUnavailable:
        return (
            EngineUnavailable(f"No server answers, and {self.message}") if self.state == "failed" else error
        )
