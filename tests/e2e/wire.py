"""What an editor and the server have said to each other, as `wiretap.py` logged it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e import wiretap

ASK = "textDocument/inlineCompletion"


@dataclass(frozen=True, slots=True)
class Request:
    """One request on the wire; `answer` is None while there is none."""

    id: int
    params: Any
    answer: dict[str, Any] | None

    @property
    def items(self) -> list[dict[str, Any]]:
        """The suggestions."""
        return ((self.answer or {}).get("result") or {"items": []})["items"]

    @property
    def texts(self) -> list[str]:
        """What was suggested."""
        return [item["insertText"] for item in self.items]

    @property
    def error_code(self) -> int | None:
        """None for an answer that is no error."""
        return ((self.answer or {}).get("error") or {}).get("code")


@dataclass(slots=True)
class Wire:
    """What has been said since `mark` was last called."""

    log: Path
    _since: int = 0

    def mark(self) -> None:
        self._since += len(self.records())

    def records(self) -> list[dict[str, Any]]:
        return wiretap.read(self.log)[self._since :]

    def told(self, method: str, *, ever: bool = False) -> list[Any]:
        """The parameters of each notification or request of this name, from either side."""
        records = wiretap.read(self.log) if ever else self.records()
        found = [record["message"] for record in records]
        return [message.get("params") for message in found if message.get("method") == method]

    def configurations(self) -> list[Any]:
        """The settings that the editor has ever told the server, oldest first."""
        said = [(record["from"], record["message"]) for record in wiretap.read(self.log)]
        asked = {message["id"] for _, message in said if message.get("method") == "workspace/configuration"}
        answers = [message for sender, message in said if sender == "editor" and "result" in message]
        return [answer["result"][0] for answer in answers if answer["id"] in asked]

    def requests(self, method: str = ASK) -> list[Request]:
        """What the editor has asked."""
        messages = [(record["from"], record["message"]) for record in self.records()]
        answers = {
            message["id"]: message
            for sender, message in messages
            if sender == "server" and "method" not in message and "id" in message
        }
        return [
            Request(message["id"], message["params"], answers.get(message["id"]))
            for sender, message in messages
            if sender == "editor" and message.get("method") == method
        ]
