from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants, file_download
from huggingface_hub.utils import close_session

from engine.checkpoint import Checkpoint, find, find_description
from engine.cli import main
from engine.config_tables import ModelName
from engine.errors import CheckpointError
from engine.hub import HubModel, fetch
from tests.engine.fake_hub import FakeHub, running_hub
from tests.engine.tiny import write_llama

NAME = "someone/model"
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A model in nine shards, as published ones come: with much beside it that is never read."""
    folder = tmp_path_factory.mktemp("published")
    write_llama(folder, shard_size="50KB")
    assert len(list(folder.glob("model-*.safetensors"))) == 9
    shards = {path.name: path.read_bytes() for path in folder.iterdir()}
    beside = (
        "pytorch_model.bin",
        "consolidated.safetensors",
        "modeling.py",
        "original/params.json",
        "README.md",
    )
    return shards | dict.fromkeys(beside, b"never read") | {"tokenizer.json": b"{}", "LICENSE.txt": b"free"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with running_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("NO_PROXY", "*")
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
        # Between two attempts it would wait for a second.
        monkeypatch.setattr(file_download, "time", SimpleNamespace(sleep=lambda _: None))
        close_session()
        yield hub
        close_session()


class Told:
    """A `Progress` that remembers."""

    def __init__(self) -> None:
        self.shares: list[float] = []
        self.phrases: list[str] = []

    def __call__(self, share: float, what: str) -> None:
        self.shares.append(share)
        self.phrases.append(what)


def get(revision: str | None = None) -> Path:
    return fetch(HubModel(NAME, revision), Told())


def forbid_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_what_is_read_is_fetched_and_nothing_else(hub: FakeHub, files: dict[str, bytes]) -> None:
    commit = hub.push(NAME, files)
    told = Told()
    folder = fetch(HubModel(NAME), told)
    assert folder.name == commit
    shards = {name for name in files if name.startswith("model-")}
    read = {"config.json", "generation_config.json", "tokenizer.json", "LICENSE.txt", INDEX}
    assert {path.name for path in folder.iterdir()} == shards | read
    assert Checkpoint.open(folder).has("model.norm.weight")
    assert told.shares == sorted(told.shares)
    assert told.shares[-1] == 1.0
    assert told.phrases[-1] == "Fetching 0.0 of 0.0 GB"
    assert all(
        path.split()[1].startswith(("/api/models/someone/model", "/someone/model/")) for path in hub.asked
    )


def test_a_connection_that_is_cut_is_taken_up_where_it_was(hub: FakeHub, files: dict[str, bytes]) -> None:
    hub.push(NAME, files)
    shard = "model-00002-of-00009.safetensors"
    hub.cut[shard] = 1
    folder = get()
    assert hub.ranges == [f"bytes={len(files[shard]) // 2 // 1000 * 1000}-"]
    assert (folder / shard).read_bytes() == files[shard]


def test_the_same_command_goes_on_after_an_interruption(
    hub: FakeHub, files: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    commit = hub.push(NAME, files)
    hub.refuse = {f"/{NAME}/resolve/{commit}/model-00004": (403, "")}
    assert main(["fetch", NAME]) == 1
    assert "answered 403; try again later, with the same command" in capsys.readouterr().err
    with pytest.raises(
        CheckpointError, match=f"in part only; .*: umbrella-engine fetch {NAME} --revision {commit}"
    ):
        find(NAME, commit)
    first = hub.fetched()
    hub.asked.clear()
    hub.refuse = {}
    assert main(["fetch", NAME]) == 0
    assert set(hub.fetched()) == {f"model-{index:05}-of-00009.safetensors" for index in range(4, 10)}
    assert not set(hub.fetched()) & set(first)
    assert Checkpoint.open(find(NAME))


def test_what_was_fetched_is_found_without_the_network(
    hub: FakeHub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.push(NAME, files)
    hub.push(NAME, files, "v1.0")
    folders = {get(), get("v1.0")}
    forbid_network(monkeypatch)
    assert {find(NAME), find(NAME, "v1.0"), find(NAME, commit)} == folders
    with pytest.raises(CheckpointError, match=f"no model '{NAME} at other'.*fetch {NAME} --revision other"):
        find(NAME, "other")


def test_a_pinned_model_stays_when_its_branch_moves(hub: FakeHub, files: dict[str, bytes]) -> None:
    old = hub.push(NAME, files)
    first = get()
    hub.push(NAME, files | {"LICENSE.txt": b"dear"})
    second = get()
    assert find(NAME) == second
    assert find(NAME, old) == first


def test_a_branch_that_moves_while_it_is_fetched_is_followed(hub: FakeHub, files: dict[str, bytes]) -> None:
    hub.push(NAME, files)

    def move(_share: float, what: str) -> None:
        if what.startswith("Fetching") and len(hub.commits) == 1:
            hub.push(NAME, files | {"LICENSE.txt": b"dear"})

    folder = fetch(HubModel(NAME), move)
    assert folder.name == hub.branches[NAME, "main"]
    assert find(NAME) == folder


def test_an_update_that_is_interrupted_leaves_the_old_model_in_use(
    hub: FakeHub, files: dict[str, bytes]
) -> None:
    hub.push(NAME, files)
    first = get()
    shard = "model-00009-of-00009.safetensors"
    hub.push(NAME, files | {shard: files[shard][:-1] + b"?"})
    hub.cut[shard] = 1000
    with pytest.raises(CheckpointError, match=r"cannot be reached .* same command"):
        get()
    assert find(NAME) == first
    hub.cut.clear()
    assert find(NAME) != get()


def test_a_download_happens_only_where_it_is_allowed(hub: FakeHub, files: dict[str, bytes]) -> None:
    commit = hub.push(NAME, files)
    with pytest.raises(CheckpointError, match="fetch it first with"):
        find(NAME)
    assert not hub.asked
    assert find(NAME, download=Told()).name == commit
    hub.asked.clear()
    assert find(NAME, download=Told()).name == commit
    assert not hub.asked


def test_the_hubs_own_login_is_used(
    hub: FakeHub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.push(NAME, files)
    Path(constants.HF_TOKEN_PATH).write_text("hf_secret")
    get()
    assert hub.tokens == {"Bearer hf_secret"}


@pytest.mark.parametrize(
    ("path", "status", "code", "message"),
    [
        ("/api/models/", 401, "RepoNotFound", r"no such model, or it is private.*hf auth login"),
        ("/api/models/", 404, "RevisionNotFound", r"no such revision.*/tree/main"),
        (f"/{NAME}/resolve/", 403, "GatedRepo", r"grant access on https://huggingface.co/someone/model"),
        ("/api/models/", 500, "", r"answered 500; try again later"),
    ],
)
def test_what_the_hub_refuses_is_said_with_what_to_do(
    hub: FakeHub, files: dict[str, bytes], path: str, status: int, code: str, message: str
) -> None:
    hub.push(NAME, files)
    hub.refuse[path] = (status, code)
    with pytest.raises(CheckpointError, match=f"cannot fetch {NAME}: .*{message}"):
        get()


def test_a_hub_that_cannot_be_reached_is_said(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    with pytest.raises(CheckpointError, match=r"cannot be reached .*try again with the same command"):
        get()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set"):
        get()


def test_a_disk_too_small_is_said_before_anything_large_is_fetched(
    hub: FakeHub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.push(NAME, files)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100_000))
    with pytest.raises(CheckpointError, match=r"has 0\.0 GB free\. Make room, or have HF_HUB_CACHE name"):
        get()
    assert not [name for name in hub.fetched() if name.endswith(".safetensors")]


def test_a_model_that_is_only_a_pickle_is_refused_with_a_way_out(
    hub: FakeHub, files: dict[str, bytes]
) -> None:
    hub.push(NAME, {"config.json": files["config.json"], "pytorch_model.bin": b"never read"})
    with pytest.raises(CheckpointError, match=r"only as pickle \(pytorch_model\.bin\).*save_pretrained"):
        get()
    assert not hub.fetched()


def test_a_model_that_cannot_be_run_is_refused_before_its_weights_come(
    hub: FakeHub, files: dict[str, bytes]
) -> None:
    config = json.loads(files["config.json"]) | {"architectures": ["OtherForCausalLM"]}
    hub.push(NAME, files | {"config.json": json.dumps(config).encode()})
    with pytest.raises(CheckpointError, match="architectures is OtherForCausalLM"):
        get()
    assert not [name for name in hub.fetched() if name.endswith(".safetensors")]


def test_the_command_fetches_every_model_of_a_configuration(
    hub: FakeHub, files: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, draft = hub.push(NAME, files), hub.push("someone/draft", files | {"LICENSE.txt": b"other"}, "v2")
    config = tmp_path / "engine.toml"
    config.write_text(
        f"model = '{NAME}'\nrevision = '{target}'\ndraft_model = 'someone/draft'\ndraft_revision = 'v2'\n"
    )
    assert main(["fetch", "--config", str(config)]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        f"{NAME}: {find(NAME, target)}",
        f"someone/draft: {find('someone/draft', 'v2')}",
    ]
    assert f"draft_revision, = '{draft}'" in said.err
    assert target not in said.err


def test_of_a_model_that_runs_elsewhere_no_weights_are_fetched(
    hub: FakeHub, files: dict[str, bytes], tmp_path: Path
) -> None:
    hub.push(NAME, files)
    config = tmp_path / "engine.toml"
    config.write_text(
        f"model = '{NAME}'\nengine = 'remote'\nfallback = false\nupstreams = [{{ url = 'http://gpu' }}]\n"
    )
    assert main(["fetch", "--config", str(config)]) == 0

    assert (find_description(ModelName(NAME)) / "tokenizer.json").is_file()
    assert not [name for name in hub.fetched() if name.endswith(".safetensors")]
    with pytest.raises(CheckpointError, match="in part only"):
        find(NAME)


def test_the_command_has_nothing_to_do_for_local_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "engine.toml").write_text("model = 'bundled:target'\n")
    assert main(["fetch", "--config", str(tmp_path / "engine.toml")]) == 0
    assert "nothing to fetch" in capsys.readouterr().err
    assert main(["fetch", "bundled:draft"]) == 0
    assert main(["fetch", "--revision", "v1"]) == 2


def test_an_interrupted_command_says_that_it_may_be_run_again(
    hub: FakeHub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.push(NAME, files)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("engine.hub._require_room", interrupt)
    assert main(["fetch", NAME]) == 130
    assert "the same command goes on" in capsys.readouterr().err
