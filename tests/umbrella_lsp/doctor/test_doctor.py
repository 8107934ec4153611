"""The command, with surroundings that are healthy, broken, or not there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.config import EngineConfig
from engine.runtime import LOCK, LOG, RuntimeDir
from tests.engine.fakes import running_engine
from umbrella_lsp.cli import main
from umbrella_lsp.doctor.machine import look_for_gpus
from umbrella_lsp.doctor.report import Gpu
from umbrella_lsp.doctor.trying import try_models

KEYS = {
    *("healthy", "actions", "versions", "machine", "gpus", "configuration", "engine", "editors", "files"),
    *("last_errors", "failed", "selftest", "elsewhere"),
}


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that alone is on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime folder of this test's own, which is not there yet."""
    with tempfile.TemporaryDirectory(prefix="umb-") as folder:
        path = Path(folder) / "run"
        monkeypatch.setenv("UMBRELLA_RUNTIME_DIR", str(path))
        yield path


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that UMBRELLA_CONFIG names."""
    path = tmp_path / "engine.toml"
    path.write_text("slots = 2\n")
    monkeypatch.setenv("UMBRELLA_CONFIG", str(path))
    return path


def put(folder: Path, name: str, says: str) -> None:
    program = folder / name
    program.write_text(f"#!/bin/sh\n{says}\n")
    program.chmod(0o755)


def doctor(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, dict]:
    code = main(["--doctor", "--json", *options])
    return code, json.loads(capsys.readouterr().out)


def test_a_report_holds_all_that_a_bug_report_needs(
    tools: Path, runtime: Path, config: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    put(tools, "nvidia-smi", "echo 'NVIDIA H200, 143771, 143000, 570.86'")
    put(tools, "nvim", "echo NVIM v0.12.1-dev")
    (tmp_path / "share" / "bin").mkdir(parents=True)
    put(tmp_path / "share" / "bin", "code", "exit 1")
    (tmp_path / "share" / "resources" / "app").mkdir(parents=True)
    (tmp_path / "share" / "resources" / "app" / "package.json").write_text('{"version": "1.139.0"}')
    (tools / "code").symlink_to(tmp_path / "share" / "bin" / "code")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SOME_TOKEN", "a-token-of-others")
    code, report = doctor(capsys)
    assert set(report) == KEYS
    assert report["versions"]["packages"]["pygls"]
    assert report["versions"]["environment"]["UMBRELLA_CONFIG"] == "~/engine.toml"
    assert report["gpus"] == {
        "found": [
            {"name": "NVIDIA H200", "memory_mib": 143771, "free_memory_mib": 143000, "driver": "570.86"}
        ],
        "problem": "",
    }
    found = [(e["command"], e["version"], e["draws_inline_completion"]) for e in report["editors"]]
    assert found == [("nvim", "0.12.1-dev", True), ("code", "1.139.0", None)]
    assert report["configuration"]["file"] == "~/engine.toml"
    assert report["configuration"]["changed"] == {"slots": 2}
    assert report["configuration"]["needed_bytes"] > 1 << 20
    assert report["engine"]["state"] == "not running"
    assert not runtime.exists(), "looking is not starting"
    assert report["failed"] == {}
    said = json.dumps(report)
    assert "a-token-of-others" not in said
    assert str(tmp_path) not in said
    assert code == (0 if report["healthy"] else 1)


def test_a_running_engine_is_described_and_another_configuration_is_told(
    tools: Path, runtime: Path, config: Path, capsys
) -> None:
    with running_engine(runtime, config=EngineConfig(model="fake")) as engine:
        assert main(["--doctor"]) == 1
        text = capsys.readouterr().out
        assert "ready" in text
        assert f"process                 {os.getpid()}" in text
        assert "started with another configuration" in text
        code, report = doctor(capsys)
        assert engine.http.get("/health").json()["state"] == "ready"
    assert code == 1
    assert report["engine"]["socket"]["mode"] == "0600"
    assert report["engine"]["package"] == report["versions"]["umbrella"]


def test_an_engine_elsewhere_is_asked_with_its_token_which_is_not_told(
    tools: Path, runtime: Path, tmp_path: Path, capsys
) -> None:
    with running_engine(runtime, config=EngineConfig(model="fake"), with_tcp=True) as engine:
        assert engine.tcp is not None
        url, token = f"http://127.0.0.1:{engine.tcp.port}", tmp_path / "token"
        token.write_text(engine.tcp.token)
        _, report = doctor(capsys, "--engine-url", url, "--token-file", str(token))
        _, denied = doctor(capsys, "--engine-url", url)
    assert report["elsewhere"]["state"] == "ready"
    assert not any(url in action for action in report["actions"])
    assert engine.tcp.token not in json.dumps(report)
    assert denied["elsewhere"]["state"] == "not answering"
    assert any("wants a token" in action for action in denied["actions"])
    _, report = doctor(capsys, "--engine-url", "http://ann:hunter2@example.org:80")
    assert "hunter2" not in json.dumps(report)
    assert main(["--doctor", "--engine-url", url]) == 1
    assert "Engine elsewhere" in capsys.readouterr().out


def test_everything_may_be_broken_at_once(tools: Path, runtime: Path, config: Path, capsys) -> None:
    put(tools, "nvidia-smi", "exit 9")
    put(tools, "nvim", "kill $$")
    put(tools, "hx", "printf '\\377\\376'")
    config.write_text("model = [unfinished")
    runtime.mkdir(mode=0o755)
    runtime.chmod(0o755)
    (runtime / LOCK).write_text(str(os.getpid()))  # Of a process that lives, but is no engine.
    (runtime / LOG).write_text("2026-03-01 10:00:00,001 ERROR engine.worker it broke\nsecret = 'hunter2'\n")
    code, report = doctor(capsys)
    assert code == 1
    assert report["configuration"]["problem"]
    assert report["engine"]["crashed"]
    assert (runtime / LOCK).read_text(), "the next client is to learn of the crash, too"
    assert [entry["message"] for entry in report["last_errors"]] == ["it broke"]
    assert "hunter2" not in json.dumps(report)
    said = "\n".join(report["actions"])
    for part in ("not valid TOML", "open to others", "ended unexpectedly", "exit 9"):
        assert part in said
    assert main(["--doctor"]) == 1
    assert "hunter2" not in capsys.readouterr().out


def test_an_engine_that_has_its_lock_and_says_nothing_is_told_apart_from_one_that_crashed(
    tools: Path, runtime: Path, capsys
) -> None:
    place = RuntimeDir.prepare(runtime)
    lock = place.try_lock()
    assert lock is not None
    place.sign_lock(lock)
    code, report = doctor(capsys)
    os.close(lock)
    assert (code, report["engine"]["state"], report["engine"]["crashed"]) == (1, "not answering", False)
    assert report["engine"]["pid"] == os.getpid()
    assert doctor(capsys)[1]["engine"]["crashed"]
    lock = place.try_lock()
    assert lock is not None
    place.clear()
    os.close(lock)
    assert not doctor(capsys)[1]["engine"]["crashed"]


def test_a_part_that_breaks_says_so_and_the_others_go_on(tools: Path, runtime: Path, capsys) -> None:
    runtime.mkdir(mode=0o700)
    (runtime / LOG).mkdir()
    code, report = doctor(capsys)
    assert (code, report["failed"], report["last_errors"]) == (1, {"last_errors": "IsADirectoryError"}, None)
    assert report["machine"]["cores"] >= 1
    assert main(["--doctor"]) == 1
    assert "could not be looked at" in capsys.readouterr().out


def test_a_tool_that_hangs_is_not_waited_for(tools: Path) -> None:
    put(tools, "nvidia-smi", "exec /bin/sleep 60")
    assert look_for_gpus(timeout_s=0.1).problem == "nvidia-smi did not answer within 0.1 s"


def test_several_gpus_are_told_apart(tools: Path) -> None:
    put(tools, "nvidia-smi", "echo 'A, rather odd, 10, 5, 1.2'; echo 'B, 20, 15, 1.2'")
    assert look_for_gpus().found == (Gpu("A, rather odd", 10, 5, "1.2"), Gpu("B", 20, 15, "1.2"))


def test_a_gpu_that_shares_the_machines_memory_has_none_of_its_own(
    tools: Path, runtime: Path, capsys
) -> None:
    put(tools, "nvidia-smi", "echo 'NVIDIA GB10, [N/A], [N/A], 580.1'")
    assert look_for_gpus().found == (Gpu("NVIDIA GB10", None, None, "580.1"),)
    main(["--doctor"])
    assert "NVIDIA GB10, no memory of its own, driver 580.1" in capsys.readouterr().out


@pytest.mark.parametrize("says", ["echo garbage", r"printf '\377, 1, x, 2\n'"])
def test_a_tool_that_says_nothing_of_sense_is_told(tools: Path, says: str) -> None:
    put(tools, "nvidia-smi", says)
    assert look_for_gpus().problem == "what nvidia-smi says makes no sense"


def test_a_configuration_of_a_user_there_is_not_is_a_problem_and_no_crash(runtime: Path, capsys) -> None:
    code, report = doctor(capsys, "--config", "~nobody-of-that-name/x")
    assert code == 1
    assert "cannot be read" in report["configuration"]["problem"]


def test_neither_torch_nor_a_server_is_loaded_to_look(runtime: Path) -> None:
    program = (
        "import sys; from umbrella_lsp.cli import main; main(['--doctor', '--json']);"
        "assert not {'torch', 'transformers', 'pygls'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


@pytest.mark.parametrize(
    "options",
    [["--json"], ["--stdio", "--selftest"], ["--stdio", "--token-file", "x"], ["--stdio", "--doctor"], []],
)
def test_options_that_make_no_sense_are_refused(options: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(options)
    assert ended.value.code == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import os; os.kill(os.getpid(), 9)", "ended by signal 9"),
        ("raise SystemExit(2)", "exit code 2"),
        ("print('no JSON')", "exit code 0"),
    ],
)
def test_a_self_test_that_comes_to_no_end_is_told(program: str, said: str) -> None:
    test = try_models(None, [sys.executable, "-c", program])
    assert test.verdict is None
    assert said in test.problem


@pytest.mark.slow
def test_the_self_test_of_the_bundled_pair_is_part_of_the_report(runtime: Path, tools: Path, capfd) -> None:
    code = main(["--doctor", "--json", "--selftest"])
    captured = capfd.readouterr()
    report = json.loads(captured.out)
    test = report["selftest"]
    assert (code, test["passed"], report["actions"]) == (0, True, [])
    assert {check["passed"] for check in test["checks"]} == {True}
    assert test["figures"]["plain_tokens_per_s"] > 0
    assert test["figures"]["tokens_per_pass"] >= 1
    assert test["figures"]["plain_pass"]["planned_ms"] > 0
    assert "with drafts, 100%" in captured.err
    assert not runtime.exists(), "no engine was started"


@pytest.mark.slow
def test_an_interrupt_ends_the_self_test_too(runtime: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "umbrella_lsp.cli", "--doctor", "--selftest"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        assert process.stderr is not None
        assert any("loading torch" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)
