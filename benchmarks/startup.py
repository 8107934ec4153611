"""How long until something appears: cold and second command, the server's first answer, its memory.

``python -m benchmarks.startup`` runs the installed commands as a user would, with an engine of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.progress import track

from benchmarks.report import print_report, spread

COMMANDS = Path(sys.executable).parent
CODE = """class Account:
    def __init__(self, owner, balance):
        self.owner = owner
        self.balance = \
"""


def timed(*command: str | Path, environment: dict[str, str]) -> float:
    """Seconds that `command` takes; raises CalledProcessError if it fails."""
    began = time.perf_counter()
    subprocess.run([COMMANDS / command[0], *command[1:]], env=environment, check=True, capture_output=True)
    return time.perf_counter() - began


def megabytes_of(process: int) -> float:
    """What a process and its children take up, pages that they share with others in part."""
    rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
    kilobytes = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return kilobytes / 1024 + sum(megabytes_of(int(child)) for child in children)


def first_answer(environment: dict[str, str], folder: Path) -> tuple[float, float]:
    """Seconds until `umbrella-lsp` answers ``initialize``, and its megabytes with a document open."""
    parameters: dict[str, object] = {"processId": None, "rootUri": folder.as_uri(), "capabilities": {}}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": parameters}).encode()
    began = time.perf_counter()
    server = subprocess.Popen(
        [COMMANDS / "umbrella-lsp", "--stdio"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
    server.stdin.flush()
    header = server.stdout.readline()
    seconds = time.perf_counter() - began
    while header.strip():
        header = server.stdout.readline()
    file = folder / "account.py"
    document = {"uri": file.as_uri(), "languageId": "python", "version": 1, "text": CODE}
    notices: dict[str, object] = {"initialized": {}, "textDocument/didOpen": {"textDocument": document}}
    for method, params in notices.items():
        body = json.dumps({"jsonrpc": "2.0", "method": method, "params": params}).encode()
        server.stdin.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
    server.stdin.flush()
    time.sleep(4.0)  # until it has imported what it defers, and its children have started
    megabytes = megabytes_of(server.pid)
    server.stdin.close()
    server.wait(timeout=30)
    return seconds, megabytes


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    cold: list[float] = []
    second: list[float] = []
    answers: list[float] = []
    megabytes: list[float] = []
    with tempfile.TemporaryDirectory(prefix="umb-") as name:
        folder = Path(name)
        (folder / "account.py").write_text(CODE)
        environment = os.environ | {"UMBRELLA_RUNTIME_DIR": str(folder / "run")}
        complete = ("umbrella-complete", folder / "account.py:4")
        for _ in track(range(runs), "starting up"):
            cold.append(timed(*complete, environment=environment))
            second.append(timed(*complete, environment=environment))
            seconds, size = first_answer(environment, folder)
            answers.append(seconds)
            megabytes.append(size)
            timed("umbrella-engine", "stop", environment=environment)
    print_report(
        "startup",
        {
            "cold_command_s": spread(cold, 2),
            "second_command_s": spread(second, 2),
            "initialize_s": spread(answers, 2),
            "server_mb": spread(megabytes),
        },
    )


if __name__ == "__main__":
    main()
