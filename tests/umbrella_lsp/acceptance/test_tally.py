"""Counts of what became of suggestions, in a file that holds nothing else, and how they are printed."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from tests.umbrella_lsp.waiting import until
from umbrella_lsp.acceptance.stats import NOTHING, text
from umbrella_lsp.acceptance.tally import (
    EARLIER,
    MAX_DAYS,
    Counts,
    Tally,
    merged,
    read_days,
    totals,
    user_file,
)
from umbrella_lsp.acceptance.watcher import OUTCOMES, Fate, Offer, Outcome, Watcher
from umbrella_lsp.complete import main
from umbrella_lsp.document import Document, Edit


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    found = user_file()
    assert found is not None
    return found


def today() -> str:
    return "2026-03-01"


def fate(outcome: Outcome = "accepted", *tags: str, saved: int = 3) -> Fate:
    return Fate(outcome, ("all", *tags), saved=saved)


def kept(file: Path, *fates: Fate, day: Callable[[], str] = today) -> Tally:
    """A tally that has put `fates` into `file`."""
    made = Tally(file, day)
    for one in fates:
        made.add(one)
    asyncio.run(made.save())
    return made


def test_the_file_holds_nothing_but_counts_of_known_words_and_is_the_users_alone(file: Path) -> None:
    counting = Tally(file)
    watcher = Watcher(counting.add)
    for number, language in enumerate(["python", "zebra_language", "rust"]):
        document = Document.of(f"file:///home/zebra/zebra{number}.py", "zebra = |zebra()\n", language, 7)
        watcher.offered(document, 8, Offer("zebra-id", "zebra()", 1, ("zebra",), confidence=0.5))
        watcher.changed(document, [Edit(8, 9, "zebra()")], document.replaced(8, 9, "zebra()"))
    watcher.close()
    asyncio.run(counting.save())
    text = file.read_text()
    words = {re.sub(r"\d{4}-\d\d-\d\d", "DAY", word) for word in re.findall(r'"([^"]*)"', text)}
    tags = {"all", "language:python", "language:other", "language:rust", "tier:target", "source:new"}
    tags |= {"shape:line", "confidence:0.5"}
    assert words == {"days", "DAY", *tags, *OUTCOMES, "words", "lines", "saved"}
    assert re.sub(r'"[^"]*"|\d+|[{}:,]', "", text) == ""
    assert file.stat().st_mode & 0o777 == 0o600
    assert {entry.name for entry in file.parent.iterdir()} <= {"acceptance.json", "acceptance.lock"}


def test_writers_at_the_same_time_lose_nothing(file: Path) -> None:
    start = threading.Barrier(4)

    async def write_often() -> None:
        counting = Tally(file, today)
        start.wait()
        for _ in range(10):
            counting.add(fate())
            await counting.save()

    threads = [threading.Thread(target=lambda: asyncio.run(write_often())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_days(file) == {today(): {"all": Counts(accepted=40, saved=120)}}


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\0", b"[]", b'{"days":{"2026-03-01":{"all":{"accepted":-1}}}}', b'{"days":{"a name":{}}}'],
)
def test_a_file_that_is_none_is_set_aside_and_counting_goes_on(
    file: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    file.parent.mkdir()
    file.write_bytes(content)
    kept(file, fate())
    assert read_days(file) == {today(): {"all": Counts(accepted=1, saved=3)}}
    assert file.with_suffix(".unreadable").read_bytes() == content
    assert [record.message for record in caplog.records] == [
        "acceptance.json held no counts; it is now called acceptance.unreadable"
    ]


def test_a_file_of_an_earlier_version_is_read_and_added_to(file: Path) -> None:
    """Then nobody could say that a suggestion was dismissed."""
    file.parent.mkdir()
    counts = {"accepted": 2, "partly": 1, "typed": 0, "contradicted": 3, "left": 4}
    file.write_text(json.dumps({"days": {today(): {"all": {**counts, "words": 1, "lines": 0, "saved": 9}}}}))
    kept(file, fate("dismissed", saved=0))
    found = read_days(file)[today()]["all"]
    assert found == Counts(2, 1, 0, 1, 3, 4, 1, 0, 9)
    assert found.offered == 11


def test_the_figures_fit_eighty_columns_of_plain_text() -> None:
    assert text({}) == NOTHING
    many = Counts(*[123_456] * len(fields(Counts)))
    tags = ("all", "language:typescriptreact", "confidence:0.9")
    lines = text({today(): dict.fromkeys(tags, many), EARLIER: {"all": many}}).splitlines()
    assert lines[0] == f"Suggestions since before {today()}"
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in "".join(lines)
    assert "…" not in "".join(lines)


def test_where_nothing_can_be_written_counts_stay_in_memory_until_they_can(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file.parent.write_bytes(b"in the way")
    counting = kept(file, fate())
    counting.add(fate("left", saved=0))
    asyncio.run(counting.save())
    assert [record.message for record in caplog.records] == [
        "what becomes of suggestions cannot be kept in a file: FileExistsError"
    ]
    file.parent.unlink()
    asyncio.run(counting.save())
    assert read_days(file)[today()]["all"] == Counts(accepted=1, left=1, saved=3)


def test_without_a_file_nothing_is_written_and_rates_are_known_all_the_same(file: Path) -> None:
    counting = Tally(None)
    before = counting.acceptance_rate()
    counting.add(fate())
    asyncio.run(counting.save())
    counting.configure(file)
    assert counting.acceptance_rate() > before
    asyncio.run(counting.save())
    assert not file.exists()


def test_old_days_are_summed_up() -> None:
    one = {"all": Counts(left=1)}
    days = {f"2025-{month:02}-{day:02}": one for month in range(1, 9) for day in range(1, 29)}
    found = merged(days, {"2026-03-01": one, EARLIER: one})
    assert len(found) == MAX_DAYS + 1
    assert found[EARLIER]["all"].left == len(days) + 2 - MAX_DAYS
    assert totals(found.values())["all"].left == len(days) + 2


def test_a_rate_begins_with_what_is_usual_and_goes_where_the_counts_are(file: Path) -> None:
    new = Tally(None)
    assert new.acceptance_rate() == new.acceptance_rate("tier:draft") == pytest.approx(0.3)
    fates = [fate("accepted", "tier:target")] * 30 + [fate("partly", "tier:target")] * 30
    counting = kept(file, *fates, *[fate("contradicted", "tier:draft")] * 40)
    overall, unknown = counting.acceptance_rate(), counting.acceptance_rate("language:go")
    assert overall == unknown == pytest.approx(63 / 110)
    assert counting.acceptance_rate("tier:draft") < 0.2 < 0.8 < counting.acceptance_rate("tier:target")
    again = Tally(None)
    again.configure(file)
    asyncio.run(again.save())
    assert again.acceptance_rate("tier:draft") == counting.acceptance_rate("tier:draft")


def test_a_server_saves_by_itself(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("umbrella_lsp.acceptance.tally.SAVE_EVERY_S", 0.0)

    async def session() -> None:
        counting = Tally(file, today)
        saving = asyncio.create_task(counting.run())
        counting.add(fate())
        await until(file.exists)
        saving.cancel()

    asyncio.run(session())
    assert read_days(file)[today()]["all"].accepted == 1


def test_the_command_prints_what_was_counted(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--stats"]) == 0
    assert capsys.readouterr().out.startswith("Nothing is recorded yet")
    assert main(["--stats", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"opportunities": 0, "totals": {}, "days": {}}
    kept(file, fate("accepted", "language:go"), fate("left", "language:rust", saved=0))
    assert main(["--stats"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["all", "2", "50%", "0%", "0%", "0%", "0%", "50%", "3", "1.5"] in rows
    assert ["go", "1", "100%", "0%", "0%", "0%", "0%", "0%", "3", "3.0"] in rows
    assert main(["--stats", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["opportunities"] == 2
    assert found["totals"]["all"]["saved_per_opportunity"] == 1.5
    assert found["days"][today()]["left"] == 1


def test_the_command_says_what_to_do_about_a_file_that_is_none(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.parent.mkdir()
    file.write_bytes(b"\0")
    assert main(["--stats"]) == 2
    assert "remove it" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["a.py:1", "--stats"]])
def test_the_command_wants_a_place_or_the_counts(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
