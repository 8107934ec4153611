from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from engine.prompt import PromptBuilder
from engine.protocol import Segment
from engine.templates import TEMPLATES
from engine.tokenizer import Tokenizer
from engine.training.corpus import SourceFile
from engine.training.examples import ExampleMaker, ExampleMix
from engine.training.vocabulary import train_tokenizer
from tests.engine.tiny_tokenizer import write_tokenizer

CODE = "".join(f"def add{n}(self, value):\n    return self.value + value\n\n\n" for n in range(8))
FILES = [SourceFile("bank", "bank/a.py", CODE), SourceFile("bank", "bank/b.py", "total = 0\n" * 30)]
PLAIN = ExampleMix(suffix=0.0, context=0.0, rename=0.0, sibling=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return folder


def maker(folder: Path, mix: ExampleMix) -> ExampleMaker:
    return ExampleMaker(FILES, Tokenizer.load(folder), TEMPLATES["llama3-code"], mix, seed=3)


def test_an_example_is_the_daemons_own_prompt_continued_to_the_end_token(folder: Path):
    tokenizer = Tokenizer.load(folder)
    example = maker(folder, PLAIN).example(FILES[0], 0, 60)
    ids = example.tokens
    prompts = PromptBuilder(TEMPLATES["llama3-code"], tokenizer, 4000)
    prompt = prompts.code([Segment("prefix", "")], "bank/a.py", "python", 1).tokens
    assert tuple(ids[: len(prompt)]) == prompt
    assert tokenizer.decode(ids[len(prompt) : -1]) == CODE[:60]
    assert ids[-1] == tokenizer.special("<|eot_id|>")
    assert example.code_start == len(prompt)


def test_the_code_of_an_example_is_tokenised_as_a_healed_prompt_and_its_answer_are(folder: Path):
    tokenizer = Tokenizer.load(folder)
    whole = tokenizer.encode(CODE[:400])
    for _ in range(20):
        example = maker(folder, PLAIN).example(FILES[0], 0, 400)
        assert example.tokens[example.code_start : -1] == whole


def test_a_renamed_word_is_renamed_alike_throughout(folder: Path):
    renamed = maker(folder, replace(PLAIN, rename=1.0))
    tokenizer = Tokenizer.load(folder)
    texts = {tokenizer.decode(renamed.example(FILES[0], 0, 300).tokens) for _ in range(100)}
    replaced = [text for text in texts if "value" not in text]
    assert replaced
    for text in replaced:
        name = text.split("(self, ")[1].split(")")[0]
        assert f"self.{name} + {name}" in text


def test_the_same_seed_makes_the_same_epoch(folder: Path):
    assert list(maker(folder, ExampleMix()).epoch()) == list(maker(folder, ExampleMix()).epoch())


def test_a_fill_in_the_middle_example_puts_the_code_on_both_sides_of_the_gap(tmp_path: Path):
    template = TEMPLATES["qwen2.5-coder"]
    vocabulary = train_tokenizer([CODE], 320, tmp_path)
    vocabulary.add_special_tokens({"additional_special_tokens": list(template.special_tokens)})
    vocabulary.save_pretrained(str(tmp_path))
    tokenizer = Tokenizer.load(tmp_path)
    gap = tokenizer.special("<|fim_middle|>")
    maker = ExampleMaker(FILES, tokenizer, template, replace(PLAIN, suffix=1.0), seed=0)
    for _ in range(20):
        example = maker.example(FILES[0], 0, 200)
        assert example.tokens[example.code_start - 1] == gap
        before = example.tokens[: example.code_start]
        start = before.index(tokenizer.special("<|fim_prefix|>")) + 1
        end = before.index(tokenizer.special("<|fim_suffix|>"))
        prefix = tokenizer.decode(before[start:end])
        assert prefix + tokenizer.decode(example.tokens[example.code_start : -1]) == CODE[:200]


def test_an_opening_ends_within_the_code_and_leaves_room(folder: Path):
    openings = list(islice(maker(folder, PLAIN).openings(120), 30))
    assert len(openings) == 30
    assert all(opening.code_start < len(opening.tokens) <= 120 for opening in openings)


def test_code_of_which_nothing_fits_has_no_openings(folder: Path):
    assert not list(maker(folder, PLAIN).openings(4))


def test_a_twin_of_the_code_may_stand_in_the_context(folder: Path):
    texts = [
        Tokenizer.load(folder).decode(
            maker(folder, replace(PLAIN, sibling=1.0)).example(FILES[0], 0, 300).tokens
        )
    ]
    assert all("From bank/a.py" in text for text in texts)
