import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import CheckpointError
from engine.tokenizer import Tokenizer
from tests.engine.tiny_tokenizer import write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def test_text_never_becomes_a_special_token(tokenizer: Tokenizer):
    special = tokenizer.special("<|eot_id|>")
    assert special not in tokenizer.encode("a = '<|eot_id|>'")
    assert tokenizer.decode(tokenizer.encode("<|eot_id|>")) == "<|eot_id|>"


@given(st.text(max_size=40))
def test_streamed_text_adds_up_to_what_was_encoded(tokenizer: Tokenizer, text: str):
    stream = tokenizer.detokenizer(tokenizer.encode("x = 1\n"))
    assert "".join(map(stream.push, tokenizer.encode(text))) == text


def test_a_character_that_spans_tokens_comes_out_whole(tokenizer: Tokenizer):
    ids = tokenizer.encode("🙂")
    stream = tokenizer.detokenizer()
    assert len(ids) == 4
    assert [stream.push(token) for token in ids] == ["", "", "", "🙂"]


@pytest.mark.parametrize("before", ["name = '\N{REPLACEMENT CHARACTER}", "name = 'é"[:-1] + "é"])
def test_nothing_of_the_prompt_comes_out_again(tokenizer: Tokenizer, before: str):
    ids = tokenizer.encode(before)
    for cut in range(len(ids) - 3, len(ids) + 1):
        stream = tokenizer.detokenizer(ids[:cut])
        assert "".join(map(stream.push, tokenizer.encode("x = 1"))).endswith("x = 1")
        assert "name" not in "".join(map(tokenizer.detokenizer(ids[:cut]).push, tokenizer.encode("x = 1")))


def test_a_line_break_takes_the_next_lines_indentation_with_it(tokenizer: Tokenizer):
    ids = tokenizer.encode("pass\n    return")
    assert "\n    " in [tokenizer.decode([token]) for token in ids]


def test_a_special_token_that_a_template_needs_and_the_vocabulary_lacks_is_named(tokenizer: Tokenizer):
    with pytest.raises(CheckpointError, match="fim_middle"):
        tokenizer.special("<|fim_middle|>")


def test_a_folder_without_a_tokenizer_is_refused_by_name(tmp_path: Path):
    with pytest.raises(CheckpointError, match=tmp_path.name):
        Tokenizer.load(tmp_path)


def test_a_tokenizer_that_cannot_be_parsed_is_refused_by_name(tmp_path: Path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_text_never_becomes_a_token_that_is_reserved_though_its_file_calls_it_plain(tmp_path: Path):
    write_tokenizer(tmp_path)
    file = tmp_path / "tokenizer.json"
    plain = json.loads(file.read_text())
    plain["added_tokens"].append(
        {**plain["added_tokens"][0], "id": 1000, "content": "<|mid|>", "special": False}
    )
    file.write_text(json.dumps(plain))
    tokenizer = Tokenizer.load(tmp_path)
    token = tokenizer.special("<|mid|>")
    assert tokenizer.encode("<|mid|>") == [token]
    tokenizer.reserve(["<|mid|>", "<|nosuch|>"])
    assert token not in tokenizer.encode("<|mid|>")
    assert tokenizer.special("<|mid|>") == token
    assert tokenizer.find_special("<|nosuch|>") is None
    assert tokenizer.decode([token]) == ""
