"""Real processes on a fake backend: who starts an engine, and what is left when one ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from engine.cli import DONE, FAILED, NO_ENGINE, main
from engine.client import Endpoint, ask_to_drain, fetch_health
from engine.config import load
from engine.errors import ConfigError, EngineUnavailable
from engine.launch import ensure_engine, probe
from engine.runtime import RuntimeDir, runtime_dir
from tests.engine.fakes import DEADLINE_S, eventually

FAKE = (sys.executable, "-P", "-m", "tests.engine.fakes", "serve")


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[RuntimeDir]:
    """A runtime folder of the test's own, whose engine does not outlive the test."""
    folder = tmp_path_factory.mktemp("run")
    folder.chmod(0o700)
    monkeypatch.setenv("UMBRELLA_RUNTIME_DIR", str(folder))
    place = RuntimeDir.prepare()
    yield place
    holder = place.holder()
    if holder is not None:
        os.kill(holder, signal.SIGKILL)
    eventually(lambda: place.holder() is None and free(place))


def free(place: RuntimeDir) -> bool:
    lock = place.try_lock()
    if lock is None:
        return False
    os.close(lock)
    return True


def has_crashed(place: RuntimeDir) -> bool:
    lock = place.try_lock()
    assert lock is not None
    crashed = place.has_crashed(lock)
    os.close(lock)
    return crashed


def written(folder: Path, text: str) -> Path:
    path = folder / "engine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def ensure(config_path: Path | None = None) -> Endpoint:
    return ensure_engine(config_path, command=FAKE, timeout_s=DEADLINE_S)


def pid_of(endpoint: Endpoint) -> int:
    return fetch_health(endpoint).pid


RACER = """
import sys
from engine.client import fetch_health
from engine.launch import ensure_engine
command = (sys.executable, "-P", "-m", "tests.engine.fakes", "serve")
sys.stdin.readline()
print(fetch_health(ensure_engine(command=command)).pid)
"""


def test_two_clients_that_start_at_once_end_with_one_engine(place: RuntimeDir) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    pids = {racer.communicate(timeout=DEADLINE_S)[0].strip() for racer in racers}
    assert pids == {str(place.holder())}
    starts = place.log.read_text().count("serving in")
    assert starts == 1


def test_a_running_engine_is_found_and_a_killed_one_is_started_again(place: RuntimeDir) -> None:
    first = pid_of(ensure())
    assert pid_of(ensure()) == first
    os.kill(first, signal.SIGKILL)
    assert place.socket.exists(), "a killed engine leaves its socket behind"
    second = pid_of(ensure())
    assert second != first
    assert stat.S_IMODE(place.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(place.log.stat().st_mode) == 0o600


def test_a_crash_is_told_to_who_starts_the_next_engine_and_to_nobody_else(place: RuntimeDir) -> None:
    first = ensure()
    assert first.notice == ""
    os.kill(pid_of(first), signal.SIGKILL)
    eventually(lambda: free(place))
    with pytest.raises(EngineUnavailable, match="exit 7"):  # Who got none to run has told nobody.
        ensure_engine(command=(sys.executable, "-c", "raise SystemExit(7)"), timeout_s=DEADLINE_S)
    said = "The engine ended unexpectedly; it was started again."
    assert ensure().notice == said
    assert ensure().notice == ""


def test_an_engine_can_be_unloaded_and_makes_room_for_another_configuration(
    place: RuntimeDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["unload"]) == NO_ENGINE
    assert "No engine runs" in capsys.readouterr().err
    assert not place.log.exists()
    first = pid_of(ensure(written(tmp_path, 'model = "fake"')))
    assert main(["unload"]) == DONE
    assert main(["status"]) == DONE
    assert "unloaded" in capsys.readouterr().out
    assert pid_of(ensure(written(tmp_path, 'model = "fake"'))) == first
    assert pid_of(ensure(written(tmp_path, 'model = "fake"\nslots = 4'))) != first


def test_a_stale_socket_is_replaced(place: RuntimeDir) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place.socket))
    assert probe(place) is None
    assert pid_of(ensure()) == place.holder()


def test_an_engine_that_ended_leaves_its_folder_clean(place: RuntimeDir) -> None:
    endpoint = ensure()
    ask_to_drain(endpoint)
    eventually(lambda: free(place))
    assert not place.socket.exists()
    with pytest.raises(EngineUnavailable):
        fetch_health(endpoint)


def test_a_signal_ends_an_engine_as_cleanly(place: RuntimeDir) -> None:
    os.kill(pid_of(ensure()), signal.SIGTERM)
    eventually(lambda: free(place))
    assert not place.socket.exists()
    assert not has_crashed(place)


def test_another_configuration_is_told_and_the_running_one_wins(
    place: RuntimeDir, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = ensure(written(tmp_path, 'model = "fake"\nmax_turns = 3'))
    assert "max_turns" not in caplog.text, "the engine warns of it, not every request"
    assert "max_turns has no effect" in place.log.read_text("utf-8")
    assert first.notice == ""
    second = ensure(written(tmp_path, 'model = "fake"\nslots = 4'))
    assert pid_of(second) == pid_of(first)
    assert "umbrella-engine stop" in second.notice
    assert ensure().notice == "", "who names no configuration has asked for none"
    assert place.holder() == pid_of(first)


def test_an_engine_that_failed_to_load_says_why_until_its_configuration_changes(
    place: RuntimeDir, tmp_path: Path
) -> None:
    broken = written(tmp_path, 'model = "fake:broken"')
    with suppress(EngineUnavailable):  # Depends on how soon it fails.
        ensure(broken)
    eventually(lambda: (health := probe(place)) is not None and health.state == "failed")
    failed = place.holder()
    with pytest.raises(EngineUnavailable, match="is cut off"):
        ensure(broken)
    assert place.holder() == failed
    mended = ensure(written(tmp_path, 'model = "fake"'))
    assert pid_of(mended) != failed


def serve_other_version(place: RuntimeDir, ready: threading.Event, gone: threading.Event) -> None:
    """Pretend to be an engine of another version until asked to drain."""
    lock = place.try_lock()
    assert lock is not None
    health = {"state": "ready", "progress": 1, "package": "0.0.0", "protocol": 1, "config_hash": "", "pid": 1}
    with place.listen() as listener:
        listener.settimeout(DEADLINE_S)
        ready.set()
        drained = False
        while not drained:
            connection, _ = listener.accept()
            with connection:
                request = connection.recv(4096)
                drained = request.startswith(b"POST /drain")
                status = b"202 Accepted" if drained else b"200 OK"
                connection.sendall(b"HTTP/1.1 " + status + b"\r\nConnection: close\r\n\r\n")
                connection.sendall(json.dumps(health).encode())
    os.close(lock)
    gone.set()


def test_an_engine_of_another_version_is_asked_to_end_and_replaced(place: RuntimeDir) -> None:
    ready, gone = threading.Event(), threading.Event()
    other = threading.Thread(target=serve_other_version, args=(place, ready, gone))
    other.start()
    assert ready.wait(DEADLINE_S)
    assert pid_of(ensure()) == place.holder()
    assert gone.is_set()
    other.join()


def test_an_engine_that_ends_at_once_is_reported_with_its_log(place: RuntimeDir) -> None:
    with pytest.raises(EngineUnavailable, match="exit 7") as caught:
        ensure_engine(command=(sys.executable, "-c", "raise SystemExit(7)"), timeout_s=DEADLINE_S)
    assert str(place.log) in str(caught.value)


def test_an_engine_that_cannot_be_run_is_reported(place: RuntimeDir) -> None:
    with pytest.raises(EngineUnavailable, match="could not be started"):
        ensure_engine(command=(str(place.path / "missing"),), timeout_s=DEADLINE_S)
    assert free(place)


@pytest.mark.parametrize("name", ["engine.log", "engine.lock"])
def test_a_file_that_cannot_be_opened_is_named_and_the_lock_let_go(place: RuntimeDir, name: str) -> None:
    (place.path / name).unlink(missing_ok=True)
    (place.path / name).mkdir()
    with pytest.raises(EngineUnavailable, match="Remove it") as caught:
        ensure_engine(command=FAKE, timeout_s=0.1)
    assert str(place.path / name) in str(caught.value)
    (place.path / name).rmdir()
    assert free(place)


def test_a_relative_configuration_is_found_by_the_engine_that_is_started(
    place: RuntimeDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load(written(tmp_path, 'model = "fake"\nslots = 3'))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UMBRELLA_CONFIG", "engine.toml")
    endpoint = ensure()
    assert fetch_health(endpoint).config_hash == config.digest()
    assert endpoint.notice == ""
    assert place.holder() == pid_of(endpoint)


def test_a_lock_whose_holder_never_answers_is_given_up_on(place: RuntimeDir) -> None:
    lock = place.try_lock()
    assert lock is not None
    with pytest.raises(EngineUnavailable, match="No engine answered within"):
        ensure_engine(command=FAKE, timeout_s=0.1)
    os.close(lock)


def test_a_configuration_in_error_starts_nothing(place: RuntimeDir, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="slots"):
        ensure(written(tmp_path, "slots = 0"))
    assert not place.log.exists()


def test_a_users_own_engine_package_is_not_run_instead_of_ours(
    place: RuntimeDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "__init__.py").write_text("raise SystemExit('theirs')")
    monkeypatch.chdir(tmp_path)
    assert pid_of(ensure()) == place.holder()


def test_the_command_line_tells_the_state_and_ends_the_engine(place: RuntimeDir) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "engine.cli", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)

    assert run("status").returncode == 3
    assert run("stop").returncode == 3
    pid = pid_of(ensure())
    status = run("status")
    assert status.returncode == 0
    assert str(pid) in status.stdout
    assert json.loads(run("status", "--json").stdout)["pid"] == pid
    second = run("serve")
    assert second.returncode == 3
    assert "runs already" in second.stderr
    assert run("stop").returncode == 0
    assert free(place)


def test_an_engine_that_hangs_is_ended_by_a_signal(place: RuntimeDir) -> None:
    code = "import sys, time\nfrom engine.runtime import RuntimeDir\nplace = RuntimeDir.prepare()\n"
    code += "place.sign_lock(place.try_lock())\nprint('held', flush=True)\ntime.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as hung:
        assert hung.stdout is not None
        hung.stdout.readline()
        stop = [sys.executable, "-m", "engine.cli", "stop"]
        assert subprocess.run(stop, timeout=DEADLINE_S, check=False).returncode == 0
        assert hung.wait(DEADLINE_S) == -signal.SIGTERM
    assert free(place)
    assert not has_crashed(place), "who ends it knows"


def test_a_lock_that_was_taken_does_not_name_who_held_it_before(place: RuntimeDir) -> None:
    before = place.try_lock()
    assert before is not None
    place.sign_lock(before)
    assert place.holder() == os.getpid()
    os.close(before)  # As a killed engine does: nothing is cleared.
    lock = place.try_lock()
    assert lock is not None
    assert place.holder() is None
    place.sign_lock(lock)
    place.clear()
    assert place.holder() is None
    os.close(lock)


def test_stop_waits_for_an_engine_that_starts_to_sign_and_signals_no_other(
    place: RuntimeDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.cli.STOP_TIMEOUT_S", 0.2)
    signalled: list[int] = []

    def kill(pid: int, _signal: int) -> None:
        signalled.append(pid)
        raise ProcessLookupError

    monkeypatch.setattr(os, "kill", kill)
    lock = place.try_lock()
    assert lock is not None
    assert main(["stop"]) == FAILED
    assert signalled == []
    place.sign_lock(lock)
    assert main(["stop"]) == FAILED
    assert signalled == [os.getpid()]
    os.close(lock)
    assert main(["stop"]) == NO_ENGINE


# The runtime folder.


def test_the_runtime_folder_is_the_named_one_else_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    monkeypatch.setenv("UMBRELLA_RUNTIME_DIR", "/elsewhere")
    assert runtime_dir() == Path("/elsewhere")
    monkeypatch.delenv("UMBRELLA_RUNTIME_DIR")
    assert runtime_dir() == Path("/run/user/7/umbrella-lsp")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert runtime_dir().name == f"umbrella-lsp-{os.getuid()}"


def test_a_new_runtime_folder_is_its_users_alone(tmp_path: Path) -> None:
    place = RuntimeDir.prepare(tmp_path / "deep" / "run")
    assert stat.S_IMODE(place.path.stat().st_mode) == 0o700


def test_a_folder_of_ours_that_stands_open_is_closed_and_anybody_elses_is_refused(tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    ours.mkdir()
    ours.chmod(0o755)
    (ours / "engine.log").touch()
    RuntimeDir.prepare(ours)
    assert stat.S_IMODE(ours.stat().st_mode) == 0o700
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o755)
    (shared / "thesis.tex").touch()
    with pytest.raises(EngineUnavailable, match="open to other users"):
        RuntimeDir.prepare(shared)
    assert stat.S_IMODE(shared.stat().st_mode) == 0o755


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(EngineUnavailable, match="belongs to another user"):
        RuntimeDir.prepare(tmp_path)


def test_no_permission_on_the_folder_is_one_clear_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path, *_arguments: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", denied)
        with pytest.raises(EngineUnavailable, match=r"Permission denied\. Set UMBRELLA_RUNTIME_DIR"):
            RuntimeDir.prepare(tmp_path / "run")
    tmp_path.chmod(0o700)
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    with pytest.raises(EngineUnavailable, match="cannot be written to"):
        RuntimeDir.prepare(tmp_path)


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(EngineUnavailable, match="File exists"):
        RuntimeDir.prepare(tmp_path / "file")
    with pytest.raises(EngineUnavailable, match="is not a folder"):
        RuntimeDir.prepare(tmp_path / "link")
    with pytest.raises(EngineUnavailable, match="Not a directory"):
        RuntimeDir.prepare(tmp_path / "file" / "run")


def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="shorter one"):
        RuntimeDir.prepare(tmp_path / ("x" * 100))


def test_a_log_that_has_grown_large_starts_anew(place: RuntimeDir) -> None:
    place.log.write_text("x" * 100)
    os.close(place.open_log(max_size_bytes=1000))
    assert place.log.stat().st_size == 100
    os.close(place.open_log(max_size_bytes=10))
    assert place.log.stat().st_size == 0
