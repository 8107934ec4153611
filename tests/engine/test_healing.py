from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

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
    agreeing = [i for i, text in TEXTS if text and (text.startswith(owed) or owed.startswith(text))]
    assert list(Beginnings(TEXTS).of(owed)) == agreeing


@given(st.text("abc", max_size=6), st.randoms(use_true_random=False))
def test_whatever_allowed_tokens_come_the_text_begins_with_the_word_and_only_the_rest_is_new(owed: str, rng):
    debt = Debt(owed, Beginnings(TEXTS))
    written = new = ""
    pieces = 0
    while (allowed := debt.allowed()) is not None:
        token = rng.choice(allowed)
        pieces += 1
        written += WORDS[token]
        new += debt.pay(WORDS[token])
    assert written == owed + new
    assert debt.rewritten == pieces - bool(new)
    assert debt.pay("abc") == "abc"


@given(st.text("abc", max_size=6), st.randoms(use_true_random=False))
def test_what_may_follow_a_path_is_told_before_it_is_taken(owed: str, rng):
    beginnings = Beginnings(TEXTS)
    ahead, debt, path = Debt(owed, beginnings), Debt(owed, beginnings), list[int]()
    for _ in range(8):
        assert ahead.allowed_behind()(path) == debt.allowed()
        path.append(rng.choice(debt.allowed() or range(1, len(WORDS))))
        debt.pay(WORDS[path[-1]])


def test_a_token_that_ends_within_a_character_is_never_allowed():
    assert Beginnings([(0, " \ufffd"), (1, " "), (2, "\ufffd"), (3, " a")]).of(" ") == (1, 3)


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
        ("x", "x"),
        ("imp", "imp"),
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


def test_a_tokenizer_that_writes_blanks_into_its_words_is_healed_as_well(tmp_path: Path):
    """The way of Llama 2 and CodeLlama: nothing is split beforehand, and a text's first blank is implied."""
    merges = [("n", "a"), ("m", "e"), ("na", "me"), ("▁", "name"), ("▁", "na"), ("▁", "x"), ("▁", "=")]
    pieces = ["<unk>", *"▁abcdefghijklmnopqrstuvwxyz=.", *(a + b for a, b in merges)]
    fast = FastTokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, merges, unk_token="<unk>"))
    fast.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])  # type: ignore[assignment]
    fast.decoder = decoders.Sequence(  # type: ignore[assignment]
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    PreTrainedTokenizerFast(tokenizer_object=fast, unk_token="<unk>").save_pretrained(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.last_word("x = na") == " na"
    allowed = Beginnings(tokenizer.texts()).of(" na")
    assert {pieces[i] for i in allowed} == {"▁", "▁na", "▁name"}
    debt = Debt(" na", Beginnings(tokenizer.texts()))
    write = tokenizer.detokenizer(tokenizer.encode("x =")).push
    assert debt.pay(write(pieces.index("▁name"))) == "me"
