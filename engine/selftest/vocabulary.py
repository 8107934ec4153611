"""Whether the tokenizers fit the models, each other and the prompt template. Reads tokenizers, no weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from engine.checkpoint import Checkpoint
from engine.config import EngineConfig
from engine.errors import CheckpointError, ConfigError, UmbrellaError
from engine.loaded import require_known_ids, require_same_vocabulary
from engine.selftest.snippet import SNIPPET
from engine.selftest.verdict import Check
from engine.templates import TEMPLATES
from engine.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Named:
    """A checkpoint, what it is for, and the name that the configuration gives it."""

    role: str
    name: str
    checkpoint: Checkpoint


def check_vocabulary(config: EngineConfig, target: Named, drafts: Sequence[Named]) -> Iterator[Check]:
    """Yield what of the target's and the drafts' vocabulary fits what."""
    try:
        tokenizer, *others = (Tokenizer.load(each.checkpoint.folder) for each in (target, *drafts))
    except CheckpointError as error:
        yield Check("tokenizer", False, str(error))
        return
    yield _known_ids(tokenizer, target)
    for other, draft in zip(others, drafts, strict=True):
        yield _known_ids(other, draft)
        yield _same(tokenizer, other, draft)
    yield _template(tokenizer, config.template)


def _known_ids(tokenizer: Tokenizer, of: Named) -> Check:
    name = f"vocabulary of the {of.role}"
    rows = of.checkpoint.config.vocab_size
    try:
        require_known_ids(tokenizer, of.checkpoint)
    except CheckpointError as error:
        return Check(name, False, str(error))
    return Check(name, True, f"{tokenizer.vocab_size} tokens, the embedding has rows for {rows}")


def _same(target: Tokenizer, draft: Tokenizer, of: Named) -> Check:
    """Every id means the same to both, and both read text alike."""
    name = f"one vocabulary for the target and the {of.role}"
    try:
        require_same_vocabulary(target, draft, of.name)
    except ConfigError as error:
        return Check(name, False, str(error))
    if target.encode(SNIPPET) != draft.encode(SNIPPET):
        return Check(
            name,
            False,
            "the tokenizers have the same tokens but split text differently; put the target's tokenizer.json "
            f"into draft_model = {of.name!r}",
        )
    return Check(name, True, "the same tokens, and the same of them for a known snippet")


def _template(tokenizer: Tokenizer, template: str) -> Check:
    """The template's special tokens are there, each one token."""
    name, wanted = "prompt template", TEMPLATES[template].special_tokens
    try:
        for token in wanted:
            tokenizer.special(token)
    except UmbrellaError as error:
        return Check(name, False, f"template = {template!r}: {error}")
    return Check(name, True, f"{template}, whose {len(wanted)} special tokens the tokenizer has")
