"""What the front end may know of the engine: messages, a client and how to start one."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import umbrella_lsp

ALLOWED = {"engine", "engine.client", "engine.errors", "engine.launch", "engine.protocol"}
HEAVY = ("httpx", "msgspec", "torch", "transformers", "tree_sitter", "watchfiles")
FOLDER = Path(umbrella_lsp.__file__).parent
EXAMINED = {
    "engine.config",
    "engine.footprint",
    "engine.memory",
    "engine.runtime",
    "engine.selftest.verdict",
}
"""What only the doctor may know, too: torch-free, of how an engine is configured and where it lies."""


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_the_front_end_imports_only_the_engines_torch_free_modules() -> None:
    doctor = set((FOLDER / "doctor").rglob("*.py"))
    examined = {name for file in doctor for name in imports(file)}
    used = {name for file in set(FOLDER.rglob("*.py")) - doctor for name in imports(file)}
    assert {name for name in used if name.split(".")[0] == "engine"} <= ALLOWED
    assert {name for name in examined if name.split(".")[0] == "engine"} <= ALLOWED | EXAMINED
    used |= examined
    assert not {name for name in used if name.split(".")[0] in {"torch", "transformers"}}


def test_only_the_server_and_what_speaks_for_it_know_lsp() -> None:
    knowing = {
        file.name
        for file in FOLDER.rglob("*.py")
        if any(name.split(".")[0] in {"pygls", "lsprotocol"} for name in imports(file))
    }
    assert knowing == {"completion_list.py", "editor.py", "lsp.py", "server.py"}


def loaded_after(statement: str) -> set[str]:
    """Those of `HEAVY` that a fresh interpreter has loaded after `statement`."""
    program = f"import sys; {statement}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_a_server_that_waits_for_initialize_has_loaded_nothing_heavy() -> None:
    assert loaded_after("from umbrella_lsp.server import UmbrellaServer; UmbrellaServer()") == set()


def test_a_server_at_work_has_loaded_neither_models_nor_grammars() -> None:
    loaded = loaded_after("import umbrella_lsp.server, umbrella_lsp.session, umbrella_lsp.complete, httpx")
    assert loaded == {"httpx", "msgspec"}
