import os
import shutil
import subprocess
from pathlib import Path

import pytest

from engine.training.folders import packages_under
from tests.engine.training.samples import write


def found(root: Path) -> dict[str, list[str]]:
    """The files of each package, all relative to `root`."""
    return {
        home.relative_to(root).as_posix(): [path.relative_to(root).as_posix() for path in paths]
        for home, paths in packages_under(root).items()
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path.resolve() / "code"


def checkout(folder: Path) -> None:
    git = shutil.which("git")
    if git is None:
        pytest.skip("git is not installed")
    subprocess.run([git, "init", "--quiet", str(folder)], check=True)


def test_a_folder_without_packages_is_one(root: Path):
    write(root, {"a.py": "", "sub/b.py": ""})
    assert found(root) == {".": ["a.py", "sub/b.py"]}


def test_the_nearest_folder_with_a_packages_own_file_is_a_files_package(root: Path):
    write(root, {"one/pyproject.toml": "", "one/src/a.py": "", "two/go.mod": "", "two/b.go": "", "c.py": ""})
    write(root, {"one/web/package.json": "", "one/web/d.ts": ""})
    assert found(root) == {
        ".": ["c.py"],
        "one": ["one/pyproject.toml", "one/src/a.py"],
        "one/web": ["one/web/d.ts", "one/web/package.json"],
        "two": ["two/b.go", "two/go.mod"],
    }


def test_a_cmake_project_is_one_package_and_its_folders_are_not(root: Path):
    write(
        root,
        {"p/CMakeLists.txt": "project(p)\nadd_subdirectory(lib)", "p/lib/CMakeLists.txt": "add_library(x)"},
    )
    write(root, {"p/lib/x.c": ""})
    assert list(found(root)) == ["p"]


def test_what_others_wrote_and_tools_made_is_not_looked_at(root: Path):
    for folder in ("node_modules/x", "venv/lib", "vendor", "build", "target", "__pycache__", ".hidden"):
        write(root, {f"{folder}/a.py": ""})
    write(root, {"my/pyvenv.cfg": "", "my/lib/a.py": "", "src/a.py": ""})
    assert found(root) == {".": ["src/a.py"]}


def test_links_are_not_followed(root: Path, tmp_path: Path):
    write(tmp_path, {"outside/secret.py": "", "outside/sub/deep.py": ""})
    write(root, {"a.py": ""})
    (root / "file.py").symlink_to(tmp_path / "outside" / "secret.py")
    (root / "folder").symlink_to(tmp_path / "outside")
    (root / "loop").symlink_to(root)
    assert found(root) == {".": ["a.py"]}


def test_what_git_ignores_is_left_out_and_what_it_tracks_is_taken(root: Path):
    write(
        root, {".gitignore": "made.py\n", "made.py": "", "a.py": "", "build/tool.py": "", "vendor/b.py": ""}
    )
    checkout(root)
    assert found(root) == {".": [".gitignore", "a.py", "build/tool.py"]}


def test_checkouts_in_a_folder_are_packages_that_ignore_what_they_ignore(root: Path):
    write(root, {"one/a.py": "", "one/made.py": "", "one/.gitignore": "made.py\n", "two/b.py": ""})
    checkout(root / "one")
    checkout(root / "two")
    assert found(root) == {"one": ["one/.gitignore", "one/a.py"], "two": ["two/b.py"]}


def test_a_checkout_within_a_checkout_is_looked_into(root: Path):
    write(root, {"a.py": "", "inner/b.py": "", "inner/made.py": "", "inner/.gitignore": "made.py\n"})
    checkout(root)
    checkout(root / "inner")
    assert found(root) == {".": ["a.py"], "inner": ["inner/.gitignore", "inner/b.py"]}


def test_a_folder_that_git_ignores_is_read_when_it_is_asked_for(root: Path):
    write(root, {".gitignore": "data/\n", "data/a.py": ""})
    checkout(root)
    assert found(root / "data") == {".": ["a.py"]}


def test_the_repository_that_git_runs_us_for_is_not_the_one_that_is_read(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write(root, {"a.py": ""})
    write(tmp_path / "other", {"b.py": ""})
    checkout(root)
    checkout(tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "other"))
    assert found(root) == {".": ["a.py"]}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_closed_to_us_is_passed_over(root: Path):
    write(root, {"a.py": "", "closed/b.py": ""})
    (root / "closed").chmod(0)
    try:
        assert found(root) == {".": ["a.py"]}
    finally:
        (root / "closed").chmod(0o700)
