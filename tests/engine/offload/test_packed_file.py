from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.checkpoint import Checkpoint
from engine.errors import CheckpointError, DeviceError
from engine.low_bit.form import DTypeName, Form
from engine.offload.layout import LayerLayout
from engine.offload.pack import pack_layer
from engine.offload.packed_file import CheckpointSource, LayerSource, PackedFile, open_source
from engine.offload.packed_format import _write_all
from tests.engine.offload.models import LAYERS, write_int4
from tests.engine.tiny import write_model


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_int4(folder, "qwen2", kept=("down_proj",))
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A checkpoint of this test's own."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in made.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "packed"


class Told:
    """A `Progress` that remembers, and does something at a certain phrase."""

    def __init__(self, at: str = "never", do: Callable[[], object] = lambda: None) -> None:
        self.phrases: list[str] = []
        self._at, self._do = at, do

    def __call__(self, share: float, what: str) -> None:
        assert 0.0 <= share <= 1.0
        self.phrases.append(what)
        if what.startswith(self._at):
            self._do()

    def has(self, start: str) -> bool:
        return any(phrase.startswith(start) for phrase in self.phrases)


def opened(folder: Path, cache: Path | None, told: Told | None = None, form: Form = "cuda") -> LayerSource:
    return open_source(Checkpoint.open(folder), form, "bf16", told or Told(), cache=cache)


def layers(source: LayerSource) -> list[Tensor]:
    """All layers of `source`, which is closed, read into memory that was not empty."""
    buffers = [torch.full((source.size_bytes(layer),), 7, dtype=torch.uint8) for layer in range(LAYERS)]
    for layer, buffer in enumerate(buffers):
        source.read_into(layer, buffer)
    source.close()
    return buffers


def packed(folder: Path, form: Form = "cuda") -> list[Tensor]:
    """All layers, straight from the checkpoint."""
    return layers(CheckpointSource(Checkpoint.open(folder), form, "bf16"))


def same(some: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


def files(cache: Path) -> list[str]:
    """What lies in the cache folder besides its lock and what is known of weight files."""
    return sorted(file.name for file in cache.iterdir() if file.name not in ("lock", "digests.json"))


@pytest.mark.parametrize("form", ["cpu", "cuda"])
def test_a_packed_file_holds_the_layers_as_they_are_packed(folder: Path, cache: Path, form: Form) -> None:
    first = opened(folder, cache, form=form)
    assert isinstance(first, PackedFile)
    assert same(layers(first), packed(folder, form))
    again = Told()
    assert same(layers(opened(folder, cache, again, form)), packed(folder, form))
    assert again.phrases == []
    assert len(files(cache)) == 1
    open_source(Checkpoint.open(folder), form, "fp16", Told(), cache=cache).close()
    assert len(files(cache)) == 2, "what is not INT4 lies there in one dtype"


@pytest.mark.parametrize(("form", "dtype"), [("cpu", "bf16"), ("cuda", "fp16"), ("cuda", "fp32")])
def test_a_packed_layer_holds_each_module_at_its_place(folder: Path, form: Form, dtype: DTypeName) -> None:
    checkpoint = Checkpoint.open(folder)
    layout = LayerLayout.of(checkpoint.config, 1, form, dtype)
    buffer = torch.full((layout.size_bytes,), 7, dtype=torch.uint8)
    pack_layer(checkpoint, 1, form, dtype, buffer)
    views = layout.views(buffer)
    prefix = "model.layers.1"
    biases = [checkpoint.tensor(f"{prefix}.self_attn.{name}_proj.bias") for name in "qkv"]
    assert torch.equal(views["qkv.bias"], torch.cat(biases).to(views["qkv.bias"].dtype))
    down = checkpoint.tensor(f"{prefix}.mlp.down_proj.weight").to(views["down.weight"].dtype)
    assert torch.equal(views["down.weight"], down)
    if form == "cuda":
        words = [checkpoint.tensor(f"{prefix}.mlp.{name}_proj.qweight") for name in ("gate", "up")]
        assert torch.equal(views["gate_up.codes"], torch.cat(words, dim=1))
    used = torch.zeros(layout.size_bytes, dtype=torch.bool)
    for entry in layout.entries:
        used[entry.offset_bytes :][: entry.size_bytes] = True
    assert not buffer[~used].any()


def test_weights_that_change_under_the_same_path_are_packed_anew(folder: Path, cache: Path) -> None:
    before = layers(opened(folder, cache))
    (old,) = files(cache)
    (cache / "v0-what-a-crash-has-left.part").touch()
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.qweight"][0, 0] ^= 1
    state = (folder / "model.safetensors").stat()
    save_file(tensors, folder / "model.safetensors")
    os.utime(folder / "model.safetensors", ns=(state.st_atime_ns, state.st_mtime_ns))
    after = layers(opened(folder, cache))
    assert same(after, packed(folder))
    assert not same(after, before)
    assert old not in files(cache)
    assert len(files(cache)) == 1


def test_what_was_packed_of_a_model_that_is_gone_is_removed(folder: Path, cache: Path) -> None:
    other = folder.parent / "other"
    shutil.copytree(folder, other)
    tensors = load_file(other / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.qweight"][0, 0] ^= 1
    save_file(tensors, other / "model.safetensors")
    opened(other, cache).close()
    (old,) = files(cache)
    shutil.rmtree(other)
    opened(folder, cache).close()
    (new,) = files(cache)
    assert new != old


def test_files_of_the_hubs_cache_are_not_read_to_know_their_content(folder: Path, cache: Path) -> None:
    (folder / "blobs").mkdir()
    blob = folder / "blobs" / ("0" * 63 + "f")
    (folder / "model.safetensors").rename(blob)
    (folder / "model.safetensors").symlink_to(blob)
    told = Told()
    opened(folder, cache, told).close()
    assert told.has("Packing layer 5 of 5")
    assert not told.has("Checking")


def test_only_what_has_to_be_repacked_or_read_at_every_pass_gets_a_file(tmp_path: Path, cache: Path) -> None:
    write_model(tmp_path, "llama")
    checkpoint = Checkpoint.open(tmp_path)
    assert isinstance(open_source(checkpoint, "cpu", "bf16", Told(), cache=cache), CheckpointSource)
    assert isinstance(open_source(checkpoint, "cpu", "bf16", Told(), cache=None), CheckpointSource)
    assert not cache.exists()
    source = open_source(checkpoint, "cpu", "bf16", Told(), cache=cache, from_disk=True)
    assert isinstance(source, PackedFile)
    source.close()


def truncated(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def with_another_byte(file: Path, at: int) -> None:
    with file.open("r+b") as stream:
        stream.seek(at)
        byte = stream.read(1)[0]
        stream.seek(at)
        stream.write(bytes([byte ^ 1]))


@pytest.mark.parametrize(
    "damage",
    [truncated, lambda file: file.write_bytes(b""), lambda file: with_another_byte(file, 60)],
    ids=["cut short", "empty", "header"],
)
def test_a_file_that_is_damaged_is_made_anew(
    folder: Path, cache: Path, damage: Callable[[Path], None]
) -> None:
    opened(folder, cache).close()
    (name,) = files(cache)
    damage(cache / name)
    told = Told()
    assert same(layers(opened(folder, cache, told)), packed(folder))
    assert told.has("Packing")
    assert files(cache) == [name]


@pytest.mark.parametrize("when", ["before it is opened", "while it is open"])
def test_a_damaged_layer_is_read_from_the_checkpoint_and_the_file_deleted(
    folder: Path, cache: Path, when: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = opened(folder, cache)
    (name,) = files(cache)
    if when == "while it is open":
        os.truncate(cache / name, (cache / name).stat().st_size - 5000)
    else:
        source.close()
        with_another_byte(cache / name, (cache / name).stat().st_size - source.size_bytes(4) // 2)
        source = opened(folder, cache)
    source.read_into(4, torch.empty(source.size_bytes(4), dtype=torch.uint8))
    assert files(cache) == []
    (cache / name).touch()  # Another engine has packed anew.
    assert same(layers(source), packed(folder))
    assert files(cache) == [name]
    assert len(caplog.messages) == 1
    assert "what is damaged is read from the checkpoint" in caplog.messages[0]


def test_a_checkpoint_that_cannot_be_read_any_more_is_the_devices_fault(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("engine.offload.packed_file.pack_layer", fail)
    source = opened(folder, None)
    with pytest.raises(DeviceError, match="layer 2 cannot be read: Input/output error"):
        source.read_into(2, torch.empty(source.size_bytes(2), dtype=torch.uint8))


@pytest.mark.parametrize("written", [0, 3])
def test_a_full_disk_leaves_nothing_behind_and_is_said_once(
    folder: Path,
    cache: Path,
    written: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    left = [written]

    def fill_up(*arguments: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        _write_all(*arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr("engine.offload.packed_format._write_all", fill_up)
    assert same(layers(opened(folder, cache)), packed(folder))
    assert files(cache) == []
    (message,) = caplog.messages
    assert "No space left on device" in message


def test_a_disk_without_room_is_not_filled_first(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("engine.offload.packed_file._LEFT_BYTES", 1 << 60)
    told = Told()
    assert same(layers(opened(folder, cache, told)), packed(folder))
    assert not told.has("Packing")
    assert "No space left on device" in caplog.text


def test_a_cache_folder_that_cannot_be_written_is_done_without(
    folder: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.touch()
    assert same(layers(opened(folder, cache / "packed")), packed(folder))
    assert "packed anew at every start" in caplog.text


@pytest.mark.parametrize(
    ("tensor", "replacement", "message"),
    [
        ("qweight", None, r"has no tensor"),
        ("qweight", torch.zeros(64, 15, dtype=torch.int32), r"shape \[64, 15\].*asks for \[64, 16\]"),
        ("qzeros", torch.zeros(2, 16, dtype=torch.int64), "torch.int64; expected torch.int32"),
        ("scales", torch.full((2, 128), torch.nan, dtype=torch.float16), "not finite"),
        ("scales", torch.full((2, 128), 1e6, dtype=torch.bfloat16), "more than float16 holds"),
    ],
)
def test_a_damaged_tensor_is_named_with_its_file_and_leaves_no_packed_file(
    folder: Path, cache: Path, tensor: str, replacement: Tensor | None, message: str
) -> None:
    name = f"model.layers.3.mlp.up_proj.{tensor}"
    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    save_file(tensors if replacement is None else tensors | {name: replacement}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"{name}.*{message}|{message} {name}"):
        opened(folder, cache)
    assert files(cache) == []


def test_what_ends_the_loading_leaves_no_packed_file(folder: Path, cache: Path) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened(folder, cache, Told("Packing layer 4", stop))
    assert files(cache) == []


_PACK_AND_WAIT = """
import os, sys
from pathlib import Path
from engine.checkpoint import Checkpoint
from engine.offload.packed_file import open_source
def tell(share, what):
    if what.startswith("Packing layer 4"):
        print("packing", flush=True)
        sys.stdin.readline()
for cache in sys.argv[2:]:
    open_source(Checkpoint.open(Path(sys.argv[1])), "cuda", "bf16", tell, cache=Path(cache)).close()
    print("done", flush=True)
"""


@pytest.mark.slow
def test_another_process_is_waited_for_and_taken_over_from_when_it_dies(folder: Path, tmp_path: Path) -> None:
    finished, killed = tmp_path / "finished", tmp_path / "killed"
    command = [sys.executable, "-c", _PACK_AND_WAIT, str(folder), str(finished), str(killed)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "packing\n"
        stdin = other.stdin

        def go_on() -> None:
            stdin.write("\n")
            stdin.flush()

        waited = Told("Waiting", go_on)
        assert same(layers(opened(folder, finished, waited)), packed(folder))
        assert waited.phrases[-1].startswith("Waiting for another engine")

        assert other.stdout.readline() == "done\n"
        assert other.stdout.readline() == "packing\n"
        assert [Path(name).suffix for name in files(killed)] == [".part"]
        took_over = Told("Waiting", other.kill)
        assert same(layers(opened(folder, killed, took_over)), packed(folder))
        assert took_over.has("Packing layer 1 of 5")
        assert [Path(name).suffix for name in files(killed)] == [".packed"]
