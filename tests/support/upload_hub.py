"""The routes of the hub that an upload without Xet uses: enough for huggingface_hub's real client."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.hub import COMMIT, TOKEN, Handler, Hub, running


class UploadHub(Hub):
    """Keeps repositories as directories of `root`.

    `private` says which are private, `objects` holds what was uploaded by sha256. A route
    whose path contains `refuses` answers with an error.
    """

    def __init__(self, root: Path, repos: dict[str, Path]) -> None:
        super().__init__(repos)
        self.RequestHandlerClass = UploadHandler
        self.root, self.private = root, dict.fromkeys(repos, False)
        self.messages: list[str] = []
        self.objects: dict[str, bytes] = {}
        self.refuses = ""


class UploadHandler(Handler):
    """Creates repositories and branches, validates cards, takes large files and commits."""

    server: UploadHub

    def document(self, code: int, document: object) -> None:
        """Answers with JSON."""
        self.answer(code, json.dumps(document).encode(), Content_Type="application/json")

    def info(self, repo: str) -> dict[str, object]:
        """Adds the visibility to the answer about a repository."""
        return {"private": self.server.private[repo]}

    def do_PUT(self) -> None:
        """Takes the content of a large file."""
        self.server.objects[self.path.removeprefix("/objects/")] = self.body()
        self.answer(200)

    def do_POST(self) -> None:
        """Routes one request."""
        path, body = self.path.split("?")[0].strip("/"), self.body()
        self.server.requests.append(f"POST {path}")
        if self.server.refuses and self.server.refuses in path:
            return self.answer(403, X_Error_Message="this token may only read")
        if path == "api/validate-yaml":
            text = json.loads(body)["content"]
            errors = [{"message": "unknown licence"}] if "license: made-up" in text else []
            return self.document(400 if errors else 200, {"errors": errors, "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.document(401, {"error": "Invalid username or password."})
        if path == "api/repos/create":
            return self.create(json.loads(body))
        if path.endswith("/info/lfs/objects/batch"):
            return self.document(200, {"objects": [self.action(entry) for entry in json.loads(body)["objects"]]})
        repo, route, revision = path.removeprefix("api/models/").rsplit("/", 2)
        if route == "branch":
            self.server.revisions.append(revision)
            return self.document(200, {})
        if route == "preupload":
            large = (".safetensors", "tokenizer.json")
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(large) else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return self.document(200, {"files": modes})
        return self.commit(repo, [json.loads(line) for line in body.splitlines()])

    def body(self) -> bytes:
        """What the client sent."""
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def create(self, request: dict[str, str]) -> None:
        """Creates a repository."""
        repo = f"{request['organization']}/{request['name']}"
        folder = self.server.root / repo
        folder.mkdir(parents=True)
        self.server.repos[repo], self.server.private[repo] = folder, request.get("visibility") == "private"
        self.document(200, {"url": f"{self.server.url}/{repo}"})

    def action(self, entry: dict[str, object]) -> dict[str, object]:
        """Where a large file is to be sent."""
        return {**entry, "actions": {"upload": {"href": f"{self.server.url}/objects/{entry['oid']}"}}}

    def commit(self, repo: str, lines: list[dict[str, dict[str, str]]]) -> None:
        """Applies a commit."""
        for line in lines:
            key, value = str(line["key"]), line["value"]
            if key == "header":
                self.server.messages.append(value["summary"])
                continue
            target = self.server.repos[repo] / value["path"]
            target.parent.mkdir(parents=True, exist_ok=True)
            if key == "deletedFile":
                target.unlink()
            else:
                content = value.get("content")
                target.write_bytes(self.server.objects[value["oid"]] if content is None else base64.b64decode(content))
        self.document(200, {"commitOid": COMMIT, "commitUrl": f"{self.server.url}/{repo}/commit/{COMMIT}"})


@contextmanager
def accepting(root: Path, repos: dict[str, Path] | None = None) -> Iterator[UploadHub]:
    """A hub that takes uploads as long as the block runs, with copies of `repos` as its public repositories."""
    copies = {name: Path(shutil.copytree(folder, root / name)) for name, folder in (repos or {}).items()}
    with running(UploadHub(root, copies)) as hub:
        yield hub
