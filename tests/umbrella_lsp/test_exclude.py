"""Files that never go into a prompt."""

from __future__ import annotations

import pytest

from umbrella_lsp.exclude import is_foreign, is_secret


@pytest.mark.parametrize(
    "path",
    [
        "/a/.env",
        ".env.local",
        ".envrc",
        "/x/prod.env",
        "id_rsa",
        "a/.ssh/config",
        "/home/me/.aws/config",
        "Server.PEM",
        "google-credentials.json",
        ".npmrc",
        "terraform.tfvars",
        "secrets.py",
        "prod.tfvars.json",
        "terraform.tfstate.backup",
        "server.key~",
        "server.pem.git",
        "k8s/my-secret.yaml",
        "serviceAccountKey.json",
        "client_secret_1.json",
        "db-passwords.txt",
        ".psql_history",
        "/home/me/.docker/config.json",
        "/home/me/.config/gcloud/access_tokens.db",
        "/run/secrets/db",
        "C:\\Users\\me\\.aws\\config",
    ],
)
def test_files_that_hold_secrets_are_known_by_name(path: str) -> None:
    assert is_secret(path)


@pytest.mark.parametrize(
    "path",
    [
        "/a/environment.py",
        "keyboard.py",
        "/home/me/env/main.py",
        "test_credentials.py",
        "Untitled-1",
        "secret_santa.py",
        "password.ts",
        "tokenizer.json",
        "design-tokens.json",
        "docker/config.json",
        "package.json.bak",
        "main.py.git",
    ],
)
def test_other_files_are_no_secrets(path: str) -> None:
    assert not is_secret(path)


def test_the_users_patterns_add_to_what_is_known() -> None:
    patterns = ("*.Private", "deploy/*", "/etc/app/**", "*.bak")
    for path in (
        "/a/b.private",
        "/a/b.private.orig",
        "/a/b.py.bak",
        "/a/deploy/main.py",
        "deploy/main.py",
        "/etc/app/x/y.py",
    ):
        assert is_secret(path, patterns), path
    for path in ("/a/private.py", "/a/redeploy/main.py", "/a/main.py"):
        assert not is_secret(path, patterns), path
    assert is_secret("/a/.env", patterns)


def test_directories_of_others_are_known_by_their_name_or_by_what_is_in_them() -> None:
    assert is_foreign(".git")
    assert is_foreign("node_modules")
    assert is_foreign("my-environment", ["bin", "pyvenv.cfg"])
    assert is_foreign("target", ["CACHEDIR.TAG"])
    assert not is_foreign("src", ["main.py"])
