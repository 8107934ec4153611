"""The order of a self-test: what needs no weights first, then what needs them, then what takes longest."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from engine.checkpoint import Checkpoint, find
from engine.config import EngineConfig
from engine.costs import CostTable
from engine.decode import Decoder
from engine.errors import ConfigError, UmbrellaError
from engine.loaded import LoadedEngine
from engine.memory import gib
from engine.offload.machine import Machine
from engine.offload.plan import plan
from engine.protocol import Health
from engine.selftest.decoding import (
    Decoding,
    Effort,
    Run,
    always_drafting,
    part,
    pass_time,
    prompts,
    rate,
    same_text,
    tokens_per_pass,
)
from engine.selftest.probabilities import check_probabilities
from engine.selftest.verdict import Check, Figures, Verdict
from engine.selftest.vocabulary import Named, check_vocabulary
from engine.speculation import TimedModel, most_rows, read_grow_map

Say = Callable[[str], None]
MEMORY = "device and memory"
PLAIN, AS_CONFIGURED, ALWAYS = (
    "one token a pass",
    "speculation changes no text",
    "drafting at every step changes no text",
)


def examine(config: EngineConfig, running: Health | None, say: Say) -> Verdict:
    """Try the models of `config`; `say` is told what goes on. `running`: an engine that runs."""
    examination = _Examination(config, say)
    examination.run(running)
    return Verdict(
        config.model,
        config.model_drafted_with,
        config.digest(),
        examination.device,
        tuple(examination.checks),
        examination.figures,
    )


@dataclass(frozen=True, slots=True)
class _Loaded:
    engine: LoadedEngine
    costs: CostTable
    load_s: float


class _Examination:
    """One self-test on its way: what has been found so far."""

    def __init__(self, config: EngineConfig, say: Say) -> None:
        self._config = config
        self._say = say
        self.checks: list[Check] = []
        self.figures: Figures | None = None
        self.device = ""

    def run(self, running: Health | None) -> None:
        """Look at one thing after another, for as long as the one before leaves something to look at."""
        opened = self._open()
        if opened is None:
            return
        target, draft = opened
        self._say("comparing tokenizers")
        self.checks += check_vocabulary(self._config, target, draft)
        if self._has_failed():
            return
        try:
            self.checks.append(check_memory(self._config, running, Machine.here(self._config)))
        except UmbrellaError as error:
            self.checks.append(Check(MEMORY, False, str(error)))
        if self._has_failed():
            return
        loaded = self._load(target)
        if loaded is None:
            return
        self._try(loaded)

    def _has_failed(self) -> bool:
        return any(check.passed is False for check in self.checks)

    def _open(self) -> tuple[Named, Named | None] | None:
        """The checkpoints, their configuration read and their files there and whole."""
        found: list[Named] = []
        config = self._config
        for role, name, revision in (
            ("target", config.model, config.revision),
            ("draft", config.model_drafted_with, config.draft_revision),
        ):
            if name is None:
                continue
            self._say(f"opening the {role} {name}")
            try:
                checkpoint = Checkpoint.open(find(name, revision))
            except UmbrellaError as error:
                self.checks.append(Check(f"files of the {role}", False, str(error)))
                continue
            shape = checkpoint.config
            message = (
                f"{shape.num_layers} layers of {shape.hidden_size}, context {shape.max_position}, "
                f"{gib(checkpoint.size_bytes)} in {checkpoint.folder}"
            )
            self.checks.append(Check(f"files of the {role}", True, message))
            found.append(Named(name, checkpoint))
        if self._has_failed():
            return None
        return found[0], found[1] if len(found) > 1 else None

    def _load(self, target: Named) -> _Loaded | None:
        """The models in memory, and the target's cost table, measured now if none is kept."""
        name = "shapes and numbers"
        began = time.perf_counter()
        try:
            loading = self._progress("loading")
            engine = LoadedEngine.load(self._config, lambda share, _what: loading(share))
            rows = most_rows(self._config, read_grow_map(self._config, engine.decoder.max_length))
        except UmbrellaError as error:
            self.checks.append(Check(name, False, str(error)))
            return None
        except (MemoryError, torch.OutOfMemoryError):
            advice = "choose a smaller checkpoint, one quantised to INT4, or a lower max_length"
            self.checks.append(Check(name, False, f"memory ran out while loading; {advice}"))
            return None
        load_s = time.perf_counter() - began
        model = engine.decoder.target
        self.device = f"{model.device} {str(model.dtype).removeprefix('torch.')}"
        self.checks.append(Check(name, True, "every tensor is there, of its shape, and finite"))
        return _Loaded(engine, TimedModel.of(target.checkpoint, model, rows).costs, load_s)

    def _progress(self, what: str) -> Callable[[float], None]:
        """What says how much of `what` is done, a tenth at a time."""
        told = 0

        def progress(share: float) -> None:
            nonlocal told
            if int(10 * share) > told:
                told = int(10 * share)
                self._say(f"{what}, {told / 10:.0%}")

        return progress

    def _try(self, loaded: _Loaded) -> None:
        try:
            self._read(loaded.engine)
            self._decode(loaded)
        except UmbrellaError as error:
            self.checks.append(Check(AS_CONFIGURED, False, str(error)))
        except torch.OutOfMemoryError:
            advice = "lower max_length or slots"
            self.checks.append(Check(AS_CONFIGURED, False, f"the GPU's memory ran out; {advice}"))

    def _read(self, engine: LoadedEngine) -> None:
        """Ask both models how likely they find known code."""
        self._say("reading a known snippet")
        for role, decoder in (("target", engine.decoder), ("draft", engine.draft)):
            if decoder is not None:
                self.checks += check_probabilities(role, decoder.target, engine.tokenizer, engine.begin_token)

    def _decode(self, loaded: _Loaded) -> None:
        """Continue the prompts in every way, compare the texts, and time all but the first prompt."""
        engine = loaded.engine
        decoder = engine.decoder
        effort = Effort.affordable(loaded.costs.ms(1))
        decoding = Decoding(engine, effort.max_tokens)
        ways: dict[str, tuple[Decoder, bool]] = {PLAIN: (decoder, False), AS_CONFIGURED: (decoder, True)}
        if self._config.engine == "dynamic":
            ways[ALWAYS] = (always_drafting(engine, self._config), True)
        texts: dict[str, list[Run]] = {}
        built = prompts(engine, effort)
        progress = self._progress("decoding plainly and with drafts")
        # One way after the other, so that there are the keys and values of only one slot at a time.
        for way, (through, speculative) in ways.items():
            texts[way] = []
            for run in decoding.runs(through, built, speculative=speculative):
                texts[way].append(run)
                progress(sum(map(len, texts.values())) / (len(ways) * len(built)))
        plain = texts[PLAIN]
        for way in list(ways)[1:]:
            pairs = zip(built, plain, texts[way], strict=True)
            partings = [part(decoder.target, prompt, one, other) for prompt, one, other in pairs]
            drafted = sum(run.drafted for run in texts[way])
            self.checks.append(same_text(way, decoder.target.dtype, partings, drafted))
        # The first prompt is a warm-up: what is set up at a first pass is no part of any figure.
        self.figures = figures(loaded, plain[1:], texts[AS_CONFIGURED][1:])


def figures(loaded: _Loaded, plain: list[Run], speculative: list[Run]) -> Figures:
    """How fast the `plain` and the `speculative` runs were."""
    device, costs = loaded.engine.decoder.target.device, loaded.costs
    return Figures(
        load_s=loaded.load_s,
        plain_tokens_per_s=rate(plain),
        speculative_tokens_per_s=rate(speculative),
        tokens_per_pass=tokens_per_pass(speculative),
        drafted=sum(run.drafted for run in speculative),
        accepted=sum(run.accepted for run in speculative),
        plain_pass=pass_time(plain, costs),
        speculative_pass=pass_time(speculative, costs),
        memory_bytes=_peak_bytes(),
        gpu_memory_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    )


def check_memory(config: EngineConfig, running: Health | None, machine: Machine) -> Check:
    """Whether the models fit, beside an engine that may be `running` already. Raises CheckpointError.

    Layers that stream from memory that is there fit. Beside a running engine, none may have to come from
    disk: it is that engine that would be harmed.
    """
    stop = running and f"an engine (process {running.pid}) runs: run `umbrella-engine stop` and try again"
    try:
        made = plan(config, machine)
    except ConfigError as error:
        return Check(MEMORY, False, f"{error} Besides, {stop}" if stop else str(error))
    where = "the machine" if made.form == "cpu" else "the GPU"
    found = f"the models take about {gib(made.bytes_at('device'))} of {where}"
    if made.device_budget is None:
        return Check(MEMORY, None, f"{found}; how much is free is not known here")
    found += f", which has {gib(made.device_budget)} for them"
    if made.target.streamed:
        found += f"; {len(made.target.streamed)} of {len(made.layer_bytes)} layers stream"
    if made.target.from_disk:
        found += f", {gib(made.disk_pass_bytes)} of them from disk"
        if running:
            return Check(MEMORY, False, f"{found}, and {stop}")
    beside = f", beside the engine that runs (process {running.pid})" if running else ""
    return Check(MEMORY, True, found + beside)


def _peak_bytes() -> int | None:
    """The most memory that this process has had; None where the system does not tell."""
    if sys.platform == "win32":
        return None
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
