"""What is sent to servers elsewhere: as ids, and as text that makes the same special tokens."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import EngineConfig
from engine.config_tables import UpstreamName
from engine.errors import CheckpointError, ConfigError
from engine.protocol import Segment
from engine.remote.prompts import RemotePrompts
from engine.request import ChatPrompt, CodePrompt, Message
from tests.engine.remote.scripted import asked

CONFIG = EngineConfig(engine="remote", upstreams=(UpstreamName("http://x"),), chat_template="meta-llama3")
PROMPTS = RemotePrompts.load(CONFIG)
MARKS = list(PROMPTS.marks.values())


def _read_by_a_server(text: str) -> list[str]:
    return re.findall("|".join(map(re.escape, MARKS)), text)


@given(
    st.lists(st.sampled_from([*MARKS, "x", " ", "<", "|", "eot_id|>", "é", "\n"]), max_size=12).map("".join)
)
def test_what_a_user_writes_never_becomes_a_special_token(text: str) -> None:
    code = CodePrompt((Segment("prefix", text), Segment("suffix", text), Segment("snippet", text, "a.py")))
    chat = ChatPrompt((Message("user", text),))
    for prompt in (code, chat):
        ids = PROMPTS.build(asked(prompt=prompt)).tokens
        plain = PROMPTS.build(asked(prompt=_like(prompt))).tokens
        meant = [PROMPTS.marks[token] for token in ids if token in PROMPTS.marks]

        assert meant == [PROMPTS.marks[token] for token in plain if token in PROMPTS.marks]
        assert _read_by_a_server(PROMPTS.written(ids)) == meant


def _like(prompt: CodePrompt | ChatPrompt) -> CodePrompt | ChatPrompt:
    """The same prompt with nothing in it that a user could have meant."""
    if isinstance(prompt, ChatPrompt):
        return ChatPrompt((Message("user", "x"),))
    return CodePrompt(tuple(Segment(s.kind, "x" if s.text else "", s.path) for s in prompt.segments))


@settings(max_examples=40)
@given(st.text("abc =\n\t.(<|é漢", max_size=60))
def test_ordinary_text_is_written_as_it_is(text: str) -> None:
    ids = PROMPTS.build(asked(prompt=CodePrompt((Segment("prefix", f"{text}#"),)))).tokens

    written = PROMPTS.written(ids)

    assert written.endswith(f"<|python_tag|>{text}#")
    assert PROMPTS.vocabulary.encode(written, specials=True) == list(ids)


def test_a_mark_that_begins_with_a_blank_is_broken_up_too() -> None:
    marked = replace(PROMPTS, marks={**PROMPTS.marks, 9999: " ab"})

    assert marked.written(PROMPTS.build(asked("x ab")).tokens).endswith("x a b")


def test_what_a_server_puts_in_front_by_itself_is_not_sent() -> None:
    begins = RemotePrompts(
        PROMPTS.builder, PROMPTS.tokenizer, PROMPTS.vocabulary, 0, PROMPTS.end_tokens, PROMPTS.marks, (0,)
    )
    ids = PROMPTS.build(asked("x = ")).tokens

    assert begins.written(ids) == "x = "
    assert PROMPTS.written(ids) == "<|begin_of_text|>x = "


def test_a_special_token_that_cannot_be_written_is_an_error_that_says_so() -> None:
    unwritten = RemotePrompts(
        PROMPTS.builder, PROMPTS.tokenizer, PROMPTS.vocabulary, 0, PROMPTS.end_tokens, {4: "<|eot_id|>"}, ()
    )
    with pytest.raises(ConfigError, match=r"begin_of_text.* cannot be sent as text"):
        unwritten.written(PROMPTS.build(asked("x")).tokens)


def test_a_model_that_is_not_here_says_how_little_has_to_be_fetched() -> None:
    with pytest.raises(CheckpointError, match="umbrella-engine fetch a/b --without-weights"):
        RemotePrompts.load(EngineConfig(engine="remote", upstreams=CONFIG.upstreams, model="a/b"))
