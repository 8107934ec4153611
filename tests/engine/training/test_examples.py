from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from engine.prompt import PromptBuilder
from engine.protocol import Segment
from engine.templates import TEMPLATES
from engine.tokenizer import Tokenizer
from engine.training.corpus import SourceFile
from engine.training.examples import ExampleMaker, ExampleMix, pack
from tests.engine.tiny_tokenizer import write_tokenizer

CODE = "".join(f"def add{n}(self, value):\n    return self.value + value\n\n\n" for n in range(8))
FILES = [SourceFile("bank", "bank/a.py", CODE), SourceFile("bank", "bank/b.py", "total = 0\n" * 30)]
PLAIN = ExampleMix(suffix=0.0, context=0.0, rename=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return folder


def maker(folder: Path, mix: ExampleMix) -> ExampleMaker:
    return ExampleMaker(FILES, PreTrainedTokenizerFast.from_pretrained(folder), mix, seed=3)


def test_an_example_is_the_daemons_own_prompt_continued_to_the_end_token(folder: Path):
    tokenizer = Tokenizer.load(folder)
    ids = maker(folder, PLAIN).example(FILES[0], 0, 60)
    prompts = PromptBuilder(TEMPLATES["llama3-code"], tokenizer, 4000)
    prompt = prompts.code([Segment("prefix", "")], "bank/a.py", "python", 1).tokens
    assert tuple(ids[: len(prompt)]) == prompt
    assert tokenizer.decode(ids[len(prompt) : -1]) == CODE[:60]
    assert ids[-1] == tokenizer.special("<|eot_id|>")


def test_cursors_cut_the_code_where_typing_stands(folder: Path):
    examples = [maker(folder, PLAIN).example(FILES[0], 0, 400) for _ in range(3)]
    whole = Tokenizer.load(folder).encode(CODE[:400])
    assert all(len(ids) > len(whole) for ids in examples)


def test_a_renamed_word_is_renamed_alike_throughout(folder: Path):
    renamed = maker(folder, ExampleMix(suffix=0.0, context=0.0, rename=1.0))
    tokenizer = Tokenizer.load(folder)
    texts = {tokenizer.decode(renamed.example(FILES[0], 0, 300)) for _ in range(100)}
    replaced = [text for text in texts if "value" not in text]
    assert replaced
    for text in replaced:
        name = text.split("(self, ")[1].split(")")[0]
        assert f"self.{name} + {name}" in text


def test_the_same_seed_makes_the_same_epoch(folder: Path):
    assert list(maker(folder, ExampleMix()).epoch()) == list(maker(folder, ExampleMix()).epoch())


def test_rows_follow_one_another_and_share_the_token_between_input_and_target():
    rows = pack(iter([[1, 2, 3], [4, 5, 6, 7]]), 3)
    assert rows.tolist() == [[1, 2, 3, 4], [4, 5, 6, 7]]
