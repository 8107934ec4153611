"""A language client as small as can be: it speaks to one server over its pipes, one message at a time."""

from __future__ import annotations

import json
import subprocess
import threading
from pathlib import Path
from typing import Any

PATIENCE_S = 120.0


class LanguageClient:
    """Owns a server process; a server that stays silent too long is killed, which ends every wait."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self._in = process.stdin
        self._out = process.stdout
        self._last_id = 0
        self._watchdog = threading.Timer(PATIENCE_S, process.kill)
        self._watchdog.start()

    def initialize(self, root: Path) -> Any:
        request = self.send("initialize", {"processId": None, "rootUri": root.as_uri(), "capabilities": {}})
        result = self.answer(request)
        self.notify("initialized", {})
        return result

    def open(self, path: Path) -> None:
        document = {"uri": path.as_uri(), "languageId": "python", "version": 1, "text": path.read_text()}
        self.notify("textDocument/didOpen", {"textDocument": document})

    def ask_for_completion(self, path: Path, line: int, character: int) -> int:
        """Send an inline completion request; the id to wait for."""
        return self.send(
            "textDocument/inlineCompletion",
            {
                "textDocument": {"uri": path.as_uri()},
                "position": {"line": line, "character": character},
                "context": {"triggerKind": 1},
            },
        )

    def send(self, method: str, params: Any) -> int:
        self._last_id += 1
        self._write({"id": self._last_id, "method": method, "params": params})
        return self._last_id

    def notify(self, method: str, params: Any) -> None:
        self._write({"method": method, "params": params})

    def answer(self, request: int) -> Any:
        """The result of `request`. What the server asks or tells meanwhile is acknowledged and dropped."""
        while True:
            message = self._read()
            if "method" in message:
                if "id" in message:
                    self._write({"id": message["id"], "result": None})
            elif message["id"] == request:
                assert "error" not in message, message["error"]
                return message["result"]

    def close(self) -> int:
        """Shut the server down; its exit code."""
        try:
            if self.process.poll() is None:
                self.answer(self.send("shutdown", None))
                self.notify("exit", None)
            self.process.communicate()
        finally:
            self._watchdog.cancel()
        return self.process.returncode

    def _write(self, message: dict[str, Any]) -> None:
        body = json.dumps({"jsonrpc": "2.0"} | message).encode()
        self._in.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self._in.flush()

    def _read(self) -> Any:
        length = 0
        while (header := self._out.readline()) != b"\r\n":
            assert header, f"the server ended: {self.process.stderr and self.process.stderr.read().decode()}"
            name, _, value = header.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return json.loads(self._out.read(length))
