"""The configuration files users copy stay true to the code."""

from __future__ import annotations

import re
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest

from engine.config import EngineConfig, load, load_with_warnings
from engine.config_tables import UpstreamName
from engine.memory import GIB
from engine.offload.machine import Machine
from engine.offload.plan import plan
from tests.engine.offload.sparse import DRAFTER_500M, LLAMA_8B, LLAMA_70B, QWEN_32B, write_sparse

CONFIGS = Path(__file__).parents[2] / "configs"
HUB_ID = re.compile(r"[\w-]+/[\w.-]+")


SHAPES = {
    "hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4": LLAMA_70B,
    "hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4": LLAMA_8B,
    "InfiniAILab/CodeDrafter-500M": DRAFTER_500M,
    "Qwen/Qwen2.5-Coder-32B-Instruct-AWQ": QWEN_32B,
    "Qwen/Qwen2.5-Coder-0.5B-Instruct": DRAFTER_500M,
}
"""What is published under the names that are shipped; the last is nearly of that size."""

FREE = 0.97
"""Of what a card is sold as, the share that a process finds free."""

SHIPPED = sorted(CONFIGS.glob("*.toml"))
REMOTE = CONFIGS / "remote-vllm.toml"
FROM_THE_HUB = [path for path in SHIPPED if path.name != "bundled.toml" and path != REMOTE]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_each_shipped_configuration_loads_without_a_warning(path: Path) -> None:
    assert load_with_warnings(path)[1] == ()


@pytest.mark.parametrize("path", FROM_THE_HUB, ids=lambda path: path.name)
def test_a_configuration_of_models_from_the_hub_is_short_and_says_how_to_get_them(path: Path) -> None:
    text, config = path.read_text(), load(path)

    assert config.drafts
    assert all(HUB_ID.fullmatch(model.name) for model in (config.target, *config.drafts))
    assert f"umbrella-engine fetch --config {path.name}" in text
    assert f"umbrella-engine plan --config {path.name}" in text
    assert "Unverified on GPU so far" in text.replace("\n# ", " ")
    assert re.search(r"\d+ GB of disk", text.replace("\n# ", " "))
    assert re.search(r"\d+ GB of RAM", text.replace("\n# ", " "))
    usual = asdict(EngineConfig())
    stated = set(re.findall(r"^(\w+) = ", text, re.MULTILINE)) - {"template"}
    assert all(usual[key] != value for key, value in asdict(config).items() if key in stated)


@pytest.mark.parametrize("path", FROM_THE_HUB, ids=lambda path: path.name)
def test_target_and_draft_are_of_one_family_and_the_template_is_theirs(path: Path) -> None:
    config = load(path)
    family = "qwen2.5-coder" if "qwen" in path.name else "llama3-code"
    assert config.template == family
    for model in (config.target, *config.drafts):
        assert ("Qwen2.5-Coder" in model.name) == (family == "qwen2.5-coder")


def test_the_configuration_for_servers_elsewhere_needs_no_weights_and_says_how_to_begin() -> None:
    text, config = REMOTE.read_text(), load(REMOTE)

    assert config.engine == "remote"
    assert not config.runs_here
    assert HUB_ID.fullmatch(config.model)
    assert config.template == "qwen2.5-coder"
    assert all(upstream.url.startswith("https://") and upstream.token_env for upstream in config.upstreams)
    assert f"umbrella-engine fetch --config {REMOTE.name}" in text
    assert "unverified against vLLM so far" in text.replace("\n# ", " ")
    entry = {field.name for field in fields(UpstreamName)}
    assert entry <= set(re.findall(r"^(?:# )?(\w+) = ", text, re.MULTILINE))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {name: str(write_sparse(folder / name, shape)) for name, shape in SHAPES.items()}


@pytest.mark.parametrize(
    ("name", "vram_gib", "ram_gib", "streams"),
    [
        ("12gb", 12, 48, True),
        ("16gb", 16, 48, True),
        ("24gb", 24, 48, True),
        ("48gb", 45, 16, False),
        ("on-device-8b", 10, 16, False),
        ("qwen2.5-coder-32b", 24, 16, False),
        ("qwen2.5-coder-32b", 16, 32, True),
        ("qwen2.5-coder-32b", 12, 32, True),
    ],
)
def test_the_plan_of_each_is_what_it_says_of_its_gpu_and_needs_no_disk(
    models: dict[str, str], name: str, vram_gib: int, ram_gib: int, streams: bool
) -> None:
    config = load(CONFIGS / f"{name}.toml")
    drafts = tuple(models[draft.name] for draft in config.drafts)
    config = replace(config, model=models[config.model], draft_model=drafts)
    machine = Machine.card(int(FREE * vram_gib * GIB), int(0.9 * ram_gib * GIB))

    made = plan(config, machine)

    assert bool(made.target.streamed) == streams
    assert made.target.from_disk == ()


def test_there_is_one_for_every_size_of_gpu_the_readme_speaks_of() -> None:
    assert {path.stem for path in SHIPPED} >= {"bundled", "12gb", "16gb", "24gb", "48gb"}


def test_the_bundled_configuration_names_every_key_with_its_default() -> None:
    path = CONFIGS / "bundled.toml"

    named = set(re.findall(r"^(?:# )?(\w+) = ", path.read_text(), re.MULTILINE))

    assert named == {field.name for field in fields(EngineConfig)}
    assert load(path) == EngineConfig()
