"""What is known of text once it stands at a cursor, language by language."""

from __future__ import annotations

import pytest

from tests.umbrella_lsp.syntax.marked import facts_of

# A ¦ in the text is where a statement of the cursor's own block ends, and ¶ after it where the block is left.
ENDS = [
    ("python", "def f():‸", "\n    return 1¦¶\n"),
    (
        "python",
        "def f():‸",
        "\n    x = 1¦\n    if x:\n        return 1¦\n    return 2¦¶\n\n\ndef g():\n    pass\n",
    ),
    ("python", "def f():\n    ‸", "é = 'ü'¦\n    return é¦¶"),
    ("python", "def f():\n    if x:\n        ‸\n    y = 1\n", "return x¦¶"),
    ("python", "def f():\n    return ‸\n", "x¦¶\n"),
    ("python", "x = f(‸\n", "a, b)¦\ny = 2¦"),
    ("python", "f(‸)\n", "a, b"),
    (
        "python",
        "class A:\n    def f(self):\n        x = [\n            ‸",
        "1,\n        ]¦\n        return x¦¶\n",
    ),
    ("python", "def f():\n    ‸", "x = f(1,\n          2)¦\n    # why\n    raise x¦¶\n"),
    ("javascript", "function f() {\n  ‸\n}\n", "const x = 1;¦\n  return x;¦¶"),
    ("javascript", "function f() {\n  ‸\n}\n", "if (x) {\n    return 2\n  }¦\n  return x¦¶"),
    (
        "javascript",
        "function f() {\n  ‸\n",
        "const x = 1;¦\n  if (x) {\n    return 2;\n  }¦\n  return x;¦¶\n}\n",
    ),
    ("javascript", "class A {\n  f() {\n    x = \n    ‸\n", "x();¦\n    return x;¦¶\n"),
    ("javascript", "function f()‸\n", " {\n  return 1;\n}¦\nf();¦"),
    ("javascript", "f(‸);\n", "() => {\n  a();\n}"),
    ("javascript", "switch (a) {\n  case 1:\n    ‸\n}", "f();¦\n    break;¦¶\n"),
    ("typescript", "class A {\n  ‸\n}\n", "a: number = 1;¦\n  f(): void {\n    return;\n  }¦"),
    ("typescriptreact", "function V() {\n  ‸\n}\n", "const a = 1;¦\n  return <div>{a}</div>;¦¶\n"),
    ("go", "package a\nfunc f() {\n\t‸\n}\n", "x := 1¦\n\treturn x¦¶\n"),
    ("go", "package a\nfunc f() {\n\t‸\n", "x := 1¦\n\treturn x¦¶\n}\n"),
    ("rust", "fn f() -> i32 {\n    ‸\n}\n", "let x = 1;¦\n    return x;¦¶\n"),
    ("rust", "fn f() -> i32 {\n    ‸\n}\n", "match x {\n        1 => return 2,\n        _ => 3,\n    }¦"),
    ("c", "int f() {\n  switch (a) {\n  case 1:\n    ‸\n  }\n}\n", "x();¦\n    break;¦¶\n"),
    ("c", "int f() {\n  ‸\n", "x();¦\n  return 1;¦¶\n}\n"),
    ("cpp", "class A {\n  ‸\n};", "int f() { return 1; }¦\n  int x;¦"),
    ("cpp", "void f() {\n  ‸\n}\n", "for (auto& x : y) { x(); }¦\n  throw 1;¦¶\n"),
    ("java", "class A {\n  int f(int a) {\n    ‸\n  }\n}\n", "g();¦\n    return a;¦¶\n"),
    ("java", "class A {\n  int f(int a) {\n    ‸\n", "g();¦\n    return a;¦¶\n"),
]
BRACKETS = [
    ("python", "x = ‸\n", "'é(' + f'{a}' + (b)  # )", "{}()"),
    ("python", "x = f(‸\n", "a, [b", "["),
    ("javascript", "x = ‸;\n", "`(${b}` + '}'", "{}"),
    ("javascript", "x = ‸;\n", "[/[(]/, '\\'(']", "[]"),
    ("typescriptreact", "x = ‸;\n", "<A b={c}>(</A>", "{}"),
    ("go", "package a\nvar x = ‸\n", "[]rune{\"{\"[0], '['}", "[]{[]}"),
    ("rust", "fn f() { ‸ }\n", "let c = '{'; vec![1]; // (", "[]"),
    ("c", "‸\n", "#define F(x) (x\n", "()"),
    ("cpp", "‸\nint f();\n", '[[nodiscard]] auto s = R"(()";', "[[]]"),
    ("java", "class A { ‸ }\n", "char c = '{'; int[] d;", "[]"),
]


@pytest.mark.parametrize(("language", "marked", "shown"), ENDS)
def test_ends_are_those_of_the_cursors_own_block(language: str, marked: str, shown: str) -> None:
    new = shown.replace("¦", "").replace("¶", "")
    found = facts_of(marked, new, language)
    pieces = [new[start:end] for start, end in zip((0, *found.ends), (*found.ends, len(new)), strict=True)]
    assert "¦".join(pieces) == shown.replace("¶", "")
    left_at = len(shown.split("¶", 1)[0].replace("¦", "")) if "¶" in shown else None
    assert found.leaves_at == left_at


@pytest.mark.parametrize(("language", "marked", "new", "brackets"), BRACKETS)
def test_brackets_are_tokens_and_no_characters(language: str, marked: str, new: str, brackets: str) -> None:
    found = facts_of(marked, new, language).brackets
    assert "".join(bracket.char for bracket in found) == brackets
    assert all(new[bracket.at] in (bracket.char, "$") for bracket in found)


@pytest.mark.parametrize(
    ("marked", "new", "within"),
    [
        ("x = '‸'\n", "abc", "string"),
        ("x = ‸\n", "'é", "string"),
        ("x = ‸\n", "'é'", "code"),
        ("‸\nx\n", "y  # é", "comment"),
    ],
)
def test_the_end_of_the_text_may_be_in_a_string_or_a_comment(marked: str, new: str, within: str) -> None:
    assert facts_of(marked, new).within == within


@pytest.mark.parametrize(
    ("language", "marked", "new", "is_broken"),
    [
        ("python", "x = ‸\n", "1", False),
        ("python", "x = 1\n‸\n", "y = (", True),
        ("python", "def f(:\n    pass\n\n\n‸\n", "x = 1", False),
        ("python", "def f(:\n    pass\n\n\n‸\n", "x = )", True),
        ("javascript", "function f() {\n  ‸\n}\n", "return 1;\n}", True),
        ("javascript", "function f() {\n  ‸\n", "return 1;\n}", False),
        ("go", "package a\nfunc f() {\n\t‸\n}\n", "x := 1", False),
    ],
)
def test_text_is_broken_if_it_adds_an_error(language: str, marked: str, new: str, is_broken: bool) -> None:
    assert facts_of(marked, new, language).is_broken is is_broken


@pytest.mark.parametrize("new", ["", "\n", "  \n\n", "# only a comment\n"])
def test_text_without_code_has_no_statements(new: str) -> None:
    assert facts_of("def f():\n    ‸\n", new).ends == ()
