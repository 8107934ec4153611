"""A tiny random pair behind a real worker, and requests for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from engine.config import EngineConfig
from engine.generation import EngineBackend
from engine.protocol import Segment, StopSpec
from engine.request import CodePrompt, GenerationRequest
from engine.worker import Worker
from tests.engine.fakes import Receiver
from tests.engine.tiny import write_llama
from tests.engine.tiny_tokenizer import write_tokenizer


def tiny_model(folder: Path, seed: int) -> str:
    tokenizer = write_tokenizer(folder)
    write_llama(folder, seed=seed, scale=3.0, vocab_size=tokenizer.vocab_size, eos_token_id=None)
    return str(folder)


def tiny_pair(folder: Path) -> EngineConfig:
    """Write two models that never end a text, and name them."""
    target, draft = tiny_model(folder / "target", 0), tiny_model(folder / "draft", 1)
    return EngineConfig(model=target, draft_model=draft, depth=2)


def request(text: str, seed: int = 1, max_tokens: int = 12) -> GenerationRequest:
    return GenerationRequest(
        prompt=CodePrompt((Segment("prefix", text),)),
        max_tokens=max_tokens,
        stop=StopSpec(),
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        min_p=0.0,
        repetition_penalty=1.1,
        presence_penalty=0.3,
        frequency_penalty=0.2,
        seed=seed,
        priority="prefetch",
    )


class Lent:
    """The backend, for a worker that it outlives."""

    def __init__(self, backend: EngineBackend, slots: int = 2) -> None:
        self._backend = backend
        self.slots = slots
        self.encode, self.text, self.new_slot = backend.encode, backend.text, backend.new_slot
        self.max_length, self.speed, self.notice = backend.max_length, backend.speed, backend.notice
        self.vocabulary, self.generate = backend.vocabulary, backend.generate
        self.load_adapter, self.drop_adapter = backend.load_adapter, backend.drop_adapter

    def close(self) -> None:
        pass


class Disturbed(Lent):
    """The backend, with something happening before one of the layers of its first generation."""

    def __init__(
        self, backend: EngineBackend, at_layer: int, act: Callable[[], None], slots: int = 2
    ) -> None:
        super().__init__(backend, slots)
        self._left = at_layer
        self._act = act
        self.generate = self._disturbed

    def _disturbed(self, request, tokens, slot, text, max_tokens, before_layer):
        def counted(layer: int) -> None:
            self._left -= 1
            if self._left == 0:
                self._act()
            before_layer(layer)

        return self._backend.generate(request, tokens, slot, text, max_tokens, counted)


def run(worker: Worker, wanted: GenerationRequest) -> Receiver:
    receiver = Receiver()
    worker.submit(wanted, receiver)
    return receiver.wait()
