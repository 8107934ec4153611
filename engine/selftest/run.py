"""The order of a self-test: what needs no weights first, then what needs them, then what takes longest."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from engine.checkpoint import Checkpoint, find
from engine.config import EngineConfig
from engine.config_tables import numbered
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
        ", ".join(draft.name for draft in config.drafts) or None,
        config.digest(),
        examination.device,
        tuple(examination.checks),
        examination.figures,
    )


@dataclass(frozen=True, slots=True)
class _Loaded:
    engine: LoadedEngine
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
        target, *drafts = opened
        self._say("comparing tokenizers")
        self.checks += check_vocabulary(self._config, target, drafts)
        if self._has_failed():
            return
        try:
            self.checks.append(check_memory(self._config, running, Machine.here(self._config)))
        except UmbrellaError as error:
            self.checks.append(Check(MEMORY, False, str(error)))
        if self._has_failed():
            return
        loaded = self._load()
        if loaded is None:
            return
        self._try(loaded)

    def _has_failed(self) -> bool:
        return any(check.passed is False for check in self.checks)

    def _open(self) -> list[Named] | None:
        """The checkpoints, the target's first, their configuration read and their files there and whole."""
        found: list[Named] = []
        named = (self._config.target, *self._config.drafts)
        for role, model in zip(_roles(len(named) - 1), named, strict=True):
            self._say(f"opening the {role} {model.name}")
            try:
                checkpoint = Checkpoint.open(find(model.name, model.revision), model.quantize)
            except UmbrellaError as error:
                self.checks.append(Check(f"files of the {role}", False, str(error)))
                continue
            shape = checkpoint.config
            message = (
                f"{shape.num_layers} layers of {shape.hidden_size}, context {shape.max_position}, "
                f"{gib(checkpoint.size_bytes)} in {checkpoint.folder}"
            )
            self.checks.append(Check(f"files of the {role}", True, message))
            found.append(Named(role, model.name, checkpoint))
        return None if self._has_failed() else found

    def _load(self) -> _Loaded | None:
        """The models in memory, timed."""
        name = "shapes and numbers"
        began = time.perf_counter()
        try:
            loading = self._progress("loading")
            engine = LoadedEngine.load(self._config, lambda share, _what: loading(share))
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
        return _Loaded(engine, load_s)

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
        """Ask all models how likely they find known code."""
        self._say("reading a known snippet")
        models = [engine.decoder.target, *(draft.transformer for draft in engine.drafts)]
        for role, model in zip(_roles(len(engine.drafts)), models, strict=True):
            self.checks += check_probabilities(role, model, engine.tokenizer, engine.begin_token)

    def _decode(self, loaded: _Loaded) -> None:
        """Continue the prompts in every way, compare the texts, and time all but the first prompt."""
        engine = loaded.engine
        decoder = engine.decoder
        effort = Effort.affordable(engine.costs.ms(1))
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


def _roles(drafts: int) -> tuple[str, ...]:
    return ("target", *numbered("draft", drafts))


def figures(loaded: _Loaded, plain: list[Run], speculative: list[Run]) -> Figures:
    """How fast the `plain` and the `speculative` runs were."""
    device, costs = loaded.engine.decoder.target.device, loaded.engine.costs
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
