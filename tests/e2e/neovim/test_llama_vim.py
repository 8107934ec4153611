"""llama.vim as it is, in a real Neovim, set up as docs/editors.md says, over TCP with a token.

Its code is not ours, so it is not here: tests/e2e/install_llama_vim.sh gets it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from engine.protocol import Health
from engine.schema import read
from tests.e2e.conftest import FAILED, REPOSITORY, Desk, desk_in, until
from tests.e2e.neovim.conftest import ACCOUNT, KEPT, program
from tests.e2e.neovim.editor import Neovim, wait_for
from tests.e2e.wire import Wire

CHECKOUT = REPOSITORY / ".cache/llama.vim"
DOCS = REPOSITORY / "docs/editors.md"
GHOSTS = """
local first, others = {}, {}
for _, name in ipairs({ 'vt_fim', 'vt_inst' }) do
  local space = vim.api.nvim_create_namespace(name)
  for _, mark in ipairs(vim.api.nvim_buf_get_extmarks(0, space, 0, -1, { details = true })) do
    table.insert(first, vim.tbl_get(mark[4], 'virt_text', 1, 1))
    for _, line in ipairs(mark[4].virt_lines or {}) do table.insert(others, line[1][1]) end
  end
end
return vim.list_extend(first, others)
"""
"""The lines of ghost text that llama.vim has drawn."""


@pytest.fixture(scope="module")
def checkout() -> Path:
    if not (CHECKOUT / "autoload/llama.vim").exists():
        pytest.skip("no llama.vim here; tests/e2e/install_llama_vim.sh gets it from GitHub, or from a clone")
    if shutil.which("curl") is None:
        pytest.skip("llama.vim needs curl")
    return CHECKOUT


@pytest.fixture(scope="module")
def home(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("llama")


@pytest.fixture(scope="module")
def desk(home: Path) -> Iterator[Desk]:
    """A user who has started the engine as the page says, but for the port."""
    command = re.search(
        r"```sh\numbrella-engine (serve --port) 8012 (--token-file) (~/\S+)\n", DOCS.read_text()
    )
    assert command
    token = home / command[3].removeprefix("~/")
    token.parent.mkdir(parents=True)
    config = home / "config/umbrella-lsp/engine.toml"
    config.parent.mkdir(parents=True)
    config.write_text('chat_template = "meta-llama3"\n')
    with desk_in(home) as desk:
        engine = desk.start("umbrella-engine", *command[1].split(), "0", command[2], token)
        try:
            until(socket_of(desk).exists, "the engine listens")
            until(lambda: read(Health, asked(desk, "/health")).state == "ready", "its models are loaded")
            yield desk
        finally:
            engine.terminate()
            engine.communicate(timeout=30)


def socket_of(desk: Desk) -> Path:
    return Path(desk.environment["UMBRELLA_RUNTIME_DIR"], "engine.sock")


def asked(desk: Desk, path: str) -> object:
    """What the engine answers over its Unix socket."""
    transport = httpx.HTTPTransport(uds=str(socket_of(desk)))
    with httpx.Client(transport=transport, base_url="http://localhost") as http:
        response = http.get(path)
    return response.json() if "json" in response.headers["content-type"] else response.text


def counted(desk: Desk, endpoint: str, outcome: str) -> float:
    """How many requests have ended so."""
    line = f'umbrella_requests_total{{endpoint="{endpoint}",outcome="{outcome}"}} '
    found = [row for row in str(asked(desk, "/metrics")).splitlines() if row.startswith(line)]
    return float(found[0].removeprefix(line)) if found else 0.0


@pytest.fixture(scope="module")
def booted(desk: Desk, home: Path, checkout: Path) -> Iterator[Neovim]:
    """Someone who has put the page's lines into init.lua, but for the port."""
    block = re.search(r"```lua\n(vim\.g\.llama_config = .*?)```", DOCS.read_text(), re.DOTALL)
    assert block
    port = Path(desk.environment["UMBRELLA_RUNTIME_DIR"], "engine.port").read_text()
    config = home / ".config/nvim/init.lua"
    config.parent.mkdir(parents=True, exist_ok=True)
    load = f"vim.opt.runtimepath:prepend('{checkout}')\n"
    config.write_text(block[1].replace(":8012/", f":{port}/") + load)
    environment = desk.environment | {"XDG_CONFIG_HOME": str(home / ".config")}
    neovim = Neovim(program("0.11"), desk.folder, environment, Wire(home / "wire.jsonl"))
    yield neovim
    neovim.close()


@pytest.fixture
def neovim(booted: Neovim, request: pytest.FixtureRequest) -> Iterator[Neovim]:
    yield booted
    if request.node.stash.get(FAILED, False):
        booted.keep(KEPT / re.sub(r"[^\w.-]+", "-", request.node.name))


def drawn(neovim: Neovim) -> list[str]:
    return neovim.inside(GHOSTS)


def test_a_suggestion_shows_while_typing_and_tab_takes_it(neovim: Neovim, desk: Desk) -> None:
    neovim.open("point.py", ACCOUNT, keys="o", is_served=False)
    neovim.keys("self.bal")
    wait_for(lambda: neovim.lines()[-1].endswith("self.bal"), "it is typed")
    wait_for(lambda: drawn(neovim), "llama.vim draws a suggestion")
    before, ghost = neovim.lines(), drawn(neovim)
    neovim.keys("<Tab>")
    wait_for(lambda: neovim.lines() != before, "Tab takes it")
    assert "\n".join(neovim.lines()) == "\n".join(before) + "\n".join(ghost)
    assert counted(desk, "/infill", "ok") > 0


def test_it_warms_the_cache_with_what_was_copied(neovim: Neovim, desk: Desk) -> None:
    neovim.open("copied.py", ACCOUNT * 2, keys="", is_served=False)
    wait_for(lambda: neovim.mode() == "n", "normal mode")
    answered = counted(desk, "/infill", "ok")
    neovim.keys("ggyG")
    wait_for(lambda: counted(desk, "/infill", "ok") > answered, "what was copied has been evaluated")


def test_its_editing_by_instruction_is_answered(neovim: Neovim, desk: Desk) -> None:
    neovim.open("edited.py", ACCOUNT, keys="", is_served=False)
    neovim.keys(":2,3LlamaInstruct<CR>")
    wait_for(lambda: neovim.mode() == "c", "it asks for an instruction")
    neovim.keys("rename balance<CR>")
    wait_for(lambda: neovim.mode() == "n", "it has the instruction")
    wait_for(lambda: counted(desk, "/v1/chat/completions", "ok") >= 2, "warming up and answering")
    before = neovim.lines()
    neovim.keys("2G")
    wait_for(lambda: any("====" in line for line in drawn(neovim)), "the answer is drawn")
    neovim.keys("<Tab>")
    wait_for(lambda: neovim.lines() != before, "Tab takes it")


def test_nothing_it_sent_was_refused(neovim: Neovim, desk: Desk) -> None:
    for endpoint in ("/infill", "/v1/chat/completions"):
        assert counted(desk, endpoint, "refused") == counted(desk, endpoint, "failed") == 0
