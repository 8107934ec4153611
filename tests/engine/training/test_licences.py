import json
from pathlib import Path

import pytest

from engine.training.licences import allows, file_licence, folder_licence, is_permissive, licence_of_text
from tests.engine.training.samples import write

MIT = "MIT License\n\nCopyright (c) 2020 Somebody\n\nPermission is hereby granted, free\nof charge, to any\n"
GPL = "                    GNU GENERAL PUBLIC LICENSE\n                       Version 3, 29 June 2007\n"


@pytest.mark.parametrize(
    ("licence", "permissive"),
    [
        ("MIT", True),
        ("Apache-2.0", True),
        ("BSD License", True),
        ("MIT OR Apache-2.0", True),
        ("MIT OR GPL-2.0-only", True),
        ("GPL-2.0-only AND (MIT OR BSD-3-Clause)", False),
        ("Unlicense", True),
        ("UNLICENSED", False),
        ("LGPL-2.1-or-later", False),
        ("GPLv3", False),
        ("GNU General Public License (GPL)", False),
        ("MPL-2.0 AND MIT", False),
        ("", False),
    ],
)
def test_only_packages_that_state_a_permissive_licence_are_permissive(licence: str, permissive: bool):
    assert is_permissive(licence) is permissive


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("MIT", ("permissive", "not-copyleft", "any")),
        ("", ("not-copyleft", "any")),
        ("Our house rules", ("not-copyleft", "any")),
        ("AGPL-3.0-only", ("any",)),
        ("Proprietary", ("any",)),
    ],
)
def test_a_policy_asks_for_a_licence_or_only_against_some(licence: str, allowed: tuple[str, ...]):
    assert (
        tuple(policy for policy in ("permissive", "not-copyleft", "any") if allows(policy, licence))
        == allowed
    )


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (MIT, "MIT"),
        (GPL, "GPL"),
        ("GNU LESSER GENERAL PUBLIC LICENSE\nThis adds to the GNU General Public License", "LGPL"),
        ("Redistribution and use in source and binary\n   forms, with or without", "BSD"),
        ("Permission to use, copy, modify, and/or distribute this software", "ISC"),
        ("Do as you like.", ""),
    ],
)
def test_a_licence_is_known_by_its_words(text: str, name: str):
    assert licence_of_text(text) == name


@pytest.mark.parametrize(
    ("files", "licence"),
    [
        ({"pyproject.toml": '[project]\nlicense = "MIT"\n', "LICENSE": GPL}, "MIT"),
        ({"pyproject.toml": '[project]\nlicense = {text = "BSD-3-Clause"}\n'}, "BSD-3-Clause"),
        ({"pyproject.toml": '[project]\nlicense = {file = "LICENSE"}\n', "LICENSE": GPL}, "GPL"),
        ({"pyproject.toml": '[tool.poetry]\nlicense = "ISC"\n'}, "ISC"),
        (
            {"pyproject.toml": '[project]\nclassifiers = ["License :: OSI Approved :: MIT License"]\n'},
            "MIT License",
        ),
        ({"package.json": json.dumps({"license": "UNLICENSED"})}, "UNLICENSED"),
        ({"package.json": json.dumps({"license": {"type": "ISC"}})}, "ISC"),
        ({"package.json": json.dumps({"license": "SEE LICENSE IN LICENSE.md"}), "LICENSE.md": MIT}, "MIT"),
        ({"package.json": "{broken", "COPYING": GPL}, "GPL"),
        ({"Cargo.toml": '[package]\nlicense = "MIT/Apache-2.0"\n'}, "MIT/Apache-2.0"),
        ({"Cargo.toml": "[package]\nlicense.workspace = true\n"}, ""),
        ({"LICENSE-APACHE": "Apache License\nVersion 2.0", "LICENSE-MIT": MIT}, "Apache-2.0 OR MIT"),
        ({"README.md": MIT}, ""),
    ],
)
def test_a_package_states_its_licence_in_its_metadata_or_in_a_file(
    tmp_path: Path, files: dict[str, str], licence: str
):
    assert folder_licence(write(tmp_path, files), tmp_path) == licence


def test_a_package_without_a_licence_has_that_of_what_it_lies_in_but_never_from_outside(tmp_path: Path):
    write(tmp_path, {"LICENSE": GPL, "repository/LICENSE": MIT, "repository/packages/a/package.json": "{}"})
    inner = tmp_path / "repository" / "packages" / "a"
    assert folder_licence(inner, tmp_path / "repository") == "MIT"
    assert folder_licence(inner, inner) == ""


def test_a_file_may_state_a_licence_of_its_own():
    assert file_licence("/* SPDX-License-Identifier: GPL-2.0-only WITH x */\n") == "GPL-2.0-only WITH x"
    assert file_licence("x = 1\n") == ""
