"""A conversation: its turns, which of them the model is told, and how it is written down. Pure."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

from engine.chat.figures import Figures


@dataclass(frozen=True, slots=True)
class Wishes:
    """How answers are to be made. None leaves a choice to the engine's configuration."""

    model: str | None = None
    """An adapter, by its name."""
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None

    def options(self) -> dict[str, object]:
        """The fields of a request's body."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class Turn:
    """What was asked, and what was answered to it."""

    question: str
    answer: str
    figures: Figures
    is_whole: bool = True
    """False where somebody stopped it."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns in order. The model is told those from `told_from` on, behind the system message."""

    system: str = ""
    turns: tuple[Turn, ...] = ()
    told_from: int = 0
    session: str = field(default_factory=lambda: f"chat-{secrets.token_hex(8)}")
    """Keeps the conversation's keys and values in the engine from one turn to the next."""

    def messages(self, question: str) -> list[dict[str, str]]:
        """What the model is told, to have `question` answered."""
        told = [{"role": "system", "content": self.system}] if self.system else []
        for turn in self.turns[self.told_from :]:
            told.append({"role": "user", "content": turn.question})
            told.append({"role": "assistant", "content": turn.answer})
        return [*told, {"role": "user", "content": question}]

    @property
    def umbrella(self) -> dict[str, object]:
        """Our own part of each request."""
        return {"session": self.session, "priority": "chat"}

    @property
    def told(self) -> int:
        """How many turns the model is told."""
        return len(self.turns) - self.told_from

    def after(self, turn: Turn, max_turns: int | None = None) -> Conversation:
        """With one more turn, and at most `max_turns` told; see `shortened`."""
        longer = replace(self, turns=(*self.turns, turn))
        return longer.shortened() if max_turns is not None and longer.told > max_turns else longer

    def shortened(self) -> Conversation:
        """The older half of what is told is told no more, but for the newest turn.

        A half and not one turn: what follows a turn that goes has to be evaluated anew.
        """
        return replace(self, told_from=self.told_from + max(1, self.told // 2) if self.told else 0)

    def cleared(self) -> Conversation:
        """From the beginning, with the same system message."""
        return Conversation(self.system)

    def markdown(self) -> str:
        """To be read."""
        parts = [f"**System**\n\n{self.system}"] if self.system else []
        for turn in self.turns:
            stopped = "" if turn.is_whole else "\n\n*(stopped)*"
            parts.append(f"**User**\n\n{turn.question}")
            parts.append(f"**Assistant**\n\n{turn.answer}{stopped}")
        return "\n\n".join(parts) + "\n"

    def json(self) -> str:
        """To be read by programs: OpenAI's messages, and the figures of each answer."""
        told = replace(self, told_from=0).messages("")[:-1]
        figures = [asdict(turn.figures) for turn in self.turns]
        return json.dumps({"messages": told, "figures": figures}, indent=2, ensure_ascii=False) + "\n"


def total(turns: Sequence[Turn]) -> Figures:
    """The figures of several turns as one's."""
    return Figures.together([turn.figures for turn in turns])
