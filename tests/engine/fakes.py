"""A scripted backend in place of models, and an engine's process around it.

``python -m tests.engine.fakes serve ...`` is ``umbrella-engine`` with this backend.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from engine.backend import BuiltPrompt, Load, Speed, Text
from engine.cli import main
from engine.client import Endpoint, ask_to_drain, fetch_health
from engine.config import EngineConfig
from engine.doors import Door, listen_tcp
from engine.errors import (
    CheckpointError,
    EngineUnavailable,
    NoAdapter,
    RequestError,
    UmbrellaError,
    UnknownModel,
)
from engine.jobs import Chunk, Ending
from engine.progress import Progress
from engine.protocol import SegmentFate, StopReason, Tier, TokenCounts
from engine.request import ChatPrompt, CodePrompt, GenerationRequest, TextPrompt
from engine.runtime import RuntimeDir
from engine.server import serve
from engine.text import TextStream
from engine.workspace import Workspaces
from tests.engine.fake_parts import (
    END,
    FakeAdapter,
    FakeBranch,
    FakePrompt,
    FakeSlot,
    FakeStep,
    FakeVocabulary,
)

LAYERS, DRAFT_LAYERS = 4, 1
DEADLINE_S = 20.0
"""How long a test waits for what must happen."""


def nothing(_layer: int) -> None:
    pass


def dawdle(_layer: int) -> None:
    time.sleep(0.02)


@dataclass(slots=True, weakref_slot=True)
class FakeBackend:
    """One character a token, one token a pass, `LAYERS` layers a pass.

    The token after n others is ``answer[n % len(answer)]``: what stands at a position depends on the
    position alone, as with a real model and a fixed seed. The draft tier says the same in upper case, in
    `DRAFT_LAYERS` layers a pass.
    """

    answer: str = "abcdefghijklmnopqrstuvwxyz"
    in_layer: Callable[[int], None] = nothing
    """Called inside every layer; tests stop the world here."""
    branches: Sequence[FakeBranch] = ()
    """Reported by the step that emits the token they leave the text before."""
    failed: tuple[str, ...] = ()
    """Drafters that raise in the second step."""
    max_length: int = 1 << 16
    speed: Speed = field(default_factory=Speed)
    slots: int = 2
    notice: str = ""
    is_closed: bool = False
    target_slots: list[FakeSlot] = field(default_factory=list[FakeSlot])
    draft_slots: list[FakeSlot] = field(default_factory=list[FakeSlot])
    adapters: dict[str, FakeAdapter] = field(default_factory=dict[str, FakeAdapter])

    def load_adapter(self, name: str, path: str) -> None:
        if "nowhere" in path:
            raise NoAdapter(f"{path} is no folder")
        if "broken" in path:
            raise CheckpointError(f"{path} is no LoRA adapter: it has no adapter_config.json")
        self.adapters[name] = FakeAdapter(path)

    def drop_adapter(self, name: str) -> None:
        self.adapters.pop(name, None)

    @property
    def vocabulary(self) -> FakeVocabulary:
        return FakeVocabulary(max_length=self.max_length)

    def encode(self, request: GenerationRequest) -> FakePrompt:
        if any(token > 255 for token, _ in request.logit_bias):
            raise RequestError("logit_bias: token ids must be below 256", "logit_bias")
        prompt = self._prompt(request)
        if len(prompt.tokens) + 1 > self.max_length:
            raise RequestError(f"the context holds {self.max_length} tokens", "prompt")
        if request.adapter and request.adapter not in self.adapters:
            raise UnknownModel(f"the adapter {request.adapter} is not loaded", "model")
        return replace(prompt, adapter=self.adapters[request.adapter] if request.adapter else None)

    def _prompt(self, request: GenerationRequest) -> FakePrompt:
        prompt = request.prompt
        if isinstance(prompt, CodePrompt):
            text = "".join(segment.text for segment in prompt.segments)
            fates = tuple(SegmentFate(i, "kept", len(s.text)) for i, s in enumerate(prompt.segments))
            return FakePrompt((END, *map(ord, text)), fates)
        if isinstance(prompt, TextPrompt):
            return FakePrompt((END, *map(ord, prompt.text)))
        if isinstance(prompt, ChatPrompt):
            text = "\n".join(f"{message.role}: {message.content}" for message in prompt.messages)
            return FakePrompt((END, *map(ord, text if prompt.is_open else f"{text}\nassistant: ")))
        if any(token > 255 for token in prompt.tokens):
            raise RequestError("prompt: token ids must be below 256", "prompt")
        return FakePrompt(prompt.tokens)

    def text(self, request: GenerationRequest, _prompt: BuiltPrompt) -> TextStream:
        return TextStream(chr, {END}, request.stop)

    def new_slot(self, tier: Tier) -> FakeSlot:
        slots = self.target_slots if tier == "target" else self.draft_slots
        slots.append(FakeSlot())
        return slots[-1]

    def generate(
        self,
        request: GenerationRequest,
        tokens: Sequence[int],
        slot: FakeSlot,
        text: Text,
        max_tokens: int,
        before_layer: Callable[[int], None],
    ) -> Iterator[FakeStep]:
        if isinstance(request.prompt, TextPrompt) and request.prompt.text == "explode":
            raise ZeroDivisionError(request.prompt.text)
        reused = slot.reusable(tokens, slot.adapter)
        slot.tokens = list(tokens)
        most = min(max_tokens, self.max_length - len(tokens))
        for count in range(1, most + 1):
            answer = slot.adapter.answer if isinstance(slot.adapter, FakeAdapter) else self.answer
            if request.tier == "draft":
                answer = self.answer.upper()
            for layer in range(LAYERS if request.tier == "target" else DRAFT_LAYERS):
                before_layer(layer)
                self.in_layer(layer)
            token = ord(answer[(len(tokens) + count - 1) % len(answer)])
            if token == END and request.ignore_end:
                token = ord(".")
            slot.tokens.append(token)
            stop = text.push(token) or (StopReason.LENGTH if count == most else None)
            counts = TokenCounts(len(tokens), reused, count, count, count - 1, count)
            found = tuple(b for b in self.branches if b.at == count - 1 and request.alternatives > 1)
            tops = tuple((token + i, -0.5 - i) for i in range(request.top_logprobs))
            failed = self.failed if count > 1 else ()
            yield FakeStep((token,), (-0.5,), counts, stop, failed, found, (tops,) if tops else ())
            if stop:
                return

    def close(self) -> None:
        self.is_closed = True


class Gate:
    """Holds a generation inside a layer until told to go on."""

    def __init__(self, *, layer: int = 0) -> None:
        self._layer = layer
        self._go = threading.Semaphore(0)
        self.reached = threading.Semaphore(0)
        self.open = False

    def __call__(self, layer: int) -> None:
        if layer == self._layer and not self.open:
            self.reached.release()
            assert self._go.acquire(timeout=DEADLINE_S)

    def wait(self) -> None:
        """Until a generation stands in the layer."""
        assert self.reached.acquire(timeout=DEADLINE_S)

    def step(self) -> None:
        """Let it go on to the same layer of the next pass."""
        self._go.release()

    def release(self) -> None:
        """Let everything pass from now on."""
        self.open = True
        self._go.release(1000)


class Script:
    """Does things inside the layers whose numbers it is given, counted from 1 over all jobs."""

    def __init__(self) -> None:
        self.acts: dict[int, Callable[[], object]] = {}
        self._layers = 0

    def __call__(self, _layer: int) -> None:
        self._layers += 1
        self.acts.get(self._layers, lambda: None)()


class Receiver:
    """Collects what a job delivers. `at_end` is called once that is all."""

    def __init__(self, at_end: Callable[[], object] = lambda: None) -> None:
        self._at_end = at_end
        self.chunks: list[Chunk] = []
        self.error: UmbrellaError | None = None
        self.over = threading.Event()

    def __call__(self, chunk: Chunk | UmbrellaError) -> None:
        assert not self.over.is_set(), "something came after the end"
        if isinstance(chunk, UmbrellaError):
            self.error = chunk
        else:
            self.chunks.append(chunk)
        if isinstance(chunk, UmbrellaError) or chunk.over:
            self._at_end()
            self.over.set()

    def wait(self) -> Receiver:
        assert self.over.wait(DEADLINE_S)
        return self

    @property
    def text(self) -> str:
        [text] = self.texts
        return text

    @property
    def texts(self) -> list[str]:
        """The main text and its alternatives."""
        chunks = self.wait().chunks
        return ["".join(c.text for c in chunks if c.index == i) for i in range(chunks[-1].index + 1)]

    @property
    def ending(self) -> Ending:
        [ending] = self.endings
        return ending

    @property
    def endings(self) -> list[Ending]:
        return [chunk.ending for chunk in self.wait().chunks if chunk.ending]


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what another thread or process is about to do."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


def load_fake(config: EngineConfig, progress: Progress, _workspaces: Workspaces) -> FakeBackend:
    """What `config.model` asks for: ``fake:broken`` cannot be loaded, ``fake:slow`` dawdles in layers."""
    progress(0.5, "Loading layer 2 of 4")
    if config.model == "fake:broken":
        raise CheckpointError("model.safetensors is cut off; fetch it again")
    dawdle: Callable[[int], None] = (
        nothing if config.model != "fake:slow" else lambda _layer: time.sleep(0.02)
    )
    return FakeBackend(in_layer=dawdle)


class RunningEngine:
    """A served fake, and ways to talk to it."""

    def __init__(
        self, place: RuntimeDir, thread: threading.Thread, tcp: Endpoint | None, workspaces: Workspaces
    ) -> None:
        self.place = place
        self.workspaces = workspaces
        self.thread = thread
        self.endpoint = place.endpoint()
        self.tcp = tcp
        self.http = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(place.socket), verify=False),
            base_url="http://localhost",
            timeout=DEADLINE_S,
        )

    def metric(self, line: str) -> float:
        """The value of the metric written as `line`; 0 if it is not there yet."""
        for found in self.http.get("/metrics").text.splitlines():
            if found.startswith(f"{line} "):
                return float(found.rsplit(" ", 1)[1])
        return 0.0

    def connect(self, path: str, body: dict) -> socket.socket:
        """Send a request and keep the connection, to close it when it suits the test."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(DEADLINE_S)
        connection.connect(str(self.place.socket))
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
        connection.sendall(head.encode() + data)
        return connection


def events_of(response: httpx.Response) -> list[dict]:
    """The objects of a stream."""
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def error_of(response: httpx.Response) -> dict:
    """The error of an answer that has one."""
    error = response.json()["error"]
    assert error["code"] in (response.status_code, None) or isinstance(error["code"], str)
    assert error["message"]
    return error


@contextmanager
def running_engine(
    folder: Path,
    backend: FakeBackend | None = None,
    config: EngineConfig | None = None,
    load: Load[Any] | None = None,
    *,
    with_tcp: bool = False,
    door: Door | None = None,
) -> Generator[RunningEngine]:
    """Serve a fake from a thread of this process, over real sockets in `folder`."""
    fake, config = backend or FakeBackend(), config or EngineConfig(model="fake")
    place = RuntimeDir.prepare(folder)
    tcp = listen_tcp("127.0.0.1", 0) if with_tcp else door
    workspaces = Workspaces()
    workspaces.start(lambda text: [*map(ord, text)])
    thread = threading.Thread(
        target=serve,
        args=(config, load or (lambda _progress: fake), place),
        kwargs={"workspaces": workspaces, "tcp": tcp},
    )
    thread.start()
    eventually(lambda: _answers(place))
    engine = RunningEngine(place, thread, place.tcp_endpoint() if tcp else None, workspaces)
    try:
        yield engine
    finally:
        with suppress(EngineUnavailable):  # It may have ended already.
            ask_to_drain(place.endpoint())
        thread.join(DEADLINE_S)
        engine.http.close()
        assert not thread.is_alive()


def _answers(place: RuntimeDir) -> bool:
    try:
        fetch_health(place.endpoint())
    except EngineUnavailable:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(load=load_fake))
