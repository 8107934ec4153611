from umbrella_lsp.doctor.log import MAX_ENTRIES, WITHHELD, LogEntry, last_errors

LOG = """2026-03-01 10:00:00,001 INFO engine.server serving in /run/user/1000/umbrella-lsp
2026-03-01 10:00:01,002 WARNING engine.runner drafter model failed
2026-03-01 10:00:02,003 ERROR engine.worker a job failed
Traceback (most recent call last):
  File "/home/ann/.venv/lib/python3.11/site-packages/engine/worker.py", line 88, in _run
    password = "hunter2"
               ^^^^^^^^^
  File "/home/ann/.venv/lib/python3.11/site-packages/engine/decode.py", line 12, in step
    raise ValueError(text)
ValueError: def secret(token="abc"):
    return token
stray_name: of the message
2026-03-01 10:00:03,004 INFO engine.worker request 4 done
def secret(): ERROR engine nothing of this is a record
"""


def test_only_records_are_told_and_of_tracebacks_only_types_and_places() -> None:
    assert last_errors(LOG) == (
        LogEntry("2026-03-01 10:00:01,002", "WARNING", "engine.runner", "drafter model failed"),
        LogEntry(
            "2026-03-01 10:00:02,003",
            "ERROR",
            "engine.worker",
            "a job failed",
            "ValueError",
            ("engine/worker.py:88", "engine/decode.py:12"),
        ),
    )


def test_what_other_libraries_say_is_left_out() -> None:
    (entry,) = last_errors("2026-03-01 10:00:00,001 ERROR uvicorn.error in 'my_secret = 1'\nmy_secret = 1\n")
    assert (entry.logger, entry.message, entry.error) == ("uvicorn.error", WITHHELD, "")


def test_a_message_cannot_drive_a_terminal_and_is_not_endless() -> None:
    (entry,) = last_errors(f"2026-03-01 10:00:00,001 ERROR engine \x1b[2Jgone{'.' * 5000}\n")
    assert entry.message.startswith("[2Jgone.")
    assert len(entry.message) == 300


def test_of_a_chain_the_last_error_is_told_with_all_places() -> None:
    (entry,) = last_errors(
        "2026-03-01 10:00:00,001 ERROR engine it broke\n"
        "Traceback (most recent call last):\n"
        '  File "/a/engine/one.py", line 1, in first\n'
        "KeyError: 'x'\n\nDuring handling of the above exception, another exception occurred:\n\n"
        "Traceback (most recent call last):\n"
        '  File "/a/engine/two.py", line 2, in <module>\n'
        "engine.errors.EngineGone\n"
    )
    assert (entry.error, entry.frames) == ("engine.errors.EngineGone", ("engine/one.py:1", "engine/two.py:2"))


def test_the_newest_are_kept() -> None:
    log = "".join(f"2026-03-01 10:00:00,{n:03} ERROR engine number {n}\n" for n in range(30))
    entries = last_errors(log)
    assert [entry.message for entry in entries] == [f"number {n}" for n in range(30 - MAX_ENTRIES, 30)]
