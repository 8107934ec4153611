"""However many clients a user runs, one engine serves them."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from tests.e2e.conftest import Desk, until
from tests.e2e.language_client import LanguageClient

SOURCE = "class Account:\n    def __init__(self, name):\n        self.name = \n"
LINE, COLUMN = 2, 20
LANGUAGE_SERVER_MB = 120


def resident_mb(process_id: int) -> float:
    status = Path(f"/proc/{process_id}/status").read_text()
    kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(kilobytes) / 1024


def test_two_language_servers_and_a_command_line_share_one_engine(desk: Desk) -> None:
    path = desk.folder / "account.py"
    path.write_text(SOURCE)
    command_line = desk.start("umbrella-complete", f"{path}:{LINE + 1}")
    clients = [LanguageClient(desk.start("umbrella-lsp", "--stdio")) for _ in range(2)]
    try:
        for client in clients:
            client.initialize(desk.folder)
            client.open(path)
        requests = [client.ask_for_completion(path, LINE, COLUMN) for client in clients]
        suggestions = [
            client.answer(request)["items"] for client, request in zip(clients, requests, strict=True)
        ]
        printed, complaint = command_line.communicate(timeout=120)

        assert command_line.returncode == 0, complaint.decode()
        assert printed.strip()
        assert all(suggestions)
        status = json.loads(desk.run("umbrella-engine", "status", "--json").stdout)
        assert desk.engines() == [status["pid"]]
        for client in clients:
            assert "torch" not in Path(f"/proc/{client.process.pid}/maps").read_text()
            assert resident_mb(client.process.pid) < LANGUAGE_SERVER_MB
    finally:
        exit_codes = [client.close() for client in clients]
    assert exit_codes == [0, 0]


def test_an_engine_that_is_killed_costs_an_editor_one_suggestion_at_most(desk: Desk) -> None:
    paths = [desk.folder / "before.py", desk.folder / "after.py"]
    client = LanguageClient(desk.start("umbrella-lsp", "--stdio"))
    try:
        client.initialize(desk.folder)
        for path in paths:
            path.write_text(SOURCE)
            client.open(path)
        before, after = paths
        assert client.answer(client.ask_for_completion(before, LINE, COLUMN))["items"]
        [killed] = desk.engines()

        os.kill(killed, signal.SIGKILL)
        until(lambda: killed not in desk.engines(), "the engine is dead")
        answers = [client.answer(client.ask_for_completion(after, LINE, COLUMN)) for _ in range(2)]

        assert answers[-1]["items"]
        assert len(desk.engines()) == 1
    finally:
        client.close()
