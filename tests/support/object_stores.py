"""Emulators of S3 and Google Cloud Storage on the loopback, and copies of folders in them."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

BUCKET = "bucket"


@dataclass(frozen=True)
class Bucket:
    """A bucket that runs as long as its block: its address, how to put an object, how to deny all access."""

    address: str
    put: Callable[[str, bytes], object]
    deny: Callable[[], object]

    def upload(self, folder: Path, prefix: str) -> None:
        """Every file of a folder, under its path in the folder."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())


@contextmanager
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A bucket of moto's server, found by AWS_ENDPOINT_URL as AWS's own tools find it."""
    import boto3
    import requests
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    try:
        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET)
        yield Bucket(
            f"s3://{BUCKET}",
            lambda key, body: client.put_object(Bucket=BUCKET, Key=key, Body=body),
            lambda: requests.post(f"http://{host}:{port}/moto-api/reset-auth", data="0", timeout=10),
        )
    finally:
        requests.post(f"http://{host}:{port}/moto-api/reset-auth", data="inf", timeout=10)
        server.stop()


class GoogleStorage(ThreadingHTTPServer):
    """One bucket behind the two reading routes of Google's JSON API: media, and lists in pages between two names.

    The emulator on PyPI (gcp-storage-emulator 2026.7) is none for TensorStore: it knows no startOffset and sends no
    generation of an object.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), GoogleHandler)
        self.objects: dict[str, bytes] = {}
        self.denied = False


class GoogleHandler(BaseHTTPRequestHandler):
    """https://cloud.google.com/storage/docs/json_api/v1/objects/list and get."""

    server: GoogleStorage
    protocol_version = "HTTP/1.1"
    PAGE = 7

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed."""

    def answer(self, code: int, body: bytes = b"", **headers: str) -> None:
        """Sends one answer."""
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        """Routes one request."""
        address = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        route, _, name = address.path.removeprefix(f"/storage/v1/b/{BUCKET}/o").partition("/")
        if self.server.denied:
            return self.answer(403, b'{"error": {"code": 403, "message": "no access"}}')
        if route:
            return self.answer(404)
        if name:
            return self.media(unquote(name))
        start, end = query.get("startOffset", ""), query.get("endOffset", "\U0010ffff")
        start = max(start, query.get("pageToken", ""))
        names = [key for key in sorted(self.server.objects) if start <= key < end]
        found: dict[str, object] = {"items": [{"name": key} for key in names[: self.PAGE]]}
        if names[self.PAGE :]:
            found["nextPageToken"] = names[self.PAGE]
        return self.answer(200, json.dumps(found).encode())

    def media(self, name: str) -> None:
        """An object or the range of it that is asked for."""
        body = self.server.objects.get(name)
        if body is None:
            return self.answer(404)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            return self.answer(200, body, **{"x-goog-generation": "1"})
        first, last = int(asked[1]), min(int(asked[2] or len(body)), len(body) - 1)
        where = f"bytes {first}-{last}/{len(body)}"
        return self.answer(206, body[first : last + 1], **{"x-goog-generation": "1", "Content-Range": where})


@contextmanager
def gcs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A bucket of Google Cloud Storage, found by TensorStore's own variable."""
    server = GoogleStorage()
    monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "token")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Bucket(f"gs://{BUCKET}", server.objects.__setitem__, lambda: setattr(server, "denied", True))
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
