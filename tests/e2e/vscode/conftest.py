"""A real VS Code with the packaged extension, and one user at it."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import wiretap
from tests.e2e.conftest import COMMANDS, FAILED, REPOSITORY, desk_in
from tests.e2e.vscode.workbench import BOOT_PATIENCE_S, READY, Rig, Workbench, running
from tests.e2e.wire import Wire

EXTENSION = REPOSITORY / "editors/vscode"
PACKAGE = EXTENSION / "umbrella-lsp.vsix"
KEPT = REPOSITORY / ".cache/e2e"


@pytest.fixture(scope="package")
def rig() -> Rig:
    """What install_vscode.sh has made."""
    rig = Rig.at(REPOSITORY / ".cache/vscode")
    sources = [EXTENSION / "package.json", *(EXTENSION / "src").iterdir()]
    made = PACKAGE.stat().st_mtime if PACKAGE.exists() else 0.0
    if rig is not None and all(source.stat().st_mtime <= made for source in sources):
        return rig
    missing = "no VS Code here" if rig is None else "the packaged extension is older than its sources"
    reason = f"{missing}; run tests/e2e/install_vscode.sh"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="package")
def window(rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workbench]:
    """One boot for all tests. The server is only to be found where the selected interpreter is."""
    home = tmp_path_factory.mktemp("vscode")
    with desk_in(home) as desk:
        wire = Wire(home / "wire.jsonl")
        server = shlex.join([sys.executable, wiretap.__file__, str(wire.log), str(COMMANDS / "umbrella-lsp")])
        program = home / "env/bin/umbrella-lsp"
        program.parent.mkdir(parents=True)
        program.write_text(f'#!/bin/sh\nexec {server} "$@"\n')
        program.chmod(0o755)
        # VS Code asks a login shell for PATH; nobody has installed a server there.
        (home / ".profile").write_text("PATH=/usr/bin:/bin\n")
        _leave_a_trap(desk.folder, home / "chosen-by-workspace")
        python = home / "python.vsix"
        with zipfile.ZipFile(python, "w") as archive:
            for file in (Path(__file__).parent / "python_extension").iterdir():
                archive.write(file, f"extension/{file.name}")
        with running(rig, desk, [PACKAGE, python], wire) as window:
            try:
                window.sees_status(READY, BOOT_PATIENCE_S)
                window.warm_up()
            except Exception:
                window.keep(KEPT / "vscode-start")
                raise
            yield window


def _leave_a_trap(workspace: Path, sign: Path) -> None:
    """Settings of a workspace that somebody else has made: a harmless one, and a program of theirs.

    The harmless one keeps other tests' files, which are gone a little later, out of what is suggested.
    """
    program = workspace / ".vscode/umbrella-lsp"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {shlex.quote(str(sign))}\n")
    program.chmod(0o755)
    settings = {"umbrella.workspace": False, "umbrella.server.path": str(program)}
    (program.parent / "settings.json").write_text(json.dumps(settings))


@pytest.fixture
def bench(window: Workbench, request: pytest.FixtureRequest) -> Iterator[Workbench]:
    """The window with nothing open and nothing said; a failure leaves what was seen in .cache/e2e."""
    window.wire.mark()
    yield window
    if request.node.stash.get(FAILED, False):
        window.keep(KEPT / re.sub(r"[^\w.-]+", "-", f"vscode {request.node.name}"))
    window.sockets |= window.desk.sockets()
    window.clear_messages()
    window.close_editors()
