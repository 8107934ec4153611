"""Prompt templates: how segments become one prompt, as text. Knows nothing of tokens or budgets.

A prompt is a list of pieces. A `Special` names one special token; a `Text` is encoded without ever
becoming one, so a file that contains ``<|eot_id|>`` stays data. Order is stable first, cursor last:
keystrokes only append, and everything before them stays in the KV cache.

`PROMPT_FORMAT` changes whenever a rendered prompt changes, because the bundled pair is trained on
exactly this rendering.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engine.protocol import Segment

PROMPT_FORMAT = "llama3-code/1"


@dataclass(frozen=True, slots=True)
class Special:
    """One special token, by its text."""

    token: str


@dataclass(frozen=True, slots=True)
class Text:
    """Text that is never parsed for special tokens.

    `segment` is the index of the `CodePrompt` part it came from, or None for the template's own words.
    """

    text: str
    segment: Segment | None = None


Piece = Special | Text


@dataclass(frozen=True, slots=True)
class CodePrompt:
    """What a code template renders: the cursor's file, what lies around, what stands on both sides."""

    prefix: Segment
    suffix: Segment | None = None
    context: tuple[Segment, ...] = ()
    path: str = ""
    language: str = ""


@dataclass(frozen=True, slots=True)
class CodeTemplate:
    """A named rendering, with the tokens after which the model has said all it wants to say."""

    name: str
    render: Callable[[CodePrompt], list[Piece]]
    end_tokens: tuple[str, ...]


def _turn(role: str) -> list[Piece]:
    return [Special("<|start_header_id|>"), Text(role), Special("<|end_header_id|>"), Text("\n\n")]


def _llama3_code(prompt: CodePrompt) -> list[Piece]:
    """UMbreLLa's ``llama3-code``: the answer is a call of the Python tool, begun with the user's own code.

    Llama 3's prompt format has the header roles and ``<|python_tag|>`` (Meta, "Llama 3.1 model card
    and prompt formats"). The assistant's turn opens with the code before the cursor, whatever the
    language, so the model continues code where it might otherwise have talked about it.
    """
    language = f"{prompt.language} " if prompt.language else ""
    name = prompt.path or "at hand"
    pieces: list[Piece] = [Special("<|begin_of_text|>"), *_turn("system")]
    pieces += [Text("Environment: ipython"), Special("<|eot_id|>"), *_turn("user")]
    pieces += [Text(f"Continue the {language}file {name}. Reply with code only.\n")]
    for segment in prompt.context:
        pieces += [Text(f"\nFrom {segment.path}:\n"), Text(segment.text, segment), Text("\n")]
    if prompt.suffix is not None and prompt.suffix.text:
        pieces += [Text("\nAfter the cursor:\n"), Text(prompt.suffix.text, prompt.suffix)]
    pieces += [Special("<|eot_id|>"), *_turn("assistant"), Special("<|python_tag|>")]
    pieces += [Text(prompt.prefix.text, prompt.prefix)]
    return pieces


TEMPLATES: dict[str, CodeTemplate] = {
    "llama3-code": CodeTemplate("llama3-code", _llama3_code, ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>")),
}
