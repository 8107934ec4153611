"""What is known of a cursor, language by language, in whole sources and in broken ones."""

from __future__ import annotations

import pytest

from tests.umbrella_lsp.syntax.marked import facts_at
from umbrella_lsp.syntax.cursor import MAX_NAMES
from umbrella_lsp.syntax.languages import GRAMMARS

TSX = "function View(p: Props) {\n  return (\n    <div>\n      ‸\n    </div>\n  );\n}\n"
GO = "package main\n\nfunc (s *S) Add(a int) error {\n\tif err != nil {\n\t\t‸"
CPP = "class A : public B {\n public:\n  int f(int a) {\n    std::vector<int> x‸\n"

SCOPES = [
    # On a blank line of Python the cursor's column decides.
    ("python", "class A:\n    def f(self):\n        ‸", "A f"),
    ("python", "class A:\n    def f(self):\n        return 1\n    ‸", "A"),
    ("python", "class A:\n    def f(self):\n        return 1\n\n‸", ""),
    ("python", "class A:\n    pass\nx = 1\nfor y in z:\n    ‸", ""),
    ("python", "def f(a‸):\n    pass\n", ""),
    ("python", "def f():\n    '''doc\n‸\n    '''", "f"),
    ("python", "def füü(x):\n    é.‸", "füü"),
    (
        "python",
        "class A:\n    def f(self):\n        x = g(a,\n              ‸\n\n    def h(self): pass\n",
        "A f",
    ),
    ("python", "class A:\n    def f(self):\n        x = [\n            1,‸\n", "A f"),
    ("python", "class A:\n    def f(self):\n        self.‸\n        return 1\n", "A f"),
    ("javascript", "class A {\n  f(a) {\n    ‸\n  }\n}\n", "A f"),
    ("javascript", "class A {\n  f() {}\n  ‸\n}\n", "A"),
    ("javascript", "class A {\n  f(a) {\n    const x = ‸\n", "A f"),
    ("javascript", "function f(a) {\n  return g(a, () => {\n    ‸\n", "f"),
    ("javascript", "function f() {\n  ‸\n\nfunction g() {\n  return 1;\n}\n", "f"),
    ("javascriptreact", "export const View = (a) => {\n  ‸\n};", "View"),
    ("typescript", "interface I {\n  a: number;\n  ‸\n}", "I"),
    ("typescript", "namespace N {\n  enum E {\n    ‸\n  }\n}", "N E"),
    ("typescriptreact", TSX, "View"),
    ("go", GO, "Add"),
    ("go", GO + "\n\t}\n}\n", "Add"),
    ("rust", "impl A {\n    fn f(&self) -> i32 {\n        let x = ‸\n", "A f"),
    ("rust", "impl A {\n    fn f(&self) -> i32 {\n        let x = self.‸\n    }\n}\n", "A f"),
    ("c", "int f(int a) {\n  if (a) {\n    x = ‸\n", "f"),
    ("c", "struct S { int a; };\nint f(int a) {\n  for (i = 0; i < ‸\n}\n", "f"),
    ("cpp", CPP, "A f"),
    ("java", "class A {\n  int f(int a) {\n    return ‸\n", "A f"),
    ("java", "class A {\n  int f(int a) {\n    g.‸\n  }\n}\n", "A f"),
]
WITHIN = [
    ("python", "x = 'ab‸c'", "string"),
    ("python", "x = 'ab‸\ny = 1\n", "string"),
    ("python", "x = 'ab\ny = ‸1\n", "code"),
    ("python", "x = 'abc'‸", "code"),
    ("python", "x = ‸'abc'", "code"),
    ("python", "x = f'ab{c‸}'", "code"),
    ("python", "x = f'ab{c}‸'", "string"),
    ("python", "x = '''é\n‸\n'''", "string"),
    ("python", "# com‸ment\nx", "comment"),
    ("python", "# comment‸\nx", "comment"),
    ("python", "x # comment\n‸", "code"),
    ("javascript", "x = `a${b‸}c`", "code"),
    ("javascript", "x = `a${b}‸c`", "string"),
    ("javascript", "x = 'abc‸\ny = 1\n", "string"),
    ("javascript", "x = `abc‸", "string"),
    ("javascript", "// é‸", "comment"),
    ("javascript", "/* a‸bc */", "comment"),
    ("javascript", "/* abc */‸ x", "code"),
    ("go", 'package a\nfunc f() {\nx := "abc‸\n}\n', "string"),
    ("go", "package a\n// abc‸\n", "comment"),
    ("rust", 'fn f() {\n    let x = "abc‸";\n}\n', "string"),
    ("rust", "/// doc‸\nfn f() {}\n", "comment"),
    ("c", 'int f() {\n  x = "abc‸\n}\n', "string"),
    ("cpp", 'auto x = R"(a‸)";\n', "string"),
    ("java", 'class A { String f() {\nreturn "a‸"; } }\n', "string"),
]
OPENS = [
    ("python", "def f():‸", True),
    ("python", "def f():  # why\n    ‸", True),
    ("python", "try:‸", True),
    ("python", "if x:\n    a\nelse:‸", True),
    ("python", "except:‸", True),
    ("python", "match x:\n    case 1:‸", True),
    ("python", "x = [‸", True),
    ("python", "x:‸", False),
    ("python", "lambda x:‸", False),
    ("python", "d = {a:‸", False),
    ("python", "f(a, b[1:‸", False),
    ("python", "x = 1\n‸", False),
    ("python", "x = 'if a:‸'", False),
    ("javascript", "function f() {‸", True),
    ("javascript", "f(() => {\n  ‸\n})", True),
    ("javascript", "x = `${‸}`", True),
    ("javascript", "f()‸", False),
    ("go", GO, True),
    ("rust", "match x {‸}", True),
    ("c", "int f(‸)", True),
    ("cpp", "namespace n {\n‸", True),
    ("java", "class A {‸}", True),
]
IN_STATEMENT = [
    ("python", "f(a,\n  ‸\n)\n", True),
    ("python", "x = [\n  a,\n  ‸", True),
    ("python", "f(a,‸ b)", False),
    ("python", "if x:\n    ‸", False),
    ("python", "if x:\n    a\nelse:‸", False),
    ("javascript", "f(a,\n  ‸)\n", True),
    ("javascript", "const x = {\n  a: 1,\n  ‸\n};", True),
    ("javascript", "f\n  .bar‸", True),
    ("javascript", "f(\n);\n‸", False),
    ("javascript", "if (a) {\n}‸\n", False),
    ("javascript", "class A {\n  ‸\n}", False),
    ("javascript", "switch (a) {\n  case 1:\n    ‸\n}", False),
    ("typescriptreact", TSX, True),
    ("go", GO, False),
    ("go", "package a\nfunc f() {\n\tg(\n\t\ta,\n\t\t‸\n", True),
    ("rust", "fn f() {\n    let x = g(\n        ‸\n    );\n}\n", True),
    ("c", "int f() {\n  switch (a) {\n  case 1:\n    ‸\n  }\n}\n", False),
    ("java", "class A {\n  void f() {\n    g(a,\n      ‸);\n  }\n}\n", True),
]


@pytest.mark.parametrize(("language", "marked", "scopes"), SCOPES)
def test_scopes_are_the_definitions_around_the_cursor(language: str, marked: str, scopes: str) -> None:
    assert [scope.name for scope in facts_at(marked, language).scopes] == scopes.split()


@pytest.mark.parametrize(("language", "marked", "within"), WITHIN)
def test_strings_and_comments_are_told_from_code(language: str, marked: str, within: str) -> None:
    assert facts_at(marked, language).within == within


@pytest.mark.parametrize(("language", "marked", "opens"), OPENS)
def test_what_opens_a_block_is_told_from_what_looks_like_it(language: str, marked: str, opens: bool) -> None:
    assert facts_at(marked, language).opens_block is opens


@pytest.mark.parametrize(("language", "marked", "in_statement"), IN_STATEMENT)
def test_a_statement_begun_above_is_noticed(language: str, marked: str, in_statement: bool) -> None:
    assert facts_at(marked, language).in_statement is in_statement


def test_names_are_those_around_the_cursor_nearest_first_but_for_the_one_being_typed() -> None:
    far = "far = 1\n" + "\n" * 20
    facts = facts_at(
        far + "def größe(w):\n    near.member(Other)\n    été = typed‸\n\n\nbelow = 1\n\n\n" + far
    )
    assert facts.names == ("below", "été", "Other", "member", "near", "größe")


@pytest.mark.parametrize("language", GRAMMARS)
def test_names_are_bounded(language: str) -> None:
    facts = facts_at(" ".join(f"name{n}" for n in range(200)) + " ‸", language)
    assert len(facts.names) == MAX_NAMES
    assert facts.names[0] == "name199"


def test_definitions_are_those_of_names_in_use_in_order() -> None:
    source = "import os\n\ndef one():\n    pass\n\n\ndef two():\n    pass\n\n\nclass three:\n    pass\n"
    facts = facts_at(source + "\n" * 30 + "two(three(‸))\n")
    assert facts.imports == ("import os",)
    assert [definition.name for definition in facts.definitions] == ["two", "three"]


@pytest.mark.parametrize("language", GRAMMARS)
def test_what_is_broken_everywhere_is_answered(language: str) -> None:
    source = "}) class ( def fn '\" { [ func ` <% é😀 \n\t{{ if ) impl : struct \x00 ]" * 20
    for offset in range(0, len(source), 97):
        facts_at(source[:offset] + "‸" + source[offset:], language)
