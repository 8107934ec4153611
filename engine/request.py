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


Prompt = CodePrompt | TextPrompt | TokenPrompt


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
