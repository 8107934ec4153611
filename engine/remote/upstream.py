"""One server that has the target: what is known of it, and how it is asked. Knows nothing of others."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httpx
import msgspec

from engine.config_tables import UpstreamName
from engine.errors import EngineUnavailable, RequestError, UmbrellaError
from engine.remote.wire import UNREADABLE, Event, EventLines, Garbage, Kind, kind_of, read_cards

BUSY = (429, 503)
PASSING = (*BUSY, 502, 504)
"""What a server, or what stands before it, says of a moment and not of a request."""
SHOWN_CHARACTERS = 300
"""Of what a server says of its own errors."""
MAX_ERROR_BYTES = 1 << 16
MAX_CARDS_BYTES = 1 << 20
FAREWELL = b"\ndata: [DONE]\n"
"""Stands for the end of a stream, whose last line need not have one."""
FAREWELL_S = 1.0
"""For the counts that may follow the end of a text."""
QUICK_MS = 50.0
"""To the first piece of a text: who needs less is as good as any, and so is who has not been asked yet."""
LATENCY_HALF_LIFE_S = 30.0
"""A server that was slow is tried again, though nothing new is known of it."""
NEWEST_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a server is waited for, in seconds."""

    connect_s: float = 3.0
    first_byte_s: float = 60.0
    """A long prompt at a busy server takes its time; whoever types has given up long before."""
    next_byte_s: float = 30.0
    look_s: float = 5.0
    """For an answer to the question how it is."""
    retry_s: float = 10.0
    """From the first attempt to the last."""
    pause_s: float = 0.25
    """Before the second; it doubles from one to the next."""
    longest_pause_s: float = 60.0


class Unanswered(Exception):
    """Nothing of a text has come: somebody else can be asked, or the same server later.

    `after_s`: the server is well and has said how long it wants to be left alone.
    """

    def __init__(self, message: str, after_s: float | None = None) -> None:
        super().__init__(message)
        self.after_s = after_s


class Upstream:
    """A server. Belongs to one event loop."""

    def __init__(
        self,
        named: UpstreamName,
        client: httpx.AsyncClient,
        patience: Patience,
        environment: Mapping[str, str],
    ) -> None:
        parts = urlsplit(named.url)
        self.name = parts.netloc
        """What messages call it."""
        self.prompts = named.prompts
        self.max_requests = named.max_requests
        self.model = named.model
        """What it calls the target; '' until it has been asked, where the configuration does not say."""
        self.kind: Kind = "other"
        self.max_length: int | None = None
        """Tokens of context that it has, where it tells."""
        self.in_flight = 0
        self.failures = 0
        """In a row. After one, a single request is risked at a time."""
        self.at_recovery: Callable[[], object] = lambda: None
        """Called when it answers after failures: it has room for more."""
        self.problem = ""
        """Why it is not asked; '' while it may be."""
        self.free_at = 0.0
        """When it may be asked again, by the monotonic clock; it is well, but busy."""
        self._latency_ms, self._measured_at = 0.0, time.monotonic()
        self._url = named.url.rstrip("/")
        self._client = client
        self._patience = patience
        self._token_env = named.token_env
        self._token = environment.get(named.token_env, "").strip() if named.token_env else ""

    @property
    def is_up(self) -> bool:
        """Whether it may be asked, as far as is known."""
        return not self.problem

    @property
    def has_room(self) -> bool:
        """Whether it may be asked one thing more."""
        return self.in_flight < (self.max_requests if not self.failures else 1)

    def load(self, now_s: float) -> float:
        """How long it would take to answer, roughly: lower is better."""
        return (self.in_flight + 1) * max(QUICK_MS, self._remembered_ms(now_s))

    def _remembered_ms(self, now_s: float) -> float:
        return self._latency_ms * 0.5 ** ((now_s - self._measured_at) / LATENCY_HALF_LIFE_S)

    def _measured(self, latency_ms: float) -> None:
        now_s = time.monotonic()
        before_ms = self._remembered_ms(now_s) or latency_ms
        self._latency_ms = before_ms + NEWEST_SHARE * (latency_ms - before_ms)
        self._measured_at = now_s

    def pause_s(self) -> float:
        """How long to leave it alone after its failures, less for some than for others."""
        longest = min(self._patience.longest_pause_s, self._patience.pause_s * 2 ** min(self.failures, 16))
        return longest * random.uniform(0.5, 1.0)

    async def look(self) -> None:
        """Ask how it is, and what it calls its model; `problem` says what came of it."""
        try:
            async with asyncio.timeout(self._patience.look_s):
                self.problem = await self._looked()
        except TimeoutError:
            self.problem = f"{self.name} does not answer"
        except (httpx.HTTPError, Unanswered, Garbage) as error:
            self.problem = self._explained(error)
        except Exception as error:  # noqa: BLE001 - nobody would look at it again
            self.problem = f"{self.name} cannot be asked ({type(error).__name__})"
        if self.problem:
            self.failures += 1

    async def _looked(self) -> str:
        if self._token_env and not self._token:
            return f"{self.name} needs a token, and {self._token_env} is not set where the engine was started"
        if not (self._token.isascii() and self._token.isprintable()):
            return f"{self.name} needs a token, and {self._token_env} holds characters that are in none"
        async with self._sent(self._asking("/v1/models")) as response:
            status, said = response.status_code, _said(response)
            cards = (
                read_cards(await _body(response, MAX_CARDS_BYTES, self._patience.look_s))
                if status == 200
                else []
            )
        if status in (401, 403):
            return f"{self.name} does not accept the token: set token_env to what names the right one"
        if status != 200:
            return "" if self.model and await self._is_healthy() else f"{self.name} answers {said}"
        card = next((card for card in cards if not self.model or card.id == self.model), None)
        if card is not None:
            self.model, self.kind, self.max_length = card.id, kind_of(card), card.max_model_len
        return "" if self.model else f"{self.name} lists no model: name it by model"

    async def _is_healthy(self) -> bool:
        async with self._sent(self._asking("/health")) as response:
            return response.status_code == 200

    def _asking(self, path: str) -> httpx.Request:
        return self._client.build_request("GET", f"{self._url}{path}", headers=self._headers())

    async def stream(self, body: Mapping[str, object]) -> AsyncGenerator[Event]:
        """Ask for a text. Leaving this closes the connection, by which a server knows to stop.

        Raises Unanswered while nothing has come, RequestError for what the server refuses, and
        EngineUnavailable where it breaks off.
        """
        request = self._client.build_request(
            "POST", f"{self._url}/v1/completions", headers=self._headers(), content=msgspec.json.encode(body)
        )
        has_begun, is_finished, asked_at = False, False, time.monotonic()
        try:
            async with self._sent(request) as response:
                await self._require_stream(response)
                async with aclosing(self._events(response)) as events:
                    async for event in events:
                        if not has_begun and event.says_something:
                            has_begun = True
                            self._answered((time.monotonic() - asked_at) * 1000)
                        is_finished = is_finished or event.ends_text
                        yield event
        except (httpx.HTTPError, TimeoutError, Garbage, Unanswered) as error:
            if is_finished:
                return  # However it hangs up, the text is whole.
            after_s = error.after_s if isinstance(error, Unanswered) else None
            self._failed(self._explained(error), after_s)
            if has_begun:
                raise EngineUnavailable(
                    f"{self._explained(error)}, so the text is cut short. Send the request again."
                ) from error
            raise Unanswered(self._explained(error), after_s) from error

    def _answered(self, latency_ms: float) -> None:
        self._measured(latency_ms)
        if self.failures:
            self.failures = 0
            self.at_recovery()

    def _failed(self, problem: str, after_s: float | None) -> None:
        if after_s is not None:
            self.free_at = time.monotonic() + after_s
        else:
            self.failures += 1
            self.problem = problem

    @asynccontextmanager
    async def _sent(self, request: httpx.Request) -> AsyncGenerator[httpx.Response]:
        async with asyncio.timeout(self._patience.first_byte_s):
            response = await self._client.send(request, stream=True)
        try:
            yield response
        finally:
            await response.aclose()

    async def _require_stream(self, response: httpx.Response) -> None:
        """Raise what an answer says that is no stream of events."""
        status = response.status_code
        if status == 200:
            kind = response.headers.get("content-type", "")
            if kind.partition(";")[0].strip() != "text/event-stream":
                raise Garbage(f"it answers with {kind or 'something'} instead of a stream of events")
            return
        if status in PASSING:
            raise Unanswered(f"{self.name} answers {_said(response)}", self._after_s(response))
        if response.is_redirect:
            raise Garbage(
                "it sends us elsewhere, where we do not go: write the address itself into upstreams"
            )
        detail = _detail(await _body(response, MAX_ERROR_BYTES, self._patience.next_byte_s))
        if status in (401, 403):
            raise Unanswered(f"{self.name} does not accept the token")
        raise self._refusal(status, f"{self.name} refuses the request ({_said(response)}){detail}")

    def _refusal(self, status: int, said: str) -> UmbrellaError:
        if status == 404:
            return EngineUnavailable(f"{said}. Check url and model in upstreams.")
        if status in (400, 413, 422):
            hint = " It may not take token ids: try prompts = 'text'." if self.prompts == "ids" else ""
            return RequestError(f"{said}.{hint if self.kind == 'other' else ''}")
        return EngineUnavailable(f"{said}. Its log may say why.")

    def _after_s(self, response: httpx.Response) -> float | None:
        """When a server that is busy wants to be asked again; None if it is worse than that."""
        if response.status_code not in BUSY:
            return None
        stated = response.headers.get("retry-after", "")
        return float(stated) if stated.isdecimal() and len(stated) < 6 else self._patience.pause_s

    async def _events(self, response: httpx.Response) -> AsyncGenerator[Event]:
        """The events of a stream, up to its farewell or its end."""
        lines, clock = EventLines(), asyncio.get_running_loop()
        timeout_s, last = self._patience.first_byte_s, clock.time()
        async with _raw(response) as pieces:
            while True:
                # From one that says something to the next: other events do not count, nor other bytes.
                async with asyncio.timeout_at(last + timeout_s):
                    piece = await anext(pieces, None)
                for event in lines.feed(piece or FAREWELL):
                    if event is None and piece is None:
                        raise Garbage("its text has no end")
                    if event is None:
                        return
                    if event.error is not None:
                        detail = _detail(msgspec.json.encode(event))
                        raise EngineUnavailable(f"{self.name} says that it has failed{detail}.")
                    if event.says_something:
                        timeout_s = FAREWELL_S if event.ends_text else self._patience.next_byte_s
                        last = clock.time()
                    yield event

    def _headers(self) -> dict[str, str]:
        # Uncompressed: a small answer must not become a large one.
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        return headers | ({"Authorization": f"Bearer {self._token}"} if self._token else {})

    def _explained(self, error: Exception) -> str:
        """What went wrong, without anything of a prompt or a token."""
        match error:
            case Unanswered():
                return str(error)
            case Garbage():
                return f"{self.name} cannot be used: {error}"
            case httpx.ConnectError() if "CERTIFICATE" in str(error):
                return f"{self.name} cannot be trusted ({error}): SSL_CERT_FILE may name its authority"
            case httpx.ConnectError() if "SSL" in str(error):
                return f"{self.name} does not speak TLS as its url says ({error})"
            case httpx.ConnectError() | httpx.ConnectTimeout():
                return f"{self.name} cannot be reached"
            case httpx.TimeoutException() | TimeoutError():
                return f"{self.name} does not answer"
            case _:
                return f"{self.name} broke off ({type(error).__name__})"


def _raw(response: httpx.Response) -> aclosing[AsyncGenerator[bytes]]:
    """The bytes of an answer as they come; it is a generator, whatever its annotation says."""
    return aclosing(cast("AsyncGenerator[bytes]", response.aiter_raw()))


async def _body(response: httpx.Response, limit_bytes: int, limit_s: float) -> bytes:
    """At most that much of what a server says. Raises Garbage if there is more, and TimeoutError."""
    data = bytearray()
    async with _raw(response) as pieces, asyncio.timeout(limit_s):
        async for piece in pieces:
            data += piece
            if len(data) > limit_bytes:
                raise Garbage("it answers with too much")
    return bytes(data)


def _said(response: httpx.Response) -> str:
    return f"{response.status_code} {response.reason_phrase}".strip()


def _detail(body: bytes) -> str:
    """What an error's body says in one of the usual places, shortened; '' if it says nothing there."""
    try:
        said = msgspec.json.decode(body, type=dict[str, object])
        inner = said.get("error")
        if isinstance(inner, dict):
            said = cast("dict[str, object]", inner)
    except UNREADABLE:
        return ""
    texts = [text for key in ("message", "detail", "error") if isinstance(text := said.get(key), str)]
    return f": {texts[0][:SHOWN_CHARACTERS]}" if texts else ""
