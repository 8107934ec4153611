"""One healthy report, and what is said once one thing in it is not."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.metadata import version

import pytest

from engine.selftest.verdict import Check, Verdict
from umbrella_lsp.doctor.advice import advice
from umbrella_lsp.doctor.report import (
    NOT_ANSWERING,
    NOT_RUNNING,
    Configuration,
    Engine,
    Gpu,
    Gpus,
    Machine,
    Place,
    Report,
    SelfTest,
    Versions,
    without_home,
)

GIB = 1 << 30
VERSION = version("umbrella-lsp")
CONFIGURATION = Configuration(None, "defaults", {}, "abc", "auto", needed_bytes=GIB, needed_gpu_bytes=GIB)
ENGINE = Engine(
    folder=Place("/run/u", True, "0700"),
    socket=Place("/run/u/engine.sock", True, "0600"),
    log=Place("/run/u/engine.log", True, "0600"),
    state="ready",
    package=VERSION,
    pid=7,
    config_hash="abc",
)
MACHINE = Machine("A processor", 8, ("avx2",), 16 * GIB, 8 * GIB, "~/.cache", 100 * GIB)
VERSIONS = Versions(VERSION, 1, "3.11.7", "/usr/bin/python3", "Linux", {"torch": "2.11.0"}, {})
HEALTHY = Report(VERSIONS, MACHINE, Gpus(), CONFIGURATION, ENGINE, (), (), (), {})
GPU = Gpu("NVIDIA Something", 8192, 8000, "570.1")
STOPPED = replace(ENGINE, state=NOT_RUNNING, package="", pid=None, config_hash="")
FAULT = Verdict("m", None, "abc", "", (Check("memory", False, "too little"), Check("b", None, "")), None)


def test_nothing_needs_to_be_done_about_a_healthy_report_or_one_without_an_engine() -> None:
    assert advice(HEALTHY) == ()
    assert advice(replace(HEALTHY, engine=STOPPED)) == ()


def with_engine(**changes: object) -> Report:
    return replace(HEALTHY, engine=replace(ENGINE, **changes))  # pyright: ignore[reportArgumentType]


def with_configuration(**changes: object) -> Report:
    return replace(HEALTHY, configuration=replace(CONFIGURATION, **changes))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (
            with_configuration(problem="engine.toml is not valid TOML."),
            "configuration cannot be used: engine",
        ),
        (with_configuration(models_problem="no model 'x'"), "A model cannot be used: no model 'x'."),
        (with_configuration(device="cuda"), "device = 'cuda', but no GPU was found"),
        (with_configuration(config_hash="def", file="/a/b.toml"), "configuration than /a/b.toml.*stop"),
        (with_configuration(needed_bytes=17 * GIB), "need about 17.0 GiB.*has 16.0 GiB.*smaller checkpoints"),
        (
            replace(with_configuration(needed_bytes=9 * GIB), engine=STOPPED),
            "machine has 8.0 GiB free.*Close",
        ),
        (
            replace(with_configuration(needed_gpu_bytes=25 * GIB), gpus=Gpus((GPU,))),
            "the GPU and the machine have 24.0 GiB: .*read from disk",
        ),
        (with_engine(folder=Place("/run/u", True, "0755")), "open to others: run `chmod 700 /run/u`"),
        (with_engine(folder=Place("/run/u", True, "0700", is_own=False)), "belongs to another user"),
        (with_engine(package="0.0.1"), "version 0.0.1 runs.*umbrella-engine stop"),
        (with_engine(state="failed", message="The file is cut off."), "could not load its models: The file"),
        (with_engine(state="loading", message="No server answers: gpu is down."), "gpu is down.*upstreams"),
        (with_engine(state=NOT_ANSWERING), r"process 7\) does not answer.*stop"),
        (replace(HEALTHY, engine=replace(STOPPED, crashed=True)), "ended unexpectedly.*engine.log"),
        (replace(HEALTHY, gpus=Gpus(problem="nvidia-smi failed (exit 9)")), "exit 9.*Check the driver"),
        (
            replace(HEALTHY, gpus=Gpus((GPU,)), versions=replace(VERSIONS, packages={"torch": "2.11.0+cpu"})),
            r"torch 2.11.0\+cpu cannot use it",
        ),
        (replace(HEALTHY, machine=replace(MACHINE, free_disk_bytes=1000)), "Make some room"),
        (replace(HEALTHY, versions=replace(VERSIONS, packages={"pygls": None})), "not installed: pygls"),
        (replace(HEALTHY, versions=replace(VERSIONS, packages={})), "Install it, as README says"),
        (replace(HEALTHY, machine=None, failed={"machine": "OSError"}), r"'machine'.*\(OSError\).*report"),
        (replace(HEALTHY, selftest=SelfTest(None, "it was killed.")), "came to no end: it was killed"),
        (replace(HEALTHY, selftest=SelfTest(FAULT)), "found a fault. memory: too little"),
    ],
)
def test_each_trouble_has_one_sentence_that_says_what_to_do(report: Report, said: str) -> None:
    (action,) = advice(report)
    assert re.search(said, action), action


def test_a_model_for_a_gpu_is_not_measured_by_the_machines_memory() -> None:
    report = replace(with_configuration(needed_bytes=99 * GIB), gpus=Gpus((GPU,)))
    assert advice(report) == ()


def test_a_model_that_is_too_large_for_a_gpu_streams_from_the_machines_memory() -> None:
    report = replace(with_configuration(needed_gpu_bytes=9 * GIB), gpus=Gpus((GPU,)))
    assert advice(report) == ()


@pytest.mark.parametrize(
    ("text", "home", "shown"),
    [
        ("/home/ann/x and /home/ann", "/home/ann", "~/x and ~"),
        ("/home/annabel/x", "/home/ann", "/home/annabel/x"),
        ("in /home/ann: denied", "/home/ann/", "in ~: denied"),
        ("/root/x", "/", "/root/x"),
    ],
)
def test_the_home_folder_is_shortened_and_no_other(text: str, home: str, shown: str) -> None:
    assert without_home(text, home) == shown
