"""What files define, language by language."""

from __future__ import annotations

import pytest

from umbrella_lsp.syntax.facts import Definition
from umbrella_lsp.syntax.tree import MAX_HEADER_CHARS, MAX_SOURCE_CHARS, Outline, outline

SOURCES = {
    "python": '''\
import os
from pathlib import Path

LIMIT = 3


@decorated
class Shelf(Base):
    """Holds books."""

    size: int = 0

    def add(self, book: str,
            where: int = 0) -> None:
        local = 1
        self.books.append(book)

    async def clear(self):
        def inner():
            pass
        return inner
''',
    "javascript": """\
import a from 'b';
export const LIMIT = 1;
export default class Shelf extends Base {
  add(book) { const local = 1; }
  get size() { return 1; }
}
function* all() {}
const f = async (a) => {
  return a;
};
""",
    "typescript": """\
import type { A } from './a';
export interface I<T> {
  f(x: T): void
}
type U = A | B;
enum E { A, B }
abstract class C { abstract g(): void; h(a?: number): string { return ''; } }
namespace N { export const x = 1 }
declare function d(a: number): void;
""",
    "typescriptreact": "export function View(p: Props) {\n  return <div>{p.a}</div>;\n}\n",
    "go": """\
package main

import (
	"fmt"
)

const Limit = 1

type Shelf struct {
	books []string
}

type (
	Reader interface{ Read() }
	Alias  = int
)

func (s *Shelf) Add(book string) error {
	var local = 1
	return nil
}
""",
    "rust": """\
use std::fs::{self, File};
mod inner { pub fn x() {} }
pub struct Shelf { size: i32 }
struct Pair(i32, i32);
enum E { A }
trait Tr { fn s(&self); }
impl<T> Tr for Shelf<T> {
    fn s(&self) {}
}
const LIMIT: i32 = 1;
macro_rules! m { () => {} }
""",
    "c": """\
#include <a.h>
#define LIMIT 1
#define TWICE(x) (x + x)
struct S { int a; };
typedef struct { int q; } T;
static int *f(int a) { int local; return 0; }
int g(void);
int size = 1;
""",
    "cpp": """\
#include "a.h"
using namespace std;
namespace n {
class A : public B {
  A();
  ~A() {}
  int f() const override { return 1; }
  virtual void g() = 0;
};
}
int n::A::h(int a) { return 1; }
template <typename T> T t(T a) { return a; }
using X = int;
""",
    "java": """\
package a.b;
import java.util.*;
public class Shelf<T> extends Base {
  private int size = 1;
  @Override public int add(String book) throws E { int local = 1; return local; }
  Shelf() {}
}
interface I { void g(); }
enum E { P, Q }
record R(int a) {}
""",
}
DEFINED = {
    "python": [
        "variable LIMIT 3:0 LIMIT = 3",
        "class Shelf 7:0 class Shelf(Base):",
        "variable size 10:4 size: int = 0",
        "function add 12:4 def add(self, book: str,\n            where: int = 0) -> None:",
        "function clear 17:4 async def clear(self):",
        "function inner 18:8 def inner():",
    ],
    "javascript": [
        "variable LIMIT 1:0 export const LIMIT = 1;",
        "class Shelf 2:0 export default class Shelf extends Base",
        "function add 3:2 add(book)",
        "function size 4:2 get size()",
        "function all 6:0 function* all()",
        "function f 7:0 const f = async (a) =>",
    ],
    "typescript": [
        "type I 1:0 export interface I<T>",
        "function f 2:2 f(x: T): void",
        "type U 4:0 type U = A | B;",
        "class E 5:0 enum E",
        "class C 6:0 abstract class C",
        "function g 6:19 abstract g(): void",
        "function h 6:39 h(a?: number): string",
        "module N 7:0 namespace N",
        "variable x 7:21 const x = 1",
        "function d 8:0 declare function d(a: number): void;",
    ],
    "typescriptreact": ["function View 0:0 export function View(p: Props)"],
    "go": [
        "variable Limit 6:0 const Limit = 1",
        "class Shelf 8:0 type Shelf struct",
        "type Reader 13:1 Reader interface{ Read() }",
        "type Alias 14:1 Alias  = int",
        "function Add 17:0 func (s *Shelf) Add(book string) error",
    ],
    "rust": [
        "module inner 1:0 mod inner",
        "function x 1:12 pub fn x()",
        "class Shelf 2:0 pub struct Shelf",
        "class Pair 3:0 struct Pair(i32, i32);",
        "class E 4:0 enum E",
        "type Tr 5:0 trait Tr",
        "function s 5:11 fn s(&self);",
        "class Shelf 6:0 impl<T> Tr for Shelf<T>",
        "function s 7:4 fn s(&self)",
        "variable LIMIT 9:0 const LIMIT: i32 = 1;",
        "function m 10:0 macro_rules! m { () => {} }",
    ],
    "c": [
        "variable LIMIT 1:0 #define LIMIT 1",
        "function TWICE 2:0 #define TWICE(x) (x + x)",
        "class S 3:0 struct S",
        "type T 4:0 typedef struct { int q; } T;",
        "function f 5:0 static int *f(int a)",
        "function g 6:0 int g(void);",
        "variable size 7:0 int size = 1;",
    ],
    "cpp": [
        "module n 2:0 namespace n",
        "class A 3:0 class A : public B",
        "function A 4:2 A();",
        "function ~A 5:2 ~A()",
        "function f 6:2 int f() const override",
        "function g 7:2 virtual void g() = 0;",
        "function h 10:0 int n::A::h(int a)",
        "function t 11:0 template <typename T> T t(T a)",
        "type X 12:0 using X = int;",
    ],
    "java": [
        "class Shelf 2:0 public class Shelf<T> extends Base",
        "variable size 3:2 private int size = 1;",
        "function add 4:2 @Override public int add(String book) throws E",
        "function Shelf 5:2 Shelf()",
        "type I 7:0 interface I",
        "function g 7:14 void g();",
        "class E 8:0 enum E",
        "class R 9:0 record R(int a)",
    ],
}
IMPORTS = {
    "python": ("import os", "from pathlib import Path"),
    "javascript": ("import a from 'b';",),
    "typescript": ("import type { A } from './a';",),
    "typescriptreact": (),
    "go": ('import (\n\t"fmt"\n)',),
    "rust": ("use std::fs::{self, File};",),
    "c": ("#include <a.h>",),
    "cpp": ('#include "a.h"', "using namespace std;"),
    "java": ("import java.util.*;",),
}


def shown(definition: Definition) -> str:
    return f"{definition.kind} {definition.name} {definition.line}:{definition.column} {definition.header}"


@pytest.mark.parametrize("language", SOURCES)
def test_an_outline_names_imports_and_definitions_in_order(language: str) -> None:
    found = outline(SOURCES[language], language)
    assert [shown(definition) for definition in found.definitions] == DEFINED[language]
    assert found.imports == IMPORTS[language]


def test_a_definition_ends_with_the_line_of_its_last_character() -> None:
    ends = {d.name: d.end_line for d in outline(SOURCES["python"], "python").definitions}
    assert ends == {"LIMIT": 3, "Shelf": 20, "size": 10, "add": 15, "clear": 20, "inner": 19}


def test_columns_count_characters_and_not_bytes() -> None:
    (definition,) = outline("/* é😀; */ function f() {}\n", "javascript").definitions
    assert definition.column == 10


def test_broken_source_still_gives_what_stands_before_it() -> None:
    names = [d.name for d in outline(SOURCES["python"] + "\ndef (:\n  x = [\n", "python").definitions]
    assert "Shelf" in names
    assert "add" in names


def test_the_whole_of_a_long_value_is_not_a_header() -> None:
    (definition,) = outline("TABLE = [\n" + "    'é',\n" * 1_000 + "]\n", "python").definitions
    assert len(definition.header) <= MAX_HEADER_CHARS
    assert definition.end_line == 1_001


@pytest.mark.parametrize(
    ("source", "language"),
    [("", "python"), ("x = 1\n" * (MAX_SOURCE_CHARS // 6 + 1), "python"), ("x = 1", "lua")],
)
def test_nothing_and_too_much_and_languages_without_a_grammar_have_an_empty_outline(
    source: str, language: str
) -> None:
    assert outline(source, language) == Outline()
