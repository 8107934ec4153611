"""The client's end of one language server's pipes: frames, ids, the server's log. Knows no documents."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

ENDED = "the language server ended; run `umbrella-lsp --stdio` to see why"
LONG_LINE_BYTES = 1 << 20
_FIGURE = re.compile(r"(\w+)=(\S+)")

Answered = Callable[[int, dict[str, Any], float], None]
"""Told the id of a request, the whole answer, and when it came, in seconds of `time.perf_counter`."""
Told = Callable[[str], None]
"""Told the method of what the server says by itself, and ``exit`` once it says no more."""


class LanguageClient:
    """Starts a server, and owns its process. Used from one event loop."""

    def __init__(self, process: asyncio.subprocess.Process, answered: Answered, told: Told) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self._stdin, self._stdout, self._stderr = process.stdin, process.stdout, process.stderr
        self._answered, self._told = answered, told
        self._last_id = 0
        self._waiting = dict[int, asyncio.Future[Any]]()
        self._reading = asyncio.create_task(self._read())
        self._logging = asyncio.create_task(self._read_log())
        self.log = dict[int, dict[str, str]]()
        """By request: what the server's line about it says."""

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        answered: Answered,
        told: Told = lambda _method: None,
    ) -> LanguageClient:
        """Run `command` in `folder`; what it answers to requests made with `send` goes to `answered`."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *command,
            env=environment,
            cwd=folder,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            limit=LONG_LINE_BYTES,
        )
        return cls(process, answered, told)

    @property
    def has_ended(self) -> bool:
        """Whether the server says nothing any more."""
        return self._stdout.at_eof()

    def notify(self, method: str, params: Any) -> None:
        """Tell the server something."""
        self._write({"method": method, "params": params})

    def send(self, method: str, params: Any) -> int:
        """Ask for something; the id of the request."""
        self._last_id += 1
        self._write({"id": self._last_id, "method": method, "params": params})
        return self._last_id

    async def ask(self, method: str, params: Any) -> Any:
        """Ask for something, and wait for its result. ConnectionError if the server ends or refuses."""
        if self.has_ended:
            raise ConnectionError(ENDED)
        self._waiting[self._last_id + 1] = asyncio.get_running_loop().create_future()
        return await self._waiting[self.send(method, params)]

    async def drain(self) -> None:
        """Wait until the server has taken most of what was written."""
        with suppress(ConnectionError):
            await self._stdin.drain()

    async def close(self, patience_s: float = 20.0) -> int:
        """Shut the server down, by force if it does not go; its exit code."""
        try:
            async with asyncio.timeout(patience_s):
                with suppress(ConnectionError):
                    await self.ask("shutdown", None)
                    self.notify("exit", None)
                self._stdin.close()
                await self._process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                self._process.kill()
        code = await self._process.wait()
        await asyncio.gather(self._reading, self._logging)
        return code

    def _write(self, message: dict[str, Any]) -> None:
        body = json.dumps({"jsonrpc": "2.0"} | message).encode()
        with suppress(ConnectionError):  # That it has ended is told by what it does not answer.
            self._stdin.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))

    async def _read(self) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                headers = await self._stdout.readuntil(b"\r\n\r\n")
                length = int(headers.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                self._take(json.loads(await self._stdout.readexactly(length)), time.perf_counter())
        for waiting in self._waiting.values():
            waiting.set_exception(ConnectionError(ENDED))
        self._waiting.clear()
        self._told("exit")

    def _take(self, message: dict[str, Any], now_s: float) -> None:
        if "method" in message:
            if "id" in message:  # Nothing it may ask for is granted.
                self._write({"id": message["id"], "result": None})
            else:
                self._told(message["method"])
        elif message["id"] not in self._waiting:
            self._answered(message["id"], message, now_s)
        elif "error" in message:
            error = ConnectionError(f"the server refused: {message['error']}")
            self._waiting.pop(message["id"]).set_exception(error)
        else:
            self._waiting.pop(message["id"]).set_result(message["result"])

    async def _read_log(self) -> None:
        while line := await self._stderr.readline():
            figures = dict(_FIGURE.findall(line.decode(errors="replace")))
            if figures.get("id", "").isdecimal():
                self.log[int(figures["id"])] = figures
