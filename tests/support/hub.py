"""A small model hub on the loopback, enough for huggingface_hub's real client."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TypeVar

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_secret"


class Hub(ThreadingHTTPServer):
    """Serves directories as repositories.

    `requests` lists the requests and `ranges` the parts of files that were requested, with their lengths. `gated` are the
    repositories that need the token, `revisions` what every repository has. `constant` is the answer to every request, if
    there is one.
    """

    def __init__(self, repos: dict[str, Path], gated: tuple[str, ...] = (), constant: bytes | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos, self.gated, self.constant = repos, gated, constant
        self.requests: list[str] = []
        self.ranges: list[tuple[str, str, int]] = []
        self.revisions = ["main", "v1", COMMIT]

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """The routes of the hub that a download uses: model info, tree and files."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed."""

    def answer(self, code: int, body: bytes = b"", **headers: str) -> None:
        """Sends one answer, without the body to HEAD."""
        self.send_response(code)
        headers.setdefault("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def info(self, repo: str) -> dict[str, object]:
        """What else is said about a repository."""
        return {}

    def do_POST(self) -> None:
        """What huggingface_hub asks of single paths of a repository."""
        parts = self.path.split("?")[0].strip("/").removeprefix("api/models/").split("/")
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["paths"]
        folder = self.server.repos["/".join(parts[:2])]
        self.server.requests.append(f"POST {self.path}")
        found = [self.entry(folder / name, name) for name in asked if (folder / name).exists()]
        self.answer(200, json.dumps(found).encode(), Content_Type="application/json")

    def entry(self, path: Path, name: str) -> dict[str, object]:
        """What the hub says of a file or a folder of a repository."""
        oid = hashlib.sha1(path.read_bytes() if path.is_file() else name.encode()).hexdigest()
        kind = "file" if path.is_file() else "directory"
        return {"type": kind, "path": name, "size": path.stat().st_size if path.is_file() else 0, "oid": oid}

    def do_HEAD(self) -> None:
        """As GET, without the body."""
        self.do_GET()

    def do_GET(self) -> None:
        """Routes one request."""
        path = self.path.split("?")[0].strip("/")
        api = path.startswith("api/models/")
        parts = (path.removeprefix("api/models/") if api else path).split("/")
        repo, rest = "/".join(parts[:2]), parts[2:]
        self.server.requests.append(f"{self.command} {path}")
        if self.server.constant is not None:
            return self.answer(200, self.server.constant, Content_Type="application/json")
        if repo not in self.server.repos:
            return self.answer(401, X_Error_Code="RepoNotFound")
        if repo in self.server.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(403, X_Error_Code="GatedRepo", X_Error_Message="Access is restricted.")
        if len(rest) > 1 and rest[1] not in self.server.revisions:
            return self.answer(404, X_Error_Code="RevisionNotFound")
        folder = self.server.repos[repo]
        if api:
            files = {str(entry.relative_to(folder)): entry for entry in sorted(folder.rglob("*")) if entry.is_file()}
            if rest[:1] == ["tree"]:
                entries = [
                    {
                        "type": "file",
                        "path": name,
                        "size": entry.stat().st_size,
                        "oid": hashlib.sha1(name.encode()).hexdigest(),
                    }
                    for name, entry in files.items()
                ]
                return self.answer(200, json.dumps(entries).encode(), Content_Type="application/json")
            document = {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files], **self.info(repo)}
            return self.answer(200, json.dumps(document).encode(), Content_Type="application/json")
        file = folder.joinpath(*rest[2:])
        if not file.is_file():
            return self.answer(404, X_Error_Code="EntryNotFound")
        if part := self.headers.get("Range"):
            first, last = map(int, part.removeprefix("bytes=").split("-"))
            self.server.ranges.append((repo, rest[-1], last + 1 - first))
            with file.open("rb") as opened:
                opened.seek(first)
                return self.answer(206, opened.read(last + 1 - first), X_Repo_Commit=COMMIT)
        body = file.read_bytes()
        etag = f'"{hashlib.sha256(body).hexdigest()}"'
        return self.answer(200, body, ETag=etag, X_Repo_Commit=COMMIT, Accept_Ranges="bytes")


AnyHub = TypeVar("AnyHub", bound=Hub)


@contextmanager
def serving(repos: dict[str, Path], gated: tuple[str, ...] = (), constant: bytes | None = None) -> Iterator[Hub]:
    """A hub that runs as long as the block."""
    with running(Hub(repos, gated, constant)) as hub:
        yield hub


@contextmanager
def running(hub: AnyHub) -> Iterator[AnyHub]:
    """The hub, which answers as long as the block runs."""
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
