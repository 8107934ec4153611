"""`Client` and `AsyncClient`: completions and chats for programs, whole or as they come, over httpx."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Generator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from msgspec.json import encode

from engine.client.answers import Answer, AnswerReader, received, refuse
from engine.client.calls import Calls, Object, Script
from engine.client.connecting import connected, connected_async, prepare, translated
from engine.client.endpoint import Endpoint, Naming, endpoint_at

if TYPE_CHECKING:
    import httpx

ARGUMENTS = Naming("the argument base_url", "the argument token, as text")


class _Place:
    """Which engine is asked: that at `base_url`, or the user's own, started if need be with `config`."""

    def __init__(self, base_url: str, token: str, config: Path | None, naming: Naming) -> None:
        self._config = config
        self._elsewhere = endpoint_at(base_url.removesuffix("/v1"), token, naming) if base_url else None

    def find(self) -> Endpoint:
        """Blocks until it answers if it is the user's own. Raises ConfigError or EngineUnavailable."""
        from engine.launch import ensure_engine

        prepare()
        return self._elsewhere or replace(ensure_engine(self._config), notice="")


class Client(Calls[Answer, Generator[Answer], Object]):
    """Blocks until there is an answer. For one thread at a time.

    Without a `base_url`, asks the user's own engine, and starts it if need be, with the configuration in the
    file `config`. Errors say by `naming` where the address and the token are from. Closing a stream cancels
    it in the engine, and so does leaving the client's ``with``.
    """

    def __init__(
        self, base_url: str = "", *, token: str = "", config: Path | None = None, naming: Naming = ARGUMENTS
    ) -> None:
        self._place = _Place(base_url, token, config, naming)
        self._open: tuple[Endpoint, httpx.Client] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections, which cancels what is asked on them."""
        was, self._open = self._open, None
        if was:
            was[1].close()

    def _connected(self) -> tuple[Endpoint, httpx.Client]:
        place = self._place.find()
        if not self._open or self._open[0] != place:
            self.close()
            self._open = place, connected(place)
        return self._open

    def _run(self, script: Script) -> Any:
        place, http = self._connected()
        try:
            path, body = next(script)
            while True:
                with translated(place):
                    response = http.post(path, content=encode(body))
                path, body = script.send((place, received(place, response.status_code, response.content)))
        except StopIteration as end:
            return end.value

    def _stream(self, path: str, body: Object) -> Generator[Answer]:
        place, http = self._connected()
        with translated(place), http.stream("POST", path, content=encode(body)) as response:
            if response.status_code != 200:
                refuse(place, response.status_code, response.read())
            answers = AnswerReader(place)
            for piece in response.iter_bytes():
                yield from answers.feed(piece)
            answers.end()


class AsyncClient(Calls[Coroutine[Any, Any, Answer], AsyncGenerator[Answer], Coroutine[Any, Any, Object]]):
    """`Client` for an event loop, and for any number of its tasks at once."""

    def __init__(
        self, base_url: str = "", *, token: str = "", config: Path | None = None, naming: Naming = ARGUMENTS
    ) -> None:
        self._place = _Place(base_url, token, config, naming)
        self._open: tuple[Endpoint, httpx.AsyncClient] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections, which cancels what is asked on them."""
        was, self._open = self._open, None
        if was:
            await was[1].aclose()

    async def _connected(self) -> tuple[Endpoint, httpx.AsyncClient]:
        place = await asyncio.to_thread(self._place.find)
        if not self._open or self._open[0] != place:
            was, self._open = self._open, (place, connected_async(place))
            if was:
                await was[1].aclose()
        return self._open

    async def _run(self, script: Script) -> Any:
        place, http = await self._connected()
        try:
            path, body = next(script)
            while True:
                with translated(place):
                    response = await http.post(path, content=encode(body))
                path, body = script.send((place, received(place, response.status_code, response.content)))
        except StopIteration as end:
            return end.value

    async def _stream(self, path: str, body: Object) -> AsyncGenerator[Answer]:
        place, http = await self._connected()
        with translated(place):
            async with http.stream("POST", path, content=encode(body)) as response:
                if response.status_code != 200:
                    refuse(place, response.status_code, await response.aread())
                answers = AnswerReader(place)
                async for piece in response.aiter_bytes():
                    for answer in answers.feed(piece):
                        yield answer
                answers.end()
