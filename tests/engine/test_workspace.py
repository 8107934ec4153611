"""Text that clients pushed, and where in it the end of another text has stood before."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.client import Endpoint, EngineClient
from engine.draft.suffix import CONTINUATION, LONGEST, Match
from engine.errors import RequestError
from engine.protocol import WorkspaceDocument, WorkspacePush
from engine.workspace import DOCUMENT_TOKENS, Workspaces
from engine.workspace_index import SHORTEST, WorkspaceIndex, packed
from tests.engine.fakes import DEADLINE_S, eventually, running_engine
from tests.engine.tiny_tokenizer import write_tokenizer

# The index.


def agreement(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts have in common from their ends on, at most `LONGEST`."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def searched(documents: Mapping[str, Sequence[int]], tail: Sequence[int], limit: int) -> list[Match]:
    """What an index of `documents`, the oldest first, has to answer, found by looking everywhere."""
    found = [
        (-agreement(ids[:place], tail[-LONGEST:]), -age, -place, ids)
        for age, ids in enumerate(documents.values())
        for place in range(1, len(ids))
    ]
    best = sorted(match for match in found if -match[0] >= SHORTEST)[:limit]
    return [Match(-less, tuple(ids[-place : -place + CONTINUATION])) for less, _, place, ids in best]


# Like code: long agreements, many short ones, and ends of documents everywhere.
PHRASES = st.sampled_from(
    [(0, 1, 2), (0, 1, 2, 3), (4, 0, 1, 2), (5, 5), (8, *range(10, 20)), (9, *range(10, 20))]
)
IDS = st.lists(PHRASES, max_size=12).map(lambda phrases: [token for phrase in phrases for token in phrase])
PATHS = ["a", "b", "c", "d"]
START = st.fixed_dictionaries(dict.fromkeys(PATHS, IDS))
CHANGE = st.tuples(
    st.dictionaries(st.sampled_from(PATHS), IDS, max_size=2), st.sets(st.sampled_from(PATHS), max_size=1)
)


@given(START, st.lists(CHANGE, max_size=4), IDS, st.integers(1, 30))
def test_matches_are_those_of_a_search_that_looks_everywhere(
    start: dict[str, list[int]],
    changes: list[tuple[dict[str, list[int]], set[str]]],
    tail: list[int],
    limit: int,
) -> None:
    # A large one lets the others come and go without sorting everything again at once.
    documents = start | {"large": [7] * 2500}
    index = WorkspaceIndex().changed({path: packed(ids) for path, ids in documents.items()})
    for added, removed in changes:
        index = index.changed({path: packed(ids) for path, ids in added.items()}, removed)
        documents = {path: ids for path, ids in documents.items() if path not in {*added, *removed}} | added
        assert index.tokens == sum(map(len, documents.values()))
        assert index.documents == len(documents)
    del documents["large"]  # Nothing in it is like the tail.
    assert index.matches(tail, limit) == searched(documents, tail, limit)


def test_a_match_is_counted_and_followed_only_so_far() -> None:
    ids = range(500)
    index = WorkspaceIndex().changed({"a": packed(ids)})
    assert index.matches(range(300), 1) == [Match(LONGEST, tuple(range(300, 300 + CONTINUATION)))]


@pytest.mark.parametrize("tail", [[1, 2, 3], [99, 1, 2, 3]])
def test_among_many_equals_the_newest_come_first_whatever_stands_before_them(tail: list[int]) -> None:
    ids = [token for n in range(40) for token in (20 + n % 7, 1, 2, 3, 100 + n)]
    matches = WorkspaceIndex().changed({"a": packed(ids)}).matches(tail, 3)
    assert [(match.length, match.continuation[0]) for match in matches] == [(3, 139), (3, 138), (3, 137)]


def test_of_very_many_that_agree_to_the_last_token_the_newest_come_first() -> None:
    ids = [token for n in range(1000) for token in (*range(LONGEST), 100 + n)]
    matches = WorkspaceIndex().changed({"a": packed(ids)}).matches(range(LONGEST), 3)
    assert [match.continuation[0] for match in matches] == [1099, 1098, 1097]


def test_one_changed_document_does_not_sort_the_others_again(monkeypatch: pytest.MonkeyPatch) -> None:
    index = WorkspaceIndex().changed({f"{n}": packed(range(n, n + 1000)) for n in range(30)})
    sizes: list[int] = []
    sort = np.argsort

    def counting(values: np.ndarray, **options: Any) -> np.ndarray:
        sizes.append(len(values))
        return sort(values, **options)

    monkeypatch.setattr(np, "argsort", counting)
    changed = index.changed({"0": packed(range(900, 1900))})
    assert max(sizes) < 1100
    assert changed.tokens == 30_000
    changed.changed({"1": packed(range(1000)), "2": packed(range(1000))})
    assert max(sizes) > 30_000


def test_an_index_takes_eight_bytes_a_token_and_little_more_until_it_is_sorted_again() -> None:
    index = WorkspaceIndex().changed({f"{n}": packed(range(1000)) for n in range(50)})
    for n in range(50):
        index = index.changed({f"{n}": packed(range(1000))})
        segments = (index.base, index.recent)
        size_bytes = sum(len(segment.data) + segment.places.nbytes for segment in segments)
        assert size_bytes / index.tokens < 9


# Who owns it.


def push(key: str, documents: dict[str, str] | None = None, **others: Any) -> WorkspacePush:
    texts = (documents or {}).items()
    return WorkspacePush(key, tuple(WorkspaceDocument(path, text) for path, text in texts), **others)


def spelled(text: str) -> list[int]:
    return [*map(ord, text)]


@contextmanager
def started(budget_tokens: int = 1000) -> Generator[Workspaces]:
    workspaces = Workspaces(budget_tokens=budget_tokens)
    workspaces.start(spelled)
    yield workspaces
    workspaces.close(DEADLINE_S)


def after(workspaces: Workspaces, *pushes: WorkspacePush) -> Workspaces:
    """`workspaces` when `pushes` have been indexed, one after the other."""
    for one in pushes:
        workspaces.push(one)
        eventually(lambda: not workspaces.waiting)
    return workspaces


def follows(workspaces: Workspaces, key: str, tail: str) -> list[str]:
    """What stands behind `tail` in the workspace."""
    index = workspaces.snapshot(key)
    matches = index.matches(spelled(tail), 9) if index else []
    return ["".join(map(chr, match.continuation)) for match in matches]


def test_what_is_pushed_is_found_in_its_own_workspace_until_it_is_replaced_removed_or_cleared() -> None:
    with started() as workspaces:
        after(workspaces, push("one", {"a": "shelf.add", "b": "shelf.pop"}), push("two", {"a": "shelf.two"}))
        assert follows(workspaces, "one", "shelf.") == ["pop", "add"]
        assert follows(workspaces, "two", "shelf.") == ["two"]
        assert workspaces.snapshot("three") is None
        before = workspaces.snapshot("one")
        after(workspaces, push("one", {"a": "shelf.new"}))
        assert follows(workspaces, "one", "shelf.") == ["new", "pop"]
        assert before
        assert len(before.matches(spelled("shelf."), 9)) == 2, "a snapshot stays as it is"
        after(workspaces, push("one", removed=("a",)))
        assert follows(workspaces, "one", "shelf.") == ["pop"]
        after(workspaces, push("one", {"c": "shelf.cut"}, clear=True))
        assert follows(workspaces, "one", "shelf.") == ["cut"]
        after(workspaces, push("one", clear=True))
        assert workspaces.snapshot("one") is None
        assert (workspaces.documents, workspaces.tokens) == (1, 9)


def test_beyond_the_budget_the_workspace_used_least_recently_loses_its_oldest_documents() -> None:
    with started(budget_tokens=28 + 3 * DOCUMENT_TOKENS) as workspaces:
        after(workspaces, push("one", {"a": "one.a-one", "b": "one.b-one"}), push("two", {"a": "two.a-two"}))
        assert follows(workspaces, "one", "one.") == ["b-one", "a-one"]
        after(workspaces, push("three", {"a": "three.a-three"}))
        assert workspaces.snapshot("two") is None, "one was looked at since"
        assert follows(workspaces, "one", "one.") == ["b-one"], "not both were too much"
        assert workspaces.tokens == 9 + 13


def test_pushes_never_wait_and_those_from_before_the_tokenizer_is_known_are_kept_in_order() -> None:
    workspaces, may_encode, encoded = Workspaces(), threading.Event(), list[str]()

    def encode(text: str) -> list[int]:
        assert may_encode.wait(DEADLINE_S)
        encoded.append(text)
        return spelled(text)

    workspaces.push(push("one", {"a": "old text", "b": "same text"}))
    workspaces.push(push("one", {"a": "new text"}))
    assert (workspaces.snapshot("one"), workspaces.waiting) == (None, 2)
    workspaces.start(encode)
    workspaces.push(push("one", removed=("b",)))
    assert workspaces.snapshot("one") is None
    may_encode.set()
    eventually(lambda: not workspaces.waiting)
    assert follows(workspaces, "one", "new") == [" text"]
    assert workspaces.documents == 1
    assert "old text" not in encoded, "it was replaced before it was its turn"
    workspaces.close(DEADLINE_S)


def test_of_pushes_that_wait_the_oldest_are_dropped_where_they_are_too_much() -> None:
    workspaces = Workspaces(queue_bytes=6000)
    for n in range(10):
        workspaces.push(push("one", {f"{n}": "x" * 1000}))
    workspaces.start(spelled)
    eventually(lambda: not workspaces.waiting)
    assert workspaces.documents == 4
    workspaces.close(DEADLINE_S)


def test_a_document_that_cannot_be_encoded_costs_the_others_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def encode(text: str) -> list[int]:
        if text == "secret":
            raise ValueError(text)
        return spelled(text)

    workspaces = Workspaces()
    workspaces.start(encode)
    after(workspaces, push("one", {"a": "secret", "b": "new text"}))
    assert follows(workspaces, "one", "new") == [" text"]
    assert "ValueError" in caplog.text
    assert "secret" not in caplog.text
    workspaces.close(DEADLINE_S)


def test_a_push_that_cannot_be_indexed_costs_the_later_ones_nothing(caplog: pytest.LogCaptureFixture) -> None:
    workspaces = Workspaces()
    workspaces.start(lambda text: [1 << 40] if text == "secret" else spelled(text))
    after(workspaces, push("one", {"a": "secret"}), push("one", {"b": "new text"}))
    assert follows(workspaces, "one", "new") == [" text"]
    assert "secret" not in caplog.text
    workspaces.close(DEADLINE_S)


def test_names_are_bounded_for_they_are_kept() -> None:
    for build in (lambda name: push(name, {"a": "x"}), lambda name: push("one", {name: "x"})):
        build("n" * 1024)
        for name in ("", "n" * 1025):
            with pytest.raises(ValueError, match="1 to 1024"):
                build(name)
    with pytest.raises(ValueError, match="removed"):
        push("one", removed=("n" * 1025,))


def test_a_document_is_encoded_as_a_prompt_is(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path)
    text = "def add(self):\n    return '<|eot_id|>'\n"
    assert tokenizer.encode_document(text) == tokenizer.encode(text)


# Over HTTP.


def test_text_is_pushed_over_http_and_what_is_malformed_or_too_large_is_not_taken(tmp_path: Path) -> None:
    with running_engine(tmp_path) as engine:

        def post(body: object) -> tuple[int, dict]:
            response = engine.http.post("/workspace", json=body)
            return response.status_code, response.json()

        documents = [{"path": "a", "text": "shelf.add"}, {"path": "b", "text": "shelf.pop"}]
        answer = post({"workspace": "one", "documents": documents})
        assert answer == (202, {"queued": 2, "skipped": 0})
        eventually(lambda: engine.metric('umbrella_workspace_held{kind="tokens"}') == 18)
        assert engine.metric('umbrella_workspace_held{kind="documents"}') == 2
        assert follows(engine.workspaces, "one", "shelf.") == ["pop", "add"]

        grown = {"path": "b", "text": "\N{EURO SIGN}" * 400_000}
        answer = post({"workspace": "one", "documents": [grown], "removed": ["nothing"]})
        assert answer == (202, {"queued": 0, "skipped": 1})
        eventually(lambda: follows(engine.workspaces, "one", "shelf.") == ["add"])

        for body, field in (
            ({}, "workspace"),
            ({"workspace": ""}, "workspace"),
            ({"workspace": "one", "documents": [{"path": "a"}]}, "documents[0].text"),
            ({"workspace": "one", "documents": [{"path": "", "text": "x"}]}, "documents[0].path"),
            ({"workspace": "one", "removed": "a"}, "removed"),
            ({"workspace": "one", "clear": "yes"}, "clear"),
        ):
            status, answer = post(body)
            assert (status, answer["error"]["param"]) == (422, field)


def test_a_client_pushes_and_is_told_what_the_engine_refuses(tmp_path: Path) -> None:
    async def scenario(endpoint: Endpoint) -> None:
        async with aclosing(EngineClient(endpoint)) as client:
            await client.push_workspace(push("one", {"a": "shelf.add"}))
            with pytest.raises(RequestError, match="16 MB"):
                await client.push_workspace(push("one", {"b": "x" * (17 << 20)}))

    with running_engine(tmp_path) as engine:
        asyncio.run(scenario(engine.endpoint))
        eventually(lambda: follows(engine.workspaces, "one", "shelf.") == ["add"])
