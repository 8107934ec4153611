from __future__ import annotations

import json
from itertools import count

from engine.chat.conversation import Conversation, Turn, Wishes
from engine.chat.figures import Figures, Meter
from engine.client import Answer
from engine.protocol import Timings, TokenCounts, UmbrellaReply


def told(conversation: Conversation) -> list[str]:
    return [message["content"] for message in conversation.messages("?")][:-1]


def of(turns: int, max_turns: int | None = None, system: str = "") -> Conversation:
    conversation = Conversation(system)
    for n in range(turns):
        conversation = conversation.after(Turn(f"q{n}", f"a{n}", Figures()), max_turns)
    return conversation


def test_the_model_is_told_the_system_message_and_all_turns_in_order() -> None:
    messages = of(2, system="Be brief.").messages("q2")
    assert [message["role"] for message in messages] == ["system", *["user", "assistant"] * 2, "user"]
    assert [message["content"] for message in messages] == ["Be brief.", "q0", "a0", "q1", "a1", "q2"]


def test_never_more_than_max_turns_are_told_and_mostly_the_prompt_only_grows() -> None:
    starts, conversation = list[str](), Conversation("s")
    for n in range(20):
        conversation = conversation.after(Turn(f"q{n}", f"a{n}", Figures()), 4)
        assert 1 <= conversation.told <= 4
        assert told(conversation)[0] == "s"
        assert told(conversation)[-1] == f"a{n}"
        starts.append(told(conversation)[1])
    # What follows a turn that goes has to be evaluated anew: that happens every other turn at most.
    assert len(set(starts)) <= 10
    assert len(conversation.turns) == 20


def test_one_turn_may_be_all_that_is_told() -> None:
    assert told(of(3, max_turns=1)) == ["q2", "a2"]
    assert told(of(1).shortened()) == []


def test_a_cleared_conversation_keeps_its_system_message_and_nothing_else() -> None:
    before = of(2, system="s")
    after = before.cleared()
    assert told(after) == ["s"]
    assert after.session != before.session


def test_it_is_written_down_whole_whatever_the_model_is_told() -> None:
    conversation = of(3, max_turns=1, system="s").after(Turn("q3", "part", Figures(passes=2), is_whole=False))
    text = conversation.markdown()
    assert text.index("q0") < text.index("a0") < text.index("q3") < text.index("part\n\n*(stopped)*")
    data = json.loads(conversation.json())
    assert [message["content"] for message in data["messages"]][:3] == ["s", "q0", "a0"]
    assert len(data["messages"]) == 9
    assert data["figures"][3]["passes"] == 2


def test_only_what_was_wished_for_is_sent() -> None:
    assert Wishes().options() == {}
    assert Wishes(temperature=0.0, model="mine").options() == {"temperature": 0.0, "model": "mine"}


def event(text: str, generated: int) -> Answer:
    counts = TokenCounts(100, 90, generated, 2 * generated, generated - 1, 2)
    return Answer(text, None, (), UmbrellaReply(Timings(queue_ms=5), counts), {})


def test_a_meter_tells_the_first_text_from_what_follows() -> None:
    ticks = count(10)
    meter = Meter(lambda: float(next(ticks)))  # Begun at 10.
    meter.note(event("", 0))
    meter.note(event("a", 3))  # At 11.
    meter.note(event("bc", 7))
    meter.stop()  # At 12.
    figures = meter.figures()
    assert meter.text == "abc"
    assert (figures.queue_ms, figures.first_token_ms, figures.total_ms) == (5, 1000, 2000)
    assert (figures.tokens_per_s, figures.accepted_per_pass) == (4, 3)
    assert figures.line() == (
        "7 tokens, 4.0 tokens/s, first after 1.00 s, 90 of 100 prompt tokens reused, 3.00 accepted a pass"
    )


def test_another_servers_usage_is_counted_too() -> None:
    meter = Meter(lambda: 0.0)
    meter.note(Answer("a", None, (), None, {}))
    meter.note(Answer("", "stop", (), None, {"usage": {"prompt_tokens": 9, "completion_tokens": 2}}))
    figures = meter.figures()
    assert (figures.prompt_tokens, figures.generated_tokens, figures.passes) == (9, 2, 0)
    assert figures.line() == "2 tokens, first after 0.00 s, 0 of 9 prompt tokens reused"


def test_several_answers_are_summed_but_for_their_first_token() -> None:
    one = Figures(1, 2, 3, 4, 5, 6.0, 7.0, 8.0, 9, 10.0)
    assert Figures.together([one, one]) == Figures(2, 4, 6, 8, 10, 12.0, 7.0, 16.0, 18, 20.0)
