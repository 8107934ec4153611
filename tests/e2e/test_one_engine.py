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
WEIGHTS_MB = 16
"""Of the bundled pair, in fp32."""


def memory_mb(process_id: int, kind: str = "VmRSS") -> float:
    status = Path(f"/proc/{process_id}/status").read_text()
    kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith(f"{kind}:"))
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
            assert memory_mb(client.process.pid) < LANGUAGE_SERVER_MB
    finally:
        exit_codes = [client.close() for client in clients]
    assert exit_codes == [0, 0]


def test_an_engine_frees_the_memory_of_its_models_and_keeps_to_its_threads(desk: Desk) -> None:
    configuration = Path(desk.environment["XDG_CONFIG_HOME"], "umbrella-lsp", "engine.toml")
    configuration.parent.mkdir(parents=True)
    configuration.write_text("threads = 1\n")
    path = desk.folder / "account.py"
    path.write_text(SOURCE)
    before = desk.run("umbrella-complete", f"{path}:{LINE + 1}")
    [engine] = desk.engines()
    loaded_mb = memory_mb(engine, "RssAnon")
    # The main one, the worker's, the workspaces', and one that the tokenizer starts however few it may use.
    assert len(list(Path(f"/proc/{engine}/task").iterdir())) <= 4

    assert desk.run("umbrella-engine", "unload").returncode == 0

    assert loaded_mb - memory_mb(engine, "RssAnon") > WEIGHTS_MB
    assert json.loads(desk.run("umbrella-engine", "status", "--json").stdout)["state"] == "unloaded"
    assert desk.run("umbrella-complete", f"{path}:{LINE + 1}").stdout == before.stdout != ""
    assert desk.engines() == [engine]


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
