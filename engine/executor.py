"""What HTTP asks of whoever runs generations: this machine's models, or servers elsewhere. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from engine.backend import Speed, Vocabulary
from engine.errors import UmbrellaError
from engine.jobs import Deliver
from engine.protocol import HealthState
from engine.request import GenerationRequest


class Ticket(Protocol):
    """A generation that was submitted."""

    @property
    def name(self) -> str:
        """What the log calls it."""
        ...


class Executor(Protocol):
    """Runs generations, most urgent first. Safe from any thread."""

    @property
    def state(self) -> HealthState: ...
    @property
    def load_share(self) -> float:
        """0 to 1: how much is loaded."""
        ...

    @property
    def message(self) -> str:
        """As `engine.protocol.Health` has it."""
        ...

    @property
    def is_lost(self) -> bool:
        """Whether it has failed for good, so that only another process can go on."""
        ...

    @property
    def speed(self) -> Speed: ...
    @property
    def busy(self) -> bool: ...
    @property
    def idle_s(self) -> float:
        """Seconds since a generation was last accepted or ended; 0 while busy."""
        ...

    @property
    def vocabulary(self) -> Vocabulary | None:
        """None until the target's tokenizer has been loaded. It stays when models are given back."""
        ...

    @property
    def adapters(self) -> Mapping[str, str]:
        """The adapters that requests may choose, by name, and where each was loaded from."""
        ...

    def start(self, at_failure: Callable[[], None]) -> None:
        """Begin. `at_failure` is called, on any thread, when `state` becomes failed."""
        ...

    def submit(self, request: GenerationRequest, deliver: Deliver) -> Ticket:
        """Queue a generation; `deliver` is called on any thread. Raises EngineUnavailable if refused."""
        ...

    def submit_all(self, asked: Sequence[tuple[GenerationRequest, Deliver]]) -> Sequence[Ticket]:
        """Queue all of these generations or none, as `submit` does."""
        ...

    def cancel(self, ticket: Ticket) -> None:
        """End a generation before its next layer, or at once if it waits. Harmless when it is over."""
        ...

    def load_adapter(self, name: str, path: str, then: Callable[[UmbrellaError | None], None]) -> None:
        """Load a LoRA adapter between two generations, and call `then` with what was wrong with it."""
        ...

    def drop_adapter(self, name: str, then: Callable[[UmbrellaError | None], None]) -> None:
        """Forget an adapter once no generation uses it."""
        ...

    def unload(self, then: Callable[[], None]) -> None:
        """Give the models' memory back once nothing runs or waits, and call `then`."""
        ...

    def drain(self) -> None:
        """Finish what was accepted, accept nothing more."""
        ...

    def stop(self, timeout_s: float) -> bool:
        """Cancel everything and end. False if something is still busy after `timeout_s`."""
        ...
