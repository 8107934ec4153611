from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.protocol import Segment
from engine.templates import TEMPLATES, CodePrompt, Piece, Special, Text, template_for

GOLDEN = Path(__file__).parents[1] / "golden"
PREFIX = Segment("prefix", "def add(a, b):\n    ")
SUFFIX = Segment("suffix", "\n\nprint(add(1, 2))\n")
CONTEXT = (
    Segment("definition", "class Account:\n    pass\n", path="app/bank.py"),
    Segment("edit", "total = 0\n", path="app/main.py"),
)
ASKED = ("meta-llama3", "qwen", "mistral")
PROMPT = CodePrompt(PREFIX, SUFFIX, CONTEXT, "app/sums.py", "python")


def as_text(pieces: list[Piece]) -> str:
    return "".join(piece.token if isinstance(piece, Special) else piece.text for piece in pieces)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_prompt_with_other_files_is_written_as_its_model_was_taught(name: str) -> None:
    assert as_text(TEMPLATES[name].render(PROMPT)) == (GOLDEN / f"{name}.txt").read_text().removesuffix("\n")


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("qwen2.5-coder", "<|fim_prefix|>a = <|fim_suffix|>\nb = 2<|fim_middle|>"),
        ("starcoder2", "<fim_prefix>a = <fim_suffix>\nb = 2<fim_middle>"),
        ("codellama", "<s>▁<PRE>▁<SUF>\nb = 2▁<MID>a = "),
        ("deepseek-coder", "<｜begin▁of▁sentence｜><｜fim▁begin｜>a = <｜fim▁hole｜>\nb = 2<｜fim▁end｜>"),
    ],
)
def test_a_file_on_its_own_is_cut_as_its_model_was_taught(name: str, written: str) -> None:
    alone = CodePrompt(
        Segment("prefix", "a = "), Segment("suffix", "\nb = 2"), path="a.py", language="python"
    )
    assert as_text(TEMPLATES[name].render(alone)) == written


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_part_of_a_prompt_is_marked_as_what_it_is(name: str) -> None:
    pieces = TEMPLATES[name].render(PROMPT)
    parts = [piece.segment for piece in pieces if isinstance(piece, Text) and piece.segment is not None]
    assert sorted(map(id, parts)) == sorted(map(id, (PREFIX, SUFFIX, *CONTEXT)))


def test_a_path_becomes_a_comment_of_the_language() -> None:
    go = CodePrompt(PREFIX, context=CONTEXT[:1], path="main.go", language="go")
    assert as_text(TEMPLATES["codellama"].render(go)).endswith(
        f"▁<MID>// app/bank.py\n{CONTEXT[0].text}\n// main.go\n{PREFIX.text}"
    )


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name not in ASKED])
def test_a_tokenizer_is_given_the_template_whose_special_tokens_it_has(name: str) -> None:
    vocabulary = {"def", "return", *TEMPLATES[name].special_tokens}
    assert template_for(vocabulary).name == name


@pytest.mark.parametrize("name", ASKED)
def test_a_tokenizer_that_only_knows_how_to_chat_is_given_none(name: str) -> None:
    with pytest.raises(ConfigError, match="no prompt template"):
        template_for(TEMPLATES[name].special_tokens)


@pytest.mark.parametrize("name", ASKED)
def test_an_answer_that_was_opened_with_a_fence_ends_at_the_next_line_that_begins_with_one(name: str) -> None:
    template = TEMPLATES[name]
    assert template.stops_behind("def f():") == ("\n```",)
    assert template.stops_behind("def f():\n") == ("\n```", "```")


def test_code_that_is_no_chat_s_answer_may_hold_fences() -> None:
    assert [name for name in TEMPLATES if TEMPLATES[name].stops_behind("\n")] == list(ASKED)


def test_a_tokenizer_with_only_some_of_the_tokens_fits_none_and_learns_which_are_missing() -> None:
    with pytest.raises(ConfigError, match="starcoder2 needs <repo_name> <file_sep>;"):
        template_for({"<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<|endoftext|>"})
