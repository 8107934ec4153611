"""Token healing and stop rules in the decoder: they hold for guesses as for the text, and change no text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.decode import Decoder
from engine.draft.base import BeforeLayer, DraftMemory, Opening
from engine.draft.lookup import PreviousDrafter, PromptDrafter
from engine.healing import Beginnings, Debt
from engine.policy import PolicySession, TreePolicy
from engine.policy.base import Position
from engine.protocol import StopReason, StopSpec
from engine.sampling import SamplingParams
from engine.text import TextStream
from engine.tree import TokenTree
from tests.engine.scripted import (
    CONTEXT,
    GREEDY,
    PROMPT,
    VOCABULARY,
    Anything,
    ScriptedDrafter,
    ScriptedPolicy,
    dynamic,
    everything,
    exact_target,
    full,
    model_drafter,
    reference,
    run,
    shipped,
    static,
    tokens_of,
)

END = 0
WORDS = ["", *"abc", "ab", "bc", "ca", "abc", "bca", "aa", "\n", "a\n", "\nb", "\n\n"]
TEXTS = [*WORDS, *(f"x{token}" for token in range(len(WORDS), VOCABULARY))]
"""What each token writes."""
BREAKS = frozenset(token for token, text in enumerate(TEXTS) if "\n" in text)
BEGINNINGS = Beginnings(enumerate(TEXTS))
PARAMS = {
    "greedy": GREEDY,
    "penalised": SamplingParams(repetition_penalty=1.4),
    "sampled": SamplingParams(temperature=1.3, top_p=0.95, seed=5),
}
POLICIES: dict[str, Callable[[], TreePolicy]] = {
    "shipped": shipped,
    "everything": lambda: dynamic(PreviousDrafter(), PromptDrafter(), ScriptedDrafter(everything)),
    "itself": lambda: dynamic(model_drafter(exact_target())),
    "static": static,
}


def stream(owed: str = "", spec: StopSpec | None = None) -> TextStream:
    """The decoder's stop rule and constraint, over TEXTS."""
    return TextStream(TEXTS.__getitem__, [END], spec or StopSpec(), Debt(owed, BEGINNINGS), BREAKS)


@dataclass(frozen=True, slots=True)
class Grown:
    """A tree, and where the text stood that it was made for."""

    said: list[int]
    left: int
    tree: TokenTree


class Watched:
    """A policy, and the trees it made."""

    def __init__(self, policy: TreePolicy) -> None:
        self._policy = policy
        self.grown: list[Grown] = []

    @property
    def most_nodes(self) -> int:
        return self._policy.most_nodes

    def new_memories(self) -> tuple[DraftMemory, ...]:
        return self._policy.new_memories()

    def open(self, memories: Sequence[DraftMemory], opening: Opening, *, greedy: bool) -> "WatchedSession":
        session = self._policy.open(memories, opening, greedy=greedy)
        return WatchedSession(session, len(opening.prompt), self.grown)


class WatchedSession:
    def __init__(self, session: PolicySession, prompt_size: int, grown: list[Grown]) -> None:
        self._session = session
        self._prompt_size = prompt_size
        self._grown = grown
        self.learn = session.learn
        self.grow_on = session.grow_on

    @property
    def failed(self) -> Sequence[str]:
        return self._session.failed

    def grow(self, position: Position, before_layer: BeforeLayer) -> TokenTree:
        tree = self._session.grow(position, before_layer)
        self._grown.append(Grown(list(position.history[self._prompt_size :]), position.left, tree))
        return tree


def written(tokens: Sequence[int]) -> str:
    return "".join(TEXTS[token] for token in tokens)


class Narrow(Anything):
    """Allows a few tokens for a while; as a stop rule it only counts."""

    def __init__(self, until: int) -> None:
        self.pushed = 0
        self.until = until

    def push(self, token: int) -> StopReason | None:
        may = self.allowed()
        assert may is None or token in may
        self.pushed += 1
        return None

    def allowed(self) -> tuple[int, ...] | None:
        return self.of(self.pushed)

    def of(self, pushed: int) -> tuple[int, ...] | None:
        return (pushed + 5, pushed + 9, 23) if pushed < self.until else None


@pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS)
@pytest.mark.parametrize("until", [1, 3])
def test_under_a_constraint_text_is_what_plain_decoding_under_it_gives(until: int, params: SamplingParams):
    expected = reference(PROMPT, 8, params, Narrow(until).of)
    assert expected != reference(PROMPT, 18, params)[:8]
    # The outlook says nothing of it, so that guesses contradict it.
    for policy in (*POLICIES.values(), lambda: ScriptedPolicy(full(40), 40)):
        narrow = Narrow(until)
        steps = run(
            Decoder(exact_target(), policy(), CONTEXT),
            params=params,
            stop=narrow,
            constraint=narrow,
            max_tokens=8,
        )
        assert tokens_of(steps) == expected


@pytest.mark.parametrize("owed", ["a", "abcab", "abcabcabc", "bcaabab"])
@pytest.mark.parametrize("kind", POLICIES)
def test_nothing_is_drafted_that_contradicts_the_word_at_any_depth_of_it(kind: str, owed: str):
    prompt = (1, 2, 3, 1, 4, 9, 2, 3, 4, 1, 2, 3)
    policy = Watched(POLICIES[kind]())
    decoder = Decoder(exact_target(), policy, CONTEXT)
    slot = decoder.new_slot()
    texts = [
        tokens_of(
            run(decoder, slot, prompt, stop=text, constraint=text, max_tokens=8, speculative=speculative)
        )
        for speculative in (True, False, True)
        for text in [stream(owed)]
    ]
    assert texts[0] == texts[1] == texts[2]
    assert written(texts[0]).startswith(owed)
    within_the_word = 0
    for grown in policy.grown:
        said, tree = written(grown.said), grown.tree
        for node in range(1, len(tree)):
            path = tree.path(node)
            before, after = said + written(path[:-1]), said + written(path)
            if len(before) < len(owed):
                assert owed.startswith(after) or after.startswith(owed)
                assert len(after) > len(before)
                within_the_word = max(within_the_word, len(path))
    assert within_the_word >= min(len(owed), 2)


@pytest.mark.parametrize("owed", ["ab", "abcab"])
def test_alternatives_write_the_word_too(owed: str):
    text = stream(owed)
    decoder = Decoder(exact_target(), POLICIES["everything"](), CONTEXT)
    steps = run(decoder, stop=text, constraint=text, max_tokens=8, branches=3)
    main, found = tokens_of(steps), 0
    for branch in (branch for step in steps for branch in step.branches):
        said = written([*main[: branch.at], *branch.tokens])
        assert owed.startswith(said) or said.startswith(owed)
        found += len(written(main[: branch.at])) < len(owed)
        allowed = BEGINNINGS.after(owed, main[: branch.at])
        assert allowed is None or branch.tokens[0] in allowed
    assert found, "some leave within the word"


@given(
    st.lists(st.integers(0, VOCABULARY - 1), max_size=12),
    st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=12),
    st.none() | st.integers(1, 4),
)
def test_a_text_is_over_where_the_outlook_says_so(said: list[int], path: list[int], max_lines: int | None):
    """And says so wherever an end token or a token with one line break ends it."""
    text = stream(spec=StopSpec(max_lines=max_lines))
    if any(text.push(token) for token in said):
        return
    outlook, tree, node = text.outlook(), TokenTree.root(1), 0
    for token in path:
        node = tree.add(node, token, 0.5)
        stop = text.push(token)
        if outlook.closes(tree, node):
            assert stop is not None
        if stop is StopReason.END or (stop and all(TEXTS[one].count("\n") < 2 for one in path)):
            assert outlook.closes(tree, node)
        if stop:
            return


@pytest.mark.parametrize("kind", POLICIES)
def test_nothing_is_drafted_behind_what_ends_the_text(kind: str):
    prompt = (1, 10, 2, 10, 1, 0, 3, 10, 2, 10, 1, 10)
    policy = Watched(POLICIES[kind]())
    decoder = Decoder(exact_target(), policy, CONTEXT)
    slot = decoder.new_slot()
    closed = 0
    for seed in range(4):
        text = stream(spec=StopSpec(max_lines=2))
        # Ends are likely, and line breaks as well.
        params = SamplingParams(temperature=1.0, logit_bias=((END, 4.0), (10, 6.0)), seed=seed)
        run(decoder, slot, prompt, params, stop=text, constraint=text, max_tokens=8)
    for grown in policy.grown:
        tree, lines = grown.tree, sum(token in BREAKS for token in grown.said)
        for node in range(1, len(tree)):
            path = tree.path(node)
            over = path[-1] == END or (
                path[-1] in BREAKS and lines + sum(token in BREAKS for token in path) >= 2
            )
            assert not (over and tree.children(node))
            closed += over
    assert closed > 0, "guesses end texts"


def test_nothing_is_drafted_beyond_the_tokens_asked_for():
    for policy in (shipped(), static(), dynamic(ScriptedDrafter(everything))):
        watched = Watched(policy)
        run(Decoder(exact_target(), watched, CONTEXT), max_tokens=5)
        depths = [max(grown.tree.depths) for grown in watched.grown]
        assert all(depth < grown.left for depth, grown in zip(depths, watched.grown, strict=True))
        assert any(depths)
