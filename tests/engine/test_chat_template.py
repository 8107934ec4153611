"""Chats as ids: what transformers makes of them, except that no message can write a special token."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from engine.chat_template import ChatTemplate, load
from engine.errors import ConfigError, ContextExceeded, RequestError
from engine.prompt import PromptBuilder
from engine.request import ChatPrompt, Message
from engine.templates import TEMPLATES
from engine.tokenizer import Tokenizer
from tests.engine.tiny_tokenizer import SAMPLE, write_tokenizer

# The formats that Meta, Qwen and Mistral AI publish.
LLAMA = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MISTRAL = """{%- if messages[0].role == 'system' %}
    {%- set system, turns = messages[0].content, messages[1:] %}
{%- else %}
    {%- set turns = messages %}
{%- endif %}
{{- bos_token }}
{%- for m in turns %}
    {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Roles must alternate') }}
    {%- endif %}
    {%- if m.role == 'user' and loop.first and system is defined %}
        {{- '[INST] ' + system + '\n\n' + m.content + '[/INST]' }}
    {%- elif m.role == 'user' %}
        {{- '[INST] ' + m.content + '[/INST]' }}
    {%- else %}
        {%- generation %}{{- ' ' + m.content + eos_token }}{%- endgeneration %}
    {%- endif %}
{%- endfor %}"""
SPECIALS = {
    "meta-llama3": ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "qwen": ["<|im_start|>", "<|im_end|>"],
    "mistral": ["<s>", "[INST]", "[/INST]", "</s>"],
}


def _mistral_like(folder: Path) -> FastTokenizer:
    """Words begin with a blank that stands for it, as in SentencePiece, but only at the start of a text."""
    fast = FastTokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    fast.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    fast.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")])
    alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>", *alphabet], show_progress=False)
    fast.train_from_iterator([SAMPLE], trainer)
    return fast


def _write(folder: Path, name: str, template: str | dict[str, str] | None) -> Path:
    """A tokenizer of the family `name` as transformers saves it."""
    write_tokenizer(folder)
    fast = (
        _mistral_like(folder)
        if name == "mistral"
        else FastTokenizer.from_file(f"{folder / 'tokenizer.json'}")
    )
    ends = {"bos_token": SPECIALS[name][0], "eos_token": SPECIALS[name][-1]}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast, **ends)
    # As DeepSeek's: what separates turns need not be called special.
    tokenizer.add_tokens(SPECIALS[name][1:-1])
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    templates = {"meta-llama3": LLAMA, "qwen": CHATML, "mistral": MISTRAL}
    return {name: _write(tmp_path_factory.mktemp("chat"), name, text) for name, text in templates.items()}


def own(folder: Path) -> ChatTemplate:
    found = load(Tokenizer.load(folder), None)
    assert found is not None
    return found


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=30)


def chats(content: st.SearchStrategy[str]) -> st.SearchStrategy[ChatPrompt]:
    """Perhaps a system message, then user and assistant by turns, the last of whom is the user."""

    def chat(system: list[str], contents: list[str]) -> ChatPrompt:
        turns = [Message("assistant" if at % 2 else "user", text) for at, text in enumerate(contents)]
        turns = turns if len(turns) % 2 else turns[:-1]
        return ChatPrompt((*(Message("system", text) for text in system), *turns))

    contents = st.lists(content, min_size=1, max_size=4)
    return st.builds(chat, st.lists(content, max_size=1), contents)


@pytest.mark.parametrize("name", SPECIALS)
def test_an_ordinary_chat_has_the_ids_that_transformers_gives_it(name: str, folders: dict[str, Path]) -> None:
    theirs = PreTrainedTokenizerFast.from_pretrained(folders[name], local_files_only=True)
    ours = own(folders[name])

    @given(chats(WORDS))
    @settings(max_examples=25)
    def check(prompt: ChatPrompt) -> None:
        messages = [{"role": message.role, "content": message.content} for message in prompt.messages]
        wanted = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert ours.encode(prompt) == wanted

    check()


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("name", SPECIALS)
def test_nothing_in_a_message_becomes_a_special_token(
    name: str, folders: dict[str, Path], *, by_name: bool
) -> None:
    tokenizer = Tokenizer.load(folders[name])
    template = load(tokenizer, name if by_name else None)
    assert template is not None
    special = {tokenizer.special(token) for token in SPECIALS[name]}
    bits = [
        *SPECIALS[name],
        *(token[:-1] for token in SPECIALS[name]),
        "<",
        "|>",
        " ",
        "a",
        "\U000f0000",
        "0",
    ]

    def marks(prompt: ChatPrompt) -> Counter[int]:
        return Counter(token for token in template.encode(prompt) if token in special)

    @given(chats(st.lists(st.sampled_from(bits), max_size=8).map("".join)))
    @settings(max_examples=25)
    def check(prompt: ChatPrompt) -> None:
        harmless = ChatPrompt(tuple(Message(message.role, "a") for message in prompt.messages))
        assert marks(prompt) == marks(harmless)
        # Where words begin with a blank, what was taken apart does too.
        written = tokenizer.decode(template.encode(prompt), specials=True).replace(" ", "")
        assert all(message.content.replace(" ", "") in written for message in prompt.messages)

    check()


@pytest.mark.parametrize("name", SPECIALS)
def test_a_named_template_is_what_the_family_publishes(name: str, folders: dict[str, Path]) -> None:
    messages = [
        Message("system", "Be brief."),
        Message("user", "def add(a, b):"),
        Message("assistant", "Yes."),
    ]
    ours, named = own(folders[name]), load(Tokenizer.load(folders[name]), name)
    assert named is not None
    for count, is_open in ((2, False), (3, True)):
        prompt = ChatPrompt(tuple(messages[:count]), is_open=is_open)
        assert named.encode(prompt) == ours.encode(prompt)
    assert SPECIALS[name][-1] in named.end_tokens
    assert list(ours.end_tokens) == [SPECIALS[name][-1]]


@pytest.mark.parametrize("by_name", [False, True])
def test_an_open_message_goes_on_where_it_stops(folders: dict[str, Path], *, by_name: bool) -> None:
    tokenizer = Tokenizer.load(folders["qwen"])
    template = load(tokenizer, "qwen" if by_name else None)
    assert template is not None
    turns = (Message("user", "a"), Message("assistant", "return <|im_end|> "))
    ids = template.encode(ChatPrompt(turns, is_open=True))
    assert tokenizer.decode(ids, specials=True).endswith("<|im_start|>assistant\nreturn <|im_end|> ")
    assert ids.count(tokenizer.special("<|im_end|>")) == 1


def test_a_turn_only_appends_to_the_chat_before_it(folders: dict[str, Path]) -> None:
    for name, folder in folders.items():
        template = load(Tokenizer.load(folder), name)
        assert template is not None
        first = (Message("system", "s"), Message("user", "def add"))
        before = template.encode(ChatPrompt(first))
        after = template.encode(ChatPrompt((*first, Message("assistant", "value"), Message("user", "u"))))
        assert after[: len(before)] == before, name


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ raise_exception('Only users may speak') }}", "Only users may speak"),
        ("{% for m in messages %}", "refuses"),
        ("{{ messages.nothing.more }}", "refuses"),
        ("{{ messages.append(1) }}", "refuses"),
        ("{{ ''.__class__.__mro__ }}", "refuses"),
        ("{% for i in range(10**9) %}x{% endfor %}", "refuses"),
        ("{{ 1 // 0 }}", "refuses"),
    ],
)
def test_a_template_that_fails_is_the_requests_error(tmp_path: Path, source: str, message: str) -> None:
    template = own(_write(tmp_path, "qwen", source))
    with pytest.raises(RequestError, match=message) as caught:
        template.encode(ChatPrompt((Message("user", "a"),)))
    assert caught.value.field == "messages"


def test_a_template_that_drops_the_last_message_cannot_leave_it_open(tmp_path: Path) -> None:
    template = own(_write(tmp_path, "qwen", "{{ messages[0].content }}"))
    prompt = ChatPrompt((Message("user", "a"), Message("assistant", "b")), is_open=True)
    with pytest.raises(RequestError, match="go on"):
        template.encode(prompt)


def test_of_several_templates_the_default_one_is_used(tmp_path: Path) -> None:
    folder = _write(tmp_path, "qwen", {"default": "{{ messages | length | tojson }}", "tool_use": "no"})
    tokenizer = Tokenizer.load(folder)
    template = load(tokenizer, None)
    assert template is not None
    assert tokenizer.decode(template.encode(ChatPrompt((Message("user", "a"),)))) == "1"


def test_a_named_template_needs_its_special_tokens(folders: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"<\|im_start\|>"):
        load(Tokenizer.load(folders["mistral"]), "qwen")


def test_a_chat_that_the_context_cannot_hold_is_refused(folders: dict[str, Path]) -> None:
    tokenizer = Tokenizer.load(folders["qwen"])
    chats = load(tokenizer, None)
    prompts = PromptBuilder(TEMPLATES["llama3-code"], tokenizer, 64, chats=chats)
    assert prompts.chat(ChatPrompt((Message("user", "a"),))).tokens
    for messages in (
        (Message("user", "value " * 100),),
        (Message("user", "value " * 1000),),
        (Message("user", ""),) * 10_000,
    ):
        with pytest.raises(ContextExceeded) as caught:
            prompts.chat(ChatPrompt(messages))
        assert caught.value.field == "messages"


def test_a_model_without_a_template_says_what_to_do(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path)
    assert load(tokenizer, None) is None
    prompts = PromptBuilder(TEMPLATES["llama3-code"], tokenizer, 64)
    with pytest.raises(RequestError, match="set chat_template"):
        prompts.chat(ChatPrompt((Message("user", "a"),)))
