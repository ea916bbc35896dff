"""Google Cloud Storage on the loopback: as much of its JSON API as TensorStore and gcsfs use.

The emulator on PyPI (gcp-storage-emulator 2026.7) is none for TensorStore: it knows no startOffset and sends no generation of
an object. https://cloud.google.com/storage/docs/json_api/v1
"""

from __future__ import annotations

import json
import re
import secrets
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit

BUCKET = "bucket"


class GoogleStorage(ThreadingHTTPServer):
    """One bucket."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), GoogleHandler)
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, tuple[str, bytearray]] = {}
        self.denied = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing is printed of clients that hang up: gcsfs asks in two ways at once and takes the first answer."""

    def resource(self, name: str) -> dict[str, object]:
        """What the API says of an object. Its generation is another one for another content."""
        generation = str(1 + hash(self.objects[name]) % (1 << 62))
        return {
            "kind": "storage#object", "name": name, "bucket": BUCKET, "size": str(len(self.objects[name])),
            "generation": generation, "etag": generation, "updated": "2026-01-01T00:00:00.000Z",
        }  # fmt: skip


class GoogleHandler(BaseHTTPRequestHandler):
    """Media and metadata of objects, lists in pages, uploads in one piece and resumable ones, copies and deletions."""

    server: GoogleStorage
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    PAGE = 7

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed."""

    def answer(self, code: int, body: bytes | dict[str, object] = b"", **headers: str) -> None:
        """Sends one answer."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(raw)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw)

    def refuse(self, code: int, message: str) -> None:
        """Sends an error as Google words it."""
        self.answer(code, {"error": {"code": code, "message": message}})

    def route(self) -> tuple[str, str, dict[str, str], bytes]:
        """What is asked for: the part before the object, the object, the query, the body."""
        address = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        place, _, name = re.sub("^(/download|/upload)?/storage/v1/b/", "", address.path).partition("/o")
        return place, unquote(name.removeprefix("/")), query, body

    def handle_one(self) -> None:
        """Routes one request."""
        place, name, query, body = self.route()
        if self.server.denied:
            return self.refuse(403, "no access")
        if place != BUCKET:
            return self.refuse(404, "The specified bucket does not exist.")
        if self.path.startswith("/upload"):
            return self.upload(query, body)
        if "/rewriteTo/" in name:
            source, _, target = name.partition(f"/rewriteTo/b/{BUCKET}/o/")
            self.server.objects[target] = self.server.objects[source]
            return self.answer(200, {"done": True, "resource": self.server.resource(target)})
        if self.command == "DELETE":
            return self.answer(404 if self.server.objects.pop(name, None) is None else 204)
        if not self.path.split("?")[0].endswith(BUCKET) and name:
            return self.read_object(name, query)
        if self.path.split("?")[0].endswith("/o"):
            return self.answer(200, self.list_objects(query))
        return self.answer(200, {"kind": "storage#bucket", "name": BUCKET, "id": BUCKET})

    do_GET = do_POST = do_DELETE = do_PUT = handle_one

    def list_objects(self, query: dict[str, str]) -> dict[str, object]:
        """One page of the objects between two names, with a delimiter the folders apart."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        start = max(query.get("startOffset", ""), query.get("pageToken", ""))
        end = query.get("endOffset") or "\U0010ffff"
        names = [key for key in sorted(self.server.objects) if start <= key < end and key.startswith(prefix)]
        page, rest = names[: self.PAGE], names[self.PAGE :]
        folders = [] if delimiter is None else sorted({
            prefix + key[len(prefix) :].split(delimiter)[0] + delimiter for key in page if delimiter in key[len(prefix) :]
        })  # fmt: skip
        items = [key for key in page if delimiter is None or delimiter not in key[len(prefix) :]]
        found: dict[str, object] = {"kind": "storage#objects", "items": [self.server.resource(key) for key in items]}
        return found | ({"prefixes": folders} if folders else {}) | ({"nextPageToken": rest[0]} if rest else {})

    def read_object(self, name: str, query: dict[str, str]) -> None:
        """The metadata of an object, or its bytes, or a range of them."""
        body = self.server.objects.get(name)
        if body is None:
            return self.refuse(404, f"No such object: {name}")
        if query.get("alt") != "media" and not self.path.startswith("/download"):
            return self.answer(200, self.server.resource(name))
        generation = {"x-goog-generation": str(self.server.resource(name)["generation"])}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            return self.answer(200, body, **generation)
        first, last = int(asked[1]), min(int(asked[2] or len(body)), len(body) - 1)
        where = {"Content-Range": f"bytes {first}-{last}/{len(body)}"}
        return self.answer(206, body[first : last + 1], **generation, **where)

    def upload(self, query: dict[str, str], body: bytes) -> None:
        """An upload in one piece, the begin of one in chunks, a chunk, or the end of an upload without an object."""
        if query.get("uploadType") == "multipart":
            boundary = b"--" + self.headers["Content-Type"].partition("boundary=")[2].strip('"').encode()
            _, metadata, content, _ = body.split(boundary)
            name = json.loads(metadata.partition(b"\n\n")[2])["name"]
            if query.get("ifGenerationMatch") == "0" and name in self.server.objects:
                return self.refuse(412, "At least one of the pre-conditions you specified did not hold.")
            return self.complete(name, content.partition(b"\n\n")[2].removesuffix(b"\n"))
        session = query.get("upload_id", "")
        if self.command == "DELETE":
            self.server.uploads.pop(session, None)
            return self.answer(499)
        if not session:
            session = secrets.token_hex(4)
            self.server.uploads[session] = (query["name"], bytearray())
            place = f"http://{self.headers['Host']}/upload/storage/v1/b/{BUCKET}/o?upload_id={session}&name={quote(query['name'])}"
            return self.answer(200, Location=place)
        name, received = self.server.uploads[session]
        if len(body) < int(self.headers["Content-Length"]):  # the connection broke, and the client sends the chunk again
            self.close_connection = True
            return None
        first, total = re.fullmatch(r"bytes (\d+|\*)(?:-\d+)?/(\d+|\*)", self.headers["Content-Range"]).groups()
        received[int(first) if first.isdecimal() else len(received) :] = body
        if total == "*":
            return self.answer(308, Range=f"bytes=0-{len(received) - 1}")
        del self.server.uploads[session]
        return self.complete(name, bytes(received))

    def complete(self, name: str, content: bytes) -> None:
        """The object is there."""
        self.server.objects[name] = content
        self.answer(200, self.server.resource(name))
