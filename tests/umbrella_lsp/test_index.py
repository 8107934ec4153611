"""The workspace's symbols."""

from __future__ import annotations

import pytest

from umbrella_lsp.index import Packed, Symbol, SymbolIndex, pack, unpack


def symbols(path: str, *names: str) -> tuple[Symbol, ...]:
    return tuple(
        Symbol(name, "function", path, "python", line, f"def {name}(): ...")
        for line, name in enumerate(names)
    )


def paths(index: SymbolIndex, *names: str) -> list[str]:
    return [symbol.path for name in names for symbol in index.lookup(name)]


def test_what_is_packed_comes_out_as_it_was() -> None:
    several = symbols("lib/\N{GREEK SMALL LETTER ALPHA}.py", "one", "two", "one")
    assert unpack(pack(several)) == several
    assert pack(several).names == ("one", "two")
    assert unpack(pack(())) == ()


def test_updating_a_file_forgets_what_it_said_before() -> None:
    index = SymbolIndex()
    index.update("a", pack(symbols("a.py", "old")))
    index.update("b", pack(symbols("b.py", "old", "kept")))
    assert paths(index, "old") == ["a.py", "b.py"]
    index.update("a", pack(symbols("a.py", "new")))
    assert paths(index, "old", "new", "kept") == ["b.py", "a.py", "b.py"]
    index.update("b", Packed())
    assert paths(index, "old", "kept") == []
    assert index.size == 1


def test_removing_a_file_forgets_it_and_no_other() -> None:
    index = SymbolIndex()
    index.update("a", pack(symbols("a.py", "f", "f")))
    index.update("b", pack(symbols("b.py", "f")))
    assert paths(index, "f") == ["a.py", "a.py", "b.py"]
    index.remove("a")
    index.remove("never known")
    assert paths(index, "f") == ["b.py"]
    index.clear()
    assert (index.size, index.lookup("f")) == (0, ())


@pytest.mark.parametrize(("limit", "most"), [("MAX_SYMBOLS", 4), ("MAX_PACKED_BYTES", 200)])
def test_what_there_is_no_room_for_is_refused_and_room_that_is_made_is_used(
    monkeypatch: pytest.MonkeyPatch, limit: str, most: int
) -> None:
    monkeypatch.setattr(f"umbrella_lsp.index.{limit}", most)
    index = SymbolIndex()
    assert index.update("a", pack(symbols("a.py", "f", "g")))
    assert not index.update("b", pack(symbols("b.py", *"abcdefghijklmnopq")))
    assert index.update("c", pack(symbols("c.py", "h", "i")))
    assert index.size == 4
    assert not index.update("a", pack(symbols("a.py", *"abcdefghijklmnopq")))
    assert (index.lookup("f"), index.size) == ((), 2)


def test_a_name_that_everybody_uses_is_looked_up_in_so_many_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("umbrella_lsp.index.MAX_FOUND_FILES", 2)
    index = SymbolIndex()
    for number in range(5):
        index.update(str(number), pack(symbols(f"{number}.py", "main")))
    assert paths(index, "main") == ["0.py", "1.py"]
    index.remove("0")
    assert paths(index, "main") == ["1.py", "2.py"]
