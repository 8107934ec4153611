"""What an editor is told of the engine's state, and when. Pure; knows no editors, engines or clocks.

States follow one another as events come in. Two things are kept down: the same status twice, and a sentence
for each of several failures that are one and the same to the user.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from engine.protocol import HealthState

Kind = Literal["starting", "loading", "ready", "unloaded", "off", "error"]
"""starting: an engine is looked for, or started.
loading: it reads its models.
ready: it answers.
unloaded: its memory is free, by itself or because the user wanted it; the next request loads the models.
off: the user wants no suggestions.
error: no engine can be had.
"""

STARTING = "The engine is looked for or started."
LOADING = "The model is loading. Suggestions come as soon as it has."
UNLOADED = "No model is loaded, and its memory is free. The next request loads it."
OFF = "Suggestions are turned off in the settings."


@dataclass(frozen=True, slots=True)
class Status:
    """What a status bar can show."""

    kind: Kind = "starting"
    message: str = STARTING
    """A sentence, or '' where there is nothing to say."""
    busy: bool = False
    """A text is being made, and has been for long enough to be worth showing."""
    progress: float | None = None
    """From 0 to 1 while models load."""
    model: str = ""
    """Target and draft by name, once they are known."""
    languages: tuple[str, ...] = ()
    """Identifiers of those in which suggestions can be had; none means any."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The user's settings are known."""

    enabled: bool
    languages: tuple[str, ...] = ()
    is_elsewhere: bool = False
    """Another engine is wanted than before."""


@dataclass(frozen=True, slots=True)
class Sought:
    """An engine is looked for, or started."""


@dataclass(frozen=True, slots=True)
class Missing:
    """No engine can be had."""

    message: str


@dataclass(frozen=True, slots=True)
class Noticed:
    """An engine was found, and there is something to say about that."""

    message: str


@dataclass(frozen=True, slots=True)
class Seen:
    """What an engine says of itself."""

    state: HealthState
    progress: float = 0.0
    message: str = ""
    model: str = ""
    languages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ended:
    """The engine is not there any more."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A text has come to its end, so all is well."""


@dataclass(frozen=True, slots=True)
class Working:
    """Whether a text has been in the making for long enough to be worth showing."""

    busy: bool


Event = Chosen | Sought | Missing | Noticed | Seen | Ended | Answered | Working


@dataclass(frozen=True, slots=True)
class News:
    """What an event comes to for the user."""

    status: Status | None = None
    """To be sent; None if the last one still holds."""
    error: str = ""
    """To be shown as an error, or ''."""
    notice: str = ""
    """To be shown as a warning, or ''."""


class StatusBoard:
    """What is known of the engine, and what of it the user knows already."""

    def __init__(self) -> None:
        self._enabled = True
        self._engine = Status()
        """As it would be shown if suggestions were on."""
        self._busy = False
        self._sent: Status | None = None
        self._has_complained = False
        """An error was shown, and no engine has become ready since."""
        self._last_notice = ""
        """As it was shown; '' once a text has come to its end since."""

    @property
    def status(self) -> Status:
        """What is the case."""
        if not self._enabled:
            return replace(self._engine, kind="off", message=OFF, progress=None)
        return replace(self._engine, busy=self._busy and self._engine.kind == "ready")

    def take(self, event: Event) -> News:
        """Take in what has happened: what is to be sent and shown of it."""
        self._engine = _after(self._engine, event)
        notice = ""
        match event:
            case Chosen():
                self._enabled = event.enabled
                self._has_complained &= not event.is_elsewhere
            case Working():
                self._busy = event.busy
            case Answered():
                self._last_notice = ""
            case Noticed() if self._enabled and event.message != self._last_notice:
                notice = self._last_notice = event.message
            case _:
                pass
        if self._engine.kind == "ready":
            self._has_complained = False
        return News(self._to_send(), self._to_show(), notice)

    def _to_send(self) -> Status | None:
        status = self.status
        if status == self._sent:
            return None
        self._sent = status
        return status

    def _to_show(self) -> str:
        status = self.status
        if status.kind != "error" or self._has_complained:
            return ""
        self._has_complained = True
        return status.message


def _after(engine: Status, event: Event) -> Status:
    """What is known of the engine after `event`.

    An error stays until an engine is heard of again, or another one is wanted: that it is looked for once
    more, at each of many keys, is no news.
    """
    match event:
        case Chosen(is_elsewhere=True):
            return Status(languages=event.languages)
        case Chosen():
            return replace(engine, languages=event.languages)
        case Sought() | Ended() if engine.kind == "error":
            return engine
        case Sought():
            return replace(engine, kind="starting", message=STARTING, progress=None)
        case Ended():
            return replace(engine, kind="unloaded", message=UNLOADED, progress=None)
        case Missing():
            return replace(engine, kind="error", message=event.message, progress=None)
        case Seen():
            return _seen(event)
        case _:
            return engine


def _seen(event: Seen) -> Status:
    match event.state:
        case "ready":
            status = Status("ready", "")
        case "failed":
            status = Status("error", event.message)
        case "unloaded" | "draining":
            status = Status("unloaded", UNLOADED)
        case _:
            share = round(min(max(event.progress, 0.0), 1.0), 2)
            message = f"{event.message}." if event.message else LOADING
            status = Status("loading", message, progress=share)
    return replace(status, model=event.model, languages=event.languages)
