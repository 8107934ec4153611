"""The tap that the editors' tests listen on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from tests.e2e import wiretap


def framed(message: object) -> bytes:
    body = json.dumps(message).encode()
    return b"Content-Length: %d\r\n\r\n%s" % (len(body), body)


def tapped(log: Path, program: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, wiretap.__file__, str(log), sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def test_both_ways_are_passed_on_byte_for_byte_and_logged(tmp_path: Path) -> None:
    log = tmp_path / "wire.jsonl"
    sent = framed({"id": 1, "text": "größer \U0001f600"}) + b"noise\r\n\r\n" + framed({"id": 2})
    echo = "import shutil, sys; shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer); sys.exit(3)"
    tap = tapped(log, echo)

    received, _ = tap.communicate(sent, timeout=20)

    assert received == sent
    assert tap.returncode == 3
    records = wiretap.read(log)
    for side in ("editor", "server"):
        messages = [record["message"] for record in records if record["from"] == side]
        assert messages == [{"id": 1, "text": "größer \U0001f600"}, {"id": 2}]
    assert [record["t"] for record in records] == sorted(record["t"] for record in records)


def test_a_signal_to_the_tap_reaches_the_server(tmp_path: Path) -> None:
    program = "import time; print('up', flush=True); time.sleep(60)"
    with tapped(tmp_path / "wire.jsonl", program) as tap:
        assert tap.stdout is not None
        assert tap.stdout.readline() == b"up\n"
        tap.send_signal(signal.SIGTERM)
        assert tap.wait(timeout=20) == 128 + signal.SIGTERM


def test_messages_are_found_however_the_bytes_are_cut() -> None:
    sent = framed({"a": 1}) + framed([]) + framed({"b": "x" * 99})
    messages = wiretap.Messages()

    found = [message for byte in sent for message in messages.feed(bytes([byte]))]

    assert found == [{"a": 1}, [], {"b": "x" * 99}]
