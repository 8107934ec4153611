"""What a model that was taught to chat puts around code: prose, Markdown fences, special tokens. Pure.

Knows nothing of the cursor but what language it stands in, and in which string or comment.
"""

from __future__ import annotations

import re

from umbrella_lsp.fit.brackets import scan

_SPECIAL = re.compile(
    r"<[|｜][\w▁-]{1,40}[|｜]>"  # Llama, Qwen, DeepSeek
    r"|<fim_(?:prefix|middle|suffix|pad)>"  # StarCoder
    r"|<(?:PRE|SUF|MID|EOT)>|▁<(?:PRE|SUF|MID|EOT)>"  # Code Llama
    r"|(?<![\w\])])\[/?(?:INST|PREFIX|MIDDLE|SUFFIX)\]|<</?SYS>>"  # Llama 2, Mistral; not an index
    r"|<(?:end|start)_of_turn>|<file_sep>|<\|"  # Gemma; a token that was cut short
)
_FENCE = re.compile(r"```|^[ \t]*~~~", re.MULTILINE)
PROSE = frozenset(["", "plaintext", "markdown", "restructuredtext", "latex", "asciidoc", "git-commit"])
"""Languages in which prose and fences are what is wanted."""
_MARKUP = frozenset(
    ["html", "xml", "javascriptreact", "typescriptreact", "vue", "svelte", "php", "astro", "handlebars"]
)
"""Languages that have prose between their tags."""
_ANSWER = re.compile(
    r"(?:Sure|Certainly|Of course|Absolutely|Great|Okay)\b[,!.:]|"
    r"(?:Here(?:['’]s| is| are)|Below is|This|These|The|In this|I(?:['’](?:ve|ll|m)| have| will| am| can)|"
    r"You (?:can|should|need)|Let me|Let['’]s|Note that|Explanation|To|As an AI|Please)\b"
)
_SENTENCE = re.compile(r"[A-Z][a-z'’]*(?:[,:]? [\w'’`-]+){3,}[.!?:]?")
_CODE = re.compile(r"[=;{}<>\[\]]|\w\(|\w\.\w|\w_\w")
_QUOTED = re.compile(r"`[^`\n]*`")


def is_prose(line: str) -> bool:
    """Whether a line of no comment or string is a sentence rather than code.

    It begins with a capital, and ends like a sentence or begins like an answer.
    """
    words = _QUOTED.sub("it", line.strip())
    if _CODE.search(words):
        return False
    answer = _ANSWER.match(words)
    if answer and (words[answer.end() - 1] in ",!" or (len(words.split()) > 2 and words[-1:] in ".!:?")):
        return True
    return words[-1:] in (".", "!", "?") and _SENTENCE.fullmatch(words) is not None


def _prose_at(text: str, language: str, within: str) -> int:
    """Where the first line of prose begins, or the text's end."""
    start = 0
    for line in text.split("\n"):
        if is_prose(line) and not scan(text[:start], language, within).within:
            return start
        start += len(line) + 1
    return len(text)


def code_span(text: str, *, language: str, within: str, document: str) -> tuple[int, int]:
    """Where the code of `text` begins and ends, which stands in the string or comment that `within` begins.

    A special token is data where the `document` has it, too.
    """
    found = (match for match in _SPECIAL.finditer(text) if match.group() not in document)
    start, end = 0, next((match.start() for match in found), len(text))
    if language in PROSE:
        return start, end
    fences = [
        match.start()
        for match in _FENCE.finditer(text, 0, end)
        if not scan(text[: match.start()], language, within).within
    ]
    if fences:
        lead = text[: fences[0]].strip()
        if not lead or is_prose(lead.split("\n", 1)[0]):
            start = text.find("\n", fences[0], end) + 1 or end
            fences = [at for at in fences if at >= start]
        end = fences[0] if fences else end
    if language not in _MARKUP:
        end = start + _prose_at(text[start:end], language, within if start == 0 else "")
    return start, end
