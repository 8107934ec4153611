"""Prompt templates: how segments become one prompt, as text. Knows nothing of tokens or budgets.

A prompt is a list of pieces. A `Special` names one special token; a `Text` is encoded without ever
becoming one, so a file that contains ``<|eot_id|>`` stays data. Order is stable first, cursor last
where a format allows it: keystrokes only append, and everything before them stays in the KV cache. A
model that was only ever trained with the suffix behind the prefix gets it there, at the price of the
suffix being read again at every keystroke; the prefix is the piece whose `segment` is the prompt's.

Templates for models that follow instructions open the answer themselves, with a fence and the code before
the cursor, so that the model is within a block of code and not about to introduce one.

`PROMPT_FORMAT` changes whenever a rendered prompt changes, because the bundled pair is trained on
exactly this rendering.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from engine.errors import ConfigError
from engine.protocol import Segment
from engine.request import ChatPrompt, Message

PROMPT_FORMAT = "llama3-code/1"


@dataclass(frozen=True, slots=True)
class Special:
    """One special token, by its text."""

    token: str


@dataclass(frozen=True, slots=True)
class Text:
    """Text that is never parsed for special tokens.

    `segment` is the `CodePrompt` part it came from, or None for the template's own words.
    """

    text: str
    segment: Segment | None = None


Piece = Special | Text


@dataclass(frozen=True, slots=True)
class CodePrompt:
    """What a code template renders: the cursor's file, what lies around, what stands on both sides."""

    prefix: Segment
    suffix: Segment | None = None
    context: tuple[Segment, ...] = ()
    path: str = ""
    language: str = ""


@dataclass(frozen=True, slots=True)
class CodeTemplate:
    """A named rendering, with the tokens after which the model has said all it wants to say."""

    name: str
    render: Callable[[CodePrompt], list[Piece]]
    end_tokens: tuple[str, ...]
    """The first is the one that training writes behind an answer."""
    stop_strings: tuple[str, ...] = ()
    """Text that ends the answer, as the end tokens do, and is no part of it; each begins a line."""

    def stops_behind(self, prefix: str) -> tuple[str, ...]:
        """`stop_strings` as they can occur in an answer that follows `prefix`, which may begin a line."""
        at_once = [string.removeprefix("\n") for string in self.stop_strings] if prefix.endswith("\n") else []
        return (*self.stop_strings, *at_once)

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """The special tokens a tokenizer must have for this template, in the order they are written."""
        rendered = self.render(CodePrompt(Segment("prefix", ""), context=(Segment("snippet", ""),)))
        tokens = [piece.token for piece in rendered if isinstance(piece, Special)]
        return tuple(dict.fromkeys([*tokens, self.end_tokens[0]]))


def _turn(role: str) -> list[Piece]:
    return [Special("<|start_header_id|>"), Text(role), Special("<|end_header_id|>"), Text("\n\n")]


def _llama3_code(prompt: CodePrompt) -> list[Piece]:
    """UMbreLLa's ``llama3-code``: the answer is a call of the Python tool, begun with the user's own code.

    Llama 3's prompt format has the header roles and ``<|python_tag|>`` (Meta, "Llama 3.1 model card
    and prompt formats"). The assistant's turn opens with the code before the cursor, whatever the
    language, so the model continues code where it might otherwise have talked about it.
    """
    pieces: list[Piece] = [Special("<|begin_of_text|>"), *_turn("system")]
    pieces += [Text("Environment: ipython"), Special("<|eot_id|>"), *_turn("user")]
    pieces += [*_task(prompt, "Reply with code only."), Special("<|eot_id|>")]
    pieces += [*_turn("assistant"), Special("<|python_tag|>"), Text(prompt.prefix.text, prompt.prefix)]
    return pieces


def _task(prompt: CodePrompt, reply: str) -> list[Piece]:
    """What a user asks for, with `reply` to say in which form, and all that is known but the prefix."""
    language = f"{prompt.language} " if prompt.language else ""
    name = prompt.path or "at hand"
    pieces: list[Piece] = [Text(f"Continue the {language}file {name}. {reply}\n")]
    for segment in prompt.context:
        pieces += [Text(f"\nFrom {segment.path}:\n"), Text(segment.text, segment), Text("\n")]
    if prompt.suffix is not None and prompt.suffix.text:
        pieces += [Text("\nAfter the cursor:\n"), Text(prompt.suffix.text, prompt.suffix)]
    return pieces


SYSTEM = "You write the code that is missing at the cursor of an editor."
BLOCK = (
    "Reply with one code block: the code before the cursor as it is, then what belongs at the cursor, and "
    "nothing of what stands after it."
)
FENCE = "```"


def _block(prompt: CodePrompt) -> list[Piece]:
    """The answer that `BLOCK` asks for, up to the cursor."""
    return [Text(f"{FENCE}{prompt.language}\n"), Text(prompt.prefix.text, prompt.prefix)]


def _meta_llama3(prompt: CodePrompt) -> list[Piece]:
    """A chat in Llama 3's prompt format (Meta, "Llama 3.1 model card and prompt formats")."""
    pieces: list[Piece] = [Special("<|begin_of_text|>"), *_turn("system")]
    pieces += [Text(SYSTEM), Special("<|eot_id|>"), *_turn("user"), *_task(prompt, BLOCK)]
    return [*pieces, Special("<|eot_id|>"), *_turn("assistant"), *_block(prompt)]


def _qwen(prompt: CodePrompt) -> list[Piece]:
    """A chat in ChatML, as Qwen's instruct models know it (Yang et al. 2024, "Qwen2.5 Technical Report")."""
    pieces: list[Piece] = [Special("<|im_start|>"), Text(f"system\n{SYSTEM}"), Special("<|im_end|>")]
    pieces += [Text("\n"), Special("<|im_start|>"), Text("user\n"), *_task(prompt, BLOCK)]
    pieces += [Special("<|im_end|>"), Text("\n"), Special("<|im_start|>"), Text("assistant\n")]
    return [*pieces, *_block(prompt)]


def _mistral(prompt: CodePrompt) -> list[Piece]:
    """A chat as Mistral's instruct models know it that have tokens for the brackets: those since v0.3.

    They have no system turn, or not all do. No blanks are written around the brackets: tokenizers
    that want one put it there (Mistral AI, mistral-common's "tokenizer versions").
    """
    return [Special("<s>"), Special("[INST]"), *_task(prompt, BLOCK), Special("[/INST]"), *_block(prompt)]


@dataclass(frozen=True, slots=True)
class ChatForm:
    """How a family of models writes chats, by name."""

    name: str
    render: Callable[[ChatPrompt], list[Piece]]
    """Up to where the answer begins: behind the last message if that is open, else in a turn of its own."""
    end_tokens: tuple[str, ...]

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """The special tokens that a tokenizer must have for it."""
        roles = ("system", "user", "assistant", "user")
        rendered = self.render(ChatPrompt(tuple(Message(role, "") for role in roles)))
        tokens = [piece.token for piece in rendered if isinstance(piece, Special)]
        return tuple(dict.fromkeys([*tokens, self.end_tokens[0]]))


def _llama3_chat(prompt: ChatPrompt) -> list[Piece]:
    """Llama 3's prompt format (Meta, "Llama 3.1 model card and prompt formats")."""
    pieces: list[Piece] = [Special("<|begin_of_text|>")]
    turns = prompt.messages if prompt.is_open else (*prompt.messages, Message("assistant", ""))
    for message in turns:
        pieces += [Special("<|start_header_id|>"), Text(message.role), Special("<|end_header_id|>")]
        pieces += [Text(f"\n\n{message.content.strip()}"), Special("<|eot_id|>")]
    return pieces[:-1]


def _chatml(prompt: ChatPrompt) -> list[Piece]:
    """ChatML, as Qwen's instruct models know it (Yang et al. 2024, "Qwen2.5 Technical Report")."""
    pieces: list[Piece] = []
    turns = prompt.messages if prompt.is_open else (*prompt.messages, Message("assistant", ""))
    for message in turns:
        pieces += [Special("<|im_start|>"), Text(f"{message.role}\n{message.content}")]
        pieces += [Special("<|im_end|>"), Text("\n")]
    return pieces[:-2]


def _mistral_chat(prompt: ChatPrompt) -> list[Piece]:
    """Mistral's format since v0.3 (Mistral AI, mistral-common's "tokenizer versions").

    It has no system turn: that goes before the user's next words, once, so that turns only append.
    """
    pieces: list[Piece] = [Special("<s>")]
    system = ""
    for message in prompt.messages:
        if message.role == "system":
            system += f"{message.content}\n\n"
        elif message.role == "user":
            pieces += [Special("[INST]"), Text(f" {system}{message.content}"), Special("[/INST]")]
            system = ""
        else:
            pieces += [Text(f" {message.content}"), Special("</s>")]
    return pieces[:-1] if prompt.is_open else pieces


REPOSITORY = "repository"
"""Stands where a format wants the repository's name, which no request tells."""
HASH_COMMENTS = {"", "python", "shellscript", "toml", "yaml"}


def _suffix(prompt: CodePrompt) -> list[Piece]:
    return [Text(prompt.suffix.text, prompt.suffix)] if prompt.suffix is not None else []


def _path_comment(path: str, language: str) -> Text:
    """How a file begins where a format has no token for its path."""
    return Text(f"{'#' if language in HASH_COMMENTS else '//'} {path}\n")


def _qwen_coder(prompt: CodePrompt) -> list[Piece]:
    """Prefix, suffix, middle, other files in front (Hui et al. 2024, "Qwen2.5-Coder Technical Report")."""
    pieces: list[Piece] = []
    if prompt.context:
        pieces += [Special("<|repo_name|>"), Text(f"{REPOSITORY}\n")]
        for segment in prompt.context:
            pieces += [Special("<|file_sep|>"), Text(f"{segment.path}\n")]
            pieces += [Text(segment.text, segment), Text("\n")]
        pieces += [Special("<|file_sep|>"), Text(f"{prompt.path}\n")]
    pieces += [Special("<|fim_prefix|>"), Text(prompt.prefix.text, prompt.prefix)]
    return [*pieces, Special("<|fim_suffix|>"), *_suffix(prompt), Special("<|fim_middle|>")]


def _starcoder2(prompt: CodePrompt) -> list[Piece]:
    """Prefix, suffix, middle (Lozhkov et al. 2024, "StarCoder 2 and The Stack v2", section 5.1).

    With other files around, the path stands within what is cut, behind ``<fim_prefix>``.
    """
    pieces: list[Piece] = []
    if prompt.context:
        pieces += [Special("<repo_name>"), Text(REPOSITORY)]
        for segment in prompt.context:
            pieces += [Special("<file_sep>"), Text(f"{segment.path}\n"), Text(segment.text, segment)]
        pieces += [Special("<file_sep>"), Special("<fim_prefix>"), Text(f"{prompt.path}\n")]
    else:
        pieces += [Special("<fim_prefix>")]
    pieces += [Text(prompt.prefix.text, prompt.prefix)]
    return [*pieces, Special("<fim_suffix>"), *_suffix(prompt), Special("<fim_middle>")]


def _one_document(prompt: CodePrompt) -> list[Piece]:
    """Other files and the code before the cursor, each file below a comment with its path."""
    pieces: list[Piece] = []
    for segment in prompt.context:
        pieces += [_path_comment(segment.path, prompt.language), Text(segment.text, segment), Text("\n")]
    if prompt.context:
        pieces += [_path_comment(prompt.path, prompt.language)]
    return [*pieces, Text(prompt.prefix.text, prompt.prefix)]


def _codellama(prompt: CodePrompt) -> list[Piece]:
    """Suffix, prefix, middle: half of what Code Llama was taught (Rozière et al. 2023, section 2.3).

    There is no token for other files: they stand before the cursor's own, as if they were one with it.
    """
    pieces = [Special("<s>"), Special("▁<PRE>"), Special("▁<SUF>"), *_suffix(prompt), Special("▁<MID>")]
    return [*pieces, *_one_document(prompt)]


def _deepseek_coder(prompt: CodePrompt) -> list[Piece]:
    """Prefix, suffix, middle (Guo et al. 2024, "DeepSeek-Coder", section 3.1).

    Training cut whole repositories joined into one document, so other files belong to the prefix.
    """
    pieces: list[Piece] = [Special("<｜begin▁of▁sentence｜>"), Special("<｜fim▁begin｜>")]
    pieces += _one_document(prompt)
    return [*pieces, Special("<｜fim▁hole｜>"), *_suffix(prompt), Special("<｜fim▁end｜>")]


_QWEN_ENDS = (
    *("<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
    *("<|repo_name|>", "<|file_sep|>", "<|im_start|>", "<|im_end|>"),
)
"""Qwen2.5-Coder's README stops at all of these."""

_LLAMA3_ENDS = ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>")

_TAUGHT = (
    CodeTemplate("llama3-code", _llama3_code, _LLAMA3_ENDS),
    CodeTemplate("qwen2.5-coder", _qwen_coder, _QWEN_ENDS),
    CodeTemplate("starcoder2", _starcoder2, ("<|endoftext|>", "<file_sep>", "<repo_name>")),
    CodeTemplate("codellama", _codellama, ("▁<EOT>", "</s>")),
    CodeTemplate("deepseek-coder", _deepseek_coder, ("<｜end▁of▁sentence｜>", "<|EOT|>")),
)
"""For models that were trained on such prompts."""

_FENCE_LINE = (f"\n{FENCE}",)
_ASKED = (
    CodeTemplate("meta-llama3", _meta_llama3, _LLAMA3_ENDS, _FENCE_LINE),
    CodeTemplate("qwen", _qwen, ("<|im_end|>", "<|endoftext|>"), _FENCE_LINE),
    CodeTemplate("mistral", _mistral, ("</s>",), _FENCE_LINE),
)
"""For models that follow instructions, and are only asked for code."""

TEMPLATES: dict[str, CodeTemplate] = {template.name: template for template in (*_TAUGHT, *_ASKED)}

CHAT_TEMPLATES: dict[str, ChatForm] = {
    form.name: form
    for form in (
        ChatForm("meta-llama3", _llama3_chat, _LLAMA3_ENDS),
        ChatForm("qwen", _chatml, ("<|im_end|>", "<|endoftext|>")),
        ChatForm("mistral", _mistral_chat, ("</s>",)),
    )
}
"""For tokenizers that come without a chat template, or with a worse one."""


def template_for(tokens: Collection[str]) -> CodeTemplate:
    """The template whose special tokens are all among `tokens`, a tokenizer's vocabulary or its added tokens.

    Not one of those that only ask for code: nearly any chat model would have its tokens. Raises ConfigError
    where none fits, with what each template lacks.
    """
    lacking: list[str] = []
    for template in _TAUGHT:
        missing = [token for token in template.special_tokens if token not in tokens]
        if not missing:
            return template
        lacking.append(f"{template.name} needs {' '.join(missing)}")
    raise ConfigError(
        f"the tokenizer has the special tokens of no prompt template: {'; '.join(lacking)}. Choose a model "
        "that was trained to fill in code."
    )
