"""Load on an engine's TCP port until stdin closes; then prints as JSON what became of it.

``python -m benchmarks.serving.load KIND PORT`` is a process of its own, so that what it costs is not
the event loop of whoever measures. The token comes as the first line of stdin.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import httpx

from engine.protocol import StopReason

BULK_CLIENTS, BATCH, BULK_TOKENS = 4, 16, 128
CROWD, CROWD_TOKENS = 200, 16
SLOW, UNREAD, LARGE_MB = 50, 10, 100
PATIENCE_S = 600.0
PROMPT = "def area(width, height):\n    return width * height\n\n\ndef volume("


@dataclass(slots=True)
class Outcome:
    """What became of some load."""

    statuses: Counter[str] = field(default_factory=Counter[str])
    """By HTTP status, or by what went wrong in its place."""
    tokens: dict[str, int] = field(default_factory=dict[str, int])
    """Generated, by client."""

    def document(self) -> dict[str, object]:
        """As JSON has it."""
        return {"statuses": dict(self.statuses), "tokens": self.tokens}


Load = Callable[[httpx.AsyncClient, int, str, Outcome], Awaitable[None]]
"""Given a client, the port, the token, and where to say what became of it; ends by being cancelled."""


@contextmanager
def _counted(outcome: Outcome) -> Generator[None]:
    try:
        yield
    except httpx.HTTPError as error:
        outcome.statuses[type(error).__name__] += 1


async def _complete(
    http: httpx.AsyncClient, outcome: Outcome, name: str, prompt: str | list[str], max_tokens: int
) -> None:
    """One request; its tokens are counted as they come, the last of them by the usage at the end."""
    body = {"prompt": prompt, "max_tokens": max_tokens, "stream": True, "user": name, "temperature": 0.8}
    before, answers = outcome.tokens.setdefault(name, 0), Counter[int]()
    with _counted(outcome):
        async with http.stream("POST", "/v1/completions", json=body) as response:
            outcome.statuses[str(response.status_code)] += 1
            await asyncio.sleep(float(response.headers.get("retry-after", 0)))
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line.removeprefix("data: "))
                reply = event.get("umbrella")
                if reply is not None:
                    index = event["choices"][0]["index"] if event["choices"] else 0
                    answers[index] = max(answers[index], reply["tokens"]["generated"])
                    outcome.tokens[name] = before + sum(answers.values())
                    if reply.get("stop") == StopReason.CANCELLED:
                        outcome.statuses["cancelled"] += 1


async def bulk(http: httpx.AsyncClient, _port: int, _token: str, outcome: Outcome) -> None:
    """Some clients that ask for one text after another, and one that sends whole batches."""

    async def forever(name: str, prompt: str | list[str]) -> None:
        while True:
            await _complete(http, outcome, name, prompt, BULK_TOKENS)

    async with asyncio.TaskGroup() as group:
        for index in range(BULK_CLIENTS):
            group.create_task(forever(f"single {index}", PROMPT + f"a{index}"))
        group.create_task(forever("batches", [f"{PROMPT}b{index}" for index in range(BATCH)]))


async def crowd(http: httpx.AsyncClient, _port: int, _token: str, outcome: Outcome) -> None:
    """Many clients at once, one request each; who is refused because of that comes again when told to."""

    async def once(index: int) -> None:
        name = f"client {index}"
        while not outcome.tokens.get(name):
            await _complete(http, outcome, name, PROMPT + f"c{index}", CROWD_TOKENS)

    async with asyncio.TaskGroup() as group:
        for index in range(CROWD):
            group.create_task(once(index))
    await asyncio.Event().wait()


async def hostile(http: httpx.AsyncClient, port: int, token: str, outcome: Outcome) -> None:
    """Connections that send a byte a second, streams that nobody reads, a huge body, nonsense."""

    async def slow() -> None:
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with suppress(OSError):
                for byte in b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + b"x" * 1000:
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(1.0)
                    if reader.at_eof():
                        break
            outcome.statuses["slow: closed by the engine"] += 1
            writer.close()

    async def unread() -> None:
        body = json.dumps({"prompt": PROMPT, "max_tokens": 512, "stream": True}).encode()
        _reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
        head = f"Host: localhost\r\nAuthorization: Bearer {token}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(b"POST /v1/completions HTTP/1.1\r\n" + head.encode() + body)
        await writer.drain()
        await asyncio.Event().wait()

    async def large() -> None:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(LARGE_MB):
                yield b"x" * (1 << 20)

        while True:
            with _counted(outcome):
                response = await http.post("/v1/completions", content=pieces())
                outcome.statuses[f"{LARGE_MB} MB: {response.status_code}"] += 1
            await asyncio.sleep(1.0)

    async def nonsense() -> None:
        while True:
            with _counted(outcome):
                response = await http.post("/v1/completions", content=b'{"prompt": [[[')
                outcome.statuses[f"nonsense: {response.status_code}"] += 1
            await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as group:
        for _ in range(SLOW):
            group.create_task(slow())
        for _ in range(UNREAD):
            group.create_task(unread())
        group.create_task(large())
        group.create_task(nonsense())


LOADS: dict[str, Load] = {"bulk": bulk, "crowd": crowd, "hostile": hostile}


async def run(load: Load, port: int, token: str) -> Outcome:
    """Make `load` until stdin closes."""
    outcome = Outcome()
    limits = httpx.Limits(max_connections=None)
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}",
        headers=headers,
        timeout=PATIENCE_S,
        limits=limits,
        trust_env=False,
    ) as http:
        making = asyncio.ensure_future(load(http, port, token, outcome))
        await asyncio.to_thread(sys.stdin.read)
        making.cancel()
        with suppress(asyncio.CancelledError):
            await making
    return outcome


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kind", choices=LOADS)
    parser.add_argument("port", type=int)
    options = parser.parse_args()
    token = sys.stdin.readline().strip()
    outcome = asyncio.run(run(LOADS[options.kind], options.port, token))
    print(json.dumps(outcome.document()))


if __name__ == "__main__":
    main()
