"""Emulators of S3, Google Cloud Storage and Azure on the loopback, and copies of folders in them."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tests.support.azure import serving
from tests.support.google_storage import BUCKET, GoogleStorage

os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # asks Google itself what kind of bucket it is
logging.getLogger("werkzeug").setLevel(logging.ERROR)  # moto's server prints every request


@dataclass(frozen=True)
class Bucket:
    """A bucket that runs as long as its block: its address, how to put an object, how to deny all access."""

    address: str
    put: Callable[[str, bytes], object]
    deny: Callable[[], object]

    @property
    def store(self) -> Any:
        """The bucket as fsspec sees it, nothing cached."""
        store, _ = fsspec.url_to_fs(self.address, use_listings_cache=False)
        store.invalidate_cache()
        return store

    def read(self, prefix: str) -> dict[str, bytes]:
        """All objects below a prefix, by their path from it."""
        root = f"{self.address.partition('://')[2]}/{prefix}".strip("/") + "/"
        names = [str(name).strip("/") for name in self.store.find(root)]
        return {name.removeprefix(root): self.store.cat_file(name) for name in names}

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
        requests.post(f"http://{host}:{port}/moto-api/reset", timeout=10)
        server.stop()
        forget_stores()


@contextmanager
def gcs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A bucket of Google Cloud Storage, found by the variables of TensorStore and of Google's own libraries."""
    server = GoogleStorage()
    monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("NO_GCE_CHECK", "true")  # or credentials are looked for at an address that does not answer
    monkeypatch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "token")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Bucket(f"gs://{BUCKET}", server.objects.__setitem__, lambda: setattr(server, "denied", True))
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        forget_stores()


@contextmanager
def azure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A container of azurite, found by Azure's own variable."""
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as connection:
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection)
        forget_stores()
        store, _ = fsspec.url_to_fs(f"az://{BUCKET}", use_listings_cache=False)
        store.mkdir(BUCKET)
        wrong = connection.replace("AccountKey=E", "AccountKey=F")

        def deny() -> None:
            monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", wrong)
            forget_stores()

        try:
            yield Bucket(f"az://{BUCKET}", lambda key, body: store.pipe_file(f"{BUCKET}/{key}", body), deny)
        finally:
            forget_stores()


@contextmanager
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """fsspec's store in this process, which cannot deny anything."""
    store = fsspec.filesystem("memory")
    store.store.clear()
    try:
        yield Bucket(f"memory://{BUCKET}", lambda key, body: store.pipe_file(f"/{BUCKET}/{key}", body), lambda: None)
    finally:
        store.store.clear()
        store.pseudo_dirs[:] = [""]


def forget_stores() -> None:
    """fsspec keeps a store for its arguments, and the endpoint in the environment is none of them."""
    for kind in list(fsspec.registry.values()):
        kind.clear_instance_cache()


STORES = {"memory": memory, "s3": s3, "gs": gcs, "az": azure}
PARAMETERS = ["memory", "s3", *(pytest.param(store, marks=pytest.mark.slow) for store in ("gs", "az"))]
