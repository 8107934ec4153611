"""Models named by a hub id: where they lie in the local Hugging Face cache, and how they get there.

`find_cached` never uses the network. `fetch` does, when the user asks for it or the configuration allows it:
only what is read, so neither pickle nor code. Cache, transfer and login are huggingface_hub's own.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import CheckpointError
from engine.model_config import read_model_config
from engine.progress import Progress
from engine.weight_files import INDEX, SINGLE, expected_files, lacks_safetensors

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_CHAT_TEMPLATES = ("chat_template.jinja", "additional_chat_templates/*")
_DESCRIPTION = [
    *("config.json", "generation_config.json", INDEX, "LICENSE*"),
    *TOKENIZER_FILES,
    *_CHAT_TEMPLATES,
]
"""What is fetched beside weights."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_HUB = "https://huggingface.co"


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model of the hub: ``owner/name``, and a commit, tag or branch of it; None is its main branch."""

    name: str
    revision: str | None = None
    with_weights: bool = True
    """Whether it is to be run here. What runs elsewhere is only described here: see `engine.remote`."""

    def __str__(self) -> str:
        return f"{self.name} at {self.revision}" if self.revision else self.name

    @property
    def command(self) -> str:
        """What fetches it."""
        revision = f" --revision {self.revision}" if self.revision else ""
        without = "" if self.with_weights else " --without-weights"
        return f"umbrella-engine fetch {self.name}{revision}{without}"


def find_cached(model: HubModel) -> Path:
    """The folder of `model` in the local cache; without any use of the network.

    Raises CheckpointError, saying how to fetch it, if it is not there, or not whole where weights are wanted.
    """
    from huggingface_hub import snapshot_download  # pyright: ignore[reportUnknownVariableType]
    from huggingface_hub.errors import HFValidationError, IncompleteSnapshotError, LocalEntryNotFoundError

    try:
        folder = Path(
            snapshot_download(
                model.name, revision=model.revision, local_files_only=True, allow_patterns=_DESCRIPTION
            )
        )
        whole = not (model.with_weights and _lacking(folder))
    except HFValidationError as error:
        raise CheckpointError(f"no model {model.name!r}: it is neither a folder nor a hub id") from error
    except IncompleteSnapshotError as error:
        raise _in_part(model) from error
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"no model '{model}': it is no folder, and the local Hugging Face cache does not hold it; "
            f"give a folder, or fetch it first with: {model.command}"
        ) from error
    if not whole:
        raise _in_part(model)
    return folder


def _in_part(model: HubModel) -> CheckpointError:
    return CheckpointError(
        f"the local Hugging Face cache holds '{model}' in part only; fetch the rest with: {model.command}"
    )


def _lacking(folder: Path) -> list[str]:
    return sorted(path.name for path in expected_files(folder) if not path.exists())


def fetch(model: HubModel, progress: Progress) -> Path:
    """The folder of `model`, whose name is its commit, with whatever of it was not there fetched.

    A file that has come whole stays, so that the same call goes on after an interruption; a connection that
    is cut is taken up again where it was. Raises CheckpointError, saying what to do.
    """
    from huggingface_hub import (
        HfApi,
        constants,
        hf_hub_download,  # pyright: ignore[reportUnknownVariableType]
    )

    # Else it would ask the hub for a list of programs, and name those it finds around it at every request.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    with _explained(model):
        progress(0.0, f"Asking for {model.name}")
        if not model.with_weights:
            return _described(model.name, model.revision)
        info = HfApi().model_info(model.name, revision=model.revision, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        if SINGLE not in sizes and INDEX not in sizes:
            raise CheckpointError(f"{model} {lacks_safetensors(sizes)}")
        # By its commit first: what the branch pointed to until now stays in use until this one is whole.
        folder = _described(model.name, info.sha)
        read_model_config(folder)  # One that cannot be run is refused before its weights come.
        lacking = {name: sizes.get(name, 0) for name in _lacking(folder)}
        _require_room(model, folder, sum(lacking.values()))
        count = _Count(sum(lacking.values()), progress)
        for name in lacking:
            # One at a time, since an interruption costs what has come of unfinished files.
            hf_hub_download(model.name, name, revision=info.sha, tqdm_class=_counter(count.add))
        newest = _described(model.name, model.revision)
    return folder if newest == folder else fetch(model, progress)


def _described(name: str, revision: str | None) -> Path:
    """The folder of a model, with all but its weights fetched; from now on a branch or tag means this one."""
    from huggingface_hub import snapshot_download  # pyright: ignore[reportUnknownVariableType]

    return Path(
        snapshot_download(
            name, revision=revision, allow_patterns=_DESCRIPTION, tqdm_class=_counter(lambda _: None)
        )
    )


class _Count:
    """Tells how many bytes of how many have come."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._total = total
        self._progress = progress
        self._done = 0

    def add(self, size_bytes: int) -> None:
        self._done += size_bytes
        share = min(1.0, self._done / max(1, self._total))
        self._progress(share, f"Fetching {self._done / 1e9:.1f} of {self._total / 1e9:.1f} GB")


def _counter(add: Callable[[int], None]) -> type[Any]:
    """A class for huggingface_hub to make bars of, that show nothing and tell `add` the bytes that come."""
    from huggingface_hub.utils import tqdm

    class Counter(tqdm):
        def __init__(self, *_: object, **__: object) -> None:
            super().__init__(disable=True)

        def update(self, n: float | None = 1) -> None:
            add(int(n or 0))

        # That these exist makes it one bar, of bytes written, rather than a second one of bytes received.
        def update_transfer(self, n: float | None = 1) -> None:
            pass

        def set_transfer_postfix_str(self, *_: object, **__: object) -> None:
            pass

    return Counter


def _require_room(model: HubModel, folder: Path, size_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if size_bytes > free:
        raise CheckpointError(
            f"what lacks of {model} takes {size_bytes / 1e9:.1f} GB, and the disk that holds {folder} has "
            f"{free / 1e9:.1f} GB free. Make room, or have HF_HUB_CACHE name a folder on another disk"
        )


@contextmanager
def _explained(model: HubModel) -> Generator[None]:
    """Turn what huggingface_hub raises into a CheckpointError that says what to do."""
    from httpx2 import HTTPError
    from huggingface_hub.errors import HFValidationError

    try:
        yield
    except (HTTPError, HFValidationError, OSError) as error:
        raise CheckpointError(f"cannot fetch {model}: {_advice(model, error)}") from error


def _advice(model: HubModel, error: Exception) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    login = "log in with: hf auth login"
    if isinstance(error, errors.HFValidationError):
        return "that is neither a folder nor a hub id, which is owner/name"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, which forbids the network"
    if isinstance(error, errors.GatedRepoError):
        return f"its owners grant access on {_HUB}/{model.name}; ask for it there, then {login}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"the hub has no such model, or it is private; look at {_HUB}/{model.name}, or {login}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"it has no such revision; its commits, tags and branches are on {_HUB}/{model.name}/tree/main"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return f"the hub lacks one of its files ({error}); tell its owner"
    if isinstance(error, errors.HfHubHTTPError):
        if error.response.status_code == 401:
            return f"the hub does not accept your token; {login}"
        return f"the hub answered {error.response.status_code}; try again later, with the same command"
    if isinstance(error, OSError) and error.errno in _FULL:
        return (
            f"the disk is full ({error.filename or 'the Hugging Face cache'}). What has come whole stays; "
            "make room and run the same command again"
        )
    return f"the hub cannot be reached ({error}). What has come whole stays; try again with the same command"
