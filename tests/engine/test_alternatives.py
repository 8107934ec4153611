from __future__ import annotations

from dataclasses import replace

import pytest

from engine.protocol import StopReason, StopSpec
from engine.request import GenerationRequest
from tests.engine.bench import REQUEST, bench, of
from tests.engine.fake_parts import FakeBranch
from tests.engine.fakes import LAYERS, FakeBackend, Receiver, Script

ALONE = 6 * LAYERS
"""Layers of the main text, which is "hijklm"."""
MANY = replace(REQUEST, alternatives=16, stop=StopSpec(strings=(";",)))

branch = FakeBranch.of


def run(
    *branches: FakeBranch, request: GenerationRequest = MANY, max_length: int = 100
) -> tuple[Receiver, int]:
    """What a job delivered, and how many passes it took beyond the main text's."""
    backend = FakeBackend(branches=branches, max_length=max_length)
    with bench(backend) as at:
        result = at.run(request)
        extra = int(at.layers - ALONE) // LAYERS
    assert len(backend.target_slots) <= 2, "the session's own, and one beside it"
    assert result.chunks[-1].counts.target_passes == 6 + extra
    return result, extra


def test_a_branch_that_ends_within_what_is_verified_costs_no_pass() -> None:
    result, extra = run(branch(2, "X;", -1.0), branch(1, "Y;", -2.0))
    assert result.texts == ["hijklm", "hiX", "hY"]
    assert [ending.stop for ending in result.endings] == [StopReason.LENGTH] + [StopReason.STRING] * 2
    assert [ending.stop_string for ending in result.endings] == ["", ";", ";"]
    assert [ending.last for ending in result.endings] == [False, False, True]
    assert extra == 0
    assert result.chunks[-1].counts.generated == 6 + 2 + 2


def test_a_branch_that_goes_on_is_continued_for_its_own_number_of_tokens() -> None:
    result, extra = run(branch(2, "XY", -1.0))
    assert result.texts == ["hijklm", "hiXYlm"]
    assert extra == 2
    assert result.chunks[-1].counts.generated == 6 + 4
    alternative = [chunk for chunk in result.chunks if chunk.index == 1]
    assert [chunk.text for chunk in alternative] == ["hiXY", "l", "m"]
    assert [chunk.logprobs for chunk in alternative] == [(-0.5,) * 4, (-0.5,), (-0.5,)]


def test_the_likeliest_are_taken_and_those_that_cost_nothing_come_first() -> None:
    request = replace(MANY, alternatives=3)
    result, _ = run(branch(3, "A", -1.0), branch(2, "B;", -2.0), branch(1, "C;", -3.0), request=request)
    assert result.texts == ["hijklm", "hiB", "hijAlm"]


@pytest.mark.parametrize(
    "twin",
    [
        branch(2, "jk", -2.0),  # It may become the main text.
        branch(2, "jklm", -2.0),
        branch(2, "Xj", -2.0),  # The other alternative may become this one.
        branch(2, "X;", -2.0),
        branch(0, ";", -2.0),  # It says nothing.
    ],
)
def test_texts_differ_from_one_another_and_none_is_empty(twin: FakeBranch) -> None:
    assert run(branch(2, "X", -1.0), twin)[0].texts == ["hijklm", "hiXklm"]


def test_an_alternative_is_no_longer_than_was_asked_or_than_the_context_has_room_for() -> None:
    result, extra = run(branch(3, "ABCDEF", -1.0))
    assert (result.texts, extra) == (["hijklm", "hijABC"], 0)
    result, extra = run(branch(2, "XYZ", -1.0), max_length=len("\0prompt") + 4)
    # The context's end spares the main text two passes, too.
    assert (result.texts, extra) == (["hijk", "hiXY"], -2)
    assert result.endings[1].stop is StopReason.LENGTH


def test_past_its_deadline_a_job_delivers_no_further_alternatives() -> None:
    late = replace(MANY, deadline_ms=1e-6)
    result, extra = run(branch(1, "\n", -1.0), branch(2, "\n", -2.0), request=late)
    assert (result.texts, extra) == (["hijklm", "h\nj"], 1)
    assert [ending.stop for ending in result.endings] == [StopReason.LENGTH, StopReason.DEADLINE]


def test_a_job_cancelled_in_an_alternative_delivers_no_more() -> None:
    script = Script()
    with bench(FakeBackend(branches=[branch(1, "X", -1.0), branch(2, "Y", -2.0)], in_layer=script)) as at:
        result = Receiver()
        script.acts[ALONE + 2] = lambda: at.worker.cancel(job)
        job = at.worker.submit(MANY, result)
        assert result.wait().texts == ["hijklm", "hX"]
        assert result.endings[-1].stop is StopReason.CANCELLED
        assert at.layers == ALONE + 2


@pytest.mark.parametrize("slots", [1, 2])
def test_an_alternative_that_is_interrupted_says_what_it_would_have_said(slots: int) -> None:
    script, typing = Script(), Receiver()
    backend = FakeBackend(branches=[branch(1, "X", -1.0), branch(2, "Y", -2.0)], in_layer=script, slots=slots)
    with bench(backend) as at:
        script.acts[ALONE + LAYERS + 2] = lambda: at.worker.submit(of("typing"), typing)
        result = at.run(replace(MANY, priority="prefetch"))
        assert at.metric("umbrella_preemptions_total") == 1
    assert result.texts == ["hijklm", "hXjklm", "hiYklm"]
    assert typing.text == "hijklm"


def test_where_a_branch_leaves_is_counted_from_the_beginning_also_after_an_interruption() -> None:
    script = Script()
    with bench(FakeBackend(branches=[branch(2, "X;", -1.0)], in_layer=script, slots=1)) as at:
        # In the third pass: the job begins again after two tokens, and the branch leaves two tokens later.
        script.acts[2 * LAYERS + 2] = lambda: at.worker.submit(of("typing"), Receiver())
        assert at.run(replace(MANY, priority="prefetch")).texts == ["hijklm", "hijkX"]
