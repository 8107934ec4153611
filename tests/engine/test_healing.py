from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.healing import Beginnings, Debt
from engine.prompt import PromptBuilder
from engine.protocol import Segment, StopSpec
from engine.templates import TEMPLATES
from engine.text import TextStream
from engine.tokenizer import Tokenizer
from tests.engine.tiny_tokenizer import write_tokenizer

WORDS = ["", "a", "ab", "abc", "b", "bc", "c", " a", " ab", "(", "(a", "x"]
TEXTS = list(enumerate(WORDS))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@given(st.text("abc( ", min_size=1, max_size=5))
def test_the_tokens_allowed_are_those_that_agree_with_what_is_owed(owed: str):
    agreeing = {i for i, text in TEXTS if text and (text.startswith(owed) or owed.startswith(text))}
    assert Beginnings(TEXTS).of(owed) == agreeing


@given(st.text("abc", max_size=6), st.randoms(use_true_random=False))
def test_whatever_allowed_tokens_come_the_text_begins_with_the_word_and_only_the_rest_is_new(owed: str, rng):
    debt = Debt(owed, Beginnings(TEXTS))
    written = new = ""
    while (allowed := debt.allowed()) is not None:
        token = rng.choice(sorted(allowed))
        written += WORDS[token]
        new += debt.pay(WORDS[token])
    assert written == owed + new
    assert debt.pay("abc") == "abc"


def test_a_word_that_no_token_agrees_with_is_given_up():
    debt = Debt("?", Beginnings(TEXTS))
    assert debt.allowed() is None
    assert debt.pay("ab") == "ab"
    assert debt.allowed() is None


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("def add(self, val", " val"),
        ("    return self.va", ".va"),
        ("self.add(", "("),
        ("total = ", " "),
        ("a_nam", "_nam"),
        ("class A:\n    ", ""),
        ("class A:\n", ""),
        ("x = 'é", ""),
        ("", ""),
        ("x", ""),
        ("a" * 200, ""),
    ],
)
def test_the_word_at_the_cursor_is_what_more_typing_would_split_otherwise(
    tokenizer: Tokenizer, text: str, word: str
):
    assert tokenizer.last_word(text) == word


def test_a_prompt_ends_before_the_word_and_the_answer_shows_only_what_is_new(tokenizer: Tokenizer):
    prompts = PromptBuilder(TEMPLATES["llama3-code"], tokenizer, 400)
    whole = prompts.code([Segment("prefix", "def add(self, value):\n    return sel")], "a.py", "python", 8)
    assert whole.owed == " sel"
    assert tokenizer.decode(whole.tokens).endswith("def add(self, value):\n    return")
    beginnings = Beginnings(tokenizer.texts())
    stream = TextStream(
        tokenizer.detokenizer(whole.tokens).push, [], StopSpec(max_lines=1), Debt(" sel", beginnings)
    )
    for token in tokenizer.encode(" self.value\n"):
        assert stream.allowed() is None or token in stream.allowed()  # pyright: ignore[reportOperatorIssue]
        stream.push(token)
    assert stream.finish() == "f.value"


def test_no_special_token_agrees_with_any_text(tokenizer: Tokenizer):
    special = tokenizer.special("<|eot_id|>")
    assert all(special not in Beginnings(tokenizer.texts()).of(text) for text in ("<", "<|eot_id|>", " "))


def test_a_tokenizer_that_splits_nothing_beforehand_gives_up_its_last_token(tmp_path: Path):
    from tokenizers import Tokenizer as FastTokenizer
    from tokenizers import decoders, models
    from transformers import PreTrainedTokenizerFast

    pieces = {"<unk>": 0, "▁": 1, "▁ret": 2, "urn": 3, "▁re": 4, "r": 5, "e": 6, "t": 7, "u": 8, "n": 9}
    fast = FastTokenizer(models.Unigram([(piece, -float(i)) for piece, i in pieces.items()], unk_id=0))
    fast.decoder = decoders.Replace("▁", " ")  # type: ignore[assignment]
    PreTrainedTokenizerFast(tokenizer_object=fast, unk_token="<unk>").save_pretrained(tmp_path)
    assert Tokenizer.load(tmp_path).last_word("▁return") == "urn"
