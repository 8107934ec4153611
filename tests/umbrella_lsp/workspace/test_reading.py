"""What is read of a workspace, and what is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.umbrella_lsp.workspace.files import write
from umbrella_lsp.workspace.reading import MAX_FILE_BYTES, MAX_LINE_CHARS, is_source, read_source


def test_text_is_read_with_lf_line_ends_and_without_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(b"\xef\xbb\xbfa = 1\r\nb = 2\r")
    assert read_source(tmp_path / "a.py") == "a = 1\nb = 2\n"


@pytest.mark.parametrize(
    "data",
    [
        b"x = 1\n" * MAX_FILE_BYTES,
        b"x = '\xff'\n",
        b"x = 1\0\n",
        b"x=1;" * MAX_LINE_CHARS,
    ],
    ids=["large", "not UTF-8", "binary", "minified"],
)
def test_what_nobody_writes_by_hand_is_left_alone(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.js").write_bytes(data)
    assert read_source(tmp_path / "a.js") is None


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "link.py").symlink_to(write(tmp_path / "a.py", "a = 1\n"))
    for name in ("pipe.py", "folder.py", "link.py", "gone.py", "zero\0.py"):
        assert read_source(tmp_path / name) is None, name


def test_a_file_that_is_written_while_it_is_read_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "a.py", "a = 1\n")
    read = os.read

    def interrupted(descriptor: int, size: int) -> bytes:
        data = read(descriptor, size)
        if data:
            file.write_text("a = 1\nb = 2\n")
        return data

    monkeypatch.setattr(os, "read", interrupted)
    assert read_source(file) is None


def test_names_decide_what_is_source() -> None:
    assert is_source("/a/b.py", ())
    assert is_source("/a/b.tsx", ("*.ts",))
    for path in ("/a/b.txt", "/a/secrets.py", "/a/.ssh/b.py", os.fsdecode(b"/a/caf\xe9.py")):
        assert not is_source(path, ()), path
    assert not is_source("/a/deploy/b.py", ("deploy/*",))
