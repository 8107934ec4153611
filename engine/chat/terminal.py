"""A conversation at a terminal, or line by line from a pipe. Knows a client, and nothing of how it asks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import IO, Protocol

from rich.console import Console

from engine.chat.conversation import Conversation, Turn, Wishes, total
from engine.chat.figures import Meter
from engine.chat.markdown import LiveAnswer, printable
from engine.client import Client
from engine.errors import ContextExceeded, UmbrellaError

COMMANDS = {
    "/help": "show this",
    "/reset": "begin a new conversation",
    "/stats": "say what the last answer cost, and the whole conversation",
    "/save FILE": "write the conversation to FILE: as JSON if it ends in .json, else as Markdown",
    "/quit": "leave, as Ctrl-D does",
}
PROMPT = "\x01\x1b[1m\x02> \x01\x1b[0m\x02"
"""Bold; what stands between ^A and ^B is not counted as columns by readline."""


class Screen(Protocol):
    """Where questions come from and answers go."""

    @property
    def is_patient(self) -> bool:
        """Whether Ctrl-C stops an answer and not the program."""
        ...

    def read(self) -> str | None:
        """The next line that is not blank; None where there are no more."""
        ...

    def answer(self) -> AbstractContextManager[Callable[[str], None]]:
        """A context with a function that shows the pieces of one answer."""
        ...

    def say(self, message: str) -> None:
        """A message of our own."""
        ...


class RichScreen:
    """A terminal."""

    is_patient = True

    def __init__(self, console: Console) -> None:
        self._console = console

    def read(self) -> str | None:
        """A line, with readline's keys, and those before it to go back to. Ctrl-C twice is an end, too."""
        with suppress(ImportError):  # Windows has none, and a console with keys of its own.
            import_module("readline")  # `input` uses it once it is loaded.
        interrupted = False
        while True:
            try:
                line = input(PROMPT).strip()
            except EOFError:
                self._console.print()
                return None
            except KeyboardInterrupt:
                self._console.print()
                if interrupted:
                    return None
                interrupted = True
                self.say("Ctrl-C once more leaves; /help says what else there is.")
            else:
                if line:
                    return line

    @contextmanager
    def answer(self) -> Generator[Callable[[str], None]]:
        """Markdown, as it comes."""
        with _unechoed(), LiveAnswer(self._console) as live:
            yield live.add
        self._console.print()

    def say(self, message: str) -> None:
        """In grey."""
        self._console.print(printable(message), style="bright_black", markup=False, highlight=False)


@contextmanager
def _unechoed() -> Generator[None]:
    """A context in which the terminal does not draw what is typed, which would tear what is drawn meanwhile.

    Nor does Ctrl-C throw away what is on its way to the screen.
    """
    if sys.platform == "win32":
        yield
        return
    import termios

    before = termios.tcgetattr(sys.stdin)
    quiet = [*before]
    quiet[3] = quiet[3] & ~termios.ECHO | termios.NOFLSH
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


class PlainScreen:
    """No terminal: a question a line, and plain text."""

    is_patient = False

    def __init__(self, lines: IO[str], out: IO[str], errors: IO[str]) -> None:
        self._lines, self._out, self._errors = lines, out, errors

    def read(self) -> str | None:
        """The next line."""
        return next((line.strip() for line in self._lines if line.strip()), None)

    @contextmanager
    def answer(self) -> Generator[Callable[[str], None]]:
        """Text, once it is whole or has been stopped."""
        pieces: list[str] = []
        try:
            yield pieces.append
        finally:
            if text := printable("".join(pieces)).strip("\n"):
                self._out.write(f"{text}\n")
                self._out.flush()

    def say(self, message: str) -> None:
        """Beside the answers."""
        self._errors.write(f"umbrella-chat: {printable(message)}\n")
        self._errors.flush()


class Talk:
    """Asks what is typed, and does what the commands say."""

    def __init__(
        self, client: Client, screen: Screen, system: str, wishes: Wishes, max_turns: int | None
    ) -> None:
        self.conversation = Conversation(system)
        self._client, self._screen = client, screen
        self._wishes, self._max_turns = wishes, max_turns

    def run(self) -> bool:
        """Until there is nothing more to read. False where a question has gone unanswered."""
        is_answered = True
        while (line := self._screen.read()) is not None and line != "/quit":
            word, _, rest = line.partition(" ")
            if word in ("/help", "/reset", "/stats", "/save"):
                self._obey(word, rest.strip())
            elif word.startswith("/") and word == line and "/" not in word[1:]:
                self._screen.say(f"There is no command {word}; /help lists them.")
            else:
                try:
                    is_answered &= self._ask(line)
                except KeyboardInterrupt:  # After the answer's end, or while an earlier one is obeyed.
                    if not self._screen.is_patient:
                        raise
        return is_answered

    def _ask(self, question: str) -> bool:
        meter, is_whole, told = Meter(), True, self.conversation
        fields = {"umbrella": told.umbrella, **self._wishes.options()}
        events = self._client.chat(told.messages(question), stream=True, **fields)
        try:
            with self._screen.answer() as show, closing(events):
                for event in events:
                    meter.note(event)
                    show(event.text)
        except KeyboardInterrupt:
            if not self._screen.is_patient:
                raise
            is_whole = False
            self._screen.say("Stopped.")
        except UmbrellaError as error:
            if isinstance(error, ContextExceeded) and told.told:
                self.conversation = told.shortened()
                self._screen.say("It has grown too long: from now on the model is told its newer half.")
                return self._ask(question)
            self._screen.say(str(error))
            return False
        if meter.text:
            turn = Turn(question, meter.text, meter.figures(), is_whole)
            self.conversation = told.after(turn, self._max_turns)
        if meter.finish_reason == "length":
            self._screen.say("The answer was cut off for its length; --max-tokens allows more.")
        return True

    def _obey(self, word: str, argument: str) -> None:
        turns = self.conversation.turns
        if word == "/help":
            self._screen.say("\n".join(f"{name:<12}{what}" for name, what in COMMANDS.items()))
        elif word == "/reset":
            self.conversation = self.conversation.cleared()
            self._screen.say("A new conversation.")
        elif word == "/save":
            self._screen.say(self._save(argument))
        elif turns:
            self._screen.say(f"Last answer: {turns[-1].figures.line()}.")
            self._screen.say(f"Turns: {len(turns)}, {self.conversation.told} of them told to the model.")
            self._screen.say(f"All answers: {total(turns).line()}.")
        else:
            self._screen.say("Nothing has been answered yet.")

    def _save(self, name: str) -> str:
        if not name:
            return "Say where to: /save FILE."
        path = Path(name).expanduser()
        text = self.conversation.json() if path.suffix == ".json" else self.conversation.markdown()
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            return f"{path} is there already; choose another name."
        except OSError as error:
            return f"{path} cannot be written: {error.strerror or error}."
        return f"Saved to {path}."
