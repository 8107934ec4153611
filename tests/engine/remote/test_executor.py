"""A remote engine against a server whose every byte is decided here."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from engine.config import EngineConfig
from engine.config_tables import UpstreamName
from engine.errors import EngineBusy, EngineUnavailable
from engine.metrics import Metrics
from engine.protocol import Segment, StopReason, StopSpec
from engine.request import CodePrompt
from engine.worker import Worker
from tests.engine.fakes import DEADLINE_S, FakeBackend, Receiver, dawdle, eventually
from tests.engine.remote.scripted import (
    HASTY,
    STREAM,
    Call,
    Scripted,
    answer,
    asked,
    event,
    names,
    remote,
    says,
    scripted,
    then,
    whole,
)

NOBODY = [UpstreamName("http://127.0.0.1:1")]


def test_a_text_comes_as_it_is_streamed_and_its_prompt_went_as_ids() -> None:
    server = Scripted(says(whole("ret", "urn 1")))
    received = Receiver()
    with scripted(server), remote(names(server)) as executor:
        executor.submit(asked("def f():\n    "), received)

        assert received.wait().text == "return 1"
        vocabulary = executor.vocabulary
        assert vocabulary is not None
        (body,) = server.bodies
        assert body["prompt"] == vocabulary.encode("def f():\n    ", begin=True)
        assert body["model"] == "theirs"
        assert vocabulary.max_length == 512, "the server's is shorter than the model's"
    assert [chunk.text for chunk in received.chunks] == ["ret", "urn 1", ""]
    assert received.ending.stop is StopReason.LENGTH
    assert received.chunks[-1].counts.prompt == len(body["prompt"])


def test_the_word_at_the_cursor_stays_in_the_prompt() -> None:
    server = Scripted(says(whole("me")))
    received = Receiver()
    with scripted(server), remote(names(server)) as executor:
        executor.submit(asked(prompt=CodePrompt((Segment("prefix", "self.na"),))), received)

        assert received.wait().text == "me"
        vocabulary = executor.vocabulary
        assert vocabulary is not None
        assert vocabulary.decode(server.bodies[0]["prompt"]).endswith("self.na")
    assert [fate.fate for fate in received.chunks[0].fates] == ["kept"]


@pytest.mark.parametrize(
    ("stop", "text", "reason"),
    [
        (StopSpec(("1 +",)), "x = ", StopReason.STRING),
        (StopSpec(max_lines=1), "x = 1 + 2", StopReason.LINES),
        (StopSpec(min_indent=4), "x = 1 + 2\n    y = 3", StopReason.INDENT),
    ],
)
def test_our_stop_rules_end_the_text_and_close_the_connection(
    stop: StopSpec, text: str, reason: StopReason
) -> None:
    closed = threading.Event()

    async def script(call: Call) -> None:
        await call.send(STREAM + b"".join(map(event, ("x = 1 ", "+ 2\n    y", " = 3\n", "z = 4"))))
        await call.gone()
        closed.set()

    server, received = Scripted(script), Receiver()
    with scripted(server), remote(names(server)) as executor:
        executor.submit(asked(stop=stop), received)
        assert received.wait().text == text
        assert closed.wait(DEADLINE_S)
    assert received.ending.stop is reason


def test_a_cancel_closes_the_connection() -> None:
    closed = threading.Event()

    async def script(call: Call) -> None:
        await call.send(STREAM + event("a"))
        await call.gone()
        closed.set()

    server, received = Scripted(script), Receiver()
    with scripted(server), remote(names(server)) as executor:
        ticket = executor.submit(asked(), received)
        eventually(lambda: bool(received.chunks))
        executor.cancel(ticket)
        executor.cancel(ticket)

        assert received.wait().ending.stop is StopReason.CANCELLED
        assert closed.wait(DEADLINE_S)
        assert not executor.busy
    assert received.text == "a"


def test_a_cancel_is_heard_however_early_it_comes() -> None:
    server, received = Scripted(then(b"")), [Receiver() for _ in range(20)]
    with scripted(server), remote(names(server)) as executor:
        for each in received:
            executor.cancel(executor.submit(asked(), each))
        assert {each.wait().ending.stop for each in received} == {StopReason.CANCELLED}
        eventually(lambda: not executor.busy)


def test_of_several_servers_the_least_busy_is_asked() -> None:
    one, other = Scripted(then(STREAM + event("a"))), Scripted(then(STREAM + event("a")))
    with scripted(one, other), remote(names(one, other)) as executor:
        for count in range(1, 7):
            executor.submit(asked(), Receiver())
            eventually(lambda count=count: len(one.calls) + len(other.calls) == count)
    assert len(one.calls) >= 2
    assert len(other.calls) >= 2


def test_more_than_may_wait_are_refused_together() -> None:
    server = Scripted(then(STREAM))
    with scripted(server), remote(names(server, max_requests=1), max_queue=2) as executor:
        executor.submit(asked(), Receiver())
        eventually(lambda: len(server.calls) == 1)
        executor.submit(asked(), Receiver())
        with pytest.raises(EngineBusy, match="max_queue"):
            executor.submit_all([(asked(), Receiver()), (asked(), Receiver())])
        executor.submit(asked(), Receiver())


def test_while_no_server_answers_models_run_here_and_then_no_more() -> None:
    server = Scripted(says(whole("there")))
    backend = FakeBackend()
    fallback = Worker(lambda _progress: backend, Metrics(), max_queue=4)
    here, back = Receiver(), Receiver()
    with scripted(server):
        pass  # It has had a port, and is gone.
    with remote(names(server), HASTY, fallback) as executor:
        assert executor.state == "unloaded"
        executor.submit(asked("x", max_tokens=3), here)
        assert here.wait().text == "cde"
        assert executor.state == "ready"
        assert "bundled:target runs here meanwhile" in executor.message
        with scripted(server):
            eventually(lambda: executor.message == "")
            executor.submit(asked(), back)
            assert back.wait().text == "there"


def test_a_cancel_reaches_models_that_run_here() -> None:
    worker, received = Worker(lambda _: FakeBackend(in_layer=dawdle), Metrics(), max_queue=4), Receiver()
    with remote(NOBODY, HASTY, worker) as executor:
        ticket = executor.submit(asked(max_tokens=1000), received)
        eventually(lambda: bool(received.chunks))
        executor.cancel(ticket)
        assert received.wait().ending.stop is StopReason.CANCELLED
        eventually(lambda: not executor.busy)


def test_where_nothing_can_run_anywhere_both_reasons_are_told() -> None:
    def load(_progress: object) -> FakeBackend:
        raise EngineUnavailable("its weights are not here.")

    received = Receiver()
    with remote(NOBODY, HASTY, Worker(load, Metrics(), max_queue=4)) as executor:
        executor.submit(asked(), received)
        error = str(received.wait().error)
    assert "No server answers" in error
    assert "its weights are not here" in error


def test_without_servers_and_without_models_the_reason_is_told_at_once() -> None:
    received = Receiver()
    with remote(NOBODY, replace(HASTY, retry_s=60.0)) as executor:
        assert executor.state == "loading"
        assert "127.0.0.1:1 cannot be reached" in executor.message
        executor.submit(asked(), received)
        assert "127.0.0.1:1 cannot be reached" in str(received.wait().error)


def test_a_tokenizer_that_is_not_there_is_a_failure() -> None:
    server, told = Scripted(says(b"")), Receiver()
    with scripted(server), remote(names(server), model="nobody/nothing") as executor:
        assert executor.state == "failed"
        assert "nobody/nothing" in executor.message
        with pytest.raises(EngineUnavailable, match="nobody/nothing"):
            executor.submit(asked(), told)


def test_the_token_goes_to_its_server_and_nowhere_else(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server, received = Scripted(says(whole("x"))), Receiver()
    metrics = Metrics()
    with scripted(server):
        upstreams = names(server, token_env="TEAM_TOKEN")
        with remote(upstreams, metrics=metrics) as executor:
            executor.submit(asked("a secret of mine"), received)
            received.wait()
            said = executor.message + repr(EngineConfig(engine="remote", upstreams=upstreams))
        with remote(names(server, token_env="NOT_SET"), HASTY) as executor:
            assert "NOT_SET is not set" in executor.message
    assert server.calls[0].headers["authorization"] == "Bearer s3cret"
    everything = caplog.text + said + metrics.text().decode()
    assert "s3cret" not in everything
    assert "secret of mine" not in everything


def test_code_that_travels_unencrypted_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    with remote([UpstreamName("http://umbrella.invalid"), UpstreamName("http://localhost:1")], HASTY):
        pass
    warnings = [record.getMessage() for record in caplog.records if "unencrypted" in record.getMessage()]
    assert len(warnings) == 1
    assert "umbrella.invalid" in warnings[0]


def test_a_server_without_a_list_of_models_is_fine_where_the_model_is_named() -> None:
    server, received = Scripted(says(whole("x")), cards=answer("404 Not Found")), Receiver()
    with scripted(server):
        with remote(names(server), HASTY) as executor:
            assert "404" in executor.message
        with remote(names(server, model="mine")) as executor:
            executor.submit(asked(), received)
            received.wait()
    assert server.bodies[0]["model"] == "mine"
    assert "stop_token_ids" not in server.bodies[0], "nothing is known of a model that is not listed"


def test_a_deadline_ends_a_text_behind_a_line() -> None:
    async def script(call: Call) -> None:
        await call.send(STREAM + event("a = 1\n"))
        await come.wait()
        await call.send(event("b") + event("c"))
        await call.gone()

    come = asyncio.Event()
    server, received = Scripted(script), Receiver()
    with scripted(server), remote(names(server)) as executor:
        executor.submit(asked(deadline_ms=0.001), received)
        eventually(lambda: bool(received.chunks))
        server.do(come.set)
        assert received.wait().ending.stop is StopReason.DEADLINE
    assert received.text == "a = 1\nb"


def test_torch_is_not_imported() -> None:
    code = (
        "import sys\n"
        "from tests.engine.remote.scripted import Scripted, asked, names, remote, says, scripted, whole\n"
        "from tests.engine.fakes import Receiver\n"
        "server, received = Scripted(says(whole('x'))), Receiver()\n"
        "with scripted(server), remote(names(server, prompts='text')) as executor:\n"
        "    executor.submit(asked(), received)\n"
        "    assert received.wait().text == 'x'\n"
        "import engine.server\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_many_at_once_are_all_answered() -> None:
    server, received = Scripted(says(whole("x"))), [Receiver() for _ in range(60)]
    with scripted(server), remote(names(server, max_requests=5)) as executor:
        executor.submit_all([(asked(), each) for each in received])
        assert {each.wait().text for each in received} == {"x"}
        eventually(lambda: not executor.busy)
