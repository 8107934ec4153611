"""llama-server's routes, and what the editor plugins made for it really send."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.api.infill import InfillBody, to_request
from engine.api.llama_completion import PromptBody, to_requests
from engine.config import EngineConfig
from engine.config_tables import AdapterName
from engine.protocol import UmbrellaRequest
from tests.engine.fake_parts import FakeBranch, FakeVocabulary
from tests.engine.fakes import (
    FakeBackend,
    Gate,
    RunningEngine,
    error_of,
    events_of,
    eventually,
    running_engine,
)


@pytest.fixture(scope="module")
def engine(home: Path) -> Iterator[RunningEngine]:
    """One engine for all tests that do not change it. A token is a byte, and "abc..." is all it ever says."""
    branches = [FakeBranch.of(1, "X;", -1.0), FakeBranch.of(2, "Y", -2.0)]
    with running_engine(home / "llama", FakeBackend(branches=branches, max_length=64)) as running:
        yield running


def completed(engine: RunningEngine, **body: object) -> Any:
    response = engine.http.post("/completion", json={"n_predict": 3, **body})
    assert response.status_code == 200, response.text
    return response.json()


# What llama.vim and llama.vscode send, as seen on the wire, and what they read of the answer.

VIM_FIELDS = [
    "content",
    *(f"timings/prompt_{name}" for name in ("n", "ms", "per_token_ms", "per_second")),
    *(f"timings/predicted_{name}" for name in ("n", "ms", "per_token_ms", "per_second")),
    *("truncated", "tokens_cached"),
]
VIM = {
    "id_slot": 0,
    "input_prefix": "ab",
    "input_suffix": "cd",
    "input_extra": [{"text": "def f():\n    pass\n", "time": [-1, 10], "filename": "a.py"}],
    "prompt": "",
    "n_predict": 4,
    "stop": [],
    "n_indent": 4,
    "top_k": 40,
    "top_p": 0.90,
    "samplers": ["top_k", "top_p", "infill"],
    "stream": False,
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 250,
    "response_fields": VIM_FIELDS,
    "model": "",
}
VIM_WARM_UP = VIM | {
    "input_prefix": "",
    "input_suffix": "",
    "n_predict": 0,
    "temperature": 0.0,
    "samplers": [],
    "t_max_prompt_ms": 1,
    "t_max_predict_ms": 1,
    "response_fields": [""],
}
VSCODE = {
    "id_slot": 0,
    "input_prefix": "ab",
    "input_suffix": "cd",
    "input_extra": [{"text": "x\n", "time": 1700000000000, "filename": "/home/you/a.py"}],
    "prompt": "",
    "n_predict": 3,
    "n_cmpl": 3,
    "top_k": 40,
    "top_p": 0.99,
    "stream": False,
    "samplers": ["top_k", "top_p", "infill"],
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 1000,
    "lora": [{"id": 0, "scale": 0.5}],
    "model": "qwen2.5-coder-1.5b-q8_0.gguf",
}


def test_llama_vim_gets_the_fields_that_it_names_and_no_others(engine: RunningEngine) -> None:
    response = engine.http.post("/infill", json=VIM)
    answer = response.json()
    assert list(answer) == VIM_FIELDS
    assert len(answer["content"]) == 4
    assert answer["timings/predicted_n"] == 4
    assert '"content":"' in response.text, "it looks for this before it parses"


def test_llama_vim_warms_the_cache_and_reads_nothing(engine: RunningEngine) -> None:
    assert engine.http.post("/infill", json=VIM_WARM_UP).json() == {}


def test_llama_vims_warming_up_gives_way_to_typing(tmp_path: Path) -> None:
    gate = Gate()
    with running_engine(tmp_path, FakeBackend(in_layer=gate)) as engine:
        warming = engine.connect("/infill", VIM_WARM_UP)
        gate.wait()
        typing = engine.connect("/infill", {**VIM, "n_predict": 1})
        eventually(lambda: engine.metric("umbrella_queue_depth") == 1)
        gate.release()
        assert typing.recv(1 << 16).startswith(b"HTTP/1.1 200")
        assert warming.recv(1 << 16).startswith(b"HTTP/1.1 200")
        assert engine.metric("umbrella_preemptions_total") == 1
        typing.close()
        warming.close()


def test_llama_vscode_gets_a_list_of_different_texts(engine: RunningEngine) -> None:
    answers = engine.http.post("/infill", json=VSCODE).json()
    texts = [answer["content"] for answer in answers]
    assert len(set(texts)) == len(texts) == 3
    assert [answer["index"] for answer in answers] == [0, 1, 2]
    assert {answer["generation_settings"]["n_ctx"] for answer in answers} == {64}, (
        "its status bar divides by it"
    )
    alone = engine.http.post("/infill", json={**VSCODE, "n_cmpl": 1}).json()
    assert alone["content"] == texts[0]
    assert {"prompt_n", "prompt_ms", "prompt_per_second", "predicted_n"} <= set(alone["timings"])
    warmed = {name: value for name, value in VSCODE.items() if name not in ("n_cmpl", "stream")}
    assert (
        engine.http.post("/infill", json={**warmed, "n_predict": 0, "samplers": []}).json()["content"] == ""
    )


def test_what_llama_vscode_asks_beside_completions_is_there(engine: RunningEngine) -> None:
    assert engine.http.get("/health").json()["status"] == "ok"
    props = engine.http.get("/props", params={"model": "any", "autoload": "false"}).json()
    assert props["default_generation_settings"]["n_ctx"] == 64
    counted = {"content": "<end>ab", "add_special": False, "parse_special": True}
    assert engine.http.post("/tokenize", json=counted).json() == {"tokens": [0, 97, 98]}


def test_an_indentation_is_where_a_text_ends(tmp_path: Path) -> None:
    with running_engine(tmp_path, FakeBackend(answer="\n  a\nb")) as engine:
        body = {"input_prefix": "x" * 5, "n_predict": 6}
        assert engine.http.post("/infill", json=body).json()["content"] == "\n  a\nb"
        answer = engine.http.post("/infill", json={**body, "n_indent": 2}).json()
        assert (answer["content"], answer["stop_type"]) == ("\n  a", "word")


def test_model_chooses_an_adapter_and_any_other_name_is_ignored(home: Path) -> None:
    config = EngineConfig(model="fake", adapters=(AdapterName("house", "xyz"),))
    with running_engine(home / "adapters", config=config) as engine:
        for model, text in {"house": "xyz", "qwen2.5-coder": "bcd", "": "bcd"}.items():
            body = {"model": model, "n_predict": 3}
            assert set(engine.http.post("/infill", json=body).json()["content"]) == set(text)
            assert set(completed(engine, prompt="", model=model)["content"]) == set(text)


# /completion.


def test_filling_in_code_is_typing_and_all_else_is_not() -> None:
    config, words = EngineConfig(model="fake"), FakeVocabulary()
    code = to_request(InfillBody(), config)
    [chat] = to_requests(PromptBody(prompt="a"), words, config)
    [urgent] = to_requests(PromptBody(prompt="a", umbrella=UmbrellaRequest(priority="typing")), words, config)
    [silent] = to_requests(PromptBody(prompt="a", n_predict=0), words, config)
    assert (code.priority, chat.priority, urgent.priority) == ("typing", "chat", "typing")
    assert silent.priority == to_request(InfillBody(n_predict=0), config).priority == "prefetch"


def test_a_completion_is_of_the_prompt_as_it_is(engine: RunningEngine) -> None:
    answer = completed(engine, prompt="ab")
    assert (answer["content"], answer["tokens_evaluated"], answer["tokens_predicted"]) == ("def", 3, 3)
    assert (answer["stop"], answer["stop_type"], answer["tokens"]) == (True, "limit", [])
    assert answer["generation_settings"]["n_predict"] == 3
    assert engine.http.post("/completions", json={"prompt": "ab", "n_predict": 3}).json()["content"] == "def"


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [
        ("", 1),
        ("ab<end>", 4),
        ("<end>ab", 3),
        ([97, 98], 2),
        (["ab", 99], 4),
        ([97, "b", 99], 3),
        (["ab"], 3),
        ([[97, 98]], 2),
    ],
)
def test_a_prompt_is_text_or_ids_or_both_and_begins_once(
    engine: RunningEngine, prompt: object, tokens: int
) -> None:
    assert completed(engine, prompt=prompt)["tokens_evaluated"] == tokens


def test_several_prompts_are_answered_in_their_order(engine: RunningEngine) -> None:
    answers = completed(engine, prompt=["a", [97, 98], ["ab", 99]])
    assert [answer["tokens_evaluated"] for answer in answers] == [2, 2, 4]
    assert [answer["content"] for answer in answers] == ["cde", "cde", "efg"]
    assert [answer["index"] for answer in answers] == [0, 1, 2]


def test_several_prompts_have_one_clients_share_together() -> None:
    asked = to_requests(PromptBody(prompt=["a", "b"]), FakeVocabulary(), EngineConfig(model="fake"))
    assert len({request.client for request in asked}) == 1


def test_several_prompts_are_streamed_by_their_index(engine: RunningEngine) -> None:
    body = {"prompt": ["a", "ab"], "n_predict": 3, "stream": True}
    events = events_of(engine.http.post("/completion", json=body))
    texts = {index: "".join(e["content"] for e in events if e["index"] == index) for index in (0, 1)}
    assert texts == {0: "cde", 1: "def"}
    assert [event["index"] for event in events if event["stop"]] == sorted({0, 1})
    assert all(event["tokens"] for event in events)


def test_minus_one_takes_what_the_context_has_left_and_too_many_are_cut(engine: RunningEngine) -> None:
    for length in (-1, 1000):
        answer = completed(engine, prompt="a" * 9, n_predict=length)
        assert answer["tokens_predicted"] == 64 - 10


def test_ids_of_the_answer_are_there_where_asked(engine: RunningEngine) -> None:
    assert completed(engine, prompt="ab", return_tokens=True)["tokens"] == [100, 101, 102]


def test_probable_tokens_are_told_with_their_text_and_bytes(engine: RunningEngine) -> None:
    answer = completed(engine, prompt="ab", n_probs=2)
    first = answer["completion_probabilities"][0]
    assert (first["id"], first["token"], first["bytes"], first["logprob"]) == (100, "d", [100], -0.5)
    assert [(top["token"], top["logprob"]) for top in first["top_logprobs"]] == [("d", -0.5), ("e", -1.5)]
    assert "completion_probabilities" not in completed(engine, prompt="ab")
    body = {"prompt": "ab", "n_predict": 2, "n_probs": 1, "stream": True}
    events = events_of(engine.http.post("/completion", json=body))
    assert ["".join(p["token"] for p in event["completion_probabilities"]) for event in events] == ["d", "e"]


def test_end_tokens_can_be_ruled_out(tmp_path: Path) -> None:
    with running_engine(tmp_path, FakeBackend(answer="ab\0")) as engine:
        assert completed(engine, prompt="a", n_predict=4)["stop_type"] == "eos"
        answer = completed(engine, prompt="a", n_predict=4, ignore_eos=True)
        assert (answer["content"], answer["stop_type"]) == (".ab.", "limit")


def test_fields_that_are_not_there_are_left_out_of_the_answer(engine: RunningEngine) -> None:
    fields = [
        "content",
        "nothing",
        "timings/nothing",
        "content/inner",
        "generation_settings/top_k",
        "timings",
    ]
    answer = completed(engine, prompt="ab", top_k=7, response_fields=fields)
    assert list(answer) == ["content", "generation_settings/top_k", "timings"]
    assert answer["generation_settings/top_k"] == 7


def test_a_prompt_too_long_for_the_context_is_refused_by_its_name(engine: RunningEngine) -> None:
    for prompt in ("a" * 64, [97] * 64, "a" * 100_000):
        response = engine.http.post("/completion", json={"prompt": prompt})
        assert response.status_code in (400, 422)
        assert error_of(response)["param"] == "prompt"


# Words and numbers.


def test_tokens_are_told_with_their_pieces_or_bytes(engine: RunningEngine) -> None:
    def tokenized(**body: object) -> list[object]:
        return engine.http.post("/tokenize", json=body).json()["tokens"]

    assert tokenized(content="ab") == [97, 98]
    assert tokenized(content="") == []
    assert tokenized(content="ab", add_special=True) == [0, 97, 98]
    assert tokenized(content="<end>ab", add_special=True) == [0, 97, 98]
    assert tokenized(content="<end>", parse_special=False) == [*b"<end>"]
    assert tokenized(content="aá", with_pieces=True) == [
        {"id": 97, "piece": "a"},
        {"id": 195, "piece": [195]},
        {"id": 161, "piece": [161]},
    ]


def test_ids_become_text_again(engine: RunningEngine) -> None:
    def detokenized(tokens: list[int]) -> str:
        return engine.http.post("/detokenize", json={"tokens": tokens}).json()["content"]

    assert detokenized([]) == ""
    assert detokenized([0, 97, 195, 161]) == "<end>aá"


# What it is and what it does.


def test_props_say_what_is_usual_here(home: Path) -> None:
    config = EngineConfig(model="fake", temperature=0.5, generation_length=77, slots=2)
    with running_engine(home / "props", config=config) as engine:
        props = engine.http.get("/props").json()
        assert (props["total_slots"], props["bos_token"], props["model_path"]) == (2, "<end>", "fake")
        usual = props["default_generation_settings"]["params"]
        assert (usual["temperature"], usual["n_predict"]) == (0.5, 77)


def test_slots_say_that_one_is_at_work_and_nothing_of_what_is_in_it(tmp_path: Path) -> None:
    gate = Gate()
    with running_engine(tmp_path, FakeBackend(in_layer=gate)) as engine:
        assert [slot["is_processing"] for slot in engine.http.get("/slots").json()] == [False] * 3
        connection = engine.connect("/infill", {"input_prefix": "secret"})
        gate.wait()
        response = engine.http.get("/slots")
        assert [slot["is_processing"] for slot in response.json()] == [True, False, False]
        assert "secret" not in response.text
        gate.release()
        connection.close()


def test_before_there_is_a_tokenizer_what_needs_one_says_so(tmp_path: Path) -> None:
    gate = Gate()

    def load(_progress: object) -> FakeBackend:
        gate(0)
        return FakeBackend()

    with running_engine(tmp_path, load=load) as engine:
        gate.wait()
        assert engine.http.get("/v1/health").json()["status"] == "loading"
        asked = [
            *(engine.http.get(path) for path in ("/props", "/slots")),
            engine.http.post("/tokenize", json={"content": "a"}),
            engine.http.post("/detokenize", json={"tokens": []}),
            engine.http.post("/completion", json={"prompt": "a"}),
        ]
        for response in asked:
            assert response.status_code == 503
            assert error_of(response)["type"] == "unavailable_error"
        gate.release()
        eventually(lambda: engine.http.get("/health").json()["status"] == "ok")
        assert engine.http.get("/props").status_code == 200
