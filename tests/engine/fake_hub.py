"""A hub on loopback that speaks what fetching a model takes, with faults to be injected."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


def commit_of(files: dict[str, bytes]) -> str:
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


@dataclass
class FakeHub:
    """Repositories, as commits of files and branches of commits, and what was asked for."""

    url: str = ""
    branches: dict[tuple[str, str], str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    cut: dict[str, int] = field(default_factory=dict)
    """File names, and how many more times their connection is cut half way."""
    refuse: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Beginnings of paths, and the status and X-Error-Code that they are answered with."""

    def push(self, name: str, files: dict[str, bytes], branch: str = "main") -> str:
        commit = commit_of(files)
        self.commits[commit] = files
        self.branches[name, branch] = commit
        return commit

    def fetched(self) -> list[str]:
        """Names of files whose content was sent, in order."""
        return [
            path.rsplit("/", 1)[-1] for path in self.asked if path.startswith("GET") and "/resolve/" in path
        ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, format: str, *_: Any) -> None:  # noqa: A002
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        if token := self.headers.get("Authorization"):
            self.hub.tokens.add(token)
        for beginning, (status, code) in self.hub.refuse.items():
            if path.startswith(beginning):
                return self._send(status, b"", {"X-Error-Code": code} if code else {})
        if path.startswith("/api/models/"):
            return self._describe(path.removeprefix("/api/models/").split("/"))
        owner, name, _, revision, *file = path.strip("/").split("/")
        return self._file(f"{owner}/{name}", revision, "/".join(file))

    def _commit(self, name: str, revision: str) -> str | None:
        if not any(known == name for known, _ in self.hub.branches):
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
            return None
        commit = self.hub.branches.get((name, revision), revision)
        if commit not in self.hub.commits:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return None
        return commit

    def _describe(self, parts: list[str]) -> None:
        name, kind = "/".join(parts[:2]), parts[2] if len(parts) > 2 else "revision"
        commit = self._commit(name, parts[3] if len(parts) > 3 else "main")
        if commit is None:
            return
        files = self.hub.commits[commit]
        answer: Any
        if kind == "tree":
            answer = [
                {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for path, data in files.items()
            ]
        else:
            siblings = [{"rfilename": path, "size": len(data)} for path, data in files.items()]
            answer = {"id": name, "sha": commit, "siblings": siblings}
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _file(self, name: str, revision: str, path: str) -> None:
        commit = self._commit(name, revision)
        if commit is None:
            return None
        data = self.hub.commits[commit].get(path)
        if data is None:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
        status = 200
        if wanted := self.headers.get("Range"):
            self.hub.ranges.append(wanted)
            begin = int(wanted.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
            data, status = data[begin:], 206
        left = self.hub.cut.get(path, 0)
        if left and self.command == "GET":
            self.hub.cut[path] = left - 1
            return self._send(status, data, headers, sent=len(data) // 2)
        return self._send(status, data, headers)

    def _send(self, status: int, data: bytes, headers: dict[str, str], sent: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:sent])
        if sent is not None:
            self.close_connection = True


@contextmanager
def running_hub() -> Generator[FakeHub]:
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
