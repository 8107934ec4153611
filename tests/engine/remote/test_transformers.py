"""A real third-party server, transformers' own, in a process of its own, behind an engine of ours."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from safetensors.torch import save_file

from engine.checkpoint import Checkpoint, find
from engine.config import EngineConfig
from engine.config_tables import UpstreamName
from engine.errors import UmbrellaError
from engine.generation import EngineBackend
from engine.hub import TOKENIZER_FILES
from engine.jobs import Chunk
from engine.linear_weights import plain_weight
from engine.metrics import Metrics
from engine.protocol import Segment, StopReason, StopSpec
from engine.remote.upstream import Patience
from engine.request import CodePrompt
from engine.worker import Worker
from tests.engine.fakes import DEADLINE_S, Receiver
from tests.engine.remote.scripted import asked, remote

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

START_S = 120.0
PATIENCE = Patience(
    first_byte_s=DEADLINE_S, next_byte_s=DEADLINE_S, look_s=DEADLINE_S, retry_s=0.5, pause_s=0.05
)
CODE = CodePrompt(
    (
        Segment(
            "prefix",
            "class Account:\n    def __init__(self, balance):\n        self.balance = balance\n\n    ",
        ),
        Segment("suffix", "\n\n# <|eot_id|>\n"),
    ),
    "account.py",
    "python",
)


def write_dense_bundled(folder: Path) -> None:
    """The bundled target as others can load it without a package for INT4."""
    checkpoint = Checkpoint.open(find("bundled:target"))
    config = json.loads((checkpoint.folder / "config.json").read_text())
    del config["quantization_config"]
    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    heads, kv_heads = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    shapes = {"q_proj": (hidden, heads), "k_proj": (hidden, kv_heads), "v_proj": (hidden, kv_heads)}
    shapes |= {"o_proj": (heads, hidden), "gate_proj": (hidden, inner), "up_proj": (hidden, inner)}
    shapes |= {"down_proj": (inner, hidden)}
    tensors = {"model.embed_tokens.weight": checkpoint.tensor("model.embed_tokens.weight")}
    tensors["model.norm.weight"] = checkpoint.tensor("model.norm.weight")
    for layer in range(config["num_hidden_layers"]):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            name = f"model.layers.{layer}.{norm}.weight"
            tensors[name] = checkpoint.tensor(name)
        for part, shape in shapes.items():
            module = f"model.layers.{layer}.{'self_attn' if part[0] in 'qkvo' else 'mlp'}.{part}"
            tensors[f"{module}.weight"] = plain_weight(checkpoint, module, *shape).contiguous()
    folder.mkdir()
    save_file({name: tensor.float() for name, tensor in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float32"}))
    for name in ("generation_config.json", *TOKENIZER_FILES):
        if (file := checkpoint.folder / name).exists():
            shutil.copy(file, folder / name)


@dataclass(slots=True)
class Theirs:
    """A running server of theirs."""

    process: subprocess.Popen[bytes]
    url: str
    model: str


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Generator[Theirs]:
    folder = tmp_path_factory.mktemp("served")
    model = folder / "target"
    write_dense_bundled(model)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(model), "--device", "cpu"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            env=os.environ | {"HF_HOME": str(folder / "hub")},
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + START_S
    try:
        while not _answers(url):
            said = (folder / "log").read_text()[-2000:]
            assert process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.1)
        yield Theirs(process, url, str(model))
    finally:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=1.0).status_code == 200
    except httpx.HTTPError:
        return False


def _named(theirs: Theirs) -> UpstreamName:
    return UpstreamName(theirs.url, theirs.model, prompts="text")


@pytest.fixture
def here(theirs: Theirs) -> Generator[Worker]:
    config = EngineConfig(model=theirs.model, draft_model=None, dtype="fp32")
    worker = Worker(lambda progress: EngineBackend.load(config, progress), Metrics(), max_queue=4)
    yield worker
    worker.stop(DEADLINE_S)


def test_its_text_is_what_the_same_model_writes_here(theirs: Theirs, here: Worker) -> None:
    request = asked(prompt=CODE, max_tokens=40)
    local, there = Receiver(), Receiver()
    here.start()
    here.submit(request, local)

    with remote([_named(theirs)], PATIENCE, model=theirs.model) as executor:
        executor.submit(request, there)
        text = there.wait().text

    assert text == local.wait().text
    assert text.startswith("def ")
    assert there.ending.stop is StopReason.LENGTH
    assert there.chunks[-1].counts.generated == 40
    assert there.chunks[0].fates


def test_our_stop_rules_end_its_text(theirs: Theirs) -> None:
    there = Receiver()
    with remote([_named(theirs)], PATIENCE, model=theirs.model) as executor:
        executor.submit(asked(prompt=CODE, max_tokens=200, stop=StopSpec(max_lines=1)), there)

        assert there.wait().ending.stop is StopReason.LINES
    assert "\n" not in there.text


def test_killed_in_the_middle_it_is_said_so_and_the_next_request_is_served_here(
    theirs: Theirs, here: Worker
) -> None:
    request = asked(prompt=CODE, max_tokens=600)
    cut, after = Receiver(), Receiver()

    def kill_at_once(news: Chunk | UmbrellaError) -> None:
        cut(news)
        theirs.process.kill()

    with remote([_named(theirs)], PATIENCE, here, model=theirs.model) as executor:
        executor.submit(request, kill_at_once)
        assert cut.over.wait(DEADLINE_S)
        executor.submit(asked(prompt=CODE, max_tokens=10), after)

        assert after.wait().text.startswith("def ")
        assert "runs here meanwhile" in executor.message
        assert executor.state == "ready"
    assert cut.chunks
    assert "broke off" in str(cut.error)
