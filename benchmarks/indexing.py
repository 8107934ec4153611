"""How long a workspace takes to be read, in how much memory, and what the server feels of it meanwhile.

``python -m benchmarks.indexing [--files N]`` makes a workspace, every other file of which is a copy of one of
this project's with names of its own, and the rest templates in other languages. It is read as a server has it
read, in the process that a server starts.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import re
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import quantiles

from benchmarks.report import print_report
from umbrella_lsp.index import SymbolIndex
from umbrella_lsp.settings import Settings
from umbrella_lsp.workspace.client import Workspace

ROOT = Path(__file__).parents[1]
SOURCES = ("engine", "umbrella_lsp", "benchmarks", "tests")
FILES_IN_FOLDER = 20
FOLDERS_IN_PACKAGE = 10
IDLE_S = 3.0
SAMPLE_S = 0.005

_DEFINED = re.compile(r"\b(?:def|class)\s+([A-Za-z_]\w+)")
_WORD = re.compile(r"\b[A-Za-z_]\w+")
_TEMPLATES = {
    ".ts": """
/** Keeps what NAME has seen. */
export class NAME {
  private readonly seen = new Map<string, number>();
  constructor(private readonly limit: number) {}
  add(key: string, count = 1): boolean {
    const before = this.seen.get(key) ?? 0;
    if (before + count > this.limit) { return false; }
    this.seen.set(key, before + count);
    return true;
  }
}
export function makeNAME(limit: number): NAME { return new NAME(limit); }
""",
    ".go": """
// NAME keeps what has been seen.
type NAME struct {
	limit int
	seen  map[string]int
}

func NewNAME(limit int) *NAME { return &NAME{limit: limit, seen: map[string]int{}} }

func (n *NAME) Add(key string, count int) bool {
	if n.seen[key]+count > n.limit {
		return false
	}
	n.seen[key] += count
	return true
}
""",
    ".rs": """
/// Keeps what has been seen.
pub struct NAME { limit: usize, seen: std::collections::HashMap<String, usize> }

impl NAME {
    pub fn new(limit: usize) -> Self { NAME { limit, seen: Default::default() } }

    pub fn add(&mut self, key: &str, count: usize) -> bool {
        let before = self.seen.entry(key.to_string()).or_insert(0);
        if *before + count > self.limit { return false; }
        *before += count;
        true
    }
}
""",
    ".java": """
/** Keeps what has been seen. */
class NAME {
    private final int limit;
    private final java.util.Map<String, Integer> seen = new java.util.HashMap<>();

    NAME(int limit) { this.limit = limit; }

    boolean add(String key, int count) {
        int before = seen.getOrDefault(key, 0);
        if (before + count > limit) { return false; }
        seen.put(key, before + count);
        return true;
    }
}
""",
    ".cpp": """
// Keeps what has been seen.
class NAME {
 public:
  explicit NAME(int limit) : limit_(limit) {}
  bool add(const std::string& key, int count) {
    int& before = seen_[key];
    if (before + count > limit_) { return false; }
    before += count;
    return true;
  }

 private:
  int limit_;
  std::map<std::string, int> seen_;
};
""",
}
TEMPLATES_IN_FILE = 8


def sources() -> Iterator[tuple[str, str]]:
    """Suffixes and texts without end, one like no other."""
    files = [file for name in SOURCES for file in sorted((ROOT / name).rglob("*.py"))]
    originals = [text for file in files if 200 < len(text := file.read_text("utf-8")) < 100_000]
    templates = itertools.cycle(_TEMPLATES.items())
    for number, text in enumerate(itertools.cycle(originals)):
        own = {name: f"{name}{number}" for name in _DEFINED.findall(text)}
        yield ".py", _WORD.sub(lambda word, own=own: own.get(word[0], word[0]), text)
        suffix, template = next(templates)
        parts = (template.replace("NAME", f"Counter{number}x{part}") for part in range(TEMPLATES_IN_FILE))
        yield suffix, "".join(parts)


def make_workspace(folder: Path, count: int) -> None:
    """Write `count` source files."""
    for number, (suffix, text) in enumerate(itertools.islice(sources(), count)):
        part = number // FILES_IN_FOLDER
        place = folder / f"package{part // FOLDERS_IN_PACKAGE}" / f"part{part}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"module{number}{suffix}").write_text(text, "utf-8")


def megabytes(field: str) -> float:
    """What the system says of this process's memory."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith(f"{field}:"))


async def delays_ms(until: asyncio.Event) -> list[float]:
    """By how much a short sleep overshoots, again and again: what a key would wait for the loop."""
    found = list[float]()
    while not until.is_set():
        before = time.perf_counter()
        await asyncio.sleep(SAMPLE_S)
        found.append((time.perf_counter() - before - SAMPLE_S) * 1000)
    return found


def percentiles(samples: list[float]) -> dict[str, float]:
    """What 50, 95 and 99 of a hundred samples do not exceed, and how many there are."""
    cuts = quantiles(samples, n=100, method="inclusive")
    return {f"p{n}": round(cuts[n - 1], 3) for n in (50, 95, 99)} | {"n": len(samples)}


async def measure(folder: Path, count: int) -> dict[str, object]:
    """Read the workspace in `folder` and say how it went."""
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(IDLE_S, over.set)
    idle = await delays_ms(over)

    index = SymbolIndex()
    workspace = Workspace(index)
    before_mb, began = megabytes("VmRSS"), time.perf_counter()
    settled = asyncio.Event()
    measuring = asyncio.create_task(delays_ms(settled))
    workspace.configure((folder,), Settings(max_files=count), "")
    await workspace.settled()
    seconds = time.perf_counter() - began
    settled.set()
    busy = await measuring
    server_mb = megabytes("VmHWM") - before_mb
    await workspace.aclose()
    child = resource.getrusage(resource.RUSAGE_CHILDREN)
    child_mb = child.ru_maxrss / 1000
    return {
        "files": count,
        "seconds": round(seconds, 1),
        "child_processor_s": round(child.ru_utime + child.ru_stime, 1),
        "symbols": index.size,
        "server_growth_mb": round(server_mb, 1),
        "child_peak_mb": round(child_mb, 1),
        "both_mb": round(server_mb + child_mb, 1),
        "loop_delay_ms": {"idle": percentiles(idle), "indexing": percentiles(busy)},
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--files", type=int, default=10_000)
    count = parser.parse_args().files
    with tempfile.TemporaryDirectory(prefix="umb-") as name:
        make_workspace(Path(name), count)
        figures = asyncio.run(measure(Path(name), count))
    print_report("indexing", figures)


if __name__ == "__main__":
    main()
