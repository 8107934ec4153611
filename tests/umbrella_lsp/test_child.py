"""Children of the server: what they are told, what they tell, and when they end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from umbrella_lsp.child import Child, ChildGone

CHILD = """
import os, sys, time
from umbrella_lsp.parent import Parent

parent = Parent()
print("a library's own words")
while (message := parent.receive(dict)) is not None:
    if "raise" in message:
        raise ValueError(message["raise"])
    if "hang" in message:
        parent.send(os.getpid())
        while True:
            pass
    parent.send([message])
"""
SERVER = """
import asyncio, os
from umbrella_lsp.child import Child

async def main():
    child = await Child.start("a_child")
    await child.send({"hang": True})
    print(await child.receive(int), flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""

HELPLESS = """
import asyncio, subprocess
from umbrella_lsp import child

async def main():
    hanging = await child.Child.start("a_child")
    await hanging.send({"hang": True})
    await hanging.receive(int)
    # As in the middle of what a dead network mount is asked.
    subprocess.Popen.send_signal = lambda *_: None
    child.DYING_S = 0.01
    sending = asyncio.create_task(hanging.send({"long": "x" * 1_000_000}))
    receiving = asyncio.create_task(hanging.receive(int))
    await asyncio.sleep(0)
    for _ in range(2):
        await hanging.aclose(patience_s=0.01)
    await asyncio.wait([sending, receiving])
    print(type(receiving.exception()).__name__)

asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_child.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])]))


def test_messages_go_both_ways_whatever_a_library_prints() -> None:
    async def run() -> None:
        child = await Child.start("a_child")
        for message in ({"text": "é😀\n"}, {"long": "x" * 300_000}):
            await child.send(message)
            assert await child.receive(list) == [message]
        await child.aclose()

    asyncio.run(run())


def test_a_child_survives_an_interrupt_of_the_terminal() -> None:
    async def run() -> None:
        child = await Child.start("a_child")
        await child.send({})
        await child.receive(list)
        os.kill(child.pid, signal.SIGINT)
        await child.send({})
        assert await child.receive(list) == [{}]
        await child.aclose()

    asyncio.run(run())


def test_a_child_that_raises_is_gone_and_its_message_is_not_told(capfd: pytest.CaptureFixture[str]) -> None:
    async def run() -> None:
        child = await Child.start("a_child")
        await child.send({"raise": "the user's code"})
        with pytest.raises(ChildGone):
            await child.receive(list)
        await child.aclose()

    asyncio.run(run())
    told = capfd.readouterr().err
    assert "ValueError" in told
    assert "the user's code" not in told


def test_a_child_that_hangs_is_killed() -> None:
    async def run() -> int:
        child = await Child.start("a_child")
        await child.send({"hang": True})
        pid = await child.receive(int)
        await child.aclose(patience_s=0.01)
        return pid

    with pytest.raises(ProcessLookupError):
        os.kill(asyncio.run(run()), 0)


def test_a_child_that_cannot_be_killed_is_left_behind_and_nobody_waits_for_it() -> None:
    with subprocess.Popen([sys.executable, "-c", HELPLESS], stdout=-1, stderr=-1, text=True) as server:
        told, complaints = server.communicate(timeout=60)
    assert (told, complaints) == ("ChildGone\n", "a library's own words\n")


def test_what_is_no_module_is_gone_at_once() -> None:
    async def run() -> None:
        child = await Child.start("no_such_module")
        with pytest.raises(ChildGone):
            await child.receive(list)
        await child.aclose()

    asyncio.run(run())


def test_the_working_directory_is_no_place_for_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        child = await Child.start("a_child")
        await child.send({})
        assert await child.receive(list) == [{}]
        await child.aclose()

    (tmp_path / "workspace").mkdir()
    (tmp_path / "workspace" / "msgspec.py").write_text("raise SystemExit('the workspace was run')")
    monkeypatch.chdir(tmp_path / "workspace")
    asyncio.run(run())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a child that hangs outlives its server")
def test_a_child_in_the_middle_of_a_hang_ends_with_a_server_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        pid = int(server.stdout.readline())
        handle = os.pidfd_open(pid)
        server.kill()
        server.wait()
    # Readable once the process has ended.
    assert _has_ended(handle)
    os.close(handle)


def _has_ended(handle: int) -> bool:
    import select

    ready, _, _ = select.select([handle], [], [], 30)
    return bool(ready)


def test_the_child_that_knows_syntax_takes_no_event_loop_along() -> None:
    program = "import sys, umbrella_lsp.syntax.process; print('asyncio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
