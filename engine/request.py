"""What a generation is asked for, whichever HTTP dialect asked. Torch-free; knows nothing of HTTP."""

from __future__ import annotations

from dataclasses import dataclass

from engine.protocol import Priority, Segment, StopSpec, Tier


@dataclass(frozen=True, slots=True)
class CodePrompt:
    """Segments around a cursor, for the engine's template to render and to fit to the context."""

    segments: tuple[Segment, ...]
    path: str = ""
    language: str = ""


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """Text as it is: a begin token and no template."""

    text: str


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """Token ids as they are."""

    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A chat, for the model's chat template to render: the answer is the assistant's next turn."""

    messages: tuple[Message, ...]
    """At least one."""
    is_open: bool = False
    """Whether the last message is the assistant's and goes on, instead of being followed by a new one."""


Prompt = CodePrompt | TextPrompt | TokenPrompt | ChatPrompt


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One generation, complete: every default is filled in, every range is checked."""

    prompt: Prompt
    max_tokens: int
    """At least 1."""
    stop: StopSpec
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    seed: int
    presence_penalty: float = 0.0
    """OpenAI's: taken from the logit of every token that the answer holds already, however often."""
    frequency_penalty: float = 0.0
    """OpenAI's: taken from it once for each time that the answer holds it."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Ids, each once, and what is added to their logits; -inf rules a token out."""
    deadline_ms: float | None = None
    """From the first token on; acts once a line is complete, as llama-server's `t_max_predict_ms` does."""
    session: str = ""
    workspace: str = ""
    priority: Priority = "typing"
    tier: Tier = "target"
    alternatives: int = 1
    """Texts wanted at most, the main one included."""
    speculative: bool = True
    top_logprobs: int = 0
    """At each position, how many of the target's most probable tokens to report; see `Chunk.tops`."""
    ignore_end: bool = False
    """Whether end tokens are ruled out."""
    adapter: str = ""
    """The name of the adapter to run the target with; '' for the target as it is."""
    client: str = ""
    """Who asks. Of jobs that are equally urgent, each client has its share, however many jobs it sends."""
